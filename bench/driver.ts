/**
 * The finished program, used as anybody would: by its command line, and nothing else of it.
 *
 * `DROVER` names an executable; without it the program is run from source.
 *
 * @module
 */
import type { Link } from "./link.ts";
import { Background, freePort, measure, type Run } from "./process.ts";
import { isRoot } from "./scratch.ts";

/** How much of a change is sent. */
export type PushMode = "full" | "upper" | "delta";

/** The last JSON line of `drover push`, and what the process cost. */
export interface Push {
  from: string | null;
  to: string;
  versions: number;
  bytesSent: number;
  bytesReceived: number;
  /** From capture to applied. */
  seconds: number;
  phases: { capture: number; pack: number; send: number; apply: number };
  entries: number;
  rounds: number;
  /** Wall time of the whole process, with its start. */
  processSeconds: number;
  memoryPeak: number;
}

/** How changes are found: the overlay where it can be mounted. */
export function captureName(): "overlay" | "scan" {
  return isRoot() ? "overlay" : "scan";
}

/** The program, with the key of its nodes. */
export class Drover {
  readonly #command: readonly string[];
  readonly #env: Record<string, string>;
  readonly #workDir: string;

  private constructor(command: readonly string[], workDir: string) {
    this.#command = command;
    this.#workDir = workDir;
    this.#env = { DROVER_KEY: `${workDir}/cluster.key` };
  }

  /** Finds the program and makes a key. @param workDir for the key and logs. */
  static async prepare(workDir: string): Promise<Drover> {
    const executable = Deno.env.get("DROVER");
    const main = new URL("../main.ts", import.meta.url).pathname;
    const drover = new Drover(
      executable === undefined ? [Deno.execPath(), "run", "--allow-all", main] : [executable],
      workDir,
    );
    await drover.run(["key", "new", `${workDir}/cluster.key`]);
    return drover;
  }

  /** What is run, for the report. */
  get name(): string {
    return this.#command.length === 1 ? this.#command[0] ?? "" : "deno run main.ts";
  }

  /** A host whose trees are below `root`. It knows nothing of other hosts' trees. */
  host(root: string): Host {
    const env = { ...this.#env, DROVER_HOME: `${root}.home` };
    return new Host({ command: this.#command, env, root, workDir: this.#workDir });
  }

  /** Runs one command that concerns no host, to its end. */
  async run(args: readonly string[]): Promise<Run> {
    return await measure([...this.#command, ...args], { env: this.#env });
  }
}

/** How a host runs the program. */
export interface HostOptions {
  command: readonly string[];
  env: Record<string, string>;
  /** The directory of its trees; the program's own notes are beside it. */
  root: string;
  /** Where logs go. */
  workDir: string;
}

/** One host. Several live on one machine without knowing of each other. */
export class Host {
  readonly #options: HostOptions;

  /** @param options how it runs the program, and where. */
  constructor(options: HostOptions) {
    this.#options = options;
  }

  /** Puts the directory `name` under the program. */
  async init(name: string): Promise<Run> {
    return await this.#run([
      "fs",
      "init",
      `${this.#options.root}/${name}`,
      "--capture",
      captureName(),
      "--json",
    ]);
  }

  /** Starts a node. */
  async serve(link: Link): Promise<Node> {
    const { command, env, root, workDir } = this.#options;
    const port = freePort();
    const args = ["serve", "--listen", `${link.host}:${port}`, "--root", root, "--capture", captureName()];
    const process = new Background([...link.target, ...command, ...args], `${workDir}/serve-${port}.log`, {
      env,
    });
    await process.listening(link.host, port, link.source);
    return new Node(process, root, link, port);
  }

  /** Brings the tree `name` of a node to the present state of the tree of that name here. */
  async push(name: string, node: Node, mode: PushMode = "delta"): Promise<Push> {
    const dir = `${this.#options.root}/${name}`;
    const args = ["push", dir, await node.url(name), "--mode", mode, "--commit", "--json"];
    const run = await this.#run(args, node.link.source);
    const last = run.stdout.trimEnd().split("\n").at(-1) ?? "";
    const said = JSON.parse(last) as Omit<Push, "processSeconds" | "memoryPeak">;
    for (const field of ["bytesSent", "bytesReceived", "seconds", "entries"] as const) {
      if (typeof said[field] !== "number") {
        throw new Error(`Cannot read "${last}": "${field}" should be a number`);
      }
    }
    return { ...said, processSeconds: run.seconds, memoryPeak: run.memoryPeak };
  }

  async #run(args: readonly string[], prefix: readonly string[] = []): Promise<Run> {
    return await measure([...prefix, ...this.#options.command, ...args], { env: this.#options.env });
  }
}

/** A running node. */
export class Node {
  readonly root: string;
  readonly link: Link;
  readonly #process: Background;
  readonly #port: number;

  /** @param process the running program; @param root its trees' directory; @param port where it listens. */
  constructor(process: Background, root: string, link: Link, port: number) {
    this.#process = process;
    this.root = root;
    this.link = link;
    this.#port = port;
  }

  /** How the source side names the tree `name` of this node. */
  async url(name: string): Promise<string> {
    const { host, port } = await this.link.address(this.#port);
    return `drover://${host}:${port}/${name}`;
  }

  /** Largest resident set so far, in bytes. */
  get memoryPeak(): number {
    return this.#process.memoryPeak;
  }

  async stop(): Promise<void> {
    await this.#process.stop();
  }
}
