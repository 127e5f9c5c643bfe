/**
 * What is to be sent: small messages are gathered into one write, large ones are written as they are.
 *
 * Invariants:
 * - A message is one contiguous piece and leaves whole; between messages there is no order, which NBD does not
 *   ask for.
 * - One write is under way at a time. What comes meanwhile is gathered for the next. Where the transport can write
 *   without waiting, that is tried first.
 * - The owner of a large message hears when it is gone (`sent`), also when it never will be, because the
 *   connection broke.
 *
 * @module
 */
import { closeQuietly, type NbdTransport } from "./backend.ts";

/** Octets that are gathered. */
const gatherSize = 256 * 1024;
/** Messages of at least this size are not copied. */
const largeSize = 32 * 1024;

/** Octets of a head that goes before a large message. */
const headSizeMax = 64;

const none = new Uint8Array(0);

interface Large {
  /** Written right before `bytes`; empty where they are the whole message. */
  head: Uint8Array;
  bytes: Uint8Array;
  sent: (() => void) | null;
}

/** The sending end of a connection. */
export class Outlet {
  readonly #transport: NbdTransport;
  #gathered = new Uint8Array(gatherSize + headSizeMax);
  #size = 0;
  #spare = new Uint8Array(gatherSize + headSizeMax);
  #large: Large[] = [];
  #writing: Promise<void> | null = null;
  #failure: unknown = null;

  /** @param transport that is written to, by nobody else. */
  constructor(transport: NbdTransport) {
    this.#transport = transport;
  }

  /** Whether writing failed; the transport is closed then. */
  get failed(): boolean {
    return this.#failure !== null;
  }

  /** Room for a message of `size` octets in the gathered ones, to be filled at once; null if there is none. */
  reserve(size: number): Uint8Array | null {
    if (this.#size + size > gatherSize || this.#failure !== null) return null;
    const at = this.#size;
    this.#size += size;
    return this.#gathered.subarray(at, this.#size);
  }

  /**
   * Takes a message. @returns true if it was copied, so that `bytes` is free at once; otherwise `sent` is called
   * when it is. `head`, at most 64 octets and copied, goes right before it.
   */
  push(bytes: Uint8Array, sent: (() => void) | null, head: Uint8Array = none): boolean {
    if (this.#failure !== null) return true;
    const size = head.length + bytes.length;
    if (bytes.length < largeSize && this.#size + size <= gatherSize) {
      this.#gathered.set(head, this.#size);
      this.#gathered.set(bytes, this.#size + head.length);
      this.#size += size;
      return true;
    }
    this.#large.push({ head: head.length === 0 ? none : head.slice(), bytes, sent });
    return false;
  }

  /** Starts writing, if there is something to write. */
  kick(): void {
    if (this.#writing !== null || (this.#size === 0 && this.#large.length === 0)) return;
    if (this.#transport.writeNow === undefined || !this.#runNow()) this.#writing = this.#run();
  }

  /** Waits until everything is written, or nothing can be any more. */
  async drain(): Promise<void> {
    this.kick();
    while (this.#writing !== null) await this.#writing;
  }

  /** Writes as much as can be without waiting. @returns whether that was all */
  #runNow(): boolean {
    while (this.#size > 0 || this.#large.length > 0) {
      const next = this.#large[0];
      if (next !== undefined && next.head.length > 0) {
        this.#gathered.set(next.head, this.#size);
        this.#size += next.head.length;
        next.head = none;
      }
      const gone = this.#writeNow(this.#gathered.subarray(0, this.#size), next !== undefined);
      this.#gathered.copyWithin(0, gone, this.#size);
      this.#size -= gone;
      if (this.#size > 0) return false;
      if (next === undefined) continue;
      next.bytes = next.bytes.subarray(this.#writeNow(next.bytes, this.#large.length > 1));
      if (next.bytes.length > 0) return false;
      this.#large.shift();
      next.sent?.();
    }
    return true;
  }

  #writeNow(bytes: Uint8Array, more: boolean): number {
    let at = 0;
    while (at < bytes.length) {
      const count = this.#transport.writeNow?.(at === 0 ? bytes : bytes.subarray(at), more) ?? 0;
      if (count === 0) break;
      at += count;
    }
    return at;
  }

  async #run(): Promise<void> {
    try {
      while (this.#size > 0 || this.#large.length > 0) {
        const next = this.#large[0];
        if (this.#size > 0 || next?.head.length) {
          const full = this.#gathered;
          if (next !== undefined) full.set(next.head, this.#size);
          const size = this.#size + (next?.head.length ?? 0);
          this.#gathered = this.#spare;
          this.#spare = full;
          this.#size = 0;
          await this.#write(full.subarray(0, size));
        }
        if (next !== undefined) {
          await this.#write(next.bytes);
          this.#large.shift();
          next.sent?.();
        }
      }
    } catch (error) {
      this.#failure = error ?? new Error("The connection failed");
      this.#size = 0;
      closeQuietly(this.#transport);
      for (const { sent } of this.#large.splice(0)) sent?.();
    } finally {
      this.#writing = null;
    }
  }

  async #write(bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.length;) {
      at += await this.#transport.write(at === 0 ? bytes : bytes.subarray(at));
    }
  }
}
