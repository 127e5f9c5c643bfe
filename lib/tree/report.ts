/**
 * What commands say of a tree: the results of its operations as `--json` has them, and changes as lines.
 *
 * @module
 */
import { pathToText, rootPath } from "../base/path.ts";
import { DroverError } from "../base/errors.ts";
import type { Change, VersionInfo } from "../version/entry.ts";
import { describeChange, pairRenames } from "../version/diff.ts";
import type { Capture, Profile } from "./context.ts";

/** One line of `fs status` and `fs diff`. */
export interface ChangeLine {
  /** Which path, as text. */
  path: string;
  /** What happened to it. */
  change: "created" | "deleted" | "modified" | "renamed";
  /** What of it differs, for `modified`. */
  aspects: string[];
  /** What it is, or was. */
  kind: string;
  /** Bytes of a file. */
  size: number;
  /** Where a renamed file was. */
  from?: string;
}

/** A tree at a glance. */
export interface TreeStatus {
  /** Absolute path, for people. */
  dir: string;
  /** Where its versions are kept. */
  state: string;
  /** How changes are found. */
  capture: Capture;
  /** With which overlay features. */
  profile: Profile;
  /** For an overlay: whether it is mounted; a plain tree always is. */
  mounted: boolean;
  /** The current version; null when it has none yet. */
  head: string | null;
  /** How many versions lie on the way to the head, with it. */
  versions: number;
  /** Entries and file bytes of the head version. */
  entries: number;
  /** File bytes of the head version. */
  bytes: number;
  /** What no version holds yet. */
  uncommitted: ChangeLine[];
}

/** One line of `fs log`. */
export interface VersionLine extends VersionInfo {
  /** It is the current version. */
  head: boolean;
  /** Its content is here: it can be checked out. */
  stored: boolean;
}

/** What a commit did. */
export interface CommitResult {
  /** The head afterwards. */
  version: string;
  /** The head before. */
  parent: string | null;
  /** False when there was nothing to commit. */
  changed: boolean;
  /** Changed paths, and the bytes of changed files. */
  entries: number;
  /** Bytes of changed files. */
  bytes: number;
  /** How long it took. */
  seconds: number;
}

/** What a checkout did. */
export interface CheckoutResult {
  /** The version before. */
  from: string | null;
  /** The version now. */
  to: string;
  /** Paths that changed. */
  entries: number;
  /** How long it took. */
  seconds: number;
}

/** Refusal because of changes that no version holds. */
export function uncommitted(name: string, changes: readonly Change[], verb: string): DroverError {
  const lines = changeLines(changes);
  return new DroverError(
    "uncommitted",
    `Cannot ${verb} "${name}": it has ${lines.length} uncommitted change${lines.length === 1 ? "" : "s"} (${
      lines.slice(0, 3).map(({ path }) => path).join(", ")
    }${lines.length > 3 ? ", …" : ""})`,
    { hint: `drover fs commit ${name}`, details: { uncommitted: lines.slice(0, 1000), count: lines.length } },
  );
}

/** Changes for people and for `--json`: moved files as one line, regrouped names of hard links left out. */
export function changeLines(changes: readonly Change[]): ChangeLine[] {
  const renames = pairRenames(changes);
  const moved = new Map(renames.map(({ from, to }) => [to.path, from.path]));
  const sources = new Set(renames.map(({ from }) => from.path));
  const lines: ChangeLine[] = [];
  for (const change of changes) {
    const { path, before, after } = change;
    if (before !== null && before === after) continue;
    if (after === null && sources.has(path)) continue;
    const entry = after ?? before;
    const description = describeChange(change);
    const from = moved.get(path);
    lines.push({
      path: path === rootPath ? "." : pathToText(path),
      change: from === undefined ? description.is : "renamed",
      aspects: description.aspects,
      kind: entry?.kind ?? "file",
      size: after?.size ?? 0,
      ...from === undefined ? {} : { from: pathToText(from) },
    });
  }
  return lines;
}

/** Elapsed seconds since a `performance.now()`. */
export function secondsSince(started: number): number {
  return (performance.now() - started) / 1000;
}
