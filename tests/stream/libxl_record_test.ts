/** libxl's header and records, and xl's header, held against octets made by hand. */
import assert from "node:assert/strict";
import type { LibxlHeader, LibxlRecord, XlHeader } from "../../lib/stream/item.ts";
import {
  decodeLibxlHeader,
  decodeLibxlRecord,
  encodeLibxlHeader,
  encodeLibxlRecord,
  libxlTypes,
  xenstorePairs,
} from "../../lib/stream/libxl_record.ts";
import { decodeXlHeaderStart, encodeXlHeader, xlMagic } from "../../lib/stream/xl_header.ts";
import { bytes, refuses } from "./octets.ts";
import { concat } from "./samples.ts";

const strict = { bigEndian: false, offset: 1000 };

Deno.test("encodeLibxlHeader() writes, and decodeLibxlHeader() reads, the sixteen octets of the specification", () => {
  const cases: [LibxlHeader, string][] = [
    [{ bigEndian: false, converted: false }, "00000000"],
    [{ bigEndian: true, converted: false }, "00000001"],
    [{ bigEndian: false, converted: true }, "00000002"],
    [{ bigEndian: true, converted: true }, "00000003"],
  ];
  for (const [header, options] of cases) {
    const octets = bytes(`"LibxlFmt" 00000002 ${options}`);
    assert.deepEqual(encodeLibxlHeader(header), octets);
    assert.deepEqual(decodeLibxlHeader(octets), header);
  }
});

Deno.test("decodeLibxlHeader() refuses what breaks a rule, at the field's stream offset", () => {
  const at = { offset: 52 };
  refuses(() => decodeLibxlHeader(bytes('"LibxlFm"'), at), "libxl.header.truncated", 59);
  refuses(() => decodeLibxlHeader(bytes('"LibxlFmu" 00000002 00*4'), at), "libxl.header.ident", 56);
  refuses(() => decodeLibxlHeader(bytes('"LibxlFmt" 00000003 00*4'), at), "libxl.header.version", 60);
  for (const options of ["00000004", "80000000"]) {
    const octets = bytes(`"LibxlFmt" 00000002 ${options}`);
    refuses(() => decodeLibxlHeader(octets, at), "libxl.header.options", 64);
    assert.deepEqual(decodeLibxlHeader(octets, { lenient: true }), { bigEndian: false, converted: false });
  }
});

const records: [record: LibxlRecord, little: string, big: string][] = [
  [{ name: "END" }, "00*8", "00*8"],
  [{ name: "LIBXC_CONTEXT" }, "01000000 00*4", "00000001 00*4"],
  [{ name: "CHECKPOINT_END" }, "04000000 00*4", "00000004 00*4"],
  [
    { name: "EMULATOR_XENSTORE_DATA", emulatorId: 2, index: 1, data: bytes('"k" 00 "v" 00') },
    '02000000 0c000000 02000000 01000000 "k" 00 "v" 00 00*4',
    '00000002 0000000c 00000002 00000001 "k" 00 "v" 00 00*4',
  ],
  [
    { name: "EMULATOR_XENSTORE_DATA", emulatorId: 0, index: 0, data: bytes("") },
    "02000000 08000000 00*8",
    "00000002 00000008 00*8",
  ],
  [
    { name: "EMULATOR_CONTEXT", emulatorId: 1, index: 0x0102_0304, context: bytes('"qemu!"') },
    '03000000 0d000000 01000000 04030201 "qemu!" 00*3',
    '00000003 0000000d 00000001 01020304 "qemu!" 00*3',
  ],
  [
    { name: "CHECKPOINT_STATE", controlId: 3 },
    "05000000 08000000 03000000 00*4",
    "00000005 00000008 00000003 00*4",
  ],
  [{ name: "UNKNOWN", type: 0xffff_ffff, body: bytes("") }, "ff*4 00*4", "ff*4 00*4"],
];

Deno.test("encodeLibxlRecord() and decodeLibxlRecord() agree with octets made by hand, in both endiannesses", () => {
  for (const [record, little, big] of records) {
    for (const [text, bigEndian] of [[little, false], [big, true]] as const) {
      const expected = bytes(text);
      assert.deepEqual(concat(encodeLibxlRecord(record, bigEndian)), expected, record.name);
      const view = new DataView(expected.buffer);
      const body = expected.slice(8, 8 + view.getUint32(4, !bigEndian));
      assert.deepEqual(
        decodeLibxlRecord(view.getUint32(0, !bigEndian), body, { ...strict, bigEndian }),
        record,
      );
    }
  }
  const named = new Set(records.map(([record]) => record.name));
  for (const name of Object.keys(libxlTypes)) assert.ok(named.has(name as LibxlRecord["name"]), name);
});

Deno.test("decodeLibxlRecord() refuses what breaks a rule, at the field's stream offset", () => {
  const cases: [type: number, body: string, rule: string, offset: number, lenient?: "lenient"][] = [
    [0, "00", "libxl.end.length", 1004, "lenient"],
    [1, "00", "libxl.libxc_context.length", 1004, "lenient"],
    [4, "00", "libxl.checkpoint_end.length", 1004, "lenient"],
    [6, "", "libxl.record.type", 1000],
    [2, "00*7", "libxl.emulator.length", 1004],
    [3, "00*7", "libxl.emulator.length", 1004],
    [2, "03000000 00*4", "libxl.emulator.id", 1008, "lenient"],
    [3, "03000000 00*4", "libxl.emulator.id", 1008, "lenient"],
    [2, '00*8 "k" 00 "v"', "libxl.xenstore.nul", 1018],
    [2, '00*8 "k" 00', "libxl.xenstore.pairs", 1016],
    [2, '00*8 "k" 00 "v" 00 "l" 00', "libxl.xenstore.pairs", 1016],
    [5, "00*7", "libxl.checkpoint_state.length", 1004],
    [5, "00*16", "libxl.checkpoint_state.length", 1004],
    [5, "04000000 00*4", "libxl.checkpoint_state.id", 1008],
    [5, "00*4 00000001", "libxl.checkpoint_state.reserved", 1012, "lenient"],
  ];
  for (const [type, text, rule, offset, lenient] of cases) {
    refuses(() => decodeLibxlRecord(type, bytes(text), strict), rule, offset);
    if (lenient !== undefined) decodeLibxlRecord(type, bytes(text), { ...strict, lenient: true });
    else refuses(() => decodeLibxlRecord(type, bytes(text), { ...strict, lenient: true }), rule, offset);
  }
});

Deno.test("encodeLibxlRecord() refuses values that no valid record holds", () => {
  const bad: LibxlRecord[] = [
    { name: "EMULATOR_XENSTORE_DATA", emulatorId: 0, index: 0, data: bytes('"k" 00') },
    { name: "EMULATOR_CONTEXT", emulatorId: 0, index: -1, context: bytes("") },
    { name: "CHECKPOINT_STATE", controlId: 2 ** 32 },
    { name: "UNKNOWN", type: 6, body: bytes("") },
  ];
  for (const record of bad) assert.throws(() => encodeLibxlRecord(record), TypeError, record.name);
});

Deno.test("xenstorePairs() gives keys and values, or null for what is not pairs", () => {
  const text = (octets: Uint8Array): string => new TextDecoder().decode(octets);
  const pairs = xenstorePairs(bytes('"a/b" 00 "1" 00 "c" 00 00'));
  assert.deepEqual(pairs?.map((pair) => pair.map(text)), [["a/b", "1"], ["c", ""]]);
  assert.deepEqual(xenstorePairs(bytes("")), []);
  for (const wrong of ['"k"', '"k" 00', '"k" 00 "v"', "00"]) assert.equal(xenstorePairs(bytes(wrong)), null);
});

const magic = '"Xen saved domain, xl format" 0a 20 00 20 0d';

Deno.test("encodeXlHeader() writes, and decodeXlHeaderStart() reads, the header of xl in both byte orders", () => {
  const header: XlHeader = {
    bigEndian: false,
    mandatoryFlags: 3,
    optionalFlags: 0x8000_0001,
    data: bytes('"{}"'),
  };
  const little = bytes(`${magic} 04030201 03000000 01000080 02000000 "{}"`);
  const big = bytes(`${magic} 01020304 00000003 80000001 00000002 "{}"`);
  assert.equal(xlMagic.length, 32);
  assert.deepEqual(concat(encodeXlHeader(header)), little);
  assert.deepEqual(concat(encodeXlHeader({ ...header, bigEndian: true })), big);
  const start = { mandatoryFlags: 3, optionalFlags: 0x8000_0001, dataSize: 2 };
  assert.deepEqual(decodeXlHeaderStart(little), { bigEndian: false, ...start });
  assert.deepEqual(decodeXlHeaderStart(big), { bigEndian: true, ...start });
});

Deno.test("decodeXlHeaderStart() refuses what breaks a rule, at the field's offset", () => {
  const good = bytes(`${magic} 04030201 02000000 00*4 00*4`);
  const cases: [at: number, value: number, rule: string, offset: number][] = [
    [0, 0x78, "xl.header.magic", 0],
    [31, 0x0a, "xl.header.magic", 31],
    [32, 0x05, "xl.header.byte_order", 32],
    [36, 0x04, "xl.header.mandatory_flags", 36],
    [39, 0x80, "xl.header.mandatory_flags", 36],
    [47, 0x09, "xl.header.data_length", 44],
  ];
  for (const [at, value, rule, offset] of cases) {
    const octets = good.slice();
    octets[at] = value;
    refuses(() => decodeXlHeaderStart(octets), rule, offset);
  }
  refuses(() => decodeXlHeaderStart(good.subarray(0, 47)), "xl.header.truncated", 47);
});
