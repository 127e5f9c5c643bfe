/**
 * The borrower's connection to one donor: asks, renews, hears of recalls, and dials again when it was cut.
 *
 * ```text
 *   dial -> HELLO, WELCOME -> claim what was lent before -> up ----- cut ----> down -> dial …
 *                                                                              '-- graceMs --> leases are lost
 * ```
 *
 * Invariants:
 * - A lease is in exactly one state: held, or lost or returned, which is said once. A lease is held at most as long as the
 *   donor may be keeping it: what could not be renewed for the donor's grace time counts as lost.
 * - Another instance of the donor never has our pages: all leases of the one before are lost.
 * - While it is up something is sent at least each `renewMs`; an answer that does not come for three of them is a cut.
 *
 * @module
 */
import { DroverError, FormatError } from "../base/errors.ts";
import { errorField, type Log } from "../base/log.ts";
import { type Address, type Channel, type ClusterKey, dial, formatAddress } from "../net/mod.ts";
import { renewalsMissedMax } from "./donor_conversation.ts";
import { processInstance } from "./identity.ts";
import {
  clusterLimits,
  clusterRecord,
  decodeError,
  decodeLent,
  decodeRecall,
  decodeRenewed,
  decodeReturned,
  decodeWelcome,
  type DonorWelcome,
  encode,
  encodeHello,
  type LeasePlace,
} from "./messages.ts";

/** A lease that is held. */
export interface HeldLease extends LeasePlace {
  /** The right to its pages. */
  readonly ticket: string;
  /** The donor wants it back. */
  recalled: boolean;
}

/** What a link tells its owner. */
export interface LinkEvents {
  /** It is connected, again or for the first time. */
  up(link: DonorLink): void;
  /** The connection was cut; leases are held for now. */
  down(link: DonorLink, error: unknown): void;
  /** The donor wants a lease back. */
  recalled(link: DonorLink, lease: HeldLease, withinMs: number): void;
  /** A lease is no more, and its pages with it. */
  lost(link: DonorLink, lease: HeldLease, reason: string): void;
  /** Another donor answers here now; throws to refuse it. */
  check(link: DonorLink, welcome: DonorWelcome): void;
}

/** How to reach a donor. */
export interface LinkOptions {
  /** Where. */
  node: Address;
  /** The cluster's key; null on this machine. */
  key: ClusterKey | null;
  /** What this borrower calls itself. */
  name: string;
  /** Who hears of what happens. */
  events: LinkEvents;
  /** Milliseconds before the first new attempt, and at most between two; 100 and 5000. */
  pauseMs?: { first: number; most: number };
  /** Milliseconds for dialling and the first words; default 10 s. */
  timeoutMs?: number;
  /** Hears of oddities. */
  log?: Log;
}

interface Pending {
  resolve: (answer: { type: number; body: Uint8Array }) => void;
  reject: (error: unknown) => void;
}

/** Requests without an answer. */
const pendingMax = 256;

/** A donor as a borrower sees it. */
export class DonorLink {
  /** Where it was told to be. */
  readonly node: Address;
  readonly #options: LinkOptions;
  readonly #log: Log;
  readonly #leases = new Map<number, HeldLease>();
  readonly #pending = new Map<number, Pending>();
  #channel: Channel | null = null;
  #host = "";
  #welcome: DonorWelcome | null = null;
  #free = 0;
  #request = 0;
  #heardAt = 0;
  #renewing: ReturnType<typeof setInterval> | undefined;
  #grace: ReturnType<typeof setTimeout> | undefined;
  #closed = false;
  #wake: () => void = () => {};
  #running: Promise<void> = Promise.resolve();

  private constructor(options: LinkOptions) {
    this.node = options.node;
    this.#options = options;
    this.#log = options.log ?? (() => {});
  }

  /** Connects. @throws {DroverError} when the donor is not there, or refuses */
  static async open(options: LinkOptions): Promise<DonorLink> {
    const link = new DonorLink(options);
    const channel = await link.#connect();
    link.#running = link.#run(channel);
    return link;
  }

  /** `HOST:PORT`, as it was given. */
  get label(): string {
    return formatAddress(this.node);
  }

  /** The literal address that pages go to. */
  get host(): string {
    return this.#host;
  }

  /** What the donor said of itself last. */
  get welcome(): DonorWelcome {
    if (this.#welcome === null) throw new TypeError("Cannot ask: the donor never answered");
    return this.#welcome;
  }

  /** Whether it is connected. */
  get isUp(): boolean {
    return this.#channel !== null;
  }

  /** Bytes that it said were free, last. */
  get free(): number {
    return this.#channel === null ? 0 : this.#free;
  }

  /** Leases that are held. */
  get leases(): readonly HeldLease[] {
    return [...this.#leases.values()];
  }

  /** Borrows between `least` and `size` bytes. @throws {DroverError} codes `no-space`, `busy`, `disconnected` */
  async lend(size: number, least: number): Promise<HeldLease> {
    const { type, body } = await this.#ask(clusterRecord.lend, { size, least });
    if (type !== clusterRecord.lent) throw this.#wrong(type);
    const { request: _, ...place } = decodeLent(body);
    if (place.size > size || place.size < least || this.#leases.has(place.lease)) {
      throw new DroverError("protocol", `Cannot borrow from "${this.label}": it lent what nobody asked for`);
    }
    const lease: HeldLease = { ...place, recalled: false };
    this.#leases.set(lease.lease, lease);
    this.#free = Math.max(0, this.#free - lease.size);
    return lease;
  }

  /** Returns a lease; whatever it held is gone from now on. A donor that cannot be told takes it after its grace time. */
  async giveBack(lease: HeldLease): Promise<void> {
    if (!this.#leases.delete(lease.lease) || !this.isUp) return;
    try {
      const { type, body } = await this.#ask(clusterRecord.return, { lease: lease.lease });
      if (type !== clusterRecord.returned) throw this.#wrong(type);
      this.#free = decodeReturned(body).free;
    } catch (error) {
      this.#log("debug", "lease.unreturned", {
        donor: this.label,
        lease: lease.lease,
        error: errorField(error),
      });
    }
  }

  /** Returns everything and says good-bye. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    clearTimeout(this.#grace);
    await Promise.all(this.leases.map((lease) => this.giveBack(lease)));
    await this.#channel?.end().catch(() => {});
    this.#wake();
    const channel = this.#channel;
    const timer = setTimeout(() => channel?.close(), 1000);
    await this.#running;
    clearTimeout(timer);
  }

  async #run(first: Channel): Promise<void> {
    let channel: Channel | null = first;
    let pauseMs = this.#pauses().first;
    while (true) {
      if (channel !== null) {
        pauseMs = this.#pauses().first;
        const error = await this.#receive(channel);
        this.#fall(error);
      }
      if (this.#closed) return;
      await this.#pause(pauseMs);
      if (this.#closed) return;
      pauseMs = Math.min(2 * pauseMs, this.#pauses().most);
      try {
        channel = await this.#connect();
      } catch (error) {
        channel = null;
        const level = error instanceof DroverError && error.code === "usage" ? "warn" : "debug";
        this.#log(level, "donor.unreachable", { donor: this.label, error: errorField(error) });
        continue;
      }
      if (this.#closed) channel.close();
      else this.#options.events.up(this);
    }
  }

  /** Dials, shakes hands, and claims. */
  async #connect(): Promise<Channel> {
    const { key, name, timeoutMs = 10_000, events } = this.#options;
    const channel = await dial({ ...this.node, key, limits: clusterLimits, timeoutMs });
    const timer = setTimeout(() => channel.close(), timeoutMs);
    try {
      await channel.send(clusterRecord.hello, encodeHello({ name, instance: processInstance }));
      const welcome = decodeWelcome(await this.#answer(channel, clusterRecord.welcome));
      events.check(this, welcome);
      const before = this.#welcome;
      this.#welcome = welcome;
      this.#free = welcome.free;
      this.#host = channel.address?.host ?? this.node.host;
      if (before !== null && before.instance !== welcome.instance) {
        this.#loseAll("the donor was started anew");
      }
      const held = this.leases;
      if (held.length > 0) await this.#claim(channel, held);
      clearTimeout(this.#grace);
      this.#channel = channel;
      for (const lease of held) {
        // Given up here while it was claimed there.
        if (!this.#leases.has(lease.lease)) {
          this.#ask(clusterRecord.return, { lease: lease.lease }).catch(() => {});
        }
      }
      this.#heardAt = performance.now();
      this.#renewing = setInterval(() => this.#renew(channel), Math.max(5, welcome.renewMs / 2));
      return channel;
    } catch (error) {
      channel.close();
      throw error;
    } finally {
      clearTimeout(timer);
    }
  }

  /** The one record that is due, before anything else is. */
  async #answer(channel: Channel, type: number): Promise<Uint8Array> {
    const record = await channel.receive();
    if (record === null) throw this.#wrong(null);
    if (record.type === clusterRecord.error) throw decodeError(record.body, this.label).error;
    if (record.type !== type) throw this.#wrong(record.type);
    return record.body;
  }

  async #claim(channel: Channel, held: readonly HeldLease[]): Promise<void> {
    await channel.send(
      clusterRecord.renew,
      encode({ request: ++this.#request, claim: held.map(({ ticket }) => ticket) }),
    );
    let record = await channel.receive();
    const recalls: Uint8Array[] = [];
    // Leases that are being recalled say so while they are claimed.
    while (record?.type === clusterRecord.recall && recalls.length < held.length) {
      recalls.push(record.body);
      record = await channel.receive();
    }
    if (record?.type !== clusterRecord.renewed) throw this.#wrong(record?.type ?? null);
    const { claimed, free } = decodeRenewed(record.body);
    if (claimed.length !== held.length) throw this.#wrong(record.type);
    this.#free = free;
    held.forEach((lease, at) => {
      const place = claimed[at] ?? null;
      if (place === null) return this.#lose(lease, "the donor does not have it any more");
      if (place.lease !== lease.lease || place.size !== lease.size) {
        throw new DroverError("protocol", `Cannot claim a lease of "${this.label}": it is another one now`);
      }
      Object.assign(lease, place);
    });
    for (const body of recalls) this.#recalled(body);
  }

  /** Takes what comes until the connection ends. @returns why */
  async #receive(channel: Channel): Promise<unknown> {
    try {
      for (let record; (record = await channel.receive()) !== null;) {
        this.#heardAt = performance.now();
        this.#take(record);
      }
      return new DroverError("disconnected", `"${this.label}" ended the conversation`);
    } catch (error) {
      return error;
    } finally {
      channel.close();
    }
  }

  #take({ type, body }: { type: number; body: Uint8Array }): void {
    switch (type) {
      case clusterRecord.recall:
        return this.#recalled(body);
      case clusterRecord.lent:
        return this.#settle(decodeLent(body).request, { type, body });
      case clusterRecord.returned:
        return this.#settle(decodeReturned(body).request, { type, body });
      case clusterRecord.renewed: {
        const { request, free } = decodeRenewed(body);
        this.#free = free;
        return this.#settle(request, { type, body });
      }
      case clusterRecord.error: {
        const { request, error } = decodeError(body, this.label);
        if (request === null) throw error;
        const pending = this.#pending.get(request);
        this.#pending.delete(request);
        return pending?.reject(error);
      }
      default:
        throw this.#wrong(type);
    }
  }

  #recalled(body: Uint8Array): void {
    const { lease: id, withinMs } = decodeRecall(body);
    const lease = this.#leases.get(id);
    // One that was just returned may cross its recall.
    if (lease === undefined || lease.recalled) return;
    lease.recalled = true;
    this.#options.events.recalled(this, lease, withinMs);
  }

  #ask(type: number, message: object): Promise<{ type: number; body: Uint8Array }> {
    const channel = this.#channel;
    if (channel === null) {
      return Promise.reject(
        new DroverError("disconnected", `Cannot ask "${this.label}": it is not connected`),
      );
    }
    if (this.#pending.size >= pendingMax) {
      return Promise.reject(new DroverError("busy", `Cannot ask "${this.label}": too much is under way`));
    }
    const request = ++this.#request;
    return new Promise((resolve, reject) => {
      this.#pending.set(request, { resolve, reject });
      channel.send(type, encode({ request, ...message })).catch((error) => {
        this.#pending.delete(request);
        reject(error);
      });
    });
  }

  #settle(request: number, answer: { type: number; body: Uint8Array }): void {
    const pending = this.#pending.get(request);
    if (pending === undefined) {
      throw new FormatError("donor.answer", -1, `Cannot use an answer of "${this.label}": nobody asked`);
    }
    this.#pending.delete(request);
    pending.resolve(answer);
  }

  #renew(channel: Channel): void {
    if (performance.now() - this.#heardAt > renewalsMissedMax * this.welcome.renewMs) {
      this.#log("warn", "donor.silent", { donor: this.label });
      return channel.close();
    }
    this.#ask(clusterRecord.renew, { claim: [] }).catch(() => {});
  }

  /** The connection is gone. */
  #fall(error: unknown): void {
    clearInterval(this.#renewing);
    this.#channel = null;
    const gone = new DroverError("disconnected", `Cannot reach "${this.label}" any more`, { cause: error });
    for (const { reject } of this.#pending.values()) reject(gone);
    this.#pending.clear();
    if (this.#closed) return;
    clearTimeout(this.#grace);
    this.#grace = setTimeout(() => this.#loseAll("the donor was gone for too long"), this.welcome.graceMs);
    this.#options.events.down(this, error);
  }

  #loseAll(reason: string): void {
    for (const lease of this.leases) this.#lose(lease, reason);
  }

  #lose(lease: HeldLease, reason: string): void {
    if (this.#leases.delete(lease.lease)) this.#options.events.lost(this, lease, reason);
  }

  #pause(milliseconds: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, milliseconds);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  #pauses(): { first: number; most: number } {
    return this.#options.pauseMs ?? { first: 100, most: 5000 };
  }

  #wrong(type: number | null): DroverError {
    const what = type === null ? "it ended the conversation" : `it sent record 0x${type.toString(16)}`;
    return new DroverError("protocol", `Cannot understand "${this.label}": ${what}, which was not due`);
  }
}
