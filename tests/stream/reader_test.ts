/** The reader and the writer: laws over samples of every profile, nesting, ends, and hostile input. */
import assert from "node:assert/strict";
import { FormatError } from "../../lib/base/errors.ts";
import { bytesEqual } from "../../lib/base/hex.ts";
import type { StreamItem } from "../../lib/stream/item.ts";
import {
  type PlacedItem,
  readStream,
  StreamReader,
  type StreamReaderOptions,
} from "../../lib/stream/reader.ts";
import { encodeItem, encodeItems, newWriterState } from "../../lib/stream/writer.ts";
import { legacySample } from "./legacy_samples.ts";
import { mutate } from "./mutate.ts";
import { bytes, refuses } from "./octets.ts";
import { prng } from "./prng.ts";
import {
  allSamples,
  concat,
  libxcSample,
  libxlSample,
  regionSample,
  type Sample,
  sha256,
  xlSample,
} from "./samples.ts";

/** How a stream comes in: chunk sizes, and whether octets are read into the open body where there is one. */
interface Arrival {
  size: () => number;
  direct: () => boolean;
}

const whole: Arrival = { size: () => Infinity, direct: () => false };
const singly: Arrival = { size: () => 1, direct: () => false };

/** Chunks of every size, short ones next to long ones. */
function atRandom(random: (bound: number) => number): Arrival {
  return {
    size: () => 1 + random([1, 8, 100, 5000, 20_000][random(5)] ?? 1),
    direct: () => random(2) === 0,
  };
}

/** Feeds a whole stream and says that it has ended. Chunks are wiped once they may be. */
function readAll(input: Uint8Array, arrival: Arrival, options: StreamReaderOptions = {}): PlacedItem[] {
  const reader = new StreamReader(options);
  const items: PlacedItem[] = [];
  const take = (): void => {
    for (let item = reader.next(); item !== null; item = reader.next()) items.push(item);
  };
  for (let at = 0; at < input.length;) {
    const open = arrival.direct() ? reader.openBody() : null;
    if (open !== null && open.length > 0) {
      const piece = input.subarray(at, at + Math.min(open.length, arrival.size()));
      open.set(piece);
      reader.filledBody(piece.length);
      at += piece.length;
    } else {
      const chunk = input.slice(at, at + arrival.size());
      reader.push(chunk);
      take();
      if (reader.rest().length > 0) assert.fail("next() gave null and left a part of the chunk");
      chunk.fill(0xee);
      at += chunk.length;
    }
  }
  take();
  reader.finish();
  take();
  return items;
}

function withoutPlace(item: PlacedItem): StreamItem {
  const { place: _place, ...rest } = item;
  return rest;
}

function checkPlaces(items: PlacedItem[], size: number): void {
  let offset = 0;
  items.forEach(({ place }, index) => {
    assert.deepEqual([place.index, place.offset], [index, offset]);
    offset += place.size;
  });
  assert.equal(offset, size);
}

Deno.test("StreamReader gives the items of every sample, and where they stand", () => {
  for (const sample of [1, 2, 3].flatMap((seed) => [...allSamples(seed, { batches: 1, entries: 2 })])) {
    const items = readAll(sample.bytes, whole, { digest: sha256 });
    if (sample.profile !== "legacy") assert.deepEqual(items.map(withoutPlace), sample.items, sample.name);
    checkPlaces(items, sample.bytes.length);
  }
});

Deno.test("encodeItems() gives back the octets of every sample, however they come in", () => {
  const random = prng(7);
  for (let seed = 10; seed < 16; seed++) {
    for (const sample of allSamples(seed)) {
      const items = readAll(sample.bytes, atRandom(random), { digest: sha256 });
      assert.ok(bytesEqual(concat(encodeItems(items)), sample.bytes), sample.name);
    }
  }
});

Deno.test("StreamReader gives the same items when octets come one by one", () => {
  for (const sample of [...allSamples(4, { batches: 1, entries: 3 })].filter((_, index) => index % 3 === 0)) {
    const items = readAll(sample.bytes, singly, { digest: sha256 });
    assert.ok(bytesEqual(concat(encodeItems(items)), sample.bytes), sample.name);
    checkPlaces(items, sample.bytes.length);
  }
});

Deno.test("readStream() reads web streams and async iterables, and knows the profile by itself", async () => {
  for (const sample of allSamples(5)) {
    const items: StreamItem[] = [];
    for await (const item of readStream(new Blob([sample.bytes]).stream())) items.push(item);
    assert.ok(bytesEqual(concat(encodeItems(items)), sample.bytes), sample.name);
  }
  const { bytes: input, items } = libxcSample({ seed: 1 });
  async function* halves(): AsyncGenerator<Uint8Array> {
    yield input.subarray(0, 41);
    await Promise.resolve();
    yield input.subarray(41);
  }
  assert.equal((await Array.fromAsync(readStream(halves()))).length, items.length);
});

Deno.test("readStream() cancels its source when the loop is left", async () => {
  let cancelled = false;
  const source = new ReadableStream<Uint8Array>({
    pull: (controller) => controller.enqueue(libxcSample({ seed: 1 }).bytes),
    cancel: () => {
      cancelled = true;
    },
  });
  for await (const item of readStream(source)) if (item.place.index === 2) break;
  assert.ok(cancelled);
});

Deno.test("StreamReader tells the profile, and takes the one it is told", () => {
  for (const sample of allSamples(6)) {
    const reader = new StreamReader();
    assert.equal(reader.profile, null);
    reader.push(sample.bytes.slice(0, 100));
    reader.next();
    assert.equal(reader.profile, sample.profile, sample.name);
    const items = readAll(sample.bytes, whole, { profile: sample.profile });
    assert.ok(bytesEqual(concat(encodeItems(items)), sample.bytes), sample.name);
  }
  const cases: [Sample, StreamReaderOptions["profile"], string, number][] = [
    [libxcSample({ seed: 1 }), "libxl", "libxl.header.ident", 0],
    [libxcSample({ seed: 1 }), "region", "region.header.id", 8],
    [libxcSample({ seed: 1 }), "xl", "xl.header.magic", 0],
    [libxlSample({ seed: 1 }), "libxc", "libxc.header.marker", 0],
    [regionSample({ seed: 1 }), "libxc", "libxc.header.id", 8],
    [xlSample({ seed: 1 }), "libxl", "libxl.header.ident", 0],
  ];
  for (const [{ bytes: input }, profile = "auto", rule, offset] of cases) {
    refuses(() => readAll(input, whole, { profile }), rule, offset);
  }
});

Deno.test("StreamReader follows an xl header to a libxc or legacy stream where its flag is clear", () => {
  const header = { bigEndian: false, mandatoryFlags: 1, optionalFlags: 0, data: bytes('04000000 "name"') };
  const [first] = concat(encodeItem({ layer: "xl", header }, newWriterState()));
  assert.equal(first, 0x58);
  const start = concat(encodeItem({ layer: "xl", header }, newWriterState()));
  const inner = [
    libxcSample({ seed: 1 }).bytes,
    legacySample({ seed: 1, width: 4, guest: "hvm" }).bytes,
    legacySample({ seed: 1, width: 8, guest: "pv", epochs: 2 }).bytes,
  ];
  for (const input of inner.map((octets) => concat([start, octets]))) {
    for (const arrival of [whole, atRandom(prng(3))]) {
      const items = readAll(input, arrival);
      assert.ok(bytesEqual(concat(encodeItems(items)), input));
      checkPlaces(items, input.length);
    }
  }
});

Deno.test("StreamReader refuses every stream that is cut, with the rule of what is missing, at its end", () => {
  const random = prng(11);
  for (const sample of allSamples(8, { entries: 3 })) {
    if (sample.profile === "legacy") continue;
    const full = readAll(sample.bytes, whole);
    for (let round = 0; round < 12; round++) {
      // Half of the cuts at a record's edge.
      const item = full[random(full.length)];
      const at = round % 2 === 0 ? random(sample.bytes.length) : item?.place.offset ?? 0;
      try {
        readAll(sample.bytes.slice(0, at), atRandom(random));
        assert.fail(`a cut at ${at} was not refused: ${sample.name}`);
      } catch (error) {
        assert.ok(error instanceof FormatError, `${error}`);
        assert.equal(error.offset, at, sample.name);
        const edge = full.findIndex(({ place }) => place.offset === at);
        const inside = full.findLast(({ place }) => place.offset <= at);
        const kind = at < 12
          ? "unknown"
          : edge >= 0 && "record" in (full[edge] ?? {})
          ? "missing"
          : "truncated";
        assert.ok(
          error.rule.endsWith(`.${kind}`),
          `${error.rule} at ${at}, ${inside?.layer}: ${sample.name}`,
        );
      }
    }
  }
});

Deno.test("StreamReader.finish() refuses a stream without an octet, also where nothing was asked for", () => {
  for (
    const [profile, rule] of [
      ["auto", "stream.profile.unknown"],
      ["libxc", "libxc.header.truncated"],
      ["libxl", "libxl.header.truncated"],
      ["xl", "xl.header.truncated"],
      ["region", "region.header.truncated"],
      ["legacy", "legacy.header.truncated"],
    ] as const
  ) {
    const reader = new StreamReader({ profile });
    assert.throws(() => reader.finish(), (error) => {
      assert.ok(error instanceof FormatError);
      assert.deepEqual([error.rule, error.offset], [rule, 0]);
      return true;
    });
    assert.equal(reader.ended, false);
  }
});

Deno.test("StreamReader gives all whole items of a stream that is cut", () => {
  const { bytes: input, items } = libxlSample({ seed: 2, epochs: 2 });
  const reader = new StreamReader();
  reader.push(input.subarray(0, input.length - 3));
  let count = 0;
  while (reader.next() !== null) count++;
  assert.equal(count, items.length - 1);
  refuses(() => reader.finish(), "libxl.record.truncated", input.length - 3);
  refuses(() => reader.next(), "libxl.record.truncated", input.length - 3);
});

Deno.test("StreamReader refuses octets behind the end, leaves them to the caller, or passes over them", () => {
  const cases: [Sample, string][] = [
    [libxcSample({ seed: 1 }), "libxc.end.trailing"],
    [libxcSample({ seed: 1, epochs: 2 }), "libxc.end.trailing"],
    [libxlSample({ seed: 1 }), "libxl.end.trailing"],
    [xlSample({ seed: 1 }), "libxl.end.trailing"],
    [regionSample({ seed: 1 }), "region.end.trailing"],
  ];
  for (const [sample, rule] of cases) {
    const { length } = sample.bytes;
    const input = concat([sample.bytes, Uint8Array.of(0)]);
    for (const arrival of [whole, singly]) refuses(() => readAll(input, arrival), rule, length);
    // A region is never read leniently.
    if (rule === "region.end.trailing") refuses(() => readAll(input, whole, { lenient: true }), rule, length);
    else assert.equal(readAll(input, whole, { lenient: true }).length, sample.items.length);

    const reader = new StreamReader({ afterEnd: "leave" });
    reader.push(input);
    let count = 0;
    while (reader.next() !== null) count++;
    assert.deepEqual([count, reader.ended, reader.offset], [sample.items.length, true, length]);
    assert.deepEqual(reader.rest(), Uint8Array.of(0));
    reader.finish();
  }
});

Deno.test("StreamReader compares a region's digests with what it read", () => {
  for (let seed = 1; seed < 4; seed++) {
    const { bytes: input } = regionSample({ seed, epochs: 2 });
    const page = readAll(input, whole).find((item) => "record" in item && item.record.name === "PAGE_DATA");
    assert.ok(page !== undefined);
    const changed = input.slice();
    const at = page.place.offset + page.place.size - 1;
    changed[at] = ~(changed[at] ?? 0);
    assert.doesNotThrow(() => readAll(changed, whole));
    const digest = readAll(input, whole).find((item) => "record" in item && item.record.name === "DIGEST");
    refuses(
      () => readAll(changed, atRandom(prng(seed)), { digest: sha256 }),
      "region.digest.mismatch",
      8 + (digest?.place.offset ?? 0),
    );
  }
});

Deno.test("StreamReader keeps a region's pages inside it", () => {
  const header: StreamItem = { layer: "region", header: { bigEndian: false } };
  const info: StreamItem = {
    layer: "region",
    record: { name: "REGION_INFO", regionId: new Uint8Array(16), pages: 10, term: 0n, label: "" },
  };
  const pages = new Uint8Array(4096);
  const records: [StreamItem, string, number][] = [
    [
      {
        layer: "region",
        record: { name: "PAGE_DATA", batch: { pfns: Float64Array.of(10), types: new Uint8Array(1), pages } },
      },
      "region.page_data.pfn",
      8,
    ],
    [
      { layer: "region", record: { name: "ZERO_RANGES", ranges: [{ pfn: 9, count: 2 }] } },
      "region.zero_ranges.pfn",
      16,
    ],
  ];
  for (const [item, rule, at] of records) {
    const input = concat(encodeItems([header, info, item]));
    refuses(() => readAll(input, whole), rule, 24 + 48 + 8 + at);
  }
});

Deno.test("StreamReader refuses what would leave open whose the next octets are", () => {
  const header: StreamItem = { layer: "libxl", header: { bigEndian: false, converted: false } };
  const context: StreamItem = { layer: "libxl", record: { name: "LIBXC_CONTEXT" } };
  const checkpointEnd: StreamItem = { layer: "libxl", record: { name: "CHECKPOINT_END" } };
  const libxc = libxcSample({ seed: 1 });
  const end = 16 + 8 + libxc.bytes.length;
  const cases: [StreamItem[], string, number][] = [
    [[header, checkpointEnd], "libxl.checkpoint_end.outside", 16],
    [[header, context, ...libxc.items, checkpointEnd], "libxl.checkpoint_end.outside", end],
    [[header, context, ...libxc.items, context], "libxl.libxc_context.repeated", end],
  ];
  for (const [items, rule, offset] of cases) {
    for (const lenient of [false, true]) {
      refuses(() => readAll(concat(encodeItems(items)), whole, { lenient }), rule, offset);
    }
  }
});

Deno.test("StreamReader refuses padding that is not zero, at that octet, unless lenient", () => {
  const header: StreamItem = {
    layer: "libxc",
    header: { version: 3, bigEndian: false, guest: "hvm", xenMajor: 4, xenMinor: 20 },
  };
  const record: StreamItem = { layer: "libxc", record: { name: "HVM_CONTEXT", context: bytes("01 02 03") } };
  const end: StreamItem = { layer: "libxc", record: { name: "END" } };
  const good = concat(encodeItems([header, record, end]));
  for (let at = 51; at < 56; at++) {
    const input = good.slice();
    input[at] = 1;
    for (const arrival of [whole, singly]) refuses(() => readAll(input, arrival), "libxc.record.padding", at);
    assert.deepEqual(readAll(input, singly, { lenient: true }).map(withoutPlace), [header, record, end]);
  }
});

Deno.test("StreamReader gives lenient items without what Xen's restorer ignores", () => {
  const input = concat([
    bytes('ff*8 "XENF" 00000002 8000 0001 00000001 02000000 0c00 0001 04000000 14000000'),
    bytes("10000000 04000000 00*3 01 00*4"), // STATIC_DATA_END in version 2, with a body
    bytes("01000000 10000000 01000000 05*4 07000000 00f0 5f f5"), // reserved field and bits
    bytes("08000000 18000000 00*20 09*4"), // reserved field
    bytes("00*4 01000000 09*8"), // END with a body, and padding
    bytes("09*3"), // octets behind the end
  ]);
  const items = readAll(input, singly, { lenient: true }).map((item) =>
    "record" in item ? item.record : null
  );
  assert.deepEqual(items, [
    null,
    { name: "STATIC_DATA_END" },
    {
      name: "PAGE_DATA",
      batch: {
        pfns: Float64Array.of(7 + 0xf_f000 * 2 ** 32),
        types: Uint8Array.of(0xf),
        pages: new Uint8Array(0),
      },
    },
    { name: "X86_TSC_INFO", tsc: { mode: 0, khz: 0, nsec: 0n, incarnation: 0 } },
    { name: "END" },
  ]);
});

Deno.test("StreamReader gives pages in memory of the batch's own, or where it is told to", () => {
  const { bytes: input } = libxcSample({ seed: 3, entries: 30 });
  const pages = readAll(input, whole).flatMap((item) =>
    "record" in item && item.record.name === "PAGE_DATA" ? [item.record.batch.pages] : []
  );
  assert.ok(pages.length > 0);
  assert.equal(new Set(pages.map(({ buffer }) => buffer)).size, pages.length);
  for (const { byteOffset, byteLength, buffer } of pages) {
    assert.deepEqual([byteOffset, byteLength], [0, buffer.byteLength]);
  }
  const pool = new Uint8Array(1 << 20);
  const told: number[] = [];
  readAll(input, atRandom(prng(1)), {
    allocate: (size) => {
      told.push(size);
      return pool.subarray(0, size);
    },
  });
  assert.deepEqual(told, pages.map(({ length }) => length));
});

Deno.test("StreamReader sets no memory aside for what a head merely claims", () => {
  const header = libxcSample({ seed: 1 }).bytes.slice(0, 40);
  // A context, an unknown optional record and a list of frames of 128 MiB, of which 1 MiB + 1 octets come.
  for (const [type, size] of [[0x09, 0x800_0000], [0x8000_0000, 0x800_0000], [0x0f, 0x800_0000]] as const) {
    const head = new Uint8Array(8);
    new DataView(head.buffer).setUint32(0, type, true);
    new DataView(head.buffer).setUint32(4, size, true);
    const reader = new StreamReader();
    for (const piece of [header, head]) {
      reader.push(piece);
      while (reader.next() !== null);
    }
    let { length } = reader.openBody();
    assert.ok(length > 0 && length <= 1 << 20, `${length}`);
    reader.filledBody(length);
    assert.equal(reader.next(), null);
    length = reader.openBody().length;
    assert.ok(length > 0 && length <= 1 << 20, `${length}`);
  }
  // Pages are set aside when there is a word for each of them.
  const asked: number[] = [];
  const reader = new StreamReader({
    allocate: (size) => {
      asked.push(size);
      return new Uint8Array(size);
    },
  });
  const push = (octets: Uint8Array): void => {
    reader.push(octets);
    while (reader.next() !== null);
  };
  const count = 20_000;
  const words = new Uint8Array(8 * count);
  push(header);
  const head = new Uint8Array(16);
  const view = new DataView(head.buffer);
  view.setUint32(0, 1, true);
  view.setUint32(4, 8 + 8 * count + 4096 * count, true);
  view.setUint32(8, count, true);
  push(head);
  push(words.subarray(8));
  assert.deepEqual(asked, []);
  push(words.subarray(0, 8));
  assert.deepEqual(asked, [4096 * count]);
});

Deno.test("StreamReader grows a body with what comes in, and keeps its octets", () => {
  const context = new Uint8Array(5_000_001);
  const random = prng(5);
  for (let at = 0; at < context.length; at += 97) context[at] = random(256);
  const items: StreamItem[] = [
    ...libxcSample({ seed: 1 }).items.slice(0, 1),
    { layer: "libxc", record: { name: "HVM_CONTEXT", context } },
    { layer: "libxc", record: { name: "END" } },
  ];
  const input = concat(encodeItems(items));
  for (const size of [65_536, 1_500_000, Infinity]) {
    for (const direct of [false, true]) {
      const back = readAll(input, { size: () => size, direct: () => direct });
      assert.ok(bytesEqual(concat(encodeItems(back)), input), `${size} ${direct}`);
    }
  }
});

Deno.test("StreamReader and encodeItem() tell a caller's mistakes from the stream's", () => {
  const reader = new StreamReader();
  reader.push(libxcSample({ seed: 1 }).bytes);
  assert.throws(() => reader.push(new Uint8Array(1)), TypeError);
  assert.throws(() => reader.finish(), TypeError);
  assert.throws(() => reader.filledBody(1), TypeError);
  while (reader.next() !== null);
  reader.finish();
  assert.throws(() => reader.push(new Uint8Array(1)), TypeError);
  const records: StreamItem[] = [
    { layer: "libxc", record: { name: "END" } },
    { layer: "libxl", record: { name: "END" } },
    { layer: "region", record: { name: "END" } },
    { layer: "legacy", record: { name: "END_OF_BODY" } },
  ];
  for (const item of records) assert.throws(() => encodeItem(item, newWriterState()), TypeError);
});

Deno.test("StreamReader stays broken after an error", () => {
  const input = libxcSample({ seed: 1 }).bytes.slice();
  input[47] = 0xff;
  const reader = new StreamReader();
  reader.push(input);
  reader.next();
  for (let round = 0; round < 2; round++) refuses(() => reader.next(), "libxc.record.length", 44);
  refuses(() => reader.finish(), "libxc.record.length", 44);
});

/** How many mutants, and from which seed; more of them, and others, by environment. */
const mutants = Number(Deno.env.get("DROVER_MUTATIONS") ?? 4000);
const mutantSeed = Number(Deno.env.get("DROVER_SEED") ?? 1717);

Deno.test("StreamReader survives mutated streams, and what it takes strictly it can write back", () => {
  const random = prng(mutantSeed);
  const samples = [30, 31, 32].flatMap((seed) => [...allSamples(seed, { batches: 2, entries: 3 })]);
  let taken = 0;
  let refused = 0;
  for (let round = 0; round < mutants; round++) {
    const sample = samples[random(samples.length)];
    if (sample === undefined) continue;
    const input = mutate(sample.bytes, random);
    const lenient = random(4) === 0;
    let allocated = 0;
    const allocate = (size: number): Uint8Array<ArrayBuffer> => {
      allocated += size;
      return new Uint8Array(size);
    };
    try {
      const items = readAll(input, atRandom(random), { lenient, allocate });
      taken++;
      checkPlaces(items, lenient ? items.reduce((sum, { place }) => sum + place.size, 0) : input.length);
      if (!lenient && !bytesEqual(concat(encodeItems(items)), input)) {
        assert.fail(`what was read is written otherwise: ${sample.name}, round ${round}`);
      }
    } catch (error) {
      if (!(error instanceof FormatError)) throw error;
      assert.ok(error.offset >= 0 && error.offset <= input.length, error.message);
      refused++;
    }
    // At most a page for each word of eight octets, or of four in a legacy batch.
    assert.ok(allocated <= 1024 * input.length + 4_194_304, `${allocated} of ${input.length}`);
  }
  assert.ok(taken > mutants / 20 && refused > mutants / 20, `${taken} taken, ${refused} refused`);
});

Deno.test("StreamReader survives random octets behind every beginning", () => {
  const random = prng(99);
  const starts = [
    bytes(""),
    bytes('ff*8 "XENF" 00000003 00*8'),
    bytes('ff*8 "XENF" 00000003 00*8 02000000 0c000000 04000000 14000000'),
    bytes('ff*8 "DRVR" 00000001 00*8'),
    bytes('"LibxlFmt" 00000002 00*4'),
    bytes('"Xen saved domain, xl format" 0a 20 00 20 0d 04030201 02000000 00*8'),
  ];
  for (let round = 0; round < 3000; round++) {
    const tail = Uint8Array.from({ length: random(200) }, () => random(3) === 0 ? random(256) : random(20));
    const input = concat([starts[random(starts.length)] ?? bytes(""), tail]);
    try {
      readAll(input, atRandom(random), { lenient: random(2) === 0 });
    } catch (error) {
      if (!(error instanceof FormatError)) throw error;
    }
  }
});

Deno.test("StreamReader.finish() refuses a stream of which nothing came, whatever it was to be", () => {
  for (const profile of ["auto", "libxc", "libxl", "xl", "legacy", "region"] as const) {
    const rule = profile === "auto" ? "stream.profile.unknown" : `${profile}.header.truncated`;
    refuses(() => new StreamReader({ profile }).finish(), rule, 0);
  }
});
