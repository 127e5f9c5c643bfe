/** PAGE_DATA: entry words, counts and contents. */
import assert from "node:assert/strict";
import { carriesPage, type PageBatch, pageSize, pageTypes } from "../../lib/stream/item.ts";
import {
  decodePageCount,
  decodePageData,
  decodePageEntries,
  encodePageData,
  pageCountMax,
} from "../../lib/stream/page_data.ts";
import { bytes, refuses } from "./octets.ts";
import { prng } from "./prng.ts";
import { concat } from "./samples.ts";

const context = { bigEndian: false, offset: 0 };

function randomBatch(seed: number): PageBatch {
  const random = prng(seed);
  const count = 1 + random(40);
  const kinds = Object.values(pageTypes);
  const types = Uint8Array.from({ length: count }, () => kinds[random(kinds.length)] ?? 0);
  const edges = [0, 1, 2 ** 32 - 1, 2 ** 32, 2 ** 52 - 1];
  const pfns = Float64Array.from(
    { length: count },
    () => edges[random(8)] ?? random(2 ** 31) * random(2 ** 20),
  );
  const pages = new Uint8Array(pageSize * types.filter(carriesPage).length);
  for (let at = 0; at < pages.length; at += 1 + random(900)) pages[at] = random(256);
  return { pfns, types, pages };
}

Deno.test("decodePageData() gives back what encodePageData() wrote, in both endiannesses", () => {
  for (let seed = 0; seed < 200; seed++) {
    for (const bigEndian of [false, true]) {
      const batch = randomBatch(seed);
      const record = concat(encodePageData(batch, bigEndian));
      assert.equal(record.length % 8, 0);
      assert.equal(new DataView(record.buffer).getUint32(4, !bigEndian), record.length - 8);
      assert.deepEqual(decodePageData(record.slice(8), { bigEndian, offset: 0 }), batch, `seed ${seed}`);
    }
  }
});

Deno.test("encodePageData() writes a word of type and frame number for each entry", () => {
  const pfns = Float64Array.of(2 ** 52 - 1, 0, 0x1_0000_0002);
  const types = Uint8Array.of(0xd, 0xe, 0xf);
  const batch = { pfns, types, pages: new Uint8Array(0) };
  const [start, ...rest] = encodePageData(batch);
  assert.deepEqual(
    start,
    bytes("01000000 20000000 03000000 00000000 ffffffffffff0fd0 00000000000000e0 02000000010000f0"),
  );
  assert.equal(rest.length, 0);
  assert.deepEqual(
    encodePageData(batch, true)[0],
    bytes("00000001 00000020 00000003 00000000 d00fffffffffffff e000000000000000 f000000100000002"),
  );
});

Deno.test("PAGE_DATA has a page for the types 0 to 4 and 9 to 12, and takes no type from 5 to 8", () => {
  for (let type = 0; type < 16; type++) {
    const batch = { pfns: Float64Array.of(1), types: Uint8Array.of(type), pages: new Uint8Array(4096) };
    const none = { ...batch, pages: new Uint8Array(0) };
    const word = `${(type << 4).toString(16).padStart(2, "0")}`;
    const body = (rest: string): Uint8Array<ArrayBuffer> => bytes(`01000000 00*4 01 00*6 ${word} ${rest}`);
    if (type >= 5 && type <= 8) {
      assert.throws(() => encodePageData(batch), TypeError);
      assert.throws(() => encodePageData(none), TypeError);
      refuses(() => decodePageData(body("00*4096"), context), "libxc.page_data.type", 16);
      refuses(() => decodePageData(body(""), context), "libxc.page_data.type", 16);
      continue;
    }
    const carries = type <= 4 || type >= 9 && type <= 12;
    assert.equal(encodePageData(carries ? batch : none).length, carries ? 2 : 1);
    assert.throws(() => encodePageData(carries ? none : batch), TypeError);
    assert.deepEqual(decodePageData(body(carries ? "00*4096" : ""), context), carries ? batch : none);
    refuses(() => decodePageData(body(carries ? "" : "00*4096"), context), "libxc.page_data.size", 4);
  }
});

Deno.test("encodePageData() gives the contents themselves, and one array in front of them", () => {
  const batch = { pfns: Float64Array.of(1), types: new Uint8Array(1), pages: new Uint8Array(4096) };
  const pieces = encodePageData(batch);
  assert.equal(pieces.length, 2);
  assert.equal(pieces[1], batch.pages);
});

Deno.test("decodePageData() gives contents that are a view of the body", () => {
  const body = concat(encodePageData(randomBatch(3))).slice(8);
  assert.equal(decodePageData(body, context).pages.buffer, body.buffer);
});

Deno.test("encodePageData() refuses batches that no record holds", () => {
  const good = { pfns: Float64Array.of(1), types: new Uint8Array(1), pages: new Uint8Array(4096) };
  const bad: PageBatch[] = [
    { ...good, pfns: new Float64Array(0), types: new Uint8Array(0), pages: new Uint8Array(0) },
    { ...good, types: new Uint8Array(2) },
    { ...good, types: Uint8Array.of(16) },
    { ...good, pages: new Uint8Array(4095) },
  ];
  for (const pfn of [-1, 0.5, NaN, 2 ** 52]) bad.push({ ...good, pfns: Float64Array.of(pfn) });
  for (const batch of bad) assert.throws(() => encodePageData(batch), TypeError);
});

Deno.test("decodePageCount() holds a count against the body before anything of its size is made", () => {
  const head = bytes("ffffffff 00000000");
  for (const length of [8, 16, 134_217_728]) {
    refuses(() => decodePageCount(head, length, context), "libxc.page_data.entries", 8);
  }
  assert.equal(decodePageCount(bytes("ffffff00 00000000"), 134_217_728, context), pageCountMax);
  refuses(
    () => decodePageCount(bytes("00000001 00000000"), 134_217_728, context),
    "libxc.page_data.entries",
    8,
  );
});

Deno.test("decodePageEntries() names the rules of whom it reads for", () => {
  const region = { ...context, offset: 96, rule: "region.page_data" };
  refuses(() => decodePageEntries(bytes("00*15 60"), 32, region), "region.page_data.type", 120);
  refuses(() => decodePageEntries(bytes("00*16"), 32, region), "region.page_data.size", 100);
  assert.equal(decodePageEntries(bytes("00*15 c0"), 24 + 8192, region).pagesCount, 2);
});
