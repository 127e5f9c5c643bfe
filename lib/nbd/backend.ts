/**
 * What a server needs of the thing it exports, and of a connection. Declared here so that this room needs no other:
 * the backends of lib/region and `Deno.Conn` fit by their shape.
 *
 * @module
 */

/** A result now, or later. A backend that answers at once saves a turn of the event loop per request. */
export type MaybePromise<T> = T | Promise<T>;

/** A run of octets with one state. */
export interface Extent {
  /** Octets, at least 1. */
  length: number;
  /** Nothing is stored: writing there may need room. */
  hole: boolean;
  /** It reads as zeros. */
  zero: boolean;
}

/**
 * Octets with addresses. Offsets and lengths that arrive here lie within `size`. Calls overlap; each must be right
 * by itself. Buffers belong to the callee until its promise settles.
 */
export interface NbdBackend {
  /** Octets; does not change. */
  readonly size: number;
  /** Fills all of `into`. */
  readAt(offset: number, into: Uint8Array): MaybePromise<void>;
  /** Writes all of `bytes`. */
  writeAt(offset: number, bytes: Uint8Array): MaybePromise<void>;
  /** Brings everything that was written to where it lasts. */
  flush?(): MaybePromise<void>;
  /** The content of the range no longer matters. */
  trim?(offset: number, length: number): MaybePromise<void>;
  /** The range reads as zeros; with `allocate` it keeps its room. */
  zero?(offset: number, length: number, options?: { allocate?: boolean }): MaybePromise<void>;
  /** The range will be wanted soon. */
  cache?(offset: number, length: number): MaybePromise<void>;
  /**
   * The octets themselves, where they lie in memory: what is sent is read from there, and what arrives is put
   * there, without a copy. Null where they are not in memory.
   */
  view?(offset: number, length: number): Uint8Array | null;
  /** States from `offset` on, at least one extent; together at most `length`. */
  extents?(offset: number, length: number): MaybePromise<readonly Extent[]>;
}

/** A byte connection in both directions. */
export interface NbdTransport {
  /** Reads some octets into `buffer`; null at the end. */
  read(buffer: Uint8Array): Promise<number | null>;
  /** Writes some octets of `bytes`; how many. */
  write(bytes: Uint8Array): Promise<number>;
  /**
   * Reads what has arrived already, or arrives within some microseconds; 0 when that is nothing, or cannot be said
   * without waiting: `read` knows then. Not while a `read` is pending. A turn of the event loop is saved by each success.
   */
  readNow?(buffer: Uint8Array): number;
  /** Writes what can be without waiting, maybe nothing; `write` knows why. `more` will follow at once. Not while a `write` is pending. */
  writeNow?(bytes: Uint8Array, more: boolean): number;
  /** Gives the connection up; waiting reads and writes fail. */
  close(): void;
}

/** Closes a transport that may be closed already. */
export function closeQuietly(transport: NbdTransport): void {
  try {
    transport.close();
  } catch {
    // Closed before, by a failed write or by the peer.
  }
}

/**
 * A transport over a pair of web streams.
 *
 * @param streams for instance a `Deno.TlsConn`, a `TransformStream` pair, a WebSocketStream
 */
export function transportOf(
  streams: { readable: ReadableStream<Uint8Array>; writable: WritableStream<Uint8Array> },
): NbdTransport {
  const reader = streams.readable.getReader();
  const writer = streams.writable.getWriter();
  let rest: Uint8Array = new Uint8Array(0);
  let closed = false;
  const ignore = (): void => {};
  return {
    async read(buffer) {
      while (rest.length === 0) {
        const { value, done } = await reader.read();
        if (closed) throw new TypeError("Cannot read: the transport is closed");
        if (done) return null;
        rest = value;
      }
      const count = Math.min(rest.length, buffer.length);
      buffer.set(rest.subarray(0, count));
      rest = rest.subarray(count);
      return count;
    },
    async write(bytes) {
      // A stream may keep what it was given; this side uses its buffers again.
      await writer.write(bytes.slice());
      return bytes.length;
    },
    close() {
      if (closed) return;
      closed = true;
      reader.cancel().catch(ignore);
      writer.close().catch(ignore);
    },
  };
}
