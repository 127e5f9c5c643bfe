/**
 * What each block of a managed mount is, and who is at work on it.
 *
 * ```text
 *              pull lands                  write
 *   absent ----------------> present ----------------> dirty <---- write ----.
 *      '------------------ whole write -----------------^  '-- round begins -> pushing
 *                            ^                                                   |
 *                            '------------- round ends, flushed -----------------'
 * ```
 *
 * The three bitmaps: `present` (the local backend has it), `dirty` (the source has it not), `pushing` (a round has it in
 * hand). A block that is written while it is pushed is both, and is dirty when the round ends. In the journal a
 * block is dirty as long as it is one of the two.
 *
 * Invariants:
 * - An absent block is never given from the local backend, and a present one never from the source.
 * - A present block is noted as dirty before the local backend is told of the write; an absent one after it was
 *   written. So a process that dies between the two leaves either the old block or the new one.
 * - Absent blocks have one writer at a time: a pull that lands, or a write. Others wait (`settled`).
 * - A round calls nothing clean that was written, or was about to be, since the round read it.
 *
 * Nothing here waits but `settled`; each method is one step that nobody interrupts.
 *
 * @module
 */
import { Bitmap } from "../base/bitmap.ts";
import type { ManagedJournal } from "./managed_journal.ts";

/** A run of blocks, the second number excluded. */
export interface BlockRun {
  /** The first. */
  from: number;
  /** Behind the last. */
  to: number;
}

/** Who changes blocks. */
export type Changer = "pull" | "write";

/** A change of blocks that is under way. */
export interface Change extends BlockRun {
  /** Who. */
  by: Changer;
  /** It makes blocks present that are not. */
  fills: boolean;
  /** Resolves when it is over. */
  readonly done: Promise<void>;
  /** Ends it. */
  readonly end: () => void;
}

/** The blocks of one mount. */
export class BlockTable {
  /** Bytes of the mount. */
  readonly size: number;
  /** Bytes of a block. */
  readonly blockSize: number;
  /** How many. */
  readonly blocks: number;
  /** The local backend has it. */
  readonly present: Bitmap;
  /** The source has it not. */
  readonly dirty: Bitmap;
  /** A round has it in hand. */
  readonly pushing: Bitmap;
  /** Where it is noted, once that is open; null when nothing is kept. */
  journal: ManagedJournal | null = null;
  /** Told when something has become dirty. */
  onDirty: () => void = () => {};
  readonly #changes = new Set<Change>();

  /** A table as it was found. */
  constructor(options: { size: number; blockSize: number; present: Bitmap; dirty: Bitmap }) {
    this.size = options.size;
    this.blockSize = options.blockSize;
    this.present = options.present;
    this.dirty = options.dirty;
    this.blocks = this.present.length;
    this.pushing = new Bitmap(this.blocks);
  }

  /** The blocks that a range of bytes touches. */
  around(offset: number, length: number): BlockRun {
    return { from: Math.floor(offset / this.blockSize), to: Math.ceil((offset + length) / this.blockSize) };
  }

  /** Where a run of blocks begins, in bytes, and how long it is. */
  bytesOf({ from, to }: BlockRun): { offset: number; length: number } {
    const offset = from * this.blockSize;
    return { offset, length: Math.min(to * this.blockSize, this.size) - offset };
  }

  /** Whether the source may not have some of the blocks. */
  isUnpushed({ from, to }: BlockRun): boolean {
    return this.dirty.any(from, to) || this.pushing.any(from, to);
  }

  /** Bytes that the source may not have. */
  get unpushedBytes(): number {
    let count = this.dirty.count;
    for (const { from, to } of this.pushing.runs()) {
      for (const run of this.#notDirty(from, to)) count += run.to - run.from;
    }
    return count * this.blockSize;
  }

  /** A change that fills absent blocks of a run; null when nobody does. */
  filling({ from, to }: BlockRun): Change | null {
    for (const change of this.#changes) {
      if (change.fills && change.from < to && from < change.to) return change;
    }
    return null;
  }

  /** The absent runs of a run. */
  *absent({ from, to }: BlockRun): Generator<BlockRun> {
    for (let at = this.present.next(from, false, to); at < to; at = this.present.next(at, false, to)) {
      const end = this.present.next(at, true, to);
      yield { from: at, to: end };
      at = end;
    }
  }

  /** Begins a change; `filling` must be null if it fills. */
  begin(run: BlockRun, by: Changer, fills: boolean): Change {
    let end = (): void => {};
    const done = new Promise<void>((resolve) => end = resolve);
    const change: Change = {
      ...run,
      by,
      fills,
      done,
      end: () => {
        this.#changes.delete(change);
        end();
      },
    };
    this.#changes.add(change);
    return change;
  }

  /** Begins a write of whole blocks, or of parts of present ones: notes the present ones as dirty. */
  beginWrite(run: BlockRun): Change {
    const fills = !this.present.all(run.from, run.to);
    const fresh: BlockRun[] = [];
    for (let at = run.from; at < run.to;) {
      at = this.present.next(at, true, run.to);
      const end = this.present.next(at, false, run.to);
      while (at < end) {
        const from = this.#nextClean(at, end);
        at = this.#nextUnpushed(from, end);
        if (from < at) fresh.push({ from, to: at });
      }
    }
    this.journal?.note("dirty", fresh);
    this.#setDirty(run, true);
    return this.begin(run, "write", fills);
  }

  /** Ends a write that was done: what was absent is present, and everything is dirty. */
  endWrite(change: Change): void {
    try {
      const filled = [...this.absent(change)];
      this.journal?.note("dirty", filled);
      for (const { from, to } of filled) this.present.set(from, to);
      // Again: a round may have taken it while it was being written.
      this.#setDirty(change, false);
    } finally {
      change.end();
    }
  }

  /** Makes blocks present that a pull has brought. */
  endPull(change: Change, runs: readonly BlockRun[]): void {
    try {
      this.journal?.note("present", runs);
    } catch {
      // They are pulled again after a restart; nothing else depends on it.
    } finally {
      for (const { from, to } of runs) this.present.set(from, to);
      change.end();
    }
  }

  /** A round begins: takes all that is dirty. */
  take(): void {
    this.pushing.add(this.dirty);
    this.dirty.clear(0, this.blocks);
  }

  /** Gives back what a round has not brought to the source. */
  giveBack({ from, to }: BlockRun): void {
    this.dirty.set(from, to);
    this.pushing.clear(from, to);
  }

  /** A round has brought these to where they last: clean, unless somebody wrote. */
  clean(runs: Iterable<BlockRun>): void {
    for (const { by, from, to } of this.#changes) {
      if (by !== "write") continue;
      for (const run of this.present.runs(from, to)) this.dirty.set(run.from, run.to);
    }
    const clean: BlockRun[] = [];
    for (const { from, to } of runs) {
      clean.push(...this.#notDirty(from, to));
      this.pushing.clear(from, to);
    }
    try {
      this.journal?.note("clean", clean);
    } catch {
      // They stay dirty in the notes, and are pushed once more after a restart.
    }
  }

  /** Waits for all changes that there are. */
  async settled(): Promise<void> {
    while (this.#changes.size > 0) await Promise.all([...this.#changes].map(({ done }) => done));
  }

  /** Marks the present (or all) blocks of a run as dirty. */
  #setDirty({ from, to }: BlockRun, presentOnly: boolean): void {
    if (this.dirty.all(from, to)) return;
    if (!presentOnly || this.present.all(from, to)) this.dirty.set(from, to);
    else for (const run of this.present.runs(from, to)) this.dirty.set(run.from, run.to);
    this.onDirty();
  }

  *#notDirty(from: number, to: number): Generator<BlockRun> {
    for (let at = this.dirty.next(from, false, to); at < to; at = this.dirty.next(at, false, to)) {
      const end = this.dirty.next(at, true, to);
      yield { from: at, to: end };
      at = end;
    }
  }

  /** The first block from `at` on that is neither dirty nor pushed. */
  #nextClean(at: number, to: number): number {
    for (;;) {
      const next = this.pushing.next(this.dirty.next(at, false, to), false, to);
      if (next === at || next >= to) return next;
      at = next;
    }
  }

  #nextUnpushed(at: number, to: number): number {
    return Math.min(this.dirty.next(at, true, to), this.pushing.next(at, true, to));
  }
}
