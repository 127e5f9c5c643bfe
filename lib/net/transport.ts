/**
 * What a channel needs of a connection, and the two reads and writes that everything above is made of.
 * `Deno.Conn` is one; the memory pair of the tests is another.
 *
 * @module
 */
import { DroverError } from "../base/errors.ts";

/** A byte connection in both directions. */
export interface Transport {
  /** Reads some octets into `buffer`; null at the end. */
  read(buffer: Uint8Array): Promise<number | null>;
  /** Writes some octets of `bytes`; how many. */
  write(bytes: Uint8Array): Promise<number>;
  /** Ends this side's direction. */
  closeWrite(): Promise<void>;
  /** Gives the connection up; waiting reads and writes fail. */
  close(): void;
}

/** Writes all of `bytes`. */
export async function writeAll(transport: Transport, bytes: Uint8Array): Promise<void> {
  for (let at = 0; at < bytes.length;) at += await transport.write(at === 0 ? bytes : bytes.subarray(at));
}

/**
 * Reads exactly `size` octets, never more.
 *
 * @throws {DroverError} code `disconnected` when the connection ends before.
 */
export async function readExact(transport: Transport, size: number): Promise<Uint8Array<ArrayBuffer>> {
  const bytes = new Uint8Array(size);
  for (let at = 0; at < size;) {
    const read = await transport.read(bytes.subarray(at));
    if (read === null) {
      throw new DroverError("disconnected", `The connection ended after ${at} octets of ${size}`);
    }
    at += read;
  }
  return bytes;
}

/** Closes a transport that may be closed already. */
export function closeQuietly(transport: { close(): void }): void {
  try {
    transport.close();
  } catch {
    // Closed before, by the timer or by the peer's reset.
  }
}
