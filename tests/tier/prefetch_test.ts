/**
 * The prefetcher is attacked with readers of known behaviour. A reader touches pages; what it touches and is
 * neither resident nor prefetched is a fault. After every few faults the prefetcher sees the trace and its
 * suggestions arrive. Measured are coverage (the share of first touches that did not fault) and accuracy (the share
 * of suggestions that were touched).
 */
import assert from "node:assert/strict";
import {
  chooseReadAround,
  majority,
  prefetchDefaults,
  Prefetcher,
  type PrefetchOptions,
  readAroundRange,
  ReadAroundTuner,
} from "../../lib/tier/mod.ts";
import { prng } from "../stream/prng.ts";

interface Outcome {
  touches: number;
  faults: number;
  issued: number;
  coverage: number;
  accuracy: number;
  prefetcher: Prefetcher;
}

/** Lets a reader run; suggestions arrive after `stepFaults` faults. */
function run(
  touches: Iterable<number>,
  options: PrefetchOptions,
  stepFaults = 1,
  suggestMax = 1024,
): Outcome {
  const prefetcher = new Prefetcher(options);
  const resident = new Set<number>();
  const suggested = new Set<number>();
  const into = new Uint32Array(suggestMax);
  let trace: number[] = [];
  let count = 0;
  let faults = 0;
  let issued = 0;
  let hits = 0;
  for (const page of touches) {
    count++;
    if (suggested.delete(page)) hits++;
    if (resident.has(page)) continue;
    resident.add(page);
    faults++;
    trace.push(page);
    if (trace.length < stepFaults) continue;
    prefetcher.observe(Uint32Array.from(trace));
    trace = [];
    const filled = prefetcher.suggest(into);
    for (const ahead of into.subarray(0, filled)) {
      assert.ok(ahead < options.pages, `page ${ahead} is not in the region`);
      issued++;
      if (!resident.has(ahead)) suggested.add(ahead);
      resident.add(ahead);
    }
  }
  return {
    touches: count,
    faults,
    issued,
    coverage: 1 - faults / count,
    accuracy: issued === 0 ? 1 : hits / issued,
    prefetcher,
  };
}

function stride(options: { from: number; by: number; count: number }): number[] {
  return Array.from({ length: options.count }, (_, at) => options.from + at * options.by);
}

/** Turns of several readers, drawn at random. */
function interleaved(readers: number[][], random: (bound: number) => number): number[] {
  const places = readers.map(() => 0);
  const mixed: number[] = [];
  for (;;) {
    const open = readers.flatMap((reader, at) => (places[at] ?? 0) < reader.length ? [at] : []);
    const at = open[random(Math.max(1, open.length))];
    if (at === undefined) return mixed;
    mixed.push(readers[at]?.[places[at] ?? 0] ?? 0);
    places[at] = (places[at] ?? 0) + 1;
  }
}

const pages = 1 << 18;

Deno.test("majority() finds what is more than half, and nothing else", () => {
  const random = prng(3);
  for (let turn = 0; turn < 2000; turn++) {
    const ring = Int32Array.from({ length: 1 + random(12) }, () => random(3) - 1 || 2);
    const head = random(ring.length);
    const count = 1 + random(ring.length);
    const newest = Array.from(
      { length: count },
      (_, back) => ring[(head - 1 - back + 2 * ring.length) % ring.length],
    );
    const winner = [-1, 2, 1].find((value) => 2 * newest.filter((other) => other === value).length > count) ??
      0;
    assert.equal(majority(ring, head, count), winner, `${ring} at ${head}, ${count}`);
  }
});

for (const by of [1, -1, 2, 7, -13, 64, 1000, -4096]) {
  Deno.test(`Prefetcher finds a stride of ${by}`, () => {
    const count = Math.min(20_000, Math.floor(pages / Math.abs(by)));
    const result = run(stride({ from: by > 0 ? 0 : pages - 1, by, count }), prefetchDefaults(pages));
    // Five faults show the stride; depth doubles until one fault is enough for 256 pages.
    const faultsMax = 12 + count / 200;
    assert.ok(result.faults <= faultsMax, `${result.faults} faults, expected at most ${faultsMax}`);
    assert.ok(result.accuracy >= 0.8 || result.issued <= 300, `accuracy ${result.accuracy}`);
    assert.deepEqual(result.prefetcher.strides, [by]);
  });
}

Deno.test("Prefetcher is quiet about random access", () => {
  for (const size of [1 << 12, 1 << 15, 1 << 18, 1 << 22]) {
    for (let seed = 1; seed <= 5; seed++) {
      const random = prng(seed);
      const touches = Array.from({ length: 3000 }, () => random(size));
      const result = run(touches, prefetchDefaults(size), 10);
      assert.ok(
        result.issued <= 0.02 * result.faults,
        `${size} pages, seed ${seed}: ${result.issued} pages for nothing`,
      );
    }
  }
});

Deno.test("Prefetcher tells four readers at once apart", () => {
  for (let seed = 1; seed <= 5; seed++) {
    const random = prng(seed);
    const readers = [1, 1, -2, 3].map((by, at) => stride({ from: 20_000 + at * 50_000, by, count: 5000 }));
    const result = run(interleaved(readers, random), prefetchDefaults(pages), 4);
    assert.ok(result.coverage >= 0.95, `seed ${seed}: coverage ${result.coverage}`);
    assert.ok(result.accuracy >= 0.85, `seed ${seed}: accuracy ${result.accuracy}`);
  }
});

Deno.test("Prefetcher follows a reader through random faults", () => {
  for (let seed = 1; seed <= 5; seed++) {
    const random = prng(seed);
    const noise = Array.from({ length: 1000 }, () => random(pages));
    const result = run(
      interleaved([stride({ from: 1000, by: 1, count: 10_000 }), noise], random),
      prefetchDefaults(pages),
      4,
    );
    assert.ok(result.coverage >= 0.85, `seed ${seed}: coverage ${result.coverage}`);
    assert.ok(result.accuracy >= 0.9, `seed ${seed}: accuracy ${result.accuracy}`);
  }
});

Deno.test("Prefetcher unlearns: short runs cost fewer wasted pages than they save", () => {
  const random = prng(11);
  const touches = Array.from({ length: 300 }, () => stride({ from: random(pages), by: 1, count: 16 })).flat();
  const result = run(touches, prefetchDefaults(pages));
  assert.ok(result.accuracy >= 0.5, `accuracy ${result.accuracy}`);
  assert.ok(result.coverage >= 0.3, `coverage ${result.coverage}`);
});

Deno.test("Prefetcher counts what it issued, and knows of most uses", () => {
  const result = run(stride({ from: 0, by: 1, count: 10_000 }), prefetchDefaults(pages));
  assert.equal(result.prefetcher.issued, result.issued);
  assert.ok(result.prefetcher.used <= result.issued);
  assert.ok(
    result.prefetcher.used >= result.issued - 2 * 256,
    `${result.prefetcher.used} of ${result.issued}`,
  );
});

Deno.test("Prefetcher.suggest() fills no more than it is given, and goes on there the next time", () => {
  const prefetcher = new Prefetcher(prefetchDefaults(pages));
  const seen: number[] = [];
  const into = new Uint32Array(3);
  for (let page = 0; page < 6; page++) prefetcher.observe(Uint32Array.of(page));
  assert.equal(prefetcher.suggest(into), 3);
  seen.push(...into);
  prefetcher.observe(Uint32Array.of(6));
  const filled = prefetcher.suggest(into);
  seen.push(...into.subarray(0, filled));
  assert.deepEqual(seen, [...new Set(seen)], "a page was suggested twice");
  assert.deepEqual(seen.slice(0, 3), [6, 7, 8]);
  prefetcher.observe(Uint32Array.of(pages, 2 ** 32 - 1));
});

Deno.test("Prefetcher refuses options that it cannot work with", () => {
  for (const wrong of [{ window: 3 }, { streams: 0 }, { depthMax: 0 }, { nearPages: 0 }, { pages: 0 }]) {
    assert.throws(() => new Prefetcher({ ...prefetchDefaults(64), ...wrong }), RangeError);
  }
});

Deno.test("chooseReadAround() takes 16 for neighbours, 1 for random pages, 4 for small records", () => {
  const random = prng(5);
  assert.equal(chooseReadAround(Uint32Array.from(stride({ from: 0, by: 1, count: 512 }))), 16);
  assert.equal(chooseReadAround(Uint32Array.from({ length: 512 }, () => random(pages))), 1);
  const records = Array.from({ length: 128 }, () => stride({ from: 4 * random(pages / 4), by: 1, count: 4 }))
    .flat();
  assert.equal(chooseReadAround(Uint32Array.from(records)), 4);
  assert.equal(chooseReadAround(new Uint32Array(0)), 1);
});

Deno.test("ReadAroundTuner measures, holds and measures again", () => {
  const tuner = new ReadAroundTuner({ probeFaults: 64, holdFaults: 100 });
  assert.equal(tuner.observe(Uint32Array.from(stride({ from: 0, by: 1, count: 63 }))), 1);
  assert.equal(tuner.observe(Uint32Array.of(63)), 16);
  assert.equal(tuner.observe(Uint32Array.from(stride({ from: 64, by: 16, count: 99 }))), 16);
  assert.equal(tuner.observe(Uint32Array.of(9999)), 1);
  assert.equal(tuner.observe(Uint32Array.from(stride({ from: 0, by: 100, count: 64 }))), 1);
});

Deno.test("readAroundRange() is aligned and inside the region", () => {
  assert.deepEqual(readAroundRange({ page: 21, readAround: 16, pages: 30 }), { firstPage: 16, endPage: 30 });
  assert.deepEqual(readAroundRange({ page: 21, readAround: 4, pages: 30 }), { firstPage: 20, endPage: 24 });
  assert.deepEqual(readAroundRange({ page: 21, readAround: 1, pages: 30 }), { firstPage: 21, endPage: 22 });
});
