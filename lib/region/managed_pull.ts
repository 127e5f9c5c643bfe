/**
 * Bringing absent blocks from the source to the local backend: those that somebody waits for at once, the others in
 * a window that suits the link.
 *
 * ```text
 *   read of an absent block -> joins a pull that has it, or starts one -> bytes -> reader
 *   nobody waits ----------> the order says what is next --------------> bytes -> local backend -> present
 * ```
 *
 * Invariants:
 * - Every block is in at most one pull at a time. Readers get the bytes as soon as they are there and right; that
 *   they land in the local backend is a further step, and where it fails (no room) readers do not notice.
 * - A pull lands only in blocks that are absent then: what was written meanwhile stays.
 * - Bytes that are not what the given hashes say are fetched again, and never given to anybody.
 * - In the background at most `window.bytes` are on their way, and `inFlightMax` before the local backend; while the source is gone, one request.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { setImmediate } from "node:timers";
import { Bitmap } from "../base/bitmap.ts";
import { bytesEqual } from "../base/hex.ts";
import { PullOrder } from "../tier/pull_order.ts";
import { PullWindow } from "../tier/pull_window.ts";
import { type Backend, extentsOf, IoError, isZero, zeroRange } from "./backend.ts";
import type { SourceLink } from "./managed_source.ts";
import type { BlockRun, BlockTable } from "./managed_table.ts";

/** What the chunks of a source should be. */
export interface ChunkHashes {
  /** Bytes of a chunk; a power of two, at least a block. */
  chunk: number;
  /** SHA-256 of a chunk; null when it is not known. */
  digest(chunk: number): Uint8Array | null;
}

/** How is pulled. */
export interface PullerOptions {
  /** What is there. */
  table: BlockTable;
  /** From where. */
  link: SourceLink;
  /** To where. */
  local: Backend;
  /** Most bytes of one request in the background; a power of two. */
  chunk: number;
  /** Bytes that a read that must wait fetches at least; a power of two, at most `chunk`. */
  demand: number;
  /** Most bytes on their way in the background. */
  inFlightMax: number;
  /** Whether anything is pulled that nobody asked for. */
  background: boolean;
  /** Which chunks first. */
  priority?: ((chunk: number) => number) | undefined;
  /** Pieces of `demand` bytes, in the order in which they were touched. */
  learned?: Uint32Array | undefined;
  /** What the chunks should be. */
  hashes?: ChunkHashes | undefined;
  /** How long a read waits, in milliseconds. */
  timeoutMs: number;
  /** Told what a person may want to know. */
  log: (event: "local-full" | "corrupt" | "pulled", error?: unknown) => void;
}

/** Blocks on their way. */
interface Pull extends BlockRun {
  /** The bytes. */
  data: Promise<Uint8Array>;
  /** They are in the local backend, as far as they were absent. */
  landed: Promise<void>;
}

/** What a puller has done. */
export interface PullTally {
  /** Bytes fetched. */
  bytes: number;
  /** Bytes that the source said are zeros, and that were not fetched. */
  zeroBytes: number;
  /** Reads that had to start a request of their own. */
  demand: number;
  /** Reads that waited for a request that was under way. */
  joined: number;
}

/** What could not be pulled is left alone for so long. */
const parkMs = 1000;
/** Where there is no room, nothing is pulled in the background for so long: first, and at most. */
const fullFirstMs = 100;
const fullMaxMs = 30_000;
/** Zeros are asked for in ranges of this size. */
const exploreBytes = 2 ** 30;
/** … and made in ranges of this one, so that a write there does not wait for long. */
const zeroBytesAtOnce = 64 * 2 ** 20;

/** Brings blocks. */
export class Puller {
  /** What was done. */
  readonly tally: PullTally = { bytes: 0, zeroBytes: 0, demand: 0, joined: 0 };
  /** The link, as it is known. */
  readonly window: PullWindow;
  readonly #options: PullerOptions;
  readonly #unitBlocks: number;
  readonly #hashBlocks: number;
  readonly #order: PullOrder;
  readonly #pulls = new Set<Pull>();
  /** Blocks on their way, or left alone for a while. */
  readonly #taken: Bitmap;
  #inFlight = 0;
  /** Bytes that are here, and not in the local backend yet. */
  #landing = 0;
  #running = false;
  #stopped = false;
  /** How long to wait for room; 0 while there is some. */
  #fullMs = 0;
  #paused = false;
  #filling = false;
  readonly #timers = new Set<ReturnType<typeof setTimeout>>();
  readonly #waiting = new Set<{ bytes: number; resolve: () => void }>();
  #exploring: Promise<void> | null = null;

  /** Does nothing before `start`. @param options how */
  constructor(options: PullerOptions) {
    this.#options = options;
    const { table, chunk, demand, hashes, inFlightMax } = options;
    this.#hashBlocks = hashes === undefined ? 1 : hashes.chunk / table.blockSize;
    this.#unitBlocks = demand / table.blockSize;
    this.#taken = new Bitmap(table.blocks);
    this.window = new PullWindow({
      floor: Math.min(inFlightMax, 4 * demand),
      first: Math.min(inFlightMax, Math.max(4 * demand, chunk)),
      ceiling: inFlightMax,
    });
    this.#order = new PullOrder({
      units: Math.ceil(table.blocks / this.#unitBlocks),
      unitsPerChunk: chunk / demand,
      nextWanted: (from, to) => this.#nextWanted(from, to),
      priority: options.priority,
      learned: options.learned,
    });
  }

  /** Begins to pull in the background. */
  start(): void {
    if (!this.#options.background || this.#running) return;
    this.#running = true;
    this.#exploring = nextTurn().then(() => this.#explore());
    this.#fillSoon();
  }

  /** Begins nothing any more. */
  halt(): void {
    this.#stopped = true;
    for (const timer of this.#timers) clearTimeout(timer);
  }

  /** Waits for what is under way: until it has landed, or the link is closed. */
  async stop(): Promise<void> {
    this.halt();
    await Promise.allSettled([...this.#pulls].flatMap(({ data, landed }) => [data, landed]));
    await this.#exploring;
    for (const { resolve } of this.#waiting) resolve();
  }

  /** Waits until at least so many bytes are local, or all of them; not when it was stopped, or pulls nothing by itself. */
  whenLocal(bytes: number): Promise<void> {
    if (this.#isLocal(bytes) || this.#stopped || !this.#options.background) return Promise.resolve();
    return new Promise((resolve) => this.#waiting.add({ bytes, resolve }));
  }

  /** Bytes on their way. */
  get inFlightBytes(): number {
    return this.#inFlight;
  }

  /** These blocks will be wanted soon. */
  promote({ from, to }: BlockRun): void {
    this.#order.promote({ from: Math.floor(from / this.#unitBlocks), to: Math.ceil(to / this.#unitBlocks) });
    this.#fillSoon();
  }

  /** Fills `into` with absent blocks' bytes from `offset` on, of which the run's are part. */
  async read(run: BlockRun, offset: number, into: Uint8Array): Promise<void> {
    const { table, timeoutMs } = this.#options;
    const deadline = performance.now() + timeoutMs;
    const parts: Promise<void>[] = [];
    let waits = false;
    let demands = false;
    for (let at = run.from; at < run.to;) {
      let pull = this.#pullOf(at);
      if (pull === null) {
        pull = this.#demand(at, run.to);
        demands = true;
      } else waits = true;
      const start = pull.from * table.blockSize;
      const low = Math.max(offset, at * table.blockSize);
      at = Math.min(pull.to, run.to);
      const high = Math.min(offset + into.length, at * table.blockSize);
      parts.push(
        beforeDeadline(pull.data, deadline, timeoutMs).then((bytes) =>
          into.set(bytes.subarray(low - start, high - start), low - offset)
        ),
      );
    }
    if (demands) this.tally.demand++;
    else if (waits) this.tally.joined++;
    await allSettled(parts);
  }

  /** Makes a block present. @throws what the source, or the local backend, throws */
  async bring(block: number): Promise<void> {
    const { table, timeoutMs } = this.#options;
    const deadline = performance.now() + timeoutMs;
    while (!table.present.has(block)) {
      const pull = this.#pullOf(block) ?? this.#demand(block, block + 1);
      await beforeDeadline(pull.landed, deadline, timeoutMs);
    }
  }

  #pullOf(block: number): Pull | null {
    for (const pull of this.#pulls) if (pull.from <= block && block < pull.to) return pull;
    return null;
  }

  /** Starts a pull that somebody waits for: the piece around, as far as it is absent, perhaps several. */
  #demand(block: number, to: number): Pull {
    const { table, chunk, timeoutMs } = this.#options;
    const hashed = this.#hashBlocks > 1;
    const unit = hashed ? this.#hashBlocks : this.#unitBlocks;
    const lowest = block - block % unit;
    const most = hashed ? unit : Math.max(chunk / table.blockSize, unit);
    const wanted = Math.min(
      Math.max(lowest + unit, Math.ceil(to / unit) * unit),
      lowest + most,
      table.blocks,
    );
    let from = hashed ? lowest : block;
    let end = hashed ? wanted : block + 1;
    // What is there, or on its way, is not fetched.
    const isFree = (at: number): boolean => !table.present.has(at) && this.#pullOf(at) === null;
    while (from > lowest && isFree(from - 1)) from--;
    while (end < wanted && isFree(end)) end++;
    this.#order.follow(Math.floor(block / this.#unitBlocks));
    return this.#start({ from, to: end }, timeoutMs);
  }

  /** The first wanted unit: one with a block that is absent and not taken. */
  #nextWanted(from: number, to: number): number {
    const { table } = this.#options;
    const end = Math.min(to * this.#unitBlocks, table.blocks);
    for (let at = from * this.#unitBlocks; at < end;) {
      at = table.present.next(at, false, end);
      if (at >= end) break;
      if (!this.#taken.has(at)) return Math.floor(at / this.#unitBlocks);
      at = Math.min(this.#taken.next(at, false, end), table.present.next(at, true, end));
    }
    return to;
  }

  /**
   * Fills the window in a later turn of the event loop: a source and a local backend that answer at once would
   * keep everybody else waiting until everything is here.
   */
  #fillSoon(): void {
    if (this.#filling || !this.#running || this.#stopped) return;
    this.#filling = true;
    setImmediate(() => {
      this.#filling = false;
      this.#fill();
    });
  }

  /** Starts as many pulls as the window has room for. */
  #fill(): void {
    const { table, link, chunk } = this.#options;
    while (this.#running && !this.#stopped && !this.#paused) {
      const room = this.window.bytes - this.#inFlight;
      const bytes = Math.min(chunk, Math.max(this.window.requestBytes, this.#options.demand));
      // A local backend that is slower than the link sets the pace.
      if (this.#landing >= this.#options.inFlightMax) return;
      if (this.#inFlight > 0 && (room < bytes || link.isDown || this.#fullMs > 0)) return;
      const units = this.#order.next(Math.max(1, bytes / this.#options.demand));
      if (units === null) {
        if (table.present.count === table.blocks) this.#finish();
        return;
      }
      for (const run of this.#wantedIn(units)) void this.#start(run, this.#options.timeoutMs);
    }
  }

  /** The runs of blocks of some units that are absent and not taken; whole chunks where there are hashes. */
  *#wantedIn(units: { from: number; to: number }): Generator<BlockRun> {
    const { table } = this.#options;
    const to = Math.min(units.to * this.#unitBlocks, table.blocks);
    if (this.#hashBlocks > 1) {
      const first = Math.floor(units.from * this.#unitBlocks / this.#hashBlocks) * this.#hashBlocks;
      for (let from = first; from < to; from += this.#hashBlocks) {
        const end = Math.min(from + this.#hashBlocks, table.blocks);
        if (!this.#taken.has(from) && !table.present.all(from, end)) yield { from, to: end };
      }
      return;
    }
    for (let at = units.from * this.#unitBlocks; at < to;) {
      const from = table.present.next(at, false, to);
      at = Math.min(this.#taken.next(from, true, to), table.present.next(from, true, to));
      if (from < at) yield { from, to: at };
      else at = Math.min(to, from + 1);
    }
  }

  #start(run: BlockRun, timeoutMs: number): Pull {
    const { table } = this.#options;
    const { length } = table.bytesOf(run);
    this.#taken.set(run.from, run.to);
    this.#inFlight += length;
    const data = this.#fetch(run, timeoutMs);
    const landed = this.#land(run, data);
    const pull: Pull = { ...run, data, landed };
    this.#pulls.add(pull);
    const arrived = (): void => {
      this.#inFlight -= length;
      this.#landing += length;
      this.#fillSoon();
    };
    data.then(arrived, arrived);
    landed.then(() => this.#end(pull, length, false), () => this.#end(pull, length, true));
    return pull;
  }

  #end(pull: Pull, length: number, failed: boolean): void {
    this.#pulls.delete(pull);
    this.#landing -= length;
    if (!failed) this.#taken.clear(pull.from, pull.to);
    else {
      this.#later(parkMs, () => {
        this.#taken.clear(pull.from, pull.to);
        this.#order.again();
      });
    }
    this.#tell();
    this.#fillSoon();
  }

  /** Waits for room. */
  #pause(): void {
    this.#fullMs = Math.min(fullMaxMs, Math.max(fullFirstMs, 2 * this.#fullMs));
    if (this.#paused) return;
    this.#paused = true;
    this.#later(this.#fullMs, () => this.#paused = false);
  }

  /** Does something after a while, and goes on pulling. */
  #later(ms: number, work: () => void): void {
    if (this.#stopped) return;
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      work();
      this.#fill();
    }, ms);
    this.#timers.add(timer);
  }

  /** The bytes of a run, verified. */
  async #fetch(run: BlockRun, timeoutMs: number): Promise<Uint8Array> {
    const { table, link, log } = this.#options;
    const { offset, length } = table.bytesOf(run);
    let told = false;
    const bytes = await link.run("read", async (backend) => {
      const into = new Uint8Array(length);
      const mark = this.window.begin(performance.now());
      try {
        await backend.readAt(offset, into);
      } catch (error) {
        this.window.lost();
        throw error;
      }
      this.window.end(mark, length, performance.now());
      try {
        this.#verify(offset, into);
      } catch (error) {
        if (!told) log("corrupt", error);
        told = true;
        throw error;
      }
      return into;
    }, timeoutMs);
    this.tally.bytes += length;
    return bytes;
  }

  #verify(offset: number, bytes: Uint8Array): void {
    const { hashes } = this.#options;
    if (hashes === undefined) return;
    for (let at = 0; at < bytes.length; at += hashes.chunk) {
      const wanted = hashes.digest((offset + at) / hashes.chunk);
      if (wanted === null) continue;
      const found = createHash("sha256").update(bytes.subarray(at, at + hashes.chunk)).digest();
      if (bytesEqual(found, wanted)) continue;
      throw new IoError("EIO", `Cannot use what the source gave at ${offset + at}: it has another hash`, {
        code: "corrupt",
      });
    }
  }

  /** Puts bytes into the local backend, where it has not got them. */
  async #land(run: BlockRun, data: Promise<Uint8Array>): Promise<void> {
    const { table, local, log } = this.#options;
    const bytes = await data;
    // Whoever waits for it has it first.
    await nextTurn();
    for (let other = table.filling(run); other !== null; other = table.filling(run)) await other.done;
    const runs = [...table.absent(run)];
    if (runs.length === 0) return;
    const change = table.begin(run, "pull", true);
    const start = table.bytesOf(run).offset;
    try {
      for (const part of runs) {
        const { offset, length } = table.bytesOf(part);
        const piece = bytes.subarray(offset - start, offset - start + length);
        if (isZero(piece)) await zeroRange(local, offset, length);
        else await local.writeAt(offset, piece);
      }
    } catch (error) {
      change.end();
      if (this.#fullMs === 0) log("local-full", error);
      this.#pause();
      throw error;
    }
    this.#fullMs = 0;
    table.endPull(change, runs);
  }

  /** Asks the source where it has zeros; those are not fetched. */
  async #explore(): Promise<void> {
    const { table, link, local } = this.#options;
    for (let at = 0; at < table.size && !this.#stopped;) {
      const start = at;
      let extents: { offset: number; length: number; zero: boolean }[];
      try {
        extents = await link.run("look for zeros", async (backend) => {
          if (backend.extents === undefined) return [];
          const found: { offset: number; length: number; zero: boolean }[] = [];
          for await (const extent of extentsOf(backend, start, Math.min(exploreBytes, table.size - start))) {
            found.push(extent);
            // What is known is of use before the rest is.
            if (found.length >= 1024) break;
          }
          return found;
        });
      } catch {
        // It is not needed: everything is fetched then.
        return;
      }
      if (extents.length === 0) return;
      for (const { offset, length, zero } of extents) {
        at = offset + length;
        const to = at === table.size ? table.blocks : Math.floor(at / table.blockSize);
        const from = Math.ceil(offset / table.blockSize);
        if (zero && from < to) await this.#zeros({ from, to }, local);
      }
    }
  }

  /** Makes absent blocks present that are zeros in the source, as far as nobody is at work on them. */
  async #zeros(range: BlockRun, local: Backend): Promise<void> {
    const { table } = this.#options;
    for (const run of pieces(table.absent(range), zeroBytesAtOnce / table.blockSize)) {
      if (this.#stopped || table.filling(run) !== null || table.present.any(run.from, run.to)) continue;
      const change = table.begin(run, "pull", true);
      const { offset, length } = table.bytesOf(run);
      try {
        await zeroRange(local, offset, length);
      } catch {
        change.end();
        continue;
      }
      table.endPull(change, [run]);
      this.tally.zeroBytes += length;
    }
    this.#tell();
  }

  #isLocal(bytes: number): boolean {
    const { table } = this.#options;
    return table.present.count * table.blockSize >= Math.min(bytes, table.blocks * table.blockSize);
  }

  /** Wakes those who wait for bytes to be local. */
  #tell(): void {
    for (const waiter of this.#waiting) {
      if (!this.#isLocal(waiter.bytes)) continue;
      this.#waiting.delete(waiter);
      waiter.resolve();
    }
    const { table } = this.#options;
    if (this.#running && table.present.count === table.blocks) this.#finish();
  }

  #finish(): void {
    this.#running = false;
    this.#options.log("pulled");
  }
}

/** Resolves when others had their turn. */
function nextTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/** Runs cut to at most `most` blocks; what they are is asked for as they are used. */
function* pieces(runs: Iterable<BlockRun>, most: number): Generator<BlockRun> {
  for (const run of runs) {
    for (let from = run.from; from < run.to; from += most) yield { from, to: Math.min(from + most, run.to) };
  }
}

/** Its result, unless the deadline passes. */
async function beforeDeadline<T>(work: Promise<T>, deadline: number, timeoutMs: number): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(
      () => reject(new IoError("EIO", `Cannot read: the source did not answer in ${timeoutMs / 1000} s`)),
      deadline - performance.now() + 20,
    );
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Waits for all, also when one failed: buffers are in use until the last is done. */
async function allSettled(parts: readonly Promise<void>[]): Promise<void> {
  for (const result of await Promise.allSettled(parts)) {
    if (result.status === "rejected") throw result.reason;
  }
}
