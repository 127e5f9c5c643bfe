import assert from "node:assert/strict";
import { toolExists } from "../../bench/process.ts";
import { openNative } from "../../ffi/mod.ts";
import { DroverError } from "../../lib/base/errors.ts";
import { type Backend, CheckedBackend, IoError, isZero } from "../../lib/region/backend.ts";
import { checksummed, digestSize } from "../../lib/region/backend_checksum.ts";
import { DirectBackend } from "../../lib/region/backend_direct.ts";
import { DirectoryBackend } from "../../lib/region/backend_directory.ts";
import { FileBackend } from "../../lib/region/backend_file.ts";
import { MemoryBackend } from "../../lib/region/backend_memory.ts";
import { NbdBackend } from "../../lib/region/backend_nbd.ts";
import { openBackend, parseBackendUrl, registerScheme, shownUrl } from "../../lib/region/backend_url.ts";
import { chunked, type Clock, delayed, faulty, readOnly } from "../../lib/region/backend_wrap.ts";
import { NbdListener } from "../../lib/region/nbd_listen.ts";
import { type BackendCase, backendSuite } from "../backend_suite.ts";
import { prng } from "../stream/prng.ts";

const KiB = 1024;
const libc = openNative().libc;

/** A directory of this test file; every case cleans up what it made there. */
const room = Deno.makeTempDirSync({ dir: "/var/tmp", prefix: "drover-backends-" });
globalThis.addEventListener("unload", () => Deno.removeSync(room, { recursive: true }));

function removing(path: string): () => void {
  return () => {
    try {
      Deno.removeSync(path, { recursive: true });
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    }
  };
}

/** Time that passes when somebody sleeps, as far as he sleeps. */
function manualClock(): Clock & { slept: number } {
  const clock = {
    slept: 0,
    now: () => clock.slept,
    sleep: async (ms: number) => {
      const until = clock.slept + ms;
      await Promise.resolve();
      clock.slept = Math.max(clock.slept, until);
    },
  };
  return clock;
}

// What is opened once for all is opened here: the library for sockets.
{
  const place = { hostname: "127.0.0.1", port: 0 };
  await using listener = await NbdListener.open({
    place,
    offers: [{ name: "", backend: new MemoryBackend(1) }],
  });
  await (await NbdBackend.connect(listener.place)).close();
}

const memory = (size: number): Promise<Backend> => Promise.resolve(new MemoryBackend(size));
const file = `${room}/file`;
const dir = `${room}/dir`;
const socket = `${room}/socket`;

/** A client of a server over memory; closing the client closes the server. */
async function served(size: number, tcp: boolean): Promise<Backend> {
  const listener = await NbdListener.open({
    place: tcp ? { hostname: "127.0.0.1", port: 0 } : { path: socket },
    offers: [{ name: "a b/ü", backend: new MemoryBackend(size) }],
  });
  const backend = await openBackend(listener.url("a b/ü"), { connections: tcp ? 3 : 1 });
  const close = backend.close.bind(backend);
  backend.close = async () => {
    await close();
    await listener.close();
  };
  return backend;
}

const cases: readonly BackendCase[] = [
  { name: "memory", open: memory, sparse: true },
  {
    name: "file",
    open: (size) => Promise.resolve(FileBackend.open(file, { create: size, libc })),
    reopen: () => Promise.resolve(FileBackend.open(file, { libc })),
    clean: removing(file),
    sparse: true,
  },
  {
    name: "file without the native library, one handle",
    open: (size) => Promise.resolve(FileBackend.open(file, { create: size, handles: 1 })),
    reopen: () => Promise.resolve(FileBackend.open(file)),
    clean: removing(file),
  },
  {
    name: "direct file",
    open: (size) => Promise.resolve(DirectBackend.open(file, openNative(), { create: size })),
    reopen: () => Promise.resolve(DirectBackend.open(file, openNative())),
    clean: removing(file),
    sparse: true,
  },
  {
    name: "directory",
    open: (size) => Promise.resolve(DirectoryBackend.open(dir, { create: { size, chunk: 16 * KiB } })),
    reopen: () => Promise.resolve(DirectoryBackend.open(dir)),
    clean: removing(dir),
    sparse: true,
  },
  { name: "nbd over a unix socket", open: (size) => served(size, false), sparse: true },
  { name: "nbd over tcp, three connections", open: (size) => served(size, true), sparse: true },
  { name: "chunked", open: async (size) => chunked(await memory(size), 4096), sparse: true },
  {
    name: "chunked over a file",
    open: (size) => Promise.resolve(chunked(FileBackend.open(file, { create: size, libc }), 64 * KiB)),
    clean: removing(file),
  },
  {
    name: "delayed",
    open: async (size) =>
      delayed(await memory(size), { clock: manualClock(), latencyMs: 20, bytesPerSecond: 1e6 }),
  },
  {
    name: "faulty, disarmed",
    open: async (size) =>
      faulty(await memory(size), { rate: 1, errno: "EIO", random: () => 0, armed: false }),
  },
  { name: "checksummed", open: async (size) => checksummed(await memory(size), { chunkSize: 8 * KiB }) },
  {
    name: "checksummed, chunked, delayed directory",
    open: (size) =>
      Promise.resolve(checksummed(
        chunked(
          delayed(DirectoryBackend.open(dir, { create: { size, chunk: 4096 } }), {
            clock: manualClock(),
            latencyMs: 1,
          }),
          32 * KiB,
        ),
        { chunkSize: 16 * KiB },
      )),
    clean: removing(dir),
  },
];
for (const subject of cases) backendSuite(subject);

const denied = (errno: string, code?: string) => (error: unknown): boolean =>
  error instanceof IoError && error.errno === errno && (code === undefined || error.code === code);

Deno.test("readOnly() reads, and refuses writes, zeros and trims", async () => {
  await using backend = readOnly(new MemoryBackend(new Uint8Array([1, 2, 3])));
  const into = new Uint8Array(2);
  await backend.readAt(1, into);
  assert.deepEqual([...into], [2, 3]);
  assert.equal(backend.readOnly, true);
  await assert.rejects(async () => await backend.writeAt(0, into), denied("EPERM"));
  await assert.rejects(async () => await backend.zero?.(0, 1), denied("EPERM"));
  await assert.rejects(async () => await backend.trim?.(0, 1), denied("EPERM"));
});

const hasFincore = toolExists("fincore");
if (!hasFincore) {
  console.error("tests: a test of direct: is skipped, there is no fincore; type: apt-get install util-linux");
}

Deno.test({
  name: "DirectBackend leaves nothing in the page cache but the odd end of a file",
  ignore: !hasFincore,
  fn: async () => {
    try {
      {
        await using backend = DirectBackend.open(file, openNative(), { create: 1024 * KiB + 100 });
        await backend.writeAt(1000, new Uint8Array(900 * KiB).fill(5));
        await backend.writeAt(1024 * KiB - 50, new Uint8Array(150).fill(6));
        await backend.flush();
        const into = new Uint8Array(1024 * KiB);
        await backend.readAt(100, into);
        assert.equal(into[900 * KiB], 5);
        assert.equal(into[into.length - 1], 6);
      }
      const { stdout } = await new Deno.Command("fincore", { args: ["-b", "-n", "-o", "RES", file] })
        .output();
      const cached = Number(new TextDecoder().decode(stdout));
      assert.ok(cached <= 8 * KiB, `${cached} bytes are cached`);
    } finally {
      removing(file)();
    }
  },
});

Deno.test("chunked() reaches whole aligned chunks only", async () => {
  const seen: [number, number][] = [];
  class Watched extends MemoryBackend {
    protected override read(offset: number, into: Uint8Array): void {
      seen.push([offset, into.length]);
      super.read(offset, into);
    }
    protected override write(offset: number, bytes: Uint8Array): void {
      seen.push([offset, bytes.length]);
      super.write(offset, bytes);
    }
  }
  await using backend = chunked(new Watched(10_000), 4096);
  await backend.writeAt(4000, new Uint8Array(200));
  await backend.readAt(9999, new Uint8Array(1));
  await backend.writeAt(4096, new Uint8Array(4096));
  assert.ok(seen.length >= 5);
  for (const [offset, length] of seen) {
    assert.equal(offset % 4096, 0);
    assert.equal(length, Math.min(4096, 10_000 - offset));
  }
});

Deno.test("delayed() adds the round trip to each access, and the bandwidth to all of them together", async () => {
  const clock = manualClock();
  await using backend = delayed(new MemoryBackend(1e6), { clock, latencyMs: 40, bytesPerSecond: 1e6 });
  await backend.readAt(0, new Uint8Array(1000));
  assert.equal(clock.slept, 41);
  await Promise.all(
    Array.from({ length: 10 }, (_, at) => backend.readAt(at * 1000, new Uint8Array(1000))),
  );
  assert.equal(clock.slept, 41 + 40 + 10);
});

Deno.test("faulty() fails while it is armed, at its rate, without effect, and recovers", async () => {
  const random = prng(7);
  const inner = new MemoryBackend(4096);
  await using backend = faulty(inner, {
    rate: 0.25,
    errno: "ENOSPC",
    random: () => random(2 ** 30) / 2 ** 30,
    armed: false,
  });
  const ones = new Uint8Array(4096).fill(1);
  for (let count = 0; count < 100; count++) await backend.writeAt(0, ones);
  backend.arm();
  let failed = 0;
  for (let count = 0; count < 1000; count++) {
    await Promise.resolve().then(() => backend.writeAt(0, ones)).catch((error) => {
      assert.ok(denied("ENOSPC", "no-space")(error));
      failed++;
    });
  }
  assert.ok(failed > 200 && failed < 300, `${failed} of 1000`);
  backend.disarm();
  await backend.zero(0, 4096);
  assert.ok(isZero(inner.view(0, 4096)));
});

Deno.test("checksummed() refuses a chunk that was changed behind its back, and only that", async () => {
  const bytes = new Uint8Array(64 * KiB);
  const inner = new MemoryBackend(bytes);
  await using backend = checksummed(inner, { chunkSize: 4096 });
  await backend.writeAt(0, new Uint8Array(64 * KiB).fill(6));
  bytes[5000] = 7;
  const into = new Uint8Array(10);
  await backend.readAt(0, into);
  await backend.readAt(8192, into);
  await assert.rejects(async () => await backend.readAt(4096, into), denied("EIO", "corrupt"));
  await assert.rejects(
    async () => await backend.readAt(0, new Uint8Array(64 * KiB)),
    denied("EIO", "corrupt"),
  );
  // A part of it cannot be written over what is not known to be right; all of it can.
  await assert.rejects(async () => await backend.writeAt(4096, into), denied("EIO", "corrupt"));
  await backend.writeAt(4096, new Uint8Array(4096).fill(8));
  await backend.readAt(4096, into);
  assert.deepEqual([...into], new Array(10).fill(8));
});

Deno.test("checksummed() keeps its table, and strict believes nothing else", async () => {
  const bytes = new Uint8Array(8192).fill(1);
  const first = checksummed(new MemoryBackend(bytes), { chunkSize: 4096 });
  await first.readAt(0, new Uint8Array(1));
  assert.equal(first.digests.length, 2 * digestSize);
  await using second = checksummed(new MemoryBackend(bytes), {
    chunkSize: 4096,
    digests: first.digests,
    strict: true,
  });
  await second.readAt(100, new Uint8Array(100));
  await assert.rejects(async () => await second.readAt(4096, new Uint8Array(1)), denied("EIO", "corrupt"));
  assert.throws(
    () => checksummed(new MemoryBackend(8192), { chunkSize: 4096, digests: new Uint8Array(32) }),
    RangeError,
  );
});

Deno.test({
  name: "FileBackend: zeros make holes, and a shorter file is an error",
  fn: async () => {
    try {
      await using backend = FileBackend.open(file, { create: 4096 * KiB, libc });
      await backend.writeAt(0, new Uint8Array(4096 * KiB).fill(1));
      await backend.flush();
      const before = Deno.statSync(file).blocks ?? 0;
      await backend.zero(1024 * KiB, 2048 * KiB);
      const after = Deno.statSync(file).blocks ?? 0;
      assert.ok(after <= before / 2 + 64, `${before} blocks became ${after}`);
      assert.deepEqual(backend.extents(0, 4096 * KiB).map(({ length, hole }) => [length, hole]), [
        [1024 * KiB, false],
        [2048 * KiB, true],
        [1024 * KiB, false],
      ]);
      Deno.truncateSync(file, 100);
      await assert.rejects(async () => await backend.readAt(0, new Uint8Array(200)), denied("EIO"));
    } finally {
      removing(file)();
    }
  },
});

Deno.test("FileBackend.open() refuses what is no file, another size, and read-only writes", async () => {
  try {
    assert.throws(() => FileBackend.open(`${room}/none`), IoError);
    assert.throws(() => FileBackend.open(room), IoError);
    assert.throws(() => FileBackend.open("/dev/null"), denied("EINVAL"));
    Deno.writeFileSync(file, new Uint8Array(10));
    assert.throws(() => FileBackend.open(file, { create: 11 }), RangeError);
    {
      await using _writer = FileBackend.open(file, { libc });
      assert.throws(
        () => FileBackend.open(file, { libc }),
        (error) => error instanceof DroverError && error.code === "busy",
      );
    }
    await using backend = FileBackend.open(file, { readOnly: true, libc });
    await assert.rejects(async () => await backend.writeAt(0, new Uint8Array(1)), denied("EPERM"));
    await backend.flush();
  } finally {
    removing(file)();
  }
});

Deno.test("DirectoryBackend: zeros are no files, a damaged description and a full directory are refused", async () => {
  try {
    await using backend = DirectoryBackend.open(dir, { create: { size: 40 * KiB, chunk: 16 * KiB } });
    await backend.writeAt(0, new Uint8Array(40 * KiB).fill(1));
    assert.equal([...Deno.readDirSync(dir)].length, 4);
    assert.equal(Deno.statSync(`${dir}/0000000000000002`).size, 8 * KiB);
    await backend.zero(0, 32 * KiB);
    assert.equal([...Deno.readDirSync(dir)].length, 2);
    assert.throws(() => DirectoryBackend.open(dir, { create: { size: 1 } }), RangeError);
    for (const text of ["", "{", "null", '{"version":2}', '{"version":1,"size":-1,"chunk":4096}']) {
      Deno.writeTextFileSync(`${dir}/drover-chunks.json`, text);
      assert.throws(() => DirectoryBackend.open(dir), denied("EIO", "corrupt"), text);
    }
    Deno.writeTextFileSync(`${dir}/drover-chunks.json`, '{"version":1,"size":9,"chunk":1000}');
    assert.throws(() => DirectoryBackend.open(dir), RangeError);
    Deno.removeSync(`${dir}/drover-chunks.json`);
    assert.throws(() => DirectoryBackend.open(dir, { create: { size: 1 } }), denied("EINVAL"));
    assert.throws(() => DirectoryBackend.open(`${room}/none`), IoError);
  } finally {
    removing(dir)();
  }
});

Deno.test("NbdBackend: a server that dies fails what is under way and what comes later, and is not waited for", async () => {
  const listener = await NbdListener.open({
    place: { path: socket },
    offers: [{
      name: "",
      backend: delayed(new MemoryBackend(4096), {
        clock: { now: () => 0, sleep: () => new Promise(() => {}) },
        latencyMs: 1,
      }),
    }],
    graceMs: 1,
  });
  const backend = await NbdBackend.connect({ path: socket });
  const waiting = Promise.resolve(backend.readAt(0, new Uint8Array(10)));
  const failed = assert.rejects(
    waiting,
    (error: unknown) => error instanceof DroverError && error.code === "disconnected",
  );
  backend.abandon();
  await failed;
  await assert.rejects(async () => await backend.readAt(0, new Uint8Array(10)), DroverError);
  await backend.close();
  // The server's own read never ends.
  await listener.close();
  await assert.rejects(NbdBackend.connect({ path: `${room}/nobody` }), IoError);
});

Deno.test("openBackend() opens every scheme, and says what is wrong with a URL", async () => {
  try {
    Deno.writeFileSync(file, new Uint8Array(10));
    for (const url of [file, `file:${file}`, `file://${file}`, `direct:${file}`]) {
      await using backend = await openBackend(url);
      assert.equal(backend.size, 10);
    }
    await using made = await openBackend(`dir:${dir}?size=1MiB&chunk=4KiB`);
    assert.equal(made.size, 1024 * KiB);
    await using small = await openBackend("memory:1KiB", { readOnly: true });
    assert.equal(small.readOnly, true);
    assert.deepEqual(parseBackendUrl("C:x").scheme, "file");
    const bad = [
      "",
      "floppy:a",
      "memory:x",
      "memory:5GiB",
      "nbd:x",
      "nbd://",
      "nbd://h:70000",
      "nbd://h/%zz",
      "nbd://h/d?timeout=x",
      "nbd://h/d?timeout=90000",
      "nbd://h/d?key=a",
      "nbds://h/d?size=1",
      "nbd+unix:///x",
      "nbd+unix:///x?sock=/a",
      `dir:${room}/new?size=1MiB&chunk=3`,
      `dir:${room}/new?size=1&size=2`,
    ];
    for (const url of bad) {
      await assert.rejects(
        openBackend(url),
        (error: unknown) => error instanceof DroverError && error.code === "usage",
        url,
      );
    }
  } finally {
    removing(file)();
    removing(dir)();
    removing(`${room}/new`)();
  }
});

Deno.test("shownUrl() hides who asks, and nothing else", () => {
  for (
    const [text, shown] of [
      ["redis://me:se@cr/et@host/1?name=x", "redis://…@cr/et@host/1?name=x"],
      ["redis://:secret@host:1/1?name=x@y", "redis://…@host:1/1?name=x@y"],
      ["zstd+redis+unix://:secret@/1?socket=/a@b", "zstd+redis+unix://…@/1?socket=/a@b"],
      ["https://me:a@b@host/c", "https://…@host/c"],
      ["nbd://host/a@b", "nbd://host/a@b"],
      ["/home/me@work/disk", "/home/me@work/disk"],
    ] as const
  ) assert.equal(shownUrl(text), shown);
});

Deno.test("registerScheme() takes a page of code from anybody", async () => {
  class Ones extends CheckedBackend {
    protected override read(_offset: number, into: Uint8Array): void {
      into.fill(1);
    }
  }
  registerScheme("ones", ({ text, rest }) => new Ones({ name: text, size: Number(rest), readOnly: true }));
  assert.throws(() => registerScheme("ones", () => new MemoryBackend(1)), RangeError);
  assert.throws(() => registerScheme("X", () => new MemoryBackend(1)), RangeError);
  await using backend = await openBackend("ones:100");
  const into = new Uint8Array(3);
  await backend.readAt(97, into);
  assert.deepEqual([...into], [1, 1, 1]);
  await assert.rejects(async () => await backend.writeAt(0, into), denied("EPERM"));
});
