/**
 * A process that does one piece of work on a tree and kills itself with SIGKILL at a given step of it.
 *
 * It says "ready" when everything is loaded and then takes its job as one line of JSON on stdin, so that a test can have the
 * next one started while it looks at what the last one left. When it lives to the end it prints the steps it took.
 *
 *     deno run -A tests/tree/victim.ts
 */
import { pathFromText } from "../../lib/base/path.ts";
import { memoryChannelPair } from "../../lib/net/mod.ts";
import { openNative } from "../../ffi/mod.ts";
import {
  collectGarbage,
  deinitTree,
  findTree,
  initTree,
  openTree,
  recordLimits,
  type TreeContext,
} from "../../lib/tree/mod.ts";
import { createEmptyTree } from "../../lib/tree/init.ts";
import { receiveFrom, sendTo, sideState } from "../../lib/tree/push.ts";
import { hookDatabases, stepping } from "./steps.ts";

/** How a tree is set up. */
export interface SetupOptions {
  capture: "overlay" | "scan";
  profile?: "fast" | "portable";
}

/** What can be interrupted. */
export type Work =
  | { do: "init"; options: SetupOptions }
  | { do: "open" }
  | { do: "commit" }
  | { do: "checkout"; version: string }
  | { do: "gc"; keep: number }
  | { do: "deinit" }
  /** From a tree of the same registry. */
  | { do: "receive"; source: string; force: boolean; options: SetupOptions };

/** One job. */
export interface Job {
  home: string;
  dir: string;
  work: Work;
  /** Which step to die at, from 1; 0 for none. */
  killAt: number;
}

/** Does a piece of work; every change that it makes goes through `context`, what it only reads through `plain`. */
export async function doWork(
  work: Work,
  text: string,
  context: TreeContext,
  plain: TreeContext,
): Promise<void> {
  const dir = pathFromText(text);
  if (work.do === "init") return void await initTree(context, dir, work.options);
  if (work.do === "deinit") return void await deinitTree(context, dir);
  if (work.do === "receive") return await receive(work, text, context, plain);
  await using tree = await openTree(context, dir);
  await tree.mount();
  if (work.do === "commit") await tree.commit();
  if (work.do === "checkout") await tree.checkout({ version: work.version });
  if (work.do === "gc") await collectGarbage(tree, { keep: work.keep });
}

async function receive(
  work: Extract<Work, { do: "receive" }>,
  text: string,
  context: TreeContext,
  plain: TreeContext,
): Promise<void> {
  const dir = pathFromText(text);
  await using sender = await openTree(plain, pathFromText(work.source), { readOnly: true });
  const exists = findTree(context, dir) !== null;
  await using receiver = exists ? await openTree(context, dir) : createEmptyTree(context, dir, work.options);
  const isNew = receiver.store.pointers.head === null;
  if (!isNew) await receiver.mount();
  if (work.force && !isNew) await receiver.commit({ message: "kept" });
  const [near, far] = memoryChannelPair({ limits: recordLimits });
  const state = await sideState(receiver, isNew, true);
  if (state.head === sender.store.pointers.head) return;
  try {
    const [received, sent] = await Promise.allSettled([
      receiveFrom(far, receiver, { devices: true, securityXattrs: true }, work.force),
      sendTo(near, sender, state, "delta", work.force),
    ]);
    if (received.status === "rejected") throw received.reason;
    if (sent.status === "rejected") throw sent.reason;
  } finally {
    near.close();
    far.close();
  }
}

async function main(): Promise<void> {
  const native = openNative();
  console.log("ready");
  const line = new TextDecoder().decode((await Deno.stdin.readable.getReader().read()).value);
  if (line === "") return; // not needed any more
  const job = JSON.parse(line) as Job;
  const steps: string[] = [];
  const hook = (step: string): void => {
    steps.push(step);
    if (steps.length === job.killAt) Deno.kill(Deno.pid, "SIGKILL");
  };
  const context = { native, now: () => Date.now(), home: job.home };
  hookDatabases(hook);
  await doWork(job.work, job.dir, { ...context, native: stepping(native, hook) }, context);
  console.log(JSON.stringify(steps));
}

if (import.meta.main) {
  await main();
  Deno.exit(0);
}
