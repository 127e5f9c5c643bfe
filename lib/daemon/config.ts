/**
 * `drover.json`: what a node is called, where it listens, what it lends, and whom it borrows from. `CONFIG.md` says what each
 * key means.
 *
 * Invariants: a file is taken whole or not at all; every mistake is refused with the line it stands on, and a key that
 * nobody knows is a mistake.
 *
 * @module
 */
import { dirname, resolve } from "node:path";
import { parseDuration } from "../base/duration.ts";
import { DroverError } from "../base/errors.ts";
import { type JsonNode, jsonSizeMax, parseJsonSource } from "../base/json_source.ts";
import { type LogFormat, type LogLevel, logLevels } from "../base/log.ts";
import { parseSize } from "../base/size.ts";
import { nodeNameFault, sameHost } from "../cluster/mod.ts";
import { parseIp } from "../net/address.ts";
import { type Address, formatAddress, isLoopback, parseAddress } from "../net/mod.ts";

/** Bounds of what a node lends; DONOR.md has the defaults. */
export interface DonorLimits {
  /** Leases at once. */
  leases?: number;
  /** Leases of one borrower. */
  leasesPerBorrower?: number;
  /** Borrowers at once. */
  borrowers?: number;
  /** Page channels at once. */
  pageChannels?: number;
  /** Milliseconds that a lease lives without its borrower. */
  graceMs?: number;
  /** Milliseconds that borrowers have after a recall. */
  recallMs?: number;
}

/** A configuration; what the file does not say is absent. */
export interface Config {
  /** The file, absolute. */
  path: string;
  /** What this node is called. */
  name?: string;
  /** Where it listens. */
  listen?: string;
  /** The port of page channels. */
  pagePort?: number;
  /** The numeric address of an RDMA adapter that lends too. */
  rdma?: string;
  /** The directory of its trees, absolute. */
  root?: string;
  /** The key file, absolute. */
  key?: string;
  /** Bytes that it lends at most; 0 for none. */
  donate?: number;
  /** Donors it borrows from, with the line of the file that names them. */
  peers: readonly (Address & { line: number })[];
  /** Donors that keep each page. */
  copies?: 1 | 2;
  /** Pages are sealed before they leave. */
  sealed?: boolean;
  /** Milliseconds without a touch until a page may go to SSD. */
  t1Ms?: number;
  /** Milliseconds without a touch until a page may go to another host. */
  t2Ms?: number;
  /** Bounds of what it lends. */
  limits: DonorLimits;
  /** What is logged, and how. */
  log: { level?: LogLevel; format?: LogFormat };
}

/** Donors of one configuration. */
const peersMax = 64;

/**
 * Reads a file.
 *
 * @throws {DroverError} code `usage`: the message says file and line
 */
export async function readConfig(path: string): Promise<Config> {
  const absolute = resolve(path);
  let text: string;
  try {
    using file = await Deno.open(absolute, { read: true });
    const bytes = new Uint8Array(jsonSizeMax + 1);
    let size = 0;
    for (let read: number | null; (read = await file.read(bytes.subarray(size))) !== null && read > 0;) {
      size += read;
    }
    if (size > jsonSizeMax) throw new RangeError(`it has more than ${jsonSizeMax} bytes`);
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes.subarray(0, size));
  } catch (error) {
    throw new DroverError("usage", `Cannot read the configuration "${path}"`, { cause: error });
  }
  return parseConfig(text, absolute);
}

/** Reads the text of a configuration. @param path absolute; paths in it are relative to its directory */
export function parseConfig(text: string, path: string): Config {
  let node: JsonNode;
  try {
    node = parseJsonSource(text);
  } catch (error) {
    throw new DroverError("usage", `Cannot use the configuration "${path}"`, { cause: error });
  }
  const file = new Section(node, { path, name: "" });
  const base = dirname(path);
  const config: Config = {
    path,
    ...file.optional("name", (item) => item.text(nodeNameFault)),
    ...file.optional("listen", (item) => formatAddress(item.parsed(parseAddress))),
    ...file.optional("pagePort", (item) => item.count(0, 65_535)),
    ...file.optional("rdma", (item) => item.text(addressFault)),
    ...file.optional("root", (item) => resolve(base, item.text(emptyFault))),
    ...file.optional("key", (item) => resolve(base, item.text(emptyFault))),
    ...file.optional("donate", (item) => item.size()),
    peers: file.optional(
      "peers",
      (item) => item.list(peersMax).map((peer) => ({ ...peer.parsed(peerAddress), line: peer.line })),
    )["peers"] ??
      [],
    ...file.optional("copies", (item) => item.count(1, 2) === 2 ? 2 : 1),
    ...file.optional("sealed", (item) => item.flag()),
    ...rename(file.optional("t1", (item) => item.duration()), "t1", "t1Ms"),
    ...rename(file.optional("t2", (item) => item.duration()), "t2", "t2Ms"),
    limits: file.optional("limits", (item) => readLimits(item.section()))["limits"] ?? {},
    log: file.optional("log", (item) => readLog(item.section()))["log"] ?? {},
  };
  file.done();
  return config;
}

function readLimits(section: Section): DonorLimits {
  const limits: DonorLimits = {
    ...section.optional("leases", (item) => item.count(1, 1024)),
    ...section.optional("leasesPerBorrower", (item) => item.count(1, 512)),
    ...section.optional("borrowers", (item) => item.count(1, 65_536)),
    ...section.optional("pageChannels", (item) => item.count(1, 65_536)),
    ...rename(section.optional("grace", (item) => item.duration()), "grace", "graceMs"),
    ...rename(section.optional("recall", (item) => item.duration()), "recall", "recallMs"),
  };
  section.done();
  return limits;
}

function readLog(section: Section): Config["log"] {
  const log = {
    ...section.optional("level", (item) => item.choice(logLevels)),
    ...section.optional("format", (item) => item.choice(["text", "json"] as const)),
  };
  section.done();
  return log;
}

function peerAddress(text: string): Address {
  const address = parseAddress(text);
  if (address.host === "" || address.port === 0) throw new RangeError(`"${text}" names no host and port`);
  return address;
}

function addressFault(text: string): string | null {
  return parseIp(text) === null ? "it should be a numeric address" : null;
}

function emptyFault(text: string): string | null {
  return text === "" || text.includes("\0") ? "it should be a path" : null;
}

function rename<From extends string, To extends string, T>(
  given: { [key in From]?: T },
  from: From,
  to: To,
): { [key in To]?: T } {
  const value = given[from];
  return (value === undefined ? {} : { [to]: value }) as { [key in To]?: T };
}

interface Place {
  path: string;
  /** Of the value, with the names of the objects around it. */
  name: string;
}

/** An object of the file. */
class Section {
  readonly #members: Map<string, JsonNode & { keyLine: number }>;
  readonly #place: Place;
  readonly #known: string[] = [];

  constructor(node: JsonNode, place: Place) {
    if (!(node.value instanceof Map)) throw refusal(node.line, place, "it should be an object");
    this.#members = new Map(node.value);
    this.#place = place;
  }

  /** A key, read if it is there. */
  optional<Key extends string, T>(key: Key, read: (item: Item) => T): { [key in Key]?: T } {
    this.#known.push(key);
    const node = this.#members.get(key);
    if (node === undefined) return {};
    this.#members.delete(key);
    const { path, name } = this.#place;
    const value = read(new Item(node, { path, name: name === "" ? key : `${name}.${key}` }));
    return { [key]: value } as { [key in Key]?: T };
  }

  /** Refuses what nobody read. */
  done(): void {
    for (const [key, { keyLine }] of this.#members) {
      const { path, name } = this.#place;
      const full = name === "" ? key : `${name}.${key}`;
      throw new DroverError(
        "usage",
        `Cannot use the configuration "${path}": line ${keyLine}: there is no key ${
          JSON.stringify(full.slice(0, 80))
        }`,
        { hint: `keys${name === "" ? "" : ` of "${name}"`}: ${this.#known.join(", ")}` },
      );
    }
  }
}

/** A value of the file. */
class Item {
  readonly #node: JsonNode;
  readonly #place: Place;

  constructor(node: JsonNode, place: Place) {
    this.#node = node;
    this.#place = place;
  }

  get line(): number {
    return this.#node.line;
  }

  text(fault: (text: string) => string | null): string {
    const { value } = this.#node;
    if (typeof value !== "string") throw this.#refuse("it should be text in quotes");
    const wrong = fault(value);
    if (wrong !== null) throw this.#refuse(wrong);
    return value;
  }

  /** Text that something else reads. */
  parsed<T>(parse: (text: string) => T): T {
    const text = this.text(() => null);
    try {
      return parse(text);
    } catch (error) {
      throw this.#refuse(error instanceof Error ? error.message : String(error));
    }
  }

  count(least: number, most: number): number {
    const { value } = this.#node;
    if (typeof value !== "number" || !Number.isInteger(value) || value < least || value > most) {
      throw this.#refuse(`it should be a whole number from ${least} to ${most}`);
    }
    return value;
  }

  flag(): boolean {
    const { value } = this.#node;
    if (typeof value !== "boolean") throw this.#refuse("it should be true or false");
    return value;
  }

  size(): number {
    const { value } = this.#node;
    if (typeof value === "number") return this.count(0, Number.MAX_SAFE_INTEGER);
    if (typeof value !== "string") throw this.#refuse('it should be bytes, or text like "4GiB"');
    return this.parsed(parseSize);
  }

  /** Milliseconds. */
  duration(): number {
    if (typeof this.#node.value !== "string") throw this.#refuse('it should be text like "30s"');
    return this.parsed(parseDuration);
  }

  choice<T extends string>(words: readonly T[]): T {
    const { value } = this.#node;
    const found = words.find((word) => word === value);
    if (found === undefined) throw this.#refuse(`it should be one of ${words.join(", ")}`);
    return found;
  }

  list(most: number): Item[] {
    const { value } = this.#node;
    if (!Array.isArray(value) || value.length > most) {
      throw this.#refuse(`it should be a list of at most ${most}`);
    }
    const { path, name } = this.#place;
    return value.map((node: JsonNode, at) => new Item(node, { path, name: `${name}[${at}]` }));
  }

  section(): Section {
    return new Section(this.#node, this.#place);
  }

  #refuse(message: string): DroverError {
    return refusal(this.#node.line, this.#place, message);
  }
}

function refusal(line: number, { path, name }: Place, message: string): DroverError {
  return new DroverError(
    "usage",
    `Cannot use the configuration "${path}": line ${line}: ${name === "" ? "" : `"${name}": `}${message}`,
  );
}

/**
 * Refuses peers that are this node itself: lending to oneself makes no room.
 *
 * @param own where this node really listens
 * @param addresses literal addresses of this machine
 * @throws {DroverError} code `usage`, with the line
 */
export function checkPeers(
  config: Pick<Config, "path" | "peers">,
  own: Address,
  addresses: readonly string[],
): void {
  const { path, peers } = config;
  const isWildcard = own.host === "" || sameHost(own.host, "0.0.0.0") || sameHost(own.host, "::");
  for (const [at, { host, port, line }] of peers.entries()) {
    const names = host === "localhost" || host === Deno.hostname();
    const isOwn = isWildcard
      ? names || isLoopback(host) || addresses.some((address) => sameHost(address, host))
      : sameHost(own.host, host) || (names && isLoopback(own.host));
    if (port === own.port && isOwn) {
      throw refusal(line, { path, name: `peers[${at}]` }, "it is this node itself");
    }
  }
}
