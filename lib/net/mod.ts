/**
 * Connections between nodes: keys, addresses, listening, dialling, and records in both directions.
 *
 * With a key everything runs in TLS that only holders of the key can offer, and both sides prove the key before
 * anything else is said. Without a key only processes of the same user (or root) on the same machine talk.
 * `AUTH.md` has the threat model and the handshake.
 *
 * ```ts ignore
 * const key = await readKey("cluster.key");
 * using channel = await dial({ host: "192.0.2.7", port: defaultPort, key, limits: () => 1 << 20 });
 * await channel.send(0x101, new TextEncoder().encode("hello"));
 * const answer = await channel.receive();
 * ```
 *
 * @module
 */
export {
  type Address,
  defaultPort,
  formatAddress,
  isLoopback,
  parseAddress,
  parseUrl,
  treeNameFault,
  treeNameSizeMax,
  type TreeUrl,
} from "./address.ts";
export type { Channel, ReceivedRecord } from "./channel.ts";
export { dial, type DialOptions } from "./dial.ts";
export type { ClusterKey } from "./key.ts";
export { createKey, readKey } from "./key_file.ts";
export { listen, type Listener, type ListenOptions, type SocketControl } from "./listen.ts";
export { type MemoryChannelOptions, memoryChannelPair } from "./memory.ts";
export type { RecordLimits } from "../stream/mod.ts";
