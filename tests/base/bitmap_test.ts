import assert from "node:assert/strict";
import { Bitmap, bitmapBytes } from "../../lib/base/bitmap.ts";
import { prng } from "../stream/prng.ts";

for (const length of [0, 1, 31, 32, 33, 64, 1000]) {
  Deno.test(`Bitmap of ${length} bits agrees with an array`, () => {
    const random = prng(length + 1);
    const bits = new Bitmap(length);
    const model = new Array<boolean>(length).fill(false);
    for (let step = 0; step < 500; step++) {
      const from = random(length + 1);
      const to = from + random(length - from + 1);
      const value = random(2) === 0;
      if (value) bits.set(from, to);
      else bits.clear(from, to);
      model.fill(value, from, to);
      assert.equal(bits.count, model.filter((bit) => bit).length);
      const low = random(length + 1);
      const high = low + random(length - low + 1);
      for (const wanted of [true, false]) {
        const found = model.indexOf(wanted, low);
        assert.equal(bits.next(low, wanted, high), found < 0 || found >= high ? high : found);
      }
      const part = model.slice(low, high);
      assert.equal(bits.all(low, high), part.every((bit) => bit));
      assert.equal(bits.any(low, high), part.some((bit) => bit));
    }
    const again = new Bitmap(length, bits.toBytes());
    assert.deepEqual([again.count, [...again.runs()]], [bits.count, [...bits.runs()]]);
    for (const { from, to } of again.runs()) assert.ok(from < to && again.all(from, to));
    const other = new Bitmap(length);
    other.set(0, length >> 1);
    other.add(bits);
    for (let at = 0; at < length; at++) assert.equal(other.has(at), at < length >> 1 || model[at]);
  });
}

Deno.test("Bitmap refuses ranges, lengths and bytes that are none", () => {
  const bits = new Bitmap(10);
  for (const [from, to] of [[-1, 2], [3, 11], [5, 4], [0.5, 2]] as const) {
    assert.throws(() => bits.set(from, to), RangeError);
  }
  assert.throws(() => new Bitmap(-1), RangeError);
  assert.throws(() => new Bitmap(2 ** 32 + 1), RangeError);
  assert.throws(() => new Bitmap(10, new Uint8Array(3)), RangeError);
  assert.throws(() => new Bitmap(10, new Uint8Array([0, 4])), RangeError);
  assert.equal(bitmapBytes(10), 2);
});
