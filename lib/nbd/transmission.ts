/**
 * The transmission of one connection, on the side of the server.
 *
 * ```text
 *   take a request -> check -> backend -> reply
 *         ^                       |
 *         '--- next one, while the backend is at work: up to `limits` are in flight
 * ```
 *
 * Invariants:
 * - A request that is in flight has exactly one reply, or the connection ends.
 * - Reading stops while `limits` are reached: a client that sends and does not take its replies costs bounded
 *   memory.
 * - Data of a write is a view of what was received; its buffer is not used again before the backend is done with
 *   it.
 * - A backend that answers at once costs no promise.
 *
 * @module
 */
import {
  closeQuietly,
  type Extent,
  type MaybePromise,
  type NbdBackend,
  type NbdTransport,
} from "./backend.ts";
import type { BufferPool } from "./buffers.ts";
import {
  allocation,
  chunk,
  chunkHeaderSize,
  command,
  commandFlag,
  extentCountMax,
  inlineSizeMax,
  payloadSizeMax,
  requestMagic,
  requestSize,
  simpleReplySize,
  textSizeMax,
} from "./constants.ts";
import { errorNumberOf, errorNumbers } from "./errors.ts";
import type { Intake, Slab } from "./intake.ts";
import type { Outlet } from "./outlet.ts";
import { type Agreed, allocationId } from "./server_handshake.ts";
import { putChunk, putSimple, putU32 } from "./wire.ts";

/** How much one connection may have in flight. */
export interface NbdLimits {
  /** Requests. */
  requests: number;
  /** Octets of their data. A single request may be larger. */
  bytes: number;
}

/** What a connection did. */
export interface NbdTally {
  /** Requests that were answered. */
  requests: number;
  /** Octets that were read. */
  readBytes: number;
  /** Octets that were written. */
  writtenBytes: number;
  /** Requests that were answered with an error. */
  errors: number;
}

/** What a command must keep of its request until it is answered. */
interface Job {
  cookieHigh: number;
  cookieLow: number;
  offset: number;
  length: number;
}

const zeroStepSize = 2 ** 20;
/** Of so many reads one goes through the event loop. */
const turnsMax = 64;

/** One connection, from the end of its haggling on. */
export class Transmission {
  readonly tally: NbdTally = emptyTally();
  readonly #transport: NbdTransport;
  readonly #intake: Intake;
  readonly #outlet: Outlet;
  readonly #backend: NbdBackend;
  readonly #agreed: Agreed;
  readonly #limits: NbdLimits;
  readonly #pool: BufferPool;
  /** Octets before the data of a reply to a READ. */
  readonly #readHeaderSize: number;
  readonly #readHead = new Uint8Array(chunkHeaderSize + 8);
  readonly #size: number;
  #requests = 0;
  #bytes = 0;
  /** Whoever waits for a request to be answered. */
  #waiting: (() => void)[] = [];
  /** 1 while the data of a request is on its way, which may never come. */
  #receiving = 0;
  #stopping = false;
  /** Reads so far. */
  #turns = 0;

  constructor(
    connection: { transport: NbdTransport; intake: Intake; outlet: Outlet },
    agreed: Agreed,
    options: { limits: NbdLimits; pool: BufferPool },
  ) {
    this.#transport = connection.transport;
    this.#intake = connection.intake;
    this.#outlet = connection.outlet;
    this.#agreed = agreed;
    this.#backend = agreed.chosen.backend;
    this.#size = this.#backend.size;
    this.#limits = options.limits;
    this.#pool = options.pool;
    this.#readHeaderSize = agreed.structured ? chunkHeaderSize + 8 : simpleReplySize;
  }

  get name(): string {
    return this.#agreed.chosen.name;
  }

  /** Takes no more requests; when those in flight are answered the connection ends. */
  stop(): void {
    this.#stopping = true;
    this.#settle().then(() => closeQuietly(this.#transport));
  }

  /** @returns whether the client said DISC. */
  async run(): Promise<boolean> {
    const intake = this.#intake;
    const transport = this.#transport;
    try {
      for (;;) {
        if (this.#stopping) return true;
        const size = this.#sizeOfNext();
        if (size < 0) {
          this.#outlet.kick();
          const space = intake.space();
          const count = this.#readNow(space) || await transport.read(space);
          if (count === null) {
            if (intake.available > 0 && !this.#stopping) throw intake.truncated();
            return false;
          }
          intake.commit(count);
          continue;
        }
        const type = intake.u16(6);
        if (type === command.disc) return true;
        // Both may be much: what a write brings, and what a read will bring.
        const bytes = type === command.write || type === command.read
          ? Math.min(intake.u32(24), payloadSizeMax)
          : 0;
        while (!this.#hasRoom(bytes)) {
          await this.#answered();
        }
        if (this.#outlet.failed) return false;
        this.#requests++;
        this.#bytes += bytes;
        if (size > requestSize + inlineSizeMax) {
          await this.#large(bytes);
        } else {
          this.#dispatch(bytes);
          intake.skip(size);
        }
      }
    } finally {
      await this.#settle();
    }
  }

  /** What can be read without a turn of the event loop; now and then nothing, so that others have theirs. */
  #readNow(space: Uint8Array): number {
    if (this.#transport.readNow === undefined || ++this.#turns % turnsMax === 0) return 0;
    return this.#transport.readNow(space);
  }

  /** Waits until nothing is in flight, and what was answered is written. */
  async #settle(): Promise<void> {
    while (this.#requests > this.#receiving) await this.#answered();
    await this.#outlet.drain();
  }

  /** Waits until one more request is answered. */
  #answered(): Promise<void> {
    this.#outlet.kick();
    return new Promise<void>((resolve) => this.#waiting.push(resolve));
  }

  #hasRoom(bytes: number): boolean {
    if (this.#requests === 0) return true;
    return this.#requests < this.#limits.requests && this.#bytes + bytes <= this.#limits.bytes;
  }

  /** Octets of the request that begins here and can be handled now; -1 when more has to arrive. */
  #sizeOfNext(): number {
    const intake = this.#intake;
    if (intake.available < requestSize) return -1;
    if (intake.u32(0) !== requestMagic) {
      throw intake.fail("request.magic", "a request does not begin with its magic");
    }
    if (intake.u16(6) !== command.write) return requestSize;
    const length = intake.u32(24);
    if (length > payloadSizeMax) {
      throw intake.fail(
        "request.size",
        `a write has ${length} octets, at most ${payloadSizeMax} are taken`,
        24,
      );
    }
    const size = requestSize + length;
    return length > inlineSizeMax || intake.available >= size ? size : -1;
  }

  /** Takes a write whose data goes to a buffer of its own, or right to where it belongs. */
  async #large(bytes: number): Promise<void> {
    const intake = this.#intake;
    const { flags, job } = this.#header();
    const refused = this.#refusal(command.write, flags, job);
    const place = refused === null ? this.#backend.view?.(job.offset, bytes) ?? null : null;
    const buffer = place === null ? this.#pool.take(bytes) : null;
    const data = place ?? buffer?.subarray(0, bytes) ?? nothing;
    intake.skip(requestSize);
    intake.direct(data);
    this.#receiving = 1;
    try {
      while (intake.missing > 0) {
        this.#outlet.kick();
        const space = intake.space();
        const count = this.#readNow(space) || await this.#transport.read(space);
        if (count === null) throw intake.truncated();
        intake.commit(count);
      }
    } catch (error) {
      this.#finish(bytes);
      throw error;
    } finally {
      this.#receiving = 0;
    }
    const free = (): void => {
      if (buffer !== null) this.#pool.give(buffer);
    };
    if (refused !== null) {
      free();
      this.#fail(job, bytes, refused.number, refused.why, command.write);
      return;
    }
    this.tally.writtenBytes += bytes;
    this.#finishWith(job, bytes, command.write, flags, {
      start: () => place === null ? this.#backend.writeAt(job.offset, data) : undefined,
      free,
    });
  }

  /** Does what the request in the slab says. */
  #dispatch(bytes: number): void {
    const intake = this.#intake;
    const { type, flags, job } = this.#header();
    const refused = this.#refusal(type, flags, job);
    if (refused !== null) {
      this.#fail(job, bytes, refused.number, refused.why, type);
    } else if (type === command.read) {
      this.#read(job, bytes);
    } else if (type === command.write) {
      this.tally.writtenBytes += job.length;
      let slab: Slab | null = null;
      this.#finishWith(job, bytes, type, flags, {
        start: () => {
          const data = intake.view(requestSize + job.length).subarray(requestSize);
          const result = this.#backend.writeAt(job.offset, data);
          if (result !== undefined) slab = intake.lend();
          return result;
        },
        free: () => {
          if (slab !== null) intake.release(slab);
        },
      });
    } else {
      this.#finishWith(job, bytes, type, flags, { start: () => this.#simple(type, flags, job), free: nop });
    }
  }

  /** The fields of the request that begins here. */
  #header(): { type: number; flags: number; job: Job } {
    const intake = this.#intake;
    return {
      flags: intake.u16(4),
      type: intake.u16(6),
      job: {
        cookieHigh: intake.u32(8),
        cookieLow: intake.u32(12),
        offset: intake.u64(16),
        length: intake.u32(24),
      },
    };
  }

  /** Runs the work of a request and answers it; `free` gives back what the work needed. */
  #finishWith(
    job: Job,
    bytes: number,
    type: number,
    flags: number,
    work: { start: () => MaybePromise<readonly Extent[] | void>; free: () => void },
  ): void {
    const durable = (flags & commandFlag.fua) !== 0 && writes(type);
    let result: MaybePromise<readonly Extent[] | void>;
    try {
      result = work.start();
      if (durable) {
        result = result instanceof Promise
          ? result.then(() => this.#backend.flush?.())
          : this.#backend.flush?.();
      }
    } catch (error) {
      work.free();
      this.#failWith(job, bytes, error, type);
      return;
    }
    if (!(result instanceof Promise)) {
      work.free();
      this.#done(job, bytes, type, flags, result);
      return;
    }
    result.then(
      (value) => {
        work.free();
        this.#done(job, bytes, type, flags, value);
        this.#outlet.kick();
      },
      (error) => {
        work.free();
        this.#failWith(job, bytes, error, type);
        this.#outlet.kick();
      },
    );
  }

  /** The commands whose answer has no data of the export. */
  #simple(type: number, flags: number, { offset, length }: Job): MaybePromise<readonly Extent[] | void> {
    const backend = this.#backend;
    switch (type) {
      case command.flush:
        return backend.flush?.();
      case command.trim:
        return length === 0 ? undefined : backend.trim?.(offset, length);
      case command.cache:
        return length === 0 ? undefined : backend.cache?.(offset, length);
      case command.writeZeroes:
        if (length === 0) return undefined;
        if (backend.zero === undefined) return writeZeros(backend, offset, length);
        return backend.zero(offset, length, { allocate: (flags & commandFlag.noHole) !== 0 });
      default:
        return backend.extents === undefined
          ? [{ length, hole: false, zero: false }]
          : backend.extents(offset, length);
    }
  }

  #read(job: Job, bytes: number): void {
    const { offset, length } = job;
    const head = this.#readHeaderSize;
    if (length === 0) {
      this.#acknowledge(job, bytes, command.read);
      return;
    }
    const place = this.#backend.view?.(offset, length) ?? null;
    if (place !== null) {
      this.#readInPlace(job, bytes, place);
      return;
    }
    const buffer = this.#pool.take(head + length);
    let result: MaybePromise<void>;
    try {
      result = this.#backend.readAt(offset, buffer.subarray(head, head + length));
    } catch (error) {
      this.#pool.give(buffer);
      this.#failWith(job, bytes, error, command.read);
      return;
    }
    if (result === undefined) {
      this.#sendRead(job, bytes, buffer);
      return;
    }
    result.then(
      () => {
        this.#sendRead(job, bytes, buffer);
        this.#outlet.kick();
      },
      (error) => {
        this.#pool.give(buffer);
        this.#failWith(job, bytes, error, command.read);
        this.#outlet.kick();
      },
    );
  }

  #sendRead(job: Job, bytes: number, buffer: Uint8Array<ArrayBuffer>): void {
    this.#putReadHead(buffer, job);
    const sent = (): void => {
      this.#pool.give(buffer);
      this.#finish(bytes);
    };
    if (this.#outlet.push(buffer.subarray(0, this.#readHeaderSize + job.length), sent)) sent();
  }

  #readInPlace(job: Job, bytes: number, place: Uint8Array): void {
    const head = this.#readHead.subarray(0, this.#readHeaderSize);
    this.#putReadHead(head, job);
    const sent = (): void => this.#finish(bytes);
    if (this.#outlet.push(place, sent, head)) sent();
  }

  /** Writes what goes before the data of a read. */
  #putReadHead(into: Uint8Array, job: Job): void {
    const { offset, length } = job;
    if (this.#agreed.structured) {
      putChunk(into, job, chunk.offsetData, 8 + length);
      putU32(into, 20, Math.floor(offset / 2 ** 32));
      putU32(into, 24, offset % 2 ** 32);
    } else {
      putSimple(into, job, 0);
    }
    this.tally.requests++;
    this.tally.readBytes += length;
  }

  #done(job: Job, bytes: number, type: number, flags: number, result: readonly Extent[] | void): void {
    if (type === command.blockStatus) this.#sendExtents(job, bytes, flags, result ?? []);
    else this.#acknowledge(job, bytes, type);
  }

  #acknowledge(job: Job, bytes: number, type: number): void {
    this.tally.requests++;
    if (this.#agreed.structured && type === command.read) {
      this.#message(chunkHeaderSize, bytes, (into) => putChunk(into, job, chunk.none, 0));
    } else {
      this.#message(simpleReplySize, bytes, (into) => putSimple(into, job, 0));
    }
  }

  #sendExtents(job: Job, bytes: number, flags: number, extents: readonly Extent[]): void {
    const one = (flags & commandFlag.reqOne) !== 0;
    const descriptors: number[] = [];
    let covered = 0;
    for (const { length, hole, zero } of extents) {
      const part = Math.min(length, job.length - covered);
      if (part <= 0 || descriptors.length >= 2 * extentCountMax) break;
      const state = (hole ? allocation.hole : 0) | (zero ? allocation.zero : 0);
      const last = descriptors.length - 2;
      if (descriptors[last + 1] === state) descriptors[last] = (descriptors[last] ?? 0) + part;
      else if (one && descriptors.length > 0) break;
      else descriptors.push(part, state);
      covered += part;
    }
    if (descriptors.length === 0) descriptors.push(job.length, 0);
    const payload = 4 + 4 * descriptors.length;
    this.tally.requests++;
    this.#message(chunkHeaderSize + payload, bytes, (into) => {
      putChunk(into, job, chunk.blockStatus, payload);
      putU32(into, 20, allocationId);
      descriptors.forEach((value, at) => putU32(into, 24 + 4 * at, value));
    });
  }

  #failWith(job: Job, bytes: number, error: unknown, type: number): void {
    this.#fail(
      job,
      bytes,
      errorNumberOf(error),
      error instanceof Error ? error.message : String(error),
      type,
    );
  }

  #fail(job: Job, bytes: number, number: number, why: string, type: number): void {
    this.tally.requests++;
    this.tally.errors++;
    if (!this.#agreed.structured || (type !== command.read && type !== command.blockStatus && why === "")) {
      this.#message(simpleReplySize, bytes, (into) => putSimple(into, job, number));
      return;
    }
    // Three octets of UTF-8 are the most that one unit of a string takes.
    const text = encoder.encode(why.slice(0, Math.floor(textSizeMax / 3)));
    const payload = 6 + text.length;
    this.#message(chunkHeaderSize + payload, bytes, (into) => {
      putChunk(into, job, chunk.error, payload);
      putU32(into, 20, number);
      into[24] = text.length >>> 8;
      into[25] = text.length & 0xff;
      into.set(text, 26);
    });
  }

  /** Sends a small message and ends its request. */
  #message(size: number, bytes: number, fill: (into: Uint8Array) => void): void {
    const room = this.#outlet.reserve(size);
    if (room !== null) {
      fill(room);
      this.#finish(bytes);
      return;
    }
    const message = new Uint8Array(size);
    fill(message);
    const sent = (): void => this.#finish(bytes);
    if (this.#outlet.push(message, sent)) sent();
  }

  #finish(bytes: number): void {
    this.#requests--;
    this.#bytes -= bytes;
    if (this.#waiting.length > 0) { for (const wake of this.#waiting.splice(0)) wake(); }
  }

  /** What speaks against a request, before anything is done; null if nothing does. */
  #refusal(type: number, flags: number, { offset, length }: Job): { number: number; why: string } | null {
    const allowed = allowedFlags[type];
    if (allowed === undefined) {
      return { number: errorNumbers.EINVAL, why: `command ${type} is not known here` };
    }
    if ((flags & ~allowed) !== 0) {
      return {
        number: errorNumbers.EINVAL,
        why: `flags 0x${flags.toString(16)} do not belong to the command`,
      };
    }
    if (writes(type) && this.#agreed.chosen.readOnly === true) {
      return { number: errorNumbers.EPERM, why: "the export is read-only" };
    }
    if (type === command.flush) {
      return offset === 0 && length === 0
        ? null
        : { number: errorNumbers.EINVAL, why: "a flush has no range" };
    }
    if (offset + length > this.#size) {
      const number = type === command.write || type === command.writeZeroes
        ? errorNumbers.ENOSPC
        : errorNumbers.EINVAL;
      return { number, why: `the range ends beyond the export, which has ${this.#size} octets` };
    }
    if (type === command.read && length > payloadSizeMax) {
      return { number: errorNumbers.EINVAL, why: `a read may have ${payloadSizeMax} octets` };
    }
    if (type === command.trim && this.#backend.trim === undefined) {
      return { number: errorNumbers.EINVAL, why: "the export cannot trim" };
    }
    if (type === command.blockStatus && (!this.#agreed.allocation || length === 0)) {
      return {
        number: errorNumbers.EINVAL,
        why: length === 0 ? "the range is empty" : "no context is selected",
      };
    }
    return null;
  }
}

const nothing = new Uint8Array(0);
const nop = (): void => {};
const encoder = new TextEncoder();

const allowedFlags: Readonly<Record<number, number>> = {
  [command.read]: commandFlag.fua | commandFlag.df,
  [command.write]: commandFlag.fua,
  [command.flush]: commandFlag.fua,
  [command.trim]: commandFlag.fua,
  [command.cache]: commandFlag.fua,
  [command.writeZeroes]: commandFlag.fua | commandFlag.noHole,
  [command.blockStatus]: commandFlag.fua | commandFlag.reqOne,
};

function writes(type: number): boolean {
  return type === command.write || type === command.trim || type === command.writeZeroes;
}

/** Zeros for a backend that has no better way. */
function writeZeros(backend: NbdBackend, offset: number, length: number): MaybePromise<void> {
  const zeros = new Uint8Array(Math.min(length, zeroStepSize));
  let at = 0;
  const go = (): MaybePromise<void> => {
    while (at < length) {
      const part = Math.min(zeros.length, length - at);
      const result = backend.writeAt(offset + at, zeros.subarray(0, part));
      at += part;
      if (result !== undefined) return result.then(go);
    }
  };
  return go();
}

/** Nothing done. */
export function emptyTally(): NbdTally {
  return { requests: 0, readBytes: 0, writtenBytes: 0, errors: 0 };
}
