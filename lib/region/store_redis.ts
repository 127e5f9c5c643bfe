/**
 * Chunks in Redis: a key per chunk, `NAME:000000000000002a`, whose value is the chunk.
 *
 * Invariants:
 * - Parts are read and changed by the server (GETRANGE, SETRANGE): no chunk travels for a few octets of it.
 * - All commands may be done twice, and are sent again after a reconnection until the time-out.
 * - `flush` waits for the server's append-only file where it can be asked to (WAITAOF, Redis 7.2). Where it cannot,
 *   what lasts is what the server's own settings say: with `appendfsync always` all that was answered, otherwise
 *   not the last second, or more. A restart by which something may be lost fails the next flush, once.
 *
 * @module
 */
import { DroverError } from "../base/errors.ts";
import type { NbdTransport } from "../nbd/mod.ts";
import { IoError } from "./backend.ts";
import { chunkKey, type ChunkStore, descriptionKey } from "./chunk_store.ts";
import { patiently, TransientError, within } from "./patience.ts";
import { RedisClient, RedisError, type RedisReply } from "./redis_client.ts";

/** Where a server is, and as whom. */
export interface RedisOptions {
  /** Its address, or its socket. */
  place: { hostname: string; port: number } | { path: string };
  /** Inside of TLS. */
  tls?: boolean;
  /** For AUTH; without a user it is that of `requirepass`. */
  user?: string;
  /** For AUTH. */
  password?: string;
  /** For SELECT; default 0. */
  database?: number;
  /** What keys begin with. */
  prefix: string;
  /** Milliseconds; see `OpenOptions`. */
  timeoutMs: number;
}

/** The port that Redis has. */
export const redisPort = 6379;

/** Commands that one EXISTS stands for. */
const presentMax = 1024;

/** A Redis server as a store. */
export class RedisStore implements ChunkStore {
  /** See {@link ChunkStore.name}. */
  readonly name: string;
  /** See {@link ChunkStore.parallel}. */
  readonly parallel = 32;
  readonly #options: RedisOptions;
  #client: RedisClient | null = null;
  #reaching: Promise<RedisClient> | null = null;
  #canWaitAof = true;
  #closed = false;
  /** How much was answered, and how much of that was flushed. */
  #changes = 0;
  #flushed = 0;
  /** Of that something may be gone: the next flush says so. */
  #hasLost = false;
  /** Another one after a restart. */
  #runId = "";

  private constructor(options: RedisOptions, name: string) {
    this.#options = options;
    this.name = name;
  }

  /** Connects. @throws {IoError} when nobody answers or the password is wrong */
  static async open(options: RedisOptions): Promise<RedisStore> {
    const { place, tls, database = 0, prefix } = options;
    const host = "path" in place ? place.path : `${place.hostname}:${place.port}`;
    const store = new RedisStore(
      options,
      `${tls === true ? "rediss" : "redis"}://${host}/${database}?name=${prefix}`,
    );
    try {
      await within(10_000, null, (signal) => store.#connect(signal));
    } catch (error) {
      if (!(error instanceof TransientError)) throw error;
      throw new IoError("EIO", `Cannot connect to "${store.name}"`, { code: "disconnected", cause: error });
    }
    return store;
  }

  /** See {@link ChunkStore.readDescription}. */
  async readDescription(): Promise<Uint8Array | null> {
    return octets(await this.#ask(["GET", this.#key(null)], { sizeMax: 4096 }));
  }

  /** See {@link ChunkStore.writeDescription}. */
  async writeDescription(bytes: Uint8Array): Promise<void> {
    await this.#ask(["SET", this.#key(null), bytes]);
  }

  /** See {@link ChunkStore.get}. */
  async get(chunk: number, sizeMax: number): Promise<Uint8Array | null> {
    return octets(await this.#ask(["GET", this.#key(chunk)], { sizeMax }));
  }

  /** See {@link ChunkStore.getPart}. */
  async getPart(chunk: number, from: number, into: Uint8Array): Promise<void> {
    const end = from + into.length - 1;
    const count = await this.#ask(["GETRANGE", this.#key(chunk), from, end], { into });
    into.fill(0, typeof count === "number" ? count : 0);
  }

  /** See {@link ChunkStore.put}. */
  async put(chunk: number, bytes: Uint8Array): Promise<void> {
    await this.#change(["SET", this.#key(chunk), bytes]);
  }

  /** See {@link ChunkStore.putPart}. */
  async putPart(chunk: number, from: number, bytes: Uint8Array): Promise<void> {
    await this.#change(["SETRANGE", this.#key(chunk), from, bytes]);
  }

  /** See {@link ChunkStore.remove}. */
  async remove(chunk: number): Promise<void> {
    await this.#change(["DEL", this.#key(chunk)]);
  }

  /** See {@link ChunkStore.present}. */
  async present(first: number, count: number): Promise<boolean[]> {
    const asked = Array.from(
      { length: Math.min(count, presentMax) },
      (_, at) => this.#ask(["EXISTS", this.#key(first + at)]),
    );
    return (await Promise.all(asked)).map((reply) => reply === 1);
  }

  /** See {@link ChunkStore.flush}. */
  async flush(): Promise<void> {
    const changes = this.#changes;
    await (this.#canWaitAof && this.#flushed < changes ? this.#waitAof() : this.#ask(["PING"]));
    this.#flushed = Math.max(this.#flushed, changes);
    if (!this.#hasLost) return;
    this.#hasLost = false;
    throw new IoError(
      "EIO",
      `Cannot flush "${this.name}": it was restarted, and may have lost what was not saved`,
    );
  }

  /** See {@link ChunkStore.close}. */
  async close(): Promise<void> {
    this.#closed = true;
    await this.#client?.close();
  }

  /** Waits for the append-only file. It knows what came by this connection only, so something of it comes first. */
  async #waitAof(): Promise<void> {
    const { timeoutMs, prefix } = this.#options;
    const count = await this.#attempt("flush", async (client) => {
      const [, reply] = await Promise.all([
        client.command(["SET", `${prefix}:flush`, "1"]),
        client.command(["WAITAOF", 1, 0, timeoutMs]).catch((error) => {
          // An older server, or one without such a file: it keeps what it keeps.
          const cannot = error instanceof RedisError &&
            /unknown command|appendonly is disabled|^NOPERM/i.test(error.message);
          if (!cannot) throw error;
          this.#canWaitAof = false;
          return [1];
        }),
      ]);
      return Array.isArray(reply) ? reply[0] : null;
    });
    if (typeof count === "number" && count > 0) return;
    throw new IoError("ETIMEDOUT", `Cannot flush "${this.name}": it did not sync in time`);
  }

  #key(chunk: number | null): string {
    return `${this.#options.prefix}:${chunk === null ? descriptionKey : chunkKey(chunk)}`;
  }

  async #ask(
    parts: readonly (string | number | Uint8Array)[],
    options: { into?: Uint8Array; sizeMax?: number } = {},
  ): Promise<RedisReply> {
    return await this.#attempt(String(parts[0]), (client) => client.command(parts, options));
  }

  /** Changes something. */
  async #change(parts: readonly (string | number | Uint8Array)[]): Promise<void> {
    await this.#ask(parts);
    this.#changes++;
  }

  async #attempt<T>(what: string, work: (client: RedisClient) => Promise<T>): Promise<T> {
    const patience = { where: this.name, timeoutMs: this.#options.timeoutMs };
    return await patiently(patience, async (signal) => {
      const client = await this.#connected(signal);
      const giveUp = (): void => void client.close(signal?.reason);
      signal?.addEventListener("abort", giveUp);
      try {
        return await work(client);
      } catch (error) {
        if (!(error instanceof RedisError)) throw error;
        // It reads its file after a restart, or is a replica without its master.
        if (/^(LOADING|BUSY|MASTERDOWN|TRYAGAIN)/.test(error.message)) {
          throw new TransientError(error.message, { cause: error });
        }
        const errno = /^OOM|^MISCONF/.test(error.message)
          ? "ENOSPC"
          : /^(READONLY|NOPERM|NOAUTH)/.test(error.message)
          ? "EPERM"
          : "EIO";
        throw new IoError(errno, `Cannot ${what} in "${this.name}": ${error.message}`, { cause: error });
      } finally {
        signal?.removeEventListener("abort", giveUp);
      }
    });
  }

  async #connected(signal: AbortSignal | null): Promise<RedisClient> {
    if (this.#closed) throw new IoError("ESHUTDOWN", `Cannot use "${this.name}": it is closed`);
    if (this.#client !== null && this.#client.failure === null) return this.#client;
    this.#reaching ??= this.#connect(signal).finally(() => this.#reaching = null);
    return await this.#reaching;
  }

  async #connect(signal: AbortSignal | null): Promise<RedisClient> {
    const { user, password, database = 0 } = this.#options;
    // Its buffers are free only when it has ended.
    await this.#client?.close();
    const client = new RedisClient(await this.#dial(signal));
    const giveUp = (): void => void client.close(signal?.reason);
    signal?.addEventListener("abort", giveUp);
    try {
      if (password !== undefined) {
        await client.command(user === undefined ? ["AUTH", password] : ["AUTH", user, password]);
      }
      if (database !== 0) await client.command(["SELECT", database]);
      await this.#noteRestart(client);
    } catch (error) {
      await client.close();
      if (!(error instanceof RedisError)) throw error;
      if (/^(LOADING|BUSY|MASTERDOWN)/.test(error.message)) throw new TransientError(error.message);
      const isAuth = /^(WRONGPASS|NOAUTH|NOPERM)|invalid password/.test(error.message);
      throw isAuth
        ? new DroverError("auth", `Cannot use "${this.name}": ${error.message}`)
        : new IoError("EIO", `Cannot use "${this.name}": ${error.message}`);
    } finally {
      signal?.removeEventListener("abort", giveUp);
    }
    this.#client = client;
    return client;
  }

  /** Sees whether the server was restarted since the last time, and may have lost something by that. */
  async #noteRestart(client: RedisClient): Promise<void> {
    const info = await client.command(["INFO", "server"]);
    const text = info instanceof Uint8Array ? new TextDecoder().decode(info) : "";
    const runId = /^run_id:([0-9a-f]{1,64})\r?$/m.exec(text)?.[1] ?? "";
    const isOther = this.#runId !== "" && runId !== this.#runId;
    this.#runId = runId;
    if (!isOther || this.#flushed === this.#changes) return;
    const settings: RedisReply[] = [];
    for (const name of ["appendonly", "appendfsync"]) {
      const reply = await client.command(["CONFIG", "GET", name]).catch((error) => {
        if (!(error instanceof RedisError)) throw error;
        return null;
      });
      const value = Array.isArray(reply) ? reply[1] : null;
      settings.push(value instanceof Uint8Array ? new TextDecoder().decode(value) : null);
    }
    // With these it has lost nothing that was answered.
    if (settings[0] !== "yes" || settings[1] !== "always") this.#hasLost = true;
  }

  async #dial(signal: AbortSignal | null): Promise<NbdTransport> {
    const { place, tls } = this.#options;
    try {
      if ("path" in place) return await Deno.connect({ transport: "unix", path: place.path });
      const plain = await Deno.connect({ ...place, ...(signal === null ? {} : { signal }) });
      plain.setNoDelay(true);
      plain.setKeepAlive(true);
      if (tls !== true) return plain;
      const inTls = await Deno.startTls(plain, { hostname: place.hostname });
      const giveUp = (): void => inTls.close();
      signal?.addEventListener("abort", giveUp);
      try {
        await inTls.handshake();
      } finally {
        signal?.removeEventListener("abort", giveUp);
      }
      return inTls;
    } catch (error) {
      throw new TransientError(`Cannot connect to "${this.name}"`, { cause: error });
    }
  }
}

function octets(reply: RedisReply): Uint8Array | null {
  return reply instanceof Uint8Array ? reply : null;
}
