/**
 * Asking a server again while it cannot be reached, until a time is over.
 *
 * Invariants: an attempt is given up when nothing came of it for a third of the time; what the server answered,
 * good or bad, is an answer and not asked again. Only what may be done twice goes through here.
 *
 * @module
 */
import { IoError } from "./backend.ts";

/** An attempt failed, and the next one may not: no connection, a server that is busy or restarting. */
export class TransientError extends Error {
  /** The name that stands in front of the message in a stack trace. */
  override name = "TransientError";
}

/** How long, and for whom. */
export interface Patience {
  /** For errors, without passwords. */
  where: string;
  /** Milliseconds; 0 is a single attempt without a limit. */
  timeoutMs: number;
}

/** Waits between attempts, in milliseconds: the first, and the longest. */
const [pauseMsMin, pauseMsMax] = [50, 2000];

/**
 * Attempts until one has an answer.
 *
 * @param attempt gets a signal after which its answer is not waited for
 * @throws {IoError} ETIMEDOUT when there was none in time; what the attempt throws that is no `TransientError`
 */
export async function patiently<T>(
  { where, timeoutMs }: Patience,
  attempt: (signal: AbortSignal | null) => Promise<T>,
): Promise<T> {
  if (timeoutMs === 0) {
    try {
      return await attempt(null);
    } catch (error) {
      if (!(error instanceof TransientError)) throw error;
      throw new IoError("EIO", `Cannot reach "${where}"`, { code: "disconnected", cause: error });
    }
  }
  const until = performance.now() + timeoutMs;
  for (let pause = pauseMsMin, share = timeoutMs / 3;; pause = Math.min(pause * 2, pauseMsMax)) {
    const left = until - performance.now();
    const over = new AbortController();
    const timer = setTimeout(() => {
      over.abort(new TransientError("No answer in time"));
    }, Math.max(1, Math.min(left, share)));
    let reason: unknown;
    try {
      return await attempt(over.signal);
    } catch (error) {
      if (!(error instanceof TransientError) && !over.signal.aborted) throw error;
      reason = error;
      // It may only be slow: the next attempt has longer.
      if (over.signal.aborted) share *= 2;
    } finally {
      clearTimeout(timer);
    }
    const wait = pause * (0.5 + Math.random());
    if (performance.now() + wait >= until) {
      throw new IoError("ETIMEDOUT", `No answer from "${where}" within ${timeoutMs / 1000} s`, {
        code: "disconnected",
        cause: reason,
      });
    }
    await new Promise((resolve) => setTimeout(resolve, wait));
  }
}

/** Runs `work` with a signal that comes after `ms` milliseconds, or when `stop` does. */
export async function within<T>(
  ms: number,
  stop: AbortSignal | null,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const over = new AbortController();
  const end = (): void => over.abort(new DOMException("It took too long", "TimeoutError"));
  const timer = setTimeout(end, ms);
  stop?.addEventListener("abort", end);
  if (stop?.aborted) end();
  try {
    return await work(over.signal);
  } finally {
    clearTimeout(timer);
    stop?.removeEventListener("abort", end);
  }
}

/** Lets so many do something at once; further ones wait. */
export class Gate {
  #free: number;
  readonly #places: number;
  readonly #waiting: (() => void)[] = [];
  readonly #whenIdle: (() => void)[] = [];

  /** @param places how many */
  constructor(places: number) {
    this.#places = places;
    this.#free = places;
  }

  /** Waits until nothing is under way. */
  async idle(): Promise<void> {
    if (this.#free < this.#places) await new Promise<void>((resolve) => this.#whenIdle.push(resolve));
  }

  /** Runs `work` when there is a place. */
  async run<T>(work: () => Promise<T>): Promise<T> {
    if (this.#free > 0) this.#free--;
    else await new Promise<void>((resolve) => this.#waiting.push(resolve));
    try {
      return await work();
    } finally {
      const next = this.#waiting.shift();
      if (next !== undefined) next();
      else if (++this.#free === this.#places) { for (const wake of this.#whenIdle.splice(0)) wake(); }
    }
  }
}
