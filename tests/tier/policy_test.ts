import assert from "node:assert/strict";
import {
  idleClass,
  type Move,
  type MoveTarget,
  pageBusy,
  pageDirty,
  pageHeld,
  pagePinned,
  pagePoisoned,
  placeMask,
  placeNone,
  placeRam,
  placeRemote,
  placeSsd,
  placeStandby,
  plan,
  type PlanInput,
  PlanScratch,
  type TierName,
} from "../../lib/tier/mod.ts";
import { prng } from "../stream/prng.ts";

const seeds = Array.from({ length: 150 }, (_, seed) => seed + 1);
const tierOfPlace: Readonly<Record<number, TierName>> = {
  [placeRam]: "ram",
  [placeStandby]: "ram",
  [placeSsd]: "ssd",
  [placeRemote]: "remote",
};

/** A sample with features drawn by the seed: how many pages, which places and flags, how much room. */
function sampleOf(seed: number): PlanInput {
  const random = prng(seed);
  const count = 1 + random(seed % 3 === 0 ? 12 : 700);
  const kinds = [placeNone, placeRam, placeSsd, placeRemote, placeStandby].filter(() => random(4) > 0);
  const flags = [pagePinned, pageDirty, pageBusy, pagePoisoned].filter(() => random(2) > 0);
  const heatBound = [1, 4, 256][random(3)] ?? 1;
  const idleBound = [1, 20, 1e6, 2 ** 32][random(4)] ?? 1;
  const t1 = random(idleBound) >>> random(3);
  const residency = Uint8Array.from({ length: count }, () => {
    const place = kinds[random(kinds.length + 1)] ?? placeRam;
    return flags.reduce((byte, flag) => random(4) === 0 ? byte | flag : byte, place);
  });
  const inRam = residency.filter((byte) => [placeRam, placeStandby].includes(byte & placeMask)).length;
  return {
    firstPage: random(2) * 1_000_000,
    residency,
    heat: Uint8Array.from({ length: count }, () => random(heatBound)),
    idle: Uint32Array.from({ length: count }, () => random(idleBound)),
    t1,
    t2: t1 + random(idleBound),
    ...(random(3) === 0 ? { sink: random(idleBound) } : {}),
    probe: random(2) === 0 ? Infinity : random(t1 + 1),
    budget: {
      moves: random(3) === 0 ? 2 * count : random(count + 1),
      writes: random(count + 1),
      probes: random(count + 1),
    },
    tiers: {
      ramUsed: inRam,
      ramTarget: random(2 * count),
      ssdFree: random(count + 1),
      remoteFree: random(2) * random(count + 1),
    },
    promoteHeat: random(257),
    batchPages: 1 + random(100),
  };
}

interface Taken {
  from: TierName;
  to: MoveTarget;
  pages: Set<number>;
}

/** The same plan, found slowly: each step sorts all candidates and walks down the list. */
function slowPlan(input: PlanInput): Taken[] {
  const { tiers, budget, probe, t1, t2 } = input;
  const steps: Taken[] = [];
  const used = new Set<number>();
  const left = { ...budget, ram: Math.max(0, tiers.ramTarget - tiers.ramUsed) };
  const slots = { ram: Infinity, standby: Infinity, ssd: tiers.ssdFree, remote: tiers.remoteFree };
  const take = (places: readonly number[], to: MoveTarget, most: number, wants: (at: number) => boolean) => {
    const costs = (at: number) =>
      to === "remote" || (to === "ssd" && ((input.residency[at] ?? 0) & pageDirty) !== 0);
    const budgeted = to === "standby" ? "probes" : "moves";
    const down = to === "ram" ? -1 : 1;
    const candidates = [...input.residency.keys()].filter((at) => {
      const byte = input.residency[at] ?? 0;
      return places.includes(byte & placeMask) && (byte & pageHeld) === 0 && !used.has(at) && wants(at);
    }).sort((a, b) =>
      down * ((input.heat[a] ?? 0) - (input.heat[b] ?? 0)) ||
      down * (idleClass(input.idle[b] ?? 0) - idleClass(input.idle[a] ?? 0)) ||
      Number(costs(a)) - Number(costs(b)) || a - b
    );
    const pages = new Set<number>();
    for (const at of candidates) {
      if (left[budgeted] === 0 || pages.size >= most) break;
      if (costs(at) && (left.writes === 0 || slots[to] === 0)) continue;
      if (costs(at)) {
        left.writes--;
        slots[to]--;
      }
      left[budgeted]--;
      used.add(at);
      pages.add(input.firstPage + at);
    }
    if (pages.size > 0) steps.push({ from: tierOfPlace[places[0] ?? placeRam] ?? "ram", to, pages });
    return pages.size;
  };
  const idleFor = (ticks: number) => (at: number) => (input.idle[at] ?? 0) >= ticks;
  const worth = (at: number) => (input.heat[at] ?? 0) >= input.promoteHeat && (input.idle[at] ?? 0) < t1;
  const surplus = Math.max(0, tiers.ramUsed - tiers.ramTarget);
  const inRam = [placeRam, placeStandby];
  if (probe === Infinity) take(inRam, "ssd", surplus, () => true);
  else take([placeRam], "ssd", surplus - take([placeStandby], "ssd", surplus, () => true), () => true);
  left.ram -= take([placeSsd], "ram", left.ram, worth);
  take([placeRemote], "ram", left.ram, worth);
  const leaving = probe === Infinity ? inRam : [placeStandby];
  take(leaving, "remote", Infinity, idleFor(t2));
  take(leaving, "ssd", Infinity, idleFor(t1));
  if (probe !== Infinity) take([placeRam], "standby", Infinity, idleFor(probe));
  take([placeSsd], "remote", Infinity, idleFor(input.sink ?? t2));
  return steps;
}

/** Batches of one step together; two steps between the same tiers that follow each other count as one. */
function merged(moves: readonly { from: TierName; to: MoveTarget; pages: Iterable<number> }[]): string[] {
  const steps: Taken[] = [];
  for (const { from, to, pages } of moves) {
    const last = steps.at(-1);
    if (last?.from === from && last.to === to) { for (const page of pages) last.pages.add(page); }
    else steps.push({ from, to, pages: new Set(pages) });
  }
  return steps.map(({ from, to, pages }) => `${from}>${to}: ${[...pages].sort((a, b) => a - b).join(" ")}`);
}

function everyPage(moves: readonly Move[]): number[] {
  return moves.flatMap((move) => [...move.pages]);
}

Deno.test("plan() takes exactly what a slow plan by sorting takes", () => {
  let planned = 0;
  const kinds = new Set<string>();
  for (const seed of seeds) {
    const input = sampleOf(seed);
    const moves = plan(input);
    for (const move of moves) kinds.add(`${move.from}>${move.to}`);
    planned += everyPage(moves).length;
    assert.deepEqual(merged(moves), merged(slowPlan(input)), `seed ${seed}`);
  }
  // The samples reach every kind of move, or the comparison says little.
  assert.deepEqual([...kinds].sort(), [
    "ram>remote",
    "ram>ssd",
    "ram>standby",
    "remote>ram",
    "ssd>ram",
    "ssd>remote",
  ]);
  assert.ok(planned > 3000, `only ${planned} pages were planned`);
});

Deno.test("plan() keeps to budget and room, and never moves a page that is held or elsewhere", () => {
  for (const seed of seeds) {
    const input = sampleOf(seed);
    const moves = plan(input);
    const pages = everyPage(moves);
    assert.equal(new Set(pages).size, pages.length, `seed ${seed}: a page twice`);
    const probes = everyPage(moves.filter((move) => move.to === "standby")).length;
    assert.ok(probes <= input.budget.probes, `seed ${seed}: ${probes} probes`);
    assert.ok(pages.length - probes <= input.budget.moves, `seed ${seed}: ${pages.length - probes} moves`);
    let writes = 0;
    const slots = { ram: 0, standby: 0, ssd: 0, remote: 0 };
    for (const { from, to, pages } of moves) {
      assert.ok(
        pages.length >= 1 && pages.length <= input.batchPages,
        `seed ${seed}: batch of ${pages.length}`,
      );
      assert.deepEqual([...pages], [...pages].sort((a, b) => a - b), `seed ${seed}: not ascending`);
      for (const page of pages) {
        const byte = input.residency[page - input.firstPage] ?? placeNone;
        assert.equal(tierOfPlace[byte & placeMask], from, `seed ${seed}: page ${page} is ${byte}`);
        assert.equal(byte & pageHeld, 0, `seed ${seed}: page ${page} is held`);
        const costs = to === "remote" || (to === "ssd" && (byte & pageDirty) !== 0);
        writes += Number(costs);
        if (costs || to === "ram") slots[to]++;
        if (to === "remote") {
          const least = from === "ssd" ? input.sink ?? input.t2 : input.t2;
          assert.ok((input.idle[page - input.firstPage] ?? 0) >= least, `seed ${seed}: T2`);
        }
      }
    }
    assert.ok(writes <= input.budget.writes, `seed ${seed}: ${writes} writes`);
    assert.ok(slots.ssd <= input.tiers.ssdFree, `seed ${seed}: ${slots.ssd} slots on SSD`);
    assert.ok(slots.remote <= input.tiers.remoteFree, `seed ${seed}: ${slots.remote} remote slots`);
    assert.ok(
      slots.ram <= Math.max(0, input.tiers.ramTarget - input.tiers.ramUsed),
      `seed ${seed}: ${slots.ram} up`,
    );
  }
});

Deno.test("plan() uses up the budget when there are candidates enough", () => {
  for (const seed of seeds) {
    const input = sampleOf(seed);
    const able = [...input.residency].filter((byte) => (byte & (placeMask | pageHeld)) === placeRam).length;
    const moves = plan({
      ...input,
      residency: input.residency.map((byte) => (byte & placeMask) === placeRam ? byte : placeSsd),
      tiers: { ramUsed: able, ramTarget: 0, ssdFree: able, remoteFree: 0 },
      probe: Infinity,
      t2: 2 ** 32,
      budget: { ...input.budget, writes: able },
    });
    assert.equal(everyPage(moves).length, Math.min(able, input.budget.moves), `seed ${seed}`);
  }
});

Deno.test("plan() keeps the hotter page in RAM and brings the hotter page up", () => {
  for (const seed of seeds) {
    const input = { ...sampleOf(seed), probe: Infinity, t1: 0, t2: 2 ** 32 };
    input.residency.fill(placeRam);
    const count = input.residency.length;
    const down = plan({ ...input, tiers: { ramUsed: count, ramTarget: 0, ssdFree: count, remoteFree: 0 } });
    const gone = new Set(everyPage(down));
    const heats = (isGone: boolean) =>
      [...input.heat].filter((_, at) => gone.has(input.firstPage + at) === isGone);
    if (gone.size > 0 && gone.size < count) {
      assert.ok(
        Math.max(...heats(true)) <= Math.min(...heats(false)),
        `seed ${seed}: a hotter page left first`,
      );
    }
    input.residency.fill(placeSsd);
    const up = plan({
      ...input,
      t1: 2 ** 32,
      promoteHeat: 0,
      tiers: { ramUsed: 0, ramTarget: count >> 1, ssdFree: 0, remoteFree: 0 },
    });
    const came = new Set(everyPage(up));
    const came2 = (isUp: boolean) =>
      [...input.heat].filter((_, at) => came.has(input.firstPage + at) === isUp);
    if (came.size > 0 && came.size < count) {
      assert.ok(
        Math.min(...came2(true)) >= Math.max(...came2(false)),
        `seed ${seed}: a colder page came first`,
      );
    }
  }
});

Deno.test("plan() lets no page go to SSD before T1 while RAM is below its target", () => {
  for (const seed of seeds) {
    const input = sampleOf(seed);
    const moves = plan({ ...input, tiers: { ...input.tiers, ramTarget: input.tiers.ramUsed } });
    for (const { from, to, pages } of moves) {
      if (from !== "ram") continue;
      const least = to === "standby" ? input.probe : input.t1;
      for (const page of pages) assert.ok((input.idle[page - input.firstPage] ?? 0) >= least, `seed ${seed}`);
    }
  }
});

Deno.test("plan() gives the same answer with memory used before", () => {
  const scratch = new PlanScratch();
  for (const seed of seeds) {
    const input = sampleOf(seed);
    assert.deepEqual(plan(input, scratch), plan(input), `seed ${seed}`);
  }
});

Deno.test("plan() needs no slot and no write for a page that has its copy", () => {
  const input: PlanInput = {
    firstPage: 0,
    residency: Uint8Array.of(placeRam | pageDirty, placeRam, placeRam | pageDirty, placeRam),
    heat: new Uint8Array(4),
    idle: new Uint32Array(4),
    probe: Infinity,
    t1: 10,
    t2: 20,
    budget: { moves: 4, writes: 4, probes: 0 },
    tiers: { ramUsed: 4, ramTarget: 0, ssdFree: 0, remoteFree: 0 },
    promoteHeat: 256,
    batchPages: 64,
  };
  assert.deepEqual(everyPage(plan(input)), [1, 3]);
  assert.deepEqual(everyPage(plan({ ...input, tiers: { ...input.tiers, ssdFree: 1 } })), [0, 1, 3]);
  const thrifty = {
    ...input,
    tiers: { ...input.tiers, ssdFree: 9 },
    budget: { moves: 4, writes: 1, probes: 0 },
  };
  assert.deepEqual(everyPage(plan(thrifty)), [0, 1, 3]);
});

Deno.test("plan() puts idle pages in standby first, and lets them leave from there", () => {
  const input: PlanInput = {
    firstPage: 0,
    residency: Uint8Array.of(placeRam, placeRam, placeStandby, placeStandby, placeRam),
    heat: new Uint8Array(5),
    idle: Uint32Array.of(4, 6, 6, 12, 15),
    probe: 5,
    t1: 10,
    t2: 20,
    budget: { moves: 9, writes: 9, probes: 9 },
    tiers: { ramUsed: 5, ramTarget: 5, ssdFree: 9, remoteFree: 0 },
    promoteHeat: 256,
    batchPages: 64,
  };
  assert.deepEqual(plan(input), [
    { from: "ram", to: "ssd", pages: Uint32Array.of(3) },
    { from: "ram", to: "standby", pages: Uint32Array.of(1, 4) },
  ]);
  const short = plan({ ...input, tiers: { ...input.tiers, ramTarget: 2 } });
  assert.deepEqual(everyPage(short), [2, 3, 4, 1], "standby first, then the page that was idle longest");
});

Deno.test("plan() refuses samples of unequal length, T1 above T2 and empty batches", () => {
  const input = sampleOf(1);
  assert.throws(() => plan({ ...input, heat: new Uint8Array(1 + input.heat.length) }), RangeError);
  assert.throws(() => plan({ ...input, t1: input.t2 + 1 }), RangeError);
  assert.throws(() => plan({ ...input, sink: NaN }), RangeError);
  assert.throws(() => plan({ ...input, batchPages: 0 }), RangeError);
  assert.throws(() => plan({ ...input, budget: { moves: NaN, writes: 0, probes: 0 } }), RangeError);
});

Deno.test("idleClass() rises with idle time, is exact below 16 and stays below 256", () => {
  for (let ticks = 0; ticks < 16; ticks++) assert.equal(idleClass(ticks), ticks);
  let before = 0;
  for (let ticks = 1; ticks < 2 ** 32; ticks = Math.ceil(ticks * 1.01)) {
    const now = idleClass(ticks);
    assert.ok(now >= before && now < 256, `${ticks} ticks: ${now} after ${before}`);
    before = now;
  }
  assert.ok(idleClass(2 ** 32 - 1) >= before);
});
