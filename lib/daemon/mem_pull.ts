/**
 * `drover mem bench pull`: all pages of a region are at one donor, and come back while threads touch them.
 *
 * @module
 */
import type { BenchLoop, NativeRegion } from "../../ffi/mod.ts";
import { DroverError } from "../base/errors.ts";
import { pageSize } from "../region/options.ts";
import { checkWords, percentilesOf } from "./mem_measure.ts";

/** Pages that are asked for at once; between two such calls the program can do something else. */
const pullPages = 2048;

/** Seconds of one run of the threads that touch: they end soon after the last page is back. */
const sliceSeconds = 0.05;

/** Who touches. */
export type PullLoop = Pick<BenchLoop, "pattern" | "writes" | "threads" | "seed">;

/** What was measured. Latencies are those of faults. */
export interface PullAnswer {
  /** Pages that came back, in bytes. */
  bytesPerSecond: number;
  p50Us: number;
  p90Us: number;
  p99Us: number;
  faults: number;
  /** Pages that were there before anybody touched them. */
  prefetched: number;
  /** Pages that had gone to the donor, in bytes. */
  evictedBytes: number;
  /** More than that where a page left once more, to make room. */
  readBytes: number;
  opsPerSecond: number;
  ops: number;
  seconds: number;
  size: number;
  threads: number;
  writes: number;
  pattern: BenchLoop["pattern"];
}

/**
 * Fills a region whose limit is all of it, sends every page to its donor, and pulls them back in order while `threads` touch
 * pages anywhere. Ends when no page is missing and no fault unanswered; then every word is compared.
 *
 * @param filled hears when the pull begins
 */
export async function measurePull(
  region: NativeRegion,
  loop: PullLoop,
  filled: () => void = () => {},
): Promise<PullAnswer> {
  const { size } = region;
  const pages = size / pageSize;
  const versions = new Uint8Array(size / 512);
  await region.benchFill(versions);
  const left = await region.reclaim(0);
  if (left > 0) throw new DroverError("io", `Cannot send pages to the donor: ${left} of ${pages} stayed`);
  filled();
  const before = { stats: region.stats(), faults: region.control.histogram("faults") };
  const started = performance.now();
  const pulling = pull(region, pages);
  let ops = 0;
  let isBack = false;
  const back = pulling.finally(() => isBack = true);
  // Its failure is thrown below, when the threads are out of the region.
  back.catch(() => {});
  for (let slice = 0; !isBack; slice++) {
    const run = { ...loop, hints: 0, seconds: sliceSeconds, seed: loop.seed + slice };
    const result = await region.benchTouch(run, versions);
    checkWords(result);
    ops += result.ops;
  }
  await back;
  const seconds = (performance.now() - started) / 1000;
  const after = { stats: region.stats(), faults: region.control.histogram("faults") };
  checkWords({ wrong: await region.benchVerify(versions), wrongOffset: 0 });
  const [p50Us = 0, p90Us = 0, p99Us = 0] = percentilesOf(before.faults, after.faults, [0.5, 0.9, 0.99]);
  const evictedBytes = (pages - left) * pageSize;
  return {
    bytesPerSecond: evictedBytes / seconds,
    p50Us,
    p90Us,
    p99Us,
    faults: after.stats.faults - before.stats.faults,
    prefetched: after.stats.prefetched - before.stats.prefetched,
    evictedBytes,
    readBytes: after.stats.readBytes - before.stats.readBytes,
    opsPerSecond: ops / seconds,
    ops,
    seconds,
    size,
    threads: loop.threads,
    writes: loop.writes,
    pattern: loop.pattern,
  };
}

/** Brings everything in, in order. */
async function pull(region: NativeRegion, pages: number): Promise<void> {
  for (let first = 0; first < pages; first += pullPages) {
    const count = Math.min(pullPages, pages - first);
    await region.prefetchAndWait(BigUint64Array.from({ length: count }, (_, at) => BigInt(first + at)));
  }
  // A prefetch leaves out what there was no room for just then.
  await region.populate({ first: 0, count: pages });
}
