/**
 * A donor: lends memory of this process to borrowers, and serves its pages over NBD.
 *
 * ```text
 *   control (lib/net) --> conversation --> lease table, memory
 *   page channel (NBD) -- ticket ---------------------^
 * ```
 *
 * Invariants:
 * - What is lent, counting what is on its way back to the system, is never above the budget when something is lent.
 * - A lease that ends: first its ticket is worth nothing, then its page channels end, then its memory goes.
 * - What one borrower does wrong ends his conversation and no other.
 * - No ticket is in a log, in a status, or in an error.
 *
 * @module
 */
import { DroverError } from "../base/errors.ts";
import { errorField, type Log } from "../base/log.ts";
import type { Channel, ReceivedRecord } from "../net/mod.ts";
import { NbdListener, type NbdListenEvent, type OfferedBackend } from "../region/nbd_listen.ts";
import { DonorConversation, type DonorDesk, type DonorLease } from "./donor_conversation.ts";
import { randomHex, sameHost } from "./identity.ts";
import { LeaseTable, stateOf } from "./lease_table.ts";
import { LentMemory, type MemorySource, plainMemory } from "./lent_memory.ts";
import {
  claimsMax,
  clusterRecord,
  decodeHello,
  decodeList,
  type DonorStatus,
  encode,
  encodeError,
  instanceSize,
  type LeasePlace,
  leasesMax,
  type LendRequest,
  nodeNameFault,
  ticketSize,
} from "./messages.ts";
import { PageTallies, type PageTally } from "./page_tallies.ts";

/** Serves leases over RDMA, beside the page channels. */
export interface RdmaLender {
  /** Where it listens. */
  readonly port: number;
  /** Takes connections with this ticket to this memory, until it is recalled. */
  lend(ticket: string, memory: Uint8Array<ArrayBuffer>): void;
  /** Ends the connections of a ticket; resolves when nothing touches its memory any more. */
  recall(ticket: string): Promise<void> | void;
}

/** How a donor lends. */
export interface DonorOptions {
  /** What the donor is called; unique in the cluster. */
  name: string;
  /** Bytes that are lent at most. */
  budget: number;
  /** Where page channels are taken; port 0 is any that is free. */
  place: { hostname: string; port: number };
  /** Milliseconds that a lease lives without its borrower; default 30 s. */
  graceMs?: number;
  /** Milliseconds within which borrowers say that they live; default 5 s. */
  renewMs?: number;
  /** Milliseconds that a borrower gets to clear a lease that is recalled; default 30 s. */
  recallMs?: number;
  /** Leases at once; default and at most 1024. */
  leases?: number;
  /** Leases of one borrower; default 64, at most 512. */
  leasesPerBorrower?: number;
  /** Borrowers at once; default 256. */
  borrowers?: number;
  /** Page channels at once; default 1024. */
  pageChannels?: number;
  /** Page channels of one lease; default 64. */
  pageChannelsPerLease?: number;
  /** Milliseconds until a page channel must have named its ticket; default 10 s. */
  pageDeadlineMs?: number;
  /** Bytes that the system has free now: more is not lent. By default nobody looks. */
  available?: () => number;
  /** Where the memory comes from; default: buffers of the runtime. */
  memory?: MemorySource;
  /** Beside NBD. */
  rdma?: RdmaLender;
  /** Milliseconds on a clock that nobody sets; default: that of the process. */
  now?: () => number;
  /** Hears of leases, borrowers, and what was refused. */
  log?: Log;
}

/** What belongs to a lease besides its entry in the table. */
interface Held {
  memory: LentMemory;
  pages: PageTallies;
  ended: Promise<void> | null;
}

const graceMsDefault = 30_000;
const renewMsDefault = 5000;
const recallMsDefault = 30_000;
const closeMsDefault = 10_000;
const drainMs = 1000;
/** The longest that a timer sleeps; a lease that is due later is looked at again. */
const sleepMsMax = 60_000;

/** Lends until it is closed. */
export class Donor implements AsyncDisposable {
  /** What it is called. */
  readonly name: string;
  /** This donor, until it is closed: 32 hex digits. */
  readonly instance: string = randomHex(instanceSize);
  /** Milliseconds that a lease lives without its borrower. */
  readonly graceMs: number;
  /** Milliseconds within which borrowers say that they live. */
  readonly renewMs: number;
  readonly #options: DonorOptions;
  readonly #log: Log;
  readonly #now: () => number;
  readonly #table: LeaseTable<DonorConversation>;
  readonly #held = new Map<number, Held>();
  readonly #conversations = new Set<DonorConversation>();
  readonly #openedAt: number;
  /** What conversations may ask. */
  readonly #desk: DonorDesk = {
    lend: (to, request) => this.#lend(to, request),
    claim: (by, ticket) => this.#claim(by, ticket),
    takeBack: (from, id) => this.#takeBack(from, id),
    placeOf: (lease) => this.#placeOf(lease),
  };
  #listener: NbdListener | null = null;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #closing = false;
  /** Called when a lease is gone. */
  #emptied: () => void = () => {};

  private constructor(options: DonorOptions) {
    const fault = nodeNameFault(options.name);
    if (fault !== null) throw new DroverError("usage", `Cannot lend as "${options.name}": ${fault}`);
    this.name = options.name;
    this.#options = options;
    this.graceMs = options.graceMs ?? graceMsDefault;
    this.renewMs = options.renewMs ?? renewMsDefault;
    this.#log = options.log ?? (() => {});
    this.#now = options.now ?? (() => performance.now());
    this.#openedAt = this.#now();
    this.#table = new LeaseTable({
      budget: options.budget,
      limits: {
        leases: Math.min(options.leases ?? leasesMax, leasesMax),
        perOwner: Math.min(options.leasesPerBorrower ?? 64, claimsMax),
        graceMs: this.graceMs,
      },
    });
  }

  /**
   * Begins to lend: page channels are taken from now on, borrowers as soon as `serve` is given their channels.
   *
   * @throws {IoError} when the place of the page channels is taken
   */
  static async open(options: DonorOptions): Promise<Donor> {
    const donor = new Donor(options);
    donor.#listener = await NbdListener.open({
      place: options.place,
      offers: { list: () => [], find: (ticket, hostname) => donor.#find(ticket, hostname) },
      connections: options.pageChannels ?? 1024,
      deadlineMs: options.pageDeadlineMs ?? 10_000,
      graceMs: 1000,
      log: (event) => donor.#heard(event),
    });
    return donor;
  }

  /** Where page channels are taken, with the real port. */
  get pagePort(): number {
    const place = this.#pages().place;
    return "port" in place ? place.port : 0;
  }

  /** What it lends, for people. */
  get status(): DonorStatus {
    const { budget, lent, free, leases } = this.#table;
    const now = this.#now();
    return {
      name: this.name,
      budget,
      lent,
      free: this.#closing ? 0 : free,
      uptimeMs: Math.round(now - this.#openedAt),
      leases: leases.map((lease) => ({
        lease: lease.id,
        borrower: lease.borrower,
        address: lease.address,
        size: lease.size,
        state: stateOf(lease),
        ageMs: Math.round(now - lease.lentAt),
        ...this.#traffic(lease),
      })),
    };
  }

  /** Bytes that can be lent now. */
  get free(): number {
    return this.#closing ? 0 : this.#table.free;
  }

  /** Bytes that are lent at most. */
  get budget(): number {
    return this.#table.budget;
  }

  /**
   * Talks with one borrower, or answers one LIST, until that is over.
   *
   * @param channel its end stays the caller's business no longer: it is closed afterwards
   * @param first the record that began the conversation: HELLO or LIST
   */
  async serve(channel: Channel, first: ReceivedRecord): Promise<void> {
    using _ = channel;
    try {
      if (first.type === clusterRecord.list) {
        decodeList(first.body);
        await channel.send(clusterRecord.listed, encode(this.status));
        await channel.end();
        return;
      }
      if (first.type !== clusterRecord.hello) {
        throw new DroverError("protocol", "Cannot talk about memory: the first record is not HELLO");
      }
      const hello = decodeHello(first.body);
      if (this.#closing) throw new DroverError("busy", "Cannot lend memory: this donor is about to end");
      if (this.#conversations.size >= (this.#options.borrowers ?? 256)) {
        throw new DroverError("busy", "Cannot lend memory: there are as many borrowers as are allowed");
      }
      const conversation = new DonorConversation({ donor: this, desk: this.#desk }, channel, hello);
      this.#conversations.add(conversation);
      this.#log("info", "borrower.came", { borrower: hello.name, peer: channel.peer });
      try {
        await conversation.run();
      } finally {
        this.#conversations.delete(conversation);
        const left = this.#table.leave(conversation, this.#now());
        // Who leaves while the donor ends will not come back in time.
        if (this.#closing) { for (const lease of left) void this.#end(lease, "closed"); }
        this.#log("info", "borrower.left", {
          borrower: hello.name,
          peer: channel.peer,
          unattended: left.length,
        });
        this.#schedule();
      }
    } catch (error) {
      this.#log("warn", "borrower.refused", { peer: channel.peer, error: errorField(error) });
      await channel.send(clusterRecord.error, encodeError(error, null)).catch(() => {});
      await channel.end().catch(() => {});
      await drain(channel);
    }
  }

  /** Lends to a conversation. @throws {DroverError} codes `busy`, `no-space` */
  #lend(to: DonorConversation, request: LendRequest): DonorLease {
    if (this.#closing) throw new DroverError("no-space", "Cannot lend memory: this donor is about to end");
    const lease = this.#table.grant({
      ...request,
      owner: to,
      borrower: to.name,
      address: to.host,
      ticket: randomHex(ticketSize),
      available: this.#options.available?.() ?? Infinity,
      now: this.#now(),
    });
    try {
      const { memory: source = plainMemory, rdma } = this.#options;
      const memory = new LentMemory({ name: `lease ${lease.id}`, size: lease.size, source });
      this.#held.set(lease.id, { memory, pages: new PageTallies(), ended: null });
      rdma?.lend(lease.ticket, memory.bytes);
    } catch (error) {
      void this.#end(lease, "failed");
      throw new DroverError("no-space", `Cannot lend ${lease.size} bytes: the system does not give them`, {
        cause: error,
      });
    }
    this.#log("info", "lease.lent", {
      lease: lease.id,
      size: lease.size,
      borrower: lease.borrower,
      address: lease.address,
    });
    return lease;
  }

  /** Gives a lease to the conversation that has its ticket; null where there is none. */
  #claim(by: DonorConversation, ticket: string): DonorLease | null {
    const before = this.#table.find(ticket)?.owner ?? null;
    const lease = this.#table.claim(ticket, { owner: by, borrower: by.name, address: by.host });
    if (lease === null) {
      this.#log("warn", "claim.refused", { borrower: by.name, address: by.host });
      return null;
    }
    // Its borrower has come back before his old connection was known to be dead.
    if (before !== null && before !== by) before.end();
    this.#log("info", "lease.claimed", { lease: lease.id, borrower: by.name, address: by.host });
    if (lease.recallEndsAt !== Infinity) by.recall(lease.id, lease.recallEndsAt - this.#now());
    this.#schedule();
    return lease;
  }

  /** Ends a lease of this conversation. @throws {DroverError} code `usage` where it has no such lease */
  async #takeBack(from: DonorConversation, id: number): Promise<void> {
    const lease = this.#table.owned(from).find((candidate) => candidate.id === id);
    if (lease === undefined) {
      throw new DroverError("usage", `Cannot take lease ${id} back: this borrower has no such lease`);
    }
    await this.#end(lease, "returned");
  }

  /** Where the pages of a lease are. */
  #placeOf(lease: DonorLease): LeasePlace {
    return {
      lease: lease.id,
      size: lease.size,
      port: this.pagePort,
      rdmaPort: this.#options.rdma?.port ?? null,
    };
  }

  /** Another budget, at once: the newest leases beyond it are recalled. */
  setBudget(bytes: number): void {
    this.#table.setBudget(bytes);
    this.#log("info", "budget.set", { budget: bytes, lent: this.#table.lent });
    for (const lease of this.#table.excess()) this.#recall(lease, this.#options.recallMs ?? recallMsDefault);
    this.#schedule();
  }

  /**
   * Lends no more, recalls everything, waits until it is returned or the time is over, and gives all memory back.
   *
   * @param options `withinMs`: how long borrowers have; default 10 s
   */
  async close(options: { withinMs?: number } = {}): Promise<void> {
    if (this.#closing) return;
    this.#closing = true;
    const { withinMs = closeMsDefault } = options;
    for (const lease of this.#table.leases) this.#recall(lease, withinMs);
    // What nobody attends is returned by nobody.
    const unattended = this.#table.leases.filter(({ owner }) => owner === null);
    await Promise.all(unattended.map((lease) => this.#end(lease, "closed")));
    this.#schedule();
    if (!this.#table.isEmpty) {
      let timer: ReturnType<typeof setTimeout> | undefined;
      await new Promise<void>((resolve) => {
        this.#emptied = resolve;
        timer = setTimeout(resolve, withinMs);
      });
      clearTimeout(timer);
    }
    clearTimeout(this.#timer);
    await Promise.all(this.#table.leases.map((lease) => this.#end(lease, "closed")));
    for (const conversation of this.#conversations) conversation.end();
    await this.#pages().close();
    clearTimeout(this.#timer);
  }

  /** See `close`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #pages(): NbdListener {
    if (this.#listener === null) throw new TypeError("Cannot serve pages: the donor is not open");
    return this.#listener;
  }

  /** What a page channel may have. One answer for every reason why not. */
  #find(ticket: string, hostname: string): OfferedBackend | null {
    const lease = this.#table.find(ticket);
    const held = lease === null ? undefined : this.#held.get(lease.id);
    const why = lease === null || held === undefined
      ? "no lease"
      : !sameHost(lease.address, hostname)
      ? "another host"
      : this.#pages().connectionsOf(ticket).length >= (this.#options.pageChannelsPerLease ?? 64)
      ? "too many"
      : null;
    if (why !== null || held === undefined) {
      this.#log("warn", "page-channel.refused", {
        address: hostname,
        reason: why,
        ...lease === null ? {} : { lease: lease.id },
      });
      return null;
    }
    return { name: ticket, backend: held.memory };
  }

  #heard(event: NbdListenEvent): void {
    if (event.event === "refused") {
      // An error can repeat what the client said, a ticket for instance.
      const { error } = event;
      const reason = error instanceof DroverError ? error.details?.["rule"] ?? error.code : "failed";
      this.#log("debug", "page-channel.failed", { peer: event.peer, reason: String(reason) });
      return;
    }
    const name = event.event === "entered" ? event.name : event.end.exportName;
    const lease = name === null ? null : this.#table.find(name);
    if (lease === null) return;
    if (event.event === "entered") {
      this.#held.get(lease.id)?.pages.enter(event.tally, this.#pages().connectionsOf(lease.ticket));
    }
    const word = event.event === "entered" ? "page-channel.came" : "page-channel.left";
    this.#log("debug", word, { lease: lease.id, peer: event.peer });
  }

  #traffic(lease: DonorLease): PageTally & { connections: number } {
    const connections = this.#pages().connectionsOf(lease.ticket).length;
    const total = this.#held.get(lease.id)?.pages.total ?? { requests: 0, readBytes: 0, writtenBytes: 0 };
    return { connections, ...total };
  }

  #recall(lease: DonorLease, withinMs: number): void {
    if (!this.#table.recall(lease, this.#now() + withinMs)) return;
    this.#log("info", "lease.recalled", { lease: lease.id, size: lease.size, withinMs });
    lease.owner?.recall(lease.id, withinMs);
  }

  /** Ends a lease; see the invariants. */
  #end(lease: DonorLease, why: "returned" | "overdue" | "closed" | "failed"): Promise<void> {
    const held = this.#held.get(lease.id);
    if (held === undefined) {
      this.#table.beginEnd(lease);
      this.#table.ended(lease);
      return Promise.resolve();
    }
    held.ended ??= this.#endHeld(lease, held, why);
    return held.ended;
  }

  async #endHeld(lease: DonorLease, held: Held, why: string): Promise<void> {
    const traffic = this.#traffic(lease);
    this.#table.beginEnd(lease);
    await Promise.all([this.#pages().endConnections(lease.ticket), this.#options.rdma?.recall(lease.ticket)]);
    await held.memory.close();
    this.#held.delete(lease.id);
    this.#table.ended(lease);
    const { lent, isEmpty } = this.#table;
    this.#log(why === "overdue" ? "warn" : "info", "lease.ended", {
      lease: lease.id,
      size: lease.size,
      borrower: lease.borrower,
      why,
      readBytes: traffic.readBytes,
      writtenBytes: traffic.writtenBytes,
      lent,
    });
    if (isEmpty) this.#emptied();
  }

  /** Sleeps until the next lease is due. */
  #schedule(): void {
    clearTimeout(this.#timer);
    const due = this.#table.nextDue();
    if (due === Infinity) return;
    const waitMs = Math.min(Math.max(0, due - this.#now()), sleepMsMax);
    this.#timer = setTimeout(() => {
      for (const lease of this.#table.due(this.#now())) void this.#end(lease, "overdue");
      this.#schedule();
    }, waitMs);
  }
}

/** Answers a borrower of a node that lends nothing. */
export async function refuseBorrower(channel: Channel): Promise<void> {
  using _ = channel;
  const error = new DroverError("unsupported", "Cannot lend memory: this node lends none", {
    hint: "start it with drover serve --donate SIZE",
  });
  await channel.send(clusterRecord.error, encodeError(error, null)).catch(() => {});
  await channel.end().catch(() => {});
  await drain(channel);
}

/** Reads what is still under way, so that closing does not reset the connection before our error has been read. */
async function drain(channel: Channel): Promise<void> {
  const timer = setTimeout(() => channel.close(), drainMs);
  try {
    while (await channel.receive() !== null);
  } catch {
    // The other side has gone.
  } finally {
    clearTimeout(timer);
  }
}
