/**
 * Whom an NBD client believes, and what an NBD server shows and asks for: certificates in a directory as other NBD
 * programs have them, or the cluster's key.
 *
 * With the key the server proves it by its certificate (lib/net/AUTH.md), and the client by the name that it asks
 * for: behind TLS it is `TOKEN/NAME`, and TOKEN is 128 bits that only holders of the key can compute. NBD has no
 * other place for a proof that every client could give; LIST is not answered then.
 *
 * @module
 */
import { DroverError } from "../base/errors.ts";
import { toHex } from "../base/hex.ts";
import type { NbdTls } from "./backend_nbd.ts";
import type { NbdServerCertificate } from "./nbd_tls.ts";

/** What a server with a key asks for and shows. */
export interface KeyedNbd {
  /** What the export is called then. */
  name: string;
  /** What the server shows. */
  certificate: NbdServerCertificate;
}

/** Most bytes of a file of certificates. */
const pemSizeMax = 2 ** 20;

/**
 * What an `nbds:` URL asks for.
 *
 * @param name the export
 * @param from `key`: a key file; `certificates`: a directory with `ca-cert.pem`; `hostname`: whom the server has to prove
 * to be. With none of the first two the system's authorities are believed.
 * @throws {DroverError} "auth" and "usage" for files that are not what they should be
 */
export async function nbdTrust(
  name: string,
  from: { key: string | undefined; certificates: string | undefined; hostname: string | undefined },
): Promise<{ name: string; tls: NbdTls }> {
  const { key, certificates, hostname } = from;
  if (key !== undefined && (certificates ?? hostname) !== undefined) {
    throw new DroverError("usage", "Cannot use a key and certificates for one connection");
  }
  if (key !== undefined) {
    const [{ readKey }, { clusterTrust }] = await Promise.all([
      import("../net/key_file.ts"),
      import("../net/certificate.ts"),
    ]);
    const secret = await readKey(key);
    const trust = await clusterTrust(secret);
    return { name: await keyedName(secret, name), tls: { caCerts: [trust.authority], hostname: trust.name } };
  }
  return {
    name,
    tls: {
      ...(certificates === undefined ? {} : { caCerts: [readPem(`${certificates}/ca-cert.pem`)] }),
      ...(hostname === undefined ? {} : { hostname }),
    },
  };
}

/** The certificate of a server from a directory: `server-cert.pem` and `server-key.pem`. @throws {DroverError} "usage" */
export function serverCertificate(directory: string): NbdServerCertificate {
  return { cert: readPem(`${directory}/server-cert.pem`), key: readPem(`${directory}/server-key.pem`) };
}

/** What a server with this key file shows, and what the export of that name is called. @throws {DroverError} "auth" */
export async function keyedExport(keyFile: string, name: string): Promise<KeyedNbd> {
  const [{ readKey }, { createLeaf }] = await Promise.all([
    import("../net/key_file.ts"),
    import("../net/certificate.ts"),
  ]);
  const key = await readKey(keyFile);
  return { name: await keyedName(key, name), certificate: await createLeaf(key) };
}

async function keyedName(
  key: { derive(purpose: string, size: number): Promise<Uint8Array> },
  name: string,
): Promise<string> {
  const token = toHex(await key.derive("nbd", 16));
  return name === "" ? token : `${token}/${name}`;
}

function readPem(path: string): string {
  let text: string;
  try {
    if (Deno.statSync(path).size > pemSizeMax) throw new Error("It is too large");
    text = Deno.readTextFileSync(path);
  } catch (error) {
    throw new DroverError("usage", `Cannot read "${path}"`, { cause: error });
  }
  if (text.includes("-----BEGIN ")) return text;
  throw new DroverError("usage", `Cannot use "${path}": it should be PEM`);
}
