/**
 * What keeps the policy's worker off a region that is being closed: one word of shared memory.
 *
 * ```text
 *           enter                      leave
 *   idle ───────────> busy      busy ───────────> idle        the worker, around every step
 *   idle ───────────> closed                                  the owner, once, waiting while it is busy
 * ```
 *
 * A step is a few milliseconds of work that waits for nobody, so the owner's wait is short; and since the owner waits in
 * `Atomics.wait`, the worker needs nothing from it to go on.
 *
 * @module
 */

const stateAt = 0;
const stepsAt = 1;

const idle = 0;
const busy = 1;
const closed = 2;

/** Memory for one gate. */
export function makeGate(): SharedArrayBuffer {
  return new SharedArrayBuffer(8);
}

/** Either side of a gate. */
export class PolicyGate {
  readonly #words: Int32Array<SharedArrayBuffer>;

  /** @param memory of {@link makeGate}. */
  constructor(memory: SharedArrayBuffer) {
    this.#words = new Int32Array(memory);
  }

  /** Steps so far. */
  get steps(): number {
    return Atomics.load(this.#words, stepsAt);
  }

  /** The worker, before a step: false when the region is closed or closing. */
  enter(): boolean {
    return Atomics.compareExchange(this.#words, stateAt, idle, busy) === idle;
  }

  /** The worker, after a step. */
  leave(): void {
    Atomics.add(this.#words, stepsAt, 1);
    Atomics.store(this.#words, stateAt, idle);
    Atomics.notify(this.#words, stateAt);
  }

  /** The owner: afterwards no step is under way and none begins. */
  close(): void {
    while (Atomics.compareExchange(this.#words, stateAt, idle, closed) === busy) {
      Atomics.wait(this.#words, stateAt, busy);
    }
  }
}
