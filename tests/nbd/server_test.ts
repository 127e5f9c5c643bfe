import assert from "node:assert/strict";
import { DroverError, FormatError } from "../../lib/base/errors.ts";
import {
  type Extent,
  type NbdBackend,
  NbdClient,
  NbdError,
  type NbdExport,
  type NbdExports,
  serveNbd,
  transportOf,
} from "../../lib/nbd/mod.ts";
import { prng } from "../stream/prng.ts";
import { loadVectors } from "../vectors.ts";
import { pipe, type PipeEnd } from "./pipe.ts";
import { assertSameBytes } from "../same_bytes.ts";

const MiB = 2 ** 20;

function only(chosen: Partial<NbdExport> & { backend: NbdBackend }): NbdExports {
  const found = { name: "", ...chosen };
  return { list: () => [found], find: (name) => name === found.name ? found : null };
}

function memory(size: number): NbdBackend & { bytes: Uint8Array<ArrayBuffer> } {
  const bytes = new Uint8Array(size);
  return {
    bytes,
    size,
    readAt: (offset, into) => into.set(bytes.subarray(offset, offset + into.length)),
    writeAt: (offset, from) => bytes.set(from, offset),
  };
}

/** A promise and its ends. */
function gate(): { open: () => void; passed: Promise<void> } {
  let open = (): void => {};
  const passed = new Promise<void>((resolve) => open = resolve);
  return { open, passed };
}

/** A request as octets. */
function request(
  type: number,
  options: { offset?: number; length?: number; flags?: number; cookie?: number; data?: Uint8Array } = {},
): Uint8Array<ArrayBuffer> {
  const { offset = 0, length = 0, flags = 0, cookie = 0, data = new Uint8Array(0) } = options;
  const bytes = new Uint8Array(28 + data.length);
  const fields = new DataView(bytes.buffer);
  fields.setUint32(0, 0x25609513);
  fields.setUint16(4, flags);
  fields.setUint16(6, type);
  fields.setUint32(12, cookie);
  fields.setBigUint64(16, BigInt(offset));
  fields.setUint32(24, length);
  bytes.set(data, 28);
  return bytes;
}

/** A client's octets up to the transmission, without structured replies. */
const entry = (() => {
  const bytes = new Uint8Array(4 + 16);
  const fields = new DataView(bytes.buffer);
  fields.setUint32(0, 3);
  bytes.set(new TextEncoder().encode("IHAVEOPT"), 4);
  fields.setUint32(12, 1);
  return bytes;
})();

/** Lets everything that can go on go on. */
async function settle(): Promise<void> {
  for (let turn = 0; turn < 200; turn++) await Promise.resolve();
}

Deno.test("serveNbd() takes no more than its limit of requests while the backend is at work", async () => {
  const [client, server] = pipe();
  const wait = gate();
  let running = 0;
  let most = 0;
  const backend: NbdBackend = {
    size: MiB,
    readAt: async () => {
      most = Math.max(most, ++running);
      await wait.passed;
      running--;
    },
    writeAt: () => {},
  };
  const ended = serveNbd(server, { exports: only({ backend }), limits: { requests: 5, bytes: MiB } });
  server.deliver(entry);
  for (let cookie = 0; cookie < 50; cookie++) server.deliver(request(0, { length: 512, cookie }));
  server.deliver(request(2));
  await settle();
  assert.equal(most, 5);
  wait.open();
  const end = await ended;
  assert.equal(most, 5);
  assert.deepEqual([end.requests, end.readBytes, end.clean], [50, 50 * 512, true]);
  assert.equal(client.arrived().length, 18 + 10 + 50 * (16 + 512));
});

Deno.test("serveNbd() counts octets, too, and lets one request pass that is larger than all", async () => {
  const [, server] = pipe();
  const wait = gate();
  let bytes = 0;
  let most = 0;
  const backend: NbdBackend = {
    size: 64 * MiB,
    readAt: async (_offset, into) => {
      bytes += into.length;
      most = Math.max(most, bytes);
      await wait.passed;
      bytes -= into.length;
    },
    writeAt: () => {},
  };
  const ended = serveNbd(server, { exports: only({ backend }), limits: { requests: 128, bytes: 100_000 } });
  server.deliver(entry);
  server.deliver(request(0, { length: 2 * MiB }));
  for (let cookie = 0; cookie < 10; cookie++) server.deliver(request(0, { length: 30_000, cookie }));
  server.deliver(request(2));
  await settle();
  assert.equal(most, 2 * MiB);
  wait.open();
  assert.equal((await ended).requests, 11);
});

Deno.test("serveNbd() stops reading from a client that does not take its replies", async () => {
  let delivered = 0;
  let written = 0;
  const stuck = gate();
  const pending = [entry];
  // Requests without end, and a writer that takes the first octets and no more.
  const transport = {
    read: (buffer: Uint8Array): Promise<number> => {
      const next = pending.shift() ?? request(0, { length: 1000 });
      buffer.set(next);
      delivered++;
      return Promise.resolve(next.length);
    },
    write: async (bytes: Uint8Array): Promise<number> => {
      written += bytes.length;
      if (written > 100) await stuck.passed;
      if (written > 100) throw new TypeError("the connection is closed");
      return bytes.length;
    },
    close: () => {},
  };
  const ended = serveNbd(transport, {
    exports: only({ backend: memory(MiB) }),
    limits: { requests: 10, bytes: MiB },
  });
  for (let turn = 0; turn < 20; turn++) await settle();
  const before = delivered;
  for (let turn = 0; turn < 20; turn++) await settle();
  assert.equal(delivered, before, "it goes on reading");
  assert.ok(written < 600_000, `${written} octets were written`);
  stuck.open();
  assert.equal((await ended).clean, false);
});

Deno.test("serveNbd() answers in the order in which the backend is done", async () => {
  const [client, server] = pipe();
  const gates = [gate(), gate(), gate()];
  const backend: NbdBackend = {
    size: MiB,
    readAt: (offset) => gates[offset]?.passed,
    writeAt: () => {},
  };
  const ended = serveNbd(server, { exports: only({ backend }) });
  server.deliver(entry);
  for (const cookie of [0, 1, 2]) server.deliver(request(0, { offset: cookie, length: 1, cookie }));
  await settle();
  for (const at of [2, 0, 1]) {
    gates[at]?.open();
    await settle();
  }
  server.deliver(request(2));
  await ended;
  const replies = client.arrived().subarray(28);
  assert.deepEqual([replies[15], replies[32], replies[49]], [2, 0, 1]);
});

Deno.test("serveNbd() keeps the data of a write until the backend is done with it", async () => {
  const [, server] = pipe();
  const bytes = new Uint8Array(4 * MiB);
  const wait = gate();
  // A slow backend copies late: a receive buffer that was used again would show.
  const backend: NbdBackend = {
    size: bytes.length,
    readAt: () => {},
    writeAt: async (offset, from) => {
      await wait.passed;
      bytes.set(from, offset);
    },
  };
  const ended = serveNbd(server, { exports: only({ backend }), limits: { requests: 200, bytes: 8 * MiB } });
  server.deliver(entry);
  const random = prng(3);
  const model = new Uint8Array(4 * MiB);
  let offset = 0;
  for (let cookie = 0; cookie < 100; cookie++) {
    const length = [1, 4096, 60_000, 65_537][random(4)] ?? 1;
    const data = new Uint8Array(length).fill(cookie + 1);
    model.set(data, offset);
    server.deliver(request(1, { offset, length, cookie, data }));
    offset += length;
    if (cookie % 7 === 0) await settle();
  }
  server.deliver(request(2));
  await settle();
  wait.open();
  const end = await ended;
  assert.equal(end.writtenBytes, offset);
  assert.ok(bytes.every((byte, at) => byte === model[at]));
});

Deno.test("serveNbd() writes before it flushes for FUA, and flushes after what was answered", async () => {
  const [left, right] = pipe();
  const log: string[] = [];
  const backend: NbdBackend = {
    size: MiB,
    readAt: () => {},
    writeAt: async (offset) => {
      await Promise.resolve();
      log.push(`write ${offset}`);
    },
    flush: () => void log.push("flush"),
  };
  const ended = serveNbd(right, { exports: only({ backend }) });
  const client = await NbdClient.connect(left);
  await client.writeAt(1, new Uint8Array(10), { fua: true });
  await client.writeAt(2, new Uint8Array(10));
  await client.flush();
  await client.zero(3, 10, { fua: true });
  await client.close();
  await ended;
  assert.deepEqual(log, ["write 1", "flush", "write 2", "flush", "write 3", "flush"]);
});

Deno.test("serveNbd() turns the errors of a backend into those of NBD, with their words", async () => {
  const [left, right] = pipe();
  const errors = [
    Object.assign(new Error("disk full"), { code: "ENOSPC" }),
    Object.assign(new Error("quota"), { code: "EDQUOT" }),
    Object.assign(new Error("read-only file system"), { code: "EROFS" }),
    new DroverError("no-space", "full"),
    new NbdError("EOVERFLOW", "too much"),
    new Error("wrapped", { cause: Object.assign(new Error("inner"), { code: "EPERM" }) }),
    new RangeError("no"),
    new Error("anything"),
  ];
  const names = ["ENOSPC", "ENOSPC", "EPERM", "ENOSPC", "EOVERFLOW", "EPERM", "EINVAL", "EIO"];
  const backend: NbdBackend = {
    size: MiB,
    readAt: (offset) => {
      const error = errors[offset >> 1] ?? new Error();
      if (offset % 2 === 0) throw error;
      return Promise.reject(error);
    },
    writeAt: (offset) => {
      throw errors[offset];
    },
  };
  const ended = serveNbd(right, { exports: only({ backend }) });
  const client = await NbdClient.connect(left);
  for (const [at, name] of names.entries()) {
    for (const offset of [2 * at, 2 * at + 1]) {
      await assert.rejects(
        client.readAt(offset, new Uint8Array(1)),
        (error) =>
          error instanceof NbdError && error.errno === name &&
          error.message.includes(errors[at]?.message ?? ""),
      );
    }
    await assert.rejects(
      client.writeAt(at, new Uint8Array(1)),
      (error) => error instanceof NbdError && error.errno === name,
    );
  }
  await client.close();
  assert.equal((await ended).errors, 24);
});

Deno.test("serveNbd() tells extents as the backend knows them, merged and cut to the range", async () => {
  const [left, right] = pipe();
  const state = (length: number, hole: boolean, zero: boolean): Extent => ({ length, hole, zero });
  const backend: NbdBackend = {
    ...memory(MiB),
    extents: (offset, length) =>
      offset === 0
        ? [
          state(10, false, false),
          state(20, false, false),
          state(5, true, true),
          state(5, false, true),
          state(MiB, true, false),
        ]
        : offset === 7
        ? []
        : Promise.resolve([state(length + 100, true, true)]),
  };
  const ended = serveNbd(right, { exports: only({ backend }) });
  const client = await NbdClient.connect(left);
  assert.deepEqual(await client.extents(0, 1000), [
    state(30, false, false),
    state(5, true, true),
    state(5, false, true),
    state(960, true, false),
  ]);
  assert.deepEqual(await client.extents(512, 100), [state(100, true, true)]);
  assert.deepEqual(await client.extents(7, 100), [state(100, false, false)]);
  await client.close();
  await ended;
});

Deno.test("serveNbd() forgets a context when contexts are asked for again, also when that fails", async () => {
  const text = (value: string): number[] => [...new TextEncoder().encode(value)];
  const u32 = (...values: number[]): number[] =>
    values.flatMap((value) => [value >>> 24, value >>> 16, value >>> 8, value]);
  const option = (
    kind: number,
    data: number[],
  ): number[] => [...text("IHAVEOPT"), ...u32(kind, data.length), ...data];
  const select = option(10, [...u32(0, 1, 15), ...text("base:allocation")]);
  const cases: [number[], number][] = [
    [select, 5],
    [[...select, ...option(10, u32(0, 0))], 0x8001],
    [[...select, ...option(10, u32(0, 1, 99))], 0x8001],
    [option(10, u32(0, 0)), 0x8001],
  ];
  for (const [options, type] of cases) {
    const [client, server] = pipe();
    server.deliver(
      Uint8Array.from([...u32(3), ...option(8, []), ...options, ...option(7, [...u32(0), 0, 0])]),
    );
    server.deliver(request(7, { length: 512 }));
    server.deliver(request(2));
    await serveNbd(server, { exports: only({ backend: memory(MiB) }) });
    const sent = client.arrived();
    const magic = [0x66, 0x8e, 0x33, 0xef];
    const at = sent.findIndex((_, index) => magic.every((byte, next) => sent[index + next] === byte));
    assert.ok(at > 0);
    assert.equal(new DataView(sent.buffer).getUint16(at + 6), type);
  }
});

Deno.test("serveNbd() uses memory in place where a backend shows it, with the same result", async () => {
  const [left, right] = pipe();
  const inner = memory(8 * MiB);
  let copies = 0;
  const backend: NbdBackend = {
    ...inner,
    readAt: () => void copies++,
    writeAt: (offset, from) => {
      copies++;
      return inner.writeAt(offset, from);
    },
    view: (offset, length) => inner.bytes.subarray(offset, offset + length),
  };
  const ended = serveNbd(right, { exports: only({ backend }) });
  const client = await NbdClient.connect(left);
  const random = prng(5);
  const data = Uint8Array.from({ length: 3 * MiB }, () => random(256));
  await client.writeAt(1001, data);
  assert.equal(copies, 0);
  const back = new Uint8Array(3 * MiB);
  await client.readAt(1001, back);
  assertSameBytes(back, data);
  await client.readAt(1005, back.subarray(0, 100));
  assertSameBytes(back.subarray(0, 100), data.subarray(4, 104));
  assert.equal(copies, 0);
  await client.writeAt(5, data.subarray(0, 10));
  assert.equal(copies, 1);
  await client.close();
  await ended;
});

Deno.test("serveNbd() finishes what is in flight when it is told to stop, and takes nothing new", async () => {
  const [left, right] = pipe();
  const wait = gate();
  const stop = new AbortController();
  const backend: NbdBackend = { size: MiB, readAt: () => wait.passed, writeAt: () => {} };
  const ended = serveNbd(right, { exports: only({ backend }), signal: stop.signal });
  const client = await NbdClient.connect(left);
  const reading = client.readAt(0, new Uint8Array(10));
  await settle();
  stop.abort();
  await settle();
  wait.open();
  await reading;
  assert.equal((await ended).clean, true);
  await assert.rejects(client.readAt(0, new Uint8Array(10)), DroverError);
  await client.close();
});

Deno.test("serveNbd() stops at once when a client is in the middle of sending a write, or of the haggling", async () => {
  for (
    const sent of [
      [entry, request(1, { length: 200_000, data: new Uint8Array(100) })],
      [entry.slice(0, 9)],
      [],
    ]
  ) {
    const [, server] = pipe();
    const stop = new AbortController();
    const ended = serveNbd(server, { exports: only({ backend: memory(MiB) }), signal: stop.signal });
    for (const bytes of sent) server.deliver(bytes);
    await settle();
    stop.abort();
    assert.equal((await ended).clean, true);
  }
});

Deno.test("serveNbd() works over web streams", async () => {
  const there = new TransformStream<Uint8Array, Uint8Array>();
  const back = new TransformStream<Uint8Array, Uint8Array>();
  const backend = memory(MiB);
  const ended = serveNbd(transportOf({ readable: there.readable, writable: back.writable }), {
    exports: only({ backend, description: "streams", name: "s" }),
  });
  const client = await NbdClient.connect(transportOf({ readable: back.readable, writable: there.writable }), {
    name: "s",
  });
  assert.equal(client.info.description, "streams");
  await client.writeAt(5, new Uint8Array(100_000).fill(4));
  const into = new Uint8Array(100_000);
  await client.readAt(5, into);
  assert.ok(into.every((byte) => byte === 4));
  await client.close();
  await ended;
});

Deno.test("serveNbd() survives every vector with octets changed, cut and doubled, without setting memory aside", async () => {
  const vectors = loadVectors("nbd", ["side", "answers", "replies", "data", "offset", "handshake"])
    .filter((vector) => vector.fields.get("side") === "server" && vector.bytes.length < 5000);
  const random = prng(17);
  const counts = { ok: 0, refused: 0 };
  for (let round = 0; round < 40; round++) {
    for (const vector of vectors) {
      const bytes = vector.bytes.slice();
      for (let change = random(4); change >= 0 && bytes.length > 0; change--) {
        bytes[random(bytes.length)] = [0, 1, 0x7f, 0x80, 0xff, random(256)][random(6)] ?? 0;
      }
      const [, server]: [PipeEnd, PipeEnd] = pipe();
      server.deliver(bytes.slice(0, bytes.length - random(3) * random(10)));
      if (random(5) === 0) server.deliver(bytes);
      server.end();
      try {
        await serveNbd(server, { exports: only({ backend: memory(MiB) }) });
        counts.ok++;
      } catch (error) {
        assert.ok(error instanceof FormatError, String(error));
        counts.refused++;
      }
      // A payload of 32 MiB may be announced; more may not.
      assert.ok(server.largestRead <= 32 * MiB);
    }
  }
  assert.ok(counts.ok > 50 && counts.refused > 500, JSON.stringify(counts));
});
