/**
 * A file on a web server, read by ranges.
 *
 * Invariants:
 * - What is read is of one version of the file: it is known by its ETag, or where there is none by its size and
 *   date, and every answer has to have the same. A file that has changed is an error (code "corrupt"), for good.
 * - A server without ranges is refused when it is opened: a file is not fetched whole to read a part of it.
 * - Content is as it is stored: no encoding of the transfer is asked for.
 *
 * @module
 */
import { CheckedBackend, IoError } from "./backend.ts";
import { type Answer, exchange, takeBody } from "./http_exchange.ts";
import { Gate, type Patience } from "./patience.ts";

/** How a file is opened. */
export interface HttpOptions {
  /** Milliseconds until an access fails that gets no answer; until then it is asked again. Default 30 s. */
  timeoutMs?: number;
  /** Requests at once; default 8. */
  parallel?: number;
}

/** What tells one version of a file from another. */
interface Version {
  size: number;
  etag: string | null;
  modified: string | null;
}

/** Most octets of one request; longer reads are several. */
const requestMax = 8 * 2 ** 20;

/** A file behind a URL; read-only. */
export class HttpBackend extends CheckedBackend {
  readonly #url: URL;
  readonly #authorization: string | null;
  readonly #patience: Patience;
  readonly #version: Version;
  readonly #gate: Gate;
  #changed: IoError | null = null;

  private constructor(
    target: { url: URL; authorization: string | null; patience: Patience },
    version: Version,
    parallel: number,
  ) {
    super({ name: target.patience.where, size: version.size, readOnly: true });
    this.#url = target.url;
    this.#authorization = target.authorization;
    this.#patience = target.patience;
    this.#version = version;
    this.#gate = new Gate(parallel);
  }

  /**
   * Asks for its size and version.
   *
   * @param text an `http:` or `https:` URL; user and password in it are sent as Basic authentication
   * @throws {IoError} when it is not there, may not be read, or the server has no ranges; {TypeError} for another URL
   */
  static async open(text: string, options: HttpOptions = {}): Promise<HttpBackend> {
    const { timeoutMs = 30_000, parallel = 8 } = options;
    const url = new URL(text);
    if (url.protocol !== "https:" && url.protocol !== "http:") {
      throw new TypeError(`Cannot read "${url.protocol}" by HTTP`);
    }
    const { username, password } = url;
    const authorization = username === "" && password === ""
      ? null
      : `Basic ${btoa(`${decodeURIComponent(username)}:${decodeURIComponent(password)}`)}`;
    url.username = url.password = url.hash = "";
    const target = { url, authorization, patience: { where: url.href, timeoutMs } };
    const version = await exchange(
      target.patience,
      { make: () => request(target, "bytes=0-0", null), expect: [206, 200, 416], verb: "read" },
      (answer) => Promise.resolve(firstVersion(answer, url.href)),
    );
    return new HttpBackend(target, version, parallel);
  }

  /** See {@link CheckedBackend}. */
  protected override async read(offset: number, into: Uint8Array): Promise<void> {
    const parts: Promise<void>[] = [];
    for (let at = 0; at < into.length; at += requestMax) {
      const part = into.subarray(at, Math.min(at + requestMax, into.length));
      parts.push(this.#gate.run(() => this.#readPart(offset + at, part)));
    }
    // All of them first: a buffer is in use until the last is done.
    for (const result of await Promise.allSettled(parts)) {
      if (result.status === "rejected") throw result.reason;
    }
  }

  async #readPart(offset: number, into: Uint8Array): Promise<void> {
    if (this.#changed !== null) throw this.#changed;
    const last = offset + into.length - 1;
    const target = { url: this.#url, authorization: this.#authorization };
    const strong = this.#version.etag?.startsWith("W/") === false ? this.#version.etag : null;
    await exchange(
      this.#patience,
      {
        make: () => request(target, `bytes=${offset}-${last}`, strong),
        expect: [206, 200, 412, 416, 404, 410],
        verb: "read",
      },
      async (answer, body) => {
        const range = rangeOf(answer.headers);
        const { size, etag, modified } = this.#version;
        const isSame = answer.status === 206 && range !== null && range.size === size &&
          (etag === null
            ? answer.headers.get("last-modified") === modified
            : answer.headers.get("etag") === etag);
        if (!isSame) {
          this.#changed = new IoError("EIO", `Cannot go on with "${this.name}": it has changed, or is gone`, {
            code: "corrupt",
          });
          throw this.#changed;
        }
        if (range.first !== offset || range.last !== last) {
          throw new IoError("EIO", `Cannot read "${this.name}": the server sends another part of it`);
        }
        await takeBody(body, into);
      },
    );
  }
}

function request(
  { url, authorization }: { url: URL; authorization: string | null },
  range: string,
  ifRange: string | null,
): Request {
  const headers = new Headers({ range, "accept-encoding": "identity" });
  if (authorization !== null) headers.set("authorization", authorization);
  // With it a file that has changed comes whole, by 200, and is recognized by that.
  if (ifRange !== null) headers.set("if-range", ifRange);
  return new Request(url, { headers });
}

function firstVersion({ status, headers }: Answer, where: string): Version {
  const etag = headers.get("etag");
  const modified = headers.get("last-modified");
  if ((headers.get("content-encoding") ?? "identity") !== "identity") {
    throw new IoError("ENOTSUP", `Cannot use "${where}": the server encodes it`);
  }
  // An empty file has no first octet.
  const isEmpty = status === 416
    ? /^bytes \*\/0$/.test(headers.get("content-range") ?? "")
    : status === 200 &&
      headers.get("content-length") === "0";
  if (isEmpty) return { size: 0, etag, modified };
  const range = status === 206 ? rangeOf(headers) : null;
  if (range === null || range.first !== 0 || range.last !== 0) {
    throw new IoError("ENOTSUP", `Cannot use "${where}": the server has no ranges`);
  }
  return { size: range.size, etag, modified };
}

/** What Content-Range says; null where it does not. */
function rangeOf(headers: Headers): { first: number; last: number; size: number } | null {
  const [, first, last, size] =
    /^bytes (\d{1,16})-(\d{1,16})\/(\d{1,16})$/.exec(headers.get("content-range") ?? "") ??
      [];
  if (size === undefined || !Number.isSafeInteger(Number(size))) return null;
  return { first: Number(first), last: Number(last), size: Number(size) };
}
