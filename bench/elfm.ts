/**
 * `deno task bench elfm`: the evaluation of ELFM (live migration of a file system with overlays), done again.
 *
 * Scenario, as there: three machines, a tree on each, all of the same version. The tree is changed by 10 to 40 % (files
 * created, deleted, modified by inserting, deleting and changing lines) before every hop of A → B → C → B → A, so
 * that the receiver is 1, 2, 1 and 3 versions behind:
 *
 * | A | B | C |                  |
 * | - | - | - | ---------------- |
 * | 0 | 0 | 0 | the same tree    |
 * | 1 | 1 | 0 | changed, A to B  |
 * | 1 | 2 | 2 | changed, B to C  |
 * | 1 | 3 | 3 | changed, C to B  |
 * | 4 | 4 | 3 | changed, B to A  |
 *
 * Goals: the same four sets of results: mean time of a hop, bytes of the route, time by version difference, time by
 * phase; `full` is ELFM's baseline, `upper` its first optimisation, `delta` its second. rsync, which knows no versions,
 * is a further column. After every hop source and target are compared; a difference ends the bench.
 *
 * Not goals: the thesis' absolute times (other machines, other links), its file formats.
 *
 * @module
 */
import { parseArgs } from "node:util";
import { compareTrees } from "./digest.ts";
import { captureName, Drover, type Host, type Node, type PushMode } from "./driver.ts";
import { type Link, loopback, shaped } from "./link.ts";
import { numberOf, numbersOf, type Outlets, outlets, wordsOf } from "./options.ts";
import { RsyncDaemon, rsyncName, rsyncVersion } from "./rsync.ts";
import { isRoot, Scratch, settle } from "./scratch.ts";
import { formatTable, mean, megabytes, seconds } from "./table.ts";
import { generateTree, mutateTree } from "./workload.ts";

const usage = `Usage: deno task bench elfm [OPTION]...

Runs ELFM's evaluation: A, B, C, B, A with changes before every hop, and prints its four sets of results.

Options:
      --sizes LIST     MB of the trees; small: 100 to 500, big: 500 to 2500, all: both; default: small
      --percents LIST  share of the files that change before a hop; default: 10,20,30,40
      --methods LIST   of full,upper,delta,rsync; default: all
      --seed N         of the trees and changes; default: 20261120
      --rate MBIT      limits the links; ELFM had 800; default: loopback without a limit
      --dir PATH       where to work; default: a new directory in /var/tmp, removed at the end
      --quick          compare source and target after the last hop only
      --smoke          one small tree
      --json           JSON lines on stdout, one per hop; the tables go to stderr

DROVER names the executable to measure; default: the program from source.
`;

/** What carries the tree over a hop. */
export type Method = PushMode | "rsync";

const allMethods: readonly Method[] = ["full", "upper", "delta", "rsync"];
const smallSizes = [100, 200, 300, 400, 500];
const bigSizes = [500, 1000, 1500, 2000, 2500];

/** The route: which machine gives, which takes, and how many versions the taker is behind. */
const route = [
  { from: "a", to: "b", gap: 1 },
  { from: "b", to: "c", gap: 2 },
  { from: "c", to: "b", gap: 1 },
  { from: "b", to: "a", gap: 3 },
] as const;

const machines = ["a", "b", "c"] as const;

/** What to run. */
export interface ElfmOptions extends Outlets {
  sizes: readonly number[];
  percents: readonly number[];
  methods: readonly Method[];
  seed: number;
  /** Megabits per second, or null for no limit. */
  rate: number | null;
  dir: string | undefined;
  /** Compare after the last hop of a route only. */
  quick: boolean;
}

/** One hop. */
export interface HopResult {
  size: number;
  percent: number;
  method: Method;
  /** 0 to 3: its place in the route. */
  hop: number;
  /** Versions that the receiver was behind. */
  gap: number;
  seconds: number;
  bytes: number;
  /** Null for rsync. */
  phases: { capture: number; pack: number; send: number; apply: number } | null;
}

/** The command. */
export async function main(args: readonly string[]): Promise<number> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      sizes: { type: "string", default: "small" },
      percents: { type: "string" },
      methods: { type: "string", default: allMethods.join(",") },
      seed: { type: "string", default: "20261120" },
      rate: { type: "string" },
      dir: { type: "string" },
      quick: { type: "boolean", default: false },
      smoke: { type: "boolean", default: false },
      json: { type: "boolean", default: false },
      help: { type: "boolean", short: "h", default: false },
    },
  });
  if (values.help) {
    console.log(usage);
    return 0;
  }
  await benchElfm({
    sizes: values.smoke ? [4] : sizesOf(values.sizes),
    percents: numbersOf(values.percents ?? (values.smoke ? "10" : "10,20,30,40")),
    methods: wordsOf(values.methods, allMethods),
    seed: numberOf(values.seed),
    rate: values.rate === undefined ? null : numberOf(values.rate),
    dir: values.dir,
    quick: values.quick,
    ...outlets(values.json),
  });
  return 0;
}

/** Runs the evaluation, prints the tables, and gives every hop. @throws when a target differs from its source. */
export async function benchElfm(options: ElfmOptions): Promise<HopResult[]> {
  const { say, record, methods } = options;
  using scratch = new Scratch(options.dir);
  const drover = await Drover.prepare(scratch.path);
  const link = options.rate === null ? loopback() : shaped(options.rate);
  const results: HopResult[] = [];
  try {
    say(`program: ${drover.name}, capture ${captureName()}; rsync ${rsyncVersion()}; link: ${link.name}`);
    say(`seed ${options.seed}; work in ${scratch.path}`);
    for (const size of options.sizes) {
      scratch.clear("v0");
      generateTree(scratch.at("v0"), { bytes: size * 1e6, seed: options.seed, absoluteLinks: isRoot() });
      for (const percent of options.percents) {
        const hashes = new Set<string>();
        for (const method of methods) {
          const context = { scratch, drover, link, size, percent, method, options };
          const { hops, hash } = method === "rsync"
            ? await routeByRsync(context)
            : await routeByDrover(context, method);
          hashes.add(hash);
          results.push(...hops);
          for (const hop of hops) record({ type: "hop", ...hop, hash });
        }
        say(`${size} MB, ${percent} %: done, tree after the route ${[...hashes].join(", ")}`);
        if (hashes.size > 1) throw new Error("Cannot compare the methods: they ended with different trees");
      }
    }
  } finally {
    link.close();
  }
  for (const table of tablesOf(results, methods)) say(`\n${table}`);
  return results;
}

interface RouteContext {
  scratch: Scratch;
  drover: Drover;
  link: Link;
  size: number;
  percent: number;
  method: Method;
  options: ElfmOptions;
}

interface RouteResult {
  hops: HopResult[];
  /** Of the tree after the last hop. */
  hash: string;
}

async function routeByDrover(context: RouteContext, mode: PushMode): Promise<RouteResult> {
  const { scratch, drover, link } = context;
  const nodes = new Map<string, Node>();
  const hostOf = (machine: string): Host => drover.host(scratch.at(`route/${machine}`));
  try {
    link.shape(false);
    scratch.copy(scratch.at("v0"), "route/a/tree");
    await hostOf("a").init("tree");
    for (const machine of machines) {
      Deno.mkdirSync(scratch.at(`route/${machine}`), { recursive: true });
      nodes.set(machine, await hostOf(machine).serve(link));
    }
    for (const [machine, node] of nodes) if (machine !== "a") await hostOf("a").push("tree", node);
    link.shape(true);
    return await hopsOf(context, async (from, to) => {
      const node = nodes.get(to);
      if (node === undefined) throw new Error(`Cannot push to "${to}": no such machine`);
      const push = await hostOf(from).push("tree", node, mode);
      return {
        seconds: push.seconds,
        bytes: push.bytesSent + push.bytesReceived,
        phases: push.phases,
        versions: push.versions,
      };
    });
  } finally {
    for (const node of nodes.values()) await node.stop();
    scratch.clear("route");
  }
}

async function routeByRsync(context: RouteContext): Promise<RouteResult> {
  const { scratch, link } = context;
  const modules: Record<string, string> = {};
  for (const machine of machines) modules[machine] = scratch.copy(scratch.at("v0"), `route/${machine}/tree`);
  const daemon = await RsyncDaemon.start(scratch.path, modules, link);
  try {
    return await hopsOf(context, async (from, to) => {
      const run = await daemon.push(scratch.at(`route/${from}/tree`), to, { compress: false, fsync: false });
      return { seconds: run.seconds, bytes: run.bytes, phases: null, versions: null };
    });
  } finally {
    await daemon.stop();
    scratch.clear("route");
  }
}

type Carry = (from: string, to: string) => Promise<
  Pick<HopResult, "seconds" | "bytes" | "phases"> & { versions: number | null }
>;

async function hopsOf(context: RouteContext, carry: Carry): Promise<RouteResult> {
  const { scratch, size, percent, method, options } = context;
  const hops: HopResult[] = [];
  let hash = "";
  for (const [hop, { from, to, gap }] of route.entries()) {
    const source = scratch.at(`route/${from}/tree`);
    mutateTree(source, { percent, seed: options.seed + 10 * percent + hop });
    settle();
    const { versions, ...result } = await carry(from, to);
    const what = `${method}, ${size} MB, ${percent} %, ${from.toUpperCase()} to ${to.toUpperCase()}`;
    if (versions !== null && versions !== gap) {
      throw new Error(
        `Cannot trust the hop ${what}: it brought ${versions} versions, and should bring ${gap}`,
      );
    }
    if (!options.quick || hop === route.length - 1) {
      const found = compareTrees(source, scratch.at(`route/${to}/tree`));
      if (found.differences.length > 0) {
        const first = found.differences.slice(0, 10).join("; ");
        throw new Error(
          `Cannot trust the hop ${what}: ${found.differences.length} differences, first ${first}`,
        );
      }
      hash = found.hash;
    }
    hops.push({ size, percent, method, hop, gap, ...result });
  }
  return { hops, hash };
}

/** The four sets of results, and what they come to. */
export function tablesOf(results: readonly HopResult[], methods: readonly Method[]): string[] {
  const cases = [...new Map(results.map((hop) => [`${hop.size} ${hop.percent}`, hop])).values()];
  const of = (size: number, percent: number, method: Method): HopResult[] =>
    results.filter((hop) => hop.size === size && hop.percent === percent && hop.method === method);
  const timeOf = (hops: readonly HopResult[]): number => mean(hops.map((hop) => hop.seconds));
  const bytesOf = (hops: readonly HopResult[]): number => hops.reduce((sum, hop) => sum + hop.bytes, 0);
  const name = (hop: HopResult): string[] => [`${hop.size} MB`, `${hop.percent} %`];

  const compared = (value: (hops: readonly HopResult[]) => number, show: (value: number) => string): string =>
    formatTable(
      ["tree", "changes", ...methods, "upper ÷ full", "delta ÷ full", "delta ÷ rsync"],
      cases.map((hop) => {
        const by = (method: Method): number => value(of(hop.size, hop.percent, method));
        return [
          ...name(hop),
          ...methods.map((method) => show(by(method))),
          ratio(by("upper"), by("full")),
          ratio(by("delta"), by("full")),
          ratio(by("delta"), by("rsync")),
        ];
      }),
    );
  const byGap = formatTable(
    [
      "tree",
      "changes",
      ...methods.flatMap((method) => route.map(({ gap }, hop) => `${method} ${hop + 1}: ${gap}`)),
    ],
    cases.map((hop) => [
      ...name(hop),
      ...methods.flatMap((method) => of(hop.size, hop.percent, method).map((one) => seconds(one.seconds))),
    ]),
  );
  const versioned = methods.filter((method) => method !== "rsync");
  const phases = ["capture", "pack", "send", "apply"] as const;
  const byPhase = formatTable(
    ["tree", "changes", ...versioned.flatMap((method) => phases.map((phase) => `${method} ${phase}`))],
    cases.map((hop) => [
      ...name(hop),
      ...versioned.flatMap((method) =>
        phases.map((phase) =>
          seconds(mean(of(hop.size, hop.percent, method).map((one) => one.phases?.[phase] ?? NaN)))
        )
      ),
    ]),
  );
  const tables = [
    `First set: mean time of a hop, in seconds (rsync: ${rsyncName({ compress: false, fsync: false })})\n\n` +
    compared(timeOf, seconds),
    `Second set: bytes of the route, in MB\n\n${compared(bytesOf, megabytes)}`,
    `Third set: time by place in the route and version difference, in seconds\n\n${byGap}`,
    `Fourth set: mean time by phase, in seconds (phases overlap: their sum may exceed the time of a hop)\n\n${byPhase}`,
  ];
  if (methods.includes("full") && methods.includes("delta")) tables.push(claims(results));
  return tables;
}

/** What ELFM reached by its second optimisation, by share of changes: time and bytes saved. */
const elfmSaved: Readonly<Record<number, { time: number; bytes: number }>> = {
  10: { time: 50, bytes: 70 },
  20: { time: 40, bytes: 60 },
  30: { time: 35, bytes: 30 },
  40: { time: 20, bytes: 15 },
};

/** ELFM's own claims beside what was reached here. */
function claims(results: readonly HopResult[]): string {
  const percents = [...new Set(results.map((hop) => hop.percent))];
  const sum = (percent: number, method: Method, of: (hop: HopResult) => number): number =>
    results.filter((hop) => hop.percent === percent && hop.method === method).reduce(
      (total, hop) => total + of(hop),
      0,
    );
  const saved = (percent: number, of: (hop: HopResult) => number): string =>
    `${(100 * (1 - sum(percent, "delta", of) / sum(percent, "full", of))).toFixed(0)} %`;
  const table = formatTable(
    ["changes", "time saved", "ELFM's", "bytes saved", "ELFM's"],
    percents.map((percent) => {
      const elfm = elfmSaved[percent];
      return [
        `${percent} %`,
        saved(percent, (hop) => hop.seconds),
        elfm === undefined ? "–" : `${elfm.time} %`,
        saved(percent, (hop) => hop.bytes),
        elfm === undefined ? "–" : `${elfm.bytes} %`,
      ];
    }),
  );
  const far = results.filter((hop) => hop.method === "delta" && hop.gap === 3);
  const won = far.filter((hop) => {
    const full = results.find((other) =>
      other.method === "full" && other.hop === hop.hop && other.size === hop.size &&
      other.percent === hop.percent
    );
    return full !== undefined && hop.seconds < full.seconds;
  });
  return `The second optimisation against the baseline, over all sizes\n\n${table}\n\n` +
    `Three versions behind, delta is faster than full in ${won.length} of ${far.length} cases (ELFM: 21 of 40).`;
}

function sizesOf(text: string): number[] {
  if (text === "small") return smallSizes;
  if (text === "big") return bigSizes;
  if (text === "all") return [...new Set([...smallSizes, ...bigSizes])];
  return numbersOf(text);
}

function ratio(value: number, other: number): string {
  const quotient = value / other;
  return Number.isFinite(quotient) ? quotient.toFixed(3) : "–";
}
