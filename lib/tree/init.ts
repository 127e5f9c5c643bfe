/**
 * How a directory becomes a tree, and a tree a directory again.
 *
 * Overlay: the directory itself is renamed to be layer 0, and an overlay is mounted where it was; no data is copied. The
 * note `init` in the store says how far it got:
 *
 *     (none)    → hashing, the directory is untouched         crash: the state directory is removed
 *     moving    → the directory is being renamed              crash: it is renamed back
 *     mounting  → version and pointers are recorded           crash: the mount is made up for
 *
 * Leaving goes the same way round: a plain copy of the newest content is built from hard links, the overlay is taken off,
 * and the copy is renamed into its place (note `deinit`).
 *
 * @module
 */
import { type BytePath, parentOf, pathToText, rootPath } from "../base/path.ts";
import { DroverError } from "../base/errors.ts";
import { diffManifests } from "../version/diff.ts";
import { versionId } from "../version/history.ts";
import { Manifest } from "../version/manifest.ts";
import type { Libc } from "../../ffi/mod.ts";
import { Beneath, errorCode } from "./beneath.ts";
import type { Captured } from "./capture.ts";
import type { Capture, Profile, TreeContext } from "./context.ts";
import { absolutePath, findTree } from "./locate.ts";
import { mountsBelow, mountsOn, showStack, writersOf } from "./overlay.ts";
import { AT_FDCWD, O_RDONLY, RENAME_NOREPLACE } from "./posix.ts";
import { defaultState, Registry } from "./registry.ts";
import { objectLayer, Store, type TreeSetup } from "./store.ts";
import { buildLayer } from "./keep.ts";
import type { TreeStatus } from "./report.ts";
import { Tree } from "./tree.ts";
import { walkTree } from "./walk.ts";

/** How to set a tree up. What is not given is chosen: an overlay where this process can mount one. */
export interface InitOptions {
  /** How changes are found. */
  capture?: Capture;
  /** With which overlay features. */
  profile?: Profile;
  /** Where to keep the state; must be on the file system of the directory, outside of it. */
  state?: BytePath;
}

/** Chooses capture and profile for this process, and says why a wish cannot be had. */
export function chooseSetup(context: TreeContext, dir: BytePath, options: InitOptions): TreeSetup {
  const { uid, canMount, inUserNamespace } = context.native.identity();
  const rootless = inUserNamespace || uid !== 0;
  const capture = options.capture ?? (canMount ? "overlay" : "scan");
  if (capture === "overlay" && !canMount) {
    throw new DroverError(
      "unsupported",
      `Cannot mount an overlay on "${pathToText(dir)}": this user may not mount`,
      {
        hint: `drover fs init ${
          pathToText(dir)
        } --capture scan, or run drover below: unshare --user --map-root-user --mount`,
      },
    );
  }
  const profile = options.profile ?? (rootless || capture === "scan" ? "portable" : "fast");
  if (profile === "fast" && (rootless || capture === "scan")) {
    throw new DroverError("usage", `Cannot use profile "fast" here: it needs an overlay mounted by root`, {
      hint: "leave --profile out, or give --profile portable",
    });
  }
  return { dir, capture, profile, userxattr: capture === "overlay" && rootless, owners: !rootless };
}

/**
 * Puts an existing directory under drover; its content becomes the first version.
 *
 * @throws {DroverError} "exists" when it is a tree already, "unsupported" where its place does not allow it.
 */
export async function initTree(
  context: TreeContext,
  dir: BytePath,
  options: InitOptions = {},
): Promise<TreeStatus> {
  const { libc } = context.native;
  const absolute = absolutePath(dir);
  const text = pathToText(absolute);
  const known = findTree(context, absolute);
  if (known !== null && !removeUnfinished(context, known.state, absolute)) {
    throw new DroverError("exists", `Cannot put "${text}" under drover: it already is`, {
      hint: `drover fs status ${text}`,
    });
  }
  const stat = libc.stat(AT_FDCWD, absolute);
  if (stat?.kind !== "directory") {
    throw new DroverError(
      "usage",
      `Cannot put "${text}" under drover: it is ${stat === null ? "not there" : "no directory"}`,
    );
  }
  const setup = chooseSetup(context, absolute, options);
  const state = options.state === undefined ? defaultState(absolute) : absolutePath(options.state);
  checkState(context, absolute, state, setup.capture);
  try {
    await using tree = createTree(context, state, setup);
    if (setup.capture === "scan") await tree.commit({ message: "init" });
    else await moveBelow(tree);
    return await tree.status();
  } catch (error) {
    // Unless a version is recorded: leave no trace.
    removeUnfinished(context, state, absolute);
    throw error;
  }
}

/** Makes the state directory. The registry is written first: a state that it does not know could not be found again. */
function createTree(context: TreeContext, state: BytePath, setup: TreeSetup): Tree {
  new Registry(context.home).add({ dir: setup.dir, state });
  return new Tree(context, Store.create(context.native, state, setup));
}

/** Makes a tree that has no version yet, for a version to be received into. The directory is made. */
export function createEmptyTree(context: TreeContext, dir: BytePath, options: InitOptions): Tree {
  const { libc } = context.native;
  const setup = chooseSetup(context, dir, options);
  const state = options.state ?? defaultState(dir);
  const there = libc.stat(AT_FDCWD, dir);
  if (there !== null) {
    using place = Beneath.open(libc, dir);
    if (place.list(rootPath).length > 0) {
      throw new DroverError(
        "exists",
        `Cannot create a tree in "${pathToText(dir)}": it is not empty and no tree`,
        {
          hint: `drover fs init ${pathToText(dir)}`,
        },
      );
    }
  } else libc.mkdir(AT_FDCWD, dir, 0o700);
  checkState(context, dir, state, setup.capture);
  return createTree(context, state, setup);
}

function checkState(context: TreeContext, dir: BytePath, state: BytePath, capture: Capture): void {
  const { libc } = context.native;
  const text = pathToText(dir);
  if (state === dir || state.startsWith(dir + "/")) {
    throw new DroverError("usage", `Cannot keep the state of "${text}" inside of it`, {
      hint: "give --state PATH outside",
    });
  }
  if (Store.isHalfMade(context.native, state)) Store.remove(context.native, state);
  if (libc.stat(AT_FDCWD, state) !== null) {
    throw new DroverError(
      "exists",
      `Cannot keep the state of "${text}" in "${pathToText(state)}": something is there`,
      {
        hint: "give another place with --state PATH",
      },
    );
  }
  const parent = libc.stat(AT_FDCWD, (parentOf(state) || "/") as BytePath);
  if (parent === null || parent.device !== libc.stat(AT_FDCWD, dir)?.device) {
    throw new DroverError(
      "unsupported",
      `Cannot keep the state of "${text}" in "${
        pathToText(state)
      }": it must be on the same file system, in a directory that exists`,
      { hint: "give another place with --state PATH" },
    );
  }
  const [below] = mountsBelow(dir);
  if (capture === "overlay" && below !== undefined) {
    throw new DroverError(
      "unsupported",
      `Cannot put "${text}" under drover: something is mounted on "${pathToText(below)}"`,
      {
        hint: `umount ${pathToText(below)}`,
      },
    );
  }
  if (capture === "overlay" && (mountsOn(dir).length > 0 || dir === "/")) {
    throw new DroverError("unsupported", `Cannot put "${text}" under drover: it is a mount point`, {
      hint: `drover fs init ${text} --capture scan --state PATH`,
    });
  }
}

async function moveBelow(tree: Tree): Promise<void> {
  const { store, libc, context } = tree;
  const { setup } = store;
  // Hashed while it is still in use; the second walk, after the rename, only looks for what changed meanwhile.
  let first;
  {
    using root = Beneath.open(libc, setup.dir);
    first = await walkTree(root, {
      now: context.now,
      progress: context.progress,
      flush: () => tree.flush(objectLayer),
    });
  }
  const seen = new Map(first.seen.map(({ path, ...rest }) => [path, rest]));
  const stat = libc.stat(AT_FDCWD, setup.dir);
  const layer = store.newLayer();
  const writers = writersOf(setup.dir);
  if (writers.length > 0) {
    const who = writers.map(({ pid, command }) => `${command} (${pid})`).join(", ");
    throw new DroverError(
      "busy",
      `Cannot put "${tree.name}" under drover: ${who} has files in it open for writing`,
      {
        hint: "stop it first: what it writes through open files would go past the overlay",
      },
    );
  }
  store.setNote("init", "moving");
  try {
    libc.rename(AT_FDCWD, setup.dir, AT_FDCWD, store.layerPath(layer), RENAME_NOREPLACE);
  } catch (error) {
    if (errorCode(error) !== "EBUSY" && errorCode(error) !== "EXDEV") throw error;
    throw new DroverError("unsupported", `Cannot put "${tree.name}" under drover: it cannot be renamed`, {
      hint: `drover fs init ${tree.name} --capture scan`,
      cause: error,
    });
  }
  using root = Beneath.open(libc, store.layerPath(layer));
  const walked = await walkTree(root, { now: context.now, progress: context.progress, seen });
  const manifest = Manifest.build(walked.entries);
  const rootHash = store.writeManifest(manifest);
  const upper = tree.newUpper(manifest);
  await tree.flush(upper);
  const id = versionId(null, rootHash);
  store.transaction(() => {
    store.addVersion({
      id,
      parent: null,
      root: rootHash,
      time: context.now(),
      message: "init",
      stack: [layer],
    });
    store.addContent(contentOf(walked.entries, layer));
    store.setNote("init", "mounting");
    store.setPointers({ head: id, base: id, upper });
  });
  libc.mkdir(AT_FDCWD, setup.dir, stat?.mode ?? 0o755);
  showStack(libc, store, context.log);
  store.setNote("init", null);
}

function* contentOf(
  entries: Iterable<{ path: BytePath; digest: Uint8Array | null }>,
  layer: number,
): Generator<{ digest: Uint8Array; layer: number; path: BytePath }> {
  for (const { path, digest } of entries) if (digest !== null) yield { digest, layer, path };
}

/** Undoes an init that recorded no version; false when the state is that of a real tree. */
export function removeUnfinished(context: TreeContext, state: BytePath, dir: BytePath): boolean {
  const { libc } = context.native;
  if (libc.stat(AT_FDCWD, `${state}/tree.db` as BytePath) !== null) {
    using store = Store.open(context.native, state);
    if (!store.lock()) {
      throw new DroverError("busy", `Cannot put "${pathToText(dir)}" under drover: another process is at it`);
    }
    // A plain tree that is on its way to its first version has files in its directory already.
    if (store.pointers.head !== null || store.pointers.pending !== null) return false;
    if (store.note("init") === "moving" && libc.stat(AT_FDCWD, store.layerPath(0)) !== null) {
      libc.rename(AT_FDCWD, store.layerPath(0), AT_FDCWD, dir, 0);
    }
  }
  if (libc.stat(AT_FDCWD, state) !== null) Store.remove(context.native, state);
  new Registry(context.home).remove(dir);
  return true;
}

/**
 * Gives the plain directory back, with everything that is in the tree now, and forgets its versions.
 *
 * @throws {DroverError} "not-a-tree", or "busy" while files are open for writing.
 */
export async function deinitTree(
  context: TreeContext,
  dir: BytePath,
): Promise<{ dir: string; entries: number }> {
  const place = findTree(context, dir);
  if (place === null) {
    throw new DroverError("not-a-tree", `Cannot leave "${pathToText(dir)}": it is not under drover`);
  }
  const { libc } = context.native;
  await using tree = await Tree.open(context, place.state);
  const { setup, pointers } = tree.store;
  if (tree.store.note("deinit") === null) {
    refuseRescued(tree);
    if (setup.capture === "scan") {
      tree.store.setNote("deinit", ` ${tree.store.manifestOf(pointers.head).count - 1}`);
    } else {
      await tree.mount();
      await tree.exclusively(async ({ captured }) => {
        await buildPlain(tree, captured);
        libc.unmount(setup.dir, true);
      });
    }
  }
  const entries = tree.finishLeaving();
  await flush(libc, place.state); // the directory is in its place for good before what could bring it back goes
  Store.remove(context.native, place.state);
  new Registry(context.home).remove(place.dir);
  return { dir: pathToText(place.dir), entries };
}

/** What was moved out of the way of a version is in the state directory, which goes: it must not go with it. */
function refuseRescued(tree: Tree): void {
  const work = tree.store.below("work");
  using place = Beneath.open(tree.libc, work);
  const rescued = place.list(rootPath).filter(({ name }) => name.startsWith("rescued-"));
  if (rescued.length === 0) return;
  throw new DroverError(
    "uncommitted",
    `Cannot leave "${tree.name}": ${rescued.length} of its files were moved to "${
      pathToText(work)
    }" to save them`,
    { hint: `move them from there to where they belong: ls ${pathToText(work)}/rescued-*` },
  );
}

async function flush(libc: Libc, path: BytePath): Promise<void> {
  const fd = libc.open(AT_FDCWD, path, O_RDONLY);
  try {
    await libc.syncfs(fd);
  } finally {
    libc.close(fd);
  }
}

/** A directory with exactly the captured content, hard-linked from the layers where that is the same file. */
async function buildPlain(tree: Tree, captured: Captured): Promise<void> {
  const { store, libc } = tree;
  tree.sweepLayers();
  using upper = Beneath.open(libc, store.layerPath(store.pointers.upper));
  for (const { digest, path } of captured.content) tree.content.offer(digest, upper, path);
  using merged = Beneath.open(libc, store.setup.dir);
  for (const { digest, path } of captured.outside) tree.content.offer(digest, merged, path);
  const layer = store.newLayer();
  const changes = diffManifests(Manifest.empty, captured.manifest);
  await buildLayer(tree, layer, {
    before: Manifest.empty,
    after: captured.manifest,
    changes,
    share: () => true,
    plain: true,
  });
  await tree.flush(layer);
  tree.content.withdraw();
  store.setNote("deinit", `${layer} ${changes.length - 1}`);
}
