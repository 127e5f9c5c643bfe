/**
 * One after the other per chunk: who changes a part of a chunk must not meet another who does.
 *
 * @module
 */

/** A queue per chunk that is in use. */
export class ChunkLocks {
  readonly #tails = new Map<number, Promise<void>>();

  /** Runs `work` when everybody who asked for `chunk` before is done. */
  async run<T>(chunk: number, work: () => Promise<T>): Promise<T> {
    const before = this.#tails.get(chunk);
    let done: () => void = () => {};
    const tail = new Promise<void>((resolve) => done = resolve);
    this.#tails.set(chunk, tail);
    try {
      await before;
      return await work();
    } finally {
      if (this.#tails.get(chunk) === tail) this.#tails.delete(chunk);
      done();
    }
  }

  /** Waits until nobody is in any queue that there is now. */
  async idle(): Promise<void> {
    await Promise.all(this.#tails.values());
  }
}

/** The pieces of a range that lie in one chunk each. */
export function* chunksOf(
  offset: number,
  length: number,
  chunkSize: number,
): Generator<{ chunk: number; from: number; at: number; length: number }> {
  for (let at = 0; at < length;) {
    const chunk = Math.floor((offset + at) / chunkSize);
    const from = offset + at - chunk * chunkSize;
    const part = Math.min(chunkSize - from, length - at);
    yield { chunk, from, at, length: part };
    at += part;
  }
}

/** Refuses a chunk size that is no power of two from 512 to 64 MiB. @throws {RangeError} */
export function checkChunkSize(size: number): void {
  if (Number.isInteger(size) && size >= 512 && size <= 64 * 2 ** 20 && (size & (size - 1)) === 0) return;
  throw new RangeError(`Cannot use chunks of ${size} bytes: should be a power of two from 512 to 64MiB`);
}
