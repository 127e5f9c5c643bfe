/**
 * A managed mount: a local backend in front of a far one. It opens at once, fills in the background, and brings back
 * what was written.
 *
 * ```text
 *   read  -> local, where the block is there; else from the source, at once, and into local
 *   write -> local, noted as dirty -> source, in rounds
 *   flush -> local and the notes are durable ("local"), or the source is, too ("remote")
 * ```
 *
 * It is a backend like any other: serve it, copy it, wrap it. What it knows of its blocks is in `managed_table.ts`, on disk in
 * `managed_journal.ts`; what it does is in `managed_pull.ts`, `managed_push.ts` and `managed_source.ts`. Their
 * invariants together are:
 * - A read gives what was last written here, else what the source has: also after kill -9 at any moment, also after
 *   a power cut for what was flushed.
 * - Nothing waits for the source for longer than `timeoutMs`: EIO then, and what comes later works again when the
 *   source does.
 * - The source is this mount's alone while it is open. It is whole after a round of pushing; between rounds it may have
 *   a later write without an earlier one.
 *
 * @module
 */
import { Bitmap } from "../base/bitmap.ts";
import { AccessOrder } from "./access_order.ts";
import {
  type Backend,
  CheckedBackend,
  type Extent,
  extentsOf,
  IoError,
  type MaybePromise,
  zeroRange,
} from "./backend.ts";
import { checkChunkSize } from "./chunk_locks.ts";
import { StateDirectory, type StateFile, type StateFiles } from "./managed_files.ts";
import { ManagedJournal, type Recovered } from "./managed_journal.ts";
import { type ChunkHashes, Puller } from "./managed_pull.ts";
import { Pusher } from "./managed_push.ts";
import { SourceLink } from "./managed_source.ts";
import { type BlockRun, BlockTable, type Change } from "./managed_table.ts";

export type { ChunkHashes, Recovered, StateFile, StateFiles };

/** What a mount tells while it is open. */
export interface ManagedEvent {
  /**
   * `recovered`: notes of an earlier mount were there; `source-down`, `source-up`; `local-full`: pulling waits for
   * room; `corrupt`: the source gave what its hash is not of; `pulled`: everything is local; `push-failed`: what is
   * dirty stays so and is tried again.
   */
  event: "recovered" | "source-down" | "source-up" | "local-full" | "corrupt" | "pulled" | "push-failed";
  /** Why. */
  error?: unknown;
}

/** How a managed mount is opened. */
export interface ManagedOptions {
  /** The far end, or how to open it: then it is opened again when its connection ends. */
  source: Backend | (() => MaybePromise<Backend>);
  /** The near end, at least as large as the source; closed with the mount. */
  local: Backend;
  /**
   * A directory for notes (made where there is none), so that the next mount of the same two goes on where this one
   * was, however it ended; without it local is filled anew, and what was not pushed is lost with the process.
   */
  state?: string | StateFiles;
  /** Names source and local, so that notes are not used with others; for instance both URLs. */
  identity?: string;
  /** Most bytes of a request in the background, 1 MiB by default; a power of two. */
  chunk?: number;
  /** Bytes that are fetched at least when a read has to wait, 64 KiB by default; a power of two. */
  demand?: number;
  /** Bytes of which is known whether they are local and dirty, 4 KiB by default; a power of two. */
  block?: number;
  /** Most bytes on their way in the background, each way; 16 MiB by default. */
  inFlightMax?: number;
  /** Whether everything is pulled, or only what is read; default true. */
  pull?: boolean;
  /** So many bytes are local before the mount is opened; default 0. */
  pullFirst?: number;
  /** Which chunks are pulled first: those with the greatest value. */
  priority?: (chunk: number) => number;
  /** A file: what is read is noted there in its order, and is pulled first, in that order, by the next mount. */
  learn?: string;
  /** What the chunks of the source should be; others are not accepted. */
  hashes?: ChunkHashes;
  /**
   * Dirty blocks are pushed so long after they were written, 1000 by default. Null: never but by `push()`; what is written
   * stays here, so the source may be one that refuses writes.
   */
  pushIntervalMs?: number | null;
  /** What a flush promises; "local" by default. */
  durability?: "local" | "remote";
  /** How long anything waits for the source, 30 000 by default. */
  timeoutMs?: number;
  /** Refuses writes. */
  readOnly?: boolean;
  /** Told what a person may want to know. */
  log?: (event: ManagedEvent) => void;
}

/** How a mount is. */
export interface ManagedStats {
  /** Bytes. */
  size: number;
  /** Bytes that are local. */
  localBytes: number;
  /** Bytes that the source has not got. */
  dirtyBytes: number;
  /** Bytes fetched from the source. */
  pulledBytes: number;
  /** Bytes that the source said are zeros. */
  zeroBytes: number;
  /** Bytes written to the source. */
  pushedBytes: number;
  /** Reads that had to ask the source. */
  demandReads: number;
  /** Reads that waited for what was on its way. */
  joinedReads: number;
  /** Bytes on their way here. */
  inFlightBytes: number;
  /** Bytes that may be on their way here, for this link. */
  windowBytes: number;
  /** Whether the source answers. */
  source: "up" | "down";
  /** How the notes were found; "new" without. */
  recovered: Recovered;
}

/** Notes are committed so long after they were written, where nobody flushes. */
const commitMs = 5000;
const blockMin = 512;

/**
 * Opens a managed mount. Pulling begins at once.
 *
 * @throws {RangeError} for sizes that do not fit; {DroverError} "busy", "usage" or "format" for notes that are in
 * use, of something else, or damaged; what opening the source throws, unless notes say what its size is
 *
 * @example
 * ```ts
 * import { MemoryBackend } from "./backend_memory.ts";
 * import { openManaged } from "./managed.ts";
 *
 * const far = new MemoryBackend(2 ** 20);
 * far.writeAt(4096, new Uint8Array([1, 2, 3]));
 * {
 *   await using mount = await openManaged({ source: far, local: new MemoryBackend(2 ** 20), durability: "remote" });
 *   const bytes = new Uint8Array(3);
 *   await mount.readAt(4096, bytes);
 *   await mount.writeAt(4096, bytes.map((byte) => byte + 1));
 *   await mount.flush();
 *   if (far.view(4096, 1)[0] !== 2) throw new Error("It was not pushed");
 * }
 * ```
 */
export function openManaged(options: ManagedOptions): Promise<ManagedBackend> {
  return ManagedBackend.open(options);
}

function checkOptions(
  options: ManagedOptions,
  sizes: { chunk: number; demand: number; block: number },
): void {
  const { chunk, demand, block } = sizes;
  for (const size of [chunk, demand, block]) checkChunkSize(size);
  if (!(block >= blockMin && block <= demand && demand <= chunk)) {
    throw new RangeError(
      `Cannot mount with blocks of ${block}, pieces of ${demand} and chunks of ${chunk} bytes`,
    );
  }
  const { hashes, inFlightMax, timeoutMs } = options;
  if (hashes !== undefined) {
    checkChunkSize(hashes.chunk);
    if (hashes.chunk < block) {
      throw new RangeError(`Cannot check chunks of ${hashes.chunk} bytes: blocks have ${block}`);
    }
  }
  if (inFlightMax !== undefined && !(inFlightMax >= chunk && inFlightMax <= 2 ** 30)) {
    throw new RangeError(`Cannot have ${inFlightMax} bytes on their way: should be from a chunk to 1GiB`);
  }
  if (timeoutMs !== undefined && !(timeoutMs > 0 && timeoutMs <= 2 ** 30)) {
    throw new RangeError(`Cannot wait for ${timeoutMs} ms: should be above 0, and at most 12 days`);
  }
}

/** A mount that is open; made by {@link openManaged}. */
export class ManagedBackend extends CheckedBackend {
  readonly #table: BlockTable;
  readonly #local: Backend;
  readonly #link: SourceLink;
  readonly #puller: Puller;
  readonly #pusher: Pusher;
  readonly #order: AccessOrder | null;
  readonly #files: StateFiles | null;
  readonly #durability: "local" | "remote";
  readonly #recovered: Recovered;
  readonly #pushes: boolean;
  #committer: ReturnType<typeof setInterval> | undefined;

  private constructor(
    options: ManagedOptions & {
      chunk: number;
      demand: number;
      timeoutMs: number;
      table: BlockTable;
      files: StateFiles | null;
      backend: Backend | null;
      recovered: Recovered;
    },
  ) {
    const { table, local, chunk, demand, timeoutMs, backend, source, learn, log, inFlightMax = 2 ** 24 } =
      options;
    const { pushIntervalMs = 1000 } = options;
    // Without pushing a source that refuses writes is as good as any: what is written stays here.
    const readOnly = (options.readOnly ?? false) || local.readOnly ||
      ((backend?.readOnly ?? false) && pushIntervalMs !== null);
    super({ name: "managed mount", size: table.size, readOnly });
    this.#table = table;
    this.#local = local;
    this.#files = options.files;
    this.#durability = options.durability ?? "local";
    this.#recovered = options.recovered;
    this.#pushes = !readOnly && pushIntervalMs !== null;
    const tell = (event: ManagedEvent["event"], error?: unknown): void =>
      log?.(error === undefined ? { event } : { event, error });
    this.#link = new SourceLink({
      backend,
      open: typeof source === "function" ? source : null,
      size: table.size,
      timeoutMs,
      log: (state, error) => tell(`source-${state}`, error),
    });
    this.#order = learn === undefined
      ? null
      : new AccessOrder({ path: learn, size: table.size, piece: demand });
    this.#puller = new Puller({
      table,
      link: this.#link,
      local,
      chunk,
      demand,
      inFlightMax: Math.max(inFlightMax, chunk),
      background: options.pull ?? true,
      priority: options.priority,
      learned: this.#order?.learned,
      hashes: options.hashes,
      timeoutMs,
      log: tell,
    });
    this.#pusher = new Pusher({
      table,
      link: this.#link,
      local,
      chunk,
      inFlightMax,
      timeoutMs,
      intervalMs: readOnly ? null : pushIntervalMs,
      log: tell,
    });
  }

  /** Begins to pull; once. */
  #start(): void {
    this.#puller.start();
    const { journal } = this.#table;
    if (journal === null) return;
    this.#committer = setInterval(() => {
      // What fails here is tried again, and fails again at the next flush.
      if (journal.isBehind) journal.commit().catch(() => {});
    }, commitMs);
  }

  /** See {@link openManaged}. */
  static async open(options: ManagedOptions): Promise<ManagedBackend> {
    const { chunk = 2 ** 20, demand = Math.min(64 * 1024, chunk), block = 4096, timeoutMs = 30_000 } =
      options;
    checkOptions(options, { chunk, demand, block });
    const { local } = options;
    const files = typeof options.state === "string"
      ? StateDirectory.open(options.state)
      : options.state ?? null;
    let source: Backend | null = null;
    let journal: ManagedJournal | null = null;
    let mount: ManagedBackend | null = null;
    try {
      const known = files === null ? null : ManagedJournal.sizeIn(files);
      try {
        source = typeof options.source === "function" ? await options.source() : options.source;
      } catch (error) {
        if (known === null) throw error;
      }
      const size = source?.size ?? known ?? 0;
      if (local.size < size) {
        throw new RangeError(`Cannot mount ${size} bytes: the local backend has ${local.size}`);
      }
      const identity = options.identity ?? "";
      const boot = files?.boot ?? "";
      const found = files === null
        ? null
        : ManagedJournal.read({ files, size, blockSize: block, identity, boot });
      const blocks = Math.ceil(size / block);
      const table = new BlockTable({
        size,
        blockSize: block,
        present: found?.state.present ?? new Bitmap(blocks),
        dirty: found?.state.dirty ?? new Bitmap(blocks),
      });
      if (files !== null) {
        journal = await ManagedJournal.create({
          files,
          size,
          blockSize: block,
          identity,
          boot,
          flushLocal: async () => await local.flush(),
          live: () => ({ present: table.present, dirty: [table.dirty, table.pushing] }),
        }, found?.wasWriting ?? false);
      }
      table.journal = journal;
      mount = new ManagedBackend({
        ...options,
        chunk,
        demand,
        timeoutMs,
        table,
        files,
        backend: source,
        recovered: found?.state.recovered ?? "new",
      });
      if (found !== null) options.log?.({ event: "recovered" });
      mount.#start();
      await mount.whenLocal(options.pullFirst ?? 0);
      return mount;
    } catch (error) {
      if (mount !== null) await mount.close();
      else {
        await journal?.abandon();
        if (typeof options.source === "function") await source?.close();
        files?.close();
      }
      throw error;
    }
  }

  /** How it is. */
  get stats(): ManagedStats {
    const table = this.#table;
    const { bytes, zeroBytes, demand, joined } = this.#puller.tally;
    return {
      size: this.size,
      localBytes: Math.min(this.size, table.present.count * table.blockSize),
      dirtyBytes: Math.min(this.size, table.unpushedBytes),
      pulledBytes: bytes,
      zeroBytes,
      pushedBytes: this.#pusher.tally.bytes,
      demandReads: demand,
      joinedReads: joined,
      inFlightBytes: this.#puller.inFlightBytes,
      windowBytes: this.#puller.window.bytes,
      source: this.#link.isDown ? "down" : "up",
      recovered: this.#recovered,
    };
  }

  /** Waits until so many bytes are local, all by default; only what is pulled in the background counts on. */
  async whenLocal(bytes: number = this.size): Promise<void> {
    await this.#puller.whenLocal(bytes);
  }

  /** Brings all that is dirty now to where it lasts in the source. @throws {IoError} when it does not answer in time */
  async push(): Promise<void> {
    this.check(0, 0);
    await this.#pusher.push();
  }

  /** See {@link CheckedBackend}. */
  protected override read(offset: number, into: Uint8Array): MaybePromise<void> {
    this.#order?.touch(offset, into.length);
    const run = this.#table.around(offset, into.length);
    if (this.#table.present.all(run.from, run.to)) return this.#local.readAt(offset, into);
    return this.#readMixed(run, offset, into);
  }

  /** See {@link CheckedBackend}. */
  protected override write(offset: number, bytes: Uint8Array): Promise<void> {
    return this.#change(offset, bytes.length, () => this.#local.writeAt(offset, bytes));
  }

  /** See {@link Backend.zero}. */
  async zero(offset: number, length: number, options: { allocate?: boolean } = {}): Promise<void> {
    this.checkWrite(offset, length);
    if (length === 0) return;
    const { zero } = this.#local;
    await this.#change(
      offset,
      length,
      () =>
        zero === undefined
          ? zeroRange(this.#local, offset, length)
          : zero.call(this.#local, offset, length, options),
    );
  }

  /** See {@link Backend.trim}: what is trimmed is zeros here, and in the source after the next round. */
  async trim(offset: number, length: number): Promise<void> {
    await this.zero(offset, length);
  }

  /** See {@link Backend.cache}: pulled next. */
  cache(offset: number, length: number): void {
    this.check(offset, length);
    if (length > 0) this.#puller.promote(this.#table.around(offset, length));
  }

  /** See {@link Backend.extents}: those of the local backend where it has the blocks; the rest counts as data. */
  async extents(offset: number, length: number): Promise<Extent[]> {
    this.check(offset, length);
    const table = this.#table;
    const { from, to } = table.around(offset, length);
    const isLocal = table.present.has(from);
    const behind = table.present.next(from, !isLocal, to);
    const part = Math.min(behind * table.blockSize, offset + length) - offset;
    if (!isLocal) return [{ length: part, hole: false, zero: false }];
    const found: Extent[] = [];
    for await (const { length: run, hole, zero } of extentsOf(this.#local, offset, part)) {
      found.push({ length: run, hole, zero });
      if (found.length === 1024) break;
    }
    return found;
  }

  /** See {@link CheckedBackend}. */
  protected override async sync(): Promise<void> {
    if (this.readOnly) return;
    if (this.#durability === "remote") await this.#pusher.push();
    // Also then: a power cut must not bring back what is older than the source.
    await (this.#table.journal === null ? this.#local.flush() : this.#table.journal.commit());
  }

  /** See {@link CheckedBackend}. */
  protected override async release(): Promise<void> {
    clearInterval(this.#committer);
    this.#puller.halt();
    let failure: unknown = null;
    const attempt = async (work: () => MaybePromise<void>): Promise<void> => {
      try {
        await work();
      } catch (error) {
        failure ??= error;
      }
    };
    await this.#table.settled();
    this.#pusher.halt();
    if (this.#pushes && this.#table.unpushedBytes > 0) {
      try {
        await this.#pusher.push();
      } catch (error) {
        // With notes nothing is lost: the next mount pushes it.
        if (this.#table.journal === null) {
          failure = new IoError("EIO", "Cannot push what was written", { cause: error });
        }
      }
    }
    await this.#pusher.stop();
    await attempt(() => this.#link.close());
    await this.#puller.stop();
    const { journal } = this.#table;
    if (journal !== null) {
      await attempt(async () => {
        try {
          await journal.close();
        } catch (error) {
          await journal.abandon();
          throw error;
        }
      });
    } else if (!this.readOnly) await attempt(() => this.#local.flush());
    this.#files?.close();
    await attempt(() => this.#order?.save());
    await attempt(() => this.#local.close());
    if (failure !== null) throw failure;
  }

  /** Reads where blocks are missing: each part from where it is. */
  async #readMixed(run: BlockRun, offset: number, into: Uint8Array): Promise<void> {
    const table = this.#table;
    const parts: MaybePromise<void>[] = [];
    const end = offset + into.length;
    for (let at = run.from; at < run.to;) {
      const isLocal = table.present.has(at);
      const to = table.present.next(at, !isLocal, run.to);
      const low = Math.max(offset, at * table.blockSize);
      const high = Math.min(end, to * table.blockSize);
      const part = into.subarray(low - offset, high - offset);
      parts.push(
        isLocal
          ? attemptAsync(() => this.#local.readAt(low, part))
          : this.#puller.read({ from: at, to }, low, part),
      );
      at = to;
    }
    for (const result of await Promise.allSettled(parts)) {
      if (result.status === "rejected") throw result.reason;
    }
  }

  /** Changes a range of the local backend, with everything before and after that makes it last. */
  async #change(offset: number, length: number, work: () => MaybePromise<void>): Promise<void> {
    const change = this.#begin(offset, length) ?? await this.#beginLate(offset, length);
    try {
      const done = work();
      if (done instanceof Promise) await done;
    } catch (error) {
      change.end();
      throw error;
    }
    this.#table.endWrite(change);
  }

  /** Begins a write if nothing is in its way. */
  #begin(offset: number, length: number): Change | null {
    const table = this.#table;
    const run = table.around(offset, length);
    if (table.journal?.beginWriting() !== undefined) return null;
    if (!table.present.all(run.from, run.to)) {
      if (this.#partial(run, offset, length) !== null || table.filling(run) !== null) return null;
    }
    return table.beginWrite(run);
  }

  async #beginLate(offset: number, length: number): Promise<Change> {
    const table = this.#table;
    const run = table.around(offset, length);
    for (;;) {
      await table.journal?.beginWriting();
      const partial = this.#partial(run, offset, length);
      const filling = table.filling(run);
      if (filling !== null) await filling.done;
      else if (partial !== null) await this.#puller.bring(partial);
      if (this.isClosed) throw new IoError("ESHUTDOWN", "Cannot write: the mount is closed");
      const change = this.#begin(offset, length);
      if (change !== null) return change;
    }
  }

  /** An absent block of which only a part is written; null when there is none. */
  #partial({ from, to }: BlockRun, offset: number, length: number): number | null {
    const table = this.#table;
    if (offset > from * table.blockSize && !table.present.has(from)) return from;
    const end = Math.min(to * table.blockSize, table.size);
    return offset + length < end && !table.present.has(to - 1) ? to - 1 : null;
  }
}

/** Work that may throw at once, as a promise that is rejected with it. */
async function attemptAsync(work: () => MaybePromise<void>): Promise<void> {
  await work();
}
