/**
 * Goal: a backend behind a FUSE file is that file, for every call that a program can make, and what the backend cannot do
 * ends as an errno within the time-out. Method: real mounts; the file is used by the calls of this process and by other
 * programs, and compared with a plain array or with the backend itself.
 */
import assert from "node:assert/strict";
import { openNative } from "../../ffi/mod.ts";
import { type Backend, CheckedBackend, IoError } from "../../lib/region/backend.ts";
import { FileBackend } from "../../lib/region/backend_file.ts";
import { MemoryBackend } from "../../lib/region/backend_memory.ts";
import { readOnly, WrappedBackend } from "../../lib/region/backend_wrap.ts";
import { FuseFile } from "../../lib/region/fuse.ts";
import { fuseMounts, parseMountInfo } from "../../lib/region/fuse_target.ts";
import { mount } from "../../lib/region/mount.ts";
import { assertSameBytes } from "../same_bytes.ts";
import { prng } from "../stream/prng.ts";
import { failing, fuseTest, python, run, tryRun } from "./fuse_room.ts";

const KiB = 1024;
const MiB = 2 ** 20;
/** No multiple of a page or a sector. */
const oddSize = 3 * MiB + 777;

/** Passes everything on, says what came, and fails or hangs when told to. */
class Spy extends WrappedBackend {
  readonly calls: string[] = [];
  /** Thrown by every access. */
  error: unknown = null;
  /** Every access waits for it. */
  gate: Promise<void> | null = null;

  constructor(inner: Backend) {
    super(inner, { name: "spy" });
  }

  async #enter(call: string): Promise<void> {
    this.calls.push(call);
    await this.gate;
    if (this.error !== null) throw this.error;
  }

  protected override async read(offset: number, into: Uint8Array): Promise<void> {
    await this.#enter(`read ${offset} ${into.length}`);
    await super.read(offset, into);
  }

  protected override async write(offset: number, bytes: Uint8Array): Promise<void> {
    await this.#enter(`write ${offset} ${bytes.length}`);
    await super.write(offset, bytes);
  }

  protected override async sync(): Promise<void> {
    await this.#enter("flush");
  }

  override async zero(offset: number, length: number, options?: { allocate?: boolean }): Promise<void> {
    await this.#enter(`zero ${offset} ${length}${options?.allocate === true ? " allocate" : ""}`);
    await super.zero(offset, length, options);
  }
}

/** A promise and what settles it. */
function gate(): { promise: Promise<void>; open: () => void } {
  let open: () => void = () => {};
  const promise = new Promise<void>((resolve) => open = resolve);
  return { promise, open };
}

for (const kind of ["memory", "file", "no view"] as const) {
  fuseTest(`FuseFile on ${kind}: random reads and writes agree with a plain array`, async (room) => {
    Deno.writeFileSync(room.at("image"), new Uint8Array(oddSize));
    await using backend = kind === "file"
      ? FileBackend.open(room.at("image"), { libc: openNative().libc })
      : kind === "memory"
      ? new MemoryBackend(oddSize)
      : new WrappedBackend(new MemoryBackend(oddSize));
    await using disk = await room.mount(backend, { keepCache: true });
    const model = new Uint8Array(oddSize);
    const random = prng(11);
    using file = await Deno.open(disk.path, { read: true, write: true });
    assert.equal((await file.stat()).size, oddSize);
    for (let step = 0; step < 250; step++) {
      const length = 1 + random([1, 512, 5000, 300 * KiB, MiB + 5][random(5)] ?? 1);
      const offset = random(oddSize - length);
      await file.seek(offset, Deno.SeekMode.Start);
      if (random(2) === 0) {
        const bytes = Uint8Array.from({ length }, (_, at) => at * 7 + step);
        for (let at = 0; at < length;) at += await file.write(bytes.subarray(at));
        model.set(bytes, offset);
      } else {
        const bytes = new Uint8Array(length);
        for (let at = 0; at < length;) at += await file.read(bytes.subarray(at)) ?? assert.fail("it ended");
        assertSameBytes(bytes, model.subarray(offset, offset + length), `read ${length} at ${offset}`);
      }
      if (step % 50 === 49) await file.sync();
    }
    assertSameBytes(await Deno.readFile(disk.path), model);
    const inside = new Uint8Array(oddSize);
    await backend.readAt(0, inside);
    assertSameBytes(inside, model, "the backend holds something else");
  });
}

fuseTest(
  "FuseFile: a write that has returned has reached the backend, and fsync is its flush",
  async (room) => {
    const memory = new MemoryBackend(MiB);
    await using backend = new Spy(memory);
    await using disk = await room.mount(backend);
    const said = await python(
      disk.path,
      "os.pwrite(f, b'x' * 8192, 4096)\nos.fsync(f)\nos.pwrite(f, b'y', 9)\nos.fdatasync(f)\nprint('done')",
    );
    assert.equal(said, "done");
    assert.deepEqual(backend.calls.filter((call) => !call.startsWith("read")), [
      "write 4096 8192",
      "flush",
      "write 9 1",
      "flush",
    ]);
    assert.equal(memory.view(5000, 1)[0], 120);
  },
);

fuseTest("FuseFile: a shared mapping is read and written; msync brings it to the backend", async (room) => {
  const bytes = Uint8Array.from({ length: oddSize }, (_, at) => at % 251);
  const memory = new MemoryBackend(bytes.slice());
  await using backend = new Spy(memory);
  await using disk = await room.mount(backend);
  const said = await python(
    disk.path,
    `m = mmap.mmap(f, ${oddSize})
ok = all(m[i] == i % 251 for i in range(0, ${oddSize}, 97))
m[4096:4100] = b'abcd'
m[${oddSize - 1}] = 9
m.flush()
print(ok)`,
  );
  assert.equal(said, "True");
  bytes.set([97, 98, 99, 100], 4096);
  bytes[oddSize - 1] = 9;
  assertSameBytes(memory.view(0, oddSize), bytes);
  assert.ok(backend.calls.includes("flush"));
});

fuseTest(
  "FuseFile: what was written through a mapping and not synced is there after unmount()",
  async (room) => {
    const memory = new MemoryBackend(MiB);
    await using backend = new Spy(memory);
    const disk = await room.mount(backend);
    await python(disk.path, `m = mmap.mmap(f, ${MiB})\nm[70000:70003] = b'end'\n`);
    await disk.close();
    assert.equal(new TextDecoder().decode(memory.view(70000, 3)), "end");
  },
);

fuseTest(
  "FuseFile: the size stays: truncation is EPERM, a write behind the end ENOSPC, one across it short",
  async (room) => {
    const memory = new MemoryBackend(10_000);
    await using disk = await room.mount(memory);
    const lines = [
      failing("os.ftruncate(f, 20000)"),
      failing("os.truncate(path, 0)"),
      failing("os.open(path, os.O_WRONLY | os.O_TRUNC)"),
      failing("os.pwrite(f, b'x', 10000)"),
      failing("os.fchmod(f, 0o777)"),
      "print(os.pwrite(f, b'y' * 100, 9950), os.fstat(f).st_size)\n",
      "print(os.pread(f, 100, 9990), os.pread(f, 100, 10000))\n",
      failing("os.ftruncate(f, 10000)"),
      failing("os.utime(path, (5, 5))"),
      "print(int(os.fstat(f).st_mtime))\n",
    ];
    assert.deepEqual((await python(disk.path, lines.join(""))).split("\n"), [
      "EPERM",
      "EPERM",
      "EPERM",
      "ENOSPC",
      "EPERM",
      "50 10000",
      `b'${"y".repeat(10)}' b''`,
      "ok",
      "ok",
      "5",
    ]);
  },
);

fuseTest("FuseFile: holes are punched, ranges zeroed, and data and holes found", async (room) => {
  Deno.writeFileSync(room.at("image"), new Uint8Array(4 * MiB).fill(7));
  await using file = FileBackend.open(room.at("image"), { libc: openNative().libc });
  await using backend = new Spy(file);
  await using disk = await room.mount(backend);
  await run("fallocate", "--punch-hole", "--offset", String(MiB), "--length", String(MiB), disk.path);
  await run("fallocate", "--zero-range", "--offset", "100", "--length", "1000", disk.path);
  await run("fallocate", "--offset", "0", "--length", String(4 * MiB), disk.path);
  assert.notEqual((await tryRun("fallocate", "--length", String(5 * MiB), disk.path)).code, 0);
  assert.notEqual((await tryRun("fallocate", "--collapse-range", "--length", "4096", disk.path)).code, 0);
  assert.deepEqual(backend.calls.filter((call) => call.startsWith("zero")), [
    `zero ${MiB} ${MiB}`,
    "zero 100 1000 allocate",
  ]);
  const said = await python(
    disk.path,
    `print(os.lseek(f, 0, os.SEEK_HOLE), os.lseek(f, ${MiB}, os.SEEK_DATA), os.lseek(f, ${
      2 * MiB
    }, os.SEEK_HOLE))
print(os.pread(f, 3, 99), os.pread(f, 1, ${MiB}))
${failing(`os.lseek(f, ${4 * MiB}, os.SEEK_DATA)`)}`,
  );
  assert.deepEqual(said.split("\n"), [
    `${MiB} ${2 * MiB} ${4 * MiB}`,
    "b'\\x07\\x00\\x00' b'\\x00'",
    "ENXIO",
  ]);
  await run("cp", "--sparse=auto", disk.path, room.at("copy"));
  assertSameBytes(Deno.readFileSync(room.at("copy")), Deno.readFileSync(room.at("image")));
});

fuseTest(
  "FuseFile: an error of the backend is that errno, and the next access is tried anew",
  async (room) => {
    await using backend = new Spy(new MemoryBackend(MiB));
    await using disk = await room.mount(backend);
    for (
      const [error, name] of [
        [new IoError("ENOSPC", "full"), "ENOSPC"],
        [new IoError("EPERM", "no"), "EPERM"],
        [new IoError("ETIMEDOUT", "late"), "EIO"],
        [new TypeError("a bug"), "EIO"],
      ] as const
    ) {
      backend.error = error;
      assert.equal(await python(disk.path, failing("os.pwrite(f, b'x', 0)")), name);
      assert.equal(await python(disk.path, failing("os.fsync(f)")), name);
    }
    assert.equal(await python(disk.path, failing("os.pread(f, 1, 0)")), "EIO");
    backend.error = null;
    assert.equal(await python(disk.path, failing("os.pread(f, 1, 0)")), "ok");
    assert.ok(disk.stats().errors >= 9);
  },
);

fuseTest(
  "FuseFile: who hangs costs EIO after the time-out, not the mount; late answers harm nobody",
  async (room) => {
    const memory = new MemoryBackend(new Uint8Array(MiB).fill(5));
    await using backend = new Spy(memory);
    const hang = gate();
    await using disk = await room.mount(backend, { timeoutMs: 300, slots: 2 });
    backend.gate = hang.promise;
    // More programs than slots: the later ones are refused while the slots are held.
    const answers = await Promise.all(
      [0, 1, 2, 3, 4].map((at) => python(disk.path, failing(`os.pread(f, 4096, ${at * 4096})`))),
    );
    assert.deepEqual(answers, Array(5).fill("EIO"));
    // What needs no content is answered all the while.
    assert.equal((await Deno.stat(disk.path)).size, MiB);
    assert.equal(disk.stats().timeouts >= 5, true);
    assert.equal(disk.stats().late, 0);
    backend.gate = null;
    hang.open();
    assert.equal(await python(disk.path, "print(os.pread(f, 2, 0))"), "b'\\x05\\x05'");
    assert.equal(disk.stats().late, 2);
  },
);

fuseTest("FuseFile: an event loop that stands still costs EIO after the time-out", async (room) => {
  await using backend = new MemoryBackend(MiB);
  await using disk = await room.mount(backend, { timeoutMs: 200 });
  const child = new Deno.Command("python3", {
    args: [
      "-c",
      `import os,errno\nf=os.open(${JSON.stringify(disk.path)},os.O_RDONLY)\n${failing("os.pread(f,1,0)")}`,
    ],
    stdout: "piped",
  }).spawn();
  // Nothing of this isolate runs for as long as the program needs.
  const never = new Int32Array(new SharedArrayBuffer(4));
  while (isRunning(child.pid)) Atomics.wait(never, 0, 0, 10);
  assert.equal(new TextDecoder().decode((await child.output()).stdout).trim(), "EIO");
  // The kernel may ask twice: ahead, and for the page itself.
  assert.ok(disk.stats().timeouts >= 1);
});

/** Whether a child is there and no zombie. */
function isRunning(pid: number): boolean {
  try {
    return !/\) Z/.test(Deno.readTextFileSync(`/proc/${pid}/stat`));
  } catch {
    return false;
  }
}

fuseTest("FuseFile.close() returns while the backend hangs", async (room) => {
  const backend = new Spy(new MemoryBackend(MiB));
  const hang = gate();
  backend.gate = hang.promise;
  const disk = await room.mount(backend, { timeoutMs: 100 });
  assert.equal(await python(disk.path, failing("os.pread(f, 1, 0)")), "EIO");
  await disk.close();
  assert.throws(() => Deno.lstatSync(disk.path), Deno.errors.NotFound);
  // The call that outlived the mount ends, and its answer goes nowhere.
  hang.open();
  await new Promise((resolve) => setTimeout(resolve, 10));
  assert.equal(disk.stats().late, 0);
});

fuseTest("FuseFile: a read-only backend is a read-only file", async (room) => {
  await using backend = readOnly(new MemoryBackend(MiB));
  await using disk = await room.mount(backend, { mode: 0o644 });
  await assert.rejects(Deno.open(disk.path, { write: true }), /Read-only file system/);
  assert.equal(((await Deno.stat(disk.path)).mode ?? 0) & 0o777, 0o444);
  assert.equal((await Deno.readFile(disk.path)).length, MiB);
});

fuseTest("FuseFile.open() covers nothing with content, and mounts no place twice", async (room) => {
  await using backend = new MemoryBackend(MiB);
  Deno.writeTextFileSync(room.at("disk"), "precious");
  await assert.rejects(room.mount(backend), { code: "exists" });
  Deno.removeSync(room.at("disk"));
  Deno.mkdirSync(room.at("disk"));
  await assert.rejects(room.mount(backend), { code: "exists" });
  Deno.removeSync(room.at("disk"));
  Deno.symlinkSync(room.at("elsewhere"), room.at("disk"));
  await assert.rejects(room.mount(backend), { code: "exists" });
  Deno.removeSync(room.at("disk"));
  await assert.rejects(room.mount(backend, { path: `${room.path}/no/disk` }), { code: "usage" });
  await assert.rejects(room.mount(backend, { path: `${room.path}/..` }), { code: "usage" });
  await assert.rejects(room.mount(backend, { slots: 257 }), RangeError);
  assert.deepEqual([...Deno.readDirSync(room.path)], []);
  {
    await using _disk = await room.mount(backend);
    await assert.rejects(room.mount(backend), { code: "busy" });
  }
  assert.deepEqual([...Deno.readDirSync(room.path)], []);
  // An empty file that was there before stays.
  Deno.writeTextFileSync(room.at("disk"), "");
  {
    await using _disk = await room.mount(backend);
  }
  assert.equal(Deno.statSync(room.at("disk")).size, 0);
});

fuseTest("FuseFile: a path and a source with spaces, commas and backslashes", async (room) => {
  await using backend = new MemoryBackend(MiB);
  const [path, source] = [room.at("a b,c\\d ü"), "nbd://x/a b,c\\d\nü"];
  await using disk = await room.mount(backend, { path, source });
  assert.equal(disk.path, path);
  const found = fuseMounts().find((each) => each.path === path);
  assert.equal(found?.source, "nbd://x/a b,c\\d?ü");
  assert.equal((await Deno.stat(path)).size, MiB);
});

fuseTest(
  "FuseFile.unmount() is refused while the file is open; detached it ends with the last close",
  async (room) => {
    await using backend = new MemoryBackend(MiB);
    const disk = await room.mount(backend);
    const file = await Deno.open(disk.path, { read: true, write: true });
    await assert.rejects(disk.unmount(), { code: "busy" });
    await disk.unmount({ detach: true });
    await assert.rejects(
      Deno.stat(disk.path).then(({ size }) => size > 0 || Promise.reject(new Error("gone"))),
      /gone/,
    );
    await file.write(new Uint8Array([1]));
    let ended = false;
    disk.ended.then(() => ended = true);
    await file.seek(0, Deno.SeekMode.Start);
    assert.equal(await file.read(new Uint8Array(1)), 1);
    assert.equal(ended, false);
    file.close();
    await disk.ended;
    await disk.close();
  },
);

fuseTest("mount() ends when somebody else unmounts, and gives the backend back", async (room) => {
  const disk = await mount("memory:4MiB", room.at("disk"));
  await run("cp", "--sparse=never", disk.path, room.at("copy"));
  assert.equal(Deno.statSync(room.at("copy")).size, 4 * MiB);
  if (openNative().identity().canMount) await run("umount", disk.path);
  else await run("fusermount3", "-u", disk.path);
  await disk.ended;
  await disk.close();
  await disk.close();
  await assert.rejects(async () => await disk.backend.readAt(0, new Uint8Array(1)));
  assert.ok(disk.stats().readBytes >= 4 * MiB);
  await assert.rejects(mount("memory:4MiB", "/proc/disk"));
});

fuseTest(
  "FuseFile: many programs at once, aligned and not, cached and direct, agree with an array",
  async (room) => {
    const size = 4 * MiB;
    const memory = new MemoryBackend(size);
    await using backend = new Spy(memory);
    await using disk = await room.mount(backend);
    // Each writes its own stripes, some through the page cache and some around it, and reads them again.
    const work = (own: number, direct: boolean) =>
      run(
        "python3",
        "-c",
        `import os,mmap,random
r=random.Random(${own})
f=os.open(${JSON.stringify(disk.path)}, os.O_RDWR|(os.O_DIRECT if ${direct ? "True" : "False"} else 0))
m=mmap.mmap(-1, 65536)
for i in range(60):
  n=4096*(1+r.randrange(15))
  at=${own}*${MiB}+4096*r.randrange(${MiB / 4096}-16)
  b=bytes([r.randrange(256)])*n
  m[0:n]=b
  assert os.pwritev(f,[memoryview(m)[0:n]],at)==n
  m[0:n]=bytes(n)
  assert os.preadv(f,[memoryview(m)[0:n]],at)==n
  assert m[0:n]==b, (i, at, n)
`,
      );
    await Promise.all([0, 1, 2, 3].map((own) => work(own, own % 2 === 1)));
    assertSameBytes(await Deno.readFile(disk.path), memory.view(0, size));
  },
);

Deno.test("parseMountInfo() finds drover's mounts among the others, with every escape", () => {
  const text = `22 1 0:20 / /proc rw,relatime shared:5 - proc proc rw
54 27 0:45 / /var/a\\040b\\134c\\012 ro,nosuid - fuse.drover nbd://h/d\\040\\303\\274 rw,user_id=0
no line
55 27 0:46 / /x rw`;
  assert.deepEqual(parseMountInfo(text), [
    { path: "/proc", source: "proc", device: "0:20", type: "proc", readOnly: false },
    { path: "/var/a b\\c\n", source: "nbd://h/d ü", device: "0:45", type: "fuse.drover", readOnly: true },
  ]);
});

fuseTest("FuseFile.open() says what is missing", async (room) => {
  await using backend = new MemoryBackend(MiB);
  const native = openNative();
  const refusing = (code: string) => ({
    ...native,
    libc: native.libc,
    identity: () => native.identity(),
    openFuse: () => Promise.reject(Object.assign(new Error("no"), { code })),
  } as unknown as typeof native);
  for (const code of ["EPERM", "ENODEV", "ENOENT"]) {
    await assert.rejects(
      FuseFile.open(backend, { path: room.at("disk"), native: refusing(code) }),
      (error) => {
        assert.ok(error instanceof Error && "hint" in error && typeof error.hint === "string");
        return true;
      },
    );
  }
  assert.deepEqual([...Deno.readDirSync(room.path)], []);
});

// A backend without anything optional.
class Plain extends CheckedBackend {
  protected override read(_offset: number, into: Uint8Array): void {
    into.fill(3);
  }
}

fuseTest("FuseFile: a backend with nothing optional", async (room) => {
  await using backend = new Plain({ name: "plain", size: 2 * MiB });
  await using disk = await room.mount(backend);
  assert.equal(
    await python(
      disk.path,
      `print(os.pread(f, 1, 9), os.lseek(f, 5, os.SEEK_DATA), os.lseek(f, 5, os.SEEK_HOLE))\n${
        failing("os.pwrite(f, b'x', 0)")
      }`,
    ),
    `b'\\x03' 5 ${2 * MiB}\nEPERM`,
  );
});
