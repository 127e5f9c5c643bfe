/**
 * Converts a legacy stream to today's: items of a legacy stream go in, items of a libxc or libxl stream come out.
 *
 * ```text
 * HEADER          (libxl: header, LIBXC_CONTEXT) header, X86_PV_INFO?, STATIC_DATA_END, X86_PV_P2M_FRAMES?
 * BATCH           PAGE_DATA without the holes; none if nothing else is in it
 * TSC_INFO        X86_TSC_INFO
 * HVM_PARAM       collected; one HVM_PARAMS at END_OF_BODY
 * HVM_TAIL        HVM_PARAMS, HVM_CONTEXT
 * PV_TAIL         X86_PV_VCPU_BASIC, _EXTENDED?, _XSAVE? for each virtual processor, SHARED_INFO
 * end of epoch    CHECKPOINT, where there is more than one epoch; END behind the last
 * TOOLSTACK       libxl: EMULATOR_XENSTORE_DATA behind libxc's part of the epoch
 * DEVICE_MODEL    libxl: EMULATOR_CONTEXT behind that; libxc: as it is, behind END
 * ```
 *
 * Invariants:
 * - Where Xen's own converter takes a stream, the octets are the same; senders of either word size with the same guest too.
 * - Every entry of a batch but a hole is in exactly one PAGE_DATA, one for each batch, compressed or not: a Remus stream
 *   converts to the same octets whether or not its sender compressed it.
 * - A page that is given out is a view of the batch that came in, or was decoded once, in its place.
 * - What is held is one decoded batch, the entries that wait for compressed pages, small records, and the page store. The
 *   store is written in compressed epochs only, unless told otherwise: Xen's sender sends a page whole the first time.
 * - A delta against a page that is not remembered is refused; it is never taken to be against zero.
 *
 * @module
 */
import { FormatError } from "../base/errors.ts";
import { decodeRemusPage, measureRemusPage, remusDeltaSizeMax } from "./delta.ts";
import {
  carriesPage,
  type GuestKind,
  type HvmParam,
  type ItemPlace,
  type LegacyHeader,
  type LegacyParamId,
  type LegacyRecord,
  type LibxcRecord,
  type LibxlRecord,
  pageSize,
  type StreamItem,
} from "./item.ts";
import { legacyGuestWidth, legacyHole } from "./legacy_format.ts";
import { MemoryPageStore, type PageStore } from "./page_store.ts";
import { xenstoreOfToolstack } from "./toolstack.ts";

/** Version of the converter, as the domain header's minor version says it; Xen's own is the same. */
export const converterVersion = 1;

/** The most entries of batches that may wait for their compressed pages; Xen's sender stages 8192 pages. */
export const pendingEntriesMax: number = 2 ** 20;

/** The most batches that may wait. */
export const pendingBatchesMax: number = 2 ** 16;

/** Octets of Xenstore data that one epoch may have. */
export const xenstoreSizeMax: number = 16 * 1024 * 1024;

/** How to convert. */
export interface LegacyConverterOptions {
  /** The stream that comes out. */
  to: "libxc" | "libxl";
  /**
   * To libxc: leave the device model's state out, and take a stream that has none. A libxl stream always has it.
   */
  skipDeviceModel?: boolean;
  /** Where pages are remembered for compressed epochs; in memory, with its default bound, when not given. */
  pages?: PageStore;
  /**
   * Which pages are remembered: those of compressed epochs, which is enough for Xen's sender, or of all epochs, for senders
   * that send differences to pages of uncompressed ones.
   */
  remember?: "compressed" | "all";
}

/** An item and, where it is known, its place. */
export type ConverterInput = StreamItem & { place?: ItemPlace };

const paramIndices: Readonly<Record<LegacyParamId, bigint>> = {
  [-3]: 12n, // IDENT_PT
  [-4]: 15n, // VM86_TSS
  [-8]: 17n, // CONSOLE_PFN
  [-10]: 19n, // ACPI_IOPORTS_LOCATION
  [-11]: 9n, // VIRIDIAN
  [-14]: 34n, // VM_GENERATION_ID_ADDR
  [-15]: 27n, // PAGING_RING_PFN
  [-16]: 28n, // MONITOR_RING_PFN
  [-17]: 29n, // SHARING_RING_PFN
  [-19]: 32n, // IOREQ_SERVER_PFN
  [-20]: 33n, // NR_IOREQ_SERVER_PAGES
  [-21]: 36n, // X87_FIP_WIDTH
};
const storePfnIndex = 1n;
const ioreqPfnIndex = 5n;
const bufioreqPfnIndex = 6n;
const paramsMax = 4096;
const xlLibxlFlag = 2;
const emulatorUnknown = 0;
const empty: Uint8Array<ArrayBuffer> = new Uint8Array(0);

/** A batch of a compressed epoch whose pages are still to come. */
interface PendingBatch {
  entries: Uint32Array<ArrayBuffer>;
  pages: Uint8Array<ArrayBuffer>;
  /** Entries that are done. */
  done: number;
  /** Octets of `pages` that are done. */
  filled: number;
}

/**
 * Converts one legacy stream.
 *
 * Take everything that `convert()` gives before the next call: the work is done as it is taken, so that a small record
 * that stands for many pages never needs memory for all of them. After an error the converter stays broken.
 *
 * ```ts
 * import { LegacyConverter } from "./convert.ts";
 * const converter = new LegacyConverter({ to: "libxc" });
 * const header = { width: 8, guest: "hvm", p2mSize: 16, extendedInfo: null, p2mFrames: null } as const;
 * for (const item of converter.convert({ layer: "legacy", record: { name: "HEADER", header } })) console.log(item.layer);
 * ```
 */
export class LegacyConverter {
  readonly #to: "libxc" | "libxl";
  readonly #skipDeviceModel: boolean;
  readonly #store: PageStore;
  readonly #rememberAll: boolean;
  #header: LegacyHeader | null = null;
  #offset = -1;
  #running = false;
  #failure: unknown = null;
  /** Whether records of an epoch have come since the last one ended. */
  #inEpoch = false;
  #epochs = 0;
  /** The first epoch is whole, and whether another follows is not known. */
  #undecided = false;
  #last = false;
  #ended = false;
  /** What comes next: chunks, the tail behind END_OF_BODY, or the device model's state behind that. */
  #stage: "body" | "tail" | "device_model" = "body";
  #params: HvmParam[] = [];
  #online: number[] = [0];
  #xenstore: Uint8Array[] = [];
  #xenstoreSize = 0;
  #deviceModel: Extract<LegacyRecord, { name: "DEVICE_MODEL" }> | null = null;
  #enabled = false;
  #compressed = false;
  /** Batches that wait for pages, from `#pendingAt` on. */
  #pending: PendingBatch[] = [];
  #pendingAt = 0;
  #pendingEntries = 0;
  /** The beginning of an encoding that goes on in the next chunk, and its stream offset. */
  #carry: Uint8Array<ArrayBuffer> = empty;
  #carryOffset = -1;

  /** A converter for one stream. */
  constructor(options: LegacyConverterOptions) {
    this.#to = options.to;
    this.#skipDeviceModel = options.skipDeviceModel ?? false;
    this.#store = options.pages ?? new MemoryPageStore();
    this.#rememberAll = options.remember === "all";
  }

  /** Epochs that were converted to the end of their tail. */
  get epochs(): number {
    return this.#epochs;
  }

  /**
   * Converts one item: a legacy record, or the xl header in front of them. Page contents are views of the input's.
   *
   * @throws {FormatError} rules `legacy.…` and `delta.remus.…`, as it is taken.
   * @throws {TypeError} when the items of the call before were not all taken.
   */
  convert(item: ConverterInput): Generator<StreamItem, void, void> {
    this.#claim();
    return this.#guarded(this.#convertItem(item));
  }

  /**
   * Ends the stream.
   *
   * @param options `cut`: the legacy stream was cut inside an epoch, as Remus streams are when their sender dies. What comes
   * out then ends in that epoch too, for its reader to go back to the last whole one.
   * @throws {FormatError} rules `legacy.end.missing` and `legacy.device_model.missing`.
   */
  finish(options: { cut?: boolean } = {}): Generator<StreamItem, void, void> {
    this.#claim();
    return this.#guarded(this.#end(options.cut ?? false));
  }

  #claim(): void {
    if (this.#failure !== null) throw this.#failure;
    if (this.#running) throw new TypeError("Cannot convert: not all items of the call before were taken");
    this.#running = true;
  }

  *#guarded(steps: Generator<StreamItem, void, void>): Generator<StreamItem, void, void> {
    try {
      yield* steps;
      this.#running = false;
    } catch (error) {
      this.#failure = error;
      throw error;
    }
  }

  *#convertItem(item: ConverterInput): Generator<StreamItem, void, void> {
    this.#offset = item.place?.offset ?? -1;
    if (item.layer === "xl") {
      const { header } = item;
      const mandatoryFlags = this.#to === "libxl"
        ? header.mandatoryFlags | xlLibxlFlag
        : header.mandatoryFlags;
      yield { layer: "xl", header: { ...header, mandatoryFlags } };
      return;
    }
    if (item.layer !== "legacy") {
      throw refuse("layer", this.#offset, `the stream is ${item.layer}, and not legacy`);
    }
    const { record } = item;
    if (record.name === "HEADER") {
      if (this.#header !== null) throw new TypeError("Cannot convert: a second header");
      this.#header = record.header;
      yield* this.#begin(record.header);
      return;
    }
    if (this.#header === null) throw new TypeError("Cannot convert: a record before the header");
    yield* this.#convertRecord(record, this.#header);
  }

  *#begin(header: LegacyHeader): Generator<StreamItem, void, void> {
    if (this.#to === "libxl") {
      yield { layer: "libxl", header: { bigEndian: false, converted: true } };
      yield libxl({ name: "LIBXC_CONTEXT" });
    }
    yield {
      layer: "libxc",
      header: {
        version: 3,
        bigEndian: false,
        guest: header.guest,
        xenMajor: 0,
        xenMinor: converterVersion,
      },
    };
    if (header.guest === "pv") {
      const guestWidth = legacyGuestWidth(header);
      yield libxc({ name: "X86_PV_INFO", guestWidth, ptLevels: guestWidth === 8 ? 4 : 3 });
    }
    yield libxc({ name: "STATIC_DATA_END" });
    if (header.guest === "pv") {
      yield libxc({
        name: "X86_PV_P2M_FRAMES",
        startPfn: 0,
        endPfn: header.p2mSize - 1,
        frames: header.p2mFrames ?? new BigUint64Array(0),
      });
    }
  }

  *#convertRecord(
    record: Exclude<LegacyRecord, { name: "HEADER" }>,
    header: LegacyHeader,
  ): Generator<StreamItem, void, void> {
    const { guest, width } = header;
    if (this.#ended || stageOf(record.name) !== this.#stage) {
      throw new TypeError(`Cannot convert: a ${record.name} may not stand here`);
    }
    if (this.#undecided) {
      this.#undecided = false;
      yield* this.#checkpoint();
    }
    this.#inEpoch = true;
    switch (record.name) {
      case "BATCH":
        this.#checkBatch(record.entries, width);
        if (this.#compressed) yield* this.#announce(record.entries);
        else yield* this.#convertBatch(record.entries, record.pages);
        break;
      case "COMPRESSED_DATA":
        yield* this.#expand(record.data, this.#offset < 0 ? -1 : this.#offset + 4 + width);
        break;
      case "TSC_INFO":
        yield libxc({ name: "X86_TSC_INFO", tsc: record.tsc });
        break;
      case "VCPU_INFO":
        this.#online = [];
        for (let id = 0; id <= record.vcpuIdMax; id++) {
          if (((record.online[id >>> 6] ?? 0n) >> BigInt(id & 63) & 1n) === 1n) this.#online.push(id);
        }
        break;
      case "HVM_PARAM":
        this.#collect(guest, { index: paramIndices[record.id], value: record.value });
        break;
      case "TOOLSTACK":
        if (this.#to === "libxl") this.#collectXenstore(record.data, width);
        break;
      case "ENABLE_COMPRESSION":
        this.#enabled = true;
        break;
      case "LAST_CHECKPOINT":
        this.#last = true;
        break;
      case "VERIFY_MODE":
        break;
      case "END_OF_BODY":
        this.#checkNothingPending();
        if (this.#params.length > 0) {
          yield libxc({ name: "HVM_PARAMS", params: this.#params });
          this.#params = [];
        }
        this.#stage = "tail";
        break;
      case "HVM_TAIL":
        yield libxc({
          name: "HVM_PARAMS",
          params: [
            { index: ioreqPfnIndex, value: record.ioreqPfn },
            { index: bufioreqPfnIndex, value: record.bufioreqPfn },
            { index: storePfnIndex, value: record.storePfn },
          ],
        });
        yield libxc({ name: "HVM_CONTEXT", context: record.context });
        this.#deviceModel = null;
        this.#stage = "device_model";
        break;
      case "DEVICE_MODEL":
        this.#deviceModel = record;
        yield* this.#endEpoch();
        break;
      case "PV_TAIL":
        if (record.vcpus.length !== this.#online.length) {
          throw new TypeError(
            `Cannot convert: the tail has ${record.vcpus.length} virtual processors of ${this.#online.length}`,
          );
        }
        for (const [index, { basic, extended, xsave }] of record.vcpus.entries()) {
          const vcpuId = this.#online[index] ?? 0;
          yield libxc({ name: "X86_PV_VCPU_BASIC", vcpuId, context: basic });
          if (extended !== null) yield libxc({ name: "X86_PV_VCPU_EXTENDED", vcpuId, context: extended });
          if (xsave !== null) yield libxc({ name: "X86_PV_VCPU_XSAVE", vcpuId, context: xsave.data });
        }
        yield libxc({ name: "SHARED_INFO", page: record.sharedInfo });
        yield* this.#endEpoch();
        break;
    }
  }

  /** Refuses a batch that names a frame twice. Senders go up through them, so that this seldom needs a set. */
  #checkBatch(entries: Uint32Array, width: number): void {
    let ascending = true;
    let before = -1;
    for (const entry of entries) {
      if (entry === legacyHole) continue;
      const pfn = entry & 0x0fff_ffff;
      ascending &&= pfn > before;
      before = pfn;
    }
    if (ascending) return;
    const seen = new Set<number>();
    for (const [index, entry] of entries.entries()) {
      if (entry === legacyHole) continue;
      const pfn = entry & 0x0fff_ffff;
      if (seen.has(pfn)) {
        const offset = this.#offset < 0 ? -1 : this.#offset + 4 + index * width;
        throw refuse("batch.duplicate", offset, `a batch has frame ${pfn} twice`);
      }
      seen.add(pfn);
    }
  }

  *#convertBatch(
    entries: Uint32Array,
    pages: Uint8Array<ArrayBuffer>,
  ): Generator<StreamItem, void, void> {
    let count = 0;
    let pagesCount = 0;
    for (const entry of entries) {
      if (entry !== legacyHole) count++;
      if (carriesPage(entry >>> 28)) pagesCount++;
    }
    if (pages.length !== pagesCount * pageSize) {
      throw new TypeError(`Cannot convert: a batch has ${pages.length} octets for ${pagesCount} pages`);
    }
    if (count === 0) return;
    const pfns = new Float64Array(count);
    const types = new Uint8Array(count);
    let at = 0;
    for (const entry of entries) {
      if (entry === legacyHole) continue;
      pfns[at] = entry & 0x0fff_ffff;
      types[at++] = entry >>> 28;
    }
    if (this.#rememberAll && !this.#compressed) {
      let page = 0;
      for (let index = 0; index < count; index++) {
        if (!carriesPage(types[index] ?? 0)) continue;
        this.#store.write(pfns[index] ?? 0, pages.subarray(page, page + pageSize));
        page += pageSize;
      }
    }
    yield libxc({ name: "PAGE_DATA", batch: { pfns, types, pages } });
  }

  /** Takes the entries of a compressed epoch; their pages come later. */
  *#announce(entries: Uint32Array<ArrayBuffer>): Generator<StreamItem, void, void> {
    this.#pendingEntries += entries.length;
    const waiting = this.#pending.length - this.#pendingAt + 1;
    if (this.#pendingEntries > pendingEntriesMax || waiting > pendingBatchesMax) {
      throw refuse(
        "compressed.backlog",
        this.#offset,
        `${this.#pendingEntries} entries in ${waiting} batches wait for compressed pages, and ` +
          `${pendingEntriesMax} in ${pendingBatchesMax} may`,
      );
    }
    this.#pending.push({ entries, pages: empty, done: 0, filled: 0 });
    if (waiting === 1) yield* this.#flush();
  }

  /** Gives out the batches at the front that wait for nothing, and leaves the first at an entry that waits. */
  *#flush(): Generator<StreamItem, void, void> {
    for (;;) {
      const batch = this.#pending[this.#pendingAt];
      if (batch === undefined) return;
      const { entries } = batch;
      while (batch.done < entries.length && !carriesPage((entries[batch.done] ?? 0) >>> 28)) batch.done++;
      if (batch.done < entries.length) return;
      this.#shift();
      this.#pendingEntries -= entries.length;
      yield* this.#convertBatch(entries, batch.pages);
    }
  }

  /** Forgets the first batch that waits. The array moves up seldom, for it may be long. */
  #shift(): void {
    this.#pendingAt++;
    if (this.#pendingAt < this.#pending.length && this.#pendingAt < 4096) return;
    this.#pending.splice(0, this.#pendingAt);
    this.#pendingAt = 0;
  }

  /** Decodes compressed pages, each for the next entry that waits for one. */
  *#expand(data: Uint8Array<ArrayBuffer>, offset: number): Generator<StreamItem, void, void> {
    let at = 0;
    while (at < data.length) {
      const batch = this.#pending[this.#pendingAt];
      if (batch === undefined) {
        throw refuse(
          "compressed.interleave",
          offset < 0 ? -1 : offset + at,
          "there are more compressed pages than entries",
        );
      }
      const carried = this.#carry.length;
      let source = data;
      let sourceAt = at;
      let sourceOffset = offset;
      if (carried > 0) {
        source = joined([this.#carry, data.subarray(0, remusDeltaSizeMax)]);
        sourceAt = 0;
        sourceOffset -= carried;
      }
      const end = measureRemusPage(source, sourceAt, sourceOffset);
      if (end === null) {
        if (carried === 0) this.#carryOffset = offset < 0 ? -1 : offset + at;
        this.#carry = source.slice(sourceAt);
        return;
      }
      this.#decode(batch, source, sourceAt, sourceOffset);
      at = carried > 0 ? end - carried : end;
      this.#carry = empty;
      yield* this.#flush();
    }
  }

  #decode(batch: PendingBatch, source: Uint8Array, at: number, offset: number): void {
    if (batch.pages.length === 0) {
      let count = 0;
      for (const entry of batch.entries) if (carriesPage(entry >>> 28)) count++;
      batch.pages = new Uint8Array(count * pageSize);
    }
    const pfn = (batch.entries[batch.done] ?? 0) & 0x0fff_ffff;
    const page = batch.pages.subarray(batch.filled, batch.filled + pageSize);
    if (source[at] !== remusFull && !this.#store.read(pfn, page)) {
      throw refuse(
        "compressed.base",
        offset < 0 ? -1 : offset + at,
        `frame ${pfn} comes as a difference to a page that is not known`,
      );
    }
    decodeRemusPage(source, at, page, offset);
    this.#store.write(pfn, page);
    batch.done++;
    batch.filled += pageSize;
  }

  #checkNothingPending(): void {
    if (this.#carry.length > 0) decodeRemusPage(this.#carry, 0, new Uint8Array(pageSize), this.#carryOffset);
    if (this.#pending.length > 0) {
      throw refuse(
        "compressed.missing",
        this.#offset,
        `the epoch has fewer compressed pages than entries, ${
          this.#pending.length - this.#pendingAt
        } batches are not whole`,
      );
    }
  }

  #collect(guest: GuestKind, param: HvmParam): void {
    if (guest === "pv") {
      throw refuse(
        "chunk.guest",
        this.#offset,
        "a parameter of HVM guests stands in a PV guest's stream",
      );
    }
    if (this.#params.length === paramsMax) {
      throw refuse("param.count", this.#offset, `an epoch has more than ${paramsMax} parameters`);
    }
    this.#params.push(param);
  }

  #collectXenstore(data: Uint8Array<ArrayBuffer>, width: 4 | 8): void {
    const pairs = xenstoreOfToolstack(data, width, this.#offset < 0 ? -1 : this.#offset + 8);
    if (pairs.length === 0) return;
    if (this.#xenstoreSize + pairs.length > xenstoreSizeMax) {
      throw refuse(
        "toolstack.length",
        this.#offset,
        `an epoch has more than ${xenstoreSizeMax} octets of Xenstore data`,
      );
    }
    this.#xenstore.push(pairs);
    this.#xenstoreSize += pairs.length;
  }

  /** The tail of an epoch is whole. */
  *#endEpoch(): Generator<StreamItem, void, void> {
    this.#inEpoch = false;
    this.#stage = "body";
    this.#epochs++;
    this.#compressed ||= this.#enabled;
    if (this.#epochs > 1) yield* this.#checkpoint();
    else this.#undecided = !this.#last;
    if (this.#last) yield* this.#close();
  }

  /** Commits the epoch. */
  *#checkpoint(): Generator<StreamItem, void, void> {
    yield libxc({ name: "CHECKPOINT" });
    if (this.#to === "libxc") return;
    yield* this.#emulator();
    yield libxl({ name: "CHECKPOINT_END" });
  }

  *#emulator(): Generator<StreamItem, void, void> {
    const head = { emulatorId: emulatorUnknown, index: 0 };
    if (this.#xenstoreSize > 0) {
      yield libxl({ name: "EMULATOR_XENSTORE_DATA", ...head, data: joined(this.#xenstore) });
      this.#xenstore = [];
      this.#xenstoreSize = 0;
    }
    if (this.#deviceModel !== null) {
      yield libxl({ name: "EMULATOR_CONTEXT", ...head, context: this.#deviceModel.data });
      this.#deviceModel = null;
    }
  }

  /** Ends every stream that is open. */
  *#close(): Generator<StreamItem, void, void> {
    this.#ended = true;
    this.#undecided = false;
    yield libxc({ name: "END" });
    if (this.#to === "libxl") {
      yield* this.#emulator();
      yield libxl({ name: "END" });
    } else if (this.#deviceModel !== null && !this.#skipDeviceModel) {
      yield { layer: "legacy", record: this.#deviceModel };
    }
  }

  *#end(cut: boolean): Generator<StreamItem, void, void> {
    if (this.#ended) return;
    const whole = !this.#inEpoch && this.#epochs > 0;
    if (!whole) {
      if (cut && this.#epochs > 0) return;
      const withoutModel = this.#stage === "device_model";
      if (!withoutModel) {
        throw refuse("end.missing", this.#offset, `the stream ends in epoch ${this.#epochs + 1}`);
      }
      if (this.#to === "libxl" || !this.#skipDeviceModel) {
        throw refuse("device_model.missing", this.#offset, "the stream ends before the device model's state");
      }
      yield* this.#endEpoch();
    }
    if (!this.#ended) yield* this.#close();
  }
}

/** The first octet of a whole page in Remus's encoding. */
const remusFull = 0x80;

/** Where a record may stand. */
function stageOf(name: LegacyRecord["name"]): "body" | "tail" | "device_model" {
  if (name === "HVM_TAIL" || name === "PV_TAIL") return "tail";
  return name === "DEVICE_MODEL" ? "device_model" : "body";
}

function libxc(record: LibxcRecord): StreamItem {
  return { layer: "libxc", record };
}

function libxl(record: LibxlRecord): StreamItem {
  return { layer: "libxl", record };
}

function joined(parts: Uint8Array[]): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

function refuse(rule: string, offset: number, message: string): FormatError {
  return new FormatError(`legacy.${rule}`, offset, `Cannot convert the legacy stream: ${message}`);
}
