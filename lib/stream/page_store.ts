/**
 * The pages of a guest as they last were, for whoever needs a page's old contents to make sense of its new ones.
 *
 * Invariants:
 * - A page that was never written is not there; it is never taken for zero.
 * - What is kept in memory has a bound, which is checked before memory is taken.
 *
 * @module
 */
import { DroverError } from "../base/errors.ts";
import { pageSize } from "./item.ts";

/** Remembers pages by their frame number. */
export interface PageStore {
  /** Copies the page into `into`, 4096 octets; false, and `into` untouched, when there is none. */
  read(pfn: number, into: Uint8Array): boolean;
  /** Keeps a copy of `page`, 4096 octets, in place of what was there. */
  write(pfn: number, page: Uint8Array): void;
}

/** Pages that a {@link MemoryPageStore} holds at most when nothing else is said: 4 GiB. */
export const storePagesMax: number = 2 ** 20;

/** Pages that are taken from the system at once: 1 MiB. */
const slabPages = 256;

/** Frame numbers that share a part of the index. */
const indexPages = 1024;

/**
 * A page store in memory. It takes room for pages that were written and for nothing between them.
 *
 * ```ts
 * import { MemoryPageStore } from "./page_store.ts";
 * const store = new MemoryPageStore();
 * const page = new Uint8Array(4096);
 * store.write(7, page);
 * console.log(store.read(7, page), store.read(8, page)); // true false
 * ```
 */
export class MemoryPageStore implements PageStore {
  readonly #pagesMax: number;
  readonly #slabs: Uint8Array[] = [];
  /** For each 1024 frame numbers, their slots counted from 1. */
  readonly #index = new Map<number, Uint32Array>();
  #count = 0;

  /** An empty store. @param options `pagesMax` bounds the pages that it holds. */
  constructor(options: { pagesMax?: number } = {}) {
    this.#pagesMax = options.pagesMax ?? storePagesMax;
  }

  /** Pages that are held. */
  get count(): number {
    return this.#count;
  }

  /** Copies a page out. */
  read(pfn: number, into: Uint8Array): boolean {
    const slot = this.#index.get(Math.floor(pfn / indexPages))?.[pfn % indexPages] ?? 0;
    if (slot === 0) return false;
    into.set(this.#at(slot - 1));
    return true;
  }

  /**
   * Keeps a page.
   *
   * @throws {DroverError} `unsupported` when the store is full.
   */
  write(pfn: number, page: Uint8Array): void {
    if (page.length !== pageSize) throw new TypeError(`Cannot store a page of ${page.length} octets`);
    const key = Math.floor(pfn / indexPages);
    let slots = this.#index.get(key);
    let slot = slots?.[pfn % indexPages] ?? 0;
    if (slot === 0) {
      if (this.#count >= this.#pagesMax) {
        throw new DroverError(
          "unsupported",
          `Cannot remember page ${pfn}: ${this.#count} pages are held, and no more may be`,
        );
      }
      if (slots === undefined) {
        slots = new Uint32Array(indexPages);
        this.#index.set(key, slots);
      }
      if (this.#count % slabPages === 0) this.#slabs.push(new Uint8Array(slabPages * pageSize));
      slot = ++this.#count;
      slots[pfn % indexPages] = slot;
    }
    this.#at(slot - 1).set(page);
  }

  #at(slot: number): Uint8Array {
    const at = slot % slabPages * pageSize;
    return this.#slabs[Math.floor(slot / slabPages)]?.subarray(at, at + pageSize) ?? new Uint8Array(0);
  }
}
