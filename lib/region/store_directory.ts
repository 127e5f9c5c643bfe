/**
 * Chunks of any length as files of a directory. Other than `DirectoryBackend`, which writes into its files, it
 * replaces them as a whole, because a compressed chunk cannot be changed in part.
 *
 * Invariants:
 * - What was flushed stays as it is until the next flush: new values are `KEY.part` until then, and values that were
 *   taken away keep their file. A crash leaves what the last whole flush left; one inside of a flush leaves each
 *   chunk old or new.
 * - Leftover `.part` files of a crash are taken away when it is opened for writing, and never read.
 *
 * @module
 */
import { join } from "node:path";
import { IoError, ioError } from "./backend.ts";
import { chunkKey, type ChunkStore, descriptionKey } from "./chunk_store.ts";

/** Files that are synced at once. */
const syncsMax = 16;

/** A change that is not flushed; a later one of the same chunk is another object. */
interface Change {
  isThere: boolean;
}

/** A directory of values. */
export class DirectoryStore implements ChunkStore {
  /** See {@link ChunkStore.name}. */
  readonly name: string;
  /** See {@link ChunkStore.parallel}. */
  readonly parallel = 16;
  /** Chunks that are not as the last flush left them. */
  readonly #changed = new Map<number, Change>();

  private constructor(path: string) {
    this.name = path;
  }

  /** Opens it. @param options `create`: makes the directory */
  static open(path: string, options: { create: boolean; readOnly: boolean }): DirectoryStore {
    try {
      if (options.create && !options.readOnly) Deno.mkdirSync(path, { recursive: true });
      const names = [...Deno.readDirSync(path)].map(({ name }) => name);
      if (options.readOnly) return new DirectoryStore(path);
      const isMine = names.includes(descriptionKey);
      if (!isMine && names.some((name) => name !== `${descriptionKey}.part`)) {
        throw new IoError("EINVAL", `Cannot use "${path}" for chunks: it should be new or empty`);
      }
      for (const name of names) {
        if (/^[0-9a-f]{16}\.part(\.new)?$/.test(name)) Deno.removeSync(join(path, name));
      }
    } catch (error) {
      throw ioError(error, `Cannot open "${path}"`);
    }
    return new DirectoryStore(path);
  }

  /** See {@link ChunkStore.readDescription}. */
  async readDescription(): Promise<Uint8Array | null> {
    return await this.#read(join(this.name, descriptionKey), 4096);
  }

  /** See {@link ChunkStore.writeDescription}. */
  async writeDescription(bytes: Uint8Array): Promise<void> {
    const final = join(this.name, descriptionKey);
    try {
      await Deno.writeFile(`${final}.part`, bytes);
      await syncFile(`${final}.part`);
      await Deno.rename(`${final}.part`, final);
      await syncFile(this.name);
    } catch (error) {
      throw ioError(error, `Cannot write "${final}"`);
    }
  }

  /** See {@link ChunkStore.get}. */
  async get(chunk: number, sizeMax: number): Promise<Uint8Array | null> {
    for (;;) {
      const change = this.#changed.get(chunk);
      if (change?.isThere === false) return null;
      const found = await this.#read(this.#path(chunk, change !== undefined), sizeMax);
      // A flush gives the file its other name.
      if (found !== null || this.#changed.get(chunk) === change) return found;
    }
  }

  /** See {@link ChunkStore.getPart}. */
  async getPart(chunk: number, from: number, into: Uint8Array): Promise<void> {
    const whole = await this.get(chunk, 2 ** 30);
    const part = whole?.subarray(from, from + into.length) ?? new Uint8Array(0);
    into.set(part);
    into.fill(0, part.length);
  }

  /** See {@link ChunkStore.put}. */
  async put(chunk: number, bytes: Uint8Array): Promise<void> {
    const path = this.#path(chunk, true);
    try {
      // Under a name of its own first: who reads meanwhile has the one before.
      await Deno.writeFile(`${path}.new`, bytes);
      await Deno.rename(`${path}.new`, path);
    } catch (error) {
      throw ioError(error, `Cannot write "${path}"`);
    }
    this.#changed.set(chunk, { isThere: true });
  }

  /** See {@link ChunkStore.remove}. */
  remove(chunk: number): Promise<void> {
    this.#changed.set(chunk, { isThere: false });
    return Promise.resolve();
  }

  /** See {@link ChunkStore.present}. */
  async present(first: number, count: number): Promise<boolean[]> {
    return await Promise.all(Array.from({ length: Math.min(count, 256) }, async (_, at) => {
      const change = this.#changed.get(first + at);
      if (change !== undefined) return change.isThere;
      try {
        await Deno.lstat(this.#path(first + at, false));
        return true;
      } catch (error) {
        if (error instanceof Deno.errors.NotFound) return false;
        throw ioError(error, `Cannot look at "${this.#path(first + at, false)}"`);
      }
    }));
  }

  /** See {@link ChunkStore.flush}. */
  async flush(): Promise<void> {
    let chunks = [...this.#changed.keys()];
    const isChanged = chunks.length > 0;
    try {
      // A chunk that changes between its syncing and its renaming comes again.
      while (chunks.length > 0) {
        const again: number[] = [];
        for (let at = 0; at < chunks.length; at += syncsMax) {
          await Promise.all(
            chunks.slice(at, at + syncsMax).map(async (chunk) => {
              if (!await this.#settle(chunk)) again.push(chunk);
            }),
          );
        }
        chunks = again;
      }
      if (isChanged) await syncFile(this.name);
    } catch (error) {
      throw ioError(error, `Cannot flush "${this.name}"`);
    }
  }

  /** See {@link ChunkStore.close}. */
  async close(): Promise<void> {
    if (this.#changed.size > 0) await this.flush();
  }

  /** Brings a changed chunk to its place. @returns false when it changed meanwhile */
  async #settle(chunk: number): Promise<boolean> {
    const change = this.#changed.get(chunk);
    if (change === undefined) return true;
    const part = this.#path(chunk, true);
    if (change.isThere) await syncFile(part);
    // From here on nothing comes in between.
    if (this.#changed.get(chunk) !== change) return false;
    if (change.isThere) Deno.renameSync(part, this.#path(chunk, false));
    else for (const isPart of [false, true]) removeFile(this.#path(chunk, isPart));
    this.#changed.delete(chunk);
    return true;
  }

  #path(chunk: number, isPart: boolean): string {
    return join(this.name, `${chunkKey(chunk)}${isPart ? ".part" : ""}`);
  }

  async #read(path: string, sizeMax: number): Promise<Uint8Array | null> {
    try {
      using file = await Deno.open(path);
      const { size } = file.statSync();
      if (size > sizeMax) {
        throw new IoError("EIO", `Cannot read "${path}": it has ${size} bytes, and may have ${sizeMax}`, {
          code: "corrupt",
        });
      }
      const bytes = new Uint8Array(size);
      let at = 0;
      while (at < size) {
        const count = await file.read(bytes.subarray(at));
        if (count === null) break;
        at += count;
      }
      return bytes.subarray(0, at);
    } catch (error) {
      if (error instanceof Deno.errors.NotFound) return null;
      throw ioError(error, `Cannot read "${path}"`);
    }
  }
}

function removeFile(path: string): void {
  try {
    Deno.removeSync(path);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
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
