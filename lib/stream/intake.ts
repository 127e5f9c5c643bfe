/**
 * Takes octets out of a stream that comes in chunks: so many, into one contiguous array.
 *
 * The methods that read are generators: they yield null when the chunk is used up and go on when they are asked
 * again, after another `push()`. A reader is then written as if the whole stream were there.
 *
 * Invariants:
 * - What a stream merely claims is not allocated: an array grows with the octets that have come, by doubling,
 *   except the one of `takeWhole`, whose size the caller has grounds for.
 * - An octet that `takeWhole` takes is copied once, and not at all when it was read into `open()`.
 * - A view of the chunk is only handed out by `borrow`, for use before the next call.
 * - With a running digest every octet taken goes through it once, in order.
 *
 * @module
 */

/** A running hash. `digest` says what it is so far and lets it run on. */
export interface StreamDigest {
  /** Goes on with these octets. */
  update(bytes: Uint8Array): void;
  /** The digest of everything so far; may be asked any number of times, with updates between. */
  digest(): Uint8Array;
}

/** A computation that yields null whenever it wants the next chunk. */
export type Waiting<Result = void> = Generator<null, Result, void>;

/** An array of unknown final size starts no larger than this, in octets. */
const growFrom = 1_048_576;

const empty: Uint8Array<ArrayBuffer> = new Uint8Array(0);

/** The octets of a stream, in order. */
export class Intake {
  /** Takes part in everything that is taken, until it is set to null. */
  digest: StreamDigest | null;
  readonly #allocate: (size: number) => Uint8Array<ArrayBuffer>;
  #chunk: Uint8Array = empty;
  #at = 0;
  #offset: number;
  /** What is being filled, while a generator waits. */
  #target: Uint8Array<ArrayBuffer> = empty;
  #filled = 0;
  #scratch: Uint8Array<ArrayBuffer> = new Uint8Array(8192);

  /** An intake at the stream offset `offset`. `allocate` finds the memory of `takeWhole`. */
  constructor(
    options: {
      offset: number;
      digest: StreamDigest | null;
      allocate: (size: number) => Uint8Array<ArrayBuffer>;
    },
  ) {
    this.#offset = options.offset;
    this.digest = options.digest;
    this.#allocate = options.allocate;
  }

  /** Stream offset of the first octet that was not taken. */
  get offset(): number {
    return this.#offset;
  }

  /** Octets of the present chunk that were not taken. */
  get available(): number {
    return this.#chunk.length - this.#at;
  }

  /** Gives the next chunk; the one before must be used up. */
  push(chunk: Uint8Array): void {
    this.#chunk = chunk;
    this.#at = 0;
  }

  /** The octets of the present chunk that were not taken, as a view. */
  rest(): Uint8Array {
    return this.#chunk.subarray(this.#at);
  }

  /** Takes the rest of the chunk, as a view of it. */
  takeRest(): Uint8Array {
    return this.#skip(this.available);
  }

  /** Takes exactly what fills `target` from `filled` on. */
  *fill(target: Uint8Array<ArrayBuffer>, filled = 0): Waiting {
    this.#target = target;
    this.#filled = filled;
    while (!this.#copy()) yield null;
    this.#target = empty;
  }

  /** Takes `size` octets as a view that holds until the next call; there are grounds for `size`. */
  *borrow(size: number): Waiting<Uint8Array> {
    if (this.available >= size) return this.#skip(size);
    if (size > this.#scratch.length) return yield* this.take(size);
    const target = this.#scratch.subarray(0, size);
    yield* this.fill(target);
    return target;
  }

  /** Takes `size` octets into an array of their own, which grows as they come. */
  *take(size: number): Waiting<Uint8Array<ArrayBuffer>> {
    if (size === 0) return empty;
    this.#target = new Uint8Array(Math.min(size, Math.max(growFrom, this.available)));
    this.#filled = 0;
    for (;;) {
      if (!this.#copy()) {
        yield null;
        continue;
      }
      const { length } = this.#target;
      if (length === size) break;
      const larger = new Uint8Array(Math.min(size, Math.max(2 * length, length + this.available)));
      larger.set(this.#target);
      this.#target = larger;
    }
    const taken = this.#target;
    this.#target = empty;
    return taken;
  }

  /** Takes `size` octets into an array that is whole from the start; there are grounds for `size`. */
  *takeWhole(size: number): Waiting<Uint8Array<ArrayBuffer>> {
    if (size === 0) return empty;
    const target = this.#allocate(size);
    yield* this.fill(target);
    return target;
  }

  /** The octets that are waited for, to read into directly; empty while the chunk has some, or where none fit. */
  open(): Uint8Array<ArrayBuffer> {
    return this.available > 0 ? empty : this.#target.subarray(this.#filled);
  }

  /** Notes that `size` octets of the stream were written to the front of `open()`. */
  filled(size: number): void {
    const open = this.open();
    if (!Number.isInteger(size) || size < 0 || size > open.length) {
      throw new TypeError(`Cannot note ${size} octets of a body: it has room for ${open.length}`);
    }
    this.digest?.update(open.subarray(0, size));
    this.#filled += size;
    this.#offset += size;
  }

  /** Copies what there is into the target; whether that is full. */
  #copy(): boolean {
    const size = Math.min(this.#target.length - this.#filled, this.available);
    if (size > 0) {
      this.#target.set(this.#skip(size), this.#filled);
      this.#filled += size;
    }
    return this.#filled === this.#target.length;
  }

  #skip(size: number): Uint8Array {
    const octets = this.#chunk.subarray(this.#at, this.#at + size);
    this.#at += size;
    this.#offset += size;
    this.digest?.update(octets);
    return octets;
  }
}
