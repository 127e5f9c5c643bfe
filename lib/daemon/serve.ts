/**
 * A node: the listener and the trees it serves, until it is told to stop.
 *
 * @module
 */
import { type BytePath, pathToText } from "../base/path.ts";
import { type ClusterKey, defaultPort, formatAddress, listen, parseAddress } from "../net/mod.ts";
import { type Capture, type Profile, serverLimits, serveTrees, type TreeContext } from "../tree/mod.ts";

/** How a node runs. */
export interface ServeOptions {
  /** `HOST:PORT`; with a key by default every address of this machine, without one loopback. */
  address?: string;
  /** Null: only programs of the same user on this machine may connect, and only loopback is listened on. */
  key: ClusterKey | null;
  /** The directory whose subdirectories are the trees; made if absent. */
  root: BytePath;
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
  const { key, root, allow, signal, ready } = options;
  const { host, port } = parseAddress(options.address ?? `${key === null ? "127.0.0.1" : ""}:${defaultPort}`);
  using listener = await listen({
    host,
    port,
    key,
    limits: serverLimits,
    onRefused: (peer, error) =>
      context.log?.(`refused ${peer}: ${error instanceof Error ? error.message : error}`),
  });
  ready({ address: formatAddress(listener.address), root: pathToText(root) });
  await serveTrees(context, {
    listener,
    root,
    allow,
    signal,
    ...(options.capture === undefined ? {} : { capture: options.capture }),
    ...(options.profile === undefined ? {} : { profile: options.profile }),
  });
}
