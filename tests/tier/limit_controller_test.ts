/**
 * The controller runs against models of programs: given the limit, how much of the time do threads stand still.
 * Time is made up; each test looks at the path the limit takes.
 */
import assert from "node:assert/strict";
import {
  limitDefaults,
  type LimitOptions,
  limitStart,
  type LimitState,
  limitStep,
} from "../../lib/tier/mod.ts";
import { prng } from "../stream/prng.ts";

/** What a program does in one second with this much RAM. */
interface Model {
  /** Share of the time that it stands still. */
  stall: (limit: number, second: number) => number;
  /** Pages that it holds, given enough. */
  used: number;
}

const limitMax = 100_000;
const options: LimitOptions = limitDefaults({ limitMin: 1000, limitMax });
const stepMs = 100;

/** A read takes so long; refaults follow from the stall time. */
const readUs = 40;

function run(
  model: Model,
  seconds: number,
  rules: LimitOptions = options,
  random?: (bound: number) => number,
) {
  const counters = { nowMs: 0, stallUs: 0, refaults: 0, ramUsed: Math.min(model.used, rules.limitMax) };
  let state = limitStart(rules, counters);
  const path: { second: number; limit: number; pressure: number; storms: number; stall: number }[] = [];
  for (let nowMs = stepMs; nowMs <= seconds * 1000; nowMs += stepMs) {
    const noise = random === undefined ? 1 : 0.5 + random(1000) / 1000;
    const stall = model.stall(state.limit, nowMs / 1000) * noise;
    counters.nowMs = nowMs;
    counters.stallUs += stall * stepMs * 1000;
    counters.refaults += stall * stepMs * 1000 / readUs;
    counters.ramUsed = Math.min(model.used, state.limit);
    const next = limitStep(state, counters, rules);
    assert.ok(
      next.limit >= rules.limitMin && next.limit <= rules.limitMax,
      `limit ${next.limit} at ${nowMs}`,
    );
    state = next;
    path.push({
      second: nowMs / 1000,
      limit: state.limit,
      pressure: state.pressure,
      storms: state.storms,
      stall,
    });
  }
  return path;
}

/** A working set whose miss curve falls off smoothly, as Zipf's does: `least` pages make one set point of stall. */
function smooth(least: number): Model {
  return { used: limitMax, stall: (limit) => options.setPoint * (least / limit) ** 8 };
}

/** A loop over `pages`: nothing is missed above; below, as a FIFO does it, everything. */
function cliff(pages: number): Model {
  return { used: limitMax, stall: (limit) => limit >= pages ? 0 : 0.9 };
}

/** Uniform access to `pages`: what is missing is missed in proportion. */
function slope(pages: number): Model {
  return { used: limitMax, stall: (limit) => limit >= pages ? 0 : Math.min(1, 20 * (1 - limit / pages)) };
}

Deno.test("limitStep() settles where a smooth working set stalls for about the set point", () => {
  for (const least of [8000, 30_000, 60_000]) {
    for (let seed = 0; seed < 4; seed++) {
      const path = run(smooth(least), 900, options, seed === 0 ? undefined : prng(seed));
      const late = path.filter(({ second }) => second > 600);
      const limits = late.map(({ limit }) => limit);
      const [low, high] = [Math.min(...limits), Math.max(...limits)];
      // The band of half to twice the set point is 2^(1/8) = 9 % of the limit to either side.
      assert.ok(low >= 0.88 * least && high <= 1.2 * least, `${least}, seed ${seed}: ${low} to ${high}`);
      assert.ok(high / low <= 1.1, `${least}, seed ${seed}: it swings from ${low} to ${high}`);
      assert.equal(path.at(-1)?.storms, 0);
      const stalled = late.reduce((sum, { stall }) => sum + stall, 0) / late.length;
      assert.ok(stalled <= 2.2 * options.setPoint, `${least}, seed ${seed}: stalls ${stalled}`);
    }
  }
});

Deno.test("limitStep() probes a sharp edge ever more rarely, and holds above it between probes", () => {
  for (const pages of [20_000, 70_000]) {
    const path = run(cliff(pages), 4 * 3600);
    const stormsAt = path.filter(({ storms }, at) => storms > (path[at - 1]?.storms ?? 0)).map(({ second }) =>
      second
    );
    assert.ok(stormsAt.length >= 2 && stormsAt.length <= 10, `${pages}: storms at ${stormsAt}`);
    const gaps = stormsAt.slice(1).map((second, at) => second - (stormsAt[at] ?? 0));
    for (let at = 1; at < gaps.length - 1; at++) {
      assert.ok((gaps[at] ?? 0) >= (gaps[at - 1] ?? 0) - 1, `${pages}: gaps ${gaps}`);
    }
    const stalled = path.reduce((sum, { stall }) => sum + stall, 0) / path.length;
    assert.ok(stalled <= options.setPoint, `${pages}: stalls ${stalled}`);
    const late = path.slice(path.length / 2).map(({ limit }) => limit).sort((a, b) => a - b);
    const median = late[late.length >> 1] ?? 0;
    assert.ok(median >= pages && median <= 1.15 * pages, `${pages}: holds ${median}`);
    assert.ok((late[0] ?? 0) >= 0.97 * pages, `${pages}: fell to ${late[0]}`);
  }
});

Deno.test("limitStep() rests on a steep slope", () => {
  for (const pages of [20_000, 70_000]) {
    const path = run(slope(pages), 3600);
    const late = path.slice(path.length / 4);
    assert.ok((late[0]?.storms ?? 0) <= 1, "one storm at most, when it meets the slope at full speed");
    assert.equal(path.at(-1)?.storms, late[0]?.storms);
    assert.ok(late.every(({ limit }) => limit >= 0.99 * pages && limit <= 1.02 * pages), `${pages}`);
    const stalled = late.reduce((sum, { stall }) => sum + stall, 0) / late.length;
    assert.ok(stalled <= 2.2 * options.setPoint, `${pages}: stalls ${stalled}`);
  }
});

Deno.test("limitStep() gives everything back in the step of a storm", () => {
  const path = run({
    used: limitMax,
    stall: (limit, second) => second > 120 && limit < 90_000 ? 0.3 : 0,
  }, 200);
  const before = path.findLast(({ second }) => second <= 120)?.limit ?? limitMax;
  assert.ok(before < 0.5 * limitMax, `only down to ${before} in two minutes`);
  const after = path.find(({ second }) => second > 120 + options.intervalMs / 1000);
  assert.equal(after?.limit, limitMax);
  assert.equal(after?.storms, 1);
  const waiting = path.filter(({ second }) => second > 121 && second < 120 + options.waitMs / 1000);
  assert.ok(
    waiting.length > 10 && waiting.every(({ limit }) => limit === limitMax),
    "nothing is taken while it waits",
  );
});

Deno.test("limitStep() counts refaults as a storm though nobody stalls", () => {
  const start = limitStart(options, { nowMs: 0, stallUs: 0, refaults: 0, ramUsed: 50_000 });
  const lowered: LimitState = { ...start, limit: 40_000 };
  const calm = limitStep(lowered, { nowMs: 1000, stallUs: 0, refaults: 1900, ramUsed: 40_000 }, options);
  assert.ok(calm.limit < 40_000);
  const storm = limitStep(lowered, { nowMs: 1000, stallUs: 0, refaults: 2100, ramUsed: 40_000 }, options);
  assert.equal(storm.limit, limitMax);
});

Deno.test("limitStep() falls no faster than it may, and never while there is pressure", () => {
  for (let seed = 1; seed <= 20; seed++) {
    const random = prng(seed);
    const counters = { nowMs: 0, stallUs: 0, refaults: 0, ramUsed: limitMax };
    let state = limitStart(options, counters);
    for (let turn = 0; turn < 500; turn++) {
      const before = state;
      counters.nowMs += 1 + random(1500);
      const stalledUs = random(3) * random(5000);
      counters.stallUs += stalledUs;
      counters.refaults += random(30);
      counters.ramUsed = state.limit;
      state = limitStep(state, counters, options);
      const seconds = (state.atMs - before.atMs) / 1000;
      const least = before.limit * (1 - options.shrinkPerSecond * seconds) - 1;
      assert.ok(
        state.limit >= Math.max(options.limitMin, Math.min(before.limit, least)),
        `seed ${seed}: ${before.limit} to ${state.limit}`,
      );
      if (state.pressure >= options.setPoint / 2) {
        assert.ok(state.limit >= before.limit, `seed ${seed}, turn ${turn}`);
      }
    }
  }
});

Deno.test("limitStep() takes what nobody uses at once, and stops at the minimum", () => {
  const path = run({ used: 5000, stall: () => 0 }, 2);
  assert.ok((path[3]?.limit ?? limitMax) <= 5000);
  assert.equal(run({ used: 5000, stall: () => 0 }, 600).at(-1)?.limit, options.limitMin);
});

Deno.test("limitStep() stays at the maximum when it is not enough, and where it is when it may not move", () => {
  const starved = run({ used: limitMax, stall: () => 0.7 }, 300);
  assert.ok(starved.every(({ limit }) => limit === limitMax));
  const fixed = { ...options, limitMin: 5000, limitMax: 5000 };
  assert.ok(
    run({ used: 5000, stall: (_, second) => second % 2 }, 60, fixed).every(({ limit }) => limit === 5000),
  );
});

Deno.test("limitStep() takes counters that step back, and a clock that does, as no change", () => {
  const start = limitStart(options, { nowMs: 5000, stallUs: 9e9, refaults: 9e9, ramUsed: 50_000 });
  assert.equal(limitStep(start, { nowMs: 4000, stallUs: 0, refaults: 0, ramUsed: 1 }, options), start);
  const next = limitStep(start, { nowMs: 6000, stallUs: 0, refaults: 0, ramUsed: 50_000 }, options);
  assert.equal(next.pressure, 0);
  assert.equal(next.storms, 0);
});

Deno.test("limitStart() refuses rules that contradict each other", () => {
  const sample = { nowMs: 0, stallUs: 0, refaults: 0, ramUsed: 0 };
  for (const wrong of [{ limitMin: 5, limitMax: 4 }, { limitMin: -1 }, { setPoint: 0 }, { waitMs: NaN }]) {
    assert.throws(() => limitStart({ ...options, ...wrong }, sample), RangeError);
  }
});
