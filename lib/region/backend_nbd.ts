/**
 * A backend behind an NBD server, by TCP or a unix socket.
 *
 * Invariants:
 * - Several connections are used only where the server says that a flush covers them all.
 * - A connection that ended is opened again, and what was under way is asked again, until `timeoutMs` is over
 *   (`nbd_session.ts`): nothing that was answered is lost when the server is restarted in between.
 *
 * @module
 */
import { DroverError } from "../base/errors.ts";
import type { NbdExportInfo, NbdTransport } from "../nbd/mod.ts";
import { CheckedBackend, type Extent, IoError, writeZeros } from "./backend.ts";
import { NbdSession } from "./nbd_session.ts";

/** Where a server is. */
export type NbdPlace = { hostname: string; port: number } | { path: string };

/** TLS inside of NBD: whom the client believes. */
export interface NbdTls {
  /** Certificates of authorities, PEM; without any those of the system. */
  caCerts?: readonly string[];
  /** The name that the server has to prove; by default the one that it is reached by. */
  hostname?: string;
}

/** How to connect. */
export interface NbdOptions {
  /** The export; default the one without a name. */
  name?: string;
  /** Refuses writes, also where the server does not. */
  readOnly?: boolean;
  /** Connections, where the server allows more than one; default 1. */
  connections?: number;
  /**
   * Milliseconds until an access that was not answered fails with ETIMEDOUT; until then lost connections are opened
   * again. Default 30 s; 0 takes the first loss for the last word, and waits without end.
   */
  timeoutMs?: number;
  /** Inside of TLS, and not without it; by TCP only. */
  tls?: NbdTls;
}

/** The port that NBD has. */
export const nbdPort = 10809;

/** Milliseconds until an access fails, unless told otherwise. */
export const nbdTimeoutMs = 30_000;

/** Octets behind an NBD server. */
export class NbdBackend extends CheckedBackend {
  /** What the server says of the export. */
  readonly info: NbdExportInfo;
  readonly #session: NbdSession;

  private constructor(name: string, session: NbdSession, readOnly: boolean) {
    super({ name, size: session.info.size, readOnly });
    this.#session = session;
    this.info = session.info;
  }

  /** Connects. @throws {DroverError} "disconnected" when nobody answers, and what the server refuses */
  static async connect(place: NbdPlace, options: NbdOptions = {}): Promise<NbdBackend> {
    const { name = "", readOnly = false, connections = 1, timeoutMs = nbdTimeoutMs, tls } = options;
    const where = nbdUrl(place, name, { tls: tls !== undefined });
    if (!(timeoutMs >= 0 && timeoutMs < 2 ** 31)) {
      throw new RangeError(`Cannot use a time-out of ${timeoutMs} ms: should be 0 to 2^31 - 1`);
    }
    if (tls !== undefined && "path" in place) {
      throw new IoError("ENOTSUP", `Cannot use "${where}": TLS is spoken by TCP only`);
    }
    const session = await NbdSession.open({
      where,
      name,
      connections,
      timeoutMs,
      dial: (signal) => dial(place, where, signal),
      startTls: tls === undefined
        ? null
        : (transport, use) => startTls(transport, use, { place, tls, where }),
    });
    return new NbdBackend(where, session, readOnly || session.has("readOnly"));
  }

  /** See {@link CheckedBackend}. */
  protected override async read(offset: number, into: Uint8Array): Promise<void> {
    const least = this.info.minimumBlockSize;
    if ((offset | into.length) % least === 0 || least === 1) {
      return await this.#session.run((client) => client.readAt(offset, into));
    }
    // The server takes whole blocks only.
    const start = Math.floor(offset / least) * least;
    const end = Math.min(Math.ceil((offset + into.length) / least) * least, this.size);
    const around = new Uint8Array(end - start);
    await this.#session.run((client) => client.readAt(start, around));
    into.set(around.subarray(offset - start, offset - start + into.length));
  }

  /** See {@link CheckedBackend}. */
  protected override async write(offset: number, bytes: Uint8Array): Promise<void> {
    const least = this.info.minimumBlockSize;
    if (least > 1 && (offset % least !== 0 || bytes.length % least !== 0)) {
      throw new IoError("EINVAL", `Cannot write to "${this.name}": it takes whole blocks of ${least} bytes`);
    }
    await this.#session.run(
      (client) => client.writeAt(offset, bytes),
      { kind: "write", offset, length: bytes.length, bytes },
    );
  }

  /** See {@link CheckedBackend}. */
  protected override async sync(): Promise<void> {
    if (!this.readOnly) await this.#session.flush();
  }

  /** See {@link Backend.zero}. */
  async zero(offset: number, length: number, options: { allocate?: boolean } = {}): Promise<void> {
    this.checkWrite(offset, length);
    if (length === 0) return;
    if (!this.#session.has("sendWriteZeroes")) return await writeZeros(this, offset, length);
    const { allocate = false } = options;
    await this.#session.run(
      (client) => client.zero(offset, length, { allocate }),
      { kind: "zero", offset, length, allocate },
    );
  }

  /** See {@link Backend.trim}. */
  async trim(offset: number, length: number): Promise<void> {
    this.checkWrite(offset, length);
    if (length === 0 || !this.#session.has("sendTrim")) return;
    await this.#session.run((client) => client.trim(offset, length), { kind: "trim", offset, length });
  }

  /** See {@link Backend.cache}. */
  async cache(offset: number, length: number): Promise<void> {
    this.check(offset, length);
    await this.#session.run((client) => client.cache(offset, length));
  }

  /** See {@link Backend.extents}. */
  async extents(offset: number, length: number): Promise<readonly Extent[]> {
    this.check(offset, length);
    return await this.#session.run((client) => client.extents(offset, length));
  }

  /** Ends the connections at once and for good; what is under way fails. */
  abandon(reason?: unknown): void {
    this.#session.abandon(reason);
  }

  /** See {@link CheckedBackend}. */
  protected override async release(): Promise<void> {
    await this.#session.close();
  }
}

/** The URI of an export, as other NBD programs write it. */
export function nbdUrl(place: NbdPlace, name: string, options: { tls?: boolean } = {}): string {
  const scheme = options.tls === true ? "nbds" : "nbd";
  const path = name.split("/").map(encodeURIComponent).join("/");
  if ("path" in place) {
    return `${scheme}+unix:///${path}?socket=${encodeURI(place.path).replace(/[&#+?]/g, encodeURIComponent)}`;
  }
  const host = place.hostname.includes(":") ? `[${place.hostname}]` : place.hostname;
  return `${scheme}://${host}${place.port === nbdPort ? "" : `:${place.port}`}${
    name === "" ? "" : `/${path}`
  }`;
}

async function dial(place: NbdPlace, where: string, signal: AbortSignal): Promise<NbdTransport> {
  try {
    if ("path" in place) return await Deno.connect({ transport: "unix", path: place.path });
    const connection = await Deno.connect({ ...place, signal });
    connection.setNoDelay(true);
    // A peer that is gone without a word is noticed by the next request; this is for connections without any.
    connection.setKeepAlive(true);
    return connection;
  } catch (error) {
    throw new IoError("EIO", `Cannot connect to "${where}"`, { code: "disconnected", cause: error });
  }
}

async function startTls(
  transport: NbdTransport,
  use: (inner: NbdTransport) => void,
  { place, tls, where }: { place: NbdPlace; tls: NbdTls; where: string },
): Promise<void> {
  // It came from `dial`, by TCP.
  const plain = transport as Deno.TcpConn;
  const hostname = tls.hostname ?? ("hostname" in place ? place.hostname : "localhost");
  try {
    const connection = await Deno.startTls(plain, {
      hostname,
      ...(tls.caCerts === undefined ? {} : { caCerts: [...tls.caCerts] }),
    });
    use(connection);
    await connection.handshake();
  } catch (error) {
    const text = error instanceof Error ? error.message : "";
    if (/invalid peer certificate|alert/i.test(text)) {
      throw new DroverError("auth", `Cannot use "${where}": the server did not prove to be "${hostname}"`, {
        cause: error,
      });
    }
    throw new IoError("EIO", `Cannot start TLS with "${where}"`, { code: "disconnected", cause: error });
  }
}
