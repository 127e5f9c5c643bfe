import assert from "node:assert/strict";
import type { BytePath } from "../../lib/base/path.ts";
import { Manifest } from "../../lib/version/manifest.ts";
import { hasPieces, type Upsert } from "../../lib/version/package.ts";
import { contentClassOf, extensionOf, planSegments } from "../../lib/version/plan.ts";
import { joinPrefix, PrefixChooser } from "../../lib/version/prefix.ts";
import {
  type Piece,
  pieceCountMax,
  PieceLedger,
  pieceSizeMax,
  segmentSizeMax,
} from "../../lib/version/segment.ts";
import { entry, Random } from "./trees.ts";

const mib = 1024 * 1024;
const digest = new Uint8Array(32).fill(1);

function upsertOf(path: string, size: number, bases: string[] = [], sameContent = false): Upsert {
  return { entry: entry(path, "file", { size, digest }), bases: bases as BytePath[], sameContent };
}

function sorted(upserts: Upsert[]): Upsert[] {
  return upserts.sort((left, right) => left.entry.path < right.entry.path ? -1 : 1);
}

Deno.test("planSegments() covers every content upsert exactly once, within the bounds", () => {
  const random = new Random(30);
  for (let round = 0; round < 30; round++) {
    const upserts = sorted(Array.from({ length: random.below(200) }, (_, index) => {
      const path = `${random.below(5)}/${index}.${random.pick(["c", "h", "png", "db", "x"])}`;
      const size = random.below(random.pick([2, 5000, 200_000, 60 * mib]));
      const bases = random.one(2) ? [path] : [];
      return upsertOf(path, size, bases, bases.length > 0 && random.one(3));
    }));
    const plan = planSegments(upserts);
    const ledger = new PieceLedger(upserts);
    for (const pieces of plan) {
      assert.ok(pieces.length > 0 && pieces.length <= pieceCountMax);
      assert.ok(pieces.every(({ length }) => length > 0 && length <= pieceSizeMax));
      assert.ok(pieces.reduce((sum, { length }) => sum + length, 0) <= segmentSizeMax);
      ledger.add(pieces);
    }
    ledger.finish();
    assert.equal(plan.flat().length > 0, upserts.some(hasPieces));
    assert.deepEqual(planSegments(structuredClone(upserts)), plan, "the same metadata, the same plan");
  }
});

Deno.test("planSegments() puts a small package into one segment, and nothing into none", () => {
  const upserts = sorted(Array.from({ length: 300 }, (_, index) => upsertOf(`${index}.c`, 10_000)));
  assert.equal(planSegments(upserts).length, 1);
  assert.deepEqual(planSegments([]), []);
  assert.deepEqual(planSegments([upsertOf("a", 5, ["b"], true), upsertOf("c", 0)]), []);
});

Deno.test("planSegments() puts new files that do not compress first, other new ones next, and modified ones last", () => {
  const paths = ["a/x.png", "a/y.c", "b/a.h", "b/x.c", "b/z.bin", "c/m.c", "c/noext"];
  const upserts = paths.map((path) => upsertOf(path, 100, path === "a/y.c" ? [path] : []));
  const order = planSegments(upserts).flat().map(({ upsert }) => paths[upsert]);
  assert.deepEqual(order, ["a/x.png", "b/x.c", "c/m.c", "b/a.h", "c/noext", "b/z.bin", "a/y.c"]);
});

Deno.test("planSegments() counts modified content an eighth and splits huge files", () => {
  const pieces = planSegments([upsertOf("big", 100 * mib + 1, ["big"])]);
  assert.deepEqual(pieces.map((list) => list.length), [3, 4]);
  assert.deepEqual(pieces.flat().at(-1), { upsert: 0, offset: 96 * mib, length: 4 * mib + 1 });
  const fresh = planSegments([upsertOf("big", 40 * mib)]);
  assert.deepEqual(fresh.map((list) => list.length), [1, 1, 1]);
  const many = planSegments(sorted(Array.from({ length: 40_000 }, (_, index) => upsertOf(`${index}`, 1))));
  assert.ok(many.length >= 3);
});

Deno.test("extensionOf() and contentClassOf() go by the last dot", () => {
  const extension = (path: string) => extensionOf(path as BytePath);
  assert.deepEqual(
    ["a.tar.GZ", ".profile", "a.b/c", "x.", "a.verylongone", "é.c"].map(extension),
    ["gz", "", "", "", "", "c"],
  );
  assert.deepEqual(
    ["a.c", "a.jpg", "a.so", "a", "a.zzz"].map((path) => contentClassOf(path as BytePath)),
    ["text", "compressed", "binary", "unknown", "unknown"],
  );
});

Deno.test("PrefixChooser.choose() takes neighbours of new files within the bounds", () => {
  const files = ["a/1.c", "a/3.c", "a/5.c", "a/7.c", "a/x.png", "b/1.h", "c/1.c"];
  const base = Manifest.build([
    entry("", "directory"),
    ...["a", "b", "c"].map((path) => entry(path, "directory")),
    ...files.map((path) => entry(path, "file", { size: 200_000, digest })),
    entry("a/tiny.c", "file", { size: 3, digest }),
  ]);
  const upserts = sorted([
    upsertOf("a/4.c", 50_000),
    upsertOf("a/y.png", 50_000),
    upsertOf("c/1.c", 50_000, ["c/1.c"]),
    upsertOf("new/1.h", 40_000),
    upsertOf("new/1.zzz", 40_000),
  ]);
  const pieces = planSegments(upserts).flat();
  const slices = new PrefixChooser(base, upserts).choose(pieces, upserts);
  assert.deepEqual(slices.map(({ path }) => path), ["a/1.c", "a/3.c", "a/5.c", "a/7.c", "b/1.h"]);
  assert.ok(slices.every(({ offset, length }) => offset === 0 && length === 65_536));
  const one = pieces.filter(({ upsert }) => upsert === 0).map((piece): Piece => piece);
  assert.equal(
    new PrefixChooser(base, upserts).choose(one, upserts).length,
    3,
    "four times the new content at most",
  );
  assert.deepEqual(new PrefixChooser(Manifest.empty, upserts).choose(pieces, upserts), []);
});

Deno.test("joinPrefix() joins the slices in order, and fails with its reader", () => {
  const slices = [{ path: "a" as BytePath, offset: 1, length: 2 }, {
    path: "b" as BytePath,
    offset: 0,
    length: 1,
  }];
  const bytes = new Uint8Array([1, 2, 3]);
  const read = ({ offset }: { offset: number }, into: Uint8Array) => {
    if (offset + into.length > bytes.length) throw new RangeError("too short");
    into.set(bytes.subarray(offset, offset + into.length));
  };
  assert.deepEqual([...joinPrefix(slices, read)], [2, 3, 1]);
  assert.throws(() => joinPrefix([{ path: "a" as BytePath, offset: 2, length: 5 }], read), RangeError);
});
