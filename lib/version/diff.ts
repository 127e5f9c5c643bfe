/**
 * What changed between two manifests, and how to say it to people.
 *
 * `diffManifests` walks both in path order and compares encoded bytes; only entries that differ are decoded. Its
 * result applies: `before.apply(diffManifests(before, after))` has the bytes of `after` (without `collapse`).
 *
 * Hard links: a layer cannot hold one name of a group and leave another below, so where any name of a group of
 * `after` changed, the whole group is listed. Names that did not change themselves have one and the same
 * object as `before` and `after`; `isRegrouped` tells. `regroup: false` leaves them out, for display.
 *
 * @module
 */
import { bytesEqual, toHex } from "../base/hex.ts";
import { type BytePath, nameOf, parentOf } from "../base/path.ts";
import type { Change, Entry, EntryXattr } from "./entry.ts";
import type { Manifest } from "./manifest.ts";

/** How to list. */
export interface DiffOptions {
  /**
   * Leave out what lies below a directory that is gone or became something else: the topmost path says it all.
   * Such a list does not `apply`.
   */
  collapse?: boolean;
  /** List unchanged names of hard-link groups that changed (default true). */
  regroup?: boolean;
}

/** The changes that turn `before` into `after`, ascending by path. */
export function diffManifests(before: Manifest, after: Manifest, options: DiffOptions = {}): Change[] {
  const changes = options.collapse === true ? collapsed(walk(before, after)) : walk(before, after);
  return options.regroup === false ? changes : withWholeGroups(changes, after);
}

/** Whether the change is only there because another name of its hard-link group changed. */
export function isRegrouped(change: Change): boolean {
  return change.before !== null && change.before === change.after;
}

/** In what an entry differs from the one before. `link` entries differ in `target` only. */
export type ChangeAspect = "type" | "content" | "mode" | "owner" | "mtime" | "xattrs" | "target" | "device";

/** A change in words. `aspects` is empty for created and deleted ones, and for regrouped names of hard links. */
export interface ChangeDescription {
  /** What happened. */
  is: "created" | "deleted" | "modified";
  /** In what the entry differs, in a fixed order. */
  aspects: ChangeAspect[];
}

/** Says what a change is. A changed `type` is the only aspect then: the rest cannot be compared. */
export function describeChange(change: Change): ChangeDescription {
  const { before, after } = change;
  if (before === null) return { is: "created", aspects: [] };
  if (after === null) return { is: "deleted", aspects: [] };
  if (before.kind !== after.kind) return { is: "modified", aspects: ["type"] };
  const aspects: ChangeAspect[] = [];
  if (before.size !== after.size || !digestsEqual(before, after)) aspects.push("content");
  if (before.mode !== after.mode) aspects.push("mode");
  if (before.uid !== after.uid || before.gid !== after.gid) aspects.push("owner");
  if (before.mtimeSeconds !== after.mtimeSeconds || before.mtimeNanos !== after.mtimeNanos) {
    aspects.push("mtime");
  }
  if (!xattrsEqual(before.xattrs, after.xattrs)) aspects.push("xattrs");
  if (before.target !== after.target) aspects.push("target");
  if (before.rdevMajor !== after.rdevMajor || before.rdevMinor !== after.rdevMinor) aspects.push("device");
  return { is: "modified", aspects };
}

/** A file that went from one path to another with its content. */
export interface Rename {
  /** Deleted. */
  from: Entry;
  /** Created. */
  to: Entry;
}

/**
 * Pairs deleted with created files of equal size and digest, empty files left out. Each change is in one pair at
 * most. Among several candidates one of the same name is preferred, then the first by path.
 *
 * @param changes in any order, but the result depends on it.
 * @returns by the order of the created paths.
 */
export function pairRenames(changes: readonly Change[]): Rename[] {
  const deleted = new Map<string, Entry[]>();
  for (const { before, after } of changes) {
    if (before === null || after !== null) continue;
    const key = contentKey(before);
    if (key === null) continue;
    const same = deleted.get(key);
    if (same === undefined) deleted.set(key, [before]);
    else same.push(before);
  }
  if (deleted.size === 0) return [];
  const created: { to: Entry; key: string }[] = [];
  for (const { before, after } of changes) {
    if (before !== null || after === null) continue;
    const key = contentKey(after);
    if (key !== null && deleted.has(key)) created.push({ to: after, key });
  }
  const pairs = new Map<Entry, Entry>();
  for (const { to, key } of created) {
    const candidates = deleted.get(key) ?? [];
    const name = nameOf(to.path);
    const at = candidates.findIndex((candidate) => nameOf(candidate.path) === name);
    const [from] = at < 0 ? [] : candidates.splice(at, 1);
    if (from !== undefined) pairs.set(to, from);
  }
  const renames: Rename[] = [];
  for (const { to, key } of created) {
    const from = pairs.get(to) ?? deleted.get(key)?.shift();
    if (from !== undefined) renames.push({ from, to });
  }
  return renames;
}

function walk(before: Manifest, after: Manifest): Change[] {
  const changes: Change[] = [];
  const left = before.bytes;
  const right = after.bytes;
  let at = 0;
  let to = 0;
  while (at < before.count && to < after.count) {
    const leftStart = before.offsetAt(at);
    const rightStart = after.offsetAt(to);
    const leftSize = before.offsetAt(at + 1) - leftStart;
    if (
      leftSize === after.offsetAt(to + 1) - rightStart &&
      sameBytes(left, leftStart, right, rightStart, leftSize)
    ) {
      at++;
      to++;
      continue;
    }
    const leftPath = before.pathAt(at);
    const rightPath = after.pathAt(to);
    if (leftPath === rightPath) {
      changes.push({ path: leftPath, before: before.at(at++), after: after.at(to++) });
    } else if (leftPath < rightPath) {
      changes.push({ path: leftPath, before: before.at(at++), after: null });
    } else {
      changes.push({ path: rightPath, before: null, after: after.at(to++) });
    }
  }
  for (; at < before.count; at++) {
    const entry = before.at(at);
    changes.push({ path: entry.path, before: entry, after: null });
  }
  for (; to < after.count; to++) {
    const entry = after.at(to);
    changes.push({ path: entry.path, before: null, after: entry });
  }
  return changes;
}

function sameBytes(
  left: Uint8Array,
  leftStart: number,
  right: Uint8Array,
  rightStart: number,
  size: number,
): boolean {
  for (let at = 0; at < size; at++) {
    if (left[leftStart + at] !== right[rightStart + at]) return false;
  }
  return true;
}

function collapsed(changes: Change[]): Change[] {
  /** Directories that are no directories any more. */
  const gone = new Set<BytePath>();
  return changes.filter(({ path, before, after }) => {
    if (before?.kind === "directory" && after?.kind !== "directory") gone.add(path);
    // The root is its own parent; it is listed where it goes.
    return path === "" || after !== null || !gone.has(parentOf(path));
  });
}

function withWholeGroups(changes: Change[], after: Manifest): Change[] {
  if (after.totals.links === 0 || changes.length === 0) return changes;
  const changed = new Set<BytePath>();
  for (const { path, after } of changes) {
    if (after !== null && (after.kind === "file" || after.kind === "link")) changed.add(path);
  }
  if (changed.size === 0) return changes;
  const added: Change[] = [];
  for (const { names } of after.linkGroups()) {
    if (!names.some((name) => changed.has(name))) continue;
    for (const path of names) {
      if (changed.has(path)) continue;
      const entry = after.get(path);
      added.push({ path, before: entry, after: entry });
    }
  }
  if (added.length === 0) return changes;
  return [...changes, ...added].sort((left, right) => left.path < right.path ? -1 : 1);
}

function contentKey(entry: Entry): string | null {
  return entry.kind === "file" && entry.size > 0 && entry.digest !== null
    ? `${entry.size}:${toHex(entry.digest)}`
    : null;
}

function digestsEqual(left: Entry, right: Entry): boolean {
  return left.digest === null || right.digest === null
    ? left.digest === right.digest
    : bytesEqual(left.digest, right.digest);
}

function xattrsEqual(left: readonly EntryXattr[], right: readonly EntryXattr[]): boolean {
  return left.length === right.length && left.every(({ name, value }, index) => {
    const other = right[index];
    return other !== undefined && other.name === name && bytesEqual(other.value, value);
  });
}
