/**
 * Sizes and offsets of the structs of native-src/drover.h, as TypeScript reads them.
 *
 * `structs` is the truth on this side; the constants below it are what the readers use. The loader compares
 * `layoutText()` with what the library says and refuses another layout, so a change on one side only is
 * an error at start, not a wrong number later.
 *
 * @module
 */

/** Fields of one struct in order: name and size in bytes. No struct has padding that is not a field. */
type Fields = readonly (readonly [name: string, size: number])[];

const structs: readonly (readonly [name: string, fields: Fields])[] = [
  ["drover_stat", [
    ["size", 8],
    ["blocks", 8],
    ["inode", 8],
    ["mtime_seconds", 8],
    ["ctime_seconds", 8],
    ["mtime_nanos", 4],
    ["ctime_nanos", 4],
    ["mode", 4],
    ["uid", 4],
    ["gid", 4],
    ["nlink", 4],
    ["device", 4],
    ["rdev_major", 4],
    ["rdev_minor", 4],
    ["reserved", 4],
  ]],
  ["drover_entry", [["stat", 80], ["record_size", 4], ["name_size", 4]]],
  ["drover_xattr", [["record_size", 4], ["name_size", 4], ["value_size", 4], ["reserved", 4]]],
  ["drover_statfs", [["available", 8], ["type", 8], ["block_size", 8]]],
  ["drover_identity", [["uid", 4], ["gid", 4], ["can_mount", 4], ["in_user_namespace", 4]]],
  ["drover_content_file", [["size", 8], ["dir", 4], ["name", 4]]],
  ["drover_content_piece", [["target", 16], ["bases", 64], ["base_count", 4], ["op_count", 4]]],
  ["drover_content_op", [["offset", 8], ["length", 4], ["what", 4]]],
  ["drover_region_options", [
    ["size", 8],
    ["limit", 8],
    ["ssd_size", 8],
    ["fault_mode", 4],
    ["dirty_mode", 4],
    ["shared", 4],
    ["flags", 4],
    ["spin_us", 4],
    ["evict_batch", 4],
    ["read_around", 4],
    ["contexts", 4],
    ["copies", 4],
    ["reserved", 4],
  ]],
  ["drover_store_options", [
    ["path", 8],
    ["name", 8],
    ["size", 8],
    ["timeout_nanos", 8],
    ["kind", 4],
    ["port", 4],
    ["flags", 4],
    ["reserved", 4],
  ]],
  ["drover_store_stats", [
    ["slots", 8],
    ["used", 8],
    ["reads", 8],
    ["writes", 8],
    ["errors", 8],
    ["refused", 8],
    ["latency_nanos", 8],
    ["kind", 4],
    ["state", 4],
  ]],
  ["drover_region_stats", [
    ["faults", 8],
    ["fetches", 8],
    ["fills", 8],
    ["promotions", 8],
    ["waits", 8],
    ["protect_faults", 8],
    ["refaults", 8],
    ["prefetched", 8],
    ["evicted_clean", 8],
    ["evicted_dirty", 8],
    ["read_calls", 8],
    ["read_bytes", 8],
    ["write_calls", 8],
    ["written_bytes", 8],
    ["stall_nanos", 8],
    ["errors", 8],
    ["events_lost", 8],
    ["resident_pages", 8],
    ["pinned_pages", 8],
    ["writeback_pages", 8],
    ["limit_pages", 8],
  ]],
  ["drover_region_control", [
    ["limit_pages", 8],
    ["spin_us", 4],
    ["evict_batch", 4],
    ["read_around", 4],
    ["heat_max", 4],
    ["trace_head", 8],
    ["stats", 168],
    ["fault_histogram", 2432],
    ["device_histogram", 2432],
    ["trace", 65536],
  ]],
  ["drover_region_event", [
    ["page", 8],
    ["nanos", 8],
    ["error", 4],
    ["why", 4],
  ]],
  ["drover_donor_stats", [
    ["lent_bytes", 8],
    ["accepted", 8],
    ["refused", 8],
    ["leases", 4],
    ["links", 4],
  ]],
  ["drover_bench_options", [
    ["size", 8],
    ["nanoseconds", 8],
    ["ops", 8],
    ["seed", 8],
    ["pattern", 4],
    ["threads", 4],
    ["writes", 4],
    ["hints", 4],
  ]],
  ["drover_bench_result", [
    ["ops", 8],
    ["nanoseconds", 8],
    ["p50", 8],
    ["p90", 8],
    ["p99", 8],
    ["slowest", 8],
    ["wrong", 8],
    ["wrong_offset", 8],
    ["sum", 8],
  ]],
  ["drover_fuse_options", [
    ["size", 8],
    ["mode", 4],
    ["uid", 4],
    ["gid", 4],
    ["flags", 4],
    ["timeout_ms", 4],
    ["slots", 4],
  ]],
  ["drover_fuse_request", [
    ["offset", 8],
    ["length", 8],
    ["slot", 4],
    ["op", 4],
  ]],
  ["drover_fuse_stats", [
    ["requests", 8],
    ["reads", 8],
    ["read_bytes", 8],
    ["writes", 8],
    ["written_bytes", 8],
    ["flushes", 8],
    ["errors", 8],
    ["timeouts", 8],
    ["late", 8],
    ["pending", 8],
  ]],
];

/** The layout in the form that `drover_layout()` writes: `struct 0 size`, then `struct.field offset size`. */
export function layoutText(): string {
  let text = "";
  for (const [struct, fields] of structs) {
    text += `${struct} 0 ${fields.reduce((sum, [, size]) => sum + size, 0)}\n`;
    let offset = 0;
    for (const [field, size] of fields) {
      text += `${struct}.${field} ${offset} ${size}\n`;
      offset += size;
    }
  }
  return text;
}

/** struct drover_stat: offsets in bytes. */
export const stat = {
  structSize: 80,
  size: 0,
  blocks: 8,
  inode: 16,
  mtimeSeconds: 24,
  ctimeSeconds: 32,
  mtimeNanos: 40,
  ctimeNanos: 44,
  mode: 48,
  uid: 52,
  gid: 56,
  nlink: 60,
  device: 64,
  rdevMajor: 68,
  rdevMinor: 72,
} as const;

/** struct drover_entry: offsets in bytes; the name begins at `structSize`. */
export const entry = { structSize: 88, recordSize: 80, nameSize: 84 } as const;

/** struct drover_xattr: offsets in bytes; name and value begin at `structSize`. */
export const xattr = { structSize: 16, recordSize: 0, nameSize: 4, valueSize: 8 } as const;

/** struct drover_statfs: offsets in bytes. */
export const statfs = { structSize: 24, available: 0, type: 8, blockSize: 16 } as const;

/** struct drover_identity: offsets in bytes. */
export const identity = { structSize: 16, uid: 0, gid: 4, canMount: 8, inUserNamespace: 12 } as const;

/** Flags of drover_overlay_mount(). */
export const overlayFlags = {
  redirectDir: 1,
  metacopy: 2,
  index: 4,
  userxattr: 8,
  readOnly: 16,
  beneath: 32,
} as const;

/** DROVER_ZSTD_SIZE_MAX: the largest input, prefix or output of a zstd call. */
export const zstdSizeMax = 2 ** 30;

/** struct drover_region_options: offsets in bytes. */
export const regionOptions = {
  structSize: 64,
  size: 0,
  limit: 8,
  ssdSize: 16,
  faultMode: 24,
  dirtyMode: 28,
  shared: 32,
  flags: 36,
  spinUs: 40,
  evictBatch: 44,
  readAround: 48,
  contexts: 52,
  copies: 56,
} as const;

/** struct drover_store_options: offsets in bytes. */
export const storeOptions = {
  structSize: 48,
  path: 0,
  name: 8,
  size: 16,
  timeoutNanos: 24,
  kind: 32,
  port: 36,
  flags: 40,
} as const;

/** struct drover_store_stats: offsets in bytes. */
export const storeStats = {
  structSize: 64,
  slots: 0,
  used: 8,
  reads: 16,
  writes: 24,
  errors: 32,
  refused: 40,
  latencyNanos: 48,
  kind: 56,
  state: 60,
} as const;

/** state of struct drover_store_stats: DROVER_STORE_UP and the others. */
export const storeStates = { up: 0, down: 1, retiring: 2, gone: 3 } as const;

/** DROVER_RETIRE_LOST. */
export const retireLost = 1;

/** kind of struct drover_store_options: DROVER_STORE_…. */
export const storeKinds = { file: 0, nbd: 1, verbs: 2 } as const;

/** DROVER_STORE_SEALED, and DROVER_STORES_MAX. */
export const storeSealed = 1, storesMax = 8;

/** struct drover_region_stats: offsets in bytes. */
export const regionStats = {
  structSize: 168,
  faults: 0,
  fetches: 8,
  fills: 16,
  promotions: 24,
  waits: 32,
  protectFaults: 40,
  refaults: 48,
  prefetched: 56,
  evictedClean: 64,
  evictedDirty: 72,
  readCalls: 80,
  readBytes: 88,
  writeCalls: 96,
  writtenBytes: 104,
  stallNanos: 112,
  errors: 120,
  eventsLost: 128,
  residentPages: 136,
  pinnedPages: 144,
  writebackPages: 152,
  limitPages: 160,
} as const;

/** struct drover_region_control: offsets in bytes. */
export const regionControl = {
  structSize: 70600,
  limitPages: 0,
  spinUs: 8,
  evictBatch: 12,
  readAround: 16,
  heatMax: 20,
  traceHead: 24,
  stats: 32,
  faultHistogram: 200,
  deviceHistogram: 2632,
  trace: 5064,
} as const;

/** struct drover_region_event: offsets in bytes. */
export const regionEvent = {
  structSize: 24,
  page: 0,
  nanos: 8,
  error: 16,
  why: 20,
} as const;

/** fault_mode of struct drover_region_options: DROVER_FAULT_…. */
export const faultModes = { inline: 0, thread: 1 } as const;

/** dirty_mode of struct drover_region_options: DROVER_DIRTY_…. */
export const dirtyModes = { hash: 0, wp: 1, async: 2 } as const;

/** flags of struct drover_region_options: DROVER_REGION_…. */
export const regionFlags = { prewrite: 1, anonymous: 2, buffered: 4, say: 8 } as const;

/** The low four bits of a sample: DROVER_PAGE_…. */
export const pageStates = {
  empty: 0,
  cold: 1,
  busy: 2,
  clean: 3,
  dirty: 4,
  standby: 5,
  standbyDirty: 6,
  writeback: 7,
  poison: 8,
} as const;

/** Kinds of trace entries: DROVER_TRACE_…. */
export const traceKinds = { read: 1, write: 2, fill: 3, promote: 4, prefetch: 5 } as const;

/** why of struct drover_region_event: DROVER_EVENT_…. */
export const eventReasons = {
  read: 1,
  checksum: 2,
  short: 3,
  write: 4,
  room: 5,
  poisoned: 6,
  lost: 7,
  kernel: 8,
  storeDown: 9,
  storeUp: 10,
} as const;

/** DROVER_PREFETCH_WAIT, DROVER_EVICT_STANDBY and DROVER_EVICT_WAIT. */
export const prefetchWait = 1, evictStandby = 1, evictWait = 2;

/** DROVER_HISTOGRAM_BUCKETS and DROVER_TRACE_ENTRIES. */
export const histogramBuckets = 304, traceEntries = 8192;

/** struct drover_content_file, _piece and _op: offsets in bytes. */
export const contentLayout = {
  file: { structSize: 16, size: 0, dir: 8, name: 12 },
  piece: { structSize: 88, bases: 16, baseCount: 80, opCount: 84 },
  op: { structSize: 16, offset: 0, length: 8, what: 12 },
} as const;

/** struct drover_bench_options: offsets in bytes. */
export const benchOptions = {
  structSize: 48,
  size: 0,
  nanoseconds: 8,
  ops: 16,
  seed: 24,
  pattern: 32,
  threads: 36,
  writes: 40,
  hints: 44,
} as const;

/** struct drover_bench_result: offsets in bytes. */
export const benchResult = {
  structSize: 72,
  ops: 0,
  nanoseconds: 8,
  p50: 16,
  p90: 24,
  p99: 32,
  slowest: 40,
  wrong: 48,
  wrongOffset: 56,
  sum: 64,
} as const;

/** DROVER_BENCH_UNIFORM, …_ZIPF and …_SCAN. */
export const benchPatterns = { uniform: 0, zipf: 1, scan: 2 } as const;

/** DROVER_BENCH_THREADS_MAX and …_HINTS_MAX. */
export const benchThreadsMax = 64, benchHintsMax = 64;

/** struct drover_donor_stats: offsets in bytes. */
export const donorStats = {
  structSize: 32,
  lentBytes: 0,
  accepted: 8,
  refused: 16,
  leases: 24,
  links: 28,
} as const;

/** struct drover_fuse_options: offsets in bytes. */
export const fuseOptions = {
  structSize: 32,
  size: 0,
  mode: 8,
  uid: 12,
  gid: 16,
  flags: 20,
  timeoutMs: 24,
  slots: 28,
} as const;

/** struct drover_fuse_request: offsets in bytes. */
export const fuseRequest = {
  structSize: 24,
  offset: 0,
  length: 8,
  slot: 16,
  op: 20,
} as const;

/** struct drover_fuse_stats: offsets in bytes. */
export const fuseStats = {
  structSize: 80,
  requests: 0,
  reads: 8,
  readBytes: 16,
  writes: 24,
  writtenBytes: 32,
  flushes: 40,
  errors: 48,
  timeouts: 56,
  late: 64,
  pending: 72,
} as const;

/** flags of struct drover_fuse_options: DROVER_FUSE_…. */
export const fuseFlags = { readOnly: 1, keepCache: 2, allowOther: 4, helper: 8 } as const;

/** op of struct drover_fuse_request: DROVER_FUSE_…. */
export const fuseOps = { read: 1, write: 2, flush: 3, zero: 4, punch: 5, data: 6, hole: 7 } as const;

/** DROVER_FUSE_SLOT_SIZE, DROVER_FUSE_SLOTS_MAX and DROVER_FUSE_TIMEOUT_MS_MAX. */
export const fuseSlotSize = 2 ** 20 + 4096, fuseSlotsMax = 256, fuseTimeoutMsMax = 3_600_000;
