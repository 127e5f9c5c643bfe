/** A backend in this process's memory: gone when the process is. */
import { CheckedBackend, type Extent, isZero } from "./backend.ts";

/** Bytes that are looked at together when zeros are searched. */
const grain = 64 * 1024;
/** Most bytes that one `extents` looks at. */
const searchMax = 64 * 2 ** 20;

/** Octets in memory. */
export class MemoryBackend extends CheckedBackend {
  #bytes: Uint8Array;

  /** Takes the memory. @param content a size, or the bytes to begin with, which are used in place. */
  constructor(content: number | Uint8Array, options: { name?: string } = {}) {
    const bytes = typeof content === "number" ? new Uint8Array(content) : content;
    super({ name: options.name ?? "memory", size: bytes.length });
    this.#bytes = bytes;
  }

  /** See {@link CheckedBackend}. */
  protected override read(offset: number, into: Uint8Array): void {
    into.set(this.#bytes.subarray(offset, offset + into.length));
  }

  /** See {@link CheckedBackend}. */
  protected override write(offset: number, bytes: Uint8Array): void {
    this.#bytes.set(bytes, offset);
  }

  /** See {@link Backend.zero}. */
  zero(offset: number, length: number): void {
    this.checkWrite(offset, length);
    this.#bytes.fill(0, offset, offset + length);
  }

  /** See {@link Backend.trim}. */
  trim(offset: number, length: number): void {
    this.zero(offset, length);
  }

  /** See {@link Backend.view}. */
  view(offset: number, length: number): Uint8Array {
    this.check(offset, length);
    return this.#bytes.subarray(offset, offset + length);
  }

  /** See {@link Backend.extents}: zeros are found by looking. */
  extents(offset: number, length: number): Extent[] {
    this.check(offset, length);
    const end = offset + Math.min(length, searchMax);
    const found: Extent[] = [];
    for (let at = offset; at < end;) {
      const next = Math.min(at - at % grain + grain, end);
      const zero = isZero(this.#bytes.subarray(at, next));
      const last = found.at(-1);
      if (last?.zero === zero) last.length += next - at;
      else found.push({ length: next - at, hole: zero, zero });
      at = next;
    }
    return found;
  }

  /** See {@link CheckedBackend}. */
  protected override release(): void {
    this.#bytes = new Uint8Array(0);
  }
}
