/**
 * `deno task bench fuse`: `drover mount memory:` under fio, beside the same accesses to a file in memory (tmpfs).
 *
 * Goals (operations per second, O_DIRECT, so that each access is a request of FUSE):
 *
 * | what                                     | at least |
 * | ---------------------------------------- | -------- |
 * | 4 KiB random reads, 1 request in flight  | 34 000   |
 *
 * The goal is what a prototype reached that spoke the protocol from TypeScript alone, measured in the same way. The other
 * rows have none: random writes, sixteen requests in flight, and 1 MiB sequentially.
 *
 * Not goals: the page cache, disks, networks. The yardstick tells how much of the machine others took meanwhile: what it
 * makes less than on an idle machine, the mount makes less, too.
 *
 * Method: rounds of all rows; figures are medians.
 *
 * @module
 */
import { parseArgs } from "node:util";
import { commonOptions, numberOf, type Outlets, outlets } from "./options.ts";
import { Background, outputOf, toolExists } from "./process.ts";
import { Scratch } from "./scratch.ts";
import { formatTable, median } from "./table.ts";

const usage = `Usage: deno task bench fuse [OPTION]...

Measures a FUSE file on memory, and prints the goal with what was reached.

Options:
      --size MIB     memory; default: 256
      --rounds N     default: 5
      --seconds N    of each run of fio; default: 3
      --smoke        16 MiB, one round of short runs
      --strict       exit 1 when the goal is missed
      --json         JSON lines on stdout: one per run and per row; the table goes to stderr

DROVER names the executable to measure; default: the program from source.
Needs: apt-get install fio, /dev/fuse, and root or fusermount3 (apt-get install fuse3)`;

const MiB = 2 ** 20;

const rows = {
  "read4k-1": { what: "4 KiB random reads, 1 in flight", fio: ["randread", "4k", "1"], goal: 34_000 },
  "read4k-16": { what: "4 KiB random reads, 16 in flight", fio: ["randread", "4k", "16"], goal: null },
  "write4k-1": { what: "4 KiB random writes, 1 in flight", fio: ["randwrite", "4k", "1"], goal: null },
  "write4k-16": { what: "4 KiB random writes, 16 in flight", fio: ["randwrite", "4k", "16"], goal: null },
  read1m: { what: "1 MiB reads, 4 in flight", fio: ["read", "1m", "4"], goal: null },
  write1m: { what: "1 MiB writes, 4 in flight", fio: ["write", "1m", "4"], goal: null },
} as const;

/** One line of the table. */
export type FuseRow = keyof typeof rows;

/** What to measure. */
export interface FuseBenchOptions extends Outlets {
  /** Bytes. */
  size: number;
  rounds: number;
  seconds: number;
}

/** What was reached. */
export interface FuseResult {
  row: FuseRow;
  /** Operations per second: medians. */
  mount: number;
  yardstick: number;
  goal: number | null;
  verdict: "ok" | "short" | "";
}

/** The command. */
export async function main(args: readonly string[]): Promise<number> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      size: { type: "string" },
      rounds: { type: "string" },
      seconds: { type: "string" },
      ...commonOptions,
    },
  });
  if (values.help) {
    console.log(usage);
    return 0;
  }
  const { smoke } = values;
  const results = await benchFuse({
    size: numberOf(values.size ?? (smoke ? "16" : "256")) * MiB,
    rounds: numberOf(values.rounds ?? (smoke ? "1" : "5")),
    seconds: numberOf(values.seconds ?? (smoke ? "1" : "3")),
    ...outlets(values.json),
  });
  return values.strict && results.some(({ verdict }) => verdict === "short") ? 1 : 0;
}

/** Measures, prints, and gives the rows. */
export async function benchFuse(options: FuseBenchOptions): Promise<FuseResult[]> {
  if (!toolExists("fio")) throw new Error("there is no fio; type: apt-get install fio");
  const { size, rounds, record, say } = options;
  using scratch = new Scratch();
  const memory = Deno.makeTempDirSync({ dir: "/dev/shm", prefix: "drover-bench-" });
  const places = { mount: scratch.at("disk"), yardstick: `${memory}/disk` } as const;
  const executable = Deno.env.get("DROVER");
  const program = executable === undefined
    ? [Deno.execPath(), "run", "--allow-all", new URL("../main.ts", import.meta.url).pathname]
    : [executable];
  const server = new Background([...program, "mount", `memory:${size}`, places.mount], scratch.at("log"), {
    env: { DROVER_HOME: scratch.at("home") },
  });
  try {
    await ready(places.mount, size, scratch.at("log"));
    Deno.writeFileSync(places.yardstick, new Uint8Array(0));
    Deno.truncateSync(places.yardstick, size);
    const found = new Map<FuseRow, Record<keyof typeof places, number[]>>();
    for (let round = 0; round < rounds; round++) {
      for (const row of Object.keys(rows) as FuseRow[]) {
        const values = found.get(row) ?? { mount: [], yardstick: [] };
        found.set(row, values);
        for (const side of ["mount", "yardstick"] as const) {
          const value = measure(row, places[side], scratch.at("fio.json"), options);
          values[side].push(value);
          record({ type: "run", row, side, round, value, load: Deno.loadavg()[0] });
        }
      }
    }
    const results = [...found].map(([row, values]): FuseResult => {
      const { goal } = rows[row];
      const mount = median(values.mount);
      const verdict = goal === null ? "" : mount >= goal ? "ok" : "short";
      return { row, mount, yardstick: median(values.yardstick), goal, verdict };
    });
    say(formatTable(
      ["what", "drover mount, /s", "tmpfs, /s", "goal, /s", ""],
      results.map(({ row, mount, yardstick, goal, verdict }) => [
        rows[row].what,
        mount.toFixed(0),
        yardstick.toFixed(0),
        goal === null ? "" : String(goal),
        verdict,
      ]),
    ));
    say(
      `\n${size / MiB} MiB, ${rounds} rounds; load ${
        Deno.loadavg().map((load) => load.toFixed(1)).join(" ")
      }`,
    );
    for (const result of results) record({ type: "row", ...result });
    return results;
  } finally {
    await server.stop();
    Deno.removeSync(memory, { recursive: true });
  }
}

/** Waits until the file has its size. */
async function ready(path: string, size: number, log: string): Promise<void> {
  for (const deadline = performance.now() + 30_000; performance.now() < deadline;) {
    try {
      if (Deno.statSync(path).size === size) return;
    } catch {
      // Not yet.
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`Cannot mount: ${Deno.readTextFileSync(log).slice(-2000)}`);
}

/** One run. @returns operations per second */
function measure(row: FuseRow, path: string, log: string, { size, seconds }: FuseBenchOptions): number {
  const [rw, bs, depth] = rows[row].fio;
  outputOf([
    "fio",
    "--name=bench",
    `--ioengine=${depth === "1" ? "psync" : "libaio"}`,
    `--filename=${path}`,
    "--direct=1",
    `--rw=${rw}`,
    `--bs=${bs}`,
    `--iodepth=${depth}`,
    `--size=${size}`,
    `--runtime=${seconds}`,
    "--time_based",
    "--randseed=1",
    "--output-format=json",
    `--output=${log}`,
  ]);
  const text = Deno.readTextFileSync(log);
  const [job] = JSON.parse(text.slice(text.indexOf("{\n"))).jobs;
  return (rw.endsWith("read") ? job.read : job.write).iops;
}
