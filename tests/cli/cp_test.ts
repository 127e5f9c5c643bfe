import assert from "node:assert/strict";
import { MemoryBackend } from "../../lib/region/backend_memory.ts";
import { NbdListener } from "../../lib/region/nbd_listen.ts";
import { prng } from "../stream/prng.ts";
import { drover } from "./harness.ts";
import { assertSameBytes } from "../same_bytes.ts";

const MiB = 2 ** 20;
const size = 9 * MiB + 1234;

/** A directory for one test. */
async function inRoom(work: (room: string) => Promise<void>): Promise<void> {
  const room = Deno.makeTempDirSync({ dir: "/var/tmp", prefix: "drover-cp-" });
  try {
    await work(room);
  } finally {
    Deno.removeSync(room, { recursive: true });
  }
}

/** Data, zeros that are written, and holes. */
function makeImage(path: string, seed = 1): Uint8Array<ArrayBuffer> {
  const random = prng(seed);
  const bytes = new Uint8Array(size);
  for (const [from, to] of [[0, 100], [MiB - 10, 2 * MiB + 10], [8 * MiB, size]] as const) {
    for (let at = from; at < to; at++) bytes[at] = random(256);
  }
  using file = Deno.openSync(path, { write: true, create: true, truncate: true });
  file.truncateSync(size);
  for (const [from, to] of [[0, 3 * MiB], [8 * MiB, size]] as const) {
    file.seekSync(from, Deno.SeekMode.Start);
    file.writeSync(bytes.subarray(from, to));
  }
  return bytes;
}

Deno.test("drover cp copies a file with its holes, replaces what was there, and leaves nothing else", async () => {
  await inRoom(async (room) => {
    const bytes = makeImage(`${room}/a`);
    Deno.writeTextFileSync(`${room}/b`, "old");
    const ran = await drover("cp", `${room}/a`, `${room}/b`, "--json");
    assert.equal(ran.code, 0, ran.stdout);
    const { copied, zero, resumed, verified } = ran.result();
    const data = 2 * MiB + 1234 + 3 * 4096;
    assert.deepEqual([copied, zero, resumed], [data, size - data, 0]);
    assert.ok(Number(verified) >= data);
    assertSameBytes(Deno.readFileSync(`${room}/b`), bytes);
    assert.ok((Deno.statSync(`${room}/b`).blocks ?? 0) * 512 < 2.5 * MiB, "holes were filled");
    assert.deepEqual([...Deno.readDirSync(room)].map(({ name }) => name).sort(), ["a", "b"]);
    const again = await drover("cp", `${room}/a`, `${room}/b`);
    assert.match(again.stdout, /b: 9\.4 MB, 2\.1 MB copied, 7\.3 MB zeros, verified, in /);
  });
});

Deno.test("drover cp goes between all kinds of backends", async () => {
  await inRoom(async (room) => {
    const bytes = makeImage(`${room}/a`);
    const remote = new Uint8Array(10 * MiB).fill(0xff);
    const listener = await NbdListener.open({
      place: { path: `${room}/socket` },
      offers: [{ name: "disk", backend: new MemoryBackend(remote) }],
    });
    try {
      const url = listener.url("disk");
      for (
        const [from, to] of [[`${room}/a`, `dir:${room}/d`], [`dir:${room}/d`, url], [url, `file:${room}/c`]]
      ) {
        const ran = await drover("cp", from ?? "", to ?? "");
        assert.equal(ran.code, 0, ran.stderr);
      }
      assertSameBytes(remote.subarray(0, size), bytes);
      assert.ok(remote.subarray(size).every((byte) => byte === 0xff), "the rest of the target was touched");
      assertSameBytes(Deno.readFileSync(`${room}/c`).subarray(0, size), bytes);
      assert.equal(Deno.statSync(`${room}/c`).size, 10 * MiB);
    } finally {
      await listener.close();
    }
  });
});

Deno.test("drover cp goes on where it was cut, and reads nothing twice", async () => {
  await inRoom(async (room) => {
    const bytes = makeImage(`${room}/source`);
    const read: number[] = [];
    let failAt = 8 * MiB;
    class Cut extends MemoryBackend {
      protected override read(offset: number, into: Uint8Array): void {
        if (offset + into.length > failAt) throw new Error("the link is cut");
        read.push(offset);
        super.read(offset, into);
      }
      override view(): never {
        throw new Error("not to be used");
      }
    }
    const inner = new Cut(bytes);
    Object.defineProperty(inner, "view", { value: undefined });
    const listener = await NbdListener.open({
      place: { path: `${room}/s` },
      offers: [{ name: "", backend: inner }],
    });
    try {
      const cut = await drover("cp", listener.url(""), `${room}/b`, "--parallel", "1");
      assert.equal(cut.code, 1);
      assert.match(cut.stderr, /drover: error: .*the link is cut/);
      assert.match(cut.stderr, /drover: hint: give the same command again/);
      assert.deepEqual([...Deno.readDirSync(room)].map(({ name }) => name).sort(), [
        "b.part",
        "b.part.journal",
        "s",
        "source",
      ]);
      const before = read.length;
      // Half a line, as a crash leaves it.
      Deno.writeTextFileSync(`${room}/b.part.journal`, "7 deadbeef", { append: true });
      failAt = 9 * MiB;
      assert.equal((await drover("cp", listener.url(""), `${room}/b`, "--parallel", "1")).code, 1);
      failAt = Infinity;
      const ran = await drover("cp", listener.url(""), `${room}/b`, "--json");
      assert.equal(ran.code, 0, ran.stdout);
      assert.equal(ran.result().resumed, 9 * MiB);
      assert.deepEqual(read.slice(before).sort((left, right) => left - right), [8 * MiB, 9 * MiB]);
      assertSameBytes(Deno.readFileSync(`${room}/b`), bytes);
      assert.deepEqual([...Deno.readDirSync(room)].map(({ name }) => name).sort(), ["b", "s", "source"]);
    } finally {
      await listener.close();
    }
  });
});

Deno.test("drover cp refuses the notes of another source, and takes them with --restart", async () => {
  await inRoom(async (room) => {
    const bytes = makeImage(`${room}/a`);
    Deno.writeFileSync(`${room}/b.part`, new Uint8Array(size).fill(7));
    for (const notes of ['{"journal":1}\n0 -\n', '{"journal":1}\n', "\n"]) {
      Deno.writeTextFileSync(`${room}/b.part.journal`, notes);
      const ran = await drover("cp", `${room}/a`, `${room}/b`);
      assert.equal(ran.code, 2, notes);
      assert.match(ran.stderr, /hint: drover cp --restart /);
    }
    assert.equal((await drover("cp", "--restart", `${room}/a`, `${room}/b`)).code, 0);
    assertSameBytes(Deno.readFileSync(`${room}/b`), bytes);
  });
});

Deno.test("drover cp finds a chunk that the target holds otherwise than it was noted", async () => {
  await inRoom(async (room) => {
    makeImage(`${room}/a`);
    class Forgetful extends MemoryBackend {
      protected override write(offset: number, bytes: Uint8Array): void {
        super.write(offset, offset === 2 * MiB ? new Uint8Array(bytes.length).fill(1) : bytes);
      }
    }
    const inner = new Forgetful(size);
    Object.defineProperty(inner, "view", { value: undefined });
    const listener = await NbdListener.open({
      place: { path: `${room}/s` },
      offers: [{ name: "", backend: inner }],
    });
    try {
      const ran = await drover("cp", `${room}/a`, listener.url(""));
      assert.equal(ran.code, 4);
      assert.match(ran.stderr, /first at 2097152/);
      const unseen = await drover("cp", `${room}/a`, listener.url(""), "--no-verify", "--json");
      assert.equal(unseen.code, 0);
      assert.equal(unseen.result().verified, 0);
    } finally {
      await listener.close();
    }
  });
});

Deno.test("drover cp refuses what cannot be, before anything is written", async () => {
  await inRoom(async (room) => {
    makeImage(`${room}/a`);
    Deno.symlinkSync(`${room}/a`, `${room}/link`);
    Deno.symlinkSync("/etc/hostname", `${room}/c.part`);
    const cases: [string[], number, RegExp][] = [
      [[`${room}/a`, `${room}/c`], 2, /c\.part/],
      [[`${room}/a`, `${room}/a`], 2, /same file/],
      [[`${room}/a`, `${room}/link`], 2, /same file/],
      [[`${room}/a`, room], 2, /directory/],
      [[`${room}/a`, "memory:1KiB"], 2, /has 1024 bytes/],
      [[`${room}/none`, `${room}/b`], 1, /none/],
      [[`${room}/a`, "ftp:x"], 2, /scheme "ftp"/],
      [[`${room}/a`, `${room}/b`, "--parallel", "300"], 2, /at most 256/],
      [[`${room}/a`, `nbd+unix:///?socket=${room}/nobody`], 1, /cannot connect/],
    ];
    for (const [args, code, pattern] of cases) {
      const ran = await drover("cp", ...args);
      assert.equal(ran.code, code, `${args.join(" ")}: ${ran.stderr}`);
      assert.match(ran.stderr, pattern);
    }
    assert.deepEqual([...Deno.readDirSync(room)].map(({ name }) => name).sort(), ["a", "c.part", "link"]);
  });
});

Deno.test("drover export refuses addresses that others reach, and says what to type", async () => {
  for (const listen of ["0.0.0.0:0", ":0", "192.0.2.1:0", "[::]:0", "example.org"]) {
    const ran = await drover("export", "memory:1MiB", "--listen", listen);
    assert.equal(ran.code, 2, listen);
    assert.match(ran.stderr, /NBD asks nobody who he is/);
    assert.match(ran.stderr, /hint: drover export memory:1MiB --listen .* --allow-remote/);
  }
  for (
    const args of [["--listen", "unix:"], ["--listen", `unix:/${"x".repeat(108)}`], [
      "--name",
      "a".repeat(4097),
    ]]
  ) {
    assert.equal((await drover("export", "memory:1MiB", ...args)).code, 2);
  }
  assert.equal((await drover("export", "/nowhere", "--listen", "127.0.0.1:0")).code, 1);
});
