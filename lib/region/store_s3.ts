/**
 * Chunks in S3, or any server that speaks it: an object per chunk, `PREFIX/000000000000002a`.
 *
 * Invariants:
 * - What a PUT was answered for lasts: there is nothing to flush.
 * - Every body that is sent is signed with its SHA-256, so that what arrives is what was sent; the server says no
 *   otherwise.
 * - Objects are read and written as a whole or read in part; nothing of a reply is taken that was not asked for.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { AwsClient } from "aws4fetch";
import { IoError } from "./backend.ts";
import { chunkKey, chunkOfKey, type ChunkStore, descriptionKey } from "./chunk_store.ts";
import { exchange, takeAtMost, takeBody } from "./http_exchange.ts";
import type { Patience } from "./patience.ts";

/** Where a bucket is, and as whom. */
export interface S3Options {
  /** The bucket's name. */
  bucket: string;
  /** What keys begin with; empty, or without a slash at its ends. */
  prefix: string;
  /** The server's URL; by default that of AWS for the region. */
  endpoint?: string;
  /** Default "us-east-1". */
  region?: string;
  /** Who asks. */
  credentials: { accessKeyId: string; secretAccessKey: string; sessionToken?: string };
  /** Milliseconds; see `OpenOptions`. */
  timeoutMs: number;
}

/** Keys of one page. */
const pageSize = 1000;
/** Most octets of a page: a thousand keys with all that is said of each. */
const pageSizeMax = 4 * 2 ** 20;

/** A bucket, or a folder of one, as a store. */
export class S3Store implements ChunkStore {
  /** See {@link ChunkStore.name}. */
  readonly name: string;
  /** See {@link ChunkStore.parallel}. */
  readonly parallel = 16;
  readonly #client: AwsClient;
  readonly #base: URL;
  readonly #prefix: string;
  readonly #patience: Patience;

  /** Nothing is asked before the first access. @throws {TypeError} for an endpoint that is no URL */
  constructor(options: S3Options) {
    const { bucket, prefix, endpoint, region = "us-east-1", credentials, timeoutMs } = options;
    // retries: 0, because `patiently` does it.
    this.#client = new AwsClient({ ...credentials, service: "s3", region, retries: 0 });
    const isPlain = /^[a-z0-9-]{3,63}$/.test(bucket);
    this.#base = endpoint === undefined
      ? new URL(
        isPlain
          ? `https://${bucket}.s3.${region}.amazonaws.com/`
          : `https://s3.${region}.amazonaws.com/${encodeURIComponent(bucket)}/`,
      )
      : new URL(`${endpoint.replace(/\/+$/, "")}/${encodeURIComponent(bucket)}/`);
    this.#prefix = prefix === "" ? "" : `${prefix}/`;
    this.name = `s3://${bucket}/${prefix}`;
    this.#patience = { where: this.name, timeoutMs };
  }

  /** See {@link ChunkStore.readDescription}. */
  async readDescription(): Promise<Uint8Array | null> {
    return await this.#get(descriptionKey, 4096);
  }

  /** See {@link ChunkStore.writeDescription}. */
  async writeDescription(bytes: Uint8Array): Promise<void> {
    await this.#put(descriptionKey, bytes);
  }

  /** See {@link ChunkStore.get}. */
  async get(chunk: number, sizeMax: number): Promise<Uint8Array | null> {
    return await this.#get(chunkKey(chunk), sizeMax);
  }

  /** See {@link ChunkStore.getPart}. */
  async getPart(chunk: number, from: number, into: Uint8Array): Promise<void> {
    const range = `bytes=${from}-${from + into.length - 1}`;
    await exchange(
      this.#patience,
      { make: () => this.#request("GET", chunkKey(chunk), { range }), expect: [206, 404, 416], verb: "read" },
      async ({ status, headers }, body) => {
        if (status !== 206) return void into.fill(0);
        const [, first, last] = /^bytes (\d+)-(\d+)\//.exec(headers.get("content-range") ?? "") ?? [];
        const length = Number(last) - Number(first) + 1;
        if (Number(first) !== from || !(length > 0 && length <= into.length)) {
          throw new IoError("EIO", `Cannot read "${this.name}": the server sends another part of a chunk`);
        }
        await takeBody(body, into.subarray(0, length));
        into.fill(0, length);
      },
    );
  }

  /** See {@link ChunkStore.put}. */
  async put(chunk: number, bytes: Uint8Array): Promise<void> {
    await this.#put(chunkKey(chunk), bytes);
  }

  /** See {@link ChunkStore.remove}. */
  async remove(chunk: number): Promise<void> {
    await exchange(
      this.#patience,
      { make: () => this.#request("DELETE", chunkKey(chunk)), expect: [200, 204, 404], verb: "remove from" },
      () => Promise.resolve(),
    );
  }

  /** See {@link ChunkStore.present}. */
  async present(first: number, count: number): Promise<boolean[]> {
    const query = new URLSearchParams({
      "list-type": "2",
      "max-keys": String(pageSize),
      prefix: this.#prefix,
    });
    if (first > 0) query.set("start-after", `${this.#prefix}${chunkKey(first - 1)}`);
    const text = await exchange(
      this.#patience,
      { make: () => this.#request("GET", "", { query }), expect: [200], verb: "list" },
      async (_, body) => {
        const page = new Uint8Array(pageSizeMax);
        return new TextDecoder().decode(page.subarray(0, await takeAtMost(body, page)));
      },
    );
    const chunks: number[] = [];
    for (const [, key = ""] of text.matchAll(/<Key>([^<]{1,1100})<\/Key>/g)) {
      const name = unescaped(key);
      const chunk = name.startsWith(this.#prefix) ? chunkOfKey(name.slice(this.#prefix.length)) : -1;
      if (chunk >= first) chunks.push(chunk);
    }
    const isCut = /<IsTruncated>\s*true\s*<\/IsTruncated>/.test(text);
    const end = isCut ? Math.min(first + count, (chunks.at(-1) ?? first) + 1) : first + count;
    const found = new Array<boolean>(end - first).fill(false);
    for (const chunk of chunks) if (chunk < end) found[chunk - first] = true;
    // A page of other keys only says nothing of the chunk that was asked for.
    if (isCut && chunks.length === 0) found[0] = true;
    return found;
  }

  /** See {@link ChunkStore.flush}. */
  flush(): Promise<void> {
    return Promise.resolve();
  }

  /** See {@link ChunkStore.close}. */
  close(): Promise<void> {
    return Promise.resolve();
  }

  async #get(key: string, sizeMax: number): Promise<Uint8Array | null> {
    return await exchange(
      this.#patience,
      { make: () => this.#request("GET", key), expect: [200, 404], verb: "read" },
      async ({ status, headers }, body) => {
        if (status === 404) {
          const buffer = new Uint8Array(4096);
          const said = new TextDecoder().decode(
            buffer.subarray(0, await takeAtMost(body, buffer).catch(() => 0)),
          );
          if (!said.includes("<Code>NoSuchBucket</Code>")) return null;
          throw new IoError("EIO", `Cannot open "${this.name}": there is no such bucket`);
        }
        const size = Number(headers.get("content-length") ?? "");
        const room = new Uint8Array(Number.isInteger(size) && size > 0 && size <= sizeMax ? size : sizeMax);
        return room.subarray(0, await takeAtMost(body, room));
      },
    );
  }

  async #put(key: string, bytes: Uint8Array): Promise<void> {
    await exchange(
      this.#patience,
      { make: () => this.#request("PUT", key, { bytes }), expect: [200, 201, 204], verb: "write to" },
      () => Promise.resolve(),
    );
  }

  async #request(
    method: string,
    key: string,
    options: { range?: string; bytes?: Uint8Array; query?: URLSearchParams } = {},
  ): Promise<Request> {
    const { range, bytes, query } = options;
    const url = new URL(this.#base);
    if (query !== undefined) url.search = query.toString();
    else url.pathname += `${this.#prefix}${key}`.split("/").map(encodeURIComponent).join("/");
    const headers = new Headers();
    if (range !== undefined) headers.set("range", range);
    headers.set(
      "x-amz-content-sha256",
      createHash("sha256").update(bytes ?? new Uint8Array(0)).digest("hex"),
    );
    return await this.#client.sign(url.href, {
      method,
      headers,
      // The request may outlive the caller's buffer by a retry, and never the promise.
      ...(bytes === undefined ? {} : { body: bytes as Uint8Array<ArrayBuffer> }),
    });
  }
}

/** The five entities of XML. */
function unescaped(text: string): string {
  return text.replace(/&(amp|lt|gt|quot|apos);/g, (_, name: string) => entities[name] ?? "");
}

const entities: Readonly<Record<string, string>> = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'" };
