/**
 * Backends by URL: `openBackend("nbd://host/disk")`.
 *
 * | URL | what it is |
 * | --- | --- |
 * | `PATH`, `file:PATH` | a file or a block device |
 * | `direct:PATH` | the same beside the page cache (O_DIRECT) |
 * | `memory:SIZE` | new memory of this process |
 * | `dir:PATH` | a directory of chunks |
 * | `nbd://HOST[:PORT][/NAME]` | an NBD server, by TCP |
 * | `nbds://HOST[:PORT][/NAME][?key=FILE]` | the same inside of TLS; also `tls-certificates=DIR`, `tls-hostname=NAME` |
 * | `nbd+unix:///[NAME]?socket=PATH` | an NBD server, by a unix socket |
 * | `redis://[USER:PASSWORD@]HOST[:PORT][/DB][?name=NAME]` | a Redis server; `rediss:` inside of TLS |
 * | `redis+unix:///[DB]?socket=PATH[&name=NAME]` | the same by a unix socket |
 * | `s3://BUCKET[/PREFIX][?endpoint=URL&region=REGION]` | a bucket; keys are in `AWS_ACCESS_KEY_ID` and its like |
 * | `zstd+dir:PATH`, `zstd+redis:…`, `zstd+s3:…` | the same, chunks compressed; `level=N` |
 * | `https://HOST/PATH`, `http:` | a file of a web server, by ranges, read-only |
 *
 * `dir:`, `redis:`, `s3:` and `zstd+…` take `size=SIZE` and `chunk=SIZE`, for a new one. The three of NBD take `timeout=SECONDS`.
 *
 * Text before the first colon is a scheme when it has at least two letters; a file of such a name is `file:NAME` or
 * `./NAME`.
 *
 * A further scheme is one call:
 *
 * ```ts
 * import { registerScheme, CheckedBackend } from "./backend_url.ts";
 *
 * class Ones extends CheckedBackend {
 *   protected override read(_offset: number, into: Uint8Array): void {
 *     into.fill(1);
 *   }
 * }
 * registerScheme("ones", (url) => new Ones({ name: url.text, size: Number(url.rest), readOnly: true }));
 * ```
 *
 * @module
 */
import { type Libc, type Native, openNative } from "../../ffi/mod.ts";
import { DroverError } from "../base/errors.ts";
import { parseSize } from "../base/size.ts";
import { type Backend, CheckedBackend, type MaybePromise } from "./backend.ts";
import { DirectoryBackend } from "./backend_directory.ts";
import { FileBackend } from "./backend_file.ts";
import { MemoryBackend } from "./backend_memory.ts";
import { NbdBackend, nbdPort } from "./backend_nbd.ts";
import { readOnly } from "./backend_wrap.ts";

export { CheckedBackend };

/** A URL in its parts. */
export interface BackendUrl {
  /** As it was given. */
  text: string;
  /** Before the first colon; "file" for a plain path. */
  scheme: string;
  /** Behind it, without the query. */
  rest: string;
  /** What stands behind a question mark; of `file:` and plain paths nothing does. */
  query: ReadonlyMap<string, string>;
}

/** How a backend is opened. */
export interface OpenOptions {
  /** Nothing is written. */
  readOnly?: boolean;
  /** Makes what is not there, of this size, where the scheme can; another size is refused. */
  create?: number;
  /** System calls for holes in files; by default those of the native library, where it is. */
  libc?: Libc | null;
  /** Connections to a server that allows several. */
  connections?: number;
  /**
   * Milliseconds until an access to a server that does not answer fails with ETIMEDOUT; until then it is connected to
   * and asked again. Default 30 s; 0 takes the first loss of an NBD connection for the last word.
   */
  timeoutMs?: number;
}

/** Opens what a URL of one scheme names. */
export type OpenScheme = (url: BackendUrl, options: OpenOptions) => MaybePromise<Backend>;

const schemes = new Map<string, { open: OpenScheme; query: readonly string[] }>();

/**
 * Gives a scheme to `openBackend`.
 *
 * @param scheme at least two small letters, digits or `+`
 * @param open what it names
 * @param query the words that may stand in its query
 */
export function registerScheme(scheme: string, open: OpenScheme, query: readonly string[] = []): void {
  if (!/^[a-z][a-z0-9+]+$/.test(scheme)) throw new RangeError(`Cannot use "${scheme}" as a scheme`);
  if (schemes.has(scheme)) throw new RangeError(`Cannot use "${scheme}" as a scheme: it is taken`);
  schemes.set(scheme, { open, query });
}

/** The schemes that there are. */
export function schemeNames(): string[] {
  return [...schemes.keys()].sort();
}

/** A URL as it may be shown, noted and sent: without user and password. */
export function shownUrl(text: string): string {
  return text.replace(/^([a-z][a-z0-9+]+:\/\/)[^/?#]*@/, "$1…@");
}

/** Takes a URL apart. @throws {DroverError} code "usage" */
export function parseBackendUrl(text: string): BackendUrl {
  if (text === "") throw new DroverError("usage", 'Cannot use "" as a backend: it is empty');
  const match = /^([a-z][a-z0-9+]+):(.*)$/s.exec(text);
  if (match === null) return { text, scheme: "file", rest: text, query: new Map() };
  const [, scheme = "", behind = ""] = match;
  const known = schemes.get(scheme);
  if (known === undefined) {
    throw new DroverError(
      "usage",
      `Cannot use "${shownUrl(text)}" as a backend: the scheme "${scheme}" is not known`,
      {
        hint: `one of ${
          schemeNames().map((name) => `${name}:`).join(", ")
        }; for a file of that name: ./${text}`,
      },
    );
  }
  if (known.query.length === 0) return { text, scheme, rest: behind, query: new Map() };
  const at = behind.indexOf("?");
  const query = new Map<string, string>();
  for (const pair of at < 0 ? [] : behind.slice(at + 1).split("&")) {
    const [key = "", ...value] = pair.split("=");
    if (!known.query.includes(key) || query.has(key)) {
      throw new DroverError(
        "usage",
        `Cannot use "${shownUrl(text)}" as a backend: "${pair}" does not belong there`,
        {
          hint: `the query may have ${known.query.map((word) => `${word}=…`).join(", ")}`,
        },
      );
    }
    query.set(key, decodeText(text, value.join("=")));
  }
  return { text, scheme, rest: at < 0 ? behind : behind.slice(0, at), query };
}

/**
 * Opens what a URL, or a plain path, names.
 *
 * @throws {DroverError} code "usage" for a URL that is none, and what opening it runs into
 *
 * @example
 * ```ts
 * import { openBackend } from "./backend_url.ts";
 *
 * await using disk = await openBackend("memory:64KiB");
 * await disk.writeAt(512, new Uint8Array([1, 2, 3]));
 * const bytes = new Uint8Array(4);
 * await disk.readAt(511, bytes);
 * if (bytes[1] !== 1) throw new Error("It reads something else");
 * ```
 */
export async function openBackend(text: string, options: OpenOptions = {}): Promise<Backend> {
  const url = parseBackendUrl(text);
  const known = schemes.get(url.scheme);
  if (known === undefined) throw new Error(`The scheme ${url.scheme} was taken away`);
  try {
    const backend = await known.open(url, options);
    return options.readOnly === true && !backend.readOnly ? readOnly(backend) : backend;
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new DroverError("usage", error.message, { cause: error });
  }
}

/** The native library, where it can be loaded. */
function nativeLibrary(): Native | null {
  try {
    return openNative();
  } catch {
    return null;
  }
}

function decodeText(url: string, text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    throw new DroverError(
      "usage",
      `Cannot use "${shownUrl(url)}" as a backend: "${text}" is no percent-encoded text`,
    );
  }
}

registerScheme(
  "file",
  ({ rest }, { readOnly, create, libc }) =>
    FileBackend.open(rest.startsWith("//") ? rest.replace(/^\/\/(?=\/)/, "") : rest, {
      readOnly: readOnly ?? false,
      libc: libc === undefined ? nativeLibrary()?.libc ?? null : libc,
      ...(create === undefined ? {} : { create }),
    }),
);

registerScheme("direct", async ({ text, rest }, { readOnly, create }) => {
  const native = nativeLibrary();
  if (native === null) {
    throw new DroverError("unsupported", `Cannot use "${text}": there is no native library`);
  }
  const { DirectBackend } = await import("./backend_direct.ts");
  return DirectBackend.open(rest.startsWith("//") ? rest.replace(/^\/\/(?=\/)/, "") : rest, native, {
    readOnly: readOnly ?? false,
    ...(create === undefined ? {} : { create }),
  });
});

registerScheme("memory", ({ text, rest }, { create }) => {
  const size = rest === "" && create !== undefined ? create : parseSize(rest);
  if (size > 2 ** 32) throw new RangeError(`Cannot use "${shownUrl(text)}" as a backend: it may have 4GiB`);
  return new MemoryBackend(size, { name: text });
});

registerScheme("dir", ({ rest, query }, { readOnly, create }) => {
  const size = query.has("size") ? parseSize(query.get("size") ?? "") : create;
  const chunk = query.has("chunk") ? parseSize(query.get("chunk") ?? "") : undefined;
  return DirectoryBackend.open(rest, {
    readOnly: readOnly ?? false,
    ...(size === undefined ? {} : { create: { size, ...(chunk === undefined ? {} : { chunk }) } }),
  });
}, ["size", "chunk"]);

for (const scheme of ["nbd", "nbds"]) {
  registerScheme(scheme, async ({ text, rest, query }, options) => {
    const [, bracketed, plain, port, path = ""] =
      /^\/\/(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::(\d{1,5}))?(?:\/(.*))?$/s.exec(rest) ?? [];
    const hostname = bracketed ?? plain;
    if (hostname === undefined || Number(port ?? 0) > 65_535) {
      throw new DroverError(
        "usage",
        `Cannot use "${shownUrl(text)}" as a backend: it should be ${scheme}://HOST[:PORT][/NAME]`,
      );
    }
    const place = { hostname, port: port === undefined ? nbdPort : Number(port) };
    const name = decodeText(text, path);
    if (scheme === "nbd") return await NbdBackend.connect(place, nbdOptions(name, query, options));
    const { nbdTrust } = await import("./nbd_trust.ts");
    const trust = await nbdTrust(name, {
      key: query.get("key"),
      certificates: query.get("tls-certificates"),
      hostname: query.get("tls-hostname"),
    });
    return await NbdBackend.connect(place, { ...nbdOptions(trust.name, query, options), tls: trust.tls });
  }, scheme === "nbd" ? ["timeout"] : ["timeout", "key", "tls-certificates", "tls-hostname"]);
}

registerScheme("nbd+unix", ({ text, rest, query }, options) => {
  const socket = query.get("socket");
  const [, path] = /^\/\/\/?(.*)$/s.exec(rest) ?? [];
  if (socket === undefined || path === undefined) {
    throw new DroverError(
      "usage",
      `Cannot use "${shownUrl(text)}" as a backend: it should be nbd+unix:///[NAME]?socket=PATH`,
    );
  }
  return NbdBackend.connect({ path: socket }, nbdOptions(decodeText(text, path), query, options));
}, ["socket", "timeout"]);

// Stores of chunks: what they need is loaded when one is opened.
for (const scheme of ["redis", "rediss", "redis+unix", "zstd+redis", "zstd+rediss", "zstd+redis+unix"]) {
  registerScheme(
    scheme,
    async (url, options) => await (await import("./stored_schemes.ts")).openRedis(url, options),
    [
      "name",
      "size",
      "chunk",
      ...scheme.startsWith("zstd+") ? ["level"] : [],
      ...scheme.endsWith("unix") ? ["socket"] : [],
    ],
  );
}
for (const scheme of ["s3", "zstd+s3"]) {
  registerScheme(
    scheme,
    async (url, options) => await (await import("./stored_schemes.ts")).openS3(url, options),
    ["endpoint", "region", "size", "chunk", ...scheme === "s3" ? [] : ["level"]],
  );
}
registerScheme(
  "zstd+dir",
  async (url, options) => await (await import("./stored_schemes.ts")).openZstdDirectory(url, options),
  ["size", "chunk", "level"],
);

for (const scheme of ["http", "https"]) {
  registerScheme(scheme, async ({ text }, { timeoutMs }) => {
    const { HttpBackend } = await import("./backend_http.ts");
    if (!URL.canParse(text)) {
      throw new DroverError(
        "usage",
        `Cannot use "${shownUrl(text)}" as a backend: it should be ${scheme}://HOST/PATH`,
      );
    }
    return await HttpBackend.open(text, timeoutMs === undefined ? {} : { timeoutMs });
  });
}

function nbdOptions(
  name: string,
  query: ReadonlyMap<string, string>,
  { readOnly, connections, timeoutMs }: OpenOptions,
): { name: string; readOnly: boolean; connections: number; timeoutMs?: number } {
  const wait = query.has("timeout") ? parseSeconds(query.get("timeout") ?? "") : timeoutMs;
  return {
    name,
    readOnly: readOnly ?? false,
    connections: connections ?? 1,
    ...(wait === undefined ? {} : { timeoutMs: wait }),
  };
}

/** Seconds, at most a day, as milliseconds. */
function parseSeconds(text: string): number {
  const seconds = /^\d{1,5}(\.\d{1,3})?$/.test(text) ? Number(text) : Infinity;
  if (seconds <= 86_400) return Math.round(seconds * 1000);
  throw new RangeError(`Cannot use "${text}" as a time-out: it should be seconds, at most 86400`);
}
