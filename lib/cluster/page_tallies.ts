/**
 * What the page channels of one lease did, those that ended included.
 *
 * @module
 */

/** Counts of one or more page channels. */
export interface PageTally {
  /** Requests that were answered. */
  requests: number;
  /** Octets that were read. */
  readBytes: number;
  /** Octets that were written. */
  writtenBytes: number;
}

/** Sums up tallies that go on counting; as many are kept as there are channels, and the sum of the rest. */
export class PageTallies {
  readonly #ended: PageTally = { requests: 0, readBytes: 0, writtenBytes: 0 };
  readonly #live = new Set<Readonly<PageTally>>();

  /** One more channel. @param live the tallies of the channels that there are now */
  enter(tally: Readonly<PageTally>, live: readonly Readonly<PageTally>[]): void {
    for (const earlier of this.#live) {
      if (live.includes(earlier)) continue;
      this.#live.delete(earlier);
      add(this.#ended, earlier);
    }
    this.#live.add(tally);
  }

  /** All of it. */
  get total(): PageTally {
    const total = { ...this.#ended };
    for (const tally of this.#live) add(total, tally);
    return total;
  }
}

function add(sum: PageTally, tally: Readonly<PageTally>): void {
  sum.requests += tally.requests;
  sum.readBytes += tally.readBytes;
  sum.writtenBytes += tally.writtenBytes;
}
