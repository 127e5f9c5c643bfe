/** A state directory: what it keeps, what it refuses, and what it makes of damage. */
import assert from "node:assert/strict";
import { DatabaseSync } from "node:sqlite";
import { createHash } from "node:crypto";
import { toHex } from "../../lib/base/hex.ts";
import { type BytePath, pathFromText, rootPath } from "../../lib/base/path.ts";
import type { Entry } from "../../lib/version/entry.ts";
import { versionId } from "../../lib/version/history.ts";
import { Manifest } from "../../lib/version/manifest.ts";
import {
  objectLayer,
  readWhole,
  Store,
  type StoredVersion,
  type TreeSetup,
  writeDurably,
} from "../../lib/tree/store.ts";
import { native, Scratch } from "./scratch.ts";

const path = pathFromText;
const setup: TreeSetup = {
  dir: "/srv/\xff\n" as BytePath,
  capture: "overlay",
  profile: "fast",
  userxattr: false,
  owners: true,
};

function digestOf(text: string): Uint8Array<ArrayBuffer> {
  return new Uint8Array(createHash("sha256").update(text).digest());
}

function entryOf(name: string, text: string | null): Entry {
  return {
    path: path(name),
    kind: text === null ? "directory" : "file",
    mode: 0o755,
    uid: 1,
    gid: 2,
    mtimeSeconds: 3,
    mtimeNanos: 4,
    size: text?.length ?? 0,
    digest: text === null ? null : digestOf(text),
    target: rootPath,
    rdevMajor: 0,
    rdevMinor: 0,
    xattrs: [],
  };
}

/** A manifest with one file. */
function manifestWith(text: string): Manifest {
  return Manifest.build([entryOf("", null), entryOf("file", text)]);
}

/** A version with that manifest. */
function versionWith(text: string, parent: string | null, stack: number[] | null): StoredVersion {
  const root = manifestWith(text).root();
  return { id: versionId(parent, root), parent, root, time: -5, message: `say "${text}" ä\n`, stack };
}

Deno.test("Store keeps setup, pointers, notes and layer numbers from one opening to the next", async () => {
  await using scratch = new Scratch();
  const state = scratch.bytes("state");
  {
    using store = Store.create(native, state, setup);
    assert.ok(store.locked);
    assert.deepEqual(store.setup, setup);
    assert.deepEqual(store.pointers, { head: null, base: null, upper: -1, pending: null });
    assert.deepEqual([store.newLayer(), store.newLayer()], [0, 1]);
    store.setNote("what", "a value");
    store.transaction(() => store.setPointers({ head: "h", upper: 7 }));
  }
  {
    using store = Store.open(native, state);
    assert.ok(!store.locked);
    assert.deepEqual(store.setup, setup);
    assert.deepEqual(store.pointers, { head: "h", base: null, upper: 7, pending: null });
    assert.equal(store.newLayer(), 2);
    assert.equal(store.note("what"), "a value");
    store.setNote("what", null);
    assert.equal(store.note("what"), null);
    store.transaction(() => store.setPointers({ head: null }));
    assert.equal(store.pointers.head, null);
  }
  assert.throws(() => Store.create(native, state, setup), { code: "EEXIST" });
});

Deno.test("Store.transaction() leaves nothing of a body that throws, and the store usable", async () => {
  await using scratch = new Scratch();
  using store = Store.create(native, scratch.bytes("state"), setup);
  const version = versionWith("a", null, [0]);
  assert.throws(() =>
    store.transaction(() => {
      store.addVersion(version);
      store.setPointers({ head: version.id });
      throw new Error("in the middle");
    }), /in the middle/);
  assert.deepEqual([store.version(version.id), store.pointers.head], [null, null]);
  store.transaction(() => store.addVersion(version));
  assert.deepEqual(store.version(version.id), version);
});

Deno.test("Store.lock() is one process's at a time, and ends with the store", async () => {
  await using scratch = new Scratch();
  const state = scratch.bytes("state");
  const first = Store.create(native, state, setup);
  using second = Store.open(native, state);
  assert.ok(!second.lock());
  assert.ok(first.lock(), "again, by the holder");
  first[Symbol.dispose]();
  assert.ok(second.lock());
  assert.ok(second.locked);
});

Deno.test("Store.open() refuses what is no store, a store of another format, and a path that is not UTF-8", async () => {
  await using scratch = new Scratch();
  scratch.mkdir("empty");
  assert.throws(() => Store.open(native, scratch.bytes("empty")), { code: "not-a-tree" });
  assert.throws(() => Store.open(native, scratch.bytes("nothing")), { code: "not-a-tree" });
  Store.create(native, scratch.bytes("state"), setup)[Symbol.dispose]();
  const db = new DatabaseSync(scratch.path("state/tree.db"));
  db.exec("UPDATE meta SET value = '99' WHERE key = 'format'");
  db.close();
  assert.throws(() => Store.open(native, scratch.bytes("state")), { code: "unsupported" });
  const odd = `${scratch.bytes("")}\xff` as BytePath;
  assert.throws(() => Store.open(native, odd), { code: "unsupported" });
  assert.throws(() => Store.create(native, odd, setup), { code: "unsupported" });
  assert.equal(native.libc.stat(-100, odd), null, "nothing is left of a store that cannot be");
});

Deno.test("Store keeps versions: chains, prefixes, what was not known of one, and dropped content", async () => {
  await using scratch = new Scratch();
  using store = Store.create(native, scratch.bytes("state"), setup);
  const first = versionWith("a", null, [0]);
  const second = versionWith("b", first.id, null);
  const third = versionWith("c", second.id, [0, 5, 2]);
  store.transaction(() => [first, second, third].forEach((version) => store.addVersion(version)));
  assert.deepEqual(store.versions(), [first, second, third]);
  assert.deepEqual(store.chain(third.id), [third, second, first]);
  assert.deepEqual(store.chain(null), []);
  // A chain whose beginning is not known ends where it stops.
  const loose = versionWith("d", versionId(null, first.root.replace(/./g, "0")), [9]);
  store.addVersion(loose);
  assert.deepEqual(store.chain(loose.id), [loose]);
  assert.deepEqual(store.versionsByPrefix(second.id.slice(0, 12)), [second.id]);
  assert.equal(store.versionsByPrefix("").length, 2, "two are enough to see that it is not unique");
  assert.deepEqual(store.versionsByPrefix("zz"), []);
  // Known again with its content: filled in; again without: kept.
  store.addVersion({ ...second, stack: [0, 1] });
  store.addVersion({ ...second, stack: null });
  assert.deepEqual(store.version(second.id)?.stack, [0, 1]);
  store.setStack(second.id, null);
  assert.equal(store.version(second.id)?.stack, null);
});

Deno.test("Store keeps manifests by root, refuses damaged ones and sweeps those that nobody keeps", async () => {
  await using scratch = new Scratch();
  const state = scratch.bytes("state");
  const [a, b] = [manifestWith("a"), manifestWith("b")];
  {
    using store = Store.create(native, state, setup);
    assert.equal(store.writeManifest(a), a.root());
    assert.equal(store.writeManifest(a), a.root());
    store.writeManifest(b);
    assert.equal(store.readManifest("00".repeat(32)), null);
    assert.equal(store.manifestOf(null).count, 0);
    store.addVersion(versionWith("a", null, [0]));
    assert.equal(store.manifestOf(versionWith("a", null, null).id).root(), a.root());
    assert.throws(() => store.manifestOf("00".repeat(32)), { code: "unknown-version" });
  }
  const file = scratch.path(`state/manifests/${a.root()}`);
  const good = Deno.readFileSync(file);
  const other = Deno.readFileSync(scratch.path(`state/manifests/${b.root()}`));
  const huge = good.slice();
  new DataView(huge.buffer).setBigUint64(0, 2n ** 40n, true);
  const flipped = good.slice();
  flipped[20] = (flipped[20] ?? 0) ^ 0x10;
  for (const bytes of [new Uint8Array(0), good.slice(0, 7), good.slice(0, -3), other, huge, flipped]) {
    Deno.writeFileSync(file, bytes);
    using store = Store.open(native, state);
    assert.throws(() => store.readManifest(a.root()), (error) => error instanceof Error && "code" in error);
  }
  Deno.writeFileSync(file, good);
  using store = Store.open(native, state);
  assert.deepEqual(store.readManifest(a.root())?.bytes, a.bytes);
  store.sweepManifests(new Set([b.root()]));
  assert.deepEqual([...Deno.readDirSync(scratch.path("state/manifests"))].map(({ name }) => name), [
    b.root(),
  ]);
  using again = Store.open(native, state);
  assert.equal(again.readManifest(a.root()), null);
});

Deno.test("Store knows where content is, the newest layer first, and forgets places and layers", async () => {
  await using scratch = new Scratch();
  using store = Store.create(native, scratch.bytes("state"), setup);
  const [x, y] = [digestOf("x"), digestOf("y")];
  const odd = "sub/\xff\n" as BytePath;
  store.transaction(() => {
    store.addContent([{ digest: x, layer: 1, path: odd }, { digest: x, layer: 3, path: path("b") }, {
      digest: y,
      layer: 3,
      path: path("c"),
    }]);
    store.addContent([{ digest: x, layer: 1, path: odd }, {
      digest: x,
      layer: objectLayer,
      path: path("xx/xx"),
    }]);
  });
  assert.deepEqual(store.contentPlaces(x), [{ layer: 3, path: "b" }, { layer: 1, path: odd }, {
    layer: objectLayer,
    path: "xx/xx",
  }]);
  assert.deepEqual(store.contentPlaces(digestOf("z")), []);
  assert.deepEqual([...store.layerContent(3)].map((row) => row.path).sort(), ["b", "c"]);
  store.dropContent(x, 1);
  assert.deepEqual(store.contentPlaces(x).map(({ layer }) => layer), [3, objectLayer]);
  store.dropLayerContent(3);
  assert.deepEqual([store.contentPlaces(x).length, store.contentPlaces(y).length], [1, 0]);
});

Deno.test("Store keeps the stat cache, with paths of any bytes", async () => {
  await using scratch = new Scratch();
  using store = Store.create(native, scratch.bytes("state"), setup);
  const odd = "sub/\xff\n" as BytePath;
  store.transaction(() =>
    store.updateSeen([{ path: odd, stamp: "1", digest: digestOf("a") }, {
      path: path("b"),
      stamp: "2",
      digest: digestOf("b"),
    }], [])
  );
  store.transaction(() =>
    store.updateSeen([{ path: odd, stamp: "3", digest: digestOf("c") }], [path("b"), path("never")])
  );
  const seen = store.readSeen();
  assert.deepEqual([...seen.keys()], [odd]);
  assert.deepEqual([seen.get(odd)?.stamp, new Uint8Array(seen.get(odd)?.digest ?? [])], ["3", digestOf("c")]);
  store.clearSeen();
  assert.equal(store.readSeen().size, 0);
});

Deno.test("readWhole() reads what writeDurably() wrote, which writes nothing twice", async () => {
  await using scratch = new Scratch();
  const file = scratch.bytes("file");
  const bytes = new TextEncoder().encode("durable");
  await writeDurably(native.libc, file, bytes);
  assert.deepEqual(readWhole(native.libc, file), bytes);
  await assert.rejects(writeDurably(native.libc, file, bytes), { code: "EEXIST" });
  assert.throws(() => readWhole(native.libc, scratch.bytes("none")), { code: "ENOENT" });
});

Deno.test("commit() of a plain tree does not trust an object that a crash left behind: it is written again", async () => {
  await using scratch = new Scratch();
  const dir = scratch.mkdir("tree");
  await scratch.init("tree", "scan");
  const hex = toHex(digestOf("precious"));
  const folder = scratch.mkdir(`.tree.drover/objects/${hex.slice(0, 2)}`);
  Deno.writeTextFileSync(`${folder}/${hex}`, "prec"); // cut by a power failure: no sync, no row
  Deno.writeTextFileSync(`${dir}/file`, "precious");
  await scratch.commit("tree");
  await scratch.verify("tree");
  Deno.removeSync(`${dir}/file`);
  await scratch.checkout("tree", "head", true);
  assert.equal(Deno.readTextFileSync(`${dir}/file`), "precious");
});

Deno.test("initTree() does not take a plain tree for unfinished that is on its way to its first version", async () => {
  await using scratch = new Scratch();
  const dir = scratch.mkdir("tree");
  {
    using store = Store.create(native, scratch.bytes(".tree.drover"), {
      ...setup,
      dir: path(dir),
      capture: "scan",
      profile: "portable",
    });
    store.writeManifest(manifestWith("a"));
    const version = versionWith("a", null, []);
    store.transaction(() => {
      store.addVersion(version);
      store.setPointers({ pending: version.id });
    });
  }
  await assert.rejects(scratch.init("tree", "scan"), { code: "exists" });
  assert.ok(Deno.statSync(scratch.path(".tree.drover/tree.db")).isFile);
});
