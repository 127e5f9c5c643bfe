/** The legacy codec: vectors, streams from seeds, chunks of any size, and streams that were damaged. */
import assert from "node:assert/strict";
import { FormatError } from "../../lib/base/errors.ts";
import { bytesEqual } from "../../lib/base/hex.ts";
import type { LegacyRecord } from "../../lib/stream/item.ts";
import {
  encodeLegacyRecord,
  LegacyReader,
  type LegacyReaderOptions,
  type PlacedLegacyRecord,
} from "../../lib/stream/legacy_record.ts";
import { loadVectors } from "../vectors.ts";
import { legacySample, type LegacySampleOptions } from "./legacy_samples.ts";
import { prng } from "./prng.ts";

type Random = (bound: number) => number;

/** Reads in chunks of random sizes, some into the open body, and wipes each chunk behind the reader. */
function read(
  bytes: Uint8Array,
  options: LegacyReaderOptions & { random?: Random } = {},
): PlacedLegacyRecord[] {
  const { random, ...rest } = options;
  const reader = new LegacyReader(rest);
  const items: PlacedLegacyRecord[] = [];
  const drain = (): void => {
    for (let item = reader.next(); item !== null; item = reader.next()) items.push(item);
  };
  const sizes = bytes.length > 50_000 ? [64, 5000, bytes.length] : [1, 3, 64, 5000, bytes.length];
  const chunkMax = random === undefined ? bytes.length : sizes[random(sizes.length)] ?? 1;
  for (let at = 0; at < bytes.length;) {
    const size = random === undefined ? bytes.length : Math.min(1 + random(chunkMax), bytes.length - at);
    const open = reader.openBody();
    if (open.length > 0 && random !== undefined && random(2) === 0) {
      const part = Math.min(size, open.length);
      open.set(bytes.subarray(at, at + part));
      reader.filledBody(part);
      at += part;
      drain();
      continue;
    }
    const chunk = bytes.slice(at, at + size);
    reader.push(chunk);
    drain();
    chunk.fill(0x77);
    at += size;
  }
  reader.finish();
  drain();
  return items;
}

function write(items: PlacedLegacyRecord[]): Uint8Array {
  const header = items[0]?.record;
  const width = header?.name === "HEADER" ? header.header.width : 8;
  const pieces = items.flatMap(({ record }) => encodeLegacyRecord(record, width));
  const bytes = new Uint8Array(pieces.reduce((size, piece) => size + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    bytes.set(piece, at);
    at += piece.length;
  }
  return bytes;
}

function refusal(run: () => unknown): FormatError | null {
  try {
    run();
    return null;
  } catch (error) {
    assert.ok(error instanceof FormatError, String(error));
    return error;
  }
}

/** Options of samples: every combination of what matters, over a few seeds. */
function* samples(seeds: number): Generator<LegacySampleOptions> {
  for (let seed = 1; seed <= seeds; seed++) {
    for (const width of [4, 8] as const) {
      for (const guest of ["pv", "hvm"] as const) {
        yield { seed, width, guest };
        yield { seed, width, guest, epochs: 3, lastCheckpoint: seed % 2 === 0, x87: true };
        yield { seed, width, guest, epochs: 3, compressed: true, verify: false };
      }
      yield { seed, width, guest: "hvm", deviceModel: "QemuDeviceModelRecord" };
      yield { seed, width, guest: "hvm", deviceModel: "RemusDeviceModelState", lastCheckpoint: false };
      yield { seed, width, guest: "hvm", deviceModel: null };
    }
  }
}

for (const vector of loadVectors("legacy", ["offset", "width", "guest"])) {
  Deno.test(`LegacyReader vector ${vector.name}: ${vector.expect}`, () => {
    const options: LegacyReaderOptions = {};
    if (vector.fields.get("width") === "64") options.width = 8;
    if (vector.fields.get("guest") === "pv") options.guest = "pv";
    for (let seed = 0; seed < 4; seed++) {
      const random = seed === 0 ? {} : { random: prng(seed) };
      if (vector.expect === "ok") {
        assert.deepEqual(write(read(vector.bytes, { ...options, ...random })), vector.bytes);
        continue;
      }
      const error = refusal(() => read(vector.bytes, { ...options, ...random }));
      assert.equal(error?.rule, vector.expect);
      assert.equal(error.offset, Number(vector.fields.get("offset")));
    }
  });
}

Deno.test("LegacyReader gives back what was read, and finds width and guest", () => {
  for (const options of samples(4)) {
    const { bytes } = legacySample(options);
    const items = read(bytes);
    assert.ok(bytesEqual(write(items), bytes), JSON.stringify(options));
    const header = items[0]?.record;
    assert.ok(header?.name === "HEADER");
    assert.equal(header.header.width, options.width);
    assert.equal(header.header.guest, options.guest);
    let offset = 0;
    for (const [index, { place }] of items.entries()) {
      assert.deepEqual([place.index, place.offset], [index, offset]);
      offset += place.size;
    }
    assert.equal(offset, bytes.length);
  }
});

Deno.test("LegacyReader gives the same items whatever the chunks", () => {
  const random = prng(5);
  for (const options of samples(2)) {
    const { bytes } = legacySample(options);
    assert.deepEqual(read(bytes, { random }), read(bytes), JSON.stringify(options));
  }
});

Deno.test("LegacyReader takes a width and a guest that it is told", () => {
  const { bytes } = legacySample({ seed: 3, width: 8, guest: "hvm" });
  assert.deepEqual(read(bytes, { width: 8, guest: "hvm" }), read(bytes));
  assert.notEqual(refusal(() => read(bytes, { width: 4 })), null);
  assert.notEqual(refusal(() => read(bytes, { guest: "pv" })), null);
});

Deno.test("LegacyReader counts offsets and items from where it is told", () => {
  const { bytes } = legacySample({ seed: 3, width: 4, guest: "pv" });
  const items = read(bytes, { offset: 100, index: 7 });
  assert.deepEqual(items[0]?.place, { ...read(bytes)[0]?.place, offset: 100, index: 7 });
  const error = refusal(() => read(bytes.subarray(0, 50), { offset: 100, index: 7 }));
  assert.deepEqual([error?.rule, error?.offset], ["legacy.header.truncated", 150]);
});

Deno.test("LegacyReader refuses a stream cut anywhere but behind an epoch", () => {
  const random = prng(11);
  for (const options of samples(2)) {
    if (options.deviceModel === "QemuDeviceModelRecord" || options.deviceModel === null) continue;
    const { bytes, ends } = legacySample(options);
    for (const cut of [...ends, ...Array.from({ length: 30 }, () => random(bytes.length))]) {
      const reader = new LegacyReader();
      reader.push(bytes.subarray(0, cut));
      let last = "";
      for (let item = reader.next(); item !== null; item = reader.next()) last = item.record.name;
      const error = refusal(() => reader.finish());
      if (ends.includes(cut) || last === "HVM_TAIL" && reader.atBoundary) {
        assert.equal(error, null, `${JSON.stringify(options)} ${cut}`);
      } else {
        assert.match(error?.rule ?? "", /^legacy\.(header\.truncated|record\.truncated|end\.missing)$/);
        assert.equal(error?.offset, cut);
        assert.equal(reader.epochs, ends.filter((end) => end <= cut).length);
      }
    }
  }
});

Deno.test("LegacyReader reads pages into memory that it is given, and asks for no more than a batch", () => {
  const { bytes } = legacySample({ seed: 8, width: 8, guest: "hvm", batches: 4 });
  const given: Uint8Array[] = [];
  const items = read(bytes, {
    allocate: (size) => {
      assert.ok(size <= 1024 * 4096);
      given.push(new Uint8Array(size));
      return given.at(-1) as Uint8Array<ArrayBuffer>;
    },
  });
  const pages = items.flatMap(({ record }) =>
    record.name === "BATCH" && record.pages.length > 0 ? [record.pages] : []
  );
  assert.equal(pages.length, given.length);
  for (const [index, page] of pages.entries()) assert.equal(page.buffer, given[index]?.buffer);
});

Deno.test("LegacyReader refuses damaged streams or gives back what was read", () => {
  const random = prng(23);
  const streams = [...samples(2)].map((sample) => legacySample({ ...sample, entries: 3, batches: 1 }).bytes);
  for (let round = 0; round < 400; round++) {
    const bytes = streams[random(streams.length)]?.slice() ?? new Uint8Array(0);
    // Where the structure is: mostly near the ends, where pages are not.
    for (let count = 1 + random(3); count > 0; count--) {
      const at = random(3) === 0
        ? random(bytes.length)
        : random(2) === 0
        ? random(64)
        : bytes.length - 1 - random(64);
      bytes[at] = random(2) === 0 ? random(256) : (bytes[at] ?? 0) ^ 1 << random(8);
    }
    let items: PlacedLegacyRecord[] = [];
    const error = refusal(() => {
      items = read(bytes, { random });
    });
    if (error === null) assert.ok(bytesEqual(write(items), bytes));
    else {
      assert.match(error.rule, /^legacy\./);
      assert.ok(error.offset >= 0 && error.offset <= bytes.length);
    }
  }
});

Deno.test("LegacyReader stays broken after an error, and refuses misuse", () => {
  const reader = new LegacyReader();
  reader.push(new Uint8Array(16));
  assert.throws(() => reader.next(), { rule: "legacy.header.p2m_size" });
  assert.throws(() => reader.next(), { rule: "legacy.header.p2m_size" });
  assert.throws(() => reader.finish(), { rule: "legacy.header.p2m_size" });
  const busy = new LegacyReader();
  busy.push(legacySample({ seed: 1, width: 8, guest: "hvm" }).bytes);
  assert.throws(() => busy.push(new Uint8Array(1)), TypeError);
  assert.throws(() => busy.finish(), TypeError);
  assert.throws(() => busy.filledBody(1), TypeError);
});

Deno.test("encodeLegacyRecord() refuses what has no place in the stream", () => {
  const header = { width: 8, guest: "hvm", p2mSize: 5, extendedInfo: null, p2mFrames: null } as const;
  assert.throws(() => encodeLegacyRecord({ name: "HEADER", header }, 4), TypeError);
  const pages = new Uint8Array(0);
  assert.throws(
    () => encodeLegacyRecord({ name: "BATCH", entries: new Uint32Array(1025), pages }, 4),
    TypeError,
  );
  assert.throws(
    () => encodeLegacyRecord({ name: "BATCH", entries: new Uint32Array(0), pages }, 4),
    TypeError,
  );
  const tail: LegacyRecord = {
    name: "PV_TAIL",
    unmapped: new BigUint64Array([2n ** 32n]),
    vcpus: [],
    sharedInfo: pages,
  };
  assert.throws(() => encodeLegacyRecord(tail, 4), TypeError);
  assert.equal(encodeLegacyRecord(tail, 8)[1]?.length, 8);
  assert.throws(
    () => encodeLegacyRecord({ name: "DEVICE_MODEL", signature: "DeviceModelRecord0003", data: pages }, 8),
    TypeError,
  );
});

Deno.test("encodeLegacyRecord() copies no page", () => {
  const pages = new Uint8Array(4096);
  const pieces = encodeLegacyRecord({ name: "BATCH", entries: new Uint32Array([5]), pages }, 8);
  assert.equal(pieces[1], pages);
});
