/** Images against a model that keeps each page as an array of its own. */
import assert from "node:assert/strict";
import { FormatError } from "../../lib/base/errors.ts";
import { bytesEqual } from "../../lib/base/hex.ts";
import { CheckpointReceiver, type ReceivedItem } from "../../lib/stream/checkpoint.ts";
import { encodePages, regionPageSizeMax } from "../../lib/stream/delta.ts";
import { type PageRange, pageSize, pageTypes, type StreamItem } from "../../lib/stream/item.ts";
import { diffImages, type ImageDifference } from "../../lib/stream/image_diff.ts";
import { EpochImage, ImageTarget, ImageWriter } from "../../lib/stream/image_target.ts";
import { MemoryImage } from "../../lib/stream/memory_image.ts";
import { isZeroPage } from "../../lib/stream/page_compare.ts";
import { PageSet } from "../../lib/stream/page_set.ts";
import { prng } from "./prng.ts";

const sizeMax = 1 << 26;

function place(item: StreamItem, index = 0): ReceivedItem {
  return { ...item, place: { index, offset: 100 * index, size: 8 } };
}

/** A page whose content is told by one number; 0 is the zero page. */
function page(value: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(pageSize);
  if (value > 0) {
    const view = new DataView(bytes.buffer);
    for (let at = 0; at < pageSize; at += 64) view.setUint32(at, value);
  }
  return bytes;
}

/** The number of a page. */
function valueOf(bytes: Uint8Array): number {
  const value = new DataView(bytes.buffer, bytes.byteOffset).getUint32(0);
  assert.ok(bytesEqual(bytes, page(value)), "the page is none of those that were written");
  return value;
}

/** A PAGE_DATA item: `[pfn, value]`, or `[pfn, null, type]` for an entry without contents. */
function pageData(
  entries: readonly (readonly [number, number | null, number?])[],
  layer: "libxc" | "region" = "libxc",
): ReceivedItem {
  const pages = entries.flatMap(([, value]) => value === null ? [] : [page(value)]);
  const joined = new Uint8Array(pages.length * pageSize);
  pages.forEach((bytes, at) => joined.set(bytes, at * pageSize));
  const batch = {
    pfns: new Float64Array(entries.map(([pfn]) => pfn)),
    types: new Uint8Array(entries.map(([, value, type]) => type ?? (value === null ? pageTypes.invalid : 0))),
    pages: joined,
  };
  const record = { name: "PAGE_DATA", batch } as const;
  return place(layer === "libxc" ? { layer, record } : { layer, record });
}

function deltas(changes: readonly (readonly [pfn: number, old: number, now: number])[]): ReceivedItem {
  const room = new Uint8Array(regionPageSizeMax * changes.length);
  const olds = new Uint8Array(pageSize * changes.length);
  const news = new Uint8Array(pageSize * changes.length);
  changes.forEach(([, old, now], at) => {
    olds.set(page(old), at * pageSize);
    news.set(page(now), at * pageSize);
  });
  const size = encodePages(olds, news, changes.length, room);
  return place({
    layer: "region",
    record: {
      name: "PAGE_DELTAS",
      deltas: { pfns: new Float64Array(changes.map(([pfn]) => pfn)), data: room.slice(0, size) },
    },
  });
}

function zeros(...ranges: (readonly [pfn: number, count: number])[]): ReceivedItem {
  return place({
    layer: "region",
    record: { name: "ZERO_RANGES", ranges: ranges.map(([pfn, count]) => ({ pfn, count })) },
  });
}

function info(pages: number): ReceivedItem {
  return place({
    layer: "region",
    record: { name: "REGION_INFO", regionId: new Uint8Array(16), pages, term: 0n, label: "" },
  });
}

const checkpoint = place({ layer: "region", record: { name: "CHECKPOINT" } });

/** The whole image as numbers. */
function contents(image: MemoryImage, pages: number): number[] {
  return Array.from({ length: pages }, (_, pfn) => valueOf(image.page(pfn)));
}

function rule(name: string): (error: unknown) => boolean {
  return (error) => {
    assert.ok(error instanceof FormatError, String(error));
    assert.equal(error.rule, name);
    return true;
  };
}

Deno.test("PageSet is a set, with runs and ranges, over random steps", () => {
  const random = prng(31);
  for (let round = 0; round < 30; round++) {
    const set = new PageSet();
    const model = new Set<number>();
    const bases = [0, 4090, 2 ** 40, 2 ** 52 - 40];
    for (let step = 0; step < 300; step++) {
      const pfn = (bases[random(4)] ?? 0) + random(40);
      if (random(3) > 0) {
        assert.equal(set.add(pfn), !model.has(pfn));
        model.add(pfn);
      } else {
        assert.equal(set.delete(pfn), model.delete(pfn));
      }
      assert.equal(set.has(pfn), model.has(pfn));
    }
    const sorted = [...model].sort((left, right) => left - right);
    assert.equal(set.size, sorted.length);
    const listed: number[] = [];
    let end = -1;
    for (const run of set.runs()) {
      assert.ok(run.pfn > end, "runs are as long as they can be");
      for (let at = 0; at < run.count; at++) listed.push(run.pfn + at);
      end = run.pfn + run.count;
    }
    assert.deepEqual(listed, sorted);
    const ranges: PageRange[] = [];
    for (let pfn = random(10); pfn < 9000; pfn += 1 + random(60)) {
      const count = 1 + random(pfn < 4000 ? 2000 : 30);
      ranges.push({ pfn, count });
      pfn += count;
    }
    ranges.push({ pfn: 2 ** 40 + 3, count: 20 });
    assert.deepEqual(
      set.within(ranges),
      sorted.filter((pfn) => ranges.some((range) => pfn >= range.pfn && pfn < range.pfn + range.count)),
    );
    set.clear();
    assert.equal(set.size, 0);
    assert.deepEqual([...set.runs()], []);
  }
});

Deno.test("PageSet forgets where numbers were, so that looking for others stays cheap", () => {
  const set = new PageSet();
  const far = (index: number): number => index * 2 ** 30;
  for (let index = 0; index < 4000; index++) set.add(far(index));
  for (let index = 0; index < 4000; index++) if (index !== 7) set.delete(far(index));
  assert.equal(set.size, 1);
  // Ranges of all numbers, a hundred thousand times: each step over what is not there any more would be seen.
  for (let round = 0; round < 100_000; round++) {
    assert.equal(set.within([{ pfn: 0, count: far(7) }, { pfn: far(7) + 1, count: 2 ** 51 }]).length, 0);
  }
  assert.deepEqual(set.within([{ pfn: 0, count: 2 ** 52 }]), [far(7)]);
});

Deno.test("ImageWriter: the last writer wins, and an entry without contents changes only the type", () => {
  const image = new MemoryImage({ sizeMax });
  const writer = new ImageWriter(image);
  writer.take(pageData([[3, 7], [4, 8], [1, 9, pageTypes.l1], [9, null, pageTypes.broken]]));
  writer.take(
    pageData([[4, 5], [3, null], [12, null, pageTypes.allocateOnly], [0, 2], [1, 6, pageTypes.l4Pinned]]),
  );
  assert.deepEqual(contents(image, 13), [2, 6, 0, 7, 5, 0, 0, 0, 0, 0, 0, 0, 0]);
  assert.deepEqual([1, 3, 4, 9, 12].map((pfn) => image.type(pfn)), [
    pageTypes.l4Pinned,
    pageTypes.invalid,
    0,
    pageTypes.broken,
    pageTypes.allocateOnly,
  ]);
  assert.equal(image.pages, 5);
  writer.take(pageData([[3, 1]]));
  assert.equal(image.type(3), 0);
  // The same frame twice in a record, which strict readers refuse: still the last one.
  writer.take(pageData([[6, 1], [6, 2], [7, 3], [6, 4]]));
  assert.deepEqual(contents(image, 8).slice(6), [4, 3]);
});

Deno.test("ImageWriter compares behind VERIFY and writes nothing until the section ends", () => {
  const image = new MemoryImage({ sizeMax });
  const writer = new ImageWriter(image);
  writer.take(pageData([[0, 1], [1, 2]]));
  writer.take(place({ layer: "libxc", record: { name: "VERIFY" } }));
  writer.take(pageData([[0, 1], [1, 3], [2, null], [5, 0]]));
  assert.deepEqual([writer.compared, writer.mismatches], [3, 1]);
  assert.deepEqual(contents(image, 3), [1, 2, 0]);
  assert.equal(image.type(2), 0);
  writer.take(place({ layer: "libxc", record: { name: "CHECKPOINT" } }));
  writer.take(pageData([[1, 3]]));
  assert.deepEqual(contents(image, 2), [1, 3]);
});

Deno.test("ImageWriter refuses frames outside of the memory", () => {
  const pv = new ImageWriter(new MemoryImage({ sizeMax }));
  const frames = new BigUint64Array(1);
  pv.take(place({ layer: "libxc", record: { name: "X86_PV_P2M_FRAMES", startPfn: 0, endPfn: 7, frames } }));
  pv.take(pageData([[7, 1]]));
  assert.throws(() => pv.take(pageData([[8, 1]])), rule("image.pfn"));
  assert.throws(() => pv.take(pageData([[8, null]])), rule("image.pfn"));
  const region = new ImageWriter(new MemoryImage({ sizeMax }));
  region.take(info(8));
  assert.throws(() => region.take(zeros([7, 2])), rule("image.pfn"));
  assert.throws(() => region.take(deltas([[8, 0, 1]])), rule("image.pfn"));
});

Deno.test("MemoryImage holds no more than sizeMax, however far apart the pages are", () => {
  const image = new MemoryImage({ sizeMax: 1 << 20 });
  const writer = new ImageWriter(image);
  assert.throws(() => {
    for (let pfn = 0; pfn < 2 ** 52; pfn += 2 ** 40) writer.take(pageData([[pfn, 1]]));
  }, rule("image.size"));
  const typed = new MemoryImage({ sizeMax: 1 << 12 });
  assert.throws(() => {
    for (let pfn = 0; pfn < 1000; pfn++) typed.types(new Float64Array([pfn]), new Uint8Array([0xf]));
  }, rule("image.size"));
});

Deno.test("ImageTarget refuses deltas in the first section", () => {
  const target = new ImageTarget({
    image: new MemoryImage({ sizeMax }),
    scratch: new MemoryImage({ sizeMax }),
  });
  target.apply(info(8));
  assert.throws(() => target.apply(deltas([[0, 0, 1]])), rule("image.delta.first"));
});

Deno.test("ImageTarget leaves the committed image alone when a delta is malformed", () => {
  const image = new MemoryImage({ sizeMax });
  const target = new ImageTarget({ image, scratch: new MemoryImage({ sizeMax }) });
  const receiver = new CheckpointReceiver({ target, epochSizeMax: sizeMax });
  for (
    const item of [info(8), pageData([[0, 1], [1, 2]], "region"), checkpoint, pageData([[0, 5]], "region")]
  ) {
    receiver.take(item);
  }
  const bad = deltas([[1, 2, 3]]);
  if (!("record" in bad) || bad.record.name !== "PAGE_DELTAS") throw new Error("not a delta");
  bad.record.deltas.data[0] = 0x77;
  assert.throws(() => receiver.take(bad), FormatError);
  assert.equal(receiver.fail(new Error("malformed")).status, "failover");
  assert.deepEqual(contents(image, 2), [1, 2]);
});

Deno.test("ImageTarget gives every committed epoch of random regions, at every cut", () => {
  const pages = 40;
  for (let seed = 1; seed <= 40; seed++) {
    const random = prng(seed);
    // The model: whole images as arrays, one per committed epoch.
    let now = new Array<number>(pages).fill(0);
    const items: ReceivedItem[] = [info(pages)];
    const commits: { at: number; image: number[] }[] = [];
    for (let epoch = 1; epoch <= 4; epoch++) {
      now = [...now];
      for (let step = random(6); step >= 0; step--) {
        const chosen = [...new Set(Array.from({ length: 1 + random(9) }, () => random(pages)))];
        const kind = random(epoch === 1 ? 2 : 3);
        if (kind === 0) {
          const entries = chosen.map((pfn) => [pfn, random(5) === 0 ? 0 : 1 + random(1000)] as const);
          for (const [pfn, value] of entries) now[pfn] = value;
          items.push(pageData(entries, "region"));
        } else if (kind === 1) {
          const ranges: [number, number][] = [];
          for (let pfn = random(pages); pfn < pages; pfn += 1 + random(20)) {
            const count = Math.min(pages - pfn, 1 + random(8));
            ranges.push([pfn, count]);
            now.fill(0, pfn, pfn + count);
            pfn += count;
          }
          items.push(zeros(...ranges));
        } else {
          const before = now;
          const changes = chosen.map((pfn) => [pfn, before[pfn] ?? 0, 1 + random(1000)] as const);
          for (const [pfn, , value] of changes) now[pfn] = value;
          items.push(deltas(changes));
        }
      }
      items.push(checkpoint);
      commits.push({ at: items.length, image: now });
    }
    for (let cut = 0; cut <= items.length; cut++) {
      const image = new MemoryImage({ sizeMax });
      const target = new ImageTarget({ image, scratch: new MemoryImage({ sizeMax }) });
      const receiver = new CheckpointReceiver({ target, epochSizeMax: sizeMax });
      for (const item of items.slice(0, cut)) receiver.take(item);
      const last = commits.findLast(({ at }) => at <= cut);
      if (last === undefined) {
        assert.throws(() => receiver.finish(), rule("checkpoint.none"));
      } else {
        assert.equal(receiver.finish().epochs, commits.indexOf(last) + 1);
        assert.deepEqual(contents(image, pages), last.image, `seed ${seed}, cut at item ${cut}`);
      }
    }
  }
});

Deno.test("EpochImage reads through to its base, past zero ranges and what it wrote", () => {
  const base = new MemoryImage({ sizeMax });
  for (let pfn = 0; pfn < 8; pfn++) base.write(pfn, page(pfn + 1));
  const epoch = new EpochImage({ base, scratch: new MemoryImage({ sizeMax }) });
  epoch.write(2, page(20));
  epoch.zero([{ pfn: 1, count: 3 }, { pfn: 6, count: 1 }]);
  epoch.write(3, page(30));
  epoch.zero([{ pfn: 4, count: 1 }]);
  const into = new Uint8Array(8 * pageSize);
  const read = (): number[] => {
    epoch.read(0, into);
    return Array.from({ length: 8 }, (_, pfn) => valueOf(into.slice(pfn * pageSize, (pfn + 1) * pageSize)));
  };
  assert.deepEqual(read(), [1, 0, 0, 30, 0, 6, 0, 8]);
  assert.deepEqual(contents(base, 8), [1, 2, 3, 4, 5, 6, 7, 8]);
  epoch.commit();
  assert.deepEqual(contents(base, 8), [1, 0, 0, 30, 0, 6, 0, 8]);
  epoch.write(0, page(9));
  epoch.clear();
  assert.deepEqual(read(), [1, 0, 0, 30, 0, 6, 0, 8]);
});

Deno.test("EpochImage reads what it made zero, in whatever order and records that came", () => {
  const pages = 6000;
  const random = prng(5);
  const base = new MemoryImage({ sizeMax });
  for (let pfn = 0; pfn < pages; pfn++) base.write(pfn, page(1));
  const epoch = new EpochImage({ base, scratch: new MemoryImage({ sizeMax }) });
  const model = new Array<number>(pages).fill(1);
  const into = new Uint8Array(pageSize);
  for (let round = 0; round < 6000; round++) {
    const pfn = random(pages);
    if (round % 2000 === 1500) {
      // More ranges than are put in their place one by one.
      const ranges: PageRange[] = [];
      for (let at = random(4); at < pages - 1; at += 2 + random(3)) ranges.push({ pfn: at, count: 1 });
      epoch.zero(ranges);
      for (const range of ranges) model[range.pfn] = 0;
    } else if (random(4) === 0) {
      epoch.write(pfn, page(2 + random(5)));
      epoch.read(pfn, into);
      model[pfn] = valueOf(into);
    } else {
      const count = Math.min(pages - pfn, 1 + random(2));
      epoch.zero([{ pfn, count }]);
      model.fill(0, pfn, pfn + count);
    }
    const looked = random(pages);
    epoch.read(looked, into);
    assert.equal(valueOf(into), model[looked], `page ${looked} in round ${round}`);
  }
  assert.deepEqual(contents(base, pages), new Array<number>(pages).fill(1), "nothing is committed");
  epoch.commit();
  assert.deepEqual(contents(base, pages), model);
});

Deno.test("EpochImage holds many runs of zero pages in time, the last one first, and no more than it may", () => {
  const epoch = new EpochImage({ base: new MemoryImage({ sizeMax }), scratch: new MemoryImage({ sizeMax }) });
  const most = 262_144;
  for (let at = most; at > 0; at--) epoch.zero([{ pfn: 2 * at, count: 1 }]);
  assert.throws(() => {
    for (let at = 0; at < 4096; at++) epoch.zero([{ pfn: 2 * (most + 1 + at), count: 1 }]);
  }, rule("image.ranges"));
});

Deno.test("diffImages() finds exactly the pages that differ, over random images", () => {
  for (let seed = 1; seed <= 60; seed++) {
    const random = prng(seed);
    const pages = 300;
    const images = [0, 1].map(() => new MemoryImage({ sizeMax }));
    const models = [0, 1].map(() => new Array<number>(pages).fill(0));
    for (let step = 0; step < 30; step++) {
      const side = random(3);
      const first = random(pages);
      const value = random(4);
      for (let pfn = first; pfn < Math.min(pages, first + random(60)); pfn++) {
        for (const which of side === 2 ? [0, 1] : [side]) {
          images[which]?.write(pfn, page(value));
          (models[which] ?? [])[pfn] = value;
        }
      }
    }
    const [left, right] = images;
    assert.ok(left !== undefined && right !== undefined);
    const kinds = new Array<string>(pages).fill("");
    let end = -1;
    let before = "";
    for (const { pfn, count, kind } of diffImages(left, right)) {
      assert.ok(pfn > end || (pfn === end && kind !== before), "runs are as long as they can be");
      kinds.fill(kind, pfn, pfn + count);
      [end, before] = [pfn + count, kind];
    }
    const expected = kinds.map((_, pfn): string => {
      const [one, two] = models.map((model) => model[pfn]);
      return one === two ? "" : two === 0 ? "left" : one === 0 ? "right" : "changed";
    });
    assert.deepEqual(kinds, expected, `seed ${seed}`);
    assert.deepEqual([...diffImages(left, left)], [] as ImageDifference[]);
  }
});

Deno.test("isZeroPage() sees each single octet, aligned or not", () => {
  for (const shift of [0, 1]) {
    const bytes = new Uint8Array(2 * pageSize + shift);
    const pages = bytes.subarray(shift);
    assert.ok(isZeroPage(pages, pageSize));
    pages[pageSize - 1] = 1;
    assert.ok(isZeroPage(pages, pageSize));
    for (let at = 0; at < pageSize; at++) {
      pages[pageSize + at] = 1;
      assert.ok(!isZeroPage(pages, pageSize), `octet ${at}`);
      pages[pageSize + at] = 0;
    }
  }
});
