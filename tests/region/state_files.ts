/**
 * A machine that can die: notes and a disk that lose what was not synced when the power is cut, and processes on it
 * that end between any two steps.
 *
 * What was written and not synced is kept, lost or torn by a power cut, each write for itself, as chance will
 * have it; of a disk sectors of 512 bytes are whole. When only the process dies, everything that was written stays.
 */
import { CheckedBackend } from "../../lib/region/backend.ts";
import type { StateFile, StateFiles } from "../../lib/region/managed_files.ts";

/** A number below a bound. */
export type Chance = (bound: number) => number;

/** A process: each effect is a step, and it dies at one of them. */
export class Process {
  /** Nothing it does has an effect any more. */
  dead = false;
  /** Effects so far. */
  steps = 0;
  readonly #diesAt: number;
  readonly #onDeath: () => void;

  /** @param diesAt the step before which it dies; Infinity for none */
  constructor(diesAt: number, onDeath: () => void) {
    this.#diesAt = diesAt;
    this.#onDeath = onDeath;
  }

  /** It dies now. */
  kill(): void {
    this.dead = true;
    this.#onDeath();
  }

  /** To be called before each effect. */
  step(): void {
    if (!this.dead && ++this.steps >= this.#diesAt) {
      this.kill();
    }
    // No IoError: nobody should try it again.
    if (this.dead) throw new TypeError("The process is gone");
  }
}

/** Bytes that last when they were synced. */
class Medium {
  bytes: Uint8Array<ArrayBuffer>;
  #durable: Uint8Array<ArrayBuffer>;
  #volatile: { offset: number; bytes: Uint8Array<ArrayBuffer> }[] = [];

  constructor(bytes: Uint8Array<ArrayBuffer>) {
    this.bytes = bytes;
    this.#durable = bytes.slice();
  }

  write(offset: number, bytes: Uint8Array): void {
    if (offset + bytes.length > this.bytes.length) {
      const longer = new Uint8Array(offset + bytes.length);
      longer.set(this.bytes);
      this.bytes = longer;
    }
    this.bytes.set(bytes, offset);
    this.#volatile.push({ offset, bytes: bytes.slice() });
  }

  /** Begins a sync. @returns ends it */
  sync(): () => void {
    const now = this.bytes.slice();
    const count = this.#volatile.length;
    return () => {
      this.#durable = now;
      this.#volatile.splice(0, count);
    };
  }

  cutPower(chance: Chance, sector: number): void {
    const writes = this.#volatile;
    const longest = Math.max(
      this.#durable.length,
      ...writes.map(({ offset, bytes }) => offset + bytes.length),
    );
    const grown = new Uint8Array(longest);
    grown.set(this.#durable);
    let end = this.#durable.length;
    for (const { offset, bytes } of writes) {
      if (chance(2) === 0) continue;
      for (let at = 0; at < bytes.length; at += sector) {
        if (chance(8) === 0) continue;
        const part = bytes.subarray(at, at + sector);
        grown.set(part, offset + at);
        end = Math.max(end, offset + at + part.length);
      }
    }
    this.bytes = grown.slice(0, end);
    this.#durable = this.bytes.slice();
    this.#volatile = [];
  }
}

/** A machine with one disk and a directory of notes. */
export class Machine {
  readonly #files = new Map<string, Medium>();
  readonly #disk: Medium;
  #boots = 0;

  /** With a disk of zeros. */
  constructor(diskSize: number) {
    this.#disk = new Medium(new Uint8Array(diskSize));
  }

  /** The power is cut and comes back. */
  cutPower(chance: Chance): void {
    this.#boots++;
    this.#disk.cutPower(chance, 512);
    for (const file of this.#files.values()) file.cutPower(chance, 24);
  }

  /** The notes, as a process has them. */
  notes(process: Process): StateFiles {
    const files = this.#files;
    return {
      boot: `boot ${this.#boots}`,
      read: (name) => files.get(name)?.bytes.slice() ?? null,
      create: (name): StateFile => {
        process.step();
        const medium = new Medium(new Uint8Array(0));
        files.set(name, medium);
        return {
          write: (offset, bytes) => {
            process.step();
            medium.write(offset, bytes);
          },
          sync: async () => {
            process.step();
            const done = medium.sync();
            await Promise.resolve();
            process.step();
            done();
          },
          close: () => {},
        };
      },
      rename: async (from, to) => {
        process.step();
        const medium = files.get(from);
        if (medium === undefined) throw new Error(`There is no ${from}`);
        files.set(to, medium);
        files.delete(from);
        await Promise.resolve();
        process.step();
      },
      close: () => {},
    };
  }

  /** The disk, as a process has it. @param chance some accesses take longer than others */
  disk(process: Process, chance: Chance): CheckedBackend {
    return new Disk(this.#disk, process, chance);
  }
}

class Disk extends CheckedBackend {
  readonly #medium: Medium;
  readonly #process: Process;
  readonly #chance: Chance;

  constructor(medium: Medium, process: Process, chance: Chance) {
    super({ name: "disk", size: medium.bytes.length });
    this.#medium = medium;
    this.#process = process;
    this.#chance = chance;
  }

  protected override async read(offset: number, into: Uint8Array): Promise<void> {
    await Promise.resolve();
    into.set(this.#medium.bytes.subarray(offset, offset + into.length));
  }

  protected override async write(offset: number, bytes: Uint8Array): Promise<void> {
    const half = bytes.length >>> 1;
    for (const [from, to] of [[0, half], [half, bytes.length]] as const) {
      this.#process.step();
      this.#medium.write(offset + from, bytes.subarray(from, to));
      await this.#while();
    }
    this.#process.step();
  }

  protected override async sync(): Promise<void> {
    this.#process.step();
    const done = this.#medium.sync();
    await this.#while();
    this.#process.step();
    done();
  }

  async #while(): Promise<void> {
    const turns = [0, 0, 0, 0, 0, 1, 1, 4][this.#chance(8)] ?? 0;
    for (let turn = 0; turn < turns; turn++) await new Promise((resolve) => setTimeout(resolve, 0));
  }
}

/** Another host's memory, as a process reaches it: it lives on. */
export class Remote extends CheckedBackend {
  readonly #bytes: Uint8Array;
  readonly #process: Process;

  /** @param bytes used in place */
  constructor(bytes: Uint8Array, process: Process) {
    super({ name: "remote", size: bytes.length });
    this.#bytes = bytes;
    this.#process = process;
  }

  protected override async read(offset: number, into: Uint8Array): Promise<void> {
    this.#process.step();
    await Promise.resolve();
    into.set(this.#bytes.subarray(offset, offset + into.length));
  }

  protected override async write(offset: number, bytes: Uint8Array): Promise<void> {
    this.#process.step();
    const copy = bytes.slice();
    await Promise.resolve();
    this.#process.step();
    this.#bytes.set(copy, offset);
  }

  protected override async sync(): Promise<void> {
    this.#process.step();
    await Promise.resolve();
    this.#process.step();
  }
}
