/**
 * Lets other work run during long synchronous loops: a node serves many trees on one thread, so no
 * walk or hash may hold it for long.
 *
 * @module
 */

/** Longest stretch without a break, in milliseconds. */
const stretchMsMax = 12;

/**
 * Gives everything that waits its turn: sockets, timers, other trees. It takes a timer: after a mere message to
 * oneself the runtime goes on at once and looks at its sockets only every 61st time.
 */
export function pause(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 0));
}

/** Call `due` in the loop and await `take()` when it says so. */
export class Breath {
  #since = performance.now();

  /** Whether this loop has run long enough. */
  get due(): boolean {
    return performance.now() - this.#since > stretchMsMax;
  }

  /** Gives every waiting task its turn. */
  async take(): Promise<void> {
    await pause();
    this.#since = performance.now();
  }
}
