/** Pages that changed, of every density, from a seed; and comparing them. */
import assert from "node:assert/strict";
import { bytesEqual } from "../../lib/base/hex.ts";

/** Fails unless both hold the same octets. Far faster than `deepEqual`, which looks at each element as a value. */
export function samePages(actual: Uint8Array, expected: Uint8Array, what = "the octets differ"): void {
  assert.ok(bytesEqual(actual, expected), what);
}

/** `count` pages, and the same after changes: none, a few words, many, all; scattered or in runs. */
export function changedPages(
  random: (bound: number) => number,
  count: number,
): { olds: Uint8Array<ArrayBuffer>; news: Uint8Array<ArrayBuffer> } {
  const olds = new Uint8Array(count * 4096);
  if (random(4) > 0) { for (let at = 0; at < olds.length; at++) olds[at] = random(256); }
  const news = olds.slice();
  for (let page = 0; page < count; page++) {
    const words = new DataView(news.buffer, page * 4096, 4096);
    const flip = (word: number) =>
      words.setUint8(4 * word + random(4), words.getUint8(4 * word) ^ 1 + random(255));
    const density = [0, 1, 3, 10, 30, 60, 100, 300, 700, 1024][random(10)] ?? 0;
    if (random(2) === 0) { for (let change = 0; change < density; change++) flip(random(1024)); }
    else {
      for (let run = random(6); run > 0; run--) {
        const first = random(1024);
        const end = Math.min(
          1024,
          first + ([1, 63, 64, 65, 126, 127, 128, 254, 255, 700][random(10)] ?? 1) + random(3),
        );
        for (let word = first; word < end; word++) flip(word);
      }
    }
  }
  return { olds, news };
}
