import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { FormatError } from "../../lib/base/errors.ts";
import { bytesEqual, toHex } from "../../lib/base/hex.ts";
import { type BytePath, isBelow } from "../../lib/base/path.ts";
import { diffManifests } from "../../lib/version/diff.ts";
import type { Change, Entry } from "../../lib/version/entry.ts";
import { Manifest } from "../../lib/version/manifest.ts";
import { loadVectors } from "../vectors.ts";
import { entry, file, link, Random, randomChange, randomTree, shuffled } from "./trees.ts";

const root = entry("", "directory");

Deno.test("Manifest.build() gives the same bytes for every order of the entries", () => {
  for (let seed = 1; seed <= 20; seed++) {
    const random = new Random(seed);
    const tree = randomTree(random, 80);
    const first = Manifest.build(tree.values());
    const second = Manifest.build(shuffled(random, tree.values()));
    assert.equal(first.root(), second.root(), `seed ${seed}`);
    assert(bytesEqual(first.bytes, second.bytes));
    assert.equal(first.root(), createHash("sha256").update(first.bytes).digest("hex"));
  }
});

Deno.test("Manifest.fromBytes() gives back the entries that build() took, and its lookups agree with them", () => {
  for (let seed = 1; seed <= 20; seed++) {
    const random = new Random(seed);
    const tree = randomTree(random, 100);
    const manifest = Manifest.fromBytes(Manifest.build(tree.values()).bytes);
    const sorted = [...tree.values()].sort((left, right) => left.path < right.path ? -1 : 1);
    assert.deepEqual([...manifest.entries()], sorted);
    assert.equal(manifest.count, sorted.length);
    for (const [index, wanted] of sorted.entries()) {
      assert.equal(manifest.indexOf(wanted.path), index);
      assert.equal(manifest.pathAt(index), wanted.path);
      assert.equal(manifest.kindAt(index), wanted.kind);
      assert.deepEqual(manifest.get(wanted.path), wanted);
      const other = wanted.path + random.pick(["!", "/", "~", "\xff"]) as BytePath;
      assert.equal(manifest.has(other), tree.has(other));
      if (wanted.kind === "directory") {
        assert.deepEqual(
          [...manifest.under(wanted.path)],
          sorted.filter(({ path }) => isBelow(path, wanted.path)),
        );
      }
    }
    const count = (...kinds: string[]) => sorted.filter(({ kind }) => kinds.includes(kind)).length;
    assert.deepEqual(manifest.totals, {
      files: count("file"),
      directories: count("directory"),
      symlinks: count("symlink"),
      others: count("char", "block", "fifo", "socket"),
      links: count("link"),
      bytes: sorted.reduce((sum, { size }) => sum + size, 0),
    });
  }
});

Deno.test("Manifest.apply() of a diff gives the other manifest byte for byte", () => {
  let changed = 0;
  for (let seed = 1; seed <= 120; seed++) {
    const random = new Random(seed);
    const treeBefore = randomTree(random, random.below(120));
    const treeAfter = random.one(10)
      ? randomTree(random, 50)
      : randomChange(random, treeBefore, 1 + random.below(30));
    const before = Manifest.build(treeBefore.values());
    const after = Manifest.build(treeAfter.values());
    const changes = diffManifests(before, after);
    changed += changes.length;
    const applied = before.apply(changes);
    assert.equal(toHex(applied.bytes), toHex(after.bytes), `seed ${seed}`);
    // What apply() carried over must be what reading the bytes finds.
    const read = Manifest.fromBytes(applied.bytes);
    assert.deepEqual(applied.totals, read.totals, `seed ${seed}`);
    assert.deepEqual([...applied.linkGroups()], [...read.linkGroups()], `seed ${seed}`);
    for (let index = 0; index <= read.count; index++) {
      assert.equal(applied.offsetAt(index), read.offsetAt(index));
    }
  }
  assert(changed > 1000, `${changed} changes`);
});

Deno.test("Manifest.apply() goes from the empty manifest to a tree and back", () => {
  const full = Manifest.build(randomTree(new Random(7), 50).values());
  assert.equal(Manifest.empty.apply(diffManifests(Manifest.empty, full)).root(), full.root());
  assert.equal(full.apply(diffManifests(full, Manifest.empty)).root(), Manifest.empty.root());
  assert.equal(Manifest.fromBytes(Manifest.empty.bytes).count, 0);
  assert.equal(Manifest.build([]).root(), Manifest.empty.root());
  assert.deepEqual([...Manifest.empty.under("" as BytePath)], []);
});

Deno.test("Manifest.apply() refuses exactly the changes whose result fromBytes() would refuse", () => {
  let refused = 0;
  let accepted = 0;
  for (let seed = 1; seed <= 300; seed++) {
    const random = new Random(seed);
    const tree = randomTree(random, 25);
    const before = Manifest.build(tree.values());
    // Changes drawn without regard for parents and links.
    const paths = shuffled(random, tree.keys()).slice(0, 1 + random.below(4));
    const changes = paths.map((path): Change => {
      const old = tree.get(path) ?? null;
      switch (random.below(4)) {
        case 0:
          return { path, before: old, after: null };
        case 1:
          return {
            path,
            before: old,
            after: link(path, random.pick([...tree.keys()].filter((name) => name !== ""))),
          };
        case 2:
          return { path, before: old, after: file(path, "new") };
        default: {
          const name = path + "/q/w".slice(0, random.one(2) ? 2 : 4) as BytePath;
          return { path: name, before: null, after: file(name, "x") };
        }
      }
    }).filter(({ path }) => path !== "" && !path.startsWith("/"))
      .sort((left, right) => left.path < right.path ? -1 : 1);
    if (new Set(changes.map(({ path }) => path)).size !== changes.length) continue;
    const after = new Map(tree);
    for (const change of changes) {
      if (change.after === null) after.delete(change.path);
      else after.set(change.path, change.after);
    }
    const outcome = (run: () => Manifest): string => {
      try {
        return run().root();
      } catch (error) {
        if (!(error instanceof FormatError)) throw error;
        return "refused";
      }
    };
    const wanted = outcome(() => Manifest.build(after.values()));
    assert.equal(outcome(() => before.apply(changes)), wanted, `seed ${seed}`);
    if (wanted === "refused") refused++;
    else accepted++;
  }
  assert(refused > 50 && accepted > 50, `${refused} refused, ${accepted} accepted`);
});

Deno.test("Manifest.apply() refuses changes that do not fit, by rule", () => {
  const a = file("a", "1");
  const c = file("c", "1");
  const manifest = Manifest.build([root, a, c]);
  const path = (name: string) => name as BytePath;
  const cases: [rule: string, changes: Change[]][] = [
    ["order", [{ path: path("c"), before: c, after: null }, { path: path("a"), before: a, after: null }]],
    ["order", [{ path: path("a"), before: a, after: null }, { path: path("a"), before: a, after: null }]],
    ["nothing", [{ path: path("b"), before: null, after: null }]],
    ["path", [{ path: path("b"), before: null, after: a }]],
    ["exists", [{ path: path("a"), before: null, after: a }]],
    ["missing", [{ path: path("b"), before: file("b", ""), after: null }]],
    ["root", [{ path: path(""), before: root, after: null }]],
    ["parent", [{ path: path("a/x"), before: null, after: file("a/x", "") }]],
    ["parent", [{ path: path("n/x"), before: null, after: file("n/x", "") }]],
    ["parent", [
      { path: path("n"), before: null, after: file("n", "") },
      { path: path("n/x"), before: null, after: file("n/x", "") },
    ]],
    ["parent", [
      { path: path("n"), before: null, after: entry("n", "directory") },
      { path: path("n/x"), before: null, after: file("n/x", "") },
      { path: path("n/x/y"), before: null, after: file("n/x/y", "") },
    ]],
    ["link", [{ path: path("b"), before: null, after: link("b", "c") }]],
  ];
  for (const [rule, changes] of cases) {
    assert.throws(() => manifest.apply(changes), { name: "FormatError", rule: `manifest.apply.${rule}` });
  }
});

Deno.test("Manifest.namesOf() and linkGroups() know every name of a file", () => {
  const manifest = Manifest.build([
    root,
    file("a", "1"),
    link("b", "a"),
    entry("d", "directory"),
    link("d/c", "a"),
    file("e", "2"),
    link("f", "e"),
    file("g", "3"),
  ]);
  assert.deepEqual(manifest.namesOf("a" as BytePath), ["a", "b", "d/c"]);
  assert.deepEqual(manifest.namesOf("g" as BytePath), ["g"]);
  assert.deepEqual(manifest.namesOf("b" as BytePath), []);
  assert.deepEqual(manifest.namesOf("d" as BytePath), []);
  assert.deepEqual(manifest.namesOf("nothing" as BytePath), []);
  assert.deepEqual([...manifest.linkGroups()], [
    { leader: "a", names: ["a", "b", "d/c"] },
    { leader: "e", names: ["e", "f"] },
  ]);
});

Deno.test("Manifest.build() refuses entries that are no tree, by rule", () => {
  const cases: [rule: string, entries: Entry[]][] = [
    ["manifest.root", [file("a", "")]],
    ["manifest.root", [entry("", "fifo")]],
    ["manifest.order", [root, file("a", ""), file("a", "1")]],
    ["manifest.parent", [root, file("a/b", "")]],
    ["manifest.parent", [root, file("a", ""), file("a/b", "")]],
    ["manifest.link", [root, link("a", "b"), file("b", "")]],
    ["manifest.link", [root, link("b", "a")]],
    ["manifest.link", [root, file("a", ""), link("b", "a"), link("c", "b")]],
    ["manifest.link", [root, entry("a", "directory"), link("b", "a")]],
    ["entry.path", [root, file("a//b", "")]],
  ];
  for (const [rule, entries] of cases) assert.throws(() => Manifest.build(entries), { rule });
});

Deno.test("Manifest.fromBytes() accepts mutated bytes only where build() would have written them", () => {
  let accepted = 0;
  let refused = 0;
  for (let seed = 1; seed <= 60; seed++) {
    const random = new Random(seed);
    const { bytes } = Manifest.build(randomTree(random, 12).values());
    for (let round = 0; round < 60; round++) {
      const mutated = bytes.slice(0, random.one(10) ? random.below(bytes.length) : bytes.length);
      const at = random.below(mutated.length);
      mutated[at] = random.one(2) ? (mutated[at] ?? 0) ^ 1 << random.below(8) : random.below(256);
      try {
        const manifest = Manifest.fromBytes(mutated);
        accepted++;
        assert(bytesEqual(Manifest.build(manifest.entries()).bytes, mutated), `seed ${seed}, round ${round}`);
      } catch (error) {
        if (!(error instanceof FormatError)) throw error;
        refused++;
      }
    }
  }
  assert(accepted > 100 && refused > 100, `${accepted} accepted, ${refused} refused`);
});

Deno.test("Manifest.fromBytes() takes bytes at any offset of their buffer", () => {
  const { bytes } = Manifest.build([root, file("a", "1")]);
  const buffer = new Uint8Array(bytes.length + 3);
  buffer.set(bytes, 3);
  assert.equal(Manifest.fromBytes(buffer.subarray(3)).get("a" as BytePath)?.size, 1);
});

for (const vector of loadVectors("manifest")) {
  Deno.test(`Manifest.fromBytes() vector ${vector.name}: ${vector.expect}`, () => {
    if (vector.expect === "ok") {
      const manifest = Manifest.fromBytes(vector.bytes);
      assert.equal(toHex(Manifest.build(manifest.entries()).bytes), toHex(vector.bytes));
      return;
    }
    assert.throws(() => Manifest.fromBytes(vector.bytes), { name: "FormatError", rule: vector.expect });
  });
}
