/**
 * Kill -9 at every step: whatever a process was doing to a tree, the next one finds the old version or the new one, whole,
 * and doing the same again succeeds.
 *
 * A victim process works on a small tree and kills itself at a given step: before any call that changes the disk, a mount or
 * the database (tests/tree/steps.ts), or in the middle of a write. The suite takes the steps that are turning points, and a sample of
 * the many alike ones in between; `DROVER_KILL=all` takes every one. Mounts, locks and half-written files stay behind as they
 * would from any process that is killed.
 */
import assert from "node:assert/strict";
import { dirname, join } from "node:path";
import { pathFromText } from "../../lib/base/path.ts";
import { findTree, initTree, openTree, verifyTree } from "../../lib/tree/mod.ts";
import { mountsOn } from "../../lib/tree/overlay.ts";
import { Store } from "../../lib/tree/store.ts";
import { versionId } from "../../lib/version/history.ts";
import { Scratch, type Setup, setups, unmountBelow } from "../tree/scratch.ts";
import { makeFirst, makeOther, makeSecond, rootOf } from "../tree/small_tree.ts";
import { doWork, type Job, type Work } from "../tree/victim.ts";
import { Random } from "../version/trees.ts";
import { fromSource, Host, rsyncDifferences, withFolder } from "./nodes.ts";

const everything = Deno.env.get("DROVER_KILL") === "all";
/** How many of the steps that are not turning points are taken per case. */
const sampleMax = 4;
/** Every so many kills the tree is also compared by rsync, and every hash is checked. */
const thoroughEvery = 10;

/** Processes that are loaded and wait for their job. */
class Victims implements AsyncDisposable {
  readonly #waiting: Deno.ChildProcess[] = [];

  #spawn(): Deno.ChildProcess {
    return new Deno.Command(Deno.execPath(), {
      args: [
        "run",
        "--quiet",
        "--allow-all",
        "--no-check",
        new URL("../tree/victim.ts", import.meta.url).pathname,
      ],
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
  }

  /** Runs one job. @returns its steps, or null when it was killed. */
  async run(job: Job): Promise<string[] | null> {
    while (this.#waiting.length < 2) this.#waiting.push(this.#spawn());
    const victim = this.#waiting.shift() as Deno.ChildProcess;
    const input = victim.stdin.getWriter();
    await input.write(new TextEncoder().encode(JSON.stringify(job) + "\n"));
    await input.close();
    const { signal, code, stdout, stderr } = await victim.output();
    if (signal === "SIGKILL") return null;
    const said = new TextDecoder().decode(stdout);
    if (code !== 0) throw new Error(`the victim failed by itself: ${new TextDecoder().decode(stderr)}`);
    return JSON.parse(said.slice(said.indexOf("\n") + 1)) as string[];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const victim of this.#waiting.splice(0)) {
      await victim.stdin.close();
      await victim.output();
    }
  }
}

/** What can be seen of a tree: its head, and a name for everything that is in its directory. */
interface State {
  head: string | null;
  root: string;
}

/** The directory before the work, what to do, and what it may be afterwards. */
interface Prepared {
  work: Work;
  before: State;
  after: State;
  /** Held until the victim is dead. */
  held?: Disposable;
}

/** One kind of work. */
interface Case {
  name: string;
  prepare: (dir: string) => Promise<Prepared>;
}

/** Steps worth dying at: what changes the database or a mount, what comes right after it, and some of the rest. */
function chooseSteps(steps: readonly string[]): number[] {
  const all = steps.map((_, at) => at + 1);
  if (everything) return all;
  const turning = (step = "") => /^database|ount|^syncfs/.test(step);
  const chosen = all.filter((at) => turning(steps[at - 1]) || turning(steps[at - 2]));
  const others = all.filter((at) => !chosen.includes(at));
  const stride = Math.max(1, Math.floor(others.length / sampleMax));
  // The sample begins elsewhere in each case, so that all together see more.
  return [...chosen, ...others.filter((_, at) => at % stride === steps.length % stride).slice(0, sampleMax)];
}

/** What is there after a crash, when a command has come by: each begins with putting things in order. */
async function stateOf(room: Scratch, dir: string): Promise<State> {
  if (findTree(room.context, pathFromText(dir)) !== null) {
    await using tree = await openTree(room.context, pathFromText(dir));
    const { head } = tree.store.pointers;
    if (tree.store.note("deinit") === null) await tree.mount();
    else if (head !== null && !tree.mounted) return { head, root: "leaving" };
    if (head !== null) return { head, root: await rootOf(dir) };
  }
  return { head: null, root: isEmpty(dir) ? "" : await rootOf(dir) };
}

function isEmpty(dir: string): boolean {
  try {
    return Deno.readDirSync(dir)[Symbol.iterator]().next().done === true;
  } catch {
    return true;
  }
}

function isThere(path: string): boolean {
  try {
    return Deno.lstatSync(path) !== null;
  } catch {
    return false;
  }
}

/** Everything on disk must be needed, and there is one mount, writable. */
async function assertSwept(room: Scratch, dir: string): Promise<void> {
  const place = findTree(room.context, pathFromText(dir));
  const state = join(dirname(dir), ".tree.drover");
  if (place === null) {
    // Killed when its database was removed already: the rest is in nobody's way.
    if (isThere(state)) assert.ok(Store.isHalfMade(room.context.native, pathFromText(state)), "leftovers");
    return;
  }
  await using tree = await openTree(room.context, pathFromText(dir));
  const { store } = tree;
  const { upper } = store.pointers;
  const needed = [...new Set(store.versions().flatMap((version) => version.stack ?? []))].filter((layer) =>
    layer >= 0
  );
  const list = (folder: string) => [...Deno.readDirSync(join(state, folder))].map(({ name }) => name).sort();
  const names = (layers: number[]) => layers.map((layer) => `${layer}`).sort();
  assert.deepEqual(list("layers"), names(upper < 0 ? needed : [...new Set([...needed, upper])]), "layers");
  assert.deepEqual(
    list("work").filter((name) => !needed.includes(Number(name))),
    names(upper < 0 ? [] : [upper]),
    "work",
  );
  assert.deepEqual(list("staging"), [], "staging");
  assert.equal(store.note("staging"), null);
  assert.deepEqual(list("manifests").filter((name) => !/^[0-9a-f]{64}$/.test(name)), [], "manifests");
  if (store.setup.capture === "overlay") {
    assert.deepEqual(mountsOn(store.setup.dir).map(({ readOnly }) => readOnly), [false], "mounts");
  }
}

/** The same work by hand, to its end. */
async function again(room: Scratch, dir: string, work: Work): Promise<void> {
  const isTree = findTree(room.context, pathFromText(dir)) !== null;
  if (work.do === "deinit" && !isTree) return;
  if (work.do === "init" && isTree && (await stateOf(room, dir)).head !== null) return;
  await doWork(work, dir, room.context, room.context);
}

/**
 * Runs one case, killed at each chosen step. A run may take fewer steps than the first did (a file whose
 * time lies too near is read once more, or is not); when it ended before its step, it must have done its work,
 * and counts as no kill. @returns the first run's steps, how many kills, and what went wrong.
 */
async function runCase(
  victims: Victims,
  room: Scratch,
  setup: Setup,
  { name, prepare }: Case,
): Promise<{ names: string[]; kills: number; failures: string[] }> {
  const tag = `${setup}-${name}`;
  const failures: string[] = [];
  let kills = 0;
  let names: string[] = [];
  let steps: number[] = [];
  for (let round = 0; round <= steps.length; round++) {
    const folder = room.mkdir(`${tag}-${round}`);
    const dir = join(folder, "tree");
    const killAt = steps[round - 1] ?? 0;
    const where = `${tag}, killed at step ${killAt} of ${names.length} (${names[killAt - 2]}, ${
      names[killAt - 1]
    })`;
    try {
      const { work, before, after, held } = await prepare(dir);
      const ran = await victims.run({ home: room.context.home, dir, work, killAt });
      held?.[Symbol.dispose]();
      if (round === 0) {
        assert.ok(ran !== null);
        names = ran;
        steps = chooseSteps(names);
      } else if (ran === null) kills++;
      const found = await stateOf(room, dir);
      const isOld = same(found, before) || found.root === "leaving" ||
        work.do === "receive" && found.head === null && found.root === "";
      assert.ok(
        isOld && killAt > 0 && ran === null || same(found, after),
        `neither old nor new: ${JSON.stringify({ found, before, after })}`,
      );
      await again(room, dir, work);
      assert.deepEqual(await stateOf(room, dir), after, "after the second try");
      await assertSwept(room, dir);
      if (round % thoroughEvery === 0 && findTree(room.context, pathFromText(dir)) !== null) {
        await using tree = await openTree(room.context, pathFromText(dir));
        assert.deepEqual(await verifyTree(tree).then(({ findings }) => findings), []);
        assert.deepEqual((await tree.status()).uncommitted, []);
      }
    } catch (error) {
      failures.push(`${where}: ${error instanceof Error ? error.stack : error}`);
      if (round === 0) break;
    } finally {
      unmountBelow(folder);
    }
    Deno.removeSync(folder, { recursive: true });
  }
  return { names, kills, failures };
}

function same(one: State, other: State): boolean {
  return one.head === other.head && one.root === other.root;
}

/** Trees to receive from: one that holds the first version, one that holds the second after it. */
async function makeSources(room: Scratch): Promise<{ first: string; second: string }> {
  const [first, second] = [room.path("first"), room.path("second")];
  makeFirst(first);
  await room.init("first", "scan");
  await room.transfer("first", "second");
  makeSecond(second);
  await room.commit("second");
  return { first, second };
}

function casesOf(
  room: Scratch,
  setup: Setup,
  sources: { first: string; second: string },
  crash: (dir: string, work: Work, step: (names: string[]) => number) => Promise<void>,
): Case[] {
  const options = setup === "scan"
    ? { capture: "scan" as const }
    : { capture: "overlay" as const, profile: setup };
  const from = (source: string, force = false): Work => ({ do: "receive", source, force, options });
  const init = async (dir: string): Promise<State> => {
    makeFirst(dir);
    await initTree(room.context, pathFromText(dir), options);
    return await stateOf(room, dir);
  };
  const commit = async (dir: string): Promise<State> => {
    await doWork({ do: "commit" }, dir, room.context, room.context);
    return await stateOf(room, dir);
  };
  const receive = async (dir: string, source: string): Promise<State> => {
    await doWork(from(source), dir, room.context, room.context);
    return await stateOf(room, dir);
  };
  const edited = async (dir: string): Promise<{ before: State; after: State }> => {
    const { head } = await init(dir);
    makeSecond(dir);
    const root = await rootOf(dir);
    return { before: { head, root }, after: { head: versionId(head, root), root } };
  };
  const goal = async (source: string): Promise<State> => await stateOf(room, source);
  const cases: Case[] = [
    {
      name: "init",
      prepare: async (dir) => {
        makeFirst(dir);
        const root = await rootOf(dir);
        return {
          work: { do: "init", options },
          before: { head: null, root },
          after: { head: versionId(null, root), root },
        };
      },
    },
    { name: "commit", prepare: async (dir) => ({ work: { do: "commit" }, ...await edited(dir) }) },
    {
      name: "checkout",
      prepare: async (dir) => {
        const after = await init(dir);
        makeSecond(dir);
        const before = await commit(dir);
        return { work: { do: "checkout", version: after.head ?? "" }, before, after };
      },
    },
    {
      name: "gc",
      prepare: async (dir) => {
        await init(dir);
        makeSecond(dir);
        await commit(dir);
        makeOther(dir);
        const before = await commit(dir);
        return { work: { do: "gc", keep: 1 }, before, after: before };
      },
    },
    {
      name: "deinit",
      prepare: async (dir) => {
        await init(dir);
        makeSecond(dir);
        const before = await commit(dir);
        return { work: { do: "deinit" }, before, after: { head: null, root: before.root } };
      },
    },
    {
      name: "receive-new",
      prepare: async () => ({
        work: from(sources.second),
        before: { head: null, root: "" },
        after: await goal(sources.second),
      }),
    },
    {
      name: "receive",
      prepare: async (dir) => ({
        before: await receive(dir, sources.first),
        work: from(sources.second),
        after: await goal(sources.second),
      }),
    },
    {
      name: "receive-over-another-history",
      prepare: async (dir) => {
        await receive(dir, sources.first);
        makeOther(dir);
        return {
          before: await commit(dir),
          work: from(sources.second, true),
          after: await goal(sources.second),
        };
      },
    },
  ];
  const crashed: Case = {
    name: "recovery",
    prepare: async (dir) => {
      // Killed after the transaction, in the switch: what opens the tree next has something to put in order.
      await receive(dir, sources.first);
      await crash(
        dir,
        from(sources.second),
        (names) => names.lastIndexOf("database: COMMIT") - (setup === "scan" ? 40 : -2),
      );
      const after = await goal(sources.second);
      return { work: { do: "open" }, before: after, after };
    },
  };
  if (setup === "scan") return [...cases, crashed];
  return [...cases, crashed, {
    name: "commit-with-a-writer",
    prepare: async (dir) => {
      const states = await edited(dir);
      return { work: { do: "commit" }, ...states, held: Deno.openSync(join(dir, "new"), { append: true }) };
    },
  }, {
    name: "mount",
    prepare: async (dir) => {
      const before = await init(dir);
      unmountBelow(dir);
      return { work: { do: "open" }, before, after: before };
    },
  }];
}

for (const setup of setups) {
  Deno.test(`${setup}: a process killed at any step leaves the old version or the new one, and the retry succeeds`, async () => {
    await using room = new Scratch();
    await using victims = new Victims();
    const sources = await makeSources(room);
    const only = Deno.env.get("DROVER_KILL_CASE");
    const steps = new Map<string, string[]>();
    const failures: string[] = [];
    let kills = 0;
    const crash = async (dir: string, work: Work, step: (names: string[]) => number): Promise<void> => {
      const killAt = step(steps.get(work.do) ?? []);
      assert.equal(await victims.run({ home: room.context.home, dir, work, killAt }), null, "not reached");
    };
    for (const one of casesOf(room, setup, sources, crash)) {
      if (only !== undefined && !only.split(",").includes(one.name)) continue;
      if (one.name === "recovery" && !steps.has("receive")) continue; // it needs to know the steps of that
      const ran = await runCase(victims, room, setup, one);
      steps.set(one.name, ran.names);
      kills += ran.kills;
      failures.push(...ran.failures);
    }
    assert.equal(failures.length, 0, `${failures.length} of ${kills} kills:\n${failures.join("\n")}`);
    if (only === undefined) assert.ok(kills >= 70, `only ${kills} kills`);
    console.log(`${setup}: ${kills} kills`);
  });
}

/** Starts `drover push` and kills it, or the node, after some milliseconds; null when it had ended before. */
async function pushAndKill(
  near: Host,
  far: Host,
  options: { tree: string; url: string; key: string; victim: "push" | "serve"; afterMs: number },
): Promise<void> {
  const [file = "", ...words] = fromSource;
  const push = new Deno.Command(file, {
    args: [...words, "push", options.tree, options.url, "--key", options.key, "--json"],
    env: { DROVER_HOME: join(near.folder, "home") },
    stdin: "null",
    stdout: "null",
    stderr: "null",
  }).spawn();
  await new Promise((resolve) => setTimeout(resolve, options.afterMs));
  if (options.victim === "serve") await far.stop("SIGKILL");
  else {
    try {
      push.kill("SIGKILL");
    } catch {
      // it has ended
    }
  }
  await push.status;
}

Deno.test("drover push and drover serve killed at any time leave the old version or the new one, and the retry succeeds", async () => {
  await withFolder(async (folder) => {
    await using near = new Host(join(folder, "near"));
    await using far = new Host(join(folder, "far"));
    try {
      const random = new Random(Number(Deno.env.get("DROVER_SEED") ?? 5));
      const key = join(folder, "key");
      await near.must("key", "new", key);
      const tree = join(near.folder, "tree");
      const there = join(far.folder, "tree");
      makeFirst(tree);
      const block = random.bytes(1_500_000);
      // Never like any before: each byte is mixed with a counter, and some are replaced.
      const fresh = (): Uint8Array<ArrayBuffer> => {
        const mask = random.below(256);
        for (let at = random.below(16); at < block.length; at += 16) block[at] = random.below(256);
        return block.map((byte) => byte ^ mask);
      };
      for (let at = 0; at < 12; at++) Deno.writeFileSync(join(tree, `big-${at}`), fresh());
      let { head } = await near.must("fs", "init", tree, "--capture", "scan");
      await far.serve("--key", key, "--allow-devices", "--allow-security-xattrs");
      const url = () => `drover://${far.address}/tree`;
      const started = performance.now();
      await near.must("push", tree, url(), "--key", key);
      const wholeMs = performance.now() - started;
      for (let round = 0; round < 12; round++) {
        const before = { head, root: await rootOf(there) };
        for (let count = 0; count < 6; count++) {
          Deno.writeFileSync(join(tree, `big-${random.below(12)}`), fresh());
        }
        Deno.writeTextFileSync(join(tree, `round-${round}`), `${round}\n`);
        ({ version: head } = await near.must("fs", "commit", tree));
        const victim = round % 3 === 2 ? "push" : "serve";
        const afterMs = wholeMs * (round + 0.5 + random.below(100) / 200) / 12;
        await pushAndKill(near, far, { tree, url: url(), key, victim, afterMs });
        if (victim === "serve") await far.serve("--key", key, "--allow-devices", "--allow-security-xattrs");
        const where = `round ${round}: ${victim} killed after ${Math.round(afterMs)} ms`;
        const status = await far.must("fs", "status", there);
        const found = { head: status["head"], root: await rootOf(there) };
        const after = { head, root: await rootOf(tree) };
        assert.deepEqual(found, found.head === after.head ? after : before, where);
        assert.deepEqual(status["uncommitted"], [], where);
        await near.must("push", tree, url(), "--key", key);
        assert.deepEqual(await rsyncDifferences(tree, there), [], where);
      }
      assert.equal((await far.must("fs", "verify", there))["ok"], true);
    } finally {
      await far.stop();
      unmountBelow(folder);
    }
  });
});
