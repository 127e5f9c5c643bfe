/**
 * The policy against the textbook ones, in the simulator. Ratios have room: what is held here is that the policy
 * does what it is for and does no harm where it cannot help, not a figure to the digit.
 */
import assert from "node:assert/strict";
import { limitDefaults, type PolicyOptions } from "../../lib/tier/mod.ts";
import { prng } from "../stream/prng.ts";
import {
  missesOf,
  type Replacement,
  simulate,
  simulatedPolicy,
  type SimulationResult,
  traceOf,
  type Workload,
} from "./tier_sim.ts";

const pages = 4096;
const limitPages = Math.floor(0.6 * pages);
const touches = 120_000;

function misses(workload: Workload, count = touches): Record<Replacement, number> {
  const trace = traceOf(workload, { pages, touches: count, random: prng(1) });
  const of = (replacement: Replacement) => missesOf(replacement, trace, limitPages);
  return { opt: of("opt"), lru: of("lru"), clock: of("clock"), fifo: of("fifo"), segmented: of("segmented") };
}

/** The model alone, and with a policy. */
function both(
  workload: Workload,
  changes: Partial<PolicyOptions> = {},
  seesTouches = false,
): { alone: SimulationResult; policy: SimulationResult } {
  const trace = traceOf(workload, { pages, touches, random: prng(1) });
  const policy = simulatedPolicy({ pages, limitPages }, changes);
  const common = { trace, pages, limitPages };
  return {
    alone: simulate({ ...common, policy: null, seesTouches: false }),
    policy: simulate({ ...common, policy, seesTouches }),
  };
}

Deno.test("missesOf() agrees with caches small enough to follow by hand", () => {
  // The trace of Belady's anomaly: FIFO misses more with more room.
  const trace = Uint32Array.of(1, 2, 3, 4, 1, 2, 5, 1, 2, 3, 4, 5);
  assert.equal(missesOf("opt", trace, 3), 7);
  assert.equal(missesOf("fifo", trace, 3), 9);
  assert.equal(missesOf("lru", trace, 3), 10);
  assert.equal(missesOf("fifo", trace, 4), 10);
  assert.equal(missesOf("lru", trace, 4), 8);
  assert.equal(missesOf("opt", trace, 4), 6);
  // A page touched while it waited stays, and the one behind it goes.
  assert.equal(missesOf("clock", Uint32Array.of(1, 2, 1, 3, 1), 2), 3);
  assert.equal(missesOf("fifo", Uint32Array.of(1, 2, 1, 3, 1), 2), 4);
});

Deno.test("missesOf() puts nobody below Belady, and the textbook where the textbook has them", () => {
  for (const workload of ["uniform", "zipf", "shifting", "zipf-and-scan"] as const) {
    const found = misses(workload, 200_000);
    for (const other of ["lru", "clock", "fifo", "segmented"] as const) {
      assert.ok(found[other] >= found.opt, `${workload}: ${other} ${found[other]} beats ${found.opt}`);
    }
    if (workload === "uniform") {
      // Nobody can know: 40 % of what was touched once.
      for (const other of ["lru", "clock", "segmented"] as const) {
        assert.ok(
          Math.abs(found[other] / found.fifo - 1) < 0.02,
          `${other} ${found[other]}, FIFO ${found.fifo}`,
        );
      }
    } else {
      assert.ok(found.lru < 0.9 * found.fifo, `${workload}: LRU ${found.lru}, FIFO ${found.fifo}`);
      assert.ok(found.segmented < 0.95 * found.fifo, `${workload}: ${found.segmented}, FIFO ${found.fifo}`);
      assert.ok(found.segmented < 1.15 * found.lru, `${workload}: ${found.segmented}, LRU ${found.lru}`);
    }
  }
});

Deno.test("step() does no harm to uniform access, where there is nothing to know", () => {
  const { alone, policy } = both("uniform");
  assert.ok(policy.faults <= 1.02 * alone.faults, `${policy.faults} faults, ${alone.faults} alone`);
  assert.ok(policy.seconds <= 1.03 * alone.seconds, `${policy.seconds} s, ${alone.seconds} alone`);
  assert.equal(policy.prefetched, 0);
});

Deno.test("step() finds what Zipf leaves cold, with faults and rescues alone", () => {
  const { alone, policy } = both("zipf");
  assert.ok(policy.faults <= 0.98 * alone.faults, `${policy.faults} faults, ${alone.faults} alone`);
  assert.ok(policy.seconds <= 0.99 * alone.seconds, `${policy.seconds} s, ${alone.seconds} alone`);
  const { policy: curious } = both("zipf", { probesPerFault: 3 });
  const { lru } = misses("zipf");
  assert.ok(curious.faults <= 1.06 * lru, `${curious.faults} faults with more probes, LRU ${lru}`);
});

Deno.test("step() beats LRU on Zipf where touches are sampled", () => {
  const { policy } = both("zipf", { probeMs: Infinity }, true);
  const { opt, lru } = misses("zipf");
  assert.ok(policy.faults <= 0.98 * lru, `${policy.faults} faults, LRU ${lru}`);
  assert.ok(policy.faults >= opt);
});

Deno.test("step() turns a scan's faults into reads ahead", () => {
  const { alone, policy } = both("scan");
  assert.equal(alone.faults, touches, "a scan larger than RAM misses always");
  assert.ok(policy.faults <= 0.1 * touches, `${policy.faults} faults`);
  assert.ok(
    policy.prefetchUsed >= 0.95 * policy.prefetched,
    `${policy.prefetchUsed} of ${policy.prefetched} used`,
  );
  assert.ok(policy.seconds <= 0.25 * alone.seconds, `${policy.seconds} s, ${alone.seconds} alone`);
});

Deno.test("step() keeps a scan from pushing out what is hot", () => {
  const { alone, policy } = both("zipf-and-scan");
  const { lru } = misses("zipf-and-scan");
  assert.ok(policy.faults <= 0.5 * lru, `${policy.faults} faults, LRU ${lru}`);
  assert.ok(policy.seconds <= 0.6 * alone.seconds, `${policy.seconds} s, ${alone.seconds} alone`);
});

Deno.test("step() follows a working set that moves on", () => {
  const { alone, policy } = both("shifting");
  const { lru } = misses("shifting");
  assert.ok(policy.faults <= 1.2 * lru, `${policy.faults} faults, LRU ${lru}`);
  assert.ok(policy.seconds <= 1.1 * alone.seconds, `${policy.seconds} s, ${alone.seconds} alone`);
});

Deno.test("step() uses what the program says: a range called cold costs nobody else a page", () => {
  const trace = traceOf("zipf-and-scan", { pages, touches, random: prng(1) });
  const common = { trace, pages, limitPages: pages >> 1, seesTouches: false };
  const policy = simulatedPolicy(common, { prefetchPages: 0 });
  const silent = simulate({ ...common, policy });
  const cold = [{ firstPage: pages >> 1, endPage: pages, advice: "cold" as const }];
  const told = simulate({ ...common, policy, advice: cold });
  assert.ok(told.faults < 0.99 * silent.faults, `${told.faults} faults, ${silent.faults} without advice`);
});

Deno.test("step() gives back what a small working set does not need, and costs it little", () => {
  const used = 1200;
  const random = prng(4);
  const trace = Uint32Array.from({ length: 600_000 }, (_, at) => at < pages ? at : random(used));
  const limit = {
    ...limitDefaults({ limitMin: 256, limitMax: pages }),
    setPoint: 0.01,
    shrinkPerSecond: 0.2,
    growPerSecond: 0.2,
  };
  const policy = simulatedPolicy({ pages, limitPages: pages }, { limit });
  const { limits, seconds, stallUs } = simulate({
    trace,
    pages,
    limitPages: pages,
    policy,
    seesTouches: false,
  });
  const late = limits.slice(limits.length / 2).sort((a, b) => a - b);
  const median = late[late.length >> 1] ?? 0;
  assert.ok(median >= used && median <= 2 * used, `holds ${median} pages for ${used}`);
  assert.ok(stallUs / 1e6 / seconds <= 0.06, `stalls ${stallUs / 1e6} of ${seconds} s`);
});

Deno.test("simulate() gives the same result twice", () => {
  const run = () => both("zipf-and-scan").policy;
  assert.deepEqual(run(), run());
});
