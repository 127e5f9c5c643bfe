/**
 * What a region is opened with, checked: everything wrong is said before anything is opened.
 *
 * @module
 */
import type { DirtyMode, FaultMode, Native, RegionSettings } from "../../ffi/mod.ts";
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

/** What the policy, which runs in a worker, may do. */
export interface PolicyOptions {
  /** How often it looks, 10 to 100 times a second; default 20. */
  hertz?: number;
  /** After this many seconds without a touch a page gives up its RAM even when nobody needs it; default never. */
  idleSeconds?: number;
  /** Give RAM back down to this, as long as nobody waits for it; default: the limit, which never gives back. */
  limitMin?: Size;
}

/** How to open a region. */
export interface RegionOptions {
  /** Whole pages of 4096 bytes; a multiple of it. */
  size: Size;
  /** RAM that all its pages together may take; at least 1 MiB, or all of a smaller region. */
  limit: Size;
  /** Where cold pages go. */
  ssd: SsdOptions;
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
  const ssdSize = ssd.size === undefined ? size : bytesOf(ssd.size, "ssd.size");
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
      ssd: { path: pathFromText(ssd.path), size: ssdSize, anonymous: ssd.named !== true },
      faults,
      dirty,
      spinUs,
      prewrite: ssd.prewrite === true,
      buffered: ssd.buffered === true,
    },
    policy: policy === false ? null : checkPolicy(policy === true ? {} : policy, limit),
  };
}

function checkPolicy(policy: PolicyOptions, limit: number): PolicyPlan {
  const { hertz = 20, idleSeconds = Infinity } = policy;
  const least = policy.limitMin === undefined ? limit : bytesOf(policy.limitMin, "policy.limitMin");
  if (!(hertz >= 10 && hertz <= 100)) {
    throw new RangeError(`Cannot run a policy ${hertz} times a second: it should be 10 to 100 times`);
  }
  if (!(idleSeconds > 0)) {
    throw new RangeError(`Cannot send pages out after ${idleSeconds} seconds: it should be more than 0`);
  }
  if (least < Math.min(limitMin, limit) || least > limit) {
    throw new RangeError(
      `Cannot give RAM back down to ${least} bytes: it should be from ${
        Math.min(limitMin, limit)
      } to the limit, ${limit}`,
    );
  }
  return { hertz, idleMs: idleSeconds * 1000, limitMinPages: Math.floor(least / pageSize) };
}

function oneOf(value: string, known: readonly string[], name: string): void {
  if (!known.includes(value)) {
    throw new TypeError(`Cannot use "${value}" for ${name}: it should be one of ${known.join(", ")}`);
  }
}
