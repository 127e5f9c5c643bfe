/**
 * Random trees and changes to them, for property tests: a seed gives the same tree everywhere.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { type BytePath, isBelow, joinPath, parentOf } from "../../lib/base/path.ts";
import type { Entry, EntryKind, EntryXattr } from "../../lib/version/entry.ts";
import { emptyDigest } from "../../lib/version/entry_codec.ts";

/** A small generator of numbers (xorshift32), good enough to draw cases. */
export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = (Math.imul(seed, 0x9e3779b1) ^ 0x5bd1e995) >>> 0 || 1;
  }

  /** An integer from 0 to below `bound`. */
  below(bound: number): number {
    let x = this.#state;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.#state = x >>> 0;
    return Math.floor(this.#state / 2 ** 32 * bound);
  }

  /** True in one of `of` cases. */
  one(of: number): boolean {
    return this.below(of) === 0;
  }

  pick<T>(items: readonly [T, ...T[]] | readonly T[]): T {
    const item = items[this.below(items.length)];
    if (item === undefined) throw new Error("nothing to pick from");
    return item;
  }

  bytes(size: number): Uint8Array<ArrayBuffer> {
    return Uint8Array.from({ length: size }, () => this.below(256));
  }
}

/** An entry with every field at its zero, and what is given. */
export function entry(path: string, kind: EntryKind, fields: Partial<Entry> = {}): Entry {
  return {
    path: path as BytePath,
    kind,
    mode: kind === "directory" ? 0o755 : kind === "symlink" ? 0o777 : kind === "link" ? 0 : 0o644,
    uid: 0,
    gid: 0,
    mtimeSeconds: 0,
    mtimeNanos: 0,
    size: 0,
    digest: kind === "file" ? emptyDigest : null,
    target: "" as BytePath,
    rdevMajor: 0,
    rdevMinor: 0,
    xattrs: [],
    ...fields,
  };
}

/** A file with this content; only size and digest are kept. */
export function file(path: string, content: string, fields: Partial<Entry> = {}): Entry {
  const bytes = new TextEncoder().encode(content);
  const digest = new Uint8Array(createHash("sha256").update(bytes).digest());
  return entry(path, "file", { size: bytes.length, digest, ...fields });
}

/** A hard link. */
export function link(path: string, target: string): Entry {
  return entry(path, "link", { target: target as BytePath });
}

/** A tree under construction: entries by path. */
export type Tree = Map<BytePath, Entry>;

const names = [
  "a",
  "a!",
  "a0",
  "b",
  ".wh.x",
  "-",
  "name with space",
  "\n",
  "\xff\xfe",
  "\xc3\xa4",
  "Z".repeat(255),
  "c.txt",
];

/** A tree of about `count` entries, of all kinds, with awkward names. */
export function randomTree(random: Random, count: number): Tree {
  const tree: Tree = new Map([["" as BytePath, randomEntry(random, "" as BytePath, "directory")]]);
  for (let step = 0; step < count; step++) addRandom(random, tree);
  return regroup(tree);
}

/** The same tree after `steps` creations, deletions, modifications and renames. */
export function randomChange(random: Random, before: Tree, steps: number): Tree {
  const tree: Tree = new Map(before);
  for (let step = 0; step < steps; step++) {
    const path = random.pick([...tree.keys()]);
    const old = tree.get(path);
    switch (random.below(5)) {
      case 0:
      case 1:
        addRandom(random, tree);
        break;
      case 2:
        if (path !== "") remove(tree, path);
        break;
      case 3:
        if (old === undefined || old.kind === "link") break;
        tree.set(path, { ...randomEntry(random, path, random.one(4) ? randomKind(random) : old.kind) });
        if (path === "") tree.set(path, randomEntry(random, path, "directory"));
        if (tree.get(path)?.kind !== "directory") { for (const name of below(tree, path)) tree.delete(name); }
        break;
      default: {
        if (path === "" || old === undefined) break;
        const to = freePath(random, tree);
        if (to === null || to === path || isBelow(to, path)) break;
        for (const name of [...below(tree, path), path]) {
          const entry = tree.get(name);
          const moved = to + name.slice(path.length) as BytePath;
          tree.delete(name);
          if (entry !== undefined) tree.set(moved, { ...entry, path: moved });
        }
      }
    }
  }
  return regroup(tree);
}

/** A shuffled copy. */
export function shuffled<T>(random: Random, items: Iterable<T>): T[] {
  const result = [...items];
  for (let at = result.length - 1; at > 0; at--) {
    const other = random.below(at + 1);
    const [left, right] = [result[at], result[other]];
    if (left !== undefined && right !== undefined) [result[at], result[other]] = [right, left];
  }
  return result;
}

function addRandom(random: Random, tree: Tree): void {
  const path = freePath(random, tree);
  if (path === null) return;
  const files = [...tree.values()].filter(({ kind }) => kind === "file");
  if (random.one(8) && files.length > 0) tree.set(path, link(path, random.pick(files).path));
  else tree.set(path, randomEntry(random, path, randomKind(random)));
}

function randomKind(random: Random): EntryKind {
  return random.pick<EntryKind>([
    "file",
    "file",
    "file",
    "directory",
    "directory",
    "symlink",
    "char",
    "block",
    "fifo",
    "socket",
  ]);
}

function freePath(random: Random, tree: Tree): BytePath | null {
  const directories = [...tree.values()].filter(({ kind, path }) =>
    kind === "directory" && path.length < 2000
  );
  const name = random.one(2) ? random.pick(names) : `n${random.below(1000)}`;
  const path = joinPath(random.pick(directories).path, name as BytePath);
  return tree.has(path) ? null : path;
}

function below(tree: Tree, path: BytePath): BytePath[] {
  return [...tree.keys()].filter((name) => isBelow(name, path));
}

function remove(tree: Tree, path: BytePath): void {
  for (const name of below(tree, path)) tree.delete(name);
  tree.delete(path);
}

/** Makes links point to the smallest name of their group again, after names came and went. */
function regroup(tree: Tree): Tree {
  const sorted = [...tree.values()].sort((left, right) => left.path < right.path ? -1 : 1);
  const groups = new Map<BytePath, Entry[]>();
  for (const entry of sorted) {
    const key = entry.kind === "link" ? entry.target : entry.path;
    const members = groups.get(key);
    if (members === undefined) groups.set(key, [entry]);
    else members.push(entry);
  }
  const result: Tree = new Map();
  for (const [key, members] of groups) {
    const data = tree.get(key);
    const links = members.filter(({ kind }) => kind === "link");
    const own = members.filter(({ kind }) => kind !== "link");
    if (links.length === 0 || data?.kind !== "file") {
      for (const entry of own) result.set(entry.path, entry);
      // The data moved or went: the names that are left stand alone.
      for (const { path } of links) result.set(path, entry(path, "file"));
      continue;
    }
    const [leader, ...rest] = members;
    if (leader === undefined) continue;
    result.set(leader.path, { ...data, path: leader.path });
    for (const { path } of rest) result.set(path, link(path, leader.path));
  }
  for (const path of result.keys()) {
    const parent = parentOf(path);
    if (result.get(parent)?.kind !== "directory") throw new Error(`the generator lost the parent of ${path}`);
  }
  return result;
}

function randomEntry(random: Random, path: BytePath, kind: EntryKind): Entry {
  const fields: Partial<Entry> = {
    uid: random.pick([0, 0, 1000, 65_534, 0xffff_fffe]),
    gid: random.pick([0, 1000, 300]),
    mtimeSeconds: random.pick([0, -1, -(2 ** 40), 1_760_000_000 + random.below(1000), 2 ** 33, 2 ** 52 - 1]),
    mtimeNanos: random.pick([0, 1, 999_999_999, random.below(1_000_000_000)]),
    xattrs: random.one(6) ? randomXattrs(random) : [],
  };
  if (kind !== "symlink") fields.mode = random.pick([0o644, 0o755, 0, 0o4755, 0o7777]);
  if (kind === "file" && !random.one(6)) {
    fields.size = random.pick([1, 127, 128, 5000, 2 ** 35, 2 ** 40 + 1]);
    fields.digest = new Uint8Array(createHash("sha256").update(random.bytes(1)).digest());
  }
  if (kind === "symlink") fields.target = random.pick(["/", "../../x", "\xff", "t".repeat(4095)]) as BytePath;
  if (kind === "char" || kind === "block") {
    fields.rdevMajor = 1 + random.below(4095);
    fields.rdevMinor = random.below(1_048_576);
  }
  return entry(path, kind, fields);
}

function randomXattrs(random: Random): EntryXattr[] {
  const all = ["security.capability", "system.posix_acl_access", "user.=%", "user.a", "user.z\xff"];
  return all.filter(() => random.one(2)).map((name) => ({
    name: name as BytePath,
    value: random.bytes(random.pick([0, 1, 20, 300])),
  }));
}
