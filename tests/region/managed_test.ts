import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { openNative } from "../../ffi/mod.ts";
import { type Backend, CheckedBackend, IoError } from "../../lib/region/backend.ts";
import { FileBackend } from "../../lib/region/backend_file.ts";
import { MemoryBackend } from "../../lib/region/backend_memory.ts";
import { openBackend } from "../../lib/region/backend_url.ts";
import {
  type Clock,
  delayed,
  faulty,
  FaultyBackend,
  readOnly,
  systemClock,
} from "../../lib/region/backend_wrap.ts";
import { type ManagedBackend, type ManagedEvent, openManaged } from "../../lib/region/managed.ts";
import { NbdListener } from "../../lib/region/nbd_listen.ts";
import { type BackendCase, backendSuite } from "../backend_suite.ts";
import { assertSameBytes } from "../same_bytes.ts";
import { prng } from "../stream/prng.ts";

const KiB = 1024;
const MiB = 2 ** 20;
const libc = openNative().libc;
const room = Deno.makeTempDirSync({ dir: "/var/tmp", prefix: "drover-managed-" });
globalThis.addEventListener("unload", () => Deno.removeSync(room, { recursive: true }));

/** A clock whose sleeps are turns of the event loop. */
const turns: Clock = {
  now: () => 0,
  sleep: () => new Promise((resolve) => setTimeout(resolve, 0)),
};

const quick = {
  block: 512,
  demand: 1024,
  chunk: 4096,
  inFlightMax: 16 * KiB,
  pushIntervalMs: 5,
  timeoutMs: 2000,
};

function clear(): void {
  for (const { name } of [...Deno.readDirSync(room)]) Deno.removeSync(`${room}/${name}`, { recursive: true });
}

let far: Uint8Array<ArrayBuffer> = new Uint8Array(0);

const cases: readonly BackendCase[] = [
  {
    name: "managed, memory in front of memory",
    open: (size) =>
      openManaged({ source: new MemoryBackend(size), local: new MemoryBackend(size), ...quick }),
  },
  {
    name: "managed, nothing pulled by itself, a far source",
    open: (size) =>
      openManaged({
        source: delayed(new MemoryBackend(size), { clock: turns, latencyMs: 1 }),
        local: new MemoryBackend(size + 5000),
        ...quick,
        pull: false,
      }),
  },
  {
    name: "managed, a file with notes in front of memory, flushed to the source",
    open: (size) => {
      far = new Uint8Array(size);
      return openManaged({
        source: new MemoryBackend(far),
        local: FileBackend.open(`${room}/local`, { create: size, libc }),
        state: `${room}/state`,
        durability: "remote",
        ...quick,
      });
    },
    // A new local backend: what was flushed is in the source.
    reopen: (size) =>
      openManaged({ source: new MemoryBackend(far), local: new MemoryBackend(size), ...quick }),
    clean: clear,
  },
  {
    name: "managed, a file with notes in front of a file, default sizes",
    open: (size) =>
      openManaged({
        source: () => FileBackend.open(`${room}/source`, { create: size, libc }),
        local: FileBackend.open(`${room}/local`, { create: size, libc }),
        state: `${room}/state`,
      }),
    reopen: () =>
      openManaged({
        source: () => FileBackend.open(`${room}/source`, { libc }),
        local: FileBackend.open(`${room}/local`, { libc }),
        state: `${room}/state`,
      }),
    clean: clear,
  },
];
for (const subject of cases) backendSuite(subject);

/** Noise. */
function noise(size: number, seed = 1): Uint8Array<ArrayBuffer> {
  const random = prng(seed);
  const bytes = new Uint8Array(size);
  const words = new Uint32Array(bytes.buffer, 0, size >>> 2);
  for (let at = 0; at < words.length; at++) words[at] = random(2 ** 32);
  return bytes;
}

async function readAll(backend: Backend): Promise<Uint8Array> {
  const bytes = new Uint8Array(backend.size);
  await backend.readAt(0, bytes);
  return bytes;
}

/** A source that is held until it is let go, and that tells what is asked of it. */
class Held extends CheckedBackend {
  readonly asked: { offset: number; length: number }[] = [];
  readonly bytes: Uint8Array;
  #waiting: (() => void)[] = [];
  held = false;

  constructor(bytes: Uint8Array) {
    super({ name: "held", size: bytes.length });
    this.bytes = bytes;
  }

  letGo(): void {
    this.held = false;
    for (const resolve of this.#waiting.splice(0)) resolve();
  }

  protected override async read(offset: number, into: Uint8Array): Promise<void> {
    this.asked.push({ offset, length: into.length });
    if (this.held) await new Promise<void>((resolve) => this.#waiting.push(resolve));
    into.set(this.bytes.subarray(offset, offset + into.length));
  }

  protected override write(offset: number, bytes: Uint8Array): void {
    this.bytes.set(bytes, offset);
  }
}

function flip(bytes: Uint8Array, at: number): void {
  bytes[at] = (bytes[at] ?? 0) ^ 0x80;
}

/** Waits for something that must come; the test's own limit ends a wait for what does not. */
async function until(claim: () => boolean): Promise<void> {
  while (!claim()) await new Promise((resolve) => setTimeout(resolve, 1));
}

Deno.test("openManaged() pulls everything once, and asks for no byte twice", async () => {
  const bytes = noise(3 * MiB + 1234);
  const source = new Held(bytes);
  const local = new MemoryBackend(bytes.length);
  await using mount = await openManaged({ source, local });
  await mount.whenLocal();
  assertSameBytes(await readAll(mount), bytes);
  assert.equal(source.asked.reduce((sum, { length }) => sum + length, 0), bytes.length);
  assert.equal(mount.stats.localBytes, bytes.length);
});

Deno.test("ManagedBackend.readAt() asks for the piece that is wanted, at once, while others are on their way", async () => {
  const source = new Held(noise(8 * MiB));
  source.held = true;
  await using mount = await openManaged({ source, local: new MemoryBackend(8 * MiB) });
  await until(() => source.asked.length >= 4);
  const before = source.asked.length;
  assert.ok(before > 0, "nothing is pulled");
  const into = new Uint8Array(100);
  const read = Promise.resolve(mount.readAt(7 * MiB + 5000, into));
  assert.deepEqual(source.asked.slice(before), [{ offset: 7 * MiB, length: 64 * KiB }]);
  const joined = Promise.resolve(mount.readAt(7 * MiB + 5000, new Uint8Array(100)));
  const first = Promise.resolve(mount.readAt(10, new Uint8Array(100)));
  assert.equal(source.asked.length, before + 1, "what is on its way was asked for again");
  source.letGo();
  await Promise.all([read, joined, first]);
  assertSameBytes(into, source.bytes.subarray(7 * MiB + 5000, 7 * MiB + 5100));
  assert.deepEqual([mount.stats.demandReads, mount.stats.joinedReads], [1, 2]);
});

Deno.test("ManagedBackend.readAt() is followed: what lies behind a miss is pulled next", async () => {
  const source = new Held(noise(64 * MiB));
  source.held = true;
  await using mount = await openManaged({ source, local: new MemoryBackend(64 * MiB), chunk: 256 * KiB });
  await until(() => source.asked.length >= 4);
  const read = Promise.resolve(mount.readAt(40 * MiB, new Uint8Array(10)));
  const before = source.asked.length;
  source.held = false;
  source.letGo();
  await read;
  await until(() => source.asked.length > before);
  const next = source.asked[before];
  assert.ok(
    next !== undefined && next.offset >= 40 * MiB && next.offset < 41 * MiB,
    `next was ${next?.offset}`,
  );
});

Deno.test("openManaged() pulls by priority, and cache() goes before it", async () => {
  const source = new Held(noise(16 * MiB));
  source.held = true;
  await using mount = await openManaged({
    source,
    local: new MemoryBackend(16 * MiB),
    chunk: 1 * MiB,
    inFlightMax: 1 * MiB,
    priority: (chunk) => (chunk * 7) % 16,
  });
  await until(() => source.asked.length > 0);
  mount.cache(12 * MiB, 100);
  source.letGo();
  await mount.whenLocal();
  const order: number[] = [];
  for (const { offset } of source.asked) {
    const chunk = Math.floor(offset / MiB);
    if (!order.includes(chunk)) order.push(chunk);
  }
  const wanted = Array.from({ length: 16 }, (_, chunk) => chunk).sort((left, right) =>
    (right * 7) % 16 - (left * 7) % 16
  );
  assert.equal(order[0], wanted[0]);
  assert.equal(order[1], 12);
  assert.deepEqual(order.filter((chunk) => chunk !== 12), wanted.filter((chunk) => chunk !== 12));
});

Deno.test("openManaged() learns an order, and the next mount pulls in it", async () => {
  const learn = `${room}/order`;
  const bytes = noise(32 * MiB);
  const random = prng(3);
  const places = Array.from({ length: 100 }, () => random(512) * 64 * KiB);
  const use = async (mount: ManagedBackend): Promise<void> => {
    for (const place of places) {
      const into = new Uint8Array(4096);
      await mount.readAt(place, into);
      assertSameBytes(into, bytes.subarray(place, place + 4096));
    }
  };
  const open = (): Promise<ManagedBackend> =>
    openManaged({
      source: delayed(new MemoryBackend(bytes), { clock: systemClock, latencyMs: 1, bytesPerSecond: 50e6 }),
      local: new MemoryBackend(bytes.length),
      learn,
    });
  let first = 0;
  {
    await using mount = await open();
    await use(mount);
    first = mount.stats.demandReads;
  }
  const source = new Held(bytes);
  {
    source.held = true;
    await using _mount = await openManaged({ source, local: new MemoryBackend(bytes.length), learn });
    await until(() => source.asked.length > 0);
    assert.equal(source.asked[0]?.offset, places[0]);
    source.letGo();
  }
  await using mount = await open();
  await new Promise((resolve) => setTimeout(resolve, 200));
  await use(mount);
  assert.ok(first >= 20, `${first} reads waited the first time`);
  assert.ok(
    mount.stats.demandReads <= first / 10,
    `${mount.stats.demandReads} of ${first} reads still waited`,
  );
  for (const damage of [0, 9, 20, 40]) {
    const order = Deno.readFileSync(learn);
    flip(order, damage);
    Deno.writeFileSync(`${room}/bad`, order);
    await using plain = await openManaged({
      source: new MemoryBackend(bytes),
      local: new MemoryBackend(bytes.length),
      learn: `${room}/bad`,
    });
    assertSameBytes(await readAll(plain), bytes);
  }
});

Deno.test("openManaged() fetches no zeros that the source knows of", async () => {
  const size = 64 * MiB;
  const source = FileBackend.open(`${room}/sparse`, { create: size, libc });
  await source.writeAt(10 * MiB, noise(MiB));
  await source.writeAt(63 * MiB + 5000, noise(3000));
  const slow = delayed(source, { clock: systemClock, latencyMs: 2, bytesPerSecond: 20e6 });
  const local = FileBackend.open(`${room}/local`, { create: size, libc });
  await using mount = await openManaged({ source: slow, local });
  await mount.whenLocal();
  const { pulledBytes, zeroBytes } = mount.stats;
  assert.ok(pulledBytes < 20 * MiB && zeroBytes >= 40 * MiB, `${pulledBytes} fetched, ${zeroBytes} zeros`);
  const blocks = Deno.statSync(`${room}/local`).blocks ?? 0;
  assert.ok(blocks * 512 < 2 * MiB, "zeros were written");
  assertSameBytes(await readAll(mount), await readAll(source));
});

Deno.test("ManagedBackend.writeAt() of whole blocks waits for no source; of parts of blocks it keeps the rest", async () => {
  const bytes = noise(4 * MiB);
  const source = new Held(bytes.slice());
  source.held = true;
  await using mount = await openManaged({
    source,
    local: new MemoryBackend(bytes.length),
    pushIntervalMs: null,
  });
  const model = bytes.slice();
  await mount.writeAt(8192, new Uint8Array(8192).fill(1));
  model.fill(1, 8192, 16_384);
  await mount.writeAt(9000, new Uint8Array(100).fill(2));
  model.fill(2, 9000, 9100);
  const into = new Uint8Array(8192);
  await mount.readAt(8192, into);
  assertSameBytes(into, model.subarray(8192, 16_384));
  const part = mount.writeAt(3 * MiB + 5, new Uint8Array(7).fill(3));
  const other = mount.writeAt(3 * MiB + 12, new Uint8Array(7).fill(4));
  model.fill(3, 3 * MiB + 5, 3 * MiB + 12).fill(4, 3 * MiB + 12, 3 * MiB + 19);
  source.letGo();
  await Promise.all([part, other]);
  await mount.whenLocal();
  assertSameBytes(await readAll(mount), model);
  assertSameBytes(source.bytes, bytes);
  await mount.push();
  assertSameBytes(source.bytes, model);
});

Deno.test("ManagedBackend.flush() with durability remote has everything in the source, what is written meanwhile in the next round", async () => {
  const source = new MemoryBackend(MiB);
  const slow = delayed(source, { clock: systemClock, latencyMs: 5 });
  await using mount = await openManaged({
    source: slow,
    local: new MemoryBackend(MiB),
    durability: "remote",
  });
  await mount.writeAt(0, new Uint8Array(4096).fill(1));
  const flush = Promise.resolve(mount.flush());
  await new Promise((resolve) => setTimeout(resolve, 1));
  // The round has taken the block: this makes it dirty again.
  await mount.writeAt(0, new Uint8Array(4096).fill(2));
  await flush;
  assert.ok([1, 2].includes(source.view(0, 1)[0] ?? 0));
  assert.ok(mount.stats.dirtyBytes > 0, "the second write was forgotten");
  await mount.flush();
  assert.deepEqual([source.view(0, 1)[0], mount.stats.dirtyBytes], [2, 0]);
});

Deno.test("ManagedBackend pushes by itself, zeros as zeros, and nothing that is clean", async () => {
  const writes: string[] = [];
  class Told extends MemoryBackend {
    protected override write(offset: number, bytes: Uint8Array): void {
      writes.push(`write ${offset} ${bytes.length}`);
      super.write(offset, bytes);
    }
    override zero(offset: number, length: number): void {
      writes.push(`zero ${offset} ${length}`);
      super.zero(offset, length);
    }
  }
  const source = new Told(noise(8 * MiB));
  await using mount = await openManaged({ source, local: new MemoryBackend(8 * MiB), pushIntervalMs: 10 });
  await mount.whenLocal();
  await mount.zero(MiB, 2 * MiB);
  await mount.writeAt(5 * MiB + 4096, noise(8192, 2));
  await until(() => mount.stats.dirtyBytes === 0);
  assert.deepEqual(writes.sort(), [
    `write ${5 * MiB + 4096} 8192`,
    `zero ${MiB} ${MiB}`,
    `zero ${2 * MiB} ${MiB}`,
  ]);
  assertSameBytes(await readAll(source), await readAll(mount));
});

Deno.test("ManagedBackend survives a source that is cut: EIO after the time-out, and back again by itself", async () => {
  const bytes = noise(4 * MiB);
  const memory = new MemoryBackend(bytes.slice());
  const listen = (): Promise<NbdListener> =>
    NbdListener.open({ place: { path: `${room}/s` }, offers: [{ name: "", backend: memory }] });
  let listener = await listen();
  const url = listener.url("");
  const events: string[] = [];
  const mount = await openManaged({
    source: () => openBackend(url),
    local: new MemoryBackend(bytes.length),
    pull: false,
    timeoutMs: 1000,
    pushIntervalMs: 10,
    log: ({ event }) => events.push(event),
  });
  try {
    await mount.readAt(0, new Uint8Array(10));
    await listener.close();
    await assert.rejects(
      async () => await mount.readAt(2 * MiB, new Uint8Array(10)),
      (error) => error instanceof IoError && error.errno === "EIO",
    );
    await mount.readAt(5, new Uint8Array(10));
    await mount.writeAt(MiB, new Uint8Array(4096).fill(7));
    await until(() => events.includes("push-failed"));
    assert.equal(mount.stats.source, "down");
    listener = await listen();
    const into = new Uint8Array(MiB);
    await mount.readAt(2 * MiB, into);
    assertSameBytes(into, bytes.subarray(2 * MiB, 3 * MiB));
    await until(() => mount.stats.dirtyBytes === 0);
    assert.equal(memory.view(MiB, 1)[0], 7);
    // On a busy machine a slow answer may count as none for a moment.
    const turns = events.filter((event) => event.startsWith("source"));
    assert.ok(
      turns.length >= 2 && turns.every((turn, at) => turn === (at % 2 === 0 ? "source-down" : "source-up")),
    );
    assert.equal(turns.at(-1), "source-up");
  } finally {
    await mount.close();
    await listener.close();
  }
});

Deno.test("ManagedBackend.readAt() ends with EIO when the source hangs, and others are served", async () => {
  const source = new Held(noise(4 * MiB));
  const mount = await openManaged({
    source,
    local: new MemoryBackend(4 * MiB),
    pull: false,
    timeoutMs: 100,
    pushIntervalMs: null,
  });
  await mount.readAt(0, new Uint8Array(10));
  source.held = true;
  await assert.rejects(async () => await mount.readAt(MiB, new Uint8Array(10)), { errno: "EIO" });
  await assert.rejects(async () => await mount.writeAt(MiB + 1, new Uint8Array(10)), { errno: "EIO" });
  await mount.readAt(0, new Uint8Array(10));
  source.letGo();
  const into = new Uint8Array(10);
  await mount.readAt(MiB, into);
  assertSameBytes(into, source.bytes.subarray(MiB, MiB + 10));
  await mount.close();
});

Deno.test("ManagedBackend goes on over a source and a local backend that fail now and then", async () => {
  const bytes = noise(2 * MiB);
  const random = prng(11);
  const chance = (): number => random(1000) / 1000;
  const far = new MemoryBackend(bytes.slice());
  const source = faulty(far, { rate: 0.2, errno: "EIO", random: chance });
  await using mount = await openManaged({
    source,
    local: new MemoryBackend(bytes.length),
    ...quick,
    inFlightMax: 64 * KiB,
  });
  const model = bytes.slice();
  for (let step = 0; step < 200; step++) {
    const length = 1 + random(20_000);
    const offset = random(bytes.length - length);
    if (step % 2 === 0) {
      const fill = new Uint8Array(length).fill(step);
      await mount.writeAt(offset, fill);
      model.set(fill, offset);
    } else {
      const into = new Uint8Array(length);
      await mount.readAt(offset, into);
      assertSameBytes(into, model.subarray(offset, offset + length));
    }
  }
  await mount.push();
  assert.equal(mount.stats.dirtyBytes, 0);
  await mount.whenLocal();
  source.disarm();
  assertSameBytes(await readAll(mount), model);
  assertSameBytes(await readAll(far), model);
});

Deno.test("ManagedBackend serves reads when local is full, and pulls on when there is room", async () => {
  const bytes = noise(2 * MiB);
  const inner = new MemoryBackend(bytes.length);
  const local = new FaultyBackend(inner, { rate: 1, errno: "ENOSPC", random: () => 0, armed: true });
  const events: string[] = [];
  await using mount = await openManaged({
    source: new MemoryBackend(bytes.slice()),
    local,
    pushIntervalMs: null,
    log: ({ event }) => events.push(event),
  });
  await until(() => events.includes("local-full"));
  assertSameBytes(await readAll(mount), bytes);
  await assert.rejects(async () => await mount.writeAt(0, new Uint8Array(4096)), { errno: "ENOSPC" });
  assertSameBytes(await readAll(mount), bytes);
  assert.ok(events.filter((event) => event === "local-full").length === 1, events.join());
  local.disarm();
  await mount.whenLocal();
  assertSameBytes(await readAll(inner), bytes);
});

Deno.test("ManagedBackend never serves what its hash is not of", async () => {
  const bytes = noise(MiB + 777);
  const chunk = 64 * KiB;
  const hashes = {
    chunk,
    digest: (index: number) =>
      createHash("sha256").update(bytes.subarray(index * chunk, (index + 1) * chunk)).digest(),
  };
  const lied = new Set<number>();
  class Liar extends MemoryBackend {
    protected override read(offset: number, into: Uint8Array): void {
      super.read(offset, into);
      // The third chunk always, others the first time.
      if (offset <= 3 * chunk && offset + into.length > 3 * chunk) flip(into, 3 * chunk - offset);
      else if (!lied.has(offset)) flip(into, 0);
      lied.add(offset);
    }
  }
  const events: string[] = [];
  const source = new Liar(bytes.slice());
  await using mount = await openManaged({
    source,
    local: new MemoryBackend(bytes.length),
    hashes,
    timeoutMs: 300,
    log: ({ event }) => events.push(event),
  });
  for (let at = 0; at * chunk < bytes.length; at++) {
    const into = new Uint8Array(Math.min(chunk, bytes.length - at * chunk));
    const read = async (): Promise<void> => await mount.readAt(at * chunk, into);
    if (at === 3) await assert.rejects(read, { errno: "EIO" });
    else {
      await read();
      assertSameBytes(into, bytes.subarray(at * chunk, at * chunk + into.length));
    }
  }
  assert.ok(events.includes("corrupt"));
});

Deno.test("openManaged() refuses a source that comes back with another size", async () => {
  let size = 2 * MiB;
  let last: FaultyBackend | null = null;
  const mount = await openManaged({
    source: () => {
      last = new FaultyBackend(new MemoryBackend(size), {
        rate: 1,
        errno: "ESHUTDOWN",
        random: () => 0,
        armed: false,
      });
      return last;
    },
    local: new MemoryBackend(size),
    pull: false,
    timeoutMs: 60,
  });
  await mount.readAt(0, new Uint8Array(1));
  size = MiB;
  (last as FaultyBackend | null)?.arm();
  await assert.rejects(async () => await mount.readAt(MiB, new Uint8Array(1)), /did not answer/);
  size = 2 * MiB;
  await mount.readAt(MiB, new Uint8Array(1));
  await mount.close();
});

Deno.test("openManaged() in front of a read-only source is read-only, unless nothing is to be pushed", async () => {
  const bytes = noise(64 * KiB);
  const open = (pushIntervalMs: number | null): Promise<ManagedBackend> =>
    openManaged({
      source: readOnly(new MemoryBackend(bytes.slice())),
      local: new MemoryBackend(64 * KiB),
      pushIntervalMs,
    });
  {
    await using mount = await open(1000);
    assert.equal(mount.readOnly, true);
    await assert.rejects(async () => await mount.writeAt(0, new Uint8Array(1)), { errno: "EPERM" });
  }
  await using mount = await open(null);
  await mount.writeAt(1, new Uint8Array([1, 2, 3]));
  await mount.flush();
  bytes.set([1, 2, 3], 1);
  assertSameBytes(await readAll(mount), bytes);
});

Deno.test("openManaged() with notes fetches nothing again, and opens without its source", async () => {
  const bytes = noise(4 * MiB);
  const open = (source: Backend | (() => Promise<Backend>)): Promise<ManagedBackend> =>
    openManaged({
      source,
      local: FileBackend.open(`${room}/kept`, { create: bytes.length, libc }),
      state: `${room}/kept-state`,
      identity: "a",
      timeoutMs: 100,
    });
  {
    await using mount = await open(new MemoryBackend(bytes.slice()));
    await mount.whenLocal();
    await mount.writeAt(100, new Uint8Array([1, 2, 3]));
    bytes.set([1, 2, 3], 100);
  }
  const source = new Held(bytes);
  {
    await using mount = await open(source);
    assert.equal(mount.stats.recovered, "closed");
    assertSameBytes(await readAll(mount), bytes);
    assert.equal(source.asked.length, 0);
  }
  await using mount = await open(() =>
    Promise.reject(new IoError("EIO", "Nobody there", { code: "disconnected" }))
  );
  assertSameBytes(await readAll(mount), bytes);
});

Deno.test("openManaged() refuses notes of something else, in use, or damaged", async () => {
  const open = (identity: string, size = MiB): Promise<ManagedBackend> =>
    openManaged({
      source: new MemoryBackend(size),
      local: new MemoryBackend(size),
      state: `${room}/notes`,
      identity,
      pushIntervalMs: null,
    });
  {
    await using mount = await open("a");
    await mount.writeAt(0, new Uint8Array(4096).fill(1));
    await assert.rejects(() => open("a"), { code: "busy" });
  }
  await assert.rejects(() => open("b"), { code: "usage" });
  await assert.rejects(() => open("a", 2 * MiB), { code: "usage" });
  const good = Deno.readFileSync(`${room}/notes/journal`);
  for (const at of [0, 8, 12, 24, 28, 100, 130, good.length - 60]) {
    const bad = good.slice();
    flip(bad, at);
    Deno.writeFileSync(`${room}/notes/journal`, bad);
    await assert.rejects(() => open("a"), { name: "FormatError" }, `a bit at ${at}`);
  }
  for (const length of [0, 50, 127, 150]) {
    Deno.writeFileSync(`${room}/notes/journal`, good.subarray(0, length));
    await assert.rejects(() => open("a"), { name: "FormatError" }, `${length} bytes`);
  }
  Deno.writeFileSync(`${room}/notes/journal`, good);
  await using mount = await open("a");
  assert.equal(mount.stats.recovered, "closed");
});

Deno.test("openManaged() refuses sizes that do not fit", async () => {
  const open = (options: Record<string, unknown>): Promise<ManagedBackend> =>
    openManaged({ source: new MemoryBackend(MiB), local: new MemoryBackend(MiB), ...options });
  for (
    const options of [
      { chunk: 1000 },
      { block: 8192, demand: 4096 },
      { demand: 2 * MiB },
      { local: new MemoryBackend(MiB - 1) },
      { inFlightMax: 100 },
      { timeoutMs: 0 },
      { hashes: { chunk: 512, digest: () => null } },
    ]
  ) await assert.rejects(() => open(options), RangeError, JSON.stringify(options));
});

Deno.test("ManagedBackend.writeAt() waits for a pull that lands in the same blocks, so that it comes last", async () => {
  const bytes = noise(64 * KiB);
  let letGo = (): void => {};
  const held = new Promise<void>((resolve) => letGo = resolve);
  let landing = false;
  class Slow extends MemoryBackend {
    protected override async write(offset: number, part: Uint8Array): Promise<void> {
      if (!landing) {
        landing = true;
        await held;
      }
      super.write(offset, part);
    }
  }
  const local = new Slow(bytes.length);
  await using mount = await openManaged({
    source: new MemoryBackend(bytes),
    local,
    pull: false,
    pushIntervalMs: null,
  });
  await mount.readAt(0, new Uint8Array(10));
  await until(() => landing);
  const write = mount.writeAt(0, new Uint8Array(4096).fill(9));
  await new Promise((resolve) => setTimeout(resolve, 0));
  letGo();
  await write;
  const into = new Uint8Array(4096);
  await mount.readAt(0, into);
  assert.ok(into.every((byte) => byte === 9), "the pull came over the write");
});

Deno.test("openManaged() tells why the source is down", async () => {
  const events: ManagedEvent[] = [];
  let open = true;
  const mount = await openManaged({
    source: () => {
      if (!open) throw new IoError("EIO", "Nobody there", { code: "disconnected" });
      return new FaultyBackend(new MemoryBackend(MiB), { rate: 1, errno: "ESHUTDOWN", random: () => 0 });
    },
    local: new MemoryBackend(MiB),
    pull: false,
    timeoutMs: 50,
    log: (event) => events.push(event),
  });
  open = false;
  await assert.rejects(async () => await mount.readAt(0, new Uint8Array(1)));
  assert.equal(events[0]?.event, "source-down");
  assert.ok(events[0]?.error instanceof IoError);
  await mount.close();
});
