/**
 * What has arrived and is not yet understood: octets go in as the connection delivers them, and come out as
 * messages.
 *
 * ```text
 *   slab   [ done | start … understood next … end |  space()  ]
 * ```
 *
 * Invariants:
 * - Nothing is copied for small messages: they are views of the slab. A view that outlives the next `space()` is
 *   *lent*: its slab is not written again before it was released.
 * - Large data goes `direct`ly into the buffer where it belongs; what of it is in the slab already is copied, once.
 * - `offset` counts the octets of the whole connection that were taken, for errors.
 *
 * @module
 */
import { FormatError } from "../base/errors.ts";
import { inlineSizeMax, slabSize } from "./constants.ts";

/** A receive buffer. */
export interface Slab {
  bytes: Uint8Array<ArrayBuffer>;
  view: DataView<ArrayBuffer>;
  /** Views that are lent. */
  users: number;
}

/** How many slabs lie ready for the next time. */
const sparesMax = 4;

/** How much is read at first behind large data: a header, and not much more. */
const afterDirectSize = 8 * 1024;

/** The receiving end of a connection. */
export class Intake {
  #slab: Slab = newSlab();
  #spares: Slab[] = [];
  #start = 0;
  #end = 0;
  #offset = 0;
  #direct: Uint8Array | null = null;
  #filled = 0;
  #wasDirect = false;

  /** Octets that can be taken. */
  get available(): number {
    return this.#end - this.#start;
  }

  /** Octets of the connection that were taken. */
  get offset(): number {
    return this.#offset;
  }

  /** Octets that `direct` still waits for. */
  get missing(): number {
    return this.#direct === null ? 0 : this.#direct.length - this.#filled;
  }

  /** Where the next octets are to be put: never empty. */
  space(): Uint8Array {
    if (this.#direct !== null) return this.#direct.subarray(this.#filled);
    const room = this.#room();
    // Large data is mostly followed by large data: what of it is taken here would be copied.
    return this.#wasDirect && this.#end === this.#start ? room.subarray(0, afterDirectSize) : room;
  }

  #room(): Uint8Array {
    const slab = this.#slab;
    const used = this.#end - this.#start;
    if (slab.users === 0) {
      if (this.#start > 0 && (used === 0 || slab.bytes.length - this.#end < inlineSizeMax)) {
        if (used > 0) slab.bytes.copyWithin(0, this.#start, this.#end);
        this.#start = 0;
        this.#end = used;
      }
    } else if (slab.bytes.length - this.#end < inlineSizeMax) {
      const next = this.#spares.pop() ?? newSlab();
      next.bytes.set(slab.bytes.subarray(this.#start, this.#end));
      this.#slab = next;
      this.#start = 0;
      this.#end = used;
    }
    return this.#slab.bytes.subarray(this.#end);
  }

  /** Says that `count` octets were put there. */
  commit(count: number): void {
    if (this.#direct === null) {
      this.#wasDirect = false;
      this.#end += count;
      return;
    }
    this.#filled += count;
    this.#offset += count;
    if (this.#filled === this.#direct.length) {
      this.#direct = null;
      this.#wasDirect = true;
    }
  }

  /** A 16-bit number at `at` octets from here. */
  u16(at: number): number {
    return this.#slab.view.getUint16(this.#start + at);
  }

  /** A 32-bit number at `at` octets from here. */
  u32(at: number): number {
    return this.#slab.view.getUint32(this.#start + at);
  }

  /** A 64-bit number at `at` octets from here; above 2^53 it is not exact, and still above 2^53. */
  u64(at: number): number {
    return this.u32(at) * 2 ** 32 + this.u32(at + 4);
  }

  /** `count` octets as a view, which is good until the next `space()` unless it is lent. */
  view(count: number): Uint8Array<ArrayBuffer> {
    return this.#slab.bytes.subarray(this.#start, this.#start + count);
  }

  /** Takes `count` octets away. */
  skip(count: number): void {
    this.#start += count;
    this.#offset += count;
  }

  /** Keeps all views of now; give the result to `release` once. */
  lend(): Slab {
    this.#slab.users++;
    return this.#slab;
  }

  /** Ends a `lend`. */
  release(slab: Slab): void {
    if (--slab.users === 0 && slab !== this.#slab && this.#spares.length < sparesMax) this.#spares.push(slab);
  }

  /** The next `target.length` octets go there; `missing` says how many still do. */
  direct(target: Uint8Array): void {
    const here = Math.min(this.available, target.length);
    target.set(this.#slab.bytes.subarray(this.#start, this.#start + here));
    this.skip(here);
    if (here < target.length) {
      this.#direct = target;
      this.#filled = here;
    }
  }

  /** The error for a broken rule. @param at octets from here to the place. */
  fail(rule: string, message: string, at = 0): FormatError {
    return new FormatError(`nbd.${rule}`, this.#offset + at, `Cannot go on with this NBD peer: ${message}`);
  }

  /** The error of an end in the middle of a message. */
  truncated(): FormatError {
    return this.fail("truncated", "the connection ended within a message", this.available);
  }
}

function newSlab(): Slab {
  const bytes = new Uint8Array(slabSize);
  return { bytes, view: new DataView(bytes.buffer), users: 0 };
}
