/** The block that a region shares with C: the same reader over a real one and over plain memory. */
import assert from "node:assert/strict";
import { regionControl, traceEntries, traceKinds } from "../../ffi/layout.ts";
import { ControlBlock, traceKindName } from "../../ffi/region_control.ts";
import { openReal, realTest, Room } from "../region/room.ts";
import { openNative } from "../../ffi/mod.ts";
import { pathFromText } from "../../lib/base/path.ts";

/** A block with a trace of so many entries. */
function blockWith(entries: number): { block: ControlBlock; values: DataView } {
  const memory = new ArrayBuffer(regionControl.structSize);
  const values = new DataView(memory);
  for (let entry = 0; entry < entries; entry++) {
    const word = BigInt(entry) | (BigInt(traceKinds.write) << 40n) | (7n << 44n);
    values.setBigUint64(regionControl.trace + 8 * (entry % traceEntries), word, true);
  }
  values.setBigUint64(regionControl.traceHead, BigInt(entries), true);
  return { block: new ControlBlock(memory), values };
}

Deno.test("ControlBlock.trace() gives each entry once, in order, with its kind", () => {
  const { block } = blockWith(100);
  const first = block.trace(0);
  assert.deepEqual([first.next, first.lost, first.pages.length], [100, 0, 100]);
  assert.deepEqual([...first.pages.subarray(0, 3)], [0, 1, 2]);
  assert.equal(traceKindName(first.kinds[0] ?? 0), "write");
  assert.equal(block.trace(first.next).pages.length, 0);
  assert.deepEqual([...block.trace(97).pages], [97, 98, 99]);
});

Deno.test("ControlBlock.trace() counts what was overwritten before it was read", () => {
  const { block } = blockWith(traceEntries + 10);
  const { lost, pages } = block.trace(3);
  assert.equal(lost, 7);
  assert.equal(pages.length, traceEntries);
  assert.deepEqual([pages[0], pages.at(-1)], [10, traceEntries + 9]);
});

Deno.test("ControlBlock.trace() leaves out an entry that is reserved and not written yet", () => {
  const { block, values } = blockWith(5);
  values.setBigUint64(regionControl.trace + 8 * 4, 0n, true);
  assert.deepEqual([...block.trace(0).pages], [0, 1, 2, 3]);
});

Deno.test("ControlBlock.setKnobs() changes the knobs that are named and no other word", () => {
  const { block, values } = blockWith(0);
  block.setKnobs({ limitPages: 2 ** 33, spinUs: 60, evictBatch: 16, readAround: 4, heatMax: 15 });
  block.setKnobs({ readAround: 1 });
  assert.deepEqual(block.knobs(), {
    limitPages: 2 ** 33,
    spinUs: 60,
    evictBatch: 16,
    readAround: 1,
    heatMax: 15,
  });
  for (let at = regionControl.traceHead; at < regionControl.structSize; at += 8) {
    assert.equal(values.getBigUint64(at, true), 0n);
  }
});

Deno.test("RegionHistogram.nanosOf() lies within its bucket, and buckets rise", () => {
  const { nanosOf } = blockWith(0).block.histogram("faults");
  assert.deepEqual([nanosOf(0), nanosOf(7)], [0, 7]);
  // v with highest bit b is in bucket 8 · (b − 2) + the three bits below b.
  for (const value of [8, 9, 15, 16, 100, 4096, 65_535, 1_000_000]) {
    const top = 31 - Math.clz32(value);
    const bucket = 8 * (top - 2) + ((value >> (top - 3)) & 7);
    assert.ok(Math.abs(nanosOf(bucket) - value) <= value / 8, `${value}: ${nanosOf(bucket)}`);
    assert.ok(nanosOf(bucket + 1) > nanosOf(bucket));
  }
});

realTest("NativeRegion.control shows what stats() shows, and the trace its faults", () => {
  using room = new Room();
  using region = openNative().openRegion({
    size: 4 * 2 ** 20,
    limit: 2 ** 20,
    ssd: { path: pathFromText(room.path), size: 0, anonymous: true },
    faults: "inline",
    dirty: "hash",
    spinUs: 60,
  });
  const bytes = new Uint8Array(region.memory);
  for (const page of [5, 1000, 77]) bytes[page * 4096] = 1;
  const stats = region.stats();
  assert.deepEqual(region.control.stats(), stats);
  assert.deepEqual([stats.fills, stats.residentPages, stats.limitPages], [3, 3, 256]);
  const { pages, kinds } = region.control.trace(0);
  assert.deepEqual([...pages], [5, 1000, 77]);
  assert.ok(kinds.every((kind) => traceKindName(kind) === "fill"));
  assert.equal(region.control.knobs().limitPages, 256);
  const { counts } = region.control.histogram("faults");
  assert.equal(counts.reduce((sum, count) => sum + count, 0), 3);
});

realTest("NativeRegion.control cannot be used after close()", () => {
  using room = new Room();
  const region = openNative().openRegion({
    size: 4 * 2 ** 20,
    limit: 2 ** 20,
    ssd: { path: pathFromText(room.path), size: 0, anonymous: true },
    faults: "inline",
    dirty: "hash",
    spinUs: 0,
  });
  const { control } = region;
  region.close();
  for (
    const use of [
      () => control.stats(),
      () => control.knobs(),
      () => control.trace(0),
      () => control.setKnobs({ spinUs: 1 }),
    ]
  ) {
    assert.throws(use, TypeError);
  }
});

realTest("Native.attachRegion() gives the same memory, and its close() leaves the region open", () => {
  using room = new Room();
  using region = openReal(room);
  region.bytes[0] = 9;
  assert.equal(region.bytes[0], 9);
  const native = openNative();
  using owner = native.openRegion({
    size: 4 * 2 ** 20,
    limit: 2 ** 20,
    ssd: { path: pathFromText(room.path), size: 0, anonymous: true },
    faults: "inline",
    dirty: "hash",
    spinUs: 0,
  });
  new Uint8Array(owner.memory)[4096] = 7;
  const guest = native.attachRegion({ handle: owner.handle, size: owner.size });
  assert.equal(new Uint8Array(guest.memory)[4096], 7);
  guest.close();
  assert.throws(() => guest.stats(), /closed/);
  assert.equal(new Uint8Array(owner.memory)[4096], 7);
});
