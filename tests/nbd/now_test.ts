/** Transports that can read and write without waiting, sometimes: the octets are the same, and others have their turn. */
import assert from "node:assert/strict";
import { NbdClient, type NbdTransport, serveNbd } from "../../lib/nbd/mod.ts";
import { assertSameBytes } from "../same_bytes.ts";
import { prng } from "../stream/prng.ts";
import { pipe, type PipeEnd } from "./pipe.ts";

const size = 4 * 2 ** 20;

/** An end whose `readNow` and `writeNow` do as much as `share` of the calls say, and nothing in the others. */
class NowEnd implements NbdTransport {
  readonly #end: PipeEnd;
  readonly #lucky: () => boolean;
  #reading = false;
  #writing = false;
  reads = 0;
  readsNow = 0;
  writes = 0;
  writesNow = 0;

  constructor(end: PipeEnd, lucky: () => boolean) {
    this.#end = end;
    this.#lucky = lucky;
  }

  async read(buffer: Uint8Array): Promise<number | null> {
    this.reads++;
    this.#reading = true;
    try {
      return await this.#end.read(buffer);
    } finally {
      this.#reading = false;
    }
  }

  async write(bytes: Uint8Array): Promise<number> {
    this.writes++;
    this.#writing = true;
    try {
      return await this.#end.write(bytes);
    } finally {
      this.#writing = false;
    }
  }

  readNow(buffer: Uint8Array): number {
    assert.ok(!this.#reading, "readNow() while a read is pending");
    const count = this.#lucky() ? this.#end.takeNow(buffer) : 0;
    if (count > 0) this.readsNow++;
    return count;
  }

  writeNow(bytes: Uint8Array): number {
    assert.ok(!this.#writing, "writeNow() while a write is pending");
    const count = this.#lucky() ? this.#end.giveNow(bytes) : 0;
    if (count > 0) this.writesNow++;
    return count;
  }

  close(): void {
    this.#end.close();
  }
}

/** A server on memory, with or without views of it, and a client. */
async function connect(seed: number, luck: number) {
  const random = prng(seed);
  const bytes = new Uint8Array(size);
  const [near, far] = pipe((most) => 1 + random(most));
  const transport = new NowEnd(far, () => random(100) < luck);
  const view = seed % 2 === 0
    ? { view: (offset: number, length: number) => bytes.subarray(offset, offset + length) }
    : {};
  const backend = {
    size,
    readAt: (offset: number, into: Uint8Array) => into.set(bytes.subarray(offset, offset + into.length)),
    writeAt: (offset: number, from: Uint8Array) => bytes.set(from, offset),
    ...view,
  };
  const served = serveNbd(transport, {
    exports: { list: () => [], find: (name) => ({ name, backend }) },
  });
  const client = await NbdClient.connect(near, { name: "" });
  return { random, bytes, transport, served, client };
}

for (const luck of [0, 30, 70, 100]) {
  for (const seed of [1, 2, 3, 4]) {
    Deno.test(`serveNbd() gives and takes the same octets when ${luck} % can be had at once, seed ${seed}`, async () => {
      const { random, bytes, transport, served, client } = await connect(seed, luck);
      const expected = new Uint8Array(size);
      for (let round = 0; round < 12; round++) {
        // In flight together, each in a part of its own.
        await Promise.all(Array.from({ length: 16 }, async (_, at) => {
          const part = size / 16;
          const length = 1 + random(random(3) === 0 ? 150_000 : 5000);
          const offset = at * part + random(part - length);
          if (random(2) === 0) {
            const data = new Uint8Array(length).fill(1 + random(255));
            expected.set(data, offset);
            await client.writeAt(offset, data);
          } else {
            const data = new Uint8Array(length);
            await client.readAt(offset, data);
            assertSameBytes(data, expected.slice(offset, offset + length));
          }
        }));
      }
      await client.close();
      assert.equal((await served).clean, true);
      assertSameBytes(bytes, expected);
      assert.equal(transport.readsNow > 0, luck > 0);
      assert.equal(transport.writesNow > 0, luck > 0);
    });
  }
}

Deno.test("serveNbd() goes through the event loop now and then, however much there is at once", async () => {
  const { transport, served, client } = await connect(2, 100);
  const page = new Uint8Array(4096);
  for (let at = 0; at < 2000; at++) await client.readAt(at * 4096 % size, page);
  assert.ok(transport.reads >= (transport.readsNow + transport.reads) / 64 - 2, `${transport.reads} reads`);
  await client.close();
  await served;
});
