/**
 * What a working tree holds now, as a manifest: for an overlay from the upper directory alone, in time
 * proportional to the changes; otherwise by walking everything.
 *
 * The upper says what differs from the version that is mounted below it (`base`):
 * - a 0:0 device, or an empty file with the `whiteout` xattr: the name is deleted;
 * - a directory with `opaque`, or over something that is no directory: nothing of below shows in it;
 * - a directory with `redirect`: it shows what the version below has at another path;
 * - a file with `metacopy`: only its metadata changed, its content is the one below (here it reads as zeros);
 * - anything else: as it is.
 *
 * Hard links: without the `index` a name that is written parts from the others, so names in the upper belong together by
 * their inode there, and the names below by the version below. With it they stay together, and only the inode numbers of the
 * *merged* view tell how. (Without it those may lie: in a user namespace a file that was copied up has its old number until
 * the kernel forgets it.)
 *
 * @module
 */
import { type BytePath, joinPath, parentOf, pathFromBytes, pathToText, rootPath } from "../base/path.ts";
import { DroverError } from "../base/errors.ts";
import { bytesEqual } from "../base/hex.ts";
import type { Change, Entry } from "../version/entry.ts";
import { Manifest } from "../version/manifest.ts";
import { hasOverlayXattr, isWhiteoutDevice, opacity, overlayXattr } from "../version/whiteout.ts";
import type { FileStat, Xattr } from "../../ffi/mod.ts";
import type { Beneath } from "./beneath.ts";
import { Breath } from "./breath.ts";
import type { ProgressEvent } from "./context.ts";
import { sameXattrs } from "./metadata.ts";
import {
  entryOf,
  Hasher,
  linkEntry,
  ownXattrs,
  present,
  readTarget,
  type Seen,
  Settled,
  stampOf,
  statMatches,
  visitNow,
  type Walked,
  walkTree,
} from "./walk.ts";

/** A tree as it is now. */
export interface Captured {
  manifest: Manifest;
  /** Files whose bytes are in the directory that was captured, by hash; for an overlay the upper, not the merged view. */
  content: { digest: Uint8Array<ArrayBuffer>; path: BytePath }[];
  /** Files whose bytes are to be had through the merged view only. */
  outside: { digest: Uint8Array<ArrayBuffer>; path: BytePath }[];
  /** For the stat cache. */
  seen: Walked["seen"];
  /** Bytes that were read and hashed. */
  hashed: number;
  /**
   * Names that are not in the upper but whose inode is, by the overlay's index: it has another name there, or had one. Frozen
   * as it is, the layer would part them.
   */
  apart: BytePath[];
}

/** Common options of both captures. */
export interface CaptureOptions {
  now: () => number;
  seen: ReadonlyMap<BytePath, Seen>;
  /** Flushes what programs wrote through memory maps; without it nobody can be writing. */
  flush?: (() => Promise<void>) | undefined;
  progress?: ((event: ProgressEvent) => void) | undefined;
}

/** Captures a plain directory. */
export async function captureWalk(
  root: Beneath,
  options: CaptureOptions & { base: Manifest; owners: boolean },
): Promise<Captured> {
  const content: Captured["content"] = [];
  const walked = await walkTree(root, {
    ...options,
    onFile: (path, _stat, digest) => content.push({ digest, path }),
  });
  if (!options.owners) { for (const entry of walked.entries) keepOwner(entry, options.base.get(entry.path)); }
  return {
    manifest: Manifest.build(walked.entries),
    content,
    outside: [],
    seen: walked.seen,
    hashed: walked.hashed,
    apart: [],
  };
}

/** Where owners cannot be set, they are not compared either: an entry keeps the owner that its version gives it. */
function keepOwner(entry: Entry, known: Entry | null): void {
  if (known === null || known.kind !== entry.kind) return;
  entry.uid = known.uid;
  entry.gid = known.gid;
}

/** Captures the upper directory of an overlay over version `base`. */
export async function captureUpper(
  upper: Beneath,
  options: CaptureOptions & {
    base: Manifest;
    /** The mounted tree; null when it is not mounted (hard links are then told from the upper alone). */
    merged: Beneath | null;
    /** It is mounted with the inode index. */
    index: boolean;
    owners: boolean;
  },
): Promise<Captured> {
  const scan = new UpperScan(upper, options.base, options);
  await scan.run();
  await scan.regroupLinks(options.merged, options.index);
  const changes: Change[] = [];
  for (const path of [...scan.view.keys()].sort()) {
    const before = options.base.get(path);
    const after = scan.view.get(path) ?? null;
    if (after !== null && !options.owners) keepOwner(after, before);
    if (before !== null || after !== null) changes.push({ path, before, after });
  }
  return {
    manifest: options.base.apply(changes),
    content: scan.content,
    outside: scan.outside,
    seen: scan.seen,
    hashed: scan.hashed,
    apart: scan.apart,
  };
}

/** One pass over an upper directory. `view` holds what differs from `base`: the entry that is there now, or null. */
class UpperScan {
  readonly view = new Map<BytePath, Entry | null>();
  readonly content: Captured["content"] = [];
  readonly outside: Captured["outside"] = [];
  readonly seen: Walked["seen"] = [];
  readonly apart: BytePath[] = [];
  hashed = 0;
  readonly #upper: Beneath;
  readonly #base: Manifest;
  readonly #options: CaptureOptions;
  readonly #hasher: Hasher;
  readonly #settled: Settled;
  readonly #breath = new Breath();
  /** Entries that a redirected directory brought along: where they are now, and where `base` has them. */
  readonly #movedFrom = new Map<BytePath, BytePath>();
  /** Files of the upper that have further names, by upper inode. */
  readonly #linked: { path: BytePath; inode: string }[] = [];
  /** Upper inodes of all files of the upper, where the version below has hard links that they may have left. */
  readonly #inodes = new Map<BytePath, string>();

  constructor(upper: Beneath, base: Manifest, options: CaptureOptions) {
    this.#upper = upper;
    this.#base = base;
    this.#options = options;
    this.#hasher = new Hasher(upper.libc);
    this.#settled = new Settled(options);
  }

  async run(): Promise<void> {
    const stat = this.#upper.libc.fstat(this.#upper.fd);
    this.view.set(rootPath, entryOf(rootPath, stat, ownXattrs(this.#upper.xattrs(rootPath)), null, rootPath));
    // `below` is where the version below has what this directory shows; null when it shows nothing of it.
    const pending: { path: BytePath; below: BytePath | null }[] = [{ path: rootPath, below: rootPath }];
    for (let next = pending.pop(); next !== undefined; next = pending.pop()) {
      const list = present(() => this.#upper.list(next.path));
      if (list === null) this.#remove(next.path, next.below);
      for (const found of list ?? []) {
        const path = joinPath(next.path, found.name);
        const below = next.below === null ? null : joinPath(next.below, found.name);
        if (this.#breath.due) {
          this.#options.progress?.({ phase: "capture", done: this.view.size, total: 0, unit: "entries" });
          await this.#breath.take();
        }
        const isThere = await visitNow(this.#upper, path, found, async (now) => {
          if (now.kind === "directory") {
            const xattrs = this.#upper.xattrs(path);
            pending.push({ path, below: this.#directory(path, below, now, xattrs) });
          } else await this.#leaf(path, below, now);
        });
        if (!isThere) this.#remove(path, below);
      }
    }
  }

  /** Takes in a directory; returns where its content below comes from. */
  #directory(path: BytePath, below: BytePath | null, stat: FileStat, xattrs: Xattr[]): BytePath | null {
    const redirect = overlayXattr(xattrs, "redirect");
    let from = below;
    if (opacity(xattrs) === "opaque") from = null;
    else if (redirect !== null) from = resolveRedirect(redirect, below);
    if (from !== null && this.#base.get(from)?.kind !== "directory") from = null;
    if (from !== path) {
      if (from !== below || below === null) this.#remove(path, below);
      if (from !== null && from !== below) this.#bring(from, path);
    }
    this.view.set(path, entryOf(path, stat, ownXattrs(xattrs), null, rootPath));
    return from;
  }

  /** Everything that is no directory. */
  async #leaf(path: BytePath, below: BytePath | null, found: FileStat): Promise<void> {
    this.#remove(path, below);
    if (isWhiteoutDevice(found)) return;
    const xattrs = this.#upper.xattrs(path);
    if (found.kind === "file" && found.size === 0 && hasOverlayXattr(xattrs, "whiteout")) return;
    let stat = found;
    let digest: Uint8Array<ArrayBuffer> | null = null;
    if (found.kind === "file") {
      if (hasOverlayXattr(xattrs, "metacopy")) digest = this.#digestBelow(path, below, found, xattrs);
      else {
        const known = this.#options.seen.get(path);
        if (known !== undefined && known.stamp === stampOf(found)) digest = known.digest;
        else {
          await this.#settled.begin();
          ({ digest, stat } = this.#hasher.stable(this.#upper, path));
          this.hashed += stat.size;
          if (this.#settled.vouches(stat)) this.seen.push({ path, stamp: stampOf(stat), digest });
        }
        this.content.push({ digest, path });
      }
      if (found.nlink > 1) this.#linked.push({ path, inode: `${found.inode}` });
      if (this.#base.totals.links > 0) this.#inodes.set(path, `${found.inode}`);
    }
    const target = found.kind === "symlink" ? readTarget(this.#upper, path) : rootPath;
    this.view.set(path, entryOf(path, stat, ownXattrs(xattrs), digest, target));
  }

  /** The content of a file that was copied up without it. */
  #digestBelow(
    path: BytePath,
    below: BytePath | null,
    stat: FileStat,
    xattrs: Xattr[],
  ): Uint8Array<ArrayBuffer> {
    const redirect = overlayXattr(xattrs, "redirect");
    const from = redirect === null ? below : resolveRedirect(redirect, below);
    let entry = from === null ? null : this.#base.get(from);
    if (entry?.kind === "link") entry = this.#base.get(entry.target);
    if (entry === null || entry.digest === null || entry.size !== stat.size) {
      throw new DroverError(
        "corrupt",
        `Cannot capture "${pathToText(path)}": its content is in "${
          from === null ? "?" : pathToText(from)
        }" below, ` +
          `which has no file of ${stat.size} bytes`,
      );
    }
    return entry.digest;
  }

  /** `path` no longer shows what it showed: what `base` has there, and what a moved parent brought there from `below`. */
  #remove(path: BytePath, below: BytePath | null): void {
    if (this.#erase(path)) {
      for (const entry of this.#base.under(path)) this.#erase(entry.path);
    }
    if (below === null || below === path) return;
    for (const entry of this.#base.under(below)) {
      this.#erase(path + entry.path.slice(below.length) as BytePath);
    }
  }

  /** Returns whether `base` has a directory there. */
  #erase(path: BytePath): boolean {
    this.#movedFrom.delete(path);
    const index = this.#base.indexOf(path);
    if (index < 0) this.view.delete(path);
    else this.view.set(path, null);
    return index >= 0 && this.#base.kindAt(index) === "directory";
  }

  /** A redirected directory shows at `to` what `base` has at `from`. */
  #bring(from: BytePath, to: BytePath): void {
    for (const entry of this.#base.under(from)) {
      const path = to + entry.path.slice(from.length) as BytePath;
      this.view.set(path, { ...entry, path });
      this.#movedFrom.set(path, entry.path);
    }
  }

  /** Works out anew every hard-link group of which a name was touched. */
  async regroupLinks(merged: Beneath | null, index: boolean): Promise<void> {
    const members = this.#groupMembers();
    const groups = new Map<string, BytePath[]>();
    for (const { path, fallback } of members) {
      const stat = index ? merged?.stat(path) ?? null : null;
      const key = stat === null ? fallback : `${stat.device}.${stat.inode}`;
      const group = groups.get(key);
      if (group === undefined) groups.set(key, [path]);
      else group.push(path);
    }
    const inUpper = new Set(this.#linked.map(({ path }) => path));
    for (const group of groups.values()) {
      group.sort();
      const [leader, ...others] = group;
      if (leader === undefined) continue;
      const isThere = group.some((path) => inUpper.has(path));
      let full = this.#fullEntry(group, inUpper);
      if (isThere) this.apart.push(...group.filter((path) => !inUpper.has(path)));
      else if (merged !== null && index) {
        const now = await this.#throughIndex(merged, leader, full);
        if (now !== full) this.apart.push(...group);
        if (now !== full && now.digest !== null) this.outside.push({ digest: now.digest, path: leader });
        full = now;
      }
      this.view.set(leader, { ...full, path: leader });
      for (const path of others) this.view.set(path, linkEntry(path, leader));
    }
  }

  /**
   * What a group shows of which no name is in the upper. The name under which it was written may be gone again; then only the
   * index has its content, and nothing but the merged view tells. Returns `full` where that is what it shows.
   */
  async #throughIndex(merged: Beneath, path: BytePath, full: Entry): Promise<Entry> {
    const found = merged.stat(path);
    if (found === null) return full;
    let stat = found;
    let digest = this.#options.seen.get(path)?.digest ?? null;
    if (digest === null || this.#options.seen.get(path)?.stamp !== stampOf(found)) {
      await this.#settled.begin();
      ({ digest, stat } = this.#hasher.stable(merged, path));
      this.hashed += stat.size;
      if (this.#settled.vouches(stat)) this.seen.push({ path, stamp: stampOf(stat), digest });
    }
    const now = entryOf(path, stat, ownXattrs(merged.xattrs(path)), digest, rootPath);
    const same = statMatches(stat, full) && full.digest !== null && bytesEqual(digest, full.digest) &&
      sameXattrs(now.xattrs, full.xattrs);
    return same ? full : now;
  }

  /** Paths that are there now and may share an inode, with what tells them apart when the tree is not mounted. */
  #groupMembers(): { path: BytePath; fallback: string }[] {
    const members = new Map<BytePath, string>();
    if (this.#base.totals.links > 0) {
      const nowAt = new Map<BytePath, BytePath>();
      for (const [path, from] of this.#movedFrom) nowAt.set(from, path);
      const leaders = new Set<BytePath>();
      for (const path of this.view.keys()) {
        for (const at of [path, this.#movedFrom.get(path)]) {
          const entry = at === undefined ? null : this.#base.get(at);
          if (entry?.kind === "link") leaders.add(entry.target);
          else if (entry?.kind === "file" && this.#base.namesOf(entry.path).length > 1) {
            leaders.add(entry.path);
          }
        }
      }
      for (const leader of leaders) {
        for (const name of this.#base.namesOf(leader)) {
          for (const path of [name, nowAt.get(name)]) {
            if (path === undefined) continue;
            const now = this.view.has(path)
              ? this.view.get(path) ?? null
              : path === name
              ? this.#base.get(name)
              : null;
            if (now?.kind !== "file" && now?.kind !== "link") continue;
            const inode = this.#inodes.get(path);
            members.set(path, inode === undefined ? `base ${leader}` : `upper ${inode}`);
          }
        }
      }
    }
    for (const { path, inode } of this.#linked) {
      if (this.view.get(path)?.kind === "file") members.set(path, `upper ${inode}`);
    }
    return [...members].map(([path, fallback]) => ({ path, fallback }));
  }

  /** The entry with metadata and hash for a group: from a name that is in the upper, else from the version below. */
  #fullEntry(group: BytePath[], inUpper: ReadonlySet<BytePath>): Entry {
    let below: Entry | null = null;
    for (const path of group) {
      const now = this.view.get(path);
      if (now?.kind === "file" && (inUpper.has(path) || !this.#movedFrom.has(path))) return now;
      const before = this.#base.get(this.#movedFrom.get(path) ?? path);
      below ??= before?.kind === "link" ? this.#base.get(before.target) : before;
    }
    if (below === null) {
      throw new DroverError("corrupt", `Cannot capture "${pathToText(group[0] ?? rootPath)}": no content`);
    }
    return below;
  }
}

/** Where a `redirect` leads: `/path` from the root of the version below, or a name beside what is below. */
function resolveRedirect(value: Uint8Array, below: BytePath | null): BytePath | null {
  const redirect = pathFromBytes(value);
  if (redirect.startsWith("/")) return redirect.slice(1) as BytePath;
  return below === null ? null : joinPath(parentOf(below), redirect);
}
