/**
 * A backend over a store of chunks.
 *
 * Invariants:
 * - Changes of one chunk follow each other unless the store changes parts by itself; other chunks go on.
 * - A chunk that becomes zeros as a whole is taken away.
 * - A store has one writer at a time. What another one does may be seen late, or be lost.
 * - With a coding chunks are stored as it makes them, or as they are where that is shorter: a value of a chunk's
 *   whole length is the chunk.
 *
 * @module
 */
import { DroverError } from "../base/errors.ts";
import { CheckedBackend, type Extent, IoError, isZero } from "./backend.ts";
import { checkChunkSize, ChunkLocks, chunksOf } from "./chunk_locks.ts";
import type { ChunkStore } from "./chunk_store.ts";
import { Gate } from "./patience.ts";

/** How chunks are stored. */
export interface ChunkCoding {
  /** What the description says, for instance "zstd". */
  readonly name: string;
  /** For storing. */
  encode(chunk: Uint8Array): Promise<Uint8Array>;
  /** A chunk of exactly `size` bytes again. @throws {DroverError} code "format" for what is none */
  decode(stored: Uint8Array, size: number): Promise<Uint8Array>;
}

/** How a store is opened. */
export interface StoredOptions {
  /** Nothing is written. */
  readOnly?: boolean;
  /** Makes one where there is none; another size is refused. */
  create?: { size: number; chunk?: number };
  /** Chunks of a new one have this size unless told otherwise. */
  chunkDefault: number;
  /** What chunks are stored as; where it is given, one that is there and has another is refused. */
  coding?: ChunkCoding;
  /** Codings that one that is there may have. */
  codings?: readonly ChunkCoding[];
}

/** Bytes of decoded chunks that are kept. */
const decodedMax = 16 * 2 ** 20;
/** Chunks that one call of `extents` asks for. */
const extentsMax = 4096;

/** Octets in a store of chunks. */
export class StoredBackend extends CheckedBackend {
  /** Bytes of a chunk. */
  readonly chunkSize: number;
  /** What they are stored as; null as they are. */
  readonly coding: string | null;
  readonly #store: ChunkStore;
  readonly #coding: ChunkCoding | null;
  readonly #locks = new ChunkLocks();
  readonly #gate: Gate;
  /** Decoded chunks, the oldest first. */
  readonly #decoded = new Map<number, Uint8Array>();

  private constructor(
    store: ChunkStore,
    options: { size: number; chunk: number; coding: ChunkCoding | null; readOnly: boolean },
  ) {
    super({ name: store.name, size: options.size, readOnly: options.readOnly });
    this.chunkSize = options.chunk;
    this.coding = options.coding?.name ?? null;
    this.#store = store;
    this.#coding = options.coding;
    this.#gate = new Gate(store.parallel);
  }

  /**
   * Opens it. The store belongs to the backend, and is closed when this throws.
   *
   * @throws {IoError} when it is not there or none; {RangeError} when its size is another than `create`
   */
  static async open(store: ChunkStore, options: StoredOptions): Promise<StoredBackend> {
    try {
      const found = await store.readDescription();
      const { size, chunk, coding } = found === null
        ? await createStore(store, options)
        : parseDescription(found, store.name);
      checkChunkSize(chunk);
      const { create, coding: wanted, readOnly = false } = options;
      if (create !== undefined && create.size !== size) {
        throw new RangeError(
          `Cannot use "${store.name}": it has ${size} bytes, and should have ${create.size}`,
        );
      }
      if (wanted !== undefined && wanted.name !== coding) {
        throw new IoError(
          "EINVAL",
          `Cannot use "${store.name}" as ${wanted.name}: it is ${coding ?? "not coded"}`,
        );
      }
      const known = [...options.codings ?? [], ...(wanted === undefined ? [] : [wanted])];
      const used = coding === null ? null : known.find(({ name }) => name === coding);
      if (used === undefined) {
        throw new IoError(
          "ENOTSUP",
          `Cannot use "${store.name}": its chunks are "${coding}", which is not known`,
        );
      }
      return new StoredBackend(store, { size, chunk, coding: used, readOnly });
    } catch (error) {
      await store.close();
      throw error;
    }
  }

  /** See {@link CheckedBackend}. */
  protected override async read(offset: number, into: Uint8Array): Promise<void> {
    await all([...chunksOf(offset, into.length, this.chunkSize)], ({ chunk, from, at, length }) => {
      const target = into.subarray(at, at + length);
      return this.#gate.run(async () => {
        if (this.#coding === null) return await this.#store.getPart(chunk, from, target);
        const whole = await this.#decode(chunk, this.#coding);
        if (whole === null) target.fill(0);
        else target.set(whole.subarray(from, from + length));
      });
    });
  }

  /** See {@link CheckedBackend}. */
  protected override async write(offset: number, bytes: Uint8Array): Promise<void> {
    await all(
      [...chunksOf(offset, bytes.length, this.chunkSize)],
      ({ chunk, from, at, length }) => this.#change(chunk, from, length, bytes.subarray(at, at + length)),
    );
  }

  /** See {@link Backend.zero}. */
  async zero(offset: number, length: number): Promise<void> {
    this.checkWrite(offset, length);
    const pieces = chunksOf(offset, length, this.chunkSize);
    // As many at a time as the store likes; a large range has a great many chunks.
    for (let batch = take(pieces, this.#store.parallel); batch.length > 0;) {
      await all(batch, ({ chunk, from, length: part }) => this.#change(chunk, from, part, null));
      batch = take(pieces, this.#store.parallel);
    }
  }

  /** See {@link Backend.trim}. */
  async trim(offset: number, length: number): Promise<void> {
    await this.zero(offset, length);
  }

  /** See {@link Backend.extents}. */
  async extents(offset: number, length: number): Promise<Extent[]> {
    this.check(offset, length);
    if (length === 0) return [{ length: 0, hole: false, zero: false }];
    const first = Math.floor(offset / this.chunkSize);
    const count = Math.floor((offset + length - 1) / this.chunkSize) - first + 1;
    const present = await this.#store.present(first, Math.min(count, extentsMax));
    const found: Extent[] = [];
    for (const { chunk, length: part } of chunksOf(offset, length, this.chunkSize)) {
      const isThere = present[chunk - first];
      if (isThere === undefined) break;
      const last = found.at(-1);
      if (last?.hole === !isThere) last.length += part;
      else found.push({ length: part, hole: !isThere, zero: !isThere });
    }
    return found;
  }

  /** See {@link CheckedBackend}. */
  protected override async sync(): Promise<void> {
    if (!this.readOnly) await this.#store.flush();
  }

  /** See {@link CheckedBackend}. */
  protected override async release(): Promise<void> {
    await this.#locks.idle();
    await this.#store.close();
    this.#decoded.clear();
  }

  /** Changes a part of a chunk, or all of it; null are zeros. */
  async #change(chunk: number, from: number, length: number, bytes: Uint8Array | null): Promise<void> {
    const size = this.#lengthOf(chunk);
    const isWhole = from === 0 && length === size;
    const store = this.#store;
    if (this.#coding === null && store.putPart !== undefined && !isWhole) {
      return await this.#gate.run(async () => {
        if (bytes !== null) return await store.putPart?.(chunk, from, bytes);
        if ((await store.present(chunk, 1))[0] === true) {
          await store.putPart?.(chunk, from, new Uint8Array(length));
        }
      });
    }
    await this.#locks.run(chunk, () =>
      this.#gate.run(async () => {
        if (isWhole) return await this.#put(chunk, bytes);
        const whole = await this.#whole(chunk, size);
        if (bytes === null) whole.fill(0, from, from + length);
        else whole.set(bytes, from);
        await this.#put(chunk, whole);
      }));
  }

  /** A chunk, as a copy that may be changed. */
  async #whole(chunk: number, size: number): Promise<Uint8Array> {
    const whole = new Uint8Array(size);
    if (this.#coding === null) {
      await this.#store.getPart(chunk, 0, whole);
      return whole;
    }
    const decoded = await this.#decode(chunk, this.#coding);
    if (decoded !== null) whole.set(decoded);
    return whole;
  }

  /** Stores a chunk; null are zeros. */
  async #put(chunk: number, bytes: Uint8Array | null): Promise<void> {
    this.#decoded.delete(chunk);
    try {
      if (bytes === null || isZero(bytes)) return await this.#store.remove(chunk);
      if (this.#coding === null) return await this.#store.put(chunk, bytes);
      const coded = await this.#coding.encode(bytes);
      await this.#store.put(chunk, coded.length < bytes.length ? coded : bytes);
    } finally {
      // A read that began before has brought back the old one.
      this.#decoded.delete(chunk);
      this.#changes++;
    }
  }

  #changes = 0;

  async #decode(chunk: number, coding: ChunkCoding): Promise<Uint8Array | null> {
    const kept = this.#decoded.get(chunk);
    if (kept !== undefined) return kept;
    const size = this.#lengthOf(chunk);
    const changes = this.#changes;
    const stored = await this.#store.get(chunk, size);
    if (stored === null) return null;
    let whole = stored;
    if (stored.length !== size) {
      try {
        whole = await coding.decode(stored, size);
      } catch (error) {
        throw new IoError("EIO", `Cannot read chunk ${chunk} of "${this.name}": it is not what was stored`, {
          code: "corrupt",
          cause: error,
        });
      }
    }
    if (changes === this.#changes) {
      this.#decoded.set(chunk, whole);
      const oldest = this.#decoded.keys().next();
      if (this.#decoded.size * this.chunkSize > decodedMax && oldest.done !== true) {
        this.#decoded.delete(oldest.value);
      }
    }
    return whole;
  }

  #lengthOf(chunk: number): number {
    return Math.min(this.chunkSize, this.size - chunk * this.chunkSize);
  }
}

interface Description {
  size: number;
  chunk: number;
  coding: string | null;
}

async function createStore(store: ChunkStore, options: StoredOptions): Promise<Description> {
  const { create, coding, chunkDefault } = options;
  if (create === undefined || options.readOnly === true) {
    throw new IoError("EIO", `Cannot open "${store.name}": there are no chunks of drover`);
  }
  const { size, chunk = chunkDefault } = create;
  checkChunkSize(chunk);
  if (!Number.isSafeInteger(size) || size < 0) {
    throw new RangeError(`Cannot make "${store.name}": its size would be ${size}`);
  }
  // Who knows only version 1 would give out what is coded.
  const about = coding === undefined
    ? { version: 1, size, chunk }
    : { version: 2, size, chunk, coding: coding.name };
  await store.writeDescription(new TextEncoder().encode(`${JSON.stringify(about)}\n`));
  return { size, chunk, coding: coding?.name ?? null };
}

function parseDescription(bytes: Uint8Array, where: string): Description {
  let found: { version?: unknown; size?: unknown; chunk?: unknown; coding?: unknown } | null = null;
  let cause: unknown;
  try {
    found = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes.subarray(0, 4096)));
  } catch (error) {
    cause = error;
  }
  const { version, size, chunk, coding = null } = found ?? {};
  const isGood = version === (coding === null ? 1 : 2) && typeof size === "number" &&
    Number.isSafeInteger(size) && size >= 0 &&
    typeof chunk === "number" && (coding === null || typeof coding === "string");
  if (isGood) return { size, chunk, coding };
  throw new DroverError(
    "corrupt",
    `Cannot open "${where}": its description should say version, size and chunk`,
    { cause },
  );
}

/** Runs `work` on all of them and waits for all, also when one failed: buffers are in use until the last is done. */
async function all<T>(items: readonly T[], work: (item: T) => Promise<void>): Promise<void> {
  for (const result of await Promise.allSettled(items.map(work))) {
    if (result.status === "rejected") throw result.reason;
  }
}

/** The next `count` of an iterator. */
function take<T>(items: Iterator<T>, count: number): T[] {
  const taken: T[] = [];
  while (taken.length < count) {
    const next = items.next();
    if (next.done === true) break;
    taken.push(next.value);
  }
  return taken;
}
