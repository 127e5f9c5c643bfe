/**
 * Real servers for tests of stores: redis-server of the system, and s3rver, an S3 server from npm that is no part of
 * the program and stands in nobody's lock file.
 */
import { toolExists } from "../../bench/process.ts";

async function freePort(): Promise<number> {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  await Promise.resolve();
  return listener.addr.port;
}

async function untilListening(port: number, child: Deno.ChildProcess): Promise<void> {
  let hasEnded = false;
  void child.status.then(() => hasEnded = true);
  for (let wait = 0; wait < 600 && !hasEnded; wait++) {
    try {
      (await Deno.connect({ hostname: "127.0.0.1", port })).close();
      return;
    } catch {
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }
  throw new Error(`Nothing listens on port ${port}`);
}

/** A redis-server that syncs what it answers; password "secret". */
export class RedisServer {
  readonly port: number;
  readonly socket: string;
  readonly #directory: string;
  #child: Deno.ChildProcess | null = null;

  readonly #isDurable: boolean;

  private constructor(directory: string, port: number, isDurable: boolean) {
    this.#directory = directory;
    this.#isDurable = isDurable;
    this.port = port;
    this.socket = `${directory}/socket`;
  }

  /** Starts one; null, with a word on why, where there is none. */
  static async start(directory: string, isDurable = true): Promise<RedisServer | null> {
    if (!toolExists("redis-server")) {
      console.error("tests: redis skipped, there is no redis-server; type: apt-get install redis-server");
      return null;
    }
    Deno.mkdirSync(directory, { recursive: true });
    const server = new RedisServer(directory, await freePort(), isDurable);
    await server.#spawn();
    return server;
  }

  /** Kills it with SIGKILL and starts it again where it was. */
  async restart(): Promise<void> {
    this.#child?.kill("SIGKILL");
    await this.#child?.status;
    await this.#spawn();
  }

  kill(): void {
    try {
      this.#child?.kill("SIGKILL");
    } catch {
      // It has ended.
    }
  }

  /** Asks it as an administrator would. */
  async cli(...args: string[]): Promise<string> {
    const { stdout } = await new Deno.Command("redis-cli", {
      args: ["-p", String(this.port), "-a", "secret", "--no-auth-warning", ...args],
    }).output();
    return new TextDecoder().decode(stdout);
  }

  async #spawn(): Promise<void> {
    const settings = {
      port: this.port,
      bind: "127.0.0.1",
      unixsocket: this.socket,
      dir: this.#directory,
      appendonly: this.#isDurable ? "yes" : "no",
      appendfsync: "always",
      save: "",
      requirepass: "secret",
      databases: 16,
    };
    const args = Object.entries(settings).flatMap(([name, value]) => [`--${name}`, String(value)]);
    this.#child = new Deno.Command("redis-server", {
      args: args,
      stdin: "null",
      stdout: "null",
      stderr: "null",
    }).spawn();
    await untilListening(this.port, this.#child);
  }
}

/**
 * s3rver, whose store is given what S3 has and it has not: a PUT that is answered when it is done, and that a GET sees
 * whole or not at all. It knows who asks, and does not check version 4 signatures.
 */
const s3Program = `
import S3rver from "npm:s3rver@3.7.1";
import { stat } from "node:fs/promises";
import { Buffer } from "node:buffer";
const [directory, port] = Deno.args;
const server = new S3rver({
  directory, address: "127.0.0.1", port: Number(port), silent: true, vhostBuckets: false,
  configureBuckets: [{ name: "disks" }],
});
const store = server.store;
const { putObject, getObject } = Object.getPrototypeOf(store);
let turn = Promise.resolve();
const inTurn = (work) => {
  const mine = turn.then(work);
  turn = mine.catch(() => {});
  return mine;
};
store.putObject = (object) => inTurn(async () => {
  const done = await putObject.call(store, object);
  const path = store.getResourcePath(object.bucket, object.key, "object");
  while ((await stat(path)).size !== done.size) await new Promise((resolve) => setTimeout(resolve, 1));
  return done;
});
store.getObject = (...args) => inTurn(async () => {
  const object = await getObject.call(store, ...args);
  if (object === null || object.content === null) return object;
  const parts = [];
  for await (const part of object.content) parts.push(part);
  object.content = Buffer.concat(parts);
  // "bytes=0-0" is a range of one byte.
  if (args[2]?.end === 0 && object.range) {
    object.content = object.content.subarray(0, 1);
    object.range.end = 0;
  }
  return object;
});
await server.run();
`;

/** An S3 server with the bucket "disks". */
export class S3Server {
  readonly endpoint: string;
  /** What the URL of a backend on it says behind the question mark. */
  readonly query: string;
  readonly #child: Deno.ChildProcess;

  private constructor(endpoint: string, child: Deno.ChildProcess) {
    this.endpoint = endpoint;
    this.query = `endpoint=${encodeURIComponent(endpoint)}`;
    this.#child = child;
  }

  /** Starts one; null, with a word on why, where npm cannot be reached. */
  static async start(directory: string): Promise<S3Server | null> {
    Deno.mkdirSync(directory, { recursive: true });
    Deno.env.set("AWS_ACCESS_KEY_ID", "S3RVER");
    Deno.env.set("AWS_SECRET_ACCESS_KEY", "S3RVER");
    const port = await freePort();
    const child = new Deno.Command(Deno.execPath(), {
      args: [
        ...["run", "--allow-all", "--no-lock", "--no-config", "--node-modules-dir=none", "--quiet"],
        ...["-", `${directory}/data`, String(port)],
      ],
      cwd: directory,
      stdin: "piped",
      stdout: "null",
      stderr: "null",
    }).spawn();
    const input = child.stdin.getWriter();
    await input.write(new TextEncoder().encode(s3Program));
    await input.close();
    try {
      await untilListening(port, child);
    } catch {
      console.error("tests: s3 skipped, npm:s3rver cannot be had");
      return null;
    }
    return new S3Server(`http://127.0.0.1:${port}`, child);
  }

  kill(): void {
    try {
      this.#child.kill("SIGKILL");
    } catch {
      // It has ended.
    }
  }
}
