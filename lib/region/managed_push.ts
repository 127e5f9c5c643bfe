/**
 * Bringing dirty blocks of a managed mount to its source, in rounds.
 *
 * ```text
 *   take all that is dirty -> read from the local backend -> write to the source -> flush it -> clean, unless
 *                                                                                     written meanwhile
 * ```
 *
 * Invariants:
 * - Clean is only what a flush of the source covers that began after it was written there, over the same connection:
 *   where the source was opened again in between, it is written again.
 * - A round that fails leaves everything that it did not bring dirty, and what failed is tried again.
 * - At most `inFlightMax` bytes are on their way.
 *
 * @module
 */
import { type Backend, extentsOf, IoError, isZero, zeroRange } from "./backend.ts";
import type { SourceLink } from "./managed_source.ts";
import type { BlockRun, BlockTable } from "./managed_table.ts";
import { Rounds } from "./rounds.ts";

/** How is pushed. */
export interface PusherOptions {
  /** What is dirty. */
  table: BlockTable;
  /** Where to. */
  link: SourceLink;
  /** Where from. */
  local: Backend;
  /** Most bytes of one request. */
  chunk: number;
  /** Most bytes on their way. */
  inFlightMax: number;
  /** A round begins so long after something became dirty; null for none by itself. In milliseconds. */
  intervalMs: number | null;
  /** How long a push tries again when the source was opened anew under it, in milliseconds. */
  timeoutMs: number;
  /** Told of rounds that failed. */
  log: (event: "push-failed", error: unknown) => void;
}

/** What a pusher has done. */
export interface PushTally {
  /** Bytes written to the source. */
  bytes: number;
  /** Bytes among them that were zeros, and sent as such. */
  zeroBytes: number;
  /** Rounds that ended well. */
  rounds: number;
}

/** What was written to the source may not be there any more. */
class OpenedAgain extends IoError {
  constructor() {
    super("EIO", "Cannot push: the source was opened again before it was flushed", { code: "disconnected" });
  }
}

/** Brings dirty blocks to the source. */
export class Pusher {
  /** What was done. */
  readonly tally: PushTally = { bytes: 0, zeroBytes: 0, rounds: 0 };
  readonly #options: PusherOptions;
  readonly #rounds: Rounds;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #stopped = false;

  /** Pushes in the background from now on. @param options how */
  constructor(options: PusherOptions) {
    this.#options = options;
    this.#rounds = new Rounds(() => this.#round());
    options.table.onDirty = () => this.#arm();
    if (options.table.dirty.count > 0) this.#arm();
  }

  /** Brings all that is dirty now to where it lasts in the source. @throws when that could not be done in time */
  async push(): Promise<void> {
    const deadline = performance.now() + this.#options.timeoutMs;
    for (;;) {
      try {
        return await this.#rounds.run();
      } catch (error) {
        if (!(error instanceof OpenedAgain) || performance.now() >= deadline) throw error;
      }
    }
  }

  /** Begins no rounds by itself any more. */
  halt(): void {
    this.#stopped = true;
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  /** Waits for rounds that are under way. */
  async stop(): Promise<void> {
    this.halt();
    await this.#rounds.idle();
  }

  #arm(): void {
    const { intervalMs } = this.#options;
    if (intervalMs === null || this.#stopped || this.#timer !== undefined) return;
    this.#timer = setTimeout(() => {
      this.#rounds.run().then(() => this.#rearm(), (error) => {
        this.#options.log("push-failed", error);
        this.#rearm();
      });
    }, intervalMs);
  }

  #rearm(): void {
    this.#timer = undefined;
    if (this.#options.table.dirty.count > 0) this.#arm();
  }

  async #round(): Promise<void> {
    const { table, link, chunk, inFlightMax } = this.#options;
    if (table.dirty.count === 0) return;
    table.take();
    const blocks = Math.max(1, chunk / table.blockSize);
    const runs = pieces(table.pushing, blocks);
    const brought: { run: BlockRun; generation: number }[] = [];
    let failure: unknown = null;
    const worker = async (): Promise<void> => {
      for (const run of runs) {
        if (failure !== null) return;
        try {
          brought.push({ run, generation: await this.#bring(run) });
        } catch (error) {
          failure ??= error;
        }
      }
    };
    await Promise.all(Array.from({ length: Math.max(1, Math.floor(inFlightMax / chunk)) }, worker));
    const good: BlockRun[] = [];
    if (brought.length > 0) {
      try {
        const flushed = await link.run("flush", async (backend, generation) => {
          await backend.flush();
          return generation;
        });
        for (const { run, generation } of brought) if (generation === flushed) good.push(run);
        if (good.length < brought.length) failure ??= new OpenedAgain();
      } catch (error) {
        failure ??= error;
      }
    }
    table.clean(good);
    // What was not brought, or not for good.
    for (const run of [...table.pushing.runs()]) table.giveBack(run);
    if (failure !== null) throw failure;
    this.tally.rounds++;
  }

  /** Writes a run to the source. @returns the generation that it was written to */
  async #bring(run: BlockRun): Promise<number> {
    const { table, link, local } = this.#options;
    const { offset, length } = table.bytesOf(run);
    let zero = local.extents !== undefined;
    if (zero) { for await (const extent of extentsOf(local, offset, length)) zero &&= extent.zero; }
    return await link.run("write", async (backend, generation) => {
      // Read anew each time: an attempt that was given up may still have the buffer.
      const bytes = zero ? null : new Uint8Array(length);
      if (bytes !== null) await local.readAt(offset, bytes);
      if (bytes === null || isZero(bytes)) {
        await zeroRange(backend, offset, length);
        this.tally.zeroBytes += length;
      } else await backend.writeAt(offset, bytes);
      this.tally.bytes += length;
      return generation;
    });
  }
}

/** The runs of a bitmap, cut where pieces of so many blocks end. */
function* pieces(
  bitmap: { runs(): Iterable<BlockRun> },
  blocks: number,
): Generator<BlockRun> {
  for (const { from, to } of bitmap.runs()) {
    for (let at = from; at < to;) {
      const end = Math.min(to, (Math.floor(at / blocks) + 1) * blocks);
      yield { from: at, to: end };
      at = end;
    }
  }
}
