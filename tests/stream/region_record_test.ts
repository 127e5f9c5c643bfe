/** The header and records of a region, held against octets made by hand. */
import assert from "node:assert/strict";
import { regionDeltaSizeMax } from "../../lib/stream/delta.ts";
import type { RegionRecord } from "../../lib/stream/item.ts";
import {
  checkRegionHead,
  decodeRegionHeader,
  decodeRegionRecord,
  deltasMax,
  encodeRegionHeader,
  encodeRegionRecord,
  rangesMax,
  regionPagesMax,
  regionTypes,
} from "../../lib/stream/region_record.ts";
import { bytes, refuses } from "./octets.ts";
import { concat } from "./samples.ts";

const strict = { bigEndian: false, offset: 1000 };

Deno.test("encodeRegionHeader() writes, and decodeRegionHeader() reads, the image header", () => {
  const little = bytes('ff*8 "DRVR" 00000001 00*8');
  const big = bytes('ff*8 "DRVR" 00000001 0001 00*6');
  assert.deepEqual(encodeRegionHeader({ bigEndian: false }), little);
  assert.deepEqual(encodeRegionHeader({ bigEndian: true }), big);
  assert.deepEqual(decodeRegionHeader(little), { bigEndian: false });
  assert.deepEqual(decodeRegionHeader(big), { bigEndian: true });
  refuses(() => decodeRegionHeader(bytes('ff*8 "XENF" 00000001 00*8')), "region.header.id", 8);
  refuses(() => decodeRegionHeader(bytes('ff*8 "DRVR" 00000002 00*8')), "region.header.version", 12);
  refuses(() => decodeRegionHeader(bytes('ff*8 "DRVR" 00000001 0002 00*6')), "region.header.options", 16);
  refuses(() => decodeRegionHeader(bytes('ff*8 "DRVR" 00000001 00*7 01')), "region.header.reserved", 23);
});

const records: [record: RegionRecord, little: string, big: string][] = [
  [{ name: "END" }, "00*8", "00*8"],
  [{ name: "VERIFY" }, "0d000000 00*4", "0000000d 00*4"],
  [{ name: "CHECKPOINT" }, "0e000000 00*4", "0000000e 00*4"],
  [
    {
      name: "REGION_INFO",
      regionId: bytes('"0123456789abcdef"'),
      pages: 2 ** 40,
      term: 2n ** 64n - 1n,
      label: "ä",
    },
    '00010000 2a000000 "0123456789abcdef" 0000000000010000 ff*8 02000000 00*4 c3a4 00*6',
    '00000100 0000002a "0123456789abcdef" 0000010000000000 ff*8 00000002 00*4 c3a4 00*6',
  ],
  [
    { name: "REGION_INFO", regionId: bytes("00*16"), pages: 1, term: 0n, label: "\ufeff" },
    "00010000 2b000000 00*16 0100000000000000 00*8 03000000 00*4 efbbbf 00*5",
    "00000100 0000002b 00*16 0000000000000001 00*8 00000003 00*4 efbbbf 00*5",
  ],
  [
    { name: "ZERO_RANGES", ranges: [{ pfn: 0, count: 1 }, { pfn: 1, count: 2 ** 39 }] },
    "01010000 28000000 02000000 00*4 00*8 0100000000000000 0100000000000000 0000000080000000",
    "00000101 00000028 00000002 00*4 00*8 0000000000000001 0000000000000001 0000008000000000",
  ],
  [
    { name: "PAGE_DELTAS", deltas: { pfns: Float64Array.of(9, 3), data: bytes("00 02 7f") } },
    "02010000 1b000000 02000000 03000000 0900000000000000 0300000000000000 00 02 7f 00*5",
    "00000102 0000001b 00000002 00000003 0000000000000009 0000000000000003 00 02 7f 00*5",
  ],
  [{ name: "DIGEST", digest: bytes("ab*32") }, "03010000 20000000 ab*32", "00000103 00000020 ab*32"],
  [
    {
      name: "PAGE_DATA",
      batch: { pfns: Float64Array.of(5), types: new Uint8Array(1), pages: new Uint8Array(4096).fill(3) },
    },
    "01000000 10100000 01000000 00*4 0500000000000000 03*4096",
    "00000001 00001010 00000001 00*4 0000000000000005 03*4096",
  ],
  [
    { name: "UNKNOWN", type: 0x8000_0100, body: bytes("01") },
    "00010080 01000000 01 00*7",
    "80000100 00000001 01 00*7",
  ],
];

Deno.test("encodeRegionRecord() and decodeRegionRecord() agree with octets made by hand, in both endiannesses", () => {
  for (const [record, little, big] of records) {
    for (const [text, bigEndian] of [[little, false], [big, true]] as const) {
      const expected = bytes(text);
      assert.deepEqual(concat(encodeRegionRecord(record, bigEndian)), expected, record.name);
      const view = new DataView(expected.buffer);
      const body = expected.slice(8, 8 + view.getUint32(4, !bigEndian));
      const context = { ...strict, bigEndian };
      assert.deepEqual(decodeRegionRecord(view.getUint32(0, !bigEndian), body, context), record, record.name);
    }
  }
  const named = new Set(records.map(([record]) => record.name));
  for (const name of Object.keys(regionTypes)) assert.ok(named.has(name as RegionRecord["name"]), name);
});

Deno.test("decodeRegionRecord() refuses what breaks a rule, at the field's stream offset, and is never lenient", () => {
  const info = regionTypes.REGION_INFO;
  const zero = regionTypes.ZERO_RANGES;
  const deltas = regionTypes.PAGE_DELTAS;
  const one = "0100000000000000";
  const cases: [type: number, body: string, rule: string, offset: number][] = [
    [0x00, "00", "region.end.length", 1004],
    [0x0d, "00", "region.verify.length", 1004],
    [0x0e, "00", "region.checkpoint.length", 1004],
    [0x02, "0804 00*6", "region.record.type", 1000],
    [0x0104, "", "region.record.type", 1000],
    [info, "00*39", "region.info.length", 1004],
    [info, `00*16 ${one} 00*8 ff000000 00*4 00*256`, "region.info.length", 1004],
    [info, "00*16 00*8 00*8 00*8", "region.info.pages", 1024],
    [info, "00*16 0100000000010000 00*8 00*8", "region.info.pages", 1024],
    [info, `00*16 ${one} 00*8 00000001 00*4`, "region.info.label", 1040],
    [info, `00*16 ${one} 00*8 02000000 00*4 01`, "region.info.length", 1004],
    [info, `00*16 ${one} 00*8 00*4 00*3 01`, "region.info.reserved", 1044],
    [info, `00*16 ${one} 00*8 01000000 00*4 ff`, "region.info.label", 1048],
    [zero, "00*7", "region.zero_ranges.length", 1004],
    [zero, "01000000 00*4 00*15", "region.zero_ranges.length", 1004],
    [zero, "00*8", "region.zero_ranges.count", 1008],
    [zero, "01000000 00*4", "region.zero_ranges.length", 1004],
    [zero, `01000000 00*3 01 00*8 ${one}`, "region.zero_ranges.reserved", 1012],
    [zero, "01000000 00*4 00*8 00*8", "region.zero_ranges.empty", 1024],
    [zero, `02000000 00*4 00*8 ${one} 00*8 ${one}`, "region.zero_ranges.order", 1032],
    [zero, `01000000 00*4 6300000000000000 0200000000000000`, "region.zero_ranges.pfn", 1024],
    [zero, `01000000 00*4 6400000000000000 ${one}`, "region.zero_ranges.pfn", 1016],
    [zero, `01000000 00*4 00*8 ff*8`, "region.zero_ranges.pfn", 1024],
    [deltas, "00*7", "region.page_deltas.length", 1004],
    [deltas, "00*8", "region.page_deltas.count", 1008],
    [deltas, "01200000 00*4", "region.page_deltas.count", 1008],
    [deltas, "01000000 02000000 00*8 00", "region.page_deltas.length", 1004],
    [deltas, "01000000 ffffffff 00*8 00", "region.page_deltas.length", 1004],
    [deltas, "01000000 01000000 6400000000000000 00", "region.page_deltas.pfn", 1016],
    [deltas, "02000000 02000000 00*16 00*2", "region.page_deltas.duplicate", 1024],
    [regionTypes.DIGEST, "00*31", "region.digest.length", 1004],
    [0x01, "01000000 00*4 6400000000000000 00*4096", "region.page_data.pfn", 1016],
    [0x01, "02000000 00*4 00*8 00*7 f0 00*4096", "region.page_data.type", 1024],
    [0x01, "01000000 01000000 00*8 00*4096", "region.page_data.reserved", 1012],
  ];
  for (const [type, text, rule, offset] of cases) {
    for (const lenient of [false, true]) {
      refuses(() => decodeRegionRecord(type, bytes(text), { ...strict, pages: 100, lenient }), rule, offset);
    }
  }
});

Deno.test("checkRegionHead() refuses bodies above the bounds before there are any", () => {
  const cases: [type: number, length: number, rule: string][] = [
    [0x01, 134_217_729, "region.record.length"],
    [0x8000_0000, 134_217_729, "region.record.length"],
    [regionTypes.REGION_INFO, 296, "region.info.length"],
    [regionTypes.ZERO_RANGES, 8 + 16 * (rangesMax + 1), "region.zero_ranges.length"],
    [regionTypes.PAGE_DELTAS, 9 + (8 + regionDeltaSizeMax) * deltasMax, "region.page_deltas.length"],
  ];
  for (const [type, length, rule] of cases) refuses(() => checkRegionHead(type, length, strict), rule, 1004);
  checkRegionHead(regionTypes.ZERO_RANGES, 8 + 16 * rangesMax, strict);
  checkRegionHead(regionTypes.PAGE_DELTAS, 8 + (8 + regionDeltaSizeMax) * deltasMax, strict);
});

Deno.test("encodeRegionRecord() refuses values that no valid record holds", () => {
  const info = { name: "REGION_INFO" as const, regionId: new Uint8Array(16), pages: 1, term: 0n, label: "" };
  const bad: RegionRecord[] = [
    { ...info, regionId: new Uint8Array(15) },
    { ...info, pages: 0 },
    { ...info, pages: regionPagesMax + 1 },
    { ...info, term: -1n },
    { ...info, label: "ä".repeat(128) },
    { ...info, label: "\ud800" },
    { name: "ZERO_RANGES", ranges: [] },
    { name: "ZERO_RANGES", ranges: [{ pfn: 0, count: 0 }] },
    { name: "ZERO_RANGES", ranges: [{ pfn: 0, count: 2 }, { pfn: 1, count: 1 }] },
    { name: "ZERO_RANGES", ranges: Array.from({ length: rangesMax + 1 }, (_, pfn) => ({ pfn, count: 1 })) },
    { name: "PAGE_DELTAS", deltas: { pfns: new Float64Array(0), data: new Uint8Array(0) } },
    { name: "PAGE_DELTAS", deltas: { pfns: new Float64Array(deltasMax + 1), data: new Uint8Array(1) } },
    { name: "PAGE_DELTAS", deltas: { pfns: Float64Array.of(2 ** 52), data: new Uint8Array(1) } },
    {
      name: "PAGE_DELTAS",
      deltas: { pfns: Float64Array.of(1), data: new Uint8Array(regionDeltaSizeMax + 1) },
    },
    { name: "DIGEST", digest: new Uint8Array(31) },
    {
      name: "PAGE_DATA",
      batch: { pfns: Float64Array.of(1), types: Uint8Array.of(0xf), pages: new Uint8Array(0) },
    },
  ];
  for (const record of bad) assert.throws(() => encodeRegionRecord(record), TypeError, record.name);
});
