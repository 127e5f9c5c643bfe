/**
 * Two hosts as two processes: what `push`, `pull` and `serve` promise to scripts.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { Host, rsyncDifferences, withFolder } from "./nodes.ts";

async function makeTree(directory: string): Promise<void> {
  await Deno.mkdir(join(directory, "sub"), { recursive: true });
  for (let index = 0; index < 40; index++) {
    await Deno.writeTextFile(join(directory, `sub/file${index}`), `line ${index}\n`.repeat(200));
  }
  await Deno.link(join(directory, "sub/file0"), join(directory, "hard"));
  await Deno.symlink("sub", join(directory, "soft"));
}

Deno.test("drover push brings a second host to the head, then only what changed", async () => {
  await withFolder(async (folder) => {
    await using near = new Host(join(folder, "near"));
    await using far = new Host(join(folder, "far"));
    const key = join(folder, "key");
    await near.must("key", "new", key);
    const tree = join(near.folder, "tree");
    await makeTree(tree);
    await near.must("fs", "init", tree, "--capture", "scan");
    await far.serve("--key", key, "--capture", "scan");
    const url = `drover://${far.address}/tree`;

    const first = await near.must("push", tree, url, "--key", key);
    assert.equal(first.from, null);
    assert.equal(first.versions, 1);
    for (const name of ["bytesSent", "bytesReceived", "seconds", "entries", "rounds"]) {
      assert.equal(typeof first[name], "number", name);
    }
    assert.deepEqual(Object.keys(first.phases as object).sort(), ["apply", "capture", "pack", "send"]);
    assert.deepEqual(await rsyncDifferences(tree, join(far.folder, "tree")), []);

    await Deno.writeTextFile(join(tree, "sub/file7"), "line 7\n".repeat(200) + "one more\n");
    await Deno.remove(join(tree, "sub/file8"));
    const kept = await near.must("push", tree, url, "--key", key);
    assert.equal(kept.to, first.to, "uncommitted changes stay out");
    const second = await near.must("push", tree, url, "--key", key, "--commit", "-m", "two");
    assert.equal(second.from, first.to);
    assert.ok(Number(second.bytesSent) < Number(first.bytesSent));
    assert.deepEqual(await rsyncDifferences(tree, join(far.folder, "tree")), []);

    const again = await near.must("push", tree, url, "--key", key);
    assert.deepEqual([again.from, again.to, again.versions], [second.to, second.to, 0]);
    assert.equal(await far.stop(), 0);
  });
});

Deno.test("drover pull creates a tree that has the head of the node", async () => {
  await withFolder(async (folder) => {
    await using near = new Host(join(folder, "near"));
    await using far = new Host(join(folder, "far"));
    const key = join(folder, "key");
    await near.must("key", "new", key);
    const tree = join(near.folder, "tree");
    await makeTree(tree);
    const { head } = await near.must("fs", "init", tree, "--capture", "scan");
    await near.serve("--key", key);
    const copy = join(far.folder, "copy");
    const pulled = await far.must(
      "pull",
      `drover://${near.address}/tree`,
      copy,
      "--key",
      key,
      "--capture",
      "scan",
    );
    assert.deepEqual([pulled.from, pulled.to], [null, head]);
    assert.deepEqual(await rsyncDifferences(tree, copy), []);
  });
});

Deno.test("drover push refuses diverged heads with code 3 and both lists, and --ours settles it", async () => {
  await withFolder(async (folder) => {
    await using near = new Host(join(folder, "near"));
    await using far = new Host(join(folder, "far"));
    const key = join(folder, "key");
    await near.must("key", "new", key);
    const tree = join(near.folder, "tree");
    await makeTree(tree);
    await near.must("fs", "init", tree, "--capture", "scan");
    await far.serve("--key", key, "--capture", "scan");
    const url = `drover://${far.address}/tree`;
    await near.must("push", tree, url, "--key", key);
    const there = join(far.folder, "tree");
    await Deno.writeTextFile(join(there, "hers"), "far\n");
    await far.must("fs", "commit", there);
    await Deno.writeTextFile(join(tree, "mine"), "near\n");
    const refused = await near.run("push", tree, url, "--key", key, "--commit");
    assert.equal(refused.code, 3);
    const error = refused.result.error as { code: string; details?: Record<string, unknown> };
    assert.equal(error.code, "diverged");
    assert.ok(error.details !== undefined);
    assert.equal(await Deno.readTextFile(join(there, "hers")), "far\n");
    await near.must("push", tree, url, "--key", key, "--ours");
    assert.deepEqual(await rsyncDifferences(tree, there), []);
  });
});

Deno.test("drover push with another key is refused and changes nothing", async () => {
  await withFolder(async (folder) => {
    await using near = new Host(join(folder, "near"));
    await using far = new Host(join(folder, "far"));
    const [key, wrong] = [join(folder, "key"), join(folder, "wrong")];
    await near.must("key", "new", key);
    await near.must("key", "new", wrong);
    const tree = join(near.folder, "tree");
    await makeTree(tree);
    await near.must("fs", "init", tree, "--capture", "scan");
    await far.serve("--key", key, "--capture", "scan");
    for (const option of [["--key", wrong], []]) {
      const refused = await near.run("push", tree, `drover://${far.address}/tree`, ...option);
      assert.equal(refused.code, 1);
      assert.equal((refused.result.error as Record<string, unknown>).code, "auth");
    }
    await assert.rejects(Deno.lstat(join(far.folder, "tree")), Deno.errors.NotFound);
  });
});

Deno.test("drover serve without a key refuses an address beyond loopback", async () => {
  await withFolder(async (folder) => {
    await using host = new Host(folder);
    const refused = await host.run("serve", "--root", folder, "--listen", "0.0.0.0:0");
    assert.equal(refused.code, 1);
    assert.equal((refused.result.error as Record<string, unknown>).code, "auth");
  });
});

Deno.test("drover key new never overwrites a file and keeps it from others", async () => {
  await withFolder(async (folder) => {
    await using host = new Host(join(folder, "host"));
    const file = join(folder, "key");
    assert.deepEqual(await host.must("key", "new", file), { file });
    assert.equal(((await Deno.stat(file)).mode ?? 0) & 0o777, 0o600);
    const before = await Deno.readTextFile(file);
    const refused = await host.run("key", "new", file);
    assert.equal(refused.code, 1);
    assert.equal((refused.result.error as Record<string, unknown>).code, "exists");
    assert.equal(await Deno.readTextFile(file), before);
  });
});

Deno.test("drover push keeps two files apart that are the same in content and metadata", async () => {
  await withFolder(async (folder) => {
    await using near = new Host(join(folder, "near"));
    await using far = new Host(join(folder, "far"));
    const key = join(folder, "key");
    await near.must("key", "new", key);
    const tree = join(near.folder, "tree");
    await makeTree(tree);
    await near.must("fs", "init", tree, "--capture", "scan");
    await far.serve("--key", key); // an overlay where that is possible
    const url = `drover://${far.address}/tree`;
    const there = join(far.folder, "tree");
    try {
      await near.must("push", tree, url, "--key", key);
      const copied = await new Deno.Command("cp", { args: ["-p", `${tree}/sub/file1`, `${tree}/twin`] })
        .output();
      assert.ok(copied.success);
      await near.must("push", tree, url, "--key", key, "--commit");
      const [one, other] = [await Deno.stat(join(there, "sub/file1")), await Deno.stat(join(there, "twin"))];
      assert.notEqual(one.ino, other.ino, "the copy became a hard link");
    } finally {
      await far.stop();
      await far.run("fs", "unmount", there);
    }
  });
});
