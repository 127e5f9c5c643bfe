import assert from "node:assert/strict";
import { pageStates } from "../../ffi/layout.ts";
import { PolicyDriver } from "../../lib/region/policy_driver.ts";
import { makeGate, PolicyGate } from "../../lib/region/policy_gate.ts";
import { openFake } from "./room.ts";

const pages = 2048;

/** States of all pages. */
function statesOf(region: ReturnType<typeof openFake>): Uint8Array {
  const states = new Uint8Array(pages);
  region.sample({ first: 0, count: pages }, states);
  return states.map((state) => state & 0x0f);
}

Deno.test("PolicyDriver reads ahead of a reader that goes through the region in order", () => {
  using region = openFake({ pages, limitPages: 1024 });
  for (let page = 0; page < pages; page++) region.touch(page, { write: true });
  const driver = new PolicyDriver(region, { hertz: 20, idleMs: Infinity, limitMinPages: 1024 }, 0);
  for (let page = 0; page < 64; page++) region.touch(page, { write: false });
  assert.equal(driver.tick(50), true);
  assert.ok(region.stats().prefetched > 0, "nothing was prefetched");
  assert.ok((statesOf(region)[64] ?? 0) >= pageStates.clean, "the next page is not in RAM");
});

Deno.test("PolicyDriver leaves a region alone in which nothing happens", () => {
  using region = openFake({ pages });
  for (let page = 0; page < pages; page++) region.touch(page, { write: true });
  const driver = new PolicyDriver(region, { hertz: 20, idleMs: Infinity, limitMinPages: pages }, 0);
  driver.tick(0);
  const looked = Array.from({ length: 20 }, (_, tick) => driver.tick((tick + 1) * 50)).filter(Boolean).length;
  assert.equal(looked, 2);
  assert.equal(region.stats().residentPages, pages);
});

Deno.test("PolicyDriver asks idle pages first and sends out those that do not answer", () => {
  using region = openFake({ pages });
  for (let page = 0; page < pages; page++) region.touch(page, { write: true });
  const driver = new PolicyDriver(region, { hertz: 20, idleMs: 10_000, limitMinPages: pages }, 0);
  const tickUntil = (from: number, to: number): void => {
    for (let now = from; now < to; now += 50) driver.tick(now);
  };
  tickUntil(0, 7000);
  assert.ok(statesOf(region).every((state) => state === pageStates.standbyDirty), "not every page was asked");
  region.touch(5, { write: false });
  tickUntil(7000, 13_000);
  const states = statesOf(region);
  assert.ok((states[5] ?? 0) >= pageStates.clean, "the page that answered is gone");
  assert.ok(states.every((state, page) => page === 5 || state === pageStates.cold), "a page stayed");
  assert.ok(region.stats().evictedDirty > 0);
});

Deno.test("PolicyDriver keeps pages that were called hot, whatever their age", () => {
  using region = openFake({ pages });
  for (let page = 0; page < pages; page++) region.touch(page, { write: true });
  const driver = new PolicyDriver(region, { hertz: 20, idleMs: 10_000, limitMinPages: pages }, 0);
  driver.advise({ firstPage: 0, endPage: 100 }, "hot");
  for (let now = 0; now < 20_000; now += 50) driver.tick(now);
  const states = statesOf(region);
  assert.ok(states.subarray(0, 100).every((state) => state === pageStates.dirty));
  assert.ok(states.subarray(100).every((state) => state === pageStates.cold));
});

Deno.test("PolicyDriver gives RAM back where it may, and only there", () => {
  using free = openFake({ pages });
  using kept = openFake({ pages });
  const minimum = 512;
  for (const region of [free, kept]) {
    for (let page = 0; page < pages; page++) region.touch(page, { write: true });
  }
  const giving = new PolicyDriver(free, { hertz: 20, idleMs: Infinity, limitMinPages: minimum }, 0);
  const keeping = new PolicyDriver(kept, { hertz: 20, idleMs: Infinity, limitMinPages: pages }, 0);
  for (let now = 0; now < 600_000; now += 50) {
    giving.tick(now);
    keeping.tick(now);
  }
  assert.equal(kept.control.knobs().limitPages, pages);
  const { limitPages } = free.control.knobs();
  assert.ok(limitPages < pages && limitPages >= minimum, `the limit is ${limitPages}`);
});

Deno.test("PolicyGate lets the worker in until the owner has closed it", () => {
  const memory = makeGate();
  const owner = new PolicyGate(memory);
  const worker = new PolicyGate(memory);
  assert.equal(worker.enter(), true);
  worker.leave();
  assert.equal(owner.steps, 1);
  owner.close();
  owner.close();
  assert.equal(worker.enter(), false);
});

Deno.test("PolicyGate.close() waits for a step that is under way", async () => {
  const memory = makeGate();
  const source = `
    import { PolicyGate } from ${
    JSON.stringify(new URL("../../lib/region/policy_gate.ts", import.meta.url).href)
  };
    self.onmessage = ({ data }) => {
      const gate = new PolicyGate(data.memory);
      const log = new Int32Array(data.log);
      gate.enter();
      self.postMessage("in");
      Atomics.wait(log, 1, 0, 200);
      Atomics.store(log, 0, 1);
      gate.leave();
    };`;
  const worker = new Worker(`data:application/typescript,${encodeURIComponent(source)}`, { type: "module" });
  try {
    const log = new Int32Array(new SharedArrayBuffer(8));
    const entered = new Promise((resolve) => worker.onmessage = resolve);
    worker.postMessage({ memory, log: log.buffer });
    await entered;
    new PolicyGate(memory).close();
    assert.equal(Atomics.load(log, 0), 1, "close() came back in the middle of a step");
  } finally {
    worker.terminate();
  }
});
