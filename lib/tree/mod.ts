/**
 * Directory trees: versions of a directory, and their way to other hosts.
 *
 * @module
 */
export type { Capture, Profile, ProgressEvent, TreeContext } from "./context.ts";
export { deinitTree, type InitOptions, initTree } from "./init.ts";
export { findTree, listTrees, openTree, type TreeListing } from "./locate.ts";
export type { ChangeLine, CheckoutResult, CommitResult, TreeStatus, VersionLine } from "./report.ts";
export { Tree } from "./tree.ts";
export {
  type ExportOptions,
  type ExportResult,
  exportTar,
  type ImportOptions,
  type ImportResult,
  importTar,
  importTree,
  type ImportTreeOptions,
} from "./archive.ts";
export { collectGarbage, type GcResult } from "./gc.ts";
export { type VerifyFinding, type VerifyResult, verifyTree } from "./verify.ts";
export {
  type Phases,
  type PullOptions,
  type PullResult,
  pullTree,
  type PushMode,
  type PushOptions,
  type PushResult,
  pushTree,
  type Resolve,
} from "./push.ts";
export type { Allowance } from "./admission.ts";
export { type NodeOptions, serveTrees } from "./node.ts";
export { recordLimits } from "./protocol.ts";
