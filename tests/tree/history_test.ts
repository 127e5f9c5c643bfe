/**
 * Goal: when the two sides of a push or pull do not agree, nothing is lost on either. Method: a node on loopback and a second host, each
 * with every setup; after every step the directories are compared with plain copies, also of the versions that gave way.
 */
import assert from "node:assert/strict";
import { listen } from "../../lib/net/mod.ts";
import { pathFromText } from "../../lib/base/path.ts";
import {
  openTree,
  pullTree,
  type PushOptions,
  type PushResult,
  pushTree,
  recordLimits,
  serveTrees,
  type TreeContext,
} from "../../lib/tree/mod.ts";
import {
  allowAll,
  assertSame,
  has,
  plainCopy,
  Scratch,
  type Setup,
  setupOptions,
  setups,
  sh,
} from "./scratch.ts";

/** Two hosts: `here` with trees, and a node that serves the directory `there`. */
class TwoHosts implements AsyncDisposable {
  readonly scratch = new Scratch();
  readonly #stop = new AbortController();
  #served: Promise<void> = Promise.resolve();
  #port = 0;
  readonly #there: TreeContext;

  constructor() {
    this.scratch.mkdir("there");
    this.#there = { ...this.scratch.context, home: this.scratch.path("home-there") };
  }

  async start(setup: Setup): Promise<void> {
    const listener = await listen({ host: "127.0.0.1", port: 0, key: null, limits: recordLimits });
    this.#port = listener.address.port;
    this.#served = serveTrees(this.#there, {
      listener,
      root: this.scratch.bytes("there"),
      allow: allowAll,
      ...setupOptions(setup),
      signal: this.#stop.signal,
    });
  }

  get #url(): PushOptions["url"] {
    return { host: "127.0.0.1", port: this.#port, name: "tree" };
  }

  push(options: Partial<PushOptions> = {}): Promise<PushResult> {
    return pushTree(this.scratch.context, this.scratch.bytes("tree"), {
      url: this.#url,
      key: null,
      mode: "delta",
      ...options,
    });
  }

  pull(
    name: string,
    setup: Setup,
    options: { resolve?: "ours" | "theirs"; commit?: boolean } = {},
  ): Promise<PushResult> {
    const dir = this.scratch.bytes(name);
    return pullTree(this.scratch.context, {
      url: this.#url,
      key: null,
      dir,
      allow: allowAll,
      ...setupOptions(setup),
      ...options,
    });
  }

  /** Commits in the node's tree. */
  async commitThere(): Promise<string> {
    await using tree = await openTree(this.#there, pathFromText(this.scratch.path("there/tree")));
    return (await tree.commit()).version;
  }

  /** Versions of the node's tree, newest first. */
  async logThere(): Promise<string[]> {
    await using tree = await openTree(this.#there, pathFromText(this.scratch.path("there/tree")));
    return tree.log().map(({ id }) => id);
  }

  async checkoutThere(version: string): Promise<void> {
    await using tree = await openTree(this.#there, pathFromText(this.scratch.path("there/tree")));
    await tree.checkout({ version });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    await this.#served;
    await this.scratch[Symbol.asyncDispose]();
  }
}

for (const [at, setup] of setups.entries()) {
  const other = setups[(at + 1) % setups.length] ?? setup;
  const make = "mkdir d; for f in a b d/c; do head -c 20000 /dev/urandom > $f; done; ln a hard; echo x > x";

  Deno.test({
    name: `push and pull of a ${setup} tree and a ${other} node lose nothing when their histories part`,
    ignore: !has("rsync", "getfattr"),
    fn: async () => {
      await using hosts = new TwoHosts();
      const { scratch } = hosts;
      await hosts.start(other);
      const tree = scratch.mkdir("tree");
      const there = scratch.path("there/tree");
      const copy = (name: string, from = tree): Promise<void> => plainCopy(from, scratch.path(name));
      await sh(tree, make);
      await copy("v0");
      await scratch.init("tree", setup);
      const v0 = (await hosts.push()).to;
      await assertSame(scratch.path("v0"), there, "first push");

      // What nobody committed over there is in the way, and stays.
      await sh(there, "echo local >> a; rm x; mkdir n; echo n > n/n");
      await copy("local", there);
      await sh(tree, "echo v1 >> b; mv d e");
      await copy("v1");
      await scratch.commit("tree");
      await assert.rejects(hosts.push(), { code: "uncommitted" });
      await assertSame(scratch.path("local"), there, "after a refused push");

      // --ours keeps it as a version that can be checked out.
      const v1 = (await hosts.push({ resolve: "ours" })).to;
      await assertSame(scratch.path("v1"), there, "after --ours");
      const kept = (await hosts.logThere()).filter((id) => id !== v0 && id !== v1);
      assert.equal(kept.length, 1);
      await hosts.checkoutThere(kept[0] ?? "");
      await assertSame(scratch.path("local"), there, "the version that gave way");
      await hosts.checkoutThere(v1);
      await assertSame(scratch.path("v1"), there, "and back");

      // Both sides commit.
      await sh(there, "echo theirs >> b; chmod 600 hard; rm -r e");
      await copy("theirs", there);
      const theirs = await hosts.commitThere();
      await sh(tree, "echo ours >> a; echo new > new");
      await copy("ours");
      const ours = await scratch.commit("tree");
      await assert.rejects(hosts.push(), { code: "diverged" });
      await assert.rejects(hosts.pull("tree", setup), { code: "diverged" });
      await assertSame(scratch.path("theirs"), there, "after refusals");
      await assertSame(scratch.path("ours"), tree, "after refusals");
      await hosts.pull("tree", setup, { resolve: "theirs" });
      await assertSame(scratch.path("theirs"), tree, "after --theirs");
      await scratch.checkout("tree", ours);
      await assertSame(scratch.path("ours"), tree, "our version is still here");
      await hosts.push({ resolve: "ours" });
      await assertSame(scratch.path("ours"), there, "after --ours again");
      await hosts.checkoutThere(theirs);
      await assertSame(scratch.path("theirs"), there, "their version is still there");
      await hosts.checkoutThere(ours);

      // Back to the first version, on both sides, and forward again.
      await scratch.checkout("tree", v0);
      await assert.rejects(hosts.push(), { code: "diverged" });
      await hosts.push({ resolve: "ours" });
      await assertSame(scratch.path("v0"), there, "rolled back");
      await scratch.checkout("tree", ours);
      await hosts.push();
      await assertSame(scratch.path("ours"), there, "forward");

      // A third tree pulls, changes, and is refused until it commits.
      await hosts.pull("third", other);
      await assertSame(scratch.path("ours"), scratch.path("third"), "pull");
      await sh(scratch.path("third"), "echo third > third");
      await copy("third-now", scratch.path("third"));
      await sh(tree, "echo v4 >> new");
      await copy("v4");
      await hosts.push({ commit: true });
      await assert.rejects(hosts.pull("third", other), { code: "uncommitted" });
      await assertSame(scratch.path("third-now"), scratch.path("third"), "after a refused pull");
      await hosts.pull("third", other, { resolve: "theirs" });
      await assertSame(scratch.path("v4"), scratch.path("third"), "pull --theirs");
      const lines = await scratch.with(
        "third",
        (open) => Promise.resolve(open.log().filter((line) => !line.head && line.stored)),
      );
      await scratch.checkout("third", lines.at(-1)?.id ?? "");
      for (const name of ["tree", "third"]) await scratch.verify(name);
    },
  });
}
