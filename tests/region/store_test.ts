/**
 * Goal: stores of chunks are backends like all others, with and without compression, and what they keep is what was
 * flushed.
 * Method: the suite of all backends over a real redis-server and directories (S3 has a file of its own); then what
 * each of them has of its own, and servers that die, stall and lie.
 */
import assert from "node:assert/strict";
import { openNative } from "../../ffi/mod.ts";
import { DroverError } from "../../lib/base/errors.ts";
import { type Backend, CheckedBackend, IoError, isZero } from "../../lib/region/backend.ts";
import { StoredBackend } from "../../lib/region/backend_stored.ts";
import { openBackend } from "../../lib/region/backend_url.ts";
import { zstdCoding } from "../../lib/region/backend_zstd.ts";
import { DirectoryStore } from "../../lib/region/store_directory.ts";
import { RedisStore } from "../../lib/region/store_redis.ts";
import { type BackendCase, backendSuite } from "../backend_suite.ts";
import { assertSameBytes } from "../same_bytes.ts";
import { prng } from "../stream/prng.ts";
import { RedisServer } from "./stores.ts";

const KiB = 1024;
const room = Deno.makeTempDirSync({ dir: "/var/tmp", prefix: "drover-stores-" });
const redis = await RedisServer.start(`${room}/redis`);
globalThis.addEventListener("unload", () => {
  redis?.kill();
  Deno.removeSync(room, { recursive: true });
});
const zstd = zstdCoding(openNative().zstd);
let turn = 0;

/** A case whose URL is another one for each test. */
function stored(name: string, url: (turn: number) => string): BackendCase {
  return {
    name,
    open: (size) => openBackend(url(++turn), { create: size, timeoutMs: 10_000 }),
    reopen: () => openBackend(url(turn), { timeoutMs: 10_000 }),
    sparse: true,
  };
}

const cases: BackendCase[] = [stored("zstd+dir", (at) => `zstd+dir:${room}/dir${at}?chunk=16KiB`)];
if (redis !== null) {
  const { port, socket } = redis;
  cases.push(
    stored("redis", (at) => `redis://:secret@127.0.0.1:${port}/3?name=disk${at}&chunk=16KiB`),
    stored(
      "zstd+redis over a unix socket",
      (at) => `zstd+redis+unix://:secret@/1?socket=${socket}&name=disk${at}&chunk=4KiB`,
    ),
  );
}
for (const subject of cases) backendSuite(subject);

const isIo = (errno: string, code?: string) => (error: unknown): boolean =>
  error instanceof IoError && error.errno === errno && (code === undefined || error.code === code);

Deno.test("zstd+dir: what was not flushed is gone after a crash, what was is there, and nothing is in between", async () => {
  const path = `${room}/crash`;
  const random = prng(3);
  const size = 256 * KiB;
  const flushed = new Uint8Array(size);
  for (let round = 0; round < 6; round++) {
    const store = DirectoryStore.open(path, { create: true, readOnly: false });
    const backend = await StoredBackend.open(store, {
      create: { size, chunk: 8 * KiB },
      chunkDefault: KiB,
      coding: zstd,
    });
    const all = new Uint8Array(size);
    await backend.readAt(0, all);
    assertSameBytes(all, flushed, `round ${round}`);
    const model = flushed.slice();
    for (let step = 0; step < 40; step++) {
      const length = 1 + random(20 * KiB);
      const offset = random(size - length);
      if (random(4) === 0) {
        await backend.zero(offset, length);
        model.fill(0, offset, offset + length);
      } else {
        const bytes = new Uint8Array(length).fill(1 + random(255));
        await backend.writeAt(offset, bytes);
        model.set(bytes, offset);
      }
      if (step === 20) {
        await backend.flush();
        flushed.set(model);
      }
    }
    // No close(): the process is gone.
  }
});

Deno.test("zstd+dir: compressed chunks are small, zeros are none, noise is as it is, and a flipped bit is noticed", async () => {
  const path = `${room}/small`;
  await using backend = await openBackend(`zstd+dir:${path}?chunk=64KiB`, { create: 256 * KiB });
  const text = new TextEncoder().encode("all work and no play makes a dull chunk\n");
  const chunk = Uint8Array.from({ length: 64 * KiB }, (_, at) => text[at % text.length] ?? 0);
  await backend.writeAt(0, chunk);
  const noise = crypto.getRandomValues(new Uint8Array(64 * KiB));
  await backend.writeAt(128 * KiB, noise);
  await backend.writeAt(64 * KiB, new Uint8Array(64 * KiB));
  await backend.flush();
  const files = [...Deno.readDirSync(path)].map(({ name }) => name).sort();
  assert.deepEqual(files, ["0000000000000000", "0000000000000002", "drover-chunks.json"]);
  assert.ok(Deno.statSync(`${path}/${files[0]}`).size < 1000);
  assert.equal(Deno.statSync(`${path}/${files[1]}`).size, 64 * KiB);
  const frame = Deno.readFileSync(`${path}/${files[0]}`);
  frame[frame.length >> 1] = (frame[frame.length >> 1] ?? 0) ^ 1;
  Deno.writeFileSync(`${path}/${files[0]}`, frame);
  await using again = await openBackend(`zstd+dir:${path}`);
  await assert.rejects(async () => await again.readAt(5, new Uint8Array(1)), isIo("EIO", "corrupt"));
  const into = new Uint8Array(64 * KiB);
  await again.readAt(128 * KiB, into);
  assertSameBytes(into, noise);
});

Deno.test("openBackend() refuses stores that are not there, are something else or have another size", async () => {
  await assert.rejects(openBackend(`zstd+dir:${room}/none`), IoError);
  await assert.rejects(openBackend(`dir:${room}/small`), /should say version 1/);
  await assert.rejects(
    openBackend(`zstd+dir:${room}/small`, { create: 1 }),
    (error) => error instanceof DroverError && error.code === "usage",
  );
  await (await openBackend(`dir:${room}/plain`, { create: 4096 })).close();
  await assert.rejects(openBackend(`zstd+dir:${room}/plain`), /not coded/);
  await assert.rejects(openBackend("redis://a b/"), /it should be redis:/);
  await assert.rejects(openBackend("redis://me:hush@host:x/"), (error) => !String(error).includes("hush"));
  await assert.rejects(openBackend("s3://x"), /s3:\/\/BUCKET/);
  await assert.rejects(openBackend(`zstd+dir:${room}/level?size=1MiB&level=30`), /level 30/);
  for (
    const text of [
      "",
      "{}",
      "null",
      '{"version":1,"size":-1,"chunk":4096}',
      '{"version":2,"size":1,"chunk":4096}',
    ]
  ) {
    const path = `${room}/bad`;
    Deno.mkdirSync(path, { recursive: true });
    Deno.writeTextFileSync(`${path}/drover-chunks.json`, text);
    await assert.rejects(
      openBackend(`zstd+dir:${path}`),
      (error) => error instanceof DroverError && error.code === "corrupt",
    );
  }
});

if (redis !== null) {
  Deno.test("redis: a wrong password is an error at once, and is not shown", async () => {
    await assert.rejects(openBackend(`redis://:hush@127.0.0.1:${redis.port}/?size=1MiB`), (error) => {
      assert.ok(error instanceof DroverError && error.code === "auth", String(error));
      assert.ok(!error.message.includes("hush"));
      return true;
    });
  });

  Deno.test("redis: a restart that may have lost something fails the next flush, once", async () => {
    const forgetful = await RedisServer.start(`${room}/forgetful`, false);
    try {
      await using backend = await openBackend(
        `redis://:secret@127.0.0.1:${forgetful?.port}/?name=d&size=64KiB`,
        { timeoutMs: 10_000 },
      );
      await backend.writeAt(0, new Uint8Array(100).fill(1));
      await backend.flush();
      await forgetful?.restart();
      const into = new Uint8Array(100);
      await backend.readAt(0, into);
      assert.ok(isZero(into), "it keeps nothing, and was told so");
      await backend.flush();
      await backend.writeAt(0, new Uint8Array(100).fill(1));
      await forgetful?.restart();
      await assert.rejects(async () => await backend.flush(), /was restarted/);
      await backend.flush();
    } finally {
      forgetful?.kill();
    }
  });

  Deno.test("redis: a full server is ENOSPC, and works again when it is not", async () => {
    await using backend = await openBackend(`redis://:secret@127.0.0.1:${redis.port}/?name=full&size=1MiB`);
    await redis.cli("CONFIG", "SET", "maxmemory", "1");
    try {
      await assert.rejects(async () => await backend.writeAt(0, new Uint8Array(100).fill(1)), isIo("ENOSPC"));
    } finally {
      await redis.cli("CONFIG", "SET", "maxmemory", "0");
    }
    await backend.writeAt(0, new Uint8Array(100).fill(1));
  });

  Deno.test("redis: killed and started again in the middle, everything that was answered is there", async () => {
    await using backend = await openBackend(
      `redis://:secret@127.0.0.1:${redis.port}/?name=killed&chunk=4KiB&size=256KiB`,
      { timeoutMs: 20_000 },
    );
    const model = new Uint8Array(256 * KiB);
    const random = prng(8);
    let isOver = false;
    const killer = (async () => {
      for (let times = 0; times < 3; times++) {
        await new Promise((resolve) => setTimeout(resolve, 60 + random(60)));
        await redis.restart();
      }
      isOver = true;
    })();
    await Promise.all(Array.from({ length: 4 }, async (_, writer) => {
      const draw = prng(80 + writer);
      while (!isOver) {
        const length = 1 + draw(9000);
        const offset = writer * 64 * KiB + draw(64 * KiB - length);
        const bytes = new Uint8Array(length).fill(1 + draw(255));
        await backend.writeAt(offset, bytes);
        model.set(bytes, offset);
        const into = new Uint8Array(length);
        await backend.readAt(offset, into);
        assertSameBytes(into, bytes);
      }
    }));
    await killer;
    await backend.flush();
    const all = new Uint8Array(256 * KiB);
    await backend.readAt(0, all);
    assertSameBytes(all, model);
  });
}

Deno.test("RedisStore: a silent server costs ETIMEDOUT, one that lies an error, and neither memory", async () => {
  const answers: string[] = [];
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const serving = (async () => {
    for await (const connection of listener) {
      (async () => {
        const buffer = new Uint8Array(65_536);
        let isFirst = true;
        while (await connection.read(buffer) !== null) {
          const answer = isFirst ? "$15\r\nrun_id:abcdef\r\n\r\n" : answers.shift();
          isFirst = false;
          if (answer !== undefined) await connection.write(new TextEncoder().encode(answer));
        }
        connection.close();
      })().catch(() => connection.close());
    }
  })().catch(() => {});
  const { port } = listener.addr;
  const store = await RedisStore.open({
    place: { hostname: "127.0.0.1", port },
    prefix: "x",
    timeoutMs: 300,
  });
  await assert.rejects(store.get(1, 100), isIo("ETIMEDOUT", "disconnected"));
  for (
    const lie of [
      "$2147483647\r\n",
      "$101\r\n",
      "*999999999\r\n",
      ":12x\r\n",
      "?\r\n",
      "$-2\r\n",
      `+${"a".repeat(5000)}`,
      "*1\r\n*1\r\n*1\r\n:1\r\n",
    ]
  ) {
    answers.push(lie);
    await assert.rejects(
      store.get(1, 100),
      (error) => error instanceof DroverError && error.code === "format",
      lie.slice(0, 20),
    );
  }
  answers.push("$3\r\nabc\r\n");
  assert.equal(new TextDecoder().decode(await store.get(1, 100) ?? undefined), "abc");
  await store.close();
  listener.close();
  await serving;
});

Deno.test("StoredBackend: a write beside a read of the same chunk is not lost in what is kept decoded", async () => {
  const path = `${room}/kept`;
  await using backend: Backend = await openBackend(`zstd+dir:${path}?chunk=4KiB`, { create: 64 * KiB });
  assert.ok(backend instanceof CheckedBackend);
  const random = prng(12);
  for (let round = 0; round < 200; round++) {
    const at = random(60) * KiB;
    const value = 1 + random(255);
    const reading = backend.readAt(0, new Uint8Array(64 * KiB));
    await backend.writeAt(at, new Uint8Array(100).fill(value));
    const into = new Uint8Array(100);
    await backend.readAt(at, into);
    assert.ok(into.every((byte) => byte === value) && !isZero(into));
    await reading;
  }
});
