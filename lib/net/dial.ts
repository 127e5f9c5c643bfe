/**
 * Connecting to a node: TCP, then TLS and proofs with a key, or the user check without one.
 *
 * Invariants: with a key nothing but the handshake is sent before the server has proved it; without a key no
 * connection leaves this machine, and the server must belong to the same user or root.
 *
 * @module
 */
import { DroverError } from "../base/errors.ts";
import type { RecordLimits } from "../stream/mod.ts";
import { formatAddress, isLoopback } from "./address.ts";
import { type Channel, RecordChannel } from "./channel.ts";
import { clusterTrust } from "./certificate.ts";
import { admitAsClient, proveAsClient } from "./handshake.ts";
import type { ClusterKey } from "./key.ts";
import { isOwnUser, ownerOf } from "./socket_table.ts";
import { closeQuietly, type Transport } from "./transport.ts";

/** Where to connect and how. */
export interface DialOptions {
  /** A literal address or a host name. */
  host: string;
  /** Its port. */
  port: number;
  /** The cluster's key; null to talk to a server of the same user on this machine. */
  key: ClusterKey | null;
  /** The largest body of each type that the server may send; a negative number refuses the type. */
  limits: RecordLimits;
  /** For everything until the channel is there; 10 s unless given. */
  timeoutMs?: number;
}

const timeoutMsDefault = 10_000;

/**
 * Connects to a node and proves the key to each other.
 *
 * @throws {DroverError} code `auth` when either side is not satisfied, `disconnected` when nobody answers.
 */
export async function dial(options: DialOptions): Promise<Channel> {
  const { port, key, limits } = options;
  const host = options.host === "localhost" ? "127.0.0.1" : options.host;
  const target = formatAddress({ host: options.host, port });
  if (key === null && !isLoopback(host)) {
    throw new DroverError("auth", `Cannot connect to "${target}" without a key: it is not this machine`, {
      hint: "give --key FILE",
    });
  }
  if (key !== null) await checkVerification(target);

  const timeoutMs = options.timeoutMs ?? timeoutMsDefault;
  const timeout = new AbortController();
  let open: { close(): void } | null = null;
  const timer = setTimeout(() => {
    timeout.abort();
    if (open !== null) closeQuietly(open);
  }, timeoutMs);
  try {
    const ready = key === null ? null : wakeGenerator();
    const tcp = await Deno.connect({ hostname: host, port, signal: timeout.signal });
    open = tcp;
    tcp.setNoDelay(true);
    tcp.setKeepAlive(true);
    let transport: Transport = tcp;
    if (key === null) {
      await admit(tcp);
    } else {
      const trust = await clusterTrust(key);
      await ready;
      const tls = await Deno.startTls(tcp, { hostname: trust.name, caCerts: [trust.authority] });
      open = tls;
      transport = tls;
      if (timeout.signal.aborted) throw new Error("timeout");
      await tls.handshake();
      await proveAsClient(tls, key);
    }
    return new RecordChannel(transport, {
      peer: formatAddress({ host, port }),
      address: { host: tcp.remoteAddr.hostname, port: tcp.remoteAddr.port },
      encrypted: key !== null,
      limits,
    });
  } catch (error) {
    if (open !== null) closeQuietly(open);
    if (timeout.signal.aborted) {
      throw new DroverError(
        "disconnected",
        `Cannot connect to "${target}": no answer within ${timeoutMs / 1000} s`,
        {
          cause: error,
        },
      );
    }
    throw explain(target, error, key !== null);
  } finally {
    clearTimeout(timer);
  }
}

/**
 * The first random octets that TLS asks of its library take 30 ms of collecting entropy, within a call that holds up
 * everything else. Making a key needs them too, and does so beside what the caller has to do.
 */
async function wakeGenerator(): Promise<void> {
  await crypto.subtle.generateKey({ name: "ECDSA", namedCurve: "P-256" }, false, ["sign"]).catch(() => {});
}

async function admit(tcp: Deno.TcpConn): Promise<void> {
  const { localAddr, remoteAddr } = tcp;
  if (!isLoopback(remoteAddr.hostname)) {
    throw new DroverError("auth", "The server is not on this machine, and there is no key");
  }
  await admitAsClient(tcp);
  // Only now: as long as nobody has accepted the connection, the kernel shows no owner for its far end.
  const uid = await ownerOf(
    { host: remoteAddr.hostname, port: remoteAddr.port },
    { host: localAddr.hostname, port: localAddr.port },
  );
  if (!await isOwnUser(uid)) {
    throw new DroverError("auth", `The server belongs to another user (uid ${uid}), and there is no key`, {
      hint: "use a key on both sides: drover key new FILE",
    });
  }
}

/** Refuses to start TLS in a process that was told not to verify certificates. */
async function checkVerification(target: string): Promise<void> {
  let commandLine = "";
  try {
    commandLine = await Deno.readTextFile("/proc/self/cmdline");
  } catch {
    return; // No /proc: nothing to see.
  }
  if (commandLine.split("\0").some((word) => word.startsWith("--unsafely-ignore-certificate-errors"))) {
    throw new DroverError(
      "auth",
      `Cannot connect to "${target}": Deno runs with --unsafely-ignore-certificate-errors, so no server can prove itself`,
    );
  }
}

/** One clause in front of what went wrong; what TLS says about keys, in our words. */
function explain(target: string, error: unknown, hasKey: boolean): DroverError {
  const start = `Cannot connect to "${target}"`;
  const text = error instanceof Error ? error.message : String(error);
  if (error instanceof DroverError) {
    const message = `${start}: ${text.charAt(0).toLowerCase()}${text.slice(1)}`;
    return new DroverError(error.code, message, {
      cause: error,
      ...(error.hint === undefined ? {} : { hint: error.hint }),
    });
  }
  if (hasKey && /alert: AccessDenied/.test(text)) {
    return new DroverError("auth", `${start}: the server has no key, and this side has one`, {
      cause: error,
      hint: "start the server with --key FILE",
    });
  }
  if (hasKey && /invalid peer certificate/.test(text)) {
    return new DroverError("auth", `${start}: the server did not prove this key; it has another one`, {
      cause: error,
      hint: "both sides need the same key file",
    });
  }
  if (hasKey && /corrupt message/.test(text)) {
    return new DroverError("protocol", `${start}: what listens there is not a drover node with a key`, {
      cause: error,
    });
  }
  return new DroverError("disconnected", start, { cause: error });
}
