/**
 * The block of memory that a region shares with TypeScript: knobs that are written here and read by C at its next
 * fault, counters, histograms and the trace of faults the other way round. Works on any memory with that layout, so the
 * in-memory stand-in has one too.
 *
 * Words are read and written one by one; two of them need not belong to the same moment.
 *
 * @module
 */
import { histogramBuckets, regionControl, regionStats, traceEntries, traceKinds } from "./layout.ts";
import type { RegionControl, RegionHistogram, RegionKnobs, RegionStats, RegionTrace } from "./mod.ts";

const kindNames = Object.keys(traceKinds) as (keyof typeof traceKinds)[];

/** Reads counters that were copied to, or live at, `offset`. */
export function statsAt(values: DataView, offset: number): RegionStats {
  const at = (field: number): number => Number(values.getBigUint64(offset + field, true));
  return {
    faults: at(regionStats.faults),
    fetches: at(regionStats.fetches),
    fills: at(regionStats.fills),
    promotions: at(regionStats.promotions),
    waits: at(regionStats.waits),
    protectFaults: at(regionStats.protectFaults),
    refaults: at(regionStats.refaults),
    prefetched: at(regionStats.prefetched),
    evictedClean: at(regionStats.evictedClean),
    evictedDirty: at(regionStats.evictedDirty),
    readCalls: at(regionStats.readCalls),
    readBytes: at(regionStats.readBytes),
    writeCalls: at(regionStats.writeCalls),
    writtenBytes: at(regionStats.writtenBytes),
    stallNanos: at(regionStats.stallNanos),
    errors: at(regionStats.errors),
    eventsLost: at(regionStats.eventsLost),
    residentPages: at(regionStats.residentPages),
    pinnedPages: at(regionStats.pinnedPages),
    writebackPages: at(regionStats.writebackPages),
    limitPages: at(regionStats.limitPages),
  };
}

/** A control block in memory. */
export class ControlBlock implements RegionControl {
  readonly #values: DataView;
  readonly #words: BigUint64Array;

  /** @param memory at least as long as the layout says; it must stay mapped as long as this is used. */
  constructor(memory: ArrayBuffer) {
    this.#values = new DataView(memory, 0, regionControl.structSize);
    this.#words = new BigUint64Array(memory, 0, regionControl.structSize / 8);
  }

  /** See {@link RegionControl.knobs}. */
  knobs(): RegionKnobs {
    const values = this.#values;
    return {
      limitPages: Number(values.getBigUint64(regionControl.limitPages, true)),
      spinUs: values.getUint32(regionControl.spinUs, true),
      evictBatch: values.getUint32(regionControl.evictBatch, true),
      readAround: values.getUint32(regionControl.readAround, true),
      heatMax: values.getUint32(regionControl.heatMax, true),
    };
  }

  /** See {@link RegionControl.setKnobs}. */
  setKnobs(knobs: Partial<RegionKnobs>): void {
    const values = this.#values;
    if (knobs.limitPages !== undefined) {
      values.setBigUint64(regionControl.limitPages, BigInt(knobs.limitPages), true);
    }
    for (const name of ["spinUs", "evictBatch", "readAround", "heatMax"] as const) {
      const value = knobs[name];
      if (value !== undefined) values.setUint32(regionControl[name], value, true);
    }
  }

  /** See {@link RegionControl.stats}. */
  stats(): RegionStats {
    return statsAt(this.#values, regionControl.stats);
  }

  /** See {@link RegionControl.trace}. */
  trace(since: number): RegionTrace {
    const head = Number(Atomics.load(this.#words, regionControl.traceHead / 8));
    const first = Math.max(since, head - traceEntries);
    const pages = new Uint32Array(Math.max(0, head - first));
    const kinds = new Uint8Array(pages.length);
    let count = 0;
    for (let at = first; at < head; at++) {
      const entry = Atomics.load(this.#words, regionControl.trace / 8 + at % traceEntries);
      // Reserved and not yet written, which can only be at the very end of a run.
      if (entry === 0n) continue;
      pages[count] = Number(entry & 0xff_ffff_ffffn);
      kinds[count++] = Number((entry >> 40n) & 0xfn);
    }
    return {
      next: head,
      lost: Math.max(0, first - since),
      pages: pages.subarray(0, count),
      kinds: kinds.subarray(0, count),
    };
  }

  /** See {@link RegionControl.histogram}. */
  histogram(of: "faults" | "device"): RegionHistogram {
    const offset = of === "faults" ? regionControl.faultHistogram : regionControl.deviceHistogram;
    const counts = new Float64Array(histogramBuckets);
    for (let bucket = 0; bucket < histogramBuckets; bucket++) {
      counts[bucket] = Number(this.#words[offset / 8 + bucket] ?? 0n);
    }
    return { counts, nanosOf: bucketNanos };
  }
}

/** The middle of what falls into a bucket, in nanoseconds. */
function bucketNanos(bucket: number): number {
  if (bucket < 8) return bucket;
  const top = Math.floor(bucket / 8) + 2;
  return 2 ** top + ((bucket % 8) + 0.5) * 2 ** (top - 3);
}

/** What a kind of the trace is called. */
export function traceKindName(kind: number): keyof typeof traceKinds | undefined {
  return kindNames.find((name) => traceKinds[name] === kind);
}
