/**
 * drover as a library: versions of a directory tree, and moving its changes to other hosts.
 *
 * A program composes its own parts: it opens the native library, makes a context, and calls the functions
 * of the tree room with it.
 *
 * ```ts
 * import assert from "node:assert/strict";
 * import { initTree, openNative, openTree, pathFromText } from "@drover/drover";
 *
 * const folder = await Deno.makeTempDir({ dir: "/var/tmp" });
 * const context = { native: openNative(), now: () => Date.now(), home: `${folder}/home` };
 * const site = pathFromText(`${folder}/site`);
 * await Deno.mkdir(`${folder}/site`);
 * await Deno.writeTextFile(`${folder}/site/index.html`, "hello\n");
 *
 * const { head } = await initTree(context, site, { capture: "scan" });
 * {
 *   await using tree = await openTree(context, site);
 *   await Deno.writeTextFile(`${folder}/site/index.html`, "hello again\n");
 *   const [change] = await tree.diff({});
 *   assert.equal(change?.path, "index.html");
 *   const { parent, changed } = await tree.commit({ message: "a friendlier page" });
 *   assert.deepEqual([parent, changed], [head, true]);
 * }
 * await Deno.remove(folder, { recursive: true });
 * ```
 *
 * The formats are usable without any of that: `Manifest` and the package functions are pure, and so are the records
 * of the stream.
 *
 * @module
 */
export { type DroverCode, DroverError, FormatError } from "./lib/base/errors.ts";
export { type BytePath, pathFromBytes, pathFromText, pathToBytes, pathToText } from "./lib/base/path.ts";
export * from "./ffi/mod.ts";
export * from "./lib/net/mod.ts";
export * from "./lib/stream/mod.ts";
export {
  type Allowance,
  type Capture,
  type ChangeLine,
  type CheckoutResult,
  collectGarbage,
  type CommitResult,
  deinitTree,
  type GcResult,
  type InitOptions,
  initTree,
  listTrees,
  type NodeOptions,
  openTree,
  type Phases,
  type Profile,
  type ProgressEvent,
  type PullOptions,
  type PullResult,
  pullTree,
  type PushMode,
  type PushOptions,
  type PushResult,
  pushTree,
  recordLimits,
  type Resolve,
  serveTrees,
  Tree,
  type TreeContext,
  type TreeListing,
  type TreeStatus,
  type VerifyFinding,
  type VerifyResult,
  verifyTree,
  type VersionLine,
} from "./lib/tree/mod.ts";
export type { Change, Entry, EntryKind, EntryXattr, VersionInfo } from "./lib/version/entry.ts";
export {
  type ChangeAspect,
  type ChangeDescription,
  describeChange,
  diffManifests,
  type DiffOptions,
} from "./lib/version/diff.ts";
export { versionId } from "./lib/version/history.ts";
export { type LinkGroup, Manifest, type ManifestTotals } from "./lib/version/manifest.ts";
