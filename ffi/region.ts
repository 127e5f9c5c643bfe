/**
 * Regions of libdrover.so: memory larger than its RAM, as an object that owns a handle.
 *
 * A closed region refuses every call here, and its views are empty: `close` detaches the buffer, so that every typed array
 * on it has length 0, reads `undefined`, and throws where a detached buffer throws. What `close` cannot reach is a buffer that the
 * program itself made of this one (`transfer`, or a transfer to a worker), and a system call that is still under way on a view: the
 * address range stays reserved, so such a touch ends the process by SIGSEGV (a system call fails with EFAULT), and
 * never meets other memory.
 *
 * @module
 */
import type { BytePath } from "../lib/base/path.ts";
import { check } from "./errno.ts";
import { bytesOfStores, bytesOfText, statusOfStores } from "./stores.ts";
import {
  benchOptions,
  benchPatterns,
  benchResult,
  dirtyModes,
  eventReasons,
  evictStandby,
  evictWait,
  faultModes,
  prefetchWait,
  regionControl,
  regionEvent,
  regionFlags,
  regionOptions,
  regionStats,
  retireLost,
  storesMax,
  storeStats,
} from "./layout.ts";
import type {
  BenchLoop,
  BenchResult,
  NativeRegion,
  PageSpan,
  RegionControl,
  RegionEvent,
  RegionSettings,
  RegionStats,
  StoreSettings,
  StoreStatus,
} from "./mod.ts";
import { ControlBlock, statsAt } from "./region_control.ts";
import type { Symbols } from "./symbols.ts";

const pageSize = 4096;

/** Events that are taken at once: all that the ring holds. */
const eventsMax = 256;

/** The most pages of one prefetch or evict. */
const batchMax = 2 ** 20;

const reasonNames = Object.keys(eventReasons) as (keyof typeof eventReasons)[];

/** Opens a region. Blocks while the file is written over, if that was asked for. */
export function openRegion(lib: Symbols, settings: RegionSettings): NativeRegion {
  const { ssd } = settings;
  const options = new DataView(new ArrayBuffer(regionOptions.structSize));
  const flags = (settings.prewrite === true ? regionFlags.prewrite : 0) |
    (ssd.anonymous ? regionFlags.anonymous : 0) | (settings.buffered === true ? regionFlags.buffered : 0) |
    // A toucher that gets SIGBUS cannot read events any more.
    regionFlags.say;
  options.setBigUint64(regionOptions.size, BigInt(settings.size), true);
  options.setBigUint64(regionOptions.limit, BigInt(settings.limit), true);
  options.setBigUint64(regionOptions.ssdSize, BigInt(ssd.size), true);
  options.setUint32(regionOptions.faultMode, faultModes[settings.faults], true);
  options.setUint32(regionOptions.dirtyMode, dirtyModes[settings.dirty], true);
  options.setUint32(regionOptions.flags, flags, true);
  options.setUint32(regionOptions.spinUs, settings.spinUs, true);
  options.setUint32(regionOptions.evictBatch, settings.evictBatch ?? 0, true);
  options.setUint32(regionOptions.readAround, settings.readAround ?? 0, true);
  options.setUint32(regionOptions.contexts, settings.contexts ?? 0, true);
  options.setUint32(regionOptions.copies, settings.copies ?? 0, true);
  const out = new BigUint64Array(1);
  const given = new Uint8Array(options.buffer);
  const result = new Uint8Array(out.buffer);
  if (settings.stores === undefined) {
    check(lib.drover_region_open(bytesOfText(ssd.path), given, result), "open a region on", ssd.path);
  } else {
    const { bytes, count, strings } = bytesOfStores(settings.stores);
    check(lib.drover_region_open_stores(bytes, count, given, result), "open a region on", ssd.path);
    strings.release();
  }
  return new LoadedRegion(lib, { handle: out[0] ?? 0n, size: settings.size, path: ssd.path, owned: true });
}

/** A region that another isolate of this process has opened and will close. */
export function attachRegion(lib: Symbols, region: { handle: bigint; size: number }): NativeRegion {
  return new LoadedRegion(lib, { ...region, path: "" as BytePath, owned: false });
}

class LoadedRegion implements NativeRegion {
  readonly handle: bigint;
  readonly size: number;
  readonly path: BytePath;
  readonly control: RegionControl;
  readonly #lib: Symbols;
  readonly #pointer: Deno.PointerObject;
  readonly #address: Deno.PointerObject;
  readonly #memory: ArrayBuffer;
  readonly #block: ArrayBuffer;
  readonly #owned: boolean;
  #open = true;

  constructor(lib: Symbols, region: { handle: bigint; size: number; path: BytePath; owned: boolean }) {
    this.#lib = lib;
    this.handle = region.handle;
    this.size = region.size;
    this.path = region.path;
    this.#owned = region.owned;
    this.#pointer = pointerOf(region.handle);
    this.#address = pointerOf(lib.drover_region_address(this.#pointer));
    this.#memory = Deno.UnsafePointerView.getArrayBuffer(this.#address, region.size);
    const control = pointerOf(lib.drover_region_control(this.#pointer));
    this.#block = Deno.UnsafePointerView.getArrayBuffer(control, regionControl.structSize);
    this.control = new ControlBlock(this.#block);
  }

  get isOpen(): boolean {
    return this.#open;
  }

  get memory(): ArrayBuffer {
    this.#use("use");
    return this.#memory;
  }

  pin(span: PageSpan): void {
    this.#check(
      this.#lib.drover_region_pin(this.#use("pin"), BigInt(span.first), BigInt(span.count)),
      "pin pages of",
    );
  }

  unpin(span: PageSpan): void {
    const pointer = this.#use("unpin");
    this.#check(
      this.#lib.drover_region_unpin(pointer, BigInt(span.first), BigInt(span.count)),
      "unpin pages of",
    );
  }

  async populate(span: PageSpan): Promise<number> {
    const pointer = this.#use("populate");
    const count = await this.#lib.drover_region_populate_async(
      pointer,
      BigInt(span.first),
      BigInt(span.count),
    );
    return this.#check(count, "bring in pages of");
  }

  prefetch(pages: BigUint64Array<ArrayBuffer>): number {
    const pointer = this.#use("prefetch");
    let started = 0;
    for (let at = 0; at < pages.length; at += batchMax) {
      const batch = pages.subarray(at, at + batchMax);
      const rc = this.#lib.drover_region_prefetch(pointer, bytesOf(batch), BigInt(batch.length), 0);
      started += this.#check(rc, "prefetch pages of");
    }
    return started;
  }

  async prefetchAndWait(pages: BigUint64Array<ArrayBuffer>): Promise<number> {
    let started = 0;
    for (let at = 0; at < pages.length; at += batchMax) {
      const batch = pages.slice(at, at + batchMax);
      const pointer = this.#use("prefetch");
      const rc = await this.#lib.drover_region_prefetch_async(
        pointer,
        bytesOf(batch),
        BigInt(batch.length),
        prefetchWait,
      );
      started += this.#check(rc, "prefetch pages of");
    }
    return started;
  }

  evict(pages: BigUint64Array<ArrayBuffer>, options: { standby?: boolean; wait?: boolean } = {}): number {
    const flags = (options.standby === true ? evictStandby : 0) | (options.wait === true ? evictWait : 0);
    const pointer = this.#use("evict");
    let gone = 0;
    for (let at = 0; at < pages.length; at += batchMax) {
      const batch = pages.subarray(at, at + batchMax);
      const rc = this.#lib.drover_region_evict(pointer, bytesOf(batch), BigInt(batch.length), flags);
      gone += this.#check(rc, "evict pages of");
    }
    return gone;
  }

  async reclaim(residentPages: number): Promise<number> {
    const rc = await this.#lib.drover_region_reclaim_async(this.#use("shrink"), BigInt(residentPages));
    return this.#check(rc, "take RAM from");
  }

  setHeat(span: PageSpan, heat: number): void {
    const pointer = this.#use("advise");
    const rc = this.#lib.drover_region_heat(pointer, BigInt(span.first), BigInt(span.count), heat);
    this.#check(rc, "set the heat of pages of");
  }

  async flush(): Promise<number> {
    return this.#check(await this.#lib.drover_region_flush_async(this.#use("flush")), "flush");
  }

  sample(span: PageSpan, into: Uint8Array<ArrayBuffer>): void {
    const pointer = this.#use("sample");
    if (into.length < span.count) {
      throw new RangeError(`Cannot sample ${span.count} pages into ${into.length} bytes`);
    }
    this.#check(
      this.#lib.drover_region_sample(pointer, BigInt(span.first), BigInt(span.count), into),
      "sample",
    );
  }

  harvest(): { bitmap: BigUint64Array<ArrayBuffer>; count: number } {
    const pointer = this.#use("harvest");
    const bitmap = new BigUint64Array(Math.ceil(this.size / pageSize / 64));
    const rc = this.#lib.drover_region_harvest(pointer, bytesOf(bitmap), BigInt(bitmap.length));
    return { bitmap, count: this.#check(rc, "harvest the written pages of") };
  }

  poison(span: PageSpan): void {
    const pointer = this.#use("poison");
    this.#check(
      this.#lib.drover_region_poison(pointer, BigInt(span.first), BigInt(span.count)),
      "poison pages of",
    );
  }

  reset(span: PageSpan): void {
    const pointer = this.#use("reset");
    this.#check(
      this.#lib.drover_region_reset(pointer, BigInt(span.first), BigInt(span.count)),
      "reset pages of",
    );
  }

  places(span: PageSpan, into: Uint8Array<ArrayBuffer>): void {
    const pointer = this.#use("ask");
    if (into.length < span.count) {
      throw new RangeError(`Cannot tell the places of ${span.count} pages in ${into.length} bytes`);
    }
    const rc = this.#lib.drover_region_places(pointer, BigInt(span.first), BigInt(span.count), into);
    this.#check(rc, "find the pages of");
  }

  async move(pages: BigUint64Array<ArrayBuffer>, store: number): Promise<number> {
    let there = 0;
    for (let at = 0; at < pages.length; at += batchMax) {
      const batch = pages.slice(at, at + batchMax);
      const pointer = this.#use("move");
      const rc = await this.#lib.drover_region_move_async(
        pointer,
        bytesOf(batch),
        BigInt(batch.length),
        store,
      );
      there += this.#check(rc, "move pages of");
    }
    return there;
  }

  moveNow(pages: BigUint64Array<ArrayBuffer>, store: number): number {
    const pointer = this.#use("move");
    const rc = this.#lib.drover_region_move(pointer, bytesOf(pages), BigInt(pages.length), store);
    return this.#check(rc, "move pages of");
  }

  async mend(span: PageSpan): Promise<number> {
    const pointer = this.#use("mend");
    const rc = await this.#lib.drover_region_mend_async(pointer, BigInt(span.first), BigInt(span.count));
    return this.#check(rc, "copy pages of");
  }

  mendNow(span: PageSpan): number {
    const pointer = this.#use("mend");
    return this.#check(
      this.#lib.drover_region_mend(pointer, BigInt(span.first), BigInt(span.count)),
      "copy pages of",
    );
  }

  async retire(store: number, options: { lost: boolean; limit: number }): Promise<number> {
    const pointer = this.#use("take a store from");
    const flags = options.lost ? retireLost : 0;
    const rc = await this.#lib.drover_region_retire_async(pointer, store, flags, BigInt(options.limit));
    return this.#check(rc, `take store ${store} from`);
  }

  async addStore(store: StoreSettings): Promise<number> {
    const pointer = this.#use("add a store to");
    const { bytes, strings } = bytesOfStores([store]);
    const rc = await this.#lib.drover_region_add_store_async(pointer, bytes);
    strings.release();
    return this.#check(rc, `add a store at "${store.path}" to`);
  }

  stores(): StoreStatus[] {
    const room = new Uint8Array(storesMax * storeStats.structSize);
    const count = this.#lib.drover_region_stores(this.#use("ask"), room, storesMax);
    return statusOfStores(room, this.#check(count, "read the stores of"));
  }

  stats(): RegionStats {
    const room = new Uint8Array(regionStats.structSize);
    this.#check(this.#lib.drover_region_stats(this.#use("ask"), room), "read the counters of");
    return statsAt(new DataView(room.buffer), 0);
  }

  events(): RegionEvent[] {
    const room = new Uint8Array(eventsMax * regionEvent.structSize);
    const rc = this.#lib.drover_region_events(this.#use("ask"), room, BigInt(eventsMax));
    const count = this.#check(rc, "read the events of");
    const values = new DataView(room.buffer);
    return Array.from({ length: count }, (_, index) => {
      const at = index * regionEvent.structSize;
      const why = values.getUint32(at + regionEvent.why, true);
      return {
        page: Number(values.getBigUint64(at + regionEvent.page, true)),
        nanos: Number(values.getBigUint64(at + regionEvent.nanos, true)),
        errno: values.getUint32(at + regionEvent.error, true),
        why: reasonNames.find((name) => eventReasons[name] === why) ?? "kernel",
      };
    });
  }

  async benchFill(versions: Uint8Array<ArrayBuffer>): Promise<void> {
    this.#checkVersions(versions);
    this.#use("measure");
    const rc = await this.#lib.drover_bench_fill_async(this.#address, BigInt(this.size), versions);
    this.#check(rc, "fill");
  }

  async benchTouch(loop: BenchLoop, versions: Uint8Array<ArrayBuffer>): Promise<BenchResult> {
    this.#checkVersions(versions);
    const pointer = this.#use("measure");
    const options = new DataView(new ArrayBuffer(benchOptions.structSize));
    options.setBigUint64(benchOptions.size, BigInt(this.size), true);
    options.setBigUint64(benchOptions.nanoseconds, BigInt(Math.round(loop.seconds * 1e9)), true);
    options.setBigUint64(benchOptions.ops, BigInt(loop.ops ?? 0), true);
    options.setBigUint64(benchOptions.seed, BigInt(loop.seed), true);
    options.setUint32(benchOptions.pattern, benchPatterns[loop.pattern], true);
    options.setUint32(benchOptions.threads, loop.threads, true);
    options.setUint32(benchOptions.writes, Math.round(loop.writes * 1000), true);
    options.setUint32(benchOptions.hints, loop.hints, true);
    const out = new Uint8Array(benchResult.structSize);
    const given = new Uint8Array(options.buffer);
    const rc = await this.#lib.drover_bench_touch_async(pointer, this.#address, versions, given, out);
    this.#check(rc, "measure");
    const values = new DataView(out.buffer);
    const at = (field: number): number => Number(values.getBigUint64(field, true));
    return {
      ops: at(benchResult.ops),
      nanos: at(benchResult.nanoseconds),
      p50: at(benchResult.p50),
      p90: at(benchResult.p90),
      p99: at(benchResult.p99),
      slowest: at(benchResult.slowest),
      wrong: at(benchResult.wrong),
      wrongOffset: at(benchResult.wrongOffset),
    };
  }

  async benchVerify(versions: Uint8Array<ArrayBuffer>): Promise<number> {
    this.#checkVersions(versions);
    this.#use("verify");
    const out = new Uint8Array(8);
    this.#check(
      await this.#lib.drover_bench_verify_async(this.#address, BigInt(this.size), versions, out),
      "verify",
    );
    return Number(new DataView(out.buffer).getBigUint64(0, true));
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    // Views of both become empty; see the top of this file.
    for (const buffer of [this.#memory, this.#block]) if (!buffer.detached) buffer.transfer();
    if (this.#owned) this.#check(this.#lib.drover_region_close(this.#pointer), "close");
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #use(what: string): Deno.PointerObject {
    if (!this.#open) throw new TypeError(`Cannot ${what} a region that is closed`);
    return this.#pointer;
  }

  #check(rc: number | bigint, what: string): number {
    return check(Number(rc), what, this.path);
  }

  #checkVersions(versions: Uint8Array): void {
    if (versions.length !== this.size / 512) {
      throw new RangeError(
        `Cannot measure with ${versions.length} versions: there should be ${this.size / 512}`,
      );
    }
  }
}

function pointerOf(value: bigint): Deno.PointerObject {
  const pointer = Deno.UnsafePointer.create(value);
  if (pointer === null) throw new TypeError("Cannot use a region that is closed");
  return pointer;
}

function bytesOf(words: BigUint64Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  return new Uint8Array(words.buffer, words.byteOffset, words.byteLength);
}
