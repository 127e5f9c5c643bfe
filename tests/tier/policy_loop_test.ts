import assert from "node:assert/strict";
import {
  limitDefaults,
  pageDirty,
  pagePinned,
  placeRam,
  placeRemote,
  placeSsd,
  placeStandby,
  type PolicyCounters,
  policyDefaults,
  type PolicyOptions,
  type PolicySample,
  policyStart,
  type PolicyState,
  type PolicyStep,
  step,
} from "../../lib/tier/mod.ts";
import { prng } from "../stream/prng.ts";

const pages = 4096;
const limitPages = 2048;
const zero: PolicyCounters = {
  ramUsed: 0,
  ssdFree: pages,
  remoteFree: 0,
  faults: 0,
  refaults: 0,
  stallUs: 0,
  readP50Us: 0,
};

function start(changes: Partial<PolicyOptions> = {}): PolicyState {
  return policyStart({ ...policyDefaults({ pages, limitPages, nowMs: 0 }), ...changes }, zero);
}

function sampleAt(nowMs: number, changes: Partial<PolicySample> = {}): PolicySample {
  return {
    nowMs,
    firstPage: 0,
    residency: new Uint8Array(pages).fill(placeSsd),
    touched: new Uint8Array(pages),
    trace: new Uint32Array(0),
    counters: zero,
    ...changes,
  };
}

function countOf(result: PolicyStep, to: string): number {
  return result.moves.filter((move) => move.to === to).reduce((sum, { pages }) => sum + pages.length, 0);
}

Deno.test("step() spends no more than its rates allow, whenever it is called", () => {
  for (let seed = 1; seed <= 5; seed++) {
    const random = prng(seed);
    const rates = {
      movesPerSecond: 1 + random(3000),
      writesPerSecond: 1 + random(1000),
      probesPerSecond: random(500),
    };
    let state = start({ ...rates, probesPerFault: 0, t1Ms: 2000, t2Ms: 4000, probeMs: 1000 });
    const spent = { moves: 0, writes: 0, probes: 0 };
    let nowMs = 0;
    for (let turn = 0; turn < 150; turn++) {
      nowMs += random(turn % 10 === 0 ? 3000 : 100);
      const residency = Uint8Array.from({ length: pages }, () => {
        const place = [placeRam, placeSsd, placeRemote, placeStandby][random(4)] ?? placeRam;
        return place | (random(3) === 0 ? pageDirty : 0) | (random(10) === 0 ? pagePinned : 0);
      });
      const counters = { ...zero, ramUsed: random(pages), remoteFree: random(pages) };
      const trace = Uint32Array.from({ length: random(30) }, () => random(pages));
      const result = step(state, sampleAt(nowMs, { residency, counters, trace }));
      state = result.state;
      for (const { to, pages } of result.moves) {
        for (const page of pages) {
          assert.equal((residency[page] ?? 0) & pagePinned, 0, `seed ${seed}: page ${page} is pinned`);
          if (to === "remote" || (to === "ssd" && ((residency[page] ?? 0) & pageDirty) !== 0)) spent.writes++;
        }
      }
      spent.probes += countOf(result, "standby");
      spent.moves += countOf(result, "ssd") + countOf(result, "remote") + countOf(result, "ram");
      const seconds = nowMs / 1000;
      assert.ok(
        spent.moves <= rates.movesPerSecond * seconds,
        `seed ${seed}: ${spent.moves} in ${seconds} s`,
      );
      assert.ok(
        spent.writes <= rates.writesPerSecond * seconds,
        `seed ${seed}: ${spent.writes} in ${seconds} s`,
      );
      assert.ok(
        spent.probes <= rates.probesPerSecond * seconds,
        `seed ${seed}: ${spent.probes} in ${seconds} s`,
      );
      const { knobs } = result;
      assert.ok(knobs.spinUs >= 0 && knobs.spinUs <= 1000 && knobs.evictBatch >= 1 && knobs.evictBatch <= 64);
      assert.equal(knobs.limitPages, limitPages);
    }
    assert.ok(spent.moves > 0 && spent.writes > 0);
  }
});

Deno.test("step() makes up for one second at most after a long sleep", () => {
  const result = step(
    start({ movesPerSecond: 100, writesPerSecond: 100 }),
    sampleAt(3_600_000, {
      residency: new Uint8Array(pages).fill(placeStandby),
      counters: { ...zero, ramUsed: pages },
    }),
  );
  assert.equal(countOf(result, "ssd"), 100);
});

Deno.test("step() lets a page go only after it was put in standby and nobody touched it", () => {
  let state = start({ probeMs: 1000, t1Ms: 2000 });
  const residency = new Uint8Array(pages).fill(placeSsd);
  residency.fill(placeRam, 10, 14);
  const counters = { ...zero, ramUsed: 4 };
  const said: string[] = [];
  for (let nowMs = 100; nowMs <= 4000; nowMs += 100) {
    const touched = new Uint8Array(pages);
    // Page 12 is in use: it is seen whenever it is in standby.
    if (residency[12] === placeStandby) {
      touched[12] = 1;
      residency[12] = placeRam;
    }
    const result = step(state, sampleAt(nowMs, { residency, touched, counters }));
    state = result.state;
    for (const { from, to, pages } of result.moves) {
      said.push(`${nowMs} ${from}>${to} ${pages}`);
      for (const page of pages) residency[page] = to === "standby" ? placeStandby : placeSsd;
    }
  }
  assert.deepEqual(said, [
    "1000 ram>standby 10,11,12,13",
    "2000 ram>ssd 10,11,13",
    "2100 ram>standby 12",
    "3200 ram>standby 12",
  ]);
});

Deno.test("step() lets pages sink that have left RAM, after their own time and while there is room", () => {
  let state = start({ t1Ms: 4e10, t2Ms: 4e10, sinkMs: 5000, probeMs: Infinity, writesPerSecond: 1000 });
  const residency = new Uint8Array(pages).fill(placeSsd);
  residency.fill(placeRam, 0, 1000);
  let room = 2000;
  let first = Infinity;
  for (let nowMs = 50; nowMs <= 20_000; nowMs += 50) {
    // Page 3000 is read again and again, and page 10 is in RAM.
    const trace = nowMs % 1000 === 0 ? Uint32Array.of(3000) : new Uint32Array(0);
    const counters = { ...zero, ramUsed: 1000, remoteFree: room };
    const result = step(state, sampleAt(nowMs, { residency, counters, trace }));
    state = result.state;
    for (const { from, to, pages } of result.moves) {
      assert.deepEqual([from, to], ["ssd", "remote"]);
      first = Math.min(first, nowMs);
      room -= pages.length;
      for (const page of pages) residency[page] = placeRemote;
    }
  }
  assert.ok(first >= 5000 && first < 5200, `the first page sank after ${first} ms`);
  assert.equal(room, 0);
  assert.equal(residency[3000], placeSsd, "a page in use sank");
  assert.ok(residency.subarray(0, 1000).every((place) => place === placeRam), "a page left RAM");
});

Deno.test("step() prefetches along a trace, past what is in RAM or called random, and never twice", () => {
  let state = start();
  state.advice.set({ firstPage: 120, endPage: 124 }, "random");
  const residency = new Uint8Array(pages).fill(placeSsd);
  residency[115] = placeRam;
  const seen = new Set<number>();
  for (let turn = 1; turn <= 5; turn++) {
    const trace = Uint32Array.from({ length: 8 }, (_, at) => 98 + turn * 2 + at % 2).subarray(0, 2);
    const result = step(state, sampleAt(turn * 20, { residency, trace }));
    state = result.state;
    for (const page of result.prefetch) {
      assert.ok(!seen.has(page), `page ${page} twice`);
      seen.add(page);
    }
  }
  assert.ok(seen.has(112), `${[...seen]}`);
  for (const page of [115, 120, 123]) assert.ok(!seen.has(page), `page ${page}`);
});

Deno.test("step() reads whole blocks ahead when faults do", () => {
  let state = start();
  let around = 1;
  let page = 0;
  let ahead: number[] = [];
  for (let turn = 1; turn <= 60; turn++) {
    const trace = Uint32Array.from({ length: 16 }, (_, at) => page + at * around).filter((page) =>
      page < pages
    );
    page += 16 * around;
    const result = step(state, sampleAt(turn * 20, { trace }));
    state = result.state;
    around = result.knobs.readAround;
    ahead = result.prefetch.length > 0 ? [...result.prefetch] : ahead;
  }
  assert.equal(around, 16);
  const holes = ahead.slice(1).filter((page, at) => page !== (ahead[at] ?? 0) + 1);
  assert.deepEqual(holes, []);
});

Deno.test("step() takes windows of a region one after the other", () => {
  let state = start({ t1Ms: 1000, probeMs: Infinity });
  const moved = new Set<number>();
  for (let turn = 0; turn < 8; turn++) {
    const firstPage = (turn % 4) * 1024;
    const result = step(
      state,
      sampleAt(2000 + turn * 500, {
        firstPage,
        residency: new Uint8Array(1024).fill(turn < 4 ? placeRam : placeSsd),
        touched: new Uint8Array(1024),
        counters: { ...zero, ramUsed: 2048 },
      }),
    );
    state = result.state;
    for (const { pages } of result.moves) {
      for (const page of pages) {
        assert.ok(page >= firstPage && page < firstPage + 1024);
        moved.add(page);
      }
    }
  }
  assert.equal(moved.size, pages);
});

Deno.test("step() keeps room for the faults of the next step, within its share", () => {
  const residency = new Uint8Array(pages).fill(placeRam);
  const counters = { ...zero, ramUsed: limitPages };
  const few = step(start(), sampleAt(20, { residency, counters: { ...counters, faults: 8 } }));
  assert.equal(countOf(few, "ssd"), 10);
  assert.equal(few.knobs.evictBatch, 16);
  const many = step(start(), sampleAt(20, { residency, counters: { ...counters, faults: 2000 } }));
  assert.equal(countOf(many, "ssd"), Math.floor(limitPages * 0.02));
  assert.equal(many.knobs.evictBatch, 64);
});

Deno.test("step() spins a little longer than a read takes, and not at all for slow ones", () => {
  const spin = (readP50Us: number) =>
    step(start(), sampleAt(20, { counters: { ...zero, readP50Us } })).knobs.spinUs;
  assert.deepEqual([0, 10, 33, 90, 400].map(spin), [60, 15, 50, 100, 0]);
});

Deno.test("step() lowers and gives back the limit", () => {
  const limit = limitDefaults({ limitMin: 100, limitMax: limitPages });
  let state = start({ limit });
  let result: PolicyStep | undefined;
  for (let nowMs = 200; nowMs <= 20_000; nowMs += 200) {
    result = step(state, sampleAt(nowMs, { counters: { ...zero, ramUsed: state.limit.limit } }));
    state = result.state;
  }
  assert.ok((result?.knobs.limitPages ?? 0) < 0.9 * limitPages);
  const storm = step(state, sampleAt(20_200, { counters: { ...zero, stallUs: 100_000 } }));
  assert.equal(storm.knobs.limitPages, limitPages);
});
