/**
 * The memory that a stream describes: items go in, pages by frame number come out, at the epoch that was asked for.
 *
 * Invariants:
 * - The last writer wins, in the order of the stream. An entry without contents (XTAB, BROKEN, allocate only) leaves
 *   the page as it is and changes only its type.
 * - Pages behind VERIFY are compared with the image and change nothing, until their section ends.
 * - What belongs to an epoch that is not committed lies beside the image, in scratch; deltas are decoded there.
 *
 * Legacy items have to be converted first.
 *
 * @module
 */
import { FormatError } from "../base/errors.ts";
import type { CheckpointTarget, ReceivedItem } from "./checkpoint.ts";
import { checkDeltas, decodePage } from "./delta.ts";
import { carriesPage, type PageBatch, type PageDeltas, type PageRange, pageSize } from "./item.ts";
import type { ImageSink, ImageStore } from "./memory_image.ts";
import { equalPages } from "./page_compare.ts";
import { addRange, inRanges, joinRanges } from "./page_ranges.ts";
import { PageSet } from "./page_set.ts";

const runPagesMax = 64;

/** Separate runs of zero pages that an epoch may have before it is committed. */
const zeroRangesMax = 262_144;

/** As many of them are put in their place one by one before they are joined with the others. */
const recentRangesMax = 1024;

/** Writes the pages of items into a sink, in stream order. */
export class ImageWriter {
  readonly #sink: ImageSink;
  /** For what is compared and for deltas; most streams have neither. */
  #buffer: Uint8Array<ArrayBuffer> | null = null;
  #comparing = false;
  #pagesMax: number;
  #compared = 0;
  #mismatches = 0;

  /**
   * A writer at the start of a section.
   *
   * @param options `pagesMax`: frame numbers must be below it; 2^52 without it.
   */
  constructor(sink: ImageSink, options: { pagesMax?: number } = {}) {
    this.#sink = sink;
    this.#pagesMax = options.pagesMax ?? 2 ** 52;
  }

  /** Pages behind VERIFY that were compared. */
  get compared(): number {
    return this.#compared;
  }

  /** Those of them that differ from the image. */
  get mismatches(): number {
    return this.#mismatches;
  }

  /** Number of pages of the memory, as a region or a PV guest says it; 2^52 while nobody did. */
  get pagesMax(): number {
    return this.#pagesMax;
  }

  /** Whether pages are being compared and not written. */
  get comparing(): boolean {
    return this.#comparing;
  }

  /** Goes on where the writer of another sink stopped: same bound. */
  continueFrom(other: ImageWriter): void {
    this.#pagesMax = other.#pagesMax;
  }

  /**
   * Takes one item; one that says nothing about memory changes nothing.
   *
   * @throws {FormatError} rules `image.pfn`, `image.delta.size`, those of `delta.ts`, and what the sink throws.
   */
  take(item: ReceivedItem): void {
    if ("header" in item || (item.layer !== "libxc" && item.layer !== "region")) return;
    const { record } = item;
    switch (record.name) {
      case "PAGE_DATA":
        this.#pageData(record.batch, item.place.offset);
        return;
      case "VERIFY":
        this.#comparing = true;
        return;
      case "CHECKPOINT":
      case "END":
        this.endSection();
        return;
      case "X86_PV_P2M_FRAMES":
        this.#pagesMax = record.endPfn + 1;
        this.#sink.resize?.(this.#pagesMax);
        return;
      case "REGION_INFO":
        this.#pagesMax = record.pages;
        this.#sink.resize?.(record.pages);
        return;
      case "ZERO_RANGES":
        for (const { pfn, count } of record.ranges) this.#check(pfn, count, item.place.offset);
        this.#sink.zero(record.ranges);
        return;
      case "PAGE_DELTAS":
        this.#deltas(record.deltas, item.place.offset);
        return;
      default:
        return;
    }
  }

  /** Says that a commit point was passed: pages are written again. */
  endSection(): void {
    this.#comparing = false;
  }

  #pageData(batch: PageBatch, offset: number): void {
    const { pfns, types, pages } = batch;
    for (let index = 0; index < pfns.length; index++) {
      const pfn = pfns[index] ?? 0;
      if (pfn >= this.#pagesMax) this.#check(pfn, 1, offset);
    }
    if (!this.#comparing) this.#sink.types?.(pfns, types);
    let first = 0;
    let at = 0;
    let count = 0;
    for (let index = 0; index < pfns.length; index++) {
      if (!carriesPage(types[index] ?? 0xf)) continue;
      const pfn = pfns[index] ?? 0;
      if (count > 0 && pfn !== first + count) {
        this.#put(first, pages.subarray(at, at + count * pageSize));
        at += count * pageSize;
        count = 0;
      }
      if (count === 0) first = pfn;
      count++;
    }
    if (count > 0) this.#put(first, pages.subarray(at, at + count * pageSize));
  }

  #put(pfn: number, pages: Uint8Array): void {
    if (!this.#comparing) return this.#sink.write(pfn, pages);
    const buffer = this.#buffer ??= new Uint8Array(runPagesMax * pageSize);
    for (let at = 0; at < pages.length; at += buffer.length) {
      const part = pages.subarray(at, at + buffer.length);
      const old = buffer.subarray(0, part.length);
      this.#sink.read(pfn + at / pageSize, old);
      for (let page = 0; page < part.length; page += pageSize) {
        this.#compared++;
        if (!equalPages(old, part, page)) this.#mismatches++;
      }
    }
  }

  #deltas(deltas: PageDeltas, offset: number): void {
    const { pfns, data } = deltas;
    // Type, length, count and size stand before the frame numbers, and those before the encodings.
    const dataOffset = offset + 16 + 8 * pfns.length;
    checkDeltas(data, pfns.length, dataOffset);
    const buffer = this.#buffer ??= new Uint8Array(runPagesMax * pageSize);
    let at = 0;
    for (let index = 0; index < pfns.length;) {
      const first = pfns[index] ?? 0;
      let count = 1;
      while (count < runPagesMax && pfns[index + count] === first + count) count++;
      this.#check(first, count, offset);
      const pages = buffer.subarray(0, count * pageSize);
      this.#sink.read(first, pages);
      for (let page = 0; page < pages.length; page += pageSize) {
        at = decodePage(data, at, pages.subarray(page, page + pageSize), dataOffset);
      }
      this.#sink.write(first, pages);
      index += count;
    }
  }

  #check(pfn: number, count: number, offset: number): void {
    if (pfn + count <= this.#pagesMax) return;
    throw new FormatError(
      "image.pfn",
      offset,
      `Cannot take page ${pfn + count - 1}: the memory has ${this.#pagesMax} pages`,
    );
  }
}

/**
 * An epoch that is not committed, as a sink over its base: reads go through to the base, writes stay in scratch.
 */
export class EpochImage implements ImageSink {
  readonly #base: ImageSink;
  readonly #scratch: ImageStore;
  readonly #pages = new PageSet();
  /** What the epoch made zero, in two lists of their own order: joining a few with many takes as long as the many. */
  #zeros: PageRange[] = [];
  #recentZeros: PageRange[] = [];
  #types: { pfns: Float64Array; types: Uint8Array }[] = [];
  #buffer: Uint8Array<ArrayBuffer> | null = null;

  /**
   * An epoch that has changed nothing.
   *
   * @param options `base`: the committed image; `scratch`: an empty store for what the epoch writes.
   */
  constructor(options: { base: ImageSink; scratch: ImageStore }) {
    this.#base = options.base;
    this.#scratch = options.scratch;
  }

  /** See {@link ImageSink}. */
  write(pfn: number, pages: Uint8Array): void {
    this.#scratch.write(pfn, pages);
    for (let at = 0; at < pages.length; at += pageSize) this.#pages.add(pfn++);
  }

  /** See {@link ImageSink}. */
  zero(ranges: readonly PageRange[]): void {
    for (const pfn of this.#pages.within(ranges)) this.#pages.delete(pfn);
    if (ranges.length > recentRangesMax) {
      this.#zeros = joinRanges(this.#zeros, ranges);
    } else {
      for (const range of ranges) addRange(this.#recentZeros, range);
      if (this.#recentZeros.length > recentRangesMax) this.#joinZeros();
    }
    if (this.#zeros.length > zeroRangesMax) {
      throw new FormatError(
        "image.ranges",
        -1,
        `Cannot hold the epoch: it has more than ${zeroRangesMax} separate runs of zero pages`,
      );
    }
  }

  /** See {@link ImageSink}. */
  read(pfn: number, into: Uint8Array): void {
    for (let at = 0; at < into.length;) {
      // The longest run of pages that come from the same place.
      const source = this.#sourceOf(pfn);
      let end = at + pageSize;
      let next = pfn + 1;
      while (end < into.length && this.#sourceOf(next) === source) {
        end += pageSize;
        next++;
      }
      const part = into.subarray(at, end);
      if (source === "zero") part.fill(0);
      else (source === "scratch" ? this.#scratch : this.#base).read(pfn, part);
      at = end;
      pfn = next;
    }
  }

  /** See {@link ImageSink}. */
  types(pfns: Float64Array, types: Uint8Array): void {
    if (this.#base.types !== undefined && types.some((type) => type !== 0)) this.#types.push({ pfns, types });
  }

  /** Brings the base to this epoch and forgets it. */
  commit(): void {
    this.#joinZeros();
    if (this.#zeros.length > 0) this.#base.zero(this.#zeros);
    const buffer = this.#buffer ??= new Uint8Array(runPagesMax * pageSize);
    for (const { pfn, count } of this.#pages.runs()) {
      for (let at = 0; at < count; at += runPagesMax) {
        const pages = buffer.subarray(0, Math.min(runPagesMax, count - at) * pageSize);
        this.#scratch.read(pfn + at, pages);
        this.#base.write(pfn + at, pages);
      }
    }
    for (const { pfns, types } of this.#types) this.#base.types?.(pfns, types);
    this.clear();
  }

  /** Forgets the epoch. */
  clear(): void {
    this.#scratch.clear();
    this.#pages.clear();
    this.#zeros = [];
    this.#recentZeros = [];
    this.#types = [];
  }

  #joinZeros(): void {
    this.#zeros = joinRanges(this.#zeros, this.#recentZeros);
    this.#recentZeros = [];
  }

  #sourceOf(pfn: number): "scratch" | "zero" | "base" {
    if (this.#pages.has(pfn)) return "scratch";
    return inRanges(this.#recentZeros, pfn) || inRanges(this.#zeros, pfn) ? "zero" : "base";
  }
}

/**
 * A receiver's target that keeps memory only.
 *
 * ```ts
 * import { CheckpointReceiver } from "./checkpoint.ts";
 * import { ImageTarget } from "./image_target.ts";
 * import { MemoryImage } from "./memory_image.ts";
 * const image = new MemoryImage({ sizeMax: 1 << 30 });
 * const target = new ImageTarget({ image, scratch: new MemoryImage({ sizeMax: 1 << 28 }) });
 * const receiver = new CheckpointReceiver({ target, epochSizeMax: 1 << 28 });
 * console.log(receiver.state, image.pages); // "first" 0
 * ```
 */
export class ImageTarget implements CheckpointTarget {
  readonly #direct: ImageWriter;
  readonly #epoch: EpochImage;
  readonly #held: ImageWriter;
  #committed = false;

  /**
   * A target before the first item.
   *
   * @param options `image`: what epochs are committed to; `scratch`: an empty store for the epoch that is not.
   */
  constructor(options: { image: ImageStore; scratch: ImageStore; pagesMax?: number }) {
    const bound = options.pagesMax === undefined ? {} : { pagesMax: options.pagesMax };
    this.#direct = new ImageWriter(options.image, bound);
    this.#epoch = new EpochImage({ base: options.image, scratch: options.scratch });
    this.#held = new ImageWriter(this.#epoch, bound);
  }

  /** Pages that a sender wanted compared, and how many of them differ. */
  get verified(): { compared: number; mismatches: number } {
    return {
      compared: this.#direct.compared + this.#held.compared,
      mismatches: this.#direct.mismatches + this.#held.mismatches,
    };
  }

  /** See {@link CheckpointTarget}. @throws {FormatError} rule `image.delta.first` for deltas without a base. */
  apply(item: ReceivedItem): void {
    if (item.layer === "region" && "record" in item && item.record.name === "PAGE_DELTAS") {
      throw new FormatError(
        "image.delta.first",
        item.place.offset,
        "Cannot take PAGE_DELTAS: they stand in the first section, where no page has a base",
      );
    }
    this.#direct.take(item);
  }

  /** See {@link CheckpointTarget}. */
  hold(item: ReceivedItem): void {
    this.#held.take(item);
  }

  /** See {@link CheckpointTarget}. */
  commit(_epoch: number): void {
    if (this.#committed) this.#epoch.commit();
    else this.#held.continueFrom(this.#direct);
    this.#committed = true;
    this.#held.endSection();
  }

  /** See {@link CheckpointTarget}. */
  drop(): void {
    this.#epoch.clear();
    this.#held.endSection();
  }
}
