/**
 * Reads a directory tree from disk into manifest entries, and single files into hashes.
 *
 * A file is hashed only when the stat cache does not vouch for it: same inode, ctime and size as when it was
 * hashed. ctime cannot be set by a program, so this also notices a change that put size and mtime back. A file changed
 * so recently that a further change might get the same ctime is never put into the cache. Each file is
 * looked at before and after it is read; one that changed meanwhile is read again.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { type BytePath, joinPath, pathToText, rootPath } from "../base/path.ts";
import { DroverError } from "../base/errors.ts";
import { emptyEntry, type Entry, type EntryKind } from "../version/entry.ts";
import { isOverlayXattr, isWhiteoutDevice } from "../version/whiteout.ts";
import type { FileStat, Libc, Xattr } from "../../ffi/mod.ts";
import { type Beneath, errorCode, isMissing } from "./beneath.ts";
import { Breath } from "./breath.ts";
import type { ProgressEvent } from "./context.ts";
import { O_NONBLOCK, O_RDONLY, SEEK_DATA } from "./posix.ts";

/** Kernels before 6.13 stamp times with the timer tick: two changes this close may share a ctime. */
const racyMs = 20;

/** How often a file that changes while it is read is tried again. */
const readTriesMax = 5;

const noBytes = new Uint8Array(0);
const zeros = new Uint8Array(1 << 18);

/** What the stat cache knows of a file. */
export interface Seen {
  stamp: string;
  digest: Uint8Array<ArrayBuffer>;
}

/** The result of a walk. */
export interface Walked {
  entries: Entry[];
  /** What should be added to the stat cache. */
  seen: { path: BytePath; stamp: string; digest: Uint8Array<ArrayBuffer> }[];
  /** Bytes that were read and hashed. */
  hashed: number;
}

/** What makes a file the same as when it was hashed. */
export function stampOf(stat: FileStat): string {
  return `${stat.inode}.${stat.ctimeSeconds}.${stat.ctimeNanos}.${stat.size}`;
}

/** Hashes files through one buffer. */
export class Hasher {
  readonly #libc: Libc;
  readonly #buffer = new Uint8Array(1 << 20);

  /** One per thread of work: the buffer is shared between calls. */
  constructor(libc: Libc) {
    this.#libc = libc;
  }

  /** sha256 and size of everything in an open file. The holes of a sparse file are hashed without being read. */
  hash(fd: number, stat: FileStat = this.#libc.fstat(fd)): { digest: Uint8Array<ArrayBuffer>; size: number } {
    const hash = createHash("sha256");
    const isSparse = stat.blocks * 512 < stat.size;
    let size = 0;
    for (;;) {
      if (isSparse) {
        const data = this.#libc.seek(fd, size, SEEK_DATA);
        const end = data < 0 ? stat.size : Math.min(data, stat.size);
        for (; size < end; size += Math.min(zeros.length, end - size)) {
          hash.update(zeros.subarray(0, Math.min(zeros.length, end - size)));
        }
      }
      const count = this.#libc.pread(fd, this.#buffer, size);
      if (count > 0) hash.update(this.#buffer.subarray(0, count));
      size += count;
      if (count < this.#buffer.length) break;
    }
    return { digest: new Uint8Array(hash.digest()), size };
  }

  /** Hashes `path` so that the result belongs to one state of the file; also returns that state. */
  stable(root: Beneath, path: BytePath): { digest: Uint8Array<ArrayBuffer>; stat: FileStat } {
    const fd = root.open(path, O_RDONLY | O_NONBLOCK);
    try {
      for (let tries = 0; tries < readTriesMax; tries++) {
        const before = this.#libc.fstat(fd);
        const { digest, size } = this.hash(fd, before);
        const after = this.#libc.fstat(fd);
        if (stampOf(before) === stampOf(after) && size === after.size) return { digest, stat: after };
      }
    } finally {
      this.#libc.close(fd);
    }
    throw new DroverError("busy", `Cannot read "${pathToText(path)}": it changes while it is read`, {
      hint: "stop the program that writes it, or try again when it is quiet",
    });
  }
}

/** Xattrs that belong to the tree: all but the overlay's own. */
export function ownXattrs(xattrs: readonly Xattr[]): Xattr[] {
  return xattrs.some((xattr) => isOverlayXattr(xattr.name))
    ? xattrs.filter((xattr) => !isOverlayXattr(xattr.name))
    : xattrs as Xattr[];
}

/** An entry from what the file system says; `digest` for files, `target` for symlinks. */
export function entryOf(
  path: BytePath,
  stat: FileStat,
  xattrs: Xattr[],
  digest: Uint8Array<ArrayBuffer> | null,
  target: BytePath,
): Entry {
  const isDevice = stat.kind === "char" || stat.kind === "block";
  return {
    path,
    kind: stat.kind as EntryKind,
    mode: stat.kind === "symlink" ? 0o777 : stat.mode,
    uid: stat.uid,
    gid: stat.gid,
    mtimeSeconds: stat.mtimeSeconds,
    mtimeNanos: stat.mtimeNanos,
    size: stat.kind === "file" ? stat.size : 0,
    digest,
    target,
    rdevMajor: isDevice ? stat.rdevMajor : 0,
    rdevMinor: isDevice ? stat.rdevMinor : 0,
    xattrs,
  };
}

/** A further name of the file whose smallest path is `target`. */
export function linkEntry(path: BytePath, target: BytePath): Entry {
  return { ...emptyEntry(path, "link"), target };
}

/**
 * Tells for which files the ctime proves anything. Not for one that changed just now: the next change might get the same
 * ctime. And a program that writes through a memory map changes the ctime only with its first write to a page after that
 * page was last flushed; so before anything is hashed for the stat cache everything is flushed, once, and a file that
 * changed after that began is not put into it.
 */
export class Settled {
  readonly #now: () => number;
  readonly #flush: (() => Promise<void>) | undefined;
  #since: number | null = null;

  /** Without `flush` nobody can be writing. */
  constructor(options: { now: () => number; flush?: (() => Promise<void>) | undefined }) {
    this.#now = options.now;
    this.#flush = options.flush;
  }

  /** To be called before a file is hashed. */
  async begin(): Promise<void> {
    if (this.#flush === undefined || this.#since !== null) return;
    const now = this.#now();
    await this.#flush();
    this.#since = now;
  }

  /** Whether a file that was hashed may go into the stat cache. */
  vouches(stat: FileStat): boolean {
    return stat.ctimeSeconds * 1000 + stat.ctimeNanos / 1e6 <= (this.#since ?? this.#now()) - racyMs;
  }
}

/**
 * Walks everything below `root`, the root itself included. Does not cross into other file systems. What is removed while
 * the walk is under way is left out.
 *
 * @throws {DroverError} "unsupported" for a mount point inside the tree, "busy" for a file that never stands still.
 */
export async function walkTree(root: Beneath, options: {
  now: () => number;
  seen?: ReadonlyMap<BytePath, Seen>;
  /** Flushes what programs wrote through memory maps; without it nobody can be writing. */
  flush?: (() => Promise<void>) | undefined;
  progress?: ((event: ProgressEvent) => void) | undefined;
  /** Called for each regular file's content, hashed or vouched for. */
  onFile?: (path: BytePath, stat: FileStat, digest: Uint8Array<ArrayBuffer>) => void;
}): Promise<Walked> {
  const { libc } = root;
  const hasher = new Hasher(libc);
  const breath = new Breath();
  const entries: Entry[] = [];
  const seenNow: Walked["seen"] = [];
  const leaders = new Map<string, Entry>();
  const links: Entry[] = [];
  let hashed = 0;
  const rootStat = libc.fstat(root.fd);
  entries.push(entryOf(rootPath, rootStat, ownXattrs(root.xattrs(rootPath)), null, rootPath));
  const settled = new Settled(options);
  const xattrsOf = (path: BytePath): Xattr[] => {
    const xattrs = root.xattrs(path);
    const foreign = xattrs.find((xattr) => isOverlayXattr(xattr.name));
    if (foreign !== undefined) throw overlayMark(path, `the xattr "${pathToText(foreign.name)}"`);
    return xattrs;
  };
  const visit = async (path: BytePath, found: FileStat): Promise<void> => {
    if (found.kind === "file") {
      const group = found.nlink > 1 ? `${found.device}.${found.inode}` : "";
      const leader = group === "" ? undefined : leaders.get(group);
      if (leader !== undefined) {
        links.push(linkEntry(path, leader.path));
        return;
      }
      let stat = found;
      let digest: Uint8Array<ArrayBuffer>;
      const known = options.seen?.get(path);
      if (known !== undefined && known.stamp === stampOf(found)) digest = known.digest;
      else {
        await settled.begin();
        ({ digest, stat } = hasher.stable(root, path));
        hashed += stat.size;
        if (settled.vouches(stat)) seenNow.push({ path, stamp: stampOf(stat), digest });
      }
      const entry = entryOf(path, stat, xattrsOf(path), digest, rootPath);
      options.onFile?.(path, stat, digest);
      entries.push(entry);
      if (group !== "") leaders.set(group, entry);
      return;
    }
    const target = found.kind === "symlink" ? readTarget(root, path) : rootPath;
    if (isWhiteoutDevice(found)) throw overlayMark(path, "a 0:0 device");
    entries.push(entryOf(path, found, xattrsOf(path), null, target));
    if (found.kind === "directory") pending.push(path);
  };
  const pending: BytePath[] = [rootPath];
  for (let directory = pending.pop(); directory !== undefined; directory = pending.pop()) {
    for (const found of present(() => root.list(directory)) ?? []) {
      const path = joinPath(directory, found.name);
      if (breath.due) {
        options.progress?.({ phase: "scan", done: entries.length, total: 0, unit: "entries" });
        await breath.take();
      }
      if (found.device !== rootStat.device) {
        throw new DroverError(
          "unsupported",
          `Cannot take in "${pathToText(path)}": another file system is mounted there`,
          {
            hint: "unmount it, or put that directory under drover by itself",
          },
        );
      }
      await visitNow(root, path, found, (now) => visit(path, now));
    }
  }
  entries.push(...regroup(links, leaders.values()));
  return { entries, seen: seenNow, hashed };
}

/** Whoever keeps the layers of overlays in a tree would lose what these marks say, or have it taken for ours. */
function overlayMark(path: BytePath, what: string): DroverError {
  return new DroverError(
    "unsupported",
    `Cannot take in "${pathToText(path)}": it is, or has, ${what} of an overlay's layer`,
    {
      hint: "keep the storage of containers out of the tree",
    },
  );
}

/**
 * Visits a name that was found in a directory. Where that fails because there is something else by now, that is visited
 * instead; false where there is nothing any more.
 */
export async function visitNow(
  root: Beneath,
  path: BytePath,
  found: FileStat,
  visit: (now: FileStat) => Promise<void>,
): Promise<boolean> {
  for (let now = found, tries = 1;; tries++) {
    try {
      await visit(now);
      return true;
    } catch (error) {
      if (errorCode(error) === undefined || tries >= readTriesMax) throw error;
      const next = root.stat(path);
      if (next === null) return false;
      if (next.inode === now.inode && next.kind === now.kind) throw error;
      now = next;
    }
  }
}

/** The result, or null where what was to be looked at has just been removed. */
export function present<Result>(look: () => Result): Result | null {
  try {
    return look();
  } catch (error) {
    if (isMissing(error)) return null;
    throw error;
  }
}

/** What a symlink says. */
export function readTarget(root: Beneath, path: BytePath): BytePath {
  const { fd, name } = root.place(path);
  return root.libc.readlink(fd, name);
}

/**
 * Makes the smallest path of each hard-link group its leader: the walk meets names in no particular order,
 * so the content may have been read under a later one.
 */
function regroup(links: Entry[], leaders: Iterable<Entry>): Entry[] {
  if (links.length === 0) return links;
  const groups = new Map<BytePath, Entry[]>();
  for (const link of links) {
    const group = groups.get(link.target);
    if (group === undefined) groups.set(link.target, [link]);
    else group.push(link);
  }
  for (const leader of leaders) {
    const group = groups.get(leader.path);
    if (group === undefined) continue;
    const smallest = group.reduce((a, b) => a.path < b.path ? a : b);
    if (smallest.path < leader.path) {
      const first = leader.path;
      leader.path = smallest.path;
      smallest.path = first;
    }
    for (const link of group) link.target = leader.path;
  }
  return links;
}

/** Whether a stat says the same as an entry, content and xattrs aside. */
export function statMatches(stat: FileStat, entry: Entry): boolean {
  return stat.kind === entry.kind && stat.uid === entry.uid && stat.gid === entry.gid &&
    stat.mtimeSeconds === entry.mtimeSeconds && stat.mtimeNanos === entry.mtimeNanos &&
    (stat.kind === "symlink" || stat.mode === entry.mode) &&
    (stat.kind !== "file" || stat.size === entry.size);
}

/** The digest of a file of size 0. */
export const emptyDigest: Uint8Array<ArrayBuffer> = new Uint8Array(
  createHash("sha256").update(noBytes).digest(),
);
