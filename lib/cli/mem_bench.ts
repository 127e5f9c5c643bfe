/** `drover mem bench`: how fast memory is when all of it is in RAM, and when a part of it is on SSD. */
import type { Command } from "commander";
import { Argument, Option } from "commander";
import { DroverError } from "../base/errors.ts";
import { formatSize } from "../base/size.ts";
import { formatBytes, formatTable } from "./format.ts";
import { pageCount, shareArgument, sizeArgument, usageOf } from "./mem_options.ts";
import type { RunCommand } from "./registry.ts";
import { countArgument } from "./session.ts";
import type { Terminal } from "./terminal.ts";

export const usage = `Usage: drover mem bench local|ssd [OPTION]...

Touches 8-byte words of a region at random, in C, times every access and checks every value.
"local" has all of it in RAM, "ssd" 60 % and the rest in a file. The first round through the memory is not timed.

Options:
      --size SIZE         of the region; default: 1GiB
      --limit SIZE        RAM that it may take; default: all of it with local, 60 % with ssd
      --threads N         that touch at the same time; default: 1
      --writes N          percent of the accesses that write; default: 0
      --pattern uniform|zipf|scan  which pages: all alike, Zipf 0.99, or in order; default: uniform
      --hints N           announce the next N accesses (0 to 64), so that their pages come together; default: 0
      --faults inline|thread  who fetches: the thread that touches, or one of the region; default: inline
      --seconds N         that are timed; default: 10
      --seed N            of the accesses; default: 1
      --ssd PATH          a directory, or a new file or block device, for the cold part; default: /var/tmp
      --verify            compare every word at the end
      --json              one object {"opsPerSecond", "p50Us", "p90Us", "p99Us", "faults", "resident", "readBytes",
                          "writtenBytes", "ops", "seconds", "size", "limit", "threads", "writes", "pattern",
                          "hints"}
  -h, --help              this text

Example:
  $ drover mem bench ssd --size 1GiB --hints 16 --seconds 5
  1GiB, 614MiB in RAM, uniform, 1 thread
  accesses    116 000 per second
  latency     0.4 us p50, 0.7 us p90, 0.9 us p99
  ...
`;

interface Options {
  size: number;
  limit?: number;
  threads: number;
  writes: number;
  pattern: "uniform" | "zipf" | "scan";
  hints: number;
  faults: "inline" | "thread";
  seconds: number;
  seed: number;
  ssd: string;
  verify?: boolean;
}

const pageSize = 4096;
const hintsMax = 64;
const threadsMax = 64;
const secondsMax = 86_400;

export function define(command: Command, run: RunCommand): void {
  command
    .addArgument(new Argument("<where>").choices(["local", "ssd"]))
    .option("--size <size>", "", sizeArgument("--size"), 2 ** 30)
    .option("--limit <size>", "", sizeArgument("--limit"))
    .option("--threads <n>", "", boundedArgument("--threads", threadsMax), 1)
    .option("--writes <n>", "", shareArgument("--writes"), 0)
    .addOption(new Option("--pattern <p>").choices(["uniform", "zipf", "scan"]).default("uniform"))
    .option("--hints <n>", "", hintsArgument, 0)
    .addOption(new Option("--faults <mode>").choices(["inline", "thread"]).default("inline"))
    .option("--seconds <n>", "", secondsArgument, 10)
    .option("--seed <n>", "", countArgument("--seed"), 1)
    .option("--ssd <path>", "", "/var/tmp")
    .option("--verify")
    .action((where: "local" | "ssd", options: Options) => run((terminal) => bench(terminal, where, options)));
}

async function bench(terminal: Terminal, where: "local" | "ssd", options: Options): Promise<void> {
  const { size, threads, writes, pattern, hints, faults, seconds, seed, ssd } = options;
  const share = where === "local" ? 1 : 0.6;
  const limit = options.limit ?? Math.floor((size * share) / pageSize) * pageSize;
  const [{ loadNative }, { openRegion }] = await Promise.all([
    import("../daemon/context.ts"),
    import("../region/open.ts"),
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
  const versions = new Uint8Array(size / 512);
  await region.benchFill(versions);
  const common = { writes: 0, threads: 1, hints: hintsMax, seed };
  await region.benchTouch(
    { ...common, pattern: "scan", seconds: secondsMax, ops: pageCount(size) },
    versions,
  );
  const before = region.stats();
  const result = await region.benchTouch({ pattern, writes, threads, hints, seconds, seed }, versions);
  const after = region.stats();
  const wrong = result.wrong + (options.verify === true ? await region.benchVerify(versions) : 0);
  if (wrong > 0) {
    throw new DroverError(
      "corrupt",
      `Cannot trust the region: ${wrong} words were not what had been written`,
      {
        details: { wrong, offset: result.wrongOffset },
      },
    );
  }
  const answer = {
    opsPerSecond: result.ops / (result.nanos / 1e9),
    p50Us: result.p50 / 1000,
    p90Us: result.p90 / 1000,
    p99Us: result.p99 / 1000,
    faults: after.faults - before.faults,
    resident: after.residentPages * pageSize,
    readBytes: after.readBytes - before.readBytes,
    writtenBytes: after.writtenBytes - before.writtenBytes,
    ops: result.ops,
    seconds: result.nanos / 1e9,
    size,
    limit,
    threads,
    writes,
    pattern,
    hints,
  };
  terminal.line(
    `${formatSize(size)}, ${limit < size ? `${formatBytes(limit)} in RAM` : "all in RAM"}, ${pattern}, ` +
      `${threads} ${threads === 1 ? "thread" : "threads"}`,
  );
  const rows = [
    ["accesses", `${Math.round(answer.opsPerSecond)} per second`],
    [
      "latency",
      `${answer.p50Us.toFixed(1)} us p50, ${answer.p90Us.toFixed(1)} us p90, ${
        answer.p99Us.toFixed(1)
      } us p99`,
    ],
    ["faults", `${answer.faults}, ${((100 * answer.faults) / answer.ops).toFixed(1)} % of the accesses`],
    ["resident", formatBytes(answer.resident)],
    ["read", formatBytes(answer.readBytes)],
    ["written", formatBytes(answer.writtenBytes)],
  ];
  for (const line of formatTable(rows)) terminal.line(line);
  terminal.object(answer);
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
