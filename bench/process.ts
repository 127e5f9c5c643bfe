/**
 * Programs that the bench starts: to their end with output and peak memory, or in the background.
 *
 * Invariant: nothing that is started here outlives its owner's `stop()`; a program that fails is an error with
 * what it said, never a silent zero in a table.
 *
 * @module
 */
import { onInterrupt } from "./cleanup.ts";

/** How to start a program. */
export interface RunOptions {
  cwd?: string;
  env?: Record<string, string>;
  /** What it reads; nothing by default. */
  stdin?: string;
  /** Exit codes that are not an error; 0 by default. */
  okCodes?: readonly number[];
}

/** What a measured program did. */
export interface Run {
  code: number;
  stdout: string;
  stderr: string;
  /** Wall time from start to end, in seconds. */
  seconds: number;
  /** Its largest resident set in bytes, or 0 where `/usr/bin/time` is missing. */
  memoryPeak: number;
}

const decoder = new TextDecoder();
const tools = new Map<string, boolean>();

/** Whether a program of this name is on the PATH. */
export function toolExists(name: string): boolean {
  let known = tools.get(name);
  if (known === undefined) {
    known = (Deno.env.get("PATH") ?? "").split(":").some((dir) => {
      try {
        return Deno.statSync(`${dir}/${name}`).isFile;
      } catch {
        return false;
      }
    });
    tools.set(name, known);
  }
  return known;
}

/** Runs a program to its end and gives its standard output as bytes. */
export function bytesOf(command: readonly string[], options: RunOptions = {}): Uint8Array<ArrayBuffer> {
  const [program = "", ...args] = command;
  if (options.stdin === undefined) {
    const done = new Deno.Command(program, { args, ...place(options), stdin: "null" }).outputSync();
    check(command, done.code, decoder.decode(done.stderr), options);
    return done.stdout as Uint8Array<ArrayBuffer>;
  }
  // Deno.Command cannot feed a synchronous run; a file that is already unlinked would do, a shell is simpler.
  const file = Deno.makeTempFileSync({ prefix: "drover-bench-" });
  try {
    Deno.writeTextFileSync(file, options.stdin);
    const done = new Deno.Command("sh", {
      args: ["-c", 'input=$1; shift; exec "$@" <"$input"', "sh", file, ...command],
      ...place(options),
    }).outputSync();
    check(command, done.code, decoder.decode(done.stderr), options);
    return done.stdout as Uint8Array<ArrayBuffer>;
  } finally {
    Deno.removeSync(file);
  }
}

/** Runs a program to its end and gives its standard output as text. */
export function outputOf(command: readonly string[], options: RunOptions = {}): string {
  return decoder.decode(bytesOf(command, options));
}

/** Runs a program to its end, timed, with its peak memory. */
export async function measure(command: readonly string[], options: RunOptions = {}): Promise<Run> {
  const timed = hasTime();
  const report = timed ? Deno.makeTempFileSync({ prefix: "drover-bench-" }) : "";
  try {
    const [program = "", ...args] = timed
      ? ["/usr/bin/time", "-q", "-f", "%M", "-o", report, ...command]
      : command;
    const start = performance.now();
    const done = await new Deno.Command(program, { args, ...place(options), stdin: "null" }).output();
    const seconds = (performance.now() - start) / 1000;
    const stderr = decoder.decode(done.stderr);
    check(command, done.code, `${stderr}${decoder.decode(done.stdout).slice(-2000)}`, options);
    const memoryPeak = timed ? Number(Deno.readTextFileSync(report).trim()) * 1024 : 0;
    return { code: done.code, stdout: decoder.decode(done.stdout), stderr, seconds, memoryPeak };
  } finally {
    if (timed) Deno.removeSync(report);
  }
}

/** A program in the background. */
export class Background {
  readonly #child: Deno.ChildProcess;
  readonly #name: string;
  readonly #log: string;
  #ended: Deno.CommandStatus | undefined;
  #watch: ReturnType<typeof setInterval> | undefined;
  #memoryPeak = 0;
  readonly #forget: () => void;

  /** @param command program and arguments; @param log file that takes what it prints. */
  constructor(command: readonly string[], log: string, options: RunOptions = {}) {
    this.#name = command.join(" ");
    this.#log = log;
    Deno.writeTextFileSync(log, "");
    this.#child = new Deno.Command("sh", {
      args: ["-c", 'log=$1; shift; exec "$@" >>"$log" 2>&1', "sh", log, ...command],
      ...place(options),
      stdin: "null",
      stdout: "null",
      stderr: "null",
    }).spawn();
    this.#child.status.then((status) => this.#ended = status);
    this.#forget = onInterrupt(() => this.#signal("SIGTERM"));
    this.#watch = setInterval(() => this.#sample(), 50);
  }

  /** Process id. */
  get pid(): number {
    return this.#child.pid;
  }

  /** Largest resident set so far, in bytes, of the largest one among it and its descendants. */
  get memoryPeak(): number {
    this.#sample();
    return this.#memoryPeak;
  }

  /** Waits until something listens on a port. @param prefix what to run the probe under (a network namespace). */
  async listening(host: string, port: number, prefix: readonly string[] = []): Promise<void> {
    const probe =
      `for i in 1 2 3 4 5 6 7 8; do (exec 3<>/dev/tcp/${host}/${port}) 2>/dev/null && exit 0; sleep .05; done; exit 1`;
    const deadline = performance.now() + 30_000;
    while (performance.now() < deadline) {
      if (this.#ended !== undefined) break;
      const [program = "", ...args] = [...prefix, "bash", "-c", probe];
      if (
        (await new Deno.Command(program, { args, stdin: "null", stdout: "null", stderr: "null" }).output())
          .success
      ) return;
    }
    throw new Error(
      `Cannot reach "${this.#name}" on ${host}:${port}: ${Deno.readTextFileSync(this.#log).slice(-2000)}`,
    );
  }

  /** Ends it by SIGTERM, after ten seconds by SIGKILL. */
  async stop(): Promise<void> {
    this.#sample();
    clearInterval(this.#watch);
    this.#forget();
    this.#watch = undefined;
    if (this.#ended !== undefined) return;
    const kill = setTimeout(() => this.#signal("SIGKILL"), 10_000);
    this.#signal("SIGTERM");
    await this.#child.status;
    clearTimeout(kill);
  }

  #signal(signal: Deno.Signal): void {
    try {
      this.#child.kill(signal);
    } catch (error) {
      if (!(error instanceof TypeError)) throw error; // it has ended just now
    }
  }

  #sample(): void {
    const pending = [this.#child.pid];
    for (let pid = pending.pop(); pid !== undefined; pid = pending.pop()) {
      try {
        const peak = /^VmHWM:\s+(\d+) kB/m.exec(Deno.readTextFileSync(`/proc/${pid}/status`))?.[1];
        if (peak !== undefined) this.#memoryPeak = Math.max(this.#memoryPeak, Number(peak) * 1024);
        const children = Deno.readTextFileSync(`/proc/${pid}/task/${pid}/children`);
        for (const child of children.split(" ")) if (child !== "") pending.push(Number(child));
      } catch {
        continue; // it has ended between two looks
      }
    }
  }
}

/** A port of 127.0.0.1 that was free just now. */
export function freePort(): number {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  return listener.addr.port;
}

function hasTime(): boolean {
  try {
    return Deno.statSync("/usr/bin/time").isFile;
  } catch {
    return false;
  }
}

function place(options: RunOptions): { cwd?: string; env?: Record<string, string> } {
  return {
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    env: { LC_ALL: "C.UTF-8", ...options.env },
  };
}

function check(command: readonly string[], code: number, said: string, options: RunOptions): void {
  if ((options.okCodes ?? [0]).includes(code)) return;
  throw new Error(
    `Cannot run "${command.join(" ")}": it ended with ${code} and said "${said.trim().slice(-2000)}"`,
  );
}
