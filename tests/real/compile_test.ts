/**
 * dist/drover, the one executable: works from another directory, with no environment, no Deno, no compiler and
 * no network, and moves a tree to a second node. Where no runtime is at hand to build it with, the tests are
 * skipped with the reason, never passed.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import config from "../../deno.json" with { type: "json" };
import { compileProgram, NoRuntimeError } from "../tasks/compile.ts";
import { missing } from "../region/room.ts";
import { Host, rsyncDifferences, withFolder } from "./nodes.ts";

let program = "";
try {
  program = (await compileProgram({ force: false })).path;
} catch (error) {
  if (!(error instanceof NoRuntimeError)) throw error;
  console.error(`skipped: ${error.message}`);
}
const ignore = program === "";

/** Nothing but a private place for temporary files, to see that none stays. */
function emptyEnvironment(folder: string): Record<string, string> {
  const temporary = join(folder, "tmp");
  Deno.mkdirSync(temporary, { recursive: true, mode: 0o700 });
  return { TMPDIR: temporary };
}

/** The program in a network namespace of its own, where there is no way out; only root may do that everywhere. */
function offline(): readonly string[] {
  return Deno.uid() === 0 ? ["/usr/bin/unshare", "--net", program] : [program];
}

Deno.test({
  name: "dist/drover runs with an empty environment and no network",
  ignore,
  fn: async () => {
    await withFolder(async (folder) => {
      const env = emptyEnvironment(folder);
      await using host = new Host(join(folder, "host"), { program: offline(), env });
      assert.deepEqual(await host.must("--version"), { version: config.version });
      const doctor = await host.run("doctor", "/var/tmp");
      assert.equal(doctor.code, 0);
      assert.deepEqual([doctor.objects[0]?.id, doctor.objects[0]?.ok], ["native", true]);
      assert.ok(doctor.objects.length > 5);
      assert.equal(typeof doctor.result.native, "string");
      assert.deepEqual([...Deno.readDirSync(join(folder, "tmp"))], []);
    });
  },
});

Deno.test({
  name: "dist/drover puts a tree under drover and moves it to a second node",
  ignore,
  fn: async () => {
    await withFolder(async (folder) => {
      const env = emptyEnvironment(folder);
      await using near = new Host(join(folder, "near"), { program: [program], env });
      await using far = new Host(join(folder, "far"), { program: [program], env });
      const tree = join(near.folder, "tree");
      const there = join(far.folder, "tree");
      await Deno.mkdir(join(tree, "a/b"), { recursive: true });
      for (let index = 0; index < 30; index++) {
        await Deno.writeTextFile(join(tree, `a/b/${index}`), `${index}\n`.repeat(1000 + index));
      }
      const key = join(folder, "key");
      await near.must("key", "new", key);
      await near.must("fs", "init", tree);
      await far.serve("--key", key);
      try {
        const url = `drover://${far.address}/tree`;
        await near.must("push", tree, url, "--key", key);
        assert.deepEqual(await rsyncDifferences(tree, there), []);
        await Deno.rename(join(tree, "a/b"), join(tree, "a/c"));
        await Deno.writeTextFile(join(tree, "a/c/3"), "other\n");
        const second = await near.must("push", tree, url, "--key", key, "--commit");
        assert.equal(second.versions, 1);
        assert.deepEqual(await rsyncDifferences(tree, there), []);
        assert.equal(await far.stop(), 0);
      } finally {
        await far.stop();
        await near.run("fs", "deinit", tree);
        await far.run("fs", "deinit", there);
      }
      assert.equal(await Deno.readTextFile(join(tree, "a/c/3")), "other\n");
      assert.deepEqual([...Deno.readDirSync(join(folder, "tmp"))], []);
    });
  },
});

Deno.test({
  name: "dist/drover has memory larger than its RAM, and a policy in a worker",
  ignore: ignore || missing !== null,
  fn: async () => {
    await withFolder(async (folder) => {
      const env = emptyEnvironment(folder);
      await using host = new Host(join(folder, "host"), { program: offline(), env });
      const sizes = ["--size", "16MiB", "--limit", "4MiB", "--ssd", folder];
      const bench = await host.must("mem", "bench", "ssd", ...sizes, "--seconds", "0.2", "--verify");
      assert.ok(Number(bench.faults) > 0 && Number(bench.resident) <= 4 * 2 ** 20, JSON.stringify(bench));
      const demo = await host.must("mem", "demo", ...sizes, "--seconds", "3");
      assert.ok(Number(demo.policySteps) > 0, JSON.stringify(demo));
      assert.deepEqual([...Deno.readDirSync(join(folder, "tmp"))], []);
    });
  },
});
