/**
 * The transport of an NBD client that came by TCP: what can be done without waiting is done at once, by a system call and
 * without a turn of the event loop. After an answer it looks for the next request for a moment, because the peer of a
 * page channel stands still until its page is there and asks for the next one soon.
 *
 * Invariants:
 * - It looks for some ten microseconds, only while the same client asks again and again, and less and less often when
 *   that was in vain: with several busy clients, or a quiet one, everything goes through the event loop.
 * - Closing it closes both ways to the connection.
 *
 * @module
 */
import { DirectSocket } from "../../ffi/socket_direct.ts";
import type { NbdTransport } from "../nbd/mod.ts";

/** System calls until it stops looking: about half a microsecond each. */
const looksMax = 50;
/** How often the same client must have been served before. */
const streakMin = 4;
/** Requests without looking after having looked in vain, at first and at most. */
const pauseMin = 2;
const pauseMax = 256;

/** Whose turn it was last, of all clients of a listener. */
export interface NbdTurn {
  last: unknown;
  streak: number;
}

/** See above. */
export class DirectTransport implements NbdTransport {
  readonly #connection: Deno.Conn;
  readonly #socket: DirectSocket;
  readonly #turn: NbdTurn;
  #pause = pauseMin;
  #wait = 0;

  private constructor(connection: Deno.Conn, socket: DirectSocket, turn: NbdTurn) {
    this.#connection = connection;
    this.#socket = socket;
    this.#turn = turn;
  }

  /** The transport for a connection, which it then owns: the connection itself where there is no other way to it. */
  static of(connection: Deno.Conn, turn: NbdTurn): NbdTransport {
    const socket = DirectSocket.open(connection);
    return socket === null ? connection : new DirectTransport(connection, socket, turn);
  }

  /** See {@link NbdTransport.read}. */
  async read(buffer: Uint8Array): Promise<number | null> {
    const count = await this.#connection.read(buffer);
    this.#served();
    return count;
  }

  /** See {@link NbdTransport.write}. */
  write(bytes: Uint8Array): Promise<number> {
    return this.#connection.write(bytes);
  }

  /** See {@link NbdTransport.readNow}. */
  readNow(buffer: Uint8Array): number {
    const into = buffer as Uint8Array<ArrayBuffer>;
    let count = this.#socket.read(into);
    if (count < 0 && this.#maySearch()) {
      for (let look = 1; count < 0 && look < looksMax; look++) count = this.#socket.read(into);
      if (count > 0) this.#pause = pauseMin;
      else {
        this.#wait = this.#pause;
        this.#pause = Math.min(this.#pause * 2, pauseMax);
      }
    }
    if (count <= 0) return 0;
    this.#served();
    return count;
  }

  /** See {@link NbdTransport.writeNow}. */
  writeNow(bytes: Uint8Array, more: boolean): number {
    return Math.max(this.#socket.write(bytes as Uint8Array<ArrayBuffer>, more), 0);
  }

  /** See {@link NbdTransport.close}. */
  close(): void {
    this.#socket.close();
    this.#connection.close();
  }

  #served(): void {
    const turn = this.#turn;
    if (turn.last === this) turn.streak++;
    else {
      turn.last = this;
      turn.streak = 0;
    }
  }

  #maySearch(): boolean {
    if (this.#turn.streak < streakMin) return false;
    if (this.#wait === 0) return true;
    this.#wait--;
    return false;
  }
}
