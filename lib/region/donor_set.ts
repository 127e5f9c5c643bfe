/**
 * The stores of a region while it is in use: what they are, one more, one fewer, and the copies that are missing.
 *
 * @module
 */
import type { NativeRegion, StoreStatus } from "../../ffi/mod.ts";
import { donorStore, pageSize, type RemoteSlots } from "./options.ts";

/** Pages that leave a donor in one call into C; between two of them the program may change its mind. */
const retirePages = 4096;

/** Pages looked at in one call that makes missing copies. */
const mendPages = 65_536;

/** The donors of one region. The numbers that its methods take are places in `stores()`. */
export class DonorSet {
  readonly #native: NativeRegion;

  /** Of this region, which stays the caller's. */
  constructor(native: NativeRegion) {
    this.#native = native;
  }

  /** What holds cold pages, in the order in which it is filled. */
  stores(): StoreStatus[] {
    return this.#native.stores();
  }

  /**
   * One more donor, in the place of one that is gone if there is such.
   *
   * @returns its number
   * @throws {RangeError} for a lease that cannot be one
   * @throws {NativeError} where it does not answer, or where there are eight stores
   */
  async addDonor(slots: RemoteSlots, options: { timeoutSeconds?: number } = {}): Promise<number> {
    return await this.#native.addStore(donorStore(slots, Math.round((options.timeoutSeconds ?? 5) * 1000)));
  }

  /**
   * Moves all that a donor holds elsewhere; nothing new goes there.
   *
   * @param options `lost`: it has nothing any more, so nothing is read from it
   * @returns how many pages it still holds, because there is no room elsewhere; 0 when it is gone
   */
  async retireDonor(store: number, options: { lost?: boolean } = {}): Promise<number> {
    const lost = options.lost === true;
    let left = Infinity;
    for (;;) {
      const still = await this.#native.retire(store, { lost, limit: retirePages });
      if (still === 0 || still >= left) return still;
      left = still;
    }
  }

  /** Makes missing copies. @returns how many pages still have fewer than they should and could have */
  async mend(): Promise<number> {
    const pages = this.#native.size / pageSize;
    let thin = 0;
    for (let first = 0; first < pages; first += mendPages) {
      const span = { first, count: Math.min(mendPages, pages - first) };
      let left = Infinity;
      for (;;) {
        const still = await this.#native.mend(span);
        if (still === 0 || still >= left) {
          thin += still;
          break;
        }
        left = still;
      }
    }
    return thin;
  }
}
