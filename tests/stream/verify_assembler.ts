/**
 * Puts streams together octet by octet for tests of the verifier, and writes them as vector files.
 *
 * It knows no more of the formats than where fields stand; it shares nothing with lib/stream, so that what it makes
 * can be held against both the readers and the verifier.
 *
 * @module
 */

/** A piece of a stream and what it is. */
interface Part {
  bytes: Uint8Array;
  note: string;
}

/** What a record is made of: octets, or a number of zero octets. */
export type Chunk = Uint8Array;

/** An array of the octets given. */
export function octets(...values: number[]): Uint8Array {
  return Uint8Array.from(values);
}

/** `count` times the same octet. */
export function fill(octet: number, count: number): Uint8Array {
  return new Uint8Array(count).fill(octet);
}

/** One octet per character. */
export function text(characters: string): Uint8Array {
  return Uint8Array.from(characters, (character) => character.charCodeAt(0));
}

/** All chunks in one. */
export function join(chunks: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const joined = new Uint8Array(chunks.reduce((size, chunk) => size + chunk.length, 0));
  let at = 0;
  for (const chunk of chunks) {
    joined.set(chunk, at);
    at += chunk.length;
  }
  return joined;
}

/** How a record differs from a right one. */
export interface RecordFaults {
  /** The length in the head, when it is not that of the body. */
  length?: number;
  /** The padding, when it is not the right number of zero octets. */
  padding?: Uint8Array;
}

/** How headers differ from right ones. */
export interface HeaderFaults {
  marker?: Uint8Array;
  id?: string;
  options?: number;
  reserved?: Uint8Array;
  type?: number;
  pageShift?: number;
  domainReserved?: number;
  major?: number;
}

/** A stream that grows at its end. All methods that add something return the offset of its first octet. */
export class Assembly {
  readonly #parts: Part[] = [];
  #size = 0;
  /** Whether fields behind headers are big-endian. */
  big = false;

  /** Octets so far. */
  get size(): number {
    return this.#size;
  }

  /** The octets so far. */
  bytes(): Uint8Array<ArrayBuffer> {
    return join(this.#parts.map(({ bytes }) => bytes));
  }

  /** Cuts the end off. */
  cut(size: number): void {
    const bytes = this.bytes().slice(0, size);
    const parts = this.#parts.splice(0);
    this.#size = 0;
    for (const { bytes: { length }, note } of parts) {
      if (this.#size < bytes.length) this.raw(note, bytes.slice(this.#size, this.#size + length));
    }
  }

  /** Octets as they are. */
  raw(note: string, ...chunks: Chunk[]): number {
    const offset = this.#size;
    const bytes = join(chunks);
    this.#parts.push({ bytes, note });
    this.#size += bytes.length;
    return offset;
  }

  /** 16 bits. */
  u16(value: number, big = this.big): Uint8Array {
    const bytes = new Uint8Array(2);
    new DataView(bytes.buffer).setUint16(0, value, !big);
    return bytes;
  }

  /** 32 bits. */
  u32(value: number, big = this.big): Uint8Array {
    const bytes = new Uint8Array(4);
    new DataView(bytes.buffer).setUint32(0, value, !big);
    return bytes;
  }

  /** 64 bits. */
  u64(value: number | bigint, big = this.big): Uint8Array {
    const bytes = new Uint8Array(8);
    new DataView(bytes.buffer).setBigUint64(0, BigInt(value), !big);
    return bytes;
  }

  /** An image header, without a domain header. */
  image(version: number, faults: HeaderFaults = {}): number {
    return this.raw(
      "image header",
      faults.marker ?? fill(0xff, 8),
      text(faults.id ?? "XENF"),
      this.u32(version, true),
      this.u16(faults.options ?? (this.big ? 1 : 0), true),
      faults.reserved ?? fill(0, 6),
    );
  }

  /** The headers of a libxc stream. */
  libxc(guest: "pv" | "hvm", version = 3, faults: HeaderFaults = {}): number {
    const offset = this.image(version, faults);
    this.raw(
      "domain header",
      this.u32(faults.type ?? (guest === "pv" ? 1 : 2)),
      this.u16(faults.pageShift ?? 12),
      this.u16(faults.domainReserved ?? 0),
      this.u32(faults.major ?? 4),
      this.u32(20),
    );
    return offset;
  }

  /** The header of a libxl stream. */
  libxl(faults: { ident?: string; version?: number; options?: number } = {}): number {
    return this.raw(
      "libxl header",
      text(faults.ident ?? "LibxlFmt"),
      this.u32(faults.version ?? 2, true),
      this.u32(faults.options ?? (this.big ? 1 : 0), true),
    );
  }

  /** The header that xl writes. */
  xl(
    flags: number,
    data: Uint8Array,
    faults: { magic?: string; order?: number; length?: number } = {},
  ): number {
    return this.raw(
      "xl header",
      text(faults.magic ?? "Xen saved domain, xl format\n \0 \r"),
      this.u32(faults.order ?? 0x0102_0304),
      this.u32(flags),
      this.u32(0),
      this.u32(faults.length ?? data.length),
      data,
    );
  }

  /** A record: head, body, padding. */
  record(note: string, type: number, body: Chunk[] = [], faults: RecordFaults = {}): number {
    const bytes = join(body);
    return this.raw(
      note,
      this.u32(type),
      this.u32(faults.length ?? bytes.length),
      bytes,
      faults.padding ?? fill(0, -bytes.length & 7),
    );
  }

  /** A word of PAGE_DATA. */
  entry(pfn: number | bigint, type = 0): Uint8Array {
    return this.u64(BigInt(type) << 60n | BigInt(pfn));
  }

  /** PAGE_DATA of ordinary pages. */
  pages(...pfns: number[]): number {
    return this.record("PAGE_DATA", 1, [
      this.u32(pfns.length),
      this.u32(0),
      ...pfns.map((pfn) => this.entry(pfn)),
      ...pfns.map((pfn) => fill(pfn + 1 & 0xff, 4096)),
    ]);
  }

  /** The stream as the body of a vector file. */
  vectorBody(): string {
    return this.#parts.filter(({ bytes }) => bytes.length > 0).map(({ bytes, note }) =>
      lines(bytes).map((line, index) => index === 0 ? `${line} # ${note}\n` : `  ${line}\n`).join("")
    ).join("");
  }
}

/** Octets as tokens of a vector file, in lines. */
function lines(bytes: Uint8Array): string[] {
  const tokens: string[] = [];
  let plain = "";
  const flush = (): void => {
    if (plain !== "") tokens.push(plain);
    plain = "";
  };
  for (let at = 0; at < bytes.length;) {
    const octet = bytes[at] ?? 0;
    let end = at + 1;
    while (end < bytes.length && bytes[end] === octet) end++;
    const digits = octet.toString(16).padStart(2, "0");
    if (end - at >= 6) {
      flush();
      tokens.push(`${digits}*${end - at}`);
      at = end;
    } else {
      plain += digits;
      at++;
      if (plain.length === 16) flush();
    }
  }
  flush();
  const made: string[] = [];
  let line = "";
  for (const token of tokens) {
    if (line !== "" && line.length + token.length > 76) {
      made.push(line);
      line = "";
    }
    line += line === "" ? token : ` ${token}`;
  }
  made.push(line);
  return made;
}
