/**
 * The far end of a managed mount: a source that may go away for a while, hang, and come back.
 *
 * Invariants:
 * - Every access ends: with its result, or with `IoError` EIO when the source did not give one within the time
 *   that the caller allows. What a source refuses for good (EPERM, EINVAL, …) is not asked twice.
 * - A source that answers nothing for `stallMs` counts as gone. Buffers of accesses it still has are never used again.
 * - Where there is a way to open it again, a connection that ended is replaced, once for all who wait. `generation`
 *   changes then: what was written before and not flushed may be lost, and the caller has to know.
 * - A source that comes back with another size is not the source.
 *
 * @module
 */
import { DroverError } from "../base/errors.ts";
import { type Backend, IoError, type MaybePromise } from "./backend.ts";

/** How a source is reached. */
export interface SourceOptions {
  /** The source, when it is open already. */
  backend: Backend | null;
  /** Opens it again; null where that cannot be. */
  open: (() => MaybePromise<Backend>) | null;
  /** What it has to have, in bytes. */
  size: number;
  /** How long an access is tried, in milliseconds. */
  timeoutMs: number;
  /** Told when it goes away, and when it is back. */
  log: (state: "down" | "up", error?: unknown) => void;
}

/** Errors that asking again does not change. */
const permanent = new Set(["EPERM", "EINVAL", "ENOTSUP", "ENOSPC"]);
const pauseFirstMs = 10;
const pauseMaxMs = 1000;

/** A source, whatever becomes of it. */
export class SourceLink {
  readonly #options: SourceOptions;
  readonly #stallMs: number;
  #backend: Backend | null;
  #opening: Promise<Backend> | null = null;
  #generation = 0;
  #down = false;
  #lastAnswerMs = performance.now();
  #closed = false;
  #readOnly = true;
  readonly #wakes = new Set<() => void>();

  /** Takes a source. @param options how to reach it */
  constructor(options: SourceOptions) {
    this.#options = options;
    this.#backend = options.backend;
    if (options.backend !== null) this.#readOnly = options.backend.readOnly;
    this.#stallMs = Math.max(50, options.timeoutMs / 3);
  }

  /** Whether the last thing that is known of it is that it was gone. */
  get isDown(): boolean {
    return this.#down;
  }

  /** Changes when the source was opened again. */
  get generation(): number {
    return this.#generation;
  }

  /** Whether it refuses writes, as far as is known. */
  get readOnly(): boolean {
    return this.#readOnly;
  }

  /** Reads from it. @returns a buffer that is the caller's alone */
  read(offset: number, length: number, timeoutMs: number = this.#options.timeoutMs): Promise<Uint8Array> {
    return this.run("read", async (backend) => {
      const bytes = new Uint8Array(length);
      await backend.readAt(offset, bytes);
      return bytes;
    }, timeoutMs);
  }

  /**
   * Does something with it, as often as it takes.
   *
   * @param work is called again after a failure; must not use again what an earlier call may still have
   */
  async run<T>(
    what: string,
    work: (backend: Backend, generation: number) => MaybePromise<T>,
    timeoutMs: number = this.#options.timeoutMs,
  ): Promise<T> {
    const deadline = performance.now() + timeoutMs;
    for (let pauseMs = pauseFirstMs;; pauseMs = Math.min(2 * pauseMs, pauseMaxMs)) {
      let backend: Backend | null = null;
      try {
        backend = this.#backend ?? await this.#within(this.#open(), deadline);
        const result = await this.#within(work(backend, this.#generation), deadline);
        this.#lastAnswerMs = performance.now();
        this.#setDown(false);
        return result;
      } catch (error) {
        if (this.#closed || error instanceof RangeError || error instanceof TypeError) throw error;
        if (error instanceof IoError && permanent.has(error.errno)) throw error;
        if (isLost(error)) {
          this.#setDown(true, error);
          this.#drop(backend);
        }
        if (performance.now() + pauseMs >= deadline) {
          throw new IoError(
            "EIO",
            `Cannot ${what}: the source did not answer as it should for ${timeoutMs / 1000} s`,
            {
              cause: error,
              ...(error instanceof DroverError && error.code === "corrupt" ? { code: "corrupt" } : {}),
            },
          );
        }
        await this.#sleep(pauseMs);
      }
      if (this.#closed) throw new IoError("ESHUTDOWN", `Cannot ${what}: the mount is closed`);
    }
  }

  /** Closes the source; what is under way fails, and is not waited for longer than for a moment. */
  async close(): Promise<void> {
    this.#closed = true;
    for (const wake of this.#wakes) wake();
    const backend = this.#backend;
    this.#backend = null;
    if (backend === null) return;
    if (this.#down) abandon(backend);
    else await settledWithin(Promise.resolve(backend.close()), this.#stallMs, () => abandon(backend));
  }

  /** Opens the source again; once for all who ask. */
  #open(): Promise<Backend> {
    const { open, size } = this.#options;
    if (open === null) {
      return Promise.reject(
        new IoError("EIO", "Cannot reach the source: it is gone", { code: "disconnected" }),
      );
    }
    this.#opening ??= (async () => {
      try {
        const backend = await open();
        if (backend.size !== size || this.#closed) {
          abandon(backend);
          throw new IoError(
            "EIO",
            `Cannot use the source: it has ${backend.size} bytes now, and had ${size}`,
            {
              code: "corrupt",
            },
          );
        }
        this.#backend = backend;
        this.#readOnly = backend.readOnly;
        this.#generation++;
        this.#lastAnswerMs = performance.now();
        return backend;
      } finally {
        this.#opening = null;
      }
    })();
    return this.#opening;
  }

  #drop(backend: Backend | null): void {
    if (backend === null || this.#backend !== backend || this.#options.open === null) return;
    this.#backend = null;
    abandon(backend);
  }

  #setDown(down: boolean, error?: unknown): void {
    if (down === this.#down) return;
    this.#down = down;
    this.#options.log(down ? "down" : "up", error);
  }

  /** Its result, unless the deadline passes, or the source answers nobody for too long. */
  #within<T>(work: MaybePromise<T>, deadline: number): MaybePromise<T> {
    if (!(work instanceof Promise)) return work;
    return new Promise<T>((resolve, reject) => {
      const startMs = performance.now();
      let timer: ReturnType<typeof setTimeout> | undefined;
      const end = (): void => {
        clearTimeout(timer);
        this.#wakes.delete(check);
      };
      const check = (): void => {
        clearTimeout(timer);
        const now = performance.now();
        const aliveMs = Math.max(startMs, this.#lastAnswerMs);
        const at = Math.min(aliveMs + this.#stallMs, deadline);
        if (now < at && !this.#closed) {
          timer = setTimeout(check, at - now + 1);
          return;
        }
        end();
        reject(
          new IoError("ETIMEDOUT", "Cannot use the source: it does not answer", {
            // A caller whose time is over says nothing about the source.
            ...(now - aliveMs >= this.#stallMs ? { code: "disconnected" } : {}),
          }),
        );
      };
      this.#wakes.add(check);
      check();
      work.then((value) => (end(), resolve(value)), (error) => (end(), reject(error)));
    });
  }

  #sleep(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const wake = (): void => {
        clearTimeout(timer);
        this.#wakes.delete(wake);
        resolve();
      };
      const timer = setTimeout(wake, ms);
      this.#wakes.add(wake);
    });
  }
}

/** Whether an error means that the source, not this access, is in trouble. */
function isLost(error: unknown): boolean {
  if (!(error instanceof DroverError)) return true;
  if (error instanceof IoError && error.errno === "ESHUTDOWN") return true;
  return error.code === "disconnected" || error.code === "protocol" || error.code === "auth";
}

/** Closes a backend that may never answer. */
function abandon(backend: Backend): void {
  const quick = backend as { abandon?: (reason?: unknown) => void };
  try {
    if (typeof quick.abandon === "function") quick.abandon();
    Promise.resolve(backend.close()).catch(() => {});
  } catch {
    // It is gone, as it should be.
  }
}

/** Waits for work, but not for ever. */
async function settledWithin(work: Promise<unknown>, ms: number, late: () => void): Promise<void> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const timeout = new Promise<void>((resolve) =>
    timer = setTimeout(() => {
      late();
      resolve();
    }, ms)
  );
  try {
    await Promise.race([work, timeout]);
  } finally {
    clearTimeout(timer);
  }
}
