/**
 * A backend whose chunks are known by their digest: what is inside may lie, and is not believed.
 *
 * Invariants:
 * - A chunk whose digest is known is given out only if it has that digest: otherwise the read fails, code
 *   "corrupt".
 * - The digest of a chunk that was never written through here is taken at its first read, unless `strict` is
 *   said: then such a read fails, too.
 * - The table belongs to the caller, who may keep it: 32 bytes per chunk, all zero where the digest is not known.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { bytesEqual } from "../base/hex.ts";
import { type Backend, IoError, isZero } from "./backend.ts";
import { ChunkedBackend } from "./backend_wrap.ts";

/** Bytes of a digest (SHA-256). */
export const digestSize = 32;

/** How chunks are checked. */
export interface ChecksumOptions {
  /** A power of two from 512 to 64 MiB. */
  chunkSize: number;
  /** What is known from before; by default nothing. */
  digests?: Uint8Array<ArrayBuffer>;
  /** Refuses chunks whose digest is not known. */
  strict?: boolean;
}

/** Checks every chunk against its digest. */
export class ChecksummedBackend extends ChunkedBackend {
  /** The table. */
  readonly digests: Uint8Array<ArrayBuffer>;
  /** A read sees all or nothing of a change, so that the digest fits. */
  protected override readonly readsInTurn: boolean = true;
  readonly #strict: boolean;

  /** Checks what is inside. @param options sizes, and what is known */
  constructor(inner: Backend, options: ChecksumOptions) {
    super(inner, options.chunkSize, "checksummed backend");
    const tableSize = Math.ceil(inner.size / options.chunkSize) * digestSize;
    this.digests = options.digests ?? new Uint8Array(tableSize);
    this.#strict = options.strict ?? false;
    if (this.digests.length !== tableSize) {
      throw new RangeError(
        `Cannot use ${this.digests.length} bytes of digests: there should be ${tableSize}`,
      );
    }
  }

  /** See {@link ChunkedBackend}. */
  protected override async readChunk(chunk: number, into: Uint8Array): Promise<void> {
    await super.readChunk(chunk, into);
    const digest = digestOf(into);
    const known = this.#known(chunk);
    if (isZero(known) && !this.#strict) {
      known.set(digest);
    } else if (!bytesEqual(digest, known)) {
      throw new IoError(
        "EIO",
        `Cannot read chunk ${chunk}: ${
          isZero(known) ? "its digest is not known" : "it is not what was written"
        }`,
        { code: "corrupt" },
      );
    }
  }

  /** See {@link ChunkedBackend}. */
  protected override async writeChunk(chunk: number, bytes: Uint8Array): Promise<void> {
    const known = this.#known(chunk);
    const digest = digestOf(bytes);
    const before = known.slice();
    known.set(digest);
    try {
      await super.writeChunk(chunk, bytes);
    } catch (error) {
      // It may hold either, or a mixture: the next read will tell whether it is the one that is on record.
      known.set(before);
      throw error;
    }
  }

  /** See {@link ChunkedBackend}. */
  protected override async zeroChunk(chunk: number, length: number): Promise<void> {
    const known = this.#known(chunk);
    const before = known.slice();
    known.set(digestOf(new Uint8Array(length)));
    try {
      await super.zeroChunk(chunk, length);
    } catch (error) {
      known.set(before);
      throw error;
    }
  }

  #known(chunk: number): Uint8Array {
    return this.digests.subarray(chunk * digestSize, (chunk + 1) * digestSize);
  }
}

/** Checks every chunk against its digest; see {@link ChecksummedBackend}. */
export function checksummed(inner: Backend, options: ChecksumOptions): ChecksummedBackend {
  return new ChecksummedBackend(inner, options);
}

function digestOf(bytes: Uint8Array): Uint8Array {
  return createHash("sha256").update(bytes).digest();
}
