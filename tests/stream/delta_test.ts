/** The reference of page deltas: the note's worked example, every boundary, hostile input. */
import assert from "node:assert/strict";
import { toHex } from "../../lib/base/hex.ts";
import {
  checkDeltas,
  decodePage,
  decodeRemusPage,
  encodeCached,
  encodePages,
  encodeRemusFull,
  encodeRemusPage,
  measurePage,
  measureRemusPage,
  slotMiss,
  slotNone,
} from "../../lib/stream/delta.ts";
import { encodedSizeMax, pageCodec } from "../../lib/stream/page_codec.ts";
import { deltaVectors } from "./delta_vectors.ts";
import { changedPages, samePages } from "./pages.ts";
import { prng } from "./prng.ts";

deltaVectors("pageCodec", pageCodec);

const zeros = new Uint8Array(4096);

/** A page of zeros but for the words for which `changed` holds. */
function pageWhere(changed: (word: number) => boolean): Uint8Array<ArrayBuffer> {
  const page = new Uint8Array(4096);
  for (let word = 0; word < 1024; word++) if (changed(word)) page[4 * word + word % 4] = 1 + word % 255;
  return page;
}

function remus(old: Uint8Array, now: Uint8Array): Uint8Array<ArrayBuffer> {
  const into = new Uint8Array(4105);
  return into.slice(0, encodeRemusPage(old, now, into, 0));
}

function region(old: Uint8Array, now: Uint8Array): Uint8Array<ArrayBuffer> {
  const into = new Uint8Array(4097);
  return into.slice(0, encodePages(old, now, 1, into));
}

Deno.test("encodeRemusPage() gives the octets of the worked example", () => {
  const now = new Uint8Array(4096);
  now.set([0xde, 0xad, 0xbe, 0xef], 8);
  now[13] = 0x5a;
  now[4092] = 1;
  assert.equal(toHex(remus(zeros, now)), "8202deadbeef005a0000ffffffffffffffff830101000000");
});

Deno.test("encodeRemusPage() gives known sizes: nothing 1, the first word 14, every word 4105, every other 3072", () => {
  const size = (changed: (word: number) => boolean) => remus(zeros, pageWhere(changed)).length;
  assert.equal(size(() => false), 1);
  assert.equal(size((word) => word === 0), 14);
  assert.equal(size((word) => word === 1023), 9 + 5);
  assert.equal(size(() => true), 4105);
  assert.equal(size((word) => word % 2 === 0), 3072);
  const all = remus(zeros, pageWhere(() => true));
  const markers: [number, number | undefined][] = [];
  for (let at = 0; at < all.length; at += 1 + 4 * (all[at] ?? 0)) markers.push([at, all[at]]);
  assert.deepEqual(markers.slice(0, 2), [[0, 127], [509, 127]]);
  assert.deepEqual(markers.at(-1), [4072, 8]);
});

Deno.test("encodeRemusPage() splits runs and skips behind 127 words, wherever they begin", () => {
  for (const first of [0, 1, 63, 64, 500, 1024 - 255]) {
    for (const count of [1, 63, 64, 126, 127, 128, 129, 253, 254, 255]) {
      const isIn = (word: number) => word >= first && word < first + count;
      for (const changed of [isIn, (word: number) => !isIn(word)]) {
        const page = pageWhere(changed);
        const encoded = remus(zeros, page);
        const spans = [first, count, 1024 - first - count];
        let markers = 0;
        for (const span of spans) markers += Math.ceil(span / 127);
        const words = changed === isIn ? count : 1024 - count;
        assert.equal(encoded.length, markers + 4 * words, `${first} ${count}`);
        const back = new Uint8Array(4096);
        assert.equal(decodeRemusPage(encoded, 0, back), encoded.length);
        samePages(back, page);
      }
    }
  }
});

Deno.test("encodeRemusPage() and encodeRemusFull() refuse pages and rooms of another size before writing", () => {
  const into = new Uint8Array(4106).fill(7);
  assert.throws(() => encodeRemusPage(zeros, zeros, into, 2), RangeError);
  assert.throws(() => encodeRemusPage(zeros.subarray(1), zeros, into, 0), RangeError);
  assert.throws(() => encodeRemusFull(zeros, into, 10), RangeError);
  assert.throws(() => encodePages(zeros, zeros, 1, into.subarray(10)), RangeError);
  assert.throws(() => decodeRemusPage(new Uint8Array(1), 0, zeros.subarray(4)), RangeError);
  assert.ok(into.every((octet) => octet === 7));
});

Deno.test("encodeRemusPage() does not mind where in memory the pages are", () => {
  const { olds, news } = changedPages(prng(3), 1);
  const memory = new Uint8Array(3 * 4096 + 3);
  const old = memory.subarray(1, 4097);
  const now = memory.subarray(4098, 8194);
  old.set(olds);
  now.set(news);
  samePages(remus(old, now), remus(olds, news));
  samePages(region(old, now), region(olds, news));
});

Deno.test("encodePages() takes the shortest encoding, and of equals the first", () => {
  const codec = (changed: (word: number) => boolean) => {
    const encoded = region(zeros, pageWhere(changed));
    return [encoded[0], encoded.length];
  };
  assert.deepEqual(codec(() => false), [0, 1]);
  assert.deepEqual(codec(() => true), [1, 4097]);
  assert.deepEqual(codec((word) => word === 0), [2, 15]);
  assert.deepEqual(codec((word) => word % 2 === 0), [3, 129 + 2048]);
  // One word of two unchanged: RUNS is 1 + 9 + 1 + 4 * 1023, one SKIP among them.
  assert.deepEqual(codec((word) => word !== 0), [1, 4097]);
  assert.deepEqual(codec((word) => word > 2), [2, 1 + 1 + 9 + 4 * 1021]);
  // 60 single words and the SKIPs between them, then eight SKIPs: 128 markers, as long as the bitmap.
  assert.deepEqual(codec((word) => word % 2 === 1 && word < 120), [2, 129 + 240]);
  assert.deepEqual(codec((word) => word % 2 === 1 && word < 122), [3, 129 + 244]);
  // Nine RUNs and three SKIPs: 1 + 12 + 4 * 1021, as long as the whole page.
  assert.deepEqual(codec((word) => ![254, 509, 764].includes(word)), [1, 4097]);
});

Deno.test("decodeRemusPage() goes on where the encoding before ended", () => {
  const { olds, news } = changedPages(prng(8), 6);
  const into = new Uint8Array(6 * 4105 + 5);
  let end = 5;
  for (let page = 0; page < 6; page++) {
    const range = [page * 4096, (page + 1) * 4096] as const;
    end = page === 3
      ? encodeRemusFull(news.subarray(...range), into, end)
      : encodeRemusPage(olds.subarray(...range), news.subarray(...range), into, end);
  }
  let at = 5;
  for (let page = 0; page < 6; page++) {
    assert.equal(
      measureRemusPage(into, at),
      decodeRemusPage(into, at, olds.slice(page * 4096).subarray(0, 4096)),
    );
    at = decodeRemusPage(into.subarray(0, end), at, olds.subarray(page * 4096, (page + 1) * 4096));
  }
  assert.equal(at, end);
  samePages(olds, news);
});

Deno.test("measureRemusPage() says of every beginning that it goes on", () => {
  const encodings = [
    remus(zeros, pageWhere((word) => word % 7 === 0)),
    remus(zeros, pageWhere((word) => word === 1000)),
    Uint8Array.of(0x80, ...zeros),
  ];
  for (const encoding of encodings) {
    for (let size = 0; size < encoding.length; size++) {
      assert.equal(measureRemusPage(encoding.subarray(0, size), 0), null);
    }
    assert.equal(measureRemusPage(encoding, 0), encoding.length);
  }
});

Deno.test("decodePage() decodes what encodePages() wrote, page by page", () => {
  const { olds, news } = changedPages(prng(5), 12);
  const into = new Uint8Array(12 * 4097);
  const bytes = into.subarray(0, encodePages(olds, news, 12, into));
  checkDeltas(bytes, 12);
  let at = 0;
  for (let page = 0; page < 12; page++) {
    const end = measurePage(bytes, at);
    assert.equal(decodePage(bytes, at, olds.subarray(page * 4096, (page + 1) * 4096)), end);
    at = end;
  }
  assert.equal(at, bytes.length);
  samePages(olds, news);
});

Deno.test("encodeCached() stores what it encoded, so that a slot may come again", () => {
  const { olds, news } = changedPages(prng(6), 2);
  const [a, b] = [olds.subarray(0, 4096), news.subarray(0, 4096)];
  for (const format of ["remus", "region"] as const) {
    const cache = new Uint8Array(2 * 4096);
    const pages = new Uint8Array(4 * 4096);
    [a, b, a, b].forEach((page, index) => pages.set(page, index * 4096));
    const into = new Uint8Array(4 * 4105);
    const slots = Uint32Array.of(slotMiss + 1, 1, slotNone, 1);
    const bytes = into.slice(0, encodeCached(format, cache, slots, pages, into));
    const single = (old: Uint8Array, now: Uint8Array) =>
      format === "remus" ? remus(old, now) : region(old, now);
    const first = format === "remus" ? 0x80 : 1;
    const expected = [[first, ...a], single(a, b), [first, ...a], single(b, b)].flatMap((part) => [...part]);
    assert.equal(toHex(bytes), toHex(Uint8Array.from(expected)));
    samePages(cache.subarray(4096), b);
    assert.ok(cache.subarray(0, 4096).every((octet) => octet === 0));
    assert.throws(() => encodeCached(format, cache, Uint32Array.of(2), a, into), RangeError);
    assert.throws(() => encodeCached(format, cache, Uint32Array.of(slotMiss + 2), a, into), RangeError);
  }
});

Deno.test("pageCodec decode() of mutated deltas refuses with a rule and no change, or decodes within the page", () => {
  const random = prng(11);
  const outcomes = new Set<string>();
  for (let round = 0; round < 3000; round++) {
    const format = random(2) === 0 ? "remus" : "region";
    const { olds, news } = changedPages(random, 2);
    const into = new Uint8Array(2 * encodedSizeMax(format));
    let bytes = into.slice(0, pageCodec.encode(format, olds, news, 2, into));
    for (let change = 1 + random(3); change > 0; change--) {
      bytes[random(bytes.length)] = [0, 0x80, 0x7f, 0xff, random(256)][random(5)] ?? 0;
    }
    if (random(3) === 0) bytes = bytes.slice(0, random(bytes.length));
    const pages = olds.slice();
    try {
      pageCodec.decode(format, bytes, 2, pages);
      outcomes.add("ok");
    } catch (error) {
      const { rule, offset } = error as { rule: string; offset: number };
      assert.match(rule, /^delta\.[a-z_.]+$/);
      assert.ok(offset >= 0 && offset <= bytes.length);
      samePages(pages, olds);
      outcomes.add(rule);
    }
  }
  assert.ok(outcomes.size > 10, [...outcomes].join(" "));
});

Deno.test("pageCodec zeroPages() marks pages of zeros, and one set octet anywhere is seen", () => {
  const pages = new Uint8Array(4 * 4096);
  const zero = new Uint8Array(4);
  for (const at of [0, 1, 63, 64, 4095]) {
    pages.fill(0);
    pages[4096 + at] = 1;
    assert.equal(pageCodec.zeroPages(pages, 4, zero), 3);
    assert.deepEqual([...zero], [1, 0, 1, 1]);
  }
  assert.throws(() => pageCodec.zeroPages(pages, 5, zero), RangeError);
});
