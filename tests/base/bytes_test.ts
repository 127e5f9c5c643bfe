import assert from "node:assert/strict";
import { ByteReader, ByteWriter, svarintMax, varintMax, varintSize } from "../../lib/base/bytes.ts";
import { FormatError } from "../../lib/base/errors.ts";
import { bytesEqual, compareBytes, fromHex, toHex } from "../../lib/base/hex.ts";
import type { BytePath } from "../../lib/base/path.ts";

function refused(rule: string, offset: number, read: () => unknown): void {
  assert.throws(read, (error) => {
    assert(error instanceof FormatError);
    assert.deepEqual([error.rule, error.offset], [rule, offset]);
    return true;
  });
}

Deno.test("ByteWriter and ByteReader agree on every edge of their numbers", () => {
  const unsigned = [
    0,
    1,
    127,
    128,
    255,
    256,
    16383,
    16384,
    2 ** 31 - 1,
    2 ** 31,
    2 ** 32,
    2 ** 49 - 1,
    varintMax,
  ];
  const signed = [...unsigned.filter((value) => value <= svarintMax), svarintMax];
  const writer = new ByteWriter(1);
  for (const value of unsigned) {
    const before = writer.size;
    writer.varint(value);
    assert.equal(writer.size - before, varintSize(value), `size of ${value}`);
    writer.u64le(value);
    if (value < 2 ** 32) writer.u32le(value);
  }
  for (const value of signed) {
    writer.svarint(value);
    writer.svarint(-value);
  }
  writer.path("\xff/\x01" as BytePath);
  const reader = new ByteReader(writer.finish(), "test");
  for (const value of unsigned) {
    assert.equal(reader.varint(), value);
    assert.equal(reader.u64le(), value);
    if (value < 2 ** 32) assert.equal(reader.u32le(), value);
  }
  for (const value of signed) {
    assert.equal(reader.svarint(), value);
    assert(reader.svarint() === -value);
  }
  assert.equal(reader.path(3), "\xff/\x01");
  reader.end();
});

Deno.test("ByteWriter.varint() is LEB128 and svarint() zigzag", () => {
  const writer = new ByteWriter();
  writer.varint(624_485);
  for (const value of [0, -1, 1, -2, 2]) writer.svarint(value);
  assert.equal(toHex(writer.finish()), "e58e26" + "0001020304");
});

Deno.test("ByteWriter refuses numbers out of range", () => {
  const writer = new ByteWriter();
  for (const value of [-1, 0.5, NaN, Infinity, varintMax + 1]) {
    assert.throws(() => writer.varint(value), RangeError);
  }
  for (const value of [svarintMax + 1, -svarintMax - 1]) {
    assert.throws(() => writer.svarint(value), RangeError);
  }
  assert.throws(() => writer.u8(256), RangeError);
  assert.throws(() => writer.u32le(2 ** 32), RangeError);
  assert.equal(writer.size, 0);
});

Deno.test("ByteReader refuses varints that are cut, padded, too long or too large", () => {
  const read = (hex: string) => new ByteReader(fromHex(hex), "test").varint();
  refused("test.truncated", 0, () => read(""));
  refused("test.truncated", 0, () => read("ff"));
  refused("test.varint", 0, () => read("8000"));
  refused("test.varint", 0, () => read("ffffffffffffffff01"));
  refused("test.varint", 0, () => read("ffffffffffffff7f"));
  assert.equal(read("ffffffffffffff0f"), varintMax);
  refused("test.count", 1, () => {
    const reader = new ByteReader(fromHex("0505"), "test");
    reader.varint();
    reader.varint(4, "count");
  });
});

Deno.test("ByteReader stays within its range and says where", () => {
  const reader = new ByteReader(fromHex("0102030405"), "test", { start: 1, end: 4 });
  assert.equal(reader.u8(), 2);
  refused("test.truncated", 2, () => reader.u32le());
  assert.deepEqual(reader.bytes(2), fromHex("0304"));
  refused("test.truncated", 4, () => reader.u8());
  assert.equal(reader.remaining, 0);
  refused("test.path.size", 0, () => new ByteReader(fromHex("0361"), "test").path(2));
  refused("test.trailing", 0, () => new ByteReader(fromHex("00"), "test").end());
  refused("test.varint", 0, () => new ByteReader(fromHex("00000000000020ff"), "test").u64le());
});

Deno.test("fromHex() takes what toHex() gives and nothing else", () => {
  const bytes = Uint8Array.from({ length: 256 }, (_, byte) => byte);
  assert.deepEqual(fromHex(toHex(bytes)), bytes);
  for (const text of ["0", "0g", "AB", " 0", "0x"]) assert.throws(() => fromHex(text), TypeError);
});

Deno.test("compareBytes() and bytesEqual() order bytes, shorter first", () => {
  const sorted = ["", "00", "0001", "01", "7f", "80", "ff", "ff00"].map(fromHex);
  for (const [left, a] of sorted.entries()) {
    for (const [right, b] of sorted.entries()) {
      assert.equal(Math.sign(compareBytes(a, b)), Math.sign(left - right));
      assert.equal(bytesEqual(a, b), left === right);
    }
  }
});
