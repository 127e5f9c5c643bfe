/**
 * Goal: programs that others wrote find in `drover export` a good NBD server, and our client finds theirs good.
 * Method: real processes over TCP and unix sockets; contents are compared by checksum, never by what a program says
 * of itself.
 */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { toolExists } from "../../bench/process.ts";
import { openBackend } from "../../lib/region/backend_url.ts";
import { prng } from "../stream/prng.ts";
import { Exported } from "./exported.ts";
import { fromSource } from "./nodes.ts";

const MiB = 2 ** 20;
const tools = ["nbdinfo", "nbdcopy", "qemu-img", "qemu-io", "nbdkit", "fio"];
const missing = tools.filter((tool) => !toolExists(tool));
if (missing.length > 0) {
  console.error(
    `tests/real: skipped, there is no ${
      missing.join(", ")
    }; type: apt-get install libnbd-bin qemu-utils nbdkit fio`,
  );
}

function test(claim: string, body: (room: string) => Promise<void>): void {
  Deno.test({
    name: claim,
    ignore: missing.length > 0,
    fn: async () => {
      const room = Deno.makeTempDirSync({ dir: "/var/tmp", prefix: "drover-nbd-" });
      try {
        await body(room);
      } finally {
        Deno.removeSync(room, { recursive: true });
      }
    },
  });
}

/** Runs a program to its end. @returns its stdout */
async function run(program: string, ...args: string[]): Promise<string> {
  const done = await new Deno.Command("timeout", { args: ["60", program, ...args], stdin: "null" }).output();
  const said = new TextDecoder().decode(done.stderr);
  assert.equal(done.code, 0, `${program} ${args.join(" ")}: ${said}${new TextDecoder().decode(done.stdout)}`);
  return new TextDecoder().decode(done.stdout);
}

async function drover(...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  const [program = "", ...rest] = fromSource;
  const done = await new Deno.Command(program, { args: [...rest, ...args], stdin: "null" }).output();
  const decoder = new TextDecoder();
  return { code: done.code, stdout: decoder.decode(done.stdout), stderr: decoder.decode(done.stderr) };
}

function sha256(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}

/** 24 MiB: data, a hole of 8 MiB, data. */
function makeImage(path: string, seed: number): Uint8Array<ArrayBuffer> {
  const random = prng(seed);
  const bytes = new Uint8Array(24 * MiB);
  const words = new Uint32Array(bytes.buffer);
  for (let at = 0; at < words.length; at++) words[at] = random(2 ** 32);
  bytes.fill(0, 8 * MiB, 16 * MiB);
  using file = Deno.openSync(path, { write: true, create: true });
  file.truncateSync(bytes.length);
  for (const [from, to] of [[0, 8 * MiB], [16 * MiB, 24 * MiB]] as const) {
    file.seekSync(from, Deno.SeekMode.Start);
    for (let at = from; at < to;) at += file.writeSync(bytes.subarray(at, to));
  }
  return bytes;
}

test("nbdinfo sees the export as it is, lists it, and maps its holes", async (room) => {
  makeImage(`${room}/disk`, 1);
  await using server = await Exported.start(`${room}/disk`, "--listen", "127.0.0.1:0", "--name", "a b/ü");
  const info = JSON.parse(await run("nbdinfo", "--json", server.url));
  const [found] = info.exports;
  assert.equal(info.protocol, "newstyle-fixed");
  assert.equal(info.structured, true);
  assert.deepEqual(
    {
      size: found["export-size"],
      name: found["export-name"],
      readOnly: found.is_read_only,
      flush: found.can_flush,
      fua: found.can_fua,
      trim: found.can_trim,
      zero: found.can_zero,
      cache: found.can_cache,
      df: found.can_df,
      multi: found.can_multi_conn,
      contexts: found.contexts,
      most: found["block_size_maximum"],
    },
    {
      size: 24 * MiB,
      name: "a b/ü",
      readOnly: false,
      flush: true,
      fua: true,
      trim: true,
      zero: true,
      cache: true,
      df: true,
      multi: true,
      contexts: ["base:allocation"],
      most: 32 * MiB,
    },
  );
  const map = JSON.parse(await run("nbdinfo", "--map", "--json", server.url));
  assert.deepEqual(
    map.map((
      extent: { offset: number; length: number; type: number },
    ) => [extent.offset, extent.length, extent.type]),
    [[0, 8 * MiB, 0], [8 * MiB, 8 * MiB, 3], [16 * MiB, 8 * MiB, 0]],
  );
  const list = JSON.parse(
    await run("nbdinfo", "--list", "--json", server.url.replace(/\/[^/]*\/[^/]*$/, "")),
  );
  assert.deepEqual(list.exports.map((each: { "export-name": string }) => each["export-name"]), ["a b/ü"]);
  const { code, last } = await server.stop();
  assert.equal(code, 0);
  assert.equal(last.writtenBytes, 0);
});

test("nbdcopy copies from and to an export, over four connections, sparse", async (room) => {
  const bytes = makeImage(`${room}/disk`, 2);
  {
    await using server = await Exported.start(`${room}/disk`, "--listen", `unix:${room}/s`, "--read-only");
    await run("nbdcopy", server.url, `${room}/copy`);
    assert.equal(sha256(Deno.readFileSync(`${room}/copy`)), sha256(bytes));
    assert.ok((Deno.statSync(`${room}/copy`).blocks ?? 0) * 512 <= 17 * MiB);
    assert.equal((await server.stop()).code, 0);
    assert.throws(() => Deno.statSync(`${room}/s`), "the socket is left");
  }
  using file = Deno.openSync(`${room}/back`, { write: true, create: true });
  file.truncateSync(24 * MiB);
  await using server = await Exported.start(`${room}/back`, "--listen", `unix:${room}/s`);
  await run("nbdcopy", "--flush", `${room}/copy`, server.url);
  const { code, last } = await server.stop("SIGINT");
  assert.equal(code, 0);
  assert.ok(Number(last.connections) >= 1 && Number(last.writtenBytes) === 16 * MiB, JSON.stringify(last));
  assert.equal(sha256(Deno.readFileSync(`${room}/back`)), sha256(bytes));
});

test("qemu-img converts and compares, qemu-io reads, writes, zeroes, discards and flushes", async (room) => {
  const bytes = makeImage(`${room}/disk`, 3);
  await using server = await Exported.start(`${room}/disk`, "--listen", "127.0.0.1:0");
  await run("qemu-img", "convert", "-O", "qcow2", server.url, `${room}/disk.qcow2`);
  await run("qemu-img", "compare", server.url, `${room}/disk.qcow2`);
  await run("qemu-img", "convert", "-n", "-f", "qcow2", "-O", "raw", `${room}/disk.qcow2`, server.url);
  await run("qemu-img", "compare", "-f", "raw", "-F", "raw", server.url, `${room}/disk`);
  const script = [
    "write -P 0x11 1000 5000",
    "write -f -P 0x22 3M 3M",
    "write -z 4M 64k",
    "write -z -u 5M 64k",
    "discard 6M 1M",
    "aio_write -P 0x33 9M 2M",
    "aio_write -P 0x44 12M 2M",
    "aio_flush",
    "flush",
    "read -P 0x11 1000 5000",
    "read -P 0x22 3M 1M",
    "read -P 0 4M 64k",
    "read -P 0 5M 64k",
    "read -P 0x33 9M 2M",
    "read -P 0x44 12M 2M",
  ];
  const said = await run("qemu-io", "-f", "raw", ...script.flatMap((line) => ["-c", line]), server.url);
  assert.doesNotMatch(said, /failed|error|mismatch/i);
  bytes.fill(0x11, 1000, 6000).fill(0x22, 3 * MiB, 6 * MiB).fill(0x33, 9 * MiB, 11 * MiB).fill(
    0x44,
    12 * MiB,
    14 * MiB,
  );
  for (const at of [4 * MiB, 5 * MiB]) bytes.fill(0, at, at + 65_536);
  assert.equal((await server.stop()).code, 0);
  // What was discarded may hold anything.
  const now = Deno.readFileSync(`${room}/disk`);
  for (const image of [bytes, now]) image.fill(0, 6 * MiB, 7 * MiB);
  assert.equal(sha256(now), sha256(bytes));
});

test("fio's nbd engine writes with sixteen requests in flight, and verifies every block", async (room) => {
  await using server = await Exported.start("memory:64MiB", "--listen", `unix:${room}/s`);
  for (const [rw, size] of [["randwrite", "4k"], ["randwrite", "1k-300k"], ["write", "1m"]]) {
    await run(
      "fio",
      "--name=verify",
      "--ioengine=nbd",
      `--uri=${server.url}`,
      `--rw=${rw}`,
      size?.includes("-") === true ? `--bsrange=${size}` : `--bs=${size}`,
      "--iodepth=16",
      "--size=32m",
      "--io_size=16m",
      "--verify=crc32c",
      "--verify_fatal=1",
      "--randseed=7",
      `--output=${room}/fio.log`,
    );
  }
  const { code, last } = await server.stop();
  assert.equal(code, 0);
  assert.equal(last.errors, 0);
});

test("drover cp takes from and gives to nbdkit, with simple and structured replies, and qemu-nbd's qcow2", async (room) => {
  const bytes = makeImage(`${room}/disk`, 4);
  const serve = async (
    socket: string,
    command: string[],
    body: (url: string) => Promise<void>,
  ): Promise<void> => {
    const [program = "", ...args] = command;
    const child = new Deno.Command(program, { args, stdin: "null", stdout: "null", stderr: "null" }).spawn();
    try {
      for (let wait = 0; wait < 200; wait++) {
        try {
          (await Deno.connect({ transport: "unix", path: socket })).close();
          break;
        } catch {
          await new Promise((resolve) => setTimeout(resolve, 50));
        }
      }
      await body(`nbd+unix:///?socket=${socket}`);
    } finally {
      await end(child);
    }
  };
  for (const extra of [[], ["--no-sr"]]) {
    const name = extra.length;
    const socket = `${room}/k${name}`;
    await serve(socket, ["nbdkit", "-f", ...extra, "--unix", socket, "file", `${room}/disk`], async (url) => {
      const ran = await drover("cp", url, `${room}/copy${name}`, "--json");
      assert.equal(ran.code, 0, ran.stdout + ran.stderr);
      assert.equal(sha256(Deno.readFileSync(`${room}/copy${name}`)), sha256(bytes));
    });
    await serve(
      `${socket}m`,
      ["nbdkit", "-f", ...extra, "--unix", `${socket}m`, "memory", "24M"],
      async (url) => {
        assert.equal((await drover("cp", `${room}/disk`, url)).code, 0);
        await run("nbdcopy", url, `${room}/from${name}`);
        assert.equal(sha256(Deno.readFileSync(`${room}/from${name}`)), sha256(bytes));
      },
    );
  }
  await run("qemu-img", "create", "-f", "qcow2", `${room}/q.qcow2`, "24M");
  await serve(
    `${room}/q`,
    [
      "qemu-nbd",
      "--persistent",
      "--shared=8",
      "--discard=unmap",
      "-f",
      "qcow2",
      "-k",
      `${room}/q`,
      `${room}/q.qcow2`,
    ],
    async (url) => {
      const ran = await drover("cp", `${room}/disk`, url);
      assert.equal(ran.code, 0, ran.stderr);
      const backend = await openBackend(url);
      const holes = await backend.extents?.(8 * MiB, 8 * MiB);
      assert.ok(holes?.every(({ zero }) => zero), JSON.stringify(holes));
      await backend.close();
    },
  );
  await run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", `${room}/q.qcow2`, `${room}/disk`);
});

test("nbdkit's error filter: what the server refuses is an error here, by its name, and the connection lives on", async (room) => {
  const child = new Deno.Command("nbdkit", {
    args: [
      "-f",
      "--filter=error",
      "--unix",
      `${room}/e`,
      "memory",
      "1M",
      "error-pread=EIO",
      "error-pread-rate=100%",
    ],
    stdin: "null",
    stdout: "null",
    stderr: "null",
  }).spawn();
  try {
    for (let wait = 0; wait < 200 && !exists(`${room}/e`); wait++) {
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    const backend = await openBackend(`nbd+unix:///?socket=${room}/e`);
    for (let count = 0; count < 3; count++) {
      await assert.rejects(
        async () => await backend.readAt(0, new Uint8Array(10)),
        (error) => error instanceof Error && "errno" in error && error.errno === "EIO",
      );
    }
    await backend.writeAt(0, new Uint8Array(10));
    await backend.close();
  } finally {
    await end(child);
  }
});

test("drover export: a hostile or slow client harms nobody else, and the socket of a killed server is taken over", async (room) => {
  await using server = await Exported.start("memory:8MiB", "--listen", `unix:${room}/s`);
  const garbage = await Deno.connect({ transport: "unix", path: `${room}/s` });
  await garbage.write(new Uint8Array(100).fill(0xff));
  const slow = await Deno.connect({ transport: "unix", path: `${room}/s` });
  await slow.write(new Uint8Array([0]));
  await run("qemu-io", "-f", "raw", "-c", "write -P 5 0 8M", "-c", "read -P 5 0 8M", server.url);
  const rest = new Uint8Array(100);
  let ended = false;
  for (let reads = 0; reads < 10 && !ended; reads++) {
    ended = await garbage.read(rest).catch(() => null) === null;
  }
  assert.ok(ended, "the hostile client is still connected");
  garbage.close();
  slow.close();
  await server.stop("SIGKILL");
  assert.ok(exists(`${room}/s`));
  await using next = await Exported.start("memory:8MiB", "--listen", `unix:${room}/s`);
  await run("nbdinfo", "--size", next.url);
  const taken = await drover("export", "memory:1MiB", "--listen", `unix:${room}/s`);
  assert.equal(taken.code, 1);
  assert.match(taken.stderr, /cannot listen/);
  assert.equal((await next.stop()).code, 0);
});

test("drover cp ended in the middle, by SIGTERM or SIGKILL, goes on, and what it made is what the source is", async (room) => {
  const bytes = makeImage(`${room}/disk`, 6);
  const socket = `${room}/k`;
  const child = new Deno.Command("nbdkit", {
    args: ["-f", "--filter=delay", "--unix", socket, "file", `${room}/disk`, "rdelay=300ms"],
    stdin: "null",
    stdout: "null",
    stderr: "null",
  }).spawn();
  try {
    for (let wait = 0; wait < 200 && !exists(socket); wait++) {
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    const [program = "", ...rest] = fromSource;
    for (const signal of ["SIGTERM", "SIGKILL"] as const) {
      const noted = sizeOf(`${room}/copy.part.journal`);
      const cut = new Deno.Command(program, {
        args: [...rest, "cp", "--parallel", "1", `nbd+unix:///?socket=${socket}`, `${room}/copy`],
        stdin: "null",
        stdout: "null",
        stderr: "piped",
      }).spawn();
      const said = new Response(cut.stderr).text();
      let ended = false;
      cut.status.then(() => ended = true);
      // The first is stopped once it wrote something, the second once it noted something.
      for (let wait = 0; wait < 500; wait++) {
        if (signal === "SIGTERM" ? grown(`${room}/copy.part`) : sizeOf(`${room}/copy.part.journal`) > noted) {
          break;
        }
        if (ended) assert.fail(`it ended before ${signal}: ${await said}`);
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
      cut.kill(signal);
      assert.notEqual((await cut.status).code, 0);
      await said;
      assert.ok(exists(`${room}/copy.part.journal`) && !exists(`${room}/copy`), signal);
    }
    const ran = await drover("cp", `nbd+unix:///?socket=${socket}`, `${room}/copy`, "--json");
    assert.equal(ran.code, 0, ran.stdout);
    const result = JSON.parse(ran.stdout.trim().split("\n").at(-1) ?? "");
    assert.ok(result.resumed > 0, ran.stdout);
    assert.equal(sha256(Deno.readFileSync(`${room}/copy`)), sha256(bytes));
    assert.ok(!exists(`${room}/copy.part`) && !exists(`${room}/copy.part.journal`));
  } finally {
    await end(child);
  }
});

function exists(path: string): boolean {
  try {
    Deno.lstatSync(path);
    return true;
  } catch {
    return false;
  }
}

/** Ends a program that may have ended by itself. */
async function end(child: Deno.ChildProcess): Promise<void> {
  try {
    child.kill("SIGTERM");
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
  }
  await child.status;
}

function sizeOf(path: string): number {
  try {
    return Deno.statSync(path).size;
  } catch {
    return 0;
  }
}

/** Whether something has been written. */
function grown(path: string): boolean {
  try {
    return (Deno.statSync(path).blocks ?? 0) > 0;
  } catch {
    return false;
  }
}
