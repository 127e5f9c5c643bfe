import assert from "node:assert/strict";
import { type Advice, AdviceMap, adviceRangesMax } from "../../lib/tier/mod.ts";
import { prng } from "../stream/prng.ts";

const kinds: readonly Advice[] = ["normal", "hot", "cold", "sequential", "random"];

Deno.test("AdviceMap says of every page what was said last, and keeps few ranges", () => {
  for (let seed = 1; seed <= 50; seed++) {
    const random = prng(seed);
    const pages = 1 + random(60);
    const map = new AdviceMap(pages);
    const slow = new Array<Advice>(pages).fill("normal");
    for (let turn = 0; turn < 60; turn++) {
      const firstPage = random(pages + 1);
      const endPage = firstPage + random(pages - firstPage + 1);
      const advice = kinds[random(kinds.length)] ?? "normal";
      map.set({ firstPage, endPage }, advice);
      slow.fill(advice, firstPage, endPage);
      assert.deepEqual(slow.map((_, page) => map.at(page)), slow, `seed ${seed}, turn ${turn}`);
      const runs = slow.filter((advice, page) => advice !== "normal" && advice !== slow[page - 1]).length;
      assert.equal(map.ranges.length, runs, `seed ${seed}, turn ${turn}`);
    }
  }
});

Deno.test("AdviceMap.apply() changes the sample as its table says, and nothing outside", () => {
  const map = new AdviceMap(100);
  map.set({ firstPage: 10, endPage: 12 }, "hot");
  map.set({ firstPage: 12, endPage: 14 }, "cold");
  map.set({ firstPage: 14, endPage: 15 }, "sequential");
  map.set({ firstPage: 15, endPage: 30 }, "random");
  const sample = {
    firstPage: 9,
    heat: new Uint8Array(8).fill(50),
    idle: Uint32Array.of(7, 7, 7, 7, 70, 7, 7, 7),
    t1: 20,
  };
  map.apply(sample);
  assert.deepEqual([...sample.heat], [50, 255, 255, 0, 0, 0, 50, 50]);
  assert.deepEqual([...sample.idle], [7, 0, 0, 20, 70, 7, 7, 7]);
});

Deno.test("AdviceMap.set() refuses ranges outside the region and too many of them, and changes nothing", () => {
  const map = new AdviceMap(4 * adviceRangesMax);
  for (const range of [[-1, 2], [0, 4 * adviceRangesMax + 1], [0.5, 2], [0, NaN]] as const) {
    assert.throws(() => map.set({ firstPage: range[0], endPage: range[1] }, "hot"), RangeError);
  }
  for (let page = 0; page < 2 * adviceRangesMax; page += 2) {
    map.set({ firstPage: page, endPage: page + 1 }, "hot");
  }
  assert.equal(map.ranges.length, adviceRangesMax);
  const before = structuredClone(map.ranges);
  const lone = { firstPage: 3 * adviceRangesMax, endPage: 3 * adviceRangesMax + 1 };
  assert.throws(() => map.set(lone, "cold"), RangeError);
  assert.deepEqual(map.ranges, before);
  map.set({ firstPage: 0, endPage: 2 * adviceRangesMax }, "normal");
  assert.equal(map.ranges.length, 0);
});
