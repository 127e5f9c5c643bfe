/**
 * In which order the pieces of a mount are touched first, learned in one use and replayed in the next.
 *
 * ```text
 *   0  8  magic "DROVERAO"
 *   8  4  version, 1
 *  12  4  bytes of a piece
 *  16  8  bytes of the mount
 *  24  4  how many pieces follow
 *  28  4  CRC-32 of everything else
 *  32     their indexes, 4 bytes each, little-endian
 * ```
 *
 * It is advice: a file that is damaged, or of another mount, counts as none.
 *
 * @module
 */
import { crc32 } from "node:zlib";
import { Bitmap } from "../base/bitmap.ts";
import { ioError } from "./backend.ts";

const headerSize = 32;
/** The most pieces that are kept: what is touched after so many is not worth an order. */
const piecesMax = 2 ** 20;

/** Of what the order is. */
export interface AccessOrderOptions {
  /** Where it is kept. */
  path: string;
  /** Bytes of the mount. */
  size: number;
  /** Bytes of a piece. */
  piece: number;
}

/** An order that is being learned. */
export class AccessOrder {
  /** What was learned before. */
  readonly learned: Uint32Array<ArrayBuffer>;
  readonly #options: AccessOrderOptions;
  readonly #seen: Bitmap;
  readonly #touched: number[] = [];

  /** Takes what was learned before, where there is such a file. @param options of what it is */
  constructor(options: AccessOrderOptions) {
    this.#options = options;
    this.#seen = new Bitmap(Math.ceil(options.size / options.piece));
    this.learned = readOrder(options, this.#seen.length);
  }

  /** Somebody reads these bytes. */
  touch(offset: number, length: number): void {
    const { piece } = this.#options;
    const to = Math.ceil((offset + length) / piece);
    for (let at = Math.floor(offset / piece); at < to; at++) {
      if (this.#seen.has(at) || this.#touched.length >= piecesMax) continue;
      this.#seen.set(at);
      this.#touched.push(at);
    }
  }

  /** What is known now: this use's order, then what only an earlier one touched. */
  get order(): Uint32Array<ArrayBuffer> {
    const older = this.learned.filter((at) => !this.#seen.has(at));
    return Uint32Array.from([...this.#touched, ...older].slice(0, piecesMax));
  }

  /** Keeps it; the old file is there until the new one is whole. */
  save(): void {
    const { path, piece, size } = this.#options;
    if (this.#touched.length === 0) return;
    const { order } = this;
    const bytes = new Uint8Array(headerSize + 4 * order.length);
    const view = new DataView(bytes.buffer);
    bytes.set(new TextEncoder().encode("DROVERAO"));
    view.setUint32(8, 1, true);
    view.setUint32(12, piece, true);
    view.setBigUint64(16, BigInt(size), true);
    view.setUint32(24, order.length, true);
    order.forEach((at, index) => view.setUint32(headerSize + 4 * index, at, true));
    view.setUint32(28, crc32(bytes), true);
    try {
      Deno.writeFileSync(`${path}.new`, bytes);
      Deno.renameSync(`${path}.new`, path);
    } catch (error) {
      throw ioError(error, `Cannot write "${path}"`);
    }
  }
}

function readOrder({ path, size, piece }: AccessOrderOptions, pieces: number): Uint32Array<ArrayBuffer> {
  const none = new Uint32Array(0);
  let bytes: Uint8Array<ArrayBuffer>;
  try {
    const length = Deno.statSync(path).size;
    if (length < headerSize || length > headerSize + 4 * piecesMax) return none;
    bytes = Deno.readFileSync(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return none;
    throw ioError(error, `Cannot read "${path}"`);
  }
  const view = new DataView(bytes.buffer);
  const sum = view.getUint32(28, true);
  view.setUint32(28, 0, true);
  const count = view.getUint32(24, true);
  const isOurs = new TextDecoder().decode(bytes.subarray(0, 8)) === "DROVERAO" &&
    view.getUint32(8, true) === 1 &&
    view.getUint32(12, true) === piece && view.getBigUint64(16, true) === BigInt(size) &&
    bytes.length === headerSize + 4 * count && crc32(bytes) === sum;
  if (!isOurs) return none;
  return Uint32Array.from({ length: count }, (_, index) => view.getUint32(headerSize + 4 * index, true))
    .filter((at) => at < pieces);
}
