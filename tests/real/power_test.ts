/**
 * Power loss at every turning point: what is on the disk at that moment, not what the kernel still holds in memory, is the old
 * version or the new one, whole.
 *
 * The tree is on an ext4 file system in an image file that is mounted by a loop device. What the file system has not written
 * to its device is not in the image, so a copy of the image is the disk after a loss of power. Each copy is mounted in
 * the same place, and the tree put in order, checked and worked on again.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { pathFromText } from "../../lib/base/path.ts";
import { findTree, initTree, openTree, type TreeContext, verifyTree } from "../../lib/tree/mod.ts";
import { has, isRoot, native, run, Scratch, type Setup, setups, unmountBelow } from "../tree/scratch.ts";
import { makeFirst, makeSecond, rootOf } from "../tree/small_tree.ts";
import { hookDatabases, stepping } from "../tree/steps.ts";
import { doWork, type Work } from "../tree/victim.ts";

/** Why it cannot run here; null where it can. */
const missing = !isRoot
  ? "not root"
  : !has("mkfs.ext4", "losetup")
  ? "no mkfs.ext4 or losetup"
  : await run(["losetup", "-f"]).then(() => null, () => "no loop device");
if (missing !== null) console.warn(`tests/real/power_test.ts is left out: ${missing}`);

/** A disk that can be copied as it is, and put in the place of itself. */
class Disk {
  readonly dir: string;
  readonly #room: Scratch;
  readonly #image: string;
  #copies = 0;

  constructor(room: Scratch) {
    this.#room = room;
    this.#image = room.path("disk.img");
    this.dir = room.mkdir("disk");
  }

  async make(): Promise<void> {
    await run(["truncate", "-s", "0", this.#image]);
    await run(["truncate", "-s", "32M", this.#image]);
    await run(["mkfs.ext4", "-q", "-F", this.#image]);
    await this.mount(this.#image);
  }

  /** Without commits of its own accord: what is not flushed stays in memory. */
  async mount(image: string): Promise<void> {
    await run(["mount", "-o", "loop,commit=600", image, this.dir]);
  }

  async unmount(): Promise<void> {
    unmountBelow(join(this.dir, "tree"));
    await run(["umount", this.dir]);
  }

  /** The disk as it is now. Synchronous: nothing happens meanwhile. */
  copy(): string {
    const file = this.#room.path(`copy-${this.#copies++}`);
    const { success } = new Deno.Command("cp", { args: ["--sparse=always", this.#image, file] }).outputSync();
    assert.ok(success);
    return file;
  }
}

interface State {
  head: string | null;
  root: string;
}

async function stateOf(context: TreeContext, dir: string): Promise<State> {
  if (findTree(context, pathFromText(dir)) === null) return { head: null, root: "" };
  await using tree = await openTree(context, pathFromText(dir));
  await tree.mount();
  const { head } = tree.store.pointers;
  if (head === null) return { head, root: "" };
  assert.deepEqual((await verifyTree(tree)).findings, []);
  return { head, root: await rootOf(dir) };
}

async function losePower(room: Scratch, setup: Setup, name: string): Promise<number> {
  const disk = new Disk(room);
  const dir = join(disk.dir, "tree");
  const context = { ...room.context, home: join(disk.dir, "home") };
  const options = setup === "scan"
    ? { capture: "scan" as const }
    : { capture: "overlay" as const, profile: setup };
  const receive = (source: string): Work => ({
    do: "receive",
    source: room.path(source),
    force: false,
    options,
  });
  await disk.make();
  let work: Work = receive("second");
  if (name === "receive") await doWork(receive("first"), dir, context, room.context);
  else if (name !== "receive-new") {
    makeFirst(dir);
    await initTree(context, pathFromText(dir), options);
    const { head } = await stateOf(context, dir);
    makeSecond(dir);
    work = { do: "commit" };
    if (name === "checkout") {
      await doWork(work, dir, context, context);
      work = { do: "checkout", version: head ?? "" };
    }
  }
  const before = await stateOf(context, dir);
  await run(["sync", "-f", disk.dir]);
  const copies: { file: string; where: string }[] = [];
  let previous = "";
  const hook = (step: string): void => {
    const turning = /^database|ount|^syncfs/;
    if (turning.test(step) || turning.test(previous)) {
      copies.push({ file: disk.copy(), where: `${setup}, ${name}, between ${previous} and ${step}` });
    }
    previous = step;
  };
  hookDatabases(hook);
  await doWork(work, dir, { ...context, native: stepping(native, hook) }, room.context);
  hookDatabases(null);
  copies.push({ file: disk.copy(), where: `${setup}, ${name}, at the end` });
  const after = await stateOf(context, dir);
  await disk.unmount();
  let done = false;
  for (const { file, where } of copies) {
    await disk.mount(file);
    const found = await stateOf(context, dir).catch((error) => {
      throw new Error(where, { cause: error });
    });
    // What users do between two versions is not on the disk before they, or the commit, flush it.
    const isOld = found.head === before.head && (work.do === "commit" || found.root === before.root);
    done ||= !isOld;
    assert.ok(
      isOld && !done || found.head === after.head && found.root === after.root,
      `${where}: ${JSON.stringify({ found, before, after })}`,
    );
    if (work.do !== "commit" || found.head === before.head) await doWork(work, dir, context, room.context);
    assert.notEqual((await stateOf(context, dir)).head, null, where);
    await disk.unmount();
    Deno.removeSync(file);
  }
  assert.ok(done, "the end is durable");
  return copies.length;
}

for (const setup of setups) {
  Deno.test({
    name: `${setup}: a loss of power at any turning point leaves the old version or the new one on the disk`,
    ignore: missing !== null,
    fn: async () => {
      await using room = new Scratch();
      makeFirst(room.path("first"));
      await room.init("first", "scan");
      await room.transfer("first", "second");
      makeSecond(room.path("second"));
      await room.commit("second");
      let copies = 0;
      for (const name of ["commit", "checkout", "receive-new", "receive"]) {
        copies += await losePower(room, setup, name);
      }
      assert.ok(copies >= 20, `only ${copies} copies`);
    },
  });
}
