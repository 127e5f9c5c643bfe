/**
 * One connection to a Redis server: commands of any number of callers, answered in their order (RESP 2).
 *
 * Own, because the libraries make a string or a copy of every value, and take a reply of any size: here a value
 * is received where it is wanted, and what a server may send is bounded before there is room made for it.
 *
 * Invariants:
 * - A buffer is not touched after its promise has settled.
 * - When the connection ends, or the server breaks the protocol, everything is rejected with that reason; connecting
 *   again is the caller's business.
 *
 * @module
 */
import { FormatError } from "../base/errors.ts";
import type { NbdTransport } from "../nbd/mod.ts";
import { TransientError } from "./patience.ts";

/** What a server answers: a text, a number, octets, nothing, or several of them. */
export type RedisReply = string | number | Uint8Array | null | readonly RedisReply[];

/** The server refused a command. */
export class RedisError extends Error {
  /** The name that stands in front of the message in a stack trace. */
  override name = "RedisError";
}

/** Most octets of a line. */
const lineSizeMax = 4096;
/** Most replies in one, and how deep. */
const [arrayMax, depthMax] = [8192, 2];
/** Octets that are read at once. */
const readSize = 64 * 1024;

interface Waiting {
  /** Where a value goes; of a longer one nothing more is taken. */
  into: Uint8Array | null;
  sizeMax: number;
  resolve: (reply: RedisReply) => void;
  reject: (error: unknown) => void;
}

/** A connection. */
export class RedisClient {
  readonly #transport: NbdTransport;
  readonly #waiting: Waiting[] = [];
  #queue: Uint8Array[] = [];
  #writing = false;
  #failure: unknown = null;
  #buffer = new Uint8Array(readSize);
  #start = 0;
  #end = 0;
  #offset = 0;
  readonly #ended: Promise<void>;

  /** Takes a connection. @param transport is closed with this one */
  constructor(transport: NbdTransport) {
    this.#transport = transport;
    this.#ended = this.#receive();
  }

  /** Why it is of no use any more; null while it is. */
  get failure(): unknown {
    return this.#failure;
  }

  /**
   * Sends a command.
   *
   * @param parts the command and its arguments; octets are the client's until this settles
   * @param options `into`: where a value goes, which is then answered as how many of its octets are there; `sizeMax`: of
   * a value that is answered, default 64 KiB
   * @throws {RedisError} what the server refused; {TransientError} when the connection ended
   */
  async command(
    parts: readonly (string | number | Uint8Array)[],
    options: { into?: Uint8Array; sizeMax?: number } = {},
  ): Promise<RedisReply> {
    if (this.#failure !== null) throw this.#failure;
    let text = `*${parts.length}\r\n`;
    for (const part of parts) {
      if (part instanceof Uint8Array) {
        this.#queue.push(encoder.encode(`${text}$${part.length}\r\n`), part);
        text = "\r\n";
      } else {
        const bytes = encoder.encode(String(part));
        text += `$${bytes.length}\r\n${String(part)}\r\n`;
      }
    }
    this.#queue.push(encoder.encode(text));
    const reply = new Promise<RedisReply>((resolve, reject) => {
      this.#waiting.push({ into: options.into ?? null, sizeMax: options.sizeMax ?? 65_536, resolve, reject });
    });
    if (!this.#writing) {
      this.#writing = true;
      // What other callers ask in this turn goes with it.
      queueMicrotask(() => void this.#send());
    }
    return await reply;
  }

  /** Ends it; what is under way is rejected with `reason`. Resolves when no buffer is touched any more. */
  async close(reason: unknown = new TransientError("The Redis connection is closed")): Promise<void> {
    this.#fail(reason);
    await this.#ended;
  }

  async #send(): Promise<void> {
    try {
      while (this.#queue.length > 0) {
        for (const bytes of gathered(this.#queue.splice(0))) {
          for (let at = 0; at < bytes.length;) at += await this.#transport.write(bytes.subarray(at));
        }
      }
    } catch (error) {
      this.#fail(new TransientError("The Redis connection failed", { cause: error }));
    } finally {
      this.#writing = false;
    }
  }

  async #receive(): Promise<void> {
    try {
      for (;;) {
        await this.#need(1);
        const waiting = this.#waiting[0];
        if (waiting === undefined) throw this.#bad("a reply to nothing that was asked");
        const reply = await this.#reply(waiting, 0);
        this.#waiting.shift();
        if (reply instanceof RedisError) waiting.reject(reply);
        else waiting.resolve(reply);
      }
    } catch (error) {
      this.#fail(
        error instanceof TransientError || error instanceof FormatError
          ? error
          : new TransientError("The Redis connection failed", { cause: error }),
      );
    }
    for (const { reject } of this.#waiting.splice(0)) reject(this.#failure);
  }

  async #reply(waiting: Waiting, depth: number): Promise<RedisReply | RedisError> {
    const line = await this.#line();
    const rest = line.slice(1);
    switch (line[0]) {
      case "+":
        return rest;
      case "-":
        return new RedisError(rest);
      case ":":
        return this.#number(rest);
      case "$": {
        const size = this.#number(rest);
        if (size === -1) return null;
        const { into, sizeMax } = waiting;
        if (size < 0 || size > (into === null ? sizeMax : into.length)) {
          throw this.#bad(`a value of ${size} octets`);
        }
        const bytes = into === null ? new Uint8Array(size) : into.subarray(0, size);
        await this.#fill(bytes);
        await this.#need(2);
        this.#skip(2);
        return into === null ? bytes : size;
      }
      case "*": {
        const count = this.#number(rest);
        if (count === -1) return null;
        if (count < 0 || count > arrayMax || depth >= depthMax) throw this.#bad(`an array of ${count}`);
        const replies: RedisReply[] = [];
        for (let at = 0; at < count; at++) {
          const reply = await this.#reply(waiting, depth + 1);
          if (reply instanceof RedisError) throw this.#bad("an error inside of an array");
          replies.push(reply);
        }
        return replies;
      }
    }
    throw this.#bad("a reply of no known type");
  }

  #number(text: string): number {
    const value = /^-?\d{1,15}$/.test(text) ? Number(text) : NaN;
    if (Number.isNaN(value)) throw this.#bad("a number that is none");
    return value;
  }

  async #line(): Promise<string> {
    for (let size = 0;; size++) {
      if (size > lineSizeMax) throw this.#bad("a line without an end");
      if (this.#end - this.#start <= size + 1) await this.#need(size + 2);
      if (this.#buffer[this.#start + size] !== 13 || this.#buffer[this.#start + size + 1] !== 10) continue;
      const text = decoder.decode(this.#buffer.subarray(this.#start, this.#start + size));
      this.#skip(size + 2);
      return text;
    }
  }

  /** Waits until so many octets are in the buffer. */
  async #need(size: number): Promise<void> {
    while (this.#end - this.#start < size) {
      if (this.#buffer.length - this.#start < size || this.#start === this.#end) {
        this.#buffer.copyWithin(0, this.#start, this.#end);
        this.#end -= this.#start;
        this.#start = 0;
      }
      this.#end += await this.#read(this.#buffer.subarray(this.#end));
    }
  }

  #skip(size: number): void {
    this.#start += size;
    this.#offset += size;
  }

  /** Takes octets of any number: what is here already, and the rest straight to its place. */
  async #fill(bytes: Uint8Array): Promise<void> {
    const here = Math.min(bytes.length, this.#end - this.#start);
    bytes.set(this.#buffer.subarray(this.#start, this.#start + here));
    this.#skip(here);
    for (let at = here; at < bytes.length;) {
      const count = await this.#read(bytes.subarray(at));
      this.#offset += count;
      at += count;
    }
  }

  async #read(into: Uint8Array): Promise<number> {
    const count = await this.#transport.read(into);
    if (count === null) throw new TransientError("The Redis server ended the connection");
    return count;
  }

  #bad(what: string): FormatError {
    return new FormatError(
      "redis.reply",
      this.#offset,
      `Cannot go on with this Redis server: it sent ${what}`,
    );
  }

  #fail(reason: unknown): void {
    this.#failure ??= reason;
    try {
      this.#transport.close();
    } catch {
      // It is closed.
    }
  }
}

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** Small pieces put together, large ones as they are. */
function gathered(pieces: readonly Uint8Array[]): Uint8Array[] {
  const large = 32 * 1024;
  const result: Uint8Array[] = [];
  let run: Uint8Array[] = [];
  const end = (): void => {
    const size = run.reduce((sum, { length }) => sum + length, 0);
    const bytes = new Uint8Array(size);
    let at = 0;
    for (const piece of run) {
      bytes.set(piece, at);
      at += piece.length;
    }
    if (size > 0) result.push(bytes);
    run = [];
  };
  for (const piece of pieces) {
    if (piece.length < large) {
      run.push(piece);
      continue;
    }
    end();
    result.push(piece);
  }
  end();
  return result;
}
