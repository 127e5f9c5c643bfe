/**
 * `deno task bench stream`: streams of memory, each figure beside its yardstick.
 *
 * Goals:
 *
 * | what                                                                                    | at least     |
 * | --------------------------------------------------------------------------------------- | ------------ |
 * | `stream write` of a guest into a pipe ÷ `cat` of its memory into the same reader        | 0.6          |
 * | `stream verify` of a file in the page cache ÷ `cat FILE \| wc -c`                        | 0.5          |
 * | one gathered write per batch ÷ a write per field and page, at every size                | 1            |
 * | delta encoding, 10 % of the words changed, SIMD                                         | 10 GB/s or 4 × lz4 |
 * | the same, scalar C                                                                      | 1.5 × lz4    |
 * | peak memory of `stream verify` fed through a pipe                                       | at most 200 MB |
 *
 * Not goals: disks and networks, compressible memory, latency.
 *
 * Method: the memory is random octets in a file of /dev/shm (tmpfs), read once before. Programs are whole processes in a
 * pipeline of `bash`, timed from its start to its end, so `stream` pays for starting its runtime and `cat` for its own; the
 * reader is `cat >/dev/null` on both sides. The two write patterns are one program with two loops, which times itself
 * without its start; the reader is the same. The contenders take turns, and who begins a run changes; figures are medians.
 * Rates are of the memory's octets, not of the stream's. Peak memory is VmHWM of the verifying process, looked at
 * every 20 ms.
 *
 * @module
 */
import { parseArgs } from "node:util";
import { deltaFull, type DeltaOptions, type DeltaRow, deltaRows, deltaSmoke } from "./delta.ts";
import { commonOptions, numberOf, numbersOf, type Outlets, outlets } from "./options.ts";
import { outputOf } from "./process.ts";
import { Random } from "./random.ts";
import { Scratch } from "./scratch.ts";
import { formatTable, median } from "./table.ts";

const usage = `Usage: deno task bench stream [OPTION]...

Measures writing and verifying streams of memory beside cat, and delta encoding beside lz4; prints each goal.

Options:
      --size MB        memory of the guest that is written; default: 8192
      --verify MB      stream that is verified from the page cache; default: 4096
      --patterns LIST  MB of the guests that the two write patterns write; default: 64,512,8192 (at most --size)
      --peak MB        stream of which verifying's peak memory is taken; default: 16384
      --runs N         runs of each, the median counts; default: 5
      --seed N         of the memory; default: 20261120
      --dir PATH       where to work; default: /dev/shm
      --smoke          everything small, one run
      --strict         exit 1 when a goal is missed
      --json           JSON lines on stdout: one per run and per goal; the tables go to stderr

DROVER names the executable to measure; default: the program from source.
`;

/** What to measure; sizes in octets. */
export interface StreamBenchOptions extends Outlets {
  size: number;
  verify: number;
  patterns: readonly number[];
  peak: number;
  runs: number;
  seed: number;
  delta: DeltaOptions;
  /** Parent of the scratch directory. */
  dir: string;
}

/** One goal and what was reached. */
export interface StreamGoal {
  measure: string;
  drover: string;
  yardstick: string;
  /** What is compared with the goal: a ratio, or MB. */
  value: number;
  goal: number;
  verdict: "ok" | "short";
}

const MiB = 1 << 20;

/** The command. */
export async function main(args: readonly string[]): Promise<number> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      size: { type: "string" },
      verify: { type: "string" },
      patterns: { type: "string" },
      peak: { type: "string" },
      runs: { type: "string" },
      seed: { type: "string", default: "20261120" },
      dir: { type: "string", default: "/dev/shm" },
      ...commonOptions,
    },
  });
  if (values.help) {
    console.log(usage);
    return 0;
  }
  const { smoke } = values;
  const goals = await benchStream({
    size: MiB * numberOf(values.size ?? (smoke ? "8" : "8192")),
    verify: MiB * numberOf(values.verify ?? (smoke ? "8" : "4096")),
    patterns: numbersOf(values.patterns ?? (smoke ? "4" : "64,512,8192")).map((size) => MiB * size),
    peak: MiB * numberOf(values.peak ?? (smoke ? "32" : "16384")),
    runs: numberOf(values.runs ?? (smoke ? "1" : "5")),
    seed: numberOf(values.seed),
    delta: smoke ? deltaSmoke : { ...deltaFull, pages: [2048], changed: [0.1] },
    dir: values.dir,
    ...outlets(values.json),
  });
  return values.strict && goals.some(({ verdict }) => verdict === "short") ? 1 : 0;
}

/** Measures, prints, and gives the goals. @throws when a stream is not valid or not what it should be. */
export async function benchStream(options: StreamBenchOptions): Promise<StreamGoal[]> {
  const { say, record } = options;
  using scratch = new Scratch(options.dir);
  const bench = new StreamBench(scratch, options);
  say(`program: ${bench.program}; ${machine()}; load ${load()}; work in ${scratch.path}`);
  say(`seed ${options.seed}, ${options.runs} runs, median`);
  const goals = [
    await bench.write(),
    ...await bench.patterns(),
    await bench.verify(),
    ...deltaGoals(deltaRows(options.delta)),
    await bench.peak(),
  ];
  say("");
  say(formatTable(
    ["measure", "drover", "yardstick", "value", "goal", ""],
    goals.map((row) => [
      row.measure,
      row.drover,
      row.yardstick,
      row.value.toFixed(2),
      row.goal.toFixed(2),
      row.verdict,
    ]),
  ));
  say(`load at the end ${load()}`);
  for (const row of goals) record({ type: "goal", ...row });
  return goals;
}

interface Contender {
  name: string;
  /** Does it once. @returns seconds. */
  run: () => Promise<number>;
}

class StreamBench {
  readonly #scratch: Scratch;
  readonly #options: StreamBenchOptions;
  readonly #command: readonly string[];
  readonly #raw: string;

  constructor(scratch: Scratch, options: StreamBenchOptions) {
    this.#scratch = scratch;
    this.#options = options;
    const executable = Deno.env.get("DROVER");
    const main = new URL("../main.ts", import.meta.url).pathname;
    this.#command = executable === undefined
      ? [Deno.execPath(), "run", "--quiet", "--no-check", "--allow-all", main]
      : [executable];
    this.#raw = scratch.at("guest.raw");
  }

  get program(): string {
    return this.#command.length === 1 ? this.#command[0] ?? "" : "deno run main.ts";
  }

  /** `stream write` beside `cat`. */
  async write(): Promise<StreamGoal> {
    const { size, seed } = this.#options;
    makeMemory(this.#raw, size, seed);
    const [own = NaN, cat = NaN] = await this.#takeTurns(`write ${size / MiB} MiB`, [
      {
        name: "stream write",
        run: () => this.#pipeline(`${this.#drover} stream write - --memory "$1" | ${reader}`),
      },
      { name: "cat", run: () => this.#pipeline(`cat "$1" | ${reader}`) },
    ]);
    return atLeast(
      `write ${size / MiB} MiB into a pipe ÷ cat`,
      rate(size, own),
      rate(size, cat),
      cat / own,
      0.6,
    );
  }

  /** One gathered write per batch beside a write per field and page. */
  async patterns(): Promise<StreamGoal[]> {
    const source = new URL("./stream_source.ts", import.meta.url).pathname;
    const program = `"${Deno.execPath()}" run --quiet --no-check --allow-all "${source}"`;
    const goals: StreamGoal[] = [];
    for (const size of this.#options.patterns) {
      if (size > this.#options.size) continue;
      const contender = (name: string): Contender => ({
        name,
        run: () => this.#selfTimed(`${program} ${name} "$1" ${size} | ${reader}`),
      });
      const [gathered = NaN, single = NaN] = await this.#takeTurns(`patterns ${size / MiB} MiB`, [
        contender("gathered"),
        contender("single"),
      ]);
      goals.push(
        atLeast(
          `gathered writes ÷ single writes, ${size / MiB} MiB`,
          rate(size, gathered),
          rate(size, single),
          single / gathered,
          1,
        ),
      );
    }
    return goals;
  }

  /** `stream verify` beside `cat | wc -c`. Takes the memory's place. */
  async verify(): Promise<StreamGoal> {
    const { verify, size } = this.#options;
    Deno.truncateSync(this.#raw, Math.min(size, verify));
    const stream = this.#scratch.at("guest.stream");
    outputOf([...this.#command, "stream", "write", stream, "--memory", this.#raw]);
    Deno.removeSync(this.#raw);
    const said = JSON.parse(
      outputOf([...this.#command, "stream", "verify", stream, "--json"]).trim().split("\n").at(-1) ?? "",
    );
    const bytes = Deno.statSync(stream).size;
    if (said.valid !== true || said.bytes !== bytes) throw new Error(`Cannot bench: ${JSON.stringify(said)}`);
    const [own = NaN, cat = NaN] = await this.#takeTurns(`verify ${Math.round(bytes / MiB)} MiB`, [
      { name: "stream verify", run: () => this.#pipeline(`${this.#drover} stream verify "$1"`, stream) },
      { name: "cat | wc -c", run: () => this.#pipeline(`cat "$1" | wc -c`, stream) },
    ]);
    Deno.removeSync(stream);
    return atLeast(
      `verify ${Math.round(bytes / MiB)} MiB ÷ cat | wc -c`,
      rate(bytes, own),
      rate(bytes, cat),
      cat / own,
      0.5,
    );
  }

  /** Peak memory of `stream verify -`. */
  async peak(): Promise<StreamGoal> {
    const { peak, seed } = this.#options;
    const source = new URL("./stream_source.ts", import.meta.url).pathname;
    const [program = "", ...args] = this.#command;
    const run = ["run", "--quiet", "--no-check", "--allow-all"];
    const generator = [Deno.execPath(), ...run, source, "generate", String(peak), String(seed)];
    // A named pipe, so that what is between the two is the kernel and not this process.
    const pipe = this.#scratch.at("pipe");
    outputOf(["mkfifo", pipe]);
    const feed = new Deno.Command("bash", {
      args: ["-c", `"$@" >"${pipe}"`, "bash", ...generator],
      stdin: "null",
      stdout: "null",
      stderr: "inherit",
    }).spawn();
    const started = performance.now();
    const child = new Deno.Command(program, {
      args: [...args, "stream", "verify", pipe, "--json"],
      stdin: "null",
      stdout: "piped",
      stderr: "inherit",
    }).spawn();
    let highest = 0;
    const watch = setInterval(() => highest = Math.max(highest, residentPeak(child.pid)), 20);
    try {
      const { stdout, code } = await child.output();
      await feed.status;
      const said = JSON.parse(new TextDecoder().decode(stdout).trim().split("\n").at(-1) ?? "");
      if (code !== 0 || said.bytes < peak) throw new Error(`Cannot bench: ${JSON.stringify(said)}`);
      const seconds = (performance.now() - started) / 1000;
      this.#options.record({ type: "run", what: "peak", bytes: said.bytes, seconds, memoryPeak: highest });
    } finally {
      clearInterval(watch);
    }
    const megabytes = highest / 1e6;
    return {
      measure: `peak memory verifying ${Math.round(peak / MiB)} MiB from a pipe`,
      drover: `${megabytes.toFixed(0)} MB`,
      yardstick: "-",
      value: megabytes,
      goal: 200,
      verdict: highest > 0 && megabytes <= 200 ? "ok" : "short",
    };
  }

  get #drover(): string {
    return this.#command.map((word) => `"${word}"`).join(" ");
  }

  /** All contenders in each run, each first in turn. @returns the medians, in order. */
  async #takeTurns(what: string, contenders: readonly Contender[]): Promise<number[]> {
    const samples = contenders.map((): number[] => []);
    // Once before it counts: caches of the file and of compiled modules.
    for (const { run } of contenders) await run();
    for (let turn = 0; turn < this.#options.runs; turn++) {
      for (let step = 0; step < contenders.length; step++) {
        const index = (turn + step) % contenders.length;
        const contender = contenders[index];
        if (contender === undefined) continue;
        const seconds = await contender.run();
        samples[index]?.push(seconds);
        this.#options.record({ type: "run", what, name: contender.name, run: turn, seconds, load: load() });
      }
    }
    return samples.map(median);
  }

  /** Seconds from the start of a pipeline to its end. */
  async #pipeline(line: string, file = this.#raw): Promise<number> {
    const start = performance.now();
    await this.#bash(line, file);
    return (performance.now() - start) / 1000;
  }

  /** Seconds that the first program of a pipeline says it took. */
  async #selfTimed(line: string): Promise<number> {
    const said: { seconds: number } = JSON.parse(await this.#bash(line, this.#raw));
    return said.seconds;
  }

  async #bash(line: string, file: string): Promise<string> {
    const done = await new Deno.Command("bash", {
      args: ["-c", `set -o pipefail; ${line}`, "bash", file],
      stdin: "null",
      stdout: "null",
      stderr: "piped",
    }).output();
    const text = new TextDecoder().decode(done.stderr);
    if (!done.success) throw new Error(`Cannot run "${line}": ${text}`);
    return text;
  }
}

const reader = "cat >/dev/null";

/** A file of random octets; 64 MiB of them again and again, the first octets of each page its own. */
function makeMemory(path: string, size: number, seed: number): void {
  const block = new Uint8Array(Math.min(size, 64 * MiB));
  new Random(seed, "memory").fill(block);
  const words = new Float64Array(block.buffer);
  using file = Deno.openSync(path, { write: true, create: true, truncate: true });
  for (let offset = 0; offset < size; offset += block.length) {
    for (let at = 0; at < words.length; at += 512) words[at] = offset / 8 + at;
    const part = block.subarray(0, Math.min(block.length, size - offset));
    for (let at = 0; at < part.length;) at += file.writeSync(part.subarray(at));
  }
}

/** The goals of the delta codec: the fastest level of the library, and its scalar one. */
function deltaGoals(rows: readonly DeltaRow[]): StreamGoal[] {
  const region = rows.filter(({ name, changed }) => changed === 0.1 && /^region \S+$/.test(name));
  const lz4 = rows.find(({ name, changed }) => changed === 0.1 && name === "lz4");
  const simd = region.filter(({ name }) => !/scalar|typescript|js/.test(name))
    .sort((left, right) => right.gigabytesPerSecond - left.gigabytesPerSecond)[0];
  const scalar = region.find(({ name }) => name.includes("scalar"));
  const goals: StreamGoal[] = [];
  const speed = (row: DeltaRow | undefined): string =>
    row === undefined ? "-" : `${row.gigabytesPerSecond.toFixed(2)} GB/s`;
  if (simd !== undefined) {
    const times = simd.timesLz4 ?? NaN;
    goals.push({
      measure: `delta, 10 % scattered, ${simd.name} ÷ lz4 (or 10 GB/s)`,
      drover: speed(simd),
      yardstick: speed(lz4),
      value: times,
      goal: 4,
      verdict: times >= 4 || simd.gigabytesPerSecond >= 10 ? "ok" : "short",
    });
  }
  if (scalar !== undefined) {
    const times = scalar.timesLz4 ?? NaN;
    goals.push({
      measure: "delta, 10 % scattered, scalar C ÷ lz4",
      drover: speed(scalar),
      yardstick: speed(lz4),
      value: times,
      goal: 1.5,
      verdict: times >= 1.5 ? "ok" : "short",
    });
  }
  return goals;
}

function atLeast(
  measure: string,
  drover: string,
  yardstick: string,
  value: number,
  goal: number,
): StreamGoal {
  return { measure, drover, yardstick, value, goal, verdict: value >= goal ? "ok" : "short" };
}

function rate(bytes: number, seconds: number): string {
  return `${(bytes / seconds / 1e9).toFixed(2)} GB/s`;
}

/** Largest resident set of a process so far, or 0 when it is gone. */
function residentPeak(pid: number): number {
  try {
    return 1024 * Number(/^VmHWM:\s+(\d+) kB/m.exec(Deno.readTextFileSync(`/proc/${pid}/status`))?.[1] ?? 0);
  } catch {
    return 0;
  }
}

function load(): string {
  return Deno.loadavg()[0]?.toFixed(1) ?? "?";
}

function machine(): string {
  const model = /^model name\s*: (.*)$/m.exec(Deno.readTextFileSync("/proc/cpuinfo"))?.[1] ??
    "unknown processor";
  return `${navigator.hardwareConcurrency} × ${model}, Linux ${Deno.osRelease()}`;
}
