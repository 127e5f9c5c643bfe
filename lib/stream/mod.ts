/**
 * Records and streams of records: the grammar that packages, connections and memory migration share.
 *
 * A stream is an image header, records with a bounded body each, and END. `record.ts` has the codec,
 * `record_stream.ts` reads web streams, `STREAM.md` is the specification. Nothing here touches a file, a
 * socket or a clock.
 *
 * @module
 */
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
