/**
 * The client: requests of any number of callers over one connection, answered in any order.
 *
 * ```text
 *   slot   free -> in flight -> answered -> free
 *   cookie = (times the slot was used, slot): a late or invented reply matches nothing
 * ```
 *
 * Invariants:
 * - A buffer that was given to `readAt` or `writeAt` is not touched after its promise settled.
 * - When the connection ends, for whatever reason, everything in flight and everything later is rejected with that
 *   reason. Connecting again is the caller's business: a new client.
 * - What the server sends is checked before it is believed; what it may send is bounded by what was asked.
 *
 * @module
 */
import { DroverError } from "../base/errors.ts";
import { closeQuietly, type Extent, type NbdTransport } from "./backend.ts";
import { errorNameOf, NbdError } from "./errors.ts";
import {
  allocation,
  chunk,
  chunkCountMax,
  chunkDone,
  chunkHeaderSize,
  command,
  commandFlag,
  exportFlag,
  extentCountTaken,
  requestSize,
  simpleReplyMagic,
  simpleReplySize,
  structuredReplyMagic,
  textSizeMax,
} from "./constants.ts";
import { type NbdExportInfo, OptionHaggling } from "./client_handshake.ts";
import { Intake } from "./intake.ts";
import { Outlet } from "./outlet.ts";
import { putRequest } from "./wire.ts";

/** How to connect. */
export interface NbdClientOptions {
  /** The export; by default the one without a name. */
  name?: string;
  /** Requests in flight; more wait. Default 64. */
  requests?: number;
  /**
   * Starts TLS on the transport, which has just been promised it, and gives what is to be used from now on. With it
   * the connection is inside of TLS or is none; without it it is in the clear.
   */
  startTls?: (transport: NbdTransport) => Promise<NbdTransport>;
}

/** One request in flight. */
interface Slot {
  index: number;
  /** How often it was used: half of its cookie. */
  times: number;
  type: number;
  offset: number;
  length: number;
  into: Uint8Array | null;
  /** Octets that have arrived. */
  covered: number;
  /** What has arrived in more than one piece: start, end, start, end, … */
  pieces: number[];
  chunks: number;
  extents: Extent[] | null;
  error: Error | null;
  /** Its data is still being sent, and the caller's until then. */
  sending: boolean;
  /** Its reply is complete. */
  answered: boolean;
  resolve: (() => void) | null;
  reject: ((error: unknown) => void) | null;
}

/** Most octets of TRIM and WRITE_ZEROES in one request: a 32-bit length in whole blocks. */
const rangeMax = 2 ** 31;

/**
 * A connection to an export of an NBD server.
 *
 * @example
 * ```ts
 * import { NbdClient } from "./client.ts";
 *
 * async function firstBlock(): Promise<Uint8Array> {
 *   const transport = await Deno.connect({ hostname: "127.0.0.1", port: 10809 });
 *   await using client = await NbdClient.connect(transport, { name: "disk" });
 *   const block = new Uint8Array(512);
 *   await client.readAt(0, block);
 *   return block;
 * }
 * ```
 */
export class NbdClient implements AsyncDisposable {
  /** What the server said of the export. */
  readonly info: NbdExportInfo;
  readonly #transport: NbdTransport;
  readonly #intake: Intake;
  readonly #outlet: Outlet;
  readonly #slots: Slot[] = [];
  readonly #free: Slot[] = [];
  readonly #waiting: ((slot: Slot | null) => void)[] = [];
  readonly #ended: Promise<void>;
  #failure: unknown = null;
  #closing = false;
  /** The read whose data is on its way straight to its buffer, and whether its reply ends with it. */
  #filling: Slot | null = null;
  #fillingEnds = false;
  /** What it is, when it is extents and no data. */
  #extentsBody: Uint8Array<ArrayBuffer> | null = null;

  private constructor(
    connection: { transport: NbdTransport; intake: Intake; outlet: Outlet },
    info: NbdExportInfo,
    requests: number,
  ) {
    this.#transport = connection.transport;
    this.#intake = connection.intake;
    this.#outlet = connection.outlet;
    this.info = info;
    for (let index = 0; index < requests; index++) {
      const slot: Slot = {
        index,
        times: 0,
        type: 0,
        offset: 0,
        length: 0,
        into: null,
        covered: 0,
        pieces: [],
        chunks: 0,
        extents: null,
        error: null,
        sending: false,
        answered: false,
        resolve: null,
        reject: null,
      };
      this.#slots.push(slot);
    }
    // The first is used first.
    this.#free.push(...this.#slots.toReversed());
    this.#ended = this.#receive();
  }

  /**
   * Haggles for an export. The transport belongs to the client from now on, and is closed when this throws.
   *
   * @throws {DroverError} "io" and "unsupported" for what the server refuses, `FormatError` for what it may not say
   */
  static async connect(transport: NbdTransport, options: NbdClientOptions = {}): Promise<NbdClient> {
    const { name = "", requests = 64, startTls } = options;
    let connection = { transport, intake: new Intake(), outlet: new Outlet(transport) };
    try {
      const haggling = new OptionHaggling(connection);
      await haggling.greet();
      if (startTls !== undefined) {
        await haggling.askTls();
        transport = await startTls(transport);
        connection = { transport, intake: new Intake(), outlet: new Outlet(transport) };
        haggling.moveTo(connection);
      }
      return new NbdClient(connection, await haggling.choose(name), requests);
    } catch (error) {
      closeQuietly(transport);
      throw error;
    }
  }

  /** Octets of the export. */
  get size(): number {
    return this.info.size;
  }

  /** Whether the server refuses writes. */
  get readOnly(): boolean {
    return this.has("readOnly");
  }

  /** Whether the server says this of the export. */
  has(flag: keyof typeof exportFlag): boolean {
    return (this.info.flags & exportFlag.hasFlags) !== 0 && (this.info.flags & exportFlag[flag]) !== 0;
  }

  /** Settles when the connection has ended: no buffer of anybody is touched any more. */
  get ended(): Promise<void> {
    return this.#ended;
  }

  /** Why the connection is of no use any more; null while it is. */
  get failure(): unknown {
    return this.#failure;
  }

  /** Fills `into` from `offset` on. */
  readAt(offset: number, into: Uint8Array): Promise<void> {
    const max = this.info.payloadSizeMax;
    if (into.length === 0) return Promise.resolve();
    if (into.length <= max) return this.#request(command.read, 0, offset, into.length, into);
    return this.#inParts(
      into.length,
      max,
      (at, length) => this.#request(command.read, 0, offset + at, length, into.subarray(at, at + length)),
    );
  }

  /** Writes `bytes`. @param options `fua`: they are on the disk when this resolves. */
  writeAt(offset: number, bytes: Uint8Array, options: { fua?: boolean } = {}): Promise<void> {
    const max = this.info.payloadSizeMax;
    const flags = this.#fua(options);
    if (bytes.length === 0) return Promise.resolve();
    if (bytes.length <= max) return this.#request(command.write, flags, offset, bytes.length, bytes);
    return this.#inParts(
      bytes.length,
      max,
      (at, length) =>
        this.#request(command.write, flags, offset + at, length, bytes.subarray(at, at + length)),
    );
  }

  /** Brings everything whose write has resolved to where it lasts. */
  async flush(): Promise<void> {
    if (this.has("sendFlush")) await this.#request(command.flush, 0, 0, 0, null);
  }

  /** The content of a range no longer matters. */
  async trim(offset: number, length: number): Promise<void> {
    if (!this.has("sendTrim") || length === 0) return;
    await this.#inParts(
      length,
      rangeMax,
      (at, part) => this.#request(command.trim, 0, offset + at, part, null),
    );
  }

  /** A range reads as zeros. @throws {NbdError} ENOTSUP where the server does not know the command. */
  async zero(
    offset: number,
    length: number,
    options: { allocate?: boolean; fua?: boolean } = {},
  ): Promise<void> {
    if (length === 0) return;
    if (!this.has("sendWriteZeroes")) {
      throw new NbdError("ENOTSUP", "Cannot zero: the NBD server has no such command");
    }
    const flags = this.#fua(options) | (options.allocate === true ? commandFlag.noHole : 0);
    await this.#inParts(
      length,
      rangeMax,
      (at, part) => this.#request(command.writeZeroes, flags, offset + at, part, null),
    );
  }

  /** A range will be wanted soon. */
  async cache(offset: number, length: number): Promise<void> {
    if (!this.has("sendCache") || length === 0) return;
    await this.#inParts(
      length,
      rangeMax,
      (at, part) => this.#request(command.cache, 0, offset + at, part, null),
    );
  }

  /** States of a range, from its start on: at least one extent, perhaps not all of it. */
  async extents(offset: number, length: number): Promise<readonly Extent[]> {
    if (this.info.allocationId === null || length === 0) return [{ length, hole: false, zero: false }];
    const extents: Extent[] = [];
    await this.#request(command.blockStatus, 0, offset, Math.min(length, rangeMax), null, extents);
    return extents;
  }

  /** Finishes what is in flight, says goodbye and closes the connection. */
  async close(): Promise<void> {
    if (!this.#closing && this.#failure === null) {
      this.#closing = true;
      while (this.#free.length < this.#slots.length && this.#failure === null) {
        const slot = await new Promise<Slot | null>((resolve) => this.#waiting.push(resolve));
        if (slot !== null) this.#free.push(slot);
      }
      if (this.#failure === null) {
        const goodbye = new Uint8Array(requestSize);
        putRequest(goodbye, {
          type: command.disc,
          flags: 0,
          cookieHigh: 0,
          cookieLow: 0,
          offset: 0,
          length: 0,
        });
        this.#outlet.push(goodbye, null);
        await this.#outlet.drain();
      }
      closeQuietly(this.#transport);
    }
    await this.#ended;
  }

  /** Gives the connection up: what is in flight is rejected. */
  abandon(reason?: unknown): void {
    this.#failure ??= reason ?? new DroverError("disconnected", "The NBD connection was given up");
    closeQuietly(this.#transport);
  }

  /** See `close`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #fua(options: { fua?: boolean }): number {
    return options.fua === true && this.has("sendFua") ? commandFlag.fua : 0;
  }

  async #inParts(
    length: number,
    max: number,
    request: (at: number, length: number) => Promise<void>,
  ): Promise<void> {
    const least = this.info.minimumBlockSize;
    const step = Math.floor(max / least) * least;
    const parts: Promise<void>[] = [];
    for (let at = 0; at < length; at += step) parts.push(request(at, Math.min(step, length - at)));
    // All of them first: a buffer is not the caller's again while one is under way.
    const results = await Promise.allSettled(parts);
    for (const result of results) if (result.status === "rejected") throw result.reason;
  }

  #request(
    type: number,
    flags: number,
    offset: number,
    length: number,
    data: Uint8Array | null,
    extents: Extent[] | null = null,
  ): Promise<void> {
    if (type !== command.flush && !(offset >= 0 && offset + length <= this.info.size)) {
      return Promise.reject(
        new RangeError(`Cannot access ${length} octets at ${offset}: the export has ${this.info.size}`),
      );
    }
    if (this.#failure !== null || this.#closing) return Promise.reject(this.#refusalNow());
    const slot = this.#free.pop();
    if (slot !== undefined) return this.#start(slot, type, flags, offset, length, data, extents);
    return new Promise<Slot | null>((resolve) => this.#waiting.push(resolve)).then((given) => {
      if (given === null) throw this.#refusalNow();
      return this.#start(given, type, flags, offset, length, data, extents);
    });
  }

  #refusalNow(): unknown {
    return this.#failure ?? new DroverError("disconnected", "The NBD connection is closed");
  }

  #start(
    slot: Slot,
    type: number,
    flags: number,
    offset: number,
    length: number,
    data: Uint8Array | null,
    extents: Extent[] | null,
  ): Promise<void> {
    slot.times = (slot.times + 1) >>> 0;
    slot.type = type;
    slot.offset = offset;
    slot.length = length;
    slot.into = type === command.read ? data : null;
    slot.covered = 0;
    slot.chunks = 0;
    slot.pieces.length = 0;
    slot.extents = extents;
    slot.error = null;
    slot.sending = slot.answered = false;
    const written = type === command.write ? data : null;
    const promise = new Promise<void>((resolve, reject) => {
      slot.resolve = resolve;
      slot.reject = reject;
    });
    putRequest(this.#head, { type, flags, cookieHigh: slot.times, cookieLow: slot.index, offset, length });
    if (written === null) {
      const room = this.#outlet.reserve(requestSize);
      if (room === null) this.#outlet.push(this.#head.slice(), null);
      else room.set(this.#head);
    } else {
      slot.sending = true;
      const sent = (): void => {
        slot.sending = false;
        if (slot.answered) this.#end(slot);
      };
      if (this.#outlet.push(written, sent, this.#head)) slot.sending = false;
    }
    // What other callers ask in this turn goes with it.
    if (!this.#kicked) {
      this.#kicked = true;
      queueMicrotask(this.#kick);
    }
    return promise;
  }

  readonly #head = new Uint8Array(requestSize);
  #kicked = false;
  readonly #kick = (): void => {
    this.#kicked = false;
    this.#outlet.kick();
  };

  /** Takes replies until the connection ends. */
  async #receive(): Promise<void> {
    const intake = this.#intake;
    try {
      for (;;) {
        while (this.#take());
        const count = await this.#transport.read(intake.space());
        if (count === null) {
          if (intake.available > 0 || intake.missing > 0) throw intake.truncated();
          throw new DroverError("disconnected", "The NBD server ended the connection");
        }
        intake.commit(count);
      }
    } catch (error) {
      this.#failure ??= this.#closing
        ? new DroverError("disconnected", "The NBD connection is closed")
        : error instanceof DroverError
        ? error
        : new DroverError("disconnected", "The NBD connection failed", { cause: error });
    }
    closeQuietly(this.#transport);
    for (const slot of this.#slots) {
      slot.reject?.(this.#failure);
      slot.into = null;
      slot.resolve = slot.reject = null;
    }
    for (const wake of this.#waiting.splice(0)) wake(null);
  }

  /** Takes one reply, or one piece of it. @returns false when more has to arrive. */
  #take(): boolean {
    const intake = this.#intake;
    if (this.#filling !== null) {
      if (intake.missing > 0) return false;
      const slot = this.#filling;
      this.#filling = null;
      if (this.#extentsBody !== null) {
        this.#addExtents(slot, this.#extentsBody);
        this.#extentsBody = null;
      }
      if (this.#fillingEnds) this.#end(slot);
      return true;
    }
    if (intake.available < simpleReplySize) return false;
    const magic = intake.u32(0);
    if (magic === simpleReplyMagic) return this.#takeSimple();
    if (magic === structuredReplyMagic) return this.#takeChunk();
    throw intake.fail("reply.magic", "a reply begins with no magic");
  }

  #takeSimple(): boolean {
    const intake = this.#intake;
    const slot = this.#slotOf(8);
    const error = intake.u32(4);
    if (this.info.structured && (slot.type === command.read || slot.type === command.blockStatus)) {
      throw intake.fail("reply.kind", "a simple reply answers a request that has a structured one");
    }
    intake.skip(simpleReplySize);
    if (error !== 0) {
      slot.error = this.#refused(slot, error, "");
    } else if (slot.type === command.read) {
      this.#fill(slot, 0, slot.length, true);
      return true;
    }
    this.#end(slot);
    return true;
  }

  #takeChunk(): boolean {
    const intake = this.#intake;
    if (intake.available < chunkHeaderSize) return false;
    if (!this.info.structured) throw intake.fail("reply.kind", "a structured reply was not agreed on");
    const slot = this.#slotOf(8);
    const ends = (intake.u16(4) & chunkDone) !== 0;
    const type = intake.u16(6);
    const size = intake.u32(16);
    const badSize = (): Error => intake.fail("reply.size", `a chunk of type ${type} has ${size} octets`, 16);
    const foreign = (): Error =>
      intake.fail("reply.type", `a chunk of type ${type} does not answer command ${slot.type}`, 6);
    switch (type) {
      case chunk.none:
        if (size !== 0 || !ends) throw badSize();
        break;
      case chunk.offsetData:
      case chunk.offsetHole: {
        if (slot.type !== command.read) throw foreign();
        const isHole = type === chunk.offsetHole;
        if (isHole ? size !== 12 : size < 9) throw badSize();
        const head = chunkHeaderSize + (isHole ? 12 : 8);
        if (intake.available < head) return false;
        const from = intake.u64(chunkHeaderSize) - slot.offset;
        const length = isHole ? intake.u32(chunkHeaderSize + 8) : size - 8;
        if (length === 0) throw badSize();
        if (from < 0 || from + length > slot.length) {
          throw intake.fail(
            "reply.range",
            `data for ${length} octets at ${slot.offset + from} was not asked for`,
            20,
          );
        }
        this.#cover(slot, from, length);
        slot.chunks++;
        intake.skip(head);
        if (!isHole) {
          this.#fill(slot, from, length, ends);
          return true;
        }
        slot.into?.fill(0, from, from + length);
        if (ends) this.#end(slot);
        return true;
      }
      case chunk.blockStatus: {
        if (slot.type !== command.blockStatus) throw foreign();
        if (size < 12 || (size - 4) % 8 !== 0 || size > 4 + 8 * extentCountTaken) throw badSize();
        return this.#takeExtents(slot, size, ends);
      }
      default: {
        if (type < 0x8000) throw foreign();
        const least = type === chunk.errorOffset ? 14 : 6;
        if (size < least || size > least + textSizeMax) throw badSize();
        if (intake.available < chunkHeaderSize + size) return false;
        const number = intake.u32(chunkHeaderSize);
        const textSize = intake.u16(chunkHeaderSize + 4);
        if (number === 0 || textSize > size - least) throw badSize();
        slot.chunks++;
        intake.skip(chunkHeaderSize);
        const text = decoder.decode(intake.view(size).subarray(6, 6 + textSize));
        slot.error ??= this.#refused(slot, number, text);
        intake.skip(size);
        if (ends) this.#end(slot);
        return true;
      }
    }
    intake.skip(chunkHeaderSize);
    this.#end(slot);
    return true;
  }

  /** The slot whose cookie is at `at`. */
  #slotOf(at: number): Slot {
    const intake = this.#intake;
    const slot = this.#slots[intake.u32(at + 4)];
    if (slot === undefined || slot.times !== intake.u32(at) || slot.resolve === null || slot.answered) {
      throw intake.fail("reply.cookie", "a reply to nothing that is in flight", at);
    }
    if (slot.chunks >= chunkCountMax) {
      throw intake.fail("reply.chunks", `more than ${chunkCountMax} chunks in one reply`, at);
    }
    return slot;
  }

  /** Notes that a piece arrives, and refuses it when it did before. */
  #cover(slot: Slot, from: number, length: number): void {
    slot.covered += length;
    if (slot.covered > slot.length) throw this.#intake.fail("reply.overlap", "data was sent twice", 20);
    if (length < slot.length) slot.pieces.push(from, from + length);
  }

  #fill(slot: Slot, from: number, length: number, ends: boolean): void {
    if (slot.into === null) throw new Error("A read in flight has no buffer");
    this.#intake.direct(slot.into.subarray(from, from + length));
    if (slot.pieces.length === 0) slot.covered = slot.length;
    this.#filling = slot;
    this.#fillingEnds = ends;
  }

  #takeExtents(slot: Slot, size: number, ends: boolean): boolean {
    const intake = this.#intake;
    slot.chunks++;
    intake.skip(chunkHeaderSize);
    const body = new Uint8Array(size);
    intake.direct(body);
    this.#filling = slot;
    this.#fillingEnds = ends;
    this.#extentsBody = body;
    return true;
  }

  #addExtents(slot: Slot, body: Uint8Array<ArrayBuffer>): void {
    const fields = new DataView(body.buffer, body.byteOffset, body.byteLength);
    if (fields.getUint32(0) !== this.info.allocationId) {
      throw this.#intake.fail("reply.type", "extents of a context that was not selected");
    }
    let covered = 0;
    for (let at = 4; at < body.length && covered < slot.length; at += 8) {
      const length = fields.getUint32(at);
      const state = fields.getUint32(at + 4);
      if (length === 0) throw this.#intake.fail("reply.size", "an extent is empty");
      const part = Math.min(length, slot.length - covered);
      slot.extents?.push({
        length: part,
        hole: (state & allocation.hole) !== 0,
        zero: (state & allocation.zero) !== 0,
      });
      covered += part;
    }
    slot.covered = slot.length;
  }

  #refused(slot: Slot, number: number, text: string): NbdError {
    const errno = errorNameOf(number);
    const said = text === "" ? errno : `${errno}, "${printable(text)}"`;
    return new NbdError(
      errno,
      `The NBD server could not ${
        verbs[slot.type] ?? "do"
      } ${slot.length} octets at ${slot.offset}: it said ${said}`,
    );
  }

  /** The reply is complete: checks that, frees the slot, and wakes who waits for one. */
  #end(slot: Slot): void {
    const { resolve, reject } = slot;
    slot.answered = true;
    if (slot.sending) return;
    if (slot.error === null && (slot.type === command.read || slot.type === command.blockStatus)) {
      if (slot.covered !== slot.length) {
        throw this.#intake.fail("reply.short", `${slot.covered} of ${slot.length} octets have arrived`);
      }
      if (slot.pieces.length > 2 && overlaps(slot.pieces)) {
        throw this.#intake.fail("reply.overlap", "data was sent twice");
      }
    }
    const error = slot.error;
    slot.into = null;
    slot.extents = null;
    slot.resolve = slot.reject = null;
    const next = this.#waiting.shift();
    if (next === undefined) this.#free.push(slot);
    else next(slot);
    if (error === null) resolve?.();
    else reject?.(error);
  }
}

/** Names of the exports of a server; the transport is closed. */
export async function listNbdExports(
  transport: NbdTransport,
): Promise<{ name: string; description: string }[]> {
  try {
    const haggling = new OptionHaggling({ transport, intake: new Intake(), outlet: new Outlet(transport) });
    await haggling.greet();
    const found = await haggling.list();
    await haggling.abort();
    return found;
  } finally {
    closeQuietly(transport);
  }
}

const decoder = new TextDecoder();

const verbs: Readonly<Record<number, string>> = {
  [command.read]: "read",
  [command.write]: "write",
  [command.flush]: "flush",
  [command.trim]: "trim",
  [command.cache]: "cache",
  [command.writeZeroes]: "zero",
  [command.blockStatus]: "tell the state of",
};

/** Text of a peer, without what would move a terminal's cursor. */
function printable(text: string): string {
  // deno-lint-ignore no-control-regex
  return text.replace(/[\x00-\x1f\x7f]/g, "\u{fffd}");
}

/** Whether two of the ranges overlap. */
function overlaps(pieces: readonly number[]): boolean {
  const ranges: [number, number][] = [];
  for (let at = 0; at + 1 < pieces.length; at += 2) ranges.push([pieces[at] ?? 0, pieces[at + 1] ?? 0]);
  ranges.sort((left, right) => left[0] - right[0]);
  return ranges.some(([start], at) => start < (ranges[at - 1]?.[1] ?? 0));
}
