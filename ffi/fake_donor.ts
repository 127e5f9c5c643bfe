/**
 * A donor without an adapter: it keeps the books of its leases as libdrover.so does, and nobody can connect.
 *
 * @module
 */
import { ticketBytes } from "./donor.ts";
import { errnoOf, NativeError } from "./errno.ts";
import type { DonorStats, NativeDonor } from "./mod.ts";

const pageSize = 4096;
const sizeMax = 2 ** 40;
const leasesMax = 1024;

/** What `Native.openDonor` of the fake gives; port 0 becomes 7000. */
export class FakeDonor implements NativeDonor {
  /** As asked for. */
  readonly port: number;
  readonly #leases = new Map<string, number>();
  #open = true;

  /** Any address will do. */
  constructor(settings: { hostname: string; port: number }) {
    this.port = settings.port === 0 ? 7000 : settings.port;
  }

  /** As {@link NativeDonor.lend}. */
  lend(lease: { ticket: string; size: number; memory?: Uint8Array<ArrayBuffer> }): Promise<void> {
    return this.#do(() => {
      ticketBytes(lease.ticket);
      const { size } = lease;
      const refuse = (code: string): never => {
        throw new NativeError(errnoOf(code), `lend ${size} bytes`);
      };
      if (size <= 0 || size % pageSize !== 0 || size > sizeMax) refuse("EINVAL");
      if (this.#leases.has(lease.ticket)) refuse("EEXIST");
      if (this.#leases.size >= leasesMax) refuse("EMFILE");
      this.#leases.set(lease.ticket, size);
    });
  }

  /** As {@link NativeDonor.revoke}. */
  revoke(ticket: string): Promise<void> {
    return this.#do(() => {
      ticketBytes(ticket);
      if (!this.#leases.delete(ticket)) throw new NativeError(errnoOf("ENOENT"), "take back lent memory");
    });
  }

  /** As {@link NativeDonor.stats}. */
  stats(): DonorStats {
    if (!this.#open) throw new TypeError("Cannot read the counters of a donor that is closed");
    let lentBytes = 0;
    for (const size of this.#leases.values()) lentBytes += size;
    return { lentBytes, accepted: 0, refused: 0, leases: this.#leases.size, links: 0 };
  }

  /** As {@link NativeDonor.close}. */
  close(): Promise<void> {
    this.#open = false;
    this.#leases.clear();
    return Promise.resolve();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #do(work: () => void): Promise<void> {
    if (!this.#open) return Promise.reject(new TypeError("Cannot use a donor that is closed"));
    return new Promise((resolve) => {
      work();
      resolve();
    });
  }
}
