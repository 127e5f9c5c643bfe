/**
 * The receiver's side of Remus's compressed epochs: entries and chunks in, and at the commit the pages that changed.
 *
 * ```text
 *        entries(), data()            commit()
 * open ---------------------> open      |
 *   | finish()                          v
 *   +-----------------------> finished ---> open, of the next epoch
 *   any refusal -> broken;  discard(): from anywhere to open
 * ```
 *
 * Invariants:
 * - Committed memory is only read before `commit()`. Deltas go onto copies, in order, a page that comes twice onto its
 *   copy. So an epoch that is refused or never ends has changed nothing.
 * - At every instant no more pages are encoded than entries that carry a page came before them; at the end as many, and
 *   nothing is behind them.
 * - Chunks may break anywhere. What is kept of them is the beginning of one encoding, 5120 octets at most.
 * - Copies are made of pages that change, each once: at most as many as the guest has.
 *
 * @module
 */
import { FormatError } from "../base/errors.ts";
import { decodeRemusPage, measureRemusPage, remusDeltaSizeMax } from "./delta.ts";
import { carriesPage, pageSize } from "./item.ts";

/** Copies of pages are allocated this many at a time. */
const slabPages = 256;

/** What a {@link RemusReceiver} needs to know. */
export interface RemusReceiverOptions {
  /** Pages of the guest: every frame number is below. */
  pages: number;
  /** Writes a page of committed memory into `page`; zeros where there is none. */
  read: (pfn: number, page: Uint8Array<ArrayBuffer>) => void;
}

/** Decodes one epoch after the other, each to scratch first. */
export class RemusReceiver {
  readonly #pages: number;
  readonly #read: (pfn: number, page: Uint8Array<ArrayBuffer>) => void;
  #state: "open" | "finished" | "broken" = "open";
  /** Frame numbers that carry a page and have none yet: batches, and how far into the first of them. */
  #batches: Uint32Array[] = [];
  #batch = 0;
  #entry = 0;
  #announced = 0;
  #decoded = 0;
  /** The beginning of an encoding that goes on in the next chunk, and its stream offset. */
  readonly #carry = new Uint8Array(remusDeltaSizeMax);
  #carrySize = 0;
  #carryOffset = 0;
  /** Copies of changed pages, by frame number in the order of their first change. */
  #copies = new Map<number, Uint8Array<ArrayBuffer>>();
  #slab = new Uint8Array(0);

  /** A receiver whose committed memory is that of the last epoch. */
  constructor(options: RemusReceiverOptions) {
    this.#pages = options.pages;
    this.#read = options.read;
  }

  /** Pages that `commit()` would write. */
  get changed(): number {
    return this.#copies.size;
  }

  /** Pages decoded in this epoch. */
  get decoded(): number {
    return this.#decoded;
  }

  /**
   * Takes the entries of a batch.
   *
   * @param offset stream offset of the first.
   * @throws {FormatError} rule `delta.remus.pfn` for a frame number that the guest has not.
   */
  entries(entries: Uint32Array, offset = 0): void {
    this.#guard(() => {
      const pfns = new Uint32Array(entries.length);
      let count = 0;
      for (let index = 0; index < entries.length; index++) {
        const entry = entries[index] ?? 0;
        if (!carriesPage(entry >>> 28)) continue;
        const pfn = entry & 0x0fff_ffff;
        if (pfn >= this.#pages) {
          throw new FormatError(
            "delta.remus.pfn",
            offset,
            `Cannot take a page: its frame number is ${pfn}, and should be below ${this.#pages}`,
          );
        }
        pfns[count++] = pfn;
      }
      if (count > 0) this.#batches.push(pfns.subarray(0, count));
      this.#announced += count;
    });
  }

  /**
   * Takes a chunk of compressed pages.
   *
   * @param offset stream offset of its first octet.
   * @throws {FormatError} what {@link measureRemusPage} refuses, and `delta.remus.unannounced` for a page without entry.
   */
  data(bytes: Uint8Array, offset = 0): void {
    this.#guard(() => {
      let at = this.#carrySize > 0 ? this.#finishCarry(bytes, offset) : 0;
      while (at < bytes.length) {
        const end = measureRemusPage(bytes, at, offset);
        if (end === null) {
          this.#carry.set(bytes.subarray(at));
          this.#carrySize = bytes.length - at;
          this.#carryOffset = offset + at;
          return;
        }
        this.#decode(bytes, at, offset);
        at = end;
      }
    });
  }

  /**
   * Ends the epoch's pages.
   *
   * @param offset stream offset of the end of the body.
   * @throws {FormatError} rule `delta.remus.missing` for entries without page, `delta.remus.trailing` for octets
   *   without entry, and those of {@link decodeRemusPage} for a last page that is cut short.
   */
  finish(offset = 0): void {
    this.#guard(() => {
      const missing = this.#announced - this.#decoded;
      if (missing > 0 && this.#carrySize > 0) {
        // It is cut short, or it would have been decoded: this throws.
        decodeRemusPage(
          this.#carry.subarray(0, this.#carrySize),
          0,
          new Uint8Array(pageSize),
          this.#carryOffset,
        );
      }
      if (missing > 0) {
        throw new FormatError(
          "delta.remus.missing",
          offset,
          `Cannot end an epoch: ${this.#announced} pages are announced, ${this.#decoded} came`,
        );
      }
      if (this.#carrySize > 0) {
        throw new FormatError(
          "delta.remus.trailing",
          this.#carryOffset,
          `Cannot end an epoch: ${this.#carrySize} octets are behind its last page`,
        );
      }
      this.#state = "finished";
    });
  }

  /**
   * Hands out every page that changed, once, and begins the next epoch. Only behind `finish()`.
   *
   * @param write stores a page in committed memory; it may keep the view.
   */
  commit(write: (pfn: number, page: Uint8Array<ArrayBuffer>) => void): void {
    if (this.#state !== "finished") throw new TypeError(`Cannot commit an epoch that is ${this.#state}`);
    for (const [pfn, page] of this.#copies) write(pfn, page);
    this.discard();
  }

  /** Forgets the epoch; committed memory is as it was. */
  discard(): void {
    this.#state = "open";
    this.#batches = [];
    this.#batch =
      this.#entry =
      this.#announced =
      this.#decoded =
      this.#carrySize =
        0;
    this.#copies = new Map();
    this.#slab = new Uint8Array(0);
  }

  /** Runs a step of an open epoch; a refusal breaks it. */
  #guard(step: () => void): void {
    if (this.#state !== "open") throw new TypeError(`Cannot go on with an epoch that is ${this.#state}`);
    try {
      step();
    } catch (error) {
      this.#state = "broken";
      throw error;
    }
  }

  /** Completes the kept beginning; returns how much of the chunk it took. */
  #finishCarry(bytes: Uint8Array, offset: number): number {
    const size = this.#carrySize;
    const taken = Math.min(bytes.length, this.#carry.length - size);
    this.#carry.set(bytes.subarray(0, taken), size);
    const carry = this.#carry.subarray(0, size + taken);
    // Whatever is wrong is in the new part: the old one has been looked at.
    const end = measureRemusPage(carry, 0, offset - size);
    if (end === null) {
      this.#carrySize += taken;
      return taken;
    }
    this.#decode(carry, 0, this.#carryOffset);
    this.#carrySize = 0;
    return end - size;
  }

  /** Decodes a measured page for the next entry. */
  #decode(bytes: Uint8Array, at: number, offset: number): void {
    const pfn = this.#nextPfn();
    if (pfn === undefined) {
      throw new FormatError(
        "delta.remus.unannounced",
        offset + at,
        `Cannot decode a page: ${this.#announced} are announced, and this is one more`,
      );
    }
    this.#decoded++;
    const first = bytes[at];
    if (first === 0x00) return;
    let page = this.#copies.get(pfn);
    if (page === undefined) {
      page = this.#newPage();
      if (first !== 0x80) this.#read(pfn, page);
      this.#copies.set(pfn, page);
    }
    decodeRemusPage(bytes, at, page, offset);
  }

  #nextPfn(): number | undefined {
    const pfn = this.#batches[this.#batch]?.[this.#entry];
    if (pfn === undefined) return undefined;
    this.#entry++;
    if (this.#entry === this.#batches[this.#batch]?.length) {
      this.#batch++;
      this.#entry = 0;
    }
    return pfn;
  }

  #newPage(): Uint8Array<ArrayBuffer> {
    const at = this.#copies.size % slabPages * pageSize;
    if (at === 0) this.#slab = new Uint8Array(Math.min(slabPages, this.#pages) * pageSize);
    return this.#slab.subarray(at, at + pageSize);
  }
}
