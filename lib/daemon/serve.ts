/**
 * A node: the listener and the trees it serves, until it is told to stop.
 *
 * @module
 */
import { openSockets } from "../../ffi/sockets.ts";
import { pathFromText } from "../base/path.ts";
import { type ClusterKey, defaultPort, formatAddress, listen, parseAddress } from "../net/mod.ts";
import { type Capture, type Profile, recordLimits, serveTrees, type TreeContext } from "../tree/mod.ts";

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
  /** Stops the node: no new peers, what is being applied finishes. */
  signal: AbortSignal;
  /** Called once, when peers can connect; the address has the real port. */
  ready: (at: { address: string; root: string }) => void;
}

/** Runs a node until `signal`. */
export async function serve(context: TreeContext, options: ServeOptions): Promise<void> {
  const { key, allow, signal, ready } = options;
  const { host, port } = parseAddress(options.address ?? `${key === null ? "127.0.0.1" : ""}:${defaultPort}`);
  const root = makeRoot(options.root);
  using listener = await listen({
    host,
    port,
    key,
    limits: recordLimits,
    sockets: openSockets(),
    onRefused: (peer, error) =>
      context.log?.(`refused ${peer}: ${error instanceof Error ? error.message : error}`),
  });
  ready({ address: formatAddress(listener.address), root });
  await serveTrees(context, {
    listener,
    root: pathFromText(root),
    allow,
    signal,
    ...(options.capture === undefined ? {} : { capture: options.capture }),
    ...(options.profile === undefined ? {} : { profile: options.profile }),
  });
}

/** The root as it really is: `ready` shows it, and no symlink that is changed later leads elsewhere. */
function makeRoot(path: string): string {
  Deno.mkdirSync(path, { recursive: true, mode: 0o755 });
  return Deno.realPathSync(path);
}
