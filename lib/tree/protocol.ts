/**
 * What two nodes say to each other about one tree. `PROTOCOL.md` has the whole conversation.
 *
 * Control messages are JSON objects, bounded and checked here field by field; metadata, segments, trailer
 * and manifests are binary and defined in `lib/version`.
 *
 * @module
 */
import { type DroverCode, DroverError } from "../base/errors.ts";
import { Fields, printable } from "../base/fields.ts";
import { isVersionId } from "../version/history.ts";
import { treeNameFault } from "../net/mod.ts";
import { endType } from "../stream/mod.ts";
import { isFull } from "./beneath.ts";

/** The version of the conversation; both sides must speak the same. */
export const protocolVersion = 1;

/** Record types. */
export const recordType = {
  hello: 0x101,
  state: 0x102,
  nothing: 0x103,
  manifestRequest: 0x104,
  manifest: 0x105,
  offer: 0x106,
  metadata: 0x110,
  ready: 0x111,
  segment: 0x112,
  trailer: 0x113,
  done: 0x114,
  error: 0x1ff,
} as const;

/** The largest body of a control message. */
const jsonSizeMax = 8 << 20;

/** How many ids of its chain a side names at most. */
export const chainIdsMax = 16_384;

/** How many segments a receiver names as held at most: they fit into a READY. */
export const haveMax = 65_536;

/** The longest message of an error, and of its details as JSON. */
const errorTextMax = 16_384;
const errorDetailsMax = 1 << 20;

/** The largest manifest that goes over the wire, compressed, and raw. */
const manifestFrameMax = 120 << 20;
/** The largest manifest that is taken from the wire, decompressed. */
export const manifestRawMax: number = 512 << 20;

/** The largest body per record type; -1 refuses what the conversation does not have. */
export function recordLimits(type: number): number {
  switch (type) {
    case endType:
      return 0;
    case recordType.metadata:
    case recordType.segment:
      return 120 << 20;
    case recordType.manifest:
      return manifestFrameMax;
    case recordType.manifestRequest:
    case recordType.trailer:
      return 4096;
    case recordType.hello:
    case recordType.state:
    case recordType.nothing:
    case recordType.offer:
    case recordType.ready:
    case recordType.done:
    case recordType.error:
      return jsonSizeMax;
    default:
      return -1;
  }
}

/** What a side has of the tree. */
export interface SideState {
  /** False where the tree does not exist there yet. */
  exists: boolean;
  head: string | null;
  /** Ids of the head's chain, newest first: the newest ones, and from there on exponentially fewer. */
  chain: string[];
  /** Changes that no version holds. */
  uncommitted: number;
  /** The first of them, for people. */
  uncommittedPaths: string[];
  /** Parts of a package are kept here from an attempt that was cut off: the sender waits for READY, which names them. */
  staged: boolean;
}

/** The first message of a connection. */
export interface Hello {
  verb: "push" | "pull";
  tree: string;
  /** The whole of the other side's history gives way. */
  force: boolean;
  /** Pull: what the client has. */
  state: SideState | null;
}

/** What the sender is about to send. */
export interface Offer {
  /** Number of METADATA records. */
  chunks: number;
  /** The receiver's head is not an ancestor of what comes; it is kept as a version, but no longer the head. */
  force: boolean;
}

/** What the receiver already holds of the offered package, from an attempt that was cut off. */
export interface Ready {
  have: { index: number; digest: string }[];
}

/** The version is current at the receiver. */
export interface Done {
  head: string;
  /** Seconds the receiver spent on writing, and on the switch. */
  applySeconds: number;
}

/** Packs a control message. */
export function encodeMessage(
  message: Hello | SideState | Offer | Ready | Done | ErrorMessage | { reason: string },
): Uint8Array {
  return new TextEncoder().encode(JSON.stringify(message));
}

/** A refusal on its way to the other side. */
export interface ErrorMessage {
  code: string;
  message: string;
  hint?: string;
  details?: Record<string, unknown>;
}

/** An error as a message that the other side takes: whatever is too long is cut, and details that are too large are left out. */
export function errorMessage(error: unknown): ErrorMessage {
  const cut = (text: string): string => text.slice(0, errorTextMax);
  if (!(error instanceof DroverError)) {
    const message = error instanceof Error ? error.message : `${error}`;
    if (!isFull(error)) return { code: "protocol", message: cut(message) };
    return {
      code: "no-space",
      message: cut(`${message}: the file system is full; nothing was changed`),
      hint: "make room there and try again",
    };
  }
  const { code, message, hint, details } = error;
  const fits = details !== undefined && JSON.stringify(details).length <= errorDetailsMax;
  return {
    code,
    message: cut(message),
    ...hint === undefined ? {} : { hint: cut(hint) },
    ...fits ? { details: { ...details } } : {},
  };
}

const codes: ReadonlySet<string> = new Set<DroverCode>([
  "usage",
  "not-a-tree",
  "exists",
  "unknown-tree",
  "unknown-version",
  "busy",
  "uncommitted",
  "diverged",
  "auth",
  "protocol",
  "format",
  "wrong-base",
  "corrupt",
  "disconnected",
  "unsupported",
  "no-space",
  "io",
]);

/** The error that the other side reported, as ours. */
export function remoteError(body: Uint8Array, peer: string): DroverError {
  const fields = fieldsOf(body, "error");
  const code = fields.text("code", 64);
  const message = printable(fields.text("message", 65_536));
  const hint = fields.optionalText("hint", 65_536);
  return new DroverError(codes.has(code) ? code as DroverCode : "protocol", `${peer} refused: ${message}`, {
    ...hint === undefined ? {} : { hint: printable(hint) },
    details: fields.record("details"),
  });
}

/** Reads a HELLO. */
export function decodeHello(body: Uint8Array): Hello {
  const fields = fieldsOf(body, "hello");
  const version = fields.count("protocol", 1_000_000);
  if (version !== protocolVersion) {
    throw new DroverError("protocol", `Cannot talk protocol ${version}: this node speaks ${protocolVersion}`);
  }
  const verb = fields.text("verb", 16);
  if (verb !== "push" && verb !== "pull") throw fields.fail("verb", `"${verb}" is unknown`);
  const tree = fields.text("tree", 256);
  const fault = treeNameFault(tree);
  if (fault !== null) throw fields.fail("tree", fault);
  const state = fields.nested("state");
  return { verb, tree, force: fields.flag("force"), state: state === null ? null : readState(state) };
}

/** Packs a HELLO. */
export function encodeHello(hello: Hello): Uint8Array {
  return new TextEncoder().encode(JSON.stringify({ protocol: protocolVersion, ...hello }));
}

/** Reads a STATE. */
export function decodeState(body: Uint8Array): SideState {
  return readState(fieldsOf(body, "state"));
}

function readState(fields: Fields): SideState {
  const head = fields.optionalText("head", 64) ?? null;
  const chain = fields.texts("chain", chainIdsMax, 64);
  if (head !== null && !isVersionId(head)) throw fields.fail("head", "it is no version id");
  if (!chain.every(isVersionId)) throw fields.fail("chain", "it has something that is no version id");
  if ((chain[0] ?? null) !== head) throw fields.fail("chain", "it does not begin with the head");
  return {
    exists: fields.flag("exists"),
    head,
    chain,
    uncommitted: fields.count("uncommitted", Number.MAX_SAFE_INTEGER),
    uncommittedPaths: fields.texts("uncommittedPaths", 1000, 65_536),
    staged: fields.flag("staged"),
  };
}

/** Reads an OFFER. */
export function decodeOffer(body: Uint8Array): Offer {
  const fields = fieldsOf(body, "offer");
  return { chunks: fields.count("chunks", 4096), force: fields.flag("force") };
}

/** Reads a READY. */
export function decodeReady(body: Uint8Array): Ready {
  const fields = fieldsOf(body, "ready");
  const have = fields.list("have", haveMax).map((item) => ({
    index: item.count("index", 2 ** 32),
    digest: item.text("digest", 64),
  }));
  return { have };
}

/** Reads a DONE. */
export function decodeDone(body: Uint8Array): Done {
  const fields = fieldsOf(body, "done");
  const head = fields.text("head", 64);
  if (!isVersionId(head)) throw fields.fail("head", "it is no version id");
  return { head, applySeconds: fields.number("applySeconds") };
}

/** Reads a NOTHING: why no package comes. */
export function decodeNothing(body: Uint8Array): string {
  return fieldsOf(body, "nothing").text("reason", 1024);
}

function fieldsOf(source: Uint8Array, what: string): Fields {
  return new Fields(source, { prefix: "protocol", what });
}
