/**
 * Goal: whatever happens in a tree's directory, each version holds exactly that, in every setup, and every way to a version
 * ends in exactly that: commit, checkout, transfer to a new tree, to one that follows and to one that is four versions behind,
 * garbage collection, leaving drover.
 *
 * Method: all scenarios of `scenarios.ts` in one tree. After each step `cp -a` keeps what the directory shows, and
 * `rsync -aHAXnic --delete -@-1` compares everything with that. `DROVER_SCENARIO=name,name` runs only some;
 * `DROVER_BRIEF=1` takes fewer ways.
 */
import assert from "node:assert/strict";
import { type Scenario, scenarios, stepScript, versionCount } from "./scenarios.ts";
import {
  assertNoMarks,
  assertSame,
  has,
  inUserNamespace,
  isRoot,
  memoryBase,
  plainCopy,
  Scratch,
  type Setup,
  setups,
  sh,
} from "./scratch.ts";

const tools = ["rsync", "setfacl", "setcap", "setfattr", "getfattr", "python3"];
const brief = Deno.env.get("DROVER_BRIEF") !== undefined;
const only = Deno.env.get("DROVER_SCENARIO")?.split(",");

const wanted: readonly Scenario[] = scenarios.filter(({ name, root, denies }) =>
  (isRoot || root !== true) && (Deno.uid() === 0 || denies !== true) && (only?.includes(name) ?? true)
);

/** Random bytes that are the same every time, and a socket to copy. */
async function makePool(scratch: Scratch): Promise<Record<string, string>> {
  const pool = scratch.mkdir("pool");
  const random = new Uint8Array(1 << 20);
  let state = 0x2545f491;
  for (let at = 0; at < random.length; at++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    random[at] = state;
  }
  Deno.writeFileSync(`${pool}/random`, random);
  await sh(pool, `python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("socket")'`);
  return { POOL: pool, SOCKET: `${pool}/socket`, T: scratch.path("tree"), IDS: inUserNamespace ? "one" : "" };
}

for (const setup of setups) {
  Deno.test({
    name: `commit(), checkout(), transfers, gc and deinit of a ${setup} tree keep every edge case`,
    ignore: !has(...tools),
    fn: async () => {
      // One setup on a disk; the others in memory, where flushing costs nothing.
      await using scratch = new Scratch(setup === "portable" ? undefined : memoryBase());
      const env = await makePool(scratch);
      const tree = scratch.mkdir("tree");
      const versions: string[] = [];
      const copyOf = (version: number): string => scratch.path(`v${version}`);
      // Over the three tests every setup receives from every one: these follow version by version, those come late or new.
      const at = setups.indexOf(setup);
      const nth = (step: number): Setup => setups[(at + step) % setups.length] ?? setup;
      const followers = [...new Set(brief ? [setup] : [setup, nth(1)])].map((other) => ({
        name: `follows-${other}`,
        setup: other,
      }));
      const late = { name: "late", setup: nth(2) };
      const fresh = { name: "fresh", setup: nth(1) };

      await sh(scratch.dir, stepScript(wanted, 0), env);
      await plainCopy(tree, copyOf(0));
      await scratch.init("tree", setup);
      await assertSame(copyOf(0), tree, "after init");
      versions.push(await scratch.with("tree", (open) => Promise.resolve(open.resolve("head"))));
      for (const follower of [...followers, late]) {
        await scratch.transfer("tree", follower.name, { setup: follower.setup });
        await assertSame(copyOf(0), scratch.path(follower.name), `${follower.name}, version 0`);
      }
      for (let version = 1; version <= versionCount; version++) {
        await sh(scratch.dir, stepScript(wanted, version), env);
        await scratch.settle("tree");
        await plainCopy(tree, copyOf(version));
        versions.push(await scratch.commit("tree"));
        await assertSame(copyOf(version), tree, `after commit ${version}`);
        assert.deepEqual(await scratch.changes("tree"), [], `uncommitted after commit ${version}`);
        for (const follower of followers) {
          await scratch.transfer("tree", follower.name, {
            mode: version === 2 ? "upper" : version === 3 ? "full" : "delta",
          });
          await assertSame(
            copyOf(version),
            scratch.path(follower.name),
            `${follower.name}, version ${version}`,
          );
          assert.deepEqual(await scratch.changes(follower.name), [], `${follower.name}, version ${version}`);
        }
      }
      for (const receiver of [late, fresh]) {
        await scratch.transfer("tree", receiver.name, { setup: receiver.setup });
        await assertSame(copyOf(versionCount), scratch.path(receiver.name), receiver.name);
        assert.deepEqual(await scratch.changes(receiver.name), [], receiver.name);
        await scratch.verify(receiver.name);
      }
      await scratch.deinit("fresh");
      await assertSame(copyOf(versionCount), scratch.path("fresh"), "fresh after deinit");
      await assertNoMarks(scratch.path("fresh"));
      for (const name of brief ? ["tree"] : ["tree", followers.at(-1)?.name ?? ""]) {
        for (const version of brief ? [0, 3, 4] : name === "tree" ? [0, 3, 1, 2, 4] : [1, 4]) {
          await scratch.checkout(name, versions[version] ?? "");
          await assertSame(copyOf(version), scratch.path(name), `${name}, checkout of ${version}`);
        }
        await scratch.verify(name);
        assert.equal((await scratch.gc(name, 3)).length, 2);
        await assertSame(copyOf(4), scratch.path(name), `${name} after gc`);
        for (const version of name === "tree" ? [2, 4] : []) {
          await scratch.checkout(name, versions[version] ?? "");
          await assertSame(copyOf(version), scratch.path(name), `${name}, checkout of ${version} after gc`);
        }
        assert.equal((await scratch.gc(name, 1)).length, 2);
        await assertSame(copyOf(4), scratch.path(name), `${name} after the second gc`);
        await scratch.verify(name);
        await scratch.deinit(name);
        await assertSame(copyOf(4), scratch.path(name), `${name} after deinit`);
        await assertNoMarks(scratch.path(name));
      }
    },
  });
}
