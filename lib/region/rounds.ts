/**
 * Work that many ask for and that serves all who asked before it began: flushes, pushes.
 *
 * @module
 */

/** A round that has not begun. */
interface Waiting {
  promise: Promise<void>;
  resolve: (work: Promise<void>) => void;
  /** Who asked. */
  asked: number;
  /** Whether it begins as soon as so many asked. */
  enough: number;
}

/** A round that took this long is worth waiting for company, half as long. */
const gatherFromMs = 1;
const gatherMaxMs = 5;

/**
 * Runs one round at a time. Whoever asks gets the result of a round that begins after he asked; all who ask while one is
 * under way share the next. With `gather`, one who asks when nothing is under way waits a moment for those who shared the
 * last round with him: they are likely to be back, and would else wait for a round of their own.
 */
export class Rounds {
  readonly #work: () => Promise<void>;
  readonly #gather: boolean;
  #current: Promise<void> | null = null;
  #next: Waiting | null = null;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #lastAsked = 0;
  #lastMs = 0;

  /** Rounds of `work`. @param options `gather`: see above */
  constructor(work: () => Promise<void>, options: { gather?: boolean } = {}) {
    this.#work = work;
    this.#gather = options.gather ?? false;
  }

  /** Asks for a round. @throws what it threw */
  run(): Promise<void> {
    const next = this.#next ??= waiting();
    next.asked++;
    if (this.#current === null) this.#consider(next);
    return next.promise;
  }

  /** Waits until no round is under way or asked for. */
  async idle(): Promise<void> {
    for (;;) {
      const round = this.#next?.promise ?? this.#current;
      if (round === null) return;
      await round.catch(() => {});
    }
  }

  /** Begins a round now, or soon. */
  #consider(next: Waiting): void {
    if (next.enough === 0) {
      const wait = this.#gather && this.#lastAsked > 1 && this.#lastMs >= gatherFromMs;
      next.enough = wait ? this.#lastAsked : 1;
    }
    if (next.asked >= next.enough) this.#begin(next);
    else this.#timer ??= setTimeout(() => this.#begin(next), Math.min(this.#lastMs / 2, gatherMaxMs));
  }

  #begin(next: Waiting): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#next = null;
    this.#lastAsked = next.asked;
    const startMs = performance.now();
    const round = this.#work().finally(() => {
      this.#lastMs = performance.now() - startMs;
      this.#current = null;
      if (this.#next !== null) this.#consider(this.#next);
    });
    this.#current = round;
    next.resolve(round);
  }
}

function waiting(): Waiting {
  let resolve: (work: Promise<void>) => void = () => {};
  const promise = new Promise<void>((settle) => resolve = settle);
  return { promise, resolve, asked: 0, enough: 0 };
}
