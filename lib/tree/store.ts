/**
 * A tree's state directory: versions, manifests, and where the bytes of each version are.
 *
 *     lock             held by the process that works on the tree
 *     tree.db          SQLite: versions, content places, the stat cache, the journal
 *     manifests/ROOT   canonical manifest with that root, zstd
 *     layers/N/        an overlay layer; 0 is the directory as it was found; never changed once frozen
 *     work/N/          the overlay's work directory for upper N
 *     objects/HH/HEX   content by hash, for trees without an overlay
 *     staging/N/       a version that is being received
 *
 * Invariants:
 * - `head` names a row of `versions`; each row with a stack has its manifest file and all its layers.
 * - A layer that a version's stack names is frozen. `upper` is the one directory that changes, and no stack names it.
 * - One transaction moves `head`, `base` and `upper` together: that is the moment a version becomes the current
 *   one. What the file system shows is brought in line afterwards, again after a crash (`Tree.recover`).
 *
 * @module
 */
import { DatabaseSync, type StatementSync } from "node:sqlite";
import * as fs from "node:fs";
import { type BytePath, joinPath, nameOf, parentOf, pathToText, rootPath } from "../base/path.ts";
import { DroverError } from "../base/errors.ts";
import { Manifest } from "../version/manifest.ts";
import type { VersionInfo } from "../version/entry.ts";
import type { Libc, Native } from "../../ffi/mod.ts";
import type { Capture, Profile } from "./context.ts";
import { AT_FDCWD, O_CREAT, O_EXCL, O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY } from "./posix.ts";
import { Beneath, isFull, isMissing } from "./beneath.ts";

const formatVersion = 1;

/** The layer number of the object store. */
export const objectLayer = -1;

/** The largest manifest file that is read back, decompressed. */
const manifestSizeMax = 2 ** 31;

/** A version as the store knows it. `stack` is null where only the history is known, not the content. */
export interface StoredVersion extends VersionInfo {
  /** Layers from the lowest to the topmost; empty for a tree kept as objects. */
  stack: number[] | null;
}

/** How a tree is set up; fixed at init. */
export interface TreeSetup {
  dir: BytePath;
  capture: Capture;
  profile: Profile;
  /** Overlay xattrs live in `user.`: the mounter is not root of the initial user namespace. */
  userxattr: boolean;
  /** Owners are set and compared; false where this process may not give files away. */
  owners: boolean;
}

/** The pointers that move together. */
export interface Pointers {
  /** The current version, null before the first. */
  head: string | null;
  /** The version whose stack is, or should be, mounted below `upper`; null for a tree without an overlay. */
  base: string | null;
  /** The layer that takes changes; -1 for a tree without an overlay. */
  upper: number;
  /** A plain directory that is on its way to this version; null when it has arrived. */
  pending: string | null;
}

/** Where content is: a path inside a layer, or the object store (layer -1). */
export interface ContentPlace {
  layer: number;
  path: BytePath;
}

/** Manifests kept in memory: how many, and up to which size each. */
const manifestsKeptMax = 4;
const manifestKeptSizeMax = 16 << 20;

const schema = `
  CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT) STRICT;
  CREATE TABLE versions (
    seq INTEGER PRIMARY KEY, id TEXT UNIQUE NOT NULL, parent TEXT, root TEXT NOT NULL,
    time INTEGER NOT NULL, message TEXT NOT NULL, stack TEXT
  ) STRICT;
  CREATE TABLE content (
    digest BLOB NOT NULL, layer INTEGER NOT NULL, path TEXT NOT NULL, PRIMARY KEY (digest, layer, path)
  ) STRICT, WITHOUT ROWID;
  CREATE INDEX content_layer ON content (layer);
  CREATE TABLE seen (path TEXT PRIMARY KEY, stamp TEXT NOT NULL, digest BLOB NOT NULL) STRICT, WITHOUT ROWID;
`;

/** What SQLite needs at least for its files. */
const roomMin = 131_072;

const folders: readonly string[] = ["manifests", "layers", "work", "objects", "staging"];

/** An open state directory. */
export class Store implements Disposable {
  readonly path: BytePath;
  readonly #native: Native;
  readonly #libc: Libc;
  readonly #db: DatabaseSync;
  readonly #statements = new Map<string, StatementSync>();
  readonly #manifests = new Map<string, Manifest>();
  #lockFd = -1;

  private constructor(native: Native, path: BytePath, db: DatabaseSync) {
    this.#native = native;
    this.#libc = native.libc;
    this.path = path;
    this.#db = db;
  }

  /**
   * Makes a new state directory (it must not exist) and opens it, locked. `tree.db` gets its name when it is complete: a
   * state directory without one is what a crash left (`isHalfMade`).
   */
  static create(native: Native, path: BytePath, setup: TreeSetup): Store {
    const { libc } = native;
    const file = databasePath(path); // refused before anything is made
    libc.mkdir(AT_FDCWD, path, 0o700);
    // Files of layers would inherit it, and nothing in a layer may have what no manifest says.
    const inherited = "system.posix_acl_default" as BytePath;
    if (libc.getXattr(AT_FDCWD, path, inherited) !== null) libc.removeXattr(AT_FDCWD, path, inherited);
    const lock = lockOf(libc, path);
    if (lock < 0) {
      throw new DroverError("busy", `Cannot make tree state "${pathToText(path)}": another process is at it`);
    }
    try {
      for (const name of folders) libc.mkdir(AT_FDCWD, joinPath(path, name as BytePath), 0o700);
      const db = new DatabaseSync(`${file}.new`);
      try {
        // Not yet with a write-ahead log: it would be a second file that has to get the new name.
        db.exec("PRAGMA synchronous = FULL;");
        db.exec("BEGIN");
        db.exec(schema);
        const meta = {
          format: `${formatVersion}`,
          dir: setup.dir,
          capture: setup.capture,
          profile: setup.profile,
          userxattr: setup.userxattr ? "1" : "0",
          owners: setup.owners ? "1" : "0",
          upper: "-1",
        };
        const put = db.prepare("INSERT INTO meta (key, value) VALUES (?, ?)");
        for (const [key, value] of Object.entries(meta)) put.run(key, value);
        db.exec("COMMIT");
      } finally {
        db.close();
      }
      libc.rename(
        AT_FDCWD,
        joinPath(path, "tree.db.new" as BytePath),
        AT_FDCWD,
        joinPath(path, "tree.db" as BytePath),
      );
      const store = Store.open(native, path);
      store.#lockFd = lock;
      return store;
    } catch (error) {
      libc.close(lock);
      throw explained(libc, path, error);
    }
  }

  /** Whether a directory is what `create` or `remove` left when they did not come to their end. */
  static isHalfMade(native: Native, path: BytePath): boolean {
    const { libc } = native;
    if (libc.stat(AT_FDCWD, path)?.kind !== "directory") return false;
    const fd = libc.open(AT_FDCWD, path, O_RDONLY);
    let names: string[];
    try {
      names = libc.readDir(fd).map(({ name }) => name);
    } finally {
      libc.close(fd);
    }
    if (names.length === 0) return true;
    const ours = (name: string) =>
      name === "lock" || folders.includes(name) || /^tree\.db(\.new)?(-\w+)?$/.test(name);
    if (!names.every(ours) || names.includes("tree.db") || !names.includes("lock")) return false;
    const lock = lockOf(libc, path);
    if (lock >= 0) libc.close(lock);
    return lock >= 0;
  }

  /** Removes a state directory; the database goes last, so that a crash leaves it in charge or a half-made directory. */
  static remove(native: Native, path: BytePath): void {
    using parent = Beneath.open(native.libc, (parentOf(path) || "/") as BytePath);
    using state = Beneath.open(native.libc, path);
    const names = state.list(rootPath).map(({ name }) => name);
    const last = (name: BytePath) => name === "lock" ? 2 : name.startsWith("tree.db") ? 1 : 0;
    for (const name of names.sort((a, b) => last(a) - last(b))) state.removeAll(name);
    parent.removeAll(nameOf(path));
  }

  /** Opens an existing one, without taking the lock. */
  static open(native: Native, path: BytePath): Store {
    const file = databasePath(path);
    if (!fs.existsSync(file)) {
      throw new DroverError("not-a-tree", `Cannot open tree state "${pathToText(path)}": no tree.db there`);
    }
    let store: Store;
    let format: string | null;
    try {
      const db = new DatabaseSync(file);
      store = new Store(native, path, db);
      db.exec("PRAGMA busy_timeout = 10000; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;");
      format = store.#meta("format");
    } catch (error) {
      throw explained(native.libc, path, error);
    }
    if (format !== `${formatVersion}`) {
      store[Symbol.dispose]();
      throw new DroverError(
        "unsupported",
        `Cannot open tree state "${pathToText(path)}": its format is ${
          format ?? "missing"
        }, this drover knows ${formatVersion}`,
      );
    }
    return store;
  }

  [Symbol.dispose](): void {
    this.#statements.clear();
    this.#db.close();
    if (this.#lockFd >= 0) this.#libc.close(this.#lockFd);
    this.#lockFd = -1;
  }

  /** Takes the lock if it is free. It is released with the store, or when the process dies. */
  lock(): boolean {
    if (this.#lockFd < 0) this.#lockFd = lockOf(this.#libc, this.path);
    return this.#lockFd >= 0;
  }

  /** Whether this process holds the lock. */
  get locked(): boolean {
    return this.#lockFd >= 0;
  }

  /** A path in the state directory. */
  below(name: string): BytePath {
    return joinPath(this.path, name as BytePath);
  }

  /** Absolute path of a layer; the object store is layer -1. */
  layerPath(layer: number): BytePath {
    return this.below(layer === objectLayer ? "objects" : `layers/${layer}`);
  }

  get setup(): TreeSetup {
    return {
      dir: (this.#meta("dir") ?? "") as BytePath,
      capture: this.#meta("capture") as Capture,
      profile: this.#meta("profile") as Profile,
      userxattr: this.#meta("userxattr") === "1",
      owners: this.#meta("owners") === "1",
    };
  }

  get pointers(): Pointers {
    return {
      head: this.#meta("head"),
      base: this.#meta("base"),
      upper: Number(this.#meta("upper") ?? -1),
      pending: this.#meta("pending"),
    };
  }

  /** A value kept for the tree under a name of the caller's. */
  note(key: string): string | null {
    return this.#meta(`note.${key}`);
  }

  /** Sets or, with null, removes such a value. */
  setNote(key: string, value: string | null): void {
    this.#setMeta(`note.${key}`, value);
  }

  /** Runs `body` in one durable transaction. */
  transaction(body: () => void): void {
    this.#db.exec("BEGIN IMMEDIATE");
    try {
      body();
      this.#db.exec("COMMIT");
    } catch (error) {
      try {
        this.#db.exec("ROLLBACK");
      } catch {
        // SQLite has done it by itself: a full disk ends the transaction
      }
      throw explained(this.#libc, this.path, error);
    }
  }

  /** Moves some of the pointers; call it inside a transaction. */
  setPointers(pointers: Partial<Pointers>): void {
    for (const [key, value] of Object.entries(pointers)) {
      this.#setMeta(key, value === null ? null : `${value}`);
    }
  }

  /** A number for a new layer, never given twice. */
  newLayer(): number {
    const layer = Number(this.#meta("nextLayer") ?? 0);
    this.#setMeta("nextLayer", `${layer + 1}`);
    return layer;
  }

  /** One version by its full id. */
  version(id: string): StoredVersion | null {
    const row = this.#prepare("SELECT id, parent, root, time, message, stack FROM versions WHERE id = ?").get(
      id,
    );
    return row === undefined ? null : versionFromRow(row);
  }

  /** Ids that begin with `prefix`; at most two, to tell whether it is unique. */
  versionsByPrefix(prefix: string): string[] {
    return this.#prepare("SELECT id FROM versions WHERE substr(id, 1, ?) = ? LIMIT 2").all(
      prefix.length,
      prefix,
    )
      .map((row) => row["id"] as string);
  }

  /** All versions, oldest first in the order they came here. */
  versions(): StoredVersion[] {
    return this.#prepare("SELECT id, parent, root, time, message, stack FROM versions ORDER BY seq").all()
      .map(versionFromRow);
  }

  /** The chain from `id` back to the first version, newest first. */
  chain(id: string | null): StoredVersion[] {
    const chain: StoredVersion[] = [];
    for (let next = id; next !== null;) {
      const version = this.version(next);
      if (version === null) break;
      chain.push(version);
      next = version.parent;
    }
    return chain;
  }

  /** Adds a version, or fills in what was not known of it. */
  addVersion(version: StoredVersion): void {
    this.#prepare(
      `INSERT INTO versions (id, parent, root, time, message, stack) VALUES (?, ?, ?, ?, ?, ?)
       ON CONFLICT (id) DO UPDATE SET stack = coalesce(excluded.stack, stack)`,
    ).run(
      version.id,
      version.parent,
      version.root,
      version.time,
      version.message,
      version.stack === null ? null : JSON.stringify(version.stack),
    );
  }

  /** Replaces a version's stack; null forgets its content. */
  setStack(id: string, stack: number[] | null): void {
    this.#prepare("UPDATE versions SET stack = ? WHERE id = ?").run(
      stack === null ? null : JSON.stringify(stack),
      id,
    );
  }

  /** Writes a manifest; it is on disk after the next syncfs. Returns its root. */
  writeManifest(manifest: Manifest): string {
    const root = manifest.root();
    this.#remember(root, manifest);
    const path = this.below(`manifests/${root}`);
    // A file that no version names was left by a crash: nobody knows whether it is whole.
    const known = this.#prepare("SELECT 1 FROM versions WHERE root = ? AND stack IS NOT NULL").get(root);
    if (known !== undefined && this.#libc.stat(AT_FDCWD, path) !== null) return root;
    const raw = manifest.bytes;
    const frame = this.#native.zstd.compressSync(raw, { level: 1 });
    const file = new Uint8Array(8 + frame.length);
    new DataView(file.buffer).setBigUint64(0, BigInt(raw.length), true);
    file.set(frame, 8);
    const temporary = this.below(`manifests/${root}.new`);
    const fd = this.#libc.open(AT_FDCWD, temporary, O_WRONLY | O_CREAT | O_TRUNC, 0o600);
    try {
      this.#libc.pwrite(fd, file, 0);
    } finally {
      this.#libc.close(fd);
    }
    this.#libc.rename(AT_FDCWD, temporary, AT_FDCWD, path);
    return root;
  }

  /** Reads a manifest by root and checks it; null where it is not kept. */
  readManifest(root: string): Manifest | null {
    const known = this.#manifests.get(root);
    if (known !== undefined) return known;
    const manifest = this.#readManifest(root);
    if (manifest !== null) this.#remember(root, manifest);
    return manifest;
  }

  /** One command reads the same few manifests again and again; very large ones are not kept in memory. */
  #remember(root: string, manifest: Manifest): void {
    if (manifest.bytes.length > manifestKeptSizeMax) return;
    if (this.#manifests.size >= manifestsKeptMax) {
      for (const oldest of this.#manifests.keys()) {
        this.#manifests.delete(oldest);
        break;
      }
    }
    this.#manifests.set(root, manifest);
  }

  #readManifest(root: string): Manifest | null {
    const path = this.below(`manifests/${root}`);
    let file: Uint8Array;
    try {
      file = readWhole(this.#libc, path);
    } catch (error) {
      if (isMissing(error)) return null;
      throw error;
    }
    const size = file.length < 8 ? -1 : Number(new DataView(file.buffer).getBigUint64(0, true));
    if (size < 0 || size > manifestSizeMax) {
      throw new DroverError(
        "corrupt",
        `Cannot read manifest "${pathToText(path)}": it says it holds ${size} bytes`,
      );
    }
    const raw = this.#native.zstd.decompressSync(file.subarray(8), { size });
    const manifest = Manifest.fromBytes(raw);
    if (manifest.root() !== root) {
      throw new DroverError(
        "corrupt",
        `Cannot read manifest "${pathToText(path)}": its hash is ${manifest.root()}`,
      );
    }
    return manifest;
  }

  /** The manifest of a version. */
  manifestOf(id: string | null): Manifest {
    if (id === null) return Manifest.empty;
    const version = this.version(id);
    const manifest = version === null ? null : this.readManifest(version.root);
    if (manifest === null) {
      throw new DroverError(
        "unknown-version",
        `Cannot read version ${id.slice(0, 12)}: its content is not kept here`,
      );
    }
    return manifest;
  }

  /** Removes manifests that `keep` does not name. */
  sweepManifests(keep: ReadonlySet<string>): void {
    const folder = this.below("manifests");
    const fd = this.#libc.open(AT_FDCWD, folder, O_RDONLY);
    try {
      for (const entry of this.#libc.readDir(fd)) {
        if (!keep.has(entry.name)) this.#libc.unlink(fd, entry.name);
      }
    } finally {
      this.#libc.close(fd);
    }
  }

  /** Records where content is; call it inside a transaction. */
  addContent(rows: Iterable<{ digest: Uint8Array; layer: number; path: BytePath }>): void {
    const statement = this.#prepare("INSERT OR IGNORE INTO content (digest, layer, path) VALUES (?, ?, ?)");
    for (const row of rows) statement.run(row.digest, row.layer, row.path);
  }

  /** Where content with this hash is, the newest layer first. */
  contentPlaces(digest: Uint8Array): ContentPlace[] {
    return this.#prepare("SELECT layer, path FROM content WHERE digest = ? ORDER BY layer DESC LIMIT 16").all(
      digest,
    )
      .map((row) => ({ layer: row["layer"] as number, path: row["path"] as BytePath }));
  }

  /** Forgets the content of a layer. */
  dropLayerContent(layer: number): void {
    this.#prepare("DELETE FROM content WHERE layer = ?").run(layer);
  }

  /** Forgets one place. */
  dropContent(digest: Uint8Array, layer: number): void {
    this.#prepare("DELETE FROM content WHERE digest = ? AND layer = ?").run(digest, layer);
  }

  /** Every place of one layer with its hash. */
  *layerContent(layer: number): Generator<{ digest: Uint8Array; path: BytePath }> {
    for (const row of this.#prepare("SELECT digest, path FROM content WHERE layer = ?").all(layer)) {
      yield { digest: row["digest"] as Uint8Array, path: row["path"] as BytePath };
    }
  }

  /** The stat cache: what file was hashed, as it was then (see `stampOf`). */
  readSeen(): Map<BytePath, { stamp: string; digest: Uint8Array<ArrayBuffer> }> {
    const seen = new Map<BytePath, { stamp: string; digest: Uint8Array<ArrayBuffer> }>();
    for (const row of this.#prepare("SELECT path, stamp, digest FROM seen").iterate()) {
      seen.set(row["path"] as BytePath, {
        stamp: row["stamp"] as string,
        digest: row["digest"] as Uint8Array<ArrayBuffer>,
      });
    }
    return seen;
  }

  /** Adds to the stat cache and removes from it; call it inside a transaction. */
  updateSeen(
    add: Iterable<{ path: BytePath; stamp: string; digest: Uint8Array }>,
    remove: Iterable<BytePath>,
  ): void {
    const drop = this.#prepare("DELETE FROM seen WHERE path = ?");
    for (const path of remove) drop.run(path);
    const put = this.#prepare("INSERT OR REPLACE INTO seen (path, stamp, digest) VALUES (?, ?, ?)");
    for (const row of add) put.run(row.path, row.stamp, row.digest);
  }

  /** Empties the stat cache. */
  clearSeen(): void {
    this.#db.exec("DELETE FROM seen");
  }

  #meta(key: string): string | null {
    const row = this.#prepare("SELECT value FROM meta WHERE key = ?").get(key);
    return row === undefined ? null : row["value"] as string | null;
  }

  #setMeta(key: string, value: string | null): void {
    try {
      this.#prepare("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)").run(key, value);
    } catch (error) {
      throw explained(this.#libc, this.path, error);
    }
  }

  #prepare(sql: string): StatementSync {
    let statement = this.#statements.get(sql);
    if (statement === undefined) this.#statements.set(sql, statement = this.#db.prepare(sql));
    return statement;
  }
}

/** What SQLite calls an I/O error where there is no room for its files, or none to open them, is said in those words. */
function explained(libc: Libc, state: BytePath, error: unknown): unknown {
  if (!(error instanceof Error) || !("code" in error) || error.code !== "ERR_SQLITE_ERROR") return error;
  const fd = libc.open(AT_FDCWD, state, O_RDONLY);
  const { available } = libc.statfs(fd);
  libc.close(fd);
  if (!isFull(error) && available >= roomMin) return error;
  return new DroverError("no-space", `Cannot write to "${pathToText(state)}": the file system is full`, {
    hint: "make room and try again",
    cause: error,
  });
}

/** The locked descriptor of a state directory's lock, or -1 while somebody else has it. */
function lockOf(libc: Libc, state: BytePath): number {
  const fd = libc.open(AT_FDCWD, joinPath(state, "lock" as BytePath), O_RDWR | O_CREAT, 0o600);
  if (libc.tryLock(fd, true)) return fd;
  libc.close(fd);
  return -1;
}

/** Reads a file of the store, whole. */
export function readWhole(libc: Libc, path: BytePath): Uint8Array<ArrayBuffer> {
  const fd = libc.open(AT_FDCWD, path, O_RDONLY);
  try {
    const size = libc.fstat(fd).size;
    if (size > manifestSizeMax) {
      throw new DroverError("corrupt", `Cannot read "${pathToText(path)}": ${size} bytes`);
    }
    const bytes = new Uint8Array(size);
    return bytes.subarray(0, libc.pread(fd, bytes, 0));
  } finally {
    libc.close(fd);
  }
}

/** Makes a file that must not exist yet, with its content, and flushes it. */
export async function writeDurably(libc: Libc, path: BytePath, bytes: Uint8Array): Promise<void> {
  const fd = libc.open(AT_FDCWD, path, O_WRONLY | O_CREAT | O_EXCL, 0o600);
  try {
    libc.pwrite(fd, bytes, 0);
    await libc.fsync(fd);
  } finally {
    libc.close(fd);
  }
}

/** SQLite takes its path as text, so a state path must be UTF-8. */
function databasePath(state: BytePath): string {
  try {
    const bytes = Uint8Array.from(state, (c) => c.charCodeAt(0));
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes) + "/tree.db";
  } catch {
    throw new DroverError(
      "unsupported",
      `Cannot keep state in "${pathToText(state)}": the path must be UTF-8`,
      { hint: "give another place with --state PATH" },
    );
  }
}

function versionFromRow(row: Record<string, unknown>): StoredVersion {
  const stack = row["stack"] as string | null;
  return {
    id: row["id"] as string,
    parent: row["parent"] as string | null,
    root: row["root"] as string,
    time: row["time"] as number,
    message: row["message"] as string,
    stack: stack === null ? null : JSON.parse(stack) as number[],
  };
}
