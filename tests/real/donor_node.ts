/**
 * `drover serve` as a process of its own, for tests of donors.
 */
import { join } from "node:path";
import { Heard } from "../cluster/room.ts";
import { fromSource } from "./nodes.ts";

/** A node as a process. */
export class Node implements AsyncDisposable {
  /** The first line of stdout. */
  readonly ready: Record<string, unknown>;
  readonly #process: Deno.ChildProcess;
  readonly #errors: Promise<void>;
  readonly #lines: Heard<string>;
  readonly #output: Promise<void>;

  private constructor(
    process: Deno.ChildProcess,
    ready: Record<string, unknown>,
    streams: { lines: Heard<string>; errors: Promise<void>; output: Promise<void> },
  ) {
    this.#process = process;
    this.ready = ready;
    this.#lines = streams.lines;
    this.#errors = streams.errors;
    this.#output = streams.output;
  }

  static async open(folder: string, ...options: string[]): Promise<Node> {
    return await Node.openUnder([], folder, ...options);
  }

  /** The same below another program, for instance one that enters a network namespace. */
  static async openUnder(prefix: readonly string[], folder: string, ...options: string[]): Promise<Node> {
    const [file = "", ...rest] = [...prefix, ...fromSource];
    const process = new Deno.Command(file, {
      args: [...rest, "serve", "--root", join(folder, "trees"), "--json", ...options],
      env: { DROVER_HOME: join(folder, "home") },
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    const lines = new Heard<string>();
    const errors = read(process.stderr, lines.hear);
    const said = new Heard<string>();
    const output = read(process.stdout, said.hear);
    const first = await Promise.race([
      said.until(() => true),
      process.status.then(async () => {
        await errors;
        throw new Error(`drover serve ended: ${lines.all.join("\n")}`);
      }),
    ]);
    return new Node(process, JSON.parse(first), { lines, errors, output });
  }

  get address(): string {
    return String(this.ready["listening"]);
  }

  get pid(): number {
    return this.#process.pid;
  }

  /** What it wrote to stderr. */
  get stderr(): string {
    return this.#lines.all.join("\n");
  }

  /** The next line of stderr that fits, or one that was there. */
  line(pattern: RegExp): Promise<string> {
    return this.#lines.until((line) => pattern.test(line));
  }

  signal(signal: Deno.Signal): void {
    this.#process.kill(signal);
  }

  async end(signal: Deno.Signal): Promise<number> {
    try {
      this.#process.kill(signal);
    } catch {
      // It has ended by itself.
    }
    const { code } = await this.#process.status;
    await Promise.all([this.#errors, this.#output]);
    return code;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.end("SIGKILL");
  }
}

async function read(stream: ReadableStream<Uint8Array>, hear: (line: string) => void): Promise<void> {
  let rest = "";
  for await (
    const chunk of stream.pipeThrough(new TextDecoderStream() as TransformStream<Uint8Array, string>)
  ) {
    const lines = (rest + chunk).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) hear(line);
  }
}

/** Runs `work` with a folder that is gone afterwards. */
export async function withFolder(work: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir({ dir: "/var/tmp", prefix: "drover-donor-" });
  try {
    await work(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}
