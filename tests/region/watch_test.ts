import assert from "node:assert/strict";
import { IoError } from "../../lib/region/backend.ts";
import { MemoryBackend } from "../../lib/region/backend_memory.ts";
import { faulty } from "../../lib/region/backend_wrap.ts";
import { SyncedCopy, type SyncResult, watchBackend } from "../../lib/region/watch.ts";
import { assertSameBytes } from "../same_bytes.ts";
import { prng } from "../stream/prng.ts";

const KiB = 1024;
const MiB = 2 ** 20;
const size = 5 * MiB + 4321;

function image(seed: number): Uint8Array<ArrayBuffer> {
  const random = prng(seed);
  const bytes = new Uint8Array(size);
  // Data that begins and ends in the middle of pieces, and holes between.
  for (
    const [from, to] of [[1000, 70_000], [3 * MiB - 10, 3 * MiB + 200_000], [size - 5000, size]] as const
  ) {
    for (let at = from; at < to; at++) bytes[at] = random(256);
  }
  return bytes;
}

Deno.test("SyncedCopy.sync() writes the pieces that differ, and only those", async () => {
  const bytes = image(1);
  const source = new MemoryBackend(bytes);
  const wrote: number[] = [];
  const held = image(1).fill(9, 200_000, 200_001);
  class Target extends MemoryBackend {
    protected override write(offset: number, part: Uint8Array): void {
      wrote.push(offset);
      super.write(offset, part);
    }
    override zero(offset: number, length: number): void {
      wrote.push(offset);
      super.zero(offset, length);
    }
  }
  const copy = new SyncedCopy(new Target(held), size);
  const first = await copy.sync(source);
  assert.deepEqual([first.changed, first.zero], [64 * KiB, 64 * KiB]);
  assert.deepEqual(wrote, [3 * 64 * KiB]);
  assertSameBytes(held, bytes);
  bytes[size - 1] = 1 + (bytes[size - 1] ?? 0);
  bytes.fill(5, 2 * MiB, 2 * MiB + 1);
  const { changed } = await copy.sync(source);
  assert.equal(changed, 64 * KiB + size % (64 * KiB));
  assertSameBytes(held, bytes);
  assert.equal((await copy.sync(source)).changed, 0);
});

for (const seed of [1, 2, 3]) {
  Deno.test(`SyncedCopy.sync() follows random changes over a target that fails (seed ${seed})`, async () => {
    const random = prng(seed);
    const bytes = image(seed);
    const held = new Uint8Array(size + 100).fill(7);
    const target = faulty(new MemoryBackend(held), {
      rate: 0.05,
      errno: "EIO",
      random: () => random(1000) / 1000,
    });
    const copy = new SyncedCopy(target, size);
    for (let round = 0; round < 12; round++) {
      for (let change = 0; change < 5; change++) {
        const from = random(size);
        bytes.fill(random(2) === 0 ? 0 : random(256), from, from + random(300_000));
      }
      for (;;) {
        try {
          await copy.sync(new MemoryBackend(bytes.slice()));
          break;
        } catch (error) {
          assert.ok(error instanceof IoError);
        }
      }
      assertSameBytes(held.subarray(0, size), bytes);
      assert.ok(held.subarray(size).every((byte) => byte === 7), "the rest of the target was touched");
    }
  });
}

Deno.test("watchBackend() goes on after a pass that failed, and ends with the signal", async () => {
  const bytes = image(4);
  const held = new Uint8Array(size);
  const stop = new AbortController();
  const passes: SyncResult[] = [];
  const failures: unknown[] = [];
  let opened = 0;
  await watchBackend(
    () => {
      if (++opened === 3) return Promise.reject(new IoError("EIO", "It is away"));
      return Promise.resolve(new MemoryBackend(bytes.slice()));
    },
    new MemoryBackend(held),
    {
      intervalMs: 1,
      signal: stop.signal,
      pass: (result) => {
        passes.push(result);
        bytes[12] = passes.length;
        if (passes.length === 4) stop.abort();
      },
      failed: (error) => failures.push(error),
    },
  );
  assert.deepEqual([failures.length, opened], [1, 5]);
  assert.deepEqual(passes.slice(1).map(({ changed }) => changed), [64 * KiB, 64 * KiB, 64 * KiB]);
  await assert.rejects(
    watchBackend(() => Promise.resolve(new MemoryBackend(size + 1)), new MemoryBackend(size), {
      intervalMs: 1,
      signal: new AbortController().signal,
      pass: () => {},
      failed: () => {},
    }),
    RangeError,
  );
});
