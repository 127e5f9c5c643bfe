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
