/**
 * One listener for several services: the first record of a connection says which one it is for.
 *
 * Invariants: a connection goes to exactly one service, with its first record; what breaks before that is closed and
 * said. There is no deadline for the first record: who came this far has the key, and a push dials long before it
 * knows what to say.
 *
 * @module
 */
import type { Address, Channel, Listener, ReceivedRecord } from "../net/mod.ts";

/** Takes a connection; its first record is taken off already. Closes the connection when it is done. */
export type Service = (channel: Channel, first: ReceivedRecord) => Promise<void>;

/** A listener for one service, and all others beside it. */
export class Switchboard implements Listener {
  readonly #listener: Listener;
  readonly #serviceOf: (type: number) => Service | null;
  readonly #onRefused: (peer: string, error: unknown) => void;
  readonly #ready: Channel[] = [];
  readonly #waiting = new Set<Channel>();
  readonly #underWay = new Set<Promise<void>>();
  #wake: () => void = () => {};
  #ended = false;
  #failure: { error: unknown } | null = null;

  /**
   * @param listener where connections come from; closing this closes it
   * @param options `serviceOf`: who takes a connection that begins with that type of record; null for whoever iterates over
   * this; `onRefused`: hears of connections that ended before their first record was whole
   */
  constructor(
    listener: Listener,
    options: {
      serviceOf: (type: number) => Service | null;
      onRefused: (peer: string, error: unknown) => void;
    },
  ) {
    this.#listener = listener;
    this.#serviceOf = options.serviceOf;
    this.#onRefused = options.onRefused;
    void this.#takeAll();
  }

  /** Where it really listens. */
  get address(): Address {
    return this.#listener.address;
  }

  /** Takes no more connections, and drops those that have said nothing yet; services go on with theirs. */
  close(): void {
    this.#listener.close();
    for (const channel of this.#waiting) channel.close();
  }

  /** See `close`. */
  [Symbol.dispose](): void {
    this.close();
  }

  /** Resolves when the services have let go of all connections. */
  async settled(): Promise<void> {
    while (this.#underWay.size > 0) await Promise.all(this.#underWay);
  }

  /** The connections that no other service takes. */
  async *[Symbol.asyncIterator](): AsyncGenerator<Channel, void, undefined> {
    while (true) {
      const channel = this.#ready.shift();
      if (channel !== undefined) yield channel;
      else if (this.#failure !== null) throw this.#failure.error;
      else if (this.#ended) return;
      else await new Promise<void>((resolve) => this.#wake = resolve);
    }
  }

  async #takeAll(): Promise<void> {
    try {
      for await (const channel of this.#listener) void this.#sort(channel);
    } catch (error) {
      this.#failure = { error };
    }
    this.#ended = true;
    this.#wake();
  }

  async #sort(channel: Channel): Promise<void> {
    this.#waiting.add(channel);
    let first: ReceivedRecord | null;
    try {
      first = await channel.receive();
    } catch (error) {
      this.#onRefused(channel.peer, error);
      channel.close();
      return;
    } finally {
      this.#waiting.delete(channel);
    }
    const service = first === null ? null : this.#serviceOf(first.type);
    if (service !== null && first !== null) {
      const work = service(channel, first).catch((error) => this.#onRefused(channel.peer, error))
        .finally(() => this.#underWay.delete(work));
      this.#underWay.add(work);
    } else if (this.#ended) {
      channel.close();
    } else {
      this.#ready.push(new UnreadChannel(channel, first));
      this.#wake();
    }
  }
}

/** A channel whose first record is yet to be received. */
class UnreadChannel implements Channel {
  readonly #channel: Channel;
  #first: { record: ReceivedRecord | null } | null;

  constructor(channel: Channel, first: ReceivedRecord | null) {
    this.#channel = channel;
    this.#first = { record: first };
  }

  get peer(): string {
    return this.#channel.peer;
  }

  get encrypted(): boolean {
    return this.#channel.encrypted;
  }

  get bytesSent(): number {
    return this.#channel.bytesSent;
  }

  get bytesReceived(): number {
    return this.#channel.bytesReceived;
  }

  send(type: number, ...parts: Uint8Array[]): Promise<void> {
    return this.#channel.send(type, ...parts);
  }

  receive(): Promise<ReceivedRecord | null> {
    if (this.#first === null) return this.#channel.receive();
    const { record } = this.#first;
    this.#first = null;
    return Promise.resolve(record);
  }

  recycle(body: Uint8Array<ArrayBuffer>): void {
    this.#channel.recycle(body);
  }

  end(): Promise<void> {
    return this.#channel.end();
  }

  close(): void {
    this.#channel.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
