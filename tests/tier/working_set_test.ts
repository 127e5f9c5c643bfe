import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { ByteWriter } from "../../lib/base/bytes.ts";
import { FormatError } from "../../lib/base/errors.ts";
import {
  decodeWorkingSet,
  encodeWorkingSet,
  replayBatches,
  type WorkingSet,
  WorkingSetRecorder,
} from "../../lib/tier/mod.ts";
import { prng } from "../stream/prng.ts";

/** A working set of a few runs and a few lone pages. */
function setOf(seed: number): WorkingSet {
  const random = prng(seed);
  const regionPages = 1 + random(3000);
  const recorder = new WorkingSetRecorder({ regionPages, pagesMax: regionPages });
  for (let run = random(40); run > 0; run--) {
    const first = random(regionPages);
    recorder.record(Uint32Array.from({ length: 1 + random(60) }, (_, at) => first + at));
  }
  return recorder.finish();
}

/** An encoding by hand, with a digest that fits. */
function craft(
  fields: { magic?: string; version?: number; regionPages?: number; count?: number; runs?: number },
  runs: readonly (readonly [step: number, length: number])[],
  tail: Uint8Array = new Uint8Array(0),
): Uint8Array<ArrayBuffer> {
  const writer = new ByteWriter();
  writer.bytes(new TextEncoder().encode(fields.magic ?? "DWSr"));
  writer.u32le(fields.version ?? 1);
  writer.u64le(fields.regionPages ?? 100);
  writer.u32le(fields.count ?? runs.reduce((sum, [, length]) => sum + length, 0));
  writer.u32le(fields.runs ?? runs.length);
  for (const [step, length] of runs) {
    writer.svarint(step);
    writer.varint(length - 1);
  }
  writer.bytes(tail);
  writer.bytes(createHash("sha256").update(writer.view()).digest());
  return writer.finish();
}

const limits = { regionPages: 100, pagesMax: 100 };

Deno.test("encodeWorkingSet() and decodeWorkingSet() round trip, byte for byte", () => {
  for (let seed = 1; seed <= 60; seed++) {
    const set = setOf(seed);
    const bytes = encodeWorkingSet(set);
    const back = decodeWorkingSet(bytes, { regionPages: set.regionPages, pagesMax: set.regionPages });
    assert.deepEqual(back, set, `seed ${seed}`);
    assert.deepEqual(encodeWorkingSet(back), bytes, `seed ${seed}`);
  }
});

Deno.test("encodeWorkingSet() writes the bytes that its file describes", () => {
  const order = Uint32Array.of(5, 6, 7, 2, 90);
  const bytes = encodeWorkingSet({ regionPages: 100, order });
  assert.deepEqual(bytes, craft({}, [[5, 3], [-6, 1], [87, 1]]));
  assert.equal(bytes.length, 24 + 2 + 2 + 3 + 32);
});

Deno.test("encodeWorkingSet() refuses a page twice or outside the region", () => {
  for (const order of [[1, 1], [3, 4, 3], [100], [98, 99, 100]]) {
    assert.throws(() => encodeWorkingSet({ regionPages: 100, order: Uint32Array.from(order) }), RangeError);
  }
});

Deno.test("decodeWorkingSet() refuses whatever breaks a rule, and says which", () => {
  const good = craft({}, [[5, 3], [-6, 1]]);
  const cases: [string, Uint8Array<ArrayBuffer>][] = [
    ["truncated", new Uint8Array(0)],
    ["truncated", good.slice(0, 40)],
    ["magic", craft({ magic: "DWSs" }, [])],
    ["version", craft({ version: 2 }, [])],
    ["region", craft({ regionPages: 99 }, [])],
    ["count", craft({ count: 101 }, [[0, 1]])],
    ["count", craft({ count: 5 }, [[5, 3], [-6, 1]])],
    ["runs", craft({ runs: 5 }, [[5, 3], [-6, 1]])],
    ["runs", craft({ runs: 4 }, [[5, 3], [-6, 1]])],
    ["runs", craft({ runs: 0 }, [[5, 3]])],
    ["digest", good.map((byte, at) => at === 25 ? byte ^ 1 : byte)],
    ["digest", good.map((byte, at) => at === good.length - 1 ? byte ^ 1 : byte)],
    ["run", craft({}, [[5, 3], [0, 1]])],
    ["run", craft({}, [[-1, 3]])],
    ["run", craft({}, [[98, 3]])],
    ["run", craft({ count: 2 }, [[5, 3]])],
    ["twice", craft({}, [[5, 3], [-3, 1]])],
    ["trailing", craft({}, [[5, 3]], Uint8Array.of(0, 0))],
    ["varint", craft({ count: 4, runs: 1 }, [], Uint8Array.of(0x8a, 0x00, 3))],
  ];
  assert.equal(decodeWorkingSet(good, limits).order.length, 4);
  for (const [rule, bytes] of cases) {
    assert.throws(() => decodeWorkingSet(bytes, limits), (error) => {
      assert.ok(error instanceof FormatError, `${rule}: ${error}`);
      assert.equal(error.rule, `working-set.${rule}`);
      return true;
    });
  }
});

Deno.test("decodeWorkingSet() survives every single broken byte and every cut", () => {
  const set = setOf(9);
  const bytes = encodeWorkingSet(set);
  const bounds = { regionPages: set.regionPages, pagesMax: set.regionPages };
  for (let at = 0; at < bytes.length; at++) {
    const broken = bytes.slice();
    broken[at] = (broken[at] ?? 0) ^ (1 << (at % 8));
    assert.throws(() => decodeWorkingSet(broken, bounds), FormatError, `byte ${at}`);
    assert.throws(() => decodeWorkingSet(bytes.slice(0, at), bounds), FormatError, `cut at ${at}`);
  }
});

Deno.test("decodeWorkingSet() takes a run of 2^31 pages for what it is before it makes room for it", () => {
  const bytes = craft({ regionPages: 2 ** 31, count: 2 ** 31 }, [[0, 2 ** 31]]);
  assert.throws(
    () => decodeWorkingSet(bytes, { regionPages: 2 ** 31, pagesMax: 1_000_000 }),
    (error) => error instanceof FormatError && error.rule === "working-set.count",
  );
});

Deno.test("WorkingSetRecorder keeps first touches in order, up to its bound", () => {
  const recorder = new WorkingSetRecorder({ regionPages: 50, pagesMax: 4 });
  recorder.record(Uint32Array.of(9, 9, 3, 50, 9));
  assert.equal(recorder.isFull, false);
  recorder.record(Uint32Array.of(3, 1, 2, 8));
  assert.equal(recorder.isFull, true);
  assert.deepEqual(recorder.finish(), { regionPages: 50, order: Uint32Array.of(9, 3, 1, 2) });
});

Deno.test("replayBatches() gives every page once, in batches that follow the order of first touches", () => {
  for (let seed = 1; seed <= 20; seed++) {
    const set = setOf(seed);
    const batchPages = 1 + prng(seed)(50);
    const batches = [...replayBatches(set, { batchPages })];
    assert.deepEqual(
      batches.map((batch) => batch.length).filter((length) => length !== batchPages).length <= 1,
      true,
    );
    let at = 0;
    for (const batch of batches) {
      assert.deepEqual(batch, set.order.slice(at, at + batch.length).sort(), `seed ${seed}`);
      at += batch.length;
    }
    assert.equal(at, set.order.length, `seed ${seed}`);
    const odd = [...replayBatches(set, { batchPages, skip: (page) => page % 2 === 0 })].flatMap((
      batch,
    ) => [...batch]);
    assert.equal(odd.length, set.order.filter((page) => page % 2 === 1).length);
  }
  assert.throws(() => [...replayBatches(setOf(1), { batchPages: 0 })], RangeError);
});
