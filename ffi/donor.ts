/**
 * Memory of this process lent to other hosts by RDMA (native-src/donor.c), as an object that owns a handle.
 *
 * A thread in C accepts whoever shows the ticket of a lease, and the adapter does the rest: neither TypeScript nor a
 * processor of this host is asked for data.
 *
 * @module
 */
import { check } from "./errno.ts";
import { donorStats } from "./layout.ts";
import type { DonorStats, NativeDonor } from "./mod.ts";
import type { Symbols } from "./symbols.ts";

const encoder = new TextEncoder();

/** Bytes of a ticket. */
export const ticketSize = 32;

/** The bytes of a ticket of 64 small hexadecimal digits. @throws {TypeError} for anything else */
export function ticketBytes(ticket: string): Uint8Array<ArrayBuffer> {
  if (!/^[0-9a-f]{64}$/.test(ticket)) {
    throw new TypeError("Cannot use a ticket that is not 64 hexadecimal digits");
  }
  const bytes = new Uint8Array(ticketSize);
  for (let at = 0; at < ticketSize; at++) bytes[at] = Number.parseInt(ticket.slice(2 * at, 2 * at + 2), 16);
  return bytes;
}

/** Listens. @throws {NativeError} what `drover_donor_open` says */
export function openDonor(lib: Symbols, settings: { hostname: string; port: number }): NativeDonor {
  const out = new BigUint64Array(1);
  const address = encoder.encode(`${settings.hostname}\0`);
  check(
    lib.drover_donor_open(address, settings.port, new Uint8Array(out.buffer)),
    `lend memory by RDMA at ${settings.hostname}`,
  );
  return new LoadedDonor(lib, out[0] ?? 0n);
}

class LoadedDonor implements NativeDonor {
  readonly port: number;
  readonly #lib: Symbols;
  readonly #pointer: Deno.PointerObject;
  /** Memory that is lent, by ticket. */
  readonly #kept = new Map<string, Uint8Array<ArrayBuffer>>();
  readonly #underWay = new Set<Promise<number>>();
  #closing: Promise<void> | null = null;

  constructor(lib: Symbols, handle: bigint) {
    const pointer = Deno.UnsafePointer.create(handle);
    if (pointer === null) throw new TypeError("Cannot use a donor without a handle");
    this.#lib = lib;
    this.#pointer = pointer;
    this.port = lib.drover_donor_port(pointer);
  }

  async lend(lease: { ticket: string; size: number; memory?: Uint8Array<ArrayBuffer> }): Promise<void> {
    const ticket = ticketBytes(lease.ticket);
    const size = BigInt(lease.size);
    const memory = lease.memory ?? null;
    if (memory !== null && memory.length < lease.size) {
      throw new RangeError(`Cannot lend ${lease.size} bytes of a memory of ${memory.length}`);
    }
    // The adapter uses it for as long as the lease lives, whoever else has forgotten it.
    if (memory !== null && !this.#kept.has(lease.ticket)) this.#kept.set(lease.ticket, memory);
    const rc = await this.#order(
      (pointer) => this.#lib.drover_donor_lend_async(pointer, ticket, memory, size),
      ticket,
    );
    if (rc < 0 && this.#kept.get(lease.ticket) === memory) this.#kept.delete(lease.ticket);
    check(rc, `lend ${lease.size} bytes`);
  }

  async revoke(ticket: string): Promise<void> {
    const bytes = ticketBytes(ticket);
    check(
      await this.#order((pointer) => this.#lib.drover_donor_revoke_async(pointer, bytes), bytes),
      "take back lent memory",
    );
    this.#kept.delete(ticket);
  }

  stats(): DonorStats {
    if (this.#closing !== null) throw new TypeError("Cannot read the counters of a donor that is closed");
    const out = new Uint8Array(donorStats.structSize);
    check(this.#lib.drover_donor_stats(this.#pointer, out), "read the counters of a donor");
    const values = new DataView(out.buffer);
    return {
      lentBytes: Number(values.getBigUint64(donorStats.lentBytes, true)),
      accepted: Number(values.getBigUint64(donorStats.accepted, true)),
      refused: Number(values.getBigUint64(donorStats.refused, true)),
      leases: values.getUint32(donorStats.leases, true),
      links: values.getUint32(donorStats.links, true),
    };
  }

  close(): Promise<void> {
    return this.#closing ??= this.#end();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #end(): Promise<void> {
    // The handle is gone with the call: whatever still uses it comes first.
    await Promise.allSettled(this.#underWay);
    check(await this.#lib.drover_donor_close_async(this.#pointer), "end lending memory");
    this.#kept.clear();
  }

  /** Runs one call; `kept` stays referenced until C has read it. */
  async #order(
    call: (pointer: Deno.PointerObject) => Promise<number>,
    kept: Uint8Array<ArrayBuffer>,
  ): Promise<number> {
    if (this.#closing !== null) throw new TypeError("Cannot use a donor that is closed");
    const answer = call(this.#pointer);
    this.#underWay.add(answer);
    try {
      return await answer;
    } finally {
      this.#underWay.delete(answer);
      kept.fill(0);
    }
  }
}
