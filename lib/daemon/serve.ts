/**
 * A node: the listener and the trees it serves, until it is told to stop.
 *
 * @module
 */
import type { BytePath } from "../base/path.ts";
import { pathToText } from "../base/path.ts";
import { type ClusterKey, listen } from "../net/mod.ts";
import { type Capture, type Profile, serveTrees, type TreeContext } from "../tree/mod.ts";

/** How a node runs. */
export interface ServeOptions {
  /** `HOST:PORT`; with a key by default all addresses, without one loopback. */
  address?: string;
  /** Null: peers prove nothing, so only loopback is listened on. */
  key: ClusterKey | null;
  /** The directory whose subdirectories are the trees. */
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
  const { key, root, allow, signal, ready, address = defaultAddress(key) } = options;
  const listener = await listen({ address, key });
  ready({ address: listener.address, root: pathToText(root) });
  await serveTrees(context, {
    listener,
    root,
    allow,
    signal,
    ...(options.capture === undefined ? {} : { capture: options.capture }),
    ...(options.profile === undefined ? {} : { profile: options.profile }),
  });
}

function defaultAddress(key: ClusterKey | null): string {
  return key === null ? "127.0.0.1:7411" : "0.0.0.0:7411";
}
