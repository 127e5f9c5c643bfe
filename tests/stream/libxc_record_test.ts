/** libxc's headers and records, held against octets made by hand. */
import assert from "node:assert/strict";
import { FormatError } from "../../lib/base/errors.ts";
import type { LibxcHeader, LibxcRecord } from "../../lib/stream/item.ts";
import {
  checkLibxcHead,
  decodeImageHeader,
  decodeLibxcHeader,
  decodeLibxcRecord,
  encodeLibxcHeader,
  encodeLibxcRecord,
  entriesMax,
  libxcTypes,
} from "../../lib/stream/libxc_record.ts";
import { bytes, refuses } from "./octets.ts";
import { concat } from "./samples.ts";

const strict = { bigEndian: false, version: 3, offset: 1000 };
const header: LibxcHeader = { version: 3, bigEndian: false, guest: "hvm", xenMajor: 4, xenMinor: 20 };
const headerText = 'ff*8 "XENF" 00000003 0000 0000 00000000 02000000 0c00 0000 04000000 14000000';

Deno.test("encodeLibxcHeader() writes, and decodeLibxcHeader() reads, the forty octets of the specification", () => {
  const little = bytes(headerText);
  assert.equal(little.length, 40);
  assert.deepEqual(encodeLibxcHeader(header), little);
  assert.deepEqual(decodeLibxcHeader(little), header);
  const converted: LibxcHeader = { version: 2, bigEndian: true, guest: "pv", xenMajor: 0, xenMinor: 1 };
  const big = bytes('ff*8 "XENF" 00000002 0001 0000 00000000 00000001 000c 0000 00000000 00000001');
  assert.deepEqual(encodeLibxcHeader(converted), big);
  assert.deepEqual(decodeLibxcHeader(big), converted);
  assert.deepEqual(decodeImageHeader(big), { id: 0x5845_4e46, version: 2, bigEndian: true });
});

Deno.test("decodeLibxcHeader() refuses what breaks a rule, at the field's stream offset", () => {
  const cases: [at: number, value: number, rule: string, offset: number, lenient: boolean][] = [
    [3, 0xfe, "libxc.header.marker", 0, false],
    [7, 0xfe, "libxc.header.marker", 4, false],
    [11, 0x47, "libxc.header.id", 8, false],
    [15, 1, "libxc.header.version", 12, false],
    [15, 4, "libxc.header.version", 12, false],
    [17, 2, "libxc.header.options", 16, true],
    [16, 0x80, "libxc.header.options", 16, true],
    [19, 1, "libxc.header.reserved", 19, true],
    [23, 1, "libxc.header.reserved", 23, true],
    [24, 0, "libxc.domain.type", 24, false],
    [24, 3, "libxc.domain.type", 24, false],
    [28, 16, "libxc.domain.page_shift", 28, false],
    [30, 1, "libxc.domain.reserved", 30, true],
  ];
  for (const [at, value, rule, offset, lenient] of cases) {
    const octets = bytes(headerText);
    octets[at] = value;
    refuses(() => decodeLibxcHeader(octets, { offset: 24 }), rule, 24 + offset);
    if (lenient) assert.equal(decodeLibxcHeader(octets, { lenient: true }).guest, "hvm");
    else refuses(() => decodeLibxcHeader(octets, { lenient: true }), rule, offset);
  }
  refuses(() => decodeLibxcHeader(bytes("ff*23")), "libxc.header.truncated", 23);
  refuses(() => decodeLibxcHeader(bytes(headerText).subarray(0, 39)), "libxc.header.truncated", 39);
  for (const version of [1, 4]) assert.throws(() => encodeLibxcHeader({ ...header, version }), TypeError);
  assert.throws(() => encodeLibxcHeader({ ...header, xenMajor: 2 ** 32 }), TypeError);
});

/** Records with their octets, little-endian and big-endian, head and padding included. */
const records: [record: LibxcRecord, little: string, big: string][] = [
  [{ name: "END" }, "00*8", "00*8"],
  [{ name: "VERIFY" }, "0d000000 00*4", "0000000d 00*4"],
  [{ name: "CHECKPOINT" }, "0e000000 00*4", "0000000e 00*4"],
  [{ name: "STATIC_DATA_END" }, "10000000 00*4", "00000010 00*4"],
  [
    { name: "X86_PV_INFO", guestWidth: 4, ptLevels: 3 },
    "02000000 08000000 0403 00*6",
    "00000002 00000008 0403 00*6",
  ],
  [
    {
      name: "X86_PV_P2M_FRAMES",
      startPfn: 1,
      endPfn: 0x201,
      frames: BigUint64Array.of(0x1234n, 2n ** 64n - 1n),
    },
    "03000000 18000000 01000000 01020000 3412000000000000 ff*8",
    "00000003 00000018 00000001 00000201 0000000000001234 ff*8",
  ],
  [
    { name: "X86_PV_VCPU_BASIC", vcpuId: 3, context: new Uint8Array(2800).fill(7) },
    "04000000 f80a0000 03000000 00*4 07*2800",
    "00000004 00000af8 00000003 00*4 07*2800",
  ],
  [
    { name: "X86_PV_VCPU_BASIC", vcpuId: 0, context: new Uint8Array(5168).fill(7) },
    "04000000 38140000 00000000 00*4 07*5168",
    "00000004 00001438 00000000 00*4 07*5168",
  ],
  [
    { name: "X86_PV_VCPU_EXTENDED", vcpuId: 1, context: bytes('"abc"') },
    '05000000 0b000000 01000000 00*4 "abc" 00*5',
    '00000005 0000000b 00000001 00*4 "abc" 00*5',
  ],
  [
    { name: "X86_PV_VCPU_XSAVE", vcpuId: 1, context: bytes("05*16") },
    "06000000 18000000 01000000 00*4 05*16",
    "00000006 00000018 00000001 00*4 05*16",
  ],
  [
    { name: "X86_PV_VCPU_XSAVE", vcpuId: 1, context: bytes("") },
    "06000000 08000000 01000000 00*4",
    "00000006 00000008 00000001 00*4",
  ],
  [
    { name: "X86_PV_VCPU_MSRS", vcpuId: 2, msrs: [{ index: 0xc000_0081, value: 0x0102_0304_0506_0708n }] },
    "0c000000 18000000 02000000 00*4 810000c0 00*4 0807060504030201",
    "0000000c 00000018 00000002 00*4 c0000081 00*4 0102030405060708",
  ],
  [
    { name: "SHARED_INFO", page: new Uint8Array(4096).fill(9) },
    "07000000 00100000 09*4096",
    "00000007 00001000 09*4096",
  ],
  [
    { name: "X86_TSC_INFO", tsc: { mode: 1, khz: 2, nsec: 0x0102_0304_0506_0708n, incarnation: 4 } },
    "08000000 18000000 01000000 02000000 0807060504030201 04000000 00*4",
    "00000008 00000018 00000001 00000002 0102030405060708 00000004 00*4",
  ],
  [
    { name: "HVM_CONTEXT", context: bytes('"abc"') },
    '09000000 03000000 "abc" 00*5',
    '00000009 00000003 "abc" 00*5',
  ],
  [
    { name: "HVM_PARAMS", params: [{ index: 1n, value: 0xff000n }, { index: 2n ** 63n, value: 0n }] },
    "0a000000 28000000 02000000 00*4 01000000 00*4 00f00f00 00*4 00*7 80 00*8",
    "0000000a 00000028 00000002 00*4 00*7 01 00*5 0ff000 80 00*7 00*8",
  ],
  [{ name: "HVM_PARAMS", params: [] }, "0a000000 08000000 00*8", "0000000a 00000008 00*8"],
  [
    { name: "CHECKPOINT_DIRTY_PFN_LIST", pfns: Float64Array.of(5, 2 ** 52 - 1) },
    "0f000000 10000000 0500000000000000 ffffffffffff0f00",
    "0000000f 00000010 0000000000000005 000fffffffffffff",
  ],
  [
    {
      name: "X86_CPUID_POLICY",
      leaves: [{ leaf: 7, subleaf: 0xffff_ffff, eax: 1, ebx: 2, ecx: 3, edx: 0x8000_0000 }],
    },
    "11000000 18000000 07000000 ffffffff 01000000 02000000 03000000 00000080",
    "00000011 00000018 00000007 ffffffff 00000001 00000002 00000003 80000000",
  ],
  [
    { name: "X86_MSR_POLICY", msrs: [{ index: 0xce, flags: 1, value: 0x8000_0000_0000_0000n }] },
    "12000000 10000000 ce000000 01000000 00*7 80",
    "00000012 00000010 000000ce 00000001 80 00*7",
  ],
  [
    {
      name: "PAGE_DATA",
      batch: {
        pfns: Float64Array.of(0x1_2345_6789, 5),
        types: Uint8Array.of(0, 0xf),
        pages: new Uint8Array(4096).fill(0xaa),
      },
    },
    "01000000 18100000 02000000 00*4 8967452301000000 05000000000000f0 aa*4096",
    "00000001 00001018 00000002 00*4 0000000123456789 f000000000000005 aa*4096",
  ],
  [
    { name: "UNKNOWN", type: 0x8000_0001, body: bytes('"x"') },
    '01000080 01000000 "x" 00*7',
    '80000001 00000001 "x" 00*7',
  ],
];

Deno.test("encodeLibxcRecord() and decodeLibxcRecord() agree with octets made by hand, in both endiannesses", () => {
  for (const [record, little, big] of records) {
    for (const [text, bigEndian] of [[little, false], [big, true]] as const) {
      const expected = bytes(text);
      assert.deepEqual(concat(encodeLibxcRecord(record, bigEndian)), expected, record.name);
      const view = new DataView(expected.buffer);
      const type = view.getUint32(0, !bigEndian);
      const body = expected.slice(8, 8 + view.getUint32(4, !bigEndian));
      assert.deepEqual(decodeLibxcRecord(type, body, { ...strict, bigEndian }), record, record.name);
    }
  }
  const named = new Set(records.map(([record]) => record.name));
  for (const name of Object.keys(libxcTypes)) assert.ok(named.has(name as LibxcRecord["name"]), name);
});

Deno.test("encodeLibxcRecord() and decodeLibxcRecord() do not copy contexts and pages", () => {
  for (const [record] of records) {
    const blob = "context" in record
      ? record.context
      : "page" in record
      ? record.page
      : record.name === "PAGE_DATA"
      ? record.batch.pages
      : null;
    if (blob === null || blob.length === 0) continue;
    assert.ok(encodeLibxcRecord(record).includes(blob), record.name);
  }
  const body = new Uint8Array(4096);
  const record = decodeLibxcRecord(libxcTypes.SHARED_INFO, body, strict);
  assert.ok(record.name === "SHARED_INFO" && record.page.buffer === body.buffer);
});

Deno.test("decodeLibxcRecord() refuses what breaks a rule, at the field's stream offset", () => {
  const length = 1004;
  const cases: [type: number, body: string, rule: string, offset: number, lenient?: "lenient"][] = [
    [0x00, "00", "libxc.end.length", length, "lenient"],
    [0x0d, "00*8", "libxc.verify.length", length, "lenient"],
    [0x0e, "00*8", "libxc.checkpoint.length", length, "lenient"],
    [0x10, "00*8", "libxc.static_data_end.length", length, "lenient"],
    [0x0b, "00*8", "libxc.toolstack.deprecated", 1000],
    [0x13, "", "libxc.record.type", 1000],
    [0x7fff_ffff, "", "libxc.record.type", 1000],
    [0x01, "", "libxc.page_data.length", length],
    [0x01, "00*7", "libxc.page_data.length", length],
    [0x01, "00*8", "libxc.page_data.count", 1008],
    [0x01, "01000000 01000000 00*8 00*4096", "libxc.page_data.reserved", 1012, "lenient"],
    [0x01, "ffffffff 00000000 00*8 00*4096", "libxc.page_data.entries", 1008],
    [0x01, "02000000 00000000 00*7", "libxc.page_data.entries", 1008],
    [0x01, "01000000 00000000 00*6 10 00 00*4096", "libxc.page_data.pfn_reserved", 1016, "lenient"],
    [0x01, "02000000 00000000 00*7 f0 00*6 f0 ff", "libxc.page_data.pfn_reserved", 1024, "lenient"],
    [0x01, "01000000 00000000 00*7 50 00*4096", "libxc.page_data.type", 1016],
    [0x01, "01000000 00000000 00*7 80 00*4096", "libxc.page_data.type", 1016],
    [0x01, "01000000 00000000 00*8", "libxc.page_data.size", length],
    [0x01, "01000000 00000000 00*8 00*4095", "libxc.page_data.size", length],
    [0x01, "01000000 00000000 00*8 00*8192", "libxc.page_data.size", length],
    [0x01, "01000000 00000000 00*7 f0 00*4096", "libxc.page_data.size", length],
    [0x02, "0804 00*5", "libxc.pv_info.length", length],
    [0x02, "0804 00*7", "libxc.pv_info.excess", length, "lenient"],
    [0x02, "0504 00*6", "libxc.pv_info.width", 1008],
    [0x02, "0805 00*6", "libxc.pv_info.levels", 1009],
    [0x02, "0803 00*6", "libxc.pv_info.pair", 1008],
    [0x02, "0404 00*6", "libxc.pv_info.pair", 1008],
    [0x02, "0403 00*5 01", "libxc.pv_info.reserved", 1015, "lenient"],
    [0x03, "00*7", "libxc.p2m_frames.length", length],
    [0x03, "00*12", "libxc.p2m_frames.length", length],
    [0x03, "00*8", "libxc.p2m_frames.count", length],
    [0x03, "02000000 01000000 00*8", "libxc.p2m_frames.range", 1008],
    [0x04, "00*7", "libxc.vcpu.length", length],
    [0x05, "00*7", "libxc.vcpu.length", length],
    [0x06, "00*7", "libxc.vcpu.length", length],
    [0x0c, "00*7", "libxc.vcpu.length", length],
    [0x04, "00*8 00*5167", "libxc.vcpu.basic_size", length],
    [0x05, "00*8 00*129", "libxc.vcpu.extended_size", length],
    [0x06, "00*8 00*15", "libxc.vcpu.xsave_size", length],
    [0x0c, "00*8 00*8", "libxc.vcpu.msrs_size", length],
    [0x05, "00*4 00000001", "libxc.vcpu.reserved", 1015, "lenient"],
    [0x0c, "00*8 00*4 01 00*11", "libxc.vcpu.reserved", 1020, "lenient"],
    [0x07, "00*4095", "libxc.shared_info.length", length],
    [0x07, "00*4097", "libxc.shared_info.length", length],
    [0x08, "00*16", "libxc.tsc_info.length", length],
    [0x08, "00*20 01000000", "libxc.tsc_info.reserved", 1028, "lenient"],
    [0x09, "", "libxc.hvm_context.length", length],
    [0x0a, "00*7", "libxc.hvm_params.length", length],
    [0x0a, "01000000 00*4", "libxc.hvm_params.count", 1008],
    [0x0a, "00000010 00*4", "libxc.hvm_params.count", 1008], // 16 * 2^28 is 0 in 32 bits
    [0x0a, "01000000 00*4 00*15", "libxc.hvm_params.count", 1008],
    [0x0a, "00*4 01000000", "libxc.hvm_params.reserved", 1012, "lenient"],
    [0x0f, "00*7", "libxc.dirty_pfn_list.length", length],
    [0x0f, "00*8 00*6 10 00", "libxc.dirty_pfn_list.pfn", 1016],
    [0x11, "", "libxc.cpuid_policy.length", length],
    [0x11, "00*23", "libxc.cpuid_policy.length", length],
    [0x12, "", "libxc.msr_policy.length", length],
    [0x12, "00*8", "libxc.msr_policy.length", length],
  ];
  for (const [type, text, rule, offset, lenient] of cases) {
    refuses(() => decodeLibxcRecord(type, bytes(text), strict), rule, offset);
    if (lenient !== undefined) decodeLibxcRecord(type, bytes(text), { ...strict, lenient: true });
    else refuses(() => decodeLibxcRecord(type, bytes(text), { ...strict, lenient: true }), rule, offset);
  }
});

Deno.test("decodeLibxcRecord() refuses records of version 3 in version 2, unless lenient", () => {
  for (const [type, body] of [[0x10, ""], [0x11, "00*24"], [0x12, "00*16"]] as const) {
    const context = { ...strict, version: 2 };
    refuses(() => decodeLibxcRecord(type, bytes(body), context), "libxc.record.version", 1000);
    decodeLibxcRecord(type, bytes(body), { ...context, lenient: true });
  }
});

Deno.test("checkLibxcHead() refuses bodies above the bounds before there are any", () => {
  const cases: [type: number, length: number, rule: string][] = [
    [0x09, 134_217_729, "libxc.record.length"],
    [0x8000_0000, 0xffff_ffff, "libxc.record.length"],
    [0x00, 134_217_729, "libxc.record.length"],
    [0x0a, 8 + 16 * (entriesMax + 1), "libxc.record.length"],
    [0x0c, 8 + 16 * (entriesMax + 1), "libxc.record.length"],
    [0x11, 24 * (entriesMax + 1), "libxc.record.length"],
    [0x12, 16 * (entriesMax + 1), "libxc.record.length"],
    [0x03, 8 + 8 * (2 ** 23 + 1), "libxc.p2m_frames.count"],
  ];
  for (const [type, length, rule] of cases) {
    refuses(() => checkLibxcHead(type, length, { ...strict, lenient: true }), rule, 1004);
  }
  for (const type of [0x01, 0x06, 0x09, 0x0f, 0xffff_ffff]) checkLibxcHead(type, 134_217_728, strict);
});

Deno.test("encodeLibxcRecord() refuses values that no valid record holds", () => {
  const empty = new Uint8Array(0);
  const bad: LibxcRecord[] = [
    { name: "X86_PV_INFO", guestWidth: 8, ptLevels: 3 },
    { name: "X86_PV_P2M_FRAMES", startPfn: 0, endPfn: 0, frames: new BigUint64Array(0) },
    { name: "X86_PV_P2M_FRAMES", startPfn: 2, endPfn: 1, frames: new BigUint64Array(1) },
    { name: "X86_PV_P2M_FRAMES", startPfn: 0, endPfn: 2 ** 32, frames: new BigUint64Array(1) },
    { name: "X86_PV_VCPU_BASIC", vcpuId: -1, context: empty },
    { name: "X86_PV_VCPU_MSRS", vcpuId: 0, msrs: [{ index: 0.5, value: 0n }] },
    { name: "X86_PV_VCPU_MSRS", vcpuId: 0, msrs: [{ index: 0, value: -1n }] },
    { name: "SHARED_INFO", page: new Uint8Array(4095) },
    { name: "X86_TSC_INFO", tsc: { mode: 0, khz: 0, nsec: 2n ** 64n, incarnation: 0 } },
    { name: "HVM_CONTEXT", context: empty },
    { name: "HVM_PARAMS", params: Array(entriesMax + 1).fill({ index: 0n, value: 0n }) },
    { name: "CHECKPOINT_DIRTY_PFN_LIST", pfns: Float64Array.of(2 ** 52) },
    { name: "X86_CPUID_POLICY", leaves: [] },
    { name: "X86_MSR_POLICY", msrs: [] },
    { name: "UNKNOWN", type: 0x13, body: empty },
    { name: "UNKNOWN", type: 2 ** 32, body: empty },
  ];
  for (const record of bad) assert.throws(() => encodeLibxcRecord(record), TypeError, record.name);
});

Deno.test("FormatError of a record names rule, offset and what should be", () => {
  try {
    decodeLibxcRecord(0x02, bytes("0504 00*6"), strict);
    assert.fail("nothing was refused");
  } catch (error) {
    assert.ok(error instanceof FormatError);
    assert.match(error.message, /X86_PV_INFO: the guest's width is 5 and should be 4 or 8 .*offset 1008/);
  }
});
