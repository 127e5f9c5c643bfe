/**
 * Brings a plain directory (one without an overlay) from one version to another, in place.
 *
 * Each file is made whole beside the tree, before the journal says that the directory is on its way, and renamed over the old
 * one; deletions come first, directories' metadata last.
 * Every step looks at what is there before it acts, so the whole can be run again after a crash at any point; the
 * journal (`Pointers.pending`) says that it must. What is there and is neither the old version nor the new one, because a user
 * wrote it in between, is moved to `work/rescued-…` in the state directory, not overwritten.
 *
 * @module
 */
import { type BytePath, nameOf, parentOf, pathToText, rootPath } from "../base/path.ts";
import { DroverError } from "../base/errors.ts";
import { bytesEqual } from "../base/hex.ts";
import type { Change, Entry } from "../version/entry.ts";
import type { Manifest } from "../version/manifest.ts";
import type { FileStat, Libc } from "../../ffi/mod.ts";
import type { Beneath } from "./beneath.ts";
import { errorCode } from "./beneath.ts";
import { Breath } from "./breath.ts";
import { type Content, copyWithHoles } from "./content.ts";
import { applyMetadata, sameXattrs } from "./metadata.ts";
import type { ProgressEvent } from "./context.ts";
import { readTarget, statMatches } from "./walk.ts";

/** What the directory is brought to. */
export interface PlainPlan {
  before: Manifest;
  after: Manifest;
  /** `diffManifests(before, after)`. */
  changes: readonly Change[];
  owners: boolean;
  /** A directory on the same file system where new files are made. */
  workshop: Beneath;
  content: Content;
  log?: ((line: string) => void) | undefined;
  progress?: ((event: ProgressEvent) => void) | undefined;
}

/**
 * Makes beforehand, in the workshop, what needs room or might be refused: the directory is not touched. What goes wrong after that
 * leaves a directory between two versions until it is put right, so it should go wrong here.
 */
export async function preparePlain(root: Beneath, plan: PlainPlan): Promise<void> {
  try {
    await new PlainApply(root, plan).prepare();
  } catch (error) {
    sweepWorkshop(plan.workshop);
    throw error;
  }
}

/** Applies the plan to the directory `root`. Run again, it does what is left. */
export async function applyPlain(root: Beneath, plan: PlainPlan): Promise<void> {
  await new PlainApply(root, plan).run();
}

/** Removes what was prepared and is not needed; what was rescued stays. */
export function sweepWorkshop(workshop: Beneath): void {
  for (const { name } of workshop.list(rootPath)) if (/^(new|made)-\d+$/.test(name)) workshop.removeAll(name);
}

class PlainApply {
  readonly #root: Beneath;
  readonly #plan: PlainPlan;
  readonly #libc: Libc;
  readonly #breath = new Breath();
  #serial = 0;
  #done = 0;

  constructor(root: Beneath, plan: PlainPlan) {
    this.#root = root;
    this.#plan = plan;
    this.#libc = root.libc;
  }

  async prepare(): Promise<void> {
    const { changes, after, workshop, owners } = this.#plan;
    for (const [index, { before, after: entry }] of changes.entries()) {
      if (entry === null || entry.kind === "link") continue;
      const keepsInode = entry.kind === "directory" || before !== null && sameContent(before, entry) &&
          after.namesOf(entry.path).length === this.#plan.before.namesOf(entry.path).length;
      if (!keepsInode) this.#makeAs(entry, madeName(index));
      else if (entry.xattrs.length > 0 || entry.mtimeSeconds < 0 || entry.mtimeSeconds >= 2 ** 31) {
        const made = this.#inWorkshop((fd, name) => this.#libc.mkdir(fd, name, 0o700));
        applyMetadata(this.#libc, workshop.fd, made, entry, { owners, replace: false });
        workshop.removeAll(made);
      }
      await this.#pause();
    }
  }

  async run(): Promise<void> {
    const { changes } = this.#plan;
    this.#openDirectories();
    for (const change of [...changes].reverse()) {
      if (change.before !== null && change.after?.kind !== change.before.kind) this.#delete(change.before);
      if (this.#breath.due) await this.#breath.take();
    }
    for (const { after } of changes) if (after?.kind === "directory") this.#makeDirectory(after.path);
    for (const [index, { after }] of changes.entries()) {
      if (after === null || after.kind === "directory" || after.kind === "link") continue;
      this.#make(after, madeName(index));
      await this.#pause();
    }
    for (const { after } of changes) {
      if (after?.kind !== "link") continue;
      this.#link(after);
      await this.#pause();
    }
    this.#closeDirectories();
    this.#root.forget();
    sweepWorkshop(this.#plan.workshop);
  }

  async #pause(): Promise<void> {
    this.#done++;
    if (!this.#breath.due) return;
    this.#plan.progress?.({
      phase: "apply",
      done: this.#done,
      total: this.#plan.changes.length,
      unit: "entries",
    });
    await this.#breath.take();
  }

  #delete(before: Entry): void {
    const stat = this.#root.stat(before.path);
    if (stat === null) return;
    const { fd, name } = this.#root.place(before.path);
    if (stat.kind === "directory") {
      const wanted = this.#plan.after.get(before.path);
      if (wanted?.kind === "directory") return; // already there from an earlier attempt
      this.#root.forget();
      const again = this.#root.place(before.path);
      try {
        this.#libc.rmdir(again.fd, again.name);
      } catch (error) {
        if (errorCode(error) !== "ENOTEMPTY") throw error;
        this.#rescue(before.path, "it holds files that no version has");
      }
      return;
    }
    if (this.#looksLike(stat, this.#plan.after, before.path)) return; // from an earlier attempt; completed later
    if (!this.#looksLike(stat, this.#plan.before, before.path)) {
      this.#rescue(before.path, "it was changed meanwhile");
    } else this.#libc.unlink(fd, name);
  }

  #likeOwned(stat: FileStat, entry: Entry): FileStat {
    return this.#plan.owners ? stat : { ...stat, uid: entry.uid, gid: entry.gid };
  }

  /** Whether a name is as a version has it, as far as stat tells; how many other names it has does not count. */
  #looksLike(stat: FileStat, version: Manifest, path: BytePath): boolean {
    const named = version.get(path);
    const entry = named?.kind === "link" ? version.get(named.target) : named;
    return entry !== null && statMatches(this.#likeOwned(stat, entry), entry);
  }

  #makeDirectory(path: BytePath): void {
    if (path === rootPath) return;
    const stat = this.#root.stat(path);
    if (stat?.kind === "directory") return;
    if (stat !== null) this.#rescue(path, "it is in the way of a directory");
    const { fd, name } = this.#root.place(path);
    this.#libc.mkdir(fd, name, 0o700);
  }

  #make(after: Entry, made: BytePath): void {
    const stat = this.#root.stat(after.path);
    const before = this.#plan.before.get(after.path);
    if (stat !== null && this.#isAlready(after, stat)) return;
    if (stat !== null && before !== null && this.#onlyMetadata(before, after, stat)) {
      const { fd, name } = this.#root.place(after.path);
      return applyMetadata(this.#libc, fd, name, after, { owners: this.#plan.owners, replace: true });
    }
    const isOurs = stat === null || this.#looksLike(stat, this.#plan.before, after.path) ||
      this.#looksLike(stat, this.#plan.after, after.path);
    if (!isOurs) {
      this.#rescue(after.path, before === null ? "it was made meanwhile" : "it was changed meanwhile");
    }
    // Not there any more when an earlier attempt moved it into place, and somebody then changed that.
    if (this.#plan.workshop.stat(made) === null) this.#makeAs(after, made);
    const { fd, name } = this.#root.place(after.path);
    this.#libc.rename(this.#plan.workshop.fd, made, fd, name);
  }

  /** Makes a whole file, symlink or special in the workshop. */
  #makeAs(after: Entry, made: BytePath): void {
    const { workshop, owners } = this.#plan;
    workshop.removeAll(made);
    this.#create(after, workshop.fd, made);
    applyMetadata(this.#libc, workshop.fd, made, after, { owners, replace: false });
  }

  /** Whether an earlier attempt, or nobody at all, already made it so. Content is told by size and mtime, as rsync does. */
  #isAlready(after: Entry, stat: FileStat): boolean {
    let before = this.#plan.before.get(after.path);
    if (before?.kind === "link") before = this.#plan.before.get(before.target);
    if (
      before?.kind === "file" && after.kind === "file" && before.mtimeSeconds === after.mtimeSeconds &&
      before.mtimeNanos === after.mtimeNanos && before.size === after.size
    ) return false; // stat cannot tell them apart
    if (!statMatches(this.#likeOwned(stat, after), after)) return false;
    if (after.kind === "file") return stat.nlink === this.#plan.after.namesOf(after.path).length;
    return after.kind === "symlink" && readTarget(this.#root, after.path) === after.target &&
      sameXattrs(this.#root.xattrs(after.path), after.xattrs);
  }

  #onlyMetadata(before: Entry, after: Entry, stat: FileStat): boolean {
    if (!sameContent(before, after) || stat.kind !== "file") return false;
    return stat.size === after.size && stat.nlink === this.#plan.after.namesOf(after.path).length &&
      stat.mtimeSeconds === before.mtimeSeconds && stat.mtimeNanos === before.mtimeNanos;
  }

  #create(after: Entry, fd: number, name: BytePath): void {
    if (after.kind === "symlink") return this.#libc.symlink(after.target, fd, name);
    if (after.kind !== "file") {
      if (after.kind === "directory" || after.kind === "link") throw new TypeError(after.kind);
      return this.#libc.mknod(fd, name, after.kind, 0o600, after.rdevMajor, after.rdevMinor);
    }
    const target = this.#plan.workshop.create(name);
    try {
      if (after.size > 0) this.#fill(after, target);
    } finally {
      this.#libc.close(target);
    }
  }

  #fill(after: Entry, target: number): void {
    const source = after.digest === null ? null : this.#plan.content.open(after.digest, after.size);
    if (source === null) {
      throw new DroverError(
        "corrupt",
        `Cannot make "${pathToText(after.path)}": its content is not in the store`,
        {
          hint: "run `drover fs verify DIR`",
        },
      );
    }
    try {
      copyWithHoles(this.#libc, source, target, after.size);
    } finally {
      this.#libc.close(source);
    }
  }

  #link(after: Entry): void {
    const leader = this.#root.stat(after.target);
    const stat = this.#root.stat(after.path);
    if (leader !== null && stat !== null && leader.inode === stat.inode && leader.device === stat.device) {
      return;
    }
    const isOurs = stat === null || this.#looksLike(stat, this.#plan.before, after.path) ||
      this.#looksLike(stat, this.#plan.after, after.path);
    if (!isOurs) this.#rescue(after.path, "it was changed meanwhile");
    const made = this.#inWorkshop((fd, name) => {
      const source = this.#root.place(after.target);
      this.#libc.link(source.fd, source.name, fd, name);
    });
    const { fd, name } = this.#root.place(after.path);
    this.#libc.rename(this.#plan.workshop.fd, made, fd, name);
  }

  #inWorkshop(make: (fd: number, name: BytePath) => void): BytePath {
    const name = `new-${this.#serial++}` as BytePath;
    this.#plan.workshop.removeAll(name);
    make(this.#plan.workshop.fd, name);
    return name;
  }

  /** Moves what is in the way out of it, where the user finds it. */
  #rescue(path: BytePath, why: string): void {
    const { fd, name } = this.#root.place(path);
    for (let serial = 0;; serial++) {
      const kept = `rescued-${serial}-${nameOf(path).slice(0, 200)}` as BytePath;
      if (this.#plan.workshop.stat(kept) !== null) continue;
      this.#libc.rename(fd, name, this.#plan.workshop.fd, kept);
      this.#root.forget();
      this.#plan.log?.(
        `"${pathToText(path)}" was moved to "${pathToText(kept)}" in the state directory: ${why}`,
      );
      return;
    }
  }

  /**
   * An ordinary user cannot change what is in a directory whose mode denies it to its owner. The mode comes back when the
   * directories are closed.
   */
  #openDirectories(): void {
    if (this.#plan.owners) return;
    const parents = new Set(this.#plan.changes.map(({ path }) => parentOf(path)));
    for (const path of [...parents].sort()) {
      const stat = this.#root.stat(path);
      if (stat?.kind !== "directory" || (stat.mode & 0o300) === 0o300) continue;
      const { fd, name } = this.#root.place(path);
      this.#libc.chmod(fd, name, stat.mode | 0o700);
    }
  }

  /** Directories that changed, or in which something changed, get their metadata; the deepest first. */
  #closeDirectories(): void {
    const touched = new Set<BytePath>();
    for (const { path, after } of this.#plan.changes) {
      if (after?.kind === "directory") touched.add(path);
      if (path !== rootPath) touched.add(parentOf(path));
    }
    for (const path of [...touched].sort().reverse()) {
      const entry = this.#plan.after.get(path);
      if (entry?.kind !== "directory") continue;
      const { fd, name } = this.#root.place(path);
      applyMetadata(this.#libc, fd, name, entry, { owners: this.#plan.owners, replace: true });
    }
  }
}

/** Where the file of a change is made. */
function madeName(index: number): BytePath {
  return `made-${index}` as BytePath;
}

function sameContent(before: Entry, after: Entry): boolean {
  return before.kind === "file" && after.kind === "file" && before.digest !== null && after.digest !== null &&
    bytesEqual(before.digest, after.digest);
}
