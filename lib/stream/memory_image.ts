/**
 * Where the pages of a memory image are kept, and an image that is kept in this process's memory.
 *
 * Invariants:
 * - A page that nothing wrote is zero. An image does not tell it from one that was written as zero.
 * - What an image may hold is bounded; where pages are stored is up to an {@link ImageStore}.
 *
 * @module
 */
import { FormatError } from "../base/errors.ts";
import { type PageRange, pageSize } from "./item.ts";
import { PageSet } from "./page_set.ts";

/** Where pages are written, and read back as the base of deltas. */
export interface ImageSink {
  /** Takes the contents of consecutive pages from `pfn` on; the view is valid during the call only. */
  write(pfn: number, pages: Uint8Array): void;
  /** Makes pages zero. The ranges are ascending and do not overlap. */
  zero(ranges: readonly PageRange[]): void;
  /** Fills `into` with consecutive pages from `pfn` on. */
  read(pfn: number, into: Uint8Array): void;
  /** Takes the types of the entries of a batch, before its contents. */
  types?(pfns: Float64Array, types: Uint8Array): void;
  /** Takes the number of pages that the memory has, where the stream says it. */
  resize?(pages: number): void;
}

/** A sink that knows what was written to it. */
export interface ImageStore extends ImageSink {
  /** The pages that may differ from zero, ascending. */
  runs(): Iterable<PageRange>;
  /** Forgets everything. */
  clear(): void;
}

const chunkPages = 16;
const chunkSize = chunkPages * pageSize;
const typeSize = 64;

/** A sparse image in this process's memory. */
export class MemoryImage implements ImageStore {
  readonly #sizeMax: number;
  readonly #chunks = new Map<number, Uint8Array>();
  readonly #written = new PageSet();
  readonly #types = new Map<number, number>();
  #size = 0;
  #pages = 0;

  /** An empty image. @param options `sizeMax`: octets that it may take, about. */
  constructor(options: { sizeMax: number }) {
    this.#sizeMax = options.sizeMax;
  }

  /** The pages that the memory has: what the stream says, or one more than the highest that it wrote. */
  get pages(): number {
    return this.#pages;
  }

  /** See {@link ImageSink}. @throws {FormatError} rule `image.size`. */
  write(pfn: number, pages: Uint8Array): void {
    for (let at = 0; at < pages.length; at += pageSize, pfn++) {
      this.#chunk(pfn).set(pages.subarray(at, at + pageSize), pfn % chunkPages * pageSize);
      this.#written.add(pfn);
    }
    this.resize(Math.max(this.#pages, pfn));
  }

  /** See {@link ImageSink}. */
  zero(ranges: readonly PageRange[]): void {
    for (const pfn of this.#written.within(ranges)) {
      const at = pfn % chunkPages * pageSize;
      this.#chunks.get(Math.floor(pfn / chunkPages))?.fill(0, at, at + pageSize);
      this.#written.delete(pfn);
    }
  }

  /** See {@link ImageSink}. */
  read(pfn: number, into: Uint8Array): void {
    for (let at = 0; at < into.length; at += pageSize, pfn++) {
      const chunk = this.#chunks.get(Math.floor(pfn / chunkPages));
      if (chunk === undefined) into.fill(0, at, at + pageSize);
      else into.set(chunk.subarray(pfn % chunkPages * pageSize, (pfn % chunkPages + 1) * pageSize), at);
    }
  }

  /** A copy of one page. */
  page(pfn: number): Uint8Array<ArrayBuffer> {
    const page = new Uint8Array(pageSize);
    this.read(pfn, page);
    return page;
  }

  /** See {@link ImageSink}. @throws {FormatError} rule `image.size`. */
  types(pfns: Float64Array, types: Uint8Array): void {
    for (let index = 0; index < pfns.length; index++) {
      const pfn = pfns[index] ?? 0;
      const type = types[index] ?? 0;
      if (type === 0) {
        if (this.#types.size > 0 && this.#types.delete(pfn)) this.#size -= typeSize;
      } else {
        if (!this.#types.has(pfn)) this.#grow(typeSize);
        this.#types.set(pfn, type);
      }
    }
  }

  /** The last type that a page was sent with; 0, an ordinary page, where it was not sent at all. */
  type(pfn: number): number {
    return this.#types.get(pfn) ?? 0;
  }

  /** See {@link ImageSink}. */
  resize(pages: number): void {
    this.#pages = pages;
  }

  /** See {@link ImageStore}. */
  runs(): Iterable<PageRange> {
    return this.#written.runs();
  }

  /** See {@link ImageStore}. */
  clear(): void {
    this.#chunks.clear();
    this.#written.clear();
    this.#types.clear();
    this.#size = 0;
    this.#pages = 0;
  }

  #chunk(pfn: number): Uint8Array {
    const key = Math.floor(pfn / chunkPages);
    let chunk = this.#chunks.get(key);
    if (chunk === undefined) {
      this.#grow(chunkSize);
      this.#chunks.set(key, chunk = new Uint8Array(chunkSize));
    }
    return chunk;
  }

  #grow(size: number): void {
    if (this.#size + size > this.#sizeMax) {
      throw new FormatError(
        "image.size",
        -1,
        `Cannot hold the memory image: it is over ${this.#sizeMax} octets`,
      );
    }
    this.#size += size;
  }
}
