/**
 * Regions: memory larger than its RAM.
 *
 * ```ts
 * import { Region } from "./mod.ts";
 *
 * using region = Region.open({ size: "8MiB", limit: "2MiB", ssd: { path: "/var/tmp" } });
 * region.bytes.fill(7);
 * if (region.bytes[8 * 2 ** 20 - 1] !== 7) throw new Error("The last page is wrong");
 * ```
 *
 * @module
 */
export {
  type PolicyOptions,
  type RegionOptions,
  type RemoteOptions,
  type RemoteSlots,
  type Size,
  type SsdOptions,
} from "./options.ts";
export { type ByteRange, Pin, Region, type RegionStatus } from "./region.ts";
export type { SnapshotResult } from "./snapshot.ts";
