/**
 * Who is who: hosts as addresses, and the random numbers that name processes and open leases.
 *
 * @module
 */
import { toHex } from "../base/hex.ts";
import { parseIp } from "../net/address.ts";
import { type Channel, parseAddress } from "../net/mod.ts";
import { instanceSize } from "./messages.ts";

/** The host of a control that was accepted, as the page channels name it. */
export function hostOf(channel: Channel): string {
  return parseAddress(channel.peer).host;
}

/** Whether two literal addresses are one host: IPv4 mapped into IPv6 is the same address. */
export function sameHost(left: string, right: string): boolean {
  const [a, b] = [parseIp(left), parseIp(right)];
  if (a === null || b === null) return left === right;
  return a.every((octet, at) => octet === b[at]);
}

/** So many random octets, as hex digits. */
export function randomHex(octets: number): string {
  return toHex(crypto.getRandomValues(new Uint8Array(octets)));
}

/** This process, as borrowers name it: 32 hex digits. */
export const processInstance: string = randomHex(instanceSize);

/** What a host may be called: its host name, without what a name cannot have. */
export function defaultNodeName(hostname: string): string {
  const name = hostname.replace(/[^A-Za-z0-9._-]/g, "-").slice(0, 64);
  return name === "" ? "unnamed" : name;
}
