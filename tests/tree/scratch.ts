/**
 * Trees on real mounts for tests: a scratch directory that is unmounted and removed whatever happens, nodes with a
 * registry of their own, transfers over a connection in memory, and a comparison that does not know the product.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { openNative } from "../../ffi/mod.ts";
import { type BytePath, pathFromBytes, pathFromText } from "../../lib/base/path.ts";
import { memoryChannelPair } from "../../lib/net/mod.ts";
import {
  type Allowance,
  collectGarbage,
  deinitTree,
  findTree,
  initTree,
  openTree,
  type PushMode,
  recordLimits,
  type Tree,
  type TreeContext,
  verifyTree,
} from "../../lib/tree/mod.ts";
import { createEmptyTree } from "../../lib/tree/init.ts";
import { decide, receiveFrom, sendTo, sideState } from "../../lib/tree/push.ts";
import type { ReceiveResult } from "../../lib/tree/receive.ts";
import type { SendResult } from "../../lib/tree/send.ts";

// At the top level: Deno 2.4 takes a library that a test loads for a leak.
export const native = openNative();
const { uid, canMount, inUserNamespace: isInner } = native.identity();

/** Whether other users cannot be named here. */
export const inUserNamespace = isInner;

/** Whether this process may chown, mknod and mount as the real root. */
export const isRoot = uid === 0 && !inUserNamespace;

/** How a tree is set up. */
export type Setup = "fast" | "portable" | "scan";

/** The setups that this process can have, and why the others are left out. */
export const setups: readonly Setup[] = isRoot && canMount
  ? ["fast", "portable", "scan"]
  : canMount
  ? ["portable", "scan"]
  : ["scan"];
if (setups.length < 3) console.warn(`tests/tree: not root, so only ${setups.join(" and ")}`);

/** Everything is allowed: trees of tests hold devices and capabilities. */
export const allowAll: Allowance = { devices: true, securityXattrs: true };

/** A directory for one test. */
export class Scratch implements AsyncDisposable {
  /** Absolute. */
  readonly dir: string;
  /** What the operations said in passing. */
  readonly log: string[] = [];
  readonly context: TreeContext;

  /** @param base a directory on the file system to be used. */
  constructor(base = Deno.env.get("DROVER_TEST_BASE") ?? "/var/tmp") {
    this.dir = Deno.realPathSync(Deno.makeTempDirSync({ dir: base, prefix: "drover-tree-test-" }));
    this.context = {
      native,
      now: () => Date.now(),
      home: join(this.dir, "home"),
      log: (line) => this.log.push(line),
    };
  }

  /** A path in it. */
  path(name: string): string {
    return join(this.dir, name);
  }

  /** The same as bytes. */
  bytes(name: string): BytePath {
    return pathFromText(this.path(name));
  }

  /** Makes a directory. */
  mkdir(name: string): string {
    Deno.mkdirSync(this.path(name), { recursive: true });
    return this.path(name);
  }

  /** Puts `name`, a directory, under drover. */
  async init(name: string, setup: Setup): Promise<void> {
    await initTree(this.context, this.bytes(name), setupOptions(setup));
  }

  /** Opens a tree for one piece of work. */
  async with<Result>(name: string, work: (tree: Tree) => Promise<Result>): Promise<Result> {
    await using tree = await openTree(this.context, this.bytes(name));
    return await work(tree);
  }

  /** Commits; returns the new head. */
  async commit(name: string): Promise<string> {
    return await this.with(name, async (tree) => (await tree.commit()).version);
  }

  /** Checks out. */
  async checkout(name: string, version: string, force = false): Promise<void> {
    await this.with(name, (tree) => tree.checkout({ version, force }));
  }

  /**
   * In a user namespace the names of a file that was copied up show different inode numbers until the kernel forgets
   * them, so `cp` would take them for two files. This makes it forget.
   */
  async settle(name: string): Promise<void> {
    if (!inUserNamespace) return;
    await this.with(name, async (tree) => {
      tree.unmount();
      await tree.mount();
    });
  }

  /** Paths of uncommitted changes. */
  async changes(name: string): Promise<string[]> {
    return await this.with(
      name,
      async (tree) => (await tree.status()).uncommitted.map(({ change, path }) => `${change} ${path}`),
    );
  }

  /** Every hash of everything kept must be right. */
  async verify(name: string): Promise<void> {
    const { ok, findings } = await this.with(name, (tree) => verifyTree(tree));
    assert.ok(ok, JSON.stringify(findings.slice(0, 10), null, 1));
  }

  /** Keeps the newest `keep` versions. */
  async gc(name: string, keep: number): Promise<string[]> {
    return (await this.with(name, (tree) => collectGarbage(tree, { keep }))).dropped;
  }

  /** Takes a tree out of drover. */
  async deinit(name: string): Promise<void> {
    await deinitTree(this.context, this.bytes(name));
  }

  /** Brings the tree `to`, made with `setup` where it is not there, to the head of the tree `from`. */
  async transfer(from: string, to: string, options: {
    setup?: Setup;
    mode?: PushMode;
    force?: boolean;
    allow?: Allowance;
  } = {}): Promise<{ sent: SendResult; received: ReceiveResult; bytesSent: number }> {
    const { setup = "scan", mode = "delta", force = false, allow = allowAll } = options;
    const target = this.bytes(to);
    const isNew = findTree(this.context, target) === null;
    await using sender = await openTree(this.context, this.bytes(from));
    await using receiver = isNew
      ? createEmptyTree(this.context, target, setupOptions(setup))
      : await openTree(this.context, target);
    const [near, far] = memoryChannelPair({ limits: recordLimits });
    const state = await sideState(receiver, isNew, true);
    assert.equal(decide(sender, state, force), "forward");
    const [sent, received] = await Promise.allSettled([
      sendTo(near, sender, state, mode, force),
      receiveFrom(far, receiver, allow, force),
    ]);
    near.close();
    far.close();
    if (received.status === "rejected") throw received.reason;
    if (sent.status === "rejected") throw sent.reason;
    assert.ok(received.value !== null);
    return { sent: sent.value, received: received.value, bytesSent: near.bytesSent };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    unmountBelow(this.dir);
    await run(["chmod", "-R", "u+rwX", this.dir]).catch(() => {});
    await run(["rm", "-rf", "--one-file-system", this.dir]);
  }
}

/** What a setup is called in the options of the product. */
export function setupOptions(setup: Setup): { capture: "overlay" | "scan"; profile?: "fast" | "portable" } {
  return setup === "scan" ? { capture: "scan" } : { capture: "overlay", profile: setup };
}

/** A place in memory for tests that only want to be quick; /var/tmp where that cannot hold attributes. */
export function memoryBase(): string {
  const base = Deno.env.get("DROVER_TEST_BASE");
  if (base !== undefined) return base;
  try {
    const probe = Deno.makeTempFileSync({ dir: "/dev/shm", prefix: "drover-tree-test-" });
    try {
      native.libc.setXattr(-100, pathFromText(probe), "user.probe" as BytePath, new Uint8Array(1));
      return "/dev/shm";
    } finally {
      Deno.removeSync(probe);
    }
  } catch {
    return "/var/tmp";
  }
}

/** Takes off everything that is mounted at or below `dir`, the newest first. */
export function unmountBelow(dir: string): void {
  const prefix = pathFromText(dir);
  const text = pathFromBytes(Deno.readFileSync("/proc/self/mountinfo"));
  for (const line of text.trimEnd().split("\n").reverse()) {
    const place = (line.split(" ")[4] ?? "").replace(
      /\\([0-7]{3})/g,
      (_, octal) => String.fromCharCode(parseInt(octal, 8)),
    );
    if (place !== prefix && !place.startsWith(`${prefix}/`)) continue;
    try {
      native.libc.unmount(place as BytePath, true);
    } catch {
      // went with the one above it
    }
  }
}

/** Runs a program; it must succeed. Returns what it printed. */
export async function run(
  command: readonly string[],
  options: { cwd?: string; env?: Record<string, string> } = {},
): Promise<string> {
  const [file = "", ...args] = command;
  const output = await new Deno.Command(file, {
    args,
    ...options,
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).output();
  const text = new TextDecoder();
  if (!output.success) {
    throw new Error(
      `${command.join(" ").slice(0, 300)}: ${output.code}\n${text.decode(output.stderr).slice(0, 4000)}`,
    );
  }
  return text.decode(output.stdout);
}

/** Whether all these programs are installed. */
export function has(...programs: string[]): boolean {
  const folders = `${Deno.env.get("PATH") ?? ""}:/usr/sbin:/sbin`.split(":");
  return programs.every((program) =>
    folders.some((folder) => {
      try {
        return Deno.statSync(join(folder, program)).isFile;
      } catch {
        return false;
      }
    })
  );
}

/** Runs a shell script in a directory; any failing line fails it. */
export async function sh(cwd: string, script: string, env: Record<string, string> = {}): Promise<string> {
  return await run(["bash", "-c", `set -euo pipefail\numask 022\nexport LC_ALL=C\n${script}`], { cwd, env });
}

/** A copy that `cp` makes of what is there. */
export async function plainCopy(from: string, to: string): Promise<void> {
  await run(["cp", "-a", "--sparse=always", from, to]);
}

/**
 * What `rsync` would change to make `right` like `left`, times compared to the nanosecond. rsync does not see names
 * that are linked on the right only, so the hard-link groups of both sides are compared too.
 */
export async function differences(left: string, right: string): Promise<string[]> {
  const said = await run(["rsync", "-aHAXnic", "--delete", "-@-1", `${left}/`, `${right}/`]);
  const lines = said.split("\n").filter((line) => line !== "");
  const [groups, others] = [await linkGroups(left), await linkGroups(right)];
  for (const group of new Set([...groups, ...others])) {
    if (!groups.has(group)) lines.push(`linked on the right: ${group}`);
    if (!others.has(group)) lines.push(`linked on the left: ${group}`);
  }
  return lines;
}

/** The names of each file that has several in this tree. */
async function linkGroups(dir: string): Promise<Set<string>> {
  const said = await run(["find", dir, "-type", "f", "-links", "+1", "-printf", "%D:%i %P\\0"]);
  const groups = new Map<string, string[]>();
  for (const line of said.split("\0")) {
    const at = line.indexOf(" ");
    if (at < 0) continue;
    const names = groups.get(line.slice(0, at)) ?? [];
    names.push(JSON.stringify(line.slice(at + 1)));
    groups.set(line.slice(0, at), names);
  }
  return new Set(
    [...groups.values()].filter((names) => names.length > 1).map((names) => names.sort().join(" ")),
  );
}

/** Fails with the differing paths. */
export async function assertSame(left: string, right: string, what: string): Promise<void> {
  const lines = await differences(left, right);
  assert.deepEqual(lines.slice(0, 40), [], `${what}: ${lines.length} differences`);
}

/** Fails when a file, directory or symlink below `dir` has an xattr of the overlay. */
export async function assertNoMarks(dir: string): Promise<void> {
  const said = await run(["getfattr", "-R", "-P", "-h", "-d", "-m", "overlay", "--absolute-names", dir]);
  assert.equal(said.slice(0, 2000), "");
}
