/**
 * `deno task bench remote`: memory of other hosts beside kernel swap, bare TCP and nbdkit.
 *
 * Goals (1 GiB of which 60 % is resident, 8-byte accesses, over loopback TCP):
 *
 * | what                                                        |                     |
 * | ----------------------------------------------------------- | ------------------- |
 * | uniform reads, 1 thread ÷ kernel swap on SSD                | at least 2.0        |
 * | the same sealed ÷ unsealed                                  | at least 0.85       |
 * | one cold 4 KiB page ÷ a bare ping-pong of the same octets   | at most 1.6         |
 * | 1 GiB read in order with 4 × 64 KiB in flight ÷ bare TCP    | at least 0.7        |
 * | fio, 4 KiB with 16 in flight ÷ nbdkit memory                | at least 0.5        |
 * | fio, 1 MiB with 4 in flight ÷ nbdkit memory                 | at least 0.9        |
 * | a donor's memory beside what it lends                       | at most 3 % + 64 MB |
 *
 * Not goals: real networks, RDMA (tests/vm prints that), several borrowers at once.
 *
 * Method. For the first two, a round starts three processes afresh: plain memory in a control group that makes the kernel
 * swap, and two regions over a donor's memory alone, without a file, one of them sealed; all run the same loop in C. They are
 * filled, read once in order, settle under random reads, and are timed one right after the other, in an order that
 * changes; every access is checked, and every word at the end. The kernel is treated as `bench mem` has it. The donor is
 * `drover serve --donate`. Pages and pulls are those of `bench ping`, fio those of `bench nbd` over TCP: a donor and `drover
 * export` are one server. A ratio is of one round, and what counts is the median of the rounds. Two processors are two
 * programs that look for each other: nothing else may run.
 *
 * @module
 */
import { cpus } from "node:os";
import { parseArgs } from "node:util";
import { borrow, type Borrowed } from "../lib/cluster/mod.ts";
import { NbdClient } from "../lib/nbd/mod.ts";
import { buildNative } from "../native-src/build.ts";
import type { MemGoal } from "./mem.ts";
import { buildWorkload, type Loop, MemProcess } from "./mem_process.ts";
import { benchNbd, missingTools, type NbdRow } from "./nbd.ts";
import { commonOptions, numberOf, type Outlets, outlets, wordsOf } from "./options.ts";
import { benchPing } from "./ping.ts";
import { Background, freePort } from "./process.ts";
import { Scratch } from "./scratch.ts";
import { NoSwapError, SwapGroup } from "./swap.ts";
import { formatTable, median } from "./table.ts";

const usage = `Usage: deno task bench remote [OPTION]...

Measures memory of other hosts, and prints each goal with what was reached.

Options:
      --size MIB       memory; default: 1024
      --rounds N       default: 5
      --seconds N      of each timed loop; default: 4
      --rows LIST      tm,ping,fio,memory; default: all
      --seed N         of the accesses; default: 20261120
      --dir PATH       where the swap file goes; default: a new directory in /var/tmp, removed at the end
      --smoke          64 MiB, one round of short loops
      --strict         exit 1 when a goal is missed
      --json           JSON lines on stdout: one per loop and per goal; the tables go to stderr

DROVER names the executable that donates; default: the program from source.
Needs: apt-get install gcc libc6-dev fio libnbd-bin nbdkit util-linux, and root for the kernel's swapping`;

const MiB = 2 ** 20;

/** Beside the memory that is measured, as in `bench mem`. */
const overheadSize = 12 * MiB;

/** Read-ahead of the kernel while its memory is read once in order: 2^5 pages. */
const warmCluster = 5;

/** Part of a timed loop that is run before it. */
const warmUp = 0.25;

/** Connections and bytes at once that fill a lease. */
const [fillLanes, fillSize] = [4, 256 * 1024];

const rowNames = ["tm", "ping", "fio", "memory"] as const;

/** What can be left out. */
export type RemoteRow = typeof rowNames[number];

/** What to measure. */
export interface RemoteBenchOptions extends Outlets {
  /** Bytes. */
  size: number;
  rounds: number;
  seconds: number;
  rows: readonly RemoteRow[];
  seed: number;
  /** Parent of the scratch directory. */
  dir: string | undefined;
}

/** One goal and what was reached. */
export type RemoteGoal = MemGoal;

/** The command. */
export async function main(args: readonly string[]): Promise<number> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      size: { type: "string" },
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
  const { smoke } = values;
  const goals = await benchRemote({
    size: Math.round(numberOf(values.size ?? (smoke ? "64" : "1024"))) * MiB,
    rounds: numberOf(values.rounds ?? (smoke ? "1" : "5")),
    seconds: numberOf(values.seconds ?? (smoke ? "0.3" : "4")),
    rows: wordsOf(values.rows, rowNames),
    seed: numberOf(values.seed),
    dir: values.dir,
    ...outlets(values.json),
  });
  return values.strict && goals.some(({ verdict }) => verdict === "short") ? 1 : 0;
}

/** Measures, prints, and gives the goals. @throws when a value was wrong */
export async function benchRemote(options: RemoteBenchOptions): Promise<RemoteGoal[]> {
  const { size, rounds, rows, say, record } = options;
  await buildNative({ force: false });
  say(`${size / MiB} MiB, 60 % resident; ${machine()}; ${rounds} rounds; load ${load()}`);
  using scratch = new Scratch(options.dir);
  const goals: RemoteGoal[] = [];
  if (rows.includes("tm")) goals.push(...await new TieredBench(scratch, options).run());
  if (rows.includes("ping")) goals.push(...await pingGoals(options));
  if (rows.includes("fio")) goals.push(...await fioGoals(options));
  if (rows.includes("memory")) goals.push(await memoryGoal(scratch, options));
  say(`\nGoals (load ${load()}):\n`);
  say(formatTable(
    ["measure", "drover", "yardstick", "median", "least", "greatest", "goal", ""],
    goals.map((goal) => [
      goal.measure,
      goal.drover,
      goal.yardstick,
      goal.value.toFixed(2),
      goal.least.toFixed(2),
      goal.greatest.toFixed(2),
      `${goal.atMost ? "≤" : "≥"} ${goal.goal.toFixed(2)}`,
      goal.verdict,
    ]),
  ));
  for (const goal of goals) record({ type: "goal", ...goal });
  return goals;
}

/** `drover serve --donate`. */
class DonorProcess implements AsyncDisposable {
  readonly #process: Background;
  readonly #port: number;

  private constructor(process: Background, port: number) {
    this.#process = process;
    this.#port = port;
  }

  static async open(scratch: Scratch, budget: number): Promise<DonorProcess> {
    const executable = Deno.env.get("DROVER");
    const main = new URL("../main.ts", import.meta.url).pathname;
    const program = executable === undefined ? [Deno.execPath(), "run", "--allow-all", main] : [executable];
    const port = freePort();
    const args = ["serve", "--root", scratch.at("trees"), "--listen", `127.0.0.1:${port}`];
    const process = new Background(
      [...program, ...args, "--donate", String(budget), "--name", "bench"],
      scratch.at("donor.log"),
      { env: { DROVER_HOME: scratch.at("home"), DROVER_KEY: "" } },
    );
    await process.listening("127.0.0.1", port);
    return new DonorProcess(process, port);
  }

  /** One lease. */
  async lend(size: number): Promise<Borrowed> {
    return await borrow({ nodes: [{ host: "127.0.0.1", port: this.#port }], key: null, size, name: "bench" });
  }

  /** Bytes that it has in RAM. */
  get resident(): number {
    const status = Deno.readTextFileSync(`/proc/${this.#process.pid}/status`);
    return Number(/^VmRSS:\s+(\d+) kB/m.exec(status)?.[1] ?? NaN) * 1024;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#process.stop();
  }
}

type Side = "remote" | "sealed" | "swap";

/** `tm` beside the kernel's swapping. */
class TieredBench {
  readonly #scratch: Scratch;
  readonly #options: RemoteBenchOptions;
  readonly #program: string;
  readonly #loops: Record<Side, Loop[]> = { remote: [], sealed: [], swap: [] };

  constructor(scratch: Scratch, options: RemoteBenchOptions) {
    this.#scratch = scratch;
    this.#options = options;
    this.#program = buildWorkload(scratch.path);
  }

  async run(): Promise<RemoteGoal[]> {
    const { rounds, size, say } = this.#options;
    await using donor = await DonorProcess.open(this.#scratch, 2 * size);
    for (let round = 0; round < rounds; round++) {
      await this.#round(donor, round);
      say(`round ${round + 1} of ${rounds} done, load ${load()}`);
    }
    say(`\nAll loops (medians):\n`);
    const sides = (["remote", "sealed", "swap"] as const).filter((side) => this.#loops[side].length > 0);
    say(formatTable(
      ["side", "kops/s", "p50 µs", "p90 µs", "p99 µs", "faults %"],
      sides.map((side) => {
        const middle = (of: (loop: Loop) => number): number => median(this.#loops[side].map(of));
        return [
          side,
          middle((loop) => rateOf(loop) / 1000).toFixed(1),
          middle((loop) => loop.p50 / 1000).toFixed(2),
          middle((loop) => loop.p90 / 1000).toFixed(1),
          middle((loop) => loop.p99 / 1000).toFixed(1),
          middle((loop) => 100 * loop.faults / loop.ops).toFixed(1),
        ];
      }),
    ));
    return this.#goals();
  }

  async #round(donor: DonorProcess, round: number): Promise<void> {
    const { size, seed, seconds, record } = this.#options;
    await using plainRoom = await donor.lend(size);
    await using sealedRoom = await donor.lend(size);
    await using swap = this.#swap(round);
    await using remote = this.#startRegion(plainRoom, false);
    await using sealed = this.#startRegion(sealedRoom, true);
    await using theirs = swap === null ? null : new MemProcess(this.#program, ["plain", String(size)]);
    if (theirs !== null) swap?.enter(theirs.pid);
    const turns: [Side, MemProcess][] = [
      ["remote", remote],
      ["sealed", sealed],
      ...(theirs === null ? [] : [["swap", theirs] satisfies [Side, MemProcess]]),
    ];
    for (const [side, process] of turns) {
      await process.order("fill");
      if (side === "swap") swap?.readAround(warmCluster);
      await process.order("warm");
      if (side === "swap") swap?.readAround(0);
    }
    const what = { pattern: "uniform", writes: 0, threads: 1, hints: 0 } as const;
    const own = (seed + round) * 4;
    // The disk is still busy with what was filled in, and the order of leaving still that of the reading.
    for (const [, process] of turns) await process.loop({ ...what, seconds: 2 * seconds, seed: own });
    for (let turn = 0; turn < turns.length; turn++) {
      const [side, process] = turns[(turn + round) % turns.length] ?? ["remote", remote];
      await process.loop({ ...what, seconds: seconds * warmUp, seed: own + 1 });
      const loop = await process.loop({ ...what, seconds, seed: own + 2 });
      this.#loops[side].push(loop);
      record({ type: "loop", side, round, load: Deno.loadavg()[0], ...loop });
    }
    if (swap !== null && swap.used() > 0.5) {
      throw new Error("Cannot use this run: the swap area was more than half full");
    }
    for (const [, process] of turns) await process.order("verify");
  }

  #startRegion(room: Borrowed, sealed: boolean): MemProcess {
    const { size } = this.#options;
    const [slots] = room.slots;
    if (slots === undefined) throw new Error("Cannot measure: the donor lent nothing");
    const { hostname, port, ticket, size: lent } = slots;
    const limit = limitOf(size);
    const words = ["remote", size, limit, hostname, port, ticket, lent, sealed ? 1 : 0];
    return new MemProcess(this.#program, words.map(String));
  }

  #swap(round: number): SwapGroup | null {
    const { size, say } = this.#options;
    try {
      const limit = limitOf(size) + overheadSize;
      return new SwapGroup({ dir: this.#scratch.path, areaSize: 3 * size, limit });
    } catch (error) {
      if (!(error instanceof NoSwapError)) throw error;
      if (round === 0) say(`kernel swap: ${error.message}`);
      return null;
    }
  }

  #goals(): RemoteGoal[] {
    const { remote, sealed, swap } = this.#loops;
    const compare = (
      measure: string,
      ours: readonly Loop[],
      theirs: readonly Loop[],
      goal: number,
    ): RemoteGoal =>
      goalOf({
        measure,
        drover: kops(ours),
        yardstick: kops(theirs),
        values: ours.map((loop, round) => rateOf(loop) / rateOf(theirs[round] ?? loop)),
        goal,
        atMost: false,
      });
    return [
      ...(swap.length === 0 ? [] : [compare("uniform reads, 1 thread ÷ swap", remote, swap, 2)]),
      compare("sealed ÷ unsealed", sealed, remote, 0.85),
    ];
  }
}

/** A page and a pull, beside bare TCP. */
async function pingGoals({ size, rounds, record }: RemoteBenchOptions): Promise<RemoteGoal[]> {
  const lines: Record<string, unknown>[] = [];
  const keep = (line: Record<string, unknown>): void => {
    lines.push(line);
    if (line["type"] !== "goal") record({ bench: "ping", ...line });
  };
  const found = await benchPing({ size: size / MiB, rounds, record: keep, say: () => {} });
  const middle = (name: string): number =>
    median(lines.filter(({ type }) => type === "round").map((line) => Number(line[name])));
  const micros = (name: string): string => `${(middle(name) / 1000).toFixed(1)} µs`;
  const rate = (name: string): string => `${Math.round(middle(name))} MB/s`;
  const wanted = [
    {
      what: "cold page ÷ bare ping-pong",
      drover: micros("fault"),
      yardstick: micros("bare"),
      goal: 1.6,
      atMost: true,
    },
    { what: "pull ÷ bare stream", drover: rate("pull"), yardstick: rate("stream"), goal: 0.7, atMost: false },
  ];
  return wanted.flatMap(({ what, ...rest }) => {
    const row = found.find((goal) => goal.what === what);
    if (row === undefined) return [];
    const { ratio, least, greatest } = row;
    return [{ measure: what, ...rest, value: ratio, least, greatest, verdict: verdictOf(ratio, rest) }];
  });
}

const fioRows: readonly NbdRow[] = ["read4k-16", "write4k-16", "read1m", "write1m"];

/** The server, beside nbdkit. */
async function fioGoals({ size, rounds, seconds, record, say }: RemoteBenchOptions): Promise<RemoteGoal[]> {
  const missing = missingTools();
  if (missing.length > 0) {
    say(`fio: there is no ${missing.join(", ")}; type: apt-get install fio libnbd-bin nbdkit`);
    return [];
  }
  const found = await benchNbd({
    ...{ size, rounds, seconds, rows: fioRows, tcp: true },
    record: (line) => {
      if (line["type"] !== "goal") record({ bench: "nbd", ...line });
    },
    say: () => {},
  });
  return found.map(({ row, drover, nbdkit, ratio, least, greatest, goal, verdict }) => {
    const unit = row.includes("4k") ? "/s" : " MB/s";
    const show = (value: number): string => `${Math.round(value)}${unit}`;
    return {
      measure: `fio ${row} ÷ nbdkit`,
      drover: show(drover),
      yardstick: show(nbdkit),
      ...{ value: ratio, least, greatest, goal, atMost: false, verdict },
    };
  });
}

/** What a donor takes beside a lease that is full, in MB. */
async function memoryGoal(scratch: Scratch, { size, record }: RemoteBenchOptions): Promise<RemoteGoal> {
  await using donor = await DonorProcess.open(scratch, size);
  const before = donor.resident;
  await using room = await donor.lend(size);
  await Promise.all(Array.from({ length: fillLanes }, (_, lane) => fill(room, lane)));
  const after = donor.resident;
  const beside = (after - before - size) / 1e6;
  record({ type: "memory", before, after, size });
  return goalOf({
    measure: "a donor's memory beside what it lends, MB",
    drover: `${beside.toFixed(1)} MB`,
    yardstick: `${(size / 1e6).toFixed(0)} MB lent`,
    values: [beside],
    goal: 64 + 0.03 * size / 1e6,
    atMost: true,
  });
}

/** Writes every `fillLanes`th part of a lease, over a connection of its own. */
async function fill(room: Borrowed, lane: number): Promise<void> {
  const [slots] = room.slots;
  if (slots === undefined) throw new Error("Cannot measure: the donor lent nothing");
  const { hostname, port, ticket, size } = slots;
  const client = await NbdClient.connect(await Deno.connect({ hostname, port }), { name: ticket });
  const block = new Uint8Array(fillSize);
  for (let at = 0; at < block.length; at += 65_536) crypto.getRandomValues(block.subarray(at, at + 65_536));
  for (let at = lane * fillSize; at < size; at += fillLanes * fillSize) {
    await client.writeAt(at, block.subarray(0, Math.min(fillSize, size - at)));
  }
  await client.close();
}

function limitOf(size: number): number {
  return Math.floor(size * 0.6 / 4096) * 4096;
}

function rateOf(loop: Loop): number {
  return loop.ops / (loop.nanoseconds / 1e9);
}

function kops(loops: readonly Loop[]): string {
  return `${(median(loops.map(rateOf)) / 1000).toFixed(1)} k/s`;
}

function goalOf(
  facts: Pick<RemoteGoal, "measure" | "drover" | "yardstick" | "goal" | "atMost"> & {
    values: readonly number[];
  },
): RemoteGoal {
  const { values, ...rest } = facts;
  const value = median(values);
  const [least, greatest] = [Math.min(...values), Math.max(...values)];
  return { ...rest, value, least, greatest, verdict: verdictOf(value, rest) };
}

function verdictOf(value: number, { goal, atMost }: { goal: number; atMost: boolean }): "ok" | "short" {
  return (atMost ? value <= goal : value >= goal) ? "ok" : "short";
}

function load(): string {
  return Deno.loadavg().map((value) => value.toFixed(1)).join(" ");
}

function machine(): string {
  const [first] = cpus();
  return `${
    first?.model.trim() ?? "unknown processor"
  }, ${cpus().length} processors, Linux ${Deno.osRelease()}`;
}
