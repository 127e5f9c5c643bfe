/**
 * The server's side of the option haggling: from the greeting to an export, or to the end of the connection.
 *
 * ```text
 *   greeting -> client flags -> option … option -> EXPORT_NAME or GO -> transmission
 *                                         '-----> ABORT -> end
 * ```
 *
 * Invariants:
 * - No more than one option is held in memory, and no more than `optionSizeMax` octets of it.
 * - What is wrong inside of an option is answered and the haggling goes on; what breaks the framing ends the
 *   connection.
 *
 * @module
 */
import type { FormatError } from "../base/errors.ts";
import type { MaybePromise, NbdBackend, NbdTransport } from "./backend.ts";
import {
  allocationContext,
  exportFlag,
  greetingMagic,
  handshakeFlag,
  info,
  option,
  optionCountMax,
  optionMagic,
  optionReply,
  optionReplyMagic,
  optionSizeMax,
  payloadSizeMax,
  queryCountMax,
  textSizeMax,
} from "./constants.ts";
import { Intake } from "./intake.ts";
import { Outlet } from "./outlet.ts";

/** What can be exported. */
export interface NbdExport {
  /** What a client asks for; at most 4096 octets of UTF-8. */
  name: string;
  /** For people. */
  description?: string;
  /** The octets. */
  backend: NbdBackend;
  /** Writes are refused. */
  readOnly?: boolean;
  /** A flush covers the writes of all connections. */
  multiConn?: boolean;
  /** The block size at which it works best: a power of two from 512. */
  preferredBlockSize?: number;
}

/** Where a server finds its exports. */
export interface NbdExports {
  /** What LIST shows. */
  list(): readonly { name: string; description?: string }[];
  /** The export of that name, which is empty for the default one; null if there is none. */
  find(name: string): MaybePromise<NbdExport | null>;
}

/** What a connection consists of; TLS in the middle of the haggling makes another one of it. */
export interface NbdConnection {
  transport: NbdTransport;
  intake: Intake;
  outlet: Outlet;
}

/** TLS inside of the protocol (STARTTLS). */
export interface NbdServerTls {
  /** Starts TLS on a transport whose client was told so, and gives what is to be used from now on. */
  start: (transport: NbdTransport) => Promise<NbdTransport>;
  /** Nothing but STARTTLS and ABORT is answered in the clear. */
  required: boolean;
}

/** What the haggling came to. */
export interface Agreed {
  /** Where it goes on: another one than it began with if TLS was started. */
  connection: NbdConnection;
  chosen: NbdExport;
  structured: boolean;
  /** BLOCK_STATUS may be asked. */
  allocation: boolean;
}

/** The id of `base:allocation` on this server. */
export const allocationId = 1;

/** Transmission flags of an export. */
export function exportFlags(chosen: NbdExport, structured: boolean): number {
  const { backend, readOnly, multiConn } = chosen;
  let flags = exportFlag.hasFlags | exportFlag.sendFlush | exportFlag.sendFua | exportFlag.sendCache;
  if (readOnly === true) flags |= exportFlag.readOnly;
  else {
    flags |= exportFlag.sendWriteZeroes;
    if (backend.trim !== undefined) flags |= exportFlag.sendTrim;
  }
  if (multiConn === true || readOnly === true) flags |= exportFlag.canMultiConn;
  if (structured) flags |= exportFlag.sendDf;
  return flags;
}

/**
 * Haggles.
 *
 * @returns null when the client ended it.
 * @throws {FormatError} when the client broke the framing; and when it asked for an export that is not there in the one
 * way that has no answer
 */
export async function serveHandshake(
  connection: NbdConnection,
  exports: NbdExports,
  tls: NbdServerTls | null = null,
): Promise<Agreed | null> {
  return await new Haggling(connection, exports, tls).run();
}

class Haggling {
  #transport: NbdTransport;
  #intake: Intake;
  #outlet: Outlet;
  readonly #exports: NbdExports;
  readonly #tls: NbdServerTls | null;
  #isInTls = false;
  #noZeroes = false;
  #structured = false;
  /** The export whose `base:allocation` was selected. */
  #contextOf: string | null = null;

  constructor(connection: NbdConnection, exports: NbdExports, tls: NbdServerTls | null) {
    this.#transport = connection.transport;
    this.#intake = connection.intake;
    this.#outlet = connection.outlet;
    this.#exports = exports;
    this.#tls = tls;
  }

  async run(): Promise<Agreed | null> {
    let intake = this.#intake;
    const greeting = new DataView(new ArrayBuffer(18));
    [...greetingMagic, ...optionMagic].forEach((half, at) => greeting.setUint32(at * 4, half));
    greeting.setUint16(16, handshakeFlag.fixedNewstyle | handshakeFlag.noZeroes);
    this.#send(new Uint8Array(greeting.buffer));
    if (!await this.#need(4)) return null;
    const flags = intake.u32(0);
    if ((flags & ~(handshakeFlag.fixedNewstyle | handshakeFlag.noZeroes)) !== 0) {
      throw intake.fail("handshake.flags", `its flags are 0x${flags.toString(16)}, and 0x3 was offered`);
    }
    intake.skip(4);
    this.#noZeroes = (flags & handshakeFlag.noZeroes) !== 0;
    const fixed = (flags & handshakeFlag.fixedNewstyle) !== 0;

    for (let count = 1;; count++) {
      if (!await this.#need(16)) return null;
      if (intake.u32(0) !== optionMagic[0] || intake.u32(4) !== optionMagic[1]) {
        throw intake.fail("option.magic", "an option does not begin with IHAVEOPT");
      }
      const kind = intake.u32(8);
      const size = intake.u32(12);
      if (count > optionCountMax) {
        throw intake.fail("option.count", `it sent more than ${optionCountMax} options`, 8);
      }
      if (!fixed && kind !== option.exportName) {
        throw intake.fail("option.style", `option ${kind} needs fixed newstyle, which it did not take`, 8);
      }
      if (size > optionSizeMax) {
        throw intake.fail(
          "option.size",
          `an option has ${size} octets, at most ${optionSizeMax} are taken`,
          12,
        );
      }
      if (!await this.#need(16 + size)) throw intake.truncated();
      intake.skip(16);
      // A copy: looking up an export may take a while, and the slab goes on.
      const data = intake.view(size).slice();
      if (kind === option.startTls && this.#tls !== null) {
        intake.skip(size);
        await this.#startTls(this.#tls, data);
        intake = this.#intake;
        continue;
      }
      if (this.#tls?.required === true && !this.#isInTls && kind !== option.abort) {
        if (kind === option.exportName) throw intake.fail("option.tls", "it asked for an export without TLS");
        this.#refuse(kind, optionReply.errTlsReqd, "TLS comes first");
        intake.skip(size);
        continue;
      }
      const agreed = await this.#answer(kind, data);
      intake.skip(size);
      if (agreed !== undefined) return agreed;
    }
  }

  /** Answers one option. @returns undefined when the haggling goes on. */
  async #answer(kind: number, data: Uint8Array<ArrayBuffer>): Promise<Agreed | null | undefined> {
    switch (kind) {
      case option.exportName:
        return await this.#exportName(data);
      case option.abort:
        this.#reply(kind, optionReply.ack);
        await this.#outlet.drain();
        return null;
      case option.list:
        if (data.length > 0) return this.#refuse(kind, optionReply.errInvalid, "LIST has no data");
        for (const { name, description } of this.#exports.list()) {
          const text = encode(name);
          const more = encode(description ?? "");
          const body = new Uint8Array(4 + text.length + more.length);
          new DataView(body.buffer).setUint32(0, text.length);
          body.set(text, 4);
          body.set(more, 4 + text.length);
          this.#reply(kind, optionReply.server, body);
        }
        this.#reply(kind, optionReply.ack);
        return undefined;
      case option.info:
      case option.go:
        return await this.#go(kind, data);
      case option.structuredReply:
        if (data.length > 0) {
          return this.#refuse(kind, optionReply.errInvalid, "STRUCTURED_REPLY has no data");
        }
        this.#structured = true;
        this.#reply(kind, optionReply.ack);
        return undefined;
      case option.listMetaContext:
      case option.setMetaContext:
        return await this.#metaContext(kind, data);
      default:
        return this.#refuse(kind, optionReply.errUnsup, `option ${kind} is not known here`);
    }
  }

  /** Goes over to TLS; what was agreed on in the clear is forgotten. */
  async #startTls(tls: NbdServerTls, data: Uint8Array): Promise<void> {
    if (data.length > 0) return this.#refuse(option.startTls, optionReply.errInvalid, "STARTTLS has no data");
    if (this.#isInTls) return this.#refuse(option.startTls, optionReply.errInvalid, "TLS is there already");
    // Who stands between the two could have put it there, for the server to believe it came by TLS.
    if (this.#intake.available > 0) {
      throw this.#intake.fail("tls.plain", "something in the clear stands behind its STARTTLS");
    }
    this.#reply(option.startTls, optionReply.ack);
    await this.#outlet.drain();
    const transport = await tls.start(this.#transport);
    this.#transport = transport;
    this.#intake = new Intake();
    this.#outlet = new Outlet(transport);
    this.#isInTls = true;
    this.#structured = false;
    this.#contextOf = null;
  }

  async #exportName(data: Uint8Array<ArrayBuffer>): Promise<Agreed> {
    const name = decode(data);
    const chosen = name === null ? null : await this.#exports.find(name);
    if (chosen === null) throw this.#noExport(name);
    const body = new DataView(new ArrayBuffer(this.#noZeroes ? 10 : 134));
    setU64(body, 0, chosen.backend.size);
    body.setUint16(8, exportFlags(chosen, this.#structured));
    this.#send(new Uint8Array(body.buffer));
    return this.#agree(chosen, name ?? "");
  }

  #noExport(name: string | null): FormatError {
    return this.#intake.fail(
      "option.name",
      name === null
        ? "it asked for an export whose name is none"
        : `it asked for the export "${name.slice(0, 64)}"`,
    );
  }

  async #go(kind: number, data: Uint8Array<ArrayBuffer>): Promise<Agreed | undefined> {
    const fields = new DataView(data.buffer, data.byteOffset, data.byteLength);
    const nameSize = data.length < 6 ? Infinity : fields.getUint32(0);
    if (nameSize > data.length - 6) {
      return this.#refuse(kind, optionReply.errInvalid, "the name does not fit");
    }
    const wanted = fields.getUint16(4 + nameSize);
    if (data.length !== 6 + nameSize + 2 * wanted) {
      return this.#refuse(kind, optionReply.errInvalid, "the requests for information do not fit");
    }
    const name = decode(data.subarray(4, 4 + nameSize));
    if (name === null) return this.#refuse(kind, optionReply.errInvalid, "the name is no text");
    const asked = new Set<number>();
    for (let at = 6 + nameSize; at < data.length; at += 2) asked.add(fields.getUint16(at));
    const chosen = await this.#exports.find(name);
    if (chosen === null) {
      return this.#refuse(kind, optionReply.errUnknown, `there is no export "${name.slice(0, 64)}"`);
    }
    const about = new DataView(new ArrayBuffer(12));
    about.setUint16(0, info.export);
    setU64(about, 2, chosen.backend.size);
    about.setUint16(10, exportFlags(chosen, this.#structured));
    this.#reply(kind, optionReply.info, new Uint8Array(about.buffer));
    if (asked.has(info.name)) this.#reply(kind, optionReply.info, infoText(info.name, chosen.name));
    if (asked.has(info.description) && chosen.description !== undefined) {
      this.#reply(kind, optionReply.info, infoText(info.description, chosen.description));
    }
    if (asked.has(info.blockSize)) {
      const sizes = new DataView(new ArrayBuffer(14));
      sizes.setUint16(0, info.blockSize);
      sizes.setUint32(2, 1);
      sizes.setUint32(6, chosen.preferredBlockSize ?? 4096);
      sizes.setUint32(10, payloadSizeMax);
      this.#reply(kind, optionReply.info, new Uint8Array(sizes.buffer));
    }
    this.#reply(kind, optionReply.ack);
    return kind === option.go ? this.#agree(chosen, name) : undefined;
  }

  #agree(chosen: NbdExport, name: string): Agreed {
    const connection = { transport: this.#transport, intake: this.#intake, outlet: this.#outlet };
    return { connection, chosen, structured: this.#structured, allocation: this.#contextOf === name };
  }

  async #metaContext(kind: number, data: Uint8Array<ArrayBuffer>): Promise<undefined> {
    const setting = kind === option.setMetaContext;
    if (setting) this.#contextOf = null;
    if (!this.#structured) {
      return this.#refuse(kind, optionReply.errInvalid, "structured replies come first");
    }
    const fields = new DataView(data.buffer, data.byteOffset, data.byteLength);
    const nameSize = data.length < 8 ? Infinity : fields.getUint32(0);
    if (nameSize > data.length - 8) {
      return this.#refuse(kind, optionReply.errInvalid, "the name does not fit");
    }
    const name = decode(data.subarray(4, 4 + nameSize));
    const count = fields.getUint32(4 + nameSize);
    if (name === null) return this.#refuse(kind, optionReply.errInvalid, "the name is no text");
    if (count > queryCountMax) {
      return this.#refuse(kind, optionReply.errTooBig, `at most ${queryCountMax} queries are taken`);
    }
    let found = count === 0 && !setting;
    let at = 8 + nameSize;
    for (let query = 0; query < count; query++) {
      const size = at + 4 > data.length ? Infinity : fields.getUint32(at);
      if (size > data.length - at - 4) {
        return this.#refuse(kind, optionReply.errInvalid, "a query does not fit");
      }
      const text = decode(data.subarray(at + 4, at + 4 + size));
      if (text === null || !text.includes(":")) {
        return this.#refuse(kind, optionReply.errInvalid, "a query is not namespace:name");
      }
      found ||= text === allocationContext || (!setting && text === "base:");
      at += 4 + size;
    }
    if (at !== data.length) return this.#refuse(kind, optionReply.errInvalid, "octets are left over");
    if (await this.#exports.find(name) === null) {
      return this.#refuse(kind, optionReply.errUnknown, `there is no export "${name.slice(0, 64)}"`);
    }
    if (found) {
      const text = encode(allocationContext);
      const body = new Uint8Array(4 + text.length);
      new DataView(body.buffer).setUint32(0, setting ? allocationId : 0);
      body.set(text, 4);
      this.#reply(kind, optionReply.metaContext, body);
      if (setting) this.#contextOf = name;
    }
    this.#reply(kind, optionReply.ack);
    return undefined;
  }

  #refuse(kind: number, type: number, why: string): undefined {
    this.#reply(kind, type, encode(why));
  }

  #reply(kind: number, type: number, body: Uint8Array = new Uint8Array(0)): void {
    const message = new Uint8Array(20 + body.length);
    const fields = new DataView(message.buffer);
    optionReplyMagic.forEach((half, at) => fields.setUint32(at * 4, half));
    fields.setUint32(8, kind);
    fields.setUint32(12, type);
    fields.setUint32(16, body.length);
    message.set(body, 20);
    this.#send(message);
  }

  #send(message: Uint8Array): void {
    this.#outlet.push(message, null);
    this.#outlet.kick();
  }

  /** Waits for `size` octets. @returns false when the client left between two messages. */
  async #need(size: number): Promise<boolean> {
    const intake = this.#intake;
    while (intake.available < size) {
      const count = await this.#transport.read(intake.space());
      if (count === null) {
        if (intake.available > 0) throw intake.truncated();
        return false;
      }
      intake.commit(count);
    }
    return true;
  }
}

const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

function encode(text: string): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(encoder.encode(text));
  if (bytes.length > textSizeMax) {
    throw new RangeError(`Cannot send a text of ${bytes.length} octets: at most ${textSizeMax} are allowed`);
  }
  return bytes;
}

/** Text of the wire; null where it is none. */
function decode(bytes: Uint8Array): string | null {
  if (bytes.length > textSizeMax || bytes.includes(0)) return null;
  try {
    return decoder.decode(bytes);
  } catch {
    return null;
  }
}

function infoText(kind: number, text: string): Uint8Array {
  const bytes = encode(text);
  const body = new Uint8Array(2 + bytes.length);
  new DataView(body.buffer).setUint16(0, kind);
  body.set(bytes, 2);
  return body;
}

function setU64(fields: DataView, at: number, value: number): void {
  fields.setUint32(at, Math.floor(value / 2 ** 32));
  fields.setUint32(at + 4, value % 2 ** 32);
}
