import assert from "node:assert/strict";
import { shareOut, shareUnit } from "../../lib/cluster/placement.ts";

/** The same small numbers each time. */
function dice(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = Math.imul(state ^ (state >>> 15), 0x2c1b3c6d) + 0x9e3779b9 | 0;
    return (state >>> 0) % below;
  };
}

Deno.test("shareOut() gives every byte a place if there is one, no donor more than it has, nor more than one copy", () => {
  for (let seed = 1; seed <= 2000; seed++) {
    const roll = dice(seed);
    const copies = 1 + roll(2);
    const size = 1 + roll(40 * shareUnit);
    const free = Array.from({ length: roll(7) }, () => roll(60 * shareUnit));
    const shares = shareOut({ size, copies, free });
    const one = Math.ceil(size / shareUnit) * shareUnit;
    const rooms = free.map((bytes) => Math.min(one, bytes - bytes % shareUnit));
    const possible = Math.min(one * copies, rooms.reduce((sum, room) => sum + room, 0));
    const what = `seed ${seed}: ${JSON.stringify({ size, copies, free, shares })}`;
    assert.equal(shares.length, free.length, what);
    assert.equal(shares.reduce((sum, share) => sum + share, 0), possible, what);
    shares.forEach((share, at) => {
      assert.ok(share >= 0 && share <= (rooms[at] ?? 0) && share % shareUnit === 0, what);
    });
  }
});

Deno.test("shareOut() divides in proportion to what is free", () => {
  const unit = shareUnit;
  assert.deepEqual(shareOut({ size: 8 * unit, copies: 1, free: [30 * unit, 10 * unit] }), [
    6 * unit,
    2 * unit,
  ]);
  assert.deepEqual(shareOut({ size: 4 * unit, copies: 2, free: [90 * unit, unit, 9 * unit] }), [
    4 * unit,
    unit,
    3 * unit,
  ]);
  assert.deepEqual(shareOut({ size: 1, copies: 1, free: [0, unit - 1, unit] }), [0, 0, unit]);
});
