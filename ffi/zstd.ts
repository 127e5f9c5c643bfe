/**
 * `Zstd` on libdrover.so.
 *
 * Nothing is allocated for a frame before the library has walked its header and block structure against the
 * announced size. Buffers of calls on the blocking pool are held by the awaiting function until they settle.
 *
 * @module
 */
import { FormatError } from "../lib/base/errors.ts";
import { errnoName, NativeError } from "./errno.ts";
import { zstdSizeMax } from "./layout.ts";
import type { Zstd } from "./mod.ts";
import type { Symbols } from "./symbols.ts";

/** What a receiver accepts unless it says otherwise: 128 MiB, the most that `compress` makes. */
const windowLogMaxDefault = 27;

const levelMax = 19;

/** errno of a refused frame to the rule it breaks and what is wrong. */
const refusals: Readonly<Record<string, readonly [rule: string, text: string]>> = {
  EBADMSG: ["zstd.frame", "the bytes are not one well-formed zstd frame"],
  ENODATA: ["zstd.truncated", "the frame is cut short"],
  EMSGSIZE: ["zstd.trailing", "there are bytes behind the frame, and there should be none"],
  EOVERFLOW: ["zstd.size", "the frame does not hold the announced size"],
  E2BIG: ["zstd.window", "the frame wants a larger window than is allowed"],
  EILSEQ: ["zstd.checksum", "the content does not match the frame's checksum"],
};

const nothing = new Uint8Array(0);

/** A view on any memory as the FFI's types want it; the FFI itself also takes shared memory. */
function view(bytes: Uint8Array): Uint8Array<ArrayBuffer> {
  return bytes as Uint8Array<ArrayBuffer>;
}

/** Throws what a negative result of a decompression means. */
function checkFrame(rc: number, size: number): void {
  if (rc >= 0) return;
  const refusal = refusals[errnoName(-rc)];
  if (refusal === undefined) throw new NativeError(-rc, "decompress");
  const [rule, text] = refusal;
  throw new FormatError(rule, 0, `Cannot decompress a frame of ${size} bytes: ${text}`);
}

function checkSize(bytes: Uint8Array, what: string): void {
  if (bytes.byteLength > zstdSizeMax) {
    throw new RangeError(`Cannot ${what} ${bytes.byteLength} bytes: the most is ${zstdSizeMax}`);
  }
}

/** Compression through libdrover.so; see `Zstd` for what each does. */
export class NativeZstd implements Zstd {
  readonly #lib: Symbols;

  /** Works on the loaded library. @param lib its functions. */
  constructor(lib: Symbols) {
    this.#lib = lib;
  }

  /** See {@link Zstd.compress}. */
  async compress(
    input: Uint8Array,
    options: { level: number; prefix?: Uint8Array },
  ): Promise<Uint8Array<ArrayBuffer>> {
    const prefix = options.prefix ?? nothing;
    const output = this.#outputFor(input, prefix, options.level);
    const rc = Number(
      await this.#lib.drover_zstd_compress_async(
        view(input),
        BigInt(input.byteLength),
        view(prefix),
        BigInt(prefix.byteLength),
        options.level,
        output,
        BigInt(output.byteLength),
      ),
    );
    // Named here, so that the engine cannot drop them while another thread reads them.
    held(input, prefix, output);
    return exact(output, rc);
  }

  /** See {@link Zstd.compressSync}. */
  compressSync(input: Uint8Array, options: { level: number }): Uint8Array<ArrayBuffer> {
    const output = this.#outputFor(input, nothing, options.level);
    const rc = Number(
      this.#lib.drover_zstd_compress(
        view(input),
        BigInt(input.byteLength),
        null,
        0n,
        options.level,
        output,
        BigInt(output.byteLength),
      ),
    );
    return exact(output, rc);
  }

  /** See {@link Zstd.decompress}. */
  async decompress(
    frame: Uint8Array,
    options: { size: number; prefix?: Uint8Array; windowLogMax?: number },
  ): Promise<Uint8Array<ArrayBuffer>> {
    const prefix = options.prefix ?? nothing;
    const windowLogMax = options.windowLogMax ?? windowLogMaxDefault;
    checkSize(prefix, "refer to");
    const output = this.#roomFor(frame, options.size, windowLogMax);
    const rc = Number(
      await this.#lib.drover_zstd_decompress_async(
        view(frame),
        BigInt(frame.byteLength),
        view(prefix),
        BigInt(prefix.byteLength),
        windowLogMax,
        output,
        BigInt(output.byteLength),
      ),
    );
    held(frame, prefix, output);
    checkFrame(rc, options.size);
    return output;
  }

  /** See {@link Zstd.decompressSync}. */
  decompressSync(
    frame: Uint8Array,
    options: { size: number; windowLogMax?: number },
  ): Uint8Array<ArrayBuffer> {
    const windowLogMax = options.windowLogMax ?? windowLogMaxDefault;
    const output = this.#roomFor(frame, options.size, windowLogMax);
    const rc = Number(
      this.#lib.drover_zstd_decompress(
        view(frame),
        BigInt(frame.byteLength),
        null,
        0n,
        windowLogMax,
        output,
        BigInt(output.byteLength),
      ),
    );
    checkFrame(rc, options.size);
    return output;
  }

  /** Room for the frame, after the arguments were checked. */
  #outputFor(input: Uint8Array, prefix: Uint8Array, level: number): Uint8Array<ArrayBuffer> {
    if (!Number.isInteger(level) || level < 1 || level > levelMax) {
      throw new RangeError(
        `Cannot compress at level ${level}: it should be an integer from 1 to ${levelMax}`,
      );
    }
    checkSize(input, "compress");
    checkSize(prefix, "refer to");
    return new Uint8Array(Number(this.#lib.drover_zstd_bound(BigInt(input.byteLength))));
  }

  /** Room for the content, after the frame's structure was checked against `size`. */
  #roomFor(frame: Uint8Array, size: number, windowLogMax: number): Uint8Array<ArrayBuffer> {
    if (!Number.isInteger(size) || size < 0 || size > zstdSizeMax) {
      throw new RangeError(
        `Cannot decompress to ${size} bytes: it should be an integer up to ${zstdSizeMax}`,
      );
    }
    if (!Number.isInteger(windowLogMax) || windowLogMax < 10 || windowLogMax > 30) {
      throw new RangeError(`Cannot allow a window of 2^${windowLogMax} bytes: it should be 2^10 to 2^30`);
    }
    const rc = this.#lib.drover_zstd_check(view(frame), BigInt(frame.byteLength), BigInt(size), windowLogMax);
    checkFrame(rc, size);
    return new Uint8Array(size);
  }
}

/** The frame in memory of its own size, so that the much larger output room can go. */
function exact(output: Uint8Array<ArrayBuffer>, rc: number): Uint8Array<ArrayBuffer> {
  if (rc < 0) throw new NativeError(-rc, "compress");
  return output.slice(0, rc);
}

/** Does nothing but use its arguments. */
function held(..._buffers: Uint8Array[]): void {}
