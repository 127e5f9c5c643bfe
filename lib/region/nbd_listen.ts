/**
 * Backends offered to NBD clients: a listener on TCP or a unix socket, and its connections.
 *
 * Invariants:
 * - A client that does not come to an export within the deadline is sent away, and no more than `connections` are
 *   served; one more ends the oldest that has not come to an export, so that holding them all keeps nobody out.
 * - What one connection does wrong ends that connection and no other.
 * - `close` lets what is in flight finish, for a while.
 *
 * @module
 */
import {
  BufferPool,
  type NbdEnd,
  type NbdExports,
  type NbdTally,
  type NbdTransport,
  serveNbd,
} from "../nbd/mod.ts";
import { type Backend, IoError } from "./backend.ts";
import { type NbdPlace, nbdUrl } from "./backend_nbd.ts";
import { DirectTransport, type NbdTurn } from "./nbd_direct.ts";
import { type NbdServerCertificate, TlsGate } from "./nbd_tls.ts";

/** One backend that is offered. */
export interface OfferedBackend {
  /** What clients ask for; empty is the default export. */
  name: string;
  /** For people. */
  description?: string;
  /** The octets; they stay the caller's. */
  backend: Backend;
  /** Writes are refused even where the backend would take them. */
  readOnly?: boolean;
}

/** Backends that come and go. Whatever `find` gave stays usable until `endConnections` of its name has resolved. */
export interface NbdOffers {
  /** What NBD's LIST shows. */
  list(): readonly OfferedBackend[];
  /** The backend of that name for a client of that address, which is empty for a unix socket; null if there is none. */
  find(name: string, hostname: string): OfferedBackend | null;
}

/** How backends are offered. */
export interface NbdListenOptions {
  /** Where; port 0 is any that is free. */
  place: NbdPlace;
  /** What is offered. */
  offers: readonly OfferedBackend[] | NbdOffers;
  /** TLS, without which nobody comes in; by default none. By TCP only. */
  tls?: NbdServerCertificate;
  /** Connections at once; when all have come to an export, further ones are closed. Default 64. */
  connections?: number;
  /** Milliseconds until a client must have chosen an export; default 10 s. */
  deadlineMs?: number;
  /** Milliseconds that `close` waits for what is in flight; default 5 s. */
  graceMs?: number;
  /** A client came to an export, left, or was sent away. */
  log?: (event: NbdListenEvent) => void;
}

/** What happened to a connection. */
export type NbdListenEvent =
  | { event: "entered"; peer: string; name: string; tally: Readonly<NbdTally> }
  | { event: "left"; peer: string; end: NbdEnd }
  | { event: "refused"; peer: string; error: unknown };

interface Connection {
  stop: AbortController;
  close: () => void;
  ended: Promise<void>;
  /** Where the client is; empty for a unix socket. */
  hostname: string;
  /** Its export; null while it has none. */
  name: string | null;
  /** What it did until now. */
  tally: Readonly<NbdTally> | null;
  /** One that came later took its place. */
  displaced: boolean;
}

/** Octets of idle buffers that all connections share. */
const idleMax = 34 * 2 ** 20;

/** Offers backends until it is closed. The backends stay the caller's. */
export class NbdListener implements AsyncDisposable {
  /** Where it listens, with the real port. */
  readonly place: NbdPlace;
  /** What all connections that have ended did. */
  readonly tally: NbdTally & { connections: number } = {
    connections: 0,
    requests: 0,
    readBytes: 0,
    writtenBytes: 0,
    errors: 0,
  };
  readonly #listener: Deno.Listener;
  readonly #options: NbdListenOptions;
  readonly #connections = new Set<Connection>();
  readonly #pool = new BufferPool(idleMax);
  readonly #turn: NbdTurn = { last: null, streak: 0 };
  readonly #gate: TlsGate | null;
  readonly #accepting: Promise<void>;

  private constructor(
    listener: Deno.Listener,
    gate: TlsGate | null,
    place: NbdPlace,
    options: NbdListenOptions,
  ) {
    this.#listener = listener;
    this.place = place;
    this.#options = options;
    this.#gate = gate;
    this.#accepting = this.#accept();
  }

  /** Listens. @throws {IoError} when the place is taken or not allowed */
  static async open(options: NbdListenOptions): Promise<NbdListener> {
    const { place, tls } = options;
    if ("path" in place && tls !== undefined) {
      throw new IoError(
        "ENOTSUP",
        `Cannot listen on "${nbdUrl(place, "")}" with TLS: it is spoken by TCP only`,
      );
    }
    const gate = tls === undefined ? null : new TlsGate(tls);
    try {
      if ("path" in place) {
        await removeDeadSocket(place.path);
        // From its first moment it is the owner's alone.
        const before = Deno.umask(0o177);
        let listener: Deno.UnixListener;
        try {
          listener = Deno.listen({ transport: "unix", path: place.path });
        } finally {
          Deno.umask(before);
        }
        return new NbdListener(listener as unknown as Deno.Listener, gate, place, options);
      }
      const listener = Deno.listen(place);
      const { port } = listener.addr;
      return new NbdListener(listener, gate, { hostname: place.hostname, port }, options);
    } catch (error) {
      gate?.close();
      throw new IoError("EIO", `Cannot listen on "${nbdUrl(place, "")}"`, { cause: error });
    }
  }

  /** What a client types to come to an export. */
  url(name: string): string {
    return nbdUrl(this.place, name, { tls: this.#gate !== null });
  }

  /** What the connections do that are at an export now. */
  connectionsOf(name: string): Readonly<NbdTally>[] {
    return [...this.#connections].flatMap((one) =>
      one.name === name && one.tally !== null ? [one.tally] : []
    );
  }

  /** Ends all connections of an export at once, whatever is in flight. Resolves when none of them touches it any more. */
  async endConnections(name: string): Promise<void> {
    const ending = [...this.#connections].filter((connection) => connection.name === name);
    for (const { close } of ending) close();
    await Promise.all(ending.map(({ ended }) => ended));
  }

  /** Takes no more clients, lets those that there are finish what is in flight, and removes the socket. */
  async close(): Promise<void> {
    try {
      this.#listener.close();
    } catch {
      // Closed before.
    }
    await this.#accepting;
    for (const { stop } of this.#connections) stop.abort();
    const all = Promise.all([...this.#connections].map(({ ended }) => ended));
    let timer: ReturnType<typeof setTimeout> | undefined;
    const grace = new Promise<void>((resolve) => {
      timer = setTimeout(() => {
        // A backend that does not answer holds its connection's promise, and nobody any longer.
        for (const { close } of this.#connections) close();
        resolve();
      }, this.#options.graceMs ?? 5000);
    });
    await Promise.race([all, grace]);
    clearTimeout(timer);
    this.#gate?.close();
    if ("path" in this.place) removeQuietly(this.place.path);
  }

  /** See `close`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #accept(): Promise<void> {
    for (;;) {
      let transport: Deno.Conn;
      try {
        transport = await this.#listener.accept();
      } catch (error) {
        if (error instanceof Deno.errors.BadResource || error instanceof Deno.errors.Interrupted) return;
        // Out of descriptors, or a client that was gone before it was taken: the next may be better.
        await new Promise((resolve) => setTimeout(resolve, 50));
        continue;
      }
      if (this.#connections.size >= (this.#options.connections ?? 64) && !this.#displaceOldest()) {
        this.#options.log?.({
          event: "refused",
          peer: peerOf(transport),
          error: new IoError("EIO", "There are as many connections as are allowed"),
        });
        transport.close();
        continue;
      }
      // TLS goes through Deno; in the clear there is a shorter way.
      const channel = this.#gate === null ? DirectTransport.of(transport, this.#turn) : transport;
      const connection: Connection = {
        stop: new AbortController(),
        close: () => closeQuietly(channel),
        ended: Promise.resolve(),
        hostname: transport.remoteAddr.transport === "tcp" ? transport.remoteAddr.hostname : "",
        name: null,
        tally: null,
        displaced: false,
      };
      this.#connections.add(connection);
      connection.ended = this.#serve(transport, channel, connection).finally(() =>
        this.#connections.delete(connection)
      );
    }
  }

  /** Makes room by ending the oldest connection that has not come to an export. @returns false when there is none. */
  #displaceOldest(): boolean {
    for (const connection of this.#connections) {
      if (connection.name !== null || connection.displaced) continue;
      connection.displaced = true;
      connection.close();
      this.#connections.delete(connection);
      return true;
    }
    return false;
  }

  async #serve(transport: Deno.Conn, channel: NbdTransport, connection: Connection): Promise<void> {
    const { log, deadlineMs = 10_000 } = this.#options;
    const peer = peerOf(transport);
    const gate = this.#gate;
    if ("setNoDelay" in transport) {
      (transport as Deno.TcpConn).setNoDelay(true);
      // A client that is gone without a word is noticed in the end.
      (transport as Deno.TcpConn).setKeepAlive(true);
    }
    const displaced = new IoError("ETIMEDOUT", "The client was the oldest of too many without an export");
    const late = new IoError("ETIMEDOUT", `The client chose no export within ${deadlineMs / 1000} s`);
    let isLate = false;
    const deadline = setTimeout(() => {
      isLate = true;
      connection.close();
    }, deadlineMs);
    try {
      const end = await serveNbd(channel, {
        exports: this.#exportsFor(connection),
        ...(gate === null ? {} : {
          tls: { required: true, start: (plain: NbdTransport) => gate.start(plain) },
        }),
        pool: this.#pool,
        signal: connection.stop.signal,
        entered: (name, tally) => {
          clearTimeout(deadline);
          connection.name = name;
          connection.tally = tally;
          log?.({ event: "entered", peer, name, tally });
        },
      });
      this.tally.connections++;
      this.tally.requests += end.requests;
      this.tally.readBytes += end.readBytes;
      this.tally.writtenBytes += end.writtenBytes;
      this.tally.errors += end.errors;
      if (end.exportName !== null) log?.({ event: "left", peer, end });
    } catch (error) {
      log?.({ event: "refused", peer, error: isLate ? late : connection.displaced ? displaced : error });
    } finally {
      clearTimeout(deadline);
    }
  }

  #exportsFor(connection: Connection): NbdExports {
    const { offers } = this.#options;
    const book: NbdOffers = "list" in offers ? offers : fixedOffers(offers);
    return {
      list: () => book.list(),
      find: (name) => {
        const offer = book.find(name, connection.hostname);
        if (offer === null) return null;
        return { ...offer, readOnly: offer.readOnly === true || offer.backend.readOnly, multiConn: true };
      },
    };
  }
}

function fixedOffers(offers: readonly OfferedBackend[]): NbdOffers {
  return { list: () => offers, find: (name) => offers.find((offer) => offer.name === name) ?? null };
}

function peerOf(transport: Deno.Conn): string {
  const address = transport.remoteAddr;
  return address.transport === "tcp" ? `${address.hostname}:${address.port}` : "a local program";
}

/** A socket that nobody listens on is left from a program that was killed. */
async function removeDeadSocket(path: string): Promise<void> {
  try {
    if (!Deno.lstatSync(path).isSocket) return;
  } catch {
    return;
  }
  try {
    (await Deno.connect({ transport: "unix", path })).close();
  } catch (error) {
    if (error instanceof Deno.errors.ConnectionRefused) removeQuietly(path);
  }
}

function removeQuietly(path: string): void {
  try {
    Deno.removeSync(path);
  } catch {
    // Gone already.
  }
}

function closeQuietly(transport: NbdTransport): void {
  try {
    transport.close();
  } catch {
    // Closed before.
  }
}
