/**
 * The leases of a donor: who has what, and what its time is.
 *
 * Values in, values out: time comes as an argument, memory is somebody else's. Invariants:
 * - The sum of all leases, those that are being ended included, is never above the budget at the moment of a grant.
 * - A ticket names at most one lease, and none any more as soon as the lease began to end.
 * - A lease is unattended or has an owner, never both; each unattended or recalled one has a time at which it is due.
 *
 * @module
 */
import { DroverError } from "../base/errors.ts";
import { leaseSizeMin, type LeaseState, pageSize } from "./messages.ts";

/** How much a table takes. */
export interface LeaseLimits {
  /** Leases in all. */
  leases: number;
  /** Leases of one owner. */
  perOwner: number;
  /** Milliseconds that an unattended lease lives. */
  graceMs: number;
}

/** One lease. `Owner` is whoever attends it. */
export interface Lease<Owner> {
  /** Its number, from 1 on, never used again. */
  readonly id: number;
  /** The right to its pages. */
  readonly ticket: string;
  /** Bytes. */
  readonly size: number;
  /** When it was lent, in milliseconds. */
  readonly lentAt: number;
  /** What the borrower calls itself. */
  borrower: string;
  /** The host that pages are taken from. */
  address: string;
  /** Null while it is unattended. */
  owner: Owner | null;
  /** When an unattended lease is due; Infinity while it is attended. */
  graceEndsAt: number;
  /** When a recalled lease is due; Infinity while it is not recalled. */
  recallEndsAt: number;
}

/** The leases of one donor. */
export class LeaseTable<Owner> {
  readonly #limits: LeaseLimits;
  /** In the order they were lent. */
  readonly #leases = new Map<number, Lease<Owner>>();
  readonly #tickets = new Map<string, Lease<Owner>>();
  #budget: number;
  #lent = 0;
  #last = 0;

  /** An empty table. @param options `budget` in bytes */
  constructor(options: { budget: number; limits: LeaseLimits }) {
    this.#budget = options.budget;
    this.#limits = options.limits;
  }

  /** Bytes that are lent at most. */
  get budget(): number {
    return this.#budget;
  }

  /** Bytes that are lent, and not given back to the system. */
  get lent(): number {
    return this.#lent;
  }

  /** Bytes that can be lent. */
  get free(): number {
    return Math.max(0, this.#budget - this.#lent);
  }

  /** In the order they were lent; without those that are ending. */
  get leases(): readonly Lease<Owner>[] {
    return [...this.#tickets.values()];
  }

  /** Whether nothing is lent, and nothing is ending. */
  get isEmpty(): boolean {
    return this.#leases.size === 0;
  }

  /**
   * Lends as much as there is between `least` and `size`.
   *
   * @param request `ticket`: fresh; `available`: bytes that the system has
   * @throws {DroverError} codes `busy`, `no-space`
   */
  grant(
    request: {
      owner: Owner;
      borrower: string;
      address: string;
      size: number;
      least: number;
      ticket: string;
      available: number;
      now: number;
    },
  ): Lease<Owner> {
    const { owner, borrower, address, size, least, ticket, available, now } = request;
    const { leases, perOwner } = this.#limits;
    if (this.#leases.size >= leases || this.owned(owner).length >= perOwner) {
      throw new DroverError("busy", "Cannot lend memory: there are as many leases as are allowed");
    }
    const room = Math.min(this.free, Math.max(0, available));
    const granted = Math.min(size, room - room % pageSize);
    if (granted < least || granted < leaseSizeMin) {
      throw new DroverError("no-space", `Cannot lend ${least} bytes: ${room} are free`);
    }
    const lease: Lease<Owner> = {
      id: ++this.#last,
      ticket,
      size: granted,
      lentAt: now,
      borrower,
      address,
      owner,
      graceEndsAt: Infinity,
      recallEndsAt: Infinity,
    };
    this.#leases.set(lease.id, lease);
    this.#tickets.set(ticket, lease);
    this.#lent += granted;
    return lease;
  }

  /** The lease of a ticket, unless there is none any more. */
  find(ticket: string): Lease<Owner> | null {
    return this.#tickets.get(ticket) ?? null;
  }

  /** Leases of an owner. */
  owned(owner: Owner): Lease<Owner>[] {
    return this.leases.filter((lease) => lease.owner === owner);
  }

  /** Gives a lease to whoever has its ticket. @returns null where there is none, or he has too many */
  claim(ticket: string, by: { owner: Owner; borrower: string; address: string }): Lease<Owner> | null {
    const lease = this.find(ticket);
    if (lease === null) return null;
    if (lease.owner !== by.owner && this.owned(by.owner).length >= this.#limits.perOwner) return null;
    lease.graceEndsAt = Infinity;
    return Object.assign(lease, by);
  }

  /** The owner is gone: his leases are unattended from now on. */
  leave(owner: Owner, now: number): Lease<Owner>[] {
    const left = this.owned(owner);
    for (const lease of left) {
      lease.owner = null;
      lease.graceEndsAt = now + this.#limits.graceMs;
    }
    return left;
  }

  /** Marks a lease as wanted back. @returns false when it was already */
  recall(lease: Lease<Owner>, endsAt: number): boolean {
    if (lease.recallEndsAt <= endsAt) return false;
    lease.recallEndsAt = endsAt;
    return true;
  }

  /** What has to be recalled so that the rest fits: the newest ones. */
  excess(): Lease<Owner>[] {
    let staying = this.leases.filter(({ recallEndsAt }) => recallEndsAt === Infinity)
      .reduce((sum, { size }) => sum + size, 0);
    const excess: Lease<Owner>[] = [];
    for (const lease of this.leases.toReversed()) {
      if (staying <= this.#budget) break;
      if (lease.recallEndsAt !== Infinity) continue;
      excess.push(lease);
      staying -= lease.size;
    }
    return excess;
  }

  /** Another budget. What is lent beyond it stays lent until it is recalled. */
  setBudget(bytes: number): void {
    this.#budget = bytes;
  }

  /** Leases whose time is over. */
  due(now: number): Lease<Owner>[] {
    return this.leases.filter((lease) => dueAt(lease) <= now);
  }

  /** When the next one is due; Infinity for never. */
  nextDue(): number {
    return this.leases.reduce((soonest, lease) => Math.min(soonest, dueAt(lease)), Infinity);
  }

  /** From now on the ticket is worth nothing; the bytes count as lent until `ended`. @returns false: it began before */
  beginEnd(lease: Lease<Owner>): boolean {
    return this.#tickets.delete(lease.ticket);
  }

  /** The memory is the system's again. */
  ended(lease: Lease<Owner>): void {
    if (this.#leases.delete(lease.id)) this.#lent -= lease.size;
  }
}

/** What a lease is doing. */
export function stateOf(lease: Lease<unknown>): LeaseState {
  if (lease.owner === null) return "unattended";
  return lease.recallEndsAt === Infinity ? "attended" : "recalled";
}

function dueAt(lease: Lease<unknown>): number {
  return Math.min(lease.graceEndsAt, lease.recallEndsAt);
}
