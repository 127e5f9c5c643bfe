/** Remus's compressed epochs from end to end: what the sender hands out, and what the receiver makes of it. */
import assert from "node:assert/strict";
import { bytesEqual } from "../../lib/base/hex.ts";
import { encodeRemusPage } from "../../lib/stream/delta.ts";
import { RemusReceiver } from "../../lib/stream/delta_receiver.ts";
import { RemusSender, type RemusSenderOptions } from "../../lib/stream/delta_sender.ts";
import { carriesPage, type LegacyRecord, pageSize } from "../../lib/stream/item.ts";
import { pageCodec } from "../../lib/stream/page_codec.ts";
import { samePages } from "./pages.ts";
import { prng } from "./prng.ts";

const entry = (pfn: number, type = 0) => (type << 28 | pfn) >>> 0;

/** Guest memory on both sides of a stream. */
class Memory {
  readonly bytes: Uint8Array<ArrayBuffer>;

  constructor(pages: number) {
    this.bytes = new Uint8Array(pages * pageSize);
  }

  page(pfn: number): Uint8Array<ArrayBuffer> {
    return this.bytes.subarray(pfn * pageSize, (pfn + 1) * pageSize);
  }

  receiver(): RemusReceiver {
    return new RemusReceiver({
      pages: this.bytes.length / pageSize,
      read: (pfn, page) => page.set(this.page(pfn)),
    });
  }

  /** The pages of entries that carry one. */
  gather(entries: Uint32Array): Uint8Array<ArrayBuffer> {
    const parts = [...entries].filter((word) => carriesPage(word >>> 28)).map((word) =>
      this.page(word & 0xfffffff)
    );
    const pages = new Uint8Array(parts.length * pageSize);
    parts.forEach((part, index) => pages.set(part, index * pageSize));
    return pages;
  }
}

/** One epoch in batches of at most `batch` entries. */
function sendEpoch(
  sender: RemusSender,
  memory: Memory,
  words: readonly number[],
  batch = 1024,
): LegacyRecord[] {
  const records: LegacyRecord[] = [];
  for (let at = 0; at < words.length; at += batch) {
    const entries = Uint32Array.from(words.slice(at, at + batch));
    records.push(...sender.add(entries, memory.gather(entries)));
  }
  records.push(...sender.finish());
  return records;
}

/** Gives the records to the receiver; `cut` breaks chunks into pieces. */
function receiveEpoch(
  receiver: RemusReceiver,
  records: readonly LegacyRecord[],
  cut: (size: number) => number = (size) => size,
): void {
  for (const record of records) {
    if (record.name === "BATCH") receiver.entries(record.entries);
    else if (record.name === "COMPRESSED_DATA") {
      assert.ok(record.data.length > 0, "an empty chunk");
      for (let at = 0, size; at < record.data.length; at += size) {
        size = Math.max(1, cut(record.data.length - at));
        receiver.data(record.data.subarray(at, at + size));
      }
    } else assert.fail(record.name);
  }
  receiver.finish();
}

function commit(receiver: RemusReceiver, memory: Memory): void {
  receiver.commit((pfn, page) => memory.page(pfn).set(page));
}

/** `BATCH entries` or `DATA pages` of each record; whole pages only, which are 4097 octets each. */
function shapeOf(records: readonly LegacyRecord[]): string[] {
  return records.map((record) =>
    record.name === "BATCH"
      ? `+${record.entries.length}`
      : record.name === "COMPRESSED_DATA"
      ? `-12:${record.data.length / 4097}`
      : record.name
  );
}

const range = (count: number, first = 0) => Array.from({ length: count }, (_, index) => entry(first + index));

Deno.test("RemusSender sends a page whole, then its delta, then that nothing changed, and page tables always whole", () => {
  const memory = new Memory(16);
  const sender = new RemusSender();
  const sizes = (words: number[]) =>
    sendEpoch(sender, memory, words).map((record) =>
      record.name === "COMPRESSED_DATA" ? record.data.length : -1
    );
  assert.deepEqual(sizes([entry(7), entry(9), entry(3, 1)]), [-1, 3 * 4097]);
  memory.page(7).set([0xde, 0xad, 0xbe, 0xef], 8);
  memory.page(7)[13] = 0x5a;
  memory.page(7)[4092] = 1;
  assert.deepEqual(sizes([entry(7), entry(9), entry(3, 1)]), [-1, 24 + 1 + 4097]);
  assert.equal(sender.cached, 2);
  // A page that becomes a page table leaves the cache, so that it comes back whole.
  assert.deepEqual(sizes([entry(7, 0xa)]), [-1, 4097]);
  assert.equal(sender.cached, 1);
  assert.deepEqual(sizes([entry(7), entry(9)]), [-1, 4097 + 1]);
});

Deno.test("RemusSender drops the page that was not sent for longest when the cache is full", () => {
  const memory = new Memory(8);
  const sender = new RemusSender({ cachePages: 2 });
  const sizes = [1, 2, 1, 3, 1, 2].map((pfn) => {
    const [, chunk] = sendEpoch(sender, memory, [entry(pfn)]);
    return chunk?.name === "COMPRESSED_DATA" ? chunk.data.length : 0;
  });
  assert.deepEqual(sizes, [4097, 4097, 1, 4097, 1, 4097]);
  assert.equal(sender.cached, 2);
});

Deno.test("RemusSender add() makes entries without a page cost nothing and refuses batches that do not fit", () => {
  const sender = new RemusSender({ cachePages: 1, stagingPages: 1 });
  const entries = Uint32Array.of(entry(1, 0xd), entry(2, 0xe), entry(3, 0xf));
  assert.deepEqual(sender.add(entries, new Uint8Array(0)), [
    { name: "BATCH", entries, pages: new Uint8Array(0) },
  ]);
  assert.deepEqual(sender.finish(), []);
  assert.throws(() => sender.add(entries, new Uint8Array(4096)), RangeError);
  assert.throws(() => sender.add(new Uint32Array(0), new Uint8Array(0)), RangeError);
  assert.throws(() => sender.add(new Uint32Array(1025), new Uint8Array(1025 * 4096)), RangeError);
  assert.throws(() => sender.add(Uint32Array.of(1), new Uint8Array(4095)), RangeError);
  assert.throws(() => new RemusSender({ chunkSize: 4104 }), RangeError);
});

Deno.test("RemusSender flushes when the staging is full: 5000 pages of 4096 give 4 batches, a chunk, 904, a chunk", () => {
  const memory = new Memory(5000);
  const sender = new RemusSender({ stagingPages: 4096, chunkSize: 4096 * 4105 });
  assert.deepEqual(shapeOf(sendEpoch(sender, memory, range(5000))), [
    "+1024",
    "+1024",
    "+1024",
    "+1024",
    "-12:4096",
    "+904",
    "-12:904",
  ]);
});

Deno.test("RemusSender flushes within a batch when its pages fill the staging", () => {
  const memory = new Memory(100);
  const sender = new RemusSender({ stagingPages: 30, chunkSize: 10 * 4105 });
  const records = sendEpoch(sender, memory, range(100), 40);
  assert.deepEqual(shapeOf(records), [
    ...["+40", "-12:10", "-12:10", "-12:10"],
    ...["+40", "-12:10", "-12:10", "-12:10"],
    ...["+20", "-12:10", "-12:10", "-12:10", "-12:10"],
  ]);
  const receiver = memory.receiver();
  receiveEpoch(receiver, records);
});

Deno.test("RemusSender keeps the cache true when a chunk fills in the middle of misses, in Remus's own geometry", () => {
  // 16 MiB hold 4094 whole pages and a bit: Remus maps page 4094 before it finds that there is no room, and then
  // takes the slot's old contents for the page's own. The first epoch gives the slots contents.
  const memory = new Memory(3 * 4600);
  const random = prng(4);
  for (let at = 0; at < memory.bytes.length; at += 64) memory.bytes[at] = random(256);
  const mirror = new Memory(3 * 4600);
  const receiver = mirror.receiver();
  const sender = new RemusSender();
  for (const first of [0, 4600, 9200, 0]) {
    const records = sendEpoch(sender, memory, range(4600, first));
    assert.deepEqual(records.filter((record) => record.name === "COMPRESSED_DATA").length, 2);
    receiveEpoch(receiver, records);
    commit(receiver, mirror);
    const [from, to] = [first * pageSize, (first + 4600) * pageSize];
    assert.ok(bytesEqual(mirror.bytes.subarray(from, to), memory.bytes.subarray(from, to)));
    for (let pfn = first; pfn < first + 4600; pfn++) memory.page(pfn)[random(4096)] = random(256);
  }
  assert.equal(sender.cached, 8192);
});

Deno.test("RemusSender does not take a page for known that a page table of its number drove out while it was staged", () => {
  const memory = new Memory(4);
  const mirror = new Memory(4);
  const receiver = mirror.receiver();
  const sender = new RemusSender();
  // The same number twice in one epoch, data and then a page table; and data again in the next.
  const pages = new Uint8Array(2 * 4096).fill(1, 0, 4096).fill(2, 4096);
  receiveEpoch(receiver, [...sender.add(Uint32Array.of(entry(2), entry(2, 1)), pages), ...sender.finish()]);
  commit(receiver, mirror);
  assert.equal(mirror.page(2)[0], 2);
  // Its beginning is what the first of them was: a delta against that would leave out what the receiver has not.
  memory.page(2).fill(1, 0, 100).fill(3, 100);
  receiveEpoch(receiver, sendEpoch(sender, memory, [entry(2)]));
  commit(receiver, mirror);
  samePages(mirror.page(2), memory.page(2));
});

/** Epochs with random pages, types, repeats and cuts: after every commit the receiver has what the sender had. */
function runEpochs(seed: number, options: RemusSenderOptions): void {
  const random = prng(seed);
  const guest = 64;
  const memory = new Memory(guest);
  const mirror = new Memory(guest);
  const receiver = mirror.receiver();
  const sender = new RemusSender(options);
  const epochs = 6;
  for (let epoch = 0; epoch < epochs; epoch++) {
    const records: LegacyRecord[] = [];
    for (let batch = random(5); batch > 0; batch--) {
      const words: number[] = [];
      const pages: Uint8Array[] = [];
      for (let count = 1 + random(30); count > 0; count--) {
        const pfn = random(guest);
        const type = [0, 0, 0, 0, 0, 1, 0xc, 0xd, 0xf][random(9)] ?? 0;
        words.push(entry(pfn, type));
        if (type >= 0xd) continue;
        for (let change = [0, 1, 20, 3000][random(4)] ?? 0; change > 0; change--) {
          memory.page(pfn)[random(4096)] = random(256);
        }
        pages.push(memory.page(pfn).slice());
      }
      const all = new Uint8Array(pages.length * pageSize);
      pages.forEach((page, index) => all.set(page, index * pageSize));
      records.push(...sender.add(Uint32Array.from(words), all));
    }
    records.push(...sender.finish());
    assert.ok(sender.cached <= (options.cachePages ?? 8192));
    const before = mirror.bytes.slice();
    receiveEpoch(receiver, records, (size) => random(3) === 0 ? 1 + random(9) : random(size) + 1);
    assert.ok(bytesEqual(mirror.bytes, before), "memory changed before the commit");
    commit(receiver, mirror);
    assert.ok(bytesEqual(mirror.bytes, memory.bytes), `seed ${seed}, epoch ${epoch}`);
  }
}

Deno.test("RemusReceiver commits what RemusSender was given, with small caches, stagings and chunks, cut anywhere", () => {
  for (let seed = 1; seed <= 40; seed++) {
    const random = prng(seed * 1000);
    runEpochs(seed, {
      cachePages: 1 + random(70),
      stagingPages: 1 + random(40),
      chunkSize: 4105 + random(20_000),
    });
  }
});

Deno.test("RemusSender asks a codec for no more than it has room for", () => {
  runEpochs(7, {
    cachePages: 20,
    stagingPages: 30,
    chunkSize: 3 * 4105 + 100,
    codec: {
      ...pageCodec,
      encodeCached(format, bases, slots, pages, into) {
        assert.ok(slots.length > 0 && into.length >= slots.length * 4105);
        return pageCodec.encodeCached(format, bases, slots, pages, into);
      },
    },
  });
});

const rule = (name: string, offset?: number) =>
  offset === undefined ? { rule: name } : { rule: name, offset };

Deno.test("RemusReceiver refuses an epoch with fewer or more pages than entries, and what is cut short", () => {
  const memory = new Memory(8);
  const cases: [string, number, (receiver: RemusReceiver) => void][] = [
    ["delta.remus.missing", 900, (receiver) => {
      receiver.entries(Uint32Array.of(entry(1), entry(2)));
      receiver.data(Uint8Array.of(0), 100);
      receiver.finish(900);
    }],
    ["delta.remus.trailing", 101, (receiver) => {
      receiver.entries(Uint32Array.of(entry(1), entry(3, 0xf)));
      receiver.data(Uint8Array.of(0, 0x82), 100);
      receiver.finish(900);
    }],
    ["delta.remus.unannounced", 101, (receiver) => {
      receiver.entries(Uint32Array.of(entry(1)));
      receiver.data(Uint8Array.of(0, 0), 100);
    }],
    ["delta.remus.unannounced", 100, (receiver) => {
      // The entries come, but too late.
      receiver.data(Uint8Array.of(0), 100);
      receiver.entries(Uint32Array.of(entry(1)));
    }],
    ["delta.remus.unannounced", 100, (receiver) => receiver.data(Uint8Array.of(0, 0), 100)],
    ["delta.remus.truncated", 100, (receiver) => {
      receiver.entries(Uint32Array.of(entry(1)));
      receiver.data(Uint8Array.of(0xff, 0xff), 100);
      receiver.data(Uint8Array.of(0xff), 200);
      receiver.finish(900);
    }],
    ["delta.remus.run_past_buffer", 100, (receiver) => {
      receiver.entries(Uint32Array.of(entry(1)));
      receiver.data(Uint8Array.of(2, 1, 1), 100);
      receiver.finish(900);
    }],
    ["delta.remus.full_short", 100, (receiver) => {
      receiver.entries(Uint32Array.of(entry(1)));
      receiver.data(new Uint8Array(4096).fill(0x80), 100);
      receiver.finish(900);
    }],
    ["delta.remus.zero_marker", 201, (receiver) => {
      receiver.entries(Uint32Array.of(entry(1)));
      receiver.data(Uint8Array.of(0x82, 0x82), 100);
      receiver.data(Uint8Array.of(0x81, 0x80), 200);
    }],
    ["delta.remus.skip_past_page", 105, (receiver) => {
      receiver.entries(Uint32Array.of(entry(1)));
      receiver.data(new Uint8Array(30).fill(0xff), 97);
    }],
    ["delta.remus.pfn", 50, (receiver) => receiver.entries(Uint32Array.of(entry(8)), 50)],
  ];
  for (const [name, offset, act] of cases) {
    const receiver = memory.receiver();
    assert.throws(() => act(receiver), rule(name, offset), name);
    // Broken: nothing of it can be committed, until it is discarded.
    assert.throws(() => receiver.data(Uint8Array.of(0)), TypeError);
    assert.throws(() => commit(receiver, memory), TypeError);
    receiver.discard();
    receiver.entries(Uint32Array.of(entry(1)));
    receiver.data(Uint8Array.of(0));
    receiver.finish();
    commit(receiver, memory);
  }
  assert.ok(memory.bytes.every((octet) => octet === 0));
});

Deno.test("RemusReceiver leaves memory at the last commit when an epoch breaks behind good pages", () => {
  const memory = new Memory(4);
  const receiver = memory.receiver();
  const now = new Uint8Array(4096).fill(9);
  const good = new Uint8Array(4105);
  encodeRemusPage(new Uint8Array(4096), now, good, 0);
  receiver.entries(Uint32Array.of(entry(0), entry(1)));
  receiver.data(good);
  assert.equal(receiver.changed, 1);
  assert.throws(() => receiver.data(Uint8Array.of(0x81, 0x00)), rule("delta.remus.zero_marker"));
  assert.ok(memory.bytes.every((octet) => octet === 0));
});

Deno.test("RemusReceiver applies a page that comes twice in the order of the entries, once each", () => {
  const memory = new Memory(2);
  memory.page(1).fill(5);
  const receiver = memory.receiver();
  receiver.entries(Uint32Array.of(entry(1), entry(1)));
  // Word 0 becomes 1, then word 1 becomes 2; both remain.
  receiver.data(Uint8Array.of(1, 1, 0, 0, 0, ...new Uint8Array(8).fill(0xff), 0x87));
  receiver.data(Uint8Array.of(0x81, 1, 2, 0, 0, 0, ...new Uint8Array(8).fill(0xff), 0x86));
  receiver.finish();
  const written: number[] = [];
  receiver.commit((pfn, page) => {
    written.push(pfn);
    memory.page(pfn).set(page);
  });
  assert.deepEqual(written, [1]);
  assert.deepEqual([...memory.page(1).subarray(0, 12)], [1, 0, 0, 0, 2, 0, 0, 0, 5, 5, 5, 5]);
});
