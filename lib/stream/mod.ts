/**
 * Records and streams of records: the grammar that packages, connections and memory migration share, and the streams of
 * memory: Xen's (libxc, libxl, the file of `xl`, and the legacy ones of Xen 4.5 and before) and drover's own regions.
 *
 * - `record.ts` has the grammar, `record_stream.ts` reads it from web streams.
 * - {@link StreamReader} takes a stream of any profile apart into typed items, {@link encodeItem} makes octets of items.
 * - {@link Verifier} holds a stream against every rule; it shares no code with the reader.
 * - {@link LegacyConverter} makes today's items of legacy ones.
 * - {@link CheckpointReceiver} gives the last committed epoch of a stream that may be cut anywhere; {@link MemoryImage} is
 *   the memory of it. {@link OutputCommit} is the sender's side.
 * - `delta.ts` and {@link RemusSender} have the two encodings of changed pages.
 *
 * `STREAM.md` is the specification. Nothing here touches a file, a socket or a clock.
 *
 * ```ts
 * import assert from "node:assert/strict";
 * import {
 *   CheckpointReceiver,
 *   encodeItems,
 *   ImageTarget,
 *   MemoryImage,
 *   type StreamItem,
 *   StreamReader,
 *   Verifier,
 * } from "@drover/drover";
 *
 * const page = (pfn: number, octet: number): StreamItem => ({
 *   layer: "libxc",
 *   record: {
 *     name: "PAGE_DATA",
 *     batch: {
 *       pfns: new Float64Array([pfn]),
 *       types: new Uint8Array(1),
 *       pages: new Uint8Array(4096).fill(octet),
 *     },
 *   },
 * });
 * // A guest that is protected: its whole memory, a checkpoint, and the beginning of another epoch.
 * const octets = [...encodeItems([
 *   { layer: "libxc", header: { version: 3, bigEndian: false, guest: "hvm", xenMajor: 4, xenMinor: 20 } },
 *   { layer: "libxc", record: { name: "STATIC_DATA_END" } },
 *   page(0, 1),
 *   page(1, 1),
 *   { layer: "libxc", record: { name: "CHECKPOINT" } },
 *   page(1, 2),
 * ])];
 *
 * const image = new MemoryImage({ sizeMax: 1 << 30 });
 * const scratch = new MemoryImage({ sizeMax: 1 << 28 });
 * const target = new ImageTarget({ image, scratch });
 * const receiver = new CheckpointReceiver({ target, epochSizeMax: 1 << 28 });
 * const reader = new StreamReader();
 * const verifier = new Verifier();
 * for (const chunk of octets) {
 *   verifier.push(chunk);
 *   reader.push(chunk);
 *   for (let item = reader.next(); item !== null; item = reader.next()) receiver.take(item);
 * }
 * const { status, epochs, dropped } = receiver.finish();
 * assert.deepEqual({ status, epochs, dropped }, { status: "failover", epochs: 1, dropped: 1 });
 * assert.equal(image.page(1)[0], 1);
 * assert.equal(verifier.finish().status, "failover");
 * ```
 *
 * @module
 */
export {
  type CheckpointAction,
  type CheckpointEvent,
  checkpointEvent,
  type CheckpointOutcome,
  CheckpointReceiver,
  type CheckpointState,
  type CheckpointStep,
  checkpointStep,
  type CheckpointTarget,
  EpochBuffer,
  OutputCommit,
  type OutputCommitLimits,
  type ReceivedItem,
} from "./checkpoint.ts";
export {
  type ConverterInput,
  converterVersion,
  LegacyConverter,
  type LegacyConverterOptions,
  pendingEntriesMax,
  xenstoreSizeMax,
} from "./convert.ts";
export {
  checkDeltas,
  checkRemusPages,
  decodePage,
  decodePages,
  decodeRemusPage,
  decodeRemusPages,
  deltaCodecs,
  encodeCached,
  encodePages,
  encodeRemusFull,
  encodeRemusPage,
  encodeRemusPages,
  measurePage,
  measureRemusPage,
  pageWords,
  regionDeltaSizeMax,
  regionPageSizeMax,
  remusDeltaSizeMax,
  remusPageSizeMax,
  slotMiss,
  slotNone,
} from "./delta.ts";
export { RemusReceiver, type RemusReceiverOptions } from "./delta_receiver.ts";
export { remusBounds, RemusSender, type RemusSenderOptions } from "./delta_sender.ts";
export type { RecordContext } from "./fields.ts";
export type { StreamDigest } from "./intake.ts";
export {
  carriesPage,
  type CpuidLeaf,
  type GuestKind,
  type HvmParam,
  type ItemPlace,
  type Layer,
  type LegacyHeader,
  type LegacyParamId,
  type LegacyRecord,
  type LegacyVcpu,
  type LibxcHeader,
  type LibxcRecord,
  type LibxlHeader,
  type LibxlRecord,
  type MsrPolicyEntry,
  type PageBatch,
  type PageDeltas,
  type PageRange,
  pageSize,
  pageTypes,
  type RegionRecord,
  type StreamItem,
  type StreamProfile,
  type TscInfo,
  type UnknownRecord,
  type VcpuMsr,
  type XlHeader,
} from "./item.ts";
export * from "./legacy_record.ts";
export {
  decodeImageHeader,
  decodeLibxcHeader,
  decodeLibxcRecord,
  domainHeaderSize,
  encodeLibxcHeader,
  encodeLibxcRecord,
  entriesMax,
  type LibxcContext,
  libxcHeaderSize,
  libxcId,
  libxcTypes,
  p2mFramesMax,
} from "./libxc_record.ts";
export {
  controlIdMax,
  decodeLibxlHeader,
  decodeLibxlRecord,
  emulatorIdMax,
  encodeLibxlHeader,
  encodeLibxlRecord,
  libxlHeaderSize,
  libxlIdent,
  libxlTypes,
  libxlVersion,
  xenstorePairs,
} from "./libxl_record.ts";
export { diffImages, type ImageDifference, type ImageSource } from "./image_diff.ts";
export { EpochImage, ImageTarget, ImageWriter } from "./image_target.ts";
export { type ImageSink, type ImageStore, MemoryImage } from "./memory_image.ts";
export { isZeroPage } from "./page_compare.ts";
export {
  type DeltaFormat as PageCodecFormat,
  encodedSizeMax,
  type PageCodec,
  pageCodec,
} from "./page_codec.ts";
export {
  decodePageCount,
  decodePageData,
  decodePageEntries,
  encodePageData,
  pageCountMax,
  type PageDataContext,
  pageDataHeadSize,
  pageDataType,
  type PageEntries,
  pfnLimit,
} from "./page_data.ts";
export { PageSet } from "./page_set.ts";
export { MemoryPageStore, type PageStore, storePagesMax } from "./page_store.ts";
export { type PlacedItem, readStream, StreamReader, type StreamReaderOptions } from "./reader.ts";
export {
  bodySizeMax,
  decodeHeader,
  encodeHeader,
  encodeRecord,
  encodeRecordHead,
  endType,
  type HeaderRule,
  headerSize,
  type ImageHeader,
  optionalBit,
  recordHeadSize,
  type RecordLimits,
  recordPadding,
  RecordReader,
  type StreamRecord,
} from "./record.ts";
export { RecordStream, type RecordStreamOptions } from "./record_stream.ts";
export {
  decodeRegionHeader,
  decodeRegionRecord,
  deltasMax,
  digestSize,
  encodeRegionHeader,
  encodeRegionRecord,
  labelSizeMax,
  rangesMax,
  type RegionContext,
  regionPagesMax,
  regionStreamId,
  regionTypes,
  regionVersion,
} from "./region_record.ts";
export {
  type Finding,
  findingsMax,
  type RunningDigest,
  Verifier,
  type VerifyLayer,
  type VerifyOptions,
  type VerifyProfile,
  type VerifyReport,
  type VerifyStatus,
} from "./verify/verifier.ts";
export { encodeItem, encodeItems, newWriterState, type WriterState } from "./writer.ts";
export {
  decodeXlHeaderStart,
  encodeXlHeader,
  xlDataSizeMax,
  xlFlags,
  xlHeaderSize,
  type XlHeaderStart,
  xlMagic,
} from "./xl_header.ts";
