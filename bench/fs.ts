/**
 * `deno task bench fs`: one hop of a changed tree, beside rsync in the same run.
 *
 * Goals, as ratios of medians (the wall of drover is push's own `seconds`, capture to applied):
 *
 * | what                                                                    | at most                 |
 * | ----------------------------------------------------------------------- | ----------------------- |
 * | bytes ÷ `rsync -aHAX`                                                   | 0.40                    |
 * | bytes ÷ `rsync -aHAX -z --zc=zstd`                                      | 0.75                    |
 * | bytes ÷ full tar                                                        | 1/60 at 10 %, 1/15 above |
 * | wall ÷ `rsync -aHAX --fsync`, loopback (both flush what they wrote)     | 1.2                     |
 * | wall ÷ `rsync -aHAX -z --zc=zstd`, 100 Mbit/s                           | 0.85                    |
 * | peak memory of either side                                              | 400 MB                  |
 *
 * Not goals: the first push of a tree, a cold page cache, many small hops, trees on other file systems.
 *
 * Method: one tree v0 and one changed tree v1 per size and share, from the seed. For every run and method the target
 * is put back to v0, disks are settled, and the transfer is timed; methods take turns within a run. rsync
 * runs as client and daemon over TCP, unencrypted; drover as `push` and `serve`, encrypted. rsync also runs without
 * `--fsync`, for honesty. After every transfer of drover, and the first of each kind of rsync, the target is compared
 * with the source by digest and by rsync; a difference ends the bench. The page cache is warm for both.
 *
 * @module
 */
import { parseArgs } from "node:util";
import { compareTrees, digestTree } from "./digest.ts";
import { captureName, Drover, type Push } from "./driver.ts";
import { type Link, loopback, shaped } from "./link.ts";
import { commonOptions, numberOf, numbersOf, type Outlets, outlets, wordsOf } from "./options.ts";
import { outputOf, toolExists } from "./process.ts";
import { RsyncDaemon, rsyncHasFsync, type RsyncMode, rsyncName, rsyncVersion } from "./rsync.ts";
import { isRoot, Scratch, settle } from "./scratch.ts";
import { formatTable, median, megabytes, seconds } from "./table.ts";
import { generateTree, mutateTree } from "./workload.ts";

const usage = `Usage: deno task bench fs [OPTION]...

Measures one hop of a changed tree against rsync and prints each goal with what was reached.

Options:
      --sizes LIST     MB of the trees; default: 200,1000
      --percents LIST  share of the files that change; default: 10,40
      --runs N         runs per method, the median counts; default: 5
      --seed N         of the trees and changes; default: 20261120
      --rate MBIT      of the shaped link; default: 100
      --only LIST      links to measure: loopback,shaped; default: both
      --extras         the change also renames files and changes modes
      --dir PATH       where to work; default: a new directory in /var/tmp, removed at the end
      --smoke          one small tree, one run of each
      --strict         exit 1 when a goal is missed
      --json           JSON lines on stdout: one per run and per goal; the tables go to stderr

DROVER names the executable to measure; default: the program from source.
`;

/** What to measure. */
export interface FsBenchOptions extends Outlets {
  sizes: readonly number[];
  percents: readonly number[];
  runs: number;
  seed: number;
  rate: number;
  links: readonly ("loopback" | "shaped")[];
  extras: boolean;
  /** Parent of the scratch directory. */
  dir: string | undefined;
}

/** One goal and what was reached. */
export interface GoalRow {
  tree: string;
  link: string;
  measure: string;
  drover: string;
  yardstick: string;
  ratio: number;
  goal: number;
  verdict: "ok" | "short";
}

/** The command. */
export async function main(args: readonly string[]): Promise<number> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      sizes: { type: "string" },
      percents: { type: "string" },
      runs: { type: "string" },
      seed: { type: "string", default: "20261120" },
      rate: { type: "string", default: "100" },
      only: { type: "string", default: "loopback,shaped" },
      extras: { type: "boolean", default: false },
      dir: { type: "string" },
      ...commonOptions,
    },
  });
  if (values.help) {
    console.log(usage);
    return 0;
  }
  const links = wordsOf(values.only, ["loopback", "shaped"]);
  const rows = await benchFs({
    sizes: numbersOf(values.sizes ?? (values.smoke ? "4" : "200,1000")),
    percents: numbersOf(values.percents ?? (values.smoke ? "10" : "10,40")),
    runs: numberOf(values.runs ?? (values.smoke ? "1" : "5")),
    seed: numberOf(values.seed),
    rate: numberOf(values.rate),
    links,
    extras: values.extras,
    dir: values.dir,
    ...outlets(values.json),
  });
  return values.strict && rows.some((row) => row.verdict === "short") ? 1 : 0;
}

/** Measures, prints, and gives the goals' rows. @throws when a target differs from its source. */
export async function benchFs(options: FsBenchOptions): Promise<GoalRow[]> {
  const { say, record } = options;
  using scratch = new Scratch(options.dir);
  const drover = await Drover.prepare(scratch.path);
  say(`program: ${drover.name}, capture ${captureName()}; rsync ${rsyncVersion()}; ${machine()}`);
  say(`seed ${options.seed}, ${options.runs} runs, median; work in ${scratch.path}`);
  const rows: GoalRow[] = [];
  const details: string[][] = [];
  for (const size of options.sizes) {
    const v0 = scratch.at("v0");
    scratch.clear("v0");
    const start = performance.now();
    const tree = generateTree(v0, { bytes: size * 1e6, seed: options.seed, absoluteLinks: isRoot() });
    say(`\n${size} MB: ${tree.files} files, ${tree.directories} directories, made in ${since(start)} s`);
    for (const percent of options.percents) {
      const change = { percent, seed: options.seed + percent, extras: options.extras };
      const v1 = scratch.copy(v0, "v1");
      const done = mutateTree(v1, change);
      const hash = digestTree(v1).hash;
      const tarBytes = tarSize(v1);
      const name = `${size} MB, ${percent} %`;
      say(
        `${name}: ${done.created} created, ${done.deleted} deleted, ${done.modified} modified; ` +
          `full tar ${megabytes(tarBytes)} MB; tree ${hash}`,
      );
      record({ type: "tree", size, percent, hash, tarBytes, ...done });
      for (const kind of options.links) {
        const link = kind === "loopback" ? loopback() : shaped(options.rate);
        try {
          const hop = new Hop({ scratch, drover, link, v0, v1, change, hash, name, options });
          await hop.measure();
          rows.push(...hop.goals({ tarBytes, percent }));
          details.push(...hop.details());
        } finally {
          link.close();
        }
      }
    }
  }
  say(`\nAll transfers (medians):\n`);
  const head = [
    "tree",
    "link",
    "method",
    "MB",
    "seconds",
    "process s",
    "source MB",
    "target MB",
    "wire MB",
    "runs",
  ];
  say(formatTable(head, details));
  say(`\nGoals:\n`);
  say(formatTable(
    ["tree", "link", "measure", "drover", "yardstick", "ratio", "goal", ""],
    rows.map((row) => [
      row.tree,
      row.link,
      row.measure,
      row.drover,
      row.yardstick,
      row.ratio.toFixed(3),
      row.goal.toFixed(row.goal < 0.1 ? 4 : 2),
      row.verdict,
    ]),
  ));
  for (const row of rows) record({ type: "goal", ...row });
  return rows;
}

/** One transfer as the tables show it. */
interface Sample {
  bytes: number;
  seconds: number;
  processSeconds: number;
  sourceMemory: number;
  targetMemory: number;
  wireBytes: number | null;
}

interface HopContext {
  scratch: Scratch;
  drover: Drover;
  link: Link;
  v0: string;
  v1: string;
  change: { percent: number; seed: number; extras: boolean };
  /** Digest of v1. */
  hash: string;
  name: string;
  options: FsBenchOptions;
}

/** One size, share and link: all methods, all runs. */
class Hop {
  readonly #context: HopContext;
  readonly #samples = new Map<string, Sample[]>();
  /** Peaks of the first push, which brings the whole tree. */
  readonly #firstPushMemory: number[] = [];

  constructor(context: HopContext) {
    this.#context = context;
  }

  async measure(): Promise<void> {
    const { options, link, scratch } = this.#context;
    const modes: RsyncMode[] = link.rate === null
      ? [{ compress: false, fsync: true }, { compress: false, fsync: false }, {
        compress: true,
        fsync: false,
      }]
      : [{ compress: true, fsync: false }, { compress: true, fsync: true }];
    const usable = modes.filter((mode) => !mode.fsync || rsyncHasFsync());
    scratch.fresh("rsync");
    const daemon = await RsyncDaemon.start(scratch.path, { tree: scratch.at("rsync/tree") }, link);
    try {
      for (let run = 0; run < options.runs; run++) {
        // Turns rotate, so that no method always comes after the same one.
        const turns = [null, ...usable];
        for (let turn = 0; turn < turns.length; turn++) {
          const mode = turns[(turn + run) % turns.length] ?? null;
          if (mode === null) await this.#runDrover(run);
          else await this.#runRsync(daemon, mode, run);
        }
      }
    } finally {
      await daemon.stop();
      scratch.clear("rsync");
    }
  }

  /** The rows of the goals that this link is for. */
  goals(facts: { tarBytes: number; percent: number }): GoalRow[] {
    const { link, name } = this.#context;
    const rows: GoalRow[] = [];
    const add = (
      measure: string,
      value: number,
      other: number,
      goal: number,
      show: (value: number) => string,
    ): void => {
      const ratio = value / other;
      rows.push({
        tree: name,
        link: link.name,
        measure,
        drover: show(value),
        yardstick: show(other),
        ratio,
        goal,
        verdict: ratio <= goal ? "ok" : "short",
      });
    };
    const mb = (bytes: number): string => `${megabytes(bytes)} MB`;
    const s = (value: number): string => `${seconds(value)} s`;
    const plain = rsyncName({ compress: false, fsync: false });
    const flushed = rsyncName({ compress: false, fsync: true });
    const packed = rsyncName({ compress: true, fsync: false });
    const packedFlushed = rsyncName({ compress: true, fsync: true });
    if (link.rate === null) {
      add(`bytes ÷ ${plain}`, this.#bytes(own), this.#bytes(plain), 0.40, mb);
      add(`bytes ÷ ${packed}`, this.#bytes(own), this.#bytes(packed), 0.75, mb);
      add("bytes ÷ full tar", this.#bytes(own), facts.tarBytes, facts.percent <= 10 ? 1 / 60 : 1 / 15, mb);
      const yardstick = this.#samples.has(flushed) ? flushed : plain;
      add(`wall ÷ ${yardstick}`, this.#seconds(own), this.#seconds(yardstick), 1.2, s);
    } else {
      add(`wall ÷ ${packed}`, this.#seconds(own), this.#seconds(packed), 0.85, s);
      if (this.#samples.has(packedFlushed)) {
        add(`wall ÷ ${packedFlushed}`, this.#seconds(own), this.#seconds(packedFlushed), 0.85, s);
      }
    }
    const samples = this.#samples.get(own) ?? [];
    const peak = Math.max(
      ...samples.flatMap((sample) => [sample.sourceMemory, sample.targetMemory]),
      ...this.#firstPushMemory,
    );
    add("peak memory, either side, with the first push", peak, 400e6, 1, mb);
    return rows;
  }

  /** One line per method. */
  details(): string[][] {
    const { link, name } = this.#context;
    return [...this.#samples].map(([method, samples]) => {
      const middle = (of: (sample: Sample) => number): number => median(samples.map(of));
      const most = (of: (sample: Sample) => number): string => megabytes(Math.max(...samples.map(of)));
      const wire = samples.some((sample) => sample.wireBytes === null);
      return [
        name,
        link.name,
        method,
        megabytes(middle((sample) => sample.bytes)),
        seconds(middle((sample) => sample.seconds)),
        seconds(middle((sample) => sample.processSeconds)),
        most((sample) => sample.sourceMemory),
        most((sample) => sample.targetMemory),
        wire ? "–" : megabytes(middle((sample) => sample.wireBytes ?? 0)),
        String(samples.length),
      ];
    });
  }

  #bytes(method: string): number {
    return median((this.#samples.get(method) ?? []).map((sample) => sample.bytes));
  }

  #seconds(method: string): number {
    return median((this.#samples.get(method) ?? []).map((sample) => sample.seconds));
  }

  #add(method: string, run: number, sample: Sample, more: Record<string, unknown> = {}): void {
    const { link, name, options } = this.#context;
    const samples = this.#samples.get(method);
    if (samples === undefined) this.#samples.set(method, [sample]);
    else samples.push(sample);
    options.record({ type: "run", tree: name, link: link.name, method, run, ...sample, ...more });
  }

  async #runDrover(run: number): Promise<void> {
    const { scratch, drover, link, v0, change, hash, name } = this.#context;
    const source = scratch.copy(v0, "drover/a/tree");
    const host = drover.host(scratch.at("drover/a"));
    const node = await drover.host(scratch.fresh("drover/b")).serve(link);
    try {
      await host.init("tree");
      link.shape(false);
      const first = await host.push("tree", node);
      link.shape(true);
      this.#firstPushMemory.push(first.memoryPeak, node.memoryPeak);
      mutateTree(source, change);
      settle();
      const before = link.wireBytes();
      const push = await host.push("tree", node);
      const after = link.wireBytes();
      const sample = {
        bytes: push.bytesSent + push.bytesReceived,
        seconds: push.seconds,
        processSeconds: push.processSeconds,
        sourceMemory: push.memoryPeak,
        targetMemory: node.memoryPeak,
        wireBytes: before === null || after === null ? null : after - before,
      };
      this.#add(own, run, sample, detailsOf(push, first));
      same(`${name}: drover`, source, `${node.root}/tree`, hash);
    } finally {
      await node.stop();
      scratch.clear("drover");
      link.shape(true);
    }
  }

  async #runRsync(daemon: RsyncDaemon, mode: RsyncMode, run: number): Promise<void> {
    const { scratch, link, v0, v1, hash, name } = this.#context;
    const target = scratch.at("rsync/tree");
    outputOf(["rsync", "-aHAX", "--delete", `${v0}/`, `${target}/`]);
    settle();
    const before = link.wireBytes();
    const done = await daemon.push(v1, "tree", mode);
    const after = link.wireBytes();
    const sample = {
      bytes: done.bytes,
      seconds: done.seconds,
      processSeconds: done.seconds,
      sourceMemory: done.memoryPeak,
      targetMemory: daemon.memoryPeak,
      wireBytes: before === null || after === null ? null : after - before,
    };
    this.#add(rsyncName(mode), run, sample);
    if (run === 0) same(`${name}: ${rsyncName(mode)}`, v1, target, hash);
  }
}

/** The method that is measured against the others. */
const own = "drover push";

/** What the JSON line of a push has beyond the table. */
function detailsOf(push: Push, first: Push): Record<string, unknown> {
  const { phases, entries, rounds, versions, bytesSent, bytesReceived } = push;
  return {
    phases,
    entries,
    rounds,
    versions,
    bytesSent,
    bytesReceived,
    firstPush: {
      seconds: first.seconds,
      bytes: first.bytesSent + first.bytesReceived,
      memoryPeak: first.memoryPeak,
    },
  };
}

/** @throws when the two trees differ, or are not what they should be. */
function same(what: string, source: string, target: string, hash: string): void {
  const found = compareTrees(source, target);
  if (found.differences.length > 0) {
    throw new Error(
      `Cannot trust the run of ${what}: ${found.differences.length} differences between source and target, ` +
        `first ${found.differences.slice(0, 10).join("; ")}`,
    );
  }
  if (found.hash !== hash) {
    throw new Error(`Cannot trust the run of ${what}: the tree is ${found.hash}, and should be ${hash}`);
  }
}

function tarSize(dir: string): number {
  return Number(outputOf(["sh", "-c", 'tar -cf - -C "$1" . | wc -c', "sh", dir]).trim());
}

function machine(): string {
  const kernel = Deno.osRelease();
  const fs = toolExists("stat") ? outputOf(["stat", "-f", "-c", "%T", "/var/tmp"]).trim() : "unknown";
  return `Linux ${kernel}, ${navigator.hardwareConcurrency} CPUs, ${fs}`;
}

function since(start: number): string {
  return seconds((performance.now() - start) / 1000);
}
