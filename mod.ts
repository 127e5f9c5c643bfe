/**
 * drover as a library: versions of a directory tree and moving its changes to other hosts; memory larger than its RAM.
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
 * Memory whose cold part is on SSD is a `Uint8Array`:
 *
 * ```ts
 * import { Region } from "@drover/drover";
 *
 * using region = Region.open({ size: "64MiB", limit: "16MiB", ssd: { path: "/var/tmp" } });
 * region.bytes.fill(1);
 * console.log(region.bytes.reduce((sum, byte) => sum + byte), region.stats().resident);
 * ```
 *
 * Disk images, local and remote, are backends; any of them can be copied, and offered to NBD clients:
 *
 * ```ts
 * import assert from "node:assert/strict";
 * import { copyBackend, NbdListener, openBackend } from "@drover/drover";
 *
 * const folder = await Deno.makeTempDir({ dir: "/var/tmp" });
 * {
 *   await using disk = await openBackend("memory:4MiB");
 *   await disk.writeAt(1000, new Uint8Array([1, 2, 3]));
 *   await using server = await NbdListener.open({
 *     place: { path: `${folder}/socket` },
 *     offers: [{ name: "disk", backend: disk }],
 *   });
 *   await using far = await openBackend(server.url("disk"));
 *   await using copy = await openBackend(`${folder}/copy.raw`, { create: far.size });
 *   const { copied, zero } = await copyBackend(far, copy);
 *   assert.deepEqual([copied, zero], [4096, far.size - 4096]);
 * }
 * await Deno.remove(folder, { recursive: true });
 * ```
 *
 * The formats are usable without any of that: `Manifest` and the package functions are pure, and so are the streams of
 * memory. Here a legacy stream is converted, verified, read, and received into an image:
 *
 * ```ts
 * import assert from "node:assert/strict";
 * import {
 *   CheckpointReceiver,
 *   encodeItems,
 *   ImageTarget,
 *   LegacyConverter,
 *   type LegacyRecord,
 *   MemoryImage,
 *   StreamReader,
 *   Verifier,
 * } from "@drover/drover";
 *
 * const legacy: LegacyRecord[] = [
 *   { name: "HEADER", header: { width: 8, guest: "hvm", p2mSize: 16, extendedInfo: null, p2mFrames: null } },
 *   { name: "BATCH", entries: new Uint32Array([3, 4]), pages: new Uint8Array(2 * 4096).fill(7) },
 *   { name: "END_OF_BODY" },
 *   { name: "HVM_TAIL", ioreqPfn: 8n, bufioreqPfn: 9n, storePfn: 10n, context: new Uint8Array(100) },
 * ];
 * const converter = new LegacyConverter({ to: "libxc", skipDeviceModel: true });
 * const items = [
 *   ...legacy.flatMap((record) => [...converter.convert({ layer: "legacy", record })]),
 *   ...converter.finish(),
 * ];
 *
 * const verifier = new Verifier();
 * const reader = new StreamReader();
 * const image = new MemoryImage({ sizeMax: 1 << 30 });
 * const scratch = new MemoryImage({ sizeMax: 1 << 28 });
 * const target = new ImageTarget({ image, scratch });
 * const receiver = new CheckpointReceiver({ target, epochSizeMax: 1 << 28 });
 * for (const chunk of encodeItems(items)) {
 *   verifier.push(chunk);
 *   reader.push(chunk);
 *   for (let item = reader.next(); item !== null; item = reader.next()) receiver.take(item);
 * }
 * assert.ok(verifier.finish().valid);
 * assert.equal(receiver.finish().status, "complete");
 * assert.equal(image.page(4)[0], 7);
 * ```
 *
 * @module
 */
export { type DroverCode, DroverError, FormatError } from "./lib/base/errors.ts";
export { type BytePath, pathFromBytes, pathFromText, pathToBytes, pathToText } from "./lib/base/path.ts";
export * from "./ffi/mod.ts";
export * from "./lib/net/mod.ts";
export * from "./lib/stream/mod.ts";
export * from "./lib/region/mod.ts";
export * from "./lib/region/backends.ts";
export {
  BufferPool,
  exportFlag,
  listNbdExports,
  type NbdBackend as NbdServerBackend,
  NbdClient,
  type NbdClientOptions,
  type NbdEnd,
  NbdError,
  type NbdErrorName,
  type NbdExport,
  type NbdExportInfo,
  type NbdExports,
  type NbdLimits,
  type NbdServerTls,
  type NbdTally,
  type NbdTransport,
  serveNbd,
  type ServeNbdOptions,
  transportOf,
} from "./lib/nbd/mod.ts";
export {
  borrow,
  Borrowed,
  type BorrowedSlots,
  type BorrowEvent,
  type BorrowOptions,
  Donor,
  type DonorOptions,
  type DonorStatus,
  type FollowOptions,
  followRoom,
  type LeaseState,
  type LeaseStatus,
  listDonor,
  type MemorySource,
  type RdmaLender,
  type RegionDonors,
} from "./lib/cluster/mod.ts";
export { type Log, type LogFields, type LogLevel, logLevels } from "./lib/base/log.ts";
export type { Advice } from "./lib/tier/mod.ts";
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
export { Mount, mount, type MountOptions } from "./lib/region/mount.ts";
export { FuseFile, type FuseOptions } from "./lib/region/fuse.ts";
export type { ManagedByUrl } from "./lib/region/mount_managed.ts";
