/**
 * What a borrower and a donor say to each other. `DONOR.md` has the whole conversation.
 *
 * Invariants: every body is bounded before it is read (`clusterLimits`), every field is checked before it is used, and
 * a size that arrives is whole pages within the bounds of a lease.
 *
 * @module
 */
import { type DroverCode, DroverError } from "../base/errors.ts";
import { Fields, printable } from "../base/fields.ts";
import { endType } from "../stream/mod.ts";

/** The version of the conversation; both sides must speak the same. */
export const clusterProtocol = 1;

/** Record types. */
export const clusterRecord = {
  hello: 0x301,
  welcome: 0x302,
  lend: 0x303,
  lent: 0x304,
  renew: 0x305,
  renewed: 0x306,
  recall: 0x307,
  return: 0x308,
  returned: 0x309,
  list: 0x30a,
  listed: 0x30b,
  error: 0x3ff,
} as const;

/** Bytes that leases are counted in. */
export const pageSize = 4096;
/** The smallest lease, in bytes. */
export const leaseSizeMin: number = 2 ** 20;
/** The largest lease, in bytes: what one buffer of the runtime can hold. */
export const leaseSizeMax: number = 2 ** 34;
/** Leases of one donor. */
export const leasesMax = 1024;
/** Leases of one borrower at one donor: their tickets fit into one RENEW. */
export const claimsMax = 512;
/** Octets of a ticket, which is twice as many hex digits. */
export const ticketSize = 32;
/** Octets of an instance. */
export const instanceSize = 16;

const messageSizeMax = 65_536;
const listedSizeMax = 2 ** 21;
const nameLengthMax = 64;
const errorLengthMax = 4096;
const requestMax = 2 ** 32 - 1;
const millisecondsMax = 2 ** 40;
const portMax = 65_535;

/** The largest body per record type; -1 refuses what the conversation does not have. */
export function clusterLimits(type: number): number {
  if (type === endType) return 0;
  if (type === clusterRecord.listed) return listedSizeMax;
  return knownTypes.has(type) ? messageSizeMax : -1;
}

const knownTypes: ReadonlySet<number> = new Set(Object.values(clusterRecord));

/** HELLO. */
export interface BorrowerHello {
  /** For people. */
  name: string;
  /** This process. */
  instance: string;
}

/** WELCOME. */
export interface DonorWelcome {
  /** The donor's, unique in the cluster. */
  name: string;
  /** The donor's process. */
  instance: string;
  /** Bytes it lends at most. */
  budget: number;
  /** Bytes of them that nobody has. */
  free: number;
  /** Milliseconds that an unattended lease lives. */
  graceMs: number;
  /** Milliseconds within which a RENEW is due. */
  renewMs: number;
}

/** LEND. */
export interface LendRequest {
  request: number;
  /** Bytes that are wanted. */
  size: number;
  /** Bytes that will do. */
  least: number;
}

/** A lease as its borrower hears of it. */
export interface LeasePlace {
  lease: number;
  /** Bytes. */
  size: number;
  /** Where the page channel listens. */
  port: number;
  /** Where RDMA connections are taken; null for nowhere. */
  rdmaPort: number | null;
}

/** LENT. */
export interface LentAnswer extends LeasePlace {
  request: number;
  ticket: string;
}

/** RENEW. */
export interface RenewRequest {
  request: number;
  /** Tickets of leases that were this borrower's before the connection was cut. */
  claim: readonly string[];
}

/** RENEWED. */
export interface RenewedAnswer {
  request: number;
  /** Per ticket. */
  claimed: readonly (LeasePlace | null)[];
  free: number;
}

/** RECALL. */
export interface RecallNotice {
  lease: number;
  /** Milliseconds until the memory is taken. */
  withinMs: number;
}

/** RETURN. */
export interface ReturnRequest {
  request: number;
  lease: number;
}

/** RETURNED. */
export interface ReturnedAnswer extends ReturnRequest {
  free: number;
}

/** What a lease is doing. */
export type LeaseState = "attended" | "unattended" | "recalled";

/** A lease as people see it. */
export interface LeaseStatus {
  /** Its number at this donor. */
  lease: number;
  /** What the borrower calls itself. */
  borrower: string;
  /** Where the borrower is. */
  address: string;
  /** Bytes. */
  size: number;
  /** What it is doing. */
  state: LeaseState;
  /** Milliseconds since it was lent. */
  ageMs: number;
  /** Page channels now. */
  connections: number;
  /** Octets of pages that were read, by the page channels there are now and those that ended. */
  readBytes: number;
  /** Octets of pages that were written, counted alike. */
  writtenBytes: number;
  /** Requests, counted alike. */
  requests: number;
}

/** LISTED. */
export interface DonorStatus {
  /** The donor's. */
  name: string;
  /** Bytes it lends at most. */
  budget: number;
  /** Bytes that are lent. */
  lent: number;
  /** Bytes that nobody has. */
  free: number;
  /** Milliseconds since it began to lend. */
  uptimeMs: number;
  /** In the order they were lent. */
  leases: readonly LeaseStatus[];
}

/** Packs a message. */
export function encode(message: object): Uint8Array {
  return new TextEncoder().encode(JSON.stringify(message));
}

/** Packs a HELLO. */
export function encodeHello(hello: BorrowerHello): Uint8Array {
  return encode({ protocol: clusterProtocol, ...hello });
}

/** Packs a LIST. */
export function encodeList(): Uint8Array {
  return encode({ protocol: clusterProtocol });
}

/** Reads a HELLO. @throws {FormatError}, {DroverError} code `protocol` for another version */
export function decodeHello(body: Uint8Array): BorrowerHello {
  const fields = fieldsOf(body, "hello");
  checkProtocol(fields);
  return { name: nameOf(fields, "name"), instance: hexOf(fields, "instance", instanceSize) };
}

/** Reads a LIST. */
export function decodeList(body: Uint8Array): void {
  checkProtocol(fieldsOf(body, "list"));
}

/** Reads a WELCOME. */
export function decodeWelcome(body: Uint8Array): DonorWelcome {
  const fields = fieldsOf(body, "welcome");
  if (fields.count("pageSize", 2 ** 30) !== pageSize) throw fields.fail("pageSize", `must be ${pageSize}`);
  const renewMs = fields.count("renewMs", millisecondsMax);
  if (renewMs < 10) throw fields.fail("renewMs", "must be at least 10");
  return {
    name: nameOf(fields, "name"),
    instance: hexOf(fields, "instance", instanceSize),
    budget: sizeOf(fields, "budget"),
    free: sizeOf(fields, "free"),
    graceMs: fields.count("graceMs", millisecondsMax),
    renewMs,
  };
}

/** Reads a LEND. */
export function decodeLend(body: Uint8Array): LendRequest {
  const fields = fieldsOf(body, "lend");
  const size = leaseSizeOf(fields, "size");
  const least = leaseSizeOf(fields, "least");
  if (least > size) throw fields.fail("least", "must not be more than size");
  return { request: fields.count("request", requestMax), size, least };
}

/** Reads a LENT. */
export function decodeLent(body: Uint8Array): LentAnswer {
  const fields = fieldsOf(body, "lent");
  return {
    request: fields.count("request", requestMax),
    ticket: hexOf(fields, "ticket", ticketSize),
    ...placeOf(fields),
  };
}

/** Reads a RENEW. */
export function decodeRenew(body: Uint8Array): RenewRequest {
  const fields = fieldsOf(body, "renew");
  const claim = fields.texts("claim", claimsMax, 2 * ticketSize);
  if (!claim.every((ticket) => isHex(ticket, ticketSize))) throw fields.fail("claim", "must hold tickets");
  return { request: fields.count("request", requestMax), claim };
}

/** Reads a RENEWED. */
export function decodeRenewed(body: Uint8Array): RenewedAnswer {
  const fields = fieldsOf(body, "renewed");
  return {
    request: fields.count("request", requestMax),
    claimed: fields.optionalList("claimed", claimsMax).map((item) => item === null ? null : placeOf(item)),
    free: sizeOf(fields, "free"),
  };
}

/** Reads a RECALL. */
export function decodeRecall(body: Uint8Array): RecallNotice {
  const fields = fieldsOf(body, "recall");
  return { lease: fields.count("lease", requestMax), withinMs: fields.count("withinMs", millisecondsMax) };
}

/** Reads a RETURN. */
export function decodeReturn(body: Uint8Array): ReturnRequest {
  const fields = fieldsOf(body, "return");
  return { request: fields.count("request", requestMax), lease: fields.count("lease", requestMax) };
}

/** Reads a RETURNED. */
export function decodeReturned(body: Uint8Array): ReturnedAnswer {
  const fields = fieldsOf(body, "returned");
  return {
    request: fields.count("request", requestMax),
    lease: fields.count("lease", requestMax),
    free: sizeOf(fields, "free"),
  };
}

/** Reads a LISTED. */
export function decodeListed(body: Uint8Array): DonorStatus {
  const fields = fieldsOf(body, "listed");
  return {
    name: nameOf(fields, "name"),
    budget: sizeOf(fields, "budget"),
    lent: sizeOf(fields, "lent"),
    free: sizeOf(fields, "free"),
    uptimeMs: fields.count("uptimeMs", millisecondsMax),
    leases: fields.list("leases", leasesMax).map(leaseOf),
  };
}

function leaseOf(fields: Fields): LeaseStatus {
  const state = fields.text("state", 16);
  if (state !== "attended" && state !== "unattended" && state !== "recalled") {
    throw fields.fail("state", "is unknown");
  }
  return {
    lease: fields.count("lease", requestMax),
    borrower: nameOf(fields, "borrower"),
    address: printable(fields.text("address", 300)),
    size: sizeOf(fields, "size"),
    state,
    ageMs: fields.count("ageMs", millisecondsMax),
    connections: fields.count("connections", requestMax),
    readBytes: sizeOf(fields, "readBytes"),
    writtenBytes: sizeOf(fields, "writtenBytes"),
    requests: sizeOf(fields, "requests"),
  };
}

/** Packs an ERROR. @param request the message that was refused; null when the conversation is over */
export function encodeError(error: unknown, request: number | null): Uint8Array {
  const cut = (text: string): string => text.slice(0, errorLengthMax);
  const message = cut(error instanceof Error ? error.message : String(error));
  if (!(error instanceof DroverError)) return encode({ request, code: "protocol", message });
  const { code, hint } = error;
  return encode({ request, code, message, ...hint === undefined ? {} : { hint: cut(hint) } });
}

/** Reads an ERROR: what it refuses, and the error as ours. */
export function decodeError(body: Uint8Array, peer: string): { request: number | null; error: DroverError } {
  const fields = fieldsOf(body, "error");
  const code = fields.text("code", 64);
  const message = printable(fields.text("message", errorLengthMax));
  const hint = fields.optionalText("hint", errorLengthMax);
  return {
    request: fields.optionalCount("request", requestMax),
    error: new DroverError(codes.has(code) ? code as DroverCode : "protocol", `${peer} refused: ${message}`, {
      ...hint === undefined ? {} : { hint: printable(hint) },
    }),
  };
}

/** The codes that a donor refuses with. */
const codes: ReadonlySet<string> = new Set<DroverCode>([
  "usage",
  "busy",
  "auth",
  "protocol",
  "format",
  "unsupported",
  "no-space",
  "io",
]);

/** What is wrong with the name of a node, or null. */
export function nodeNameFault(name: string): string | null {
  return /^[A-Za-z0-9._-]{1,64}$/.test(name)
    ? null
    : `it should be 1 to ${nameLengthMax} letters, digits, dots, dashes and underscores`;
}

function fieldsOf(body: Uint8Array, what: string): Fields {
  return new Fields(body, { prefix: "donor", what });
}

function checkProtocol(fields: Fields): void {
  const version = fields.count("protocol", 1_000_000);
  if (version === clusterProtocol) return;
  throw new DroverError(
    "protocol",
    `Cannot talk protocol ${version} about memory: this node speaks ${clusterProtocol}`,
  );
}

function nameOf(fields: Fields, key: string): string {
  const name = fields.text(key, nameLengthMax);
  const fault = nodeNameFault(name);
  if (fault !== null) throw fields.fail(key, fault);
  return name;
}

function hexOf(fields: Fields, key: string, octets: number): string {
  const text = fields.text(key, 2 * octets);
  if (!isHex(text, octets)) throw fields.fail(key, `must be ${2 * octets} hex digits`);
  return text;
}

function isHex(text: string, octets: number): boolean {
  return text.length === 2 * octets && /^[0-9a-f]*$/.test(text);
}

function sizeOf(fields: Fields, key: string): number {
  return fields.count(key, Number.MAX_SAFE_INTEGER);
}

function leaseSizeOf(fields: Fields, key: string): number {
  const size = sizeOf(fields, key);
  if (size < leaseSizeMin || size > leaseSizeMax || size % pageSize !== 0) {
    throw fields.fail(
      key,
      `must be a multiple of ${pageSize}, at least ${leaseSizeMin} and at most ${leaseSizeMax}`,
    );
  }
  return size;
}

function placeOf(fields: Fields): LeasePlace {
  const port = fields.count("port", portMax);
  if (port === 0) throw fields.fail("port", "must not be 0");
  return {
    lease: fields.count("lease", requestMax),
    size: leaseSizeOf(fields, "size"),
    port,
    rdmaPort: fields.optionalCount("rdmaPort", portMax),
  };
}
