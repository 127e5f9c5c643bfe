/**
 * Deciding where pages should be: pure functions and small machines over samples, without a clock, a kernel or a
 * thread.
 *
 * | file | question | answer |
 * | --- | --- | --- |
 * | `pages.ts` | where is a page? | one byte of residency per page, `Move` |
 * | `heat.ts` | how hot is it? | a decaying sum of sampled touches, idle time |
 * | `advice.ts` | what did the program say? | ranges that are hot, cold, sequential, random |
 * | `policy.ts` | what should move? | `plan`: budget, T1, T2, room of the tiers |
 * | `fifo.ts` | who leaves next when nobody looks? | two lists with a standby |
 * | `prefetch.ts` | what will be touched next? | strides by majority, streams, read-around |
 * | `working_set.ts` | what will be touched after a restore? | recorded order of first touches |
 * | `limit_controller.ts` | how much RAM is needed? | as much as keeps stall time at a set point |
 * | `policy_loop.ts` | all of it, 10 to 100 times a second | `step(state, sample)` |
 *
 * Nothing here is needed for safety. C keeps the hard cap, serves faults and moves pages by simple rules of its
 * own; what comes from here is wishes, and a wish that has become wrong is skipped. Time is an argument everywhere,
 * so tests and the simulator (`tests/sim/tier_sim.ts`) live years in seconds, and the same samples give the same
 * answers.
 *
 * What it cannot see: hits on mapped pages. Idle pages are therefore put in standby first, where a touch is seen and
 * cheap (`probe` of `plan`), and what the program says by advice counts more than what is measured.
 *
 * @example Two idle pages of four leave RAM, the one that was touched stays, a pinned one is not asked
 * ```ts
 * import { HeatMap, pagePinned, placeRam, plan, ticksFromMs } from "./mod.ts";
 *
 * const heat = new HeatMap({ pages: 4, halfLifeMs: 1000, nowMs: 0 });
 * heat.touchPages(Uint32Array.of(2), 59_000);
 *
 * const reading = { firstPage: 0, nowMs: 60_000, heat: new Uint8Array(4), idle: new Uint32Array(4) };
 * heat.read(reading);
 * const moves = plan({
 *   ...reading,
 *   residency: Uint8Array.of(placeRam, placeRam | pagePinned, placeRam, placeRam),
 *   probe: Infinity,
 *   t1: ticksFromMs(30_000),
 *   t2: ticksFromMs(600_000),
 *   budget: { moves: 100, writes: 100, probes: 0 },
 *   tiers: { ramUsed: 4, ramTarget: 4, ssdFree: 100, remoteFree: 0 },
 *   promoteHeat: 256,
 *   batchPages: 64,
 * });
 * console.log(moves); // [{ from: "ram", to: "ssd", pages: Uint32Array [0, 3] }]
 * if (moves[0]?.pages.join() !== "0,3") throw new Error("The plan is wrong");
 * ```
 *
 * @module
 */
export * from "./advice.ts";
export * from "./fifo.ts";
export * from "./heat.ts";
export * from "./limit_controller.ts";
export * from "./pages.ts";
export * from "./policy.ts";
export * from "./policy_loop.ts";
export * from "./prefetch.ts";
export * from "./working_set.ts";
