/**
 * The memory of one lease, as a backend.
 *
 * Invariants:
 * - It is zeros when it is made: fresh memory of the system, never a buffer that was lent before.
 * - Only pages that were written take RAM: reading and zeroing what was never written takes none.
 * - `close` gives all of it back to the system at once. Whoever still holds a view then holds an empty one.
 *
 * @module
 */
import { isZero } from "../region/backend.ts";
import { MemoryBackend } from "../region/backend_memory.ts";

/** Where lent memory comes from. */
export interface MemorySource {
  /** Zeroed memory of so many bytes, which takes RAM as it is written. */
  allocate(size: number): Uint8Array<ArrayBuffer>;
  /** Makes a range zeros, and gives its RAM back as far as that goes. */
  discard(bytes: Uint8Array<ArrayBuffer>): void;
  /** Gives memory of `allocate` back to the system; nobody uses a view of it any more. */
  release(bytes: Uint8Array<ArrayBuffer>): void;
}

/** Bytes that are looked at together. */
const grain = 64 * 1024;

/**
 * Buffers of the runtime: it maps large ones by themselves, and unmaps them when they are detached. What is discarded
 * keeps its RAM until the lease ends.
 */
export const plainMemory: MemorySource = {
  allocate: (size) => new Uint8Array(size),
  discard: (bytes) => {
    // Looking first: what was never written has no RAM, and would get it by being written.
    for (let at = 0; at < bytes.length; at += grain) {
      const part = bytes.subarray(at, at + grain);
      if (!isZero(part)) part.fill(0);
    }
  },
  release: (bytes) => void bytes.buffer.transfer(0),
};

/** Lent memory. */
export class LentMemory extends MemoryBackend {
  readonly #source: MemorySource;
  #bytes: Uint8Array<ArrayBuffer>;

  /** Takes fresh memory. @param options `size` in bytes; `name` for errors: never the ticket */
  constructor(options: { name: string; size: number; source?: MemorySource }) {
    const { name, size, source = plainMemory } = options;
    const bytes = source.allocate(size);
    super(bytes, { name });
    this.#source = source;
    this.#bytes = bytes;
  }

  /** All of it, for a transport that serves it without this process; empty when it is closed. */
  get bytes(): Uint8Array<ArrayBuffer> {
    return this.#bytes;
  }

  /** See {@link Backend.zero}. */
  override zero(offset: number, length: number): void {
    this.checkWrite(offset, length);
    this.#source.discard(this.#bytes.subarray(offset, offset + length));
  }

  /** See {@link CheckedBackend}. */
  protected override release(): void {
    super.release();
    const bytes = this.#bytes;
    this.#bytes = new Uint8Array(0);
    this.#source.release(bytes);
  }
}
