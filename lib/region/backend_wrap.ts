/**
 * Backends around backends: each passes on what it is given, with one thing changed. They stack in any order, and
 * closing the outermost closes all.
 *
 * | wrapper | what it changes |
 * | --- | --- |
 * | `readOnly` | refuses writes |
 * | `chunked` | reaches what is inside in whole chunks only |
 * | `delayed` | answers later: a distance and a bandwidth, by a clock that the caller gives |
 * | `faulty` | fails some of the time, while it is armed |
 * | `checksummed` (`backend_checksum.ts`) | refuses chunks that are not what was written |
 *
 * @module
 */
import {
  type Backend,
  CheckedBackend,
  type Extent,
  type IoErrno,
  IoError,
  type MaybePromise,
  zeroRange,
} from "./backend.ts";
import { checkChunkSize, ChunkLocks, chunksOf } from "./chunk_locks.ts";

/** A backend that passes everything on; a wrapper overrides what it changes. */
export class WrappedBackend extends CheckedBackend {
  /** What is inside. */
  protected readonly inner: Backend;

  /** Passes on to another. @param inner is closed with this one. */
  constructor(inner: Backend, options: { name?: string; readOnly?: boolean } = {}) {
    super({
      name: options.name ?? "wrapped backend",
      size: inner.size,
      readOnly: options.readOnly ?? inner.readOnly,
    });
    this.inner = inner;
  }

  /** See {@link CheckedBackend}. */
  protected override read(offset: number, into: Uint8Array): MaybePromise<void> {
    return this.inner.readAt(offset, into);
  }

  /** See {@link CheckedBackend}. */
  protected override write(offset: number, bytes: Uint8Array): MaybePromise<void> {
    return this.inner.writeAt(offset, bytes);
  }

  /** See {@link CheckedBackend}. */
  protected override sync(): MaybePromise<void> {
    return this.inner.flush();
  }

  /** See {@link Backend.trim}. */
  trim(offset: number, length: number): MaybePromise<void> {
    this.checkWrite(offset, length);
    return this.inner.trim?.(offset, length);
  }

  /** See {@link Backend.zero}. */
  zero(offset: number, length: number, options?: { allocate?: boolean }): MaybePromise<void> {
    this.checkWrite(offset, length);
    return this.inner.zero === undefined
      ? zeroRange(this.inner, offset, length)
      : this.inner.zero(offset, length, options);
  }

  /** See {@link Backend.cache}. */
  cache(offset: number, length: number): MaybePromise<void> {
    this.check(offset, length);
    return this.inner.cache?.(offset, length);
  }

  /** See {@link Backend.extents}. */
  extents(offset: number, length: number): MaybePromise<readonly Extent[]> {
    this.check(offset, length);
    return this.inner.extents?.(offset, length) ?? [{ length, hole: false, zero: false }];
  }

  /** See {@link CheckedBackend}. */
  protected override release(): MaybePromise<void> {
    return this.inner.close();
  }
}

/** Refuses writes. */
export function readOnly(inner: Backend): Backend {
  return new WrappedBackend(inner, { name: "read-only backend", readOnly: true });
}

/**
 * Reaches what is inside in whole, aligned chunks only, the last one perhaps shorter. A part of a chunk is written
 * by reading, changing and writing it; such changes of one chunk follow each other.
 *
 * @param chunkSize a power of two from 512 to 64 MiB
 */
export function chunked(inner: Backend, chunkSize: number): Backend {
  return new ChunkedBackend(inner, chunkSize);
}

/** The work of `chunked`, for wrappers that see chunks. */
export class ChunkedBackend extends WrappedBackend {
  /** Bytes of a chunk. */
  readonly chunkSize: number;
  /** Whether reads of a chunk wait for its changes, so that they see all or nothing of one. */
  protected readonly readsInTurn: boolean = false;
  readonly #locks = new ChunkLocks();

  /** Cuts accesses to chunks. @param chunkSize a power of two from 512 to 64 MiB */
  constructor(inner: Backend, chunkSize: number, name = "chunked backend") {
    checkChunkSize(chunkSize);
    super(inner, { name });
    this.chunkSize = chunkSize;
  }

  /** See {@link CheckedBackend}. */
  protected override async read(offset: number, into: Uint8Array): Promise<void> {
    await all(
      [...chunksOf(offset, into.length, this.chunkSize)].map(async ({ chunk, from, at, length }) => {
        const target = into.subarray(at, at + length);
        const size = this.#lengthOf(chunk);
        const work = async (): Promise<void> => {
          if (from === 0 && length === size) return await this.readChunk(chunk, target);
          const whole = new Uint8Array(size);
          await this.readChunk(chunk, whole);
          target.set(whole.subarray(from, from + length));
        };
        await (this.readsInTurn ? this.#locks.run(chunk, work) : work());
      }),
    );
  }

  /** See {@link CheckedBackend}. */
  protected override async write(offset: number, bytes: Uint8Array): Promise<void> {
    await all(
      [...chunksOf(offset, bytes.length, this.chunkSize)].map(({ chunk, from, at, length }) =>
        this.#change(chunk, from, length, bytes.subarray(at, at + length))
      ),
    );
  }

  /** See {@link Backend.trim}. */
  override trim(offset: number, length: number): MaybePromise<void> {
    return this.zero(offset, length);
  }

  /** See {@link Backend.zero}. */
  override async zero(offset: number, length: number): Promise<void> {
    this.checkWrite(offset, length);
    for (const { chunk, from, length: part } of chunksOf(offset, length, this.chunkSize)) {
      await this.#change(chunk, from, part, null);
    }
  }

  /** Reads a whole chunk. */
  protected async readChunk(chunk: number, into: Uint8Array): Promise<void> {
    await this.inner.readAt(chunk * this.chunkSize, into);
  }

  /** Writes a whole chunk. */
  protected async writeChunk(chunk: number, bytes: Uint8Array): Promise<void> {
    await this.inner.writeAt(chunk * this.chunkSize, bytes);
  }

  /** Makes a whole chunk zeros. */
  protected async zeroChunk(chunk: number, length: number): Promise<void> {
    await zeroRange(this.inner, chunk * this.chunkSize, length);
  }

  /** See {@link CheckedBackend}. */
  protected override async release(): Promise<void> {
    await this.#locks.idle();
    await this.inner.close();
  }

  /** Changes a part of a chunk, or all of it; null are zeros. */
  async #change(chunk: number, from: number, length: number, bytes: Uint8Array | null): Promise<void> {
    const size = this.#lengthOf(chunk);
    await this.#locks.run(chunk, async () => {
      if (from === 0 && length === size) {
        return await (bytes === null ? this.zeroChunk(chunk, size) : this.writeChunk(chunk, bytes));
      }
      const whole = new Uint8Array(size);
      await this.readChunk(chunk, whole);
      if (bytes === null) whole.fill(0, from, from + length);
      else whole.set(bytes, from);
      await this.writeChunk(chunk, whole);
    });
  }

  #lengthOf(chunk: number): number {
    return Math.min(this.chunkSize, this.size - chunk * this.chunkSize);
  }
}

/** Where time comes from; tests bring their own. */
export interface Clock {
  /** Milliseconds, monotonic. */
  now(): number;
  /** Resolves `ms` milliseconds later. */
  sleep(ms: number): Promise<void>;
}

/** The clock on the wall. */
export const systemClock: Clock = {
  now: () => performance.now(),
  sleep: (ms) => new Promise((resolve) => setTimeout(resolve, ms)),
};

/** A distance. */
export interface DelayOptions {
  /** Where time comes from. */
  clock: Clock;
  /** Added to each access, in milliseconds: a round trip. */
  latencyMs?: number;
  /** Data passes one after the other at this rate, in each direction; unlimited by default. */
  bytesPerSecond?: number;
}

/** Answers as if it were far away, or behind a thin wire. */
export function delayed(inner: Backend, options: DelayOptions): Backend {
  return new DelayedBackend(inner, options);
}

class DelayedBackend extends WrappedBackend {
  readonly #clock: Clock;
  readonly #latencyMs: number;
  readonly #bytesPerMs: number;
  /** When the wire is free again, per direction. */
  readonly #freeAt = { up: -Infinity, down: -Infinity };

  constructor(inner: Backend, options: DelayOptions) {
    super(inner, { name: "delayed backend" });
    this.#clock = options.clock;
    this.#latencyMs = options.latencyMs ?? 0;
    this.#bytesPerMs = (options.bytesPerSecond ?? Infinity) / 1000;
  }

  protected override async read(offset: number, into: Uint8Array): Promise<void> {
    await this.#pass("down", into.length);
    await this.inner.readAt(offset, into);
  }

  protected override async write(offset: number, bytes: Uint8Array): Promise<void> {
    await this.#pass("up", bytes.length);
    await this.inner.writeAt(offset, bytes);
  }

  protected override async sync(): Promise<void> {
    await this.#pass("up", 0);
    await this.inner.flush();
  }

  override async zero(offset: number, length: number, options?: { allocate?: boolean }): Promise<void> {
    this.checkWrite(offset, length);
    await this.#pass("up", 0);
    await super.zero(offset, length, options);
  }

  override async extents(offset: number, length: number): Promise<readonly Extent[]> {
    this.check(offset, length);
    await this.#pass("down", 0);
    return await super.extents(offset, length);
  }

  async #pass(way: "up" | "down", bytes: number): Promise<void> {
    const now = this.#clock.now();
    const start = Math.max(now, this.#freeAt[way]);
    const end = start + bytes / this.#bytesPerMs;
    this.#freeAt[way] = end;
    const wait = end + this.#latencyMs - now;
    if (wait > 0) await this.#clock.sleep(wait);
  }
}

/** How often and how something fails. */
export interface FaultOptions {
  /** Of the accesses, from 0 to 1. */
  rate: number;
  /** With this. */
  errno: IoErrno;
  /** From 0 to below 1: the tests' own, from a seed. */
  random: () => number;
  /** Whether it fails from the start; default true. */
  armed?: boolean;
}

/** Fails some of the accesses while it is armed; those have no effect. */
export class FaultyBackend extends WrappedBackend {
  readonly #options: FaultOptions;
  #armed: boolean;

  /** Fails what is inside. @param options how often, and how */
  constructor(inner: Backend, options: FaultOptions) {
    super(inner, { name: "faulty backend" });
    this.#options = options;
    this.#armed = options.armed ?? true;
  }

  /** From now on it fails. */
  arm(): void {
    this.#armed = true;
  }

  /** From now on it works. */
  disarm(): void {
    this.#armed = false;
  }

  /** See {@link CheckedBackend}. */
  protected override read(offset: number, into: Uint8Array): MaybePromise<void> {
    this.#chance("read");
    return super.read(offset, into);
  }

  /** See {@link CheckedBackend}. */
  protected override write(offset: number, bytes: Uint8Array): MaybePromise<void> {
    this.#chance("write");
    return super.write(offset, bytes);
  }

  /** See {@link CheckedBackend}. */
  protected override sync(): MaybePromise<void> {
    this.#chance("flush");
    return super.sync();
  }

  /** See {@link Backend.zero}. */
  override zero(offset: number, length: number, options?: { allocate?: boolean }): MaybePromise<void> {
    this.checkWrite(offset, length);
    this.#chance("zero");
    return super.zero(offset, length, options);
  }

  #chance(what: string): void {
    if (!this.#armed || this.#options.random() >= this.#options.rate) return;
    throw new IoError(this.#options.errno, `Cannot ${what}: this backend was told to fail`);
  }
}

/** Fails some of the accesses; see {@link FaultyBackend}. */
export function faulty(inner: Backend, options: FaultOptions): FaultyBackend {
  return new FaultyBackend(inner, options);
}

/** Waits for all of them, also when one failed: buffers are in use until the last is done. */
async function all(parts: readonly Promise<void>[]): Promise<void> {
  for (const result of await Promise.allSettled(parts)) {
    if (result.status === "rejected") throw result.reason;
  }
}
