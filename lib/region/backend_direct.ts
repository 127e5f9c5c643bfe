/**
 * A file or a block device beside the page cache (O_DIRECT): what is read and written is not kept in memory a second
 * time, and a read of cold data costs nobody else's pages.
 *
 * Invariants:
 * - The device sees whole, aligned blocks of 4096 bytes, from aligned memory. Part of a block is written by reading,
 *   changing and writing it, and nobody else writes that block meanwhile.
 * - The end of a file that is no multiple of a block goes through the page cache, which the kernel keeps in step.
 * - Buffers are bounded: so many accesses at once, each in pieces of at most 1 MiB.
 *
 * @module
 */
import type { DirectIo, Libc } from "../../ffi/mod.ts";
import { pathFromText } from "../base/path.ts";
import { IoError, ioError } from "./backend.ts";
import { FileBackend, type FileOptions } from "./backend_file.ts";
import { WrappedBackend } from "./backend_wrap.ts";
import { Gate } from "./patience.ts";

/** What is needed of the native library. */
export interface DirectNative {
  /** System calls. */
  libc: Libc;
  /** Reads and writes. */
  direct: DirectIo;
}

/** What devices and memory are aligned to. */
const blockSize = 4096;
/** Most bytes of one access of the device. */
const pieceMax = 2 ** 20;
/** Small pieces have buffers of this size. */
const smallSize = 64 * 1024;
/** Accesses of the device at once: half of what all calls of the process share. */
const parallel = 16;

const [readOnlyFlag, readWriteFlag, directFlag] = [0, 2, 0o40000];
const currentDir = -100;

/** Octets in a file, beside the page cache. */
export class DirectBackend extends WrappedBackend {
  readonly #native: DirectNative;
  #fd: number;
  readonly #gate = new Gate(parallel);
  readonly #writing = new RangeLocks();
  readonly #idle: { small: Uint8Array<ArrayBuffer>[]; large: Uint8Array<ArrayBuffer>[] } = {
    small: [],
    large: [],
  };

  private constructor(path: string, inner: FileBackend, native: DirectNative, fd: number) {
    super(inner, { name: path });
    this.#native = native;
    this.#fd = fd;
  }

  /**
   * Opens it.
   *
   * @throws {IoError} as `FileBackend.open` does, and ENOTSUP where the file system has no O_DIRECT
   */
  static open(path: string, native: DirectNative, options: Omit<FileOptions, "libc"> = {}): DirectBackend {
    const inner = FileBackend.open(path, { ...options, libc: native.libc });
    try {
      const flags = (inner.readOnly ? readOnlyFlag : readWriteFlag) | directFlag;
      return new DirectBackend(path, inner, native, native.libc.open(currentDir, pathFromText(path), flags));
    } catch (error) {
      void inner.close();
      const isMissing = error instanceof Error && "code" in error && error.code === "EINVAL";
      throw isMissing
        ? new IoError(
          "ENOTSUP",
          `Cannot open "${path}" beside the page cache: its file system cannot do that`,
          {
            cause: error,
          },
        )
        : ioError(error, `Cannot open "${path}"`);
    }
  }

  /** See {@link CheckedBackend}. */
  protected override async read(offset: number, into: Uint8Array): Promise<void> {
    await this.#inPieces(offset, into.length, async (at, length) => {
      const start = at - at % blockSize;
      const size = roundUp(at + length - start);
      await this.#withBuffer(size, async (buffer) => {
        const count = await this.#native.direct.read(this.#fd, buffer, start);
        if (start + count < at + length) {
          throw new IoError("EIO", `Cannot read "${this.name}" at ${start + count}: it has become shorter`);
        }
        into.set(buffer.subarray(at - start, at - start + length), at - offset);
      });
    });
  }

  /** See {@link CheckedBackend}. */
  protected override async write(offset: number, bytes: Uint8Array): Promise<void> {
    await this.#writing.run(offset, bytes.length, async () => {
      // Whole blocks of the file; what is behind them is its odd end.
      const wholeEnd = this.size - this.size % blockSize;
      const direct = Math.max(0, Math.min(offset + bytes.length, wholeEnd) - offset);
      if (direct < bytes.length) await super.write(offset + direct, bytes.subarray(direct));
      await this.#inPieces(offset, direct, async (at, length) => {
        const start = at - at % blockSize;
        const size = roundUp(at + length - start);
        await this.#withBuffer(size, async (buffer) => {
          const { direct } = this.#native;
          const last = size - blockSize;
          if (at > start) await direct.read(this.#fd, buffer.subarray(0, blockSize), start);
          if (at + length < start + size && (last > 0 || at === start)) {
            await direct.read(this.#fd, buffer.subarray(last), start + last);
          }
          buffer.set(bytes.subarray(at - offset, at - offset + length), at - start);
          await direct.write(this.#fd, buffer, start);
        });
      });
    });
  }

  /** See {@link Backend.zero}. */
  override async zero(offset: number, length: number, options?: { allocate?: boolean }): Promise<void> {
    this.checkWrite(offset, length);
    if (length > 0) {
      await this.#writing.run(offset, length, async () => await super.zero(offset, length, options));
    }
  }

  /** See {@link Backend.trim}. */
  override async trim(offset: number, length: number): Promise<void> {
    this.checkWrite(offset, length);
    if (length > 0) await this.#writing.run(offset, length, async () => await super.trim(offset, length));
  }

  /** See {@link CheckedBackend}. */
  protected override async release(): Promise<void> {
    await this.#gate.idle();
    if (this.#fd >= 0) this.#native.libc.close(this.#fd);
    this.#fd = -1;
    await super.release();
  }

  /** Runs `work` on pieces that end where blocks do, but for the last. */
  async #inPieces(
    offset: number,
    length: number,
    work: (at: number, length: number) => Promise<void>,
  ): Promise<void> {
    const parts: Promise<void>[] = [];
    const end = offset + length;
    for (let at = offset; at < end;) {
      const next = Math.min(end, at - at % blockSize + pieceMax);
      const [from, size] = [at, next - at];
      parts.push(this.#gate.run(() => work(from, size)));
      at = next;
    }
    // All of them first: a buffer is in use until the last is done.
    for (const result of await Promise.allSettled(parts)) {
      if (result.status === "rejected") {
        throw ioError(result.reason, `Cannot access "${this.name}" at ${offset}`);
      }
    }
  }

  /** Lends aligned memory of exactly `size` bytes. */
  async #withBuffer(size: number, work: (buffer: Uint8Array<ArrayBuffer>) => Promise<void>): Promise<void> {
    const [idle, room] = size <= smallSize ? [this.#idle.small, smallSize] : [this.#idle.large, pieceMax];
    const buffer = idle.pop() ?? this.#native.direct.allocate(room);
    try {
      await work(buffer.subarray(0, size));
    } finally {
      idle.push(buffer);
    }
  }
}

/** Changes of the same blocks one after the other. */
class RangeLocks {
  readonly #held = new Set<{ first: number; last: number; done: Promise<void> }>();

  async run<T>(offset: number, length: number, work: () => Promise<T>): Promise<T> {
    const first = Math.floor(offset / blockSize);
    const last = Math.floor((offset + length - 1) / blockSize);
    for (;;) {
      const other = [...this.#held].find((held) => held.first <= last && first <= held.last);
      if (other === undefined) break;
      await other.done;
    }
    let free: () => void = () => {};
    const mine = { first, last, done: new Promise<void>((resolve) => free = resolve) };
    this.#held.add(mine);
    try {
      return await work();
    } finally {
      this.#held.delete(mine);
      free();
    }
  }
}

function roundUp(size: number): number {
  return Math.ceil(size / blockSize) * blockSize;
}
