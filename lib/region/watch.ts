/**
 * Keeping a copy in step with a source that others change: again and again the hashes of its pieces are compared with
 * those of the last pass, and pieces that differ are written.
 *
 * ```text
 *   pass 1   source -> hash  <->  hash <- target      differs -> write -> flush
 *   pass n   source -> hash  <->  hash of pass n - 1  differs -> write -> flush
 * ```
 *
 * Invariants:
 * - What a hash is remembered for was written, and flushed, with exactly those bytes.
 * - The target is the caller's alone meanwhile: later passes do not read it.
 * - A pass sees the source as it is while it reads: what changes under it is found by the next one.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { type Backend, extentsOf, isZero, zeroRange } from "./backend.ts";

/** What is hashed and written at a time. */
export const watchPieceSize: number = 64 * 1024;
/** What is read at a time: pieces that are next to each other. */
const spanSize = 2 ** 20;
const digestSize = 20;
/** The most pieces: 4 TiB. */
const piecesMax = 2 ** 26;

const zeroDigest = digestOf(new Uint8Array(watchPieceSize));

/** How a pass goes. */
export interface SyncOptions {
  /** Spans of 1 MiB at once; default 8. */
  parallel?: number;
  /** Ends the pass. */
  signal?: AbortSignal;
  /** How far it is. */
  report?: (done: number, total: number) => void;
}

/** What a pass did. */
export interface SyncResult {
  /** Bytes read from the source. */
  read: number;
  /** Bytes of pieces that differed, and were written. */
  changed: number;
  /** Bytes among them that are zeros. */
  zero: number;
}

/**
 * A copy that is kept in step. The hashes are in memory, 20 bytes for each 64 KiB.
 *
 * @example
 * ```ts
 * import { MemoryBackend } from "./backend_memory.ts";
 * import { SyncedCopy } from "./watch.ts";
 *
 * const source = new MemoryBackend(2 ** 20);
 * const target = new MemoryBackend(2 ** 20);
 * const copy = new SyncedCopy(target, source.size);
 * await copy.sync(source);
 * source.writeAt(100_000, new Uint8Array([1]));
 * const { changed } = await copy.sync(source);
 * if (changed !== 65_536 || target.view(100_000, 1)[0] !== 1) throw new Error("It is not in step");
 * ```
 */
export class SyncedCopy {
  readonly #target: Backend;
  readonly #size: number;
  readonly #digests: Uint8Array;
  /** Whether the digest of a piece is that of what the target holds, durably. */
  readonly #known: Uint8Array;

  /**
   * Knows nothing of the target yet: the first pass reads it.
   *
   * @throws {RangeError} when it is smaller than `size`, or `size` is beyond 4 TiB
   */
  constructor(target: Backend, size: number) {
    const pieces = Math.ceil(size / watchPieceSize);
    if (target.size < size) throw new RangeError(`Cannot copy ${size} bytes: the target has ${target.size}`);
    if (pieces > piecesMax) throw new RangeError(`Cannot watch ${size} bytes: at most 4TiB`);
    this.#target = target;
    this.#size = size;
    this.#digests = new Uint8Array(pieces * digestSize);
    this.#known = new Uint8Array(pieces);
  }

  /**
   * One pass: afterwards the target holds what the source held.
   *
   * @param source of the size that was said; may be opened anew for each pass
   * @throws {RangeError} for a source of another size; what the backends throw, and then the next pass does what is left
   */
  async sync(source: Backend, options: SyncOptions = {}): Promise<SyncResult> {
    if (source.size !== this.#size) {
      throw new RangeError(`Cannot go on: the source has ${source.size} bytes now, and had ${this.#size}`);
    }
    const { parallel = 8, signal, report } = options;
    const result: SyncResult = { read: 0, changed: 0, zero: 0 };
    const written: number[] = [];
    const spans = spansOf(source);
    let done = 0;
    let failed = false;
    const worker = async (): Promise<void> => {
      const buffer = new Uint8Array(spanSize);
      for (;;) {
        const { value: span, done: ended } = await spans.next();
        if (ended || failed) return;
        try {
          signal?.throwIfAborted();
          await this.#span(source, span, buffer, { result, written });
        } catch (error) {
          failed = true;
          throw error;
        }
        done += span.length;
        report?.(done, this.#size);
      }
    };
    try {
      for (const end of await Promise.allSettled(Array.from({ length: parallel }, worker))) {
        if (end.status === "rejected") throw end.reason;
      }
    } finally {
      if (written.length > 0) await this.#target.flush();
      for (const piece of written) this.#known[piece] = 1;
    }
    return result;
  }

  async #span(
    source: Backend,
    { offset, length, zero }: { offset: number; length: number; zero: boolean },
    buffer: Uint8Array,
    into: { result: SyncResult; written: number[] },
  ): Promise<void> {
    const bytes = buffer.subarray(0, length);
    if (zero) bytes.fill(0);
    else {
      await source.readAt(offset, bytes);
      into.result.read += length;
    }
    for (let at = 0; at < length; at += watchPieceSize) {
      const part = bytes.subarray(at, at + watchPieceSize);
      const piece = (offset + at) / watchPieceSize;
      const digest = zero && part.length === watchPieceSize ? zeroDigest : digestOf(part);
      if (!await this.#differs(piece, digest, part.length)) continue;
      this.#known[piece] = 0;
      if (isZero(part)) {
        await zeroRange(this.#target, offset + at, part.length);
        into.result.zero += part.length;
      } else await this.#target.writeAt(offset + at, part);
      this.#digests.set(digest, piece * digestSize);
      into.result.changed += part.length;
      into.written.push(piece);
    }
  }

  /** Whether the target holds something else. */
  async #differs(piece: number, digest: Uint8Array, length: number): Promise<boolean> {
    const at = piece * digestSize;
    if (this.#known[piece] === 0) {
      const found = new Uint8Array(length);
      await this.#target.readAt(piece * watchPieceSize, found);
      this.#digests.set(digestOf(found), at);
      this.#known[piece] = 1;
    }
    for (let index = 0; index < digestSize; index++) {
      if (this.#digests[at + index] !== digest[index]) return true;
    }
    return false;
  }
}

/** How a source is watched. */
export interface WatchOptions extends SyncOptions {
  /** Milliseconds from the end of a pass to the beginning of the next. */
  intervalMs: number;
  /** Ends it, also between passes. */
  signal: AbortSignal;
  /** Told after each pass. */
  pass: (result: SyncResult) => void;
  /** Told when a pass failed; the next comes in its turn. Without it, and for the first pass, that is the end. */
  failed?: (error: unknown) => void;
}

/**
 * Keeps `target` in step with what `open` gives, until the signal comes.
 *
 * @param open opens the source, for each pass anew: a file that was replaced is then the new one
 */
export async function watchBackend(
  open: () => Promise<Backend>,
  target: Backend,
  options: WatchOptions,
): Promise<void> {
  const { intervalMs, signal, pass, failed } = options;
  let copy: SyncedCopy | null = null;
  for (let passes = 0; !signal.aborted;) {
    try {
      await using source = await open();
      copy ??= new SyncedCopy(target, source.size);
      const result = await copy.sync(source, options);
      passes++;
      pass(result);
    } catch (error) {
      if (signal.aborted) return;
      if (failed === undefined || passes === 0 || error instanceof RangeError) throw error;
      failed(error);
    }
    await sleep(intervalMs, signal);
  }
}

/** Runs of at most 1 MiB, aligned to pieces; whether they are all zeros. */
async function* spansOf(source: Backend): AsyncGenerator<{ offset: number; length: number; zero: boolean }> {
  let offset = 0;
  for await (const extent of extentsOf(source, 0, source.size)) {
    const end = extent.offset + extent.length;
    const isLast = end === source.size;
    // A piece that is zeros only in part is read.
    const whole = isLast ? end : Math.floor(end / watchPieceSize) * watchPieceSize;
    const to = extent.zero || isLast ? whole : Math.ceil(end / watchPieceSize) * watchPieceSize;
    while (offset < Math.min(to, source.size)) {
      const length = Math.min(spanSize, Math.min(to, source.size) - offset);
      yield { offset, length, zero: extent.zero };
      offset += length;
    }
  }
}

function sleep(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const end = (): void => {
      clearTimeout(timer);
      signal.removeEventListener("abort", end);
      resolve();
    };
    const timer = setTimeout(end, ms);
    signal.addEventListener("abort", end);
    if (signal.aborted) end();
  });
}

function digestOf(bytes: Uint8Array): Uint8Array {
  return createHash("sha256").update(bytes).digest().subarray(0, digestSize);
}
