/**
 * A set of whole numbers below a fixed one, a bit each, with questions about ranges.
 *
 * Invariants: bits beyond `length` are never set; `count` is the number of set bits. Ranges are half-open and lie
 * within `length`; another range is a mistake of the caller (`RangeError`).
 *
 * @module
 */

/** The most bits: 512 MiB of them. */
export const bitmapLengthMax: number = 2 ** 32;

/**
 * A fixed number of bits.
 *
 * @example
 * ```ts
 * import { Bitmap } from "./bitmap.ts";
 *
 * const bits = new Bitmap(100);
 * bits.set(10, 20);
 * if (!bits.all(12, 20) || bits.any(20, 100) || bits.next(0, true) !== 10) throw new Error("Wrong bits");
 * ```
 */
export class Bitmap {
  /** How many bits there are. */
  readonly length: number;
  readonly #words: Uint32Array<ArrayBuffer>;
  #count = 0;

  /**
   * All clear, or as `toBytes()` of another one said.
   *
   * @throws {RangeError} for a length that cannot be; bytes that are too few, too many, or have a bit beyond the end
   */
  constructor(length: number, bytes?: Uint8Array) {
    if (!Number.isInteger(length) || length < 0 || length > bitmapLengthMax) {
      throw new RangeError(`Cannot make a bitmap of ${length} bits: at most ${bitmapLengthMax}`);
    }
    this.length = length;
    this.#words = new Uint32Array(Math.ceil(length / 32));
    if (bytes === undefined) return;
    if (bytes.length !== bitmapBytes(length)) {
      throw new RangeError(`Cannot make a bitmap of ${length} bits from ${bytes.length} bytes`);
    }
    for (let at = 0; at < bytes.length; at++) {
      const word = at >>> 2;
      this.#words[word] = (this.#words[word] ?? 0) | (bytes[at] ?? 0) << (at & 3) * 8;
    }
    const rest = length % 32;
    const last = this.#words.at(-1) ?? 0;
    if (rest !== 0 && last >>> rest !== 0) {
      throw new RangeError(`Cannot make a bitmap of ${length} bits: a bit beyond the end is set`);
    }
    for (const word of this.#words) this.#count += ones(word);
  }

  /** How many bits are set. */
  get count(): number {
    return this.#count;
  }

  /** Whether a bit is set. */
  has(index: number): boolean {
    return ((this.#words[Math.floor(index / 32)] ?? 0) >>> (index & 31) & 1) === 1;
  }

  /** Sets the bits from `from` to below `to`. */
  set(from: number, to: number = from + 1): void {
    this.#change(from, to, true);
  }

  /** Clears the bits from `from` to below `to`. */
  clear(from: number, to: number = from + 1): void {
    this.#change(from, to, false);
  }

  /** Whether all bits of a range are set. */
  all(from: number, to: number): boolean {
    if (to - from === 1) return this.has(from);
    return this.next(from, false, to) === to;
  }

  /** Whether any bit of a range is set. */
  any(from: number, to: number): boolean {
    if (to - from === 1) return this.has(from);
    return this.next(from, true, to) !== to;
  }

  /** The first index from `from` on, below `to`, whose bit is `value`; `to` when there is none. */
  next(from: number, value: boolean, to: number = this.length): number {
    const flip = value ? 0 : 0xffffffff;
    for (let at = from; at < to;) {
      const index = Math.floor(at / 32);
      const word = (((this.#words[index] ?? 0) ^ flip) >>> (at & 31)) >>> 0;
      if (word !== 0) return Math.min(at + 31 - Math.clz32(word & -word), to);
      at = (index + 1) * 32;
    }
    return to;
  }

  /** The runs of set bits in a range, in order; what changes behind the place that was reached is seen. */
  *runs(from: number = 0, to: number = this.length): Generator<{ from: number; to: number }> {
    for (let at = this.next(from, true, to); at < to; at = this.next(at, true, to)) {
      const end = this.next(at, false, to);
      yield { from: at, to: end };
      at = end;
    }
  }

  /** Sets what is set in another of the same length. */
  add(other: Bitmap): void {
    for (const run of other.runs()) this.set(run.from, run.to);
  }

  /** The bits, the first in the lowest bit of the first byte. */
  toBytes(): Uint8Array<ArrayBuffer> {
    const bytes = new Uint8Array(bitmapBytes(this.length));
    for (let at = 0; at < bytes.length; at++) bytes[at] = (this.#words[at >>> 2] ?? 0) >>> (at & 3) * 8;
    return bytes;
  }

  #change(from: number, to: number, value: boolean): void {
    if (!(Number.isInteger(from) && Number.isInteger(to) && from >= 0 && from <= to && to <= this.length)) {
      throw new RangeError(`Cannot change the bits from ${from} to ${to}: there are ${this.length}`);
    }
    for (let at = from; at < to;) {
      const index = Math.floor(at / 32);
      const end = Math.min((index + 1) * 32, to);
      const mask = ((0xffffffff >>> (32 - (end - at))) << (at & 31)) >>> 0;
      const before = this.#words[index] ?? 0;
      const after = (value ? before | mask : before & ~mask) >>> 0;
      this.#words[index] = after;
      this.#count += value ? ones(before ^ after) : -ones(before ^ after);
      at = end;
    }
  }
}

/** How many bytes `toBytes()` gives for so many bits. */
export function bitmapBytes(length: number): number {
  return Math.ceil(length / 8);
}

/** How many bits of a word are set. */
function ones(word: number): number {
  let sum = word - ((word >>> 1) & 0x55555555);
  sum = (sum & 0x33333333) + ((sum >>> 2) & 0x33333333);
  return Math.imul((sum + (sum >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24;
}
