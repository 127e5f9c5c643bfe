/**
 * A node: the listener, the trees it serves, and the memory it lends, until it is told to stop.
 *
 * @module
 */
import type { Native } from "../../ffi/mod.ts";
import { openSockets } from "../../ffi/sockets.ts";
import { errorField, type Log } from "../base/log.ts";
import { pathFromText } from "../base/path.ts";
import { clusterLimits, clusterRecord, defaultNodeName } from "../cluster/mod.ts";
import { type ClusterKey, defaultPort, formatAddress, listen, parseAddress } from "../net/mod.ts";
import { type Capture, type Profile, recordLimits, serveTrees, type TreeContext } from "../tree/mod.ts";
import { checkPeers, type Config, type DonorLimits } from "./config.ts";
import { Lender } from "./lender.ts";
import { rdmaLender, type RdmaLending } from "./rdma_lender.ts";
import { Switchboard } from "./switchboard.ts";

/** How a node runs. */
export interface ServeOptions {
  /** `HOST:PORT`; with a key by default every address of this machine, without one loopback. */
  address?: string;
  /** Null: only programs of the same user on this machine may connect, and only loopback is listened on. */
  key: ClusterKey | null;
  /** The directory whose subdirectories are the trees; made if absent. */
  root: string;
  /** What peers may send that an ordinary user could not make. */
  allow: { devices: boolean; securityXattrs: boolean };
  /** For trees that a push creates. */
  capture?: Capture;
  profile?: Profile;
  /** What the node is called where memory is lent; default: the host name. */
  name?: string;
  /** Bytes of memory that are lent at most; none by default. */
  donate?: number;
  /** The port of page channels; default: any that is free. */
  pagePort?: number;
  /** The numeric address of an RDMA adapter that lends too; without it, or where it is not there, only TCP does. */
  rdma?: string;
  /** Bounds of what is lent. */
  limits?: DonorLimits;
  /** Donors that programs of this host borrow from: refused if one of them is this node. */
  borrows?: Pick<Config, "path" | "peers">;
  /** Hears of everything that is no business of one tree; without it `context.log` hears who was refused. */
  log?: Log;
  /** Gets a function that changes what can be changed while the node runs. */
  changes?: (change: (to: Changes) => Promise<void>) => void;
  /** Stops the node: no new peers, what is being applied finishes, what is lent is recalled. */
  signal: AbortSignal;
  /** Called once, when peers can connect; the address has the real port. */
  ready: (at: Ready) => void;
}

/** What can change while a node runs. */
export interface Changes {
  /** Bytes that are lent at most. */
  donate: number;
  /** See {@link ServeOptions.borrows}. */
  borrows: Pick<Config, "path" | "peers">;
}

/** What a node does, once peers can connect. */
export interface Ready {
  /** Where it listens. */
  address: string;
  /** Where its trees are. */
  root: string;
  /** What the node is called where memory is lent. */
  name: string;
  /** The port of page channels; null where nothing is lent. */
  pagePort: number | null;
}

/** Runs a node until `signal`. */
export async function serve(context: TreeContext, options: ServeOptions): Promise<void> {
  const { key, allow, signal, ready, log = () => {}, name = defaultNodeName(Deno.hostname()) } = options;
  const onRefused = (peer: string, error: unknown): void => {
    if (options.log === undefined) context.log?.(`refused ${peer}: ${errorField(error)}`);
    else log("warn", "peer.refused", { peer, error: errorField(error) });
  };
  const { host, port } = parseAddress(options.address ?? `${key === null ? "127.0.0.1" : ""}:${defaultPort}`);
  const root = makeRoot(options.root);
  using listener = await listen({
    host,
    port,
    key,
    limits: (type) => Math.max(recordLimits(type), clusterLimits(type)),
    sockets: openSockets(),
    onRefused,
  });
  const { address } = listener;
  const check = (borrows: Pick<Config, "path" | "peers">): void =>
    checkPeers(borrows, address, Deno.networkInterfaces().map((one) => one.address));
  if (options.borrows !== undefined) check(options.borrows);
  const lender = new Lender({
    name,
    place: { hostname: address.host, port: options.pagePort ?? 0 },
    limits: options.limits ?? {},
    openRdma: options.rdma === undefined ? null : openRdma(context.native, options.rdma, log),
    log,
  });
  await lender.setBudget(options.donate ?? 0);
  options.changes?.(async (to) => {
    check(to.borrows);
    await lender.setBudget(to.donate);
  });
  const board = new Switchboard(listener, {
    serviceOf: (type) => clusterTypes.has(type) ? (channel, first) => lender.serve(channel, first) : null,
    onRefused,
  });
  // Leases are recalled while trees finish what is being applied.
  const closeLender = async (): Promise<void> => await lender.close();
  let closing: Promise<void> | null = null;
  signal.addEventListener("abort", () => closing = closeLender(), { once: true });
  try {
    ready({ address: formatAddress(address), root, name, pagePort: lender.pagePort });
    await serveTrees(context, {
      listener: board,
      root: pathFromText(root),
      allow,
      signal,
      ...(options.capture === undefined ? {} : { capture: options.capture }),
      ...(options.profile === undefined ? {} : { profile: options.profile }),
    });
  } finally {
    await (closing ?? closeLender());
    await board.settled();
  }
}

function openRdma(native: Native, hostname: string, log: Log): () => RdmaLending {
  return () =>
    rdmaLender(native.openDonor({ hostname, port: 0 }), {
      failed: (error) => log("warn", "rdma.failed", { error: errorField(error) }),
    });
}

/** The first records of conversations about memory. */
const clusterTypes: ReadonlySet<number> = new Set([clusterRecord.hello, clusterRecord.list]);

/** The root as it really is: `ready` shows it, and no symlink that is changed later leads elsewhere. */
function makeRoot(path: string): string {
  Deno.mkdirSync(path, { recursive: true, mode: 0o755 });
  return Deno.realPathSync(path);
}
