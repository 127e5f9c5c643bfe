/**
 * Donors and borrowers inside of the test process, over real sockets of loopback.
 */
import { DirectSocket } from "../../ffi/socket_direct.ts";
import { openSockets } from "../../ffi/sockets.ts";
import type { LogFields } from "../../lib/base/log.ts";
import { clusterLimits, Donor, type DonorOptions } from "../../lib/cluster/mod.ts";
import { type ClusterKey, formatAddress, listen, type Listener } from "../../lib/net/mod.ts";
import { NbdClient } from "../../lib/nbd/mod.ts";

export const mebibyte = 2 ** 20;

// Loaded once and for all tests, and so not by the first test that needs it: that would count as a leak.
const sockets = openSockets();
{
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { hostname, port } = listener.addr;
  const [near, far] = await Promise.all([Deno.connect({ hostname, port }), listener.accept()]);
  DirectSocket.open(far)?.[Symbol.dispose]();
  near.close();
  far.close();
}

/** What was logged. */
export interface Logged {
  event: string;
  fields: LogFields;
}

/** A donor with its control port. */
export class TestDonor implements AsyncDisposable {
  readonly donor: Donor;
  readonly address: string;
  readonly logged: Logged[];
  readonly #listener: Listener;
  readonly #under = new Set<Promise<void>>();
  readonly #accepting: Promise<void>;
  #waiting: (() => void)[];

  private constructor(donor: Donor, listener: Listener, logged: Logged[], waiting: (() => void)[]) {
    this.donor = donor;
    this.#listener = listener;
    this.address = formatAddress(listener.address);
    this.logged = logged;
    this.#waiting = waiting;
    this.#accepting = this.#accept();
  }

  static async open(
    options: Partial<DonorOptions> = {},
    place: { key?: ClusterKey | null; host?: string; port?: number } = {},
  ): Promise<TestDonor> {
    const logged: Logged[] = [];
    const waiting: (() => void)[] = [];
    const donor = await Donor.open({
      name: "donor",
      budget: 64 * mebibyte,
      place: { hostname: "127.0.0.1", port: 0 },
      log: (_level, event, fields = {}) => {
        logged.push({ event, fields });
        for (const wake of waiting.splice(0)) wake();
      },
      ...options,
    });
    const listener = await listen({
      host: place.host ?? "127.0.0.1",
      port: place.port ?? 0,
      key: place.key ?? null,
      limits: clusterLimits,
      sockets,
    });
    return new TestDonor(donor, listener, logged, waiting);
  }

  /** Resolves when an event of that name was logged, the `count`th time. */
  async logs(event: string, count = 1): Promise<Logged> {
    while (true) {
      const found = this.logged.filter((entry) => entry.event === event)[count - 1];
      if (found !== undefined) return found;
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    }
  }

  async close(): Promise<void> {
    this.#listener.close();
    await this.donor.close({ withinMs: 0 });
    await this.#accepting;
    await Promise.all(this.#under);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #accept(): Promise<void> {
    for await (const channel of this.#listener) {
      const first = await channel.receive().catch(() => null);
      if (first === null) {
        channel.close();
        continue;
      }
      const work = this.donor.serve(channel, first).finally(() => this.#under.delete(work));
      this.#under.add(work);
    }
  }
}

/** A page channel. */
export async function pageChannel(
  slots: { hostname: string; port: number; ticket: string },
): Promise<NbdClient> {
  const { hostname, port } = slots;
  const connection = await Deno.connect({ hostname, port });
  return await NbdClient.connect(connection, { name: slots.ticket });
}

/** Waits for events that come through a callback. */
export class Heard<T> {
  readonly all: T[] = [];
  #waiting: (() => void)[] = [];

  readonly hear = (event: T): void => {
    this.all.push(event);
    for (const wake of this.#waiting.splice(0)) wake();
  };

  /** The first event that passes, once it has come. */
  async until<S extends T>(matches: (event: T) => event is S): Promise<S>;
  async until(matches: (event: T) => boolean): Promise<T>;
  async until(matches: (event: T) => boolean): Promise<T> {
    while (true) {
      const found = this.all.find(matches);
      if (found !== undefined) return found;
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    }
  }
}
