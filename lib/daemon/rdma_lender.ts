/**
 * A donor's leases over RDMA too: what `lib/cluster` asks of a lender, on libdrover.so.
 *
 * @module
 */
import type { NativeDonor } from "../../ffi/mod.ts";

/** What lends by RDMA, until it is closed. */
export interface RdmaLending extends AsyncDisposable {
  /** Where it listens. */
  readonly port: number;
  /** Takes connections with this ticket to this memory, until it is recalled. */
  lend(ticket: string, memory: Uint8Array<ArrayBuffer>): void;
  /** Ends the connections of a ticket; resolves when nothing touches its memory any more. */
  recall(ticket: string): Promise<void>;
}

/**
 * Lends through `donor`, which it then owns.
 *
 * @param options `failed` hears why a lease is not to be had by RDMA; it is by TCP all the same.
 */
export function rdmaLender(
  donor: NativeDonor,
  options: { failed: (error: unknown) => void },
): RdmaLending {
  /** Whether each ticket is lent, once that is known. */
  const leases = new Map<string, Promise<boolean>>();
  return {
    port: donor.port,
    lend(ticket, memory) {
      const lent = donor.lend({ ticket, size: memory.length, memory }).then(() => true, (error: unknown) => {
        options.failed(error);
        return false;
      });
      leases.set(ticket, lent);
    },
    async recall(ticket) {
      const lent = leases.get(ticket);
      leases.delete(ticket);
      if (lent !== undefined && await lent) await donor.revoke(ticket);
    },
    [Symbol.asyncDispose]: () => donor.close(),
  };
}
