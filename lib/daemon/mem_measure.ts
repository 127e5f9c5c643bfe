/**
 * What all tests of `drover mem bench` do with a region once it is open, and what they say.
 *
 * Invariant: every access is checked against what was written last; a wrong word is an error and never a figure.
 *
 * @module
 */
import type { BenchLoop, NativeRegion, RegionHistogram } from "../../ffi/mod.ts";
import { DroverError } from "../base/errors.ts";
import { pageSize } from "../region/options.ts";

/** Accesses that are announced while the memory is read once. */
const warmHints = 64;

/** Longer than reading all of a region once takes. */
const secondsMax = 86_400;

/** The accesses that are timed. */
export interface MemLoop extends Pick<BenchLoop, "pattern" | "writes" | "threads" | "hints" | "seed"> {
  seconds: number;
  /** Compare every word at the end. */
  verify: boolean;
}

/** What was measured. Times in microseconds, sizes in bytes. */
export interface MemAnswer {
  opsPerSecond: number;
  p50Us: number;
  p90Us: number;
  p99Us: number;
  faults: number;
  resident: number;
  readBytes: number;
  writtenBytes: number;
  ops: number;
  seconds: number;
  size: number;
  limit: number;
  threads: number;
  writes: number;
  pattern: BenchLoop["pattern"];
  hints: number;
}

/** Fills a region, reads all of it once, and times the loop. @param filled hears when the timed part begins */
export async function measureRegion(
  region: NativeRegion,
  loop: MemLoop,
  filled: () => void = () => {},
): Promise<MemAnswer> {
  const { size } = region;
  const { pattern, writes, threads, hints, seconds, seed } = loop;
  const versions = new Uint8Array(size / 512);
  await region.benchFill(versions);
  const warm = { pattern: "scan", writes: 0, threads: 1, hints: warmHints, seed } as const;
  checkWords(await region.benchTouch({ ...warm, seconds: secondsMax, ops: size / pageSize }, versions));
  filled();
  const before = region.stats();
  const result = await region.benchTouch({ pattern, writes, threads, hints, seconds, seed }, versions);
  const after = region.stats();
  checkWords(result);
  if (loop.verify) checkWords({ wrong: await region.benchVerify(versions), wrongOffset: 0 });
  return {
    opsPerSecond: result.ops / (result.nanos / 1e9),
    p50Us: result.p50 / 1000,
    p90Us: result.p90 / 1000,
    p99Us: result.p99 / 1000,
    faults: after.faults - before.faults,
    resident: after.residentPages * pageSize,
    readBytes: after.readBytes - before.readBytes,
    writtenBytes: after.writtenBytes - before.writtenBytes,
    ops: result.ops,
    seconds: result.nanos / 1e9,
    size,
    limit: after.limitPages * pageSize,
    threads,
    writes,
    pattern,
    hints,
  };
}

/** @throws {DroverError} code "corrupt" where a word was wrong */
export function checkWords({ wrong, wrongOffset }: { wrong: number; wrongOffset: number }): void {
  if (wrong === 0) return;
  throw new DroverError(
    "corrupt",
    `Cannot trust the region: ${wrong} words were not what had been written`,
    { details: { wrong, offset: wrongOffset } },
  );
}

/** What so many parts of a histogram's growth lie below, in microseconds; 0 where nothing was added. */
export function percentilesOf(
  before: RegionHistogram,
  after: RegionHistogram,
  shares: readonly number[],
): number[] {
  const grown = after.counts.map((count, at) => count - (before.counts[at] ?? 0));
  const total = grown.reduce((sum, count) => sum + count, 0);
  return shares.map((share) => {
    let seen = 0;
    for (const [bucket, count] of grown.entries()) {
      seen += count;
      if (count > 0 && seen > total * share) return after.nanosOf(bucket) / 1000;
    }
    return 0;
  });
}
