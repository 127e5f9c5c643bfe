/**
 * Takes a legacy stream apart: the reader of what `legacy_record.ts` writes.
 *
 * Invariants:
 * - A count or a size is compared with its bound before anything is allocated for it.
 * - Page contents are copied once, from the chunk into the batch's own array, and not at all when read into `openBody()`.
 * - A reader holds at most one chunk and one unfinished record.
 *
 * Little-endian, as all its senders were. Transcendent memory (chunks −5 and −6) has no bound and no reader. The grammar
 * is checked, and what would be misread; what a batch may say twice, or which parameter a guest may have, is not.
 *
 * The reader is a generator that stops where octets run out (`intake.ts`), so that the grammar stands in the order in which
 * it is read.
 *
 * @module
 */
import type { FormatError } from "../base/errors.ts";
import {
  carriesPage,
  type GuestKind,
  type ItemPlace,
  type LegacyHeader,
  type LegacyParamId,
  type LegacyRecord,
  type LegacyVcpu,
  pageSize,
} from "./item.ts";
import {
  deviceModelSignatures,
  legacyBasicSizes,
  legacyBatchMax,
  legacyChunkIds,
  legacyCompressedSizeMax,
  legacyContextSizeMax,
  legacyDeviceModelSizeMax,
  legacyError,
  legacyExtendedSize,
  legacyGuestWidth,
  legacyHole,
  legacyP2mSizeMax,
  type LegacyTailShape,
  legacyTailShape,
  legacyToolstackSizeMax,
  legacyUnmappedMax,
  legacyVcpuIdMax,
  legacyXsaveHeadSize,
  legacyXsaveSizeMax,
} from "./legacy_format.ts";
import { Intake, type Waiting } from "./intake.ts";

/** A legacy record and where it stands; an item of its layer. */
export interface PlacedLegacyRecord {
  /** The grammar: always this one. */
  layer: "legacy";
  /** What was read. */
  record: LegacyRecord;
  /** Where it stands. */
  place: ItemPlace;
}

/** What may be told to a {@link LegacyReader}. */
export interface LegacyReaderOptions {
  /** Octets of the sender's `unsigned long`; found in the first eight octets by default. */
  width?: 4 | 8 | "auto";
  /** Kind of the guest; by default PV where the mark of extended info stands, else HVM. */
  guest?: GuestKind | "auto";
  /** Stream offset of the first octet that will be pushed. */
  offset?: number;
  /** Index of the first item. */
  index?: number;
  /** Finds memory for the pages of a batch, exactly `size` octets, at most 4 MiB. */
  allocate?: (size: number) => Uint8Array<ArrayBuffer>;
}

const ioreqServerPfnId = -19;
const ioreqServerPagesId = -20;
const paramIds: readonly LegacyParamId[] = [-3, -4, -8, -10, -11, -14, -15, -16, -17, -19, -20, -21];
const signatureSize = 21;
const deviceModelMagic = "QEVM";
const empty: Uint8Array<ArrayBuffer> = new Uint8Array(0);

/**
 * Takes a legacy stream apart, chunk by chunk.
 *
 * After `push()`, call `next()` until it gives null; only then may the chunk's memory be used again and the next chunk be
 * pushed. After `finish()` call `next()` until null once more: an old device model's state ends where the stream does, and
 * is only then a record. After an error the reader stays broken and throws that error again.
 *
 * ```ts
 * import { LegacyReader } from "./legacy_record.ts";
 * const reader = new LegacyReader({ width: 8 });
 * reader.push(new Uint8Array([0, 0, 16]));
 * console.log(reader.next()); // null
 * ```
 */
export class LegacyReader {
  readonly #intake: Intake;
  readonly #steps: Generator<PlacedLegacyRecord | null, void, void>;
  readonly #widthWanted: 4 | 8 | "auto";
  readonly #guestWanted: GuestKind | "auto";
  #width: 4 | 8 = 8;
  #p2mSize = 0;
  #index: number;
  #recordOffset: number;
  #inHeader = true;
  #epochs = 0;
  /** What is being read, for the message about an end in it; null where the stream may end. */
  #part: string | null = "the header";
  #untilEnd = false;
  #ended = false;
  #held: PlacedLegacyRecord | null = null;
  #failure: unknown = null;

  /** A reader at the first octet of a legacy stream. */
  constructor(options: LegacyReaderOptions = {}) {
    this.#widthWanted = options.width ?? "auto";
    this.#guestWanted = options.guest ?? "auto";
    this.#recordOffset = options.offset ?? 0;
    this.#index = options.index ?? 0;
    this.#intake = new Intake({
      offset: this.#recordOffset,
      digest: null,
      allocate: options.allocate ?? ((size) => new Uint8Array(size)),
    });
    this.#steps = this.#records();
  }

  /** Stream offset of the first octet that was not taken in yet. */
  get offset(): number {
    return this.#intake.offset;
  }

  /** Epochs that were read to the end of their tail. */
  get epochs(): number {
    return this.#epochs;
  }

  /** Whether the stream may end here. */
  get atBoundary(): boolean {
    return this.#part === null || this.#untilEnd;
  }

  /**
   * Gives the reader the next octets of the stream.
   *
   * @throws {TypeError} when an earlier chunk was not read to its end by `next()`, or after `finish()`.
   */
  push(chunk: Uint8Array): void {
    if (this.#ended) throw new TypeError("Cannot push a chunk: the stream was said to have ended");
    if (this.#intake.available > 0) {
      throw new TypeError(
        "Cannot push a chunk: the one before it still has records, next() should take them first",
      );
    }
    this.#intake.push(chunk);
  }

  /**
   * Takes the next whole record, or null when more octets are needed.
   *
   * @throws {FormatError} rules `legacy.…`, which STREAM.md lists.
   */
  next(): PlacedLegacyRecord | null {
    if (this.#failure !== null) throw this.#failure;
    if (this.#held !== null) {
      const held = this.#held;
      this.#held = null;
      return held;
    }
    try {
      const step = this.#steps.next();
      return step.done === true ? null : step.value;
    } catch (error) {
      this.#failure = error;
      throw error;
    }
  }

  /** The part of what is being read that is still empty, to read into directly; empty unless `next()` gave null in it. */
  openBody(): Uint8Array<ArrayBuffer> {
    return this.#intake.open();
  }

  /** Notes that `size` octets of the stream were written to the front of `openBody()`. */
  filledBody(size: number): void {
    this.#intake.filled(size);
  }

  /**
   * Says that the stream has ended. `next()` may give one more record after this.
   *
   * @throws {FormatError} rule `legacy.header.truncated` in the header, `legacy.end.missing` at the edge of a chunk, else
   * `legacy.record.truncated`.
   */
  finish(): void {
    if (this.#failure !== null) throw this.#failure;
    if (this.#intake.available > 0) {
      throw new TypeError("Cannot finish: the last chunk still has records, next() should take them first");
    }
    if (this.#ended) return;
    this.#ended = true;
    if (this.#untilEnd) {
      this.#held = this.next();
    } else if (this.#part !== null) {
      const rule = this.#inHeader
        ? "header.truncated"
        : this.#intake.offset === this.#recordOffset
        ? "end.missing"
        : "record.truncated";
      this.#failure = legacyError(
        rule,
        this.#intake.offset,
        `the stream ends in ${this.#part}, ${this.#epochs} epochs are whole`,
      );
      throw this.#failure;
    }
  }

  *#records(): Generator<PlacedLegacyRecord | null, void, void> {
    const { header, firstId } = yield* this.#takeHeader();
    this.#inHeader = false;
    let idTaken = firstId;
    const pv = header.guest === "pv";
    const shape = legacyTailShape(header);
    /** Virtual processors of the tail: the first one, until an epoch says otherwise. */
    let online: BigUint64Array = new BigUint64Array([1n]);
    let compressed = false;
    for (;;) {
      let last = false;
      let enabled = false;
      let vcpuInfoSeen = false;
      let ioreqServer = 0;
      for (;;) {
        this.#begin("the id of a chunk");
        if (idTaken !== null) this.#recordOffset -= 4;
        const id = idTaken ?? (yield* this.#takeUint()) | 0;
        idTaken = null;
        if (id > 0) {
          yield yield* this.#takeBatch(id, compressed);
          continue;
        }
        if (id === 0) {
          if (ioreqServer === 1 || ioreqServer === 2) {
            throw legacyError(
              "ioreq.pair",
              this.#recordOffset,
              "of the pages of ioreq servers and their number, one is there without the other",
            );
          }
          yield this.#placed({ name: "END_OF_BODY" });
          break;
        }
        const param = paramIds.find((known) => known === id);
        if (param !== undefined) {
          const record = yield* this.#takeParam(param);
          if (record.value !== 0n && id === ioreqServerPfnId) ioreqServer |= 1;
          if (record.value !== 0n && id === ioreqServerPagesId) ioreqServer |= 2;
          yield this.#placed(record);
          continue;
        }
        switch (id) {
          case legacyChunkIds.verifyMode:
            yield this.#placed({ name: "VERIFY_MODE" });
            break;
          case legacyChunkIds.lastCheckpoint:
            last = true;
            yield this.#placed({ name: "LAST_CHECKPOINT" });
            break;
          case legacyChunkIds.enableCompression:
            enabled = true;
            yield this.#placed({ name: "ENABLE_COMPRESSION" });
            break;
          case legacyChunkIds.vcpuInfo: {
            if (vcpuInfoSeen) {
              throw legacyError("vcpu_info.repeated", this.#recordOffset, "an epoch has this chunk twice");
            }
            vcpuInfoSeen = true;
            const record = yield* this.#takeVcpuInfo();
            online = record.online;
            yield this.#placed(record);
            break;
          }
          case legacyChunkIds.tscInfo:
            yield this.#placed(yield* this.#takeTscInfo());
            break;
          case legacyChunkIds.compressedData:
            if (!compressed) {
              throw legacyError(
                "compressed.early",
                this.#recordOffset,
                "compressed pages stand where nothing has switched compression on",
              );
            }
            yield this.#placed({
              name: "COMPRESSED_DATA",
              data: yield* this.#takeSized("compressed.length", this.#width, legacyCompressedSizeMax),
            });
            break;
          case legacyChunkIds.toolstack:
            yield this.#placed({
              name: "TOOLSTACK",
              data: yield* this.#takeSized("toolstack.length", 4, legacyToolstackSizeMax),
            });
            break;
          case legacyChunkIds.tmem:
          case legacyChunkIds.tmemExtra:
            throw legacyError(
              "chunk.tmem",
              this.#recordOffset,
              "it holds transcendent memory, which nobody can convert",
            );
          default:
            throw legacyError("chunk.unknown", this.#recordOffset, `there is no chunk ${id}`);
        }
      }
      this.#begin("the tail");
      if (pv) {
        yield this.#placed(yield* this.#takePvTail(shape, online));
      } else {
        yield this.#placed(yield* this.#takeHvmTail());
        // An image may do without; an epoch of Remus is not whole without it.
        if (this.#epochs === 0) yield* this.#awaitOctets();
        this.#begin("the device model's state");
        yield this.#placed(yield* this.#takeDeviceModel());
      }
      this.#epochs++;
      if (enabled) compressed = true;
      yield* this.#awaitOctets();
      if (last) {
        throw legacyError("end.trailing", this.#intake.offset, "octets follow the tail of the last epoch");
      }
    }
  }

  /** Takes the header and, with an HVM guest, the id of the first chunk: only that tells the guest. */
  *#takeHeader(): Generator<
    PlacedLegacyRecord | null,
    { header: LegacyHeader; firstId: number | null },
    void
  > {
    let p2mSize = BigInt(yield* this.#takeUint());
    let first: number | null = null;
    if (this.#widthWanted === "auto") {
      first = yield* this.#takeUint();
      this.#width = first === 0 ? 8 : 4;
    } else {
      this.#width = this.#widthWanted;
    }
    const width = this.#width;
    if (width === 8) {
      p2mSize |= BigInt(first ?? (yield* this.#takeUint())) << 32n;
      first = null;
    }
    if (p2mSize === 0n || p2mSize > BigInt(legacyP2mSizeMax)) {
      throw legacyError(
        "header.p2m_size",
        this.#recordOffset,
        `no other kind of stream begins like this, and a legacy guest with ${p2mSize} pages should have 1 to ` +
          `${legacyP2mSizeMax}: this may be no stream at all`,
      );
    }
    this.#p2mSize = Number(p2mSize);
    first ??= yield* this.#takeUint();
    const guest = this.#guestWanted !== "auto" ? this.#guestWanted : first === 0xffff_ffff ? "pv" : "hvm";
    const header: LegacyHeader = {
      width,
      guest,
      p2mSize: this.#p2mSize,
      extendedInfo: null,
      p2mFrames: null,
    };
    if (guest === "hvm") {
      yield this.#placed({ name: "HEADER", header }, width);
      return { header, firstId: first | 0 };
    }
    this.#part = "the extended info";
    const high = width === 8 ? yield* this.#takeUint() : 0xffff_ffff;
    const marked = first === 0xffff_ffff && high === 0xffff_ffff;
    if (marked) header.extendedInfo = yield* this.#takeExtendedInfo();
    this.#part = "the frames of the p2m table";
    const frames = new BigUint64Array(Math.ceil(this.#p2mSize / (pageSize / legacyGuestWidth(header))));
    const start = marked ? 0 : 1;
    if (!marked) frames[0] = BigInt(first) | (width === 8 ? BigInt(high) << 32n : 0n);
    frames.set(yield* this.#takeLongs(frames.length - start), start);
    header.p2mFrames = frames;
    yield this.#placed({ name: "HEADER", header });
    return { header, firstId: null };
  }

  *#takeExtendedInfo(): Waiting<{ id: string; data: Uint8Array<ArrayBuffer> }[]> {
    const blocks: { id: string; data: Uint8Array<ArrayBuffer> }[] = [];
    let left = yield* this.#takeUint();
    while (left > 0) {
      const { offset } = this.#intake;
      if (left < 8) {
        throw legacyError(
          "extended_info.size",
          offset,
          `a block has 8 octets at least, ${left} are left`,
        );
      }
      const id = text(yield* this.#intake.borrow(4));
      const size = yield* this.#takeUint();
      if (size > left - 8) {
        throw legacyError(
          "extended_info.size",
          offset + 4,
          `a block has ${size} octets, ${left - 8} are left`,
        );
      }
      if (id !== "vcpu" && id !== "extv" && id !== "xcnt") {
        throw legacyError("extended_info.block", offset, `the block ${JSON.stringify(id)} is unknown`);
      }
      if (blocks.some((block) => block.id === id)) {
        throw legacyError("extended_info.repeated", offset, `the block "${id}" is there twice`);
      }
      const sizes: number[] = id === "vcpu"
        ? [legacyBasicSizes[4], legacyBasicSizes[8]]
        : [id === "extv" ? 0 : 4];
      if (!sizes.includes(size)) {
        throw legacyError(
          `extended_info.${id}`,
          offset + 4,
          `the block "${id}" has ${size} octets, and should have ${sizes.join(" or ")}`,
        );
      }
      const data = yield* this.#intake.take(size);
      if (id === "xcnt") {
        const xsaveSize = new DataView(data.buffer).getUint32(0, true);
        if (xsaveSize < legacyXsaveHeadSize || xsaveSize > legacyXsaveSizeMax) {
          throw legacyError(
            "extended_info.xcnt",
            offset + 8,
            `an xsave record has ${xsaveSize} octets, and may have ${legacyXsaveHeadSize} to ${legacyXsaveSizeMax}`,
          );
        }
      }
      blocks.push({ id, data });
      left -= 8 + size;
    }
    return blocks;
  }

  *#takeBatch(count: number, compressed: boolean): Waiting<PlacedLegacyRecord> {
    if (count > legacyBatchMax) {
      throw legacyError(
        "batch.count",
        this.#recordOffset,
        `a batch has ${count} entries, and may have ${legacyBatchMax}`,
      );
    }
    this.#part = "the entries of a batch";
    const view = yield* this.#view(count * this.#width);
    const entries = new Uint32Array(count);
    let pagesCount = 0;
    for (let index = 0; index < count; index++) {
      const at = index * this.#width;
      const entry = view.getUint32(at, true);
      const type = entry >>> 28;
      if (this.#width === 8 && view.getUint32(at + 4, true) !== 0) {
        throw this.#refuseEntry("batch.reserved", at, "an entry has more than 32 bits");
      }
      if (type >= 5 && type <= 8) {
        throw this.#refuseEntry("batch.type", at, `the page type ${type} is reserved`);
      }
      if (entry !== legacyHole && (entry & 0x0fff_ffff) >= this.#p2mSize) {
        throw this.#refuseEntry(
          "batch.pfn",
          at,
          `frame ${entry & 0x0fff_ffff} is outside the guest's ${this.#p2mSize}`,
        );
      }
      if (carriesPage(type)) pagesCount++;
      entries[index] = entry;
    }
    let pages = empty;
    if (!compressed && pagesCount > 0) {
      this.#part = "the pages of a batch";
      pages = yield* this.#intake.takeWhole(pagesCount * pageSize);
    }
    return this.#placed({ name: "BATCH", entries, pages });
  }

  #refuseEntry(rule: string, at: number, message: string): FormatError {
    return legacyError(rule, this.#recordOffset + 4 + at, message);
  }

  *#takeParam(id: LegacyParamId): Waiting<Extract<LegacyRecord, { name: "HVM_PARAM" }>> {
    const view = yield* this.#view(12);
    return { name: "HVM_PARAM", id, pad: view.getUint32(0, true), value: view.getBigUint64(4, true) };
  }

  *#takeVcpuInfo(): Waiting<Extract<LegacyRecord, { name: "VCPU_INFO" }>> {
    const vcpuIdMax = (yield* this.#takeUint()) | 0;
    if (vcpuIdMax < 0 || vcpuIdMax > legacyVcpuIdMax) {
      throw legacyError(
        "vcpu_info.max",
        this.#recordOffset + 4,
        `the largest virtual processor is ${vcpuIdMax}, and may be 0 to ${legacyVcpuIdMax}`,
      );
    }
    const online = longs(yield* this.#view((Math.floor(vcpuIdMax / 64) + 1) * 8), 8);
    const spare = BigInt(63 - vcpuIdMax % 64);
    const word = online[online.length - 1] ?? 0n;
    if (BigInt.asUintN(64, word << spare) >> spare !== word) {
      throw legacyError(
        "vcpu_info.bits",
        this.#intake.offset - 8,
        `a virtual processor above the largest, ${vcpuIdMax}, is marked`,
      );
    }
    return { name: "VCPU_INFO", vcpuIdMax, online };
  }

  *#takeTscInfo(): Waiting<LegacyRecord> {
    const view = yield* this.#view(20);
    return {
      name: "TSC_INFO",
      tsc: {
        mode: view.getUint32(0, true),
        nsec: view.getBigUint64(4, true),
        khz: view.getUint32(12, true),
        incarnation: view.getUint32(16, true),
      },
    };
  }

  *#takeSized(rule: string, sizeWidth: 4 | 8, max: number): Waiting<Uint8Array<ArrayBuffer>> {
    const { offset } = this.#intake;
    const low = yield* this.#takeUint();
    const size = sizeWidth === 8 ? (yield* this.#takeUint()) * 2 ** 32 + low : low;
    if (size > max) throw legacyError(rule, offset, `it has ${size} octets, and may have ${max}`);
    return yield* this.#intake.take(size);
  }

  *#takeHvmTail(): Waiting<LegacyRecord> {
    const view = yield* this.#view(24);
    const ioreqPfn = view.getBigUint64(0, true);
    const bufioreqPfn = view.getBigUint64(8, true);
    const storePfn = view.getBigUint64(16, true);
    const { offset } = this.#intake;
    const context = yield* this.#takeSized("tail.context", 4, legacyContextSizeMax);
    if (context.length === 0) {
      throw legacyError("tail.context", offset, "the context of the guest is empty");
    }
    return { name: "HVM_TAIL", ioreqPfn, bufioreqPfn, storePfn, context };
  }

  *#takeDeviceModel(): Waiting<LegacyRecord> {
    const signature = text(yield* this.#intake.borrow(signatureSize));
    switch (signature) {
      case deviceModelSignatures.current:
      case deviceModelSignatures.remus:
        return {
          name: "DEVICE_MODEL",
          signature,
          data: yield* this.#takeSized("device_model.length", 4, legacyDeviceModelSizeMax),
        };
      case deviceModelSignatures.old:
        return { name: "DEVICE_MODEL", signature, data: yield* this.#takeUntilEnd() };
    }
    throw legacyError(
      "device_model.signature",
      this.#recordOffset,
      `the signature is ${JSON.stringify(signature)}, and should be one of ${
        Object.values(deviceModelSignatures).map((known) => `"${known}"`).join(", ")
      }`,
    );
  }

  /** A device model's state without a length: all that is left. The memory grows with what has arrived. */
  *#takeUntilEnd(): Waiting<Uint8Array<ArrayBuffer>> {
    const magic = yield* this.#intake.take(deviceModelMagic.length);
    if (text(magic) !== deviceModelMagic) {
      throw legacyError(
        "device_model.magic",
        this.#intake.offset - magic.length,
        `the state should begin with "${deviceModelMagic}"`,
      );
    }
    let data = new Uint8Array(64 * 1024);
    data.set(magic);
    let size = magic.length;
    this.#untilEnd = true;
    while (!this.#ended) {
      const added = this.#intake.takeRest();
      if (size + added.length > legacyDeviceModelSizeMax) {
        throw legacyError(
          "device_model.length",
          this.#intake.offset,
          `it has more than ${legacyDeviceModelSizeMax} octets`,
        );
      }
      if (size + added.length > data.length) {
        const larger = new Uint8Array(
          Math.min(legacyDeviceModelSizeMax, Math.max(size + added.length, data.length * 2)),
        );
        larger.set(data.subarray(0, size));
        data = larger;
      }
      data.set(added, size);
      size += added.length;
      yield null;
    }
    this.#untilEnd = false;
    return data.slice(0, size);
  }

  *#takePvTail(shape: LegacyTailShape, online: BigUint64Array): Waiting<LegacyRecord> {
    const count = yield* this.#takeUint();
    const max = Math.min(legacyUnmappedMax, this.#p2mSize);
    if (count > max) {
      throw legacyError(
        "tail.unmapped",
        this.#recordOffset,
        `${count} frames are not mapped, and ${max} may be`,
      );
    }
    this.#part = "the unmapped frames";
    const unmapped = yield* this.#takeLongs(count);
    this.#part = "a virtual processor's state";
    const vcpus: LegacyVcpu[] = [];
    for (let id = 0; id < online.length * 64; id++) {
      if (((online[id >>> 6] ?? 0n) >> BigInt(id & 63) & 1n) === 0n) continue;
      const basic = yield* this.#intake.take(shape.basicSize);
      const extended = shape.extended ? yield* this.#intake.take(legacyExtendedSize) : null;
      let xsave: LegacyVcpu["xsave"] = null;
      if (shape.xsaveSize > 0) {
        const { offset } = this.#intake;
        const view = yield* this.#view(legacyXsaveHeadSize);
        const mask = view.getBigUint64(0, true);
        const size = view.getBigUint64(8, true);
        if (size !== BigInt(shape.xsaveSize - legacyXsaveHeadSize)) {
          throw legacyError(
            "tail.xsave_size",
            offset + 8,
            `the xsave state of processor ${id} has ${size} octets, and should have ${
              shape.xsaveSize - legacyXsaveHeadSize
            }`,
          );
        }
        xsave = { mask, data: yield* this.#intake.take(Number(size)) };
      }
      vcpus.push({ basic, extended, xsave });
    }
    this.#part = "the shared info page";
    return { name: "PV_TAIL", unmapped, vcpus, sharedInfo: yield* this.#intake.take(pageSize) };
  }

  /** Waits for any octet: the stream may end here. */
  *#awaitOctets(): Waiting {
    this.#part = null;
    while (this.#intake.available === 0) yield null;
  }

  #begin(part: string): void {
    this.#recordOffset = this.#intake.offset;
    this.#part = part;
  }

  #placed(
    record: LegacyRecord,
    size: number = this.#intake.offset - this.#recordOffset,
  ): PlacedLegacyRecord {
    return { layer: "legacy", record, place: { index: this.#index++, offset: this.#recordOffset, size } };
  }

  *#takeUint(): Waiting<number> {
    return (yield* this.#view(4)).getUint32(0, true);
  }

  *#takeLongs(count: number): Waiting<BigUint64Array<ArrayBuffer>> {
    return longs(yield* this.#view(count * this.#width), this.#width);
  }

  /** The next octets, to look at before anything else is taken. */
  *#view(size: number): Waiting<DataView> {
    const bytes = yield* this.#intake.borrow(size);
    return new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  }
}

function text(bytes: Uint8Array): string {
  return String.fromCharCode(...bytes);
}

/** Little-endian numbers of `width` octets. */
function longs(view: DataView, width: 4 | 8): BigUint64Array<ArrayBuffer> {
  const values = new BigUint64Array(view.byteLength / width);
  for (let index = 0; index < values.length; index++) {
    values[index] = width === 8
      ? view.getBigUint64(index * 8, true)
      : BigInt(view.getUint32(index * 4, true));
  }
  return values;
}
