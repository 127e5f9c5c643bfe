/**
 * Two or more hosts on this machine: a folder, a list of trees and a `drover serve` process each. The program is
 * started as a user would start it, from source or as the executable.
 */
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(dirname(dirname(fileURLToPath(import.meta.url))));

/** How to start drover from source. */
export const fromSource: readonly string[] = [
  Deno.execPath(),
  "run",
  "--quiet",
  "--allow-all",
  "--no-check",
  join(root, "main.ts"),
];

/** What one command of a host did. */
export interface HostRun {
  code: number;
  stderr: string;
  objects: Record<string, unknown>[];
  result: Record<string, unknown>;
}

/** One host. */
export class Host implements AsyncDisposable {
  readonly folder: string;
  readonly #program: readonly string[];
  readonly #env: Record<string, string>;
  #server: Deno.ChildProcess | undefined;
  #drained: Promise<unknown> = Promise.resolve();
  /** `HOST:PORT` of the running server. */
  address = "";

  /** @param options `program`: how to start drover; `env`: the whole environment, besides DROVER_HOME. */
  constructor(folder: string, options: { program?: readonly string[]; env?: Record<string, string> } = {}) {
    this.folder = folder;
    this.#program = options.program ?? fromSource;
    this.#env = { ...(options.env ?? Deno.env.toObject()), DROVER_HOME: join(folder, "home") };
    Deno.mkdirSync(folder, { recursive: true });
  }

  #command(args: readonly string[]): Deno.Command {
    const [file = "", ...rest] = this.#program;
    return new Deno.Command(file, {
      args: [...rest, ...args],
      cwd: "/",
      clearEnv: true,
      env: this.#env,
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
    });
  }

  /** Runs one command with `--json`. */
  async run(...args: string[]): Promise<HostRun> {
    const output = await this.#command([...args, "--json"]).output();
    const text = new TextDecoder();
    const lines = text.decode(output.stdout).split("\n").filter((line) => line !== "");
    const objects = lines.map((line) => JSON.parse(line) as Record<string, unknown>);
    return { code: output.code, stderr: text.decode(output.stderr), objects, result: objects.at(-1) ?? {} };
  }

  /** The same, where only success will do. @returns the result. */
  async must(...args: string[]): Promise<Record<string, unknown>> {
    const { code, stderr, objects, result } = await this.run(...args);
    if (code !== 0) {
      throw new Error(
        `drover ${args.join(" ")} ended with ${code}: ${stderr}${JSON.stringify(objects.at(-1))}`,
      );
    }
    return result;
  }

  /** Starts the server on a free port of loopback. */
  async serve(...options: string[]): Promise<void> {
    const server = this.#command([
      "serve",
      "--root",
      this.folder,
      "--listen",
      "127.0.0.1:0",
      ...options,
      "--json",
    ]).spawn();
    this.#server = server;
    const reader = server.stdout.pipeThrough(new TextDecoderStream()).getReader();
    let line = "";
    while (!line.includes("\n")) {
      const { value, done } = await reader.read();
      if (done) throw new Error(`drover serve ended: ${line}${await new Response(server.stderr).text()}`);
      line += value;
    }
    this.address = String(JSON.parse(line.slice(0, line.indexOf("\n"))).listening);
    const drain = async (): Promise<void> => {
      while (!(await reader.read()).done);
    };
    this.#drained = Promise.all([drain(), new Response(server.stderr).text()]);
  }

  /** Stops the server. @returns its exit code. */
  async stop(signal: Deno.Signal = "SIGTERM"): Promise<number> {
    const server = this.#server;
    if (server === undefined) return 0;
    this.#server = undefined;
    try {
      server.kill(signal);
    } catch (error) {
      if (!(error instanceof TypeError)) throw error; // it has ended by itself
    }
    const { code } = await server.status;
    await this.#drained;
    return code;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }
}

/** Runs `work` with a new directory on a real file system and removes it. */
export async function withFolder(work: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.realPath(await Deno.makeTempDir({ dir: "/var/tmp", prefix: "drover-test-" }));
  try {
    await work(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** What `rsync` would have to change to make `other` like `one`; nothing when they are the same. */
export async function rsyncDifferences(one: string, other: string): Promise<string[]> {
  const output = await new Deno.Command("rsync", {
    args: ["-aHAXnic", "--delete", `${one}/`, `${other}/`],
    stdout: "piped",
    stderr: "piped",
  }).output();
  const text = new TextDecoder();
  if (!output.success) throw new Error(text.decode(output.stderr));
  return text.decode(output.stdout).split("\n").filter((line) => line !== "");
}
