/**
 * The node: answers pushes and pulls for all trees below one directory, many at a time.
 *
 * One connection is one conversation about one tree, which is locked meanwhile: a second one for the same tree waits,
 * then is refused as busy. An error ends its conversation, never the node.
 *
 * @module
 */
import { type BytePath, joinPath, pathFromText, pathToText, rootPath } from "../base/path.ts";
import { DroverError } from "../base/errors.ts";
import type { Channel, Listener } from "../net/mod.ts";
import { Beneath } from "./beneath.ts";
import type { Capture, Profile, TreeContext } from "./context.ts";
import { createEmptyTree } from "./init.ts";
import { absolutePath, findTree, openTree } from "./locate.ts";
import { decodeHello, encodeMessage, errorMessage, type Hello, recordType } from "./protocol.ts";
import { decide, receiveFrom, sendTo, sideState } from "./push.ts";
import type { Allowance } from "./admission.ts";
import { defaultState, Registry } from "./registry.ts";
import type { Tree } from "./tree.ts";

/** How a node serves. */
export interface NodeOptions {
  /** Where peers come from. */
  listener: Listener;
  /** Each tree NAME is the directory ROOT/NAME. */
  root: BytePath;
  /** What peers may send that an ordinary user could not make. */
  allow: Allowance;
  /** For trees that a push creates. */
  capture?: Capture;
  /** For trees that a push creates. */
  profile?: Profile;
  /** Stops taking connections; what is under way finishes. */
  signal: AbortSignal;
}

/** Serves until the signal. Trees below the root that are not mounted, after a reboot, are mounted first. */
export async function serveTrees(given: TreeContext, options: NodeOptions): Promise<void> {
  // One bar cannot show many conversations: a node says what came in, line by line.
  const { progress: _, ...context } = given;
  const root = absolutePath(options.root);
  await mountAll(context, root);
  const under = new Set<Promise<void>>();
  options.signal.addEventListener("abort", () => options.listener.close(), { once: true });
  if (options.signal.aborted) options.listener.close();
  for await (const channel of options.listener) {
    const conversation = converse(context, channel, { ...options, root }).finally(() =>
      under.delete(conversation)
    );
    under.add(conversation);
  }
  await Promise.allSettled(under);
}

/** Mounts every tree below `root` that a reboot took away, and finishes what a crash left. */
async function mountAll(context: TreeContext, root: BytePath): Promise<void> {
  const dirs = new Set<BytePath>(
    new Registry(context.home).list().map(({ dir }) => dir).filter((dir) => dir.startsWith(`${root}/`)),
  );
  using place = Beneath.open(context.native.libc, root);
  for (const { name } of place.list(rootPath)) {
    const state = /^\.(.+)\.drover$/s.exec(name);
    if (state !== null) dirs.add(joinPath(root, state[1] as BytePath));
  }
  for (const dir of dirs) {
    if (findTree(context, dir) === null) continue;
    try {
      await using tree = await openTree(context, dir);
      await tree.mount();
    } catch (error) {
      context.log?.(`cannot mount ${pathToText(dir)}: ${error instanceof Error ? error.message : error}`);
    }
  }
}

async function converse(
  context: TreeContext,
  channel: Channel,
  options: Omit<NodeOptions, "listener" | "signal">,
): Promise<void> {
  using _ = channel;
  try {
    const record = await channel.receive();
    if (record === null) return;
    if (record.type !== recordType.hello) {
      throw new DroverError("protocol", "Cannot talk: the first record is not HELLO");
    }
    await answer(context, channel, decodeHello(record.body), options);
    await channel.end();
  } catch (error) {
    context.log?.(`${channel.peer}: ${error instanceof Error ? error.message : error}`);
    await channel.send(recordType.error, encodeMessage(errorMessage(error))).catch(() => {});
    await channel.end().catch(() => {});
    await drain(channel);
  }
}

/** Reads what is still under way, so that closing does not reset the connection before our error has been read. */
async function drain(channel: Channel): Promise<void> {
  const timer = setTimeout(() => channel.close(), 5000);
  try {
    while (await channel.receive() !== null);
  } catch {
    // the other side has gone
  } finally {
    clearTimeout(timer);
  }
}

async function answer(
  context: TreeContext,
  channel: Channel,
  hello: Hello,
  options: Omit<NodeOptions, "listener" | "signal">,
): Promise<void> {
  const dir = joinPath(options.root, pathFromText(hello.tree));
  const exists = findTree(context, dir) !== null;
  if (hello.verb === "pull") {
    if (!exists) throw unknown(hello.tree);
    await using tree = await openTree(context, dir);
    if (tree.store.pointers.head === null) throw unknown(hello.tree);
    return await answerPull(channel, tree, hello);
  }
  const { capture, profile } = options;
  await using tree = exists ? await openTree(context, dir) : createEmptyTree(context, dir, {
    ...capture === undefined ? {} : { capture },
    ...profile === undefined ? {} : { profile },
    state: defaultState(dir),
  });
  await answerPush(context, channel, tree, hello, options.allow);
}

async function answerPush(
  context: TreeContext,
  channel: Channel,
  tree: Tree,
  hello: Hello,
  allow: Allowance,
): Promise<void> {
  const isNew = tree.store.pointers.head === null;
  if (!isNew) await tree.mount();
  // What nobody committed must not be lost when another history takes over.
  if (hello.force && !isNew) {
    await tree.commit({ message: `kept before ${channel.peer} pushed its own history` });
  }
  await channel.send(recordType.state, encodeMessage(await sideState(tree, isNew, true)));
  const received = await receiveFrom(channel, tree, allow, hello.force);
  if (received !== null) context.log?.(`${tree.name}: ${received.to.slice(0, 12)} from ${channel.peer}`);
  else if (isNew && tree.store.pointers.head === null) {
    context.log?.(`${tree.name}: nothing came from ${channel.peer}`);
  }
}

async function answerPull(channel: Channel, tree: Tree, hello: Hello): Promise<void> {
  const state = hello.state;
  if (state === null) throw new DroverError("protocol", "Cannot answer a pull that does not say what it has");
  const decision = decide(tree, state, hello.force);
  if (decision === "diverged") {
    throw new DroverError(
      "diverged",
      `Cannot pull "${hello.tree}": both sides have versions that the other has not`,
      {
        hint:
          "--theirs makes your tree follow the node, --ours makes the node follow your tree; the other history is kept",
        details: {
          theirs: tree.chain.map(({ id }) => id).filter((id) => !state.chain.includes(id)).slice(0, 1000),
          ours: state.chain.slice(0, 1000),
        },
      },
    );
  }
  if (decision !== "forward") {
    return await channel.send(recordType.nothing, encodeMessage({ reason: decision }));
  }
  await sendTo(channel, tree, state, "delta", hello.force);
}

function unknown(name: string): DroverError {
  return new DroverError("unknown-tree", `Cannot find a tree named "${name}" on this node`, {
    hint: `push one first: drover push DIR drover://HOST/${name}`,
  });
}
