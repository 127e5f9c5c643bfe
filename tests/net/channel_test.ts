/** Channels: order, limits, ends and cuts, in memory and over real connections. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { DroverError, FormatError } from "../../lib/base/errors.ts";
import { RecordChannel } from "../../lib/net/channel.ts";
import { ClusterKey } from "../../lib/net/key.ts";
import { type Channel, dial, listen, memoryChannelPair } from "../../lib/net/mod.ts";
import { encodeRecord } from "../../lib/stream/mod.ts";
import { prng } from "../stream/prng.ts";

const key = new ClusterKey(new Uint8Array(32).fill(1));
const host = "127.0.0.1";

/** A connected pair over TCP or TLS. */
async function connectedPair(
  pairKey: ClusterKey | null,
  limits: (type: number) => number = () => 1 << 24,
): Promise<[Channel, Channel]> {
  const listener = await listen({ host, port: 0, key: pairKey, limits });
  try {
    const taken = listener[Symbol.asyncIterator]().next();
    const client = await dial({ host, port: listener.address.port, key: pairKey, limits });
    return [client, (await taken).value ?? assert.fail("no channel")];
  } finally {
    listener.close();
  }
}

const isDisconnected = (error: unknown): boolean =>
  error instanceof DroverError && error.code === "disconnected";

const pairs: [string, () => Promise<[Channel, Channel]>][] = [
  ["in memory", () => Promise.resolve(memoryChannelPair())],
  ["in memory with delay", () => Promise.resolve(memoryChannelPair({ delayMs: 1 }))],
  ["over TCP", () => connectedPair(null)],
  ["over TLS", () => connectedPair(key)],
];

for (const [name, connect] of pairs) {
  Deno.test(`Channel ${name} keeps records, order and counters, both ways at once`, async () => {
    const [left, right] = await connect();
    const talk = async (channel: Channel, seed: number): Promise<[string, number]> => {
      const random = prng(seed);
      const hash = createHash("sha256");
      let octets = 8;
      let sending: Promise<void> = Promise.resolve();
      for (let index = 0; index < 200; index++) {
        const size = [0, 1, 8, random(100), random(40_000), random(300_000)][random(6)] ?? 0;
        const body = new Uint8Array(size).fill(random(256));
        hash.update(`${index + 1} ${size}`).update(body);
        const split = random(size + 1);
        sending = channel.send(index + 1, body.subarray(0, split), body.subarray(split));
        octets += 8 + Math.ceil(size / 8) * 8;
        if (random(10) === 0) await sending;
      }
      await sending;
      await channel.end();
      return [hash.digest("hex"), octets];
    };
    const hear = async (channel: Channel): Promise<string> => {
      const hash = createHash("sha256");
      for (let record; (record = await channel.receive()) !== null;) {
        hash.update(`${record.type} ${record.body.length}`).update(record.body);
        channel.recycle(record.body);
      }
      return hash.digest("hex");
    };
    const [[said, octets], heard, [answered, answerOctets], understood] = await Promise.all([
      talk(left, 1),
      hear(right),
      talk(right, 2),
      hear(left),
    ]);
    assert.equal(heard, said);
    assert.equal(understood, answered);
    assert.equal(left.bytesSent, octets);
    assert.equal(right.bytesReceived, octets);
    assert.equal(right.bytesSent, answerOctets);
    assert.equal(left.bytesReceived, answerOctets);
    assert.equal(await left.receive(), null);
    left.close();
    right.close();
    left.close();
  });

  Deno.test(`Channel ${name} goes on receiving after its own end()`, async () => {
    const [left, right] = await connect();
    await left.end();
    await left.end();
    await assert.rejects(left.send(1), TypeError);
    assert.equal(await right.receive(), null);
    await right.send(7, Uint8Array.of(7));
    await right.end();
    assert.deepEqual(await left.receive(), { type: 7, body: Uint8Array.of(7) });
    assert.equal(await left.receive(), null);
    left.close();
    right.close();
  });

  Deno.test(`Channel ${name} tells a close without END from an end`, async () => {
    const [left, right] = await connect();
    await left.send(1, new Uint8Array(100));
    left.close();
    assert.equal((await right.receive())?.body.length, 100);
    await assert.rejects(right.receive(), isDisconnected);
    await assert.rejects(right.receive(), isDisconnected);
    await assert.rejects(left.receive(), isDisconnected);
    await assert.rejects(left.send(1), isDisconnected);
    right.close();
  });

  Deno.test(`Channel ${name} lets close() end a waiting receive()`, async () => {
    const [left, right] = await connect();
    const waiting = assert.rejects(left.receive(), isDisconnected);
    await assert.rejects(left.receive(), TypeError);
    left.close();
    await waiting;
    right.close();
  });
}

Deno.test("Channel refuses a record above the limit of its type, and closes", async () => {
  for (const pairKey of [key, null]) {
    const limits = (type: number): number => type === 1 ? 100 : type === 2 ? 0 : -1;
    const [left, right] = await connectedPair(pairKey, limits);
    await left.send(1, new Uint8Array(100));
    await left.send(2);
    await left.send(2, new Uint8Array(1));
    assert.equal((await right.receive())?.type, 1);
    assert.equal((await right.receive())?.type, 2);
    await assert.rejects(
      right.receive(),
      (error) =>
        error instanceof FormatError && error.rule === "stream.record.length" && error.offset === 120,
    );
    await assert.rejects(left.receive(), isDisconnected);
    left.close();
  }
});

Deno.test("Channel refuses data behind END", async () => {
  const [left, right] = memoryChannelPair();
  left.close();
  right.close();
  const chunks = [...encodeRecord(5), ...encodeRecord(0), Uint8Array.of(1)].map((bytes) => [...bytes]);
  const bytes = Uint8Array.from(chunks.flat());
  let given = false;
  const channel = new RecordChannel({
    read: (buffer) => {
      if (given) return Promise.resolve(null);
      given = true;
      buffer.set(bytes);
      return Promise.resolve(bytes.length);
    },
    write: (part) => Promise.resolve(part.length),
    closeWrite: () => Promise.resolve(),
    close: () => {},
  }, { peer: "test", encrypted: false, limits: () => 8 });
  assert.equal((await channel.receive())?.type, 5);
  await assert.rejects(
    channel.receive(),
    (error) => error instanceof FormatError && error.rule === "stream.end.trailing" && error.offset === 16,
  );
});

Deno.test("Channel cut at any octet gives whole records, then disconnected", async () => {
  const bodies = [0, 1, 8, 30].map((size) => new Uint8Array(size).fill(size));
  const total = bodies.reduce((sum, body) => sum + 8 + Math.ceil(body.length / 8) * 8, 8);
  for (let cut = 0; cut <= total; cut++) {
    const [left, right] = memoryChannelPair({ cutAfterBytes: cut });
    const sending = (async () => {
      for (const body of bodies) await left.send(3, body);
      await left.end();
    })().then(() => null, (error) => error);
    let count = 0;
    let end: unknown = null;
    try {
      for (let record; (record = await right.receive()) !== null;) {
        assert.deepEqual(record.body, bodies[count]);
        count++;
      }
    } catch (error) {
      end = error;
    }
    if (cut < total) {
      assert.ok(isDisconnected(end), `cut ${cut}`);
      assert.ok(isDisconnected(await sending), `cut ${cut}`);
    } else {
      assert.equal(end, null);
      assert.equal(count, bodies.length);
    }
    left.close();
    right.close();
  }
});

Deno.test("Channel writes small records of one turn together, and large parts from where they are", async () => {
  const writes: Uint8Array[] = [];
  const channel = new RecordChannel({
    read: () => Promise.resolve(null),
    write: (part) => {
      writes.push(part);
      return Promise.resolve(part.length);
    },
    closeWrite: () => Promise.resolve(),
    close: () => {},
  }, { peer: "test", encrypted: false, limits: () => 8 });
  await Promise.all(Array.from({ length: 100 }, (_, index) => channel.send(index + 1, new Uint8Array(10))));
  assert.deepEqual(writes.map(({ length }) => length), [2400]);
  writes.length = 0;
  const large = new Uint8Array(1 << 20);
  await Promise.all([channel.send(1, large), channel.send(2, new Uint8Array(3))]);
  assert.deepEqual(writes.map(({ length }) => length), [8, 1 << 20, 16]);
  assert.equal(writes[1], large);
});

Deno.test("Channel waits for a slow receiver", async () => {
  for (const connect of [() => Promise.resolve(memoryChannelPair()), () => connectedPair(null)]) {
    const [left, right] = await connect();
    let sent = 0;
    const body = new Uint8Array(1 << 20);
    const sending = (async () => {
      for (; sent < 64; sent++) await left.send(1, body);
      await left.end();
    })();
    // What the kernel and the pipe hold is far below 64 MiB.
    await new Promise((resolve) => setTimeout(resolve, 100));
    assert.ok(sent < 40, `${sent} records taken with nobody receiving`);
    let count = 0;
    for (let record; (record = await right.receive()) !== null; right.recycle(record.body)) count++;
    await sending;
    assert.equal(count, 64);
    left.close();
    right.close();
  }
});

Deno.test("Channel gives recycled memory out again, one body at a time", async () => {
  const [left, right] = memoryChannelPair();
  const buffers = new Set<ArrayBuffer>();
  for (let index = 0; index < 6; index++) {
    const size = 200_000 - index;
    await left.send(1, new Uint8Array(size).fill(index));
    const record = await right.receive();
    assert.ok(
      record !== null && record.body.length === size && record.body.every((octet) => octet === index),
    );
    buffers.add(record.body.buffer);
    right.recycle(record.body);
  }
  assert.equal(buffers.size, 1);
  left.close();
  right.close();
});
