/**
 * Builds one overlay layer: a directory that, put on top of the layers of version `before`, shows version `after`.
 *
 * The layer holds what changed, whole; the directories on the way to it, with the metadata they have in `after`;
 * and a whiteout for each name that is gone. A directory that `before` does not have is opaque: whatever deeper layers
 * have there stays hidden. Nothing outside the layer is touched, so a layer that is not finished is just a
 * directory to remove.
 *
 * Order: `begin()`, then files in any order (`create`/`close`, or `link`), then `finish()`.
 *
 * @module
 */
import { type BytePath, parentOf, pathToText, rootPath } from "../base/path.ts";
import { DroverError } from "../base/errors.ts";
import type { Change, Entry } from "../version/entry.ts";
import type { Manifest } from "../version/manifest.ts";
import { hasOverlayXattr, overlayXattrNames } from "../version/whiteout.ts";
import type { Libc } from "../../ffi/mod.ts";
import { type Beneath, errorCode } from "./beneath.ts";
import { Breath } from "./breath.ts";
import type { FoundContent } from "./content.ts";
import { applyMetadata, sameXattrs } from "./metadata.ts";
import { O_CREAT, O_NOFOLLOW, O_RDWR, O_TRUNC } from "./posix.ts";
import { ownXattrs, statMatches } from "./walk.ts";

const opaqueValue = new Uint8Array([0x79]); // "y"

/** What a layer is built from. */
export interface LayerPlan {
  before: Manifest;
  after: Manifest;
  /** `diffManifests(before, after)`. */
  changes: readonly Change[];
  userxattr: boolean;
  owners: boolean;
  /** A plain directory, not a layer: no marks of the overlay anywhere in it. `before` is empty then. */
  plain?: boolean;
}

/** A layer under construction. */
export class LayerBuilder {
  readonly root: Beneath;
  readonly #libc: Libc;
  readonly #plan: LayerPlan;
  readonly #made = new Set<BytePath>([rootPath]);
  readonly #linkedInodes = new Set<string>();
  /** How many files of `after` have a content, by the first bytes of its hash; made when first asked. */
  #contents: Map<number, number> | null = null;
  #firstWhiteout: BytePath | null = null;

  /** @param root an empty directory; not owned. */
  constructor(root: Beneath, plan: LayerPlan) {
    this.root = root;
    this.#libc = root.libc;
    this.#plan = plan;
  }

  /** Makes everything that needs no content. May be called again after a crash: what is there stays. */
  async begin(): Promise<void> {
    const breath = new Breath();
    const { before, after, changes } = this.#plan;
    for (const change of changes) {
      if (breath.due) await breath.take();
      const entry = change.after;
      if (entry === null) {
        const parent = parentOf(change.path);
        // Below a directory that is gone, or is no directory any more, there is nothing to hide.
        if (after.get(parent)?.kind !== "directory" || before.get(parent)?.kind !== "directory") continue;
        this.#directory(parent);
        this.#whiteout(change.path);
      } else if (entry.kind === "directory") this.#directory(entry.path);
      else if (entry.path !== rootPath) {
        this.#directory(parentOf(entry.path));
        if (entry.kind !== "file" && entry.kind !== "link") this.#special(entry);
      }
    }
  }

  /** Opens a file's place for writing: emptied, or with `more` as the earlier pieces left it. */
  create(entry: Entry, more = false): number {
    const { fd, name } = this.root.place(entry.path);
    const flags = O_RDWR | O_CREAT | O_NOFOLLOW | (more ? 0 : O_TRUNC);
    return this.#libc.openBeneath(fd, name, flags, 0o600);
  }

  /** Gives a written file its metadata. */
  close(entry: Entry): void {
    const { fd, name } = this.root.place(entry.path);
    applyMetadata(this.#libc, fd, name, entry, { owners: this.#plan.owners, replace: false });
  }

  /**
   * Takes a file over by a hard link instead of a copy, where a layer of the same file system has exactly this file with exactly
   * this metadata. Layers never change, so they may share it, but the tree would show two files that have one inode as
   * linked: the caller sees to it that the other layer goes away, or asks `isOnlyOne` first.
   */
  link(entry: Entry, found: FoundContent): boolean {
    const key = `${found.stat.device}.${found.stat.inode}`;
    if (this.#linkedInodes.has(key) || !this.#mayShare(entry, found)) return false;
    const source = found.root.place(found.path);
    const target = this.root.place(entry.path);
    try {
      this.#libc.link(source.fd, source.name, target.fd, target.name);
    } catch {
      return false; // too many links, or another file system: a copy will do
    }
    this.#linkedInodes.add(key);
    return true;
  }

  /** Whether no other file of `after` has this content, so that a shared inode can show only once. */
  isOnlyOne(entry: Entry): boolean {
    if (entry.digest === null) return false;
    if (this.#contents === null) {
      this.#contents = new Map();
      const { after } = this.#plan;
      for (let index = 0; index < after.count; index++) {
        if (after.kindAt(index) !== "file") continue;
        const bytes = after.entryBytes(index); // ends with the digest
        const key = contentKey(bytes, bytes.length - 32);
        this.#contents.set(key, (this.#contents.get(key) ?? 0) + 1);
      }
    }
    return this.#contents.get(contentKey(entry.digest, 0)) === 1;
  }

  #mayShare(entry: Entry, found: FoundContent): boolean {
    const { stat } = found;
    if (!statMatches(this.#plan.owners ? stat : { ...stat, uid: entry.uid, gid: entry.gid }, entry)) {
      return false;
    }
    const xattrs = found.root.xattrs(found.path);
    const own = ownXattrs(xattrs);
    // A file without its content, and in a plain directory any mark of the overlay, must not be shared.
    if (own.length !== xattrs.length && (this.#plan.plain === true || hasOverlayXattr(xattrs, "metacopy"))) {
      return false;
    }
    return sameXattrs(own, entry.xattrs);
  }

  /** Makes the further names of files, then gives every directory its metadata, the deepest first. */
  async finish(): Promise<void> {
    const breath = new Breath();
    for (const { after } of this.#plan.changes) {
      if (after?.kind !== "link") continue;
      const leader = this.root.place(after.target);
      const source = { ...leader };
      this.#make(after.path, (fd, name) => this.#libc.link(source.fd, source.name, fd, name));
      if (breath.due) await breath.take();
    }
    for (const path of [...this.#made].sort().reverse()) {
      const entry = this.#plan.after.get(path);
      if (entry === null) {
        throw new DroverError("corrupt", `Cannot finish "${pathToText(path)}": it is in no manifest`);
      }
      const { fd, name } = this.root.place(path);
      applyMetadata(this.#libc, fd, name, entry, { owners: this.#plan.owners, replace: false });
      if (breath.due) await breath.take();
    }
    this.root.forget();
  }

  #directory(path: BytePath): void {
    if (this.#made.has(path)) return;
    this.#directory(parentOf(path));
    this.#make(path, (fd, name) => this.#libc.mkdir(fd, name, 0o700));
    this.#made.add(path);
    if (this.#plan.plain === true || this.#plan.before.get(path)?.kind === "directory") return;
    const { fd, name } = this.root.place(path);
    const { opaque } = overlayXattrNames(this.#plan.userxattr ? "user.overlay." : "trusted.overlay.");
    this.#libc.setXattr(fd, name, opaque, opaqueValue);
  }

  /** All whiteouts of a layer are names of one inode, as the kernel makes them too: an inode each costs far more than a name. */
  #whiteout(path: BytePath): void {
    const first = this.#firstWhiteout;
    if (first !== null && first !== path) {
      const source = { ...this.root.place(first) };
      const { fd, name } = this.root.place(path);
      try {
        return this.#libc.link(source.fd, source.name, fd, name);
      } catch (error) {
        if (errorCode(error) === "EEXIST") return;
        if (errorCode(error) !== "EMLINK" && errorCode(error) !== "EPERM") throw error;
      }
    }
    this.#make(path, (fd, name) => this.#libc.mknod(fd, name, "char", 0, 0, 0));
    this.#firstWhiteout = path;
  }

  #special(entry: Entry): void {
    this.#make(entry.path, (fd, name) => {
      if (entry.kind === "symlink") this.#libc.symlink(entry.target, fd, name);
      else if (entry.kind === "file" || entry.kind === "link" || entry.kind === "directory") {
        throw new TypeError(entry.kind);
      } else this.#libc.mknod(fd, name, entry.kind, 0o600, entry.rdevMajor, entry.rdevMinor);
    });
    this.close(entry);
  }

  /** Makes a name; one that an earlier attempt made is as good. */
  #make(path: BytePath, make: (fd: number, name: BytePath) => void): void {
    const { fd, name } = this.root.place(path);
    try {
      make(fd, name);
    } catch (error) {
      if (errorCode(error) !== "EEXIST") throw error;
    }
  }
}

/** 48 bits of a hash as a number: two contents that share them count as one, which only costs a copy. */
function contentKey(bytes: Uint8Array, at: number): number {
  let key = 0;
  for (let index = Math.max(0, at); index < at + 6; index++) key = key * 256 + (bytes[index] ?? 0);
  return key;
}
