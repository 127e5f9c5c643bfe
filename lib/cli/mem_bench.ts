/** `drover mem bench`: how fast memory is, in RAM, partly on SSD, partly in other hosts' memory, and on its way back. */
import type { Command } from "commander";
import { Argument, Option } from "commander";
import { DroverError } from "../base/errors.ts";
import { logLevels } from "../base/log.ts";
import { formatSize } from "../base/size.ts";
import type { MemAnswer, MemLoop } from "../daemon/mem_measure.ts";
import type { PullAnswer } from "../daemon/mem_pull.ts";
import type { RemoteChoice, RemoteStatus } from "../daemon/mem_remote.ts";
import { formatBytes, formatTable } from "./format.ts";
import { shareArgument, sizeArgument, usageOf, usageOfWork } from "./mem_options.ts";
import { noFile, type RemoteWords } from "./mem_remote.ts";
import type { RunCommand } from "./registry.ts";
import { countArgument } from "./session.ts";
import type { Terminal } from "./terminal.ts";

export const usage = `Usage: drover mem bench local|ssd|remote|pull|all [OPTION]...

Touches 8-byte words of a region at random, in C, times every access and checks every value.
  local   all of it is in RAM
  ssd     60 % is, and the rest in a file
  remote  60 % is, and the rest in the memory of donors (drover serve --donate)
  pull    all of it is at one donor, and is pulled back in order while threads touch it; the latencies are those of
          faults, and it ends when every page is back
  all     the four, in one table
The first round through the memory is not timed.

Options:
      --size SIZE         of the region; default: 1GiB
      --limit SIZE        RAM that it may take; default: all of it with local, 60 % with ssd and remote
      --threads N         that touch at the same time; default: 1
      --writes N          percent of the accesses that write; default: 0
      --pattern uniform|zipf|scan  which pages: all alike, Zipf 0.99, or in order; default: uniform
      --hints N           announce the next N accesses (0 to 64), so that their pages come together; default: 0
      --faults inline|thread  who fetches: the thread that touches, or one of the region; default: inline
      --seconds N         that are timed; default: 10
      --seed N            of the accesses; default: 1
      --ssd PATH          a directory, or a new file or block device, for the cold part; default: /var/tmp. Remote pages
                          are written there too, unless it is "none", which is the default with --copies 2
      --verify            compare every word at the end
      --donor ADDR...     HOST:PORT of the donors; default: the peers of --config
      --from ADDR         HOST:PORT of the donor of a pull; default: the first of --donor
      --key FILE          the cluster's key; default: that of --config, else the file that DROVER_KEY names
      --config FILE       a drover.json: its peers, key, copies, sealed, t1, t2 and log count where no option says
                          otherwise; with t2, pages go to SSD first, and to donors when not touched for so long
      --copies N          donors that hold each page: 1 or 2; default: 1
      --sealed yes|no|auto  encrypt pages before they leave; default: auto, for donors that are not on loopback
      --transport tcp|rdma  how pages travel; rdma only where a donor has it; default: tcp
      --log-level error|warn|info|debug
                          events of donors that are lines on stderr: these and graver ones; default: warn
      --json              one object {"opsPerSecond", "p50Us", "p90Us", "p99Us", "faults", "resident", "readBytes",
                          "writtenBytes", "ops", "seconds", "size", "limit", "threads", "writes", "pattern",
                          "hints"}; with remote also {"donors", "copies", "sealed", "transport", "thin", "stores"};
                          with pull {"bytesPerSecond", "p50Us", "p90Us", "p99Us", "faults", "prefetched",
                          "evictedBytes", "readBytes", "opsPerSecond", …}; with all one per test, each with
                          {"test"}, and {"tests"} at the end
  -h, --help              this text

Example:
  $ drover mem bench ssd --size 1GiB --hints 16 --seconds 5
  1GiB, 614MiB in RAM, uniform, 1 thread
  accesses    116 000 per second
  latency     0.4 us p50, 0.7 us p90, 0.9 us p99
  ...
`;

const tests = ["local", "ssd", "remote", "pull"] as const;

type Test = typeof tests[number];

interface Options extends RemoteWords {
  size: number;
  limit?: number;
  threads: number;
  writes: number;
  pattern: "uniform" | "zipf" | "scan";
  hints: number;
  faults: "inline" | "thread";
  seconds: number;
  seed: number;
  verify?: boolean;
}

/** What one test found, with how its region was. */
type Found =
  | { test: "local" | "ssd"; answer: MemAnswer }
  | { test: "remote"; answer: MemAnswer & RemoteStatus }
  | { test: "pull"; answer: PullAnswer & { donors: number; sealed: boolean; transport: string } };

const pageSize = 4096;
const hintsMax = 64;
const threadsMax = 64;
const secondsMax = 86_400;

export function define(command: Command, run: RunCommand): void {
  command
    .addArgument(new Argument("<where>").choices([...tests, "all"]))
    .option("--size <size>", "", sizeArgument("--size"), 2 ** 30)
    .option("--limit <size>", "", sizeArgument("--limit"))
    .option("--threads <n>", "", boundedArgument("--threads", threadsMax), 1)
    .option("--writes <n>", "", shareArgument("--writes"), 0)
    .addOption(new Option("--pattern <p>").choices(["uniform", "zipf", "scan"]).default("uniform"))
    .option("--hints <n>", "", hintsArgument, 0)
    .addOption(new Option("--faults <mode>").choices(["inline", "thread"]).default("inline"))
    .option("--seconds <n>", "", secondsArgument, 10)
    .option("--seed <n>", "", countArgument("--seed"), 1)
    .option("--ssd <path>")
    .option("--verify")
    .option("--donor <addr...>")
    .option("--from <addr>")
    .option("--key <file>")
    .option("--config <file>")
    .option("--copies <n>", "", boundedArgument("--copies", 2))
    .addOption(new Option("--sealed <how>").choices(["yes", "no", "auto"]))
    .addOption(new Option("--transport <how>").choices(["tcp", "rdma"]).default("tcp"))
    .addOption(new Option("--log-level <level>").choices([...logLevels]))
    .action((where: Test | "all", options: Options) =>
      run((terminal) => where === "all" ? benchAll(terminal, options) : benchOne(terminal, where, options))
    );
}

async function benchOne(terminal: Terminal, test: Test, options: Options): Promise<void> {
  const isRemote = test === "remote" || test === "pull";
  for (const word of ["donor", "from", "key", "config", "copies", "sealed", "logLevel"] as const) {
    if (!isRemote && options[word] !== undefined) {
      throw new DroverError(
        "usage",
        `Cannot use --${word === "logLevel" ? "log-level" : word} with ${test}: no donor is asked`,
      );
    }
  }
  if (test === "ssd" && options.ssd === noFile) {
    throw new DroverError("usage", `Cannot use "${noFile}" for --ssd: that is what is measured`);
  }
  const found = await measure(terminal, test, options);
  for (const line of describe(found)) terminal.line(line);
  terminal.object(found.answer);
}

/** The four tests, one after the other, and their table. */
async function benchAll(terminal: Terminal, options: Options): Promise<void> {
  const all: Found[] = [];
  for (const test of tests) {
    terminal.note(`measuring ${test}`);
    // What is all in RAM has no other limit.
    const { limit, ...rest } = options;
    const found = await measure(
      terminal,
      test,
      test === "local" || limit === undefined ? rest : { ...rest, limit },
    );
    terminal.object({ test, ...found.answer });
    all.push(found);
  }
  const head = ["test", "accesses", "p50", "p90", "p99", "faults", "read", "in"];
  for (const line of formatTable([head, ...all.map(cells)], [1, 2, 3, 4, 5, 6, 7])) terminal.line(line);
  terminal.line("latencies are of all accesses, with pull of the faults");
  terminal.object({ tests: all.length });
}

async function measure(terminal: Terminal, test: Test, options: Options): Promise<Found> {
  if (test === "local" || test === "ssd") return { test, answer: await measureHere(test, options) };
  const [{ remoteChoice }, { withRemoteRegion }, { measureRegion }, { measurePull }] = await Promise.all([
    import("./mem_remote.ts"),
    import("../daemon/mem_remote.ts"),
    import("../daemon/mem_measure.ts"),
    import("../daemon/mem_pull.ts"),
  ]);
  const { size, faults } = options;
  const choice = await remoteChoice(terminal, test === "pull" ? wordsOfPull(options) : options);
  const filled = (): void => choice.log("info", "bench.filled", { test, size });
  if (test === "remote") {
    const limit = limitOf(options, 0.6);
    const answer = await usageOfWork(() =>
      withRemoteRegion(choice, { size, limit, faults }, async (region, status) => {
        const measured = await measureRegion(region, loopOf(options), filled);
        return { ...measured, ...await status() };
      })
    );
    return { test, answer };
  }
  const alone: RemoteChoice = {
    ...choice,
    donors: choice.donors.slice(0, 1),
    t1Ms: undefined,
    t2Ms: undefined,
  };
  const answer = await usageOfWork(() =>
    withRemoteRegion(alone, { size, limit: size, faults }, async (region, status) => {
      const measured = await measurePull(region, options, filled);
      const { donors, sealed, transport } = await status();
      return { ...measured, donors, sealed, transport };
    })
  );
  return { test, answer };
}

/** The one donor of a pull, and no file: what is measured is the way back from there. */
function wordsOfPull(options: Options): RemoteWords {
  const { from } = options;
  return { ...options, copies: 1, ssd: noFile, ...(from === undefined ? {} : { donor: [from] }) };
}

async function measureHere(test: "local" | "ssd", options: Options): Promise<MemAnswer> {
  const { size, faults } = options;
  // That it should have none is said to another test.
  const ssd = options.ssd === undefined || options.ssd === noFile ? "/var/tmp" : options.ssd;
  const limit = limitOf(options, test === "local" ? 1 : 0.6);
  const [{ loadNative }, { openRegion }, { measureRegion }] = await Promise.all([
    import("../daemon/context.ts"),
    import("../region/open.ts"),
    import("../daemon/mem_measure.ts"),
  ]);
  using region = usageOf(() =>
    openRegion(loadNative(), {
      size,
      limit,
      faults,
      ssd: { path: ssd, prewrite: limit < size },
      policy: false,
    })
  );
  return await measureRegion(region, loopOf(options));
}

function limitOf({ size, limit }: Options, share: number): number {
  return limit ?? Math.floor((size * share) / pageSize) * pageSize;
}

function loopOf(options: Options): MemLoop {
  const { pattern, writes, threads, hints, seconds, seed, verify } = options;
  return { pattern, writes, threads, hints, seconds, seed, verify: verify === true };
}

/** The answer of one test for people. */
function describe(found: Found): string[] {
  const { test, answer } = found;
  const { size, pattern, threads, p50Us, p90Us, p99Us } = answer;
  const who = `${pattern}, ${threads} ${threads === 1 ? "thread" : "threads"}`;
  const latency = [`${p50Us.toFixed(1)} us p50`, `${p90Us.toFixed(1)} us p90`, `${p99Us.toFixed(1)} us p99`]
    .join(", ");
  if (test === "pull") {
    const { bytesPerSecond, faults, prefetched, readBytes, seconds, evictedBytes } = answer;
    return [
      `${formatSize(size)}, all at the donor${sealedWord(answer)}, ${who}`,
      ...formatTable([
        ["pulled", `${formatBytes(evictedBytes)} in ${seconds.toFixed(2)} s, ${formatBytes(readBytes)} read`],
        ["throughput", `${formatBytes(bytesPerSecond)} per second`],
        ["faults", `${faults} answered, ${prefetched} pages came before they were touched`],
        ["latency", `${latency} of a fault`],
      ]),
    ];
  }
  const { limit, opsPerSecond, faults, ops, resident, readBytes, writtenBytes } = answer;
  const where = test !== "remote"
    ? ""
    : `, the rest at ${answer.donors} ${answer.donors === 1 ? "donor" : "donors"}${sealedWord(answer)}`;
  const lines = [
    `${formatSize(size)}, ${limit < size ? `${formatBytes(limit)} in RAM` : "all in RAM"}${where}, ${who}`,
    ...formatTable([
      ["accesses", `${Math.round(opsPerSecond)} per second`],
      ["latency", latency],
      ["faults", `${faults}, ${((100 * faults) / ops).toFixed(1)} % of the accesses`],
      ["resident", formatBytes(resident)],
      ["read", formatBytes(readBytes)],
      ["written", formatBytes(writtenBytes)],
    ]),
  ];
  if (test === "remote") lines.push(...readFrom(answer));
  if (test === "remote" && answer.thin > 0) lines.push(`${answer.thin} pages have too few copies`);
  return lines;
}

/** Where pages were read: with a file beside the donors, whichever answers faster. */
function readFrom({ stores }: RemoteStatus): string[] {
  const file = stores.find(({ kind }) => kind === "file");
  if (file === undefined) return [];
  const reads = stores.reduce((sum, store) => sum + store.reads, 0);
  const share = (100 * (reads - file.reads)) / Math.max(1, reads);
  return [
    `${
      share.toFixed(1)
    } % of the pages that were read came from donors, the others from their copies in the file`,
  ];
}

function sealedWord({ sealed }: { sealed: boolean }): string {
  return sealed ? ", sealed" : "";
}

/** A row of the table of all tests. */
function cells({ test, answer }: Found): string[] {
  const { opsPerSecond, p50Us, p90Us, p99Us, faults, readBytes, seconds } = answer;
  return [
    test,
    `${Math.round(opsPerSecond)}/s`,
    ...[p50Us, p90Us, p99Us].map((value) => `${value.toFixed(1)} us`),
    String(faults),
    formatBytes(readBytes),
    `${seconds.toFixed(2)} s`,
  ];
}

function boundedArgument(name: string, most: number): (text: string) => number {
  const read = countArgument(name);
  return (text) => {
    const value = read(text);
    if (value > most) {
      throw new DroverError("usage", `Cannot use "${text}" for ${name}: it should be at most ${most}`);
    }
    return value;
  };
}

function hintsArgument(text: string): number {
  return text === "0" ? 0 : boundedArgument("--hints", hintsMax)(text);
}

function secondsArgument(text: string): number {
  const value = /^[0-9]{1,5}(\.[0-9]{1,3})?$/.test(text) ? Number(text) : 0;
  if (!(value > 0 && value <= secondsMax)) {
    throw new DroverError(
      "usage",
      `Cannot use "${text}" for --seconds: it should be above 0, at most ${secondsMax}`,
    );
  }
  return value;
}
