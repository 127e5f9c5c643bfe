/**
 * The toolstack chunk of a legacy stream, version 1: where the device model had mapped its memory.
 *
 * ```text
 * u32 version 1 | u32 count | count × { u64 phys | u64 start | u64 size | u32 length | name[length], NUL at its end }
 * ```
 *
 * A 64-bit sender wrote four octets more behind each name: its structure is padded to 32 octets, and the name stands where
 * the padding begins. They mean nothing.
 *
 * @module
 */
import { FormatError } from "../base/errors.ts";

const headSize = 8;
const entrySize = 28;
const junkSize = 4;

/**
 * The device model's keys and values for Xenstore, each with its NUL: `physmap/PHYS/start_addr`, `/size`, `/name`.
 *
 * @param data the chunk's contents; empty, it says nothing.
 * @param width octets of the sender's `unsigned long`.
 * @param offset stream offset of `data`, for errors.
 * @throws {FormatError} rules `legacy.toolstack.entries`, `.version`, `.name`, `.trailing`.
 */
export function xenstoreOfToolstack(
  data: Uint8Array,
  width: 4 | 8,
  offset: number,
): Uint8Array<ArrayBuffer> {
  if (data.length === 0) return new Uint8Array(0);
  const fail = (rule: string, at: number, message: string): FormatError =>
    new FormatError(`legacy.toolstack.${rule}`, offset + at, `Cannot read the toolstack's state: ${message}`);
  const view = new DataView(data.buffer, data.byteOffset, data.length);
  if (data.length < headSize) {
    throw fail("length", 0, `it has ${data.length} octets of its first ${headSize}`);
  }
  const version = view.getUint32(0, true);
  if (version !== 1) throw fail("version", 0, `the version is ${version}, and should be 1`);
  const count = view.getUint32(4, true);
  const parts: Uint8Array[] = [];
  let size = 0;
  const put = (part: Uint8Array): void => {
    parts.push(part);
    size += part.length;
  };
  let at = headSize;
  for (let index = 0; index < count; index++) {
    if (data.length - at < entrySize) {
      throw fail("entries", data.length, `entry ${index} of ${count} is cut`);
    }
    const root = `physmap/${view.getBigUint64(at, true).toString(16)}`;
    put(octets(`${root}/start_addr\0${view.getBigUint64(at + 8, true).toString(16)}\0`));
    put(octets(`${root}/size\0${view.getBigUint64(at + 16, true).toString(16)}\0${root}/name\0`));
    const length = view.getUint32(at + 24, true);
    const nameAt = at + entrySize;
    at = nameAt + length + (width === 8 ? junkSize : 0);
    if (at > data.length) throw fail("entries", data.length, `the name of entry ${index} is cut`);
    const name = data.subarray(nameAt, nameAt + length);
    if (length === 0 || name.indexOf(0) !== length - 1) {
      throw fail("name", nameAt, `the name of entry ${index} should have one NUL, at its end`);
    }
    put(name);
  }
  if (at !== data.length) throw fail("trailing", at, `${data.length - at} octets follow the last entry`);
  const pairs = new Uint8Array(size);
  let to = 0;
  for (const part of parts) {
    pairs.set(part, to);
    to += part.length;
  }
  return pairs;
}

function octets(text: string): Uint8Array {
  return Uint8Array.from(text, (character) => character.charCodeAt(0));
}
