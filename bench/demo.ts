/**
 * `deno task demo`: a directory tree moves between three nodes on this machine, A to B to C to B to A, the route of
 * ELFM's evaluation, with changes before every hop. After each hop two independent programs compare the
 * sides: `rsync -aHAXnic --delete` and a tree digest that shares no code with drover.
 *
 *     deno task demo [--dir DIR] [--percent N] [--capture overlay|scan] [--profile fast|portable]
 *                    [--program FILE] [--keep]
 *
 * Every node is a process of its own with its own directory and list of trees; all that passes between them goes
 * through TLS on loopback. An ordinary user's run moves into a user namespace, where an overlay can be mounted,
 * if the system allows that; otherwise drover compares instead (capture scan). The output says which.
 *
 * Invariant: nothing is left behind, no process, mount or directory, however the run ends (but by SIGKILL).
 *
 * @module
 */
import { parseArgs } from "node:util";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { formatBytes, formatSeconds, formatTable } from "../lib/cli/format.ts";
import { compareTrees } from "./digest.ts";
import { outputOf, toolExists } from "./process.ts";
import { mutateTree } from "./workload.ts";

const root = dirname(dirname(fileURLToPath(import.meta.url)));

/** Says that this process is already in the namespace it asked for. */
const insideVariable = "DROVER_DEMO_INSIDE";

/** Where a Debian system has files of many kinds; the first ones that together make enough. */
const treeSources = ["/usr/include", "/usr/lib/python3", "/usr/share/perl", "/usr/lib/gcc", "/usr/share/doc"];
const treeBytesMin = 20e6;
const treeBytesMax = 36e6;

/** ELFM's Figure 5, after both other nodes got the first version. */
const route: readonly [NodeName, NodeName][] = [["A", "B"], ["B", "C"], ["C", "B"], ["B", "A"]];

type NodeName = "A" | "B" | "C";

interface Options {
  dir: string | undefined;
  percent: number;
  capture: string | undefined;
  profile: string | undefined;
  program: readonly string[];
  keep: boolean;
}

/** What `drover push --json` ends with. */
interface PushResult {
  versions: number;
  entries: number;
  bytesSent: number;
  bytesReceived: number;
  seconds: number;
  phases: Record<"capture" | "pack" | "send" | "apply", number>;
}

function readOptions(args: readonly string[]): Options {
  const { values } = parseArgs({
    args: [...args],
    options: {
      dir: { type: "string" },
      percent: { type: "string", default: "10" },
      capture: { type: "string" },
      profile: { type: "string" },
      program: { type: "string" },
      keep: { type: "boolean", default: false },
    },
  });
  const { dir, percent, capture, profile, program, keep } = values;
  return {
    dir,
    percent: Number(percent),
    capture,
    profile,
    program: program === undefined
      ? [Deno.execPath(), "run", "--quiet", "--allow-all", "--no-check", join(root, "main.ts")]
      : [program],
    keep,
  };
}

/** One host of the demonstration. */
class Node {
  readonly name: NodeName;
  readonly folder: string;
  readonly tree: string;
  readonly #program: readonly string[];
  readonly #key: string;
  #server: Deno.ChildProcess | undefined;
  #address = "";

  constructor(name: NodeName, options: { folder: string; program: readonly string[]; key: string }) {
    this.name = name;
    this.folder = join(options.folder, name);
    this.tree = join(this.folder, "tree");
    this.#program = options.program;
    this.#key = options.key;
    Deno.mkdirSync(this.folder);
  }

  /** `drover://HOST:PORT/tree` */
  get url(): string {
    return `drover://${this.#address}/tree`;
  }

  #command(args: readonly string[]): Deno.Command {
    const [file = "", ...rest] = this.#program;
    return new Deno.Command(file, {
      args: [...rest, ...args, "--json"],
      env: { DROVER_HOME: join(this.folder, "home"), DROVER_KEY: this.#key, RUST_BACKTRACE: "0" },
      stdin: "null",
      stdout: "piped",
      stderr: "inherit",
    });
  }

  /** Runs one command of this node. @returns the last JSON line. */
  async drover<T>(...args: string[]): Promise<T> {
    const { stdout, success } = await this.#command(args).output();
    const last = new TextDecoder().decode(stdout).trimEnd().split("\n").at(-1) ?? "";
    if (!success) throw new Error(`Cannot run "drover ${args.join(" ")}" at ${this.name}: ${last}`);
    return JSON.parse(last);
  }

  /** Starts `drover serve` and waits until it listens. */
  async serve(options: readonly string[]): Promise<void> {
    this.#server = this.#command(["serve", "--root", this.folder, "--listen", "127.0.0.1:0", ...options])
      .spawn();
    const reader = this.#server.stdout.pipeThrough(new TextDecoderStream()).getReader();
    let line = "";
    while (!line.includes("\n")) {
      const { value, done } = await reader.read();
      if (done) throw new Error(`Cannot start the node ${this.name}: ${line}`);
      line += value;
    }
    this.#address = JSON.parse(line.slice(0, line.indexOf("\n"))).listening;
    // What it says later is of no interest, but must be read.
    const drain = async (): Promise<void> => {
      while (!(await reader.read()).done);
    };
    drain().catch(() => {});
  }

  /** Ends the server and takes the mount away; the directory can be removed then. */
  async close(): Promise<void> {
    try {
      this.#server?.kill("SIGTERM");
    } catch {
      // It has ended by itself.
    }
    await this.#server?.status;
    this.#server = undefined;
    await this.drover("fs", "unmount", this.tree).catch(() => {});
  }
}

/** Copies parts of the system until there is a tree worth moving, or the directory that was asked for. */
function makeTree(target: string, dir: string | undefined): string {
  const copy = (source: string, to: string): void => {
    Deno.mkdirSync(to, { recursive: true });
    outputOf(["cp", "-dR", "--preserve=mode,timestamps,links,xattr", "--", source, to], { okCodes: [0, 1] });
  };
  if (dir !== undefined) {
    copy(join(dir, "."), target);
    return dir;
  }
  let bytes = 0;
  const used: string[] = [];
  for (const source of treeSources) {
    if (bytes >= treeBytesMin || !isDirectory(source)) continue;
    for (const entry of [...Deno.readDirSync(source)].sort((a, b) => a.name < b.name ? -1 : 1)) {
      const path = join(source, entry.name);
      const size = Number.parseInt(outputOf(["du", "-sb", path], { okCodes: [0, 1] }));
      if (bytes + size > treeBytesMax) continue;
      copy(path, join(target, source.slice(1)));
      bytes += size;
      if (!used.includes(source)) used.push(source);
    }
  }
  return used.join(", ");
}

function isDirectory(path: string): boolean {
  try {
    return Deno.statSync(path).isDirectory;
  } catch {
    return false;
  }
}

/** Moves this run into a user namespace, where an ordinary user may mount. @returns its exit code, or null. */
async function enterNamespace(): Promise<number | null> {
  if (Deno.uid() === 0 || Deno.env.has(insideVariable)) return null;
  const words = ["--user", "--map-root-user", "--mount"];
  const command = (args: string[]): Deno.Command =>
    new Deno.Command("unshare", {
      args: [...words, ...args],
      env: { [insideVariable]: "1" },
      stdin: "inherit",
      stdout: "inherit",
      stderr: "inherit",
    });
  try {
    if (!(await command(["true"]).output()).success) return null;
  } catch {
    return null;
  }
  const again = [
    Deno.execPath(),
    "run",
    "--quiet",
    "--allow-all",
    "--no-check",
    fileURLToPath(import.meta.url),
  ];
  return (await command([...again, ...Deno.args]).output()).code;
}

function who(): string {
  if (Deno.env.has(insideVariable)) return "an ordinary user, in a user namespace";
  return Deno.uid() === 0 ? "root" : "an ordinary user, without a user namespace";
}

/** Runs the whole demonstration. @returns how many hops left a difference. */
async function demo(options: Options, folder: string, nodes: Node[]): Promise<number> {
  const started = performance.now();
  const key = join(folder, "cluster.key");
  const make = (name: NodeName): Node => {
    const node = new Node(name, { folder, program: options.program, key });
    nodes.push(node);
    return node;
  };
  const [a, b, c] = [make("A"), make("B"), make("C")];
  const byName: Record<NodeName, Node> = { A: a, B: b, C: c };
  const how = [
    ...(options.capture === undefined ? [] : ["--capture", options.capture]),
    ...(options.profile === undefined ? [] : ["--profile", options.profile]),
  ];

  const source = makeTree(a.tree, options.dir);
  await a.drover("key", "new", key);
  const tree = await a.drover<{ entries: number; bytes: number; capture: string; profile: string }>(
    "fs",
    "init",
    a.tree,
    ...how,
  );
  console.log(`tree: ${tree.entries} entries, ${formatBytes(tree.bytes)}, a copy of ${source}`);
  console.log(
    tree.capture === "overlay"
      ? `capture: overlay, profile ${tree.profile}, as ${who()}: changes are read from the overlay's upper directory`
      : `capture: scan, as ${who()}: ${
        options.capture === "scan" ? "" : "no overlay can be mounted here, so "
      }changes are found by comparing`,
  );
  await Promise.all(nodes.map((node) => node.serve(how)));

  const rows: string[][] = [];
  let broken = 0;
  const hop = async (from: Node, to: Node, label: string): Promise<void> => {
    const result = await from.drover<PushResult>("push", from.tree, to.url, "--commit");
    const { bytes } = await from.drover<{ bytes: number }>("fs", "status", from.tree);
    const { differences } = compareTrees(from.tree, to.tree);
    if (differences.length > 0) {
      broken++;
      console.error(`${label}: ${differences.length} differences, the first ones:`);
      for (const line of differences.slice(0, 10)) console.error(`  ${line}`);
    }
    const wire = result.bytesSent + result.bytesReceived;
    rows.push([
      label,
      String(result.versions),
      String(result.entries),
      formatBytes(wire),
      formatBytes(bytes),
      `1/${Math.max(1, Math.round(bytes / Math.max(1, wire)))}`,
      ...[result.seconds, result.phases.capture, result.phases.pack, result.phases.send, result.phases.apply]
        .map(formatSeconds),
      differences.length === 0 ? "same" : "DIFFERENT",
    ]);
  };

  await hop(a, b, "A -> B first");
  await hop(a, c, "A -> C first");
  for (const [index, [from, to]] of route.entries()) {
    mutateTree(byName[from].tree, { percent: options.percent, seed: index + 1, extras: true });
    await hop(byName[from], byName[to], `${from} -> ${to}`);
  }

  console.log(
    `\n${options.percent} % of the files change before each hop (1 created : 1 deleted : 2 modified)\n`,
  );
  const head = [
    "hop",
    "behind",
    "entries",
    "bytes",
    "tree",
    "ratio",
    "time",
    "capture",
    "pack",
    "send",
    "apply",
    "",
  ];
  for (const line of formatTable([head, ...rows], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10])) console.log(line);
  console.log(
    `\n${
      broken === 0 ? "no difference" : `differences in ${broken} hops`
    } by rsync -aHAXnic --delete and by an independent tree digest after ${rows.length} hops; ` +
      `${formatSeconds((performance.now() - started) / 1000)} in all`,
  );
  return broken;
}

async function main(): Promise<number> {
  const options = readOptions(Deno.args);
  if (!toolExists("rsync")) {
    console.error("drover: error: cannot compare without rsync\ndrover: hint: apt-get install rsync");
    return 1;
  }
  if (options.capture !== "scan") {
    const code = await enterNamespace();
    if (code !== null) return code;
  }
  // Not /tmp: it may be a small file system in memory.
  const folder = await Deno.makeTempDir({ dir: "/var/tmp", prefix: "drover-demo-" });
  const nodes: Node[] = [];
  const cleanUp = async (): Promise<void> => {
    for (const node of nodes.splice(0)) await node.close();
    if (options.keep) console.log(`kept: ${folder}`);
    else outputOf(["rm", "-rf", "--one-file-system", "--", folder]);
  };
  const onSignal = (): void => {
    cleanUp().finally(() => Deno.exit(130));
  };
  Deno.addSignalListener("SIGINT", onSignal);
  Deno.addSignalListener("SIGTERM", onSignal);
  try {
    return await demo(options, folder, nodes) === 0 ? 0 : 1;
  } catch (error) {
    console.error(`drover: error: ${error instanceof Error ? error.message : String(error)}`);
    return 1;
  } finally {
    await cleanUp();
    Deno.removeSignalListener("SIGINT", onSignal);
    Deno.removeSignalListener("SIGTERM", onSignal);
  }
}

if (import.meta.main) Deno.exitCode = await main();
