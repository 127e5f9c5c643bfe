import assert from "node:assert/strict";
import { DroverError } from "../../lib/base/errors.ts";
import { checkPeers, parseConfig, readConfig } from "../../lib/daemon/config.ts";
import { errorText } from "../../lib/cli/terminal.ts";

const path = "/etc/drover/drover.json";

Deno.test("parseConfig() reads every key that CONFIG.md lists", async () => {
  const config = parseConfig(
    JSON.stringify({
      name: "left",
      listen: "[::]:7707",
      pagePort: 7708,
      rdma: "10.0.0.1",
      root: "trees",
      key: "/keys/cluster.key",
      donate: "4GiB",
      peers: ["right.example:7707", "[fd00::1]:7000"],
      copies: 2,
      sealed: true,
      t1: "30s",
      t2: "10min",
      limits: {
        leases: 7,
        leasesPerBorrower: 8,
        borrowers: 9,
        pageChannels: 10,
        grace: "5s",
        recall: "1min",
      },
      log: { level: "info", format: "json" },
    }),
    path,
  );
  assert.deepEqual(config, {
    path,
    name: "left",
    listen: "[::]:7707",
    pagePort: 7708,
    rdma: "10.0.0.1",
    root: "/etc/drover/trees",
    key: "/keys/cluster.key",
    donate: 4 * 2 ** 30,
    peers: [{ host: "right.example", port: 7707, line: 1 }, { host: "fd00::1", port: 7000, line: 1 }],
    copies: 2,
    sealed: true,
    t1Ms: 30_000,
    t2Ms: 600_000,
    limits: {
      leases: 7,
      leasesPerBorrower: 8,
      borrowers: 9,
      pageChannels: 10,
      graceMs: 5000,
      recallMs: 60_000,
    },
    log: { level: "info", format: "json" },
  });
  assert.deepEqual(parseConfig("{}", path), { path, peers: [], limits: {}, log: {} });

  const document = await Deno.readTextFile(new URL("../../lib/daemon/CONFIG.md", import.meta.url));
  const listed = [...(document.split("## Log lines")[0] ?? "").matchAll(/^\| `(\w+)` /gm)].map(([, key]) =>
    key
  );
  const taken = [
    ...[
      "name",
      "listen",
      "pagePort",
      "rdma",
      "root",
      "key",
      "donate",
      "peers",
      "copies",
      "sealed",
      "t1",
      "t2",
    ],
    ...["limits", "log", "leases", "leasesPerBorrower", "borrowers", "pageChannels", "grace", "recall"],
    ...["level", "format"],
  ];
  assert.deepEqual(listed, taken);
  const example = /^ {4}\{\n(?: {4}.*\n)*? {4}\}\n/m.exec(document)?.[0] ?? "";
  assert.equal(parseConfig(example, path).donate, 4 * 2 ** 30);
});

Deno.test("parseConfig() refuses each mistake with its line", () => {
  const mistakes: [string, number, RegExp][] = [
    ["[]", 3, /it should be an object/],
    ['{\n"nam": "x"}', 4, /there is no key "nam"/],
    ['{"limits": {\n\n"lease": 1}}', 5, /there is no key "limits\.lease"/],
    ['{"name": "two words"}', 3, /"name": it should be 1 to 64/],
    ['{"name": 7}', 3, /"name": it should be text/],
    ['{"donate": "4G"}', 3, /"donate": Cannot use "4G" as a size/],
    ['{"donate": -1}', 3, /whole number from 0/],
    ['{"donate": 1.5}', 3, /whole number/],
    ['{"donate": null}', 3, /"donate": it should be bytes/],
    ['{"peers": ["a:1",\n"b:b"]}', 4, /"peers\[1\]": Cannot use the address "b:b"/],
    ['{"peers": [":7707"]}', 3, /names no host/],
    ['{"peers": ["a:0"]}', 3, /names no host and port/],
    ['{"peers": "a"}', 3, /a list of at most 64/],
    [`{"peers": [${Array(65).fill('"a"').join(",")}]}`, 3, /a list of at most 64/],
    ['{"copies": 3}', 3, /from 1 to 2/],
    ['{"sealed": "yes"}', 3, /true or false/],
    ['{"t1": 30}', 3, /it should be text like "30s"/],
    ['{"t2": "10"}', 3, /"t2": Cannot use "10" as a duration/],
    ['{"pagePort": 65536}', 3, /from 0 to 65535/],
    ['{"rdma": "a.example"}', 3, /numeric address/],
    ['{"root": ""}', 3, /it should be a path/],
    ['{"log": {"level": "loud"}}', 3, /one of error, warn, info, debug/],
    ['{"log": {"format": "xml"}}', 3, /one of text, json/],
    ['{"limits": {"grace": "soon"}}', 3, /"limits\.grace"/],
    ['{"name": "a",\n"name": "b"}', 4, /stands twice/],
    ["{", 3, /the end of the text/],
  ];
  for (const [text, line, message] of mistakes) {
    assert.throws(
      () => parseConfig(`\n\n${text}`, path),
      (error) => {
        assert.ok(error instanceof DroverError && error.code === "usage", text);
        const said = errorText(error);
        assert.match(said, message);
        assert.match(said, new RegExp(`line ${line}[:,]`), said);
        return said.includes(path);
      },
      text,
    );
  }
});

Deno.test("readConfig() says which file cannot be read", async () => {
  const folder = await Deno.makeTempDir({ dir: "/var/tmp" });
  try {
    for (const name of ["missing.json", "."]) {
      await assert.rejects(
        readConfig(`${folder}/${name}`),
        (error) => error instanceof DroverError && error.code === "usage" && error.message.includes(folder),
      );
    }
    await Deno.writeFile(`${folder}/latin.json`, new Uint8Array([0x22, 0xe9, 0x22]));
    await assert.rejects(readConfig(`${folder}/latin.json`), /Cannot read the configuration/);
    await Deno.writeTextFile(`${folder}/large.json`, " ".repeat(2 ** 20 + 1));
    await assert.rejects(readConfig(`${folder}/large.json`), /Cannot read the configuration/);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("checkPeers() refuses a node that names itself, by any of its addresses", () => {
  const own = ["127.0.0.1", "::1", "10.0.0.1", "fd00::1"];
  const isRefused = (listen: string, port: number, peer: string): boolean => {
    const config = parseConfig(JSON.stringify({ peers: ["other.example:1", peer] }), path);
    try {
      checkPeers(config, { host: listen, port }, own);
      return false;
    } catch (error) {
      assert.ok(error instanceof DroverError && /line 1: "peers\[1\]": it is this node/.test(error.message));
      return true;
    }
  };
  assert.deepEqual(
    [
      "10.0.0.1:7",
      "[fd00:0::1]:7",
      "[::ffff:10.0.0.1]:7",
      "127.9.9.9:7",
      "localhost:7",
      `${Deno.hostname()}:7`,
    ]
      .map((peer) => isRefused("::", 7, peer)),
    [true, true, true, true, true, true],
  );
  assert.deepEqual(
    ["10.0.0.2:7", "10.0.0.1:8"].map((peer) => isRefused("0.0.0.0", 7, peer)),
    [false, false],
  );
  assert.deepEqual(
    ["10.0.0.1:7", "127.0.0.1:7", "10.0.0.3:7"].map((peer) => isRefused("10.0.0.1", 7, peer)),
    [true, false, false],
  );
});
