/**
 * Goal: NBD inside of TLS, servers that are killed, and stores behind `drover export` work with programs that others
 * wrote.
 * Method: real processes; contents are compared by other people's programs or by checksum.
 */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { toolExists } from "../../bench/process.ts";
import { openBackend } from "../../lib/region/backend_url.ts";
import { RedisServer, S3Server } from "../region/stores.ts";
import { prng } from "../stream/prng.ts";
import { Exported } from "./exported.ts";
import { fromSource } from "./nodes.ts";

const MiB = 2 ** 20;
const tools = ["nbdinfo", "nbdcopy", "qemu-img", "nbdkit", "openssl"];
const missing = tools.filter((tool) => !toolExists(tool));
if (missing.length > 0) {
  console.error(
    `tests/real: skipped, there is no ${
      missing.join(", ")
    }; type: apt-get install libnbd-bin qemu-utils nbdkit openssl`,
  );
}

function test(claim: string, body: (room: string) => Promise<void>): void {
  Deno.test({
    name: claim,
    ignore: missing.length > 0,
    fn: async () => {
      const room = Deno.makeTempDirSync({ dir: "/var/tmp", prefix: "drover-far-" });
      try {
        await body(room);
      } finally {
        Deno.removeSync(room, { recursive: true });
      }
    },
  });
}

async function run(program: string, ...args: string[]): Promise<{ code: number; said: string }> {
  const done = await new Deno.Command("timeout", { args: ["60", program, ...args], stdin: "null" }).output();
  const decoder = new TextDecoder();
  return { code: done.code, said: `${decoder.decode(done.stdout)}${decoder.decode(done.stderr)}` };
}

async function must(program: string, ...args: string[]): Promise<string> {
  const { code, said } = await run(program, ...args);
  assert.equal(code, 0, `${program} ${args.join(" ")}: ${said}`);
  return said;
}

async function drover(...args: string[]): Promise<{ code: number; said: string }> {
  const [program = "", ...rest] = fromSource;
  return await run(program, ...rest, ...args);
}

/** Data, a hole, data. */
function makeImage(path: string, size: number): string {
  const random = prng(77);
  const bytes = new Uint8Array(size);
  const words = new Uint32Array(bytes.buffer);
  for (let at = 0; at < words.length; at++) words[at] = random(2 ** 32);
  bytes.fill(0, size / 4, size / 2);
  Deno.writeFileSync(path, bytes);
  return sha256(path);
}

function sha256(path: string): string {
  return createHash("sha256").update(Deno.readFileSync(path)).digest("hex");
}

/** An authority, and a server's certificate for this machine, as other NBD programs want them. */
async function makeCertificates(directory: string): Promise<void> {
  Deno.mkdirSync(directory);
  const to = (name: string): string => `${directory}/${name}`;
  const newKey = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
  await must(
    "openssl",
    ...["req", "-x509", ...newKey, "-subj", "/CN=test authority", "-days", "30"],
    ...["-keyout", to("ca-key.pem"), "-out", to("ca-cert.pem")],
  );
  await must(
    "openssl",
    ...["req", "-x509", ...newKey, "-subj", "/CN=localhost", "-days", "30"],
    ...[
      "-addext",
      "subjectAltName=DNS:localhost,IP:127.0.0.1",
      "-addext",
      "basicConstraints=critical,CA:FALSE",
    ],
    ...["-CA", to("ca-cert.pem"), "-CAkey", to("ca-key.pem")],
    ...["-keyout", to("server-key.pem"), "-out", to("server-cert.pem")],
  );
}

test("drover export --tls-certificates: nbdinfo, nbdcopy and qemu-img use it, and nobody does in the clear", async (room) => {
  const sum = makeImage(`${room}/disk`, 8 * MiB);
  await makeCertificates(`${room}/pki`);
  await using server = await Exported.start(
    ...[`${room}/disk`, "--listen", "127.0.0.1:0", "--name", "d", "--tls-certificates", `${room}/pki`],
  );
  const port = /:(\d+)\//.exec(server.url)?.[1];
  const url = `nbds://127.0.0.1:${port}/d?tls-certificates=${room}/pki`;
  assert.equal(server.url, url);
  const info = JSON.parse(await must("nbdinfo", "--json", url));
  assert.equal(info.TLS, true);
  assert.equal(info.exports[0]["export-size"], 8 * MiB);
  await must("nbdcopy", url, `${room}/copy`);
  assert.equal(sha256(`${room}/copy`), sum);
  await must(
    "qemu-img",
    ...["compare", "--object", `tls-creds-x509,id=t,dir=${room}/pki,endpoint=client`, "--image-opts"],
    `driver=nbd,host=127.0.0.1,port=${port},export=d,tls-creds=t`,
    `driver=raw,file.filename=${room}/disk`,
  );
  const clear = await run("nbdinfo", `nbd://127.0.0.1:${port}/d`);
  assert.notEqual(clear.code, 0);
  await makeCertificates(`${room}/other`);
  assert.notEqual(
    (await run("nbdinfo", `nbds://127.0.0.1:${port}/d?tls-certificates=${room}/other`)).code,
    0,
  );
  const copied = await drover("cp", url, `${room}/copy2`);
  assert.equal(copied.code, 0, copied.said);
  assert.equal(sha256(`${room}/copy2`), sum);
});

test("drover export --key: drover cp with the key copies, without it nothing is even listed", async (room) => {
  const sum = makeImage(`${room}/disk`, 4 * MiB);
  for (const name of ["key", "other"]) assert.equal((await drover("key", "new", `${room}/${name}`)).code, 0);
  await using server = await Exported.start(
    ...[`${room}/disk`, "--listen", "127.0.0.1:0", "--name", "a b", "--key", `${room}/key`],
  );
  assert.match(server.url, /^nbds:\/\/127\.0\.0\.1:\d+\/a%20b\?key=\/var\/tmp\/.*\/key$/);
  const copied = await drover("cp", server.url, `${room}/copy`);
  assert.equal(copied.code, 0, copied.said);
  assert.equal(sha256(`${room}/copy`), sum);
  const stranger = await drover("cp", server.url.replace(/key$/, "other"), `${room}/no`);
  assert.notEqual(stranger.code, 0);
  assert.match(stranger.said, /did not prove/);
  const clear = await drover("cp", server.url.replace("nbds:", "nbd:").replace(/\?.*/, ""), `${room}/no`);
  assert.notEqual(clear.code, 0);
  assert.match(clear.said, /wants TLS/);
});

test("drover cp nbds: from nbdkit --tls=require", async (room) => {
  const sum = makeImage(`${room}/disk`, 4 * MiB);
  await makeCertificates(`${room}/pki`);
  const nbdkit = await Nbdkit.start(room, "--tls=require", `--tls-certificates=${room}/pki`);
  try {
    const copied = await drover(
      "cp",
      `nbds://localhost:${nbdkit.port}?tls-certificates=${room}/pki`,
      `${room}/copy`,
    );
    assert.equal(copied.code, 0, copied.said);
    assert.equal(sha256(`${room}/copy`), sum);
  } finally {
    await nbdkit.kill();
  }
});

test("a backend over nbdkit: killed with SIGKILL and started again, what was under way goes on", async (room) => {
  makeImage(`${room}/disk`, 32 * MiB);
  let nbdkit = await Nbdkit.start(room);
  const { port } = nbdkit;
  try {
    await using backend = await openBackend(`nbd://127.0.0.1:${port}`, { timeoutMs: 20_000, connections: 4 });
    const random = prng(4);
    const model = Deno.readFileSync(`${room}/disk`);
    let isOver = false;
    let accesses = 0;
    const writers = Array.from({ length: 4 }, async (_, writer) => {
      const draw = prng(40 + writer);
      while (!isOver) {
        const length = 1 + draw(200_000);
        const offset = writer * 8 * MiB + draw(8 * MiB - length);
        if (draw(2) === 0) {
          const bytes = new Uint8Array(length).fill(draw(256));
          await backend.writeAt(offset, bytes);
          model.set(bytes, offset);
        } else {
          const into = new Uint8Array(length);
          await backend.readAt(offset, into);
          assert.equal(
            Uint8Array.prototype.every.call(into, (byte, at) => byte === model[offset + at]),
            true,
          );
        }
        accesses++;
      }
    });
    const before: number[] = [];
    for (let times = 0; times < 4; times++) {
      await new Promise((resolve) => setTimeout(resolve, 100 + random(200)));
      await nbdkit.kill();
      before.push(accesses);
      nbdkit = await Nbdkit.start(room, `--port=${port}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 300));
    isOver = true;
    await Promise.all(writers);
    assert.ok(accesses > (before.at(-1) ?? 0), `${before} and ${accesses} accesses`);
    await backend.flush();
    assert.equal(sha256(`${room}/disk`), createHash("sha256").update(model).digest("hex"));
  } finally {
    await nbdkit.kill();
  }
});

test("drover export of zstd+redis and zstd+s3: qemu-img convert and compare, nbdcopy", async (room) => {
  const sum = makeImage(`${room}/disk`, 8 * MiB);
  const redis = await RedisServer.start(`${room}/redis`);
  const s3 = await S3Server.start(`${room}/s3`);
  try {
    const urls = [
      ...redis === null ? [] : [`zstd+redis://:secret@127.0.0.1:${redis.port}/?name=vm&size=8MiB`],
      ...s3 === null ? [] : [`zstd+s3://disks/vm?${s3.query}&size=8MiB`],
    ];
    for (const url of urls) {
      await using server = await Exported.start(url, "--listen", "127.0.0.1:0");
      await must("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", `${room}/disk`, server.url);
      await must("qemu-img", "compare", "-f", "raw", "-F", "raw", `${room}/disk`, server.url);
      await must("nbdcopy", server.url, `${room}/copy`);
      assert.equal(sha256(`${room}/copy`), sum);
      const map = JSON.parse(await must("nbdinfo", "--map", "--json", server.url));
      assert.ok(
        map.some(({ type, length }: { type: number; length: number }) => type === 3 && length === 2 * MiB),
      );
    }
  } finally {
    redis?.kill();
    s3?.kill();
  }
});

/** nbdkit over `ROOM/disk`. */
class Nbdkit {
  readonly port: number;
  readonly #child: Deno.ChildProcess;

  private constructor(port: number, child: Deno.ChildProcess) {
    this.port = port;
    this.#child = child;
  }

  static async start(room: string, ...args: string[]): Promise<Nbdkit> {
    const chosen = /^--port=(\d+)$/.exec(args.find((arg) => arg.startsWith("--port=")) ?? "")?.[1];
    let port = Number(chosen ?? 0);
    if (port === 0) {
      using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
      port = listener.addr.port;
    }
    const child = new Deno.Command("nbdkit", {
      args: [
        ...[
          "-f",
          "--ipaddr=127.0.0.1",
          ...args.filter((arg) => !arg.startsWith("--port=")),
          `--port=${port}`,
        ],
        ...["file", `${room}/disk`],
      ],
      stdin: "null",
      stdout: "null",
      stderr: "null",
    }).spawn();
    for (let wait = 0; wait < 200; wait++) {
      try {
        (await Deno.connect({ hostname: "127.0.0.1", port })).close();
        return new Nbdkit(port, child);
      } catch {
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
    }
    child.kill("SIGKILL");
    throw new Error("nbdkit did not start");
  }

  async kill(): Promise<void> {
    try {
      this.#child.kill("SIGKILL");
    } catch {
      // It has ended.
    }
    await this.#child.status;
  }
}
