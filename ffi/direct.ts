/**
 * Reads and writes beside the page cache, on the blocking pool: memory whose address the kernel takes for O_DIRECT,
 * and the two calls. The calls are those of `Libc`, only not waited for.
 *
 * @module
 */
import { check } from "./errno.ts";
import type { DirectIo } from "./mod.ts";
import type { Symbols } from "./symbols.ts";

/** What every device and file system takes as an address. */
const addressUnit = 4096;

/** The calls through libdrover.so; see `DirectIo` for what each does. */
export class NativeDirect implements DirectIo {
  readonly #lib: Symbols;

  /** Works on the loaded library. @param lib its functions. */
  constructor(lib: Symbols) {
    this.#lib = lib;
  }

  /** See {@link DirectIo.allocate}. */
  allocate(size: number): Uint8Array<ArrayBuffer> {
    const room = new Uint8Array(size + addressUnit);
    const address = Deno.UnsafePointer.value(Deno.UnsafePointer.of(room));
    const from = Number((BigInt(addressUnit) - address % BigInt(addressUnit)) % BigInt(addressUnit));
    return room.subarray(from, from + size);
  }

  /** See {@link DirectIo.read}. */
  async read(fd: number, buffer: Uint8Array<ArrayBuffer>, offset: number): Promise<number> {
    const rc = await this.#lib.drover_pread_async(fd, buffer, BigInt(buffer.byteLength), BigInt(offset));
    return check(Number(rc), "read");
  }

  /** See {@link DirectIo.write}. */
  async write(fd: number, buffer: Uint8Array<ArrayBuffer>, offset: number): Promise<void> {
    const rc = await this.#lib.drover_pwrite_async(fd, buffer, BigInt(buffer.byteLength), BigInt(offset));
    check(Number(rc), "write");
  }
}
