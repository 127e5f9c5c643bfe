/**
 * Two socket calls that Deno has no name for, straight from the C library: options of a listening socket, and
 * shutdown(2) of a connection. `lib/net` takes them as its `SocketControl`.
 *
 * Deno shows no descriptors, so a socket is found by its addresses among the descriptors of this process. Each
 * call is a few system calls per open descriptor and never waits.
 *
 * @module
 */

/** A literal address and a port, as `Deno.NetAddr` has them. */
export interface SocketAddress {
  /** IPv4 or IPv6, as text. */
  host: string;
  /** In host order. */
  port: number;
}

/** What this file offers; the same shape as `SocketControl` of `lib/net`. */
export interface Sockets {
  /**
   * Sets TCP_NODELAY and keepalive on the socket that listens on `local`; connections accepted from it inherit them. A peer
   * that vanished without a word is given up after about a minute, and with it its hold on a tree.
   */
  tuneListener(local: SocketAddress): boolean;
  /** Ends the connection between `local` and `remote` in both directions, at once. */
  abort(local: SocketAddress, remote: SocketAddress): boolean;
  /** The descriptor of that connection; it stays Deno's. Null when there is none. */
  find(local: SocketAddress, remote: SocketAddress): number | null;
}

const afInet = 2;
const afInet6 = 10;
const ipprotoTcp = 6;
const tcpNoDelay = 1;
const tcpKeepIdle = 4;
const tcpKeepInterval = 5;
const tcpKeepCount = 6;
const tcpUserTimeout = 18;
const soKeepAlive = 9;
const solSocket = 1;
const soAcceptConn = 30;
const shutRdwr = 2;
/** sizeof(struct sockaddr_in6), the larger of the two. */
const sockaddrSize = 28;

const symbols = {
  getsockname: { parameters: ["i32", "buffer", "buffer"], result: "i32" },
  getpeername: { parameters: ["i32", "buffer", "buffer"], result: "i32" },
  getsockopt: { parameters: ["i32", "i32", "i32", "buffer", "buffer"], result: "i32" },
  setsockopt: { parameters: ["i32", "i32", "i32", "buffer", "u32"], result: "i32" },
  shutdown: { parameters: ["i32", "i32"], result: "i32" },
} as const;

/** Opens the C library; it stays open for as long as the process lives. */
export function openSockets(): Sockets {
  const libc = Deno.dlopen("libc.so.6", symbols).symbols;
  const address = new Uint8Array(sockaddrSize);
  const size = new Uint32Array(1);
  const nameOf = (call: typeof libc.getsockname, descriptor: number): string | null => {
    address.fill(0);
    size[0] = sockaddrSize;
    return call(descriptor, address, size) === 0 ? sockaddrText(address) : null;
  };
  const find = (matches: (descriptor: number) => boolean): number | null => {
    for (const { name } of Deno.readDirSync("/proc/self/fd")) {
      if (matches(Number(name))) return Number(name);
    }
    return null;
  };
  const findConnection = (local: SocketAddress, remote: SocketAddress): number | null => {
    const [near, far] = [addressText(local), addressText(remote)];
    return find((fd) => nameOf(libc.getpeername, fd) === far && nameOf(libc.getsockname, fd) === near);
  };
  const isListening = (descriptor: number): boolean => {
    const value = new Int32Array(1);
    size[0] = 4;
    return libc.getsockopt(descriptor, solSocket, soAcceptConn, value, size) === 0 && value[0] === 1;
  };
  return {
    tuneListener(local: SocketAddress): boolean {
      const wanted = addressText(local);
      const descriptor = find((fd) => nameOf(libc.getsockname, fd) === wanted && isListening(fd));
      if (descriptor === null) return false;
      const options: [level: number, name: number, value: number][] = [
        [ipprotoTcp, tcpNoDelay, 1],
        [solSocket, soKeepAlive, 1],
        [ipprotoTcp, tcpKeepIdle, 30],
        [ipprotoTcp, tcpKeepInterval, 10],
        [ipprotoTcp, tcpKeepCount, 3],
        [ipprotoTcp, tcpUserTimeout, 60_000],
      ];
      return options.every(([level, name, value]) =>
        libc.setsockopt(descriptor, level, name, new Int32Array([value]), 4) === 0
      );
    },
    abort(local: SocketAddress, remote: SocketAddress): boolean {
      const descriptor = findConnection(local, remote);
      return descriptor !== null && libc.shutdown(descriptor, shutRdwr) === 0;
    },
    find: findConnection,
  };
}

/** A sockaddr as 32 hex digits (IPv4 mapped into IPv6) and the port; null for other families. */
function sockaddrText(address: Uint8Array): string | null {
  const view = new DataView(address.buffer);
  const family = view.getUint16(0, true);
  if (family === afInet) return mappedPrefix + hex(address.subarray(4, 8)) + ":" + view.getUint16(2);
  if (family === afInet6) return hex(address.subarray(8, 24)) + ":" + view.getUint16(2);
  return null;
}

const mappedPrefix = "0".repeat(20) + "ffff";

function hex(bytes: Uint8Array): string {
  let text = "";
  for (const byte of bytes) text += byte.toString(16).padStart(2, "0");
  return text;
}

/** The same for an address that Deno printed. */
function addressText({ host, port }: SocketAddress): string {
  const dotted = /^(?:::ffff:)?(\d+)\.(\d+)\.(\d+)\.(\d+)$/i.exec(host);
  if (dotted !== null) return `${mappedPrefix}${hex(Uint8Array.from(dotted.slice(1).map(Number)))}:${port}`;
  const [front = "", back] = host.split("::");
  const groups = (text: string): string[] =>
    text === "" ? [] : text.split(":").map((group) => group.padStart(4, "0"));
  const [head, tail] = [groups(front), back === undefined ? [] : groups(back)];
  const zeros = Array<string>(Math.max(0, 8 - head.length - tail.length)).fill("0000");
  return `${[...head, ...zeros, ...tail].join("").toLowerCase()}:${port}`;
}
