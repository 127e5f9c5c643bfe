/**
 * Goal: a version leaves as a tar that GNU tar unpacks to the same tree, and comes back, whole or as differences, with the
 * same version ids; tars of others come in; hostile ones change nothing.
 *
 * Method: the small trees of `small_tree.ts` in every setup, GNU tar and rsync as the second opinion, and hostile archives
 * made entry by entry with the codec, which does not check what it is given.
 */
import assert from "node:assert/strict";
import { DroverError, FormatError } from "../../lib/base/errors.ts";
import { pathFromText, rootPath } from "../../lib/base/path.ts";
import type { Entry } from "../../lib/version/entry.ts";
import {
  encodeTarEnd,
  encodeTarHeader,
  encodeTarStart,
  tarPadding,
  type TarPurpose,
} from "../../lib/version/tar.ts";
import {
  type Allowance,
  exportTar,
  type ImportResult,
  importTar,
  importTree,
  openTree,
} from "../../lib/tree/mod.ts";
import { drover } from "../cli/harness.ts";
import {
  allowAll,
  assertSame,
  has,
  isRoot,
  native,
  plainCopy,
  run,
  Scratch,
  type Setup,
  setups,
  sh,
} from "./scratch.ts";
import { makeFirst, makeOther, makeSecond, rootOf } from "./small_tree.ts";

const tools = has("tar", "rsync", "gzip");
/** As root also capabilities and devices are restored. */
const extract = ["--xattrs", "--xattrs-include=*", "-S"];

/** Exports to a file; the result. */
async function toFile(
  scratch: Scratch,
  name: string,
  tar: string,
  options: { from?: string; version?: string } = {},
) {
  using file = Deno.openSync(scratch.path(tar), { write: true, create: true, truncate: true });
  return await scratch.with(name, (tree) =>
    exportTar(tree, {
      ...options,
      write: (chunk) => {
        for (let at = 0; at < chunk.length;) at += file.writeSync(chunk.subarray(at));
        return Promise.resolve();
      },
    }));
}

/** Imports a file in chunks of an odd size; the tree is made with `setup` where there is none. */
async function fromFile(
  scratch: Scratch,
  name: string,
  tar: string,
  options: { setup?: Setup; allow?: Allowance; chunk?: number } = {},
): Promise<ImportResult> {
  return await fromBytes(scratch, name, Deno.readFileSync(scratch.path(tar)), options);
}

async function fromBytes(
  scratch: Scratch,
  name: string,
  bytes: Uint8Array<ArrayBuffer>,
  options: { setup?: Setup; allow?: Allowance; chunk?: number } = {},
): Promise<ImportResult> {
  const { setup = "scan", allow = allowAll, chunk = 7777 } = options;
  function* read(): Generator<Uint8Array<ArrayBuffer>> {
    for (let at = 0; at < bytes.length; at += chunk) yield bytes.slice(at, at + chunk);
  }
  return await importTree(scratch.context, scratch.bytes(name), {
    read: read(),
    allow,
    ...setup === "scan" ? { capture: "scan" } : { capture: "overlay", profile: setup },
  });
}

/** A tar of these members, whatever they say. */
function archive(
  members: readonly (Partial<Entry> & { content?: string; realPath?: string })[],
  purpose?: TarPurpose,
) {
  const parts: Uint8Array[] = purpose === undefined ? [] : [encodeTarStart(purpose)];
  for (const { content = "", ...fields } of members) {
    const bytes = new TextEncoder().encode(content);
    parts.push(encodeTarHeader(member({ ...fields, size: bytes.length })), bytes, tarPadding(bytes.length));
  }
  return join([...parts, encodeTarEnd()]);
}

function member(fields: Partial<Entry>): Entry {
  return {
    path: rootPath,
    kind: "file",
    mode: 0o644,
    uid: 0,
    gid: 0,
    mtimeSeconds: 1_500_000_000,
    mtimeNanos: 0,
    size: 0,
    digest: null,
    target: rootPath,
    rdevMajor: 0,
    rdevMinor: 0,
    xattrs: [],
    ...fields,
  };
}

function join(parts: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

const path = pathFromText;

/** A tree `site` with three versions; copies of each version beside it. */
async function threeVersions(scratch: Scratch, setup: Setup): Promise<string[]> {
  const site = scratch.mkdir("site");
  makeFirst(site);
  await sh(
    site,
    "truncate -s 3M holes; printf end >> holes; truncate -s 2M all-hole; ln -s 'long target/'$(printf '%0300d' 7) long",
  );
  await plainCopy(site, scratch.path("v0"));
  await scratch.init("site", setup);
  // Made beside it: a portable overlay refuses to rename the directories of its lower layer.
  await plainCopy(site, scratch.path("next"));
  makeSecond(scratch.path("next"));
  await run(["rsync", "-aHAX", "-S", "--delete", `${scratch.path("next")}/`, `${site}/`]);
  await sh(site, "printf middle | dd of=holes bs=1 seek=1000000 conv=notrunc status=none");
  await scratch.commit("site");
  await plainCopy(site, scratch.path("v1"));
  makeOther(site);
  await scratch.commit("site");
  await plainCopy(site, scratch.path("v2"));
  return await scratch.with("site", (tree) => Promise.resolve(tree.log().map(({ id }) => id).reverse()));
}

for (const setup of setups) {
  Deno.test({
    name:
      `exportTar() of a ${setup} tree is what GNU tar unpacks to the same tree, and importTar() to the same versions`,
    ignore: !tools,
    fn: async () => {
      await using scratch = new Scratch();
      const ids = await threeVersions(scratch, setup);
      const [v0 = "", v1 = "", v2 = ""] = ids;
      assert.equal(ids.length, 3);

      const full = await toFile(scratch, "site", "full.tar");
      assert.deepEqual([full.version, full.from, full.deleted, full.uncommitted], [v2, null, 0, 0]);
      assert.equal(full.bytes, Deno.statSync(scratch.path("full.tar")).size);
      assert.ok(full.bytes < 1 << 20, `holes are in the archive: ${full.bytes} bytes`);
      scratch.mkdir("unpacked");
      await run(["tar", ...extract, "-C", scratch.path("unpacked"), "-xpf", scratch.path("full.tar")]);
      await assertSame(scratch.path("v2"), scratch.path("unpacked"), "GNU tar of the head");
      const holes = Deno.statSync(scratch.path("unpacked/all-hole"));
      assert.deepEqual([holes.size, holes.blocks], [2 << 20, 0]);

      await toFile(scratch, "site", "v0.tar", { version: v0 });
      const d1 = await toFile(scratch, "site", "d1.tar", { from: v0, version: "head~1" });
      assert.deepEqual([d1.version, d1.from], [v1, v0]);
      assert.ok(d1.deleted >= 4, `${d1.deleted} whiteouts`);
      await toFile(scratch, "site", "d2.tar", { from: v1 });
      await toFile(scratch, "site", "d02.tar", { from: v0 });

      for (const other of setups) {
        const copy = `copy-${other}`;
        for (const [tar, id, at] of [["v0", v0, "v0"], ["d1", v1, "v1"], ["d2", v2, "v2"]] as const) {
          const result = await fromFile(scratch, copy, `${tar}.tar`, { setup: other });
          assert.equal(result.version, id, `${tar} into ${other}`);
          assert.equal(result.archive, tar === "v0" ? "full" : "delta");
          await assertSame(scratch.path(at), scratch.path(copy), `${tar} into ${other}`);
        }
        assert.deepEqual(await scratch.changes(copy), []);
        await scratch.verify(copy);
        // The whole again changes nothing; an older whole goes back to exactly that.
        assert.equal((await fromFile(scratch, copy, "full.tar")).changed, false);
        const back = await fromFile(scratch, copy, "v0.tar");
        assert.equal(back.parent, v2);
        await assertSame(scratch.path("v0"), scratch.path(copy), `back to v0 in ${other}`);
        await assert.rejects(fromFile(scratch, copy, "d02.tar"), { code: "wrong-base" });
        await scratch.checkout(copy, v0);
        // A difference over two versions: the same tree, though not the same history.
        const jumped = await fromFile(scratch, copy, "d02.tar");
        await assertSame(scratch.path("v2"), scratch.path(copy), `v0 to v2 in ${other}`);
        const roots = await scratch.with(
          copy,
          (tree) => Promise.resolve([jumped.version, v2].map((id) => tree.store.version(id)?.root)),
        );
        assert.equal(roots[0], roots[1]);
      }
    },
  });
}

for (const setup of setups) {
  for (const format of ["pax", "gnu"]) {
    Deno.test({
      name:
        `importTar() takes in what GNU tar wrote as ${format}, into a ${setup} tree: it adds and overwrites`,
      ignore: !tools,
      fn: async () => {
        await using scratch = new Scratch();
        const source = scratch.mkdir("source");
        makeFirst(source);
        await sh(
          source,
          "truncate -s 3M holes; printf end >> holes; find . -exec touch -h -d 2001-02-03 {} +",
        );
        // GNU's own format has no xattrs; of these there is one.
        if (format === "gnu") await run(["setfattr", "-x", "user.note", `${source}/a`]);
        const flags = [
          `--format=${format}`,
          "-S",
          ...format === "pax" ? ["--xattrs", "--xattrs-include=*"] : [],
        ];
        await run(["tar", ...flags, "-C", source, "-cf", scratch.path("a.tar"), "."]);
        const first = await fromFile(scratch, "tree", "a.tar", { setup });
        assert.deepEqual([first.archive, first.parent, first.changed], ["foreign", null, true]);
        await assertSame(source, scratch.path("tree"), "first");

        makeSecond(source);
        makeOther(source);
        await sh(source, "find . -exec touch -h -d 2002-03-04 {} +");
        await run(["tar", ...flags, "-C", source, "-cf", scratch.path("b.tar"), "."]);
        const expected = scratch.path("expected");
        await plainCopy(scratch.path("tree"), expected);
        // What is a file in one and a directory in the other, GNU tar does not overwrite.
        await sh(expected, "rm -rf becomes-file becomes-directory");
        await run(["tar", ...extract, "-C", expected, "-xpf", scratch.path("b.tar")]);
        const second = await fromFile(scratch, "tree", "b.tar");
        assert.equal(second.parent, first.version);
        await assertSame(expected, scratch.path("tree"), "second");
        assert.deepEqual(await scratch.changes("tree"), []);
        await scratch.verify("tree");
        await scratch.checkout("tree", "head~1");
        await scratch.checkout("tree", second.version);
        await assertSame(expected, scratch.path("tree"), "forward again");
      },
    });
  }
}

Deno.test("importTar() reads whiteouts of a container layer, makes missing parents, and keeps what the layer itself brings", async () => {
  for (const setup of setups) {
    await using scratch = new Scratch();
    await fromBytes(
      scratch,
      "tree",
      archive([
        { path: path("gone/x"), content: "x" },
        { path: path("opaque/old"), content: "old" },
        { path: path("opaque/both"), content: "old" },
        { path: path("one"), content: "linked" },
        { path: path("two"), kind: "link", mode: 0, mtimeSeconds: 0, target: path("one") },
        { path: path("three"), kind: "link", mode: 0, mtimeSeconds: 0, target: path("one") },
        { path: path("kept"), content: "kept" },
      ]),
      { setup },
    );
    const result = await fromBytes(
      scratch,
      "tree",
      archive([
        { path: path("opaque/both"), content: "new" },
        { path: path("opaque/.wh..wh..opq") },
        { path: path(".wh.gone") },
        { path: path("gone/new"), content: "new" },
        { path: path(".wh.one") },
        { path: path(".wh.never-was") },
        { path: path(".wh..wh.plnk/1.2"), content: "bookkeeping" },
        { path: path("a/b/c"), content: "deep" },
        { path: path("four"), kind: "link", mode: 0, mtimeSeconds: 0, target: path("kept") },
      ]),
    );
    assert.equal(result.archive, "foreign");
    const shown = await sh(
      scratch.path("tree"),
      "find . -type f -printf '%P %n ' -exec cat {} \\; -printf '\\n' | sort",
    );
    assert.equal(
      shown,
      [
        "a/b/c 1 deep",
        "four 2 kept",
        "gone/new 1 new",
        "kept 2 kept",
        "opaque/both 1 new",
        "three 2 linked",
        "two 2 linked",
        "",
      ].join("\n"),
    );
    const made = await sh(scratch.path("tree"), "stat -c '%a %Y' a/b");
    assert.equal(made, "755 1500000000\n");
    assert.deepEqual(await scratch.changes("tree"), []);
    await scratch.verify("tree");
  }
});

Deno.test("importTar() takes a .wh. name for an ordinary one in a full archive, and exportTar() refuses it in a delta", async () => {
  await using scratch = new Scratch();
  const site = scratch.mkdir("site");
  await scratch.init("site", "scan");
  await sh(site, "echo a > .wh.a; echo b > b; mkdir d; touch d/$(printf '%0252d' 7)");
  await scratch.commit("site");
  await toFile(scratch, "site", "full.tar");
  await fromFile(scratch, "copy", "full.tar");
  assert.equal(await rootOf(site), await rootOf(scratch.path("copy")));
  await assert.rejects(toFile(scratch, "site", "delta.tar", { from: "head~1" }), { code: "unsupported" });
  await sh(site, "rm -r .wh.a; echo c > c");
  await scratch.commit("site");
  await assert.rejects(toFile(scratch, "site", "delta.tar", { from: "head~1" }), { code: "unsupported" });
  await sh(site, "rm d/*");
  await scratch.commit("site");
  await assert.rejects(toFile(scratch, "site", "delta.tar", { from: "head~1" }), /longer than 255 bytes/);
});

const hostile: {
  name: string;
  members: Parameters<typeof archive>[0];
  rule: RegExp;
  allow?: Allowance;
  purpose?: TarPurpose;
}[] = [
  { name: "..", members: [{ path: path("a/../../escape"), content: "x" }], rule: /^tar\.path\.escape$/ },
  {
    name: "an absolute path",
    members: [{ path: path("/tmp/escape"), content: "x" }],
    rule: /^tar\.path\.absolute$/,
  },
  {
    name: "a write through a symlink of its own",
    members: [{ path: path("out"), kind: "symlink", mode: 0o777, target: path("/tmp") }, {
      path: path("out/escape"),
      content: "x",
    }],
    rule: /^tar\.parent$/,
  },
  {
    name: "a write through a symlink of the tree",
    members: [{ path: path("link/escape"), content: "x" }],
    rule: /^tar\.parent$/,
  },
  {
    name: "something below a file",
    members: [{ path: path("file/x"), content: "x" }],
    rule: /^tar\.parent$/,
  },
  {
    name: "a whiteout below a whiteout",
    members: [{ path: path(".wh.x/y"), content: "x" }],
    rule: /^tar\.whiteout$/,
  },
  {
    name: "a hard link to outside",
    members: [{
      path: path("hard"),
      kind: "link",
      mode: 0,
      mtimeSeconds: 0,
      target: path("../../etc/passwd"),
    }],
    rule: /^tar\.path\.escape$/,
  },
  {
    name: "a hard link to nothing",
    members: [{ path: path("hard"), kind: "link", mode: 0, mtimeSeconds: 0, target: path("nothing") }],
    rule: /^tar\.link$/,
  },
  {
    name: "a hard link to a directory",
    members: [{ path: path("hard"), kind: "link", mode: 0, mtimeSeconds: 0, target: path("folder") }],
    rule: /^tar\.link$/,
  },
  {
    name: "a device",
    members: [{ path: path("sda"), kind: "block", rdevMajor: 8 }],
    rule: /^tar\.policy\.device$/,
  },
  {
    name: "a 0:0 device, even where devices are allowed",
    members: [{ path: path("file"), kind: "char" }],
    rule: /^tar\.policy\.whiteout$/,
    allow: allowAll,
  },
  {
    name: "a capability",
    members: [{
      path: path("ping"),
      xattrs: [{ name: path("security.capability"), value: new Uint8Array(20) }],
    }],
    rule: /^tar\.policy\.xattr$/,
  },
  {
    name: "a directory with content that becomes a symlink",
    members: [
      { path: path("folder2"), kind: "directory" },
      { path: path("folder2/x"), content: "x" },
      { path: path("folder2"), kind: "symlink", mode: 0o777, target: path("/tmp") },
    ],
    rule: /^manifest\.apply\./,
  },
];

for (const setup of setups.filter((name) => name !== "portable")) {
  for (const { name, members, rule, allow = { devices: false, securityXattrs: false }, purpose } of hostile) {
    Deno.test(`importTar() refuses ${name} and changes nothing of a ${setup} tree`, async () => {
      await using scratch = new Scratch();
      const tree = scratch.mkdir("tree");
      await sh(tree, "echo content > file; ln -s /tmp link; mkdir folder; echo x > folder/x");
      await scratch.init("tree", setup);
      const before = await rootOf(tree);
      // The refusal must also undo what came before it.
      const bytes = archive([{ path: path("first"), content: "first".repeat(500) }, ...members], purpose);
      const head = await scratch.commit("tree");
      await assert.rejects(fromBytes(scratch, "tree", bytes, { allow }), (error) => {
        assert.ok(error instanceof FormatError, `${error}`);
        assert.match(error.rule, rule);
        return true;
      });
      assert.equal(await rootOf(tree), before);
      assert.equal(await scratch.commit("tree"), head);
      await assert.rejects(Deno.lstat("/tmp/escape"));
      assert.deepEqual([...Deno.readDirSync(scratch.path(".tree.drover/staging"))], []);
      const layers = [...Deno.readDirSync(scratch.path(".tree.drover/layers"))].length;
      assert.equal(layers, setup === "scan" ? 0 : 2);
    });
  }
}

Deno.test("importTar() refuses what is cut, damaged, compressed, empty or for another version, and makes no tree of it", async () => {
  await using scratch = new Scratch();
  const good = archive([{ path: path("a"), content: "a".repeat(2000) }]);
  const flipped = good.slice();
  flipped[3] = 0x42;
  const id = "ab".repeat(32);
  const bad: [string, Uint8Array<ArrayBuffer>, string, string?][] = [
    ["cut in a file", good.slice(0, 1500), "format"],
    ["cut before its end mark", good.slice(0, -1024), "format"],
    ["a flipped bit in a header", flipped, "format"],
    ["nothing at all", new Uint8Array(0), "format"],
    ["no member", archive([]), "usage"],
    [
      "a difference to a version that is not here",
      archive([], { is: "delta", from: id, to: id }),
      "wrong-base",
      "import the archives in their order, or one that was exported without --from",
    ],
    [
      "zstd",
      native.zstd.compressSync(good, { level: 1 }),
      "unsupported",
      "zstdcat FILE | drover fs import DIR --tar -",
    ],
    ["gzip", await gzip(good), "unsupported", "zcat FILE | drover fs import DIR --tar -"],
  ];
  for (const [name, bytes, code, hint] of bad) {
    for (const chunk of [1, 700, 1 << 20]) {
      await assert.rejects(fromBytes(scratch, "tree", bytes, { chunk }), (error) => {
        assert.ok(error instanceof DroverError, `${name}: ${error}`);
        assert.deepEqual([name, error.code, error.hint], [name, code, hint]);
        return true;
      });
      assert.deepEqual(
        [...Deno.readDirSync(scratch.dir)].map((entry) => entry.name).filter((entry) => entry !== "home"),
        [],
        name,
      );
    }
  }
  scratch.mkdir("full");
  Deno.writeTextFileSync(scratch.path("full/mine"), "mine");
  await assert.rejects(fromBytes(scratch, "full", good), { code: "exists" });
  assert.equal(Deno.readTextFileSync(scratch.path("full/mine")), "mine");
});

async function gzip(bytes: Uint8Array<ArrayBuffer>): Promise<Uint8Array<ArrayBuffer>> {
  const stream = new Blob([bytes]).stream().pipeThrough(new CompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

Deno.test("importTar() and exportTar() leave uncommitted changes alone: the one refuses, the other says so", async () => {
  await using scratch = new Scratch();
  const tree = scratch.mkdir("tree");
  Deno.writeTextFileSync(`${tree}/a`, "committed");
  await scratch.init("tree", "scan");
  Deno.writeTextFileSync(`${tree}/a`, "precious");
  await assert.rejects(fromBytes(scratch, "tree", archive([{ path: path("a"), content: "theirs" }])), {
    code: "uncommitted",
  });
  assert.equal(Deno.readTextFileSync(`${tree}/a`), "precious");
  const exported = await toFile(scratch, "tree", "a.tar");
  assert.equal(exported.uncommitted, 1);
  assert.match(scratch.log.join("\n"), /1 uncommitted change stays out/);
  if (tools) assert.equal(await run(["tar", "-xOf", scratch.path("a.tar"), "a"]), "committed");
});

Deno.test("exportTar() fails for stored content that does not have its hash", async () => {
  await using scratch = new Scratch();
  const tree = scratch.mkdir("tree");
  Deno.writeTextFileSync(`${tree}/a`, "committed");
  await scratch.init("tree", "scan");
  await sh(scratch.path(".tree.drover/objects"), "for object in */*; do printf COMMITTED > $object; done");
  await assert.rejects(toFile(scratch, "tree", "a.tar"), { code: "corrupt" });
});

Deno.test("importTar() removes what an import that was killed left behind", async () => {
  await using scratch = new Scratch();
  const [setup = "scan"] = setups;
  scratch.mkdir("tree");
  await scratch.init("tree", setup);
  await sh(
    scratch.path(".tree.drover"),
    "mkdir -p staging/import-9/x layers/9; echo left > staging/import-9/0",
  );
  await fromBytes(scratch, "tree", archive([{ path: path("a"), content: "a" }]));
  assert.deepEqual([...Deno.readDirSync(scratch.path(".tree.drover/staging"))], []);
  assert.ok(![...Deno.readDirSync(scratch.path(".tree.drover/layers"))].some(({ name }) => name === "9"));
});

Deno.test({
  name: "exportTar() and importTar() of a file far larger than their buffers keep it within bounded memory",
  fn: async () => {
    await using scratch = new Scratch();
    const tree = scratch.mkdir("tree");
    const block = new Uint8Array(1 << 20);
    const file = Deno.openSync(`${tree}/big`, { write: true, create: true });
    for (let at = 0; at < 96; at++) {
      crypto.getRandomValues(block.subarray(0, 65_536));
      file.writeSync(block);
    }
    file.close();
    await scratch.init("tree", "scan");
    let largest = 0;
    const chunks: Uint8Array<ArrayBuffer>[] = [];
    await scratch.with("tree", (source) =>
      exportTar(source, {
        write: (chunk) => {
          largest = Math.max(largest, chunk.length);
          chunks.push(chunk.slice());
          return Promise.resolve();
        },
      }));
    assert.ok(largest <= 1 << 20, `${largest} bytes at once`);
    await fromBytes(scratch, "copy", join(chunks), { chunk: 1 << 16 });
    assert.equal(await rootOf(scratch.path("copy")), await rootOf(tree));
  },
});

Deno.test({
  name:
    "importTar() into a tree and its directory being gone afterwards: the version is kept, and comes back with a mount",
  ignore: !setups.includes("fast"),
  fn: async () => {
    await using scratch = new Scratch();
    await fromBytes(scratch, "tree", archive([{ path: path("a"), content: "a" }]), { setup: "fast" });
    native.libc.unmount(scratch.bytes("tree"), true);
    await fromBytes(scratch, "tree", archive([{ path: path("b"), content: "b" }]));
    assert.equal(await sh(scratch.path("tree"), "cat a b"), "ab");
    await using tree = await openTree(scratch.context, scratch.bytes("tree"));
    assert.equal(tree.log().length, 2);
    await assert.rejects(importTar(tree, { read: [] }), { code: "format" });
  },
});

Deno.test({
  name: "drover fs export and fs import through main.ts carry a tree and a difference, by file and by pipe",
  ignore: !tools,
  fn: async () => {
    await using scratch = new Scratch();
    const site = scratch.mkdir("site");
    makeFirst(site);
    const env = { DROVER_HOME: scratch.path("cli-home") };
    const main = new URL("../../main.ts", import.meta.url).pathname;
    const cli = (...words: string[]) => [Deno.execPath(), "run", "-A", main, ...words];
    const json = async (...words: string[]) =>
      JSON.parse((await run(cli(...words, "--json"), { env })).trimEnd().split("\n").at(-1) ?? "");
    const head = (await json("fs", "init", site, "--capture", "scan")).head as string;
    makeSecond(site);
    const next = (await json("fs", "commit", site)).version as string;
    const quoted = (words: string[]) => words.map((word) => `'${word}'`).join(" ");
    const copy = scratch.path("copy");
    const allow = isRoot ? ["--allow-devices"] : [];
    await sh(
      scratch.dir,
      `${quoted(cli("fs", "export", site, "--to", head, "--tar", "-"))} | ` +
        `${quoted(cli("fs", "import", copy, "--tar", "-", "--capture", "scan", ...allow))}`,
      env,
    );
    const exported = await json("fs", "export", site, "--from", head, "--tar", scratch.path("d.tar"));
    assert.deepEqual([exported.version, exported.from, exported.file], [next, head, scratch.path("d.tar")]);
    const imported = await json(
      "fs",
      "import",
      copy,
      "--tar",
      scratch.path("d.tar"),
      "-m",
      "from there",
      ...allow,
    );
    assert.deepEqual([imported.version, imported.parent, imported.archive], [next, head, "delta"]);
    assert.equal(imported.bytes, exported.bytes);
    await assertSame(site, copy, "by the command line");
    // In this process, for the exit code.
    Deno.env.set("DROVER_HOME", env.DROVER_HOME);
    try {
      const again = await drover("fs", "import", copy, "--tar", scratch.path("d.tar"), "--json");
      assert.equal(again.code, 1);
      assert.equal((again.result().error as { code: string }).code, "wrong-base");
    } finally {
      Deno.env.delete("DROVER_HOME");
    }
  },
});
