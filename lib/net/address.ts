/**
 * Where nodes are: `HOST:PORT`, `drover://HOST:PORT/NAME`, and what counts as this machine.
 *
 * Addresses are compared as 16 octets (IPv4 as `::ffff:a.b.c.d`), never as text.
 *
 * @module
 */
import { DroverError } from "../base/errors.ts";

/** The port a node listens on unless told otherwise. */
export const defaultPort = 7707;

/** The longest tree name, in bytes. */
export const treeNameSizeMax = 128;

/** A host, without the brackets of IPv6, and a port. */
export interface Address {
  /** A literal address or a host name; empty means every address of this machine (for listening only). */
  host: string;
  /** 0 to 65535; 0 is any free port, for listening only. */
  port: number;
}

/** An address and the name of a tree there. */
export interface TreeUrl extends Address {
  /** See `treeNameFault()`. */
  name: string;
}

/**
 * Reads `HOST:PORT`, `[IPV6]:PORT`, `:PORT`, or just `HOST` or `[IPV6]` with the default port.
 *
 * @throws {DroverError} code `usage`.
 */
export function parseAddress(text: string): Address {
  const match = /^(?:\[([^\]]*)\]|([^:[\]]*))(?::(\d{1,5}))?$/.exec(text);
  const bracketed = match?.[1];
  const host = bracketed ?? match?.[2];
  const port = match?.[3] === undefined ? defaultPort : Number(match[3]);
  if (match === null || host === undefined || port > 65535 || (bracketed === undefined && text === "")) {
    throw badAddress(text);
  }
  if (bracketed !== undefined) {
    if (!bracketed.includes(":") || parseIp(bracketed) === null) throw badAddress(text);
  } else if (!/^[A-Za-z0-9._-]{0,253}$/.test(host)) {
    throw badAddress(text);
  }
  return { host, port };
}

function badAddress(text: string): DroverError {
  return new DroverError("usage", `Cannot use the address "${text}": it should be HOST:PORT`, {
    hint: `an IPv6 address stands in brackets, as in [::1]:${defaultPort}`,
  });
}

/** Writes an address as `parseAddress()` reads it. */
export function formatAddress(address: Address): string {
  return address.host.includes(":") ? `[${address.host}]:${address.port}` : `${address.host}:${address.port}`;
}

/**
 * Reads `drover://HOST:PORT/NAME`; the port may be left out.
 *
 * @throws {DroverError} code `usage`.
 */
export function parseUrl(text: string): TreeUrl {
  const match = /^drover:\/\/([^/]+)\/(.*)$/s.exec(text);
  const place = match?.[1];
  const name = match?.[2];
  if (place === undefined || name === undefined) {
    throw new DroverError("usage", `Cannot use the URL "${text}": it should be drover://HOST:PORT/NAME`);
  }
  const address = parseAddress(place);
  if (address.host === "") {
    throw new DroverError("usage", `Cannot use the URL "${text}": it names no host`);
  }
  const fault = treeNameFault(name);
  if (fault !== null) throw new DroverError("usage", `Cannot use the URL "${text}": ${fault}`);
  return { ...address, name };
}

/**
 * What is wrong with the name of a tree, or null: 1 to 128 characters of `A-Za-z0-9._-`, the first not a
 * dot. Such a name is safe as a file name, and has no second spelling.
 */
export function treeNameFault(name: string): string | null {
  if (name === "") return "the name of the tree is missing";
  if (name.length > treeNameSizeMax) {
    return `the name of the tree is ${name.length} characters and may be ${treeNameSizeMax}`;
  }
  if (name.startsWith(".")) return "the name of the tree begins with a dot";
  if (!/^[A-Za-z0-9._-]+$/.test(name)) {
    return "the name of the tree may have letters, digits, dots, dashes and underscores only";
  }
  return null;
}

/** The 16 octets of a literal IPv4 or IPv6 address (without zone), or null when it is none. */
export function parseIp(text: string): Uint8Array<ArrayBuffer> | null {
  const bytes = new Uint8Array(16);
  if (!text.includes(":")) {
    const v4 = parseIpv4(text);
    if (v4 === null) return null;
    bytes.set([0xff, 0xff, ...v4], 10);
    return bytes;
  }
  if (text.length > 45) return null;
  const halves = text.split("::");
  const [front, back] = halves;
  if (front === undefined || halves.length > 2) return null;
  const head = groupOctets(front, back === undefined);
  const tail = back === undefined ? [] : groupOctets(back, true);
  if (head === null || tail === null) return null;
  const size = head.length + tail.length;
  if (back === undefined ? size !== 16 : size > 14) return null;
  bytes.set(head, 0);
  bytes.set(tail, 16 - tail.length);
  return bytes;
}

/** The octets of colon-separated groups; the last may be an IPv4 address where `isEnd`. */
function groupOctets(text: string, isEnd: boolean): number[] | null {
  if (text === "") return [];
  const octets: number[] = [];
  const groups = text.split(":");
  for (const [index, group] of groups.entries()) {
    if (isEnd && index === groups.length - 1 && group.includes(".")) {
      const v4 = parseIpv4(group);
      if (v4 === null) return null;
      octets.push(...v4);
    } else {
      if (!/^[0-9A-Fa-f]{1,4}$/.test(group)) return null;
      const value = parseInt(group, 16);
      octets.push(value >> 8, value & 0xff);
    }
  }
  return octets;
}

function parseIpv4(text: string): number[] | null {
  if (!/^(?:(?:0|[1-9]\d{0,2})\.){3}(?:0|[1-9]\d{0,2})$/.test(text)) return null;
  const octets = text.split(".").map(Number);
  return octets.every((octet) => octet <= 255) ? octets : null;
}

/** Whether this is a literal loopback address: 127.0.0.0/8 (also mapped into IPv6) or `::1`. */
export function isLoopback(host: string): boolean {
  const bytes = parseIp(host);
  if (bytes === null) return false;
  const prefix = bytes.subarray(0, 10).every((octet) => octet === 0);
  if (!prefix) return false;
  if (bytes[10] === 0xff && bytes[11] === 0xff) return bytes[12] === 127;
  return bytes.subarray(10, 15).every((octet) => octet === 0) && bytes[15] === 1;
}
