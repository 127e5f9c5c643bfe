import assert from "node:assert/strict";
import { DroverError, FormatError } from "../../lib/base/errors.ts";
import { listNbdExports, NbdClient, type NbdExports, serveNbd } from "../../lib/nbd/mod.ts";
import { prng } from "../stream/prng.ts";
import { pipe, type PipeEnd } from "./pipe.ts";
import { assertSameBytes } from "../same_bytes.ts";

const MiB = 2 ** 20;

/** Octets that a test server writes and reads by itself, without the code under test. */
class Peer {
  readonly #end: PipeEnd;
  #rest = new Uint8Array(0);

  constructor(end: PipeEnd) {
    this.#end = end;
  }

  async take(size: number): Promise<DataView<ArrayBuffer>> {
    while (this.#rest.length < size) {
      const buffer = new Uint8Array(65_536);
      const count = await this.#end.read(buffer);
      if (count === null) throw new Error("the client left");
      const joined = new Uint8Array(this.#rest.length + count);
      joined.set(this.#rest);
      joined.set(buffer.subarray(0, count), this.#rest.length);
      this.#rest = joined;
    }
    const taken = this.#rest.slice(0, size);
    this.#rest = this.#rest.slice(size);
    return new DataView(taken.buffer);
  }

  async send(...fields: (readonly [bytes: number, value: number] | Uint8Array)[]): Promise<void> {
    const size = fields.reduce(
      (sum, field) => sum + (field instanceof Uint8Array ? field.length : field[0]),
      0,
    );
    const bytes = new Uint8Array(size);
    const view = new DataView(bytes.buffer);
    let at = 0;
    for (const field of fields) {
      if (field instanceof Uint8Array) {
        bytes.set(field, at);
        at += field.length;
        continue;
      }
      const [width, value] = field;
      if (width === 2) view.setUint16(at, value);
      else if (width === 4) view.setUint32(at, value);
      else view.setBigUint64(at, BigInt(value));
      at += width;
    }
    for (let sent = 0; sent < bytes.length;) sent += await this.#end.write(bytes.subarray(sent));
  }

  /** Haggles: structured replies, no contexts, an export of `size`. */
  async haggle(size: number, flags = 0x10d): Promise<void> {
    await this.send(new TextEncoder().encode("NBDMAGICIHAVEOPT"), [2, 3]);
    await this.take(4);
    for (;;) {
      const head = await this.take(16);
      const option = head.getUint32(8);
      await this.take(head.getUint32(12));
      const reply = async (type: number, ...body: [number, number][]): Promise<void> => {
        const length = body.reduce((sum, [width]) => sum + width, 0);
        await this.send([8, 0x3e889045565a9], [4, option], [4, type], [4, length], ...body);
      };
      if (option === 10) await reply(0x80000001);
      else if (option === 7) {
        await reply(3, [2, 0], [8, size], [2, flags]);
        await reply(1);
        return;
      } else await reply(1);
    }
  }

  async request(): Promise<{ type: number; cookie: [number, number]; offset: number; length: number }> {
    const head = await this.take(28);
    return {
      type: head.getUint16(6),
      cookie: [head.getUint32(8), head.getUint32(12)],
      offset: Number(head.getBigUint64(16)),
      length: head.getUint32(24),
    };
  }

  async chunk(
    cookie: [number, number],
    type: number,
    done: boolean,
    ...body: ([number, number] | Uint8Array)[]
  ): Promise<void> {
    const length = body.reduce(
      (sum, field) => sum + (field instanceof Uint8Array ? field.length : field[0]),
      0,
    );
    await this.send([4, 0x668e33ef], [2, done ? 1 : 0], [2, type], [4, cookie[0]], [4, cookie[1]], [
      4,
      length,
    ], ...body);
  }
}

function memoryExports(bytes: Uint8Array): NbdExports {
  const backend = {
    size: bytes.length,
    readAt: (offset: number, into: Uint8Array) => into.set(bytes.subarray(offset, offset + into.length)),
    writeAt: async (offset: number, from: Uint8Array) => {
      await Promise.resolve();
      bytes.set(from, offset);
    },
    trim: (offset: number, length: number) => void bytes.fill(0, offset, offset + length),
  };
  return {
    list: () => [{ name: "one" }, { name: "two", description: "the other" }],
    find: (name) => ({ name, backend }),
  };
}

Deno.test("NbdClient sorts answers that come in any order, in any division into chunks and holes", async () => {
  const random = prng(21);
  const content = Uint8Array.from({ length: MiB }, (_, at) => at % 251);
  const [left, right] = pipe((most) => 1 + random(most));
  const peer = new Peer(right);
  const count = 40;
  const serving = (async () => {
    await peer.haggle(MiB);
    const requests = [];
    for (let at = 0; at < count; at++) requests.push(await peer.request());
    // All pieces of all replies, mixed.
    const pieces: { of: number; from: number; to: number }[] = [];
    const left: number[] = [];
    for (const [of, { length }] of requests.entries()) {
      let parts = 0;
      for (let from = 0; from < length;) {
        const to = Math.min(length, from + 1 + random(length));
        pieces.push({ of, from, to });
        from = to;
        parts++;
      }
      left[of] = parts;
    }
    for (let at = pieces.length - 1; at > 0; at--) {
      const other = random(at + 1);
      const kept = pieces[at];
      const moved = pieces[other];
      if (kept !== undefined && moved !== undefined) [pieces[at], pieces[other]] = [moved, kept];
    }
    for (const { of, from, to } of pieces) {
      const asked = requests[of];
      if (asked === undefined) throw new Error("a piece of nothing");
      const { cookie, offset } = asked;
      left[of] = (left[of] ?? 0) - 1;
      const withData = random(2) === 0;
      const done = left[of] === 0 && withData;
      if (content.subarray(offset + from, offset + to).every((byte) => byte === 0)) {
        await peer.chunk(cookie, 2, done, [8, offset + from], [4, to - from]);
      } else {
        await peer.chunk(cookie, 1, done, [8, offset + from], content.subarray(offset + from, offset + to));
      }
      if (left[of] === 0 && !done) await peer.chunk(cookie, 0, true);
    }
    assert.equal((await peer.request()).type, 2);
  })();
  content.fill(0, 300_000, 500_000);
  const client = await NbdClient.connect(left);
  const reads = Array.from({ length: count }, async () => {
    const length = 1 + random(20_000);
    const offset = random(MiB - length);
    const into = new Uint8Array(length).fill(0xee);
    await client.readAt(offset, into);
    assertSameBytes(into, content.subarray(offset, offset + length));
  });
  await Promise.all(reads);
  await client.close();
  await serving;
});

Deno.test("NbdClient has no more requests in flight than it may, and all are answered", async () => {
  const [left, right] = pipe();
  const bytes = new Uint8Array(MiB);
  let running = 0;
  let most = 0;
  const inner = memoryExports(bytes);
  const exports: NbdExports = {
    ...inner,
    find: async (name) => {
      const found = await inner.find(name);
      if (found === null) return null;
      return {
        ...found,
        backend: {
          ...found.backend,
          readAt: async () => {
            most = Math.max(most, ++running);
            await new Promise((resolve) => queueMicrotask(() => resolve(null)));
            running--;
          },
        },
      };
    },
  };
  const ended = serveNbd(right, { exports });
  const client = await NbdClient.connect(left, { requests: 4 });
  await Promise.all(Array.from({ length: 100 }, (_, at) => client.readAt(at, new Uint8Array(10))));
  assert.ok(most > 1 && most <= 4, `${most} at once`);
  await client.close();
  assert.equal((await ended).requests, 100);
});

Deno.test("NbdClient splits what is larger than a payload, and writes large and small beside each other", async () => {
  const random = prng(8);
  const [left, right] = pipe((most) => 1 + random(Math.min(most, 300_000)));
  const bytes = new Uint8Array(80 * MiB);
  const ended = serveNbd(right, { exports: memoryExports(bytes) });
  const client = await NbdClient.connect(left);
  const large = new Uint8Array(70 * MiB);
  for (let at = 0; at < large.length; at += 1001) large[at] = at % 255 + 1;
  const small = Array.from(
    { length: 50 },
    (_, at) => client.writeAt(75 * MiB + at * 100, new Uint8Array(100).fill(at)),
  );
  await Promise.all([client.writeAt(3, large), ...small]);
  const back = new Uint8Array(large.length);
  await client.readAt(3, back);
  assert.ok(back.every((byte, at) => byte === large[at]));
  assert.ok(Array.from({ length: 50 }, (_, at) => bytes[75 * MiB + at * 100 + 99] === at).every(Boolean));
  await client.close();
  assert.equal((await ended).requests, 50 + 3 + 3);
});

Deno.test("NbdClient uses only what the server has", async () => {
  const [left, right] = pipe();
  const peer = new Peer(right);
  const serving = (async () => {
    await peer.haggle(4096, 0x1);
    const asked = await peer.request();
    assert.equal(asked.type, 1);
    await peer.take(asked.length);
    await peer.send([4, 0x67446698], [4, 0], [4, asked.cookie[0]], [4, asked.cookie[1]]);
    assert.equal((await peer.request()).type, 2);
  })();
  const client = await NbdClient.connect(left);
  assert.equal(client.has("sendFlush"), false);
  await client.flush();
  await client.trim(0, 10);
  await client.cache(0, 10);
  await assert.rejects(
    client.zero(0, 10),
    (error) => error instanceof DroverError && error.code === "unsupported",
  );
  assert.deepEqual(await client.extents(0, 100), [{ length: 100, hole: false, zero: false }]);
  // No FUA on the wire where it was not offered.
  await client.writeAt(0, new Uint8Array(10), { fua: true });
  await client.close();
  await serving;
});

Deno.test("NbdClient refuses ranges outside of the export before it asks", async () => {
  const [left, right] = pipe();
  const ended = serveNbd(right, { exports: memoryExports(new Uint8Array(4096)) });
  const client = await NbdClient.connect(left);
  for (const [offset, length] of [[4096, 1], [-1, 1], [0, 4097], [NaN, 1]] as const) {
    await assert.rejects(client.readAt(offset, new Uint8Array(length)), RangeError);
    await assert.rejects(client.writeAt(offset, new Uint8Array(length)), RangeError);
    await assert.rejects(client.zero(offset, length), RangeError);
  }
  await client.close();
  assert.equal((await ended).requests, 0);
});

Deno.test("NbdClient rejects everything when the connection ends, and after close()", async () => {
  const [left, right] = pipe();
  const peer = new Peer(right);
  const client = await Promise.all([NbdClient.connect(left, { requests: 2 }), peer.haggle(4096)]).then((
    [it],
  ) => it);
  const pending = [0, 1, 2, 3].map((at) => client.readAt(at, new Uint8Array(1)));
  const rejected = Promise.all(
    pending.map((read) =>
      assert.rejects(read, (error) => error instanceof DroverError && error.code === "disconnected")
    ),
  );
  await peer.request();
  right.close();
  await rejected;
  await assert.rejects(client.readAt(0, new Uint8Array(1)), DroverError);
  await client.close();
  await client.close();
});

Deno.test("NbdClient leaves a buffer alone once its read was rejected", async () => {
  const [left, right] = pipe();
  const peer = new Peer(right);
  const [client] = await Promise.all([NbdClient.connect(left), peer.haggle(MiB)]);
  const into = new Uint8Array(200_000);
  const reading = assert.rejects(client.readAt(0, into), DroverError);
  const { cookie } = await peer.request();
  await peer.send(
    [4, 0x668e33ef],
    [2, 1],
    [2, 1],
    [4, cookie[0]],
    [4, cookie[1]],
    [4, 200_008],
    [8, 0],
    new Uint8Array(50_000).fill(1),
  );
  for (let turn = 0; turn < 50; turn++) await Promise.resolve();
  client.abandon();
  await reading;
  const before = into.slice();
  left.deliver(new Uint8Array(100_000).fill(2));
  for (let turn = 0; turn < 50; turn++) await Promise.resolve();
  assertSameBytes(into, before);
  await client.close();
});

Deno.test("NbdClient keeps the buffer of a write until all of it is sent, also when the answer comes before", async () => {
  const [left, right] = pipe((most) => Math.min(most, 1000));
  const peer = new Peer(right);
  const [client] = await Promise.all([NbdClient.connect(left), peer.haggle(MiB)]);
  const data = new Uint8Array(200_000).fill(1);
  let settled = false;
  const writing = client.writeAt(0, data).then(() => settled = true);
  const { cookie } = await peer.request();
  await peer.send([4, 0x67446698], [4, 0], [4, cookie[0]], [4, cookie[1]]);
  for (let turn = 0; turn < 100; turn++) await Promise.resolve();
  assert.equal(settled, false);
  const sent = await peer.take(data.length);
  await writing;
  assert.ok(new Uint8Array(sent.buffer).every((byte) => byte === 1));
  await client.close();
});

Deno.test("NbdClient gives up a server that cuts a reply into more than 65536 chunks", async () => {
  const [left, right] = pipe();
  const peer = new Peer(right);
  const [client] = await Promise.all([NbdClient.connect(left), peer.haggle(MiB)]);
  const reading = assert.rejects(
    client.readAt(0, new Uint8Array(100_000)),
    (error) => error instanceof FormatError && error.rule === "nbd.reply.chunks",
  );
  const { cookie } = await peer.request();
  const chunks = new Uint8Array(65_537 * 32);
  for (let at = 0; at < 65_537; at++) {
    const view = new DataView(chunks.buffer, at * 32, 32);
    [0x668e33ef, 2, ...cookie, 12, 0, at, 1].forEach((word, index) => view.setUint32(index * 4, word));
  }
  left.deliver(chunks);
  await reading;
  await client.close();
});

Deno.test("listNbdExports() lists, and leaves", async () => {
  const [left, right] = pipe();
  const ended = serveNbd(right, { exports: memoryExports(new Uint8Array(1)) });
  assert.deepEqual(await listNbdExports(left), [
    { name: "one", description: "" },
    { name: "two", description: "the other" },
  ]);
  assert.equal((await ended).exportName, null);
});
