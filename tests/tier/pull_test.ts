import assert from "node:assert/strict";
import { PullOrder } from "../../lib/tier/pull_order.ts";
import { PullWindow } from "../../lib/tier/pull_window.ts";

const MiB = 2 ** 20;

/** A link of a rate and a round trip, kept full for a while; what the window was, and how many bytes passed. */
function link(
  window: PullWindow,
  options: { bytesPerMs: number; roundTripMs: number; ms: number; from?: number },
): number {
  const { bytesPerMs, roundTripMs, ms, from = 0 } = options;
  const flights: { at: number; bytes: number; mark: ReturnType<PullWindow["begin"]> }[] = [];
  let inFlight = 0;
  let freeAt = from;
  let passed = 0;
  for (let now = from; now < from + ms; now += 0.25) {
    for (let first = flights[0]; first !== undefined && first.at <= now; first = flights[0]) {
      flights.shift();
      inFlight -= first.bytes;
      passed += first.bytes;
      window.end(first.mark, first.bytes, first.at);
    }
    for (;;) {
      const bytes = Math.min(MiB, window.requestBytes);
      if (inFlight > 0 && window.bytes - inFlight < bytes) break;
      freeAt = Math.max(freeAt, now) + bytes / bytesPerMs;
      flights.push({ at: freeAt + roundTripMs, bytes, mark: window.begin(now) });
      inFlight += bytes;
    }
  }
  return passed;
}

const bounds = { floor: 256 * 1024, first: MiB, ceiling: 16 * MiB };

Deno.test("PullWindow grows to the ceiling on a far link without a limit, within a few round trips", () => {
  const window = new PullWindow(bounds);
  link(window, { bytesPerMs: Infinity, roundTripMs: 40, ms: 200 });
  assert.equal(window.bytes, 16 * MiB);
});

for (
  const { bytesPerMs, roundTripMs } of [
    { bytesPerMs: 125_000, roundTripMs: 40 },
    { bytesPerMs: 12_500, roundTripMs: 100 },
    { bytesPerMs: 12_500, roundTripMs: 2 },
    { bytesPerMs: 1_000_000, roundTripMs: 1 },
  ]
) {
  Deno.test(`PullWindow fills a link of ${bytesPerMs} bytes/ms at ${roundTripMs} ms, and queues little`, () => {
    const window = new PullWindow(bounds);
    link(window, { bytesPerMs, roundTripMs, ms: 3000 });
    const passed = link(window, { bytesPerMs, roundTripMs, ms: 2000, from: 3000 });
    assert.ok(passed >= 0.9 * 2000 * bytesPerMs, `only ${passed} bytes passed`);
    const delayBytes = bytesPerMs * (roundTripMs + 4);
    assert.ok(window.bytes <= Math.max(bounds.floor, 2.5 * delayBytes + MiB), `${window.bytes} on their way`);
  });
}

Deno.test("PullWindow sees that a link has become slower, and faster again", () => {
  const window = new PullWindow(bounds);
  link(window, { bytesPerMs: 100_000, roundTripMs: 20, ms: 3000 });
  const wide = window.bytes;
  link(window, { bytesPerMs: 5000, roundTripMs: 20, ms: 8000, from: 3000 });
  assert.ok(window.bytes < wide / 4, `${window.bytes} of ${wide}`);
  link(window, { bytesPerMs: 100_000, roundTripMs: 20, ms: 30_000, from: 11_000 });
  assert.ok(window.bytes > wide / 2, `${window.bytes} of ${wide}`);
  window.lost();
  assert.equal(window.bytes, bounds.floor);
});

Deno.test("PullWindow refuses bounds that cross", () => {
  assert.throws(() => new PullWindow({ floor: 2, first: 1, ceiling: 4 }), RangeError);
  assert.throws(() => new PullWindow({ floor: 0, first: 1, ceiling: 4 }), RangeError);
});

/** An order over units that are pulled as soon as they are given out. */
function drain(options: {
  units: number;
  unitsPerChunk: number;
  priority?: (chunk: number) => number;
  learned?: number[];
  before?: (order: PullOrder) => void;
  most?: number;
}): [number, number][] {
  const left = new Set(Array.from({ length: options.units }, (_, unit) => unit));
  const order = new PullOrder({
    units: options.units,
    unitsPerChunk: options.unitsPerChunk,
    nextWanted: (from, to) => {
      for (let unit = from; unit < to; unit++) if (left.has(unit)) return unit;
      return to;
    },
    priority: options.priority,
    learned: options.learned === undefined ? undefined : Uint32Array.from(options.learned),
  });
  options.before?.(order);
  const runs: [number, number][] = [];
  for (let run = order.next(options.most ?? 4); run !== null; run = order.next(options.most ?? 4)) {
    for (let unit = run.from; unit < run.to; unit++) left.delete(unit);
    runs.push([run.from, run.to]);
    assert.ok(runs.length < 1000, "it does not end");
  }
  assert.equal(left.size, 0, "not everything was given out");
  return runs;
}

Deno.test("PullOrder goes in order, in runs that end with their chunk", () => {
  assert.deepEqual(drain({ units: 10, unitsPerChunk: 4 }), [[0, 4], [4, 8], [8, 10]]);
  assert.deepEqual(drain({ units: 5, unitsPerChunk: 4, most: 3 }), [[0, 3], [3, 4], [4, 5]]);
});

Deno.test("PullOrder.follow() goes on from there, and then from the beginning", () => {
  assert.deepEqual(drain({ units: 12, unitsPerChunk: 4, before: (order) => order.follow(6) }), [
    [6, 8],
    [8, 12],
    [0, 4],
    [4, 8],
  ]);
});

Deno.test("PullOrder gives what was asked for first, then what was learned, then by priority", () => {
  assert.deepEqual(
    drain({
      units: 16,
      unitsPerChunk: 4,
      priority: (chunk) => chunk,
      learned: [5, 6, 99, 5, 2],
      before: (order) => {
        order.promote({ from: 9, to: 10 });
        order.promote({ from: 3, to: 6 });
      },
    }),
    [[3, 4], [4, 6], [9, 10], [6, 7], [2, 3], [12, 16], [8, 12], [7, 8], [0, 4]],
  );
});
