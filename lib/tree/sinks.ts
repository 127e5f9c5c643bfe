/**
 * Where received content goes: into a new overlay layer, or into the object store of a plain tree. Both take a file
 * piece by piece and again after a broken connection; neither makes anything visible.
 *
 * @module
 */
import type { BytePath } from "../base/path.ts";
import { bytesEqual } from "../base/hex.ts";
import type { Change, Entry } from "../version/entry.ts";
import type { Upsert } from "../version/package.ts";
import type { Piece } from "../version/segment.ts";
import { Beneath } from "./beneath.ts";
import { Breath } from "./breath.ts";
import { shortBase, wrongContent } from "./content_faults.ts";
import { copyWithHoles, objectPath } from "./content.ts";
import { LayerBuilder } from "./layer.ts";
import { O_CREAT, O_RDONLY, O_TRUNC, O_WRONLY } from "./posix.ts";
import { stagingPath } from "./staging.ts";
import { objectLayer } from "./store.ts";
import type { Tree } from "./tree.ts";
import { Hasher } from "./walk.ts";

/** Where received content goes: a new layer, or the object store. */
export interface Sink extends Disposable {
  readonly layer: number;
  begin(): Promise<void>;
  /** A file without content. */
  empty(entry: Entry): void;
  /** A file whose content is in the store. */
  inherit(entry: Entry): void;
  /** The open file for a piece; closed with `written`. */
  open(entry: Entry, upsert: number, piece: Piece): number;
  written(fd: number, entry: Entry): void;
  /** All pieces of a file are written. `hashed` by the caller when it was one piece. */
  complete(entry: Entry, upsert: number, hashed: boolean): void;
  finish(): Promise<void>;
  /** Where the new content is. */
  places(): Iterable<{ digest: Uint8Array; layer: number; path: BytePath }>;
}

/** Builds an overlay layer. */
export class LayerSink implements Sink {
  readonly layer: number;
  readonly #tree: Tree;
  readonly #root: Beneath;
  readonly #builder: LayerBuilder;
  readonly #hasher: Hasher;
  readonly #changes: readonly Change[];

  constructor(tree: Tree, layer: number, plan: ConstructorParameters<typeof LayerBuilder>[1]) {
    this.layer = layer;
    this.#tree = tree;
    this.#root = Beneath.open(tree.libc, tree.store.layerPath(layer));
    this.#builder = new LayerBuilder(this.#root, plan);
    this.#changes = plan.changes;
    this.#hasher = new Hasher(tree.libc);
  }

  [Symbol.dispose](): void {
    this.#root[Symbol.dispose]();
  }

  begin(): Promise<void> {
    return this.#builder.begin();
  }

  empty(entry: Entry): void {
    this.#tree.libc.close(this.#builder.create(entry));
    this.#builder.close(entry);
  }

  inherit(entry: Entry): void {
    if (entry.digest === null) return;
    if (this.#root.stat(entry.path) !== null) this.#root.unlink(entry.path); // from an attempt that was cut off
    const only = this.#builder.isOnlyOne(entry);
    for (const found of only ? this.#tree.content.find(entry.digest, entry.size) : []) {
      if (this.#builder.link(entry, found)) return;
    }
    const target = this.#builder.create(entry);
    try {
      copyContent(this.#tree, this.#hasher, entry, target, () => this.#root.open(entry.path, O_RDONLY));
    } finally {
      this.#tree.libc.close(target);
    }
    this.#builder.close(entry);
  }

  open(entry: Entry, _upsert: number, piece: Piece): number {
    return this.#builder.create(entry, piece.length !== entry.size);
  }

  written(fd: number): void {
    this.#tree.libc.close(fd);
  }

  complete(entry: Entry, _upsert: number, hashed: boolean): void {
    if (!hashed) {
      const fd = this.#root.open(entry.path, O_RDONLY);
      try {
        checkContent(this.#hasher, fd, entry);
      } finally {
        this.#tree.libc.close(fd);
      }
    }
    this.#builder.close(entry);
  }

  finish(): Promise<void> {
    return this.#builder.finish();
  }

  *places(): Generator<{ digest: Uint8Array; layer: number; path: BytePath }> {
    for (const { after } of this.#changes) {
      if (after !== null && after.digest !== null) {
        yield { digest: after.digest, layer: this.layer, path: after.path };
      }
    }
  }
}

/** Fills the object store. */
export class ObjectSink implements Sink {
  readonly layer = objectLayer;
  readonly #tree: Tree;
  readonly #staging: Beneath;
  readonly #objects: Beneath;
  readonly #upserts: readonly Upsert[];
  readonly #hasher: Hasher;

  constructor(tree: Tree, layer: number, upserts: readonly Upsert[]) {
    this.#tree = tree;
    this.#upserts = upserts;
    this.#staging = Beneath.open(tree.libc, stagingPath(tree, layer));
    this.#objects = Beneath.open(tree.libc, tree.store.layerPath(objectLayer));
    this.#hasher = new Hasher(tree.libc);
  }

  [Symbol.dispose](): void {
    this.#staging[Symbol.dispose]();
    this.#objects[Symbol.dispose]();
  }

  begin(): Promise<void> {
    return Promise.resolve();
  }

  empty(entry: Entry): void {
    const name = "empty" as BytePath;
    this.#tree.libc.close(this.#create(name));
    this.#keep(entry, name);
  }

  inherit(): void {
    // An object with this content is there already.
  }

  open(entry: Entry, upsert: number, piece: Piece): number {
    const fd = this.#create(name(upsert), piece.length === entry.size);
    return fd;
  }

  #create(file: BytePath, truncate = true): number {
    return this.#tree.libc.openBeneath(
      this.#staging.fd,
      file,
      O_WRONLY | O_CREAT | (truncate ? O_TRUNC : 0),
      0o600,
    );
  }

  written(fd: number): void {
    this.#tree.libc.close(fd);
  }

  complete(entry: Entry, upsert: number, hashed: boolean): void {
    if (!hashed) {
      const fd = this.#staging.open(name(upsert), O_RDONLY);
      try {
        checkContent(this.#hasher, fd, entry);
      } finally {
        this.#tree.libc.close(fd);
      }
    }
    // It stays in the staging directory until all is there: an attempt that is taken up again looks for its pieces here.
  }

  #keep(entry: Entry, from: BytePath): void {
    if (entry.digest === null) return;
    const object = objectPath(entry.digest);
    const folder = object.slice(0, 2) as BytePath;
    if (this.#objects.stat(folder) === null) this.#objects.mkdir(folder);
    const target = this.#objects.place(object);
    this.#tree.libc.rename(this.#staging.fd, from, target.fd, target.name);
  }

  async finish(): Promise<void> {
    const breath = new Breath();
    for (const [upsert, { entry }] of this.#upserts.entries()) {
      if (this.#staging.stat(name(upsert)) !== null) this.#keep(entry, name(upsert));
      if (breath.due) await breath.take();
    }
  }

  *places(): Generator<{ digest: Uint8Array; layer: number; path: BytePath }> {
    for (const { entry: { digest } } of this.#upserts) {
      if (digest !== null) yield { digest, layer: objectLayer, path: objectPath(digest) };
    }
  }
}

function name(upsert: number): BytePath {
  return `${upsert}` as BytePath;
}

function copyContent(tree: Tree, hasher: Hasher, entry: Entry, target: number, reopen: () => number): void {
  const source = entry.digest === null ? null : tree.content.open(entry.digest, entry.size);
  if (source === null) throw shortBase(entry);
  try {
    copyWithHoles(tree.libc, source, target, entry.size);
  } finally {
    tree.libc.close(source);
  }
  const copy = reopen();
  try {
    checkContent(hasher, copy, entry);
  } finally {
    tree.libc.close(copy);
  }
}

export function checkContent(hasher: Hasher, fd: number, entry: Entry): void {
  const { digest } = hasher.hash(fd);
  if (entry.digest === null || !bytesEqual(digest, entry.digest)) throw wrongContent(entry, digest);
}
