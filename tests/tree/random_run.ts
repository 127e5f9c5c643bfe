/**
 * A run of seeded random changes in one tree; every version is compared with a `cp -a` of what the directory showed, at the
 * tree itself, at trees of other setups that receive it now and then, and after checkouts, garbage collection and deinit.
 */
import assert from "node:assert/strict";
import { Mutator, Random } from "./mutate.ts";
import { assertNoMarks, assertSame, isRoot, native, plainCopy, Scratch, setups, sh } from "./scratch.ts";

const versionsPerRun = 6;

/** One run. @param base where; a directory on the file system to be tried. */
export async function tryRandom(seed: number, base: string): Promise<void> {
  const random = new Random(seed * 7919);
  await using scratch = new Scratch(base);
  const setup = setups[seed % setups.length] ?? "scan";
  const dir = scratch.mkdir("tree");
  const mutator = new Mutator(native.libc, scratch.bytes("tree"), random, isRoot);
  const versions: string[] = [];
  const copyOf = (version: number): string => scratch.path(`v${version}`);
  /** Receivers and the version that each has. */
  const receivers = new Map<string, number>();
  const tell = (what: string): string =>
    `seed ${seed}, ${setup}, ${what}\n${JSON.stringify(mutator.done.slice(-120))}`;
  const same = async (version: number, name: string, what: string): Promise<void> => {
    await assertSame(copyOf(version), scratch.path(name), tell(what));
    assert.deepEqual(await scratch.changes(name), [], tell(what));
  };
  try {
    mutator.run(60);
    await plainCopy(dir, copyOf(0));
    await scratch.init("tree", setup);
    versions.push(await scratch.with("tree", (tree) => Promise.resolve(tree.resolve("head"))));
    await same(0, "tree", "init");
    for (let version = 1; version <= versionsPerRun; version++) {
      mutator.done.push(`--- ${version}`);
      mutator.run(1 + random.below(40));
      await scratch.settle("tree");
      await plainCopy(dir, copyOf(version));
      const head = await scratch.commit("tree");
      if (head === versions.at(-1)) {
        await assertSame(copyOf(version--), copyOf(version), tell("no change was seen"));
        await sh(scratch.dir, `rm -rf v${version + 1}`);
        continue;
      }
      versions.push(head);
      await same(version, "tree", `commit ${version}`);
      if (random.below(4) === 0) {
        const back = random.below(version + 1);
        await scratch.checkout("tree", versions[back] ?? "");
        await same(back, "tree", `checkout of ${back}`);
        await scratch.checkout("tree", head);
        await same(version, "tree", `checkout of ${version}`);
      }
      for (const other of setups) {
        const name = `${other}-${random.below(2)}`;
        if (random.below(2) === 0 || receivers.get(name) === version) continue;
        const from = receivers.get(name);
        await scratch.transfer("tree", name, {
          setup: other,
          mode: random.pick(["delta", "delta", "upper", "full"] as const),
        });
        receivers.set(name, version);
        await same(version, name, `${name} from ${from} to ${version}`);
        if (random.below(3) === 0) {
          await scratch.gc(name, 1 + random.below(2));
          await same(version, name, `${name} after gc`);
        }
      }
    }
    await scratch.verify("tree");
    for (const [name, version] of [...receivers, ["tree", versionsPerRun] as const]) {
      await scratch.verify(name);
      await scratch.deinit(name);
      await assertSame(copyOf(version), scratch.path(name), tell(`${name} after deinit`));
      await assertNoMarks(scratch.path(name));
    }
  } catch (error) {
    throw error instanceof assert.AssertionError ? error : new Error(tell("threw"), { cause: error });
  }
}
