/**
 * What a node lends: a donor while there is something to lend, and a word for those who ask while there is not.
 *
 * @module
 */
import { DroverError } from "../base/errors.ts";
import { errorField, type Log } from "../base/log.ts";
import { formatSize } from "../base/size.ts";
import { Donor, refuseBorrower } from "../cluster/mod.ts";
import type { Channel, ReceivedRecord } from "../net/mod.ts";
import type { DonorLimits } from "./config.ts";
import type { RdmaLending } from "./rdma_lender.ts";

/** How a node lends. */
export interface LenderOptions {
  /** What the node is called. */
  name: string;
  /** Where page channels are taken. */
  place: { hostname: string; port: number };
  /** Bounds. */
  limits: DonorLimits;
  /** Opens what lends over RDMA beside TCP; null where nobody asked for it. */
  openRdma: (() => RdmaLending) | null;
  /** Hears of everything. */
  log: Log;
}

/** Lends while its budget is above 0. */
export class Lender {
  readonly #options: LenderOptions;
  #donor: Donor | null = null;
  #rdma: RdmaLending | null = null;
  #closed = false;
  /** Changes of the budget, one after the other. */
  #changing: Promise<void> = Promise.resolve();

  /** Lends nothing yet. */
  constructor(options: LenderOptions) {
    this.#options = options;
  }

  /** The port of the page channels; null while nothing was ever lent. */
  get pagePort(): number | null {
    return this.#donor?.pagePort ?? null;
  }

  /** The donor's instance, while there is one. */
  get instance(): string | null {
    return this.#donor?.instance ?? null;
  }

  /**
   * Lends so many bytes at most from now on.
   *
   * @throws {DroverError} code `usage` for more than this host has; {IoError} when the page port is taken
   */
  setBudget(bytes: number): Promise<void> {
    const change = this.#changing.then(() => this.#setBudget(bytes));
    this.#changing = change.catch(() => {});
    return change;
  }

  /** Talks with one borrower. */
  async serve(channel: Channel, first: ReceivedRecord): Promise<void> {
    if (this.#donor === null) await refuseBorrower(channel);
    else await this.#donor.serve(channel, first);
  }

  /** Recalls everything, and ends. */
  async close(): Promise<void> {
    this.#closed = true;
    await this.#changing;
    await this.#donor?.close();
    await this.#rdma?.[Symbol.asyncDispose]();
  }

  async #setBudget(bytes: number): Promise<void> {
    if (this.#closed) return;
    const { total } = Deno.systemMemoryInfo();
    if (bytes > total) {
      throw new DroverError(
        "usage",
        `Cannot lend ${formatSize(bytes)}: this host has ${formatSize(total - total % 2 ** 20)} of memory`,
      );
    }
    if (this.#donor !== null) return this.#donor.setBudget(bytes);
    if (bytes === 0) return;
    try {
      this.#rdma ??= this.#options.openRdma?.() ?? null;
    } catch (error) {
      this.#options.log("warn", "rdma.unavailable", { error: errorField(error) });
    }
    this.#donor = await Donor.open({
      ...this.#options.limits,
      name: this.#options.name,
      place: this.#options.place,
      log: this.#options.log,
      ...(this.#rdma === null ? {} : { rdma: this.#rdma }),
      budget: bytes,
      available: () => Deno.systemMemoryInfo().available,
    });
  }
}
