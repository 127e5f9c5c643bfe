/**
 * The secret that the nodes of one cluster share, and what is derived from it.
 *
 * Invariants: the secret never leaves this class, and is not in what `console.log` shows of it; each purpose
 * has bytes of its own (HKDF labels). Its file is the matter of `key_file.ts`.
 *
 * Web Crypto throughout: loading `node:crypto` costs a command up to 30 ms.
 *
 * @module
 */

/** Bytes of a cluster's secret. */
export const secretSize = 32;

/** A cluster's secret. */
export class ClusterKey {
  readonly #secret: Uint8Array<ArrayBuffer>;

  /** Takes the secret itself, 32 bytes; `readKey()` and `createKey()` are for files. */
  constructor(secret: Uint8Array) {
    if (secret.length !== secretSize) {
      throw new TypeError(`Cannot make a key of ${secret.length} bytes: it should be ${secretSize}`);
    }
    this.#secret = Uint8Array.from(secret);
  }

  /** A short public name of the key, to see whether two nodes have the same one; 16 hex digits. */
  async fingerprint(): Promise<string> {
    const bytes = await this.derive("fingerprint", 8);
    return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  }

  /** `size` bytes that only holders of the secret can compute, others for each `purpose` (HKDF-SHA256). */
  async derive(purpose: string, size: number): Promise<Uint8Array<ArrayBuffer>> {
    const secret = await crypto.subtle.importKey("raw", this.#secret, "HKDF", false, ["deriveBits"]);
    const info = new TextEncoder().encode(`drover-auth-1 ${purpose}`);
    const parameters = { name: "HKDF", hash: "SHA-256", salt: new Uint8Array(0), info };
    return new Uint8Array(await crypto.subtle.deriveBits(parameters, secret, size * 8));
  }
}
