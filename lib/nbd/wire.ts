/**
 * The heads of messages, written where they are to be.
 *
 * @module
 */
import { chunkDone, requestMagic, simpleReplyMagic, structuredReplyMagic } from "./constants.ts";

/** What a request and its replies share. */
export interface Cookie {
  cookieHigh: number;
  cookieLow: number;
}

/** The fields of a request. */
export interface RequestHead extends Cookie {
  type: number;
  flags: number;
  offset: number;
  length: number;
}

/** Writes a 32-bit number. */
export function putU32(into: Uint8Array, at: number, value: number): void {
  into[at] = value >>> 24;
  into[at + 1] = value >>> 16;
  into[at + 2] = value >>> 8;
  into[at + 3] = value;
}

/** Writes a request without its data: 28 octets. */
export function putRequest(into: Uint8Array, request: RequestHead): void {
  const { type, flags, cookieHigh, cookieLow, offset, length } = request;
  putU32(into, 0, requestMagic);
  putU32(into, 4, flags << 16 | type);
  putU32(into, 8, cookieHigh);
  putU32(into, 12, cookieLow);
  putU32(into, 16, Math.floor(offset / 2 ** 32));
  putU32(into, 20, offset % 2 ** 32);
  putU32(into, 24, length);
}

/** Writes a simple reply without its data: 16 octets. */
export function putSimple(into: Uint8Array, cookie: Cookie, error: number): void {
  putU32(into, 0, simpleReplyMagic);
  putU32(into, 4, error);
  putU32(into, 8, cookie.cookieHigh);
  putU32(into, 12, cookie.cookieLow);
}

/** Writes a chunk, the last of its reply, without its payload: 20 octets. */
export function putChunk(into: Uint8Array, cookie: Cookie, type: number, size: number): void {
  putU32(into, 0, structuredReplyMagic);
  putU32(into, 4, chunkDone << 16 | type);
  putU32(into, 8, cookie.cookieHigh);
  putU32(into, 12, cookie.cookieLow);
  putU32(into, 16, size);
}
