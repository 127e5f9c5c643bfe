/**
 * How layers say "deleted" and "nothing of below shows here": all the spellings, as pure functions.
 *
 * | spelling | meaning | who writes it |
 * | --- | --- | --- |
 * | character device 0:0 | whiteout of its own name | overlayfs, fuse-overlayfs as root |
 * | empty file with `PREFIX.whiteout` in a directory with `PREFIX.opaque` = `x` | whiteout of its own name | overlayfs since 6.7 |
 * | `.wh.NAME` | whiteout of NAME | OCI layers, fuse-overlayfs without mknod |
 * | directory with `opaque` = `y` | opaque directory | overlayfs, fuse-overlayfs |
 * | `.wh..wh..opq` | its directory is opaque | OCI layers, fuse-overlayfs |
 * | `.wh..opq`, file or 0:0 device | its directory is opaque | fuse-overlayfs |
 * | other `.wh..wh.…` | bookkeeping of aufs, to be skipped | old layers |
 *
 * The names count only where the layer is known to use them (`names: true`): for the kernel's overlayfs `.wh.x` is
 * an ordinary file. PREFIX is `trusted.overlay` or, for a mount with `userxattr`, `user.overlay`.
 *
 * @module
 */
import type { BytePath } from "../base/path.ts";
import type { EntryXattr } from "./entry.ts";

/** Where an overlay keeps its own xattrs. */
export type OverlayXattrPrefix = "trusted.overlay." | "user.overlay." | "user.fuseoverlayfs.";

/** All prefixes whose xattrs belong to an overlay and not to the file. */
export const overlayXattrPrefixes: readonly OverlayXattrPrefix[] = [
  "trusted.overlay.",
  "user.overlay.",
  "user.fuseoverlayfs.",
];

/** Full names of the xattrs that overlayfs keeps, below one prefix. */
export interface OverlayXattrNames {
  /** `y`: nothing of the layers below shows; `x`: look for whiteouts spelled as xattrs. */
  readonly opaque: BytePath;
  /** On an empty file: it is a whiteout. */
  readonly whiteout: BytePath;
  /** Where the layers below have this directory or file: `/absolute/in/the/layer` or a name in the same parent. */
  readonly redirect: BytePath;
  /** The file has metadata only, its content is below; reading it here gives zeros. */
  readonly metacopy: BytePath;
  /** File handle of the lower inode that was copied up. */
  readonly origin: BytePath;
  /** A merged directory holds entries with an origin. */
  readonly impure: BytePath;
  /** Link count of an indexed inode. */
  readonly nlink: BytePath;
  /** In the index: file handle of the upper inode. */
  readonly upper: BytePath;
  /** Identity of the layer. */
  readonly uuid: BytePath;
  /** Inode flags that were asked for (append-only, immutable). */
  readonly protattr: BytePath;
}

/** The names below `prefix`. */
export function overlayXattrNames(prefix: OverlayXattrPrefix): OverlayXattrNames {
  const name = (last: string): BytePath => prefix + last as BytePath;
  return {
    opaque: name("opaque"),
    whiteout: name("whiteout"),
    redirect: name("redirect"),
    metacopy: name("metacopy"),
    origin: name("origin"),
    impure: name("impure"),
    nlink: name("nlink"),
    upper: name("upper"),
    uuid: name("uuid"),
    protattr: name("protattr"),
  };
}

/**
 * Whether an xattr is an overlay's own: part of no manifest, never sent, never taken from outside. That
 * holds for every name below the prefixes, known or not: a foreign `origin` may resolve by accident, a
 * foreign `redirect` reads somewhere else.
 */
export function isOverlayXattr(name: string): boolean {
  return overlayXattrPrefixes.some((prefix) => name.startsWith(prefix));
}

/** Begins the name of a whiteout in OCI layers. */
export const whiteoutNamePrefix = ".wh.";

/** Begins names that only mean something to aufs, but for `opaqueName`. */
export const whiteoutMetaPrefix = ".wh..wh.";

/** The name in a directory that makes it opaque in OCI layers. */
export const opaqueName: BytePath = ".wh..wh..opq" as BytePath;

/** The name that fuse-overlayfs uses beside it. */
export const fuseOpaqueName: BytePath = ".wh..opq" as BytePath;

/** What the functions here look at; a statx with xattrs has it all. */
export interface LayerItem {
  /** Last component of its path. */
  readonly name: BytePath;
  /** As in `Entry` or `FileStat`. */
  readonly kind: string;
  /** Device number of devices. */
  readonly rdevMajor: number;
  /** Device number of devices. */
  readonly rdevMinor: number;
  /** Size in bytes. */
  readonly size: number;
  /** All of its xattrs. */
  readonly xattrs: readonly EntryXattr[];
}

/** How the layer at hand spells things. */
export interface LayerDialect {
  /** `.wh.` names are whiteouts: OCI layers and fuse-overlayfs, not the kernel's overlay. */
  readonly names: boolean;
  /** The directory of the item is marked `opaque` = `x` (`opacity()` says `xattr-whiteouts`). */
  readonly xattrWhiteouts: boolean;
}

/** What an item of a layer is. */
export type LayerItemMeaning =
  /** An entry of the tree. */
  | { readonly is: "entry" }
  /** `name` of the layers below is deleted. */
  | { readonly is: "whiteout"; readonly name: BytePath }
  /** The directory that holds the item is opaque. */
  | { readonly is: "opaque-marker" }
  /** Nothing of the tree; to be skipped. */
  | { readonly is: "bookkeeping" };

/** Tells whiteouts and markers from entries. `.wh.`, `.wh..` and `.wh...` name nothing and are bookkeeping. */
export function layerItemMeaning(item: LayerItem, dialect: LayerDialect): LayerItemMeaning {
  if (dialect.names && item.name.startsWith(whiteoutNamePrefix)) {
    if (item.name === opaqueName || item.name === fuseOpaqueName) return { is: "opaque-marker" };
    if (item.name.startsWith(whiteoutMetaPrefix)) return { is: "bookkeeping" };
    const name = item.name.slice(whiteoutNamePrefix.length) as BytePath;
    return name === "" || name === "." || name === ".." ? { is: "bookkeeping" } : { is: "whiteout", name };
  }
  if (isWhiteoutDevice(item)) return { is: "whiteout", name: item.name };
  if (
    dialect.xattrWhiteouts && item.kind === "file" && item.size === 0 &&
    hasOverlayXattr(item.xattrs, "whiteout")
  ) {
    return { is: "whiteout", name: item.name };
  }
  return { is: "entry" };
}

/** Whether this is the character device 0:0, which no overlay shows and none lets anybody create. */
export function isWhiteoutDevice(item: { kind: string; rdevMajor: number; rdevMinor: number }): boolean {
  return item.kind === "char" && item.rdevMajor === 0 && item.rdevMinor === 0;
}

/** What a directory's `opaque` xattr says. */
export type Opacity = "transparent" | "opaque" | "xattr-whiteouts";

/**
 * Reads a directory's xattrs. `opaque` alone is not a deletion: overlayfs also marks new directories. A value other than
 * `y` and `x` means nothing to the kernel and is `transparent`.
 */
export function opacity(xattrs: readonly EntryXattr[]): Opacity {
  let result: Opacity = "transparent";
  for (const { name, value } of xattrs) {
    if (!isOverlayXattr(name) || !name.endsWith(".opaque") || value.length !== 1) continue;
    if (value[0] === 0x79) return "opaque";
    if (value[0] === 0x78) result = "xattr-whiteouts";
  }
  return result;
}

/** Whether the xattr with this last part is there, below any of the overlay prefixes. */
export function hasOverlayXattr(xattrs: readonly EntryXattr[], last: keyof OverlayXattrNames): boolean {
  return overlayXattr(xattrs, last) !== null;
}

/** The value of the xattr with this last part, below any of the overlay prefixes; null without. */
export function overlayXattr(
  xattrs: readonly EntryXattr[],
  last: keyof OverlayXattrNames,
): Uint8Array<ArrayBuffer> | null {
  for (const prefix of overlayXattrPrefixes) {
    const found = xattrs.find(({ name }) => name === prefix + last);
    if (found !== undefined) return found.value;
  }
  return null;
}

/** The name that stands for the whiteout of `name` in an OCI layer. */
export function whiteoutNameOf(name: BytePath): BytePath {
  return whiteoutNamePrefix + name as BytePath;
}
