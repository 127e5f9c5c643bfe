/**
 * Listening for other nodes. Each connection shakes hands on its own, within a time, and only when it is done
 * does it come out of the iterator.
 *
 * Invariants: strangers hold at most `handshakesMax` connections; one more closes the oldest, so that holding
 * them all keeps nobody out. Without a key the socket is on a loopback address. What fails is reported to
 * `onRefused` and never ends the listener.
 *
 * @module
 */
import { DroverError } from "../base/errors.ts";
import type { RecordLimits } from "../stream/mod.ts";
import { type Address, formatAddress, isLoopback } from "./address.ts";
import { type Channel, RecordChannel } from "./channel.ts";
import { createLeaf } from "./certificate.ts";
import { admitAsServer, proveAsServer } from "./handshake.ts";
import type { ClusterKey } from "./key.ts";
import { isOwnUser, ownerOf } from "./socket_table.ts";
import { closeQuietly, type Transport } from "./transport.ts";

/** Where to listen and how. */
export interface ListenOptions {
  /** A literal address, a host name, or empty for every address of this machine. */
  host: string;
  /** 0 for any free port. */
  port: number;
  /** The cluster's key; null to serve the same user on this machine only. */
  key: ClusterKey | null;
  /** The largest body of each type that a client may send; a negative number refuses the type. */
  limits: RecordLimits;
  /** How long a handshake may take; 10 s unless given. */
  handshakeMs?: number;
  /** How many connections may be in the handshake at a time; 256 unless given. */
  handshakesMax?: number;
  /** Hears of each connection that did not become a channel. */
  onRefused?: (peer: string, error: unknown) => void;
  /** Two calls that Deno lacks; without them small answers are slow and silent strangers stay. */
  sockets?: SocketControl;
}

/** What listening with a key needs of the C library; `ffi/sockets.ts` has it. */
export interface SocketControl {
  /**
   * Sets TCP_NODELAY and keepalive on the socket of this process that listens on `local`. Deno cannot set them on the TLS
   * connections that it accepts, but they inherit them. Without the first a side that sends two small records in two turns
   * waits up to 40 ms in between, once in each handshake.
   */
  tuneListener(local: Address): boolean;
  /**
   * Shuts the connection of this process between `local` and `remote` down. `close()` of a TLS connection in the
   * middle of its handshake leaves the socket open for as long as the other side likes.
   */
  abort(local: Address, remote: Address): boolean;
}

/** A listening socket; iterate over it for channels, once. */
export interface Listener extends AsyncIterable<Channel>, Disposable {
  /** Where it really listens. */
  readonly address: Address;
  /** Stops listening, drops handshakes and channels that nobody took, and ends the iteration. */
  close(): void;
}

const handshakeMsDefault = 10_000;
const handshakesMaxDefault = 256;
/** Channels that are ready but not taken. */
const readyMax = 256;
const acceptPauseMs = 50;
const acceptFailuresMax = 200;

/**
 * Starts to listen.
 *
 * @throws {DroverError} code `auth` for an address beyond loopback without a key, `busy` when it is in use.
 */
export async function listen(options: ListenOptions): Promise<Listener> {
  const target = formatAddress(options);
  const host = options.host === "localhost" ? "127.0.0.1" : options.host;
  if (options.key === null && !isLoopback(host)) {
    throw new DroverError(
      "auth",
      `Cannot listen on "${target}" without a key: it is open to other machines`,
      {
        hint: "drover key new FILE, then --key FILE; or listen on 127.0.0.1",
      },
    );
  }
  const open = await opener(options.key, options.port);
  let socket: Deno.Listener<Deno.Conn>;
  try {
    socket = host === "" ? openEvery(open) : open(host);
  } catch (error) {
    const inUse = error instanceof Deno.errors.AddrInUse;
    throw new DroverError(
      inUse ? "busy" : "unsupported",
      `Cannot listen on "${target}"${inUse ? ": something listens there already" : ""}`,
      { cause: error },
    );
  }
  const listener = new NodeListener(socket, addressOf(socket.addr), options);
  options.sockets?.tuneListener(listener.address);
  return listener;
}

async function opener(
  key: ClusterKey | null,
  port: number,
): Promise<(host: string) => Deno.Listener<Deno.Conn>> {
  if (key === null) return (hostname) => Deno.listen({ hostname, port });
  const leaf = await createLeaf(key);
  return (hostname) => Deno.listenTls({ hostname, port, cert: leaf.cert, key: leaf.key });
}

/** On both families where there is IPv6, else on IPv4. */
function openEvery(open: (host: string) => Deno.Listener<Deno.Conn>): Deno.Listener<Deno.Conn> {
  try {
    return open("::");
  } catch (error) {
    if (error instanceof Deno.errors.AddrInUse || error instanceof Deno.errors.PermissionDenied) throw error;
    return open("0.0.0.0");
  }
}

class NodeListener implements Listener {
  readonly address: Address;
  readonly #socket: Deno.Listener<Deno.Conn>;
  readonly #options: ListenOptions;
  /** Handshakes, in order of arrival. */
  readonly #shaking = new Set<Deno.Conn>();
  /** Why this side ended a handshake; it fails by that a little later. */
  readonly #dropped = new WeakMap<Deno.Conn, DroverError>();
  readonly #ready: Channel[] = [];
  #wake: () => void = () => {};
  #failure: unknown = null;
  #closed = false;
  #iterated = false;

  constructor(
    socket: Deno.Listener<Deno.Conn>,
    address: Address,
    options: ListenOptions,
  ) {
    this.#socket = socket;
    this.address = address;
    this.#options = options;
    void this.#acceptAll();
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    closeQuietly(this.#socket);
    for (const connection of this.#shaking) this.#drop(connection, "The listener was closed");
    for (const channel of this.#ready.splice(0)) channel.close();
    this.#wake();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Channel, void, undefined> {
    if (this.#iterated) throw new TypeError("Cannot iterate again: a listener gives out each channel once");
    this.#iterated = true;
    while (true) {
      const channel = this.#ready.shift();
      if (channel !== undefined) {
        yield channel;
      } else if (this.#closed) {
        if (this.#failure !== null) throw this.#failure;
        return;
      } else {
        await new Promise<void>((resolve) => this.#wake = resolve);
      }
    }
  }

  async #acceptAll(): Promise<void> {
    let failures = 0;
    while (!this.#closed) {
      let connection: Deno.Conn;
      try {
        connection = await this.#socket.accept();
        failures = 0;
      } catch (error) {
        if (this.#closed) return;
        if (++failures > acceptFailuresMax) {
          this.#failure = new DroverError(
            "unsupported",
            `Cannot accept connections on "${formatAddress(this.address)}"`,
            { cause: error },
          );
          return this.close();
        }
        // Out of descriptors, most likely: some will be closed, and accept() does not wait for that.
        await new Promise((resolve) => setTimeout(resolve, acceptPauseMs));
        continue;
      }
      const [oldest] = this.#shaking;
      if (
        oldest !== undefined && this.#shaking.size >= (this.#options.handshakesMax ?? handshakesMaxDefault)
      ) {
        this.#drop(oldest, "The handshake was the oldest of too many");
      }
      this.#shaking.add(connection);
      void this.#shake(connection);
    }
  }

  async #shake(connection: Deno.Conn): Promise<void> {
    const peer = formatAddress(addressOf(connection.remoteAddr));
    const handshakeMs = this.#options.handshakeMs ?? handshakeMsDefault;
    const timer = setTimeout(
      () => this.#drop(connection, `The handshake took longer than ${handshakeMs} ms`),
      handshakeMs,
    );
    let channel: Channel | null = null;
    try {
      channel = await this.#authenticate(connection, peer);
    } catch (error) {
      closeQuietly(connection);
      if (!this.#closed) this.#options.onRefused?.(peer, this.#dropped.get(connection) ?? error);
    } finally {
      clearTimeout(timer);
      this.#shaking.delete(connection);
    }
    if (channel === null) return;
    if (this.#closed || this.#ready.length >= readyMax) return channel.close();
    this.#ready.push(channel);
    this.#wake();
  }

  /** Ends a connection that may be in the middle of its TLS handshake. */
  #drop(connection: Deno.Conn, reason: string): void {
    this.#shaking.delete(connection);
    this.#dropped.set(connection, new DroverError("auth", reason));
    closeQuietly(connection);
    if (this.#options.key === null) return;
    this.#options.sockets?.abort(addressOf(connection.localAddr), addressOf(connection.remoteAddr));
  }

  async #authenticate(connection: Deno.Conn, peer: string): Promise<Channel> {
    const { key, limits } = this.#options;
    const transport: Transport = connection;
    if (key !== null) {
      await (connection as Deno.TlsConn).handshake();
      await proveAsServer(transport, key);
    } else {
      const tcp = connection as Deno.TcpConn;
      tcp.setNoDelay(true);
      tcp.setKeepAlive(true);
      await admitAsServer(transport, async () => {
        const far = tcp.remoteAddr;
        const near = tcp.localAddr;
        if (!isLoopback(far.hostname) || !isLoopback(near.hostname)) return false;
        return await isOwnUser(
          await ownerOf(addressOf(far), addressOf(near)),
        );
      });
    }
    return new RecordChannel(transport, { peer, encrypted: key !== null, limits });
  }
}

function addressOf(address: Deno.Addr): Address {
  const { hostname, port } = address as Deno.NetAddr;
  return { host: hostname, port };
}
