/**
 * One control connection, on the side of the donor: from WELCOME to its end.
 *
 * Invariants:
 * - One message is under way at a time; the next one is read when it is answered.
 * - What cannot be granted is answered and the conversation goes on; what is no message ends it.
 * - A borrower that says nothing for three renewals is taken for gone.
 *
 * @module
 */
import { DroverError, FormatError } from "../base/errors.ts";
import type { Channel, ReceivedRecord } from "../net/mod.ts";
import type { Donor } from "./donor.ts";
import { hostOf } from "./identity.ts";
import type { Lease } from "./lease_table.ts";
import {
  type BorrowerHello,
  clusterRecord,
  decodeLend,
  decodeRenew,
  decodeReturn,
  encode,
  encodeError,
  type LeasePlace,
  type LendRequest,
  pageSize,
} from "./messages.ts";

/** How many renewals a borrower may miss. */
export const renewalsMissedMax = 3;

/** A lease of a donor. */
export type DonorLease = Lease<DonorConversation>;

/** What a conversation may ask of its donor. */
export interface DonorDesk {
  /** Lends. @throws {DroverError} codes `busy`, `no-space` */
  lend(to: DonorConversation, request: LendRequest): DonorLease;
  /** Gives a lease to whoever has its ticket; null where there is none. */
  claim(by: DonorConversation, ticket: string): DonorLease | null;
  /** Ends a lease of this conversation. @throws {DroverError} code `usage` where it has no such lease */
  takeBack(from: DonorConversation, id: number): Promise<void>;
  /** Where the pages of a lease are. */
  placeOf(lease: DonorLease): LeasePlace;
}

/** A borrower that is connected. */
export class DonorConversation {
  /** What it calls itself. */
  readonly name: string;
  /** The host it connects from. */
  readonly host: string;
  readonly #donor: Donor;
  readonly #desk: DonorDesk;
  readonly #channel: Channel;
  #silence: ReturnType<typeof setTimeout> | undefined;

  /** After its HELLO. */
  constructor(owner: { donor: Donor; desk: DonorDesk }, channel: Channel, hello: BorrowerHello) {
    this.#donor = owner.donor;
    this.#desk = owner.desk;
    this.#channel = channel;
    this.name = hello.name;
    this.host = hostOf(channel);
  }

  /** Answers until END. @throws what ended it, if that was not its END */
  async run(): Promise<void> {
    const { name, instance, budget, free, graceMs, renewMs } = this.#donor;
    const channel = this.#channel;
    this.#listen();
    try {
      await channel.send(
        clusterRecord.welcome,
        encode({ name, instance, budget, free, graceMs, renewMs, pageSize }),
      );
      for (let record; (record = await channel.receive()) !== null;) {
        this.#listen();
        await this.#answer(record);
      }
      await channel.end();
    } finally {
      clearTimeout(this.#silence);
    }
  }

  /** Tells the borrower that a lease is wanted back. */
  recall(lease: number, withinMs: number): void {
    // A borrower that cannot be told has lost its connection, which ends this conversation by itself.
    this.#channel.send(
      clusterRecord.recall,
      encode({ lease, withinMs: Math.max(0, Math.round(withinMs)) }),
    ).catch(() => {});
  }

  /** Ends the connection. */
  end(): void {
    this.#channel.close();
  }

  #listen(): void {
    clearTimeout(this.#silence);
    this.#silence = setTimeout(() => this.end(), renewalsMissedMax * this.#donor.renewMs);
  }

  async #answer({ type, body }: ReceivedRecord): Promise<void> {
    switch (type) {
      case clusterRecord.lend: {
        const request = decodeLend(body);
        return await this.#reply(request.request, () => {
          const lease = this.#desk.lend(this, request);
          return [clusterRecord.lent, {
            request: request.request,
            ticket: lease.ticket,
            ...this.#desk.placeOf(lease),
          }];
        });
      }
      case clusterRecord.renew: {
        const { request, claim } = decodeRenew(body);
        return await this.#reply(request, () => {
          const claimed = claim.map((ticket) => {
            const lease = this.#desk.claim(this, ticket);
            return lease === null ? null : this.#desk.placeOf(lease);
          });
          return [clusterRecord.renewed, { request, claimed, free: this.#donor.free }];
        });
      }
      case clusterRecord.return: {
        const { request, lease } = decodeReturn(body);
        return await this.#reply(request, async () => {
          await this.#desk.takeBack(this, lease);
          return [clusterRecord.returned, { request, lease, free: this.#donor.free }];
        });
      }
      default:
        throw new DroverError("protocol", `Cannot use record 0x${type.toString(16)}: it is not due`);
    }
  }

  /** Sends what `work` comes to, or why it did not. */
  async #reply(
    request: number,
    work: () => [number, object] | Promise<[number, object]>,
  ): Promise<void> {
    let answer: [number, Uint8Array];
    try {
      const [type, message] = await work();
      answer = [type, encode(message)];
    } catch (error) {
      if (!(error instanceof DroverError) || error instanceof FormatError) throw error;
      answer = [clusterRecord.error, encodeError(error, request)];
    }
    await this.#channel.send(...answer);
  }
}
