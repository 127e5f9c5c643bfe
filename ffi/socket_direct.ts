/**
 * A TCP connection of Deno's, read and written without its event loop: recv(2) and send(2) that never wait, straight from the
 * C library. Deno's own `read` and `write` stay in use for everything that has to wait.
 *
 * Invariants:
 * - The descriptor is our own, duplicated from Deno's: it cannot become another file behind our back.
 * - -1 says nothing but "not now". Whoever asks Deno for the same then gets the octets, the end or the error.
 *
 * @module
 */
import { openSockets, type Sockets } from "./sockets.ts";

const duplicateCloexec = 1030;
const messageDontWait = 0x40;
const messageNoSignal = 0x4000;
const messageMore = 0x8000;
const shutBoth = 2;

const symbols = {
  fcntl: { parameters: ["i32", "i32", "i32"], result: "i32" },
  recv: { parameters: ["i32", "buffer", "u32", "i32"], result: "i32" },
  send: { parameters: ["i32", "buffer", "u32", "i32"], result: "i32" },
  shutdown: { parameters: ["i32", "i32"], result: "i32" },
  close: { parameters: ["i32"], result: "i32" },
} as const;

type Calls = Deno.StaticForeignLibraryInterface<typeof symbols>;

/** Opened with this module, once, where that needs no question to anybody; a program without the right works without. */
const library = open();

function open(): { calls: Calls; sockets: Sockets } | null {
  if (Deno.permissions.querySync({ name: "ffi" }).state !== "granted") return null;
  try {
    return { calls: Deno.dlopen("libc.so.6", symbols).symbols, sockets: openSockets() };
  } catch {
    return null; // another libc: everything works all the same, by Deno's way
  }
}

/** The other way to a connection. */
export class DirectSocket implements Disposable {
  readonly #calls: Calls;
  #descriptor: number;

  private constructor(calls: Calls, descriptor: number) {
    this.#calls = calls;
    this.#descriptor = descriptor;
  }

  /** Opens it. @returns null where that cannot be: no TCP, no right to FFI, closed meanwhile */
  static open(connection: Deno.Conn): DirectSocket | null {
    const { localAddr: local, remoteAddr: remote } = connection;
    if (local.transport !== "tcp" || remote.transport !== "tcp") return null;
    if (library === null) return null;
    const { calls, sockets } = library;
    const found = sockets.find({ host: local.hostname, port: local.port }, {
      host: remote.hostname,
      port: remote.port,
    });
    if (found === null) return null;
    const descriptor = calls.fcntl(found, duplicateCloexec, 0);
    return descriptor < 0 ? null : new DirectSocket(calls, descriptor);
  }

  /** Octets that are there now, 0 at the end, -1 when there are none yet. */
  read(buffer: Uint8Array<ArrayBuffer>): number {
    if (this.#descriptor < 0) return -1;
    return this.#calls.recv(this.#descriptor, buffer, buffer.length, messageDontWait);
  }

  /** How many octets were taken, -1 for none. With `more` they may wait for the next ones. */
  write(bytes: Uint8Array<ArrayBuffer>, more: boolean): number {
    if (this.#descriptor < 0) return -1;
    const flags = messageDontWait | messageNoSignal | (more ? messageMore : 0);
    return this.#calls.send(this.#descriptor, bytes, bytes.length, flags);
  }

  /** Ends the connection and closes our descriptor. Deno's is closed by who has it. */
  close(): void {
    if (this.#descriptor < 0) return;
    this.#calls.shutdown(this.#descriptor, shutBoth);
    this.#calls.close(this.#descriptor);
    this.#descriptor = -1;
  }

  /** See `close`. */
  [Symbol.dispose](): void {
    this.close();
  }
}
