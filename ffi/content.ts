/**
 * `ContentDelta` on libdrover.so.
 *
 * Invariant: the room for ops and literals is of a fixed proportion to what goes in; a piece that does not fit is left to
 * the caller.
 *
 * @module
 */
import { pathToBytes } from "../lib/base/path.ts";
import { check } from "./errno.ts";
import { contentLayout } from "./layout.ts";
import type { ContentDelta, ContentDeltas, ContentFile, ContentPiece } from "./mod.ts";
import type { Symbols } from "./symbols.ts";

/** DROVER_CONTENT_BASES_MAX, DROVER_CONTENT_SIZE_MAX, DROVER_CONTENT_LEFT. */
const basesMax = 4;
const sizeMax = 64 * 2 ** 20;
const left = 0xffff_ffff;

/** Ops that a piece may have beside one for so many bytes of it. */
const opsMin = 8;
const bytesPerOp = 64;

/** Deltas of files through libdrover.so; see `ContentDelta`. */
export class NativeContent implements ContentDelta {
  /** See {@link ContentDelta.sizeMax}. */
  readonly sizeMax = sizeMax;
  readonly #lib: Symbols;

  /** Works on the loaded library. @param lib its functions. */
  constructor(lib: Symbols) {
    this.#lib = lib;
  }

  /** See {@link ContentDelta.encode}. */
  async encode(pieces: readonly ContentPiece[]): Promise<ContentDeltas> {
    const { structSize, bases, baseCount, opCount } = contentLayout.piece;
    const input = new Uint8Array(pieces.length * structSize);
    const values = new DataView(input.buffer);
    const names = new Names();
    let opMax = 0;
    let literalMax = 0;
    for (const [at, piece] of pieces.entries()) {
      const start = at * structSize;
      if (piece.bases.length > basesMax) {
        throw new RangeError(`Cannot take a delta against ${piece.bases.length} files: at most ${basesMax}`);
      }
      writeFile(values, start, piece.target, names);
      for (const [index, base] of piece.bases.entries()) {
        writeFile(values, start + bases + index * contentLayout.file.structSize, base, names);
      }
      values.setUint32(start + baseCount, piece.bases.length, true);
      const { size } = piece.target;
      opMax += opsMin + (piece.bases.length === 0 ? 0 : Math.ceil(size / bytesPerOp));
      literalMax += piece.bases.length === 0 ? size : 4096 + Math.ceil(size / 2);
    }
    const ops = new Uint8Array(opMax * contentLayout.op.structSize);
    const literals = new Uint8Array(literalMax);
    const bytes = names.finish();
    const rc = Number(
      await this.#lib.drover_content_delta_async(
        input,
        BigInt(pieces.length),
        bytes,
        BigInt(bytes.length),
        ops,
        BigInt(opMax),
        literals,
        BigInt(literalMax),
      ),
    );
    // Named here, so that the engine cannot drop them while another thread uses them.
    held(input, bytes, ops, literals);
    const size = check(rc, "take deltas of files");
    const counts = pieces.map((_, at) => {
      const count = values.getUint32(at * structSize + opCount, true);
      return count === left ? null : count;
    });
    return { counts, ...readOps(ops, counts), literals: literals.subarray(0, size) };
  }
}

/** Paths one after the other, each ended by NUL. */
class Names {
  readonly #parts: Uint8Array[] = [];
  #size = 0;

  /** Where the path begins. */
  add(path: ContentFile["path"]): number {
    const at = this.#size;
    const bytes = pathToBytes(path);
    if (bytes.includes(0)) throw new RangeError("Cannot use a path with a NUL byte");
    this.#parts.push(bytes);
    this.#size += bytes.length + 1;
    return at;
  }

  finish(): Uint8Array<ArrayBuffer> {
    const all = new Uint8Array(Math.max(1, this.#size));
    let at = 0;
    for (const part of this.#parts) {
      all.set(part, at);
      at += part.length + 1;
    }
    return all;
  }
}

function writeFile(values: DataView, start: number, file: ContentFile, names: Names): void {
  const { size, dir, name } = contentLayout.file;
  values.setBigUint64(start + size, BigInt(file.size), true);
  values.setInt32(start + dir, file.dir, true);
  values.setUint32(start + name, names.add(file.path), true);
}

function readOps(
  bytes: Uint8Array<ArrayBuffer>,
  counts: readonly (number | null)[],
): Pick<ContentDeltas, "kinds" | "bases" | "offsets" | "lengths"> {
  const total = counts.reduce<number>((sum, count) => sum + (count ?? 0), 0);
  const kinds = new Uint8Array(total);
  const bases = new Uint8Array(total);
  const offsets = new Float64Array(total);
  const lengths = new Float64Array(total);
  const { structSize, offset, length, what } = contentLayout.op;
  const values = new DataView(bytes.buffer);
  for (let op = 0; op < total; op++) {
    const at = op * structSize;
    kinds[op] = values.getUint8(at + what);
    bases[op] = values.getUint8(at + what + 1);
    offsets[op] = Number(values.getBigUint64(at + offset, true));
    lengths[op] = values.getUint32(at + length, true);
  }
  return { kinds, bases, offsets, lengths };
}

/** Does nothing but use its arguments. */
function held(..._buffers: Uint8Array[]): void {}
