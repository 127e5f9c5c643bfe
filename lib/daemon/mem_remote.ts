/**
 * Regions whose cold pages are in other hosts' memory, put together for as long as some work takes: the room, the region over
 * it, what follows the room, and the policy.
 *
 * @module
 */
import type { NativeRegion } from "../../ffi/mod.ts";
import { DroverError } from "../base/errors.ts";
import type { Log } from "../base/log.ts";
import { borrow, followRoom } from "../cluster/mod.ts";
import type { ClusterKey } from "../net/mod.ts";
import { DonorSet } from "../region/donor_set.ts";
import { openRegion } from "../region/open.ts";
import { checkOptions, type RegionOptions } from "../region/options.ts";
import { PolicyThread } from "../region/policy_thread.ts";
import { loadNative } from "./context.ts";

/** How to keep pages in other hosts' memory. */
export interface RemoteChoice {
  /** `HOST:PORT` of each donor. */
  donors: readonly string[];
  key: ClusterKey | null;
  copies: 1 | 2;
  /** Undefined: as the donor's address asks for. */
  sealed: boolean | undefined;
  transport: "tcp" | "rdma";
  /** Where the file is; null for none. */
  ssd: string | null;
  /** See CONFIG.md; undefined for never. */
  t1Ms: number | undefined;
  t2Ms: number | undefined;
  log: Log;
}

/** How a region in other hosts' memory stands. */
export interface RemoteStatus {
  donors: number;
  copies: 1 | 2;
  sealed: boolean;
  transport: "tcp" | "rdma";
  /** Pages with fewer copies than they should and could have. */
  thin: number;
  /** Where cold pages are, by kind: the file and the donors, those that are gone too. */
  stores: {
    kind: string;
    state: string;
    slots: number;
    used: number;
    reads: number;
    writes: number;
    errors: number;
  }[];
}

/**
 * Borrows room, opens a region over it, and runs `work`. Room that is lost, recalled or found again meanwhile is dealt with.
 *
 * @throws {DroverError} code "usage" without donors; what borrowing and opening say
 * @throws {RangeError} for sizes that do not fit together
 */
export async function withRemoteRegion<T>(
  choice: RemoteChoice,
  sizes: { size: number; limit: number; faults: "inline" | "thread" },
  work: (region: NativeRegion, status: () => Promise<RemoteStatus>) => Promise<T>,
): Promise<T> {
  const { donors, key, copies, sealed, transport, log, t1Ms, t2Ms } = choice;
  const { size, limit, faults } = sizes;
  if (donors.length === 0) {
    throw new DroverError("usage", "Cannot borrow memory: no donor is named", {
      hint: "--donor HOST:PORT, or --config with a drover.json that has peers",
    });
  }
  const native = loadNative();
  await using room = await borrow({
    nodes: donors,
    key,
    size,
    copies,
    transport,
    // The file has room for everything.
    partial: choice.ssd !== null,
    ...(sealed === undefined ? {} : { sealed }),
    log,
  });
  const opened = room.slots;
  if (opened.length === 0) throw new DroverError("no-space", "Cannot borrow memory: no donor has any free");
  const options: RegionOptions = {
    size,
    limit,
    faults,
    ...(choice.ssd === null ? {} : { ssd: { path: choice.ssd, prewrite: limit < size } }),
    remote: {
      donors: opened,
      copies,
      // T2 is about pages that are on SSD by then.
      order: t2Ms !== undefined && choice.ssd !== null ? "ssd-first" : "remote-first",
    },
    policy: t1Ms === undefined && t2Ms === undefined ? false : {
      ...(t1Ms === undefined ? {} : { idleSeconds: t1Ms / 1000 }),
      ...(t2Ms === undefined ? {} : { nextSeconds: t2Ms / 1000 }),
    },
  };
  using region = openRegion(native, options);
  const { policy: plan } = checkOptions(options);
  const policy = plan === null ? null : new PolicyThread(native, region, plan);
  const set = new DonorSet(region);
  try {
    await using _follower = followRoom({ region: set, room, opened, log });
    return await work(region, async () => ({
      donors: new Set(room.slots.map(({ donor }) => donor)).size,
      copies,
      sealed: room.slots.some((slots) => slots.sealed),
      transport,
      thin: await set.mend(),
      stores: set.stores().map(({ kind, state, slots, used, reads, writes, errors }) => ({
        kind,
        state,
        slots,
        used,
        reads,
        writes,
        errors,
      })),
    }));
  } finally {
    policy?.close();
  }
}
