/**
 * Bytes by hash: opens the content of a file of any kept version, wherever a layer or the object store
 * has it. A place whose size is wrong is passed over; whoever uses the bytes checks the hash of the result.
 *
 * @module
 */
import type { BytePath } from "../base/path.ts";
import { toHex } from "../base/hex.ts";
import type { FileStat, Libc } from "../../ffi/mod.ts";
import { Beneath, isMissing } from "./beneath.ts";
import { O_NONBLOCK, O_RDONLY, SEEK_DATA, SEEK_HOLE } from "./posix.ts";
import type { Store } from "./store.ts";

/** Where in the object store content lies. */
export function objectPath(digest: Uint8Array): BytePath {
  const hex = toHex(digest);
  return `${hex.slice(0, 2)}/${hex}` as BytePath;
}

/** A place that really holds a file of the right size. */
export interface FoundContent {
  root: Beneath;
  path: BytePath;
  stat: FileStat;
  /** The layer it is in; null for content that was offered. */
  layer: number | null;
}

/** Places that are remembered. */
const foundMax = 1 << 14;

/** Content of one store. Directory descriptors stay open until it is disposed. */
export class Content implements Disposable {
  readonly #libc: Libc;
  readonly #store: Store;
  readonly #roots = new Map<number, Beneath>();
  readonly #extra = new Map<string, { root: Beneath; path: BytePath }>();
  /** Where content is, by hash and size: a transfer asks for the same content several times. */
  readonly #found = new Map<string, { root: Beneath; path: BytePath }>();

  /** Reads places from `store` when they are asked for. */
  constructor(libc: Libc, store: Store) {
    this.#libc = libc;
    this.#store = store;
  }

  [Symbol.dispose](): void {
    for (const root of this.#roots.values()) root[Symbol.dispose]();
    this.#roots.clear();
    this.#found.clear();
  }

  /** Also finds this content, which no layer holds (yet): a file of the live tree. */
  offer(digest: Uint8Array, root: Beneath, path: BytePath): void {
    this.#extra.set(toHex(digest), { root, path });
  }

  /** Forgets everything that was offered. */
  withdraw(): void {
    this.#extra.clear();
    this.#found.clear();
  }

  /** The open directory of a layer. */
  layer(layer: number): Beneath {
    let root = this.#roots.get(layer);
    if (root === undefined) {
      this.#roots.set(layer, root = Beneath.open(this.#libc, this.#store.layerPath(layer)));
    }
    return root;
  }

  /** All places that hold content of this hash and size. */
  *find(digest: Uint8Array, size: number): Generator<FoundContent> {
    const hex = toHex(digest);
    const extra = this.#extra.get(hex);
    if (extra !== undefined) {
      const stat = extra.root.stat(extra.path);
      if (stat?.kind === "file" && stat.size === size) yield { ...extra, stat, layer: null };
    }
    for (const { layer, path } of this.#store.contentPlaces(digest)) {
      const root = this.layer(layer);
      const stat = root.stat(path);
      if (stat?.kind !== "file" || stat.size !== size) continue;
      this.#remember(hex, size, { root, path });
      yield { root, path, stat, layer };
    }
  }

  /** Opens content for reading, or null where no place has it. The caller closes the descriptor. */
  open(digest: Uint8Array, size: number): number | null {
    const known = this.#found.get(`${toHex(digest)} ${size}`);
    if (known !== undefined) {
      const fd = this.#openPlace(known);
      if (fd !== null && this.#libc.fstat(fd).size === size) return fd;
      if (fd !== null) this.#libc.close(fd);
    }
    for (const found of this.find(digest, size)) {
      const fd = this.#openPlace(found);
      if (fd !== null) return fd;
    }
    return null;
  }

  #openPlace({ root, path }: { root: Beneath; path: BytePath }): number | null {
    try {
      return root.open(path, O_RDONLY | O_NONBLOCK);
    } catch (error) {
      if (isMissing(error)) return null;
      throw error;
    }
  }

  /** Where this content should be, without looking there: an open directory and a path below it. */
  locate(digest: Uint8Array, size: number): { root: Beneath; path: BytePath } | null {
    const hex = toHex(digest);
    const known = this.#extra.get(hex) ?? this.#found.get(`${hex} ${size}`);
    if (known !== undefined) return known;
    const [place] = this.#store.contentPlaces(digest);
    if (place === undefined) return null;
    const found = { root: this.layer(place.layer), path: place.path };
    this.#remember(hex, size, found);
    return found;
  }

  #remember(hex: string, size: number, found: { root: Beneath; path: BytePath }): void {
    if (this.#found.size >= foundMax) this.#found.clear();
    this.#found.set(`${hex} ${size}`, found);
  }
}

/**
 * Copies a file's first `size` bytes into an empty file. Holes stay holes: copy_file_range(2) alone fills them on file
 * systems without reflinks.
 */
export function copyWithHoles(libc: Libc, source: number, target: number, size: number): void {
  const stat = libc.fstat(source);
  if (stat.blocks * 512 >= stat.size) return libc.copyRange(source, 0, target, 0, size);
  for (let at = 0; at < size;) {
    const start = libc.seek(source, at, SEEK_DATA);
    if (start < 0 || start >= size) break;
    const hole = libc.seek(source, start, SEEK_HOLE);
    at = hole < 0 ? size : Math.min(hole, size);
    libc.copyRange(source, start, target, start, at - start);
  }
  libc.ftruncate(target, size);
}
