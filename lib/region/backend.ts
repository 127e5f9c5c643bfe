/**
 * Backends: octets with addresses, wherever they are. Everything that is exported, copied or mounted is one.
 *
 * A backend is an object with the members of `Backend`; `CheckedBackend` is a start that has bounds and closing
 * done. A new one is a page of code: a class with `read` and `write`, and a line that gives its scheme a name
 * (`registerScheme` of `backend_url.ts`).
 *
 * Invariants of every backend, held by tests/backend_suite.ts:
 * - `size` never changes, and no access goes beyond it: `RangeError`, before anything is done.
 * - Calls overlap freely. Those whose ranges overlap each other have no order, and none of them harms a third
 *   range.
 * - A read sees every write that was answered before it began. What was never written reads as zeros.
 * - What was answered before a `flush` began is where the backend keeps things when the flush is answered.
 * - Results come at once (`undefined`) or later (a promise); errors are thrown or rejected with, so callers
 *   `await` inside of `try`. A buffer is the callee's until then.
 *
 * @module
 */
import { DroverError } from "../base/errors.ts";
import type { Extent, MaybePromise } from "../nbd/mod.ts";

export type { Extent, MaybePromise };

/** Octets with addresses. */
export interface Backend extends AsyncDisposable {
  /** Octets. */
  readonly size: number;
  /** Writing is refused. */
  readonly readOnly: boolean;
  /** Fills all of `into` from `offset` on. */
  readAt(offset: number, into: Uint8Array): MaybePromise<void>;
  /** Writes all of `bytes` at `offset`. */
  writeAt(offset: number, bytes: Uint8Array): MaybePromise<void>;
  /** Brings everything that was written to where it lasts. */
  flush(): MaybePromise<void>;
  /** The content of the range no longer matters; afterwards it is anything until it is written. */
  trim?(offset: number, length: number): MaybePromise<void>;
  /** The range reads as zeros; unless `allocate` is said it need not keep its room. */
  zero?(offset: number, length: number, options?: { allocate?: boolean }): MaybePromise<void>;
  /** The range will be wanted soon. */
  cache?(offset: number, length: number): MaybePromise<void>;
  /** The octets themselves where they are in memory, to be read and written in place; null where they are not. */
  view?(offset: number, length: number): Uint8Array | null;
  /**
   * States from `offset` on: at least one extent, together at most `length`. Without it everything counts as data.
   */
  extents?(offset: number, length: number): MaybePromise<readonly Extent[]>;
  /** Waits for what is under way and gives everything back; what was not flushed may be lost. Once is enough. */
  close(): MaybePromise<void>;
}

/** Why an access failed, as programs see it. */
export type IoErrno = "EIO" | "EPERM" | "EINVAL" | "ENOSPC" | "ENOTSUP" | "ETIMEDOUT" | "ESHUTDOWN";

/** An access that failed. */
export class IoError extends DroverError {
  /** The name that stands in front of the message in a stack trace. */
  override name = "IoError";
  /** For instance "ENOSPC"; NBD and FUSE pass it on. */
  readonly errno: IoErrno;

  /**
   * An error with an errno.
   *
   * @param errno for programs
   * @param message *Cannot do X to "Y": what is, and what should be*
   * @param options `code`: where another one than the errno's fits better, for instance "corrupt"
   */
  constructor(
    errno: IoErrno,
    message: string,
    options: { code?: "corrupt" | "disconnected"; cause?: unknown } = {},
  ) {
    const own = errno === "ENOSPC" ? "no-space" : errno === "ENOTSUP" ? "unsupported" : "io";
    super(options.code ?? own, message, {
      details: { errno },
      ...(options.cause === undefined ? {} : { cause: options.cause }),
    });
    this.errno = errno;
  }
}

/** An error of the system as an `IoError`; one of ours stays what it is. */
export function ioError(error: unknown, message: string): DroverError {
  if (error instanceof DroverError) return error;
  const code = error instanceof Error ? (error as { code?: unknown }).code : undefined;
  const errno: IoErrno = code === "ENOSPC" || code === "EDQUOT" || code === "EFBIG"
    ? "ENOSPC"
    : code === "EACCES" || code === "EPERM" || code === "EROFS"
    ? "EPERM"
    : code === "EOPNOTSUPP" || code === "ENOSYS"
    ? "ENOTSUP"
    : "EIO";
  return new IoError(errno, message, { cause: error });
}

/** Refuses a range that is not inside of `size`. @throws {RangeError} */
export function checkSpan(size: number, offset: number, length: number): void {
  if (Number.isSafeInteger(offset) && offset >= 0 && length >= 0 && offset + length <= size) return;
  throw new RangeError(`Cannot access ${length} bytes at ${offset}: there are ${size}`);
}

/**
 * A backend whose bounds, read-only flag and closing are done; what is left are `read` and `write`.
 *
 * @example
 * ```ts
 * import { CheckedBackend } from "./backend.ts";
 *
 * class Ones extends CheckedBackend {
 *   constructor(size: number) {
 *     super({ name: "ones", size, readOnly: true });
 *   }
 *   protected override read(_offset: number, into: Uint8Array): void {
 *     into.fill(1);
 *   }
 * }
 *
 * await using ones = new Ones(8);
 * const bytes = new Uint8Array(4);
 * await ones.readAt(4, bytes);
 * if (bytes[3] !== 1) throw new Error("The last byte is wrong");
 * ```
 */
export abstract class CheckedBackend implements Backend {
  /** See {@link Backend.size}. */
  readonly size: number;
  /** See {@link Backend.readOnly}. */
  readonly readOnly: boolean;
  /** What it is called in errors. */
  protected readonly name: string;
  #closed: Promise<void> | null = null;

  /** A start. @param options `name`: for errors, mostly the URL or path. */
  constructor(options: { name: string; size: number; readOnly?: boolean }) {
    if (!Number.isSafeInteger(options.size) || options.size < 0) {
      throw new RangeError(`Cannot open "${options.name}": its size is ${options.size}`);
    }
    this.name = options.name;
    this.size = options.size;
    this.readOnly = options.readOnly ?? false;
  }

  /** See {@link Backend.readAt}. */
  readAt(offset: number, into: Uint8Array): MaybePromise<void> {
    this.check(offset, into.length);
    if (into.length > 0) return this.read(offset, into);
  }

  /** See {@link Backend.writeAt}. */
  writeAt(offset: number, bytes: Uint8Array): MaybePromise<void> {
    this.checkWrite(offset, bytes.length);
    if (bytes.length > 0) return this.write(offset, bytes);
  }

  /** See {@link Backend.flush}. */
  flush(): MaybePromise<void> {
    this.check(0, 0);
    return this.sync();
  }

  /** See {@link Backend.close}. */
  close(): Promise<void> {
    this.#closed ??= Promise.resolve(this.release());
    return this.#closed;
  }

  /** See {@link Backend.close}. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** Whether `close` was called. */
  protected get isClosed(): boolean {
    return this.#closed !== null;
  }

  /** Refuses what is out of bounds, or too late. */
  protected check(offset: number, length: number): void {
    if (this.#closed !== null) throw new IoError("ESHUTDOWN", `Cannot use "${this.name}": it is closed`);
    checkSpan(this.size, offset, length);
  }

  /** Refuses what must not be written. */
  protected checkWrite(offset: number, length: number): void {
    this.check(offset, length);
    if (this.readOnly) throw new IoError("EPERM", `Cannot write to "${this.name}": it is read-only`);
  }

  /** Reads, within the bounds, at least one byte. */
  protected abstract read(offset: number, into: Uint8Array): MaybePromise<void>;

  /** Writes, within the bounds, at least one byte. */
  protected write(_offset: number, _bytes: Uint8Array): MaybePromise<void> {
    throw new IoError("EPERM", `Cannot write to "${this.name}": it is read-only`);
  }

  /** Makes durable what was written. */
  protected sync(): MaybePromise<void> {}

  /** Gives everything back. */
  protected release(): MaybePromise<void> {}
}

/** Zeros for backends that have no better way: as writes of at most 1 MiB. */
export async function writeZeros(backend: Backend, offset: number, length: number): Promise<void> {
  const zeros = new Uint8Array(Math.min(length, 2 ** 20));
  for (let at = 0; at < length;) {
    const part = Math.min(zeros.length, length - at);
    await backend.writeAt(offset + at, zeros.subarray(0, part));
    at += part;
  }
}

/** Makes a range read as zeros by the best way a backend has. */
export async function zeroRange(backend: Backend, offset: number, length: number): Promise<void> {
  if (length === 0) return;
  if (backend.zero === undefined) return await writeZeros(backend, offset, length);
  await backend.zero(offset, length);
}

/** All extents of a range, one after the other, however many calls it takes. */
export async function* extentsOf(
  backend: Backend,
  offset: number,
  length: number,
): AsyncGenerator<Extent & { offset: number }> {
  const end = offset + length;
  while (offset < end) {
    const found = await backend.extents?.(offset, end - offset) ?? [];
    let moved = false;
    for (const extent of found) {
      const part = Math.min(extent.length, end - offset);
      if (part <= 0) break;
      yield { ...extent, offset, length: part };
      offset += part;
      moved = true;
    }
    if (moved) continue;
    yield { offset, length: end - offset, hole: false, zero: false };
    return;
  }
}

/** Whether all bytes are zero. */
export function isZero(bytes: Uint8Array): boolean {
  if (bytes.length < 8) return bytes.every((byte) => byte === 0);
  const head = (4 - bytes.byteOffset % 4) % 4;
  const words = new Int32Array(bytes.buffer, bytes.byteOffset + head, (bytes.length - head) >>> 2);
  for (let at = 0; at < words.length; at++) if (words[at] !== 0) return false;
  for (let at = 0; at < head; at++) if (bytes[at] !== 0) return false;
  for (let at = head + words.byteLength; at < bytes.length; at++) if (bytes[at] !== 0) return false;
  return true;
}
