import assert from "node:assert/strict";
import { HeatMap, tickMs, ticksFromMs } from "../../lib/tier/mod.ts";
import { prng } from "../stream/prng.ts";

function readAll(map: HeatMap, nowMs: number): { heat: Uint8Array; idle: Uint32Array } {
  const reading = { heat: new Uint8Array(map.pages), idle: new Uint32Array(map.pages) };
  map.read({ firstPage: 0, nowMs, ...reading });
  return reading;
}

Deno.test("HeatMap.read() is 64 for one touch now and 16 less for every half-life", () => {
  const map = new HeatMap({ pages: 2, halfLifeMs: 1000, nowMs: 500 });
  map.touchPages(Uint32Array.of(1), 500);
  const heats = [0, 1, 2, 3, 4, 5].map((halves) => readAll(map, 500 + 1000 * halves).heat[1]);
  assert.deepEqual(heats, [64, 48, 32, 16, 0, 0]);
  assert.equal(readAll(map, 500).heat[0], 0);
});

Deno.test("HeatMap agrees with the sum that it stands for, over random touches", () => {
  for (let seed = 1; seed <= 20; seed++) {
    const random = prng(seed);
    const halfLifeMs = 100 * (1 + random(50));
    const map = new HeatMap({ pages: 8, halfLifeMs, nowMs: 0 });
    const touches: { page: number; atMs: number }[] = [];
    let nowMs = 0;
    for (let turn = 0; turn < 200; turn++) {
      nowMs += tickMs * random(60);
      const page = random(8);
      map.touchPages(Uint32Array.of(page), nowMs);
      touches.push({ page, atMs: nowMs });
    }
    nowMs += tickMs * random(60);
    const { heat, idle } = readAll(map, nowMs);
    for (let page = 0; page < 8; page++) {
      const own = touches.filter((touch) => touch.page === page);
      const weight = own.reduce((sum, { atMs }) => sum + 2 ** ((atMs - nowMs) / halfLifeMs), 0);
      const expected = Math.min(255, Math.max(0, 16 * (Math.log2(weight) + 4)));
      assert.ok(
        Math.abs((heat[page] ?? 0) - expected) <= 1.01,
        `seed ${seed}: ${heat[page]}, expected ${expected}`,
      );
      const last = own.reduce((latest, { atMs }) => Math.max(latest, atMs), 0);
      assert.equal(idle[page], (nowMs - last) / tickMs, `seed ${seed}`);
    }
  }
});

Deno.test("HeatMap never warms up without a touch, and keeps the order of pages", () => {
  const random = prng(7);
  const map = new HeatMap({ pages: 64, halfLifeMs: 2000, nowMs: 0 });
  for (let turn = 0; turn < 500; turn++) map.touchPages(Uint32Array.of(random(8) * random(9)), turn * 10);
  let before = readAll(map, 5000).heat;
  const order = [...before.keys()].sort((a, b) => (before[a] ?? 0) - (before[b] ?? 0));
  for (let nowMs = 5010; nowMs < 40_000; nowMs += 730) {
    const { heat } = readAll(map, nowMs);
    heat.forEach((value, page) => assert.ok(value <= (before[page] ?? 0), `page ${page} rose at ${nowMs}`));
    for (let at = 1; at < order.length; at++) {
      const [low, high] = [heat[order[at - 1] ?? 0] ?? 0, heat[order[at] ?? 0] ?? 0];
      assert.ok(low <= high + 1, `order changed at ${nowMs}`);
    }
    before = heat;
  }
  assert.ok(before.every((value) => value === 0));
});

Deno.test("HeatMap.touchSampled() counts a range, and stops at the end of the region", () => {
  const map = new HeatMap({ pages: 10, halfLifeMs: 1000, nowMs: 0 });
  map.touchSampled(Uint8Array.of(1, 0, 3, 255, 9), { firstPage: 7, nowMs: 100 });
  const { heat, idle } = readAll(map, 100);
  assert.deepEqual([...heat], [0, 0, 0, 0, 0, 0, 0, 64, 0, 89]);
  assert.deepEqual([...idle], [10, 10, 10, 10, 10, 10, 10, 0, 10, 0]);
  map.cool({ firstPage: 9, count: 1 });
  assert.equal(readAll(map, 100).heat[9], 0);
  map.touchPages(Uint32Array.of(10, 4_000_000_000), 110);
  assert.equal(readAll(map, 110).heat.filter((value) => value > 0).length, 1);
});

Deno.test("HeatMap takes a clock that steps back as one that stands still", () => {
  const map = new HeatMap({ pages: 1, halfLifeMs: 1000, nowMs: 10_000 });
  map.touchPages(Uint32Array.of(0), 12_000);
  map.touchPages(Uint32Array.of(0), 11_000);
  const { heat, idle } = readAll(map, 9000);
  assert.equal(idle[0], 0);
  assert.equal(heat[0], 80);
});

Deno.test("ticksFromMs() rounds down and stays within 32 bits", () => {
  assert.deepEqual([-5, 0, 9, 10, 1e15].map(ticksFromMs), [0, 0, 0, 1, 2 ** 32 - 1]);
});
