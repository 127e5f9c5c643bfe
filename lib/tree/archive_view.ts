/**
 * What a tar means on top of a version: members one by one → the manifest of the next version.
 *
 * Members count in their order, as when unpacking: a later one of the same path replaces an earlier one. Only
 * whiteouts are different: `.wh.NAME` and `.wh..wh..opq` take away what the version below has, never what the same archive
 * brings, before or after them. With `whiteouts: false` such names are ordinary ones, and the version below is empty.
 *
 * A path is only ever looked up among entries, never on disk: nothing is written through a symlink that the archive
 * or the tree has. A member below something that is no directory is refused; a parent that is nowhere gets a
 * default entry (0755, root, the time of the member that needs it).
 *
 * @module
 */
import { FormatError } from "../base/errors.ts";
import { type BytePath, nameOf, parentOf, pathToText, rootPath } from "../base/path.ts";
import { diffManifests } from "../version/diff.ts";
import type { Change, Entry } from "../version/entry.ts";
import type { Manifest } from "../version/manifest.ts";
import type { TarEntry } from "../version/tar_reader.ts";
import { layerItemMeaning, whiteoutMetaPrefix, whiteoutNamePrefix } from "../version/whiteout.ts";
import { linkEntry } from "./walk.ts";

/** The most bytes that the names, targets and xattrs of one archive may have, with a fixed part for each entry. */
const metadataSizeMax = 512 << 20;

/** What an entry costs besides its names and xattrs. */
const entryCost = 96;

/** Something that one or more paths name. The path in its entry means nothing. */
interface Inode {
  entry: Entry;
  /** Where its content was put; -1 where there is none, or where the version below has it. */
  staged: number;
}

/** What a path names now; `below` where it is so because of the version below, regrouped. */
interface Item {
  inode: Inode;
  below: boolean;
}

/** What came out. */
export interface Viewed {
  manifest: Manifest;
  /** `diffManifests` of the version below and `manifest`. */
  changes: Change[];
  /** Where the content of changed files was put. What is in `changes` and not here the version below has. */
  staged: Map<BytePath, number>;
}

/** A version with the members of an archive on top. */
export class ArchiveView {
  readonly #base: Manifest;
  readonly #whiteouts: boolean;
  /** What differs from `base`, or may; null where nothing is any more. */
  readonly #view = new Map<BytePath, Item | null>();
  /** First names of hard-link groups of `base` that are in `view` with all their names. */
  readonly #regrouped = new Set<BytePath>();
  /** Paths below which nothing of `base` shows any more. */
  readonly #erased = new Set<BytePath>();
  #goodParent: BytePath | null = null;
  #cost = 0;

  /** @param base the version below; `Manifest.empty` for an archive that is a whole tree. */
  constructor(base: Manifest, options: { whiteouts: boolean }) {
    this.#base = base;
    this.#whiteouts = options.whiteouts;
  }

  /** Takes a member in if it is a whiteout, or bookkeeping of one; false where it is an entry. */
  takeSign(member: TarEntry): boolean {
    if (!this.#whiteouts || !member.path.includes(whiteoutNamePrefix)) return false;
    const parent = parentOf(member.path);
    for (const name of parent.split("/")) {
      if (!name.startsWith(whiteoutNamePrefix)) continue;
      if (name.startsWith(whiteoutMetaPrefix)) return true;
      throw fault("whiteout", member.path, "it lies below a whiteout");
    }
    const meaning = layerItemMeaning({ ...member, name: nameOf(member.path) }, {
      names: true,
      xattrWhiteouts: false,
    });
    if (meaning.is === "whiteout") {
      this.#erase((parent === "" ? meaning.name : `${parent}/${meaning.name}`) as BytePath);
    } else if (meaning.is === "opaque-marker") {
      this.#makeParents(member);
      this.#eraseBelow(parent);
    } else if (meaning.is === "entry") return false;
    return true;
  }

  /** Takes in a member with its content. `staged` as in `Inode`. */
  put(member: TarEntry, digest: Uint8Array<ArrayBuffer> | null, staged: number): void {
    this.#set(member, { entry: { ...member, digest }, staged });
  }

  /** Takes in a hard link. Its target is something of this archive, or of the version below. */
  link(member: TarEntry): void {
    this.#regroup(member.target);
    const item = this.#view.get(member.target);
    const entry = item === undefined ? this.#base.get(member.target) : item?.inode.entry ?? null;
    if (entry === null) {
      throw fault("link", member.path, `its target "${pathToText(member.target)}" is not there`);
    }
    if (entry.kind === "directory") throw fault("link", member.path, "its target is a directory");
    if (member.target === member.path) return;
    let inode = item?.inode;
    if (inode === undefined) {
      // A file of the version below with one name so far: now it is a group.
      inode = { entry, staged: -1 };
      this.#view.set(member.target, { inode, below: true });
    }
    this.#set(member, inode);
  }

  /** The version that results. @throws {FormatError} where it is no tree. */
  finish(): Viewed {
    const groups = new Map<Inode, BytePath[]>();
    for (const [path, item] of this.#view) {
      if (item?.inode.entry.kind !== "file") continue;
      const group = groups.get(item.inode);
      if (group === undefined) groups.set(item.inode, [path]);
      else group.push(path);
    }
    const leaders = new Map<Inode, BytePath>();
    for (const [inode, group] of groups) leaders.set(inode, group.reduce((a, b) => a < b ? a : b));
    const changes: Change[] = [];
    const staged = new Map<BytePath, number>();
    for (const path of [...this.#view.keys()].sort()) {
      const item = this.#view.get(path) ?? null;
      const before = this.#base.get(path);
      let after: Entry | null = null;
      if (item !== null) {
        const leader = leaders.get(item.inode) ?? path;
        after = leader === path ? { ...item.inode.entry, path } : linkEntry(path, leader);
        if (leader === path && item.inode.staged >= 0) staged.set(path, item.inode.staged);
      }
      if (before !== null || after !== null) changes.push({ path, before, after });
    }
    const manifest = this.#base.apply(changes);
    return { manifest, changes: diffManifests(this.#base, manifest), staged };
  }

  #look(path: BytePath): Entry | null {
    const item = this.#view.get(path);
    return item === undefined ? this.#base.get(path) : item?.inode.entry ?? null;
  }

  #set(member: TarEntry, inode: Inode): void {
    const { path } = member;
    this.#makeParents(member);
    if (inode.entry.kind !== "directory" && this.#look(path)?.kind === "directory") {
      this.#eraseBelow(path);
      this.#goodParent = null;
    }
    this.#regroup(path);
    this.#place(path, { inode, below: false });
  }

  #place(path: BytePath, item: Item): void {
    this.#cost += entryCost + path.length + item.inode.entry.target.length;
    for (const { name, value } of item.inode.entry.xattrs) this.#cost += name.length + value.length;
    if (this.#cost > metadataSizeMax) {
      throw fault("metadata", path, `the archive has more than ${metadataSizeMax} bytes of metadata`);
    }
    this.#view.set(path, item);
  }

  #makeParents({ path, mtimeSeconds, mtimeNanos }: TarEntry): void {
    if (path === rootPath) return;
    const parent = parentOf(path);
    if (parent === this.#goodParent) return;
    const missing: BytePath[] = [];
    for (let at = parent;; at = parentOf(at)) {
      const there = this.#look(at);
      if (there?.kind === "directory") break;
      if (there !== null) {
        throw fault("parent", path, `"${pathToText(at)}" is a ${there.kind}, not a directory`);
      }
      missing.push(at);
      if (at === rootPath) break;
    }
    for (const at of missing.reverse()) {
      this.#place(at, {
        inode: { entry: defaultDirectory(mtimeSeconds, mtimeNanos), staged: -1 },
        below: false,
      });
    }
    this.#goodParent = parent;
  }

  /** What the version below has at `path` is gone, with everything below it. */
  #erase(path: BytePath): void {
    this.#goodParent = null;
    this.#hide(path);
    this.#eraseBelow(path);
  }

  #eraseBelow(directory: BytePath): void {
    for (let at = directory;; at = parentOf(at)) {
      if (this.#erased.has(at)) return;
      if (at === rootPath) break;
    }
    this.#erased.add(directory);
    const { start, end } = this.#base.rangeUnder(directory);
    for (let index = start; index < end; index++) this.#hide(this.#base.pathAt(index));
  }

  #hide(path: BytePath): void {
    if (path === rootPath || !this.#base.has(path)) return;
    this.#regroup(path);
    const item = this.#view.get(path);
    if (item === undefined || item?.below === true) this.#view.set(path, null);
  }

  /** Takes a hard-link group of the version below apart into its names, before one of them changes. */
  #regroup(path: BytePath): void {
    if (this.#base.totals.links === 0) return;
    const entry = this.#base.get(path);
    const leader = entry?.kind === "link" ? this.#base.get(entry.target) : entry;
    if (leader?.kind !== "file" || this.#regrouped.has(leader.path)) return;
    const names = this.#base.namesOf(leader.path);
    if (names.length < 2) return;
    this.#regrouped.add(leader.path);
    const inode = { entry: leader, staged: -1 };
    for (const name of names) if (!this.#view.has(name)) this.#place(name, { inode, below: true });
  }
}

function defaultDirectory(mtimeSeconds: number, mtimeNanos: number): Entry {
  return {
    path: rootPath,
    kind: "directory",
    mode: 0o755,
    uid: 0,
    gid: 0,
    mtimeSeconds,
    mtimeNanos,
    size: 0,
    digest: null,
    target: rootPath,
    rdevMajor: 0,
    rdevMinor: 0,
    xattrs: [],
  };
}

function fault(rule: string, path: BytePath, message: string): FormatError {
  return new FormatError(`tar.${rule}`, -1, `Cannot take in "${pathToText(path)}": ${message}`);
}
