/**
 * What every backend and every wrapper must do: one suite for all. A backend gives a fresh one of a size that reads
 * as zeros, and opens it again where it lasts.
 *
 * The model is a plain array: whatever sequence of accesses is drawn from the seed, both must hold the same octets.
 */
import assert from "node:assert/strict";
import { type Backend, extentsOf, isZero } from "../lib/region/backend.ts";
import { prng } from "./stream/prng.ts";
import { assertSameBytes } from "./same_bytes.ts";

/** One backend under test. */
export interface BackendCase {
  name: string;
  /** A fresh one that reads as zeros. */
  open(size: number): Promise<Backend>;
  /** What was flushed and closed, again; absent where nothing lasts. */
  reopen?: (size: number) => Promise<Backend>;
  /** Takes everything away; after each test. */
  clean?: () => Promise<void> | void;
  /** It knows what is not there: a fresh one is one hole. */
  sparse?: boolean;
}

const KiB = 1024;
/** No multiple of anything. */
const oddSize = 300 * KiB + 77;

/** Declares the tests. */
export function backendSuite(subject: BackendCase): void {
  const test = (claim: string, body: () => Promise<void>): void =>
    Deno.test(`${subject.name}: ${claim}`, async () => {
      try {
        await body();
      } finally {
        await subject.clean?.();
      }
    });

  test("a fresh one reads as zeros, up to its last byte", async () => {
    await using backend = await subject.open(oddSize);
    assert.equal(backend.size, oddSize);
    assert.equal(backend.readOnly, false);
    const all = new Uint8Array(oddSize).fill(9);
    await backend.readAt(0, all);
    assert.ok(isZero(all));
    await backend.readAt(oddSize, new Uint8Array(0));
  });

  for (const seed of [1, 2, 3]) {
    test(`random accesses agree with a plain array (seed ${seed})`, async () => {
      await using backend = await subject.open(oddSize);
      const model = new Uint8Array(oddSize);
      const random = prng(seed);
      for (let step = 0; step < 300; step++) await randomAccess(backend, model, random, oddSize);
      const all = new Uint8Array(oddSize);
      await backend.readAt(0, all);
      assertSameBytes(all, model);
    });
  }

  test("accesses beside each other do not mix", async () => {
    await using backend = await subject.open(oddSize);
    const model = new Uint8Array(oddSize);
    const random = prng(4);
    // Disjoint stripes, smaller than any chunk: neighbours share chunks, pages and sectors.
    const stripe = 700;
    for (let round = 0; round < 4; round++) {
      const work: Promise<void>[] = [];
      for (let from = 0; from < oddSize; from += stripe) {
        const length = Math.min(stripe, oddSize - from);
        const bytes = new Uint8Array(length).fill(1 + random(255));
        if (random(3) === 0) {
          const into = new Uint8Array(length);
          work.push(
            Promise.resolve(backend.readAt(from, into)).then(() =>
              assertSameBytes(into, model.subarray(from, from + length))
            ),
          );
        } else {
          work.push(
            Promise.resolve(backend.writeAt(from, bytes)).then(() => model.set(bytes, from)),
          );
        }
      }
      await Promise.all(work);
    }
    const all = new Uint8Array(oddSize);
    await backend.readAt(0, all);
    assertSameBytes(all, model);
  });

  test("bounds are kept, and nothing happens beyond them", async () => {
    await using backend = await subject.open(oddSize);
    const bad: [number, number][] = [[oddSize, 1], [oddSize - 1, 2], [-1, 1], [0.5, 1], [2 ** 53, 1], [
      NaN,
      1,
    ]];
    for (const [offset, length] of bad) {
      await assert.rejects(async () => await backend.readAt(offset, new Uint8Array(length)), RangeError);
      await assert.rejects(
        async () => await backend.writeAt(offset, new Uint8Array(length).fill(1)),
        RangeError,
      );
      if (backend.zero !== undefined) {
        await assert.rejects(async () => await backend.zero?.(offset, length), RangeError);
      }
    }
    const all = new Uint8Array(oddSize);
    await backend.readAt(0, all);
    assert.ok(isZero(all));
  });

  test("a buffer is the callee's only until it answered", async () => {
    await using backend = await subject.open(oddSize);
    const bytes = new Uint8Array(100 * KiB).fill(1);
    await backend.writeAt(10, bytes);
    bytes.fill(2);
    const back = new Uint8Array(100 * KiB);
    await backend.readAt(10, back);
    assert.ok(back.every((byte) => byte === 1));
  });

  test("zero() and trim() reach exactly their range", async () => {
    await using backend = await subject.open(oddSize);
    const model = new Uint8Array(oddSize).fill(5);
    await backend.writeAt(0, model);
    const ranges: [number, number][] = [[0, 1], [4095, 4098], [65_536, 65_536], [200_001, 90_000], [7, 0]];
    for (const [offset, length] of ranges) {
      await backend.zero?.(offset, length);
      if (backend.zero !== undefined) model.fill(0, offset, offset + length);
      await backend.trim?.(140_000, 100);
    }
    await backend.writeAt(140_000, model.subarray(140_000, 140_100));
    await backend.zero?.(150_000, 5000, { allocate: true });
    if (backend.zero !== undefined) model.fill(0, 150_000, 155_000);
    const all = new Uint8Array(oddSize);
    await backend.readAt(0, all);
    assertSameBytes(all, model);
  });

  test("extents() cover a range without gaps, and call zeros only what is zero", async () => {
    await using backend = await subject.open(2048 * KiB);
    await backend.writeAt(1000 * KiB, new Uint8Array(70 * KiB).fill(3));
    let at = 100;
    let holes = 0;
    for await (const extent of extentsOf(backend, 100, 2048 * KiB - 200)) {
      assert.equal(extent.offset, at);
      assert.ok(extent.length > 0);
      at += extent.length;
      if (!extent.zero) continue;
      holes += extent.length;
      const bytes = new Uint8Array(extent.length);
      await backend.readAt(extent.offset, bytes);
      assert.ok(isZero(bytes), `${extent.length} bytes at ${extent.offset} are called zeros`);
    }
    assert.equal(at, 2048 * KiB - 100);
    if (subject.sparse === true) assert.ok(holes >= 900 * KiB, `${holes} bytes of holes`);
  });

  test("after close() every access is refused, and close() may come again", async () => {
    const backend = await subject.open(8 * KiB);
    await backend.writeAt(0, new Uint8Array(100));
    const last = Promise.resolve(backend.writeAt(4096, new Uint8Array(100)));
    await last;
    await backend.close();
    await backend.close();
    await assert.rejects(async () => await backend.readAt(0, new Uint8Array(1)));
    await assert.rejects(async () => await backend.writeAt(0, new Uint8Array(1)));
    await assert.rejects(async () => await backend.flush());
  });

  const { reopen } = subject;
  if (reopen !== undefined) {
    test("what was flushed is there again", async () => {
      const model = new Uint8Array(oddSize);
      const random = prng(5);
      {
        await using backend = await subject.open(oddSize);
        for (let step = 0; step < 60; step++) await randomAccess(backend, model, random, oddSize);
        await backend.flush();
      }
      await using backend = await reopen(oddSize);
      assert.equal(backend.size, oddSize);
      const all = new Uint8Array(oddSize);
      await backend.readAt(0, all);
      assertSameBytes(all, model);
    });
  }
}

/** One access of any kind, of any size that matters, checked against the model. */
async function randomAccess(
  backend: Backend,
  model: Uint8Array<ArrayBuffer>,
  random: (bound: number) => number,
  size: number,
): Promise<void> {
  const lengthMax = [1, 512, 5000, 70 * KiB, size][random(5)] ?? 1;
  const length = 1 + random(lengthMax);
  const aligned = random(2) === 0 ? 4096 : 1;
  const offset = Math.min(Math.floor(random(size) / aligned) * aligned, size - length);
  switch (random(8)) {
    case 0:
    case 1:
    case 2: {
      const into = new Uint8Array(length).fill(0xee);
      await backend.readAt(offset, into);
      assertSameBytes(into, model.subarray(offset, offset + length), `read ${length} at ${offset}`);
      return;
    }
    case 3:
      await backend.zero?.(offset, length);
      if (backend.zero !== undefined) model.fill(0, offset, offset + length);
      return;
    case 4:
      await backend.flush();
      return;
    case 5:
      await backend.cache?.(offset, length);
      return;
    default: {
      const seed = random(256);
      const bytes = Uint8Array.from({ length }, (_, at) => (at * 31 + seed) & 0xff);
      await backend.writeAt(offset, bytes);
      model.set(bytes, offset);
    }
  }
}
