/**
 * Which bases the files of a package get: `BaseChooser` proposes from metadata, and what the sender cannot read here, because
 * only the receiver has it, is left out. Content that is the same needs no reading.
 *
 * @module
 */
import type { BytePath } from "../base/path.ts";
import type { Change, Entry } from "../version/entry.ts";
import type { Manifest } from "../version/manifest.ts";
import type { PackageMode, Upsert } from "../version/package.ts";
import { BaseChooser } from "../version/similar.ts";
import { Relatives } from "./relatives.ts";
import type { Tree } from "./tree.ts";

/**
 * The upserts of a package. Packages of mode `upper` know only a file's own path, for its metadata; `full` ones
 * have no base at all.
 *
 * @param changes `diffManifests(base, …, { regroup: false })`.
 */
export function chooseBases(
  tree: Tree,
  changes: readonly Change[],
  base: Manifest,
  mode: PackageMode,
): Upsert[] {
  const chooser = new BaseChooser(base, changes);
  const relatives = mode === "delta" ? new Relatives(tree, changes) : null;
  const upserts: Upsert[] = [];
  for (const { before, after } of changes) {
    if (after === null) continue;
    // A name that was linked to a file and now stands alone: what it was is under the file's first name.
    const linked = before?.kind === "link" && after.kind === "file" ? before.target : null;
    const origin = linked ?? (before === null ? relatives?.find(after) ?? null : null);
    const { bases, sameContent } = chooser.choose(after, origin);
    if (sameContent && (mode === "delta" || bases[0] === after.path)) {
      upserts.push({ entry: after, bases, sameContent });
    } else if (after.kind !== "file") upserts.push({ entry: after, bases, sameContent: false });
    else {
      const readable = mode === "delta" ? bases.filter((path) => canRead(tree, base.get(path))) : [];
      upserts.push({ entry: after, bases: readable, sameContent: false });
    }
  }
  return upserts;
}

/** Whether the content of an entry of the receiver's version should be here too. */
export function canRead(
  tree: Tree,
  entry: Entry | null,
): entry is Entry & { digest: Uint8Array<ArrayBuffer> } {
  return entry !== null && entry.digest !== null && tree.content.locate(entry.digest, entry.size) !== null;
}

/**
 * Reads content of the receiver's version by path, as much as `into` holds; for reference prefixes, of which both sides
 * have every byte. False where it is not to be had.
 */
export function readSlice(
  tree: Tree,
  base: Manifest,
  slice: { path: BytePath; offset: number },
  into: Uint8Array,
): boolean {
  const entry = base.get(slice.path);
  const fd = entry === null || entry.digest === null ? null : tree.content.open(entry.digest, entry.size);
  if (fd === null) return false;
  try {
    return tree.libc.pread(fd, into, slice.offset) === into.length;
  } finally {
    tree.libc.close(fd);
  }
}
