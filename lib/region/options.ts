/**
 * What a region is opened with, checked: everything wrong is said before anything is opened.
 *
 * @module
 */
import { isIP } from "node:net";
import type { DirtyMode, FaultMode, Native, RegionSettings, StoreSettings } from "../../ffi/mod.ts";
import { pathFromText } from "../base/path.ts";
import { parseSize } from "../base/size.ts";

/** Bytes of a page: what a fault brings and what a limit counts. */
export const pageSize = 4096;

/** A limit below this must cover the whole region. */
export const limitMin: number = 2 ** 20;

/** The largest region: 1 TiB. */
export const regionSizeMax: number = 2 ** 40;

/** How long a fault spins for its read before it blocks: a little over what a fast SSD takes. */
const spinUs = 60;

/** Bytes, or text like `64MiB`. */
export type Size = number | string;

/** The file below a region. */
export interface SsdOptions {
  /** A directory, for a file without a name; a file that is new or empty; or a block device. Its content does not outlive the region. */
  path: string;
  /** At least as large as the region, which is the default. */
  size?: Size;
  /** Keep the file's name. Without it a file loses its name as soon as it is open, so that a crash leaves nothing. */
  named?: boolean;
  /** Go through the page cache where the file system has no O_DIRECT. Slower, and the cache takes RAM beside the limit. */
  buffered?: boolean;
  /** Write the whole file over first: opening takes a second per GiB, and all later writes are steadier. */
  prewrite?: boolean;
}

/** Memory that a donor lends, as the lease says. */
export interface RemoteSlots {
  /** The donor's numeric IPv4 or IPv6 address. */
  hostname: string;
  /** Of the page channel. */
  port: number;
  /** What the donor knows the lease by: hexadecimal digits. */
  ticket: string;
  /** How pages travel. */
  transport: "tcp" | "rdma";
  /** Whole pages of 4096 bytes. */
  size: Size;
  /** The donor gets ciphertext only, and what it gives back is believed only if it is what was written last. */
  sealed: boolean;
}

/** Memory of other hosts below a region. */
export interface RemoteOptions {
  /** Up to seven beside a file, eight without. */
  donors: readonly RemoteSlots[];
  /**
   * Donors that hold a page: 1, the default, or 2, and then no file is needed. A page that has left RAM is in the file or at two donors;
   * only who gives `copies: 1` and no file trusts one donor alone.
   */
  copies?: 1 | 2;
  /**
   * Where a page goes when it leaves RAM. `remote-first`, the default: to donors while they have room, and to the file as far as `copies`
   * asks for it. `ssd-first`: to the file; donors get what the policy finds cold (`policy.nextSeconds`).
   */
  order?: "remote-first" | "ssd-first";
  /** How long one request to a donor may take before another copy is asked; default 5, at most 60. */
  timeoutSeconds?: number;
}

/** What the policy, which runs in a worker, may do. */
export interface PolicyOptions {
  /** How often it looks, 10 to 100 times a second; default 20. */
  hertz?: number;
  /** After this many seconds without a touch a page gives up its RAM even when nobody needs it; default never. */
  idleSeconds?: number;
  /**
   * After this many seconds without a touch a page goes on to the next store: with `remote-first` it stays in the file alone and its
   * donors have room for a warmer one, with `ssd-first` donors get a copy. Default: never.
   */
  nextSeconds?: number;
  /** Give RAM back down to this, as long as nobody waits for it; default: the limit, which never gives back. */
  limitMin?: Size;
}

/** How to open a region. */
export interface RegionOptions {
  /** Whole pages of 4096 bytes; a multiple of it. */
  size: Size;
  /** RAM that all its pages together may take; at least 1 MiB, or all of a smaller region. */
  limit: Size;
  /** The file where cold pages go. May be left out where `remote.copies` is given. */
  ssd?: SsdOptions;
  /** Where else. */
  remote?: RemoteOptions;
  /**
   * Who fetches a cold page. `inline`, the default and much the faster one: the thread that touches it. System calls cannot touch cold
   * pages then; `pin` first. `thread`: a thread of the region, and system calls just work.
   */
  faults?: FaultMode;
  /**
   * How a changed page is told from an unchanged one when it leaves. `hash`, the default: by its checksum. `wp`: by its first
   * write, which costs a fault. `async`: as `hash`, and `harvest` says which pages were written.
   */
  dirty?: DirtyMode;
  /** The policy in a worker: on by default; false for none, which costs quality and never safety. */
  policy?: boolean | PolicyOptions;
  /** The native library; by default that of this machine. */
  native?: Native;
}

/** A policy's options, in the units it works with. */
export interface PolicyPlan {
  /** Steps in a second. */
  hertz: number;
  /** Idle time after which a page leaves, in milliseconds; Infinity for never. */
  idleMs: number;
  /** Idle time after which a page goes to the next store, in milliseconds; never unless given. */
  nextMs?: number;
  /** In pages. */
  limitMinPages: number;
}

/** Options as numbers. */
export interface CheckedOptions {
  /** For the native library. */
  settings: RegionSettings;
  /** Null without a policy. */
  policy: PolicyPlan | null;
}

/** Bytes of a size. @throws {RangeError} for text that is none, and for a number that is no whole number of bytes. */
export function bytesOf(size: Size, name: string): number {
  const bytes = typeof size === "string" ? parseSize(size) : size;
  if (!Number.isSafeInteger(bytes) || bytes < 0) {
    throw new RangeError(`Cannot use ${bytes} for ${name}: it should be a whole number of bytes`);
  }
  return bytes;
}

/**
 * Checks options.
 *
 * @throws {RangeError} for a value out of its range
 * @throws {TypeError} for a word that is none of those allowed
 */
export function checkOptions(options: Omit<RegionOptions, "native">): CheckedOptions {
  const { ssd, faults = "inline", dirty = "hash", policy = true } = options;
  const size = bytesOf(options.size, "size");
  const limit = bytesOf(options.limit, "limit");
  const ssdSize = ssd?.size === undefined ? size : bytesOf(ssd.size, "ssd.size");
  if (size === 0 || size % pageSize !== 0 || size > regionSizeMax) {
    throw new RangeError(
      `Cannot open a region of ${size} bytes: the size should be a multiple of ${pageSize}, at most ${regionSizeMax}`,
    );
  }
  if (limit < Math.min(limitMin, size)) {
    throw new RangeError(
      `Cannot open a region with a limit of ${limit} bytes: it should be at least ${
        Math.min(limitMin, size)
      }`,
    );
  }
  if (ssdSize < size) {
    throw new RangeError(
      `Cannot open a region of ${size} bytes on ${ssdSize} bytes of SSD: every page should have its place there`,
    );
  }
  oneOf(faults, ["inline", "thread"], "faults");
  oneOf(dirty, ["hash", "wp", "async"], "dirty");
  return {
    settings: {
      size,
      limit,
      ssd: { path: pathFromText(nameOf(options)), size: ssdSize, anonymous: ssd?.named !== true },
      faults,
      dirty,
      spinUs,
      prewrite: ssd?.prewrite === true,
      buffered: ssd?.buffered === true,
      ...storesOf(options, { size, ssdSize }),
    },
    policy: policy === false ? null : checkPolicy(policy === true ? {} : policy, limit),
  };
}

function checkPolicy(policy: PolicyOptions, limit: number): PolicyPlan {
  const { hertz = 20, idleSeconds = Infinity, nextSeconds } = policy;
  const least = policy.limitMin === undefined ? limit : bytesOf(policy.limitMin, "policy.limitMin");
  if (!(hertz >= 10 && hertz <= 100)) {
    throw new RangeError(`Cannot run a policy ${hertz} times a second: it should be 10 to 100 times`);
  }
  for (const seconds of [idleSeconds, nextSeconds ?? Infinity]) {
    if (!(seconds > 0)) {
      throw new RangeError(`Cannot send pages out after ${seconds} seconds: it should be more than 0`);
    }
  }
  if (least < Math.min(limitMin, limit) || least > limit) {
    throw new RangeError(
      `Cannot give RAM back down to ${least} bytes: it should be from ${
        Math.min(limitMin, limit)
      } to the limit, ${limit}`,
    );
  }
  return {
    hertz,
    idleMs: idleSeconds * 1000,
    ...(nextSeconds === undefined ? {} : { nextMs: nextSeconds * 1000 }),
    limitMinPages: Math.floor(least / pageSize),
  };
}

function oneOf(value: string, known: readonly string[], name: string): void {
  if (!known.includes(value)) {
    throw new TypeError(`Cannot use "${value}" for ${name}: it should be one of ${known.join(", ")}`);
  }
}

/** What a region is called in errors. */
export function nameOf(options: Pick<RegionOptions, "ssd" | "remote">): string {
  const donor = options.remote?.donors[0];
  return options.ssd?.path ?? (donor === undefined ? "" : `${donor.hostname}:${donor.port}`);
}

/** The most stores of one region. */
const storesMax = 8;

const ticketForm = /^[0-9a-f]{2,128}$/;

/** Stores in the order in which they are filled; none for a file alone. */
function storesOf(
  options: Pick<RegionOptions, "ssd" | "remote">,
  sizes: { size: number; ssdSize: number },
): Partial<Pick<RegionSettings, "stores" | "copies">> {
  const { ssd, remote } = options;
  if (remote === undefined) {
    if (ssd !== undefined) return {};
    throw new TypeError("Cannot open a region without a place for cold pages: it should have ssd, or remote");
  }
  const { donors, copies, order = "remote-first", timeoutSeconds = 5 } = remote;
  oneOf(order, ["remote-first", "ssd-first"], "remote.order");
  if (ssd === undefined && copies === undefined) {
    throw new TypeError(
      "Cannot open a region on donors alone: it should have ssd, or remote.copies: 2, or remote.copies: 1 if one donor is trusted not to fail",
    );
  }
  if (copies !== undefined && copies !== 1 && copies !== 2) {
    throw new RangeError(`Cannot keep ${copies} copies of a page at donors: it should be 1 or 2`);
  }
  const donorsMax = ssd === undefined ? storesMax : storesMax - 1;
  if (
    donors.length === 0 || donors.length > donorsMax || donors.length < (ssd === undefined ? copies ?? 1 : 1)
  ) {
    throw new RangeError(
      `Cannot open a region with ${donors.length} donors: it should be 1 to ${donorsMax}, and one for each copy`,
    );
  }
  if (!(timeoutSeconds >= 0.001 && timeoutSeconds <= 60)) {
    throw new RangeError(`Cannot wait ${timeoutSeconds} seconds for a donor: it should be up to 60`);
  }
  const lent = donors.map((slots) => donorStore(slots, Math.round(timeoutSeconds * 1000)));
  const room = lent.reduce((sum, { size }) => sum + Math.min(size, sizes.size), 0);
  if (ssd === undefined && room < sizes.size * (copies ?? 1)) {
    throw new RangeError(
      `Cannot keep ${copies} copies of ${sizes.size} bytes at donors that lend ${room} bytes: every page should have its place`,
    );
  }
  const file: StoreSettings[] = ssd === undefined
    ? []
    : [{ kind: "file", path: pathFromText(ssd.path), size: sizes.ssdSize }];
  return {
    stores: order === "ssd-first" ? [...file, ...lent] : [...lent, ...file],
    copies: copies ?? 1,
  };
}

/** A lease as a store. @throws {RangeError} where it cannot be one */
export function donorStore(slots: RemoteSlots, timeoutMs: number): StoreSettings {
  const { hostname, port, ticket, transport, sealed } = slots;
  const size = bytesOf(slots.size, "the size of a donor");
  if (isIP(hostname) === 0) {
    throw new RangeError(`Cannot reach a donor at "${hostname}": it should be a numeric address`);
  }
  if (!Number.isInteger(port) || port < 1 || port > 65535) {
    throw new RangeError(`Cannot reach a donor at port ${port}: it should be 1 to 65535`);
  }
  if (!ticketForm.test(ticket)) {
    // Not shown: it is as good as a key.
    throw new RangeError("Cannot use that ticket: it should be up to 128 hexadecimal digits");
  }
  if (size === 0 || size % pageSize !== 0 || size > regionSizeMax) {
    throw new RangeError(
      `Cannot use ${size} bytes of a donor: it should be a multiple of ${pageSize}, at most ${regionSizeMax}`,
    );
  }
  oneOf(transport, ["tcp", "rdma"], "transport");
  return {
    kind: transport === "tcp" ? "nbd" : "verbs",
    path: pathFromText(hostname),
    name: ticket,
    port,
    size,
    sealed,
    timeoutMs,
  };
}
