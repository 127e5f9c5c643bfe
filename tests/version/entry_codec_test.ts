import assert from "node:assert/strict";
import { ByteWriter } from "../../lib/base/bytes.ts";
import { FormatError } from "../../lib/base/errors.ts";
import { bytesEqual, fromHex, toHex } from "../../lib/base/hex.ts";
import type { BytePath } from "../../lib/base/path.ts";
import type { Entry } from "../../lib/version/entry.ts";
import { decodeEntry, encodeEntry, entryReader } from "../../lib/version/entry_codec.ts";
import { entry, file, link, Random, randomTree } from "./trees.ts";

function encode(value: Entry): Uint8Array<ArrayBuffer> {
  const writer = new ByteWriter();
  encodeEntry(writer, value);
  return writer.finish();
}

function decode(bytes: Uint8Array<ArrayBuffer>): Entry {
  const reader = entryReader(bytes);
  const value = decodeEntry(reader);
  reader.end();
  return value;
}

Deno.test("decodeEntry() gives back what encodeEntry() took, for random entries of all kinds", () => {
  const kinds = new Set<string>();
  for (let seed = 1; seed <= 30; seed++) {
    for (const value of randomTree(new Random(seed), 60).values()) {
      kinds.add(value.kind);
      assert.deepEqual(decode(encode(value)), value);
    }
  }
  assert.equal(kinds.size, 8);
});

Deno.test("encodeEntry() writes the bytes of the specification", () => {
  assert.equal(
    toHex(encode(file("d/x", "hi", { mode: 0o644, uid: 1000, gid: 5, mtimeSeconds: -1, mtimeNanos: 2 }))),
    "03" + "642f78" + "01" + "a403" + "e807" + "05" + "01" + "02000000" + "00" + "02" +
      "8f434346648f6b96df89dda901c5176b10a6d83961dd3c1ac88b59b2dc327aa4",
  );
  assert.equal(
    toHex(encode(file("e", ""))),
    "01" + "65" + "01" + "a403" + "0000" + "00" + "00000000" + "00" + "00",
  );
  assert.equal(toHex(encode(link("e", "d"))), "01" + "65" + "08" + "01" + "64");
  assert.equal(
    toHex(encode(entry("s", "symlink", { target: "/t" as BytePath }))),
    "01" + "73" + "03" + "0000" + "00" + "00000000" + "00" + "02" + "2f74",
  );
  assert.equal(
    toHex(encode(entry("n", "char", { mode: 0, rdevMajor: 1, rdevMinor: 300 }))),
    "01" + "6e" + "04" + "00" + "0000" + "00" + "00000000" + "00" + "01" + "ac02",
  );
});

Deno.test("decodeEntry() accepts mutated bytes only where encodeEntry() would have written them", () => {
  let accepted = 0;
  let refused = 0;
  for (let seed = 1; seed <= 40; seed++) {
    const random = new Random(seed);
    for (const value of randomTree(random, 20).values()) {
      if (value.path.length > 100 || value.target.length > 100) continue;
      const bytes = encode(value);
      for (let round = 0; round < 20; round++) {
        const mutated = bytes.slice(0, random.one(8) ? random.below(bytes.length) : bytes.length);
        if (mutated.length > 0) mutated[random.below(mutated.length)] = random.below(256);
        const reader = entryReader(mutated);
        try {
          const decoded = decodeEntry(reader);
          accepted++;
          assert(
            bytesEqual(encode(decoded), mutated.subarray(0, reader.offset)),
            `seed ${seed}: ${toHex(mutated)}`,
          );
        } catch (error) {
          if (!(error instanceof FormatError)) throw error;
          assert(error.offset >= 0 && error.offset <= mutated.length);
          refused++;
        }
      }
    }
  }
  assert(accepted > 1000 && refused > 1000, `${accepted} accepted, ${refused} refused`);
});

Deno.test("encodeEntry() refuses entries out of bounds, by rule", () => {
  const xattr = (name: string, size = 0) => ({ name: name as BytePath, value: new Uint8Array(size) });
  const many = (count: number, size: number) =>
    Array.from({ length: count }, (_, index) => xattr(`user.${String(index).padStart(5, "0")}`, size));
  const cases: [rule: string, value: Entry][] = [
    ["entry.path", file("a/../b", "")],
    ["entry.path", file("/a", "")],
    ["entry.path", file("a\0", "")],
    ["entry.mode", file("a", "", { mode: 0o10000 })],
    ["entry.mode", entry("a", "symlink", { mode: 0o755, target: "x" as BytePath })],
    ["entry.owner", file("a", "", { uid: 0xffff_ffff })],
    ["entry.owner", file("a", "", { gid: -1 })],
    ["entry.mtime", file("a", "", { mtimeSeconds: 2 ** 52 })],
    ["entry.nanos", file("a", "", { mtimeNanos: 1_000_000_000 })],
    ["entry.size", file("a", "x", { size: 1.5 })],
    ["entry.digest", file("a", "x", { digest: null })],
    ["entry.digest", file("a", "x", { digest: new Uint8Array(31) })],
    ["entry.digest", file("a", "x", { size: 0 })],
    ["entry.target", entry("a", "symlink")],
    ["entry.target", entry("a", "symlink", { target: "x".repeat(4097) as BytePath })],
    ["entry.target", entry("a", "symlink", { target: "x\0" as BytePath })],
    ["entry.target", link("a", "")],
    ["entry.target", link("a", "../b")],
    ["entry.unused", { ...link("b", "a"), mode: 0o644 }],
    ["entry.unused", entry("a", "directory", { size: 1 })],
    ["entry.unused", file("a", "", { target: "x" as BytePath })],
    ["entry.unused", file("a", "", { rdevMinor: 1 })],
    ["entry.rdev", entry("a", "block", { rdevMajor: 4096 })],
    ["entry.xattr.count", file("a", "", { xattrs: many(1025, 0) })],
    ["entry.xattr.total", file("a", "", { xattrs: many(17, 65_536) })],
    ["entry.xattr.size", file("a", "", { xattrs: many(1, 65_537) })],
    ["entry.xattr.order", file("a", "", { xattrs: [xattr("user.b"), xattr("user.a")] })],
    ["entry.xattr.order", file("a", "", { xattrs: [xattr("user.a"), xattr("user.a")] })],
    ["entry.xattr.name", file("a", "", { xattrs: [xattr("x".repeat(256))] })],
    ["entry.xattr.overlay", file("a", "", { xattrs: [xattr("trusted.overlay.origin")] })],
  ];
  for (const [rule, value] of cases) {
    const writer = new ByteWriter();
    assert.throws(() => encodeEntry(writer, value), { name: "FormatError", rule });
    assert.equal(writer.size, 0, rule);
  }
  assert.doesNotThrow(() => encode(file("a", "", { xattrs: many(15, 65_536) })));
});

Deno.test("decodeEntry() checks a length before it takes the memory", () => {
  // A name of 2^53 - 1 bytes, a symlink of 4097, an xattr of 65537.
  for (
    const [rule, hex] of [
      ["entry.path.size", "ffffffffffffff0f"],
      ["entry.path.size", "0161" + "03" + "000000" + "00000000" + "00" + "8120"],
      ["entry.xattr.size", "0161" + "06" + "00000000" + "00000000" + "01" + "0178" + "818004"],
      ["entry.xattr.count", "0161" + "06" + "00000000" + "00000000" + "8108"],
    ] as const
  ) {
    assert.throws(() => decode(fromHex(hex)), { rule });
  }
});
