/**
 * What a receiver lets in: histories that continue its own, entries that an ordinary user could have made, and no more than
 * there is room for. All of it is decided from the metadata, before any content.
 *
 * @module
 */
import { type BytePath, pathToText, rootPath } from "../base/path.ts";
import { DroverError, FormatError } from "../base/errors.ts";
import type { Entry } from "../version/entry.ts";
import { checkChain } from "../version/history.ts";
import { hasPieces, type PackageMetadata, type Upsert } from "../version/package.ts";
import { isOverlayXattr, isWhiteoutDevice } from "../version/whiteout.ts";
import { Beneath } from "./beneath.ts";
import { O_RDONLY } from "./posix.ts";
import type { Offer } from "./protocol.ts";
import type { Tree } from "./tree.ts";

/** What a receiver takes besides ordinary files. */
export interface Allowance {
  /** Character and block devices. */
  devices: boolean;
  /** Xattrs in `security.` (file capabilities among them) and `trusted.`. */
  securityXattrs: boolean;
}

/** The versions must lead from one that is known here to the new one; without `force` from the head. */
export function checkHistory(tree: Tree, metadata: PackageMetadata, offer: Offer): void {
  const { head } = tree.store.pointers;
  const first = metadata.versions[0];
  if (first === undefined) {
    if (tree.store.version(metadata.to) === null || !offer.force) {
      throw new FormatError("version.chain", -1, "Cannot use the package: it names no new version");
    }
    return;
  }
  checkChain(first.parent, metadata.versions, metadata.to);
  if (first.parent === head) return;
  if (!offer.force) {
    throw new DroverError(
      "diverged",
      `Cannot apply versions after ${
        first.parent?.slice(0, 12) ?? "nothing"
      } to "${tree.name}": its head is ${head?.slice(0, 12) ?? "nothing"}`,
    );
  }
  if (first.parent !== null && tree.store.version(first.parent) === null) {
    throw new DroverError(
      "unknown-version",
      `Cannot apply versions after ${first.parent.slice(0, 12)} to "${tree.name}": it is not known here`,
    );
  }
}

/**
 * Refuses entries that an ordinary user could not make, or that mean something to the overlay.
 *
 * @throws {FormatError} rules `FORMAT.policy.…`.
 */
export function checkAllowed(entry: Entry, allow: Allowance, format = "package"): void {
  const path = pathToText(entry.path === rootPath ? "." as BytePath : entry.path);
  const refuse = (rule: string, message: string, hint: string) => {
    const error = new FormatError(`${format}.policy.${rule}`, -1, `Cannot accept "${path}": ${message}`);
    return Object.assign(error, { hint });
  };
  if (entry.kind === "char" || entry.kind === "block") {
    if (isWhiteoutDevice({ ...entry })) {
      throw refuse("whiteout", "a 0:0 device would hide a name", "remove it at the source");
    }
    if (!allow.devices) {
      throw refuse("device", "devices are not allowed here", "allow it with --allow-devices");
    }
  }
  for (const { name } of entry.xattrs) {
    const text = pathToText(name);
    if (isOverlayXattr(name)) {
      throw refuse("xattr", `xattr "${text}" belongs to the overlay`, "remove it at the source");
    }
    if (name.startsWith("user.") || name.startsWith("system.posix_acl_")) continue;
    if (!allow.securityXattrs || !/^(security|trusted)\./.test(name)) {
      throw refuse("xattr", `xattr "${text}" is not allowed here`, "allow it with --allow-security-xattrs");
    }
  }
}

/** Refuses early what cannot fit. */
export function checkRoom(tree: Tree, upserts: readonly Upsert[]): void {
  using root = Beneath.open(tree.libc, tree.store.path);
  const fd = tree.libc.openBeneath(root.fd, "." as BytePath, O_RDONLY);
  try {
    const { available } = tree.libc.statfs(fd);
    const needed = upserts.reduce((sum, upsert) => sum + (hasPieces(upsert) ? upsert.entry.size : 0), 0);
    // Sparse files may need less than their size, so only what is far too much is refused here.
    if (available * 16 < needed) {
      throw new DroverError(
        "no-space",
        `Cannot receive ${needed} bytes into "${tree.name}": ${available} bytes are free`,
      );
    }
  } finally {
    tree.libc.close(fd);
  }
}
