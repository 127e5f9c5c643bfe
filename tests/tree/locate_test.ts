/** The registry, and how a directory that a user names leads to its tree. */
import assert from "node:assert/strict";
import { type BytePath, pathFromText } from "../../lib/base/path.ts";
import { findTree, listTrees, openTree } from "../../lib/tree/mod.ts";
import { absolutePath } from "../../lib/tree/locate.ts";
import { defaultState, Registry } from "../../lib/tree/registry.ts";
import { run, Scratch } from "./scratch.ts";

const path = pathFromText;

Deno.test("defaultState() is a hidden name beside the directory", () => {
  assert.equal(defaultState(path("/srv/site")), "/srv/.site.drover");
  assert.equal(defaultState(path("/site")), "/.site.drover");
  assert.equal(defaultState("/srv/\xff\n" as BytePath), "/srv/.\xff\n.drover");
});

Deno.test("Registry finds, replaces, lists and forgets places, with paths of any bytes", async () => {
  await using scratch = new Scratch();
  const registry = new Registry(scratch.path("home"));
  assert.deepEqual([registry.list(), registry.find(path("/a"))], [[], null]);
  registry.remove(path("/a"));
  const odd = { dir: '/srv/\xff\xfe\n"{' as BytePath, state: "/srv/.\x01" as BytePath };
  registry.add(odd);
  registry.add({ dir: path("/b"), state: path("/x") });
  registry.add({ dir: path("/b"), state: path("/y") });
  registry.add({ dir: path("/ä"), state: path("/z") });
  assert.deepEqual(registry.find(odd.dir), odd);
  assert.deepEqual(registry.list().map(({ state }) => state), ["/y", odd.state, "/z"]);
  // A second one on the same home sees the same: the file is all there is.
  assert.deepEqual(new Registry(scratch.path("home")).find(path("/b")), { dir: "/b", state: "/y" });
  registry.remove(path("/b"));
  assert.equal(registry.find(path("/b")), null);
  assert.equal(registry.list().length, 2);
});

Deno.test("Registry passes over what is no entry: other files, an unfinished write, damaged ones", async () => {
  await using scratch = new Scratch();
  const registry = new Registry(scratch.path("home"));
  registry.add({ dir: path("/a"), state: path("/s") });
  const [entry] = [...Deno.readDirSync(scratch.path("home/trees"))];
  assert.ok(entry !== undefined);
  const file = scratch.path(`home/trees/${entry.name}`);
  Deno.writeTextFileSync(`${file}.new`, "{");
  Deno.writeTextFileSync(scratch.path("home/trees/README"), "not a tree");
  assert.equal(registry.list().length, 1);
  for (
    const damage of [
      "",
      "{",
      "null",
      "[]",
      '{"dir":1,"state":"2f"}',
      '{"dir":"2f"}',
      '{"dir":"xy","state":"2f"}',
      '{"dir":"2","state":"2f"}',
    ]
  ) {
    Deno.writeTextFileSync(file, damage);
    assert.deepEqual([damage, registry.find(path("/a")), registry.list()], [damage, null, []]);
  }
  registry.add({ dir: path("/a"), state: path("/s") });
  assert.equal(registry.find(path("/a"))?.state, "/s");
});

Deno.test("absolutePath() resolves symlinks, dots and what does not exist yet", async () => {
  await using scratch = new Scratch();
  const { dir } = scratch;
  scratch.mkdir("real/sub");
  Deno.symlinkSync("real", scratch.path("link"));
  const cases: [string, string][] = [
    [`${dir}/real`, `${dir}/real`],
    [`${dir}/link/sub/`, `${dir}/real/sub`],
    [`${dir}/real/../link/./sub`, `${dir}/real/sub`],
    [`${dir}/link/new/er`, `${dir}/real/new/er`],
    ["/", "/"],
    ["/nothing-is-here", "/nothing-is-here"],
  ];
  for (const [from, to] of cases) assert.equal(absolutePath(path(from)), to);
  assert.equal(absolutePath(path("relative-name")), `${Deno.realPathSync(".")}/relative-name`);
  assert.equal(absolutePath("/srv/\xff" as BytePath), "/srv/\xff");
});

Deno.test("absolutePath() makes a path that is not UTF-8 absolute, too", () => {
  assert.equal(absolutePath("a\xff" as BytePath), `${path(Deno.cwd())}/a\xff`);
});

Deno.test("findTree() finds a tree by the registry, by the default place after the registry was lost, and through a symlink", async () => {
  await using scratch = new Scratch();
  const dir = scratch.mkdir("tree");
  await scratch.init("tree", "scan");
  Deno.symlinkSync(dir, scratch.path("link"));
  const expected = { dir, state: scratch.path(".tree.drover") };
  assert.deepEqual(findTree(scratch.context, path(dir)), expected);
  assert.deepEqual(findTree(scratch.context, scratch.bytes("link")), expected);
  Deno.removeSync(scratch.path("home"), { recursive: true });
  assert.deepEqual(findTree(scratch.context, path(dir)), expected);
  assert.equal(findTree(scratch.context, scratch.bytes("other")), null);
  await assert.rejects(openTree(scratch.context, scratch.bytes("other")), { code: "not-a-tree" });
});

Deno.test("openTree() is refused while another process holds the tree, and works when it has ended", async () => {
  await using scratch = new Scratch();
  const dir = scratch.mkdir("tree");
  await scratch.init("tree", "scan");
  const lock = scratch.path(".tree.drover/lock");
  const held = new Deno.Command("flock", { args: [lock, "sleep", "0.4"] }).spawn();
  while ((await run(["bash", "-c", `flock -n ${lock} true && echo free || echo held`])).trim() === "free") {
    continue;
  }
  // It waits: the other one ends in time.
  await using tree = await openTree(scratch.context, path(dir));
  assert.ok(tree.store.locked);
  assert.ok((await held.status).success);
  await using reader = await openTree(scratch.context, path(dir), { readOnly: true });
  assert.ok(!reader.store.locked);
  assert.equal(reader.log().length, 1);
});

Deno.test("listTrees() lists what the registry knows and says what it cannot read", async () => {
  await using scratch = new Scratch();
  scratch.mkdir("b");
  scratch.mkdir("a");
  await scratch.init("b", "scan");
  await scratch.init("a", "scan");
  const listed = listTrees(scratch.context);
  assert.deepEqual(listed.map(({ dir, capture, mounted }) => [dir, capture, mounted]), [
    [scratch.path("a"), "scan", true],
    [scratch.path("b"), "scan", true],
  ]);
  assert.match(listed[0]?.head ?? "", /^[0-9a-f]{64}$/);
  Deno.removeSync(scratch.path(".a.drover"), { recursive: true });
  assert.deepEqual(listTrees(scratch.context).map(({ dir }) => dir), [scratch.path("b")]);
  assert.match(scratch.log.join("\n"), /cannot read the tree of .*\/a: /);
});
