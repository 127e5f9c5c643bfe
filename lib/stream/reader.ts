/**
 * Reads a stream of any profile: octets in, typed items with their place out.
 *
 * ```text
 *  first octets          profile    what follows
 *  ff*8 "XENF"           libxc      records to END
 *  ff*8 "DRVR"           region     records to END
 *  "LibxlFmt"            libxl      records to END; libxc inside, see below
 *  "Xen saved domain…"   xl         libxl, or libxc or legacy where its flag is clear
 *  anything else         legacy     chunks and tails, see legacy_reader.ts
 *
 *         LIBXC_CONTEXT: headers              CHECKPOINT_END
 *   libxl ──────────────────────▶ libxc ◀─────────────────────── libxl, in a checkpoint
 *   libxl ◀────────────────────── libxc ───────────────────────▶ libxl, in a checkpoint
 *                   END                        CHECKPOINT
 * ```
 *
 * Invariants:
 * - An item's octets are checked by themselves before it is given out: lengths, counts, reserved fields, padding.
 *   The order of items is not, but for what is needed to tell whose the next octets are.
 * - Page contents are copied once, into an array of their batch's own, or read there directly. No object is made
 *   per page.
 * - Memory is bounded by what has come in: an array grows with its octets; only the pages of a batch are set aside
 *   at once, when the words for each of them are there.
 * - After an error the reader stays broken and throws that error again.
 *
 * @module
 */
import { FormatError } from "../base/errors.ts";
import { Intake, type StreamDigest, type Waiting } from "./intake.ts";
import type {
  GuestKind,
  ItemPlace,
  Layer,
  LibxcHeader,
  LibxcRecord,
  PageBatch,
  RegionRecord,
  StreamItem,
  StreamProfile,
} from "./item.ts";
import { pageSize } from "./item.ts";
import { LegacyReader } from "./legacy_reader.ts";
import { checkLibxcHead, decodeLibxcHeader, decodeLibxcRecord, libxcHeaderSize } from "./libxc_record.ts";
import {
  checkLibxlHead,
  decodeLibxlHeader,
  decodeLibxlRecord,
  libxlHeaderSize,
  libxlTypes,
} from "./libxl_record.ts";
import {
  decodePageCount,
  decodePageEntries,
  type PageDataContext,
  pageDataHeadSize,
  pageDataType,
} from "./page_data.ts";
import { headerSize, recordHeadSize, recordPadding } from "./record.ts";
import {
  checkRegionBatch,
  checkRegionHead,
  decodeRegionHeader,
  decodeRegionRecord,
  type RegionContext,
  regionTypes,
} from "./region_record.ts";
import { decodeXlHeaderStart, xlFlags, xlHeaderSize, xlMagic } from "./xl_header.ts";

/** An item and where it stands. */
export type PlacedItem = StreamItem & { place: ItemPlace };

/** What a reader is told. Everything has a default. */
export interface StreamReaderOptions {
  /** The kind of stream; found in its first octets by default. */
  profile?: StreamProfile | "auto";
  /** Legacy: octets of the sender's `unsigned long`. */
  width?: 4 | 8 | "auto";
  /** Legacy: kind of the guest. */
  guest?: GuestKind | "auto";
  /**
   * Take what Xen's own restorer takes: reserved fields and padding that are not zero, END with a body, octets
   * behind END. They are not part of the items. A region is never read leniently.
   */
  lenient?: boolean;
  /** What to do with octets behind the last item: refuse them, by default, or leave them to `rest()`. */
  afterEnd?: "refuse" | "leave";
  /** Finds memory for the pages of a batch, exactly `size` octets; their contents may be anything. */
  allocate?: (size: number) => Uint8Array<ArrayBuffer>;
  /** Makes a running SHA-256, for regions: with it each DIGEST is compared with what was read. */
  digest?: () => StreamDigest;
}

/**
 * Takes a stream apart, chunk by chunk.
 *
 * After `push()`, call `next()` until it gives null; only then may the chunk's memory be used again and the next
 * chunk be pushed, or octets be read into `openBody()`. At the end call `finish()`, and `next()` until null once more.
 *
 * ```ts
 * import { StreamReader } from "./reader.ts";
 * import { encodeItem, newWriterState } from "./writer.ts";
 * const state = newWriterState();
 * const header = { bigEndian: false };
 * const reader = new StreamReader();
 * for (const piece of encodeItem({ layer: "region", header }, state)) {
 *   reader.push(piece);
 *   for (let item = reader.next(); item !== null; item = reader.next()) console.log(item.layer, item.place.offset);
 * }
 * console.log(reader.profile); // region
 * ```
 */
export class StreamReader {
  readonly #options: StreamReaderOptions;
  readonly #lenient: boolean;
  readonly #intake: Intake;
  readonly #items: Generator<PlacedItem | null, void, void>;
  #profile: StreamProfile | null = null;
  #legacy: LegacyReader | null = null;
  #index = 0;
  #itemOffset = 0;
  /** The rule and the words for an end of the stream here; null where it may end. */
  #missing: { rule: string; what: string } | null = null;
  #finished = false;
  #ended = false;
  #failure: unknown = null;
  readonly #head = new Uint8Array(recordHeadSize);
  readonly #headView = new DataView(this.#head.buffer);

  /** A reader at the first octet of a stream. */
  constructor(options: StreamReaderOptions = {}) {
    this.#options = options;
    this.#lenient = options.lenient === true;
    this.#intake = new Intake({
      offset: 0,
      digest: options.digest?.() ?? null,
      allocate: options.allocate ?? ((size) => new Uint8Array(size)),
    });
    this.#items = this.#stream();
    // Up to the first octet, so that `finish()` knows what is missing also where none ever came.
    this.#items.next();
  }

  /** The kind of stream; null as long as it is not known. */
  get profile(): StreamProfile | null {
    return this.#profile;
  }

  /** Stream offset of the first octet that was not taken in yet. */
  get offset(): number {
    return this.#legacy?.offset ?? this.#intake.offset;
  }

  /** Whether the last item was given out. A legacy stream has none that says so before `finish()`. */
  get ended(): boolean {
    return this.#ended;
  }

  /**
   * Gives the reader the next octets of the stream.
   *
   * @throws {TypeError} when an earlier chunk was not read to its end by `next()`, or after `finish()`.
   */
  push(chunk: Uint8Array): void {
    if (this.#finished || this.#intake.available > 0) {
      throw new TypeError(
        this.#finished
          ? "Cannot push a chunk: the stream was said to have ended"
          : "Cannot push a chunk: the one before it still has items, next() should take them first",
      );
    }
    this.#intake.push(chunk);
  }

  /**
   * Takes the next item, or null when more octets are needed, or after the last one.
   *
   * @throws {FormatError} the rules of the codecs; of the reader: `stream.profile.unknown`, `LAYER.record.padding`,
   * `LAYER.end.trailing`, `libxl.libxc_context.repeated`, `libxl.checkpoint_end.outside`, `region.digest.mismatch`.
   */
  next(): PlacedItem | null {
    if (this.#failure !== null) throw this.#failure;
    try {
      return this.#items.next().value ?? null;
    } catch (error) {
      this.#failure = error;
      throw error;
    }
  }

  /**
   * The part of the present item that octets of the stream may be read into directly; empty when `next()` has not
   * given null inside one.
   */
  openBody(): Uint8Array<ArrayBuffer> {
    return this.#legacy?.openBody() ?? this.#intake.open();
  }

  /** Notes that `size` octets of the stream were written to the front of `openBody()`. */
  filledBody(size: number): void {
    if (this.#legacy !== null) this.#legacy.filledBody(size);
    else this.#intake.filled(size);
  }

  /** The octets of the last chunk that were not taken in, as a view: what follows the last item. */
  rest(): Uint8Array {
    return this.#intake.rest();
  }

  /**
   * Says that the stream has ended. `next()` may give one more item after this, of a legacy stream.
   *
   * @throws {FormatError} rules `LAYER.header.truncated`, `LAYER.record.truncated` and `LAYER.end.missing`, or those of
   * `LegacyReader`.
   */
  finish(): void {
    if (this.#failure !== null) throw this.#failure;
    if (this.#intake.available > 0 && !(this.#ended && this.#options.afterEnd === "leave")) {
      throw new TypeError("Cannot finish: the last chunk still has items, next() should take them first");
    }
    if (this.#finished) return;
    if (this.#profile === null) this.next(); // nothing ever came: let it find out what is missing
    this.#finished = true;
    try {
      if (this.#legacy !== null) {
        this.#legacy.finish();
      } else if (this.#missing !== null) {
        const { rule, what } = this.#missing;
        throw new FormatError(rule, this.offset, `Cannot read the stream to its end: it stops in ${what}`);
      }
    } catch (error) {
      this.#failure = error;
      throw error;
    }
  }

  *#stream(): Generator<PlacedItem | null, void, void> {
    const start = new Uint8Array(headerSize);
    const profile = this.#options.profile ?? "auto";
    let known = 0;
    if (profile === "auto") {
      this.#missing = { rule: "stream.profile.unknown", what: "the octets that tell its profile" };
      yield* this.#intake.fill(start.subarray(0, sniffSize));
      known = sniffSize;
      this.#profile = sniff(start);
    } else {
      this.#profile = profile;
    }
    if (this.#profile !== "region") this.#intake.digest = null;
    let layer: Layer = this.#profile;
    switch (this.#profile) {
      case "libxl":
        yield* this.#libxl(start, known);
        break;
      case "libxc":
        yield* this.#libxc(start, known);
        break;
      case "region":
        yield* this.#region(start, known);
        break;
      case "legacy":
        yield* this.#legacyStream(start.subarray(0, known));
        break;
      case "xl":
        layer = yield* this.#xl(start, known);
    }
    this.#missing = null;
    this.#ended = true;
    if (this.#options.afterEnd === "leave") return;
    for (;;) {
      if (this.#intake.available > 0 && (!this.#lenient || layer === "region")) {
        throw new FormatError(
          `${layer}.end.trailing`,
          this.#intake.offset,
          "Cannot accept the stream: octets follow its end and nothing should",
        );
      }
      this.#intake.takeRest();
      yield null;
    }
  }

  *#xl(start: Uint8Array<ArrayBuffer>, known: number): Generator<PlacedItem | null, Layer, void> {
    const bytes = yield* this.#header("xl", xlHeaderSize, start, known);
    const { bigEndian, mandatoryFlags, optionalFlags, dataSize } = decodeXlHeaderStart(bytes);
    const data = yield* this.#intake.take(dataSize);
    yield this.#placed({ layer: "xl", header: { bigEndian, mandatoryFlags, optionalFlags, data } });
    if ((mandatoryFlags & xlFlags.libxl) !== 0) {
      yield* this.#libxl(start, 0);
      return "libxl";
    }
    this.#missing = {
      rule: "stream.profile.unknown",
      what: "the octets that tell what the xl header is for",
    };
    yield* this.#intake.fill(start.subarray(0, sniffSize));
    if (sniff(start) === "libxc") {
      yield* this.#libxc(start, sniffSize);
      return "libxc";
    }
    yield* this.#legacyStream(start.subarray(0, sniffSize));
    return "legacy";
  }

  *#libxl(start: Uint8Array<ArrayBuffer>, known: number): Generator<PlacedItem | null, void, void> {
    const lenient = this.#lenient;
    const bytes = yield* this.#header("libxl", libxlHeaderSize, start, known);
    const header = decodeLibxlHeader(bytes, { offset: this.#itemOffset, lenient });
    yield this.#placed({ layer: "libxl", header });
    const { bigEndian } = header;
    let inner: LibxcHeader | null = null;
    let inCheckpoint = false;
    for (;;) {
      yield* this.#takeHead("libxl");
      const type = this.#headView.getUint32(0, !bigEndian);
      const length = this.#headView.getUint32(4, !bigEndian);
      const context = { bigEndian, lenient, offset: this.#itemOffset };
      checkLibxlHead(type, length, context);
      this.#checkNesting(type, inner !== null, inCheckpoint);
      const body = yield* this.#intake.take(length);
      yield* this.#padding("libxl", length);
      yield this.#placed({ layer: "libxl", record: decodeLibxlRecord(type, body, context) });
      if (type === libxlTypes.END) return;
      if (type === libxlTypes.LIBXC_CONTEXT) {
        inner = yield* this.#libxcHeaders(start, 0);
        inCheckpoint = (yield* this.#libxcSection(inner, false)) === "CHECKPOINT";
      } else if (type === libxlTypes.CHECKPOINT_END && inner !== null) {
        yield* this.#checkpointState(bigEndian);
        inCheckpoint = (yield* this.#libxcSection(inner, true)) === "CHECKPOINT";
      }
    }
  }

  /**
   * Takes the head of libxc's next section, and a CHECKPOINT_STATE in front of it. That one has the type and the
   * length of an X86_PV_VCPU_EXTENDED without a context, with which no section begins.
   */
  *#checkpointState(bigEndian: boolean): Generator<PlacedItem | null, void, void> {
    yield* this.#takeHead("libxc");
    const context = { bigEndian, lenient: this.#lenient, offset: this.#itemOffset };
    const type = this.#headView.getUint32(0, !bigEndian);
    if (type !== libxlTypes.CHECKPOINT_STATE || this.#headView.getUint32(4, !bigEndian) !== 8) return;
    this.#missing = { rule: "libxl.record.truncated", what: "a libxl record" };
    const body = yield* this.#intake.take(8);
    yield this.#placed({ layer: "libxl", record: decodeLibxlRecord(type, body, context) });
    yield* this.#takeHead("libxc");
  }

  #checkNesting(type: number, libxcSeen: boolean, inCheckpoint: boolean): void {
    if (type === libxlTypes.LIBXC_CONTEXT && libxcSeen) {
      throw new FormatError(
        "libxl.libxc_context.repeated",
        this.#itemOffset,
        "Cannot read the libxl stream: it has a second LIBXC_CONTEXT and should have one",
      );
    }
    if (type === libxlTypes.CHECKPOINT_END && !inCheckpoint) {
      throw new FormatError(
        "libxl.checkpoint_end.outside",
        this.#itemOffset,
        "Cannot read the libxl stream: CHECKPOINT_END stands outside a checkpoint",
      );
    }
  }

  *#libxc(start: Uint8Array<ArrayBuffer>, known: number): Generator<PlacedItem | null, void, void> {
    const header = yield* this.#libxcHeaders(start, known);
    while ((yield* this.#libxcSection(header, false)) === "CHECKPOINT");
  }

  *#libxcHeaders(
    start: Uint8Array<ArrayBuffer>,
    known: number,
  ): Generator<PlacedItem | null, LibxcHeader, void> {
    const bytes = yield* this.#header("libxc", libxcHeaderSize, start, known);
    const header = decodeLibxcHeader(bytes, { offset: this.#itemOffset, lenient: this.#lenient });
    yield this.#placed({ layer: "libxc", header });
    return header;
  }

  /** Takes records up to END or CHECKPOINT; `headTaken` when the first head was taken already. */
  *#libxcSection(
    header: LibxcHeader,
    headTaken: boolean,
  ): Generator<PlacedItem | null, "END" | "CHECKPOINT", void> {
    const { bigEndian, version } = header;
    for (;; headTaken = false) {
      if (!headTaken) yield* this.#takeHead("libxc");
      const type = this.#headView.getUint32(0, !bigEndian);
      const length = this.#headView.getUint32(4, !bigEndian);
      const context = { bigEndian, version, lenient: this.#lenient, offset: this.#itemOffset };
      checkLibxcHead(type, length, context);
      let record: LibxcRecord;
      if (type === pageDataType) {
        record = { name: "PAGE_DATA", batch: yield* this.#pageData(length, context) };
      } else {
        record = decodeLibxcRecord(type, yield* this.#intake.take(length), context);
        yield* this.#padding("libxc", length);
      }
      yield this.#placed({ layer: "libxc", record });
      if (record.name === "END" || record.name === "CHECKPOINT") return record.name;
    }
  }

  *#region(start: Uint8Array<ArrayBuffer>, known: number): Generator<PlacedItem | null, void, void> {
    const header = decodeRegionHeader(yield* this.#header("region", headerSize, start, known));
    yield this.#placed({ layer: "region", header });
    const { bigEndian } = header;
    const { digest } = this.#intake;
    const context: RegionContext = { bigEndian, offset: 0 };
    for (;;) {
      this.#intake.digest = null; // a DIGEST is about what stands before its head
      yield* this.#takeHead("region");
      const type = this.#headView.getUint32(0, !bigEndian);
      const length = this.#headView.getUint32(4, !bigEndian);
      context.offset = this.#itemOffset;
      checkRegionHead(type, length, context);
      const expected = type === regionTypes.DIGEST ? digest?.digest() : undefined;
      digest?.update(this.#head);
      this.#intake.digest = digest;
      let record: RegionRecord;
      if (type === pageDataType) {
        const batch = yield* this.#pageData(length, { ...context, rule: "region.page_data" });
        checkRegionBatch(batch, context);
        record = { name: "PAGE_DATA", batch };
      } else {
        record = decodeRegionRecord(type, yield* this.#intake.take(length), context);
        yield* this.#padding("region", length);
      }
      if (record.name === "DIGEST" && expected !== undefined) this.#checkDigest(record.digest, expected);
      if (record.name === "REGION_INFO") context.pages = record.pages;
      yield this.#placed({ layer: "region", record });
      if (record.name === "END") return;
    }
  }

  #checkDigest(digest: Uint8Array, expected: Uint8Array): void {
    const at = digest.findIndex((octet, index) => octet !== expected[index]);
    if (at < 0) return;
    throw new FormatError(
      "region.digest.mismatch",
      this.#itemOffset + recordHeadSize + at,
      "Cannot accept the region: its digest is not that of what stands before it",
    );
  }

  *#legacyStream(start: Uint8Array<ArrayBuffer>): Generator<PlacedItem | null, void, void> {
    const { width, guest, allocate } = this.#options;
    const legacy = new LegacyReader({
      width: width ?? "auto",
      guest: guest ?? "auto",
      offset: this.#intake.offset - start.length,
      index: this.#index,
      ...(allocate === undefined ? {} : { allocate }),
    });
    this.#legacy = legacy;
    legacy.push(start);
    for (;;) {
      const item = legacy.next();
      if (item !== null) {
        yield item;
      } else if (this.#intake.available > 0) {
        legacy.push(this.#intake.takeRest());
      } else if (this.#finished) {
        return;
      } else {
        yield null;
      }
    }
  }

  /** Takes the body of a PAGE_DATA record in three steps, so that the words vouch for the pages. */
  *#pageData(length: number, context: PageDataContext): Waiting<PageBatch> {
    const count = decodePageCount(yield* this.#intake.borrow(pageDataHeadSize), length, context);
    const words = yield* this.#intake.borrow(8 * count);
    const { pfns, types, pagesCount } = decodePageEntries(words, length, context);
    return { pfns, types, pages: yield* this.#intake.takeWhole(pageSize * pagesCount) };
  }

  /** Takes a header of `size` octets, of which `start` has the first `known`. */
  *#header(
    layer: Layer,
    size: number,
    start: Uint8Array<ArrayBuffer>,
    known: number,
  ): Waiting<Uint8Array<ArrayBuffer>> {
    this.#itemOffset = this.#intake.offset - known;
    this.#missing = { rule: `${layer}.header.truncated`, what: `the ${layer} header` };
    const bytes = new Uint8Array(size);
    bytes.set(start.subarray(0, known));
    yield* this.#intake.fill(bytes, known);
    return bytes;
  }

  /** Takes the head of a record into `#head`. */
  *#takeHead(layer: Layer): Waiting {
    this.#itemOffset = this.#intake.offset;
    if (this.#intake.available < recordHeadSize) {
      this.#missing = { rule: `${layer}.end.missing`, what: `the ${layer} stream, before its END record` };
      while (this.#intake.available === 0) yield null;
    }
    this.#missing = { rule: `${layer}.record.truncated`, what: `a ${layer} record` };
    yield* this.#intake.fill(this.#head);
  }

  *#padding(layer: Layer, length: number): Waiting {
    const size = recordPadding(length);
    if (size === 0) return;
    const offset = this.#intake.offset;
    const padding = yield* this.#intake.borrow(size);
    if (this.#lenient && layer !== "region") return;
    for (let at = 0; at < size; at++) {
      if (padding[at] === 0) continue;
      throw new FormatError(
        `${layer}.record.padding`,
        offset + at,
        `Cannot read a record: a padding octet is ${padding[at]} and should be 0`,
      );
    }
  }

  #placed(item: StreamItem): PlacedItem {
    const offset = this.#itemOffset;
    return { ...item, place: { index: this.#index++, offset, size: this.#intake.offset - offset } };
  }
}

/**
 * Reads all items of a source. Breaking off cancels it.
 *
 * @param source its chunks may be used again once the next one is asked for.
 * @throws {FormatError} rules of {@link StreamReader}.
 */
export async function* readStream(
  source: ReadableStream<Uint8Array> | AsyncIterable<Uint8Array>,
  options: StreamReaderOptions = {},
): AsyncGenerator<PlacedItem, void, undefined> {
  const reader = new StreamReader(options);
  for await (const chunk of source) {
    reader.push(chunk);
    for (let item = reader.next(); item !== null; item = reader.next()) yield item;
    if (reader.ended && options.afterEnd === "leave") return;
  }
  reader.finish();
  for (let item = reader.next(); item !== null; item = reader.next()) yield item;
}

/** Octets that tell a profile. */
const sniffSize = 12;

/** The profile by the first octets. The id tells too, so that a marker with a flaw is not taken for a legacy stream. */
function sniff(start: Uint8Array): StreamProfile {
  const text = String.fromCharCode(...start.subarray(0, sniffSize));
  if (text.startsWith("LibxlFmt")) return "libxl";
  if (text.startsWith(xlMagic.slice(0, 8))) return "xl";
  if (text.endsWith("DRVR")) return "region";
  return text.endsWith("XENF") || text.startsWith("\xff".repeat(8)) ? "libxc" : "legacy";
}
