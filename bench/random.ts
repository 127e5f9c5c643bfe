/**
 * The bench's source of chance: small, fast, and the same on every machine for the same seed.
 *
 * A generator is named by a seed and any number of labels (a path, a purpose), so that the content of
 * one file does not depend on how many files were made before it.
 *
 * @module
 */

/** A seeded generator (sfc32). Not for secrets. */
export class Random {
  #a: number;
  #b: number;
  #c: number;
  #d = 1;

  /** @param labels what this stream of numbers is for; equal labels give equal numbers. */
  constructor(...labels: readonly (string | number)[]) {
    let hash = 0x811c9dc5;
    for (const label of labels) {
      const text = `${label}\n`;
      for (let at = 0; at < text.length; at++) hash = Math.imul(hash ^ text.charCodeAt(at), 0x01000193);
    }
    const mix = (): number => {
      hash = (hash + 0x9e3779b9) | 0;
      let word = Math.imul(hash ^ (hash >>> 16), 0x21f0aaad);
      word = Math.imul(word ^ (word >>> 15), 0x735a2d97);
      return word ^ (word >>> 15);
    };
    this.#a = mix();
    this.#b = mix();
    this.#c = mix();
    for (let round = 0; round < 12; round++) this.next();
  }

  /** An unsigned 32-bit number. */
  next(): number {
    const sum = (((this.#a + this.#b) | 0) + this.#d) | 0;
    this.#d = (this.#d + 1) | 0;
    this.#a = this.#b ^ (this.#b >>> 9);
    this.#b = (this.#c + (this.#c << 3)) | 0;
    this.#c = (((this.#c << 21) | (this.#c >>> 11)) + sum) | 0;
    return sum >>> 0;
  }

  /** A whole number from 0 to `count` - 1. */
  below(count: number): number {
    return Math.floor((this.next() / 4294967296) * count);
  }

  /** A whole number from `low` to `high`, both included. */
  between(low: number, high: number): number {
    return low + this.below(high - low + 1);
  }

  /** A number from 0 to below 1. */
  real(): number {
    return this.next() / 4294967296;
  }

  /** True with this probability. */
  chance(probability: number): boolean {
    return this.next() < probability * 4294967296;
  }

  /** A number of a log-normal distribution. */
  logNormal(median: number, sigma: number): number {
    const radius = Math.sqrt(-2 * Math.log(1 - this.real()));
    return median * Math.exp(sigma * radius * Math.cos(2 * Math.PI * this.real()));
  }

  /** 1, 2, 3, …: geometric with this mean. */
  run(mean: number): number {
    return 1 + Math.floor(Math.log(1 - this.real()) / Math.log(1 - 1 / mean));
  }

  /** One item. */
  pick<T>(items: readonly T[]): T {
    const item = items[this.below(items.length)];
    if (item === undefined) throw new RangeError("Cannot pick from an empty list");
    return item;
  }

  /** `count` different whole numbers below `limit`, ascending. */
  sample(limit: number, count: number): number[] {
    const chosen = new Set<number>();
    // Floyd's method: every subset is equally likely, and nothing the size of `limit` is kept.
    for (let top = Math.max(0, limit - count); top < limit; top++) {
      const index = this.below(top + 1);
      chosen.add(chosen.has(index) ? top : index);
    }
    return [...chosen].sort((left, right) => left - right);
  }

  /** Overwrites `bytes` with noise. */
  fill(bytes: Uint8Array): void {
    const whole = bytes.length & ~3;
    for (let at = 0; at < whole; at += 4) {
      const word = this.next();
      bytes[at] = word;
      bytes[at + 1] = word >>> 8;
      bytes[at + 2] = word >>> 16;
      bytes[at + 3] = word >>> 24;
    }
    for (let at = whole, word = this.next(); at < bytes.length; at++, word >>>= 8) bytes[at] = word;
  }
}

/** Draws indexes of a list with Zipf-like frequencies, in constant time. */
export class Zipf {
  #table: Uint16Array;

  /** @param count length of the list, at most 65536; @param flatness larger is closer to uniform. */
  constructor(count: number, flatness = 2.7) {
    this.#table = new Uint16Array(65536);
    let total = 0;
    for (let rank = 0; rank < count; rank++) total += 1 / (rank + flatness);
    let sum = 0;
    for (let rank = 0, at = 0; rank < count; rank++) {
      sum += 1 / (rank + flatness);
      const end = rank === count - 1 ? 65536 : Math.round((sum / total) * 65536);
      this.#table.fill(rank, at, end);
      at = end;
    }
  }

  /** One index, small ones far more often. */
  draw(random: Random): number {
    return this.#table[random.next() & 0xffff] ?? 0;
  }
}
