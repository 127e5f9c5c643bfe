/**
 * Memory larger than its RAM, as one Uint8Array.
 *
 * Invariants:
 * - `bytes` is the memory itself: reading and writing it are plain accesses, and a cold page comes by itself.
 * - The RAM of all pages together stays within the limit, whatever the policy does or fails to do.
 * - A page that cannot be had raises SIGBUS in the thread that touches it, which ends a Deno program with a line on
 *   standard error that says why. `pin` and `snapshot` find out without being killed: they throw, and `events` tells.
 * - After `close` every view of `bytes` is empty, and every method throws.
 *
 * @module
 */
import type { Native, NativeRegion, PageSpan, RegionEvent, RegionStats, StoreStatus } from "../../ffi/mod.ts";
import { openNative } from "../../ffi/mod.ts";
import type { Advice } from "../tier/mod.ts";
import { DonorSet } from "./donor_set.ts";
import {
  bytesOf,
  checkOptions,
  limitMin,
  pageSize,
  type RegionOptions,
  type RemoteSlots,
  type Size,
} from "./options.ts";
import { openRegion } from "./open.ts";
import { PolicyThread } from "./policy_thread.ts";
import { restoreInto, snapshotHead, type SnapshotResult, writeSnapshot } from "./snapshot.ts";

/** A part of a region, in bytes; what it touches is meant, so ends need not be at page boundaries. */
export interface ByteRange {
  /** First byte. */
  offset: number;
  /** How many. */
  length: number;
}

/** Counters since the region was opened, and what is so now. Sizes in bytes. */
export interface RegionStatus
  extends Omit<RegionStats, "residentPages" | "pinnedPages" | "writebackPages" | "limitPages"> {
  /** Of the region. */
  size: number;
  /** The limit in force. */
  limit: number;
  /** RAM that pages take now, those on their way out included. */
  resident: number;
  /** Of it, pinned. */
  pinned: number;
  /** Of it, being written. */
  writeback: number;
  /** Looks of the policy so far, or null without one. */
  policySteps: number | null;
  /** What ended the policy, if anything did; the region goes on without it. */
  policyFailure: string | null;
}

/** Pages that are held in RAM until this is disposed of. */
export class Pin implements Disposable {
  readonly #region: NativeRegion;
  readonly #span: PageSpan;
  #held = true;

  /** Made by {@link Region.pin}. */
  constructor(region: NativeRegion, span: PageSpan) {
    this.#region = region;
    this.#span = span;
  }

  /** Lets go, once; a second time, or after the region was closed, it does nothing. */
  release(): void {
    if (!this.#held) return;
    this.#held = false;
    if (this.#region.isOpen) this.#region.unpin(this.#span);
  }

  /** See {@link Pin.release}. */
  [Symbol.dispose](): void {
    this.release();
  }
}

/**
 * A region: memory of a fixed size of which a limited part is in RAM, and the rest in a file on SSD, in memory of other hosts, or
 * both.
 *
 * @example
 * ```ts
 * import assert from "node:assert/strict";
 * import { Region } from "@drover/drover";
 *
 * using region = Region.open({ size: "64MiB", limit: "16MiB", ssd: { path: "/var/tmp" } });
 * const { bytes } = region;
 * for (let at = 0; at < bytes.length; at += 4096) bytes[at] = at / 4096;
 * assert.equal(bytes[4096 * 255], 255);
 * assert.ok(region.stats().resident <= 16 * 2 ** 20);
 * ```
 */
export class Region implements Disposable {
  readonly #native: NativeRegion;
  readonly #donors: DonorSet;
  readonly #policy: PolicyThread | null;
  readonly #limitMax: number;
  #bytes: Uint8Array<ArrayBuffer> | null = null;

  private constructor(native: Native, region: NativeRegion, options: RegionOptions) {
    const { policy, settings } = checkOptions(options);
    this.#native = region;
    this.#donors = new DonorSet(region);
    this.#limitMax = settings.limit;
    // The stand-in for tests lives in one isolate.
    this.#policy = policy === null || native.path === "" ? null : new PolicyThread(native, region, policy);
  }

  /**
   * Opens a region; all of it is zeros.
   *
   * @param options sizes, the file, and how faults are served
   * @throws {RangeError} for sizes that cannot be, before anything is opened
   * @throws {DroverError} code "unsupported" where the kernel, its permissions or the file system do not allow it; "no-space"; "exists"
   * for a file with content; "busy" for a file of another region; "disconnected" and "auth" for donors that do not answer, or
   * do not know the ticket
   */
  static open(options: RegionOptions): Region {
    const native = options.native ?? openNative();
    const region = openRegion(native, options);
    try {
      return new Region(native, region, options);
    } catch (error) {
      region.close();
      throw error;
    }
  }

  /**
   * Opens a region with the content that {@link Region.snapshot} wrote.
   *
   * @param path the snapshot
   * @param options as for `open`; the size comes from the snapshot, and one that is given has to be the same
   * @throws {FormatError} for a file that is no whole, unchanged snapshot; then nothing is left open
   */
  static async restore(
    path: string,
    options: Omit<RegionOptions, "size"> & { size?: Size },
  ): Promise<Region> {
    const native = options.native ?? openNative();
    const { size } = await snapshotHead(path);
    if (options.size !== undefined && bytesOf(options.size, "size") !== size) {
      throw new RangeError(
        `Cannot restore "${path}" into ${
          bytesOf(options.size, "size")
        } bytes: the snapshot is of ${size} bytes`,
      );
    }
    const region = Region.open({ ...options, native, size });
    try {
      await restoreInto(path, region.#native, native.delta);
      return region;
    } catch (error) {
      region.close();
      throw error;
    }
  }

  /** Bytes of the region. */
  get size(): number {
    return this.#native.size;
  }

  /** The memory. Empty after `close`, as is every view made of it. */
  get bytes(): Uint8Array<ArrayBuffer> {
    this.#bytes ??= new Uint8Array(this.#native.memory);
    return this.#bytes;
  }

  /** Bytes of RAM that all pages together may take. */
  get limit(): number {
    return this.#native.stats().limitPages * pageSize;
  }

  /**
   * Lowers the limit, or raises it again; never above the one it was opened with. Not for a region whose policy gives RAM
   * back (`limitMin`): there the limit is the policy's.
   */
  async setLimit(limit: Size): Promise<void> {
    const bytes = bytesOf(limit, "the limit");
    if (bytes < Math.min(limitMin, this.size) || bytes > this.#limitMax) {
      throw new RangeError(
        `Cannot set a limit of ${bytes} bytes: it should be from ${
          Math.min(limitMin, this.size)
        } to ${this.#limitMax}`,
      );
    }
    const limitPages = Math.floor(bytes / pageSize);
    this.#native.control.setKnobs({ limitPages });
    await this.#native.reclaim(limitPages);
  }

  /**
   * What holds cold pages: the file, donors, or both, in the order in which they are filled. The numbers that the other methods take are
   * places in this list.
   */
  stores(): StoreStatus[] {
    return this.#donors.stores();
  }

  /**
   * One more donor, in the place of one that is gone if there is such.
   *
   * @returns its number
   * @throws {RangeError} for a lease that cannot be one
   * @throws {NativeError} where it does not answer, or where there are eight stores
   */
  async addDonor(slots: RemoteSlots, options: { timeoutSeconds?: number } = {}): Promise<number> {
    return await this.#donors.addDonor(slots, options);
  }

  /**
   * Gives a donor its memory back: all that it holds moves elsewhere, and nothing new goes there.
   *
   * @param store its number
   * @param options `lost`: it has nothing any more, so nothing is read from it; what was there alone is lost
   * @returns how many pages it still holds, because there is no room elsewhere; 0 when it is gone
   */
  async retireDonor(store: number, options: { lost?: boolean } = {}): Promise<number> {
    return await this.#donors.retireDonor(store, options);
  }

  /**
   * Makes copies that are missing, because a donor failed or had no room. The policy does the same, little by little.
   *
   * @returns how many pages still have fewer than they should and could have
   */
  async mend(): Promise<number> {
    return await this.#donors.mend();
  }

  /**
   * Brings a range into RAM and keeps it there. Necessary before a system call reads or writes region memory, unless faults are
   * served by a thread: `using pin = region.pin(range); file.writeSync(region.bytes.subarray(…))`.
   *
   * @returns what to dispose of; at most 7/8 of the limit can be pinned
   * @throws {NativeError} code "ENOMEM" beyond that, "EIO" when a page cannot be had; then nothing is pinned
   */
  pin(range: ByteRange): Pin {
    const span = this.#spanOf(range);
    this.#native.pin(span);
    return new Pin(this.#native, span);
  }

  /** Brings a range into RAM without keeping it. @returns pages that had to be fetched. */
  async populate(range: ByteRange): Promise<number> {
    return await this.#native.populate(this.#spanOf(range));
  }

  /**
   * Starts reading cold pages, all at once, and returns: a touch before a page has come waits for it.
   *
   * @param what a range, or the offsets of single bytes that will be touched
   * @returns reads that were started
   */
  prefetch(what: ByteRange | Iterable<number>): number {
    if ("offset" in what) {
      const { first, count } = this.#spanOf(what);
      return this.#native.prefetch(BigUint64Array.from({ length: count }, (_, at) => BigInt(first + at)));
    }
    const pages = BigUint64Array.from(what, (offset) => BigInt(this.#spanOf({ offset, length: 1 }).first));
    return this.#native.prefetch(pages);
  }

  /**
   * Says what a range is for. `hot`: leaves last; `cold`: leaves next, and already gives up its RAM when nobody touches it;
   * `sequential`: read once, in order; `random`: no use reading ahead; `normal`: nothing special again.
   */
  advise(range: ByteRange, advice: Advice): void {
    const span = this.#spanOf(range);
    if (span.count === 0) return;
    if (advice === "hot") this.#native.setHeat(span, 15);
    if (advice === "cold" || advice === "sequential") this.#native.setHeat(span, 0);
    if (advice === "cold") {
      const { first, count } = span;
      const pages = BigUint64Array.from({ length: count }, (_, at) => BigInt(first + at));
      this.#native.evict(pages, { standby: true });
    }
    this.#policy?.advise({ firstPage: span.first, endPage: span.first + span.count, advice });
  }

  /** Counters, and how things stand. */
  stats(): RegionStatus {
    const { residentPages, pinnedPages, writebackPages, limitPages, ...counters } = this.#native.stats();
    return {
      ...counters,
      size: this.size,
      limit: limitPages * pageSize,
      resident: residentPages * pageSize,
      pinned: pinnedPages * pageSize,
      writeback: writebackPages * pageSize,
      policySteps: this.#policy?.steps ?? null,
      policyFailure: this.#policy?.failure?.message ?? null,
    };
  }

  /** What went wrong since the last call: errors of the device, pages that were lost. */
  events(): RegionEvent[] {
    return this.#native.events();
  }

  /** One byte per page: its state in the low four bits, 0 to 8 as in `drover mem demo`, and its heat in the others. */
  sample(into?: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
    const count = this.size / pageSize;
    const states = into ?? new Uint8Array(count);
    this.#native.sample({ first: 0, count }, states);
    return states;
  }

  /**
   * Pages written since the last harvest, ascending. For `dirty: "async"` only.
   *
   * @throws {NativeError} code "EOPNOTSUPP" in other modes
   */
  harvest(): Uint32Array<ArrayBuffer> {
    const { bitmap, count } = this.#native.harvest();
    const pages = new Uint32Array(count);
    let filled = 0;
    bitmap.forEach((word, at) => {
      for (let bits = word, bit = 0; bits !== 0n; bits >>= 1n, bit++) {
        if ((bits & 1n) !== 0n) pages[filled++] = at * 64 + bit;
      }
    });
    return pages.subarray(0, filled);
  }

  /** Writes every changed page to the file, where it is read back from; the file itself does not outlive the region. */
  async flush(): Promise<void> {
    await this.#native.flush();
  }

  /**
   * Writes the whole content to a file, from whatever tier each page is in: a stream of the profile "region", with a digest. The
   * file appears under its name when it is complete and on disk.
   *
   * Nobody may write to the region meanwhile: what is written during the snapshot may be in it or not.
   *
   * @throws {DroverError} code "corrupt" when a page was lost
   */
  async snapshot(path: string, options: { label?: string } = {}): Promise<SnapshotResult> {
    return await writeSnapshot(path, this.#native, options);
  }

  /**
   * Gives RAM and file back; the content is gone. Every view of `bytes` becomes empty: typed arrays read `undefined`, and where a
   * detached buffer throws, they throw. Deno knows nothing of this memory, so two things are up to the program: a system call
   * that still works on a view must be waited for first, and a buffer that the program detached itself (`transfer`, `postMessage`
   * with a transfer list) must not be touched any more, which would end the process by SIGSEGV.
   */
  close(): void {
    if (!this.#native.isOpen) return;
    this.#policy?.close();
    this.#native.close();
  }

  /** See {@link Region.close}. */
  [Symbol.dispose](): void {
    this.close();
  }

  #spanOf({ offset, length }: ByteRange): PageSpan {
    if (
      !Number.isSafeInteger(offset) || !Number.isSafeInteger(length) || offset < 0 || length < 0 ||
      offset + length > this.size
    ) {
      throw new RangeError(
        `Cannot use ${length} bytes at ${offset}: they should be whole numbers, inside the region of ${this.size} bytes`,
      );
    }
    const first = Math.floor(offset / pageSize);
    return { first, count: length === 0 ? 0 : Math.ceil((offset + length) / pageSize) - first };
  }
}
