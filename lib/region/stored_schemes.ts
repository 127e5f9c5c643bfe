/**
 * What the URLs of stores of chunks name: `redis:`, `rediss:`, `redis+unix:`, `s3:`, and each of them, and `dir:`,
 * behind `zstd+`. Loaded by `backend_url.ts` when such a URL is opened.
 *
 * @module
 */
import { openNative } from "../../ffi/mod.ts";
import { DroverError } from "../base/errors.ts";
import { parseSize } from "../base/size.ts";
import type { Backend } from "./backend.ts";
import { type ChunkCoding, StoredBackend } from "./backend_stored.ts";
import { type BackendUrl, type OpenOptions, shownUrl } from "./backend_url.ts";
import { zstdCoding } from "./backend_zstd.ts";
import type { ChunkStore } from "./chunk_store.ts";

const timeoutMsDefault = 30_000;
const [KiB, MiB] = [2 ** 10, 2 ** 20];

/** Opens `redis:`, `rediss:`, `redis+unix:`, also behind `zstd+`. */
export async function openRedis(url: BackendUrl, options: OpenOptions): Promise<Backend> {
  const { RedisStore, redisPort } = await import("./store_redis.ts");
  const scheme = url.scheme.replace(/^zstd\+/, "");
  const prefix = url.query.get("name") ?? "drover";
  if (!/^[A-Za-z0-9._:{}/-]{1,200}$/.test(prefix)) throw misshapen(url, "name=NAME has letters and digits");
  const timeoutMs = options.timeoutMs ?? timeoutMsDefault;
  if (scheme === "redis+unix") {
    const path = url.query.get("socket");
    const [, login, database = "0"] = /^\/\/(?:([^@/]*)@)?\/?(\d{1,5})?$/.exec(url.rest) ?? [];
    if (path === undefined) {
      throw misshapen(url, "it should be redis+unix://[[USER]:PASSWORD@]/[DB]?socket=PATH");
    }
    const store = await RedisStore.open({
      place: { path },
      prefix,
      database: Number(database),
      timeoutMs,
      ...credentials(login),
    });
    return await open(url, options, store, 64 * KiB);
  }
  const [, login, bracketed, plain, port, database = "0"] =
    /^\/\/(?:([^@/]*)@)?(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::(\d{1,5}))?(?:\/(\d{1,5})?)?$/
      .exec(url.rest) ?? [];
  const hostname = bracketed ?? plain;
  if (hostname === undefined || Number(port ?? 0) > 65_535) {
    throw misshapen(url, `it should be ${scheme}://[[USER]:PASSWORD@]HOST[:PORT][/DB][?name=NAME]`);
  }
  const store = await RedisStore.open({
    place: { hostname, port: port === undefined ? redisPort : Number(port) },
    tls: scheme === "rediss",
    prefix,
    database: Number(database),
    timeoutMs,
    ...credentials(login),
  });
  return await open(url, options, store, 64 * KiB);
}

/** `USER:PASSWORD` of a URL. */
function credentials(login: string | undefined): { user?: string; password?: string } {
  if (login === undefined) return {};
  const [user = "", password = ""] = login.split(/:(.*)/s).map(decodeURIComponent);
  return { ...(user === "" ? {} : { user }), password };
}

/** Opens `s3:` and `zstd+s3:`. */
export async function openS3(url: BackendUrl, options: OpenOptions): Promise<Backend> {
  const { S3Store } = await import("./store_s3.ts");
  const [, bucket, prefix = ""] = /^\/\/([A-Za-z0-9._-]{3,63})(?:\/(.*?))?\/?$/s.exec(url.rest) ?? [];
  if (bucket === undefined) throw misshapen(url, "it should be s3://BUCKET[/PREFIX][?endpoint=URL]");
  const accessKeyId = Deno.env.get("AWS_ACCESS_KEY_ID");
  const secretAccessKey = Deno.env.get("AWS_SECRET_ACCESS_KEY");
  if (accessKeyId === undefined || secretAccessKey === undefined) {
    throw new DroverError("auth", `Cannot use "${url.text}": there is nobody to ask as`, {
      hint: "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    });
  }
  const sessionToken = Deno.env.get("AWS_SESSION_TOKEN");
  const endpoint = url.query.get("endpoint") ?? Deno.env.get("AWS_ENDPOINT_URL");
  const region = url.query.get("region") ?? Deno.env.get("AWS_REGION");
  if (endpoint !== undefined && !/^https?:\/\/[^?#]+$/.test(endpoint)) {
    throw misshapen(url, "endpoint=URL is none");
  }
  const store = new S3Store({
    bucket,
    prefix,
    credentials: { accessKeyId, secretAccessKey, ...(sessionToken === undefined ? {} : { sessionToken }) },
    timeoutMs: options.timeoutMs ?? timeoutMsDefault,
    ...(endpoint === undefined ? {} : { endpoint }),
    ...(region === undefined ? {} : { region }),
  });
  return await open(url, options, store, MiB);
}

/** Opens `zstd+dir:`. */
export async function openZstdDirectory(url: BackendUrl, options: OpenOptions): Promise<Backend> {
  const { DirectoryStore } = await import("./store_directory.ts");
  const create = options.create !== undefined || url.query.has("size");
  const store = DirectoryStore.open(url.rest, { create, readOnly: options.readOnly ?? false });
  return await open(url, options, store, 256 * KiB);
}

async function open(
  { scheme, query }: BackendUrl,
  options: OpenOptions,
  store: ChunkStore,
  chunkDefault: number,
): Promise<Backend> {
  let create: { size: number; chunk?: number } | null;
  let coding: ChunkCoding | null;
  try {
    const size = query.has("size") ? parseSize(query.get("size") ?? "") : options.create;
    const chunk = query.has("chunk") ? parseSize(query.get("chunk") ?? "") : undefined;
    create = size === undefined ? null : { size, ...(chunk === undefined ? {} : { chunk }) };
    const level = query.get("level");
    if (level !== undefined && !/^\d{1,2}$/.test(level)) {
      throw new RangeError(`Cannot use zstd level ${level}`);
    }
    const zstd = nativeZstd();
    coding = zstd === null ? null : zstdCoding(zstd, level === undefined ? undefined : Number(level));
    if (coding === null && scheme.startsWith("zstd+")) {
      throw new DroverError("unsupported", "Cannot compress: there is no native library");
    }
  } catch (error) {
    await store.close();
    throw error;
  }
  return await StoredBackend.open(store, {
    readOnly: options.readOnly ?? false,
    chunkDefault,
    ...(create === null ? {} : { create }),
    ...(coding === null ? {} : scheme.startsWith("zstd+") ? { coding } : { codings: [coding] }),
  });
}

function nativeZstd(): ReturnType<typeof openNative>["zstd"] | null {
  try {
    return openNative().zstd;
  } catch {
    return null;
  }
}

/** Says what is wrong with a URL, without its password. */
function misshapen({ text }: BackendUrl, why: string): DroverError {
  return new DroverError("usage", `Cannot use "${shownUrl(text)}" as a backend: ${why}`);
}
