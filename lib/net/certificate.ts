/**
 * The certificates of a cluster, made from its key.
 *
 * The certificate authority's key pair follows from the secret, so every node can compute the authority and
 * nobody else can sign with it. The name that servers prove follows from the secret too: an IPv6 address out
 * of fd00::/8, which TLS never sends in the clear and no public authority may certify.
 *
 * Invariants: the authority's private key lives only while one leaf is signed; every listener has a leaf key
 * of its own that is never written anywhere.
 *
 * The DER encoder here writes just these two shapes. An npm package for it costs 65 ms at each start and
 * 2.3 MB of the executable, against 1 ms and nothing.
 *
 * @module
 */
import type { ClusterKey } from "./key.ts";

/** What a client needs to know a server of its cluster. */
export interface ClusterTrust {
  /** The certificate of the cluster's authority, PEM. */
  authority: string;
  /** The name that servers of the cluster prove: an IPv6 address as text. */
  name: string;
}

/** What a server shows, PEM. */
export interface LeafCertificate {
  /** Its certificate, signed by the cluster's authority. */
  cert: string;
  /** Its private key. */
  key: string;
}

/** Computes what a client trusts. */
export async function clusterTrust(key: ClusterKey): Promise<ClusterTrust> {
  const authority = await deriveAuthority(key);
  const cert = await certificate({ authority, subject: authority, serial: [1], address: null });
  const name = hexText(await clusterAddress(key)).replace(/(.{4})(?!$)/g, "$1:");
  return { authority: pem("CERTIFICATE", cert), name };
}

/** Makes a fresh key pair and signs a certificate for it with the cluster's authority. */
export async function createLeaf(key: ClusterKey): Promise<LeafCertificate> {
  const pair = await crypto.subtle.generateKey("Ed25519", true, ["sign", "verify"]);
  if (!("privateKey" in pair)) throw new TypeError("Ed25519 keys come in pairs");
  const subject: KeyPair = {
    privateKey: pair.privateKey,
    publicOctets: new Uint8Array(await crypto.subtle.exportKey("raw", pair.publicKey)),
  };
  const serial = [...crypto.getRandomValues(new Uint8Array(16))];
  serial[0] = 0x40 | ((serial[0] ?? 0) & 0x3f); // positive, and no leading zero octet
  const cert = await certificate({
    authority: await deriveAuthority(key),
    subject,
    serial,
    address: await clusterAddress(key),
  });
  const pkcs8 = new Uint8Array(await crypto.subtle.exportKey("pkcs8", pair.privateKey));
  return { cert: pem("CERTIFICATE", cert), key: pem("PRIVATE KEY", pkcs8) };
}

interface KeyPair {
  privateKey: CryptoKey;
  publicOctets: Uint8Array;
}

async function deriveAuthority(key: ClusterKey): Promise<KeyPair> {
  const pkcs8 = Uint8Array.from([
    ...hexOctets("302e020100300506032b657004220420"),
    ...await key.derive("authority", 32),
  ]);
  const privateKey = await crypto.subtle.importKey("pkcs8", pkcs8, "Ed25519", true, ["sign"]);
  // Web Crypto has no step from the private to the public key but this export.
  const { x } = await crypto.subtle.exportKey("jwk", privateKey);
  if (x === undefined) throw new TypeError("An Ed25519 key has a public part");
  const publicOctets = Uint8Array.from(
    atob(x.replaceAll("-", "+").replaceAll("_", "/")),
    (c) => c.charCodeAt(0),
  );
  return { privateKey, publicOctets };
}

async function clusterAddress(key: ClusterKey): Promise<Uint8Array> {
  const address = await key.derive("name", 16);
  address[0] = 0xfd;
  return address;
}

const ed25519 = der(0x30, hexOctets("06032b6570"));
const issuerName = der(0x30, der(0x31, der(0x30, hexOctets("0603550403"), der(0x0c, octets("drover")))));
// The cluster's key is what expires, when it is replaced; nodes may have any clock.
const validity = der(0x30, der(0x17, octets("000101000000Z")), der(0x18, octets("20991231235959Z")));

/** An X.509 certificate signed with Ed25519: of the authority, or with an `address` of a server. */
async function certificate(
  options: { authority: KeyPair; subject: KeyPair; serial: number[]; address: Uint8Array | null },
): Promise<Uint8Array> {
  const extensions = options.address === null
    ? [
      extension("551d13", true, hexOctets("30060101ff020100")), // basicConstraints: CA, path length 0
      extension("551d0f", true, hexOctets("03020204")), // keyUsage: keyCertSign
    ]
    : [
      extension("551d13", true, hexOctets("3000")), // basicConstraints: not a CA
      extension("551d0f", true, hexOctets("03020780")), // keyUsage: digitalSignature
      extension("551d25", false, hexOctets("300a06082b06010505070301")), // extKeyUsage: serverAuth
      extension("551d11", true, der(0x30, der(0x87, options.address))), // subjectAltName: iPAddress
    ];
  const body = der(
    0x30,
    hexOctets("a003020102"), // version 3
    der(0x02, options.serial),
    ed25519,
    issuerName,
    validity,
    options.address === null ? issuerName : der(0x30),
    der(0x30, ed25519, der(0x03, [0], options.subject.publicOctets)),
    der(0xa3, der(0x30, ...extensions)),
  );
  const signature = await crypto.subtle.sign("Ed25519", options.authority.privateKey, Uint8Array.from(body));
  return Uint8Array.from(der(0x30, body, ed25519, der(0x03, [0], new Uint8Array(signature))));
}

function extension(oid: string, critical: boolean, value: number[]): number[] {
  return der(0x30, der(0x06, hexOctets(oid)), critical ? hexOctets("0101ff") : [], der(0x04, value));
}

/** A DER element: tag, length, and the parts one after the other. */
function der(tag: number, ...parts: Iterable<number>[]): number[] {
  const content = parts.flatMap((part) => [...part]);
  const size = content.length;
  if (size < 0x80) return [tag, size, ...content];
  return size < 0x100 ? [tag, 0x81, size, ...content] : [tag, 0x82, size >> 8, size & 0xff, ...content];
}

function octets(text: string): number[] {
  return [...new TextEncoder().encode(text)];
}

function hexOctets(text: string): number[] {
  return (text.match(/../g) ?? []).map((digits) => parseInt(digits, 16));
}

function hexText(bytes: Uint8Array): string {
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

function pem(label: string, bytes: Uint8Array): string {
  const lines = btoa(String.fromCharCode(...bytes)).match(/.{1,64}/g) ?? [];
  return `-----BEGIN ${label}-----\n${lines.join("\n")}\n-----END ${label}-----\n`;
}
