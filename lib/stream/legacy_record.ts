/**
 * The legacy stream, as Xen up to 4.5 wrote it: no magic, no version, no framing, and the sender's word size in every place.
 *
 * ```text
 * header                       p2m_size; PV: extended info and the frames of the p2m table
 * epoch                        more than one only where Remus wrote it
 *   body   {i32 id, …}…, i32 0   id > 0: a batch of pages; id < 0: one thing by its id
 *   tail                       HVM: HVM_TAIL and DEVICE_MODEL; PV: PV_TAIL
 * ```
 *
 * Invariants:
 * - `encodeLegacyRecord()` of what the reader gave makes the octets it was read from, for every record.
 * - Page contents are not copied.
 *
 * `legacy_reader.ts` reads it, `legacy_format.ts` has its numbers; both are exported here too.
 *
 * @module
 */
import { type LegacyHeader, type LegacyRecord, pageSize } from "./item.ts";
import { deviceModelSignatures, legacyBatchMax, legacyChunkIds } from "./legacy_format.ts";

export * from "./legacy_format.ts";
export { LegacyReader, type LegacyReaderOptions, type PlacedLegacyRecord } from "./legacy_reader.ts";

/**
 * Makes a legacy record as a list of arrays to write one after the other. Page contents are not copied.
 *
 * @param width octets of the sender's `unsigned long`; a HEADER must name the same.
 * @throws {TypeError} for values that the format has no room for.
 */
export function encodeLegacyRecord(record: LegacyRecord, width: 4 | 8): Uint8Array[] {
  switch (record.name) {
    case "HEADER":
      if (record.header.width !== width) {
        throw new TypeError(
          `Cannot encode a legacy header of width ${record.header.width} in width ${width}`,
        );
      }
      return encodeHeader(record.header);
    case "BATCH": {
      const { entries, pages } = record;
      if (entries.length < 1 || entries.length > legacyBatchMax || pages.length % pageSize !== 0) {
        throw new TypeError(
          `Cannot encode a legacy batch of ${entries.length} entries with ${pages.length} octets`,
        );
      }
      const head = new Uint8Array(4 + entries.length * width);
      const view = new DataView(head.buffer);
      view.setInt32(0, entries.length, true);
      for (let index = 0; index < entries.length; index++) {
        view.setUint32(4 + index * width, entries[index] ?? 0, true);
      }
      return pages.length === 0 ? [head] : [head, pages];
    }
    case "END_OF_BODY":
      return [ints(0)];
    case "VERIFY_MODE":
      return [ints(legacyChunkIds.verifyMode)];
    case "LAST_CHECKPOINT":
      return [ints(legacyChunkIds.lastCheckpoint)];
    case "ENABLE_COMPRESSION":
      return [ints(legacyChunkIds.enableCompression)];
    case "VCPU_INFO":
      return [ints(legacyChunkIds.vcpuInfo, record.vcpuIdMax), encodeLongs(record.online, 8)];
    case "TSC_INFO": {
      const bytes = new Uint8Array(24);
      const view = new DataView(bytes.buffer);
      view.setInt32(0, legacyChunkIds.tscInfo, true);
      view.setUint32(4, record.tsc.mode, true);
      view.setBigUint64(8, record.tsc.nsec, true);
      view.setUint32(16, record.tsc.khz, true);
      view.setUint32(20, record.tsc.incarnation, true);
      return [bytes];
    }
    case "HVM_PARAM":
      return [ints(record.id, record.pad), encodeLongs([record.value], 8)];
    case "TOOLSTACK":
      return [ints(legacyChunkIds.toolstack, record.data.length), record.data];
    case "COMPRESSED_DATA":
      return [
        ints(legacyChunkIds.compressedData),
        encodeLongs([BigInt(record.data.length)], width),
        record.data,
      ];
    case "HVM_TAIL":
      return [
        encodeLongs([record.ioreqPfn, record.bufioreqPfn, record.storePfn], 8),
        ints(record.context.length),
        record.context,
      ];
    case "DEVICE_MODEL": {
      if (!Object.values<string>(deviceModelSignatures).includes(record.signature)) {
        throw new TypeError(`Cannot encode a device model: the signature "${record.signature}" is unknown`);
      }
      const signature = Uint8Array.from(record.signature, (character) => character.charCodeAt(0));
      return record.signature === deviceModelSignatures.old
        ? [signature, record.data]
        : [signature, ints(record.data.length), record.data];
    }
    case "PV_TAIL": {
      const pieces: Uint8Array[] = [ints(record.unmapped.length), encodeLongs(record.unmapped, width)];
      for (const { basic, extended, xsave } of record.vcpus) {
        pieces.push(basic);
        if (extended !== null) pieces.push(extended);
        if (xsave !== null) {
          pieces.push(encodeLongs([xsave.mask, BigInt(xsave.data.length)], 8), xsave.data);
        }
      }
      pieces.push(record.sharedInfo);
      return pieces;
    }
  }
}

function encodeHeader(header: LegacyHeader): Uint8Array[] {
  const { width } = header;
  const pieces: Uint8Array[] = [encodeLongs([BigInt(header.p2mSize)], width)];
  if (header.guest === "hvm") return pieces;
  if (header.extendedInfo !== null) {
    let total = 0;
    for (const { data } of header.extendedInfo) total += 8 + data.length;
    pieces.push(new Uint8Array(width).fill(0xff), ints(total));
    for (const { id, data } of header.extendedInfo) {
      const head = ints(0, data.length);
      for (let at = 0; at < 4; at++) head[at] = id.charCodeAt(at);
      pieces.push(head, data);
    }
  }
  pieces.push(encodeLongs(header.p2mFrames ?? [], width));
  return pieces;
}

function encodeLongs(values: ArrayLike<bigint>, width: 4 | 8): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(values.length * width);
  const view = new DataView(bytes.buffer);
  for (let index = 0; index < values.length; index++) {
    const value = values[index] ?? 0n;
    if (value < 0n || value >= 1n << BigInt(width * 8)) {
      throw new TypeError(`Cannot encode ${value}: it has more than ${width} octets`);
    }
    if (width === 8) view.setBigUint64(index * 8, value, true);
    else view.setUint32(index * 4, Number(value), true);
  }
  return bytes;
}

/** 32-bit numbers, signed or not. */
function ints(...values: number[]): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(values.length * 4);
  const view = new DataView(bytes.buffer);
  values.forEach((value, index) => view.setInt32(index * 4, value | 0, true));
  return bytes;
}
