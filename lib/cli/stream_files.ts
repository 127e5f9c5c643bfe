/**
 * Files, pipes and stdin of the stream commands: reading in large pieces, writing so that half a result never bears its
 * name, and memory images as sparse files.
 *
 * Invariants:
 * - Reads and writes are synchronous and large, and go through buffers that are used again and again.
 * - An output that is a file is written beside it and renamed at the end; a pipe, a device or stdout is written as it is.
 * - Binary is not written to a terminal, nor a stream read from one, and an input is not its own output.
 *
 * @module
 */
import { DroverError } from "../base/errors.ts";
import { toHex } from "../base/hex.ts";
import type { ImageStore, PageRange, StreamDigest } from "../stream/mod.ts";
import { isZeroPage, PageSet, pageSize } from "../stream/mod.ts";
import { openProgress, type ProgressReporter } from "./progress.ts";
import type { Terminal } from "./terminal.ts";

/** Octets that are read at a time: large enough that calls do not count, small enough for the processor's cache. */
const chunkSize = 1 << 18;

/** Pieces of at least this size are written by themselves, smaller ones are gathered first. */
const directSize = 1 << 16;

/** What is read: a file, a pipe, a device, or stdin, which `-` names. */
export class StreamInput implements Disposable {
  /** As on the command line. */
  readonly path: string;
  /** Octets of a regular file from where it stands; null where nobody knows. */
  readonly size: number | null;
  readonly #file: Deno.FsFile | null;
  readonly #read: (into: Uint8Array) => number | null;
  #buffer: Uint8Array<ArrayBuffer> | null = null;
  #offset = 0;

  /** Opens it. @throws {DroverError} `usage` for a terminal, a directory, or what cannot be opened. */
  constructor(path: string) {
    this.path = path;
    if (path === "-") {
      if (Deno.stdin.isTerminal()) {
        throw new DroverError("usage", "Cannot read from a terminal: stdin should be a file or a pipe");
      }
      this.#file = null;
      this.#read = (into) => Deno.stdin.readSync(into);
      this.size = null;
      return;
    }
    const file = openInput(path);
    const info = file.statSync();
    if (info.isDirectory) {
      file.close();
      throw new DroverError("usage", `Cannot read "${path}": it is a directory`);
    }
    this.#file = file;
    this.#read = (into) => file.readSync(into);
    this.size = info.isFile ? info.size : null;
  }

  /** Octets that were read. */
  get offset(): number {
    return this.#offset;
  }

  /** The next octets, or null at the end. The view is good until the next call. */
  next(): Uint8Array<ArrayBuffer> | null {
    this.#buffer ??= new Uint8Array(chunkSize);
    const count = this.#read(this.#buffer);
    if (count === null) return null;
    this.#offset += count;
    return this.#buffer.subarray(0, count);
  }

  /** Fills `into` as far as there is something; the number of octets. */
  fill(into: Uint8Array): number {
    let filled = 0;
    while (filled < into.length) {
      const count = this.#read(into.subarray(filled));
      if (count === null) break;
      filled += count;
    }
    this.#offset += filled;
    return filled;
  }

  /** Reads up to `into.length` octets; 0 at the end. */
  read(into: Uint8Array): number {
    const count = this.#read(into) ?? 0;
    this.#offset += count;
    return count;
  }

  /** Closes it. */
  [Symbol.dispose](): void {
    this.#file?.close();
  }
}

/** What is written, from its first octet to its last: a file, a pipe, a device, or stdout, which `-` names. */
export class StreamOutput implements Disposable {
  readonly #file: Deno.FsFile | null;
  /** The file as it will be called, and as it is called now; null for what is written as it is. */
  readonly #names: { final: string; partial: string } | null;
  readonly #gathered = new Uint8Array(directSize);
  #gatheredSize = 0;
  #size = 0;
  #done = false;

  /** Opens it; check with {@link checkOutput} first. */
  constructor(path: string) {
    if (path === "-") {
      this.#file = null;
      this.#names = null;
      return;
    }
    this.#names = isSpecial(path) ? null : partialName(path);
    this.#file = this.#names === null
      ? Deno.openSync(path, { write: true })
      : Deno.openSync(this.#names.partial, { write: true, createNew: true });
  }

  /** Octets that were written. */
  get size(): number {
    return this.#size;
  }

  /** Writes; small pieces may wait for the next ones. */
  write(...pieces: readonly Uint8Array[]): void {
    for (const piece of pieces) {
      this.#size += piece.length;
      if (piece.length >= directSize) {
        this.#flush();
        this.#writeAll(piece);
        continue;
      }
      if (this.#gatheredSize + piece.length > this.#gathered.length) this.#flush();
      this.#gathered.set(piece, this.#gatheredSize);
      this.#gatheredSize += piece.length;
    }
  }

  /** Says that everything was written: the file gets its name. */
  finish(): void {
    this.#flush();
    if (this.#names !== null) {
      this.#file?.syncDataSync();
      Deno.renameSync(this.#names.partial, this.#names.final);
    }
    this.#done = true;
  }

  /** Closes it, and removes what was not finished. */
  [Symbol.dispose](): void {
    this.#file?.close();
    if (!this.#done && this.#names !== null) remove(this.#names.partial);
  }

  #flush(): void {
    if (this.#gatheredSize === 0) return;
    this.#writeAll(this.#gathered.subarray(0, this.#gatheredSize));
    this.#gatheredSize = 0;
  }

  #writeAll(bytes: Uint8Array): void {
    const target = this.#file ?? Deno.stdout;
    for (let at = 0; at < bytes.length;) at += target.writeSync(bytes.subarray(at));
  }
}

/**
 * Pages in a file, each at its frame number: a page that is zero takes no room unless it was something else before.
 *
 * The file is its own: made for this, and gone with it unless `keep()` gives it a name.
 */
export class PageFile implements ImageStore, Disposable {
  readonly #path: string;
  readonly #file: Deno.FsFile;
  readonly #written = new PageSet();
  #pages = 0;
  #kept = false;

  /** Makes the file, which must not exist. */
  constructor(path: string) {
    this.#path = path;
    this.#file = Deno.openSync(path, { read: true, write: true, createNew: true });
  }

  /** A page file without a name, where temporary files go: nothing of it is left, however the program ends. */
  static temporary(): PageFile {
    const path = `${Deno.env.get("TMPDIR") || "/var/tmp"}/drover-pages-${randomWord()}`;
    const file = new PageFile(path);
    Deno.removeSync(path);
    file.#kept = true;
    return file;
  }

  /** Pages of the memory. */
  get pages(): number {
    return this.#pages;
  }

  /** Pages that were written as something else than zero. */
  get stored(): number {
    return this.#written.size;
  }

  /** See {@link ImageStore}. */
  write(pfn: number, pages: Uint8Array): void {
    // Zero pages are left out of the runs that are written, unless something is to be overwritten.
    let start = 0;
    let first = pfn;
    for (let at = 0; at <= pages.length; at += pageSize, pfn++) {
      if (at < pages.length) {
        if (!isZeroPage(pages, at)) {
          this.#written.add(pfn);
          continue;
        }
        if (this.#written.size > 0 && this.#written.delete(pfn)) continue;
      }
      if (at > start) this.#writeAt(first, pages.subarray(start, at));
      start = at + pageSize;
      first = pfn + 1;
    }
    this.#pages = Math.max(this.#pages, pfn - 1);
  }

  /** See {@link ImageStore}. */
  zero(ranges: readonly PageRange[]): void {
    for (const pfn of this.#written.within(ranges)) {
      this.#writeAt(pfn, zeroPage);
      this.#written.delete(pfn);
    }
  }

  /** See {@link ImageStore}. */
  read(pfn: number, into: Uint8Array): void {
    for (let at = 0; at < into.length;) {
      const stored = this.#written.has(pfn);
      let end = at + pageSize;
      for (pfn++; end < into.length && this.#written.has(pfn) === stored; pfn++) end += pageSize;
      if (stored) this.#readAt(pfn - (end - at) / pageSize, into.subarray(at, end));
      else into.fill(0, at, end);
      at = end;
    }
  }

  /** See {@link ImageStore}. */
  resize(pages: number): void {
    this.#pages = Math.max(this.#pages, pages);
  }

  /** See {@link ImageStore}. */
  runs(): Iterable<PageRange> {
    return this.#written.runs();
  }

  /** See {@link ImageStore}. */
  clear(): void {
    this.#file.truncateSync(0);
    this.#written.clear();
    this.#pages = 0;
  }

  /** Gives the file its length and its name. */
  keep(path: string): void {
    this.#fits(this.#pages, () => this.#file.truncateSync(this.#pages * pageSize));
    this.#file.syncDataSync();
    Deno.renameSync(this.#path, path);
    this.#kept = true;
  }

  /** Writes all of it, zero pages too, somewhere else. */
  copyTo(output: StreamOutput): void {
    const buffer = new Uint8Array(chunkSize);
    for (let pfn = 0; pfn < this.#pages; pfn += chunkSize / pageSize) {
      const pages = buffer.subarray(0, Math.min(chunkSize, (this.#pages - pfn) * pageSize));
      this.read(pfn, pages);
      output.write(pages);
    }
  }

  /** Closes it, and removes it unless it was kept. */
  [Symbol.dispose](): void {
    this.#file.close();
    if (!this.#kept) remove(this.#path);
  }

  #writeAt(pfn: number, pages: Uint8Array): void {
    this.#fits(pfn, () => {
      this.#seek(pfn);
      for (let at = 0; at < pages.length;) at += this.#file.writeSync(pages.subarray(at));
    });
  }

  #readAt(pfn: number, into: Uint8Array): void {
    this.#seek(pfn);
    for (let at = 0; at < into.length;) {
      const count = this.#file.readSync(into.subarray(at));
      if (count === null) throw new Error(`Cannot read page ${pfn} of "${this.#path}": it is gone`);
      at += count;
    }
  }

  #seek(pfn: number): void {
    this.#file.seekSync(pfn * pageSize, Deno.SeekMode.Start);
  }

  /** Does what makes the file as large as `pages` pages; says so where that is too large. */
  #fits(pages: number, work: () => void): void {
    const tooLarge = (cause?: unknown): DroverError =>
      new DroverError(
        "unsupported",
        `Cannot place page ${pages} in a file: the file system has no files of ${pages * pageSize} octets`,
        { cause },
      );
    if (pages * pageSize > Number.MAX_SAFE_INTEGER) throw tooLarge();
    try {
      work();
    } catch (error) {
      // EINVAL and EFBIG; the latter has no name here.
      throw error instanceof Error && /\(os error (22|27)\)/.test(error.message) ? tooLarge(error) : error;
    }
  }
}

const zeroPage = new Uint8Array(pageSize);

/**
 * Checks an output before anything is done: not a directory, not a terminal, not one of the inputs, and with `--json`
 * not stdout.
 *
 * @param options `hint`: what to type instead of an output that is refused.
 * @throws {DroverError} `usage`.
 */
export function checkOutput(
  path: string,
  options: { terminal: Terminal; inputs: readonly string[]; hint: string },
): void {
  const { hint } = options;
  if (path === "-") {
    if (options.terminal.json) {
      throw new DroverError("usage", "Cannot use --json with the output -: both would write to stdout", {
        hint,
      });
    }
    if (Deno.stdout.isTerminal()) {
      throw new DroverError("usage", "Cannot write to a terminal: it is binary", { hint });
    }
  } else if (path === "") {
    throw new DroverError("usage", 'Cannot use "" as an output: it is empty', { hint });
  }
  const output = path === "-" ? null : statOf(path);
  if (output !== null && !output.isCharDevice && isSameFile(output, statOf("/proc/self/fd/1"))) {
    throw new DroverError("usage", `Cannot write "${path}": it is stdout, which is to be named -`, { hint });
  }
  if (output?.isDirectory) {
    throw new DroverError("usage", `Cannot write "${path}": it is a directory`, { hint });
  }
  if (output?.isCharDevice && isTerminalDevice(path)) {
    throw new DroverError("usage", `Cannot write to the terminal "${path}": it is binary`, { hint });
  }
  for (const input of options.inputs) {
    const other = statOf(input === "-" ? "/proc/self/fd/0" : input);
    if (!(other?.isFile || other?.isBlockDevice)) continue;
    if (isSameFile(output, other)) {
      throw new DroverError("usage", `Cannot write "${path}": it is the input`, { hint });
    }
  }
}

/** Whether a path names something that is written as it is: a pipe, a device. */
export function isSpecial(path: string): boolean {
  return path === "-" || statOf(path)?.isFile === false;
}

/** What a file is called until it is complete, a name of nothing else; a symlink keeps pointing to it. */
export function partialName(path: string): { final: string; partial: string } {
  const final = statOf(path) === null ? path : Deno.realPathSync(path);
  return { final, partial: `${final}.${randomWord()}.part` };
}

function randomWord(): string {
  return toHex(crypto.getRandomValues(new Uint8Array(6)));
}

function isSameFile(left: Deno.FileInfo | null, right: Deno.FileInfo | null): boolean {
  return left !== null && right !== null && left.ino !== null && left.dev === right.dev &&
    left.ino === right.ino;
}

function statOf(path: string): Deno.FileInfo | null {
  try {
    return Deno.statSync(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return null;
    throw error;
  }
}

function isTerminalDevice(path: string): boolean {
  using file = Deno.openSync(path, { write: true });
  return file.isTerminal();
}

function remove(path: string): void {
  try {
    Deno.removeSync(path);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}

/** Runs `work` with a function that draws how far it is; nothing is drawn with `--json`. */
export async function withProgress<T>(
  terminal: Terminal,
  phase: string,
  work: (report: (done: number, total: number | null) => void) => T | Promise<T>,
): Promise<T> {
  const reporter: ProgressReporter | null = terminal.json ? null : openProgress((text) => terminal.raw(text));
  try {
    return await work((done, total) => reporter?.event({ phase, done, total: total ?? 0, unit: "bytes" }));
  } finally {
    reporter?.end();
  }
}

/** A maker of running SHA-256 digests, for regions. */
export async function digestMaker(): Promise<() => StreamDigest> {
  const { createHash } = await import("node:crypto");
  return () => {
    const hash = createHash("sha256");
    return {
      update: (bytes) => void hash.update(bytes),
      digest: () => new Uint8Array(hash.copy().digest()),
    };
  };
}

/** The error with what to type next. */
export function withHint(error: unknown, hint: string): unknown {
  if (!(error instanceof DroverError) || error.hint !== undefined || error.code === "usage") return error;
  return new DroverError(error.code, error.message, {
    hint,
    cause: error.cause,
    ...(error.details === undefined ? {} : { details: error.details }),
  });
}

/** A path as a shell reads it back. */
export function shellWord(path: string): string {
  return /^[\w@%+=:,./-]+$/.test(path) ? path : `'${path.replaceAll("'", "'\\''")}'`;
}

/** `0x1f`: offsets and frame numbers. */
export function hex(value: number): string {
  return `0x${value.toString(16)}`;
}

/** A name that leads nowhere is a mistake in the command line; what a broken stream ends with stays apart from it. */
function openInput(path: string): Deno.FsFile {
  try {
    return Deno.openSync(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) {
      throw new DroverError("usage", `Cannot open "${path}": there is no such file`);
    }
    if (error instanceof Deno.errors.PermissionDenied) {
      throw new DroverError("usage", `Cannot open "${path}": it may not be read`);
    }
    throw error;
  }
}

/** What an ordinary user may have a pipe hold. */
const pipeSize = 1 << 20;

/**
 * Lets the pipe that is stdin or stdout hold more than its 64 KiB: with those, each batch of pages costs both ends
 * dozens of waits for each other. What is no pipe stays as it is, and nothing depends on it.
 */
export async function widenPipe(path: string, descriptor: 0 | 1): Promise<void> {
  if (path !== "-") return;
  try {
    const { loadNative } = await import("../daemon/context.ts");
    loadNative().libc.growPipe(descriptor, pipeSize);
  } catch {
    // a file, a socket, or no native library
  }
}
