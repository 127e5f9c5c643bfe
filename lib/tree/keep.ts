/**
 * Content that stays: copies of files into a new layer or the object store, also while programs are writing them.
 *
 * Invariant: a copy is the file as it was at one time, and the entry that goes into the version is of that time too. What
 * is removed before it could be copied is a `RemovedMeanwhile`: whoever captured the tree looks again.
 *
 * @module
 */
import { type BytePath, pathToText, rootPath } from "../base/path.ts";
import { DroverError } from "../base/errors.ts";
import { bytesEqual } from "../base/hex.ts";
import type { Change, Entry } from "../version/entry.ts";
import type { Manifest } from "../version/manifest.ts";
import type { FileStat } from "../../ffi/mod.ts";
import { Beneath, errorCode } from "./beneath.ts";
import { Breath } from "./breath.ts";
import type { Captured } from "./capture.ts";
import { copyWithHoles, objectPath } from "./content.ts";
import { LayerBuilder } from "./layer.ts";
import { AT_FDCWD, O_NONBLOCK, O_RDONLY, O_RDWR } from "./posix.ts";
import { objectLayer } from "./store.ts";
import type { Tree } from "./tree.ts";
import { entryOf, Hasher, ownXattrs, present, stampOf } from "./walk.ts";

/** How often a file, or a tree, that changes while it is copied is copied again. */
export const copyTriesMax = 8;

/** Content that was copied. */
export interface Kept {
  /** Where it is. */
  places: { digest: Uint8Array; layer: number; path: BytePath }[];
  /** Files that changed between the capture and the copy: the version has them as they were copied. Ascending by path. */
  revised: Change[];
}

/** A file as it was at one time. */
interface CopiedState {
  stat: FileStat;
  digest: Uint8Array<ArrayBuffer>;
}

/** A file that was captured is gone before it could be copied. */
export class RemovedMeanwhile extends Error {}

/**
 * Builds a layer from content that is here. `share` says of which layers, about to go away, files may be linked instead of
 * copied; `written` names files that are copied from where programs may be writing them.
 */
export async function buildLayer(tree: Tree, layer: number, plan: {
  before: Manifest;
  after: Manifest;
  changes: readonly Change[];
  written?: { root: Beneath; paths: ReadonlySet<BytePath> };
  share: (layer: number | null) => boolean;
  plain?: boolean;
}): Promise<Kept> {
  const { setup } = tree.store;
  tree.libc.mkdir(AT_FDCWD, tree.store.layerPath(layer), 0o700);
  using root = Beneath.open(tree.libc, tree.store.layerPath(layer));
  const builder = new LayerBuilder(root, { ...setup, ...plan, plain: plan.plain === true });
  const hasher = new Hasher(tree.libc);
  const breath = new Breath();
  const places: Kept["places"] = [];
  const revised: Change[] = [];
  await builder.begin();
  let done = 0;
  for (const { after } of plan.changes) {
    done++;
    if (after?.kind !== "file" || after.digest === null) continue;
    if (plan.written?.paths.has(after.path) === true) {
      const change = copyWritten(tree, builder, plan.written.root, after, hasher);
      const digest = change?.after?.digest ?? after.digest;
      if (change !== null) revised.push(change);
      places.push({ digest, layer, path: after.path });
    } else {
      const shared = [...tree.content.find(after.digest, after.size)]
        .some((found) => plan.share(found.layer) && builder.link(after, found));
      if (!shared) copyInto(tree, builder, after);
      places.push({ digest: after.digest, layer, path: after.path });
    }
    if (breath.due) {
      tree.context.progress?.({ phase: "build", done, total: plan.changes.length, unit: "entries" });
      await breath.take();
    }
  }
  await builder.finish();
  return { places, revised };
}

/** Copies a file that may be written meanwhile; returns how it differs from `after`, or null. */
function copyWritten(
  tree: Tree,
  builder: LayerBuilder,
  root: Beneath,
  after: Entry,
  hasher: Hasher,
): Change | null {
  tree.libc.close(builder.create(after));
  const target = builder.root.open(after.path, O_RDWR);
  let copied: CopiedState;
  try {
    copied = copyState(tree, root, after.path, target, hasher);
  } finally {
    tree.libc.close(target);
  }
  const same = after.digest !== null && bytesEqual(copied.digest, after.digest);
  const now = same ? after : entryAt(tree, root, after.path, after, copied);
  builder.close(now);
  return same ? null : { path: after.path, before: after, after: now };
}

function copyInto(tree: Tree, builder: LayerBuilder, after: Entry): void {
  const source = after.digest === null ? null : tree.content.open(after.digest, after.size);
  if (source === null) {
    throw new DroverError(
      "corrupt",
      `Cannot build "${pathToText(after.path)}": its content is not in the store`,
      {
        hint: `drover fs verify ${tree.name}`,
      },
    );
  }
  try {
    const target = builder.create(after);
    try {
      copyWithHoles(tree.libc, source, target, after.size);
    } finally {
      tree.libc.close(target);
    }
  } finally {
    tree.libc.close(source);
  }
  builder.close(after);
}

/** Copies files into the object store, where it does not have their content yet. */
export async function keepObjects(tree: Tree, root: Beneath, captured: Captured): Promise<Kept> {
  using objects = Beneath.open(tree.libc, tree.store.layerPath(objectLayer));
  const hasher = new Hasher(tree.libc);
  const breath = new Breath();
  const kept = new Map<BytePath, Kept["places"][number]>();
  const revised: Change[] = [];
  for (const { digest, path } of captured.content) {
    const object = objectPath(digest);
    // A file without a row was left by a crash: nobody knows whether it is whole.
    if (kept.has(object) || tree.store.contentPlaces(digest).some(({ layer }) => layer === objectLayer)) {
      continue;
    }
    const place = writeObject(tree, objects, (fd) => {
      const copied = copyState(tree, root, path, fd, hasher);
      if (!bytesEqual(copied.digest, digest)) {
        // A hard-linked file may have been met under a name that is not its first one.
        const found = captured.manifest.get(path);
        const known = found?.kind === "link" ? captured.manifest.get(found.target) : found;
        if (known !== null) {
          revised.push({
            path: known.path,
            before: known,
            after: entryAt(tree, root, path, known, copied),
          });
        }
      }
      return copied.digest;
    });
    kept.set(place.path, place);
    if (breath.due) await breath.take();
  }
  revised.sort((a, b) => a.path < b.path ? -1 : 1);
  return { places: [...kept.values()], revised };
}

/**
 * Copies a file that programs may be writing. The copy is the file as it was at one time, and what is returned is of that
 * time too.
 */
function copyState(tree: Tree, root: Beneath, path: BytePath, target: number, hasher: Hasher): CopiedState {
  let source: number;
  try {
    source = root.open(path, O_RDONLY | O_NONBLOCK);
  } catch (error) {
    if (["ENOENT", "ENOTDIR", "ENXIO", "ELOOP"].includes(errorCode(error) ?? "")) {
      throw new RemovedMeanwhile();
    }
    throw error;
  }
  try {
    for (let tries = 0; tries < copyTriesMax; tries++) {
      const before = tree.libc.fstat(source);
      if (before.kind !== "file") throw new RemovedMeanwhile();
      tree.libc.ftruncate(target, 0);
      copyWithHoles(tree.libc, source, target, before.size);
      const stat = tree.libc.fstat(source);
      if (stampOf(before) === stampOf(stat)) return { stat, digest: hasher.hash(target).digest };
    }
  } finally {
    tree.libc.close(source);
  }
  throw changedMeanwhile(path);
}

/** What `path` is, now that its content was copied; `known` is what it was when it was captured. */
function entryAt(
  tree: Tree,
  root: Beneath,
  path: BytePath,
  known: Entry,
  { stat, digest }: CopiedState,
): Entry {
  const xattrs = present(() => root.xattrs(path));
  if (xattrs === null) throw new RemovedMeanwhile();
  const now = entryOf(known.path, stat, ownXattrs(xattrs), digest, rootPath);
  return tree.store.setup.owners ? now : { ...now, uid: known.uid, gid: known.gid };
}

/** Writes one object under another name first: an object that can be seen is whole. `write` returns its hash. */
function writeObject(
  tree: Tree,
  objects: Beneath,
  write: (fd: number) => Uint8Array,
): Kept["places"][number] {
  const temporary = "new" as BytePath;
  objects.removeAll(temporary);
  tree.libc.close(objects.create(temporary));
  const fd = objects.open(temporary, O_RDWR);
  let digest: Uint8Array;
  try {
    digest = write(fd);
  } finally {
    tree.libc.close(fd);
  }
  const path = objectPath(digest);
  const folder = path.slice(0, 2) as BytePath;
  if (objects.stat(folder) === null) objects.mkdir(folder);
  const from = objects.place(temporary);
  const to = objects.place(path);
  tree.libc.rename(from.fd, from.name, to.fd, to.name);
  return { digest, layer: objectLayer, path };
}

function changedMeanwhile(path: BytePath): DroverError {
  return new DroverError("busy", `Cannot keep "${pathToText(path)}": it changed while it was copied`, {
    hint: "try again when it is quiet",
  });
}
