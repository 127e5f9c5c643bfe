/**
 * Forgets old versions and gives their room back.
 *
 * Of an overlay tree the layers below the oldest version that is kept are merged into one: a new directory, hard-linked
 * from them, so no content is copied. The mounted layers themselves never change; the tree is switched to the
 * new stack and the old layers are removed then. History (ids, messages) stays.
 *
 * @module
 */
import { type BytePath, pathToBytes, rootPath } from "../base/path.ts";
import { fromHex, toHex } from "../base/hex.ts";
import { DroverError } from "../base/errors.ts";
import { diffManifests } from "../version/diff.ts";
import { Manifest } from "../version/manifest.ts";
import { Beneath } from "./beneath.ts";
import { objectLayer, type StoredVersion } from "./store.ts";
import { buildLayer } from "./keep.ts";
import { uncommitted } from "./report.ts";
import type { Tree } from "./tree.ts";

/** What was given up. */
export interface GcResult {
  /** Ids of versions whose content is no longer kept. */
  dropped: string[];
  /** Free bytes of the file system afterwards, less those before. */
  bytesFreed: number;
}

/** Keeps the newest `keep` versions of the head's chain. */
export async function collectGarbage(tree: Tree, options: { keep: number }): Promise<GcResult> {
  if (!Number.isInteger(options.keep) || options.keep < 1) {
    throw new DroverError(
      "usage",
      `Cannot keep "${options.keep}" versions: it must be a whole number from 1`,
    );
  }
  const { store, libc } = tree;
  const kept = tree.chain.filter((version) => version.stack !== null).slice(0, options.keep);
  const keptIds = new Set(kept.map(({ id }) => id));
  const dropped = store.versions().filter(({ id, stack }) => stack !== null && !keptIds.has(id)).map((
    { id },
  ) => id);
  using room = Beneath.open(libc, store.path);
  const before = freeBytes(tree, room);
  if (store.setup.capture === "overlay") await squash(tree, kept, dropped);
  else {
    store.transaction(() => {
      for (const id of dropped) store.setStack(id, null);
    });
    removeObjects(tree, kept);
  }
  store.sweepManifests(new Set(kept.map(({ root }) => root)));
  return { dropped, bytesFreed: Math.max(0, freeBytes(tree, room) - before) };
}

function freeBytes(tree: Tree, room: Beneath): number {
  const { available } = tree.libc.statfs(room.fd);
  return available;
}

async function squash(tree: Tree, kept: readonly StoredVersion[], dropped: readonly string[]): Promise<void> {
  const { store } = tree;
  const oldest = kept.at(-1);
  if (oldest === undefined || oldest.stack === null) return;
  const below = oldest.stack;
  await tree.exclusively(async (live) => {
    if (live.changes.length > 0) throw uncommitted(tree.name, live.changes, "merge the layers of");
    const manifest = store.manifestOf(oldest.id);
    const stays = new Set(
      kept.flatMap(({ stack }) =>
        stack === null || below.every((layer, at) => stack[at] === layer) ? [] : stack
      ),
    );
    let merged: number | null = null;
    let places: { digest: Uint8Array; layer: number; path: BytePath }[] = [];
    if (below.length > 1) {
      merged = store.newLayer();
      ({ places } = await buildLayer(tree, merged, {
        before: Manifest.empty,
        after: manifest,
        changes: diffManifests(Manifest.empty, manifest),
        share: (layer) => layer !== null && below.includes(layer) && !stays.has(layer),
      }));
    }
    const upper = tree.newUpper(live.captured.manifest);
    await tree.flush(upper);
    const base = merged;
    store.transaction(() => {
      for (const id of dropped) store.setStack(id, null);
      store.addContent(places);
      if (base !== null) {
        for (const { id, stack } of kept) {
          if (stack !== null && below.every((layer, at) => stack[at] === layer)) {
            store.setStack(id, [base, ...stack.slice(below.length)]);
          }
        }
      }
      store.clearSeen();
      store.setNote("switching", "1");
      store.setPointers({ base: store.pointers.head, upper });
    });
    tree.showCurrent();
    tree.sweepLayers();
  });
}

/** Removes objects that no kept version names. */
function removeObjects(tree: Tree, kept: readonly StoredVersion[]): void {
  const { store, libc } = tree;
  const needed = new Set<string>();
  for (const { id } of kept) {
    for (const { digest } of store.manifestOf(id).entries()) if (digest !== null) needed.add(toHex(digest));
  }
  using objects = Beneath.open(libc, store.layerPath(objectLayer));
  const gone: BytePath[] = [];
  for (const folder of objects.list(rootPath)) {
    for (const { name } of objects.list(folder.name)) {
      if (!needed.has(name)) gone.push(`${folder.name}/${name}` as BytePath);
    }
  }
  store.transaction(() => {
    for (const path of gone) {
      const hex = path.slice(3);
      if (hex.length === 64 && pathToBytes(path).length === 67) store.dropContent(fromHex(hex), objectLayer);
    }
  });
  for (const path of gone) objects.unlink(path);
}
