/**
 * Chooses what changed files are built from: something that the receiver has and whose content is here too.
 *
 * In order: the same path; the very same content anywhere (a rename, a copy); a file that went away and has the same name,
 * or the same name as far as letters go. Only `delta` packages have bases of content; `upper` sends changed files whole.
 *
 * @module
 */
import { type BytePath, nameOf } from "../base/path.ts";
import { bytesEqual, toHex } from "../base/hex.ts";
import type { Change, Entry } from "../version/entry.ts";
import type { Manifest } from "../version/manifest.ts";
import type { PackageMode, Upsert } from "../version/package.ts";
import type { Tree } from "./tree.ts";

/** The upserts of a package, with their bases. */
export function chooseBases(
  tree: Tree,
  changes: readonly Change[],
  base: Manifest,
  mode: PackageMode,
): Upsert[] {
  const upserts: Upsert[] = [];
  const index = mode === "delta" ? new BaseIndex(tree, changes, base) : null;
  for (const { before, after } of changes) {
    if (after === null) continue;
    upserts.push(choose(after, before, base, index));
  }
  return upserts;
}

function choose(entry: Entry, before: Entry | null, base: Manifest, index: BaseIndex | null): Upsert {
  const whole = { entry, bases: [], sameContent: false };
  if (entry.kind === "link") return whole;
  const own = before === null || before.kind === "link" ? null : before;
  if (entry.kind !== "file" || entry.digest === null) return own === null ? whole : { ...whole, bases: [own.path] };
  if (own?.kind === "file" && own.digest !== null && bytesEqual(own.digest, entry.digest)) {
    return { entry, bases: [own.path], sameContent: true };
  }
  if (index === null || entry.size === 0) return whole;
  const same = index.sameContent(entry);
  if (same !== null) return { entry, bases: [same], sameContent: true };
  // A name of a hard-linked file that now stands alone: what it was is under the group's first name.
  const linked = before?.kind === "link" ? base.get(before.target) : null;
  const old = own?.kind === "file" ? own : linked;
  if (old !== null && old.size > 0 && index.isHere(old)) return { entry, bases: [old.path], sameContent: false };
  const alike = index.sameName(entry);
  return alike === null ? whole : { entry, bases: [alike], sameContent: false };
}

/** Files of the receiver's version by content and by name. */
class BaseIndex {
  readonly #tree: Tree;
  readonly #base: Manifest;
  readonly #gone = new Map<string, Entry[]>();
  readonly #here = new Map<string, boolean>();
  #byDigest: Map<string, BytePath> | null = null;

  constructor(tree: Tree, changes: readonly Change[], base: Manifest) {
    this.#tree = tree;
    this.#base = base;
    for (const { path, before, after } of changes) {
      if (after !== null || before === null) continue;
      const entries = before.kind === "directory" ? base.under(path) : [before];
      for (const entry of entries) {
        if (entry.kind !== "file" || entry.size === 0) continue;
        const key = letters(entry.path);
        const list = this.#gone.get(key);
        if (list === undefined) this.#gone.set(key, [entry]);
        else if (list.length < 64) list.push(entry);
      }
    }
  }

  /** Whether the sender can read it. */
  isHere(entry: Entry): boolean {
    if (entry.digest === null) return false;
    const key = toHex(entry.digest);
    let known = this.#here.get(key);
    if (known === undefined) {
      known = !this.#tree.content.find(entry.digest, entry.size).next().done;
      this.#here.set(key, known);
    }
    return known;
  }

  /** A file of the base with exactly this content. */
  sameContent(entry: Entry): BytePath | null {
    if (this.#byDigest === null) {
      this.#byDigest = new Map();
      for (const known of this.#base.entries()) {
        if (known.digest !== null && known.size > 0) this.#byDigest.set(toHex(known.digest), known.path);
      }
    }
    return entry.digest === null ? null : this.#byDigest.get(toHex(entry.digest)) ?? null;
  }

  /** A file that went away under a like name, the nearest in size. */
  sameName(entry: Entry): BytePath | null {
    const found = (this.#gone.get(letters(entry.path)) ?? [])
      .filter((known) => nameOf(known.path) === nameOf(entry.path) || Math.abs(known.size - entry.size) < entry.size / 2)
      .sort((a, b) => Math.abs(a.size - entry.size) - Math.abs(b.size - entry.size))
      .find((known) => this.isHere(known));
    return found?.path ?? null;
  }
}

/** A name without its digits: `log.1` and `log.2`, `a-1.4.js` and `a-1.5.js` are alike. */
function letters(path: BytePath): string {
  return nameOf(path).replace(/\d+/g, "0");
}
