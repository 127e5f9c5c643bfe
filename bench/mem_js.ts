/**
 * A loop in JavaScript over a region: what a cold page costs where the program really is.
 *
 * @module
 */
import { Region } from "../lib/region/mod.ts";
import { Random } from "./random.ts";
import { median } from "./table.ts";

const pageSize = 4096;

/** Touches enough for a median that stands still. */
const coldsWanted = 4000;

/**
 * Fills a region page by page and touches pages at random.
 *
 * @returns the median of the touches that faulted, in microseconds, and how many there were.
 */
export function measureTouches(
  options: { size: number; limit: number; path: string; seed: number },
): { coldMicros: number; colds: number } {
  const { size, limit, path, seed } = options;
  using region = Region.open({ size, limit, ssd: { path, size }, policy: false });
  const { bytes } = region;
  const words = new Uint32Array(bytes.buffer, bytes.byteOffset, size / 4);
  const pages = size / pageSize;
  for (let page = 0; page < pages; page++) words[page * 1024] = page;
  const random = new Random("touches", seed);
  const took: number[] = [];
  // The share of resident pages leaves the first touches warm: they are what the loop compiles on.
  for (let round = 0; round < 200_000 && took.length < coldsWanted; round++) {
    const page = random.below(pages);
    const before = region.stats().faults;
    const start = performance.now();
    const value = words[page * 1024];
    const end = performance.now();
    if (value !== page) throw new Error(`Cannot trust page ${page}: it holds ${value}`);
    if (region.stats().faults > before) took.push((end - start) * 1000);
  }
  return { coldMicros: median(took.slice(took.length >> 2)), colds: took.length };
}
