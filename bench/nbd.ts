/**
 * `deno task bench nbd`: `drover export memory:` beside `nbdkit memory`, with the clients that everybody uses.
 *
 * Goals (ratios of operations or bytes per second):
 *
 * | what                                           | at least |
 * | ---------------------------------------------- | -------- |
 * | fio, 4 KiB random reads, 1 request in flight   | 0.5      |
 * | fio, 4 KiB random reads, 16 requests           | 0.5      |
 * | fio, 4 KiB random writes, 16 requests          | 0.5      |
 * | fio, 1 MiB reads, 4 requests                   | 0.9      |
 * | fio, 1 MiB writes, 4 requests                  | 0.9      |
 * | nbdcopy of all of it, from the server          | 0.9      |
 * | nbdcopy of all of it, to the server            | 0.9      |
 *
 * Not goals: networks, disks, many clients.
 *
 * Method: both servers run all the time, each on a unix socket (or TCP on loopback, `--tcp`) and with the same
 * content, which is no zeros. In each round each row is measured on both, one right after the other; who begins
 * changes. A row's ratio is the median of the rounds' ratios, with the least and the greatest; figures are medians.
 * The clients take a core, too: on two cores a server with threads and one without have the same to share.
 *
 * @module
 */
import { parseArgs } from "node:util";
import { commonOptions, numberOf, type Outlets, outlets, wordsOf } from "./options.ts";
import { Background, freePort, outputOf, toolExists } from "./process.ts";
import { Scratch } from "./scratch.ts";
import { formatTable, median } from "./table.ts";

const usage = `Usage: deno task bench nbd [OPTION]...

Measures drover export beside nbdkit, both on memory, and prints each goal with what was reached.

Options:
      --size MIB     memory; default: 4096
      --rounds N     default: 5
      --seconds N    of each run of fio; default: 4
      --rows LIST    read4k-1,read4k-16,write4k-16,read1m,write1m,copy-from,copy-to; default: all
      --tcp          over TCP on loopback instead of unix sockets
      --smoke        64 MiB, one round of short runs
      --strict       exit 1 when a goal is missed
      --json         JSON lines on stdout: one per run and per goal; the table goes to stderr

DROVER names the executable to measure; default: the program from source.
Needs: apt-get install fio libnbd-bin nbdkit`;

const MiB = 2 ** 20;

interface Row {
  what: string;
  goal: number;
  unit: string;
  /** Arguments of fio; null for nbdcopy. */
  fio: readonly string[] | null;
}

const rows = {
  "read4k-1": {
    what: "fio, 4 KiB random reads, 1 in flight",
    goal: 0.5,
    unit: "/s",
    fio: ["randread", "4k", "1"],
  },
  "read4k-16": {
    what: "fio, 4 KiB random reads, 16 in flight",
    goal: 0.5,
    unit: "/s",
    fio: ["randread", "4k", "16"],
  },
  "write4k-16": {
    what: "fio, 4 KiB random writes, 16 in flight",
    goal: 0.5,
    unit: "/s",
    fio: ["randwrite", "4k", "16"],
  },
  "read1m": { what: "fio, 1 MiB reads, 4 in flight", goal: 0.9, unit: "MB/s", fio: ["read", "1m", "4"] },
  "write1m": { what: "fio, 1 MiB writes, 4 in flight", goal: 0.9, unit: "MB/s", fio: ["write", "1m", "4"] },
  "copy-from": { what: "nbdcopy from it", goal: 0.9, unit: "MB/s", fio: null },
  "copy-to": { what: "nbdcopy to it", goal: 0.9, unit: "MB/s", fio: null },
} as const satisfies Record<string, Row>;

/** What can be left out. */
export type NbdRow = keyof typeof rows;

const rowNames = Object.keys(rows) as NbdRow[];

/** What to measure. */
export interface NbdBenchOptions extends Outlets {
  /** Bytes. */
  size: number;
  rounds: number;
  seconds: number;
  rows: readonly NbdRow[];
  tcp: boolean;
}

/** One goal and what was reached. */
export interface NbdGoal {
  row: NbdRow;
  /** Medians. */
  drover: number;
  nbdkit: number;
  /** Median of the rounds' ratios, and their range. */
  ratio: number;
  least: number;
  greatest: number;
  goal: number;
  verdict: "ok" | "short";
}

/** The command. */
export async function main(args: readonly string[]): Promise<number> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      size: { type: "string" },
      rounds: { type: "string" },
      seconds: { type: "string" },
      rows: { type: "string", default: rowNames.join(",") },
      tcp: { type: "boolean", default: false },
      ...commonOptions,
    },
  });
  if (values.help) {
    console.log(usage);
    return 0;
  }
  const { smoke } = values;
  const goals = await benchNbd({
    size: numberOf(values.size ?? (smoke ? "64" : "4096")) * MiB,
    rounds: numberOf(values.rounds ?? (smoke ? "1" : "5")),
    seconds: numberOf(values.seconds ?? (smoke ? "1" : "4")),
    rows: wordsOf(values.rows, rowNames),
    tcp: values.tcp,
    ...outlets(values.json),
  });
  return values.strict && goals.some(({ verdict }) => verdict === "short") ? 1 : 0;
}

/** Tools that are not here, and that the bench needs. */
export function missingTools(): string[] {
  return ["fio", "nbdcopy", "nbdkit"].filter((tool) => !toolExists(tool));
}

type Side = "drover" | "nbdkit";

/** Measures, prints, and gives the goals. */
export async function benchNbd(options: NbdBenchOptions): Promise<NbdGoal[]> {
  const missing = missingTools();
  if (missing.length > 0) {
    throw new Error(`there is no ${missing.join(", ")}; type: apt-get install fio libnbd-bin nbdkit`);
  }
  const { size, rounds, record, say } = options;
  using scratch = new Scratch();
  const servers = startServers(scratch, options);
  const urls: Record<Side, string> = { drover: servers.drover.url, nbdkit: servers.nbdkit.url };
  try {
    for (const side of ["drover", "nbdkit"] as const) {
      await ready(urls[side]);
      // No zeros, which nbdkit would not keep and neither would copy.
      outputOf(["nbdcopy", "--", "[", "nbdkit", "pattern", `${size}`, "]", urls[side]]);
    }
    const found = new Map<NbdRow, Record<Side, number[]>>();
    for (const row of options.rows) found.set(row, { drover: [], nbdkit: [] });
    for (let round = 0; round < rounds; round++) {
      for (const [row, values] of found) {
        const order: Side[] = (round % 2 === 0) ? ["nbdkit", "drover"] : ["drover", "nbdkit"];
        for (const side of order) {
          const value = measure(row, urls[side], scratch, options);
          values[side].push(value);
          record({ type: "run", row, side, round, value, load: Deno.loadavg()[0] });
        }
      }
    }
    const goals = [...found].map(([row, values]) => goalOf(row, values));
    const peaks = [servers.drover, servers.nbdkit].map(({ process }) => Math.round(process.memoryPeak / MiB));
    say(formatTable(
      ["what", "drover", "nbdkit", "ratio", "range", "goal", ""],
      goals.map((goal) => {
        const { what, unit } = rows[goal.row];
        const show = (value: number): string => `${Math.round(value)} ${unit}`;
        return [
          what,
          show(goal.drover),
          show(goal.nbdkit),
          goal.ratio.toFixed(2),
          `${goal.least.toFixed(2)}-${goal.greatest.toFixed(2)}`,
          goal.goal.toFixed(2),
          goal.verdict,
        ];
      }),
    ));
    say(
      `\n${size / MiB} MiB, ${rounds} rounds; peak memory: drover ${peaks[0]} MiB, nbdkit ${peaks[1]} MiB; ` +
        `load ${Deno.loadavg().map((load) => load.toFixed(1)).join(" ")}`,
    );
    for (const goal of goals) record({ type: "goal", ...goal });
    return goals;
  } finally {
    await servers.drover.process.stop();
    await servers.nbdkit.process.stop();
  }
}

function startServers(
  scratch: Scratch,
  { size, tcp }: NbdBenchOptions,
): Record<Side, { url: string; process: Background }> {
  const executable = Deno.env.get("DROVER");
  const main = new URL("../main.ts", import.meta.url).pathname;
  const program = executable === undefined ? [Deno.execPath(), "run", "--allow-all", main] : [executable];
  const place = (side: Side): { url: string; drover: string[]; nbdkit: string[] } => {
    if (tcp) {
      const port = freePort();
      return {
        url: `nbd://127.0.0.1:${port}`,
        drover: ["--listen", `127.0.0.1:${port}`],
        nbdkit: ["--ipaddr", "127.0.0.1", "--port", `${port}`],
      };
    }
    const socket = scratch.at(`${side}.sock`);
    return {
      url: `nbd+unix:///?socket=${socket}`,
      drover: ["--listen", `unix:${socket}`],
      nbdkit: ["--unix", socket],
    };
  };
  const [ours, theirs] = [place("drover"), place("nbdkit")];
  return {
    drover: {
      url: ours.url,
      process: new Background(
        [...program, "export", `memory:${size}`, ...ours.drover],
        scratch.at("drover.log"),
      ),
    },
    nbdkit: {
      url: theirs.url,
      process: new Background(
        // malloc is a flat array, as ours is; the default is made for sparse disks, and slower.
        ["nbdkit", "-f", ...theirs.nbdkit, "memory", `${size}`, "allocator=malloc"],
        scratch.at("nbdkit.log"),
      ),
    },
  };
}

/** Waits until a server answers. */
async function ready(url: string): Promise<void> {
  const deadline = performance.now() + 30_000;
  for (;;) {
    try {
      outputOf(["nbdinfo", "--size", url]);
      return;
    } catch (error) {
      if (performance.now() > deadline) throw error;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }
}

/** One run. @returns operations or MB per second */
function measure(name: NbdRow, url: string, scratch: Scratch, { size, seconds }: NbdBenchOptions): number {
  const { fio } = rows[name];
  if (fio === null) {
    const start = performance.now();
    if (name === "copy-from") outputOf(["nbdcopy", url, "null:"]);
    else outputOf(["nbdcopy", "--", "[", "nbdkit", "pattern", `${size}`, "]", url]);
    return size / 1e6 / ((performance.now() - start) / 1000);
  }
  const [rw = "", bs = "", depth = ""] = fio;
  const log = scratch.at("fio.json");
  outputOf([
    "fio",
    "--name=bench",
    "--ioengine=nbd",
    `--uri=${url}`,
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
  const side = rw.endsWith("read") ? job.read : job.write;
  return bs === "4k" ? side.iops : side.bw_bytes / 1e6;
}

function goalOf(row: NbdRow, { drover, nbdkit }: Record<Side, number[]>): NbdGoal {
  const ratios = drover.map((value, at) => value / (nbdkit[at] ?? NaN));
  const { goal } = rows[row];
  const ratio = median(ratios);
  return {
    row,
    drover: median(drover),
    nbdkit: median(nbdkit),
    ratio,
    least: Math.min(...ratios),
    greatest: Math.max(...ratios),
    goal,
    verdict: ratio >= goal ? "ok" : "short",
  };
}
