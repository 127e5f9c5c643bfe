/**
 * The server: one connection from its greeting to its end.
 *
 * @module
 */
import { DroverError } from "../base/errors.ts";
import { closeQuietly, type NbdTransport } from "./backend.ts";
import { BufferPool } from "./buffers.ts";
import { Intake } from "./intake.ts";
import { Outlet } from "./outlet.ts";
import {
  type NbdConnection,
  type NbdExports,
  type NbdServerTls,
  serveHandshake,
} from "./server_handshake.ts";
import { emptyTally, type NbdLimits, type NbdTally, Transmission } from "./transmission.ts";

export type { NbdLimits, NbdTally };

/** The limits unless told otherwise. */
export const defaultLimits: NbdLimits = { requests: 128, bytes: 32 * 2 ** 20 };

/** Octets of buffers that lie ready. */
const idleMax = 34 * 2 ** 20;

/** What a connection came to. */
export interface NbdEnd extends NbdTally {
  /** Its export; null when it chose none. */
  exportName: string | null;
  /** The client ended it as it should, by DISC or ABORT. */
  clean: boolean;
}

/** How a connection is served. */
export interface ServeNbdOptions {
  /** What is there to choose from. */
  exports: NbdExports;
  /** TLS, offered or asked for; without it STARTTLS is not known. */
  tls?: NbdServerTls;
  /** How much may be in flight. */
  limits?: NbdLimits;
  /** Buffers that several connections share; by default each has its own. */
  pool?: BufferPool;
  /** Ends the connection: what is in flight is finished first. */
  signal?: AbortSignal;
  /** The haggling is over: the deadline for it can go. The tally goes on counting. */
  entered?: (exportName: string, tally: Readonly<NbdTally>) => void;
}

/**
 * Serves one connection until it ends, and closes its transport.
 *
 * @throws {FormatError} for a client that breaks the protocol, and what the transport throws
 *
 * @example
 * ```ts
 * import { serveNbd } from "./server.ts";
 *
 * const bytes = new Uint8Array(1 << 20);
 * const backend = {
 *   size: bytes.length,
 *   readAt: (offset: number, into: Uint8Array) => into.set(bytes.subarray(offset, offset + into.length)),
 *   writeAt: (offset: number, from: Uint8Array) => bytes.set(from, offset),
 * };
 * const exports = { list: () => [{ name: "" }], find: () => ({ name: "", backend }) };
 * // A peer that leaves without a word; Deno.connect and Deno.listen give others.
 * const transport = {
 *   read: () => Promise.resolve(null),
 *   write: (sent: Uint8Array) => Promise.resolve(sent.length),
 *   close: () => {},
 * };
 * const ended = await serveNbd(transport, { exports });
 * if (ended.exportName !== null) throw new Error("Nobody chose an export");
 * ```
 */
export async function serveNbd(transport: NbdTransport, options: ServeNbdOptions): Promise<NbdEnd> {
  const { exports, limits = defaultLimits, pool, signal, entered, tls: offered } = options;
  const connection: NbdConnection = { transport, intake: new Intake(), outlet: new Outlet(transport) };
  let inTls = null as NbdTransport | null;
  const tls = offered === undefined ? null : {
    required: offered.required,
    start: async (plain: NbdTransport) => inTls = await offered.start(plain),
  };
  let transmission: Transmission | null = null;
  const stop = (): void => {
    if (transmission === null) closeQuietly(transport);
    else transmission.stop();
  };
  signal?.addEventListener("abort", stop);
  if (signal?.aborted) stop();
  try {
    const agreed = await serveHandshake(connection, exports, tls);
    if (agreed === null) return { ...emptyTally(), exportName: null, clean: true };
    transmission = new Transmission(agreed.connection, agreed, {
      limits,
      pool: pool ?? new BufferPool(idleMax),
    });
    entered?.(agreed.chosen.name, transmission.tally);
    if (signal?.aborted) transmission.stop();
    const clean = await transmission.run();
    return { ...transmission.tally, exportName: agreed.chosen.name, clean };
  } catch (error) {
    if (signal?.aborted && !(error instanceof DroverError)) {
      return { ...transmission?.tally ?? emptyTally(), exportName: transmission?.name ?? null, clean: true };
    }
    throw error;
  } finally {
    signal?.removeEventListener("abort", stop);
    if (inTls !== null) closeQuietly(inTls);
    closeQuietly(transport);
  }
}
