/**
 * Two ends of a connection in memory, which deliver what is written in pieces of any size.
 */
import type { NbdTransport } from "../../lib/nbd/mod.ts";

/** One end. */
export class PipeEnd implements NbdTransport {
  readonly #pieces: Uint8Array[] = [];
  #wake: (() => void) | null = null;
  #ended = false;
  #closed = false;
  #peer: PipeEnd | null = null;
  readonly #sizes: (most: number) => number;
  /** Octets that were written to the other side. */
  sent = 0;
  /** Buffers whose content was asked for: how much memory a peer sets aside. */
  largestRead = 0;

  /** @param sizes how much of what is there one read or write takes. */
  constructor(sizes: (most: number) => number = (most) => most) {
    this.#sizes = sizes;
  }

  /** Makes both ends each other's. */
  join(peer: PipeEnd): void {
    this.#peer = peer;
    peer.#peer = this;
  }

  async read(buffer: Uint8Array): Promise<number | null> {
    this.largestRead = Math.max(this.largestRead, buffer.length);
    for (;;) {
      if (this.#closed) throw new TypeError("the connection is closed");
      const piece = this.#pieces[0];
      if (piece !== undefined) {
        const count = Math.max(1, this.#sizes(Math.min(piece.length, buffer.length)));
        buffer.set(piece.subarray(0, count));
        if (count === piece.length) this.#pieces.shift();
        else this.#pieces[0] = piece.subarray(count);
        await Promise.resolve();
        return count;
      }
      if (this.#ended) return null;
      await new Promise<void>((resolve) => this.#wake = resolve);
    }
  }

  /** What a `readNow` would give: something that has arrived, or 0. */
  takeNow(buffer: Uint8Array): number {
    const piece = this.#pieces[0];
    if (piece === undefined || this.#closed) return 0;
    const count = Math.max(1, this.#sizes(Math.min(piece.length, buffer.length)));
    buffer.set(piece.subarray(0, count));
    if (count === piece.length) this.#pieces.shift();
    else this.#pieces[0] = piece.subarray(count);
    return count;
  }

  /** What a `writeNow` would do. */
  giveNow(bytes: Uint8Array): number {
    const peer = this.#peer;
    if (this.#closed || peer === null || peer.#closed) return 0;
    const count = Math.max(1, this.#sizes(bytes.length));
    peer.deliver(bytes.slice(0, count));
    this.sent += count;
    return count;
  }

  async write(bytes: Uint8Array): Promise<number> {
    await Promise.resolve();
    const peer = this.#peer;
    if (this.#closed || peer === null || peer.#closed) throw new TypeError("the connection is closed");
    const count = Math.max(1, this.#sizes(bytes.length));
    peer.deliver(bytes.slice(0, count));
    this.sent += count;
    return count;
  }

  close(): void {
    if (this.#closed) throw new TypeError("the connection is closed already");
    this.#closed = true;
    this.#stir();
    this.#peer?.end();
  }

  /** Octets arrive. */
  deliver(bytes: Uint8Array): void {
    if (bytes.length > 0) this.#pieces.push(bytes);
    this.#stir();
  }

  /** No more octets arrive. */
  end(): void {
    this.#ended = true;
    this.#stir();
  }

  /** Everything that arrived and was not read. */
  arrived(): Uint8Array<ArrayBuffer> {
    const size = this.#pieces.reduce((sum, piece) => sum + piece.length, 0);
    const all = new Uint8Array(size);
    let at = 0;
    for (const piece of this.#pieces) {
      all.set(piece, at);
      at += piece.length;
    }
    return all;
  }

  #stir(): void {
    this.#wake?.();
    this.#wake = null;
  }
}

/** Two ends of one connection. */
export function pipe(sizes?: (most: number) => number): [PipeEnd, PipeEnd] {
  const [left, right] = [new PipeEnd(sizes), new PipeEnd(sizes)];
  left.join(right);
  return [left, right];
}
