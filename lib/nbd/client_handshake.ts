/**
 * The client's side of the option haggling: from the server's greeting to an export.
 *
 * Invariants:
 * - What a server says is believed only as far as its lengths fit, and no option is answered without end.
 * - Everything that can be had is asked for; a server that has it not is used without.
 *
 * @module
 */
import { DroverError } from "../base/errors.ts";
import type { NbdTransport } from "./backend.ts";
import {
  allocationContext,
  greetingMagic,
  handshakeFlag,
  info,
  option,
  optionMagic,
  optionReply,
  optionReplyCountMax,
  optionReplyMagic,
  optionSizeMax,
  payloadSizeMax,
  textSizeMax,
} from "./constants.ts";
import type { Intake } from "./intake.ts";
import type { Outlet } from "./outlet.ts";

/** What a server says of an export. */
export interface NbdExportInfo {
  /** As it was asked for. */
  name: string;
  /** For people; empty where the server has none. */
  description: string;
  /** Octets. */
  size: number;
  /** Transmission flags: see `exportFlag`. */
  flags: number;
  /** Octets that offsets and lengths are multiples of. */
  minimumBlockSize: number;
  /** Octets that work best. */
  preferredBlockSize: number;
  /** Most octets of one request. */
  payloadSizeMax: number;
  /** Replies are structured. */
  structured: boolean;
  /** The id of `base:allocation`; null where BLOCK_STATUS cannot be asked. */
  allocationId: number | null;
}

/** A connection whose greeting is over. */
export class OptionHaggling {
  #transport: NbdTransport;
  #intake: Intake;
  #outlet: Outlet;
  #fixed = false;
  #noZeroes = false;

  /** @param connection nothing was read from or written to yet. */
  constructor(connection: { transport: NbdTransport; intake: Intake; outlet: Outlet }) {
    this.#transport = connection.transport;
    this.#intake = connection.intake;
    this.#outlet = connection.outlet;
  }

  /**
   * Asks for TLS. When this resolves the next octet in either direction belongs to TLS.
   *
   * @throws {DroverError} "auth" where the server has none, `FormatError` when it sent something behind its answer: who
   * stands between the two could have put it there
   */
  async askTls(): Promise<void> {
    let why = "";
    const end = await this.#ask(option.startTls, new Uint8Array(0), (type, body) => {
      if (type >= optionReply.errUnsup) why = decode(body);
      return false;
    });
    if (end !== optionReply.ack) {
      throw new DroverError(
        "auth",
        `Cannot use this NBD server: it does not speak TLS${why === "" ? "" : ` ("${why}")`}`,
      );
    }
    if (this.#intake.available > 0) {
      throw this.#intake.fail("tls.plain", "something in the clear stands behind its answer to STARTTLS");
    }
  }

  /** Goes on over another connection, the one inside of TLS; the greeting is not repeated. */
  moveTo(connection: { transport: NbdTransport; intake: Intake; outlet: Outlet }): void {
    this.#transport = connection.transport;
    this.#intake = connection.intake;
    this.#outlet = connection.outlet;
  }

  /** Reads the greeting and answers it. */
  async greet(): Promise<void> {
    const intake = this.#intake;
    await this.#need(18);
    const newstyle = intake.u32(0) === greetingMagic[0] && intake.u32(4) === greetingMagic[1] &&
      intake.u32(8) === optionMagic[0] && intake.u32(12) === optionMagic[1];
    if (!newstyle) throw intake.fail("handshake.magic", "it does not greet as a newstyle server");
    const flags = intake.u16(16);
    this.#fixed = (flags & handshakeFlag.fixedNewstyle) !== 0;
    this.#noZeroes = (flags & handshakeFlag.noZeroes) !== 0;
    if (!this.#fixed) {
      throw intake.fail("handshake.flags", "it is too old: it does not speak fixed newstyle", 16);
    }
    intake.skip(18);
    const answer = new DataView(new ArrayBuffer(4));
    answer.setUint32(0, handshakeFlag.fixedNewstyle | (this.#noZeroes ? handshakeFlag.noZeroes : 0));
    this.#send(new Uint8Array(answer.buffer));
  }

  /** Chooses an export. */
  async choose(name: string): Promise<NbdExportInfo> {
    const text = encodeName(name);
    const structured = await this.#ask(option.structuredReply, new Uint8Array(0), () => false);
    let allocationId: number | null = null;
    if (structured === optionReply.ack) {
      const found = await this.#ask(option.setMetaContext, metaQuery(text), (type, body) => {
        if (type !== optionReply.metaContext) return false;
        if (body.length < 4) throw this.#intake.fail("optionreply.size", "a context has no id");
        if (decode(body.subarray(4)) === allocationContext) allocationId = fieldsOf(body).getUint32(0);
        return true;
      });
      if (found !== optionReply.ack) allocationId = null;
    }
    const result: NbdExportInfo = {
      name,
      description: "",
      size: -1,
      flags: 0,
      minimumBlockSize: 1,
      preferredBlockSize: 4096,
      payloadSizeMax,
      structured: structured === optionReply.ack,
      allocationId,
    };
    const request = new Uint8Array(4 + text.length + 2 + 4);
    const fields = new DataView(request.buffer);
    fields.setUint32(0, text.length);
    request.set(text, 4);
    fields.setUint16(4 + text.length, 2);
    fields.setUint16(6 + text.length, info.blockSize);
    fields.setUint16(8 + text.length, info.description);
    let why = "";
    const end = await this.#ask(option.go, request, (type, body) => {
      if (type >= optionReply.errUnsup) why = decode(body);
      if (type !== optionReply.info) return false;
      this.#takeInfo(body, result);
      return true;
    });
    if (end === optionReply.errUnsup) return await this.#exportName(text, result);
    if (end !== optionReply.ack) throw refusal(name, end, why);
    if (result.size < 0) {
      throw this.#intake.fail("optionreply.export", "it let us in without telling the size of the export");
    }
    return result;
  }

  /** Names and descriptions of all exports. */
  async list(): Promise<{ name: string; description: string }[]> {
    const found: { name: string; description: string }[] = [];
    let why = "";
    const end = await this.#ask(option.list, new Uint8Array(0), (type, body) => {
      if (type >= optionReply.errUnsup) why = decode(body);
      if (type !== optionReply.server) return false;
      const nameSize = body.length < 4 ? Infinity : fieldsOf(body).getUint32(0);
      if (nameSize > body.length - 4) throw this.#intake.fail("optionreply.size", "a name does not fit");
      found.push({
        name: decode(body.subarray(4, 4 + nameSize)),
        description: decode(body.subarray(4 + nameSize)),
      });
      return true;
    });
    if (end !== optionReply.ack) throw refusal("", end, why);
    return found;
  }

  /** Leaves before an export was chosen. */
  async abort(): Promise<void> {
    this.#sendOption(option.abort, new Uint8Array(0));
    await this.#outlet.drain();
  }

  #takeInfo(body: Uint8Array<ArrayBuffer>, result: NbdExportInfo): void {
    const bad = (what: string): Error =>
      this.#intake.fail("optionreply.size", `its information on ${what} is misshapen`);
    if (body.length < 2) throw bad("an export");
    const fields = fieldsOf(body);
    switch (fields.getUint16(0)) {
      case info.export:
        if (body.length !== 12) throw bad("the size");
        result.size = this.#exportSize(fields, 2);
        result.flags = fields.getUint16(10);
        break;
      case info.description:
        result.description = decode(body.subarray(2));
        break;
      case info.blockSize: {
        if (body.length !== 14) throw bad("block sizes");
        const [least, best, most] = [fields.getUint32(2), fields.getUint32(6), fields.getUint32(10)];
        if (least === 0 || (least & (least - 1)) !== 0 || least > 65_536 || most < Math.max(least, 512)) {
          throw bad("block sizes");
        }
        result.minimumBlockSize = least;
        result.preferredBlockSize = Math.max(best, least);
        result.payloadSizeMax = Math.floor(Math.min(most, payloadSizeMax) / least) * least;
        break;
      }
    }
  }

  #exportSize(fields: DataView, at: number): number {
    const size = fields.getUint32(at) * 2 ** 32 + fields.getUint32(at + 4);
    if (size > Number.MAX_SAFE_INTEGER) {
      throw this.#intake.fail("optionreply.export", "the export has more than 2^53 - 1 octets");
    }
    return size;
  }

  /** The way of servers that do not know GO. */
  async #exportName(name: Uint8Array, result: NbdExportInfo): Promise<NbdExportInfo> {
    this.#sendOption(option.exportName, name);
    const size = this.#noZeroes ? 10 : 134;
    await this.#need(size);
    const fields = fieldsOf(this.#intake.view(10));
    result.size = this.#exportSize(fields, 0);
    result.flags = fields.getUint16(8);
    this.#intake.skip(size);
    return result;
  }

  /**
   * Asks, and takes all replies.
   *
   * @param take gets every reply, and says whether one that is not final belongs to this option
   * @returns the type of the final reply
   */
  async #ask(
    kind: number,
    data: Uint8Array,
    take: (type: number, body: Uint8Array<ArrayBuffer>) => boolean,
  ): Promise<number> {
    const intake = this.#intake;
    this.#sendOption(kind, data);
    for (let count = 1;; count++) {
      await this.#need(20);
      if (intake.u32(0) !== optionReplyMagic[0] || intake.u32(4) !== optionReplyMagic[1]) {
        throw intake.fail("optionreply.magic", "an option reply does not begin with its magic");
      }
      if (intake.u32(8) !== kind) {
        throw intake.fail("optionreply.option", `it answers option ${intake.u32(8)}, asked was ${kind}`, 8);
      }
      const type = intake.u32(12);
      const size = intake.u32(16);
      if (size > optionSizeMax) {
        throw intake.fail("optionreply.size", `an option reply has ${size} octets`, 16);
      }
      if (count > optionReplyCountMax) {
        throw intake.fail("optionreply.count", `more than ${optionReplyCountMax} replies to one option`, 12);
      }
      await this.#need(20 + size);
      intake.skip(20);
      const body = intake.view(size).slice();
      const isTaken = take(type, body);
      const isFinal = type === optionReply.ack || type >= 0x80000000;
      if (type === optionReply.ack && size > 0) throw intake.fail("optionreply.size", "an ACK has data");
      if (!isTaken && !isFinal) {
        throw intake.fail("optionreply.type", `reply type ${type} does not answer option ${kind}`);
      }
      intake.skip(size);
      if (isFinal) return type;
    }
  }

  #sendOption(kind: number, data: Uint8Array): void {
    const message = new Uint8Array(16 + data.length);
    const fields = new DataView(message.buffer);
    optionMagic.forEach((half, at) => fields.setUint32(at * 4, half));
    fields.setUint32(8, kind);
    fields.setUint32(12, data.length);
    message.set(data, 16);
    this.#send(message);
  }

  #send(message: Uint8Array): void {
    this.#outlet.push(message, null);
    this.#outlet.kick();
  }

  async #need(size: number): Promise<void> {
    const intake = this.#intake;
    while (intake.available < size) {
      const count = await this.#transport.read(intake.space());
      if (count === null) {
        if (intake.available > 0) throw intake.truncated();
        throw new DroverError("disconnected", "The NBD server ended the connection");
      }
      intake.commit(count);
    }
  }
}

const encoder = new TextEncoder();
const decoder = new TextDecoder();

function encodeName(name: string): Uint8Array {
  const text = encoder.encode(name);
  if (text.length > textSizeMax || name.includes("\0")) {
    throw new RangeError(
      `Cannot ask for the export "${name.slice(0, 64)}": a name has at most ${textSizeMax} octets`,
    );
  }
  return text;
}

/** Text of the wire, for people: what is no UTF-8 is replaced, control characters too. */
function decode(bytes: Uint8Array): string {
  // deno-lint-ignore no-control-regex
  return decoder.decode(bytes.subarray(0, textSizeMax)).replace(/[\x00-\x1f\x7f]/g, "\u{fffd}");
}

function metaQuery(name: Uint8Array): Uint8Array {
  const query = encoder.encode(allocationContext);
  const request = new Uint8Array(12 + name.length + query.length);
  const fields = new DataView(request.buffer);
  fields.setUint32(0, name.length);
  request.set(name, 4);
  fields.setUint32(4 + name.length, 1);
  fields.setUint32(8 + name.length, query.length);
  request.set(query, 12 + name.length);
  return request;
}

function fieldsOf(bytes: Uint8Array<ArrayBuffer>): DataView<ArrayBuffer> {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function refusal(name: string, type: number, why: string): DroverError {
  const reason = type === optionReply.errUnknown
    ? "it has no such export"
    : type === optionReply.errTlsReqd
    ? "it wants TLS"
    : type === optionReply.errPolicy
    ? "it does not allow it"
    : type === optionReply.errShutdown
    ? "it is shutting down"
    : `it answered 0x${type.toString(16)}`;
  return new DroverError(
    type === optionReply.errTlsReqd ? "auth" : "io",
    `Cannot use the NBD export "${name}": ${reason}${why === "" ? "" : ` ("${why}")`}`,
    type === optionReply.errTlsReqd ? { hint: "use an nbds:// URL" } : {},
  );
}
