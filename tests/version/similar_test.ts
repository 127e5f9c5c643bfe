import assert from "node:assert/strict";
import type { BytePath } from "../../lib/base/path.ts";
import { diffManifests } from "../../lib/version/diff.ts";
import { Manifest } from "../../lib/version/manifest.ts";
import { BaseChooser, sketch, SketchIndex, sketchSize } from "../../lib/version/similar.ts";
import { entry, file, link, Random } from "./trees.ts";

const path = (text: string): BytePath => text as BytePath;
const root = entry("", "directory");
const dirs = ["d", "e"].map((name) => entry(name, "directory"));

Deno.test("BaseChooser.choose() prefers the same content, then the path, the origin, the name", () => {
  const before = Manifest.build([
    root,
    ...dirs,
    file("d/moved.c", "m"),
    file("d/changed.c", "c1"),
    file("d/gone.c", "g1"),
    file("d/kept.c", "k"),
    file("d/origin.c", "o1"),
    file("d/touched.c", "t"),
    link("d/zlink.c", "d/kept.c"),
    entry("s", "symlink", { target: path("x") }),
  ]);
  const after = Manifest.build([
    root,
    ...dirs,
    file("d/changed.c", "c2"),
    file("d/kept.c", "k"),
    file("d/touched.c", "t", { mtimeSeconds: 5 }),
    file("e/moved.c", "m"),
    file("e/copy.c", "k"),
    file("e/gone.c", "g2"),
    file("e/renamed.c", "o2"),
    file("e/new.c", "n"),
    file("e/empty.c", ""),
    link("d/zlink.c", "d/kept.c"),
    entry("s", "symlink", { target: path("y") }),
  ]);
  const chooser = new BaseChooser(before, diffManifests(before, after));
  const choose = (name: string, origin?: string) => {
    const wanted = after.get(path(name));
    if (wanted === null) throw new Error(name);
    const { bases, sameContent, reason } = chooser.choose(wanted, origin === undefined ? null : path(origin));
    return [bases.join(" "), sameContent, reason];
  };
  assert.deepEqual(choose("d/touched.c"), ["d/touched.c", true, "content"]);
  assert.deepEqual(choose("e/moved.c"), ["d/moved.c", true, "content"]);
  assert.deepEqual(choose("e/copy.c"), ["d/kept.c", true, "content"], "also of a file that stays");
  assert.deepEqual(choose("d/changed.c"), ["d/changed.c", false, "path"]);
  assert.deepEqual(choose("d/changed.c", "d/gone.c"), ["d/changed.c d/gone.c", false, "path"]);
  assert.deepEqual(choose("e/renamed.c", "d/origin.c"), ["d/origin.c", false, "origin"]);
  assert.deepEqual(choose("e/gone.c"), ["d/gone.c", false, "name"]);
  assert.deepEqual(choose("e/new.c"), ["", false, "none"]);
  assert.deepEqual(choose("e/empty.c"), ["", false, "none"]);
  assert.deepEqual(choose("d/zlink.c"), ["", false, "none"]);
  assert.deepEqual(choose("s"), ["s", false, "metadata"]);
  assert.deepEqual(choose("e/new.c", "d/zlink.c"), ["", false, "none"], "a hard link is no base");
});

Deno.test("BaseChooser.choose() prefers a namesake among equal contents", () => {
  const before = Manifest.build([root, ...dirs, file("a", "same"), file("d/n", "same"), file("z", "same")]);
  const after = Manifest.build([
    root,
    ...dirs,
    file("a", "same"),
    file("d/n", "same"),
    file("e/n", "same"),
    file("z", "same"),
  ]);
  const chooser = new BaseChooser(before, diffManifests(before, after));
  assert.deepEqual(chooser.choose(file("e/n", "same")).bases, ["d/n"]);
});

Deno.test("SketchIndex.find() finds what is alike and not what is not", () => {
  const random = new Random(40);
  const index = new SketchIndex(50);
  const contents = Array.from({ length: 50 }, () => random.bytes(8000));
  contents.forEach((bytes, at) => assert.ok(index.add(path(`f${at}`), sketch(bytes))));
  assert.equal(index.add(path("more"), sketch(random.bytes(8000))), false, "the index is full");
  assert.equal(index.size, 50);
  let found = 0;
  for (let at = 0; at < 50; at++) {
    const changed = new Uint8Array([...random.bytes(500), ...(contents[at] ?? [])]);
    for (let edit = 0; edit < 10; edit++) changed[random.below(changed.length)] = random.below(256);
    if (index.find(sketch(changed), 1)[0] === `f${at}`) found++;
    assert.deepEqual(index.find(sketch(random.bytes(8000))), []);
  }
  assert.ok(found >= 48, `${found} of 50 found`);
});

Deno.test("sketch() of short content has no samples, and equal content equal ones", () => {
  const random = new Random(41);
  const index = new SketchIndex();
  const short = sketch(random.bytes(100));
  assert.equal(short.length, sketchSize);
  index.add(path("short"), short);
  assert.deepEqual(index.find(short), []);
  const bytes = random.bytes(5000);
  assert.deepEqual(sketch(bytes), sketch(bytes.slice()));
});

Deno.test("SketchIndex.find() is not flooded by boilerplate", () => {
  const random = new Random(42);
  const index = new SketchIndex();
  const bytes = random.bytes(5000);
  for (let at = 0; at < 200; at++) index.add(path(`f${at}`), sketch(bytes));
  assert.equal(index.find(sketch(bytes), 4).length, 4);
});
