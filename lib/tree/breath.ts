/**
 * Lets other work run during long synchronous loops: a node serves many trees on one thread, so no
 * walk or hash may hold it for long.
 *
 * @module
 */

/** Longest stretch without a break, in milliseconds. */
const stretchMsMax = 25;

/** Call `due` in the loop and await `take()` when it says so. */
export class Breath {
  #since = performance.now();

  /** Whether this loop has run long enough. */
  get due(): boolean {
    return performance.now() - this.#since > stretchMsMax;
  }

  /** Gives every waiting task its turn. */
  async take(): Promise<void> {
    await new Promise((resolve) => setTimeout(resolve, 0));
    this.#since = performance.now();
  }
}
