/**
 * `drover export` as a process of its own, as a user would start it.
 */
import { fromSource } from "./nodes.ts";

/** A running `drover export --json`. */
export class Exported implements AsyncDisposable {
  /** What clients type. */
  readonly url: string;
  readonly #child: Deno.ChildProcess;
  readonly #lines: AsyncIterator<Record<string, unknown>>;
  readonly #drained: Promise<unknown>;
  #ended = false;

  private constructor(
    child: Deno.ChildProcess,
    lines: AsyncIterator<Record<string, unknown>>,
    url: string,
    drained: Promise<unknown>,
  ) {
    this.#child = child;
    this.#lines = lines;
    this.url = url;
    this.#drained = drained;
  }

  /** Starts it and waits until clients can connect. */
  static async start(...args: string[]): Promise<Exported> {
    const [file = "", ...rest] = fromSource;
    const child = new Deno.Command(file, {
      args: [...rest, "export", ...args, "--json"],
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    const said = new Response(child.stderr).text();
    const lines = jsonLines(child.stdout);
    const first = await lines.next();
    const url: unknown = first.done === true ? undefined : first.value.listening;
    if (typeof url !== "string") {
      await child.status;
      throw new Error(`drover export ${args.join(" ")} ended: ${JSON.stringify(first.value)} ${await said}`);
    }
    return new Exported(child, lines, url, said);
  }

  /** Its process. */
  get pid(): number {
    return this.#child.pid;
  }

  /** Ends it as a user would. @returns its exit code and last line. */
  async stop(signal: Deno.Signal = "SIGTERM"): Promise<{ code: number; last: Record<string, unknown> }> {
    this.#child.kill(signal);
    let last: Record<string, unknown> = {};
    for (;;) {
      const { value, done } = await this.#lines.next();
      if (done === true) break;
      last = value;
    }
    const { code } = await this.#child.status;
    await this.#drained;
    this.#ended = true;
    return { code, last };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#ended) await this.stop("SIGKILL");
  }
}

async function* jsonLines(stream: ReadableStream<Uint8Array>): AsyncGenerator<Record<string, unknown>> {
  let rest = "";
  const decoder = new TextDecoder();
  for await (const bytes of stream) {
    rest += decoder.decode(bytes, { stream: true });
    const lines = rest.split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) yield JSON.parse(line);
  }
}
