/** Addresses, URLs, tree names, and what is this machine. */
import assert from "node:assert/strict";
import { DroverError } from "../../lib/base/errors.ts";
import {
  defaultPort,
  formatAddress,
  isLoopback,
  parseAddress,
  parseIp,
  parseUrl,
  treeNameFault,
} from "../../lib/net/address.ts";

Deno.test("parseAddress() reads hosts, brackets and ports", () => {
  for (
    const [text, host, port] of [
      ["node1:80", "node1", 80],
      ["192.0.2.7:65535", "192.0.2.7", 65535],
      ["[::1]:7", "::1", 7],
      ["[fe80::1]", "fe80::1", defaultPort],
      ["node1.example.org", "node1.example.org", defaultPort],
      [":0", "", 0],
    ] as const
  ) {
    const address = parseAddress(text);
    assert.deepEqual(address, { host, port }, text);
    assert.deepEqual(parseAddress(formatAddress(address)), address, text);
  }
});

Deno.test("parseAddress() refuses what is no address, with code usage", () => {
  for (
    const text of [
      "",
      "::1",
      "::1:80",
      "[::1",
      "[node]:1",
      "[]:1",
      "[127.0.0.1]:1",
      "a:65536",
      "a:b",
      "a:-1",
      "a b:1",
      "a/b:1",
      "a:1:2",
      "a:",
      "[::1]x",
      "a:123456",
    ]
  ) {
    assert.throws(
      () => parseAddress(text),
      (error) => error instanceof DroverError && error.code === "usage",
      text,
    );
  }
});

Deno.test("parseUrl() reads place and tree", () => {
  assert.deepEqual(parseUrl("drover://h:1/a.b_c-d"), { host: "h", port: 1, name: "a.b_c-d" });
  assert.deepEqual(parseUrl("drover://[::1]/x"), { host: "::1", port: defaultPort, name: "x" });
});

Deno.test("parseUrl() refuses other schemes, no host, and bad names", () => {
  for (
    const text of [
      "http://h/a",
      "drover://h",
      "drover://h/",
      "drover:///a",
      "drover://:1/a",
      "drover://h/a/b",
      "drover://h/..",
      "drover://h/.a",
      "drover://h/a%2f",
      "drover://h/a?b",
      "drover://h/a\n",
      "drover://u@h/a",
    ]
  ) {
    assert.throws(
      () => parseUrl(text),
      (error) => error instanceof DroverError && error.code === "usage",
      text,
    );
  }
});

Deno.test("treeNameFault() bounds the name", () => {
  assert.equal(treeNameFault("a".repeat(128)), null);
  for (const name of ["", "a".repeat(129), ".", "..", ".hidden", "ä", "a/b", "a\0"]) {
    assert.notEqual(treeNameFault(name), null, name);
  }
});

Deno.test("parseIp() gives one form for each spelling", () => {
  const hex = (text: string): string | null =>
    parseIp(text)?.reduce((sum, octet) => sum + octet.toString(16).padStart(2, "0"), "") ?? null;
  assert.equal(hex("127.0.0.1"), "00000000000000000000ffff7f000001");
  assert.equal(hex("::ffff:127.0.0.1"), hex("127.0.0.1"));
  assert.equal(hex("::ffff:7f00:1"), hex("127.0.0.1"));
  assert.equal(hex("::"), "0".repeat(32));
  assert.equal(hex("1:2:3:4:5:6:7:8"), "00010002000300040005000600070008");
  assert.equal(hex("1::8"), "00010000000000000000000000000008");
  assert.equal(hex("FD00::a"), "fd00000000000000000000000000000a");
  for (
    const text of [
      "",
      "1.2.3",
      "1.2.3.256",
      "01.2.3.4",
      "1:2",
      ":::",
      "1::2::3",
      "1:2:3:4:5:6:7:8:9",
      "1:2:3:4:5:6:7::8:9",
      "g::",
      "::1%lo",
      "1.2.3.4::",
      "::1.2.3.4:5",
      "12345::",
      "::1.2.3",
    ]
  ) {
    assert.equal(hex(text), null, text);
  }
});

Deno.test("isLoopback() takes literal loopback addresses only", () => {
  for (const host of ["127.0.0.1", "127.255.0.9", "::1", "0:0:0:0:0:0:0:1", "::ffff:127.0.0.1"]) {
    assert.equal(isLoopback(host), true, host);
  }
  for (
    const host of [
      "",
      "localhost",
      "0.0.0.0",
      "::",
      "128.0.0.1",
      "126.255.255.255",
      "192.168.0.1",
      "::2",
      "::127.0.0.1",
      "::ffff:128.0.0.1",
      "fe80::1",
      "127.0.0.1.example.org",
    ]
  ) {
    assert.equal(isLoopback(host), false, host);
  }
});
