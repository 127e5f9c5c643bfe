/**
 * One process of the memory bench (bench/native/mem_workload.c): built, started, given orders, ended.
 *
 * @module
 */
import { onInterrupt } from "./cleanup.ts";
import { outputOf } from "./process.ts";

/** What one loop did; times in nanoseconds. */
export interface Loop {
  ops: number;
  nanoseconds: number;
  p50: number;
  p90: number;
  p99: number;
  slowest: number;
  /** Words that were not what had been written: a bench that sees one fails. */
  wrong: number;
  faults: number;
  resident: number;
  readBytes: number;
  writtenBytes: number;
}

/** One loop to run. */
export interface LoopOptions {
  pattern: "uniform" | "zipf" | "scan";
  /** Of 1000 accesses. */
  writes: number;
  threads: number;
  /** Addresses that are announced at once. */
  hints: number;
  seconds: number;
  seed: number;
}

/** Compiles the program into a directory. @returns its path. */
export function buildWorkload(dir: string): string {
  const program = `${dir}/mem_workload`;
  const root = new URL("../", import.meta.url).pathname;
  outputOf([
    Deno.env.get("CC") ?? "cc",
    "-std=gnu11",
    "-O2",
    "-Wall",
    "-Wextra",
    "-o",
    program,
    `${root}bench/native/mem_workload.c`,
    `-L${root}build`,
    "-ldrover",
    `-Wl,-rpath,${root}build`,
    "-pthread",
  ]);
  return program;
}

/** A process that obeys one order at a time. */
export class MemProcess implements AsyncDisposable {
  readonly #name: string;
  readonly #child: Deno.ChildProcess;
  readonly #orders: WritableStreamDefaultWriter<Uint8Array>;
  readonly #answers: ReadableStreamDefaultReader<string>;
  readonly #forget: () => void;
  #text = "";

  /** @param program what {@link buildWorkload} made; @param args kind, size and so on. */
  constructor(program: string, args: readonly string[]) {
    this.#name = args[0] ?? "";
    this.#child = new Deno.Command(program, { args: [...args], stdin: "piped", stdout: "piped" }).spawn();
    this.#orders = this.#child.stdin.getWriter();
    this.#answers = this.#child.stdout.pipeThrough(
      new TextDecoderStream() as TransformStream<Uint8Array, string>,
    )
      .getReader();
    this.#forget = onInterrupt(() => this.#child.kill("SIGKILL"));
  }

  /** Process id. */
  get pid(): number {
    return this.#child.pid;
  }

  /** Gives an order and waits for the answer. @throws {Error} when it was refused, or the process died. */
  async order(line: string): Promise<Record<string, number>> {
    await this.#orders.write(new TextEncoder().encode(`${line}\n`));
    while (!this.#text.includes("\n")) {
      const { value, done } = await this.#answers.read();
      if (done) {
        const { code, signal } = await this.#child.status;
        throw new Error(
          `Cannot get an answer to "${line}" from ${this.#name}: it ended with ${signal ?? code}`,
        );
      }
      this.#text += value;
    }
    const end = this.#text.indexOf("\n");
    const answer = JSON.parse(this.#text.slice(0, end));
    this.#text = this.#text.slice(end + 1);
    if (answer.error !== undefined) throw new Error(`Cannot do "${line}" in ${this.#name}: ${answer.error}`);
    if (answer.wrong > 0) {
      throw new Error(`Cannot trust ${this.#name}: ${answer.wrong} words were wrong in "${line}"`);
    }
    return answer;
  }

  /** Runs the loop. */
  async loop(options: LoopOptions): Promise<Loop> {
    const { pattern, writes, threads, hints, seconds, seed } = options;
    const micros = Math.round(seconds * 1e6);
    return await this.order(
      `run ${pattern} ${writes} ${threads} ${hints} ${micros} ${seed}`,
    ) as unknown as Loop;
  }

  /** Ends it: politely, and after ten seconds not. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#forget();
    await this.#orders.close().catch(() => {});
    const kill = setTimeout(() => this.#child.kill("SIGKILL"), 10_000);
    await this.#child.status;
    clearTimeout(kill);
    await this.#answers.cancel();
  }
}
