/**
 * What the verifier reads from: octets that are pushed in pieces, read by generators as if they were there whole.
 *
 * A reader of this file's kind is a generator that calls `yield* input.take(8)` and then asks for the fields of
 * the eight octets. Where the pushed chunk has them, nothing is copied and nothing yields; where it ends, the
 * generator yields, and goes on with the next chunk.
 *
 * Invariants:
 * - Only what `take` and `peek` ask for is ever copied, at most {@link takeSizeMax} octets; what is skipped is not
 *   even looked at. A chunk is not kept after the `push` it came with.
 * - The end of the input inside something that was asked for is a {@link Cut}, thrown into the generator.
 * - `offset` is the stream offset of the next octet.
 *
 * @module
 */

/** The most octets that one `take` or `peek` may ask for. */
export const takeSizeMax = 256;

/** A computation that yields whenever it wants the next chunk. */
export type Step<T = void> = Generator<undefined, T, undefined>;

/** The input ended where more was needed. Not an error of the program: the verifier makes a finding of it. */
export class Cut extends Error {
  /** The name that stands in front of the message in a stack trace. */
  override name = "Cut";
}

/** A running hash. `digest` says what it is so far and lets it run on. */
export interface RunningDigest {
  /** Goes on with these octets. */
  update(bytes: Uint8Array): void;
  /** The digest of everything so far; may be asked any number of times, with updates between. */
  digest(): Uint8Array;
}

const empty = new Uint8Array(0);

/** The octets of a stream, and a window on the last ones that were taken. */
export class Input {
  #chunk: Uint8Array = empty;
  #view: DataView = new DataView(empty.buffer);
  /** Index in the chunk of the next octet. */
  #at = 0;
  /** What follows the chunk, when the chunk was made by `peek`. */
  #next: Uint8Array | null = null;
  /** Stream offset of the chunk's first octet. */
  #base = 0;
  #ended = false;

  readonly #scratch = new Uint8Array(takeSizeMax);
  readonly #scratchView = new DataView(this.#scratch.buffer);

  /** The window: what `take` or `words` found, in `view` from `start` on. */
  #window: DataView = this.#view;
  #start = 0;

  #digest: RunningDigest | null;
  /** Index in the chunk of the first octet that was not hashed. */
  #unhashed = 0;
  /** Octets of the scratch that were not hashed. */
  #held = 0;

  /** Whether integers are little-endian. */
  littleEndian = true;

  /** An input without octets. @param digest runs over everything that is consumed. */
  constructor(digest: RunningDigest | null = null) {
    this.#digest = digest;
  }

  /** Says that nobody will ask for a digest: nothing is hashed any more. */
  dropDigest(): void {
    this.#digest = null;
    this.#held = 0;
  }

  /** Stream offset of the next octet. */
  get offset(): number {
    return this.#base + this.#at;
  }

  /** The window of the last `take` or `words`. */
  get view(): DataView {
    return this.#window;
  }

  /** Where the window begins in `view`. */
  get start(): number {
    return this.#start;
  }

  /** Gives the next chunk. The one before must be used up: the generator yielded. */
  push(chunk: Uint8Array): void {
    this.#base += this.#chunk.length;
    this.#enter(chunk);
  }

  /** Says that no chunk follows. */
  end(): void {
    this.#ended = true;
  }

  /** Lets go of the chunk; nothing may be read any more. */
  drop(): void {
    this.#next = null;
    this.#enter(empty);
    this.#window = this.#view;
  }

  /** 32 bits of the window. */
  u32(at: number): number {
    return this.#window.getUint32(this.#start + at, this.littleEndian);
  }

  /** 32 bits of the window, signed. */
  i32(at: number): number {
    return this.#window.getInt32(this.#start + at, this.littleEndian);
  }

  /** 16 bits of the window. */
  u16(at: number): number {
    return this.#window.getUint16(this.#start + at, this.littleEndian);
  }

  /** One octet of the window. */
  u8(at: number): number {
    return this.#window.getUint8(this.#start + at);
  }

  /** The upper half of a 64-bit integer of the window. */
  high(at: number): number {
    return this.u32(this.littleEndian ? at + 4 : at);
  }

  /** The lower half of a 64-bit integer of the window. */
  low(at: number): number {
    return this.u32(this.littleEndian ? at : at + 4);
  }

  /** Index of the first octet of the window from `from` to `to` that is not zero, or -1. */
  nonZero(from: number, to: number): number {
    for (let at = from; at < to; at++) if (this.u8(at) !== 0) return at;
    return -1;
  }

  /**
   * Takes `size` octets, as `taking` would, if the chunk has them all; whether it did.
   * The quick way for what is asked for millions of times.
   */
  takes(size: number): boolean {
    if (this.#chunk.length - this.#at < size) return false;
    if (this.#held > 0) this.#flush();
    this.#window = this.#view;
    this.#start = this.#at;
    this.#at += size;
    return true;
  }

  /** Makes the next `size` octets the window. */
  *take(size: number): Step {
    if (this.takes(size)) return;
    this.#flush();
    let have = 0;
    while (true) {
      const count = Math.min(size - have, this.#chunk.length - this.#at);
      this.#scratch.set(this.#chunk.subarray(this.#at, this.#at + count), have);
      this.#at += count;
      this.#unhashed = this.#at;
      have += count;
      if (have === size) break;
      yield* this.#more();
    }
    this.#held = size;
    this.#window = this.#scratchView;
    this.#start = 0;
  }

  /** Makes the window as many whole words of eight octets as there are, at least one and at most `max`; how many. */
  *words(max: number): Step<number> {
    const count = Math.min(max, (this.#chunk.length - this.#at) >>> 3);
    if (count > 0) {
      this.takes(8 * count);
      return count;
    }
    yield* this.take(8);
    return 1;
  }

  /** Looks at the next `size` octets without taking them; how many there are before the end of the input. */
  *peek(size: number): Step<number> {
    while (this.#chunk.length - this.#at < size && !(this.#ended && this.#next === null)) {
      this.#flush();
      const rest = this.#chunk.slice(this.#at);
      this.#base += this.#at;
      this.#enter(this.#next ?? empty);
      this.#next = null;
      while (this.#chunk.length === 0 && !this.#ended) yield;
      const more = this.#chunk;
      const split = Math.min(size - rest.length, more.length);
      const joined = new Uint8Array(rest.length + split);
      joined.set(rest);
      joined.set(more.subarray(0, split), rest.length);
      this.#enter(joined);
      if (split < more.length) this.#next = more.subarray(split);
    }
    const count = Math.min(size, this.#chunk.length - this.#at);
    this.#window = this.#view;
    this.#start = this.#at;
    return count;
  }

  /** Takes the next octets, at least one and at most `max`, as a view that is good until the next call. */
  *some(max: number): Step<Uint8Array> {
    while (this.#at === this.#chunk.length) yield* this.#more();
    const from = this.#at;
    this.#at = Math.min(this.#chunk.length, from + max);
    if (this.#held > 0) this.#flush();
    return this.#chunk.subarray(from, this.#at);
  }

  /** Passes over `size` octets. */
  *skip(size: number): Step {
    if (this.#held > 0) this.#flush();
    while (size > this.#chunk.length - this.#at) {
      size -= this.#chunk.length - this.#at;
      this.#at = this.#chunk.length;
      yield* this.#more();
    }
    this.#at += size;
  }

  /** Whether another octet is there. */
  *any(): Step<boolean> {
    while (this.#at === this.#chunk.length) {
      if (this.#spent()) return false;
      yield* this.#more();
    }
    return true;
  }

  /** The digest of everything before the window, which must be that of the last `take`; null without a hash. */
  digestBefore(): Uint8Array | null {
    if (this.#digest === null) return null;
    if (this.#held === 0) this.#hash(this.#start);
    return this.#digest.digest();
  }

  #spent(): boolean {
    return this.#ended && this.#next === null && this.#at === this.#chunk.length;
  }

  /** Goes to the next chunk. @throws {Cut} when there is none. */
  *#more(): Step {
    this.#flushChunk();
    if (this.#next !== null) {
      this.#base += this.#chunk.length;
      const next = this.#next;
      this.#next = null;
      this.#enter(next);
      return;
    }
    if (this.#ended) throw new Cut();
    yield;
  }

  #enter(chunk: Uint8Array): void {
    this.#flushChunk();
    this.#chunk = chunk;
    this.#view = new DataView(chunk.buffer, chunk.byteOffset, chunk.length);
    this.#at = 0;
    this.#unhashed = 0;
  }

  /** Hashes what was taken through the scratch, and then what was consumed of the chunk. */
  #flush(): void {
    if (this.#held > 0) {
      this.#digest?.update(this.#scratch.subarray(0, this.#held));
      this.#held = 0;
    }
    this.#flushChunk();
  }

  #flushChunk(): void {
    if (this.#digest !== null) this.#hash(this.#at);
  }

  #hash(to: number): void {
    if (to > this.#unhashed) {
      this.#digest?.update(this.#chunk.subarray(this.#unhashed, to));
      this.#unhashed = to;
    }
  }
}
