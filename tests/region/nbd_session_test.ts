/**
 * Goal: a client of an NBD server that is killed, restarted, cut off or slow loses nothing that was answered, and
 * waits for nothing longer than it was told to.
 * Method: servers of this process over a disk with a cache that a crash empties; connections are cut at random.
 */
import assert from "node:assert/strict";
import { DroverError } from "../../lib/base/errors.ts";
import { type Backend, CheckedBackend, IoError } from "../../lib/region/backend.ts";
import { MemoryBackend } from "../../lib/region/backend_memory.ts";
import { NbdBackend, type NbdPlace } from "../../lib/region/backend_nbd.ts";
import { faulty, WrappedBackend } from "../../lib/region/backend_wrap.ts";
import { NbdListener } from "../../lib/region/nbd_listen.ts";
import { type NbdChange, ReplayLog } from "../../lib/region/nbd_replay.ts";
import { assertSameBytes } from "../same_bytes.ts";
import { prng } from "../stream/prng.ts";

const KiB = 1024;
const room = Deno.makeTempDirSync({ dir: "/var/tmp", prefix: "drover-session-" });
globalThis.addEventListener("unload", () => Deno.removeSync(room, { recursive: true }));

/** A disk whose writes are lost in a crash unless they were flushed. */
class CachedDisk extends CheckedBackend {
  readonly durable: Uint8Array<ArrayBuffer>;
  readonly current: Uint8Array<ArrayBuffer>;

  constructor(size: number) {
    super({ name: "cached disk", size });
    this.durable = new Uint8Array(size);
    this.current = new Uint8Array(size);
  }

  protected override async read(offset: number, into: Uint8Array): Promise<void> {
    await Promise.resolve();
    into.set(this.current.subarray(offset, offset + into.length));
  }

  protected override async write(offset: number, bytes: Uint8Array): Promise<void> {
    await Promise.resolve();
    this.current.set(bytes, offset);
  }

  zero(offset: number, length: number): void {
    this.checkWrite(offset, length);
    this.current.fill(0, offset, offset + length);
  }

  protected override sync(): void {
    this.durable.set(this.current);
  }

  crash(): void {
    this.current.set(this.durable);
  }
}

/** A server that can be killed, and started again at the same place. */
class Server implements AsyncDisposable {
  readonly place: NbdPlace;
  backend: Backend;
  #listener: NbdListener | null = null;

  constructor(name: string, backend: Backend) {
    this.place = { path: `${room}/${name}` };
    this.backend = backend;
  }

  async start(): Promise<this> {
    this.#listener = await NbdListener.open({
      place: this.place,
      offers: [{ name: "", backend: this.backend }],
      graceMs: 0,
    });
    return this;
  }

  /** Cuts every connection, whatever is under way. */
  async kill(): Promise<void> {
    await this.#listener?.close();
    this.#listener = null;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
  }
}

const timedOut = (error: unknown): boolean => error instanceof IoError && error.errno === "ETIMEDOUT";

for (const [seed, connections] of [[1, 1], [2, 1], [3, 3], [4, 3]] as const) {
  Deno.test(`NbdBackend: a server that crashes and loses what was not flushed costs nothing (seed ${seed}, ${connections} connections)`, async () => {
    const random = prng(seed);
    const disk = new CachedDisk(256 * KiB);
    await using server = await new Server(`crash${seed}`, disk).start();
    await using backend = await NbdBackend.connect(server.place, { connections, timeoutMs: 20_000 });
    const model = new Uint8Array(disk.size);
    let isOver = false;
    let count = 0;
    const crashes = (async () => {
      while (!isOver) {
        await new Promise((resolve) => setTimeout(resolve, 5 + random(40)));
        await server.kill();
        disk.crash();
        count++;
        await server.start();
      }
    })();
    try {
      // Writers have stripes of their own; within one, writes overlap and follow each other.
      await Promise.all(Array.from({ length: 8 }, async (_, writer) => {
        const [from, size] = [writer * 32 * KiB, 32 * KiB];
        const draw = prng(seed * 100 + writer);
        for (let step = 0; step < 100 || count < 8; step++) {
          const length = 1 + draw([100, 5000, size][draw(3)] ?? 1);
          const offset = from + draw(size - length + 1);
          const kind = draw(10);
          if (kind < 6) {
            const bytes = new Uint8Array(length).fill(1 + draw(255));
            await backend.writeAt(offset, bytes);
            model.set(bytes, offset);
            bytes.fill(0xee);
          } else if (kind < 7) {
            await backend.zero(offset, length);
            model.fill(0, offset, offset + length);
          } else if (kind < 8 && draw(4) === 0) {
            await backend.flush();
          } else {
            const into = new Uint8Array(length);
            await backend.readAt(offset, into);
            assertSameBytes(into, model.subarray(offset, offset + length), `writer ${writer}, step ${step}`);
          }
        }
      }));
      await backend.flush();
    } finally {
      isOver = true;
    }
    await crashes;
    assertSameBytes(disk.durable, model);
  });
}

Deno.test("NbdBackend: a server that is gone costs ETIMEDOUT, and works again without being opened again", async () => {
  await using server = await new Server("gone", new MemoryBackend(8 * KiB)).start();
  await using backend = await NbdBackend.connect(server.place, { timeoutMs: 150 });
  await backend.writeAt(0, new Uint8Array([1, 2, 3]));
  await server.kill();
  for (let times = 0; times < 2; times++) {
    const results = await Promise.allSettled([
      backend.readAt(0, new Uint8Array(3)),
      backend.writeAt(5, new Uint8Array(3)),
      backend.flush(),
      backend.extents(0, 10),
    ]);
    for (const result of results) assert.ok(result.status === "rejected" && timedOut(result.reason));
  }
  await server.start();
  const into = new Uint8Array(3);
  await backend.readAt(0, into);
  assert.deepEqual([...into], [1, 2, 3]);
});

Deno.test("NbdBackend: a server that is silent costs ETIMEDOUT, and nobody's buffer is touched later", async () => {
  let answer: (() => void) | null = () => {};
  class Silent extends WrappedBackend {
    protected override async read(offset: number, into: Uint8Array): Promise<void> {
      if (answer !== null) await new Promise<void>((resolve) => answer = resolve);
      await super.read(offset, into);
    }
  }
  const inner = new MemoryBackend(new Uint8Array(64 * KiB).fill(7));
  await using server = await new Server("silent", new Silent(inner)).start();
  await using backend = await NbdBackend.connect(server.place, { timeoutMs: 200 });
  const into = new Uint8Array(64 * KiB);
  await assert.rejects(async () => await backend.readAt(0, into), timedOut);
  const late = answer;
  answer = null;
  late();
  into.fill(1);
  await backend.readAt(0, new Uint8Array(64 * KiB));
  assert.ok(into.every((byte) => byte === 1));
});

Deno.test("NbdBackend: a server that never answers its greeting costs the time-out, too", async () => {
  const server = await new Server("greeting", new MemoryBackend(4096)).start();
  await using backend = await NbdBackend.connect(server.place, { timeoutMs: 300 });
  await server.kill();
  using dumb = Deno.listen({ transport: "unix", path: `${room}/greeting` });
  const taken: Deno.Conn[] = [];
  const taking = (async () => {
    for await (const connection of dumb) taken.push(connection);
  })().catch(() => {});
  await assert.rejects(async () => await backend.readAt(0, new Uint8Array(1)), timedOut);
  assert.ok(taken.length > 0);
  dumb.close();
  await taking;
  for (const connection of taken) connection.close();
});

Deno.test("NbdBackend: a server that comes back as something else is refused", async () => {
  await using server = await new Server("other", new MemoryBackend(8 * KiB)).start();
  await using backend = await NbdBackend.connect(server.place, { timeoutMs: 5000 });
  await server.kill();
  server.backend = new MemoryBackend(4 * KiB);
  await server.start();
  await assert.rejects(async () => await backend.readAt(0, new Uint8Array(1)), /another export now/);
  await server.kill();
  server.backend = new MemoryBackend(8 * KiB);
  await server.start();
  await backend.readAt(0, new Uint8Array(1));
});

Deno.test("NbdBackend: a restarted server that refuses what it lost fails the next flush, once", async () => {
  const disk = new CachedDisk(8 * KiB);
  const fault = faulty(disk, { rate: 1, errno: "ENOSPC", random: () => 0, armed: false });
  await using server = await new Server("refuses", fault).start();
  await using backend = await NbdBackend.connect(server.place, { timeoutMs: 5000 });
  await backend.writeAt(0, new Uint8Array([1]));
  await server.kill();
  disk.crash();
  class NoWrites extends WrappedBackend {
    protected override write(): never {
      throw new IoError("ENOSPC", "Cannot write: it is full");
    }
  }
  server.backend = new NoWrites(disk);
  await server.start();
  await backend.readAt(0, new Uint8Array(1));
  await assert.rejects(async () => await backend.flush(), /was restarted and refuses it/);
  await backend.flush();
});

Deno.test("NbdBackend: timeoutMs 0 takes the first loss for the last word", async () => {
  await using server = await new Server("once", new MemoryBackend(8 * KiB)).start();
  await using backend = await NbdBackend.connect(server.place, { timeoutMs: 0 });
  await backend.readAt(0, new Uint8Array(1));
  await server.kill();
  await server.start();
  await assert.rejects(
    async () => await backend.readAt(0, new Uint8Array(1)),
    (error) => error instanceof DroverError && error.code === "disconnected",
  );
});

Deno.test("NbdBackend: close() while the server is gone ends, and so does what waits", async () => {
  await using server = await new Server("closing", new MemoryBackend(8 * KiB)).start();
  const backend = await NbdBackend.connect(server.place, { timeoutMs: 60_000 });
  await server.kill();
  const waiting = assert.rejects(async () => await backend.readAt(0, new Uint8Array(1)), /is closed/);
  await new Promise((resolve) => setTimeout(resolve, 20));
  await backend.close();
  await waiting;
});

Deno.test("ReplayLog.replay() keeps the order of changes that overlap, and forgets what was flushed", async () => {
  const random = prng(9);
  const log = new ReplayLog();
  const model = new Uint8Array(1000);
  const changes: NbdChange[] = Array.from({ length: 400 }, () => {
    const length = 1 + random(60);
    const offset = random(1000 - length);
    return random(4) === 0
      ? { kind: "zero", offset, length, allocate: false }
      : { kind: "write", offset, length, bytes: new Uint8Array(length).fill(random(256)) };
  });
  const put = (target: Uint8Array, change: NbdChange): void => {
    if (change.kind === "write") target.set(change.bytes, change.offset);
    else target.fill(0, change.offset, change.offset + change.length);
  };
  const target = new Uint8Array(1000);
  for (const [at, change] of changes.entries()) {
    if (at === 100) {
      target.set(model);
      log.forget(log.mark());
      assert.equal(log.size, 0);
    }
    log.add(change);
    put(model, change);
    if (change.kind === "write") change.bytes.fill(0xaa);
  }
  const waiting: (() => void)[] = [];
  let most = 0;
  const done = log.replay(async (change) => {
    await new Promise<void>((resolve) => {
      waiting.push(resolve);
      most = Math.max(most, waiting.length);
    });
    put(target, change);
  }, 8);
  let isDone = false;
  void done.then(() => isDone = true);
  while (!isDone) {
    await new Promise((resolve) => setTimeout(resolve, 0));
    // In any order, those that are under way together.
    while (waiting.length > 0) waiting.splice(random(waiting.length), 1)[0]?.();
  }
  assertSameBytes(target, model);
  assert.ok(most > 1 && most <= 8, `${most} at once`);
});

Deno.test("NbdListener: strangers that choose no export keep nobody out, and nobody who is in", async () => {
  const place = { path: `${room}/crowd` };
  const refused: unknown[] = [];
  await using listener = await NbdListener.open({
    place,
    offers: [{ name: "", backend: new MemoryBackend(4096) }],
    connections: 4,
    log: (event) => event.event === "refused" && refused.push(event.error),
  });
  await using first = await NbdBackend.connect(place, { timeoutMs: 0 });
  const strangers: Deno.Conn[] = [];
  for (let count = 0; count < 12; count++) {
    const stranger = await Deno.connect({ transport: "unix", path: place.path });
    await stranger.read(new Uint8Array(64));
    strangers.push(stranger);
  }
  await using second = await NbdBackend.connect(place, { timeoutMs: 0 });
  await first.readAt(0, new Uint8Array(10));
  await second.readAt(0, new Uint8Array(10));
  assert.equal(listener.connectionsOf("").length, 2);
  for (const stranger of strangers) stranger.close();
  assert.ok(refused.length >= 9, `${refused.length} were sent away`);
});
