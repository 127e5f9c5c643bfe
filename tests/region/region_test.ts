/**
 * Regions of this machine: userfaultfd, io_uring, a file on a disk. Skipped, with the reason, where they cannot be.
 */
import assert from "node:assert/strict";
import { pageStates } from "../../ffi/layout.ts";
import { Region } from "../../lib/region/mod.ts";
import { MiB, openReal, realTest, Room } from "./room.ts";

const pageSize = 4096;

/** What page `page` holds at its beginning. */
function mark(page: number): number {
  return (Math.imul(page + 1, 0x9e3779b1) >>> 0) || 1;
}

function words(region: Region): Uint32Array {
  return new Uint32Array(region.bytes.buffer);
}

function fill(region: Region): void {
  const memory = words(region);
  for (let page = 0; page < region.size / pageSize; page++) memory[page * 1024 + page % 1024] = mark(page);
}

function wrongPages(region: Region): number[] {
  const memory = words(region);
  const wrong: number[] = [];
  for (let page = 0; page < region.size / pageSize; page++) {
    if (memory[page * 1024 + page % 1024] !== mark(page)) wrong.push(page);
  }
  return wrong;
}

/** States of all pages, without heat. */
function statesOf(region: Region): Uint8Array {
  return region.sample().map((state) => state & 0x0f);
}

function inRam(state: number | undefined): boolean {
  return state !== undefined && state >= pageStates.clean && state <= pageStates.writeback;
}

/** Bytes of RAM that this process has. */
function rss(): number {
  const [, resident] = Deno.readTextFileSync("/proc/self/statm").split(" ");
  return Number(resident) * pageSize;
}

for (const faults of ["inline", "thread"] as const) {
  for (const dirty of ["hash", "wp", "async"] as const) {
    realTest(`Region keeps four times its limit, with ${faults} faults and ${dirty} tracking`, () => {
      using room = new Room();
      using region = openReal(room, { faults, dirty });
      fill(region);
      assert.deepEqual(wrongPages(region), []);
      const stats = region.stats();
      assert.ok(stats.resident <= region.limit, `${stats.resident} bytes in RAM`);
      assert.ok(stats.fetches > 0 && stats.evictedDirty > 0, JSON.stringify(stats));
      assert.deepEqual(region.events(), []);
    });
  }
}

realTest("Region is zeros at first, also where it was never written between writes", () => {
  using room = new Room();
  using region = openReal(room);
  const memory = words(region);
  for (let page = 0; page < region.size / pageSize; page += 2) memory[page * 1024] = mark(page);
  for (let page = 1; page < region.size / pageSize; page += 2) assert.equal(memory[page * 1024], 0);
});

realTest("Region takes no more RAM than its limit and a twentieth", () => {
  using room = new Room();
  const before = rss();
  using region = openReal(room, { size: 256 * MiB, limit: 64 * MiB });
  let most = 0;
  const memory = words(region);
  let seed = 1;
  for (let touch = 0; touch < 100_000; touch++) {
    const page = touch < 65_536
      ? touch
      : (seed = (Math.imul(seed, 1_664_525) + 1_013_904_223) >>> 0) % 65_536;
    memory[page * 1024] = mark(page);
    if (touch % 500 === 0) most = Math.max(most, rss());
  }
  // Beside the pages: what drover.h says of bookkeeping, and this isolate's own heap.
  const beside = 65_536 * 13 + 8 * 256 * 1024 + 16 * MiB;
  const taken = most - before;
  assert.ok(taken <= 64 * MiB * 1.05 + beside, `${(taken / MiB).toFixed(1)} MiB`);
  assert.ok(taken >= 48 * MiB, `only ${(taken / MiB).toFixed(1)} MiB: does this measure anything?`);
});

realTest("Region gives a cold page to a system call when it was pinned, and refuses it before", () => {
  using room = new Room();
  using region = openReal(room);
  fill(region);
  const range = { offset: 0, length: 16 * pageSize };
  const view = region.bytes.subarray(range.offset, range.length);
  region.advise({ offset: 0, length: region.size }, "cold");
  for (let page = 1024; page < 2048; page++) assert.ok(words(region)[page * 1024 + page % 1024]);
  assert.ok(!inRam(statesOf(region)[0]), "page 0 is still in RAM");
  using file = Deno.openSync(room.at("out"), { create: true, write: true, read: true });
  assert.throws(() => file.writeSync(view), /os error 14/);
  {
    using _pin = region.pin(range);
    assert.equal(file.writeSync(view), view.length);
    assert.equal(region.stats().pinned, range.length);
  }
  assert.equal(region.stats().pinned, 0);
  assert.deepEqual(Deno.readFileSync(room.at("out")).subarray(0, 4), region.bytes.slice(0, 4));
});

realTest("Region gives cold pages to system calls when faults are served by a thread", () => {
  using room = new Room();
  using region = openReal(room, { faults: "thread" });
  fill(region);
  assert.ok(!inRam(statesOf(region)[0]), "page 0 is still in RAM");
  Deno.writeFileSync(room.at("out"), region.bytes);
  assert.deepEqual(Deno.readFileSync(room.at("out")), region.bytes.slice());
});

realTest("Region.pin() keeps pages while all others come and go, and lets them go again", () => {
  using room = new Room();
  using region = openReal(room);
  fill(region);
  const pin = region.pin({ offset: 100 * pageSize, length: 50 * pageSize });
  assert.deepEqual(wrongPages(region), []);
  const pinned = statesOf(region).subarray(100, 150);
  assert.ok(pinned.every(inRam), pinned.join());
  pin.release();
  pin.release();
  assert.equal(region.stats().pinned, 0);
  assert.throws(() => region.pin({ offset: 0, length: region.size }), { code: "ENOMEM" });
  assert.equal(region.stats().pinned, 0);
});

realTest("Region.prefetch() and populate() bring pages in before they are touched", async () => {
  using room = new Room();
  using region = openReal(room);
  fill(region);
  // What is in RAM now is equal to SSD, so that it can make room without waiting for a write.
  assert.deepEqual(wrongPages(region), []);
  const states = statesOf(region);
  const wanted = [...states.keys()].filter((page) => states[page] === pageStates.cold).slice(0, 16);
  assert.equal(region.prefetch(wanted.map((page) => page * pageSize + 5)), 16);
  const faults = region.stats().fetches;
  for (const page of wanted) assert.equal(words(region)[page * 1024 + page % 1024], mark(page));
  assert.equal(region.stats().fetches, faults, "a page that was prefetched was fetched again");
  await region.populate({ offset: 0, length: 64 * pageSize });
  assert.ok(statesOf(region).subarray(0, 64).every(inRam));
});

realTest("Region.advise() has cold pages leave before hot ones", () => {
  using room = new Room();
  using region = openReal(room);
  const memory = words(region);
  for (let page = 0; page < 400; page++) memory[page * 1024 + page % 1024] = mark(page);
  region.advise({ offset: 0, length: 100 * pageSize }, "hot");
  region.advise({ offset: 100 * pageSize, length: 200 * pageSize }, "cold");
  for (let page = 400; page < 600; page++) memory[page * 1024 + page % 1024] = mark(page);
  const states = statesOf(region);
  const gone = (from: number, to: number): number =>
    to - from - states.subarray(from, to).filter(inRam).length;
  assert.ok(gone(100, 300) > 80, `${gone(100, 300)} of 200 cold pages are gone`);
  assert.ok(gone(0, 100) < 10, `${gone(0, 100)} of 100 hot pages are gone`);
});

realTest("Region.setLimit() takes RAM away at once and gives it back", async () => {
  using room = new Room();
  using region = openReal(room, { limit: 4 * MiB });
  fill(region);
  assert.ok(region.stats().resident > 1.5 * MiB, `${region.stats().resident}`);
  await region.setLimit("1MiB");
  assert.ok(region.stats().resident <= MiB, `${region.stats().resident}`);
  assert.equal(region.limit, MiB);
  assert.deepEqual(wrongPages(region), []);
  assert.ok(region.stats().resident <= MiB, `${region.stats().resident}`);
  await region.setLimit(4 * MiB);
  assert.deepEqual(wrongPages(region), []);
  assert.ok(region.stats().resident > 1.5 * MiB, `${region.stats().resident}`);
  await assert.rejects(region.setLimit("5MiB"), /from 1048576 to 4194304/);
});

realTest("Region.harvest() names the pages that were written, whatever tier they are in", () => {
  using room = new Room();
  using region = openReal(room, { dirty: "async" });
  fill(region);
  region.harvest();
  const memory = words(region);
  const written = [0, 1, 77, 1000, 2047];
  for (const page of written) memory[page * 1024 + 1] = 0x55;
  for (let page = 200; page < 900; page++) assert.equal(memory[page * 1024 + page % 1024], mark(page));
  const found = new Set(region.harvest());
  for (const page of written) assert.ok(found.has(page), `page ${page} is missing`);
  using other = openReal(room);
  assert.throws(() => other.harvest(), { code: "EOPNOTSUPP" });
});

realTest("Region.snapshot() and restore() carry what is in RAM, on SSD, and nowhere", async () => {
  using room = new Room();
  const path = room.at("snapshot");
  let sum = 0;
  {
    using region = openReal(room);
    const memory = words(region);
    for (let page = 0; page < 1500; page++) memory[page * 1024 + page % 1024] = mark(page);
    const result = await region.snapshot(path, { label: "test" });
    assert.deepEqual([result.pages, result.zeroPages], [1500, 548]);
    assert.ok(region.stats().resident <= region.limit);
    sum = memory.reduce((total, word) => (total + word) >>> 0);
  }
  using restored = await Region.restore(path, { limit: 2 * MiB, ssd: { path: room.path }, policy: false });
  assert.equal(restored.size, 8 * MiB);
  assert.equal(words(restored).reduce((total, word) => (total + word) >>> 0), sum);
  assert.ok(restored.stats().resident <= 2 * MiB);
});

realTest("Region.restore() leaves nothing open after a snapshot that is cut", async () => {
  using room = new Room();
  {
    using region = openReal(room);
    fill(region);
    await region.snapshot(room.at("snapshot"));
  }
  Deno.truncateSync(room.at("snapshot"), 3 * MiB);
  const before = [...Deno.readDirSync("/proc/self/fd")].length;
  const ssd = { path: room.path };
  await assert.rejects(Region.restore(room.at("snapshot"), { limit: 2 * MiB, ssd, policy: false }), {
    name: "FormatError",
  });
  assert.equal([...Deno.readDirSync("/proc/self/fd")].length, before);
});

realTest("Region.close() empties every view, and a second close does nothing", () => {
  using room = new Room();
  const region = openReal(room);
  const { bytes } = region;
  const view = new DataView(bytes.buffer, 8, 100);
  const part = bytes.subarray(4096, 8192);
  bytes[5000] = 1;
  region.close();
  region.close();
  assert.deepEqual([bytes.length, part.length, bytes[0]], [0, 0, undefined]);
  assert.throws(() => view.getUint8(0), TypeError);
  assert.throws(() => bytes.set([1]), TypeError);
  assert.equal(region.bytes.length, 0);
  for (
    const use of [
      () => region.stats(),
      () => region.prefetch([0]),
      () => region.events(),
      () => region.sample(),
    ]
  ) {
    assert.throws(use, /closed/);
  }
});

realTest("Region.open() leaves no file behind, and a program that forgets to close ends", async () => {
  using room = new Room();
  const source = `
    import { Region } from ${JSON.stringify(new URL("../../lib/region/mod.ts", import.meta.url).href)};
    const region = Region.open({ size: "8MiB", limit: "2MiB", ssd: { path: ${JSON.stringify(room.path)} } });
    region.bytes.fill(3);
    console.log(region.bytes[8 * 2 ** 20 - 1]);`;
  Deno.writeTextFileSync(room.at("program.ts"), source);
  const program = new Deno.Command(Deno.execPath(), {
    args: [
      "run",
      "--allow-all",
      "--no-check",
      "--config",
      new URL("../../deno.json", import.meta.url).pathname,
      room.at("program.ts"),
    ],
    stdout: "piped",
    stderr: "piped",
  });
  const { code, stdout, stderr } = await program.output();
  assert.equal(code, 0, new TextDecoder().decode(stderr));
  assert.equal(new TextDecoder().decode(stdout), "3\n");
  assert.deepEqual([...Deno.readDirSync(room.path)].map(({ name }) => name), ["program.ts"]);
});

realTest("Region's policy goes on while the isolate of the program stands still", () => {
  using room = new Room();
  using region = openReal(room, { policy: { hertz: 100 } });
  const still = new Int32Array(new SharedArrayBuffer(4));
  const stepsNow = (): number => region.stats().policySteps ?? -1;
  for (let wait = 0; wait < 200 && stepsNow() < 2; wait++) Atomics.wait(still, 0, 0, 50);
  const before = stepsNow();
  assert.ok(before >= 2, "the policy did not begin");
  for (let wait = 0; wait < 100 && stepsNow() < before + 5; wait++) Atomics.wait(still, 0, 0, 50);
  assert.ok(stepsNow() >= before + 5, `${stepsNow() - before} steps`);
});

realTest("Region's policy does no harm to what is in it", () => {
  using room = new Room();
  using region = openReal(room, { policy: { hertz: 100, limitMin: MiB, idleSeconds: 0.1 } });
  for (let round = 0; round < 5; round++) {
    fill(region);
    assert.deepEqual(wrongPages(region), []);
  }
  assert.equal(region.stats().policyFailure, null);
  assert.ok(region.stats().resident <= 2 * MiB);
});

realTest("Region's memory stays right while the program starts others", async () => {
  using room = new Room();
  using region = openReal(room);
  fill(region);
  const child = new Deno.Command("sleep", { args: ["0.2"] }).spawn();
  for (let round = 0; round < 3; round++) assert.deepEqual(wrongPages(region), []);
  assert.equal((await child.status).code, 0);
  assert.deepEqual(wrongPages(region), []);
});

realTest("Region.open() serves many regions at once", () => {
  using room = new Room();
  const regions = Array.from({ length: 5 }, () => openReal(room));
  try {
    for (const region of regions) fill(region);
    regions.forEach((region, index) => words(region)[5] = index);
    for (const region of regions) assert.deepEqual(wrongPages(region), []);
    assert.deepEqual(regions.map((region) => words(region)[5]), [0, 1, 2, 3, 4]);
  } finally {
    for (const region of regions) region.close();
  }
});
