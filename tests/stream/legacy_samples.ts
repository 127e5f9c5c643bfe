/**
 * Legacy streams made up from a seed: valid ones, octet by octet, by a writer of their own, so that the codec is no
 * witness for itself.
 *
 * What is in a stream depends on the seed and the options but never on the sender's width: two samples that differ in
 * `width` alone are the same guest, sent by two builds of the same sender. So are two that differ in `compressed`.
 */
import { encodeRemusFull, encodeRemusPage, remusPageSizeMax } from "../../lib/stream/delta.ts";
import { prng } from "./prng.ts";

/** What a sample should be. Everything that is left out comes from the seed. */
export interface LegacySampleOptions {
  seed: number;
  width: 4 | 8;
  guest: "pv" | "hvm";
  guestWidth?: 4 | 8;
  /** More than one: a stream of Remus. */
  epochs?: number;
  /** Whether the epochs after the first are compressed. */
  compressed?: boolean;
  /** Whether the last epoch says that it is; a stream of one epoch may leave it out too, as old senders did. */
  lastCheckpoint?: boolean;
  extended?: boolean;
  xsave?: boolean;
  /** Entries of the toolstack's chunk; null for no chunk. */
  toolstack?: number | null;
  deviceModel?: "DeviceModelRecord0002" | "RemusDeviceModelState" | "QemuDeviceModelRecord" | null;
  /** Chunk −21, which Xen's converter does not know. */
  x87?: boolean;
  verify?: boolean;
  /** Batches of an epoch. */
  batches?: number;
  /** Entries of a batch at most. */
  entries?: number;
}

/** A sample. */
export interface LegacySample {
  bytes: Uint8Array<ArrayBuffer>;
  options: LegacySampleOptions;
  /** The guest's memory after each epoch. */
  memories: Map<number, Uint8Array>[];
  /** Offset behind each epoch. */
  ends: number[];
}

const pageSize = 4096;
const carries = (entry: number): boolean => entry >>> 28 < 0xd;

class Octets {
  readonly #parts: Uint8Array[] = [];
  readonly #width: 4 | 8;
  size = 0;

  constructor(width: 4 | 8) {
    this.#width = width;
  }

  raw(bytes: Uint8Array): void {
    this.#parts.push(bytes);
    this.size += bytes.length;
  }

  text(text: string): void {
    this.raw(new TextEncoder().encode(text));
  }

  u32(value: number): void {
    this.raw(Uint8Array.from([0, 8, 16, 24], (shift) => value >>> shift & 255));
  }

  u64(value: bigint): void {
    this.u32(Number(value & 0xffff_ffffn));
    this.u32(Number(value >> 32n));
  }

  long(value: number): void {
    this.u32(value);
    if (this.#width === 8) this.u32(0);
  }

  finish(): Uint8Array<ArrayBuffer> {
    const bytes = new Uint8Array(this.size);
    let at = 0;
    for (const part of this.#parts) {
      bytes.set(part, at);
      at += part.length;
    }
    return bytes;
  }
}

/** A legacy stream. */
export function legacySample(options: LegacySampleOptions): LegacySample {
  const random = prng(options.seed);
  /** For what only one of two equal samples has: octets without meaning, breaks between chunks. */
  const noise = prng(options.seed ^ 0x5eed);
  const pick = <T>(...values: T[]): T => values[random(values.length)] as T;
  const u64 = (): bigint => BigInt(random(2 ** 32 - 1)) << 32n | BigInt(random(2 ** 32 - 1));
  const blob = (size: number): Uint8Array => Uint8Array.from({ length: size }, () => random(256));
  const { width, guest } = options;
  const drawn = {
    guestWidth: pick<4 | 8>(4, 8),
    extended: random(4) > 0,
    xsave: random(2) === 0,
    toolstack: pick(null, 0, 1, 3),
    verify: random(4) === 0,
    x87: false,
    batches: 1 + random(3),
    entries: 1 + random(12),
    deviceModel: "DeviceModelRecord0002" as const,
    epochs: 1,
    lastCheckpoint: true,
    compressed: false,
  };
  const wanted = { ...drawn, ...options };
  const out = new Octets(width);
  const memory = new Map<number, Uint8Array>();
  const cache = new Map<number, Uint8Array>();
  const memories: Map<number, Uint8Array>[] = [];
  const ends: number[] = [];

  const p2mSize = pick(64, 1024, 1025, 3000, 200_000);
  out.long(p2mSize);
  const xsaveSize = pick(24, 576, 831);
  if (guest === "pv") {
    const vcpu = blob(wanted.guestWidth === 8 ? 0x1430 : 0xaf0);
    const info = new Octets(width);
    info.text("vcpu");
    info.u32(vcpu.length);
    info.raw(vcpu);
    if (wanted.extended) {
      info.text("extv");
      info.u32(0);
    }
    if (wanted.xsave) {
      info.text("xcnt");
      info.u32(4);
      info.u32(16 + xsaveSize);
    }
    out.raw(new Uint8Array(width).fill(255));
    out.u32(info.size);
    out.raw(info.finish());
    const frames = Math.ceil(p2mSize / (4096 / wanted.guestWidth));
    for (let frame = 0; frame < frames; frame++) out.long(random(2 ** 32 - 1));
  }

  const newPage = (old: Uint8Array | undefined): Uint8Array => {
    if (old !== undefined && random(5) === 0) return old;
    const page = old === undefined || random(6) === 0 ? new Uint8Array(pageSize) : old.slice();
    if (random(8) === 0) {
      for (let at = 0; at < pageSize; at++) page[at] = random(256);
    }
    for (let count = random(20); count > 0; count--) {
      const start = random(1024) * 4;
      page.fill(random(256), start, Math.min(pageSize, start + 1 + random(40)));
    }
    return page;
  };
  const entriesOf = (): number[] => {
    const count = 1 + random(wanted.entries);
    let pfn = random(Math.max(1, p2mSize - 4 * count));
    const entries: number[] = [];
    while (entries.length < count && pfn < p2mSize) {
      const kind = random(16);
      if (kind === 0) entries.push(0xf000_0000);
      else if (kind === 1 && pfn > 0) entries.push((pick(0xd, 0xe, 0xf) << 28 | pfn) >>> 0);
      else if (kind < 6 && guest === "pv") {
        entries.push((pick(1, 2, 3, 4, 9, 10, 11, 12) << 28 | pfn) >>> 0);
      } else entries.push(pfn);
      pfn += 1 + random(3);
    }
    if (entries.every((entry): boolean => entry === 0xf000_0000)) entries.push(pfn);
    return entries;
  };
  const putEntries = (entries: number[]): void => {
    out.u32(entries.length);
    for (const entry of entries) out.long(entry);
  };
  const putCompressed = (bytes: Uint8Array): void => {
    for (let at = 0; at < bytes.length;) {
      const size = noise(3) === 0 ? 1 + noise(bytes.length - at) : bytes.length - at;
      out.u32(-12);
      out.long(size);
      out.raw(bytes.subarray(at, at + size));
      at += size;
      if (noise(5) === 0) {
        out.u32(-12);
        out.long(0);
      }
    }
  };

  for (let epoch = 0; epoch < wanted.epochs; epoch++) {
    const compressing = wanted.compressed && epoch > 0;
    let staged: Uint8Array[] = [];
    const flush = (): void => {
      const size = staged.reduce((sum, part) => sum + part.length, 0);
      const bytes = new Uint8Array(size);
      let at = 0;
      for (const part of staged) {
        bytes.set(part, at);
        at += part.length;
      }
      staged = [];
      putCompressed(bytes);
    };
    const rounds = wanted.verify ? 2 : 1;
    for (let round = 0; round < rounds; round++) {
      if (round === 1) out.u32(-1);
      for (let batch = 0; batch < wanted.batches; batch++) {
        const entries = entriesOf();
        putEntries(entries);
        for (const entry of entries) {
          if (!carries(entry)) continue;
          const pfn = entry & 0x0fff_ffff;
          const page = newPage(memory.get(pfn));
          memory.set(pfn, page);
          if (!compressing) {
            out.raw(page);
            continue;
          }
          const old = cache.get(pfn);
          const room = new Uint8Array(remusPageSizeMax);
          const raw = entry >>> 28 !== 0;
          const end = old === undefined || raw
            ? encodeRemusFull(page, room, 0)
            : encodeRemusPage(old, page, room, 0);
          staged.push(room.subarray(0, end));
          if (raw) cache.delete(pfn);
          else cache.set(pfn, page);
        }
        if (batch === 0 && round === 0 && epoch === 0) {
          out.u32(-7);
          out.u32(random(5));
          out.u64(u64());
          out.u32(random(2 ** 32 - 1));
          out.u32(random(100));
        }
        if (noise(3) === 0) flush();
      }
    }
    flush();

    const vcpuIdMax = pick(0, 1, 3, 63, 64, 130);
    const online = Array.from({ length: Math.floor(vcpuIdMax / 64) + 1 }, () => 0n);
    let vcpusCount = 0;
    for (let id = 0; id <= vcpuIdMax; id++) {
      if (id > 0 && random(vcpuIdMax > 4 ? 40 : 2) !== 0) continue;
      online[id >>> 6] = (online[id >>> 6] ?? 0n) | 1n << BigInt(id & 63);
      vcpusCount++;
    }
    out.u32(-2);
    out.u32(vcpuIdMax);
    for (const word of online) out.u64(word);
    if (guest === "hvm") {
      const paired = random(2) === 0;
      const ids = [-14, -3, -15, -16, -17, -4, -8, -10, -11].filter(() => random(3) > 0);
      if (paired) ids.push(-19, -20);
      if (wanted.x87) ids.push(-21);
      for (const id of ids) {
        out.u32(id);
        out.u32(0);
        out.u64(id === -10 ? 1n : u64() | 1n);
      }
    }
    if (wanted.toolstack !== null && guest === "hvm") {
      const data = new Octets(width);
      data.u32(1);
      data.u32(wanted.toolstack);
      for (let index = 0; index < wanted.toolstack; index++) {
        data.u64(BigInt(random(2 ** 31)) << 12n);
        data.u64(BigInt(random(2 ** 31)) << 12n);
        data.u64(BigInt(random(2 ** 20)) << 12n);
        const name = pick("vga.vram", "0000:00:03.0/rtl8139.rom", "x");
        data.u32(name.length + 1);
        data.text(`${name}\0`);
        if (width === 8) data.u32(noise(2 ** 32 - 1));
      }
      out.u32(-18);
      out.u32(data.size);
      out.raw(data.finish());
    }
    if (epoch === wanted.epochs - 1 && wanted.lastCheckpoint) out.u32(-9);
    if (wanted.compressed && epoch === 0) out.u32(-13);
    out.u32(0);

    if (guest === "hvm") {
      for (let count = 0; count < 3; count++) out.u64(BigInt(0xf_0000 + random(0xffff)));
      const context = blob(1 + random(3000));
      out.u32(context.length);
      out.raw(context);
      if (wanted.deviceModel !== null) {
        out.text(wanted.deviceModel);
        const state = blob(random(5000));
        if (wanted.deviceModel === "QemuDeviceModelRecord") out.text("QEVM");
        else out.u32(state.length);
        out.raw(state);
      }
    } else {
      const unmapped = pick(0, 1, 50);
      out.u32(unmapped);
      for (let count = 0; count < unmapped; count++) out.long(noise(p2mSize));
      for (let count = 0; count < vcpusCount; count++) {
        out.raw(blob(wanted.guestWidth === 8 ? 0x1430 : 0xaf0));
        if (wanted.extended) out.raw(blob(128));
        if (wanted.xsave) {
          out.u64(u64());
          out.u64(BigInt(xsaveSize));
          out.raw(blob(xsaveSize));
        }
      }
      out.raw(blob(4096));
    }
    memories.push(new Map(memory));
    ends.push(out.size);
  }
  return { bytes: out.finish(), options, memories, ends };
}
