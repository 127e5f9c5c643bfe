/**
 * PAGE_DATA as the verifier sees it: a count, that many words, and contents that are passed over.
 *
 * Invariants:
 * - No count is believed: words are read while the body has room for them, and never kept, but for at most
 *   65 536 frame numbers that duplicates are looked for among.
 * - Each rule is reported once per record, at its first offence.
 *
 * @module
 */
import { hex, type Trace } from "./findings.ts";
import type { Step } from "./input.ts";

const pageSize = 4096;

/** The most frame numbers that a {@link PfnSet} holds. */
const setSizeMax = 65_536;

/**
 * Frame numbers of one record. While they ascend, as those of all known senders do, nothing but the last one is
 * looked at; at the first that does not, a hash table is made of those so far.
 */
export class PfnSet {
  #pfns = new Float64Array(1024);
  #count = 0;
  #last = -1;
  /** Open addressing: index in `pfns` plus one, or 0. */
  #slots = new Uint32Array(0);
  #hashed = false;
  #overflow = false;

  /** Whether not all numbers could be compared with all others. */
  get overflow(): boolean {
    return this.#overflow;
  }

  /** Forgets all numbers, and keeps the memory. */
  clear(): void {
    this.#count = 0;
    this.#last = -1;
    this.#hashed = false;
    this.#overflow = false;
  }

  /** Adds a number; whether it is new. */
  add(pfn: number): boolean {
    if (!this.#hashed) {
      if (pfn > this.#last) {
        this.#last = pfn;
        if (this.#count < setSizeMax) this.#append(pfn);
        else this.#count = setSizeMax + 1;
        return true;
      }
      if (pfn === this.#last) return false;
      this.#overflow = this.#count > setSizeMax;
      this.#count = Math.min(this.#count, setSizeMax);
      this.#index();
    }
    return this.#insert(pfn);
  }

  #append(pfn: number): void {
    if (this.#count === this.#pfns.length) {
      const grown = new Float64Array(2 * this.#pfns.length);
      grown.set(this.#pfns);
      this.#pfns = grown;
    }
    this.#pfns[this.#count++] = pfn;
  }

  /** Makes the table for at least twice as many numbers as there are. */
  #index(): void {
    let size = 4096;
    while (size < 4 * this.#count) size *= 2;
    if (this.#slots.length < size) this.#slots = new Uint32Array(size);
    else this.#slots.fill(0);
    this.#hashed = true;
    for (let index = 0; index < this.#count; index++) {
      this.#slots[this.#find(this.#pfns[index] ?? 0)] = index + 1;
    }
  }

  #insert(pfn: number): boolean {
    const slot = this.#find(pfn);
    if (this.#slots[slot] !== 0) return false;
    if (this.#count === setSizeMax) {
      this.#overflow = true;
      return true;
    }
    this.#append(pfn);
    this.#slots[slot] = this.#count;
    if (2 * this.#count > this.#slots.length) this.#index();
    return true;
  }

  /** The slot of a number, or the free one where it belongs. */
  #find(pfn: number): number {
    const mask = this.#slots.length - 1;
    const high = Math.floor(pfn / 2 ** 32);
    let slot = Math.imul(pfn ^ Math.imul(high, 0x9e37_79b1), 0x85eb_ca6b);
    slot = (slot ^ slot >>> 15) & mask;
    while (true) {
      const index = this.#slots[slot] ?? 0;
      if (index === 0 || this.#pfns[index - 1] === pfn) return slot;
      slot = (slot + 1) & mask;
    }
  }
}

/** What to hold a PAGE_DATA record against. */
export interface PageDataRules {
  /** Whose rules. */
  prefix: "libxc.page_data" | "region.page_data";
  /** Octets of the body. */
  length: number;
  /** The highest frame number that may stand in it. */
  pfnMax: number;
  /** Whether only ordinary pages may. */
  normalOnly: boolean;
}

/**
 * Reads the body of a PAGE_DATA record up to its pages, which the caller passes over.
 *
 * @returns how many pages it carries.
 */
export function* verifyPageData(trace: Trace, pfns: PfnSet, rules: PageDataRules): Step<number> {
  const { input } = trace;
  const { prefix, length, pfnMax, normalOnly } = rules;
  const body = input.offset;
  if (length < 8) {
    trace.report(`${prefix}.length`, body - 4, `the length is ${length} and should be at least 16`);
    return 0;
  }
  if (!input.takes(8)) yield* input.take(8);
  const count = input.u32(0);
  const reserved = input.u32(4);
  if (count === 0) trace.report(`${prefix}.count`, body, "the count is 0 and should be at least 1");
  if (reserved !== 0) {
    trace.report(`${prefix}.reserved`, body + 4, `the reserved field is ${hex(reserved)} and should be 0`);
  }
  if (count === 0) return 0;
  const room = Math.floor((length - 8) / 8);
  if (count > room) {
    trace.report(
      `${prefix}.entries`,
      body,
      `the count is ${count} and the body has room for ${room} entries`,
    );
    return 0;
  }

  let pages = 0;
  let badReserved = false;
  let badType = false;
  let badPfn = false;
  let duplicate = false;
  pfns.clear();
  const highAt = input.littleEndian ? 4 : 0;
  const lowAt = 4 - highAt;
  const { littleEndian } = input;
  for (let index = 0; index < count;) {
    const words = yield* input.words(count - index);
    const { view, start } = input;
    for (let word = 0; word < words; word++, index++) {
      const at = start + 8 * word;
      const high = view.getUint32(at + highAt, littleEndian);
      let pfn = view.getUint32(at + lowAt, littleEndian);
      let carries = true;
      if (high !== 0) {
        const type = high >>> 28;
        pfn += (high & 0xf_ffff) * 2 ** 32;
        carries = type <= 4 || type >= 9 && type <= 12;
        if (!badReserved && (high & 0x0ff0_0000) !== 0) {
          badReserved = true;
          trace.report(
            `${prefix}.pfn_reserved`,
            body + 8 + 8 * index,
            `entry ${index} is ${hex(high)} in its upper half and bits 20 to 27 of that should be 0`,
          );
        }
        if (!badType && (normalOnly ? type !== 0 : type >= 5 && type <= 8)) {
          badType = true;
          trace.report(
            `${prefix}.type`,
            body + 8 + 8 * index,
            `entry ${index} has type ${type} and should have ${normalOnly ? "0" : "0 to 4 or 9 to 15"}`,
          );
        }
      }
      if (carries) pages++;
      if (pfn > pfnMax && !badPfn) {
        badPfn = true;
        trace.report(
          `${prefix}.pfn`,
          body + 8 + 8 * index,
          `entry ${index} is frame ${hex(pfn)} and the last one is ${hex(Math.max(pfnMax, 0))}`,
        );
      }
      if (!pfns.add(pfn) && !duplicate) {
        duplicate = true;
        trace.report(
          `${prefix}.duplicate`,
          body + 8 + 8 * index,
          `entry ${index} is frame ${hex(pfn)}, which stands in the record already`,
        );
      }
    }
  }
  if (pfns.overflow) {
    trace.report(
      `${prefix}.unchecked`,
      body,
      `${count} entries, out of order: duplicates were looked for among ${setSizeMax} of them`,
    );
  }
  const size = 8 + 8 * count + pageSize * pages;
  if (length !== size) {
    trace.report(
      `${prefix}.size`,
      body - 4,
      `the length is ${length} and should be ${size}: 8, ${count} entries, ${pages} pages`,
    );
  }
  return pages;
}
