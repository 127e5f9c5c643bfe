/**
 * How two nodes prove to each other that they may talk; `AUTH.md` is the specification.
 *
 * Every message is a record of one fixed size, so everything is read exactly and nothing is allocated by what
 * a stranger says. A side that fails says REFUSED, which has no content, and closes.
 *
 * @module
 */
import { DroverError } from "../base/errors.ts";
import { encodeRecord, encodeRecordHead, recordHeadSize } from "../stream/mod.ts";
import type { ClusterKey } from "./key.ts";
import { closeQuietly, readExact, type Transport, writeAll } from "./transport.ts";

/** Types of the handshake's records; the low octet, first on the wire, is none of TLS's content types. */
export const handshakeType = {
  /** Client without a key: the first thing on the connection. */
  open: 0x6472_0001,
  /** Server without a key: go on. */
  ready: 0x6472_0002,
  /** Server: a nonce. */
  challenge: 0x6472_0003,
  /** Client: a nonce and a proof. */
  proof: 0x6472_0004,
  /** Server: its own proof; records of the application follow. */
  accept: 0x6472_0005,
  /** Server: no. */
  refused: 0x6472_0006,
} as const;

const nonceSize = 32;
const macSize = 32;
/** First octets of a TLS record: handshake (0x16) or alert (0x15), major version 3. */
const tlsHandshake = 0x16;
const tlsAlert = 0x15;
const tlsMajor = 3;
/** A fatal TLS alert, access_denied: what a server without a key answers to TLS. */
const accessDeniedAlert = Uint8Array.of(tlsAlert, tlsMajor, 3, 0, 2, 2, 49);

/** The server's side inside TLS. @throws {DroverError} code `auth` after saying REFUSED. */
export async function proveAsServer(transport: Transport, key: ClusterKey): Promise<void> {
  const serverNonce = randomNonce();
  await writeAll(transport, message(handshakeType.challenge, serverNonce));
  const proof = await expect(transport, handshakeType.proof, nonceSize + macSize);
  const clientNonce = proof.subarray(0, nonceSize);
  const proofs = await proofKey(key);
  if (!await isProof(proofs, proof.subarray(nonceSize), "client", serverNonce, clientNonce)) {
    await refuse(transport);
    throw new DroverError("auth", "The client did not prove the cluster key");
  }
  await writeAll(
    transport,
    message(handshakeType.accept, await prove(proofs, "server", serverNonce, clientNonce)),
  );
}

/** The client's side inside TLS. @throws {DroverError} code `auth`. */
export async function proveAsClient(transport: Transport, key: ClusterKey): Promise<void> {
  const serverNonce = await expect(transport, handshakeType.challenge, nonceSize);
  const clientNonce = randomNonce();
  const proofs = await proofKey(key);
  await writeAll(
    transport,
    message(handshakeType.proof, clientNonce, await prove(proofs, "client", serverNonce, clientNonce)),
  );
  const proof = await expect(transport, handshakeType.accept, macSize);
  if (!await isProof(proofs, proof, "server", serverNonce, clientNonce)) {
    throw new DroverError("auth", "The server did not prove the cluster key");
  }
}

/**
 * The server's side without a key.
 *
 * @param isWelcome looks up who the client is; called when it has said OPEN.
 * @throws {DroverError} code `auth` after saying REFUSED.
 */
export async function admitAsServer(transport: Transport, isWelcome: () => Promise<boolean>): Promise<void> {
  const head = await readExact(transport, recordHeadSize);
  if (head[0] === tlsHandshake && head[1] === tlsMajor) {
    await writeAll(transport, accessDeniedAlert);
    // The rest of the ClientHello is still on its way; closing over it would reset the connection and take the
    // alert along. One read of bounded size clears it.
    await transport.closeWrite();
    await transport.read(new Uint8Array(16_384));
    throw new DroverError("auth", "The client has a key, and this server has none");
  }
  if (!sameOctets(head, encodeRecordHead(handshakeType.open, 0))) {
    await refuse(transport);
    throw new DroverError("protocol", "The client does not speak drover's protocol");
  }
  let welcome = false;
  try {
    welcome = await isWelcome();
  } finally {
    if (!welcome) await refuse(transport);
  }
  if (!welcome) {
    throw new DroverError("auth", "The client belongs to another user, and this server has no key");
  }
  await writeAll(transport, message(handshakeType.ready));
}

/** The client's side without a key. @throws {DroverError} code `auth`. */
export async function admitAsClient(transport: Transport): Promise<void> {
  await writeAll(transport, message(handshakeType.open));
  const head = new Uint8Array(recordHeadSize);
  // An alert is seven octets and then the end, so what came counts even when it is short.
  for (let at = 0; at < head.length;) {
    const read = await transport.read(head.subarray(at)).catch((error) => {
      if (at >= 2) return null;
      throw error;
    });
    if (read === null) {
      if (at > 0) break;
      throw new DroverError("disconnected", "The connection ended before the server answered");
    }
    at += read;
  }
  if (head[0] === tlsAlert && head[1] === tlsMajor) {
    throw new DroverError("auth", "The server has a key, and this side has none", {
      hint: "give --key FILE",
    });
  }
  checkHead(head, handshakeType.ready, 0);
}

/** Reads one message of exactly this type and size. */
async function expect(transport: Transport, type: number, size: number): Promise<Uint8Array<ArrayBuffer>> {
  checkHead(await readExact(transport, recordHeadSize), type, size);
  return await readExact(transport, size);
}

function checkHead(head: Uint8Array, type: number, size: number): void {
  if (sameOctets(head, encodeRecordHead(handshakeType.refused, 0))) {
    throw new DroverError("auth", "The server refused the connection");
  }
  if (!sameOctets(head, encodeRecordHead(type, size))) {
    throw new DroverError("protocol", "The other side does not speak drover's protocol");
  }
}

async function refuse(transport: Transport): Promise<void> {
  try {
    await writeAll(transport, message(handshakeType.refused));
    await transport.closeWrite();
  } catch {
    closeQuietly(transport); // It went away by itself.
  }
}

/** A record; all bodies here are multiples of eight octets, so there is no padding. */
function message(type: number, ...parts: Uint8Array[]): Uint8Array {
  return concat(encodeRecord(type, ...parts));
}

async function proofKey(key: ClusterKey): Promise<CryptoKey> {
  const algorithm = { name: "HMAC", hash: "SHA-256" };
  return await crypto.subtle.importKey("raw", await key.derive("proof", 32), algorithm, false, [
    "sign",
    "verify",
  ]);
}

async function prove(key: CryptoKey, ...said: Statement): Promise<Uint8Array> {
  return new Uint8Array(await crypto.subtle.sign("HMAC", key, statement(...said)));
}

/** Compares in constant time, as `verify` does. */
async function isProof(key: CryptoKey, proof: Uint8Array<ArrayBuffer>, ...said: Statement): Promise<boolean> {
  return await crypto.subtle.verify("HMAC", key, proof, statement(...said));
}

type Statement = [side: "client" | "server", serverNonce: Uint8Array, clientNonce: Uint8Array];

/** What a proof is about; every field has a fixed size, so no two statements have the same octets. */
function statement(...[side, serverNonce, clientNonce]: Statement): Uint8Array<ArrayBuffer> {
  return concat([new TextEncoder().encode(`drover-auth-1 ${side}\0`), serverNonce, clientNonce]);
}

function concat(parts: Uint8Array[]): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

function randomNonce(): Uint8Array<ArrayBuffer> {
  return crypto.getRandomValues(new Uint8Array(nonceSize));
}

/** For public values only. */
function sameOctets(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((octet, index) => octet === b[index]);
}
