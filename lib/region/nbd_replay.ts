/**
 * What was written to a server and not flushed yet, so that it can be written again when the server may have
 * forgotten it.
 *
 * Invariants:
 * - Changes stand in the order in which they were answered. Of two that overlap, the one that began after the
 *   other was answered stands behind it.
 * - `forget(mark)` takes away what stood before `mark()`: what a flush that began then has made durable.
 *
 * @module
 */

/** A change of a range. */
export type NbdChange =
  | { kind: "write"; offset: number; length: number; bytes: Uint8Array }
  | { kind: "zero"; offset: number; length: number; allocate: boolean }
  | { kind: "trim"; offset: number; length: number };

/** Octets are kept in pieces of memory that are used again: new memory costs more than the copy. */
interface Slab {
  bytes: Uint8Array;
  used: number;
  /** Changes that are kept in it. */
  users: number;
}

const slabSize = 4 * 2 ** 20;
/** Pieces that lie ready. */
const sparesMax = 16;

/** What a change costs here besides its octets. */
const changeCost = 256;

/** Changes in order. */
export class ReplayLog {
  #changes: { change: NbdChange; slab: Slab | null }[] = [];
  #slab: Slab = { bytes: new Uint8Array(0), used: 0, users: 0 };
  readonly #spares: Uint8Array[] = [];
  /** How many were forgotten before the first. */
  #base = 0;
  #size = 0;

  /** Octets that are kept. */
  get size(): number {
    return this.#size;
  }

  /** Keeps a change; of a write the octets are copied. */
  add(change: NbdChange): void {
    this.#size += costOf(change);
    if (change.kind !== "write") {
      this.#changes.push({ change, slab: null });
      return;
    }
    const { length } = change.bytes;
    if (this.#slab.bytes.length - this.#slab.used < length) {
      const before = this.#slab;
      const spare = length <= slabSize ? this.#spares.pop() : undefined;
      this.#slab = { bytes: spare ?? new Uint8Array(Math.max(length, slabSize)), used: 0, users: 0 };
      this.#recycle(before);
    }
    const slab = this.#slab;
    const bytes = slab.bytes.subarray(slab.used, slab.used + length);
    bytes.set(change.bytes);
    slab.used += length;
    slab.users++;
    this.#changes.push({ change: { ...change, bytes }, slab });
  }

  /** The place behind what is here now. */
  mark(): number {
    return this.#base + this.#changes.length;
  }

  /** Forgets what stood before a mark. */
  forget(mark: number): void {
    const gone = this.#changes.splice(0, Math.max(0, mark - this.#base));
    this.#base += gone.length;
    for (const { change, slab } of gone) {
      this.#size -= costOf(change);
      if (slab === null) continue;
      slab.users--;
      this.#recycle(slab);
    }
  }

  /**
   * Gives all changes to `apply` again, several at a time, and none before those that it overlaps are done.
   *
   * @param parallel how many at once
   */
  async replay(apply: (change: NbdChange) => Promise<void>, parallel: number): Promise<void> {
    const under: { change: NbdChange; done: Promise<void> }[] = [];
    const settle = async (): Promise<void> => {
      // All of them, also when one failed: their buffers are in use.
      const results = await Promise.allSettled(under.splice(0).map(({ done }) => done));
      for (const result of results) if (result.status === "rejected") throw result.reason;
    };
    for (const { change } of this.#changes.slice()) {
      if (under.length >= parallel || under.some((other) => overlap(other.change, change))) await settle();
      under.push({ change, done: apply(change) });
    }
    await settle();
  }

  /** Uses memory again that holds nothing any more. */
  #recycle(slab: Slab): void {
    if (slab.users > 0) return;
    slab.used = 0;
    if (slab === this.#slab || slab.bytes.length !== slabSize || this.#spares.length >= sparesMax) return;
    this.#spares.push(slab.bytes);
  }
}

function costOf(change: NbdChange): number {
  return changeCost + (change.kind === "write" ? change.length : 0);
}

function overlap(left: NbdChange, right: NbdChange): boolean {
  return left.offset < right.offset + right.length && right.offset < left.offset + left.length;
}
