/**
 * Two channels joined in memory, for tests: the real record code over a pipe that can be slow or break at any
 * octet.
 *
 * @module
 */
import type { RecordLimits } from "../stream/mod.ts";
import { type Channel, RecordChannel } from "./channel.ts";
import type { Transport } from "./transport.ts";

/** How the pair misbehaves. */
export interface MemoryChannelOptions {
  /** The largest body of each type; anything goes without it. */
  limits?: RecordLimits;
  /** Breaks the connection for both sides after so many octets, both directions counted together. */
  cutAfterBytes?: number;
  /** Waits before each delivery. */
  delayMs?: number;
}

/** Octets that a direction holds before its writer waits. */
const pipeSizeMax = 1_048_576;

/** Makes two channels, each the other's peer. */
export function memoryChannelPair(options: MemoryChannelOptions = {}): [Channel, Channel] {
  const wire = { left: options.cutAfterBytes ?? Infinity, cut: false, wake: new Set<() => void>() };
  const forth = new Pipe(wire, options.delayMs ?? 0);
  const back = new Pipe(wire, options.delayMs ?? 0);
  const limits = options.limits ?? (() => Infinity);
  return [
    new RecordChannel(transport(back, forth), { peer: "memory:1", encrypted: false, limits }),
    new RecordChannel(transport(forth, back), { peer: "memory:0", encrypted: false, limits }),
  ];
}

interface Wire {
  /** Octets until the cut. */
  left: number;
  cut: boolean;
  wake: Set<() => void>;
}

function transport(input: Pipe, output: Pipe): Transport {
  return {
    read: (buffer) => input.read(buffer),
    write: (bytes) => output.write(bytes),
    closeWrite: () => {
      output.end();
      return Promise.resolve();
    },
    close: () => {
      input.abandon();
      output.end(); // what was written still arrives, as after close(2)
    },
  };
}

/** One direction. */
class Pipe {
  readonly #wire: Wire;
  readonly #delayMs: number;
  #chunks: Uint8Array[] = [];
  #size = 0;
  #state: "open" | "ended" | "abandoned" = "open";

  constructor(wire: Wire, delayMs: number) {
    this.#wire = wire;
    this.#delayMs = delayMs;
  }

  async read(buffer: Uint8Array): Promise<number | null> {
    while (true) {
      if (this.#state === "abandoned") throw new Error("closed");
      const [chunk] = this.#chunks;
      if (chunk !== undefined) {
        const size = Math.min(chunk.length, buffer.length);
        buffer.set(chunk.subarray(0, size));
        if (size === chunk.length) this.#chunks.shift();
        else this.#chunks[0] = chunk.subarray(size);
        this.#size -= size;
        this.#wakeAll();
        return size;
      }
      if (this.#wire.cut) throw new Error("cut");
      if (this.#state === "ended") return null;
      await this.#changed();
    }
  }

  async write(bytes: Uint8Array): Promise<number> {
    if (this.#delayMs > 0) await new Promise((resolve) => setTimeout(resolve, this.#delayMs));
    while (this.#size >= pipeSizeMax && this.#state === "open" && !this.#wire.cut) await this.#changed();
    if (this.#wire.cut) throw new Error("cut");
    if (this.#state !== "open") throw new Error("closed");
    const size = Math.min(bytes.length, this.#wire.left, pipeSizeMax);
    if (size > 0) {
      this.#chunks.push(bytes.slice(0, size));
      this.#size += size;
    }
    this.#wire.left -= size;
    if (this.#wire.left === 0) this.#wire.cut = true;
    this.#wakeAll();
    if (size === 0 && this.#wire.cut) throw new Error("cut");
    return size;
  }

  end(): void {
    if (this.#state === "open") this.#state = "ended";
    this.#wakeAll();
  }

  abandon(): void {
    this.#state = "abandoned";
    this.#wakeAll();
  }

  #changed(): Promise<void> {
    return new Promise((resolve) => this.#wire.wake.add(resolve));
  }

  #wakeAll(): void {
    const waiting = [...this.#wire.wake];
    this.#wire.wake.clear();
    for (const resolve of waiting) resolve();
  }
}
