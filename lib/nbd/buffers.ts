/**
 * Buffers that are used again: memory that was written once is much faster than memory that the system has to
 * clear.
 *
 * Invariants:
 * - A buffer that is given back is not touched by whoever gave it.
 * - What lies idle is at most `idleMax` octets.
 *
 * @module
 */

/** Sizes are rounded up to a multiple of this, and below it to the small size. */
const grain = 64 * 1024;
/** Room for 4 KiB and a header: what most requests are. */
const smallSize = 4096 + 64;
/** A reply's header, so that data of a whole number of grains needs no further one. */
const slack = 64;

/** Free buffers by size. */
export class BufferPool {
  readonly #free = new Map<number, Uint8Array<ArrayBuffer>[]>();
  readonly #idleMax: number;
  #idle = 0;

  /** An empty pool. @param idleMax octets that may lie idle. */
  constructor(idleMax: number) {
    this.#idleMax = idleMax;
  }

  /** A buffer of at least `size` octets, with any content. */
  take(size: number): Uint8Array<ArrayBuffer> {
    const rounded = size <= smallSize ? smallSize : Math.ceil((size - slack) / grain) * grain + slack;
    const found = this.#free.get(rounded)?.pop();
    if (found === undefined) return new Uint8Array(rounded);
    this.#idle -= rounded;
    return found;
  }

  /** Takes a buffer of `take` back. */
  give(buffer: Uint8Array<ArrayBuffer>): void {
    const size = buffer.length;
    if (this.#idle + size > this.#idleMax) return;
    this.#idle += size;
    const list = this.#free.get(size);
    if (list === undefined) this.#free.set(size, [buffer]);
    else list.push(buffer);
  }
}
