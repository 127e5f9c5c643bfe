/** The record codec: vectors, properties over seeds, and the promises about memory. */
import assert from "node:assert/strict";
import { FormatError } from "../../lib/base/errors.ts";
import {
  bodySizeMax,
  decodeHeader,
  encodeHeader,
  encodeRecord,
  encodeRecordHead,
  endType,
  headerSize,
  optionalBit,
  recordPadding,
  RecordReader,
  type StreamRecord,
} from "../../lib/stream/mod.ts";
import { prng } from "./prng.ts";

function concat(parts: Uint8Array[]): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

/** A stream of random records ending in END, and what should come out of it. */
function randomRecords(seed: number): { bytes: Uint8Array<ArrayBuffer>; records: StreamRecord[] } {
  const random = prng(seed);
  const parts: Uint8Array[] = [];
  const records: StreamRecord[] = [];
  let offset = 0;
  const add = (type: number, body: Uint8Array<ArrayBuffer>): void => {
    const split = random(body.length + 1);
    const pieces = encodeRecord(type, body.subarray(0, split), body.subarray(split));
    records.push({ type, optional: type >= optionalBit, body, offset });
    for (const piece of pieces) {
      parts.push(piece);
      offset += piece.length;
    }
  };
  for (let count = random(12); count > 0; count--) {
    const body = new Uint8Array([0, 1, 7, 8, 9, random(300), random(20_000)][random(7)] ?? 0);
    for (let at = 0; at < body.length; at++) body[at] = random(256);
    add(1 + random(100) + (random(2) === 0 ? 0 : optionalBit), body);
  }
  add(endType, new Uint8Array(0));
  return { bytes: concat(parts), records };
}

/** Reads `bytes` in random chunks, some of them into the open body, and wipes each chunk behind the reader. */
function readInChunks(bytes: Uint8Array, random: (bound: number) => number): StreamRecord[] {
  const reader = new RecordReader({ limits: () => 20_000 });
  const records: StreamRecord[] = [];
  const chunkMax = [1, 3, 64, 5000, bytes.length][random(5)] ?? 1;
  for (let at = 0; at < bytes.length;) {
    const open = reader.openBody();
    const size = Math.min(1 + random(chunkMax), bytes.length - at);
    if (open.length > 0 && random(2) === 0) {
      const direct = Math.min(size, open.length);
      open.set(bytes.subarray(at, at + direct));
      reader.filledBody(direct);
      at += direct;
    } else {
      const chunk = bytes.slice(at, at + size);
      reader.push(chunk);
      for (let record = reader.next(); record !== null; record = reader.next()) records.push(record);
      chunk.fill(0xee);
      at += size;
    }
  }
  for (let record = reader.next(); record !== null; record = reader.next()) records.push(record);
  reader.finish();
  return records;
}

Deno.test("RecordReader gives the same records for any chunking", () => {
  for (let seed = 0; seed < 300; seed++) {
    const { bytes, records } = randomRecords(seed);
    assert.deepEqual(readInChunks(bytes, prng(seed + 1000)), records, `seed ${seed}`);
  }
});

Deno.test("RecordReader.finish() names the offset of a cut anywhere but between records", () => {
  for (const seed of [1, 2, 3, 5, 8]) {
    const { bytes, records } = randomRecords(seed);
    const edges = new Set([...records.map(({ offset }) => offset), bytes.length]);
    const step = Math.max(1, Math.floor(bytes.length / 2000));
    for (let cut = 0; cut <= bytes.length; cut += step) {
      const reader = new RecordReader({ limits: () => 20_000 });
      reader.push(bytes.subarray(0, cut));
      while (reader.next() !== null);
      if (edges.has(cut)) {
        reader.finish();
      } else {
        assert.throws(
          () => reader.finish(),
          (error) =>
            error instanceof FormatError && error.rule === "stream.record.truncated" && error.offset === cut,
          `seed ${seed}, cut ${cut}`,
        );
      }
    }
  }
});

Deno.test("RecordReader finds a flipped padding bit at its own offset", () => {
  for (let seed = 0; seed < 50; seed++) {
    const random = prng(seed);
    const body = new Uint8Array(1 + random(7));
    const bytes = concat(encodeRecord(5, body));
    const at = 8 + body.length + random(8 - body.length);
    bytes[at] = 1 << random(8);
    const reader = new RecordReader({ limits: () => 8, offset: 1000 });
    reader.push(bytes);
    assert.throws(
      () => reader.next(),
      (error) =>
        error instanceof FormatError && error.rule === "stream.record.padding" && error.offset === 1000 + at,
      `seed ${seed}`,
    );
  }
});

Deno.test("RecordReader allocates nothing for a length above the limit", () => {
  let allocated = 0;
  const reader = new RecordReader({
    limits: (type) => type === 7 ? Infinity : 100,
    allocate: (size) => {
      allocated += size;
      return new Uint8Array(size);
    },
  });
  const head = encodeRecordHead(7, 0);
  new DataView(head.buffer).setUint32(4, bodySizeMax + 1, true);
  reader.push(head);
  assert.throws(() => reader.next(), { rule: "stream.record.length" });
  assert.equal(allocated, 0);
  // The same error again: nothing behind it is read.
  assert.throws(() => reader.next(), { rule: "stream.record.length" });
  assert.throws(() => reader.finish(), { rule: "stream.record.length" });
});

Deno.test("RecordReader.push() refuses a second chunk before the first is read", () => {
  const reader = new RecordReader({ limits: () => 8 });
  reader.push(new Uint8Array(8));
  assert.throws(() => reader.push(new Uint8Array(8)), TypeError);
  assert.throws(() => reader.finish(), TypeError);
});

Deno.test("RecordReader copies a body that comes in many pieces once", () => {
  // 16 MiB in pieces of 4 KiB: with a copy per piece this would move 32 GiB and not finish in the test's time.
  const size = 1 << 24;
  const reader = new RecordReader({ limits: () => size });
  reader.push(encodeRecordHead(1, size));
  assert.equal(reader.next(), null);
  const piece = new Uint8Array(4096).fill(9);
  let record: StreamRecord | null = null;
  for (let at = 0; at < size; at += piece.length) {
    assert.equal(record, null);
    reader.push(piece);
    record = reader.next();
  }
  assert.equal(record?.body.length, size);
  assert.equal(record?.body.at(-1), 9);
});

Deno.test("RecordReader asks its limits with all 32 bits of the type", () => {
  const seen: number[] = [];
  const reader = new RecordReader({ limits: (type) => (seen.push(type), 0) });
  reader.push(encodeRecordHead(0x8000_0001, 0));
  assert.equal(reader.next()?.optional, true);
  assert.deepEqual(seen, [0x8000_0001]);
});

Deno.test("RecordReader reads big-endian records when told to", () => {
  const reader = new RecordReader({ limits: () => 8, bigEndian: true });
  reader.push(Uint8Array.of(0, 0, 1, 2, 0, 0, 0, 1, 0x55, 0, 0, 0, 0, 0, 0, 0));
  assert.deepEqual(reader.next(), { type: 0x102, optional: false, body: Uint8Array.of(0x55), offset: 0 });
});

Deno.test("encodeRecord() hands the parts on without copying", () => {
  const part = new Uint8Array(1000);
  const pieces = encodeRecord(3, part, part);
  assert.equal(pieces[1], part);
  assert.equal(pieces[2], part);
  assert.equal(pieces.length, 3);
});

Deno.test("encodeRecord() refuses types and lengths outside their ranges", () => {
  for (const type of [-1, 2 ** 32, 1.5, NaN]) assert.throws(() => encodeRecordHead(type, 0), TypeError);
  for (const length of [-1, bodySizeMax + 1, 0.5]) {
    assert.throws(() => encodeRecordHead(1, length), TypeError);
  }
  encodeRecordHead(0xffff_ffff, bodySizeMax);
});

Deno.test("recordPadding() fills up to eight octets", () => {
  assert.deepEqual([0, 1, 7, 8, 9, bodySizeMax].map(recordPadding), [0, 7, 1, 0, 7, 0]);
});

Deno.test("decodeHeader() reads what encodeHeader() writes", () => {
  const rule = { id: 0x58454e46, versionMin: 2, versionMax: 3 };
  for (const version of [2, 3]) {
    for (const bigEndian of [false, true]) {
      const bytes = encodeHeader({ id: rule.id, version, bigEndian });
      assert.equal(bytes.length, headerSize);
      assert.deepEqual(decodeHeader(bytes, rule), { id: rule.id, version, bigEndian });
    }
  }
});

Deno.test("decodeHeader() refuses every single flipped bit", () => {
  const rule = { id: 0x58454e46, versionMin: 3, versionMax: 3 };
  const bytes = encodeHeader({ id: rule.id, version: 3 });
  for (let bit = 0; bit < headerSize * 8; bit++) {
    const flipped = bytes.slice();
    flipped[bit >> 3] = (flipped[bit >> 3] ?? 0) ^ (1 << (bit & 7));
    if (bit === 17 * 8) assert.equal(decodeHeader(flipped, rule).bigEndian, true);
    else assert.throws(() => decodeHeader(flipped, rule), FormatError, `bit ${bit}`);
  }
});
