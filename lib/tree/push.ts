/**
 * Push and pull: brings one side of a connection to the other side's head. Both are the same conversation with the
 * roles exchanged; who dialled says what it has, and whoever sends decides what that means.
 *
 * `ours` and `theirs` are from the point of view of the side that runs the command. The history that gives way is kept
 * on its host as versions that can be checked out.
 *
 * @module
 */
import { type BytePath, pathToText } from "../base/path.ts";
import { DroverError } from "../base/errors.ts";
import { type Channel, type ClusterKey, dial, formatAddress, type TreeUrl } from "../net/mod.ts";
import { sampleAncestors } from "../version/history.ts";
import { Manifest } from "../version/manifest.ts";
import type { PackageMode } from "../version/package.ts";
import type { VersionInfo } from "../version/entry.ts";
import type { Capture, Profile, TreeContext } from "./context.ts";
import { createEmptyTree } from "./init.ts";
import { absolutePath, findTree, openTree } from "./locate.ts";
import {
  chainIdsMax,
  decodeNothing,
  decodeState,
  encodeHello,
  encodeMessage,
  errorMessage,
  manifestRawMax,
  recordLimits,
  recordType,
  remoteError,
  type SideState,
} from "./protocol.ts";
import type { Allowance } from "./admission.ts";
import { receivePackage, type ReceiveResult } from "./receive.ts";
import { sendPackage, type SendResult } from "./send.ts";
import { type CommitResult, secondsSince, uncommitted } from "./report.ts";
import type { Tree } from "./tree.ts";

/** What a package is made of: everything, changed files whole, or what changed within files. */
export type PushMode = PackageMode;

/** Which side wins where both have versions that the other has not. */
export type Resolve = "ours" | "theirs";

/** Ids named one by one before only every 2ⁿth is. */
const chainDenseMax = 4096;

/** How often a connection that breaks in the middle is made anew. */
const attemptsMax = 3;

/** Options of a push. */
export interface PushOptions {
  /** The node and the tree there. */
  url: TreeUrl;
  /** Null to talk to a node of the same user on this machine. */
  key: ClusterKey | null;
  /** What the package is made of. */
  mode: PushMode;
  /** Commit first what no version holds. */
  commit?: boolean;
  /** The message of that commit. */
  message?: string;
  /** Who wins where versions diverged; refused unless given. */
  resolve?: Resolve;
}

/** Options of a pull. */
export interface PullOptions {
  /** The node and the tree there. */
  url: TreeUrl;
  /** Null to talk to a node of the same user on this machine. */
  key: ClusterKey | null;
  /** The tree; made where there is none. */
  dir: BytePath;
  /** Commit first what no version holds here. */
  commit?: boolean;
  /** Who wins where versions diverged; refused unless given. */
  resolve?: Resolve;
  /** For a directory that is created. */
  capture?: Capture;
  /** For a directory that is created. */
  profile?: Profile;
  /** What may come that an ordinary user could not make. */
  allow?: Allowance;
}

/** Where the time of a transfer went, in seconds. The phases overlap: their sum may exceed the whole. */
export interface Phases {
  /** Finding and recording what changed. */
  capture: number;
  /** Reading, delta and compression on the sender's main thread. */
  pack: number;
  /** The sender waiting for the wire or the receiver. */
  send: number;
  /** The receiver writing, flushing and switching. */
  apply: number;
}

/** What a push or pull did; the same fields for both. */
export interface PushResult {
  /** The receiving side's version before; null where it had none. */
  from: string | null;
  /** The receiving side's version afterwards. */
  to: string;
  /** How many versions lie between. */
  versions: number;
  /** Octets on the wire from the side that ran the command, framing included. */
  bytesSent: number;
  /** Octets on the wire to the side that ran the command. */
  bytesReceived: number;
  /** From the call to the answer that all is applied. */
  seconds: number;
  /** Where the time went. */
  phases: Phases;
  /** Created, changed and deleted paths. */
  entries: number;
  /** Connections that it took. */
  rounds: number;
  /** Changes at the sender that stayed out because no version holds them. */
  uncommitted: number;
  /** Segments that an attempt before had already brought over. */
  resumedSegments: number;
}

/** See `PushResult`. */
export type PullResult = PushResult;

/** Brings the node's tree to this tree's head. */
export async function pushTree(
  context: TreeContext,
  dir: BytePath,
  options: PushOptions,
): Promise<PushResult> {
  const started = performance.now();
  const force = options.resolve === "ours";
  using greeting = greetAhead(options, force);
  await using tree = await openTree(context, dir);
  const captured = await commitFirst(tree, options);
  const left = options.commit === true ? 0 : (await tree.live()).changes.length;
  if (left > 0) {
    context.log?.(
      `${left} uncommitted change${left === 1 ? " stays" : "s stay"} out; --commit takes them along`,
    );
  }
  const open = (rounds: number) => rounds === 1 ? greeting.first : greet(options, force);
  return await attempts(open, async ({ channel, state }, rounds) => {
    const decision = decide(tree, state, force);
    if (decision === "theirs-is-newer" || decision === "diverged") {
      if (options.resolve === "theirs") {
        await nothing(channel, "the other side is taken");
        channel.close();
        return await pullInto(tree, { ...options, dir, resolve: "theirs" }, started, rounds);
      }
      await nothing(channel, decision);
      throw refusal(tree, state, decision, options.url);
    }
    if (decision === "same") {
      await nothing(channel, "both sides are the same");
      return result(channel, { started, captured, rounds, from: state.head, to: state.head ?? "", left });
    }
    if (state.uncommitted > 0) {
      await nothing(channel, "the other side has uncommitted changes");
      throw new DroverError(
        "uncommitted",
        `Cannot push to "${options.url.name}": it has ${state.uncommitted} uncommitted changes there (${
          state.uncommittedPaths.slice(0, 3).join(", ")
        }…)`,
        {
          hint: "commit them on that node, or push with --ours",
          details: { uncommitted: state.uncommittedPaths },
        },
      );
    }
    const sent = await sendTo(channel, tree, state, options.mode, force);
    return result(channel, { started, captured, rounds, from: state.head, to: sent.done.head, left, sent });
  });
}

/** Brings this tree to the node's head; the directory is created where there is none. */
export async function pullTree(context: TreeContext, options: PullOptions): Promise<PullResult> {
  const started = performance.now();
  const dir = absolutePath(options.dir);
  const { capture, profile } = options;
  await using tree = findTree(context, dir) !== null
    ? await openTree(context, dir)
    : createEmptyTree(context, dir, {
      ...capture === undefined ? {} : { capture },
      ...profile === undefined ? {} : { profile },
    });
  return await pullInto(tree, options, started, 0);
}

async function pullInto(
  tree: Tree,
  options: PullOptions,
  started: number,
  before: number,
): Promise<PullResult> {
  const isNew = tree.store.pointers.head === null;
  const force = options.resolve === "theirs";
  const captured = isNew
    ? null
    : await commitFirst(tree, { ...options, commit: options.commit === true || force });
  if (!isNew && captured === null) {
    const { changes } = await tree.live();
    if (changes.length > 0) throw uncommitted(tree.name, changes, "pull into");
  }
  const open = async () => ({ channel: await dialNode(options) });
  return await attempts(open, async ({ channel }, rounds) => {
    await channel.send(
      recordType.hello,
      encodeHello({
        verb: "pull",
        tree: options.url.name,
        force,
        state: await sideState(tree, isNew, false),
      }),
    );
    const received = await receiveFrom(
      channel,
      tree,
      options.allow ?? { devices: false, securityXattrs: false },
      force,
    );
    if (received !== null) {
      return result(channel, {
        started,
        captured,
        rounds: rounds + before,
        from: received.from,
        to: received.to,
        left: 0,
        received,
      });
    }
    const head = tree.store.pointers.head ?? "";
    return result(channel, { started, captured, rounds: rounds + before, from: head, to: head, left: 0 });
  }, async (error) => {
    // `--ours`: the node gives way instead.
    if (options.resolve !== "ours" || !(error instanceof DroverError) || error.code !== "diverged") {
      throw error;
    }
    return await pushOver(tree, options, started);
  });
}

async function pushOver(tree: Tree, options: PullOptions, started: number): Promise<PushResult> {
  return await attempts(() => greet(options, true), async ({ channel, state }, rounds) => {
    const sent = await sendTo(channel, tree, state, "delta", true);
    return result(channel, {
      started,
      captured: null,
      rounds,
      from: state.head,
      to: sent.done.head,
      left: 0,
      sent,
    });
  });
}

/** Dials, works, and dials again when the connection breaks; what has arrived by then is not sent again. */
async function attempts<Opened extends { channel: Channel }>(
  open: (rounds: number) => Promise<Opened>,
  work: (opened: Opened, rounds: number) => Promise<PushResult>,
  otherwise?: (error: unknown) => Promise<PushResult>,
): Promise<PushResult> {
  for (let rounds = 1;; rounds++) {
    let talked = false;
    try {
      const opened = await open(rounds);
      using channel = opened.channel;
      talked = true;
      const outcome = await work(opened, rounds);
      await channel.end().catch(() => {});
      return outcome;
    } catch (error) {
      const broken = error instanceof DroverError && error.code === "disconnected";
      if (talked && broken && rounds < attemptsMax) {
        await new Promise((resolve) => setTimeout(resolve, 200 * rounds));
        continue;
      }
      if (otherwise !== undefined) return await otherwise(error);
      throw error;
    }
  }
}

/** Where a push or pull goes, and with which key. */
interface Target {
  url: TreeUrl;
  key: ClusterKey | null;
}

function dialNode({ url, key }: Target): Promise<Channel> {
  return dial({ host: url.host, port: url.port, key, limits: recordLimits });
}

/** Announces a push; the node looks at its tree and says what it has. */
async function greet(target: Target, force: boolean): Promise<{ channel: Channel; state: SideState }> {
  const channel = await dialNode(target);
  try {
    await channel.send(
      recordType.hello,
      encodeHello({ verb: "push", tree: target.url.name, force, state: null }),
    );
    return { channel, state: decodeState(await expectRecord(channel, recordType.state)) };
  } catch (error) {
    channel.close();
    throw error;
  }
}

/** Handshake and the node's look at its tree take as long as a small commit here: they run at the same time. */
function greetAhead(target: Target, force: boolean): Disposable & { first: ReturnType<typeof greet> } {
  const first = greet(target, force);
  first.catch(() => {}); // whoever awaits it hears of it
  return { first, [Symbol.dispose]: () => void first.then(({ channel }) => channel.close(), () => {}) };
}

async function commitFirst(
  tree: Tree,
  options: { commit?: boolean; message?: string },
): Promise<CommitResult | null> {
  if (options.commit !== true) return null;
  return await tree.commit(options.message === undefined ? {} : { message: options.message });
}

/** What this side has, for the other one. */
export async function sideState(tree: Tree, isNew: boolean, look: boolean): Promise<SideState> {
  const ids = tree.chain.map(({ id }) => id);
  const chain = [...ids.slice(0, chainDenseMax), ...sampleAncestors(ids.slice(chainDenseMax))].slice(
    0,
    chainIdsMax,
  );
  const changes = !look || tree.store.pointers.head === null ? [] : (await tree.live()).changes;
  return {
    exists: !isNew,
    head: tree.store.pointers.head,
    chain,
    uncommitted: changes.length,
    uncommittedPaths: changes.slice(0, 100).map(({ path }) => (pathToText(path) || ".").slice(0, 4096)),
    staged: tree.store.note("staging") !== null,
  };
}

/** How the sender's history stands to the receiver's. */
export type Decision = "same" | "forward" | "theirs-is-newer" | "diverged";

/** Compares this tree's head with the other side's. `force` makes any difference a way forward. */
export function decide(tree: Tree, other: SideState, force: boolean): Decision {
  const { head } = tree.store.pointers;
  if (head === null) {
    throw new DroverError("unknown-version", `Cannot send "${tree.name}": it has no version yet`);
  }
  if (head === other.head) return "same";
  if (force || other.head === null) return "forward";
  if (tree.chain.some(({ id }) => id === other.head)) return "forward";
  return other.chain.includes(head) ? "theirs-is-newer" : "diverged";
}

function refusal(tree: Tree, state: SideState, decision: Decision, url: TreeUrl): DroverError {
  const target = `drover://${formatAddress(url)}/${url.name}`;
  if (decision === "theirs-is-newer") {
    return new DroverError("diverged", `Cannot push "${tree.name}": ${url.name} has newer versions`, {
      hint: `drover pull ${target} ${tree.name}`,
      details: versionsApart(tree, state),
    });
  }
  const apart = versionsApart(tree, state);
  return new DroverError(
    "diverged",
    `Cannot push "${tree.name}": both sides have versions that the other has not (${apart.ours.length} here: ${
      apart.ours.slice(0, 3).map((id) => id.slice(0, 12)).join(", ")
    }; ${apart.theirs.length} there: ${apart.theirs.slice(0, 3).map((id) => id.slice(0, 12)).join(", ")})`,
    {
      hint:
        `--ours makes the node follow this tree, --theirs makes this tree follow the node; the other history is kept`,
      details: apart,
    },
  );
}

function versionsApart(
  tree: Tree,
  other: SideState,
): { ours: string[]; theirs: string[]; common: string | null } {
  const mine = tree.chain.map(({ id }) => id);
  const theirs = new Set(other.chain);
  const known = new Set(mine);
  return {
    ours: mine.filter((id) => !theirs.has(id)).slice(0, 1000),
    theirs: other.chain.filter((id) => !known.has(id)).slice(0, 1000),
    common: mine.find((id) => theirs.has(id)) ?? null,
  };
}

/** Sends what brings the other side to this tree's head. */
export async function sendTo(
  channel: Channel,
  tree: Tree,
  state: SideState,
  mode: PushMode,
  force: boolean,
): Promise<SendResult> {
  const { store } = tree;
  const head = store.pointers.head ?? "";
  const theirs = new Set(state.chain);
  const versions: VersionInfo[] = [];
  for (const { stack: _, ...version } of tree.chain) {
    if (theirs.has(version.id)) break;
    versions.unshift(version);
  }
  const from = state.head === null || mode === "full"
    ? null
    : { id: state.head, manifest: await manifestOf(channel, tree, state.head) };
  return await sendPackage(channel, tree, {
    mode: from === null ? "full" : mode,
    from,
    to: { id: head, manifest: store.manifestOf(head) },
    versions,
    force,
    staged: state.staged,
  });
}

/** The manifest of the other side's head: ours if the version is kept here, else theirs. */
async function manifestOf(channel: Channel, tree: Tree, id: string): Promise<Manifest> {
  const version = tree.store.version(id);
  const known = version === null ? null : tree.store.readManifest(version.root);
  if (known !== null) return known;
  await channel.send(recordType.manifestRequest, new TextEncoder().encode(id));
  const body = await expectRecord(channel, recordType.manifest);
  const size = body.length < 8
    ? -1
    : Number(new DataView(body.buffer, body.byteOffset).getBigUint64(0, true));
  if (size < 0 || size > manifestRawMax) {
    throw new DroverError("format", `Cannot take a manifest of ${size} bytes: at most ${manifestRawMax}`);
  }
  return Manifest.fromBytes(
    await tree.context.native.zstd.decompress(body.subarray(8), { size, windowLogMax: 27 }),
  );
}

/**
 * Receives what the other side sends: a package, or the word that there is nothing. Answers its questions. With `force` this
 * tree's history may give way: the conversation was begun that way.
 */
export async function receiveFrom(
  channel: Channel,
  tree: Tree,
  allow: Allowance,
  force: boolean,
): Promise<ReceiveResult | null> {
  for (let answered = false;;) {
    const record = await channel.receive();
    if (record === null) {
      throw new DroverError("disconnected", `Cannot go on with ${channel.peer}: it ended the connection`);
    }
    switch (record.type) {
      case recordType.error:
        throw remoteError(record.body, channel.peer);
      case recordType.nothing:
        decodeNothing(record.body);
        return null;
      case recordType.manifestRequest:
        if (answered) {
          throw new DroverError("protocol", "Cannot answer: the manifest was wanted and sent before");
        }
        answered = true;
        await sendManifest(channel, tree, new TextDecoder().decode(record.body));
        break;
      case recordType.offer: {
        try {
          const received = await receivePackage(channel, tree, allow, record.body, force);
          await channel.send(
            recordType.done,
            encodeMessage({ head: received.to, applySeconds: received.applySeconds }),
          );
          return received;
        } catch (error) {
          await channel.send(recordType.error, encodeMessage(errorMessage(error))).catch(() => {});
          throw error;
        }
      }
      default:
        throw new DroverError(
          "protocol",
          `Cannot go on with ${channel.peer}: record 0x${record.type.toString(16)} is out of turn`,
        );
    }
  }
}

async function sendManifest(channel: Channel, tree: Tree, id: string): Promise<void> {
  if (id !== tree.store.pointers.head) {
    throw new DroverError(
      "protocol",
      "Cannot answer: the manifest of another version than the head is wanted",
    );
  }
  const { bytes } = tree.store.manifestOf(id);
  const frame = await tree.context.native.zstd.compress(bytes, { level: 3 });
  const size = new Uint8Array(8);
  new DataView(size.buffer).setBigUint64(0, BigInt(bytes.length), true);
  await channel.send(recordType.manifest, size, frame);
}

async function nothing(channel: Channel, reason: string): Promise<void> {
  await channel.send(recordType.nothing, encodeMessage({ reason }));
}

async function expectRecord(channel: Channel, type: number): Promise<Uint8Array<ArrayBuffer>> {
  const record = await channel.receive();
  if (record === null) {
    throw new DroverError("disconnected", `Cannot go on with ${channel.peer}: it ended the connection`);
  }
  if (record.type === recordType.error) throw remoteError(record.body, channel.peer);
  if (record.type !== type) {
    throw new DroverError(
      "protocol",
      `Cannot go on with ${channel.peer}: record 0x${record.type.toString(16)} is out of turn`,
    );
  }
  return record.body;
}

function result(channel: Channel, from: {
  started: number;
  captured: CommitResult | null;
  rounds: number;
  from: string | null;
  to: string;
  left: number;
  sent?: SendResult;
  received?: ReceiveResult;
}): PushResult {
  const { sent, received } = from;
  return {
    from: from.from,
    to: from.to,
    versions: received?.versions ?? sent?.versions ?? 0,
    bytesSent: channel.bytesSent,
    bytesReceived: channel.bytesReceived,
    seconds: secondsSince(from.started),
    phases: {
      capture: from.captured?.seconds ?? 0,
      pack: sent?.packSeconds ?? 0,
      send: sent?.sendSeconds ?? 0,
      apply: sent?.done.applySeconds ?? received?.applySeconds ?? 0,
    },
    entries: received?.entries ?? sent?.entries ?? 0,
    rounds: from.rounds,
    uncommitted: from.left,
    resumedSegments: sent?.resumedSegments ?? 0,
  };
}
