/**
 * A backend in a directory: one file per chunk, none for a chunk of zeros.
 *
 * ```text
 *   DIR/drover-chunks.json     {"version": 1, "size": 1073741824, "chunk": 1048576}
 *   DIR/000000000000002a       chunk 42, hexadecimal, all of its bytes
 * ```
 *
 * Invariants:
 * - A chunk file that is there has its whole length before anything counts on it; a shorter one reads as zeros
 *   behind its end.
 * - Changes of one chunk follow each other; other chunks go on.
 * - `flush` syncs every file that changed, and the directory when files came or went.
 *
 * @module
 */
import { join } from "node:path";
import { CheckedBackend, type Extent, IoError, ioError } from "./backend.ts";
import { checkChunkSize, ChunkLocks, chunksOf } from "./chunk_locks.ts";

const descriptionName = "drover-chunks.json";
/** Files that are synced at once. */
const syncsMax = 16;

/** How a directory is opened. */
export interface DirectoryOptions {
  /** Nothing is written. */
  readOnly?: boolean;
  /** Makes the directory where there is none: its size, and that of its chunks, 1 MiB by default. */
  create?: { size: number; chunk?: number };
}

/** Octets in files of a directory. */
export class DirectoryBackend extends CheckedBackend {
  /** Bytes of a chunk. */
  readonly chunkSize: number;
  readonly #path: string;
  readonly #locks = new ChunkLocks();
  #changed = new Set<number>();
  #namesChanged = false;

  private constructor(path: string, options: { size: number; chunk: number; readOnly: boolean }) {
    super({ name: path, size: options.size, readOnly: options.readOnly });
    this.#path = path;
    this.chunkSize = options.chunk;
  }

  /** Opens it. @throws {IoError} when it is not one; {RangeError} when its size is another than `create` */
  static open(path: string, options: DirectoryOptions = {}): DirectoryBackend {
    const { create, readOnly = false } = options;
    try {
      let description = readDescription(path);
      if (description === null) {
        if (create === undefined || readOnly) {
          throw new IoError("EIO", `Cannot open "${path}": it is no directory of chunks`);
        }
        description = { size: create.size, chunk: create.chunk ?? 2 ** 20 };
        checkChunkSize(description.chunk);
        Deno.mkdirSync(path, { recursive: true });
        if (!Deno.readDirSync(path)[Symbol.iterator]().next().done) {
          throw new IoError("EINVAL", `Cannot make chunks in "${path}": it should be new or empty`);
        }
        writeDescription(path, description);
      } else if (create !== undefined && create.size !== description.size) {
        throw new RangeError(
          `Cannot use "${path}": it has ${description.size} bytes, and should have ${create.size}`,
        );
      }
      return new DirectoryBackend(path, { ...description, readOnly });
    } catch (error) {
      throw error instanceof RangeError ? error : ioError(error, `Cannot open "${path}"`);
    }
  }

  /** See {@link CheckedBackend}. */
  protected override async read(offset: number, into: Uint8Array): Promise<void> {
    await Promise.all(
      [...chunksOf(offset, into.length, this.chunkSize)].map(({ chunk, from, at, length }) =>
        this.#readChunk(chunk, from, into.subarray(at, at + length))
      ),
    );
  }

  /** See {@link CheckedBackend}. */
  protected override async write(offset: number, bytes: Uint8Array): Promise<void> {
    await Promise.all(
      [...chunksOf(offset, bytes.length, this.chunkSize)].map(({ chunk, from, at, length }) =>
        this.#locks.run(chunk, () => this.#writeChunk(chunk, from, bytes.subarray(at, at + length)))
      ),
    );
  }

  /** See {@link Backend.zero}: whole chunks are removed. */
  async zero(offset: number, length: number): Promise<void> {
    this.checkWrite(offset, length);
    for (const { chunk, from, length: part } of chunksOf(offset, length, this.chunkSize)) {
      await this.#locks.run(chunk, async () => {
        if (from === 0 && part === this.#lengthOf(chunk)) await this.#remove(chunk);
        else if (await this.#exists(chunk)) await this.#writeChunk(chunk, from, new Uint8Array(part));
      });
    }
  }

  /** See {@link Backend.trim}. */
  async trim(offset: number, length: number): Promise<void> {
    await this.zero(offset, length);
  }

  /** See {@link Backend.extents}. */
  async extents(offset: number, length: number): Promise<Extent[]> {
    this.check(offset, length);
    const found: Extent[] = [];
    for (const { chunk, length: part } of chunksOf(offset, length, this.chunkSize)) {
      const hole = !await this.#exists(chunk);
      const last = found.at(-1);
      if (last?.hole === hole) last.length += part;
      else if (found.length === 256) break;
      else found.push({ length: part, hole, zero: hole });
    }
    return found;
  }

  /** See {@link CheckedBackend}. */
  protected override async sync(): Promise<void> {
    const changed = [...this.#changed];
    const namesChanged = this.#namesChanged;
    this.#changed = new Set();
    this.#namesChanged = false;
    try {
      for (let at = 0; at < changed.length; at += syncsMax) {
        await Promise.all(changed.slice(at, at + syncsMax).map((chunk) => syncFile(this.#file(chunk))));
      }
      if (namesChanged) await syncFile(this.#path);
    } catch (error) {
      for (const chunk of changed) this.#changed.add(chunk);
      this.#namesChanged ||= namesChanged;
      throw ioError(error, `Cannot flush "${this.name}"`);
    }
  }

  /** See {@link CheckedBackend}. */
  protected override async release(): Promise<void> {
    await this.#locks.idle();
  }

  #file(chunk: number): string {
    return join(this.#path, chunk.toString(16).padStart(16, "0"));
  }

  /** The last chunk may be shorter. */
  #lengthOf(chunk: number): number {
    return Math.min(this.chunkSize, this.size - chunk * this.chunkSize);
  }

  async #readChunk(chunk: number, from: number, into: Uint8Array): Promise<void> {
    let file: Deno.FsFile;
    try {
      file = await Deno.open(this.#file(chunk));
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) {
        throw ioError(error, `Cannot read "${this.#file(chunk)}"`);
      }
      into.fill(0);
      return;
    }
    try {
      file.seekSync(from, Deno.SeekMode.Start);
      let at = 0;
      while (at < into.length) {
        const count = await file.read(into.subarray(at));
        if (count === null) break;
        at += count;
      }
      into.fill(0, at);
    } catch (error) {
      throw ioError(error, `Cannot read "${this.#file(chunk)}"`);
    } finally {
      file.close();
    }
  }

  async #writeChunk(chunk: number, from: number, bytes: Uint8Array): Promise<void> {
    const path = this.#file(chunk);
    try {
      let file: Deno.FsFile;
      try {
        file = await Deno.open(path, { write: true });
      } catch (error) {
        if (!(error instanceof Deno.errors.NotFound)) throw error;
        file = await Deno.open(path, { write: true, create: true });
        this.#namesChanged = true;
        if (bytes.length < this.#lengthOf(chunk)) file.truncateSync(this.#lengthOf(chunk));
      }
      this.#changed.add(chunk);
      using _closing = file;
      file.seekSync(from, Deno.SeekMode.Start);
      for (let at = 0; at < bytes.length;) at += await file.write(bytes.subarray(at));
    } catch (error) {
      throw ioError(error, `Cannot write "${path}"`);
    }
  }

  async #remove(chunk: number): Promise<void> {
    try {
      await Deno.remove(this.#file(chunk));
      this.#namesChanged = true;
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) {
        throw ioError(error, `Cannot remove "${this.#file(chunk)}"`);
      }
    }
    this.#changed.delete(chunk);
  }

  async #exists(chunk: number): Promise<boolean> {
    try {
      await Deno.stat(this.#file(chunk));
      return true;
    } catch (error) {
      if (error instanceof Deno.errors.NotFound) return false;
      throw ioError(error, `Cannot look at "${this.#file(chunk)}"`);
    }
  }
}

/** What the directory says of itself; null where it says nothing. */
function readDescription(path: string): { size: number; chunk: number } | null {
  let text: string;
  try {
    text = Deno.readTextFileSync(join(path, descriptionName));
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return null;
    throw error;
  }
  let found: { version?: unknown; size?: unknown; chunk?: unknown };
  try {
    found = JSON.parse(text.slice(0, 4096));
  } catch (error) {
    throw new IoError("EIO", `Cannot read "${join(path, descriptionName)}": it is no JSON`, {
      code: "corrupt",
      cause: error,
    });
  }
  const { version, size, chunk } = found ?? {};
  if (
    version !== 1 || typeof size !== "number" || !Number.isSafeInteger(size) || size < 0 ||
    typeof chunk !== "number"
  ) {
    throw new IoError(
      "EIO",
      `Cannot read "${join(path, descriptionName)}": it should say version 1, size and chunk`,
      { code: "corrupt" },
    );
  }
  checkChunkSize(chunk);
  return { size, chunk };
}

function writeDescription(path: string, description: { size: number; chunk: number }): void {
  const final = join(path, descriptionName);
  const partial = `${final}.part`;
  using file = Deno.openSync(partial, { write: true, create: true, truncate: true });
  file.writeSync(new TextEncoder().encode(`${JSON.stringify({ version: 1, ...description })}\n`));
  file.syncSync();
  Deno.renameSync(partial, final);
}

/** Syncs a file or a directory; one that is gone needs no syncing. */
async function syncFile(path: string): Promise<void> {
  try {
    using file = await Deno.open(path);
    await file.sync();
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}
