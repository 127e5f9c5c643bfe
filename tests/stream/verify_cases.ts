/**
 * The cases of `tests/vectors/verify/`, as assemblies: `deno run -A tests/stream/verify_cases.ts` writes the files.
 *
 * Names with a number are cases of the list of malformed streams that issue 3 asks for. What is expected is said
 * in offsets of the assembly, not by the verifier.
 *
 * @module
 */
import { Assembly, fill, join, octets, text } from "./verify_assembler.ts";

/** One finding that is expected, in strict mode. */
export interface Expected {
  rule: string;
  offset: number;
  record: number;
}

/** One case. */
export interface Case {
  name: string;
  comment: string;
  /** All findings, in order. */
  findings: Expected[];
  /** Header lines of the vector, but for `expect` and `findings`. */
  keys: Record<string, string | number>;
  assembly: Assembly;
}

/** What a case's builder says. */
interface Told {
  /** Findings as [rule, offset, record]; warnings too. */
  findings?: [string, number, number][];
  /** First error with `lenient`, when it is not that of strict mode: a rule, or "ok". */
  lenient?: string;
  profile?: string;
  status?: string;
  epochs?: string;
  pages?: number;
  width?: number;
  guest?: string;
  checkpointed?: string;
}

const cases: Case[] = [];

function add(name: string, comment: string, build: (a: Assembly) => Told | void): void {
  const assembly = new Assembly();
  const { findings = [], ...keys } = build(assembly) ?? {};
  cases.push({
    name,
    comment,
    findings: findings.map(([rule, offset, record]) => ({ rule, offset, record })),
    keys,
    assembly,
  });
}

// ---------------------------------------------------------------------------------------------- libxc

const basic64 = 0x1430;
const basic32 = 0xaf0;

const sde = (a: Assembly): number => a.record("STATIC_DATA_END", 0x10);
const end = (a: Assembly): number => a.record("END", 0);
const checkpoint = (a: Assembly): number => a.record("CHECKPOINT", 0x0e);
const tsc = (a: Assembly): number =>
  a.record("X86_TSC_INFO", 8, [a.u32(1), a.u32(2_000_000), a.u64(12_345n), a.u32(7), a.u32(0)]);
const context = (a: Assembly): number => a.record("HVM_CONTEXT", 9, [fill(0xc7, 11)]);
const params = (a: Assembly): number =>
  a.record("HVM_PARAMS", 10, [a.u32(2), a.u32(0), a.u64(1), a.u64(0xfeffc), a.u64(17), a.u64(0xfefff)]);
const info = (a: Assembly, width = 8, levels = 4): number =>
  a.record("X86_PV_INFO", 2, [octets(width, levels, 0, 0, 0, 0, 0, 0)]);
const frames = (a: Assembly, first: number, last: number, count: number): number =>
  a.record("X86_PV_P2M_FRAMES", 3, [
    a.u32(first),
    a.u32(last),
    ...Array.from({ length: count }, (_, index) => a.u64(0x100 + index)),
  ]);
const vcpu = (a: Assembly, type: number, size: number, id = 0): number =>
  a.record(
    ["BASIC", "EXTENDED", "XSAVE"][type - 4] === undefined
      ? "X86_PV_VCPU_MSRS"
      : `X86_PV_VCPU_${["BASIC", "EXTENDED", "XSAVE"][type - 4]}`,
    type,
    type === 12 && size % 16 === 0
      ? [
        a.u32(id),
        a.u32(0),
        ...Array.from({ length: size / 16 }, () => [a.u32(0x10), a.u32(0), fill(0x3c, 8)]).flat(),
      ]
      : [a.u32(id), a.u32(0), fill(0x3c, size)],
  );
const shared = (a: Assembly): number => a.record("SHARED_INFO", 7, [fill(0x51, 4096)]);

/** Items 0 and 1. */
function hvmHead(a: Assembly): void {
  a.libxc("hvm");
  sde(a);
}

/** Four items. */
function hvmTail(a: Assembly): void {
  tsc(a);
  context(a);
  params(a);
  end(a);
}

/** Items 0 to 3; frames 0 to 0x3ff. */
function pvHead(a: Assembly, width: 4 | 8 = 8): void {
  a.libxc("pv");
  info(a, width, width === 8 ? 4 : 3);
  sde(a);
  frames(a, 0, 0x3ff, width === 8 ? 2 : 1);
}

/** Four items. */
function pvTail(a: Assembly, width: 4 | 8 = 8): void {
  tsc(a);
  shared(a);
  vcpu(a, 4, width === 8 ? basic64 : basic32);
  end(a);
}

/** One wrong record between a right head (items 0 and 1) and tail. */
function inHvm(
  name: string,
  comment: string,
  rule: string,
  build: (a: Assembly) => number,
  told: Told = {},
): void {
  add(name, comment, (a) => {
    hvmHead(a);
    const offset = build(a);
    hvmTail(a);
    return { findings: [[rule, offset, 2]], ...told };
  });
}

/** The same in a PV stream, as item 4. */
function inPv(
  name: string,
  comment: string,
  rule: string,
  build: (a: Assembly) => number,
  told: Told = {},
): void {
  add(name, comment, (a) => {
    pvHead(a);
    const offset = build(a);
    pvTail(a);
    return { findings: [[rule, offset, 4]], ...told };
  });
}

const ignored = { lenient: "ok" };

add("ok_libxc_hvm_v3", "every record that an HVM guest has, in the order in which Xen writes them", (a) => {
  a.libxc("hvm");
  a.record("X86_CPUID_POLICY", 0x11, [fill(1, 48)]);
  a.record("X86_MSR_POLICY", 0x12, [fill(2, 32)]);
  sde(a);
  a.pages(0, 1, 2);
  a.record("PAGE_DATA with entries that carry no page", 1, [
    a.u32(4),
    a.u32(0),
    a.entry(3, 0xd),
    a.entry(4, 0xe),
    a.entry(5, 0xf),
    a.entry(0xf_ffff_ffff_ffffn, 0),
    fill(9, 4096),
  ]);
  a.pages(2, 0);
  hvmTail(a);
  return { pages: 6, epochs: "1/1" };
});
add("ok_libxc_hvm_v2", "version 2 has no STATIC_DATA_END", (a) => {
  a.libxc("hvm", 2);
  a.pages(0);
  hvmTail(a);
  return { pages: 1 };
});
add(
  "ok_libxc_converted",
  "a converted stream: major version 0, HVM_PARAMS twice and before HVM_CONTEXT",
  (a) => {
    a.libxc("hvm", 3, { major: 0 });
    sde(a);
    tsc(a);
    params(a);
    a.pages(7);
    params(a);
    context(a);
    end(a);
  },
);
add("ok_libxc_pv64_v3", "every record that a PV guest of 64 bits has", (a) => {
  pvHead(a);
  a.record("PAGE_DATA with page tables", 1, [
    a.u32(10),
    a.u32(0),
    ...[0, 1, 2, 3, 4, 9, 10, 11, 12, 15].map((type, index) => a.entry(index, type)),
    fill(0x77, 9 * 4096),
  ]);
  tsc(a);
  shared(a);
  vcpu(a, 4, basic64);
  vcpu(a, 5, 128);
  vcpu(a, 6, 16);
  vcpu(a, 12, 32);
  vcpu(a, 4, basic64, 3);
  vcpu(a, 5, 1, 3);
  end(a);
  return { pages: 9 };
});
add("ok_libxc_pv32_v2", "a PV guest of 32 bits, version 2, frames in two records", (a) => {
  a.libxc("pv", 2);
  info(a, 4, 3);
  frames(a, 0, 0x3ff, 1);
  a.pages(0x3ff);
  frames(a, 0x3ff, 0x800, 3);
  a.pages(0x800);
  pvTail(a, 4);
  return { pages: 2 };
});
add("ok_libxc_verify", "VERIFY, and pages that are compared", (a) => {
  hvmHead(a);
  a.pages(1);
  a.record("VERIFY", 0x0d);
  a.pages(1);
  hvmTail(a);
  return { pages: 2 };
});
add("ok_libxc_checkpointed", "three epochs, and END right behind the last checkpoint", (a) => {
  hvmHead(a);
  for (const pfn of [1, 2, 3]) {
    a.pages(pfn);
    tsc(a);
    context(a);
    checkpoint(a);
  }
  end(a);
  return { epochs: "3/3", pages: 3, checkpointed: "true" };
});
add(
  "ok_libxc_many_entries",
  "1024 entries of one record, and one out of order that is in no other place",
  (a) => {
    hvmHead(a);
    a.record("PAGE_DATA without pages", 1, [
      a.u32(1025),
      a.u32(0),
      ...Array.from({ length: 1024 }, (_, index) => a.entry(2 * index, 0xf)),
      a.entry(1, 0xf),
    ]);
    hvmTail(a);
  },
);

add("01_empty", "an empty file", () => ({
  findings: [["libxc.header.truncated", 0, 0]],
  profile: "libxc",
  status: "truncated",
}));
add("01_empty_auto", "an empty file of no known profile", () => ({
  findings: [["stream.profile.unknown", 0, 0]],
  status: "truncated",
}));
add("01_header_cut", "39 of 40 octets", (a) => {
  a.libxc("hvm");
  a.cut(39);
  return { findings: [["libxc.header.truncated", 39, 0]], status: "truncated" };
});
add("02_marker", "one bit of the marker is off", (a) => {
  a.libxc("hvm", 3, { marker: join([fill(0xff, 5), octets(0xfe, 0xff, 0xff)]) });
  sde(a);
  hvmTail(a);
  return { findings: [["libxc.header.marker", 4, 0]], status: "stopped" };
});
add("03_id", "the id is XENG", (a) => {
  a.libxc("hvm", 3, { id: "XENG" });
  hvmTail(a);
  return { findings: [["libxc.header.id", 8, 0]], status: "stopped" };
});
for (const version of [1, 4]) {
  add(`04_version_${version}`, `version ${version}`, (a) => {
    a.libxc("hvm", version);
    hvmTail(a);
    return { findings: [["libxc.header.version", 12, 0]], status: "stopped" };
  });
}
add("05_options", "option bit 1", (a) => {
  a.libxc("hvm", 3, { options: 2 });
  sde(a);
  hvmTail(a);
  return { findings: [["libxc.header.options", 16, 0]], ...ignored };
});
add("05_reserved", "a reserved octet of the image header", (a) => {
  a.libxc("hvm", 3, { reserved: octets(0, 0, 0, 1, 0, 0) });
  sde(a);
  hvmTail(a);
  return { findings: [["libxc.header.reserved", 21, 0]], ...ignored };
});
add("06_big_endian", "a big-endian stream is read, and said to be unreadable for Xen", (a) => {
  a.big = true;
  pvHead(a);
  a.pages(0x3ff, 0);
  pvTail(a);
  return { findings: [["libxc.header.endian", 16, 0]], pages: 2 };
});
add("06_big_endian_pfn", "a frame number beyond the last, big-endian", (a) => {
  a.big = true;
  pvHead(a);
  const at = a.pages(3, 0x400);
  pvTail(a);
  return { findings: [["libxc.header.endian", 16, 0], ["libxc.page_data.pfn", at + 24, 4]] };
});
add("06_big_endian_bit_only", "the big-endian bit in a little-endian stream", (a) => {
  a.libxc("hvm", 3, { options: 1 });
  sde(a);
  hvmTail(a);
  return {
    findings: [
      ["libxc.header.endian", 16, 0],
      ["libxc.domain.type", 24, 0],
      ["libxc.domain.page_shift", 28, 0],
    ],
    status: "stopped",
  };
});
for (const type of [0, 3]) {
  add(`07_domain_type_${type}`, `domain type ${type}`, (a) => {
    a.libxc("hvm", 3, { type });
    sde(a);
    hvmTail(a);
    return { findings: [["libxc.domain.type", 24, 0]] };
  });
}
add("08_page_shift", "page shift 16", (a) => {
  a.libxc("hvm", 3, { pageShift: 16 });
  sde(a);
  return { findings: [["libxc.domain.page_shift", 28, 0]], status: "stopped" };
});
add("08_domain_reserved", "a reserved field of the domain header", (a) => {
  a.libxc("hvm", 3, { domainReserved: 1 });
  sde(a);
  hvmTail(a);
  return { findings: [["libxc.domain.reserved", 30, 0]], ...ignored };
});
add("09_record_head_cut", "the stream ends in the head of a record", (a) => {
  hvmHead(a);
  a.cut(tsc(a) + 4);
  return { findings: [["libxc.record.truncated", a.size, 2]], status: "truncated" };
});
add("10_record_body_cut", "the stream ends in a body", (a) => {
  hvmHead(a);
  a.cut(a.pages(0) + 1000);
  return { findings: [["libxc.record.truncated", a.size, 2]], status: "truncated" };
});
add("10_padding_cut", "the stream ends in padding", (a) => {
  hvmHead(a);
  tsc(a);
  context(a);
  a.cut(a.size - 1);
  return { findings: [["libxc.record.truncated", a.size, 3]], status: "truncated" };
});
add("11_end_missing", "the stream ends at a record's edge before END", (a) => {
  hvmHead(a);
  hvmTail(a);
  a.cut(a.size - 8);
  return { findings: [["libxc.end.missing", a.size, 5]], status: "truncated" };
});
add("12_length", "a body of 128 MiB and one", (a) => {
  hvmHead(a);
  const at = a.record("HVM_CONTEXT", 9, [], { length: 134_217_729 });
  return { findings: [["libxc.record.length", at + 4, 2]], status: "stopped" };
});
add("12_length_max", "a body of 128 MiB is announced, and the stream ends", (a) => {
  hvmHead(a);
  a.record("HVM_CONTEXT", 9, [], { length: 134_217_728 });
  return { findings: [["libxc.record.truncated", a.size, 2]], status: "truncated" };
});
inHvm(
  "13_padding",
  "padding of a context of 3 octets that is not zero",
  "libxc.record.padding",
  (a) => a.record("HVM_CONTEXT", 9, [fill(1, 3)], { padding: octets(0, 0, 0, 8, 9) }) + 14,
  ignored,
);
inHvm(
  "14_type_unknown",
  "the mandatory type 0x13",
  "libxc.record.type",
  (a) => a.record("type 0x13", 0x13, [fill(1, 5)]),
);
inHvm(
  "14_type_optional",
  "the optional type 0x80000001 is passed over, and said to be",
  "libxc.record.optional",
  (a) => a.record("type 0x80000001", 0x8000_0001, [fill(1, 5)]),
);
inHvm(
  "15_verify_body",
  "VERIFY with a body",
  "libxc.verify.length",
  (a) => a.record("VERIFY", 0x0d, [fill(0, 8)]) + 4,
  ignored,
);
add("15_end_body", "END with a body", (a) => {
  hvmHead(a);
  tsc(a);
  context(a);
  const at = a.record("END", 0, [fill(0, 8)]);
  return { findings: [["libxc.end.length", at + 4, 4]], ...ignored };
});
add("15_checkpoint_body", "CHECKPOINT with a body", (a) => {
  hvmHead(a);
  tsc(a);
  context(a);
  const at = a.record("CHECKPOINT", 0x0e, [fill(0, 1)]);
  end(a);
  return { findings: [["libxc.checkpoint.length", at + 4, 4]], ...ignored };
});
add("15_static_data_end_body", "STATIC_DATA_END with a body", (a) => {
  a.libxc("hvm");
  const at = a.record("STATIC_DATA_END", 0x10, [fill(0, 8)]);
  hvmTail(a);
  return { findings: [["libxc.static_data_end.length", at + 4, 1]], ...ignored };
});
inHvm(
  "16_count_zero",
  "PAGE_DATA of no entries",
  "libxc.page_data.count",
  (a) => a.record("PAGE_DATA", 1, [a.u32(0), a.u32(0)]) + 8,
);
inHvm(
  "16_count_zero_page",
  "PAGE_DATA of no entries and a page",
  "libxc.page_data.count",
  (a) => a.record("PAGE_DATA", 1, [a.u32(0), a.u32(0), fill(1, 4096)]) + 8,
);
inHvm(
  "16_page_data_short",
  "PAGE_DATA of 4 octets",
  "libxc.page_data.length",
  (a) => a.record("PAGE_DATA", 1, [a.u32(1)]) + 4,
);
inHvm(
  "17_count_huge",
  "a count of 0xffffffff in a short body",
  "libxc.page_data.entries",
  (a) => a.record("PAGE_DATA", 1, [a.u32(0xffff_ffff), a.u32(0), a.entry(1), fill(1, 4096)]) + 8,
);
inHvm(
  "17_count_wraps",
  "a count whose words would wrap 32 bits",
  "libxc.page_data.entries",
  (a) => a.record("PAGE_DATA", 1, [a.u32(0x2000_0001), a.u32(0), a.entry(1), fill(1, 4096)]) + 8,
);
for (const type of [5, 6, 7, 8]) {
  inHvm(
    `18_page_type_${type}`,
    `page type ${type}`,
    "libxc.page_data.type",
    (a) => a.record("PAGE_DATA", 1, [a.u32(2), a.u32(0), a.entry(1), a.entry(2, type), fill(1, 4096)]) + 24,
  );
}
inHvm(
  "19_pfn_reserved",
  "bit 52 of an entry",
  "libxc.page_data.pfn_reserved",
  (a) => a.record("PAGE_DATA", 1, [a.u32(1), a.u32(0), a.entry(1n << 52n), fill(1, 4096)]) + 16,
  ignored,
);
inHvm(
  "19_pfn_reserved_high",
  "bit 59 of an entry",
  "libxc.page_data.pfn_reserved",
  (a) =>
    a.record("PAGE_DATA", 1, [a.u32(2), a.u32(0), a.entry(1), a.entry(2n | 1n << 59n), fill(1, 8192)]) + 24,
  ignored,
);
inHvm(
  "19_page_data_reserved",
  "the reserved field of PAGE_DATA",
  "libxc.page_data.reserved",
  (a) => a.record("PAGE_DATA", 1, [a.u32(1), a.u32(1), a.entry(1), fill(1, 4096)]) + 12,
  ignored,
);
for (
  const [name, size] of [["missing", 4096], ["one_more", 12_288], ["octet_less", 8191], [
    "octet_more",
    8193,
  ]] as const
) {
  inHvm(
    `20_pages_${name}`,
    `two entries and ${size} octets of pages`,
    "libxc.page_data.size",
    (a) => a.record("PAGE_DATA", 1, [a.u32(2), a.u32(0), a.entry(1), a.entry(2), fill(1, size)]) + 4,
  );
}
inHvm(
  "20_pages_of_none",
  "a page for an entry that carries none",
  "libxc.page_data.size",
  (a) => a.record("PAGE_DATA", 1, [a.u32(1), a.u32(0), a.entry(1, 0xf), fill(1, 4096)]) + 4,
);
add("21_pages_before_static_data_end", "pages before STATIC_DATA_END", (a) => {
  a.libxc("hvm");
  const at = a.pages(1);
  sde(a);
  hvmTail(a);
  return { findings: [["libxc.page_data.before_static_data_end", at, 1]] };
});
add("21_frames_before_static_data_end", "frames before STATIC_DATA_END", (a) => {
  a.libxc("pv");
  info(a);
  const at = frames(a, 0, 0x3ff, 2);
  sde(a);
  pvTail(a);
  return { findings: [["libxc.p2m_frames.before_static_data_end", at, 2]] };
});
add("21_static_data_end_missing", "no STATIC_DATA_END, and no pages either", (a) => {
  a.libxc("hvm");
  const at = a.record("type 0x80000002", 0x8000_0002);
  const over = end(a);
  return {
    findings: [
      ["libxc.record.optional", at, 1],
      ["libxc.static_data_end.missing", over, 2],
      ["libxc.end.no_tsc_info", over, 2],
      ["libxc.end.no_hvm_context", over, 2],
    ],
    ...ignored,
  };
});
add("21_static_data_end_twice", "STATIC_DATA_END twice", (a) => {
  hvmHead(a);
  const at = sde(a);
  hvmTail(a);
  return { findings: [["libxc.static_data_end.repeated", at, 2]] };
});
add("21_static_data_end_in_epoch", "STATIC_DATA_END again in the second epoch", (a) => {
  hvmHead(a);
  tsc(a);
  context(a);
  checkpoint(a);
  const at = sde(a);
  checkpoint(a);
  end(a);
  return { findings: [["libxc.static_data_end.repeated", at, 5]], epochs: "2/2" };
});
add("21_registers_before_static_data_end", "X86_TSC_INFO before STATIC_DATA_END", (a) => {
  a.libxc("hvm");
  const at = tsc(a);
  sde(a);
  context(a);
  end(a);
  return { findings: [["libxc.static_data_end.late", at, 1]], ...ignored };
});
add("21_static_behind_static_data_end", "X86_PV_INFO behind STATIC_DATA_END", (a) => {
  a.libxc("pv");
  sde(a);
  const at = info(a);
  frames(a, 0, 0x3ff, 2);
  pvTail(a);
  return { findings: [["libxc.static_data_end.static_after", at, 2]], ...ignored };
});
for (
  const [name, type, size] of [["STATIC_DATA_END", 0x10, 0], ["X86_CPUID_POLICY", 0x11, 24], [
    "X86_MSR_POLICY",
    0x12,
    16,
  ]] as const
) {
  add(`22_v2_${name.toLowerCase()}`, `${name} in a stream of version 2`, (a) => {
    a.libxc("hvm", 2);
    const at = a.record(name, type, [fill(0, size)]);
    hvmTail(a);
    return { findings: [["libxc.record.version", at, 1]], ...ignored };
  });
}
for (
  const [name, type, size, rule] of [
    ["cpuid_23", 0x11, 23, "libxc.cpuid_policy.length"],
    ["cpuid_0", 0x11, 0, "libxc.cpuid_policy.length"],
    ["msr_8", 0x12, 8, "libxc.msr_policy.length"],
    ["msr_0", 0x12, 0, "libxc.msr_policy.length"],
  ] as const
) {
  add(`23_${name}`, `a policy of ${size} octets`, (a) => {
    a.libxc("hvm");
    const at = a.record(type === 0x11 ? "X86_CPUID_POLICY" : "X86_MSR_POLICY", type, [fill(0, size)]);
    sde(a);
    hvmTail(a);
    return { findings: [[rule, at + 4, 1]] };
  });
}
for (
  const [name, width, levels, rule, offset] of [
    ["pair_8_3", 8, 3, "libxc.pv_info.pair", 9],
    ["pair_4_4", 4, 4, "libxc.pv_info.pair", 9],
    ["width_5", 5, 4, "libxc.pv_info.width", 8],
    ["levels_5", 8, 5, "libxc.pv_info.levels", 9],
  ] as const
) {
  add(`24_pv_info_${name}`, `X86_PV_INFO of width ${width} and ${levels} levels`, (a) => {
    a.libxc("pv");
    const at = info(a, width, levels);
    sde(a);
    frames(a, 0, 0x3ff, width === 4 ? 1 : 2);
    pvTail(a, width === 4 ? 4 : 8);
    return { findings: [[rule, at + offset, 1]] };
  });
}
add("24_pv_info_twice", "X86_PV_INFO twice", (a) => {
  a.libxc("pv");
  info(a);
  const at = info(a);
  sde(a);
  frames(a, 0, 0x3ff, 2);
  pvTail(a);
  return { findings: [["libxc.pv_info.repeated", at, 2]] };
});
add("24_pv_info_hvm", "X86_PV_INFO in the stream of an HVM guest", (a) => {
  a.libxc("hvm");
  const at = info(a);
  sde(a);
  hvmTail(a);
  return { findings: [["libxc.record.guest", at, 1]] };
});
inPv("24_hvm_params_pv", "HVM_PARAMS in the stream of a PV guest", "libxc.record.guest", params);
add("24_pv_info_short", "X86_PV_INFO of 7 octets", (a) => {
  a.libxc("pv");
  const at = a.record("X86_PV_INFO", 2, [octets(8, 4, 0, 0, 0, 0, 0)]);
  sde(a);
  frames(a, 0, 0x3ff, 2);
  pvTail(a);
  return { findings: [["libxc.pv_info.length", at + 4, 1]] };
});
add("24_pv_info_long", "X86_PV_INFO of 16 octets, which Xen's receiver takes", (a) => {
  a.libxc("pv");
  const at = a.record("X86_PV_INFO", 2, [octets(8, 4), fill(0, 14)]);
  sde(a);
  frames(a, 0, 0x3ff, 2);
  pvTail(a);
  return { findings: [["libxc.pv_info.excess", at + 4, 1]], ...ignored };
});
add("24_pv_info_reserved", "a reserved octet of X86_PV_INFO", (a) => {
  a.libxc("pv");
  const at = a.record("X86_PV_INFO", 2, [octets(8, 4, 0, 0, 0, 0, 3, 0)]);
  sde(a);
  frames(a, 0, 0x3ff, 2);
  pvTail(a);
  return { findings: [["libxc.pv_info.reserved", at + 14, 1]], ...ignored };
});
inPv(
  "25_p2m_range",
  "frames whose range is backwards",
  "libxc.p2m_frames.range",
  (a) => frames(a, 5, 4, 1) + 8,
);
inPv(
  "25_p2m_count",
  "a frame too few for the range",
  "libxc.p2m_frames.count",
  (a) => frames(a, 0x1ff, 0x400, 2) + 4,
);
inPv(
  "25_p2m_count_more",
  "a frame too many for the range",
  "libxc.p2m_frames.count",
  (a) => frames(a, 0x200, 0x3ff, 2) + 4,
);
inPv(
  "25_p2m_count_huge",
  "a range over all frame numbers",
  "libxc.p2m_frames.count",
  (a) => frames(a, 0, 0xffff_ffff, 2) + 4,
);
inPv(
  "25_p2m_length",
  "frames of 12 octets",
  "libxc.p2m_frames.length",
  (a) => a.record("X86_PV_P2M_FRAMES", 3, [fill(0, 12)]) + 4,
);
add("25_p2m_before_pv_info", "frames before X86_PV_INFO", (a) => {
  a.libxc("pv");
  sde(a);
  const at = frames(a, 0, 0x3ff, 2);
  const late = info(a);
  pvTail(a);
  return {
    findings: [["libxc.p2m_frames.before_pv_info", at, 2], ["libxc.static_data_end.static_after", late, 3]],
  };
});
inPv(
  "26_pfn_beyond",
  "a frame number above the last one",
  "libxc.page_data.pfn",
  (a) => a.pages(0x3ff, 0x400) + 24,
);
add("26_pages_before_p2m", "pages of a PV guest before its frames", (a) => {
  a.libxc("pv");
  info(a);
  sde(a);
  const at = a.pages(1);
  frames(a, 0, 0x3ff, 2);
  pvTail(a);
  return { findings: [["libxc.page_data.before_p2m_frames", at, 3]] };
});
inPv(
  "27_shared_info",
  "SHARED_INFO of 4095 octets",
  "libxc.shared_info.length",
  (a) => a.record("SHARED_INFO", 7, [fill(0, 4095)]) + 4,
);
add("27_shared_info_before_pv_info", "SHARED_INFO before X86_PV_INFO", (a) => {
  a.libxc("pv", 2);
  const at = shared(a);
  info(a);
  frames(a, 0, 0x3ff, 2);
  pvTail(a);
  return { findings: [["libxc.shared_info.before_pv_info", at, 1]] };
});
inPv(
  "28_vcpu_basic",
  "the context of a 32-bit guest in a 64-bit one",
  "libxc.vcpu.basic_size",
  (a) => vcpu(a, 4, basic32) + 4,
);
inPv(
  "28_vcpu_extended",
  "an extended context of 129 octets",
  "libxc.vcpu.extended_size",
  (a) => vcpu(a, 5, 129) + 4,
);
inPv("28_vcpu_xsave", "an xsave context of 15 octets", "libxc.vcpu.xsave_size", (a) => vcpu(a, 6, 15) + 4);
inPv("28_vcpu_msrs", "registers of 8 octets", "libxc.vcpu.msrs_size", (a) => vcpu(a, 12, 8) + 4);
inPv(
  "28_vcpu_short",
  "a context of 7 octets",
  "libxc.vcpu.length",
  (a) => a.record("X86_PV_VCPU_BASIC", 4, [fill(0, 7)]) + 4,
);
for (const [type, name] of [[4, "basic"], [5, "extended"], [6, "xsave"], [12, "msrs"]] as const) {
  inPv(
    `28_vcpu_${name}_empty`,
    "a context that only has a head, as Xen 4.6 to 4.8 could write",
    "libxc.vcpu.empty",
    (a) => vcpu(a, type, 0) + 4,
  );
}
inPv(
  "28_vcpu_reserved",
  "the reserved field of a context",
  "libxc.vcpu.reserved",
  (a) => a.record("X86_PV_VCPU_XSAVE", 6, [a.u32(0), a.u32(1), fill(0, 16)]) + 12,
  ignored,
);
inPv(
  "28_vcpu_msr_reserved",
  "the reserved field of the second register",
  "libxc.vcpu.reserved",
  (a) =>
    a.record("X86_PV_VCPU_MSRS", 12, [
      ...[a.u32(0), a.u32(0)],
      ...[a.u32(1), a.u32(0), a.u64(0)],
      ...[a.u32(2), a.u32(256), a.u64(0)],
    ]) + 16 + 16 + 5,
  ignored,
);
add("28_vcpu_before_p2m", "a context before the frames", (a) => {
  a.libxc("pv");
  info(a);
  sde(a);
  const at = vcpu(a, 4, basic64);
  frames(a, 0, 0x3ff, 2);
  pvTail(a);
  return { findings: [["libxc.vcpu.before_p2m_frames", at, 3]], ...ignored };
});
inHvm(
  "29_tsc_length",
  "X86_TSC_INFO of 16 octets",
  "libxc.tsc_info.length",
  (a) => a.record("X86_TSC_INFO", 8, [fill(0, 16)]) + 4,
);
inHvm(
  "29_tsc_reserved",
  "the reserved field of X86_TSC_INFO",
  "libxc.tsc_info.reserved",
  (a) => a.record("X86_TSC_INFO", 8, [fill(0, 23), octets(1)]) + 31,
  ignored,
);
inHvm(
  "30_params_count",
  "two parameters announced, one there",
  "libxc.hvm_params.count",
  (a) => a.record("HVM_PARAMS", 10, [a.u32(2), a.u32(0), a.u64(1), a.u64(1)]) + 8,
);
inHvm(
  "30_params_wrap",
  "a count of 2^28 + 1, whose size would wrap 32 bits",
  "libxc.hvm_params.count",
  (a) => a.record("HVM_PARAMS", 10, [a.u32(0x1000_0001), a.u32(0), a.u64(1), a.u64(1)]) + 8,
);
inHvm(
  "30_params_short",
  "HVM_PARAMS of 4 octets",
  "libxc.hvm_params.length",
  (a) => a.record("HVM_PARAMS", 10, [a.u32(0)]) + 4,
);
inHvm(
  "30_params_reserved",
  "the reserved field of HVM_PARAMS",
  "libxc.hvm_params.reserved",
  (a) => a.record("HVM_PARAMS", 10, [a.u32(1), a.u32(256), a.u64(1), a.u64(1)]) + 13,
  ignored,
);
inHvm(
  "30_params_empty",
  "HVM_PARAMS of no entries",
  "libxc.hvm_params.empty",
  (a) => a.record("HVM_PARAMS", 10, [a.u32(0), a.u32(0)]) + 8,
);
inHvm(
  "30_context_empty",
  "an empty HVM_CONTEXT",
  "libxc.hvm_context.length",
  (a) => a.record("HVM_CONTEXT", 9) + 4,
);
inHvm(
  "31_toolstack",
  "TOOLSTACK",
  "libxc.toolstack.deprecated",
  (a) => a.record("TOOLSTACK", 11, [fill(0, 8)]),
);
inHvm(
  "32_dirty_pfn_list",
  "CHECKPOINT_DIRTY_PFN_LIST in a forward stream",
  "libxc.dirty_pfn_list.forward",
  (a) => a.record("CHECKPOINT_DIRTY_PFN_LIST", 15, [a.u64(5), a.u64(1)]),
);
add("32_dirty_pfn_list_length", "the same, of 12 octets", (a) => {
  hvmHead(a);
  const at = a.record("CHECKPOINT_DIRTY_PFN_LIST", 15, [fill(0, 12)]);
  hvmTail(a);
  return { findings: [["libxc.dirty_pfn_list.forward", at, 2], ["libxc.dirty_pfn_list.length", at + 4, 2]] };
});
add("32_dirty_pfn_list_pfn", "the same, with a frame beyond the last", (a) => {
  pvHead(a);
  const at = a.record("CHECKPOINT_DIRTY_PFN_LIST", 15, [a.u64(0x3ff), a.u64(0x400)]);
  pvTail(a);
  return { findings: [["libxc.dirty_pfn_list.forward", at, 4], ["libxc.dirty_pfn_list.pfn", at + 16, 4]] };
});
add("33_checkpoint_plain", "CHECKPOINT in a stream declared plain", (a) => {
  hvmHead(a);
  tsc(a);
  context(a);
  const at = checkpoint(a);
  end(a);
  return { findings: [["libxc.checkpoint.plain", at, 4]], checkpointed: "false" };
});
add("33_checkpoint_none", "no CHECKPOINT in a stream declared checkpointed", (a) => {
  hvmHead(a);
  hvmTail(a);
  return { findings: [["libxc.checkpoint.none", a.size - 8, 5]], checkpointed: "true" };
});
add("33_verify_checkpointed", "VERIFY in a checkpointed stream", (a) => {
  hvmHead(a);
  tsc(a);
  context(a);
  checkpoint(a);
  const at = a.record("VERIFY", 0x0d);
  checkpoint(a);
  end(a);
  return { findings: [["libxc.verify.checkpointed", at, 5]] };
});
add("34_trailing", "octets behind END", (a) => {
  hvmHead(a);
  hvmTail(a);
  const at = a.raw("behind END", octets(0));
  return { findings: [["libxc.end.trailing", at, 6]], ...ignored };
});
inHvm(
  "35_duplicate",
  "a frame number twice in a row",
  "libxc.page_data.duplicate",
  (a) => a.pages(4, 5, 5) + 32,
  ignored,
);
inHvm(
  "35_duplicate_apart",
  "a frame number twice, with others between and descending",
  "libxc.page_data.duplicate",
  (a) => a.pages(9, 8, 7, 6, 9, 5) + 48,
  ignored,
);
inHvm(
  "35_duplicate_type",
  "a frame number twice, with different types",
  "libxc.page_data.duplicate",
  (a) => a.record("PAGE_DATA", 1, [a.u32(2), a.u32(0), a.entry(6), a.entry(6, 0xf), fill(1, 4096)]) + 24,
  ignored,
);
add("36_cut_mid_epoch", "the third epoch is cut: the second counts", (a) => {
  hvmHead(a);
  tsc(a);
  context(a);
  checkpoint(a);
  a.pages(1);
  checkpoint(a);
  a.cut(a.pages(2) + 99);
  return { findings: [["libxc.stream.cut", a.size, 7]], status: "failover", epochs: "3/2" };
});
add("36_cut_at_checkpoint", "a checkpointed stream that ends right behind a checkpoint", (a) => {
  hvmHead(a);
  tsc(a);
  context(a);
  checkpoint(a);
  return { findings: [["libxc.stream.cut", a.size, 5]], status: "failover", epochs: "1/1" };
});
add("36_cut_before_commit", "a checkpointed stream cut before anything is committed", (a) => {
  hvmHead(a);
  tsc(a);
  context(a);
  checkpoint(a);
  a.cut(a.size - 1);
  return { findings: [["libxc.record.truncated", a.size, 4]], status: "truncated", epochs: "1/0" };
});
add("36_end_uncommitted", "END behind records that no checkpoint committed", (a) => {
  hvmHead(a);
  tsc(a);
  context(a);
  checkpoint(a);
  a.pages(2);
  const at = end(a);
  return { findings: [["libxc.end.uncommitted", at, 6]], epochs: "2/1", ...ignored };
});
add("libxc_incomplete_pv", "a PV stream that lacks nearly everything", (a) => {
  a.libxc("pv", 2);
  const at = end(a);
  return {
    findings: [
      ["libxc.end.no_pv_info", at, 1],
      ["libxc.end.no_p2m_frames", at, 1],
      ["libxc.end.no_shared_info", at, 1],
      ["libxc.end.no_vcpu", at, 1],
      ["libxc.end.no_tsc_info", at, 1],
    ],
  };
});

// ---------------------------------------------------------------------------------------------- libxl

const libxcContext = (a: Assembly): number => a.record("LIBXC_CONTEXT", 1);
const xenstore = (a: Assembly, strings = "physmap/0/size\x001000\x00"): number =>
  a.record("EMULATOR_XENSTORE_DATA", 2, [a.u32(2), a.u32(0), text(strings)]);
const emulator = (a: Assembly): number =>
  a.record("EMULATOR_CONTEXT", 3, [a.u32(2), a.u32(0), fill(0xe1, 13)]);
const checkpointEnd = (a: Assembly): number => a.record("CHECKPOINT_END", 4);

/** Seven items: libxl header, LIBXC_CONTEXT, libxc header, STATIC_DATA_END, and the HVM tail's first three. */
function libxlHvm(a: Assembly): void {
  a.libxl();
  libxcContext(a);
  hvmHead(a);
  tsc(a);
  context(a);
  params(a);
}

/** Items 0 to 9: up to the first CHECKPOINT_END. */
function libxlCommitted(a: Assembly): void {
  libxlHvm(a);
  checkpoint(a);
  emulator(a);
  checkpointEnd(a);
}

add("ok_libxl_hvm", "a plain libxl stream", (a) => {
  libxlHvm(a);
  end(a);
  xenstore(a);
  a.record("EMULATOR_XENSTORE_DATA", 2, [a.u32(0), a.u32(0)]);
  emulator(a);
  end(a);
  return { epochs: "1/1" };
});
add("ok_libxl_pv", "a libxl stream of a PV guest, from the converter", (a) => {
  a.libxl({ options: 2 });
  libxcContext(a);
  pvHead(a);
  pvTail(a);
  end(a);
});
add("ok_libxl_remus", "three epochs, each handed back and over", (a) => {
  libxlCommitted(a);
  for (const pfn of [1, 2]) {
    a.pages(pfn);
    tsc(a);
    checkpoint(a);
    xenstore(a);
    emulator(a);
    checkpointEnd(a);
  }
  end(a);
  end(a);
  return { epochs: "3/3", pages: 2 };
});
add("ok_libxl_colo", "COLO: a new checkpoint is asked for before each epoch", (a) => {
  libxlCommitted(a);
  for (const pfn of [1, 2]) {
    a.record("CHECKPOINT_STATE", 5, [a.u32(0), a.u32(0)]);
    a.pages(pfn);
    checkpoint(a);
    emulator(a);
    checkpointEnd(a);
  }
  end(a);
  end(a);
  return { epochs: "3/3" };
});
add("libxl_big_endian", "a big-endian libxl stream around a big-endian libxc one", (a) => {
  a.big = true;
  libxlHvm(a);
  end(a);
  emulator(a);
  end(a);
  return { findings: [["libxl.header.endian", 12, 0], ["libxc.header.endian", 40, 2]] };
});
add("37_ident", "another ident", (a) => {
  a.libxl({ ident: "LibxlFmT" });
  end(a);
  return { findings: [["libxl.header.ident", 4, 0]], profile: "libxl", status: "stopped" };
});
add("37_version", "libxl version 3", (a) => {
  a.libxl({ version: 3 });
  end(a);
  return { findings: [["libxl.header.version", 8, 0]], status: "stopped" };
});
add("37_options", "a reserved option bit above those that Xen's verifier looks at", (a) => {
  a.libxl({ options: 0x10000 });
  libxcContext(a);
  hvmHead(a);
  hvmTail(a);
  end(a);
  return { findings: [["libxl.header.options", 12, 0]], ...ignored };
});
add("37_header_cut", "the stream ends in the libxl header", (a) => {
  a.libxl();
  a.cut(15);
  return { findings: [["libxl.header.truncated", 15, 0]], status: "truncated" };
});
add("38_checkpoint_end_outside", "CHECKPOINT_END in a plain stream", (a) => {
  libxlHvm(a);
  end(a);
  const at = checkpointEnd(a);
  end(a);
  return { findings: [["libxl.checkpoint_end.outside", at, 8]], status: "stopped" };
});
add("38_end_in_checkpoint", "END where CHECKPOINT_END should stand", (a) => {
  libxlHvm(a);
  checkpoint(a);
  emulator(a);
  const at = end(a);
  return { findings: [["libxl.end.in_checkpoint", at, 9]], status: "stopped" };
});
add("38_checkpoint_end_body", "CHECKPOINT_END with a body", (a) => {
  libxlHvm(a);
  checkpoint(a);
  const at = a.record("CHECKPOINT_END", 4, [fill(0, 8)]);
  end(a);
  end(a);
  return { findings: [["libxl.checkpoint_end.length", at + 4, 8]], ...ignored };
});
function behindLibxc(
  name: string,
  comment: string,
  findings: (at: number) => [string, number][],
  build: (a: Assembly) => number,
  told: Told = {},
): void {
  add(name, comment, (a) => {
    libxlHvm(a);
    end(a);
    const at = build(a);
    end(a);
    return { findings: findings(at).map(([rule, offset]) => [rule, offset, 8]), ...told };
  });
}
behindLibxc(
  "39_xenstore_nul",
  "xenstore data without the last NUL",
  (at) => [["libxl.xenstore.nul", at + 16 + 2]],
  (a) => xenstore(a, "k\0v"),
);
behindLibxc(
  "39_xenstore_odd",
  "three xenstore strings",
  (at) => [["libxl.xenstore.pairs", at + 16 + 5]],
  (a) => xenstore(a, "k\0v\0k\0"),
);
behindLibxc(
  "39_xenstore_key",
  "a key with a space",
  (at) => [["libxl.xenstore.key", at + 16 + 7]],
  (a) => xenstore(a, "k\0v w\0a b\0\0"),
  ignored,
);
behindLibxc(
  "39_xenstore_key_empty",
  "an empty key",
  (at) => [["libxl.xenstore.key", at + 16]],
  (a) => xenstore(a, "\0v\0"),
  ignored,
);
behindLibxc(
  "40_emulator_short",
  "EMULATOR_CONTEXT of 7 octets",
  (at) => [["libxl.emulator.length", at + 4]],
  (a) => a.record("EMULATOR_CONTEXT", 3, [fill(0, 7)]),
);
behindLibxc(
  "40_xenstore_short",
  "EMULATOR_XENSTORE_DATA of 4 octets",
  (at) => [["libxl.emulator.length", at + 4]],
  (a) => a.record("EMULATOR_XENSTORE_DATA", 2, [fill(0, 4)]),
);
behindLibxc(
  "40_emulator_id",
  "emulator id 3",
  (at) => [["libxl.emulator.id", at + 8]],
  (a) => a.record("EMULATOR_CONTEXT", 3, [a.u32(3), a.u32(0), fill(0, 8)]),
  ignored,
);
behindLibxc(
  "41_type_unknown",
  "libxl type 6",
  (at) => [["libxl.record.type", at]],
  (a) => a.record("type 6", 6, [fill(0, 3)]),
);
behindLibxc(
  "41_type_optional",
  "an optional type, which Xen's libxl does not pass over",
  (at) => [["libxl.record.optional", at]],
  (a) => a.record("type 0x80000000", 0x8000_0000, [fill(0, 3)]),
);
behindLibxc(
  "libxl_padding",
  "padding that is not zero",
  (at) => [["libxl.record.padding", at + 8 + 9 + 6]],
  (a) =>
    a.record("EMULATOR_CONTEXT", 3, [a.u32(1), a.u32(0), fill(0, 1)], {
      padding: octets(0, 0, 0, 0, 0, 0, 1),
    }),
  ignored,
);
behindLibxc(
  "libxl_context_twice",
  "a second LIBXC_CONTEXT",
  (at) => [["libxl.libxc_context.repeated", at]],
  libxcContext,
  {
    status: "stopped",
  },
);
add("42_no_libxl_end", "the stream ends behind libxc's END", (a) => {
  libxlHvm(a);
  end(a);
  return { findings: [["libxl.end.missing", a.size, 8]], status: "truncated", epochs: "1/0" };
});
add("42_record_cut", "the stream ends in a libxl record", (a) => {
  libxlHvm(a);
  end(a);
  a.cut(emulator(a) + 12);
  return { findings: [["libxl.record.truncated", a.size, 8]], status: "truncated" };
});
add("42_nested_cut", "the libxc stream inside ends before its END", (a) => {
  libxlHvm(a);
  return { findings: [["libxc.end.missing", a.size, 7]], status: "truncated" };
});
add("42_nested_cut_epoch", "the second epoch is cut within libxc's part", (a) => {
  libxlCommitted(a);
  a.cut(a.pages(1) + 50);
  return { findings: [["libxc.stream.cut", a.size, 10]], status: "failover", epochs: "2/1" };
});
add("42_cut_before_checkpoint_end", "cut between CHECKPOINT and CHECKPOINT_END of the second epoch", (a) => {
  libxlCommitted(a);
  a.pages(1);
  checkpoint(a);
  a.cut(emulator(a) + 3);
  return { findings: [["libxl.stream.cut", a.size, 12]], status: "failover", epochs: "2/1" };
});
add(
  "42_cut_before_first_checkpoint_end",
  "cut between CHECKPOINT and CHECKPOINT_END of the first epoch",
  (a) => {
    libxlHvm(a);
    checkpoint(a);
    return { findings: [["libxl.end.missing", a.size, 8]], status: "truncated", epochs: "1/0" };
  },
);
add("libxl_length", "a libxl body above 128 MiB", (a) => {
  libxlHvm(a);
  end(a);
  const at = a.record("EMULATOR_CONTEXT", 3, [], { length: 0xffff_ffff });
  return { findings: [["libxl.record.length", at + 4, 8]], status: "stopped" };
});
add("libxl_end_body", "END with a body", (a) => {
  libxlHvm(a);
  end(a);
  const at = a.record("END", 0, [fill(0, 2)]);
  return { findings: [["libxl.end.length", at + 4, 8]], ...ignored };
});
add("libxl_context_body", "LIBXC_CONTEXT with a body", (a) => {
  a.libxl();
  const at = a.record("LIBXC_CONTEXT", 1, [fill(0, 8)]);
  hvmHead(a);
  hvmTail(a);
  end(a);
  return { findings: [["libxl.libxc_context.length", at + 4, 1]], ...ignored };
});
add("libxl_no_context", "END before any LIBXC_CONTEXT", (a) => {
  a.libxl();
  const at = end(a);
  return { findings: [["libxl.end.no_context", at, 1]] };
});
add("libxl_trailing", "octets behind libxl's END", (a) => {
  libxlHvm(a);
  end(a);
  end(a);
  const at = a.raw("behind END", fill(0, 8));
  return { findings: [["libxl.end.trailing", at, 9]], ...ignored };
});
add("libxl_emulator_early", "an emulator record before LIBXC_CONTEXT", (a) => {
  a.libxl();
  const at = emulator(a);
  libxcContext(a);
  hvmHead(a);
  hvmTail(a);
  end(a);
  return { findings: [["libxl.emulator.early", at, 1]], ...ignored };
});
add("libxl_emulator_pv", "an emulator record for a PV guest", (a) => {
  a.libxl();
  libxcContext(a);
  pvHead(a);
  pvTail(a);
  const at = emulator(a);
  end(a);
  return { findings: [["libxl.emulator.guest", at, 10]] };
});
behindLibxc(
  "libxl_checkpoint_state_outside",
  "CHECKPOINT_STATE in a plain stream",
  (at) => [["libxl.checkpoint_state.outside", at]],
  (a) => a.record("CHECKPOINT_STATE", 5, [a.u32(0), a.u32(0)]),
);
behindLibxc(
  "libxl_checkpoint_state_length",
  "CHECKPOINT_STATE of 4 octets",
  (at) => [["libxl.checkpoint_state.outside", at], ["libxl.checkpoint_state.length", at + 4]],
  (a) => a.record("CHECKPOINT_STATE", 5, [a.u32(0)]),
);
for (
  const [name, id, reserved, rule, offset, lenient] of [
    ["back", 2, 0, "libxl.checkpoint_state.forward", 8, {}],
    ["id", 4, 0, "libxl.checkpoint_state.id", 8, {}],
    ["reserved", 0, 1, "libxl.checkpoint_state.reserved", 12, ignored],
  ] as const
) {
  add(`libxl_checkpoint_state_${name}`, `CHECKPOINT_STATE with the words ${id} and ${reserved}`, (a) => {
    libxlCommitted(a);
    const at = a.record("CHECKPOINT_STATE", 5, [a.u32(id), a.u32(reserved)]);
    a.pages(1);
    checkpoint(a);
    checkpointEnd(a);
    end(a);
    end(a);
    return { findings: [[rule, at + offset, 10]], ...lenient };
  });
}

// ---------------------------------------------------------------------------------------------- xl

const config = (a: Assembly): Uint8Array => join([a.u32(3), text("{}\n")]);

add("ok_xl_libxl", "a file of xl with a libxl stream", (a) => {
  a.xl(3, config(a));
  libxlHvm(a);
  end(a);
  emulator(a);
  end(a);
});
add("ok_xl_no_data", "an xl header without optional data", (a) => {
  a.xl(2, octets());
  libxlHvm(a);
  end(a);
  end(a);
});
add("ok_xl_libxc", "an xl file whose flags announce no libxl stream, with a libxc one", (a) => {
  a.xl(1, config(a));
  hvmHead(a);
  hvmTail(a);
});
add("ok_xl_big_endian", "an xl header of a big-endian machine", (a) => {
  a.big = true;
  a.xl(3, config(a));
  a.big = false;
  libxlHvm(a);
  end(a);
  end(a);
});
add("xl_magic", "another magic", (a) => {
  a.xl(3, config(a), { magic: "Xen saved domain, xl format\n \0 \n" });
  return { findings: [["xl.header.magic", 31, 0]], status: "stopped" };
});
add("xl_byte_order", "a byte-order word of neither order", (a) => {
  a.xl(3, config(a), { order: 0x0103_0204 });
  return { findings: [["xl.header.byte_order", 32, 0]], status: "stopped" };
});
add("xl_flags", "a mandatory flag that nobody defined", (a) => {
  a.xl(7, config(a));
  libxlHvm(a);
  end(a);
  end(a);
  return { findings: [["xl.header.mandatory_flags", 36, 0]] };
});
add("xl_data_length", "optional data of 4 GiB", (a) => {
  a.xl(3, octets(), { length: 0xffff_ffff });
  return { findings: [["xl.header.data_length", 44, 0]], status: "stopped" };
});
add("xl_config_length", "a configuration longer than the optional data", (a) => {
  a.xl(3, join([a.u32(4), text("{}\n")]));
  libxlHvm(a);
  end(a);
  end(a);
  return { findings: [["xl.data.config_length", 48, 0]] };
});
add("xl_header_cut", "the stream ends in the optional data", (a) => {
  a.xl(3, config(a));
  a.cut(50);
  return { findings: [["xl.header.truncated", 50, 0]], status: "truncated" };
});
add("xl_nothing", "an xl header and nothing behind it", (a) => {
  a.xl(3, config(a));
  return { findings: [["libxl.header.truncated", a.size, 1]], status: "truncated" };
});

// ---------------------------------------------------------------------------------------------- legacy

type Width = 4 | 8;
const word = (a: Assembly, width: Width, value: number): Uint8Array =>
  width === 4 ? a.u32(value) : a.u64(value);
const chunk = (a: Assembly, note: string, id: number, ...body: Uint8Array[]): number =>
  a.raw(note, a.u32(id >>> 0), ...body);
const batch = (a: Assembly, width: Width, entries: number[], pages?: number): number =>
  chunk(
    a,
    "batch",
    entries.length,
    ...entries.map((entry) => word(a, width, entry)),
    fill(0x42, 4096 * (pages ?? entries.filter((entry) => entry < 0xd000_0000).length)),
  );
const param = (a: Assembly, id: number, value: number, pad = 0): number =>
  chunk(a, `chunk ${id}`, id, a.u32(pad), a.u64(value));
const legacyTsc = (a: Assembly): number =>
  chunk(a, "chunk -7: tsc", -7, a.u32(1), a.u64(99n), a.u32(2_000_000), a.u32(5));
const vcpuInfo = (a: Assembly, max: number, ...maps: bigint[]): number =>
  chunk(a, "chunk -2: vcpu info", -2, a.u32(max >>> 0), ...maps.map((map) => a.u64(map)));
const last = (a: Assembly): number => chunk(a, "chunk -9: last checkpoint", -9);
const bodyEnd = (a: Assembly): number => chunk(a, "0: end of the body", 0);
const compressed = (a: Assembly, width: Width, ...data: Uint8Array[]): number => {
  const bytes = join(data);
  return chunk(a, "chunk -12: compressed", -12, word(a, width, bytes.length), bytes);
};
const magicPfns = (a: Assembly, size = 16): number =>
  a.raw("tail", a.u64(0xfeffd), a.u64(0xfeffb), a.u64(0xfeffc), a.u32(size), fill(0xc7, size));
const deviceModel = (a: Assembly, signature = "DeviceModelRecord0002"): number =>
  a.raw("device model", text(signature), a.u32(10), fill(0xe1, 10));

function hvmEpochEnd(a: Assembly): void {
  bodyEnd(a);
  magicPfns(a);
  deviceModel(a);
}

/** A whole HVM stream around one thing, which is item 2. */
function legacyHvm(a: Assembly, width: Width, build: (a: Assembly) => number): number {
  a.raw("p2m_size", word(a, width, 0x1000));
  batch(a, width, [0, 1]);
  const at = build(a);
  legacyTsc(a);
  last(a);
  hvmEpochEnd(a);
  return at;
}

const physmaps = (
  a: Assembly,
  width: Width,
  names: string[],
  faults: { version?: number; count?: number } = {},
) => [
  a.u32(faults.version ?? 1),
  a.u32(faults.count ?? names.length),
  ...names.flatMap((name) => [
    a.u64(0xf000_0000),
    a.u64(0xf100_0000),
    a.u64(0x80_0000),
    a.u32(name.length),
    text(name),
    fill(0xee, width === 8 ? 4 : 0),
  ]),
];
const toolstack = (a: Assembly, ...body: Uint8Array[]): number => {
  const bytes = join(body);
  return chunk(a, "chunk -18: toolstack", -18, a.u32(bytes.length), bytes);
};

for (const width of [4, 8] as const) {
  const bits = 8 * width;
  add(
    `ok_legacy_hvm${bits}`,
    `an HVM guest from a ${bits}-bit sender, with every chunk that converts`,
    (a) => {
      a.raw("p2m_size", word(a, width, 0x1000));
      batch(a, width, [
        0,
        1,
        0x1000_0000 + 2,
        0x9000_0000 + 3,
        0xf000_0000,
        0xf000_0000,
        0xe000_0004,
        0xd000_0005,
      ]);
      chunk(a, "chunk -1: verify", -1);
      batch(a, width, [0, 1]);
      vcpuInfo(a, 64, 3n, 1n);
      for (const id of [-3, -4, -8, -10, -11, -14, -15, -16, -17, -19, -20, -21]) param(a, id, 1);
      legacyTsc(a);
      toolstack(a);
      toolstack(a, ...physmaps(a, width, ["vga.vram\0", "x\0"]));
      last(a);
      hvmEpochEnd(a);
      return { pages: 6, epochs: "1/1" };
    },
  );
  add(`ok_legacy_remus${bits}`, "Remus without compression: three epochs, the last one announced", (a) => {
    a.raw("p2m_size", word(a, width, 0x1000));
    for (const epoch of [1, 2, 3]) {
      batch(a, width, [epoch]);
      legacyTsc(a);
      if (epoch === 3) last(a);
      bodyEnd(a);
      magicPfns(a);
      deviceModel(a, "RemusDeviceModelState");
    }
    return { pages: 3, epochs: "3/3" };
  });
  add(
    `ok_legacy_compressed${bits}`,
    "Remus with compression: empty, full, runs, breaks anywhere, a batch between",
    (a) => {
      a.raw("p2m_size", word(a, width, 0x1000));
      batch(a, width, [1]);
      legacyTsc(a);
      chunk(a, "chunk -13: compression", -13);
      hvmEpochEnd(a);
      chunk(
        a,
        "batch of frame numbers",
        4,
        ...[7, 9, 0xf000_000b, 0x1000_0003].map((entry) => word(a, width, entry)),
      );
      const delta = join([
        octets(0x82, 0x02, 0xde, 0xad, 0xbe, 0xef, 0x00, 0x5a, 0x00, 0x00),
        fill(0xff, 8),
        octets(0x83, 0x01, 0x01, 0x00, 0x00, 0x00),
      ]);
      compressed(a, width, delta.subarray(0, 3));
      compressed(a, width);
      compressed(a, width, delta.subarray(3), octets(0));
      chunk(a, "batch of frame numbers", 1, word(a, width, 12));
      compressed(a, width, octets(0x80), fill(0x33, 4000));
      compressed(a, width, fill(0x33, 96), octets(0x7f), fill(1, 508), fill(0xff, 7), octets(0x88));
      legacyTsc(a);
      last(a);
      hvmEpochEnd(a);
      return { pages: 5, epochs: "2/2" };
    },
  );
}

/** The header of a PV stream up to its frames; `frames` of them are taken from p2m_size. */
function legacyPv(
  a: Assembly,
  width: Width,
  guestWidth: Width,
  blocks: { id: string; data: Uint8Array }[],
  faults: { total?: number } = {},
): number {
  a.raw("p2m_size", word(a, width, 0x400));
  const data = blocks.map(({ id, data }) => join([text(id), a.u32(data.length), data]));
  const at = a.raw("extended info", fill(0xff, width), a.u32(faults.total ?? join(data).length));
  for (const [index, block] of data.entries()) a.raw(`block ${blocks[index]?.id}`, block);
  a.raw("frames", fill(0x21, width * (guestWidth === 8 ? 2 : 1)));
  return at + width + 4;
}

const vcpuBlock = (width: Width) => ({ id: "vcpu", data: fill(0x3c, width === 8 ? basic64 : basic32) });
const extvBlock = { id: "extv", data: octets() };
const xcntBlock = (a: Assembly, size: number) => ({ id: "xcnt", data: a.u32(size) });

function pvEpochEnd(a: Assembly, vcpus: Uint8Array[][]): void {
  bodyEnd(a);
  a.raw("tail: unmapped frames", a.u32(0));
  for (const vcpu of vcpus) a.raw("vcpu", ...vcpu);
  a.raw("shared info", fill(0x51, 4096));
}

for (const [width, guestWidth] of [[8, 8], [8, 4], [4, 4], [4, 8]] as const) {
  add(
    `ok_legacy_pv${8 * width}_guest${8 * guestWidth}`,
    `a PV guest of ${8 * guestWidth} bits from a ${8 * width}-bit sender`,
    (a) => {
      legacyPv(a, width, guestWidth, [vcpuBlock(guestWidth), extvBlock, xcntBlock(a, 16 + 32)]);
      batch(a, width, [0, 0x3ff]);
      vcpuInfo(a, 3, 9n);
      legacyTsc(a);
      last(a);
      bodyEnd(a);
      a.raw("tail: unmapped frames", a.u32(2), word(a, width, 1), word(a, width, 2));
      for (const vcpu of [0, 3]) {
        a.raw(
          `vcpu ${vcpu}`,
          fill(0x3c, guestWidth === 8 ? basic64 : basic32),
          fill(0x3d, 128),
          a.u64(7),
          a.u64(32),
          fill(0x3e, 32),
        );
      }
      a.raw("shared info", fill(0x51, 4096));
      return { pages: 2 };
    },
  );
}
add("ok_legacy_pv_bare", "a PV guest without extended info, which only the caller can tell", (a) => {
  a.raw("p2m_size", a.u64(0x400));
  a.raw("frames", fill(0x21, 16));
  batch(a, 8, [3]);
  vcpuInfo(a, 0, 1n);
  legacyTsc(a);
  last(a);
  pvEpochEnd(a, [[fill(0x3c, basic64)]]);
  return { guest: "pv", width: 8 };
});
add("ok_xl_legacy", "an xl file of Xen 4.5", (a) => {
  a.xl(1, config(a));
  legacyHvm(a, 8, (a) => a.size);
});
add("ok_legacy_qemu_old", "a device model without a length, up to the end of the stream", (a) => {
  a.raw("p2m_size", a.u64(0x1000));
  batch(a, 8, [0]);
  legacyTsc(a);
  last(a);
  bodyEnd(a);
  magicPfns(a);
  a.raw("device model", text("QemuDeviceModelRecord"), text("QEVM"), fill(0xe1, 300));
});
add("legacy_no_last_checkpoint", "a single epoch without chunk -9 and without a tsc", (a) => {
  a.raw("p2m_size", a.u64(0x1000));
  batch(a, 8, [0]);
  const at = bodyEnd(a);
  magicPfns(a);
  deviceModel(a);
  return { findings: [["legacy.end.no_tsc_info", at, 2], ["legacy.end.no_last_checkpoint", a.size, 5]] };
});
add("legacy_header_cut", "the stream ends in the frames", (a) => {
  legacyPv(a, 8, 8, [vcpuBlock(8)]);
  a.cut(a.size - 3);
  return { findings: [["legacy.header.truncated", a.size, 0]], status: "truncated" };
});

/** One wrong thing as item 2 of an HVM stream. */
function inLegacy(
  name: string,
  comment: string,
  rule: string,
  build: (a: Assembly, width: Width) => number,
  told: Told = {},
  widths: readonly Width[] = [8],
): void {
  for (const width of widths) {
    add(widths.length > 1 ? `${name}_${8 * width}` : name, comment, (a) => {
      const offset = legacyHvm(a, width, (a) => build(a, width));
      return { findings: [[rule, offset, name === "47_vcpu_info_twice" ? 3 : 2]], ...told };
    });
  }
}
const stopped = { status: "stopped" };
const both = [4, 8] as const;

inLegacy(
  "43_batch_1025",
  "a batch of 1025 entries",
  "legacy.batch.count",
  (a) => chunk(a, "batch", 1025),
  stopped,
);
inLegacy("44_chunk_unknown", "chunk -99", "legacy.chunk.unknown", (a) => chunk(a, "chunk -99", -99), stopped);
inLegacy(
  "44_chunk_22",
  "chunk -22, one beyond the last",
  "legacy.chunk.unknown",
  (a) => chunk(a, "chunk -22", -22),
  stopped,
);
for (const id of [-5, -6]) {
  inLegacy(
    `44_chunk_tmem${id}`,
    "transcendent memory",
    "legacy.chunk.tmem",
    (a) => chunk(a, `chunk ${id}`, id),
    stopped,
  );
}
inLegacy(
  "45_compressed_early",
  "compressed pages that nothing switched on",
  "legacy.compressed.early",
  (a, width) => compressed(a, width, octets(0)),
  {},
  both,
);
add("45_compressed_first_epoch", "compressed pages behind chunk -13, in the first epoch still", (a) => {
  a.raw("p2m_size", a.u64(0x1000));
  chunk(a, "chunk -13: compression", -13);
  const at = compressed(a, 8, octets(0));
  legacyTsc(a);
  hvmEpochEnd(a);
  last(a);
  hvmEpochEnd(a);
  return { findings: [["legacy.compressed.early", at, 2]], epochs: "2/2" };
});
add("45_compression_late", "chunk -13 in the second epoch", (a) => {
  a.raw("p2m_size", a.u64(0x1000));
  legacyTsc(a);
  hvmEpochEnd(a);
  const at = chunk(a, "chunk -13: compression", -13);
  last(a);
  hvmEpochEnd(a);
  return { findings: [["legacy.compression.late", at, 5]], epochs: "2/2", ...ignored };
});

/** A PV stream whose extended info is wrong. */
function extendedInfo(
  name: string,
  comment: string,
  blocks: (a: Assembly) => { id: string; data: Uint8Array }[],
  finding: (blocks: number) => [string, number],
  told: Told & { total?: number } = {},
): void {
  add(name, comment, (a) => {
    const { total, ...rest } = told;
    const at = legacyPv(a, 8, 8, blocks(a), total === undefined ? {} : { total });
    vcpuInfo(a, 0, 1n);
    legacyTsc(a);
    last(a);
    pvEpochEnd(a, [[fill(0x3c, basic64)]]);
    const [rule, offset] = finding(at);
    return { findings: [[rule, offset, 0]], ...rest };
  });
}
extendedInfo(
  "46_extended_info_overshoot",
  "a block beyond the announced size",
  () => [vcpuBlock(8)],
  (at) => ["legacy.extended_info.size", at + 4],
  { total: 8 + basic64 - 1, ...stopped },
);
extendedInfo(
  "46_extended_info_rest",
  "four octets of the announced size are left over",
  () => [vcpuBlock(8)],
  (at) => ["legacy.extended_info.size", at - 4],
  { total: 8 + basic64 + 4, ...stopped },
);
extendedInfo(
  "46_block_unknown",
  "a block that nobody defined",
  () => [vcpuBlock(8), { id: "vcpX", data: fill(1, 3) }],
  (at) => ["legacy.extended_info.block", at + 8 + basic64],
  ignored,
);
extendedInfo(
  "46_vcpu_size",
  "a vcpu block of neither size",
  () => [{ id: "vcpu", data: fill(1, 5167) }],
  (at) => ["legacy.extended_info.vcpu", at + 4],
  stopped,
);
extendedInfo(
  "46_no_vcpu",
  "extended info without a vcpu block",
  () => [],
  (at) => ["legacy.extended_info.no_vcpu", at - 4],
  ignored,
);
extendedInfo(
  "46_vcpu_twice",
  "two vcpu blocks",
  () => [vcpuBlock(8), vcpuBlock(8)],
  (at) => ["legacy.extended_info.repeated", at + 8 + basic64],
  ignored,
);
add("46_extv_size", "an extv block that is not empty", (a) => {
  const at = legacyPv(a, 8, 8, [vcpuBlock(8), { id: "extv", data: fill(1, 1) }]);
  vcpuInfo(a, 0, 1n);
  legacyTsc(a);
  last(a);
  pvEpochEnd(a, [[fill(0x3c, basic64), fill(0x3d, 128)]]);
  return { findings: [["legacy.extended_info.extv", at + 8 + basic64 + 4, 0]], ...ignored };
});
extendedInfo(
  "46_xcnt_size",
  "an xcnt block of 8 octets",
  () => [vcpuBlock(8), { id: "xcnt", data: fill(1, 8) }],
  (at) => ["legacy.extended_info.xcnt", at + 8 + basic64 + 4],
  stopped,
);
extendedInfo(
  "46_xcnt_small",
  "an xsave size of 15",
  (a) => [vcpuBlock(8), xcntBlock(a, 15)],
  (at) => ["legacy.extended_info.xcnt", at + 8 + basic64 + 8],
  stopped,
);
extendedInfo(
  "46_xcnt_large",
  "an xsave size above 2^20",
  (a) => [vcpuBlock(8), xcntBlock(a, 2 ** 20 + 1)],
  (at) => ["legacy.extended_info.xcnt", at + 8 + basic64 + 8],
  stopped,
);
inLegacy(
  "47_vcpu_max_4096",
  "a highest vcpu of 4096",
  "legacy.vcpu_info.max",
  (a) => vcpuInfo(a, 4096) + 4,
  stopped,
);
inLegacy(
  "47_vcpu_max_negative",
  "a highest vcpu of -1",
  "legacy.vcpu_info.max",
  (a) => vcpuInfo(a, -1) + 4,
  stopped,
);
inLegacy(
  "47_vcpu_bits",
  "a vcpu online above the highest",
  "legacy.vcpu_info.bits",
  (a) => vcpuInfo(a, 8, 0x201n) + 9,
  ignored,
);
inLegacy(
  "47_vcpu_info_twice",
  "chunk -2 twice in one epoch",
  "legacy.vcpu_info.repeated",
  (a) => (vcpuInfo(a, 0, 1n), vcpuInfo(a, 0, 1n)),
  ignored,
);
add("47_vcpu_info_missing", "a PV guest without chunk -2", (a) => {
  legacyPv(a, 8, 8, [vcpuBlock(8)]);
  legacyTsc(a);
  last(a);
  const at = a.size + 4;
  pvEpochEnd(a, [[fill(0x3c, basic64)]]);
  return { findings: [["legacy.vcpu_info.missing", at, 4]] };
});
add("48_xsave_size", "an xsave size that is not the one announced", (a) => {
  legacyPv(a, 8, 8, [vcpuBlock(8), xcntBlock(a, 16 + 32)]);
  vcpuInfo(a, 0, 1n);
  legacyTsc(a);
  last(a);
  const at = a.size + 4 + 4 + basic64;
  pvEpochEnd(a, [[fill(0x3c, basic64), a.u64(7), a.u64(33), fill(0x3e, 32)]]);
  return { findings: [["legacy.tail.xsave_size", at + 8, 5]] };
});
add("49_signature", "a device model whose signature nobody defined", (a) => {
  a.raw("p2m_size", a.u64(0x1000));
  legacyTsc(a);
  last(a);
  bodyEnd(a);
  magicPfns(a);
  const at = deviceModel(a, "DeviceModelRecord0003");
  return { findings: [["legacy.device_model.signature", at, 5]], ...stopped };
});
add("49_qemu_old_magic", "an old device model without its magic", (a) => {
  a.raw("p2m_size", a.u64(0x1000));
  legacyTsc(a);
  last(a);
  bodyEnd(a);
  magicPfns(a);
  const at = a.raw("device model", text("QemuDeviceModelRecord"), text("QEVN"), fill(0xe1, 30));
  return { findings: [["legacy.device_model.magic", at + 21, 5]] };
});
add("49_device_model_length", "a device model of 4 GiB", (a) => {
  a.raw("p2m_size", a.u64(0x1000));
  legacyTsc(a);
  last(a);
  bodyEnd(a);
  magicPfns(a);
  const at = a.raw("device model", text("DeviceModelRecord0002"), a.u32(0xffff_ffff));
  return { findings: [["legacy.device_model.length", at + 21, 5]], ...stopped };
});
for (const width of both) {
  add(`50_p2m_size_0_${8 * width}`, "a memory of no pages", (a) => {
    a.raw("p2m_size", word(a, width, 0));
    batch(a, width, [0]);
    return { findings: [["legacy.header.p2m_size", 0, 0]], width, profile: "legacy", ...stopped };
  });
}
add("50_p2m_size_huge", "a memory of 2^28 + 1 pages", (a) => {
  a.raw("p2m_size", a.u64(0x1000_0001));
  batch(a, 8, [0]);
  return { findings: [["legacy.header.p2m_size", 0, 0]], ...stopped };
});
for (const id of [-19, -20]) {
  inLegacy(
    `51_ioreq${id}`,
    `chunk ${id} without the other one`,
    "legacy.ioreq.pair",
    (a) => param(a, id, 1),
    ignored,
  );
}
inLegacy(
  "52_toolstack_name",
  "a name without NUL",
  "legacy.toolstack.name",
  (a, width) => toolstack(a, ...physmaps(a, width, ["vram"])) + 8 + 8 + 28 + 3,
  ignored,
  both,
);
inLegacy(
  "52_toolstack_name_empty",
  "an empty name",
  "legacy.toolstack.name",
  (a, width) => toolstack(a, ...physmaps(a, width, [""])) + 8 + 8 + 24,
  ignored,
  both,
);
inLegacy(
  "52_toolstack_name_nul",
  "a NUL amid a name",
  "legacy.toolstack.name",
  (a, width) => toolstack(a, ...physmaps(a, width, ["v\0am\0"])) + 8 + 8 + 28 + 1,
  ignored,
  both,
);
inLegacy(
  "52_toolstack_entries",
  "two entries announced, one there",
  "legacy.toolstack.entries",
  (a, width) => {
    const at = toolstack(a, ...physmaps(a, width, ["vram\0"], { count: 2 }));
    return at + 8 + 8 + 28 + 5 + (width === 8 ? 4 : 0);
  },
  {},
  both,
);
inLegacy(
  "52_toolstack_name_long",
  "a name beyond the record",
  "legacy.toolstack.entries",
  (a, width) => {
    const [version, count, ...rest] = physmaps(a, width, ["vram\0"]);
    return toolstack(
      a,
      version ?? octets(),
      count ?? octets(),
      ...rest.slice(0, 3),
      a.u32(0xffff_ffff),
      text("vram\0"),
    ) +
      8 + 8 + 24;
  },
  {},
  both,
);
inLegacy(
  "52_toolstack_version",
  "a toolstack record of version 2",
  "legacy.toolstack.version",
  (a, width) => toolstack(a, ...physmaps(a, width, ["vram\0"], { version: 2 })) + 8,
);
inLegacy(
  "52_toolstack_trailing",
  "octets behind the last entry",
  "legacy.toolstack.trailing",
  (a, width) => toolstack(a, ...physmaps(a, width, ["v\0"]), octets(1)) + 8 + 8 + 28 + 2 + 4,
  ignored,
);
inLegacy(
  "52_toolstack_short",
  "a toolstack record of 7 octets",
  "legacy.toolstack.length",
  (a) => toolstack(a, fill(0, 7)) + 4,
);
inLegacy(
  "52_toolstack_length",
  "a toolstack record of 4 GiB",
  "legacy.toolstack.length",
  (a) => chunk(a, "chunk -18: toolstack", -18, a.u32(0xffff_ffff)) + 4,
  stopped,
);
inLegacy(
  "legacy_param_pad",
  "a pad that is not zero",
  "legacy.param.reserved",
  (a) => param(a, -3, 1, 9) + 4,
  ignored,
);
inLegacy(
  "legacy_batch_type",
  "an entry of type 5",
  "legacy.batch.type",
  (a, width) => batch(a, width, [3, 0x5000_0004]) + 4 + width,
  {},
  both,
);
inLegacy(
  "legacy_batch_pfn",
  "a frame number beyond the memory",
  "legacy.batch.pfn",
  (a, width) => batch(a, width, [0xfff, 0x1000]) + 4 + width,
  {},
  both,
);
inLegacy(
  "legacy_batch_duplicate",
  "a frame number twice",
  "legacy.batch.duplicate",
  (a, width) => batch(a, width, [6, 5, 0x1000_0006]) + 4 + 2 * width,
  ignored,
  both,
);
inLegacy(
  "legacy_batch_reserved",
  "an entry above 32 bits",
  "legacy.batch.reserved",
  (a) => chunk(a, "batch", 1, a.u64(1n << 32n | 3n), fill(0, 4096)) + 4,
  ignored,
);
add("legacy_chunk_guest", "an HVM parameter of a PV guest", (a) => {
  legacyPv(a, 8, 8, [vcpuBlock(8)]);
  const at = param(a, -3, 1);
  vcpuInfo(a, 0, 1n);
  legacyTsc(a);
  last(a);
  pvEpochEnd(a, [[fill(0x3c, basic64)]]);
  return { findings: [["legacy.chunk.guest", at, 1]], ...ignored };
});
add("legacy_unmapped", "one unmapped frame more than the guest has pages", (a) => {
  legacyPv(a, 8, 8, [vcpuBlock(8)]);
  vcpuInfo(a, 0, 1n);
  legacyTsc(a);
  last(a);
  bodyEnd(a);
  const at = a.raw("tail: unmapped frames", a.u32(0x401));
  return { findings: [["legacy.tail.unmapped", at, 5]], ...stopped };
});
for (const [name, size, told] of [["empty", 0, {}], ["long", 0x800_0001, stopped]] as const) {
  add(`legacy_context_${name}`, `an HVM context of ${size} octets`, (a) => {
    a.raw("p2m_size", a.u64(0x1000));
    legacyTsc(a);
    last(a);
    bodyEnd(a);
    const at = a.raw("tail", fill(0, 24), a.u32(size));
    deviceModel(a);
    return { findings: [["legacy.tail.context", at + 24, 4]], ...told };
  });
}
add("legacy_trailing", "octets behind the last tail", (a) => {
  legacyHvm(a, 8, (a) => a.size);
  const at = a.raw("behind the tail", octets(0));
  return { findings: [["legacy.end.trailing", at, 7]], ...ignored };
});
add("legacy_trailing_plain", "an epoch behind the first, in a stream declared plain", (a) => {
  a.raw("p2m_size", a.u64(0x1000));
  legacyTsc(a);
  hvmEpochEnd(a);
  const at = batch(a, 8, [1]);
  return { findings: [["legacy.end.trailing", at, 5]], checkpointed: "false", ...ignored };
});
add("legacy_cut", "the stream ends in the pages of a batch", (a) => {
  a.raw("p2m_size", a.u32(0x1000));
  a.cut(batch(a, 4, [0, 1]) + 5000);
  return { findings: [["legacy.record.truncated", a.size, 1]], status: "truncated", epochs: "1/0" };
});
add("legacy_end_missing", "the stream ends at a chunk's edge in the first epoch", (a) => {
  a.raw("p2m_size", a.u64(0x1000));
  batch(a, 8, [0, 1]);
  return { findings: [["legacy.end.missing", a.size, 2]], status: "truncated" };
});
add("36_legacy_cut_epoch", "a Remus stream cut in its third epoch", (a) => {
  a.raw("p2m_size", a.u64(0x1000));
  for (const pfn of [1, 2, 3]) {
    batch(a, 8, [pfn]);
    legacyTsc(a);
    if (pfn < 3) hvmEpochEnd(a);
  }
  bodyEnd(a);
  magicPfns(a);
  return { findings: [["legacy.stream.cut", a.size, 15]], status: "failover", epochs: "3/2" };
});
add("36_legacy_cut_at_edge", "a Remus stream cut behind its first tail", (a) => {
  a.raw("p2m_size", a.u64(0x1000));
  legacyTsc(a);
  hvmEpochEnd(a);
  return {
    findings: [["legacy.stream.cut", a.size, 5]],
    status: "failover",
    epochs: "1/1",
    checkpointed: "true",
  };
});

/** The second epoch of a compressed stream: chunks from item 6 on. */
function inCompressed(
  name: string,
  comment: string,
  rule: string,
  build: (a: Assembly, width: Width) => { at: number; record: number },
  told: Told = {},
): void {
  for (const width of both) {
    add(`${name}_${8 * width}`, comment, (a) => {
      a.raw("p2m_size", word(a, width, 0x1000));
      legacyTsc(a);
      chunk(a, "chunk -13: compression", -13);
      hvmEpochEnd(a);
      const { at, record } = build(a, width);
      last(a);
      hvmEpochEnd(a);
      return { findings: [[rule, at, record]], epochs: "2/2", ...told };
    });
  }
}
/** A batch of `count` frames, and compressed data; the offset of those data. */
const encoded = (a: Assembly, width: Width, count: number, ...data: Uint8Array[]): number => {
  chunk(
    a,
    "batch of frame numbers",
    count,
    ...Array.from({ length: count }, (_, pfn) => word(a, width, pfn)),
  );
  return compressed(a, width, ...data) + 4 + width;
};
const skips = (words: number): Uint8Array =>
  join([fill(0xff, Math.floor(words / 127)), octets(...(words % 127 > 0 ? [0x80 | words % 127] : []))]);

inCompressed("53_zero_run", "a run of length 0 within a page", "legacy.delta.marker", (a, width) => ({
  at: encoded(a, width, 1, octets(0x81, 0x00), skips(1023)) + 1,
  record: 7,
}));
inCompressed("53_zero_skip", "a skip of length 0 within a page", "legacy.delta.marker", (a, width) => ({
  at: encoded(a, width, 1, octets(0x81, 0x80), skips(1023)) + 1,
  record: 7,
}));
inCompressed("54_run_beyond", "a run across the end of the page", "legacy.delta.run_beyond", (a, width) => ({
  at: encoded(a, width, 1, skips(1023), octets(0x02), fill(1, 8)) + 9,
  record: 7,
}));
inCompressed(
  "55_skip_beyond",
  "a skip across the end of the page",
  "legacy.delta.skip_beyond",
  (a, width) => ({
    at: encoded(a, width, 1, skips(1023), octets(0x82)) + 9,
    record: 7,
  }),
);
inCompressed("56_run_cut", "the data end in a run", "legacy.delta.run_truncated", (a, width) => ({
  at: encoded(a, width, 1, octets(0x02), fill(1, 7)) + 8,
  record: 7,
}));
inCompressed("57_short", "the data end before 1024 words", "legacy.delta.short", (a, width) => ({
  at: encoded(a, width, 1, skips(1023)) + 9,
  record: 7,
}));
inCompressed("58_full_cut", "a whole page of 4095 octets", "legacy.delta.full_truncated", (a, width) => ({
  at: encoded(a, width, 1, octets(0x80), fill(1, 4095)) + 4096,
  record: 7,
}));
inCompressed("59_missing", "three pages announced, two encoded", "legacy.compressed.missing", (a, width) => ({
  at: encoded(a, width, 3, octets(0, 0)) + 2,
  record: 7,
}));
inCompressed(
  "59_missing_all",
  "pages announced and no compressed data",
  "legacy.compressed.missing",
  (a, width) => {
    chunk(a, "batch of frame numbers", 1, word(a, width, 1));
    return { at: a.size + 4, record: 8 };
  },
);
inCompressed(
  "60_leftover",
  "octets behind the last announced page",
  "legacy.compressed.leftover",
  (a, width) => ({
    at: encoded(a, width, 1, octets(0), octets(0x7f, 1, 2)) + 1,
    record: 7,
  }),
  ignored,
);
inCompressed(
  "60_leftover_broken",
  "the same, and they are no encoding",
  "legacy.compressed.leftover",
  (a, width) => ({
    at: encoded(a, width, 1, octets(0), octets(0x81, 0x00)) + 1,
    record: 7,
  }),
  ignored,
);
inCompressed(
  "61_interleave",
  "two pages where one was announced, the second batch later",
  "legacy.compressed.interleave",
  (a, width) => {
    const at = encoded(a, width, 1, octets(0, 0)) + 1;
    chunk(a, "batch of frame numbers", 1, word(a, width, 12));
    return { at, record: 7 };
  },
  ignored,
);
add("61_interleave_broken", "a page before its batch, and that page is broken", (a) => {
  a.raw("p2m_size", a.u64(0x1000));
  legacyTsc(a);
  chunk(a, "chunk -13: compression", -13);
  hvmEpochEnd(a);
  const at = encoded(a, 8, 1, octets(0, 0x81, 0x00));
  chunk(a, "batch of frame numbers", 1, a.u64(12));
  last(a);
  hvmEpochEnd(a);
  return {
    findings: [["legacy.compressed.interleave", at + 1, 7], ["legacy.delta.marker", at + 2, 7]],
    lenient: "legacy.delta.marker",
  };
});
inCompressed("61_length", "compressed data of 2^31 octets", "legacy.compressed.length", (a, width) => ({
  at: chunk(a, "chunk -12: compressed", -12, word(a, width, 0x8000_0000)) + 4,
  record: 6,
}), { ...stopped, epochs: "2/1" });

// ---------------------------------------------------------------------------------------------- region

/** The SHA-256 of what is there so far. */
async function sha256(bytes: Uint8Array<ArrayBuffer>): Promise<Uint8Array> {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
}

const regionHeader = (
  a: Assembly,
  version = 1,
  options = 0,
  faults: { id?: string; marker?: Uint8Array; reserved?: Uint8Array } = {},
) => a.image(version, { id: faults.id ?? "DRVR", ...faults, options: options | (a.big ? 1 : 0) });
const regionInfo = (
  a: Assembly,
  faults: { pages?: bigint | number; label?: Uint8Array; labelSize?: number; reserved?: number } = {},
): number => {
  const label = faults.label ?? text("heap");
  return a.record("REGION_INFO", 0x100, [
    fill(0x1d, 16),
    a.u64(faults.pages ?? 0x1000),
    a.u64(3n),
    a.u32(faults.labelSize ?? label.length),
    a.u32(faults.reserved ?? 0),
    label,
  ]);
};
const digest = async (a: Assembly): Promise<number> => a.record("DIGEST", 0x103, [await sha256(a.bytes())]);
const zeroRanges = (a: Assembly, ...ranges: [number, number][]): number =>
  a.record("ZERO_RANGES", 0x101, [
    a.u32(ranges.length),
    a.u32(0),
    ...ranges.flatMap(([pfn, count]) => [a.u64(pfn), a.u64(count)]),
  ]);
const deltas = (a: Assembly, pfns: number[], ...data: Uint8Array[]): number => {
  const bytes = join(data);
  return a.record("PAGE_DELTAS", 0x102, [
    a.u32(pfns.length),
    a.u32(bytes.length),
    ...pfns.map((pfn) => a.u64(pfn)),
    bytes,
  ]);
};

async function addRegion(
  name: string,
  comment: string,
  build: (a: Assembly) => Promise<Told | void>,
): Promise<void> {
  const assembly = new Assembly();
  const { findings = [], ...keys } = await build(assembly) ?? {};
  cases.push({
    name,
    comment,
    findings: findings.map(([rule, offset, record]) => ({ rule, offset, record })),
    keys,
    assembly,
  });
}

/** One thing as item 2, in the first section. */
async function inRegion(
  name: string,
  comment: string,
  rule: string,
  build: (a: Assembly) => number,
  told: Told = {},
): Promise<void> {
  await addRegion(name, comment, async (a) => {
    regionHeader(a);
    regionInfo(a);
    const at = build(a);
    await digest(a);
    end(a);
    return { findings: [[rule, at, 2]], ...told };
  });
}

/** One thing as item 4, in the second section. */
async function inRegionEpoch(
  name: string,
  comment: string,
  rule: string,
  build: (a: Assembly) => number,
): Promise<void> {
  await addRegion(name, comment, async (a) => {
    regionHeader(a);
    regionInfo(a);
    await digest(a);
    checkpoint(a);
    const at = build(a);
    await digest(a);
    checkpoint(a);
    await digest(a);
    end(a);
    return { findings: [[rule, at, 4]], epochs: "2/2" };
  });
}

async function regions(): Promise<void> {
  for (const big of [false, true]) {
    await addRegion(`ok_region${big ? "_big_endian" : ""}`, "a region of one section", async (a) => {
      a.big = big;
      regionHeader(a);
      regionInfo(a);
      a.pages(0, 5, 2, 0xfff);
      zeroRanges(a, [6, 1], [7, 0xff0]);
      await digest(a);
      end(a);
      return { pages: 4, epochs: "1/1" };
    });
    await addRegion(
      `ok_region_epochs${big ? "_big_endian" : ""}`,
      "every codec, over three sections",
      async (a) => {
        a.big = big;
        regionHeader(a);
        regionInfo(a, { label: octets() });
        a.pages(1);
        await digest(a);
        checkpoint(a);
        deltas(
          a,
          [1, 9, 4, 5, 0xfff],
          octets(0),
          octets(1),
          fill(0x77, 4096),
          octets(2, 0x01, 1, 2, 3, 4),
          skips(1023),
          octets(3, 0x81),
          fill(0, 127),
          fill(0x55, 8),
          octets(2),
          skips(1000),
          octets(24),
          fill(1, 96),
        );
        const optional = a.record("type 0x80000007", 0x8000_0007, [fill(1, 9)]);
        await digest(a);
        checkpoint(a);
        a.record("VERIFY", 0x0d);
        a.pages(1);
        await digest(a);
        checkpoint(a);
        await digest(a);
        end(a);
        return { findings: [["region.record.optional", optional, 6]], pages: 7, epochs: "3/3" };
      },
    );
  }
  for (
    const [name, faults, version, options, rule, offset, status] of [
      ["marker", { marker: join([fill(0xff, 7), octets(0x7f)]) }, 1, 0, "region.header.marker", 4, "stopped"],
      ["id", { id: "DRVS" }, 1, 0, "region.header.id", 8, "stopped"],
      ["version", {}, 2, 0, "region.header.version", 12, "stopped"],
      ["options", {}, 1, 0x8000, "region.header.options", 16, "complete"],
      ["reserved", { reserved: octets(0, 0, 0, 0, 0, 1) }, 1, 0, "region.header.reserved", 23, "complete"],
    ] as const
  ) {
    await addRegion(`region_header_${name}`, `the ${name} of the header is wrong`, async (a) => {
      regionHeader(a, version, options, faults);
      regionInfo(a);
      await digest(a);
      end(a);
      return { findings: [[rule, offset, 0]], status, profile: "region" };
    });
  }
  await addRegion("region_header_cut", "the stream ends in the header", (a) => {
    regionHeader(a);
    a.cut(20);
    return Promise.resolve({ findings: [["region.header.truncated", 20, 0]], status: "truncated" });
  });
  await inRegion(
    "region_type_unknown",
    "a type of libxc's that a region does not have",
    "region.record.type",
    (a) => a.record("X86_TSC_INFO", 8, [fill(0, 24)]),
  );
  await addRegion("region_length", "a body above 128 MiB", (a) => {
    regionHeader(a);
    regionInfo(a);
    const at = a.record("PAGE_DATA", 1, [], { length: 0x800_0001 });
    return Promise.resolve({ findings: [["region.record.length", at + 4, 2]], status: "stopped" });
  });
  await addRegion("region_padding", "padding that is not zero", async (a) => {
    regionHeader(a);
    const at = a.record("REGION_INFO", 0x100, [
      fill(0x1d, 16),
      a.u64(0x1000),
      a.u64(3n),
      a.u32(3),
      a.u32(0),
      text("abc"),
    ], {
      padding: octets(0, 0, 1, 0, 0),
    });
    await digest(a);
    end(a);
    return { findings: [["region.record.padding", at + 8 + 43 + 2, 1]] };
  });
  await addRegion("region_end_missing", "the stream ends at a record's edge", (a) => {
    regionHeader(a);
    regionInfo(a);
    a.pages(1);
    return Promise.resolve({
      findings: [["region.end.missing", a.size, 3]],
      status: "truncated",
      epochs: "1/0",
    });
  });
  await addRegion("region_record_cut", "the stream ends in a record", (a) => {
    regionHeader(a);
    regionInfo(a);
    a.cut(a.pages(1) + 100);
    return Promise.resolve({ findings: [["region.record.truncated", a.size, 2]], status: "truncated" });
  });
  await addRegion("region_cut", "the second section is cut", async (a) => {
    regionHeader(a);
    regionInfo(a);
    await digest(a);
    checkpoint(a);
    a.cut(a.pages(1) + 100);
    return { findings: [["region.stream.cut", a.size, 4]], status: "failover", epochs: "2/1" };
  });
  await addRegion("region_end_body", "END with a body", async (a) => {
    regionHeader(a);
    regionInfo(a);
    await digest(a);
    const at = a.record("END", 0, [fill(0, 8)]);
    return { findings: [["region.end.length", at + 4, 3]] };
  });
  await addRegion("region_checkpoint_body", "CHECKPOINT with a body", async (a) => {
    regionHeader(a);
    regionInfo(a);
    await digest(a);
    const at = a.record("CHECKPOINT", 0x0e, [fill(0, 8)]);
    await digest(a);
    end(a);
    return { findings: [["region.checkpoint.length", at + 4, 3]] };
  });
  await inRegion(
    "region_verify_body",
    "VERIFY with a body",
    "region.verify.length",
    (a) => a.record("VERIFY", 0x0d, [fill(0, 8)]) + 4,
  );
  await addRegion("region_trailing", "octets behind END", async (a) => {
    regionHeader(a);
    regionInfo(a);
    await digest(a);
    end(a);
    const at = a.raw("behind END", octets(0));
    return { findings: [["region.end.trailing", at, 4]] };
  });
  await addRegion("region_end_uncommitted", "pages between the last checkpoint and END", async (a) => {
    regionHeader(a);
    regionInfo(a);
    await digest(a);
    checkpoint(a);
    a.pages(1);
    await digest(a);
    const at = end(a);
    return { findings: [["region.end.uncommitted", at, 6]], epochs: "2/1" };
  });
  await addRegion("region_info_missing", "pages where REGION_INFO should stand", async (a) => {
    regionHeader(a);
    const at = a.pages(1);
    await digest(a);
    end(a);
    return { findings: [["region.info.missing", at, 1]] };
  });
  await inRegion("region_info_twice", "REGION_INFO twice", "region.info.repeated", (a) => regionInfo(a));
  for (
    const [name, faults, rule, offset] of [
      ["pages_0", { pages: 0 }, "region.info.pages", 24],
      ["pages_huge", { pages: 1n << 63n }, "region.info.pages", 24],
      ["reserved", { reserved: 1 }, "region.info.reserved", 44],
      ["label_long", { label: fill(0x61, 256) }, "region.info.label", 40],
      ["label_size", { labelSize: 5 }, "region.info.length", 4],
      ["label_utf8", { label: octets(0xc3, 0x28) }, "region.info.label", 48],
    ] as const
  ) {
    await addRegion(
      `region_info_${name}`,
      `REGION_INFO with a wrong ${name.replace("_", " ")}`,
      async (a) => {
        regionHeader(a);
        const at = regionInfo(a, faults);
        await digest(a);
        end(a);
        return { findings: [[rule, at + offset, 1]] };
      },
    );
  }
  await addRegion("region_info_short", "REGION_INFO of 39 octets", async (a) => {
    regionHeader(a);
    const at = a.record("REGION_INFO", 0x100, [fill(0, 39)]);
    await digest(a);
    end(a);
    return { findings: [["region.info.length", at + 4, 1]] };
  });
  for (
    const [name, rule, offset, body] of [
      ["short", "length", 4, (a: Assembly) => [a.u32(1)]],
      ["count", "count", 8, (a: Assembly) => [a.u32(0), a.u32(0)]],
      ["reserved", "reserved", 12, (a: Assembly) => [a.u32(1), a.u32(1), a.entry(1), fill(0, 4096)]],
      ["entries", "entries", 8, (a: Assembly) => [a.u32(3), a.u32(0), a.entry(1), a.entry(2)]],
      [
        "pfn_reserved",
        "pfn_reserved",
        16,
        (a: Assembly) => [a.u32(1), a.u32(0), a.entry(1n | 1n << 55n), fill(0, 4096)],
      ],
      ["type_page_table", "type", 16, (a: Assembly) => [a.u32(1), a.u32(0), a.entry(1, 1), fill(0, 4096)]],
      ["type_invalid", "type", 16, (a: Assembly) => [a.u32(1), a.u32(0), a.entry(1, 15)]],
      ["pfn", "pfn", 16, (a: Assembly) => [a.u32(1), a.u32(0), a.entry(0x1000), fill(0, 4096)]],
      ["size", "size", 4, (a: Assembly) => [a.u32(1), a.u32(0), a.entry(1), fill(0, 4095)]],
      [
        "duplicate",
        "duplicate",
        24,
        (a: Assembly) => [a.u32(2), a.u32(0), a.entry(1), a.entry(1), fill(0, 8192)],
      ],
    ] as const
  ) {
    await inRegion(
      `region_page_data_${name}`,
      `PAGE_DATA with a wrong ${name.replace("_", " ")}`,
      `region.page_data.${rule}`,
      (a) => a.record("PAGE_DATA", 1, body(a)) + offset,
    );
  }
  for (
    const [name, rule, offset, body] of [
      ["short", "length", 4, (a: Assembly) => [a.u32(1)]],
      ["length", "length", 4, (a: Assembly) => [a.u32(2), a.u32(0), a.u64(1), a.u64(1)]],
      ["count_0", "count", 8, (a: Assembly) => [a.u32(0), a.u32(0)]],
      ["count_65537", "count", 8, (a: Assembly) => [a.u32(65_537), a.u32(0), a.u64(1), a.u64(1)]],
      ["reserved", "reserved", 12, (a: Assembly) => [a.u32(1), a.u32(1), a.u64(1), a.u64(1)]],
      ["empty", "empty", 24, (a: Assembly) => [a.u32(1), a.u32(0), a.u64(1), a.u64(0)]],
      ["order", "order", 32, (a: Assembly) => [a.u32(2), a.u32(0), a.u64(1), a.u64(2), a.u64(2), a.u64(1)]],
      ["pfn", "pfn", 16, (a: Assembly) => [a.u32(1), a.u32(0), a.u64(0x1000), a.u64(1)]],
      ["pfn_end", "pfn", 24, (a: Assembly) => [a.u32(1), a.u32(0), a.u64(0xfff), a.u64(2)]],
      ["pfn_wraps", "pfn", 24, (a: Assembly) => [a.u32(1), a.u32(0), a.u64(1), a.u64((1n << 64n) - 1n)]],
    ] as const
  ) {
    await inRegion(
      `region_zero_ranges_${name}`,
      `ZERO_RANGES with a wrong ${name.replace("_", " ")}`,
      `region.zero_ranges.${rule}`,
      (a) => a.record("ZERO_RANGES", 0x101, body(a)) + offset,
    );
  }
  await inRegion(
    "region_page_deltas_first",
    "PAGE_DELTAS in the first section",
    "region.page_deltas.first",
    (a) => deltas(a, [1], octets(0)),
  );
  for (
    const [name, rule, offset, body] of [
      ["short", "page_deltas.length", 4, (a: Assembly) => [a.u32(1)]],
      ["length", "page_deltas.length", 4, (a: Assembly) => [a.u32(1), a.u32(1), a.u64(1), octets(0, 0)]],
      ["count_0", "page_deltas.count", 8, (a: Assembly) => [a.u32(0), a.u32(0)]],
      ["count_8193", "page_deltas.count", 8, (a: Assembly) => [a.u32(8193), a.u32(0)]],
      [
        "pfn",
        "page_deltas.pfn",
        24,
        (a: Assembly) => [a.u32(2), a.u32(2), a.u64(1), a.u64(0x1000), octets(0, 0)],
      ],
      [
        "duplicate",
        "page_deltas.duplicate",
        24,
        (a: Assembly) => [a.u32(2), a.u32(2), a.u64(1), a.u64(1), octets(0, 0)],
      ],
      ["leftover", "page_deltas.leftover", 25, (a: Assembly) => [a.u32(1), a.u32(2), a.u64(1), octets(0, 0)]],
      [
        "missing",
        "page_deltas.missing",
        33,
        (a: Assembly) => [a.u32(2), a.u32(1), a.u64(1), a.u64(2), octets(0)],
      ],
      ["codec", "delta.codec", 24, (a: Assembly) => [a.u32(1), a.u32(1), a.u64(1), octets(4)]],
      ["zero_run", "delta.marker", 25, (a: Assembly) => [a.u32(1), a.u32(2), a.u64(1), octets(2, 0)]],
      ["zero_skip", "delta.marker", 25, (a: Assembly) => [a.u32(1), a.u32(2), a.u64(1), octets(2, 0x80)]],
      [
        "run_beyond",
        "delta.run_beyond",
        34,
        (a: Assembly) => [a.u32(1), a.u32(11), a.u64(1), octets(2), skips(1023), octets(2)],
      ],
      [
        "skip_beyond",
        "delta.skip_beyond",
        34,
        (a: Assembly) => [a.u32(1), a.u32(11), a.u64(1), octets(2), skips(1023), octets(0x82)],
      ],
      [
        "cut_markers",
        "delta.truncated",
        34,
        (a: Assembly) => [a.u32(1), a.u32(10), a.u64(1), octets(2), skips(1023)],
      ],
      [
        "cut_full",
        "delta.truncated",
        32,
        (a: Assembly) => [a.u32(1), a.u32(8), a.u64(1), octets(1), fill(0, 7)],
      ],
      ["cut_bitmap", "delta.truncated", 27, (a: Assembly) => [a.u32(1), a.u32(3), a.u64(1), octets(3, 1, 0)]],
      [
        "cut_words",
        "delta.truncated",
        24 + 136,
        (a: Assembly) => [a.u32(1), a.u32(136), a.u64(1), octets(3, 3), fill(0, 127), fill(1, 7)],
      ],
    ] as const
  ) {
    await inRegionEpoch(
      `region_deltas_${name}`,
      `PAGE_DELTAS with a wrong ${name.replace("_", " ")}`,
      `region.${rule}`,
      (a) => a.record("PAGE_DELTAS", 0x102, body(a)) + offset,
    );
  }
  await addRegion("region_digest_length", "a digest of 31 octets", (a) => {
    regionHeader(a);
    regionInfo(a);
    const at = a.record("DIGEST", 0x103, [fill(0, 31)]);
    end(a);
    return Promise.resolve({ findings: [["region.digest.length", at + 4, 2]] });
  });
  await addRegion("region_digest_order", "a page behind a digest", async (a) => {
    regionHeader(a);
    regionInfo(a);
    await digest(a);
    const at = a.pages(1);
    await digest(a);
    end(a);
    return { findings: [["region.digest.order", at, 3]] };
  });
  for (const [name, record] of [["end", end], ["checkpoint", checkpoint]] as const) {
    await addRegion(`region_digest_missing_${name}`, "no digest right before it", async (a) => {
      regionHeader(a);
      regionInfo(a);
      a.pages(1);
      const at = record(a);
      if (name === "checkpoint") {
        await digest(a);
        end(a);
      }
      return { findings: [["region.digest.missing", at, 3]] };
    });
  }
  await addRegion("region_digest_mismatch", "one octet of the second digest is wrong", async (a) => {
    regionHeader(a);
    regionInfo(a);
    a.pages(1);
    await digest(a);
    checkpoint(a);
    const right = await sha256(a.bytes());
    right[30] = (right[30] ?? 0) ^ 1;
    const at = a.record("DIGEST", 0x103, [right]);
    end(a);
    return { findings: [["region.digest.mismatch", at + 8 + 30, 5]] };
  });
  await addRegion("region_checkpoint_plain", "CHECKPOINT in a stream declared plain", async (a) => {
    regionHeader(a);
    regionInfo(a);
    await digest(a);
    const at = checkpoint(a);
    await digest(a);
    end(a);
    return { findings: [["region.checkpoint.plain", at, 3]], checkpointed: "false" };
  });
  await addRegion("region_checkpoint_none", "no CHECKPOINT in a stream declared checkpointed", async (a) => {
    regionHeader(a);
    regionInfo(a);
    await digest(a);
    const at = end(a);
    return { findings: [["region.checkpoint.none", at, 3]], checkpointed: "true" };
  });
}

/** All cases. */
export async function verifyCases(): Promise<Case[]> {
  if (!cases.some(({ name }) => name === "ok_region")) await regions();
  return cases;
}

/** A case as the text of its vector file. @param isError whether a rule is an error in strict mode. */
export function vectorText(one: Case, isError: (rule: string) => boolean): string {
  const first = one.findings.find(({ rule }) => isError(rule));
  const lines = [`expect: ${first?.rule ?? "ok"}`, `comment: ${one.comment}`];
  if (first !== undefined) lines.push(`offset: ${first.offset}`, `record: ${first.record}`);
  if (one.findings.length > (first === undefined ? 0 : 1)) {
    lines.push(
      `findings: ${one.findings.map(({ rule, offset, record }) => `${rule}@${offset}#${record}`).join(" ")}`,
    );
  }
  for (const [key, value] of Object.entries(one.keys)) lines.push(`${key}: ${value}`);
  return `${lines.join("\n")}\n\n${one.assembly.vectorBody()}`;
}

if (import.meta.main) {
  const { verifyRules } = await import("../../lib/stream/verify/rules.ts");
  const directory = new URL("../vectors/verify/", import.meta.url);
  await Deno.mkdir(directory, { recursive: true });
  for (const one of await verifyCases()) {
    const isError = (rule: string): boolean =>
      Object.entries(verifyRules).find(([id]) => id === rule)?.[1].weight !== "warning";
    await Deno.writeTextFile(new URL(`${one.name}.vec`, directory), vectorText(one, isError));
  }
}
