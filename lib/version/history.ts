/**
 * Versions as a hash chain: an id names a tree's state and everything before it.
 *
 * An id is sha256(parent id, or 32 zero bytes for the first version ‖ manifest root). Two hosts with the
 * same head id have the same history; a count could not tell. Chains are lists of ids or versions of one tree.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { FormatError } from "../base/errors.ts";
import { fromHex } from "../base/hex.ts";
import type { VersionInfo } from "./entry.ts";

/** The longest commit message in UTF-16 units. */
export const messageSizeMax = 65_536;

/** The most versions that are taken from outside in one chain. */
export const chainCountMax = 1_000_000;

/** The largest time of a version: the largest that a `Date` holds. */
const timeMax = 8.64e15;

/**
 * The id of the version that has this parent and manifest.
 *
 * @param parent 64 hex digits, or null for a first version.
 * @param root 64 hex digits.
 * @throws {TypeError} where these are no ids.
 */
export function versionId(parent: string | null, root: string): string {
  if ((parent !== null && !isVersionId(parent)) || !isVersionId(root)) {
    throw new TypeError(`Cannot name a version: "${parent}" and "${root}" must be 64 digits 0-9a-f`);
  }
  return createHash("sha256")
    .update(parent === null ? new Uint8Array(32) : fromHex(parent))
    .update(fromHex(root))
    .digest("hex");
}

/** Whether the text is the form of an id or root: 64 lower-case hex digits. */
export function isVersionId(text: unknown): text is string {
  return typeof text === "string" && /^[0-9a-f]{64}$/.test(text);
}

/**
 * Checks a version from outside: its fields, and that the id is the hash it should be.
 *
 * @throws {FormatError} rules `version.id`, `version.time`, `version.message`.
 */
export function checkVersion(info: VersionInfo): void {
  const fail = (rule: string, message: string): FormatError =>
    new FormatError(
      `version.${rule}`,
      -1,
      `Cannot accept version "${String(info.id).slice(0, 80)}": ${message}`,
    );
  if (
    !isVersionId(info.id) || !isVersionId(info.root) || (info.parent !== null && !isVersionId(info.parent))
  ) {
    throw fail("id", "id, parent and root must be 64 digits 0-9a-f");
  }
  const id = versionId(info.parent, info.root);
  if (id !== info.id) throw fail("id", `parent and root make it "${id}"`);
  if (!Number.isInteger(info.time) || Math.abs(info.time) > timeMax) {
    throw fail("time", `time is "${info.time}", not milliseconds since 1970`);
  }
  if (typeof info.message !== "string" || info.message.length > messageSizeMax) {
    throw fail("message", `the message must be text of at most ${messageSizeMax} characters`);
  }
}

/**
 * Checks that versions from outside are the way from one version to another, without a gap.
 *
 * @param from the version that is here already; null when there is none.
 * @param versions oldest first.
 * @param to the version that the way must end in.
 * @throws {FormatError} `version.chain` for a wrong link, or what `checkVersion` throws.
 */
export function checkChain(from: string | null, versions: readonly VersionInfo[], to: string): void {
  const fail = (message: string): FormatError =>
    new FormatError("version.chain", -1, `Cannot follow the versions to "${to.slice(0, 80)}": ${message}`);
  if (versions.length > chainCountMax) throw fail(`${versions.length} versions, more than ${chainCountMax}`);
  let previous = from;
  for (const version of versions) {
    checkVersion(version);
    if (version.parent !== previous) {
      throw fail(
        `the parent of "${version.id}" is "${version.parent ?? "none"}", not "${previous ?? "none"}"`,
      );
    }
    previous = version.id;
  }
  if (previous !== to) throw fail(`they end in "${previous ?? "none"}"`);
}

/**
 * A few ids of a long chain, dense near the head: those at distance 0, 1, 2, 4, 8, … and the first version.
 *
 * @param chain newest first.
 * @returns newest first, at most 3 + log2 of the length.
 */
export function sampleAncestors(chain: readonly string[]): string[] {
  const sample: string[] = [];
  const last = chain.length - 1;
  for (let distance = 0; distance < last; distance = distance === 0 ? 1 : distance * 2) {
    sample.push(chain[distance] ?? "");
  }
  const first = chain[last];
  if (first !== undefined) sample.push(first);
  return sample;
}

/**
 * The newest version that both sides are known to have, or null. With a sample of the other side's chain the true
 * common ancestor may be newer, by less than the distance of that ancestor from the other's head.
 *
 * @param own the whole chain, newest first.
 * @param others ids of the other side, whole or a sample, in any order.
 */
export function newestCommon(own: readonly string[], others: Iterable<string>): string | null {
  const known = new Set(others);
  return own.find((id) => known.has(id)) ?? null;
}
