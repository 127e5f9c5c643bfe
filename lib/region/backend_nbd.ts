/**
 * A backend behind an NBD server, by TCP or a unix socket.
 *
 * Invariants:
 * - Several connections are used only where the server says that a flush covers them all.
 * - A connection that ended is not opened again: its error is that of every later access. What was written and
 *   not flushed may be lost with it, and only the caller knows what that was.
 *
 * @module
 */
import { NbdClient, type NbdExportInfo, type NbdTransport } from "../nbd/mod.ts";
import { CheckedBackend, type Extent, IoError, writeZeros } from "./backend.ts";

/** Where a server is. */
export type NbdPlace = { hostname: string; port: number } | { path: string };

/** How to connect. */
export interface NbdOptions {
  /** The export; default the one without a name. */
  name?: string;
  /** Refuses writes, also where the server does not. */
  readOnly?: boolean;
  /** Connections, where the server allows more than one; default 1. */
  connections?: number;
}

/** The port that NBD has. */
export const nbdPort = 10809;

/** Octets behind an NBD server. */
export class NbdBackend extends CheckedBackend {
  /** What the server says of the export. */
  readonly info: NbdExportInfo;
  readonly #clients: readonly NbdClient[];
  #next = 0;

  private constructor(name: string, clients: readonly NbdClient[], info: NbdExportInfo, readOnly: boolean) {
    super({ name, size: info.size, readOnly });
    this.#clients = clients;
    this.info = info;
  }

  /** Connects. @throws {DroverError} "disconnected" when nobody answers, and what the server refuses */
  static async connect(place: NbdPlace, options: NbdOptions = {}): Promise<NbdBackend> {
    const { name = "", readOnly = false, connections = 1 } = options;
    const where = nbdUrl(place, name);
    const open = async (): Promise<NbdClient> => await NbdClient.connect(await dial(place, where), { name });
    const first = await open();
    const clients = [first];
    try {
      while (clients.length < connections && first.has("canMultiConn")) clients.push(await open());
      if (clients.some(({ info }) => info.size !== first.info.size || info.flags !== first.info.flags)) {
        throw new IoError("EIO", `Cannot use "${where}": it tells each connection something else`);
      }
    } catch (error) {
      for (const client of clients) client.abandon();
      throw error;
    }
    return new NbdBackend(where, clients, first.info, readOnly || first.readOnly);
  }

  /** See {@link CheckedBackend}. */
  protected override async read(offset: number, into: Uint8Array): Promise<void> {
    const least = this.info.minimumBlockSize;
    if ((offset | into.length) % least === 0 || least === 1) return await this.#client().readAt(offset, into);
    // The server takes whole blocks only.
    const start = Math.floor(offset / least) * least;
    const end = Math.min(Math.ceil((offset + into.length) / least) * least, this.size);
    const around = new Uint8Array(end - start);
    await this.#client().readAt(start, around);
    into.set(around.subarray(offset - start, offset - start + into.length));
  }

  /** See {@link CheckedBackend}. */
  protected override async write(offset: number, bytes: Uint8Array): Promise<void> {
    const least = this.info.minimumBlockSize;
    if (least > 1 && (offset % least !== 0 || bytes.length % least !== 0)) {
      throw new IoError("EINVAL", `Cannot write to "${this.name}": it takes whole blocks of ${least} bytes`);
    }
    await this.#client().writeAt(offset, bytes);
  }

  /** See {@link CheckedBackend}. */
  protected override async sync(): Promise<void> {
    if (!this.readOnly) await this.#client().flush();
  }

  /** See {@link Backend.zero}. */
  async zero(offset: number, length: number, options: { allocate?: boolean } = {}): Promise<void> {
    this.checkWrite(offset, length);
    if (length === 0) return;
    const client = this.#client();
    if (!client.has("sendWriteZeroes")) return await writeZeros(this, offset, length);
    await client.zero(offset, length, options);
  }

  /** See {@link Backend.trim}. */
  async trim(offset: number, length: number): Promise<void> {
    this.checkWrite(offset, length);
    await this.#client().trim(offset, length);
  }

  /** See {@link Backend.cache}. */
  async cache(offset: number, length: number): Promise<void> {
    this.check(offset, length);
    await this.#client().cache(offset, length);
  }

  /** See {@link Backend.extents}. */
  async extents(offset: number, length: number): Promise<readonly Extent[]> {
    this.check(offset, length);
    return await this.#client().extents(offset, length);
  }

  /** Ends the connections at once; what is under way fails. */
  abandon(reason?: unknown): void {
    for (const client of this.#clients) client.abandon(reason);
  }

  /** See {@link CheckedBackend}. */
  protected override async release(): Promise<void> {
    await Promise.all(this.#clients.map((client) => client.close()));
  }

  #client(): NbdClient {
    this.#next = (this.#next + 1) % this.#clients.length;
    const client = this.#clients[this.#next];
    if (client === undefined) throw new Error("An NBD backend without a connection");
    return client;
  }
}

/** The URI of an export, as other NBD programs write it. */
export function nbdUrl(place: NbdPlace, name: string): string {
  const path = name.split("/").map(encodeURIComponent).join("/");
  if ("path" in place) {
    return `nbd+unix:///${path}?socket=${encodeURI(place.path).replace(/[&#+?]/g, encodeURIComponent)}`;
  }
  const host = place.hostname.includes(":") ? `[${place.hostname}]` : place.hostname;
  return `nbd://${host}${place.port === nbdPort ? "" : `:${place.port}`}${name === "" ? "" : `/${path}`}`;
}

async function dial(place: NbdPlace, where: string): Promise<NbdTransport> {
  try {
    if ("path" in place) return await Deno.connect({ transport: "unix", path: place.path });
    const connection = await Deno.connect(place);
    connection.setNoDelay(true);
    return connection;
  } catch (error) {
    throw new IoError("EIO", `Cannot connect to "${where}"`, { code: "disconnected", cause: error });
  }
}
