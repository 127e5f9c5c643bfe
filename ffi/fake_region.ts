/**
 * A region over a plain ArrayBuffer: no kernel, no file, the same every time.
 *
 * It cannot see touches, so nothing faults: a page that was brought in once is in RAM until `evict` or `reclaim`, and content is
 * always there. What it keeps to: spans are checked whole; pins count, and hold pages; poison and reset change states;
 * the limit bounds resident pages, and what came first leaves first; stats and control block add up. Tests reach further by `touch`,
 * which does what a fault would do to states, counters and trace.
 *
 * @module
 */
import type { BytePath } from "../lib/base/path.ts";
import { errnoOf, NativeError } from "./errno.ts";
import { pageStates, regionControl, regionStats, traceEntries, traceKinds } from "./layout.ts";
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
import { ControlBlock } from "./region_control.ts";

const pageSize = 4096;

/** As drover.h: below this a limit must cover the whole region. */
const limitMin = 2 ** 20;

/** All regions that are open in this process, by handle. */
const open = new Map<bigint, FakeRegion>();
let lastHandle = 0n;

/** The region that another isolate would attach. */
export function attachFakeRegion(region: { handle: bigint; size: number }): NativeRegion {
  const found = open.get(region.handle);
  if (found === undefined) throw new TypeError("Cannot use a region that is closed");
  return found;
}

function statusOf(store: { kind: StoreStatus["kind"]; size: number }): StoreStatus {
  const counters = { used: 0, reads: 0, writes: 0, errors: 0, refused: 0, latencyNanos: 0 };
  return { kind: store.kind, state: "up", slots: store.size / pageSize, ...counters };
}

/** A region in memory. */
export class FakeRegion implements NativeRegion {
  readonly handle: bigint;
  readonly size: number;
  readonly path: BytePath;
  readonly control: RegionControl;
  readonly #memory: ArrayBuffer;
  readonly #block = new ArrayBuffer(regionControl.structSize);
  readonly #values = new DataView(this.#block);
  readonly #states: Uint8Array;
  readonly #heat: Uint8Array;
  readonly #pins: Uint8Array;
  readonly #written: Uint8Array;
  readonly #settings: RegionSettings;
  readonly #stores: StoreStatus[];
  /** For each page a bit per store. */
  readonly #places: Uint8Array;
  /** Pages that hold RAM, those that came first first. */
  readonly #resident = new Set<number>();
  #events: RegionEvent[] = [];
  #open = true;

  /** @param settings as for the real one; the file is not looked at. */
  constructor(settings: RegionSettings) {
    const { size, limit, ssd, evictBatch = 16, readAround = 1 } = settings;
    if (
      size <= 0 || size % pageSize !== 0 || (limit < limitMin && limit < size) ||
      ssd.size !== 0 && ssd.size < size ||
      evictBatch > 64 || ![1, 2, 4, 8, 16].includes(readAround) || settings.spinUs > 1000
    ) {
      throw new NativeError(errnoOf("EINVAL"), "open a region on", ssd.path);
    }
    this.handle = ++lastHandle;
    this.size = size;
    this.path = ssd.path;
    this.#settings = settings;
    this.#memory = new ArrayBuffer(size);
    this.control = new ControlBlock(this.#block);
    const pages = size / pageSize;
    this.#states = new Uint8Array(pages);
    this.#heat = new Uint8Array(pages);
    this.#pins = new Uint8Array(pages);
    this.#written = new Uint8Array(pages);
    this.#places = new Uint8Array(pages);
    this.#stores = (settings.stores ?? [{ kind: "file" as const, size }]).map(statusOf);
    this.control.setKnobs({
      limitPages: Math.floor(limit / pageSize),
      spinUs: settings.spinUs,
      evictBatch,
      readAround,
      heatMax: 15,
    });
    open.set(this.handle, this);
  }

  get isOpen(): boolean {
    return this.#open;
  }

  get memory(): ArrayBuffer {
    this.#use("use");
    return this.#memory;
  }

  /** What a fault would do: the page comes in, another leaves, the trace says so. `write` marks it changed. */
  touch(page: number, options: { write: boolean }): void {
    const state = this.#states[page] ?? 0;
    if (state === pageStates.poison) {
      this.#event(page, "poisoned");
      throw new NativeError(errnoOf("EIO"), `touch page ${page} of`, this.path);
    }
    if (state === pageStates.empty || state === pageStates.cold) {
      this.#count(regionStats.faults);
      this.#count(state === pageStates.empty ? regionStats.fills : regionStats.fetches);
      const kind = state === pageStates.empty
        ? traceKinds.fill
        : options.write
        ? traceKinds.write
        : traceKinds.read;
      this.#trace(page, kind);
      this.#bringIn(page);
    }
    if (state === pageStates.standby || state === pageStates.standbyDirty) {
      this.#count(regionStats.faults);
      this.#count(regionStats.promotions);
      this.#trace(page, traceKinds.promote);
      this.#states[page] = state === pageStates.standby ? pageStates.clean : pageStates.dirty;
    }
    if (!options.write) return;
    this.#states[page] = pageStates.dirty;
    this.#written[page] = 1;
  }

  pin(span: PageSpan): void {
    this.#check("pin", span);
    if (this.#gauge(regionStats.pinnedPages) + span.count > (this.control.knobs().limitPages * 7) / 8) {
      throw this.#error("ENOMEM", "pin pages of");
    }
    this.#each(span, (page) => {
      if (this.#states[page] === pageStates.poison) throw this.#error("EIO", "pin pages of");
    });
    this.#each(span, (page) => {
      this.#bringIn(page);
      this.#pins[page] = (this.#pins[page] ?? 0) + 1;
    });
    this.#gauges();
  }

  unpin(span: PageSpan): void {
    this.#check("unpin", span);
    this.#each(span, (page) => {
      if (this.#pins[page] === 0) throw this.#error("EINVAL", "unpin pages of");
    });
    this.#each(span, (page) => this.#pins[page] = (this.#pins[page] ?? 1) - 1);
    this.#gauges();
  }

  populate(span: PageSpan): Promise<number> {
    this.#check("populate", span);
    let came = 0;
    this.#each(span, (page) => came += this.#bringIn(page) ? 1 : 0);
    return Promise.resolve(came);
  }

  prefetch(pages: BigUint64Array<ArrayBuffer>): number {
    this.#use("prefetch");
    let started = 0;
    for (const page of pages) {
      this.#check("prefetch", { first: Number(page), count: 1 });
      if (this.#states[Number(page)] !== pageStates.cold) continue;
      this.#bringIn(Number(page));
      this.#trace(Number(page), traceKinds.prefetch);
      this.#count(regionStats.prefetched);
      started++;
    }
    return started;
  }

  prefetchAndWait(pages: BigUint64Array<ArrayBuffer>): Promise<number> {
    return Promise.resolve(this.prefetch(pages));
  }

  evict(pages: BigUint64Array<ArrayBuffer>, options: { standby?: boolean } = {}): number {
    this.#use("evict");
    let gone = 0;
    for (const page of pages) {
      this.#check("evict", { first: Number(page), count: 1 });
      gone += this.#sendOut(Number(page), options.standby === true) ? 1 : 0;
    }
    this.#gauges();
    return gone;
  }

  reclaim(residentPages: number): Promise<number> {
    this.#use("shrink");
    this.#shrink(residentPages);
    this.#gauges();
    return Promise.resolve(this.#resident.size);
  }

  setHeat(span: PageSpan, heat: number): void {
    this.#check("advise", span);
    this.#each(span, (page) => this.#heat[page] = heat);
  }

  flush(): Promise<number> {
    this.#use("flush");
    let written = 0;
    this.#states.forEach((state, page) => {
      if (state !== pageStates.dirty) return;
      this.#states[page] = pageStates.clean;
      written++;
    });
    return Promise.resolve(written);
  }

  sample(span: PageSpan, into: Uint8Array<ArrayBuffer>): void {
    this.#check("sample", span);
    this.#each(span, (page) => {
      into[page - span.first] = (this.#states[page] ?? 0) | ((this.#heat[page] ?? 0) << 4);
    });
  }

  harvest(): { bitmap: BigUint64Array<ArrayBuffer>; count: number } {
    this.#use("harvest");
    if (this.#settings.dirty !== "async") throw this.#error("EOPNOTSUPP", "harvest the written pages of");
    const bitmap = new BigUint64Array(Math.ceil(this.#states.length / 64));
    let count = 0;
    this.#written.forEach((written, page) => {
      if (written === 0) return;
      const word = Math.floor(page / 64);
      bitmap[word] = (bitmap[word] ?? 0n) | (1n << BigInt(page % 64));
      count++;
    });
    this.#written.fill(0);
    return { bitmap, count };
  }

  poison(span: PageSpan): void {
    this.#change(span, "poison", pageStates.poison);
  }

  reset(span: PageSpan): void {
    this.#change(span, "reset", pageStates.empty);
    new Uint8Array(this.#memory, span.first * pageSize, span.count * pageSize).fill(0);
  }

  places(span: PageSpan, into: Uint8Array<ArrayBuffer>): void {
    this.#check("find", span);
    this.#each(span, (page) => into[page - span.first] = this.#places[page] ?? 0);
  }

  move(pages: BigUint64Array<ArrayBuffer>, store: number): Promise<number> {
    return Promise.resolve(this.moveNow(pages, store));
  }

  moveNow(pages: BigUint64Array<ArrayBuffer>, store: number): number {
    this.#use("move");
    const status = this.#stores[store];
    if (status === undefined || this.#stores.length < 2) throw this.#error("EINVAL", "move pages of");
    let there = 0;
    for (const page of pages) {
      this.#check("move", { first: Number(page), count: 1 });
      if (this.#states[Number(page)] !== pageStates.cold) continue;
      const held = this.#places[Number(page)] ?? 0;
      const file = this.#stores.findIndex(({ kind }) => kind === "file");
      // The file keeps its copy; a donor gives its slot back when the page goes somewhere else.
      this.#places[Number(page)] = 1 << store | (file >= 0 ? held & 1 << file : 0);
      there++;
    }
    return there;
  }

  mend(span: PageSpan): Promise<number> {
    return Promise.resolve(this.mendNow(span));
  }

  mendNow(span: PageSpan): number {
    this.#check("mend", span);
    return 0;
  }

  retire(store: number, _options: { lost: boolean; limit: number }): Promise<number> {
    this.#use("take a store from");
    const status = this.#stores[store];
    if (status === undefined) throw this.#error("EINVAL", "take a store from");
    this.#places.forEach((held, page) => this.#places[page] = held & ~(1 << store));
    this.#stores[store] = { ...status, state: "gone" };
    return Promise.resolve(0);
  }

  addStore(store: StoreSettings): Promise<number> {
    this.#use("add a store to");
    return Promise.resolve(this.#stores.push(statusOf(store)) - 1);
  }

  stores(): StoreStatus[] {
    this.#use("ask");
    return this.#stores.map((status, store) => ({
      ...status,
      used: this.#places.reduce((sum, held) => sum + (held >> store & 1), 0),
    }));
  }

  stats(): RegionStats {
    this.#use("ask");
    return this.control.stats();
  }

  events(): RegionEvent[] {
    this.#use("ask");
    const events = this.#events;
    this.#events = [];
    return events;
  }

  benchFill(): Promise<void> {
    return Promise.reject(this.#error("ENOSYS", "measure"));
  }

  benchTouch(_loop: BenchLoop): Promise<BenchResult> {
    return Promise.reject(this.#error("ENOSYS", "measure"));
  }

  benchVerify(): Promise<number> {
    return Promise.reject(this.#error("ENOSYS", "measure"));
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    open.delete(this.handle);
    for (const buffer of [this.#memory, this.#block]) if (!buffer.detached) buffer.transfer();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #change(span: PageSpan, what: string, state: number): void {
    this.#check(what, span);
    this.#each(span, (page) => {
      if ((this.#pins[page] ?? 0) > 0) throw this.#error("EBUSY", `${what} pages of`);
    });
    this.#each(span, (page) => {
      this.#states[page] = state;
      this.#resident.delete(page);
    });
    this.#gauges();
  }

  /** Whether it had to come. */
  #bringIn(page: number): boolean {
    if (this.#resident.has(page)) return false;
    this.#shrink(this.control.knobs().limitPages - 1);
    this.#states[page] = this.#states[page] === pageStates.empty ? pageStates.dirty : pageStates.clean;
    this.#resident.add(page);
    this.#gauges();
    return true;
  }

  #shrink(most: number): void {
    for (const page of this.#resident) {
      if (this.#resident.size <= most) return;
      this.#sendOut(page, false);
    }
  }

  #sendOut(page: number, standby: boolean): boolean {
    if (!this.#resident.has(page) || (this.#pins[page] ?? 0) > 0) return false;
    const dirty = this.#states[page] === pageStates.dirty || this.#states[page] === pageStates.standbyDirty;
    if (standby) this.#states[page] = dirty ? pageStates.standbyDirty : pageStates.standby;
    else {
      this.#states[page] = pageStates.cold;
      this.#places[page] = (this.#places[page] ?? 0) | 1;
      this.#resident.delete(page);
      this.#count(dirty ? regionStats.evictedDirty : regionStats.evictedClean);
    }
    return true;
  }

  #gauges(): void {
    const set = (field: number, value: number): void =>
      this.#values.setBigUint64(regionControl.stats + field, BigInt(value), true);
    set(regionStats.residentPages, this.#resident.size);
    set(regionStats.pinnedPages, this.#pins.reduce((sum, pins) => sum + (pins > 0 ? 1 : 0), 0));
    set(regionStats.limitPages, this.control.knobs().limitPages);
  }

  #gauge(field: number): number {
    return Number(this.#values.getBigUint64(regionControl.stats + field, true));
  }

  #count(field: number): void {
    this.#values.setBigUint64(regionControl.stats + field, BigInt(this.#gauge(field) + 1), true);
  }

  #trace(page: number, kind: number): void {
    const head = Number(this.#values.getBigUint64(regionControl.traceHead, true));
    const entry = BigInt(page) | (BigInt(kind) << 40n);
    this.#values.setBigUint64(regionControl.trace + 8 * (head % traceEntries), entry, true);
    this.#values.setBigUint64(regionControl.traceHead, BigInt(head + 1), true);
  }

  #event(page: number, why: RegionEvent["why"]): void {
    this.#events.push({ page, nanos: 0, errno: errnoOf("EIO"), why });
    this.#count(regionStats.errors);
  }

  #each(span: PageSpan, visit: (page: number) => void): void {
    for (let page = span.first; page < span.first + span.count; page++) visit(page);
  }

  #check(what: string, span: PageSpan): void {
    this.#use(what);
    const { first, count } = span;
    if (first < 0 || count < 0 || first + count > this.#states.length) {
      throw this.#error("EINVAL", `${what} pages of`);
    }
  }

  #use(what: string): void {
    if (!this.#open) throw new TypeError(`Cannot ${what} a region that is closed`);
  }

  #error(code: string, what: string): NativeError {
    return new NativeError(errnoOf(code), what, this.path);
  }
}
