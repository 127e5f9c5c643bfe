/**
 * A program that faults_test.ts starts because it may be killed: `victim.ts SCENARIO DIR`. Every scenario says on stdout how far it came.
 */
import { openNative } from "../../ffi/mod.ts";
import type { NativeRegion } from "../../ffi/mod.ts";
import { pathFromText } from "../../lib/base/path.ts";
import { Region } from "../../lib/region/mod.ts";

const MiB = 2 ** 20;
const [scenario = "", dir = ""] = Deno.args;
const path = `${dir}/ssd`;

function say(text: string): void {
  Deno.stdout.writeSync(new TextEncoder().encode(`${text}\n`));
}

/** A region on a file with a name, whose first 1000 pages are on SSD only. */
async function openCold(): Promise<NativeRegion> {
  const region = openNative().openRegion({
    size: 8 * MiB,
    limit: 2 * MiB,
    ssd: { path: pathFromText(path), size: 0, anonymous: false },
    faults: "inline",
    dirty: "hash",
    spinUs: 0,
  });
  const words = new Uint32Array(region.memory);
  for (let page = 0; page < 2048; page++) words[page * 1024] = page + 1;
  await region.flush();
  region.evict(BigUint64Array.from({ length: 2048 }, (_, page) => BigInt(page)), { wait: true });
  return region;
}

/** Tries to pin a page, says what came of it, and then touches it. */
function pinThenTouch(region: NativeRegion, page: number): void {
  try {
    region.pin({ first: page, count: 1 });
    say("pinned");
  } catch (error) {
    say(`pin: ${(error as { code?: string }).code}`);
  }
  for (const event of region.events()) say(`event: page ${event.page} ${event.why}`);
  const words = new Uint32Array(region.memory);
  say("touch");
  say(`value ${words[page * 1024]}`);
}

const scenarios: Record<string, () => Promise<void>> = {
  async "short file"() {
    const region = await openCold();
    Deno.truncateSync(path, 0);
    pinThenTouch(region, 7);
  },
  async "bad checksum"() {
    const region = await openCold();
    using file = Deno.openSync(path, { read: true, write: true });
    const garbage = new Uint8Array(Deno.statSync(path).size).fill(0xaa);
    for (let at = 0; at < garbage.length;) at += file.writeSync(garbage.subarray(at));
    file.syncSync();
    pinThenTouch(region, 7);
  },
  async "another page's data"() {
    const region = await openCold();
    using file = Deno.openSync(path, { read: true, write: true });
    const all = Deno.readFileSync(path);
    all.copyWithin(0, 4096);
    file.seekSync(0, Deno.SeekMode.Start);
    for (let at = 0; at < all.length;) at += file.writeSync(all.subarray(at));
    file.syncSync();
    pinThenTouch(region, 7);
  },
  async "file removed"() {
    const region = await openCold();
    Deno.removeSync(path);
    const words = new Uint32Array(region.memory);
    let sum = 0;
    for (let page = 0; page < 2048; page++) sum += words[page * 1024] ?? 0;
    say(`sum ${sum}`);
    region.close();
  },
  async poison() {
    const region = await openCold();
    region.poison({ first: 7, count: 1 });
    pinThenTouch(region, 7);
  },
  "after close"() {
    const region = Region.open({ size: 8 * MiB, limit: 2 * MiB, ssd: { path: dir }, policy: false });
    region.bytes[9] = 1;
    // Out of the reach of close(), as its documentation warns.
    const own = new Uint8Array(region.bytes.buffer.transfer());
    region.close();
    say("touch");
    say(`value ${own[9]}`);
    return Promise.resolve();
  },
  "no permission"() {
    for (const faults of ["inline", "thread"] as const) {
      try {
        using region = Region.open({
          size: 8 * MiB,
          limit: 2 * MiB,
          ssd: { path: dir },
          faults,
          policy: false,
        });
        for (let at = 0; at < region.size; at += 4096) region.bytes[at] = at >> 12;
        say(`${faults}: ${region.bytes[4096 * 77]}`);
      } catch (error) {
        const { code, hint } = error as { code?: string; hint?: string };
        say(`${faults}: ${code}, ${hint}`);
      }
    }
    return Promise.resolve();
  },
};

await scenarios[scenario]?.();
say("end");
