/**
 * What the tests of regions share: a directory on a disk, a region of the machine where it can have one, and a stand-in.
 */
import { createFakeNative } from "../../ffi/fake.ts";
import type { FakeRegion } from "../../ffi/fake_region.ts";
import { openNative } from "../../ffi/mod.ts";
import { pathFromText } from "../../lib/base/path.ts";
import { Region, type RegionOptions } from "../../lib/region/mod.ts";

/** 2^20. */
export const MiB = 2 ** 20;

/** A directory on a disk, removed by `using`. */
export class Room implements Disposable {
  /** Absolute path. */
  readonly path: string = Deno.makeTempDirSync({ dir: "/var/tmp", prefix: "drover-region-test-" });

  /** A path in it. */
  at(name: string): string {
    return `${this.path}/${name}`;
  }

  [Symbol.dispose](): void {
    Deno.removeSync(this.path, { recursive: true });
  }
}

/** Why this machine can have no regions; null where it can. */
export const missing: string | null = ((): string | null => {
  const items = openNative().probe(pathFromText("/var/tmp"));
  const needed = ["userfaultfd", "userfaultfd.sigbus", "userfaultfd.move", "o_direct", "io_uring"];
  const without = items.filter(({ id, ok }) => needed.includes(id) && !ok);
  return without.length === 0 ? null : without.map(({ id, detail }) => `${id}: ${detail}`).join("; ");
})();

if (missing !== null) console.error(`tests/region: skipped where regions are needed: ${missing}`);

/** A test that needs a region of the machine. */
export function realTest(name: string, fn: () => void | Promise<void>): void {
  Deno.test({ name, ignore: missing !== null, fn });
}

/** A region of the machine with an unnamed file in `room`, without policy unless it is asked for. */
export function openReal(room: Room, options: Partial<RegionOptions> = {}): Region {
  return Region.open({ size: 8 * MiB, limit: 2 * MiB, ssd: { path: room.path }, policy: false, ...options });
}

/** A stand-in of so many pages. */
export function openFake(
  options: { pages: number; limitPages?: number; dirty?: "hash" | "async" },
): FakeRegion {
  const { pages, limitPages = pages, dirty = "hash" } = options;
  return createFakeNative().openRegion({
    size: pages * 4096,
    limit: limitPages * 4096,
    ssd: { path: pathFromText("/fake"), size: 0, anonymous: true },
    faults: "inline",
    dirty,
    spinUs: 0,
  }) as FakeRegion;
}
