import assert from "node:assert/strict";
import { type BytePath, parentOf } from "../../lib/base/path.ts";
import { describeChange, diffManifests, isRegrouped, pairRenames } from "../../lib/version/diff.ts";
import type { Entry } from "../../lib/version/entry.ts";
import { Manifest } from "../../lib/version/manifest.ts";
import { entry, file, link, Random, randomChange, randomTree } from "./trees.ts";

const root = entry("", "directory");
const directory = (path: string): Entry => entry(path, "directory");
const build = (...entries: Entry[]): Manifest => Manifest.build([root, ...entries]);
const paths = (changes: { path: BytePath }[]): string[] => changes.map(({ path }) => path);

Deno.test("diffManifests() finds exactly the paths whose entries differ", () => {
  for (let seed = 1; seed <= 60; seed++) {
    const random = new Random(seed);
    const before = randomTree(random, 80);
    const after = randomChange(random, before, random.below(20));
    const [left, right] = [Manifest.build(before.values()), Manifest.build(after.values())];
    const wanted = [...new Set([...before.keys(), ...after.keys()])].sort().filter((path) => {
      const [old, now] = [before.get(path), after.get(path)];
      try {
        assert.deepEqual(old, now);
        return false;
      } catch {
        return true;
      }
    });
    const changes = diffManifests(left, right, { regroup: false });
    assert.deepEqual(paths(changes), wanted, `seed ${seed}`);
    for (const change of changes) {
      assert.deepEqual(change.before, before.get(change.path) ?? null);
      assert.deepEqual(change.after, after.get(change.path) ?? null);
    }
    const whole = diffManifests(left, right);
    assert.deepEqual(paths(whole.filter((change) => !isRegrouped(change))), wanted, `seed ${seed}`);
    assert.deepEqual(paths(whole), paths(whole).sort());
  }
});

Deno.test("diffManifests() of equal manifests is empty", () => {
  const tree = randomTree(new Random(3), 100);
  assert.deepEqual(diffManifests(Manifest.build(tree.values()), Manifest.build(tree.values())), []);
});

Deno.test("diffManifests() lists the whole hard-link group when any of its names changed", () => {
  const before = build(file("a", "1"), link("b", "a"), link("c", "a"), file("x", "1"), link("y", "x"));
  const content = build(file("a", "2"), link("b", "a"), link("c", "a"), file("x", "1"), link("y", "x"));
  const changes = diffManifests(before, content);
  assert.deepEqual(paths(changes), ["a", "b", "c"]);
  assert.deepEqual(changes.map(isRegrouped), [false, true, true]);
  assert.deepEqual(describeChange(changes[1] ?? changes[0] as never), { is: "modified", aspects: [] });
  assert.deepEqual(paths(diffManifests(before, content, { regroup: false })), ["a"]);

  const grown = build(
    file("a", "1"),
    link("b", "a"),
    link("c", "a"),
    link("d", "a"),
    file("x", "1"),
    link("y", "x"),
  );
  assert.deepEqual(diffManifests(before, grown).map((change) => [change.path, isRegrouped(change)]), [
    ["a", true],
    ["b", true],
    ["c", true],
    ["d", false],
  ]);
  const shrunk = build(file("a", "1"), link("b", "a"), file("x", "1"), link("y", "x"));
  assert.deepEqual(paths(diffManifests(before, shrunk)), ["c"]);
});

Deno.test("diffManifests() lists all that a deleted directory held, with collapse only the top", () => {
  const before = build(
    directory("d"),
    file("d!", "beside"),
    directory("d/e"),
    file("d/e/f", "1"),
    file("d/g", "2"),
    directory("k"),
    file("k/l", "3"),
  );
  const after = build(file("d!", "beside"), directory("k"));
  assert.deepEqual(paths(diffManifests(before, after)), ["d", "d/e", "d/e/f", "d/g", "k/l"]);
  assert.deepEqual(paths(diffManifests(before, after, { collapse: true })), ["d", "k/l"]);
  const replaced = build(file("d", "now a file"), file("d!", "beside"), directory("k"));
  assert.deepEqual(paths(diffManifests(before, replaced, { collapse: true })), ["d", "k/l"]);
  assert.deepEqual(paths(diffManifests(before, Manifest.empty, { collapse: true })), [""]);
});

Deno.test("diffManifests() with collapse leaves out only what lies below a listed path", () => {
  for (let seed = 1; seed <= 40; seed++) {
    const random = new Random(seed);
    const before = randomTree(random, 60);
    const [left, right] = [before, randomChange(random, before, 15)].map((tree) =>
      Manifest.build(tree.values())
    );
    if (left === undefined || right === undefined) throw new Error("impossible");
    const all = diffManifests(left, right);
    const top = new Set(paths(diffManifests(left, right, { collapse: true })));
    for (const { path, before, after } of all) {
      let covered = false;
      for (let up = parentOf(path); up !== "" && !covered; up = parentOf(up)) {
        covered = top.has(up) && right.get(up)?.kind !== "directory";
      }
      assert.equal(top.has(path), !(covered && before !== null && after === null), `seed ${seed}, ${path}`);
    }
  }
});

Deno.test("describeChange() names every aspect that differs", () => {
  const old = file("a", "1");
  const xattrs = [{ name: "user.x" as BytePath, value: new Uint8Array([1]) }];
  const says = (before: Entry | null, after: Entry | null) =>
    describeChange({ path: "a" as BytePath, before, after });
  assert.deepEqual(says(null, old), { is: "created", aspects: [] });
  assert.deepEqual(says(old, null), { is: "deleted", aspects: [] });
  const cases: [string, Entry][] = [
    ["content", { ...file("a", "2") }],
    ["content", { ...file("a", "longer") }],
    ["mode", { ...old, mode: 0o600 }],
    ["owner", { ...old, uid: 1 }],
    ["owner", { ...old, gid: 1 }],
    ["mtime", { ...old, mtimeSeconds: 1 }],
    ["mtime", { ...old, mtimeNanos: 1 }],
    ["xattrs", { ...old, xattrs }],
    ["type", entry("a", "fifo", { mode: 0 })],
  ];
  for (const [aspect, after] of cases) {
    assert.deepEqual(says(old, after), { is: "modified", aspects: [aspect] });
  }
  const value = xattrs.map(({ name }) => ({ name, value: new Uint8Array([2]) }));
  assert.deepEqual(says({ ...old, xattrs }, { ...old, xattrs: value }).aspects, ["xattrs"]);
  const symlink = entry("a", "symlink", { target: "x" as BytePath });
  assert.deepEqual(says(symlink, { ...symlink, target: "y" as BytePath }).aspects, ["target"]);
  const device = entry("a", "char", { rdevMajor: 1 });
  assert.deepEqual(says(device, { ...device, rdevMinor: 1 }).aspects, ["device"]);
  assert.deepEqual(says(old, { ...file("a", "2"), mode: 0, uid: 1 }).aspects, ["content", "mode", "owner"]);
});

Deno.test("pairRenames() pairs equal contents once, the same name first, and no empty files", () => {
  const before = build(
    directory("d"),
    file("d/x", "same"),
    file("a", "same"),
    file("e", ""),
    file("k", "other"),
  );
  const after = build(
    directory("n"),
    file("n/x", "same"),
    file("m", "same"),
    file("z", "same"),
    file("e2", ""),
  );
  const pairs = pairRenames(diffManifests(before, after)).map(({ from, to }) => [from.path, to.path]);
  assert.deepEqual(pairs, [["a", "m"], ["d/x", "n/x"]]);
});
