/**
 * Records over a connection, in both directions.
 *
 * Invariants:
 * - Records leave in the order of the `send()` calls. Records of one turn of the event loop leave together
 *   in one write when they are small; parts of 64 KiB and more are written from where they are.
 * - A direction ends with an END record. A connection that ends without one was cut, and that is an error;
 *   octets behind END are one too.
 * - What arrives is bounded by the limits before it is stored; one record is in memory at a time.
 *
 * It does not know what the records mean, and has no timeouts.
 *
 * @module
 */
import { DroverError, FormatError } from "../base/errors.ts";
import { encodeRecord, endType, type RecordLimits, RecordReader } from "../stream/mod.ts";
import type { Address } from "./address.ts";
import { closeQuietly, type Transport, writeAll } from "./transport.ts";

/** A record that arrived. */
export interface ReceivedRecord {
  /** All 32 bits. */
  type: number;
  /** Owned by the receiver. */
  body: Uint8Array<ArrayBuffer>;
}

/** An authenticated connection to another node, as records in both directions. */
export interface Channel extends Disposable {
  /** The other side's `HOST:PORT`, for messages. */
  readonly peer: string;
  /** The other side's literal address, where that is known. */
  readonly address?: Address;
  /** Whether TLS is under it. */
  readonly encrypted: boolean;
  /** Octets of records handed to the connection: heads, bodies and padding; no handshake, no TLS or TCP overhead. */
  readonly bytesSent: number;
  /** Octets of records that arrived, counted alike. */
  readonly bytesReceived: number;
  /**
   * Sends a record. Resolves when the connection took all of it; until then the parts must not change. Wait for
   * it before sending much more: that is the back-pressure. Small records that belong together should be sent
   * without waiting in between (wait for the last), then they travel together.
   *
   * @throws {DroverError} code `disconnected`.
   */
  send(type: number, ...parts: Uint8Array[]): Promise<void>;
  /**
   * The next record, or null after the other side's END. One call at a time.
   *
   * @throws {DroverError} code `disconnected` when the connection was cut, `format` for a bad record.
   */
  receive(): Promise<ReceivedRecord | null>;
  /**
   * Gives the memory of a received body back for a later one; the body must not be used any more. Nobody has to,
   * but fresh memory for large bodies costs about as much time as receiving them.
   */
  recycle(body: Uint8Array<ArrayBuffer>): void;
  /** Sends END and ends this direction; receiving goes on. */
  end(): Promise<void>;
  /** Gives the connection up at once, in both directions. */
  close(): void;
}

/** Parts smaller than this are copied together, since a write costs more than the copy. */
const copySizeMax = 65_536;
const stagingSize = 131_072;
const readSize = 262_144;
/** A body with this much missing is read in place. */
const directSizeMin = 32_768;
/** Which bodies are worth keeping for reuse, and how many. */
const recycledSizeMin = 65_536;
const recycledSizeMax = 16_777_216;
const recycledMax = 4;
/** How many records may wait for the connection; a caller who waits for `send()` never comes near. */
const queuedMax = 65_536;

interface Outgoing {
  pieces: Uint8Array[];
  resolve: () => void;
  reject: (error: unknown) => void;
}

/** A channel over any transport. */
export class RecordChannel implements Channel {
  readonly peer: string;
  readonly address?: Address;
  readonly encrypted: boolean;
  readonly #transport: Transport;
  readonly #reader: RecordReader;
  #readBuffer: Uint8Array<ArrayBuffer> | null = null;
  #staging: Uint8Array<ArrayBuffer> | null = null;
  readonly #recycled: ArrayBuffer[] = [];
  #queue: Outgoing[] = [];
  #pumping = false;
  #bytesSent = 0;
  #bytesReceived = 0;
  #receiving = false;
  #peerEnded = false;
  #ended = false;
  #closed = false;
  #sendFailure: unknown = null;

  /** Takes over `transport`, whose next octet begins a record. */
  constructor(
    transport: Transport,
    options: { peer: string; address?: Address; encrypted: boolean; limits: RecordLimits },
  ) {
    this.#transport = transport;
    this.peer = options.peer;
    if (options.address !== undefined) this.address = options.address;
    this.encrypted = options.encrypted;
    this.#reader = new RecordReader({ limits: options.limits, allocate: (size) => this.#allocate(size) });
  }

  /** Octets of records handed to the connection. */
  get bytesSent(): number {
    return this.#bytesSent;
  }

  /** Octets of records that arrived. */
  get bytesReceived(): number {
    return this.#bytesReceived;
  }

  /** Sends a record, see `Channel.send`. */
  send(type: number, ...parts: Uint8Array[]): Promise<void> {
    if (type === endType) {
      return Promise.reject(new TypeError("Cannot send END as a record: end() does that"));
    }
    return this.#enqueue(type, parts);
  }

  /** Takes the next record, see `Channel.receive`. */
  async receive(): Promise<ReceivedRecord | null> {
    if (this.#receiving) throw new TypeError("Cannot receive twice at a time: receive() is waiting already");
    if (this.#peerEnded) return null;
    this.#receiving = true;
    try {
      while (true) {
        const record = this.#reader.next();
        if (record === null) {
          await this.#fill();
        } else if (record.type !== endType) {
          return { type: record.type, body: record.body };
        } else {
          if (this.#reader.rest().length > 0) {
            throw new FormatError(
              "stream.end.trailing",
              this.#reader.offset,
              `Cannot accept the records of "${this.peer}": data follow the END record and nothing should`,
            );
          }
          this.#peerEnded = true;
          return null;
        }
      }
    } catch (error) {
      this.close();
      throw error;
    } finally {
      this.#receiving = false;
    }
  }

  /** Gives the memory of a body back, see `Channel.recycle`. */
  recycle(body: Uint8Array<ArrayBuffer>): void {
    const size = body.buffer.byteLength;
    if (size < recycledSizeMin || size > recycledSizeMax || this.#recycled.length >= recycledMax) return;
    this.#recycled.push(body.buffer);
  }

  /** Sends END and ends this direction. */
  async end(): Promise<void> {
    if (this.#ended) return;
    const sent = this.#enqueue(endType, []);
    this.#ended = true;
    await sent;
    try {
      await this.#transport.closeWrite();
    } catch (error) {
      // The peer may have read END and closed by now; then there is nothing left to end.
      if (!(error instanceof Deno.errors.NotConnected) && !(error instanceof Deno.errors.BrokenPipe)) {
        throw this.#disconnected("end the connection to", error);
      }
    }
  }

  /** Gives the connection up. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    closeQuietly(this.#transport);
  }

  /** The same as `close()`. */
  [Symbol.dispose](): void {
    this.close();
  }

  #allocate(size: number): Uint8Array<ArrayBuffer> {
    if (size >= recycledSizeMin) {
      const index = this.#recycled.findIndex((buffer) => buffer.byteLength >= size);
      const [buffer] = index < 0 ? [] : this.#recycled.splice(index, 1);
      if (buffer !== undefined) return new Uint8Array(buffer, 0, size);
    }
    return new Uint8Array(size);
  }

  #enqueue(type: number, parts: Uint8Array[]): Promise<void> {
    if (this.#ended) return Promise.reject(new TypeError("Cannot send a record: end() was called before"));
    if (this.#sendFailure !== null) return Promise.reject(this.#sendFailure);
    if (this.#queue.length >= queuedMax) {
      return Promise.reject(
        new TypeError(`Cannot queue another record: ${queuedMax} wait, send() should be awaited`),
      );
    }
    let pieces: Uint8Array[];
    try {
      pieces = encodeRecord(type, ...parts);
    } catch (error) {
      return Promise.reject(error);
    }
    return new Promise((resolve, reject) => {
      this.#queue.push({ pieces, resolve, reject });
      if (!this.#pumping) {
        this.#pumping = true;
        queueMicrotask(() => void this.#pump());
      }
    });
  }

  async #pump(): Promise<void> {
    while (this.#queue.length > 0) {
      const batch = this.#queue;
      this.#queue = [];
      try {
        await this.#writeBatch(batch);
        for (const { resolve } of batch) resolve();
      } catch (error) {
        this.#sendFailure = this.#disconnected("send to", error);
        for (const { reject } of [...batch, ...this.#queue]) reject(this.#sendFailure);
        this.#queue = [];
      }
    }
    this.#pumping = false;
  }

  async #writeBatch(batch: Outgoing[]): Promise<void> {
    this.#staging ??= new Uint8Array(stagingSize);
    let staged = 0;
    for (const { pieces } of batch) {
      for (const piece of pieces) {
        const direct = piece.length >= copySizeMax;
        if (staged > 0 && (direct || staged + piece.length > stagingSize)) {
          await this.#write(this.#staging.subarray(0, staged));
          staged = 0;
        }
        if (direct) {
          await this.#write(piece);
        } else {
          this.#staging.set(piece, staged);
          staged += piece.length;
        }
      }
    }
    if (staged > 0) await this.#write(this.#staging.subarray(0, staged));
  }

  async #write(bytes: Uint8Array): Promise<void> {
    await writeAll(this.#transport, bytes);
    this.#bytesSent += bytes.length;
  }

  async #fill(): Promise<void> {
    const open = this.#reader.openBody();
    const direct = open.length >= directSizeMin;
    const buffer = direct ? open : (this.#readBuffer ??= new Uint8Array(readSize));
    let size: number | null;
    try {
      size = await this.#transport.read(buffer);
    } catch (error) {
      throw this.#disconnected("receive from", error);
    }
    if (size === null) {
      let cause: unknown;
      try {
        this.#reader.finish();
      } catch (error) {
        cause = error;
      }
      throw this.#disconnected("receive from", cause);
    }
    this.#bytesReceived += size;
    if (direct) this.#reader.filledBody(size);
    else this.#reader.push(buffer.subarray(0, size));
  }

  #disconnected(what: string, cause: unknown): DroverError {
    return new DroverError(
      "disconnected",
      `Cannot ${what} "${this.peer}": the connection ${
        this.#closed ? "was closed on this side" : "ended before the other side said END"
      }`,
      { cause },
    );
  }
}
