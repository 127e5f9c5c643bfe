/**
 * A region whose cold pages are in borrowed room, kept in step with that room: pages move away before a donor takes its
 * memory back, room that was lost is no longer asked, and copies that are missing are made again where there is new room.
 *
 * Invariants: changes are made one after the other, in the order in which they were heard; room is given back only when
 * the region holds nothing in it.
 *
 * @module
 */
import { errorField, type Log } from "../base/log.ts";
import type { RemoteSlots } from "../region/options.ts";
import type { Borrowed, BorrowedSlots, BorrowEvent } from "./borrow.ts";

/** What following needs of a region; `Region` has it. */
export interface RegionDonors {
  /** What holds cold pages, in the order of the numbers that the other methods take. */
  stores(): readonly { readonly kind: string }[];
  /** One more donor. @returns its number */
  addDonor(slots: RemoteSlots): Promise<number>;
  /** Moves everything away from a donor, or gives it up as lost. @returns how many pages it still holds */
  retireDonor(store: number, options?: { lost?: boolean }): Promise<number>;
  /** Makes missing copies. */
  mend(): Promise<unknown>;
}

/** What follows what. */
export interface FollowOptions {
  /** The region. */
  region: RegionDonors;
  /** Its room. */
  room: Borrowed;
  /** The room that the region was opened with, in that order; none for a region without donors so far. */
  opened: readonly BorrowedSlots[];
  /** Hears what could not be done. */
  log?: Log;
}

/** Milliseconds until a donor that could not be cleared is tried again: room elsewhere may have come. */
const retryMs = 500;

/**
 * Keeps a region in step with its room, until that is disposed. Dispose it before the region and the room.
 *
 * @example
 * ```ts ignore
 * await using room = await borrow({ nodes, key, size: "4GiB", copies: 2 });
 * const opened = room.slots;
 * using region = Region.open({ size: "4GiB", limit: "1GiB", remote: { donors: opened, copies: 2 } });
 * await using _ = followRoom({ region, room, opened });
 * ```
 */
export function followRoom(options: FollowOptions): AsyncDisposable {
  return new Follower(options);
}

class Follower implements AsyncDisposable {
  readonly #region: RegionDonors;
  readonly #room: Borrowed;
  readonly #log: Log;
  /** Number of each donor in the region, by ticket. */
  readonly #numbers = new Map<string, number>();
  readonly #forget: () => void;
  #work: Promise<void> = Promise.resolve();
  #ended = false;
  #wake: () => void = () => {};

  constructor({ region, room, opened, log = () => {} }: FollowOptions) {
    this.#region = region;
    this.#room = room;
    this.#log = log;
    const first = region.stores().findIndex(({ kind }) => kind !== "file");
    opened.forEach(({ ticket }, at) => this.#numbers.set(ticket, first + at));
    this.#forget = room.subscribe((event) => this.#hear(event));
    // What happened between opening and now.
    const there = new Set(room.slots.map(({ ticket }) => ticket));
    for (const slots of opened) {
      if (!there.has(slots.ticket)) this.#hear({ event: "lost", slots, reason: "it was lost before" });
    }
    for (const slots of room.slots) {
      if (!this.#numbers.has(slots.ticket)) this.#hear({ event: "lent", slots });
    }
    for (const { slots, withinMs } of room.recalls) this.#hear({ event: "recalled", slots, withinMs });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ended = true;
    this.#forget();
    this.#wake();
    await this.#work;
  }

  #hear(event: BorrowEvent): void {
    if (event.event === "up" || event.event === "down") return;
    this.#wake();
    const { slots } = event;
    this.#work = this.#work.then(async () => {
      if (this.#ended) return;
      try {
        if (event.event === "lent") await this.#add(slots);
        else if (event.event === "lost") await this.#lose(slots);
        else void this.#clear(slots, performance.now() + event.withinMs);
      } catch (error) {
        this.#log("error", "region.unfollowed", {
          what: event.event,
          donor: slots.donor,
          error: errorField(error),
        });
      }
    });
  }

  async #add(slots: BorrowedSlots): Promise<void> {
    this.#numbers.set(slots.ticket, await this.#region.addDonor(slots));
    await this.#region.mend();
  }

  async #lose(slots: BorrowedSlots): Promise<void> {
    const number = this.#numbers.get(slots.ticket);
    if (number === undefined) return;
    this.#numbers.delete(slots.ticket);
    await this.#region.retireDonor(number, { lost: true });
    await this.#region.mend();
  }

  /** Moves what a donor wants back; tries again while there is no room elsewhere and still time. */
  async #clear(slots: BorrowedSlots, untilMs: number): Promise<void> {
    while (!this.#ended && performance.now() < untilMs) {
      const isDone = await this.#attempt(slots);
      if (isDone) return;
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, retryMs);
        this.#wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }

  /** One attempt, in its turn. */
  async #attempt(slots: BorrowedSlots): Promise<boolean> {
    let isDone = false;
    this.#work = this.#work.then(async () => {
      const number = this.#numbers.get(slots.ticket);
      isDone = number === undefined || this.#ended;
      if (number === undefined || this.#ended) return;
      try {
        if (await this.#region.retireDonor(number) > 0) return;
        this.#numbers.delete(slots.ticket);
        isDone = true;
        await this.#room.giveBack(slots);
      } catch (error) {
        this.#log("error", "region.unfollowed", {
          what: "recalled",
          donor: slots.donor,
          error: errorField(error),
        });
      }
    });
    await this.#work;
    return isDone;
  }
}
