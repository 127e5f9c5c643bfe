/** Page deltas of the library, at every level that this machine has: each the other's oracle, and lib/stream's reference. */
import assert from "node:assert/strict";
import { createFakeNative } from "../../ffi/fake.ts";
import { openNative, type PageDelta } from "../../ffi/mod.ts";
import { slotMiss, slotNone } from "../../lib/stream/delta.ts";
import { encodedSizeMax, type PageCodec, pageCodec } from "../../lib/stream/page_codec.ts";
import { deltaVectors } from "../stream/delta_vectors.ts";
import { changedPages, samePages } from "../stream/pages.ts";
import { prng } from "../stream/prng.ts";

// At the top level: Deno 2.4 takes a library that a test loads for a leak.
const native: PageDelta = openNative().delta;
const implementations: [string, PageDelta][] = [
  ...native.levels.map((level): [string, PageDelta] => [`NativeDelta ${level}`, native.at(level)]),
  ["FakeDelta", createFakeNative().delta],
];
const formats = ["remus", "region"] as const;

/** What an implementation makes of a batch: its octets, or the rule and offset of its refusal, and the pages then. */
function outcome(codec: PageCodec, format: "remus" | "region", bytes: Uint8Array, olds: Uint8Array) {
  const pages = olds.slice();
  try {
    codec.decode(format, bytes, olds.length / 4096, pages, 77);
    return { rule: "ok", offset: 0, pages };
  } catch (error) {
    const { rule, offset } = error as { rule: string; offset: number };
    return { rule, offset, pages };
  }
}

for (const [name, codec] of implementations) {
  deltaVectors(name, codec);

  Deno.test(`${name} encodes what the reference encodes, and decodes it`, () => {
    const random = prng(21);
    for (let round = 0; round < 40; round++) {
      const { olds, news } = changedPages(random, 1 + random(12));
      const count = olds.length / 4096;
      for (const format of formats) {
        const size = count * encodedSizeMax(format);
        // Exactly the room that must be there: a store past it would be one past the buffer.
        const [into, expected] = [new Uint8Array(size), new Uint8Array(size)];
        const used = codec.encode(format, olds, news, count, into);
        assert.equal(used, pageCodec.encode(format, olds, news, count, expected));
        samePages(into.subarray(0, used), expected.subarray(0, used));
        const pages = olds.slice();
        codec.decode(format, into.slice(0, used), count, pages);
        samePages(pages, news);
      }
    }
  });

  Deno.test(`${name} chooses as the reference does where two encodings are about as long`, () => {
    const patterns: ((word: number) => boolean)[] = [];
    for (let count = 50; count < 70; count++) {
      patterns.push((word) => word % 2 === 1 && word < 2 * count);
      patterns.push((word) => word % 2 === 0 && word < 2 * count || word === 1023);
      patterns.push((word) => word % 5 < 2 && word < 5 * count);
      // Long spans between the words: markers come from splitting too.
      patterns.push((word) => word % 2 === 1 && word < 1.5 * count || word > 700 && word < 700 + count);
    }
    for (let first = 250; first < 260; first++) {
      patterns.push((word) => ![first, first + 255, first + 510].includes(word));
      patterns.push((word) => word > 2 && word !== first);
    }
    const olds = new Uint8Array(patterns.length * 4096);
    const words = new Uint32Array(olds.length / 4);
    patterns.forEach((changed, page) => {
      for (let word = 0; word < 1024; word++) words[page * 1024 + word] = changed(word) ? word + 1 : 0;
    });
    const news = new Uint8Array(words.buffer);
    const [into, expected] = [new Uint8Array(news.length + 4096), new Uint8Array(news.length + 4096)];
    const used = codec.encode("region", olds, news, patterns.length, into);
    assert.equal(used, pageCodec.encode("region", olds, news, patterns.length, expected));
    samePages(into.subarray(0, used), expected.subarray(0, used));
  });

  Deno.test(`${name} encodeCached() does to cache and output what the reference does`, () => {
    const random = prng(22);
    for (let round = 0; round < 30; round++) {
      const { olds, news } = changedPages(random, 8);
      const slots = Uint32Array.from(
        { length: 8 },
        () => [slotNone, slotMiss + random(8), random(8), random(8)][random(4)] ?? 0,
      );
      for (const format of formats) {
        const size = 8 * encodedSizeMax(format);
        const [into, expected] = [new Uint8Array(size), new Uint8Array(size)];
        const [cache, expectedCache] = [olds.slice(), olds.slice()];
        const used = codec.encodeCached(format, cache, slots, news, into);
        assert.equal(used, pageCodec.encodeCached(format, expectedCache, slots, news, expected));
        samePages(into.subarray(0, used), expected.subarray(0, used));
        samePages(cache, expectedCache);
      }
    }
  });

  Deno.test(`${name} gives mutated deltas the reference's verdict, place and pages`, () => {
    const random = prng(23);
    const rules = new Set<string>();
    for (let round = 0; round < 1500; round++) {
      const format = formats[random(2)] ?? "remus";
      const { olds, news } = changedPages(random, 2);
      const into = new Uint8Array(2 * encodedSizeMax(format));
      let bytes = into.slice(0, pageCodec.encode(format, olds, news, 2, into));
      for (let change = random(4); change > 0; change--) {
        bytes[random(bytes.length)] = [0, 0x80, 0x7f, 0xff, random(256)][random(5)] ?? 0;
      }
      if (random(3) === 0) bytes = bytes.slice(0, random(bytes.length));
      const expected = outcome(pageCodec, format, bytes, olds);
      const actual = outcome(codec, format, bytes, olds);
      assert.deepEqual([actual.rule, actual.offset], [expected.rule, expected.offset]);
      samePages(actual.pages, expected.pages);
      rules.add(expected.rule);
    }
    assert.ok(rules.size > 10, [...rules].join(" "));
  });

  Deno.test(`${name} zeroPages() sees a set octet wherever it is`, () => {
    const pages = new Uint8Array(5 * 4096);
    for (const at of [0, 1, 31, 32, 63, 64, 127, 128, 255, 256, 2047, 4094, 4095]) {
      pages.fill(0);
      pages[2 * 4096 + at] = 0x80;
      const zero = new Uint8Array(5);
      assert.equal(codec.zeroPages(pages, 5, zero), 4);
      assert.deepEqual([...zero], [1, 1, 0, 1, 1]);
    }
  });

  Deno.test(`${name} refuses buffers of another size and slots that are not there`, () => {
    const page = new Uint8Array(4096);
    const into = new Uint8Array(4105);
    assert.throws(() => codec.encode("remus", page, page, 2, into), RangeError);
    assert.throws(() => codec.encode("remus", page, page, 1, into.subarray(1)), RangeError);
    assert.throws(() => codec.encode("region", page, page, 1, into.subarray(9)), RangeError);
    assert.throws(() => codec.decode("remus", into, 1, page.subarray(1)), RangeError);
    assert.throws(() => codec.encodeCached("remus", page, Uint32Array.of(1), page, into));
    assert.throws(() => codec.encodeCached("remus", page, Uint32Array.of(slotMiss + 1), page, into));
    assert.throws(() => codec.zeroPages(page, 1, new Uint8Array(0)), RangeError);
    assert.equal(codec.encode("remus", page.subarray(4096), page.subarray(4096), 0, into.subarray(4105)), 0);
  });
}

Deno.test("PageDelta at() gives what the machine has, and nothing else", () => {
  assert.equal(native.levels[0], "scalar");
  assert.equal(native.level, native.levels.at(-1));
  for (const level of native.levels) assert.equal(native.at(level).level, level);
  for (const level of ["avx2", "avx512"] as const) {
    if (!native.levels.includes(level)) assert.throws(() => native.at(level), RangeError);
  }
  assert.throws(() => createFakeNative().delta.at("avx512"), RangeError);
});
