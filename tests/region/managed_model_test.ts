/**
 * A managed mount against a plain array: several clients at once, each with stripes of its own so that every octet has one
 * right value, over a source that is far, fails now and then, and a local backend that is slow now and then.
 *
 * DROVER_MANAGED_OPS=1000000 is the long run; DROVER_MANAGED_SEED the seed.
 */
import assert from "node:assert/strict";
import { MemoryBackend } from "../../lib/region/backend_memory.ts";
import { type Clock, delayed, faulty } from "../../lib/region/backend_wrap.ts";
import { openManaged } from "../../lib/region/managed.ts";
import { assertSameBytes } from "../same_bytes.ts";
import { prng } from "../stream/prng.ts";

const size = 700_001;
const clients = 8;

Deno.test("ManagedBackend agrees with a plain array under overlapping accesses of many clients", async () => {
  const seed = Number(Deno.env.get("DROVER_MANAGED_SEED") ?? 1);
  const operations = Number(Deno.env.get("DROVER_MANAGED_OPS") ?? 8000);
  // A mount that has everything is soon no subject: a new one takes its place.
  const perMount = 2000;
  const random = prng(seed);
  let model = new Uint8Array(size);
  for (let at = 0; at < size; at++) model[at] = random(256);
  let remote = model.slice();
  for (let done = 0; done < operations; done += perMount) {
    const clock: Clock = {
      now: () => 0,
      sleep: () => new Promise((resolve) => setTimeout(resolve, random(3))),
    };
    const far = new MemoryBackend(remote);
    const block = 512 << random(4);
    const demand = block << random(3);
    const mount = await openManaged({
      source: faulty(delayed(far, { clock, latencyMs: 1 }), {
        rate: random(3) === 0 ? 0.05 : 0,
        errno: "EIO",
        random: () => random(1000) / 1000,
      }),
      local: new MemoryBackend(size + random(2) * 1000),
      block,
      demand,
      chunk: demand << random(3),
      inFlightMax: 256 * 1024,
      pull: random(2) === 0,
      pushIntervalMs: [0, 3, null][random(3)] ?? null,
      durability: random(2) === 0 ? "local" : "remote",
      timeoutMs: 10_000,
    });
    const stripe = 997;
    const client = async (index: number): Promise<void> => {
      for (let step = 0; step < perMount / clients; step++) {
        // Stripes of this client lie between those of the others, in the same blocks.
        const row = random(Math.floor(size / (stripe * clients)));
        const start = (row * clients + index) * stripe;
        const offset = start + random(stripe);
        const length = 1 + random(start + stripe - offset);
        const what = `seed ${seed}, operation ${done + step}: ${length} at ${offset}`;
        switch (random(10)) {
          case 0:
            await mount.zero(offset, length);
            model.fill(0, offset, offset + length);
            break;
          case 1:
            mount.cache(offset, length);
            break;
          case 2:
            if (random(10) === 0) await mount.flush();
            break;
          case 3: {
            // Across the stripes of others only its own part is known.
            const wide = new Uint8Array(Math.min(size - start, 20_000));
            await mount.readAt(start, wide);
            assertSameBytes(
              wide.subarray(0, stripe),
              model.subarray(start, start + Math.min(stripe, wide.length)),
              what,
            );
            break;
          }
          case 4:
          case 5:
          case 6: {
            const into = new Uint8Array(length);
            await mount.readAt(offset, into);
            assertSameBytes(into, model.subarray(offset, offset + length), what);
            break;
          }
          default: {
            const bytes = new Uint8Array(length).fill(random(256));
            await mount.writeAt(offset, bytes);
            model.set(bytes, offset);
          }
        }
      }
    };
    await Promise.all(Array.from({ length: clients }, (_, index) => client(index)));
    const all = new Uint8Array(size);
    await mount.readAt(0, all);
    assertSameBytes(all, model, `seed ${seed}, after ${done + perMount}`);
    await mount.push();
    assert.equal(mount.stats.dirtyBytes, 0);
    await mount.close();
    assertSameBytes(remote, model, `seed ${seed}, the source after ${done + perMount}`);
    remote = remote.slice();
    model = model.slice();
  }
});
