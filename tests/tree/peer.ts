/**
 * A node without a network, and the other side of its conversations as plain octets: everything that a peer could send,
 * also what no honest one would.
 */
import { pathFromText } from "../../lib/base/path.ts";
import { RecordChannel } from "../../lib/net/channel.ts";
import type { Channel, Listener } from "../../lib/net/mod.ts";
import { encodeRecord, endType, RecordReader } from "../../lib/stream/mod.ts";
import { type NodeOptions, recordLimits, serveTrees, type TreeContext } from "../../lib/tree/mod.ts";
import { recordType } from "../../lib/tree/protocol.ts";

/** A record as it is sent or was answered. */
export interface WireRecord {
  type: number;
  body: Uint8Array<ArrayBuffer>;
}

/** What a conversation came to: the error that the node sent, "done", or null where it broke off without a word. */
export type Outcome = { code: string; message: string } | "done" | null;

/** A node that takes channels instead of connections. */
export class MemoryNode implements AsyncDisposable {
  /** Its directory. */
  readonly root: string;
  /** What it logged. */
  readonly log: string[] = [];
  readonly #queue: Channel[] = [];
  readonly #stop = new AbortController();
  readonly #served: Promise<void>;
  #wake = () => {};
  #logged = () => {};
  #closed = false;

  constructor(
    context: TreeContext,
    root: string,
    options: Pick<NodeOptions, "allow" | "capture" | "profile">,
  ) {
    this.root = root;
    const listener: Listener = {
      address: { host: "memory", port: 0 },
      close: () => {
        this.#closed = true;
        this.#wake();
      },
      [Symbol.dispose]: () => {},
      [Symbol.asyncIterator]: () => this.#channels(),
    };
    const log = (line: string): void => {
      this.log.push(line);
      this.#logged();
    };
    this.#served = serveTrees({ ...context, log }, {
      ...options,
      listener,
      root: pathFromText(root),
      signal: this.#stop.signal,
    });
  }

  async *#channels(): AsyncGenerator<Channel, void, undefined> {
    while (true) {
      const channel = this.#queue.shift();
      if (channel !== undefined) yield channel;
      else if (this.#closed) return;
      else await new Promise<void>((resolve) => this.#wake = resolve);
    }
  }

  /** Gives the node a channel of which the other end is with the caller. */
  take(channel: Channel): void {
    this.#queue.push(channel);
    this.#wake();
  }

  /** Says all these octets to the node, then hangs up, and returns what it answered. */
  async say(octets: Uint8Array): Promise<WireRecord[]> {
    let at = 0;
    const answered: Uint8Array[] = [];
    const over = Promise.withResolvers<void>();
    const logged = new Promise<void>((resolve) => this.#logged = resolve);
    this.take(
      new RecordChannel({
        read: (buffer) => {
          const part = octets.subarray(at, at + buffer.length);
          buffer.set(part);
          at += part.length;
          return Promise.resolve(part.length === 0 ? null : part.length);
        },
        write: (bytes) => {
          answered.push(bytes.slice());
          return Promise.resolve(bytes.length);
        },
        closeWrite: () => Promise.resolve(),
        close: () => over.resolve(),
      }, { peer: "peer:1", encrypted: false, limits: recordLimits }),
    );
    await over.promise;
    const reader = new RecordReader({ limits: () => 1 << 27 });
    reader.push(concat(answered));
    const records: WireRecord[] = [];
    for (let record = reader.next(); record !== null && record.type !== endType; record = reader.next()) {
      records.push({ type: record.type, body: record.body });
    }
    if (outcomeOf(records) === null) {
      // What broke the channel off is logged when all that was under way has ended.
      let timer: ReturnType<typeof setTimeout> | undefined;
      await Promise.race([logged, new Promise((resolve) => timer = setTimeout(resolve, 1000))]);
      clearTimeout(timer);
    }
    return records;
  }

  /** Says these records and END. */
  async tell(records: readonly WireRecord[]): Promise<Outcome> {
    return outcomeOf(await this.say(octetsOf([...records, { type: endType, body: new Uint8Array() }])));
  }

  /** Says a package again, without the segments that the node still has, as an honest sender does. */
  async resume(tree: string, records: readonly WireRecord[]): Promise<Outcome> {
    const start = records.filter(({ type }) => type === recordType.offer || type === recordType.metadata);
    const ready = (await this.say(octetsOf([hello(tree), ...start]))).find(({ type }) =>
      type === recordType.ready
    );
    const { have } = JSON.parse(new TextDecoder().decode(ready?.body)) as { have: { index: number }[] };
    const had = new Set(have.map(({ index }) => index));
    // A segment's body begins with its index.
    const index = ({ body }: WireRecord) => new DataView(body.buffer, body.byteOffset).getUint32(0, true);
    return await this.tell([
      hello(tree),
      ...records.filter((one) => one.type !== recordType.segment || !had.has(index(one))),
    ]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    await this.#served;
  }
}

/** The last word of a node. */
export function outcomeOf(records: readonly WireRecord[]): Outcome {
  for (const { type, body } of records) {
    if (type === recordType.done) return "done";
    if (type === recordType.error) {
      return JSON.parse(new TextDecoder().decode(body)) as { code: string; message: string };
    }
  }
  return null;
}

/** Records as octets. */
export function octetsOf(records: readonly WireRecord[]): Uint8Array<ArrayBuffer> {
  return concat(records.flatMap(({ type, body }) => encodeRecord(type, body)));
}

/** Joins arrays. */
export function concat(parts: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const joined = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    joined.set(part, at);
    at += part.length;
  }
  return joined;
}

/** A control message. */
export function message(type: number, value: unknown): WireRecord {
  return { type, body: new TextEncoder().encode(JSON.stringify(value)) };
}

/** The first words of a push. */
export function hello(tree: string, fields: Record<string, unknown> = {}): WireRecord {
  return message(recordType.hello, { protocol: 1, verb: "push", tree, force: false, state: null, ...fields });
}
