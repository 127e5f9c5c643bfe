/**
 * Copying one backend to another: sparse, many chunks at once, checked afterwards, and able to go on where it was
 * cut.
 *
 * ```text
 *   extents of the source -> chunk -> read -> zeros? -> hole, or write -> flush -> note in the journal
 *                                       '-> digest ------------------------------> read the target again, compare
 * ```
 *
 * Invariants:
 * - A chunk is noted in the journal only after a flush of the target that began when it was written.
 * - What the journal notes is not read from the source again; it is read from the target, and must have its digest.
 * - At most `parallel` chunks are in memory.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { bytesEqual, fromHex, toHex } from "../base/hex.ts";
import { type Backend, extentsOf, IoError, isZero, zeroRange } from "./backend.ts";

/** What is copied at a time. */
export const copyChunkSize: number = 2 ** 20;

/**
 * The journal is written after so many bytes, or so long, whichever comes first: that much is copied again after a
 * crash.
 */
const noteBytes = 64 * 2 ** 20;
const noteMs = 2000;

/** Zeros are looked for in pieces of this size, … */
const grain = 4096;
/** … and shorter runs of them are copied: a request costs more. */
const gapMin = 32 * 1024;

/** Notes of what was copied, and is durable. */
export interface CopyJournal {
  /** Chunks that are noted, with their digest; null for zeros. */
  readonly done: ReadonlyMap<number, Uint8Array | null>;
  /** Notes further chunks, durably. */
  note(chunks: ReadonlyMap<number, Uint8Array | null>): void;
}

/** How a copy is made. */
export interface CopyOptions {
  /** What was copied before, and where to note what is copied now. */
  journal?: CopyJournal;
  /** Nothing is in the target yet: zeros need not be written. */
  targetIsZero?: boolean;
  /** Chunks at once; default 16. */
  parallel?: number;
  /** Whether the target is read again and compared; default true. */
  verify?: boolean;
  /** Stops: what is written by then is flushed and noted. */
  signal?: AbortSignal;
  /** How far it is. */
  report?: (phase: "copy" | "verify", done: number, total: number) => void;
}

/** What a copy did. */
export interface CopyResult {
  /** Bytes of data that were read from the source and written. */
  copied: number;
  /** Bytes that are zeros. */
  zero: number;
  /** Bytes that were there from an earlier run. */
  resumed: number;
  /** Bytes that were read again and compared. */
  verified: number;
}

/** A digest of a chunk (SHA-256), null for zeros. */
type Digests = Map<number, Uint8Array | null>;

/**
 * Copies all of `source` to the beginning of `target`.
 *
 * @throws {RangeError} when the target is smaller; {IoError} code "corrupt" when the target holds something else than was written;
 * what the backends throw; the signal's reason
 */
export async function copyBackend(
  source: Backend,
  target: Backend,
  options: CopyOptions = {},
): Promise<CopyResult> {
  if (target.size < source.size) {
    throw new RangeError(`Cannot copy ${source.size} bytes: the target has ${target.size}`);
  }
  const copy = new Copy(source, target, options);
  await copy.run();
  if (options.verify ?? true) await copy.verify();
  return copy.result;
}

class Copy {
  readonly result: CopyResult = { copied: 0, zero: 0, resumed: 0, verified: 0 };
  readonly #source: Backend;
  readonly #target: Backend;
  readonly #options: CopyOptions;
  readonly #parallel: number;
  readonly #digests: Digests;
  /** Written, and not yet noted. */
  #fresh: Digests = new Map();
  #freshBytes = 0;
  #notedMs = performance.now();
  #noting: Promise<void> = Promise.resolve();

  constructor(source: Backend, target: Backend, options: CopyOptions) {
    this.#source = source;
    this.#target = target;
    this.#options = options;
    this.#parallel = options.parallel ?? 16;
    this.#digests = new Map(options.journal?.done ?? []);
    for (const [chunk, digest] of this.#digests) {
      this.result.resumed += this.#lengthOf(chunk);
      if (digest === null) this.result.zero += this.#lengthOf(chunk);
    }
  }

  async run(): Promise<void> {
    const { signal, report } = this.#options;
    const total = this.#source.size;
    const tasks = this.#tasks();
    let done = this.result.resumed;
    report?.("copy", done, total);
    const worker = async (): Promise<void> => {
      const buffer = new Uint8Array(Math.min(copyChunkSize, Math.max(1, this.#source.size)));
      for await (const { chunk, data } of one(tasks)) {
        signal?.throwIfAborted();
        await this.#copyChunk(chunk, data, buffer);
        done += this.#lengthOf(chunk);
        report?.("copy", done, total);
        if (this.#freshBytes >= noteBytes || performance.now() - this.#notedMs >= noteMs) await this.#note();
      }
    };
    try {
      await allSettled(Array.from({ length: this.#parallel }, worker));
    } finally {
      // Also when it was stopped or failed: what is there need not be copied again.
      await this.#note();
    }
  }

  async verify(): Promise<void> {
    const { signal, report } = this.#options;
    const total = this.#source.size;
    let done = 0;
    let wrong = -1;
    const chunks = [...this.#digests].sort(([left], [right]) => left - right).values();
    const worker = async (): Promise<void> => {
      const buffer = new Uint8Array(Math.min(copyChunkSize, Math.max(1, this.#source.size)));
      for (const [chunk, digest] of chunks) {
        signal?.throwIfAborted();
        const bytes = buffer.subarray(0, this.#lengthOf(chunk));
        if (digest !== null || !await this.#isHole(chunk)) {
          await this.#target.readAt(chunk * copyChunkSize, bytes);
          const same = digest === null ? isZero(bytes) : bytesEqual(digestOf(bytes), digest);
          if (!same && (wrong < 0 || chunk < wrong)) wrong = chunk;
          this.result.verified += bytes.length;
        }
        done += bytes.length;
        report?.("verify", done, total);
      }
    };
    await allSettled(Array.from({ length: this.#parallel }, worker));
    if (wrong >= 0) {
      throw new IoError(
        "EIO",
        `Cannot trust the copy: the target holds something else than was written, first at ${
          wrong * copyChunkSize
        }`,
        { code: "corrupt" },
      );
    }
  }

  /** Chunks that are to be copied, in order, and which parts of them may be something else than zeros. */
  async *#tasks(): AsyncGenerator<{ chunk: number; data: Span[] }> {
    let chunk = 0;
    let data: Span[] = [];
    for await (const extent of extentsOf(this.#source, 0, this.#source.size)) {
      const end = extent.offset + extent.length;
      for (let at = extent.offset; at < end;) {
        const start = chunk * copyChunkSize;
        const next = start + this.#lengthOf(chunk);
        const to = Math.min(next, end);
        if (!extent.zero) join(data, at - start, to - start);
        at = to;
        if (at < next) break;
        if (!this.#digests.has(chunk)) yield { chunk, data };
        chunk++;
        data = [];
      }
    }
  }

  async #copyChunk(chunk: number, data: readonly Span[], buffer: Uint8Array): Promise<void> {
    const offset = chunk * copyChunkSize;
    const bytes = buffer.subarray(0, this.#lengthOf(chunk));
    if (data.length !== 1 || data[0]?.from !== 0 || data[0].to !== bytes.length) bytes.fill(0);
    for (const { from, to } of data) await this.#source.readAt(offset + from, bytes.subarray(from, to));
    const runs = dataRuns(bytes);
    // The digest is that of what was read: what the target does with the buffer cannot change it.
    const digest = runs.length === 0 ? null : digestOf(bytes);
    const mustZero = this.#options.targetIsZero !== true && !await this.#isHole(chunk);
    let at = 0;
    for (const { from, to } of runs) {
      if (mustZero) await zeroRange(this.#target, offset + at, from - at);
      await this.#target.writeAt(offset + from, bytes.subarray(from, to));
      this.result.copied += to - from;
      this.result.zero += from - at;
      at = to;
    }
    if (mustZero) await zeroRange(this.#target, offset + at, bytes.length - at);
    this.result.zero += bytes.length - at;
    this.#add(chunk, digest);
  }

  #add(chunk: number, digest: Uint8Array | null): void {
    this.#digests.set(chunk, digest);
    this.#fresh.set(chunk, digest);
    this.#freshBytes += this.#lengthOf(chunk);
  }

  /** Flushes the target and notes what was written before; one at a time. */
  #note(): Promise<void> {
    const fresh = this.#fresh;
    this.#fresh = new Map();
    this.#freshBytes = 0;
    this.#notedMs = performance.now();
    this.#noting = this.#noting.then(async () => {
      await this.#target.flush();
      if (fresh.size > 0) this.#options.journal?.note(fresh);
    });
    return this.#noting;
  }

  /** Whether the target says that all of a chunk is zeros. */
  async #isHole(chunk: number): Promise<boolean> {
    if (this.#target.extents === undefined) return false;
    for await (const { zero } of extentsOf(this.#target, chunk * copyChunkSize, this.#lengthOf(chunk))) {
      if (!zero) return false;
    }
    return true;
  }

  #lengthOf(chunk: number): number {
    return Math.min(copyChunkSize, this.#source.size - chunk * copyChunkSize);
  }
}

/** A part of a chunk. */
interface Span {
  from: number;
  to: number;
}

/** Adds a span behind the others; a short gap before it is no gap. */
function join(spans: Span[], from: number, to: number): void {
  const last = spans.at(-1);
  if (last !== undefined && from - last.to < gapMin) last.to = to;
  else spans.push({ from, to });
}

/** What is not zeros, but for short runs of them. */
function dataRuns(bytes: Uint8Array): Span[] {
  const runs: Span[] = [];
  for (let at = 0; at < bytes.length; at += grain) {
    const end = Math.min(at + grain, bytes.length);
    if (!isZero(bytes.subarray(at, end))) join(runs, at, end);
  }
  return runs;
}

/** A view of a generator that several may draw from and that none of them ends. */
async function* one<T>(tasks: AsyncGenerator<T>): AsyncGenerator<T> {
  for (;;) {
    const { value, done } = await tasks.next();
    if (done) return;
    yield value;
  }
}

/** Waits for all, then throws the first reason there is. */
async function allSettled(work: readonly Promise<void>[]): Promise<void> {
  for (const result of await Promise.allSettled(work)) {
    if (result.status === "rejected") throw result.reason;
  }
}

function digestOf(bytes: Uint8Array): Uint8Array {
  return createHash("sha256").update(bytes).digest();
}

/** What a copy is of; a journal of another one is not used. */
export interface CopyIdentity {
  /** URL or path. */
  source: string;
  /** Bytes. */
  size: number;
  /** What changes when the source does, where that can be known. */
  stamp: string;
}

const journalSizeMax = 2 ** 30;

/**
 * A journal in a file: a line that says of what, then a line per chunk.
 *
 * ```text
 *   {"journal":1,"source":"disk.raw","size":1073741824,"stamp":"…","chunk":1048576}
 *   2a 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
 *   2b -
 * ```
 *
 * A last line that is not whole was being written when the program died, and counts for nothing.
 */
export class FileJournal implements CopyJournal, Disposable {
  /** See {@link CopyJournal.done}. */
  readonly done: ReadonlyMap<number, Uint8Array | null>;
  readonly #file: Deno.FsFile;

  private constructor(file: Deno.FsFile, done: ReadonlyMap<number, Uint8Array | null>) {
    this.#file = file;
    this.done = done;
  }

  /**
   * Opens the journal of a copy, or begins one.
   *
   * @returns null when there is one of another copy
   */
  static open(path: string, identity: CopyIdentity): FileJournal | null {
    const head = JSON.stringify({ journal: 1, ...identity, chunk: copyChunkSize });
    const file = Deno.openSync(path, { read: true, write: true, create: true });
    try {
      const size = file.statSync().size;
      if (size > journalSizeMax) {
        file.close();
        return null;
      }
      const text = readAll(file, size);
      const lines = text.split("\n");
      // What is behind the last line end was cut.
      const cut = lines.pop() ?? "";
      const done = new Map<number, Uint8Array | null>();
      if (lines.length === 0) {
        file.truncateSync(0);
        file.seekSync(0, Deno.SeekMode.Start);
        writeAll(file, `${head}\n`);
        file.syncSync();
        return new FileJournal(file, done);
      }
      const [first, ...notes] = lines;
      const count = Math.ceil(identity.size / copyChunkSize);
      for (const note of notes) {
        const [, index = "", digest = ""] = /^([0-9a-f]{1,12}) ([0-9a-f]{64}|-)$/.exec(note) ?? [];
        const chunk = parseInt(index, 16);
        if (first !== head || !(chunk < count)) {
          file.close();
          return null;
        }
        done.set(chunk, digest === "-" ? null : fromHex(digest));
      }
      if (first !== head) {
        file.close();
        return null;
      }
      const end = size - new TextEncoder().encode(cut).length;
      file.truncateSync(end);
      file.seekSync(end, Deno.SeekMode.Start);
      return new FileJournal(file, done);
    } catch (error) {
      file.close();
      throw error;
    }
  }

  /** See {@link CopyJournal.note}. */
  note(chunks: ReadonlyMap<number, Uint8Array | null>): void {
    let text = "";
    for (const [chunk, digest] of chunks) {
      text += `${chunk.toString(16)} ${digest === null ? "-" : toHex(digest)}\n`;
    }
    writeAll(this.#file, text);
    this.#file.syncDataSync();
  }

  /** Closes the file. */
  [Symbol.dispose](): void {
    this.#file.close();
  }
}

function readAll(file: Deno.FsFile, size: number): string {
  const bytes = new Uint8Array(size);
  for (let at = 0; at < size;) {
    const count = file.readSync(bytes.subarray(at));
    if (count === null) break;
    at += count;
  }
  return new TextDecoder().decode(bytes);
}

function writeAll(file: Deno.FsFile, text: string): void {
  const bytes = new TextEncoder().encode(text);
  for (let at = 0; at < bytes.length;) at += file.writeSync(bytes.subarray(at));
}
