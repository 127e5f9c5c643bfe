/**
 * A backend as a file, by FUSE: the kernel asks, the backend answers.
 *
 * Invariants:
 * - Writes go through: a `write(2)` that has returned has been answered by the backend, and fsync(2) is its `flush`. Only
 *   pages that were written through a shared mapping wait in the kernel, as everywhere, for msync(2) or the unmount.
 * - A request that the backend does not answer within the time-out ends with EIO. The next one is asked anew, so a backend
 *   that comes back needs no new mount.
 * - The loop waits once, in one call; while requests come in quick succession it looks instead of waiting.
 * - `close` never leaves memory behind that the backend may still write to: it is kept where a call has not ended.
 *
 * @module
 */
import type { FuseRequest, FuseStats, Native, NativeFuse } from "../../ffi/mod.ts";
import { DroverError } from "../base/errors.ts";
import { type BytePath, pathFromText } from "../base/path.ts";
import { type Backend, extentsOf, type IoErrno, IoError, zeroRange } from "./backend.ts";
import { type FuseTarget, growReadAhead, openTarget, unmountByHelper } from "./fuse_target.ts";

/** How a backend is shown as a file. */
export interface FuseOptions {
  /** Where: nothing, or an empty file, which the mount covers. */
  path: string;
  /** What the list of mounts calls it; by default "drover". */
  source?: string;
  /** The library. */
  native: Native;
  /** Nobody writes, also where the backend would take it. */
  readOnly?: boolean;
  /** Permissions; default 0o600. With rights for others they may come, too. */
  mode?: number;
  /** The page cache is right as long as the mount is: nobody else changes what is behind it. Default false. */
  keepCache?: boolean;
  /** Milliseconds until a request that the backend does not answer ends with EIO; default 30 s. */
  timeoutMs?: number;
  /** Requests under way at once, of up to 1 MiB; default 64. */
  slots?: number;
}

/** Milliseconds of one wait; nothing depends on it but how long a `close` may take to be noticed. */
const waitMs = 500;
/** How long to look for the next request before waiting, in microseconds. */
const spinUs = 60;
/** Milliseconds of the event loop that may be taken without a pause. */
const stretchMs = 4;
/** Milliseconds that `close` gives calls of the backend that have not ended, if the time-out is not less. */
const graceMs = 5000;

/** The numbers of Linux; what has run out of time or was closed is EIO to a program. */
const errnos: Readonly<Record<IoErrno, number>> = {
  EIO: 5,
  EPERM: 1,
  EINVAL: 22,
  ENOSPC: 28,
  ENOTSUP: 95,
  ETIMEDOUT: 5,
  ESHUTDOWN: 5,
};
const enxio = 6;

/** A backend that is a file somewhere. */
export class FuseFile implements AsyncDisposable {
  /** Where it is. */
  readonly path: string;
  /** Settles when it is unmounted, by whomever: there are no more requests. */
  readonly ended: Promise<void>;
  readonly #backend: Backend;
  readonly #fuse: NativeFuse;
  readonly #target: FuseTarget;
  readonly #helper: boolean;
  readonly #graceMs: number;
  readonly #requests: FuseRequest[] = [];
  readonly #pending = new Set<Promise<void>>();
  #stopping = false;
  #unmounted = false;
  #closed: Promise<void> | null = null;
  #last: FuseStats | null = null;

  private constructor(
    parts: { backend: Backend; fuse: NativeFuse; target: FuseTarget; helper: boolean; graceMs: number },
  ) {
    this.path = parts.target.path;
    this.#backend = parts.backend;
    this.#fuse = parts.fuse;
    this.#target = parts.target;
    this.#helper = parts.helper;
    this.#graceMs = parts.graceMs;
    this.ended = this.#serve();
    // Who does not wait for it learns of it by `close`.
    this.ended.catch(() => {});
  }

  /**
   * Mounts. The backend stays the caller's.
   *
   * @throws {DroverError} "exists" when something is at the path, "busy" when it is mounted already, "unsupported" where
   * this machine or user cannot
   */
  static async open(backend: Backend, options: FuseOptions): Promise<FuseFile> {
    const { native, mode = 0o600, timeoutMs = 30_000, slots = 64, source = "drover" } = options;
    const readOnly = options.readOnly === true || backend.readOnly;
    checkNumber(mode, 0, 0o777, "permissions");
    checkNumber(timeoutMs, 1, 3_600_000, "a time-out of milliseconds");
    checkNumber(slots, 1, 256, "requests at once");
    const { uid, gid, canMount } = native.identity();
    const target = await openTarget(options.path, native);
    try {
      const fuse = await native.openFuse({
        path: pathFromText(target.path),
        source: oneLine(source),
        size: backend.size,
        mode: readOnly ? mode & 0o555 : mode,
        uid,
        gid,
        timeoutMs,
        slots,
        readOnly,
        keepCache: options.keepCache ?? false,
        allowOther: (mode & 0o077) !== 0,
        helper: !canMount,
      });
      growReadAhead(target.path);
      return new FuseFile({
        backend,
        fuse,
        target,
        helper: !canMount,
        graceMs: Math.min(graceMs, timeoutMs),
      });
    } catch (error) {
      target.release();
      throw explain(error, target.path, canMount);
    }
  }

  /** Counters, also after the end. */
  stats(): FuseStats {
    return this.#last ?? this.#fuse.stats();
  }

  /**
   * Takes it away, when no program has it open; what the kernel has of it is written first.
   *
   * @param options `detach`: it vanishes from its path at once, and ends when the last program has closed it
   * @throws {DroverError} "busy" while it is open
   */
  async unmount(options: { detach?: boolean } = {}): Promise<void> {
    if (this.#unmounted) return;
    const detach = options.detach ?? false;
    try {
      if (this.#helper) await unmountByHelper(this.path, detach);
      else await this.#fuse.unmount(detach);
    } catch (error) {
      const code = error instanceof Error && "code" in error ? error.code : undefined;
      // Somebody else has unmounted it.
      if (code === "EINVAL") return;
      if (code !== "EBUSY" || error instanceof DroverError) throw error;
      throw new DroverError("busy", `Cannot unmount "${this.path}": a program has it open`, { cause: error });
    }
    this.#unmounted = true;
  }

  /**
   * Unmounts and waits for the backend. A file that is open is taken from its programs: they get ENOTCONN, and what they
   * wrote through a mapping and did not sync is lost; `unmount` first to be told.
   */
  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  /** See `close`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #close(): Promise<void> {
    try {
      await this.unmount();
    } catch {
      // Open somewhere, or this process has lost the right to: the connection ends all the same.
      await this.unmount({ detach: true }).catch(() => {});
    }
    this.#stopping = true;
    try {
      await this.ended;
    } finally {
      let timer: ReturnType<typeof setTimeout> | undefined;
      const grace = new Promise<void>((resolve) => timer = setTimeout(resolve, this.#graceMs));
      await Promise.race([Promise.all(this.#pending), grace]);
      clearTimeout(timer);
      this.#last = { ...this.#fuse.stats(), pending: 0 };
      this.#fuse.close();
      this.#target.release();
    }
  }

  async #serve(): Promise<void> {
    const requests = this.#requests;
    let since = performance.now();
    for (;;) {
      // While calls of the backend are under way, the event loop has better to do than to look.
      const now = performance.now();
      let count = now - since < stretchMs
        ? this.#fuse.take(requests, this.#pending.size === 0 ? spinUs : 0)
        : 0;
      if (count === 0) {
        if (this.#stopping) break;
        count = await this.#fuse.wait(requests, waitMs);
        since = performance.now();
      }
      if (count < 0) break;
      for (let index = 0; index < count; index++) {
        const request = requests[index];
        if (request !== undefined) this.#answer(request);
      }
    }
  }

  /** Answers at once where the backend does. */
  #answer(request: FuseRequest): void {
    const { op, slot, offset, length } = request;
    try {
      if (op === "read") {
        const view = this.#backend.view?.(offset, length) ?? null;
        // Octets that are not in memory of their own cannot be handed to C as they are.
        if (view !== null && view.buffer instanceof ArrayBuffer) {
          this.#fuse.reply(slot, 0, view as Uint8Array<ArrayBuffer>, length);
          return;
        }
      }
      const done = op === "read"
        ? this.#backend.readAt(offset, this.#fuse.room(slot, length))
        : op === "write"
        ? this.#backend.writeAt(offset, this.#fuse.room(slot, length))
        : op === "flush"
        ? this.#backend.flush()
        : this.#change(op, slot, offset, length);
      const size = op === "read" ? length : op === "data" || op === "hole" ? 8 : 0;
      if (done === undefined) this.#reply(slot, 0, size);
      else this.#later(done, slot, size);
    } catch (error) {
      this.#reply(slot, errnoOf(error), 0);
    }
  }

  #later(done: PromiseLike<void>, slot: number, size: number): void {
    const answered = Promise.resolve(done).then(
      () => this.#reply(slot, 0, size),
      (error) => this.#reply(slot, errnoOf(error), 0),
    ).then(() => {
      this.#pending.delete(answered);
    });
    this.#pending.add(answered);
  }

  #reply(slot: number, errno: number, size: number): void {
    // A call that has outlived the mount: nobody waits for it.
    if (this.#last === null) this.#fuse.reply(slot, errno, null, size);
  }

  async #change(
    op: "zero" | "punch" | "data" | "hole",
    slot: number,
    offset: number,
    length: number,
  ): Promise<void> {
    const backend = this.#backend;
    if (op === "zero" && backend.zero !== undefined) {
      return await backend.zero(offset, length, { allocate: true });
    }
    if (op === "zero" || op === "punch") return await zeroRange(backend, offset, length);
    const found = await seek(backend, offset, { isHole: op === "hole" });
    if (found === null) throw new SeekEnd();
    new DataView(this.#fuse.room(slot, 8).buffer, this.#fuse.room(slot, 8).byteOffset).setBigUint64(
      0,
      BigInt(found),
      true,
    );
  }
}

/** There is no data any more. */
class SeekEnd extends Error {}

/** Where the next data or hole begins; the end counts as a hole, and nothing as data behind the last. */
async function seek(backend: Backend, offset: number, wanted: { isHole: boolean }): Promise<number | null> {
  if (backend.extents === undefined) return wanted.isHole ? backend.size : offset;
  for await (const extent of extentsOf(backend, offset, backend.size - offset)) {
    if ((extent.hole && extent.zero) === wanted.isHole) return extent.offset;
  }
  return wanted.isHole ? backend.size : null;
}

function errnoOf(error: unknown): number {
  if (error instanceof SeekEnd) return enxio;
  if (error instanceof IoError) return errnos[error.errno];
  if (error instanceof DroverError && error.code === "no-space") return errnos.ENOSPC;
  return error instanceof RangeError ? errnos.EINVAL : errnos.EIO;
}

function checkNumber(value: number, least: number, most: number, what: string): void {
  if (Number.isInteger(value) && value >= least && value <= most) return;
  throw new RangeError(`Cannot mount with ${value} for ${what}: should be ${least} to ${most}`);
}

/** A name that a line of the list of mounts can hold. */
function oneLine(source: string): BytePath {
  // deno-lint-ignore no-control-regex
  return pathFromText(source.replace(/[\x00-\x1f\x7f]/g, "?").slice(0, 1024) || "drover");
}

/** A failed mount, with what to type. */
function explain(error: unknown, path: string, canMount: boolean): unknown {
  const code = error instanceof Error && "code" in error ? error.code : undefined;
  const refuse = (why: string, hint: string): DroverError =>
    new DroverError("unsupported", `Cannot mount "${path}": ${why}`, { cause: error, hint });
  switch (code) {
    case "ENOENT":
      return canMount
        ? refuse("there is no /dev/fuse", "modprobe fuse (in a container: --device /dev/fuse)")
        : refuse("there is no /dev/fuse or no fusermount3", "apt-get install fuse3");
    case "ENODEV":
    case "ENXIO":
      return refuse("this kernel has no FUSE", "modprobe fuse");
    case "EPERM":
    case "EACCES":
      return refuse(
        canMount ? "it is not allowed here" : "fusermount3 refused",
        canMount
          ? "in a container: --device /dev/fuse --cap-add SYS_ADMIN"
          : "see its message; others' access needs user_allow_other in /etc/fuse.conf",
      );
    default:
      return error;
  }
}
