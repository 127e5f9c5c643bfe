/**
 * `deno task bench mem`: memory larger than its RAM, by a region and by the kernel's own swapping, on the same disk.
 *
 * Goals (accesses of 8 bytes, 1 GiB, 60 % resident; ratios of accesses per second unless said otherwise):
 *
 * | what                                                    | at least      |
 * | ------------------------------------------------------- | ------------- |
 * | uniform reads, 1 thread ÷ kernel swap                   | 1.15          |
 * | their p99 ÷ swap's p99                                  | at most 0.8   |
 * | 30 % writes ÷ swap                                      | 1.15          |
 * | 2 threads ÷ swap                                        | 1.0           |
 * | Zipf 0.99 ÷ swap                                        | 1.3           |
 * | next 16 addresses hinted ÷ swap                         | 2.0           |
 * | uniform reads ÷ device bound                            | 0.85          |
 * | scan for dirty pages, 10 % of them dirty                | at most 6 ms  |
 * | all in RAM ÷ memory of the process                      | 0.97          |
 * | JavaScript: a cold touch above the device               | at most 10 µs |
 *
 * Not goals: more threads than processors, the first touch of fresh memory, other devices in the same table.
 *
 * Method. Both sides run the same loop, in C (native-src/bench.c): it times every access and checks every value. A
 * round starts both processes afresh, fills their memory, reads all of it once in order, lets it settle under random
 * reads, and then measures row by row, the two sides in turn and in changing order, each after a warm-up. The
 * kernel gets a control group whose limit is the same 60 % and 12 MiB more for everything else a process has, one
 * page per fault (page-cluster 0) while it is timed, a swap file of three times the memory, and swapoff and swapon
 * between rounds. At the end of a round every word of both memories is verified. The device bound is what pread with
 * O_DIRECT, one page at a time, allows when hits cost nothing: its rate in the same round ÷ the share that is not
 * resident. A row's ratio is the median of the rounds' ratios, with the least and the greatest.
 *
 * @module
 */
import { cpus } from "node:os";
import { parseArgs } from "node:util";
import { dirtyModes, faultModes } from "../ffi/layout.ts";
import { buildNative } from "../native-src/build.ts";
import { measureTouches } from "./mem_js.ts";
import { buildWorkload, type Loop, type LoopOptions, MemProcess } from "./mem_process.ts";
import { commonOptions, numberOf, type Outlets, outlets, wordsOf } from "./options.ts";
import { Scratch } from "./scratch.ts";
import { NoSwapError, SwapGroup } from "./swap.ts";
import { formatTable, median } from "./table.ts";

const usage = `Usage: deno task bench mem [OPTION]...

Measures a region against kernel swap, the device and plain memory, and prints each goal with what was reached.

Options:
      --size MIB       memory; default: 1024
      --resident N     percent of it that fits into RAM; default: 60
      --rounds N       paired rounds; default: 5
      --seconds N      of each timed loop; default: 4
      --rows LIST      uniform,zipf,hints,threads,writes,harvest,local,js; default: all
      --seed N         of the accesses; default: 20261120
      --dir PATH       where the files go; default: a new directory in /var/tmp, removed at the end
      --smoke          128 MiB, one round of short loops
      --strict         exit 1 when a goal is missed
      --json           JSON lines on stdout: one per loop and per goal; the tables go to stderr
`;

const MiB = 2 ** 20;

/** What a process has beside the memory that is measured. */
const overheadSize = 12 * MiB;

/** Read-ahead of the kernel while its memory is read once in order: 2^5 pages. */
const warmCluster = 5;

/**
 * How long a row's pattern is run before it is timed, in parts of a timed loop. Zipf's pages have to be told apart first: its
 * rows before are uniform, and until each side has seen about twice the accesses that a loop has, its order of leaving is
 * still theirs (faults fall from 10 to 7 % of the accesses meanwhile, on both sides).
 */
const warmUps: Readonly<Partial<Record<RowName, number>>> = { zipf: 2 };
const warmUp = 0.25;

/**
 * All in RAM the two sides do the same, and what differs is noise: other guests of the machine, which comes and goes
 * within seconds, and which frames a process was given, which stays with it. So a round has several pairs of fresh processes,
 * filled in changing order, and each pair takes many short turns.
 */
const localPairs = 3;
const localTurns = 8;

const rowNames = ["uniform", "zipf", "hints", "threads", "writes", "harvest", "local", "js"] as const;

/** What can be left out. */
export type RowName = typeof rowNames[number];

/** The rows that both sides run. */
const paired: Readonly<
  Partial<Record<RowName, { ours: Omit<LoopOptions, "seconds" | "seed">; theirs?: { hints: number } }>>
> = {
  uniform: { ours: { pattern: "uniform", writes: 0, threads: 1, hints: 0 } },
  zipf: { ours: { pattern: "zipf", writes: 0, threads: 1, hints: 0 } },
  hints: { ours: { pattern: "uniform", writes: 0, threads: 1, hints: 16 }, theirs: { hints: 0 } },
  threads: { ours: { pattern: "uniform", writes: 0, threads: 2, hints: 0 } },
  writes: { ours: { pattern: "uniform", writes: 300, threads: 1, hints: 0 } },
};

/** What to measure. */
export interface MemBenchOptions extends Outlets {
  /** Bytes. */
  size: number;
  /** Percent. */
  resident: number;
  rounds: number;
  seconds: number;
  rows: readonly RowName[];
  seed: number;
  /** Parent of the scratch directory. */
  dir: string | undefined;
}

/** One goal and what was reached. */
export interface MemGoal {
  measure: string;
  /** Medians of both sides, for people. */
  drover: string;
  yardstick: string;
  /** Median of the rounds' values, and their range. */
  value: number;
  least: number;
  greatest: number;
  goal: number;
  /** Whether the value should be at most the goal; else at least. */
  atMost: boolean;
  verdict: "ok" | "short";
}

/** The command. */
export async function main(args: readonly string[]): Promise<number> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      size: { type: "string" },
      resident: { type: "string", default: "60" },
      rounds: { type: "string" },
      seconds: { type: "string" },
      rows: { type: "string", default: rowNames.join(",") },
      seed: { type: "string", default: "20261120" },
      dir: { type: "string" },
      ...commonOptions,
    },
  });
  if (values.help) {
    console.log(usage);
    return 0;
  }
  const goals = await benchMem({
    size: Math.round(numberOf(values.size ?? (values.smoke ? "128" : "1024"))) * MiB,
    resident: numberOf(values.resident),
    rounds: numberOf(values.rounds ?? (values.smoke ? "1" : "5")),
    seconds: numberOf(values.seconds ?? (values.smoke ? "0.3" : "4")),
    rows: wordsOf(values.rows, rowNames),
    seed: numberOf(values.seed),
    dir: values.dir,
    ...outlets(values.json),
  });
  return values.strict && goals.some(({ verdict }) => verdict === "short") ? 1 : 0;
}

/** Measures, prints, and gives the goals. @throws when a value was wrong. */
export async function benchMem(options: MemBenchOptions): Promise<MemGoal[]> {
  const { say, record, size, resident, rounds } = options;
  await buildNative({ force: false });
  using scratch = new Scratch(options.dir);
  const bench = new MemBench(scratch, options);
  say(`${size / MiB} MiB, ${resident} % resident; ${machine()}; seed ${options.seed}`);
  say(`${rounds} rounds of ${options.seconds} s per loop; work in ${scratch.path}`);
  await bench.prepare();
  for (let round = 0; round < rounds; round++) {
    await bench.round(round);
    say(`round ${round + 1} of ${rounds} done, load ${Deno.loadavg()[0]?.toFixed(1)}`);
  }
  const loops = bench.loopTable();
  if (loops.length > 0) {
    say(`\nAll loops (medians):\n`);
    say(
      formatTable([
        "loop",
        "side",
        "kops/s",
        "p50 µs",
        "p90 µs",
        "p99 µs",
        "faults %",
        "read MB",
        "written MB",
      ], loops),
    );
  }
  const goals = bench.goals();
  say(`\nGoals:\n`);
  say(formatTable(
    ["measure", "drover", "yardstick", "median", "least", "greatest", "goal", ""],
    goals.map((goal) => [
      goal.measure,
      goal.drover,
      goal.yardstick,
      goal.value.toFixed(2),
      goal.least.toFixed(2),
      goal.greatest.toFixed(2),
      `${goal.atMost ? "≤" : "≥"} ${goal.goal}`,
      goal.verdict,
    ]),
  ));
  for (const goal of goals) record({ type: "goal", ...goal });
  return goals;
}

type Side = "drover" | "swap" | "plain";

/** All rounds of one run. */
class MemBench {
  readonly #scratch: Scratch;
  readonly #options: MemBenchOptions;
  /** By row and side, one per round. */
  readonly #loops = new Map<string, Loop[]>();
  /** One per round. */
  readonly #device: { perSecond: number; p50: number }[] = [];
  readonly #harvestMs: number[] = [];
  readonly #touchMicros: number[] = [];
  #program = "";

  constructor(scratch: Scratch, options: MemBenchOptions) {
    this.#scratch = scratch;
    this.#options = options;
  }

  /** Bytes that may stay in RAM. */
  get #limit(): number {
    const { size, resident } = this.#options;
    return Math.floor((size * resident) / 100 / 4096) * 4096;
  }

  async prepare(): Promise<void> {
    this.#program = buildWorkload(this.#scratch.path);
    await using device = this.#startDevice();
    await device.order("fill");
  }

  async round(round: number): Promise<void> {
    const { rows } = this.#options;
    if (rows.some((row) => row in paired)) await this.#tiered(round);
    if (rows.includes("harvest")) await this.#harvest(round);
    if (rows.includes("local")) await this.#local(round);
    if (rows.includes("js")) await this.#touches(round);
  }

  /** The region and the kernel side by side. */
  async #tiered(round: number): Promise<void> {
    const { rows, size, say } = this.#options;
    await using swap = this.#swap();
    if (swap === null && round === 0) say(`no kernel swap to compare with`);
    {
      await using region = this.#startRegion(this.#limit);
      await using theirs = swap === null ? null : new MemProcess(this.#program, ["plain", String(size)]);
      await using device = this.#startDevice();
      await region.order("fill");
      await region.order("warm");
      if (theirs !== null && swap !== null) {
        swap.enter(theirs.pid);
        await theirs.order("fill");
        swap.readAround(warmCluster);
        await theirs.order("warm");
        swap.readAround(0);
      }
      const seed = this.#options.seed + round;
      // The disk is still busy with what was filled in, and the order of leaving still that of the reading.
      const settling = { pattern: "uniform", writes: 0, threads: 1, hints: 0, seed: seed + 1 } as const;
      for (const process of [region, theirs]) {
        await process?.loop({ ...settling, seconds: 2 * this.#options.seconds });
      }
      for (const row of rows) {
        const loop = paired[row];
        if (loop === undefined) continue;
        const turns: [Side, MemProcess | null, Omit<LoopOptions, "seconds" | "seed">][] = [
          ["drover", region, loop.ours],
          ["swap", theirs, { ...loop.ours, ...loop.theirs }],
        ];
        if (round % 2 === 1) turns.reverse();
        if (row === "uniform") await this.#readDevice(device, round, seed);
        for (const [side, process, what] of turns) {
          if (process !== null) await this.#loop({ process, row, side, round, what, seed });
        }
      }
      if (swap !== null && swap.used() > 0.5) {
        throw new Error("Cannot use this run: the swap area was more than half full");
      }
      await region.order("verify");
      await theirs?.order("verify");
    }
    swap?.reset();
  }

  /** How long the search for written pages takes, all of them in RAM. */
  async #harvest(round: number): Promise<void> {
    const { size, seed, record } = this.#options;
    await using region = this.#startRegion(size, "async");
    await region.order("fill");
    const { nanoseconds = NaN, written, dirty } = await region.order(`harvest 100 ${seed + round}`);
    this.#harvestMs.push(nanoseconds / 1e6);
    record({ type: "harvest", round, milliseconds: nanoseconds / 1e6, written, dirty });
    await region.order("verify");
  }

  /** A region that fits, and plain memory. */
  async #local(round: number): Promise<void> {
    const { size, seed, seconds, record } = this.#options;
    const what = { pattern: "uniform", writes: 0, threads: 1, hints: 0 } as const;
    const done = new Map<Side, Loop[]>([["drover", []], ["plain", []]]);
    for (let pair = 0; pair < localPairs; pair++) {
      await using region = this.#startRegion(size);
      await using plain = new MemProcess(this.#program, ["plain", String(size)]);
      const sides: [Side, MemProcess][] = [["drover", region], ["plain", plain]];
      if ((round + pair) % 2 === 1) sides.reverse();
      for (const [, process] of sides) await process.order("fill");
      for (let turn = 0; turn <= localTurns; turn++) {
        for (const [side, process] of sides) {
          const own = (seed + round) * localPairs + pair;
          const loop = await process.loop({ ...what, seconds: seconds / localTurns, seed: own * 100 + turn });
          if (turn > 0) done.get(side)?.push(loop);
        }
        sides.reverse();
      }
    }
    for (const [side, loops] of done) {
      const loop = together(loops);
      this.#keep("local", side, loop);
      record({ type: "loop", row: "local", side, round, ...loop });
    }
  }

  /** A loop in JavaScript. */
  async #touches(round: number): Promise<void> {
    const { size, seed, record } = this.#options;
    const path = this.#scratch.at("js");
    const { coldMicros, colds } = measureTouches({ size, limit: this.#limit, path, seed: seed + round });
    await using device = this.#startDevice();
    const { p50 } = await this.#deviceLoop(device, seed + round);
    this.#touchMicros.push(coldMicros - p50 / 1000);
    record({ type: "touch", round, coldMicros, deviceMicros: p50 / 1000, colds });
  }

  async #loop(
    turn: {
      process: MemProcess;
      row: RowName;
      side: Side;
      round: number;
      what: Omit<LoopOptions, "seconds" | "seed">;
      seed: number;
    },
  ): Promise<void> {
    const { process, row, side, round, what, seed } = turn;
    const { seconds, record } = this.#options;
    // Another seed for every loop: the pages of a loop that was run before are in RAM.
    const own = 2 * (seed * rowNames.length + rowNames.indexOf(row));
    await process.loop({ ...what, seconds: seconds * (warmUps[row] ?? warmUp), seed: own });
    const loop = await process.loop({ ...what, seconds, seed: own + 1 });
    this.#keep(row, side, loop);
    record({ type: "loop", row, side, round, ...loop });
  }

  #keep(row: RowName, side: Side, loop: Loop): void {
    const key = `${row} ${side}`;
    this.#loops.set(key, [...this.#loops.get(key) ?? [], loop]);
  }

  async #readDevice(device: MemProcess, round: number, seed: number): Promise<void> {
    const loop = await this.#deviceLoop(device, seed);
    this.#device.push(loop);
    this.#options.record({ type: "device", round, ...loop });
  }

  async #deviceLoop(device: MemProcess, seed: number): Promise<{ perSecond: number; p50: number }> {
    const micros = Math.round(this.#options.seconds * 0.5e6);
    const { ops = NaN, nanoseconds = NaN, p50 = NaN } = await device.order(`run ${micros} ${seed}`);
    return { perSecond: ops / (nanoseconds / 1e9), p50 };
  }

  #startRegion(limit: number, dirty: keyof typeof dirtyModes = "hash"): MemProcess {
    const path = this.#scratch.at("region");
    const modes = [faultModes.inline, dirtyModes[dirty]].map(String);
    return new MemProcess(this.#program, [
      "region",
      String(this.#options.size),
      String(limit),
      path,
      ...modes,
    ]);
  }

  #startDevice(): MemProcess {
    return new MemProcess(this.#program, ["device", String(this.#options.size), this.#scratch.at("device")]);
  }

  #swap(): SwapGroup | null {
    const { size, say } = this.#options;
    try {
      return new SwapGroup({
        dir: this.#scratch.path,
        areaSize: 3 * size,
        limit: this.#limit + overheadSize,
      });
    } catch (error) {
      if (!(error instanceof NoSwapError)) throw error;
      say(`kernel swap: ${error.message}`);
      return null;
    }
  }

  /** One line per loop and side. */
  loopTable(): string[][] {
    return [...this.#loops].map(([key, loops]) => {
      const middle = (of: (loop: Loop) => number, digits = 1): string =>
        median(loops.map(of)).toFixed(digits);
      return [
        ...key.split(" "),
        middle((loop) => rateOf(loop) / 1000),
        middle((loop) => loop.p50 / 1000, 2),
        middle((loop) => loop.p90 / 1000),
        middle((loop) => loop.p99 / 1000),
        middle((loop) => (100 * loop.faults) / loop.ops),
        middle((loop) => loop.readBytes / 1e6),
        middle((loop) => loop.writtenBytes / 1e6),
      ];
    });
  }

  goals(): MemGoal[] {
    const goals: MemGoal[] = [];
    const kops = (rates: readonly number[]): string => `${(median(rates) / 1000).toFixed(1)} k/s`;
    const micros = (values: readonly number[]): string => `${(median(values) / 1000).toFixed(1)} µs`;
    const compare = (
      measure: string,
      row: RowName,
      other: Side,
      limit: { goal: number; atMost?: boolean; of?: (loop: Loop) => number; show?: typeof kops },
    ): void => {
      const { goal, atMost = false, of = rateOf, show = kops } = limit;
      const ours = (this.#loops.get(`${row} drover`) ?? []).map(of);
      const theirs = (this.#loops.get(`${row} ${other}`) ?? []).map(of);
      if (ours.length === 0 || theirs.length === 0) return;
      const ratios = ours.map((value, round) => value / (theirs[round] ?? NaN));
      goals.push(
        goalOf({ measure, drover: show(ours), yardstick: show(theirs), values: ratios, goal, atMost }),
      );
    };
    compare("uniform reads, 1 thread ÷ swap", "uniform", "swap", { goal: 1.15 });
    compare("their p99 ÷ swap's p99", "uniform", "swap", {
      goal: 0.8,
      atMost: true,
      of: (loop) => loop.p99,
      show: micros,
    });
    compare("30 % writes ÷ swap", "writes", "swap", { goal: 1.15 });
    compare("2 threads ÷ swap", "threads", "swap", { goal: 1 });
    compare("Zipf 0.99 ÷ swap", "zipf", "swap", { goal: 1.3 });
    compare("next 16 addresses hinted ÷ swap", "hints", "swap", { goal: 2 });
    const reads = (this.#loops.get("uniform drover") ?? []).map(rateOf);
    if (reads.length > 0) {
      const missing = 1 - this.#options.resident / 100;
      const bounds = this.#device.map(({ perSecond }) => perSecond / missing);
      goals.push(goalOf({
        measure: "uniform reads ÷ device bound",
        drover: kops(reads),
        yardstick: kops(bounds),
        values: reads.map((value, round) => value / (bounds[round] ?? NaN)),
        goal: 0.85,
        atMost: false,
      }));
    }
    if (this.#harvestMs.length > 0) {
      const values = this.#harvestMs;
      const drover = `${median(values).toFixed(2)} ms`;
      goals.push(
        goalOf({ measure: "dirty scan at 10 %, ms", drover, yardstick: "", values, goal: 6, atMost: true }),
      );
    }
    compare("all in RAM ÷ plain memory", "local", "plain", { goal: 0.97 });
    if (this.#touchMicros.length > 0) {
      const values = this.#touchMicros;
      const drover = `${median(values).toFixed(1)} µs`;
      goals.push(goalOf({
        measure: "JavaScript's cold touch above the device, µs",
        drover,
        yardstick: "",
        values,
        goal: 10,
        atMost: true,
      }));
    }
    return goals;
  }
}

/** Several loops as one: sums, and medians of the latencies. */
function together(loops: readonly Loop[]): Loop {
  const sum = (of: (loop: Loop) => number): number => loops.reduce((total, loop) => total + of(loop), 0);
  const middle = (of: (loop: Loop) => number): number => median(loops.map(of));
  return {
    ops: sum((loop) => loop.ops),
    nanoseconds: sum((loop) => loop.nanoseconds),
    p50: middle((loop) => loop.p50),
    p90: middle((loop) => loop.p90),
    p99: middle((loop) => loop.p99),
    slowest: Math.max(...loops.map((loop) => loop.slowest)),
    wrong: sum((loop) => loop.wrong),
    faults: sum((loop) => loop.faults),
    resident: middle((loop) => loop.resident),
    readBytes: sum((loop) => loop.readBytes),
    writtenBytes: sum((loop) => loop.writtenBytes),
  };
}

function rateOf(loop: Loop): number {
  return loop.ops / (loop.nanoseconds / 1e9);
}

function goalOf(
  facts: Pick<MemGoal, "measure" | "drover" | "yardstick" | "goal" | "atMost"> & {
    values: readonly number[];
  },
): MemGoal {
  const { values, ...rest } = facts;
  const value = median(values);
  return {
    ...rest,
    value,
    least: Math.min(...values),
    greatest: Math.max(...values),
    verdict: (facts.atMost ? value <= facts.goal : value >= facts.goal) ? "ok" : "short",
  };
}

function machine(): string {
  const [first] = cpus();
  return `${
    first?.model.trim() ?? "unknown processor"
  }, ${cpus().length} processors, Linux ${Deno.osRelease()}`;
}
