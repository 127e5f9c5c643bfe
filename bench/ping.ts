/**
 * `deno task bench ping`: what the page channel to a donor costs beside bare TCP on the same loopback.
 *
 * Goals:
 *
 * | what                                                                              |          |
 * | --------------------------------------------------------------------------------- | -------- |
 * | touch of one cold 4 KiB page ÷ the same octets between two C programs, blocking   | at most 1.6 |
 * | store_nbd.c reading in order with 4 × 64 KiB in flight ÷ one C program to another | at least 0.7 |
 *
 * Printed without a goal: the store alone, and a region that is read in order with prefetch, which also has to check
 * and map each page.
 *
 * Not goals: networks, several borrowers, RDMA.
 *
 * Method: the server is `drover export memory:`; the client is bench/native/nbd_ping.c on the C sources themselves. Each round
 * measures everything once, one right after the other, and a ratio is of one round; figures are medians of the rounds.
 * Client and server take a core each while they look for each other: on two cores nothing else may run.
 *
 * @module
 */
import { parseArgs } from "node:util";
import { commonOptions, numberOf, type Outlets, outlets } from "./options.ts";
import { Background, freePort, outputOf } from "./process.ts";
import { Scratch } from "./scratch.ts";
import { formatTable, median } from "./table.ts";

const usage = `Usage: deno task bench ping [OPTION]...

Measures pages over loopback TCP from drover export beside bare TCP, and prints each goal with what was reached.

Options:
      --size MIB     memory that is pulled; default: 1024
      --rounds N     default: 7
      --smoke        16 MiB, one round
      --strict       exit 1 when a goal is missed
      --json         JSON lines on stdout: one per round and per goal; the table goes to stderr

DROVER names the executable to measure; default: the program from source.
Needs: apt-get install gcc libc6-dev`;

/** What one round measured: times in nanoseconds, rates in MB/s. */
const figures = ["bare", "store", "fault", "stream", "pull", "region"] as const;
const times: readonly string[] = ["bare", "store", "fault"];
type Round = Record<typeof figures[number], number>;

const rows: readonly {
  what: string;
  ratio: (round: Round) => number;
  goal?: { atMost: number } | { atLeast: number };
}[] = [
  { what: "cold page ÷ bare ping-pong", ratio: ({ fault, bare }) => fault / bare, goal: { atMost: 1.6 } },
  { what: "store alone ÷ bare ping-pong", ratio: ({ store, bare }) => store / bare },
  { what: "pull ÷ bare stream", ratio: ({ pull, stream }) => pull / stream, goal: { atLeast: 0.7 } },
  { what: "region with prefetch ÷ bare stream", ratio: ({ region, stream }) => region / stream },
];

/** What to measure. */
export interface PingBenchOptions extends Outlets {
  /** MiB. */
  size: number;
  rounds: number;
}

/** One ratio and what was wanted. */
export interface PingGoal {
  what: string;
  ratio: number;
  least: number;
  greatest: number;
  verdict: "ok" | "short" | "";
}

/** The command. */
export async function main(args: readonly string[]): Promise<number> {
  const { values } = parseArgs({
    args: [...args],
    options: { size: { type: "string" }, rounds: { type: "string" }, ...commonOptions },
  });
  if (values.help) {
    console.log(usage);
    return 0;
  }
  const goals = await benchPing({
    size: numberOf(values.size ?? (values.smoke ? "16" : "1024")),
    rounds: numberOf(values.rounds ?? (values.smoke ? "1" : "7")),
    ...outlets(values.json),
  });
  return values.strict && goals.some(({ verdict }) => verdict === "short") ? 1 : 0;
}

/** Measures, prints, and gives the goals. */
export async function benchPing({ size, rounds, record, say }: PingBenchOptions): Promise<PingGoal[]> {
  using scratch = new Scratch();
  const program = build(scratch.at("nbd_ping"));
  const port = freePort();
  const server = startServer(port, size, scratch.at("drover.log"));
  try {
    await listening(port);
    const lines = outputOf([program, "127.0.0.1", `${port}`, "", `${size}`, `${rounds}`]).trim().split("\n");
    const found = lines.map((line) => JSON.parse(line) as Round);
    for (const round of found) record({ type: "round", ...round });
    const goals = rows.map((row) => goalOf(row, found));
    const middle = (name: keyof Round): number => median(found.map((round) => round[name]));
    say(formatTable(["bare", "store", "fault", "stream", "pull", "region"], [
      figures.map((name) =>
        times.includes(name) ? `${(middle(name) / 1000).toFixed(1)} us` : `${Math.round(middle(name))} MB/s`
      ),
    ]));
    say(formatTable(
      ["what", "ratio", "range", ""],
      goals.map((goal) => [
        goal.what,
        goal.ratio.toFixed(2),
        `${goal.least.toFixed(2)}-${goal.greatest.toFixed(2)}`,
        goal.verdict,
      ]),
    ));
    say(`\n${size} MiB, ${rounds} rounds; load ${Deno.loadavg().map((load) => load.toFixed(1)).join(" ")}`);
    for (const goal of goals) record({ type: "goal", ...goal });
    return goals;
  } finally {
    await server.stop();
  }
}

function goalOf({ what, ratio, goal }: typeof rows[number], found: readonly Round[]): PingGoal {
  const ratios = found.map(ratio);
  const middle = median(ratios);
  let verdict: PingGoal["verdict"] = "";
  if (goal !== undefined) {
    verdict = ("atMost" in goal ? middle <= goal.atMost : middle >= goal.atLeast) ? "ok" : "short";
  }
  return { what, ratio: middle, least: Math.min(...ratios), greatest: Math.max(...ratios), verdict };
}

/** Compiles the client. @returns its path */
function build(program: string): string {
  const root = new URL("../", import.meta.url).pathname;
  const sources = [
    ...["region", "page", "store_file", "fetch", "evict", "serve", "fault", "range", "harvest"],
    ...["store_nbd", "store_nbd_dial", "store_nbd_wire"],
  ].map((name) => `${root}native-src/${name}.c`);
  outputOf([
    Deno.env.get("CC") ?? "cc",
    ...["-std=gnu11", "-O2", "-Wall", "-Wextra", "-o", program],
    ...[...sources, `${root}bench/native/nbd_ping.c`, "-pthread"],
  ]);
  return program;
}

function startServer(port: number, size: number, log: string): Background {
  const executable = Deno.env.get("DROVER");
  const main = new URL("../main.ts", import.meta.url).pathname;
  const program = executable === undefined ? [Deno.execPath(), "run", "--allow-all", main] : [executable];
  return new Background(
    [...program, "export", `memory:${size}MiB`, "--listen", `127.0.0.1:${port}`],
    log,
  );
}

/** Waits until something listens there. */
async function listening(port: number): Promise<void> {
  const deadline = performance.now() + 30_000;
  for (;;) {
    try {
      (await Deno.connect({ hostname: "127.0.0.1", port })).close();
      return;
    } catch (error) {
      if (!(error instanceof Deno.errors.ConnectionRefused) || performance.now() > deadline) throw error;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }
}
