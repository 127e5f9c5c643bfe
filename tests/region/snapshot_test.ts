import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { createFakeNative } from "../../ffi/fake.ts";
import { Region } from "../../lib/region/mod.ts";
import { restoreInto, snapshotHead, writeSnapshot } from "../../lib/region/snapshot.ts";
import { RecordReader } from "../../lib/stream/record.ts";
import { Verifier } from "../../lib/stream/verify/verifier.ts";
import { openFake, Room } from "./room.ts";

const pages = 600;

/** A region with content in two parts, zeros between, and a snapshot of it. */
async function snapshotOf(
  room: Room,
): Promise<{ path: string; bytes: Uint8Array; file: Uint8Array<ArrayBuffer> }> {
  using region = openFake({ pages });
  const memory = new Uint8Array(region.memory);
  for (let page = 0; page < pages; page++) {
    if (page >= 10 && page < 400) continue;
    region.touch(page, { write: true });
    for (let at = 0; at < 4096; at += 7) memory[page * 4096 + at] = page + at;
  }
  const path = room.at("snapshot");
  const result = await writeSnapshot(path, region, { label: "of a test" });
  const file = Deno.readFileSync(path);
  assert.equal(result.bytes, file.length);
  assert.deepEqual([result.pages, result.zeroPages], [210, 390]);
  return { path, bytes: memory.slice(), file };
}

Deno.test("writeSnapshot() and restoreInto() give every byte back", async () => {
  using room = new Room();
  const { path, bytes } = await snapshotOf(room);
  assert.deepEqual(await snapshotHead(path), { size: pages * 4096, label: "of a test" });
  const native = createFakeNative();
  using region = openFake({ pages });
  await restoreInto(path, region, native.delta);
  assert.deepEqual(new Uint8Array(region.memory), bytes);
});

Deno.test("writeSnapshot() writes what the independent verifier accepts, and leaves no other file", async () => {
  using room = new Room();
  const { file } = await snapshotOf(room);
  const verifier = new Verifier({
    profile: "region",
    digest: () => {
      const hash = createHash("sha256");
      return { update: (octets) => void hash.update(octets), digest: () => hash.copy().digest() };
    },
  });
  verifier.push(file);
  const report = verifier.finish();
  assert.deepEqual(report.findings, []);
  assert.equal(report.valid, true);
  assert.deepEqual([...Deno.readDirSync(room.path)].map(({ name }) => name), ["snapshot"]);
});

Deno.test("restoreInto() refuses a snapshot that is cut, wherever that is", async () => {
  using room = new Room();
  const { file } = await snapshotOf(room);
  const ends = recordEnds(file);
  const native = createFakeNative();
  for (const end of [0, 10, 24, ...ends.slice(0, -1), ...ends.map((at) => at - 5)]) {
    Deno.writeFileSync(room.at("cut"), file.subarray(0, end));
    using region = openFake({ pages });
    await assert.rejects(
      restoreInto(room.at("cut"), region, native.delta),
      { name: "FormatError" },
      `cut at ${end}`,
    );
  }
});

Deno.test("restoreInto() refuses a snapshot with one bit changed, wherever that is", async () => {
  using room = new Room();
  const { file } = await snapshotOf(room);
  const native = createFakeNative();
  // Heads, a frame number, content, digest, END, and places between.
  const places = [0, 13, 24, 30, 40, 100, file.length - 40, file.length - 8];
  for (let at = 200; at < file.length; at += Math.floor(file.length / 23)) places.push(at);
  for (const at of places) {
    const changed = file.slice();
    changed[at] = (changed[at] ?? 0) ^ 0x10;
    Deno.writeFileSync(room.at("changed"), changed);
    using region = openFake({ pages });
    await assert.rejects(
      restoreInto(room.at("changed"), region, native.delta),
      { name: "FormatError" },
      `bit at ${at}`,
    );
  }
});

Deno.test("restoreInto() refuses what follows END, and a digest that is not there", async () => {
  using room = new Room();
  const { file } = await snapshotOf(room);
  const ends = recordEnds(file);
  const native = createFakeNative();
  const digestAt = ends.at(-3) ?? 0;
  const endAt = ends.at(-2) ?? 0;
  const without = new Uint8Array([...file.subarray(0, digestAt), ...file.subarray(endAt)]);
  const trailing = new Uint8Array([...file, 0]);
  for (const [name, bytes] of [["without", without], ["trailing", trailing]] as const) {
    Deno.writeFileSync(room.at(name), bytes);
    using region = openFake({ pages });
    await assert.rejects(restoreInto(room.at(name), region, native.delta), { name: "FormatError" }, name);
  }
});

Deno.test("writeSnapshot() refuses a region that lost a page, and leaves nothing", async () => {
  using room = new Room();
  using region = openFake({ pages });
  region.touch(3, { write: true });
  region.poison({ first: 5, count: 1 });
  await assert.rejects(writeSnapshot(room.at("lost"), region, {}), {
    code: "corrupt",
    message: /page 5 was lost/,
  });
  assert.deepEqual([...Deno.readDirSync(room.path)], []);
});

Deno.test("writeSnapshot() lets pages leave again that it had to fetch, and none that was there", async () => {
  using room = new Room();
  using region = openFake({ pages });
  for (let page = 0; page < pages; page++) region.touch(page, { write: true });
  region.evict(BigUint64Array.from({ length: 300 }, (_, page) => BigInt(page)));
  await writeSnapshot(room.at("snapshot"), region, {});
  assert.equal(region.stats().residentPages, 300);
  assert.equal(region.stats().pinnedPages, 0);
});

Deno.test("Region.restore() refuses another size, and an existing name stays what it was after a failed snapshot", async () => {
  using room = new Room();
  const { path } = await snapshotOf(room);
  const native = createFakeNative();
  const ssd = { path: room.path };
  await assert.rejects(Region.restore(path, { native, size: "4MiB", limit: "4MiB", ssd }), {
    name: "RangeError",
    message: /the snapshot is of 2457600 bytes/,
  });
  using region = await Region.restore(path, { native, limit: "4MiB", ssd });
  assert.equal(region.size, pages * 4096);
  assert.equal(region.bytes[4096 * 401 + 7], (401 + 7) % 256);
});

/** Where records end. */
function recordEnds(file: Uint8Array<ArrayBuffer>): number[] {
  const reader = new RecordReader({ limits: () => file.length, offset: 24 });
  reader.push(file.subarray(24));
  const ends: number[] = [];
  for (let record = reader.next(); record !== null; record = reader.next()) {
    ends.push(record.offset + 8 + Math.ceil(record.body.length / 8) * 8);
  }
  return ends;
}
