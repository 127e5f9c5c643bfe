/**
 * Borrowing: room for cold pages in the memory of other hosts.
 *
 * Invariants:
 * - What is borrowed is spread over donors in proportion to what they have free, and no donor has more than one copy.
 * - Room that is lost, or that was returned because its donor wanted it back, is borrowed anew as soon as a donor has it.
 * - Two donors are two processes with two names, and neither is this process.
 *
 * It carries no pages: a region does, with the tickets.
 *
 * @module
 */
import { DroverError } from "../base/errors.ts";
import { errorField, type Log } from "../base/log.ts";
import { parseSize } from "../base/size.ts";
import { type Address, type ClusterKey, isLoopback, parseAddress } from "../net/mod.ts";
import type { RemoteSlots } from "../region/options.ts";
import { DonorLink, type HeldLease } from "./donor_link.ts";
import { defaultNodeName } from "./identity.ts";
import { type DonorWelcome, leaseSizeMax, leaseSizeMin, nodeNameFault } from "./messages.ts";
import { shareOut } from "./placement.ts";

/** Room in one donor's memory, as a region takes it. */
export interface BorrowedSlots extends Readonly<RemoteSlots> {
  /** Bytes. */
  readonly size: number;
  /** What the donor is called. */
  readonly donor: string;
}

/** What happened to borrowed room. */
export type BorrowEvent =
  /** There is more of it. */
  | { event: "lent"; slots: BorrowedSlots }
  /** Its donor takes it back after that time: move its pages elsewhere, then `giveBack`. */
  | { event: "recalled"; slots: BorrowedSlots; withinMs: number }
  /** It is gone, and what was in it. */
  | { event: "lost"; slots: BorrowedSlots; reason: string }
  /** A donor does not answer; its pages may still be there. */
  | { event: "down"; donor: string; reason: string }
  /** It answers again. */
  | { event: "up"; donor: string };

/** How to borrow. */
export interface BorrowOptions {
  /** Donors, as `HOST:PORT`; at most 64. */
  nodes: readonly (string | Address)[];
  /** The cluster's key; null for donors of this user on this machine. */
  key: ClusterKey | null;
  /** Bytes of pages that are to have room, or text like `4GiB`. */
  size: number | string;
  /** Donors that each page has room with: 1, the default, or 2. */
  copies?: 1 | 2;
  /** Take less where donors have less; otherwise that is an error. */
  partial?: boolean;
  /** What this host is called in the lists of donors; default: its host name. */
  name?: string;
  /** Seal pages; default: for every donor that is not on loopback. */
  sealed?: boolean;
  /** How pages travel; `rdma` where a donor has it, else TCP. Default `tcp`. */
  transport?: "tcp" | "rdma";
  /** Instances of donors that run in this process: lending to oneself makes no room. */
  own?: readonly string[];
  /** Hears what happens to the room. Called at once, before anything else is done about it. */
  onEvent?: (event: BorrowEvent) => void;
  /** Hears the same, and oddities. */
  log?: Log;
  /** Milliseconds between attempts to reach a donor again; 100 to begin with and at most 5000. */
  pauseMs?: { first: number; most: number };
  /** Milliseconds in which a donor must answer; default 10 s. */
  timeoutMs?: number;
}

/** Donors of one borrower. */
const nodesMax = 64;
/** Milliseconds between attempts to borrow what is missing. */
const refillMs = 1000;

/**
 * Borrows room.
 *
 * @throws {DroverError} codes `no-space` where the donors have too little, `disconnected` where none is there, `auth`
 * where the key is another one, `usage` for donors that are one donor or have one name
 *
 * @example
 * ```ts ignore
 * await using room = await borrow({ nodes: ["donor.example:7707"], key, size: "4GiB" });
 * for (const { hostname, port, size } of room.slots) console.log(hostname, port, size);
 * ```
 */
export async function borrow(options: BorrowOptions): Promise<Borrowed> {
  const borrowed = new Borrowed(options);
  try {
    await borrowed.open();
  } catch (error) {
    await borrowed.close();
    throw error;
  }
  return borrowed;
}

interface Room {
  slots: BorrowedSlots;
  link: DonorLink;
  lease: HeldLease;
  /** When its donor takes it, on the clock of the process; Infinity unless it is recalled. */
  recallEndsAt: number;
}

/** Borrowed room, until it is closed. `borrow` makes one. */
export class Borrowed implements AsyncDisposable {
  readonly #options: BorrowOptions;
  readonly #nodes: readonly Address[];
  readonly #log: Log;
  readonly #name: string;
  readonly #size: number;
  readonly #links: DonorLink[] = [];
  readonly #rooms = new Map<HeldLease, Room>();
  readonly #listeners = new Set<(event: BorrowEvent) => void>();
  #refilling: Promise<void> | null = null;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #closed = false;
  /** Who answered by which name while links are being opened. */
  readonly #seen = new Map<string, DonorWelcome>();

  /** Checks the options. @throws {DroverError} code `usage` */
  constructor(options: BorrowOptions) {
    this.#options = options;
    this.#log = options.log ?? (() => {});
    this.#nodes = options.nodes.map((node) => typeof node === "string" ? parseAddress(node) : node);
    this.#name = options.name ?? defaultNodeName(Deno.hostname());
    const fault = nodeNameFault(this.#name);
    if (fault !== null) throw new DroverError("usage", `Cannot borrow as "${this.#name}": ${fault}`);
    this.#size = typeof options.size === "string" ? parseSize(options.size) : options.size;
    if (!Number.isSafeInteger(this.#size) || this.#size < 1) {
      throw new DroverError("usage", `Cannot borrow ${this.#size} bytes: it should be a whole number from 1`);
    }
    const { length } = this.#nodes;
    const copies = options.copies ?? 1;
    if (length < copies || length > nodesMax) {
      throw new DroverError(
        "usage",
        `Cannot borrow from ${length} donors: it should be ${copies} to ${nodesMax} for ${copies} copies`,
      );
    }
  }

  /** Connects to the donors and borrows; `borrow` calls it. */
  async open(): Promise<void> {
    const opened = await Promise.allSettled(this.#nodes.map((node) => this.#open(node)));
    const failures = opened.flatMap((result) => result.status === "rejected" ? [result.reason] : []);
    const wrong = failures.find((error) => error instanceof DroverError && error.code === "usage");
    if (wrong !== undefined) throw wrong;
    if (this.#links.length === 0) throw failures[0];
    for (const error of failures) this.#log("warn", "donor.unreachable", { error: errorField(error) });
    await this.#fill();
    const missing = this.#missing();
    if (missing > 0 && this.#options.partial !== true) {
      throw new DroverError(
        "no-space",
        `Cannot borrow ${this.#wanted()} bytes: the donors have ${missing} too few`,
        { hint: "drover donors shows who lends what to whom" },
      );
    }
  }

  /** The room there is now; what is recalled is in it until it is given back. */
  get slots(): readonly BorrowedSlots[] {
    return [...this.#rooms.values()].map(({ slots }) => slots);
  }

  /** Bytes of room there are now. */
  get size(): number {
    return this.slots.reduce((sum, { size }) => sum + size, 0);
  }

  /** Room that its donors want back, with the milliseconds that are left. */
  get recalls(): readonly { slots: BorrowedSlots; withinMs: number }[] {
    const now = performance.now();
    return [...this.#rooms.values()].flatMap(({ slots, recallEndsAt }) =>
      recallEndsAt === Infinity ? [] : [{ slots, withinMs: Math.max(0, recallEndsAt - now) }]
    );
  }

  /** Calls `hear` for everything that happens from now on. @returns what ends that */
  subscribe(hear: (event: BorrowEvent) => void): () => void {
    this.#listeners.add(hear);
    return () => void this.#listeners.delete(hear);
  }

  /** Gives room back: nothing is in it any more that matters. */
  async giveBack(slots: BorrowedSlots): Promise<void> {
    for (const room of this.#rooms.values()) {
      if (room.slots.ticket !== slots.ticket) continue;
      this.#rooms.delete(room.lease);
      await room.link.giveBack(room.lease);
      this.#refillSoon(refillMs);
      return;
    }
  }

  /** Gives all room back. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    clearTimeout(this.#timer);
    await this.#refilling;
    this.#rooms.clear();
    await Promise.all(this.#links.map((link) => link.close()));
  }

  /** See `close`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #open(node: Address): Promise<void> {
    const { key, log, pauseMs, timeoutMs } = this.#options;
    const link = await DonorLink.open({
      node,
      key,
      name: this.#name,
      ...log === undefined ? {} : { log },
      ...pauseMs === undefined ? {} : { pauseMs },
      ...timeoutMs === undefined ? {} : { timeoutMs },
      events: {
        check: (link, welcome) => this.#check(link, welcome),
        up: (link) => {
          this.#say({ event: "up", donor: link.label });
          this.#refillSoon(0);
        },
        down: (link, error) => this.#say({ event: "down", donor: link.label, reason: errorField(error) }),
        recalled: (_link, lease, withinMs) => {
          const room = this.#rooms.get(lease);
          if (room === undefined) return;
          room.recallEndsAt = performance.now() + withinMs;
          this.#say({ event: "recalled", slots: room.slots, withinMs });
        },
        lost: (_link, lease, reason) => {
          const room = this.#rooms.get(lease);
          if (room === undefined) return;
          this.#rooms.delete(lease);
          this.#say({ event: "lost", slots: room.slots, reason });
          this.#refillSoon(0);
        },
      },
    });
    this.#links.push(link);
  }

  /** Refuses a donor that is another one already, or ourselves. */
  #check(link: DonorLink, welcome: DonorWelcome): void {
    if (this.#options.own?.includes(welcome.instance) === true) {
      throw new DroverError(
        "usage",
        `Cannot borrow from "${link.label}": it is this process, which would lend to itself`,
      );
    }
    for (const [label, other] of this.#seen) {
      if (label === link.label) continue;
      if (other.instance === welcome.instance) {
        throw new DroverError(
          "usage",
          `Cannot borrow from "${link.label}": it is the same donor as "${label}"`,
        );
      }
      if (other.name === welcome.name) {
        throw new DroverError(
          "usage",
          `Cannot borrow from "${link.label}": it calls itself "${welcome.name}", and so does "${label}"`,
          { hint: 'set "name" in the drover.json of one of them' },
        );
      }
    }
    this.#seen.set(link.label, welcome);
  }

  #wanted(): number {
    return Math.ceil(this.#size / leaseSizeMin) * leaseSizeMin * (this.#options.copies ?? 1);
  }

  #missing(): number {
    const held = [...this.#rooms.values()].filter(({ lease }) => !lease.recalled)
      .reduce((sum, { slots }) => sum + slots.size, 0);
    return Math.max(0, this.#wanted() - held);
  }

  /** Borrows what is missing, as far as it is there. */
  async #fill(): Promise<void> {
    // A donor whose room is recalled has none to lend, whatever it says.
    const links = this.#links.filter((link) => link.isUp && link.leases.every(({ recalled }) => !recalled));
    const missing = this.#missing();
    if (missing === 0 || links.length === 0) return;
    const held = links.map((link) => link.leases.reduce((sum, { size }) => sum + size, 0));
    const free = links.map((link) => link.free);
    const shares = shareOut({
      size: this.#size,
      copies: this.#options.copies ?? 1,
      free,
      held,
      missing,
    });
    await Promise.all(links.map((link, at) => this.#borrow(link, shares[at] ?? 0)));
  }

  async #borrow(link: DonorLink, share: number): Promise<void> {
    for (let left = share; left >= leaseSizeMin && !this.#closed;) {
      const size = Math.min(left, leaseSizeMax);
      try {
        const lease = await link.lend(size, leaseSizeMin);
        left -= lease.size;
        const slots = this.#slotsOf(link, lease);
        this.#rooms.set(lease, { slots, link, lease, recallEndsAt: Infinity });
        this.#say({ event: "lent", slots });
        if (lease.size < size) return;
      } catch (error) {
        this.#log("warn", "lend.refused", { donor: link.label, size, error: errorField(error) });
        return;
      }
    }
  }

  #slotsOf(link: DonorLink, lease: HeldLease): BorrowedSlots {
    const { sealed, transport } = this.#options;
    const { rdmaPort } = lease;
    const byRdma = transport === "rdma" && rdmaPort !== null;
    return {
      hostname: link.host,
      port: byRdma ? rdmaPort : lease.port,
      ticket: lease.ticket,
      transport: byRdma ? "rdma" : "tcp",
      size: lease.size,
      sealed: sealed ?? !isLoopback(link.host),
      donor: link.welcome.name,
    };
  }

  /** Tries to borrow what is missing, until nothing is. */
  #refillSoon(afterMs: number): void {
    clearTimeout(this.#timer);
    if (this.#closed) return;
    this.#timer = setTimeout(async () => {
      if (this.#refilling !== null) return this.#refillSoon(refillMs);
      this.#refilling = this.#fill();
      await this.#refilling;
      this.#refilling = null;
      if (this.#missing() > 0) this.#refillSoon(refillMs);
    }, afterMs);
  }

  #say(event: BorrowEvent): void {
    if (this.#closed) return;
    const { event: name, ...rest } = event;
    const { slots, ...fields } = { slots: null, ...rest };
    const place = slots === null ? {} : { donor: slots.donor, host: slots.hostname, size: slots.size };
    const grave = name === "lost" || name === "down";
    this.#log(grave ? "warn" : "info", `remote.${name}`, { ...place, ...fields });
    this.#options.onEvent?.(event);
    for (const hear of this.#listeners) hear(event);
  }
}
