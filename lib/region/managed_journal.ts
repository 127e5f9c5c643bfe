/**
 * What a managed mount knows of its blocks, kept so that neither kill -9 nor a power cut makes it wrong.
 *
 * ```text
 *   0   8  magic "DROVERMJ"
 *   8   4  version, 1
 *  12   4  bytes of a block
 *  16   8  bytes of the mount
 *  24   4  flags: bit 0, something was written since the machine started
 *  28   4  zero
 *  32  16  the first 16 bytes of SHA-256 of the boot identity
 *  48  32  SHA-256 of the identity of source and local backend
 *  80  32  SHA-256 of the 80 bytes before and of the two bitmaps
 * 112  16  zero
 * 128      bitmap of present blocks, bitmap of dirty blocks; then records of 24 bytes, all little-endian:
 *
 *   0   1  kind       1 present  2 dirty (and present)  3 clean  4 writing  5 commit  6 closed
 *   1   3  zero
 *   4   4  CRC-32 of the record's offset in the file (8 bytes) and of the record with zeros here
 *   8   8  first block; of a commit: the offset of the first record that it does not cover
 *  16   8  how many blocks; 0 of writing, commit and closed
 * ```
 *
 * Invariants:
 * - A record is in the file before anybody is told of what it stands for. That is enough for kill -9: what was
 *   written to a file outlives the process.
 * - A commit stands only behind a flush of the local backend that began when everything it covers was written, and
 *   is synced itself. After a power cut (another boot identity, not closed) only what a commit covers counts; and
 *   if anything was written in that session, clean blocks are not trusted: they are pulled again. Dirty ones
 *   are, so nothing that was flushed is lost.
 * - The file is replaced whole (`journal.new`, renamed) when it is opened and when it has grown; the new one is
 *   committed before it has the name.
 *
 * A record that is not whole, or wrong, ends the file. Where it cannot have come from the end of a process or a power
 * cut (good ones follow on the same boot; two commits, or the end, follow) the file was damaged, and is refused.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { crc32 } from "node:zlib";
import { Bitmap, bitmapBytes } from "../base/bitmap.ts";
import { DroverError, FormatError } from "../base/errors.ts";
import { bytesEqual } from "../base/hex.ts";
import type { StateFile, StateFiles } from "./managed_files.ts";
import { Rounds } from "./rounds.ts";

/** What a note says of blocks. */
export type BlockNote = "present" | "dirty" | "clean";

/** How the last user of the notes ended. */
export type Recovered = "new" | "closed" | "killed" | "power-cut";

/** What was found. */
export interface JournalState {
  /** Blocks that the local backend has. */
  present: Bitmap;
  /** Blocks that the source may not have. */
  dirty: Bitmap;
  /** How it ended. */
  recovered: Recovered;
}

/** Of what the notes are. */
export interface JournalOptions {
  /** Where they are. */
  files: StateFiles;
  /** Bytes. */
  size: number;
  /** Bytes of a block. */
  blockSize: number;
  /** Names source and local backend; notes of others are refused. */
  identity: string;
  /** Changes when the machine starts. */
  boot: string;
  /** Brings everything that was written to the local backend to where it lasts. */
  flushLocal: () => Promise<void>;
  /** The state to write into a new file: the live one. */
  live: () => { present: Bitmap; dirty: Iterable<Bitmap> };
  /** Records are gathered into the bitmaps when there are more bytes of them; default 8 MiB. */
  logBytesMax?: number;
}

const name = "journal";
const headerSize = 128;
const recordSize = 24;
const kinds = { present: 1, dirty: 2, clean: 3, writing: 4, commit: 5, closed: 6 } as const;
const logMax = 2 ** 30;
const logBytesDefault = 8 * 2 ** 20;

/** One file of records. */
interface Log {
  file: StateFile;
  /** Where its records begin. */
  start: number;
  /** Where the next record goes. */
  end: number;
  /** Up to where it is committed; -1 before that happened. */
  covered: number;
}

/** What a record says. */
interface JournalRecord {
  kind: number;
  first: number;
  count: number;
}

/** The notes of one mount. */
export class ManagedJournal {
  readonly #options: JournalOptions;
  #log: Log;
  /** The file that is about to take the place of the first; both are written. */
  #next: Log | null = null;
  /** Records are gathered when there are more bytes of them. */
  #logBytesMax: number;
  #writing: Promise<void> | null = null;
  #wasWriting: boolean;
  readonly #commits: Rounds;

  private constructor(options: JournalOptions, log: Log, wasWriting: boolean) {
    this.#options = options;
    this.#log = log;
    this.#logBytesMax = options.logBytesMax ?? logBytesDefault;
    this.#wasWriting = wasWriting;
    this.#commits = new Rounds(() => this.#commit(), { gather: true });
  }

  /** What was noted; null when nothing was. @throws {FormatError} for notes that are damaged; {DroverError} of others */
  static read(options: Pick<JournalOptions, "files" | "size" | "blockSize" | "identity" | "boot">): {
    state: JournalState;
    wasWriting: boolean;
  } | null {
    const { files, size, blockSize } = options;
    const bytes = files.read(name, headerSize + 2 * bitmapBytes(Math.ceil(size / blockSize)) + logMax);
    return bytes === null ? null : parse(bytes, options);
  }

  /** The size of the mount whose notes these are; null when there are none, or they are damaged. */
  static sizeIn(files: StateFiles): number | null {
    const bytes = files.read(name, 2 ** 31);
    if (bytes === null || bytes.length < headerSize) return null;
    const size = Number(new DataView(bytes.buffer).getBigUint64(16, true));
    return Number.isSafeInteger(size) ? size : null;
  }

  /** Begins a new file, with the live state. @param wasWriting as `read` told it */
  static async create(options: JournalOptions, wasWriting: boolean): Promise<ManagedJournal> {
    const log = createLog(options, wasWriting);
    try {
      const journal = new ManagedJournal(options, log, wasWriting);
      await journal.commit();
      await options.files.rename(`${name}.new`, name);
      return journal;
    } catch (error) {
      log.file.close();
      throw error;
    }
  }

  /** Notes runs of blocks. What it threw at does not count as noted. */
  note(kind: BlockNote, runs: readonly { from: number; to: number }[]): void {
    if (runs.length === 0) return;
    this.#append(runs.map(({ from, to }) => ({ kind: kinds[kind], first: from, count: to - from })));
    // Whatever fails there is told to the next who asks for a commit.
    if (this.#isLong && this.#next === null) this.commit().catch(() => {});
  }

  /** To be awaited before anything is first written to the local backend that is no copy of the source. */
  beginWriting(): Promise<void> | undefined {
    if (this.#wasWriting) return;
    this.#writing ??= (async () => {
      try {
        this.#append([{ kind: kinds.writing, first: 0, count: 0 }]);
        await this.commit();
        this.#wasWriting = true;
      } finally {
        this.#writing = null;
      }
    })();
    return this.#writing;
  }

  /** Makes durable what was noted, and written to the local backend, until now. */
  commit(): Promise<void> {
    return this.#commits.run();
  }

  /** Whether there are notes that no commit covers. */
  get isBehind(): boolean {
    return this.#log.covered < this.#log.end;
  }

  /** Ends it: the local backend and the notes are whole. Nothing else may be under way. */
  async close(): Promise<void> {
    await this.#commits.idle();
    await this.commit();
    this.#append([{ kind: kinds.closed, first: 0, count: 0 }]);
    await this.#log.file.sync();
    this.#log.file.close();
  }

  /** Ends it without a word, as after a failure. */
  async abandon(): Promise<void> {
    await this.#commits.idle();
    this.#log.file.close();
  }

  get #isLong(): boolean {
    return this.#log.end - this.#log.start > this.#logBytesMax;
  }

  async #commit(): Promise<void> {
    const log = this.#log;
    if (this.#isLong) {
      try {
        return await this.#compact();
      } catch {
        // The old file is as good, as long as there is room for it.
        this.#logBytesMax = Math.min(2 * this.#logBytesMax, logMax / 2);
      }
    }
    const covered = log.end;
    await this.#options.flushLocal();
    if (covered <= log.covered) return;
    append(log, [{ kind: kinds.commit, first: covered, count: 0 }]);
    const end = log.end;
    await log.file.sync();
    log.covered = end === covered + recordSize ? end : covered;
  }

  /** Gathers all records in a new file; both are written until the new one lasts. This is a commit, too. */
  async #compact(): Promise<void> {
    const next = createLog(this.#options, this.#wasWriting);
    this.#next = next;
    try {
      await this.#options.flushLocal();
      await next.file.sync();
      await this.#options.files.rename(`${name}.new`, name);
    } catch (error) {
      this.#next = null;
      next.file.close();
      throw error;
    }
    this.#log.file.close();
    this.#log = next;
    this.#log.covered = next.start;
    this.#next = null;
    this.#logBytesMax = this.#options.logBytesMax ?? logBytesDefault;
  }

  #append(records: readonly JournalRecord[]): void {
    append(this.#log, records);
    if (this.#next !== null) append(this.#next, records);
  }
}

function append(log: Log, records: readonly JournalRecord[]): void {
  const bytes = new Uint8Array(records.length * recordSize);
  records.forEach((record, index) =>
    encodeRecord(bytes, index * recordSize, log.end + index * recordSize, record)
  );
  // What was written in part before an error is written over by the next.
  log.file.write(log.end, bytes);
  log.end += bytes.length;
}

/** A new file with the live state, beside the one that counts. */
function createLog(options: JournalOptions, wasWriting: boolean): Log {
  const { files, size, blockSize, identity, boot, live } = options;
  const { present, dirty } = live();
  const all = new Bitmap(present.length);
  for (const part of dirty) all.add(part);
  const bitmaps = [present.toBytes(), all.toBytes()] as const;
  const header = new Uint8Array(headerSize);
  const view = new DataView(header.buffer);
  header.set(new TextEncoder().encode("DROVERMJ"));
  view.setUint32(8, 1, true);
  view.setUint32(12, blockSize, true);
  view.setBigUint64(16, BigInt(size), true);
  view.setUint32(24, wasWriting ? 1 : 0, true);
  header.set(digest(boot).subarray(0, 16), 32);
  header.set(digest(identity), 48);
  header.set(digest(header.subarray(0, 80), ...bitmaps), 80);
  const file = files.create(`${name}.new`);
  try {
    let start = 0;
    for (const part of [header, ...bitmaps]) {
      file.write(start, part);
      start += part.length;
    }
    return { file, start, end: start, covered: -1 };
  } catch (error) {
    file.close();
    throw error;
  }
}

function parse(
  bytes: Uint8Array<ArrayBuffer>,
  options: Pick<JournalOptions, "size" | "blockSize" | "identity" | "boot">,
): { state: JournalState; wasWriting: boolean } {
  const { size, blockSize, identity, boot } = options;
  const blocks = Math.ceil(size / blockSize);
  const bitmap = bitmapBytes(blocks);
  const start = headerSize + 2 * bitmap;
  const refuse = (rule: string, offset: number, what: string): never => {
    throw new FormatError(`managed.journal.${rule}`, offset, `Cannot use the notes of this mount: ${what}`);
  };
  if (bytes.length < headerSize) refuse("short", bytes.length, "they are cut");
  const view = new DataView(bytes.buffer);
  if (new TextDecoder().decode(bytes.subarray(0, 8)) !== "DROVERMJ") {
    refuse("magic", 0, "they are something else");
  }
  if (view.getUint32(8, true) !== 1) refuse("version", 8, `version ${view.getUint32(8, true)} is not known`);
  if (!bytesEqual(bytes.subarray(48, 80), digest(identity)) || Number(view.getBigUint64(16, true)) !== size) {
    throw new DroverError(
      "usage",
      "Cannot use the notes of this mount: they are of another source or local backend",
      {
        hint: "give another place for the notes, or remove them; what was not pushed yet is lost then",
      },
    );
  }
  if (view.getUint32(12, true) !== blockSize) {
    refuse("block", 12, `blocks of ${view.getUint32(12, true)} bytes`);
  }
  const flags = view.getUint32(24, true);
  if (flags > 1 || view.getUint32(28, true) !== 0) refuse("flags", 24, "unknown flags");
  if (bytes.length < start) refuse("short", bytes.length, "they are cut");
  const maps = bytes.subarray(headerSize, start);
  if (!bytesEqual(bytes.subarray(80, 112), digest(bytes.subarray(0, 80), maps))) {
    refuse("digest", 80, "they were damaged");
  }
  const found = scan(bytes, start, blocks);
  const sameBoot = boot !== "" && bytesEqual(bytes.subarray(32, 48), digest(boot).subarray(0, 16));
  if (found.bad < (sameBoot ? found.last : found.sure)) refuse("record", found.bad, "a record was damaged");
  const recovered = found.closed ? "closed" : sameBoot ? "killed" : "power-cut";
  const present = new Bitmap(blocks, maps.subarray(0, bitmap));
  const dirty = new Bitmap(blocks, maps.subarray(bitmap));
  const end = recovered === "power-cut" ? found.covered : found.bad;
  for (let at = start; at < end; at += recordSize) {
    const [kind, first, count] = [bytes[at], readNumber(view, at + 8), readNumber(view, at + 16)];
    if (kind === kinds.present || kind === kinds.dirty) present.set(first, first + count);
    if (kind === kinds.dirty) dirty.set(first, first + count);
    if (kind === kinds.clean) dirty.clear(first, first + count);
  }
  const wasWriting = flags === 1 || found.writing;
  if (recovered === "power-cut" && wasWriting) {
    present.clear(0, blocks);
    present.add(dirty);
  }
  // After a clean end, or another start of the machine, there is nothing in doubt.
  return { state: { present, dirty, recovered }, wasWriting: recovered === "killed" && wasWriting };
}

/** What the records say. */
interface Scan {
  /** Where the good ones end. */
  bad: number;
  /** Where the last good one begins, also behind a bad one. */
  last: number;
  /** How far a commit goes that has all it covers. */
  covered: number;
  /** What was certainly synced: a further commit, or the end, came after that. */
  sure: number;
  /** The last record says that this is the end. */
  closed: boolean;
  /** Something was written. */
  writing: boolean;
}

function scan(bytes: Uint8Array<ArrayBuffer>, start: number, blocks: number): Scan {
  const found: Scan = { bad: -1, last: start, covered: start, sure: start, closed: false, writing: false };
  const commits: number[] = [];
  const view = new DataView(bytes.buffer);
  let at = start;
  for (; at + recordSize <= bytes.length; at += recordSize) {
    const kind = bytes[at] ?? 0;
    const first = readNumber(view, at + 8);
    const count = readNumber(view, at + 16);
    const isBlocks = kind >= kinds.present && kind <= kinds.clean;
    const good = view.getUint32(at + 4, true) === recordSum(bytes, at, at) &&
      (isBlocks ? count > 0 && first + count <= blocks : kind <= kinds.closed && count === 0) &&
      (kind !== kinds.commit || (first >= start && first <= at));
    if (!good) {
      if (found.bad < 0) found.bad = at;
      continue;
    }
    found.last = at;
    if (kind === kinds.commit) commits.push(first);
    if (kind === kinds.closed) found.sure = at;
    if (found.bad >= 0) continue;
    found.closed = kind === kinds.closed;
    if (kind === kinds.writing) found.writing = true;
  }
  if (found.bad < 0) found.bad = at;
  for (const covered of commits) if (covered <= found.bad) found.covered = Math.max(found.covered, covered);
  // The last one may have reached the disk before what it covers.
  found.sure = Math.max(found.sure, commits.at(-2) ?? start);
  return found;
}

function encodeRecord(
  into: Uint8Array<ArrayBuffer>,
  at: number,
  offset: number,
  { kind, first, count }: JournalRecord,
): void {
  const view = new DataView(into.buffer);
  into[at] = kind;
  view.setUint32(at + 8, first >>> 0, true);
  view.setUint32(at + 12, Math.floor(first / 2 ** 32), true);
  view.setUint32(at + 16, count >>> 0, true);
  view.setUint32(at + 20, Math.floor(count / 2 ** 32), true);
  view.setUint32(at + 4, recordSum(into, at, offset), true);
}

const summed = new Uint8Array(8 + recordSize);
const summedView = new DataView(summed.buffer);

function recordSum(bytes: Uint8Array, at: number, offset: number): number {
  summedView.setUint32(0, offset >>> 0, true);
  summedView.setUint32(4, Math.floor(offset / 2 ** 32), true);
  summed.set(bytes.subarray(at, at + recordSize), 8);
  summedView.setUint32(12, 0, true);
  return crc32(summed);
}

/** Numbers beyond what is exact become Infinity, which nothing allows. */
function readNumber(view: DataView, at: number): number {
  const value = view.getUint32(at, true) + view.getUint32(at + 4, true) * 2 ** 32;
  return Number.isSafeInteger(value) ? value : Infinity;
}

function digest(...parts: readonly (string | Uint8Array)[]): Uint8Array {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(part);
  return hash.digest();
}
