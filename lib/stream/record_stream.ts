/**
 * Records of a web stream, as an async iterator that ends exactly at END.
 *
 * Invariants: END is not handed out; a stream that stops before END is an error; what follows END is either
 * refused or left to the caller, as the caller chose, and never lost silently.
 *
 * @module
 */
import { FormatError } from "../base/errors.ts";
import {
  decodeHeader,
  endType,
  type HeaderRule,
  headerSize,
  type ImageHeader,
  type RecordLimits,
  RecordReader,
  type StreamRecord,
} from "./record.ts";

/** What a `RecordStream` expects. */
export interface RecordStreamOptions {
  /** The largest body of each type; a negative number refuses the type. */
  limits: RecordLimits;
  /** Demands an image header first; its endianness then holds. Without it the first octet begins a record. */
  header?: HeaderRule;
  /** Endianness of the records when there is no header. */
  bigEndian?: boolean;
  /** What to do with octets behind END: refuse them, or stop there and leave them (`rest`, then the source). */
  afterEnd: "refuse" | "leave";
}

/**
 * Reads records from a `ReadableStream`, once.
 *
 * ```ts
 * import { RecordStream } from "./record_stream.ts";
 * const source = new Blob([new Uint8Array(8)]).stream(); // a lone END record
 * for await (const record of new RecordStream(source, { limits: () => 1024, afterEnd: "refuse" })) {
 *   console.log(record.type);
 * }
 * ```
 */
export class RecordStream implements AsyncIterable<StreamRecord> {
  readonly #source: ReadableStream<Uint8Array>;
  readonly #options: RecordStreamOptions;
  #started = false;
  #header: ImageHeader | null = null;
  #rest: Uint8Array = new Uint8Array(0);

  /** Reads from `source`, which is locked while records are read. */
  constructor(source: ReadableStream<Uint8Array>, options: RecordStreamOptions) {
    this.#source = source;
    this.#options = options;
  }

  /** The image header, once the first record was asked for; null without one. */
  get header(): ImageHeader | null {
    return this.#header;
  }

  /** With `afterEnd: "leave"`: the octets behind END that were already taken from the source. */
  get rest(): Uint8Array {
    return this.#rest;
  }

  /**
   * Iterates over all records before END. Breaking off cancels the source.
   *
   * @throws {FormatError} rules of `RecordReader` and `decodeHeader`, `stream.end.missing`, `stream.end.trailing`.
   */
  async *[Symbol.asyncIterator](): AsyncGenerator<StreamRecord, void, undefined> {
    if (this.#started) throw new TypeError("Cannot read the records again: a RecordStream is read once");
    this.#started = true;
    const source = this.#source.getReader();
    let ended = false;
    try {
      let first: Uint8Array = new Uint8Array(0);
      let bigEndian = this.#options.bigEndian ?? false;
      if (this.#options.header !== undefined) {
        first = await readAtLeast(source, headerSize);
        this.#header = decodeHeader(first, this.#options.header);
        first = first.subarray(headerSize);
        bigEndian = this.#header.bigEndian;
      }
      const reader = new RecordReader({
        limits: this.#options.limits,
        bigEndian,
        offset: this.#header === null ? 0 : headerSize,
      });
      reader.push(first);
      while (true) {
        const record = reader.next();
        if (record === null) {
          const { done, value } = await source.read();
          if (done) {
            reader.finish();
            throw new FormatError(
              "stream.end.missing",
              reader.offset,
              "Cannot read the stream to its end: it stops before the END record",
            );
          }
          reader.push(value);
        } else if (record.type === endType) {
          break;
        } else {
          yield record;
        }
      }
      this.#rest = reader.rest();
      if (this.#options.afterEnd === "refuse") {
        while (this.#rest.length === 0) {
          const { done, value } = await source.read();
          if (done) break;
          this.#rest = value;
        }
        if (this.#rest.length > 0) {
          throw new FormatError(
            "stream.end.trailing",
            reader.offset,
            "Cannot accept the stream: data follow the END record and nothing should",
          );
        }
      }
      ended = true;
    } finally {
      if (!ended) await source.cancel().catch(() => {});
      source.releaseLock();
    }
  }
}

/** Reads until there are `size` octets or the stream ends; all that was read, in one array. */
async function readAtLeast(
  source: ReadableStreamDefaultReader<Uint8Array>,
  size: number,
): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  let total = 0;
  while (total < size) {
    const { done, value } = await source.read();
    if (done) break;
    chunks.push(value);
    total += value.length;
  }
  const [only] = chunks;
  if (chunks.length === 1 && only !== undefined) return only;
  const joined = new Uint8Array(total);
  let at = 0;
  for (const chunk of chunks) {
    joined.set(chunk, at);
    at += chunk.length;
  }
  return joined;
}
