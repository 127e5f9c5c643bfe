/**
 * TLS on the server's side of NBD. STARTTLS comes in the middle of a connection, and Deno can start TLS as a server
 * only on a listener of its own. So there is one, on loopback, and each connection takes a turn through it:
 *
 * ```text
 *   client ==TLS==> its connection --pump--> 127.0.0.1:gate ==TLS ends here==> plain, to the NBD server
 * ```
 *
 * Invariants:
 * - Nobody but this gate's own connections gets through it: a connection is matched by the port that it came from,
 *   and a stranger's is closed.
 * - What the pumps hold is bounded: two buffers a connection. When either end closes, all three do.
 *
 * @module
 */
import { openSockets, type Sockets } from "../../ffi/sockets.ts";
import { closeQuietly } from "../nbd/backend.ts";
import type { NbdTransport } from "../nbd/mod.ts";
import { IoError } from "./backend.ts";

/** What the server shows, PEM. */
export interface NbdServerCertificate {
  /** Its certificate, and those between it and the authority. */
  cert: string;
  /** Its private key. */
  key: string;
}

/** Octets of a pump's buffer. */
const pumpSize = 256 * 1024;
/** Connections that came before their port was known here. */
const earlyMax = 64;

/** The C library, opened once. */
let sockets: Sockets | null = null;

/** Takes connections into TLS. */
export class TlsGate {
  readonly #listener: Deno.TlsListener;
  /** Ports of own connections, and who waits for the other end. */
  readonly #expected = new Map<number, (connection: Deno.TlsConn) => void>();
  /** Other ends that came before their port was known; strangers are among them for a moment. */
  readonly #early = new Map<number, Deno.TlsConn>();
  readonly #open = new Set<{ close(): void }>();

  /** Opens a gate. @throws {IoError} for a certificate or a key that is none */
  constructor(certificate: NbdServerCertificate) {
    try {
      this.#listener = Deno.listenTls({ hostname: "127.0.0.1", port: 0, ...certificate });
    } catch (error) {
      throw new IoError("EINVAL", "Cannot use this certificate and key for TLS", { cause: error });
    }
    const { hostname, port } = this.#listener.addr as Deno.NetAddr;
    // Small replies must not wait for each other.
    try {
      sockets ??= openSockets();
      sockets.tuneListener({ host: hostname, port });
    } catch {
      // Without the right to load a library it is only slower.
    }
    void this.#accept();
  }

  /** Starts TLS, as the server, on a connection whose client was told so. */
  async start(plain: NbdTransport): Promise<NbdTransport> {
    const { port } = this.#listener.addr as Deno.NetAddr;
    const near = await Deno.connect({ hostname: "127.0.0.1", port });
    near.setNoDelay(true);
    const own = (near.localAddr as Deno.NetAddr).port;
    const early = this.#early.get(own);
    this.#early.delete(own);
    for (const stranger of this.#early.values()) closeQuietly(stranger);
    this.#early.clear();
    const far = early ?? await new Promise<Deno.TlsConn>((resolve) => this.#expected.set(own, resolve));
    const all = {
      close: (): void => {
        if (!this.#open.delete(all)) return;
        closeQuietly(far);
        closeQuietly(near);
        closeQuietly(plain);
      },
    };
    this.#open.add(all);
    void pump(plain, near).finally(all.close);
    void pump(near, plain).finally(all.close);
    return { read: (buffer) => far.read(buffer), write: (bytes) => far.write(bytes), close: all.close };
  }

  /** Closes the gate, and what is inside of it. */
  close(): void {
    closeQuietly({ close: () => this.#listener.close() } as NbdTransport);
    for (const one of this.#open) one.close();
    for (const one of this.#early.values()) closeQuietly(one);
    this.#early.clear();
  }

  async #accept(): Promise<void> {
    for (;;) {
      let connection: Deno.TlsConn;
      try {
        connection = await this.#listener.accept();
      } catch (error) {
        if (error instanceof Deno.errors.BadResource || error instanceof Deno.errors.Interrupted) return;
        await new Promise((resolve) => setTimeout(resolve, 50));
        continue;
      }
      const { port } = connection.remoteAddr as Deno.NetAddr;
      const taker = this.#expected.get(port);
      this.#expected.delete(port);
      if (taker !== undefined) taker(connection);
      else if (this.#early.size < earlyMax) this.#early.set(port, connection);
      else closeQuietly(connection);
    }
  }
}

/** Passes everything on until either side ends. */
async function pump(from: NbdTransport, to: NbdTransport): Promise<void> {
  const buffer = new Uint8Array(pumpSize);
  try {
    for (;;) {
      const count = await from.read(buffer);
      if (count === null) return;
      for (let at = 0; at < count;) at += await to.write(buffer.subarray(at, count));
    }
  } catch {
    // One of them is closed; the other is next.
  }
}
