/**
 * The converter: vectors whose digests are those of Xen's own converter, and what must hold of every conversion.
 *
 * Outputs are read back by `StreamReader`, which knows nothing of where they come from.
 */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { DroverError, FormatError } from "../../lib/base/errors.ts";
import { bytesEqual } from "../../lib/base/hex.ts";
import { LegacyConverter, type LegacyConverterOptions } from "../../lib/stream/convert.ts";
import { carriesPage, type LegacyHeader, type StreamItem } from "../../lib/stream/item.ts";
import { LegacyReader } from "../../lib/stream/legacy_record.ts";
import { MemoryPageStore } from "../../lib/stream/page_store.ts";
import { StreamReader } from "../../lib/stream/reader.ts";
import { encodeItems } from "../../lib/stream/writer.ts";
import { loadVectors } from "../vectors.ts";
import { legacySample, type LegacySampleOptions } from "./legacy_samples.ts";
import { prng } from "./prng.ts";

type Random = (bound: number) => number;

function* convert(
  bytes: Uint8Array,
  options: LegacyConverterOptions,
  random?: Random,
): Generator<StreamItem> {
  const reader = new LegacyReader();
  const converter = new LegacyConverter(options);
  for (let at = 0; at < bytes.length;) {
    const size = random === undefined ? bytes.length : 1 + random(9000);
    reader.push(bytes.subarray(at, at + size));
    at += size;
    for (let item = reader.next(); item !== null; item = reader.next()) yield* converter.convert(item);
  }
  reader.finish();
  for (let item = reader.next(); item !== null; item = reader.next()) yield* converter.convert(item);
  yield* converter.finish();
}

function join(pieces: Iterable<Uint8Array>): Uint8Array<ArrayBuffer> {
  const parts = [...pieces];
  const bytes = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

function converted(
  bytes: Uint8Array,
  options: LegacyConverterOptions,
  random?: Random,
): Uint8Array<ArrayBuffer> {
  return join(encodeItems(convert(bytes, options, random)));
}

function sha256(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}

function nameOf(item: StreamItem): string {
  return "header" in item ? `${item.layer} header` : `${item.layer} ${item.record.name}`;
}

const outputs = ["libxc", "libxl"] as const;

for (const vector of loadVectors("convert", ["offset", "to", "digest", "skip"])) {
  const to = vector.fields.get("to");
  assert.ok(to === "libxc" || to === "libxl");
  const options = { to, skipDeviceModel: vector.fields.get("skip") === "device-model" } as const;
  Deno.test(`LegacyConverter vector ${vector.name}: ${vector.expect}`, () => {
    if (vector.expect === "ok") {
      assert.equal(sha256(converted(vector.bytes, options)), vector.fields.get("digest"));
      assert.equal(sha256(converted(vector.bytes, options, prng(4))), vector.fields.get("digest"));
      return;
    }
    assert.throws(() => converted(vector.bytes, options), (error: unknown) => {
      assert.ok(error instanceof FormatError);
      assert.equal(error.rule, vector.expect);
      assert.equal(error.offset, Number(vector.fields.get("offset")));
      return true;
    });
  });
}

/** Options without a width, each a guest of its own. */
function* guests(seeds: number): Generator<Omit<LegacySampleOptions, "width">> {
  for (let seed = 1; seed <= seeds; seed++) {
    for (const guest of ["pv", "hvm"] as const) {
      yield { seed, guest, x87: true };
      yield { seed, guest, epochs: 3, lastCheckpoint: seed % 2 === 0 };
      yield { seed, guest, epochs: 4, compressed: true };
    }
    yield { seed, guest: "hvm", deviceModel: "QemuDeviceModelRecord" };
    yield { seed, guest: "hvm", deviceModel: "RemusDeviceModelState" };
  }
}

Deno.test("LegacyConverter makes the same octets of what senders of 32 and of 64 bits sent", () => {
  for (const options of guests(6)) {
    for (const to of outputs) {
      const narrow = converted(legacySample({ ...options, width: 4 }).bytes, { to });
      const wide = converted(legacySample({ ...options, width: 8 }).bytes, { to });
      assert.equal(sha256(narrow), sha256(wide), JSON.stringify(options));
    }
  }
});

Deno.test("LegacyConverter makes the same octets of a Remus stream whether or not it was compressed", () => {
  for (let seed = 1; seed <= 12; seed++) {
    for (const guest of ["pv", "hvm"] as const) {
      const options = { seed, guest, width: seed % 2 === 0 ? 4 : 8, epochs: 4 } as const;
      for (const to of outputs) {
        const plain = converted(legacySample(options).bytes, { to });
        const expanded = converted(legacySample({ ...options, compressed: true }).bytes, { to }, prng(seed));
        assert.equal(sha256(plain), sha256(expanded), JSON.stringify(options));
      }
    }
  }
});

Deno.test("LegacyConverter gives memory back at every CHECKPOINT as it was in that epoch", () => {
  for (const options of guests(4)) {
    const sample = legacySample({ ...options, width: 8 });
    for (const to of outputs) {
      const reader = new StreamReader(to === "libxc" ? { afterEnd: "leave" } : {});
      reader.push(converted(sample.bytes, { to, skipDeviceModel: true }));
      const memory = new Map<number, Uint8Array>();
      const epochs: Map<number, Uint8Array>[] = [];
      for (let item = reader.next(); item !== null; item = reader.next()) {
        if (item.layer !== "libxc" || "header" in item) continue;
        if (item.record.name === "PAGE_DATA") {
          const { pfns, types, pages } = item.record.batch;
          let at = 0;
          for (const [index, pfn] of pfns.entries()) {
            if (!carriesPage(types[index] ?? 0)) continue;
            memory.set(pfn, pages.subarray(at, at + 4096));
            at += 4096;
          }
        }
        const last = sample.memories.length === 1 && item.record.name === "END";
        if (item.record.name === "CHECKPOINT" || last) epochs.push(new Map(memory));
      }
      reader.finish();
      assert.equal(reader.profile, to);
      assert.equal(epochs.length, sample.memories.length);
      for (const [index, epoch] of epochs.entries()) {
        const expected = sample.memories[index] ?? new Map<number, Uint8Array>();
        assert.deepEqual([...epoch.keys()].sort(), [...expected.keys()].sort());
        for (const [pfn, page] of epoch) assert.ok(bytesEqual(page, expected.get(pfn) ?? new Uint8Array(0)));
      }
    }
  }
});

Deno.test("LegacyConverter puts the records of an epoch in the order of today's streams", () => {
  const names = (options: LegacySampleOptions, to: "libxc" | "libxl"): string[] =>
    [...convert(legacySample(options).bytes, { to })].map(nameOf).filter((name, index, all) =>
      name !== all[index - 1] && !name.endsWith("PAGE_DATA")
    );
  const options = { seed: 2, width: 8, guest: "hvm", toolstack: 1, lastCheckpoint: false } as const;
  const tail = ["libxc HVM_PARAMS", "libxc HVM_CONTEXT"];
  const head = ["libxc header", "libxc STATIC_DATA_END", "libxc X86_TSC_INFO"];
  const emulator = ["libxl EMULATOR_XENSTORE_DATA", "libxl EMULATOR_CONTEXT"];
  assert.deepEqual(names(options, "libxc"), [...head, ...tail, "libxc END", "legacy DEVICE_MODEL"]);
  assert.deepEqual(names(options, "libxl"), [
    "libxl header",
    "libxl LIBXC_CONTEXT",
    ...head,
    ...tail,
    "libxc END",
    ...emulator,
    "libxl END",
  ]);
  for (const lastCheckpoint of [false, true]) {
    const remus = { ...options, epochs: 2, lastCheckpoint };
    const epoch = [...tail, "libxc CHECKPOINT"];
    assert.deepEqual(names(remus, "libxc"), [
      ...head,
      ...epoch,
      ...epoch,
      "libxc END",
      "legacy DEVICE_MODEL",
    ]);
    const commit = [...epoch, ...emulator, "libxl CHECKPOINT_END"];
    assert.deepEqual(names(remus, "libxl").slice(2), [
      ...head,
      ...commit,
      ...commit,
      "libxc END",
      "libxl END",
    ]);
  }
});

Deno.test("LegacyConverter ends a cut Remus stream in the epoch in which it was cut", () => {
  for (const to of outputs) {
    const { bytes, ends } = legacySample({ seed: 9, width: 8, guest: "hvm", epochs: 3 });
    const [first = 0, second = 0, third = 0] = ends;
    /** Behind the HVM tail of the last epoch, where only its device model is missing. */
    const tail = new TextDecoder("latin1").decode(bytes).lastIndexOf("DeviceModelRecord0002");
    assert.ok(tail > second && tail < third);
    const cuts: [number, number, boolean][] = [
      [second + 5000, 2, false],
      [tail, 2, false],
      [second, 2, true],
      [first, 0, true],
    ];
    for (const [cut, checkpoints, whole] of cuts) {
      const reader = new LegacyReader();
      const converter = new LegacyConverter({ to });
      const names: string[] = [];
      reader.push(bytes.subarray(0, cut));
      for (let item = reader.next(); item !== null; item = reader.next()) {
        names.push(...[...converter.convert(item)].map(nameOf));
      }
      names.push(...[...converter.finish({ cut: true })].map(nameOf));
      assert.equal(names.filter((name) => name === "libxc CHECKPOINT").length, checkpoints);
      assert.equal(names.includes("libxc END"), whole);
    }
    const reader = new LegacyReader();
    const converter = new LegacyConverter({ to });
    reader.push(bytes.subarray(0, first - 1));
    for (let item = reader.next(); item !== null; item = reader.next()) [...converter.convert(item)];
    assert.throws(() => [...converter.finish({ cut: true })], FormatError);
  }
});

const header: LegacyHeader = { width: 8, guest: "hvm", p2mSize: 64, extendedInfo: null, p2mFrames: null };

/** A converter behind the header, and a function that converts one record. */
function started(
  options: Partial<LegacyConverterOptions> = {},
): (record: Extract<StreamItem, { layer: "legacy" }>["record"]) => StreamItem[] {
  const converter = new LegacyConverter({ to: "libxc", ...options });
  const take = (record: Extract<StreamItem, { layer: "legacy" }>["record"]): StreamItem[] => [
    ...converter.convert({ layer: "legacy", record }),
  ];
  take({ name: "HEADER", header });
  return take;
}

/** Everything up to the end of a first epoch that switches compression on; `entries` are its pages, all ones. */
function enableCompression(take: ReturnType<typeof started>, entries: number[]): void {
  take({
    name: "BATCH",
    entries: Uint32Array.from(entries),
    pages: new Uint8Array(4096 * entries.length).fill(1),
  });
  take({ name: "ENABLE_COMPRESSION" });
  take({ name: "END_OF_BODY" });
  take({ name: "HVM_TAIL", ioreqPfn: 1n, bufioreqPfn: 2n, storePfn: 3n, context: new Uint8Array(1) });
  take({ name: "DEVICE_MODEL", signature: "DeviceModelRecord0002", data: new Uint8Array(0) });
}

Deno.test("LegacyConverter does not copy pages", () => {
  const pages = new Uint8Array(8192);
  const [item] = started()({
    name: "BATCH",
    entries: new Uint32Array([0xf000_0000, 3, 0xd000_0005, 4]),
    pages,
  });
  assert.ok(item?.layer === "libxc" && "record" in item && item.record.name === "PAGE_DATA");
  assert.equal(item.record.batch.pages, pages);
  assert.deepEqual([...item.record.batch.pfns], [3, 5, 4]);
  assert.deepEqual([...item.record.batch.types], [0, 0xd, 0]);
});

Deno.test("LegacyConverter makes no record of a batch of holes", () => {
  const entries = new Uint32Array([0xf000_0000, 0xf000_0000]);
  assert.deepEqual(started()({ name: "BATCH", entries, pages: new Uint8Array(0) }), []);
});

Deno.test("LegacyConverter refuses a difference to a page that it was not told to remember", () => {
  const data = new Uint8Array([0]);
  for (const remember of ["compressed", "all"] as const) {
    const take = started({ remember });
    enableCompression(take, [5]);
    take({ name: "BATCH", entries: new Uint32Array([5]), pages: new Uint8Array(0) });
    if (remember === "compressed") {
      assert.throws(() => take({ name: "COMPRESSED_DATA", data }), { rule: "legacy.compressed.base" });
      assert.throws(() => take({ name: "END_OF_BODY" }), { rule: "legacy.compressed.base" });
      continue;
    }
    const [item] = take({ name: "COMPRESSED_DATA", data });
    assert.ok(item?.layer === "libxc" && "record" in item && item.record.name === "PAGE_DATA");
    assert.deepEqual(item.record.batch.pages, new Uint8Array(4096).fill(1));
  }
});

Deno.test("LegacyConverter expands many pages of few octets one batch at a time", () => {
  let reads = 0;
  const store = new MemoryPageStore();
  const pages = {
    read: (pfn: number, into: Uint8Array): boolean => {
      reads++;
      return store.read(pfn, into);
    },
    write: store.write.bind(store),
  };
  const converter = new LegacyConverter({ to: "libxc", remember: "all", pages });
  const take: ReturnType<typeof started> = (record) => [...converter.convert({ layer: "legacy", record })];
  take({ name: "HEADER", header });
  enableCompression(take, [0, 1, 2, 3]);
  for (let batch = 0; batch < 100; batch++) {
    take({ name: "BATCH", entries: new Uint32Array([0, 1, 2, 3]), pages: new Uint8Array(0) });
  }
  const record = { name: "COMPRESSED_DATA", data: new Uint8Array(400) } as const;
  let batches = 0;
  for (const item of converter.convert({ layer: "legacy", record })) {
    assert.equal(nameOf(item), "libxc PAGE_DATA");
    batches++;
    assert.equal(reads, 4 * batches);
  }
  assert.equal(batches, 100);
});

Deno.test("LegacyConverter bounds what waits for compressed pages", () => {
  for (const size of [1, 1024]) {
    const take = started();
    enableCompression(take, [5]);
    const entries = Uint32Array.from({ length: size }, (_, at) => at);
    const record = { name: "BATCH", entries, pages: new Uint8Array(0) } as const;
    for (let count = 0; count < Math.min(65_536, 1_048_576 / size); count++) take(record);
    assert.throws(() => take(record), { rule: "legacy.compressed.backlog" });
  }
});

Deno.test("LegacyConverter expands a long queue of small batches in order and in time", () => {
  const take = started({ remember: "all" });
  enableCompression(take, [0, 1, 2, 3]);
  for (let count = 0; count < 6000; count++) {
    take({ name: "BATCH", entries: new Uint32Array([count % 4]), pages: new Uint8Array(0) });
  }
  const items = take({ name: "COMPRESSED_DATA", data: new Uint8Array(5999) });
  assert.equal(items.length, 5999);
  const last = items.at(-1);
  assert.ok(last?.layer === "libxc" && "record" in last && last.record.name === "PAGE_DATA");
  assert.deepEqual([...last.record.batch.pfns], [5998 % 4]);
  assert.throws(() => take({ name: "END_OF_BODY" }), { rule: "legacy.compressed.missing" });
});

Deno.test("LegacyConverter wants every item taken before the next, and items that belong together", () => {
  const converter = new LegacyConverter({ to: "libxc" });
  const item: StreamItem = { layer: "legacy", record: { name: "HEADER", header } };
  const items = converter.convert(item);
  assert.throws(() => converter.convert(item), TypeError);
  [...items];
  assert.throws(() => [...converter.convert(item)], TypeError);
  assert.throws(() => started()({ name: "DEVICE_MODEL", signature: "", data: new Uint8Array(0) }), TypeError);
  const other = new LegacyConverter({ to: "libxc" });
  assert.throws(() => [...other.convert({ layer: "region", header: { bigEndian: false } })], {
    rule: "legacy.layer",
  });
  assert.throws(() => [...new LegacyConverter({ to: "libxl" }).finish()], { rule: "legacy.end.missing" });
});

Deno.test("LegacyConverter passes an xl header on, and says in it that libxl follows", () => {
  const data = new Uint8Array([1, 2, 3]);
  const xl = { bigEndian: false, mandatoryFlags: 1, optionalFlags: 0, data };
  for (const to of outputs) {
    const items = [...new LegacyConverter({ to }).convert({ layer: "xl", header: xl })];
    assert.deepEqual(items, [{ layer: "xl", header: { ...xl, mandatoryFlags: to === "libxl" ? 3 : 1 } }]);
  }
});

Deno.test("LegacyConverter refuses damaged compressed epochs, and nothing else comes of them", () => {
  const random = prng(77);
  const streams = [1, 2, 3, 4].map((seed) =>
    legacySample({
      seed,
      width: seed % 2 === 0 ? 4 : 8,
      guest: "hvm",
      epochs: 3,
      compressed: true,
      entries: 4,
    })
  );
  for (let round = 0; round < 300; round++) {
    const sample = streams[random(streams.length)];
    assert.ok(sample);
    const bytes = sample.bytes.slice();
    const from = sample.ends[0] ?? 0;
    const at = from + random(bytes.length - from);
    bytes[at] = (bytes[at] ?? 0) ^ 1 << random(8);
    try {
      const out = converted(bytes, { to: "libxl" });
      const reader = new StreamReader();
      reader.push(out);
      while (reader.next() !== null);
      reader.finish();
    } catch (error) {
      assert.ok(error instanceof FormatError, String(error));
    }
  }
});

Deno.test("MemoryPageStore holds pages wherever they are, and no more than it may", () => {
  const random = prng(3);
  const store = new MemoryPageStore({ pagesMax: 600 });
  const expected = new Map<number, number>();
  const page = new Uint8Array(4096);
  while (expected.size < 600) {
    const pfn = random(2) === 0 ? random(2000) : random(2 ** 28);
    const value = random(256);
    expected.set(pfn, value);
    store.write(pfn, page.fill(value));
  }
  assert.equal(store.count, 600);
  for (const [pfn, value] of expected) {
    assert.ok(store.read(pfn, page));
    assert.deepEqual([page[0], page[4095]], [value, value]);
  }
  page.fill(9);
  assert.equal(store.read(2 ** 28, page), false);
  assert.equal(page[0], 9);
  assert.throws(() => store.write(2 ** 28, page), DroverError);
  const [pfn = 0] = expected.keys();
  store.write(pfn, page);
  assert.throws(() => store.write(1, new Uint8Array(5)), TypeError);
});
