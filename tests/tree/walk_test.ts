import assert from "node:assert/strict";
import type { FileStat } from "../../ffi/mod.ts";
import { Settled } from "../../lib/tree/walk.ts";

/** All that `vouches()` looks at. */
function changedAt(ms: number): FileStat {
  return { ctimeSeconds: Math.floor(ms / 1000), ctimeNanos: ms % 1000 * 1_000_000 } as FileStat;
}

Deno.test("Settled.vouches() does not trust a ctime from after the flush began", async () => {
  let now = 50_000;
  let flushed = 0;
  const settled = new Settled({
    now: () => now,
    flush: () => {
      flushed++;
      now = 60_000; // it takes its time
      return Promise.resolve();
    },
  });
  await settled.begin();
  now = 90_000;
  await settled.begin();
  assert.equal(flushed, 1);
  // A page that was written at 55 s may have been flushed before, and be written again without a sign of it.
  assert.equal(settled.vouches(changedAt(55_000)), false);
  assert.equal(settled.vouches(changedAt(49_990)), false);
  assert.equal(settled.vouches(changedAt(49_900)), true);
});

Deno.test("Settled.vouches() goes by the clock where nobody can be writing", async () => {
  const settled = new Settled({ now: () => 50_000 });
  await settled.begin();
  assert.equal(settled.vouches(changedAt(49_990)), false);
  assert.equal(settled.vouches(changedAt(49_900)), true);
});
