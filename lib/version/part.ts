/**
 * A part of a package body: bytes that are stored or compressed, with the raw size announced.
 *
 * This room has no zstd. A writer compresses the raw bytes itself and makes a part of the result (`makePart`); a
 * reader gets parts whose raw size is bounded already, and decompresses them to exactly that size.
 *
 * @module
 */
import type { ByteReader } from "../base/bytes.ts";

/** How a part's bytes are kept. */
export type Codec = "stored" | "zstd";

/** Bytes as they stand in a body. */
export interface Part {
  codec: Codec;
  /** Size before compression; a frame must yield exactly so many bytes. */
  rawSize: number;
  /** For `stored` the raw bytes, for `zstd` one frame. */
  bytes: Uint8Array<ArrayBuffer>;
}

/** A frame above this share of its raw size is not worth its decompression. */
export const storedShare = 0.97;

/** How much of the start of a big buffer tells whether it compresses: try so much at level 1 first. */
export const probeSize = 65_536;

/** Whether a compressed result is so bad that the raw bytes should be stored. Empty input is stored. */
export function isIncompressible(rawSize: number, packedSize: number): boolean {
  return packedSize >= rawSize * storedShare;
}

/** The smaller honest form: the frame if it is worth it, the raw bytes otherwise (also with no frame given). */
export function makePart(raw: Uint8Array<ArrayBuffer>, frame: Uint8Array<ArrayBuffer> | null): Part {
  return frame === null || isIncompressible(raw.length, frame.length)
    ? { codec: "stored", rawSize: raw.length, bytes: raw }
    : { codec: "zstd", rawSize: raw.length, bytes: frame };
}

/** Number of a codec in a body. */
export function codecNumber(codec: Codec): number {
  return codec === "stored" ? 0 : 1;
}

/** Reads a codec number. */
export function readCodec(reader: ByteReader): Codec {
  const at = reader.offset;
  const number = reader.u8();
  if (number > 1) throw reader.fail("codec", at, `codec is ${number}, known are 0 (stored) and 1 (zstd)`);
  return number === 0 ? "stored" : "zstd";
}

/** Reads a 16-bit field that must be zero. */
export function readReserved(reader: ByteReader): void {
  const at = reader.offset;
  if (reader.u8() !== 0 || reader.u8() !== 0) {
    throw reader.fail("reserved", at, "a reserved byte is not zero");
  }
}

/** Reads a u32 that is at most `max`; `rule` names the bound. */
export function readBounded(reader: ByteReader, max: number, rule: string): number {
  const at = reader.offset;
  const value = reader.u32le();
  if (value > max) throw reader.fail(rule, at, `${rule} is ${value}, at most ${max} is allowed`);
  return value;
}

/** Refuses a stored part whose two sizes differ, and a frame larger than a writer would keep. */
export function checkPartSizes(
  reader: ByteReader,
  part: { codec: Codec; rawSize: number; packedSize: number },
): void {
  const { codec, rawSize, packedSize } = part;
  if (codec === "stored" ? packedSize !== rawSize : packedSize >= rawSize) {
    throw reader.fail("packed-size", reader.offset, `a ${codec} part of ${rawSize} bytes has ${packedSize}`);
  }
}
