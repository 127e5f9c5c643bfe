/**
 * Goal: whatever base and target are, the ops rebuild the target, keep the rules of the format, and find what
 * is there to be found. Method: seeded mutations, each with a bound on the literals it may cost.
 */
import assert from "node:assert/strict";
import {
  type BaseReader,
  copySizeMin,
  DeltaEncoder,
  holeSizeMin,
  LargeDelta,
  opCopy,
  opHole,
  OpList,
  opLiteral,
} from "../../lib/version/delta.ts";
import { replayOps } from "./packages.ts";
import { Random } from "./trees.ts";

const encoder = new DeltaEncoder();

/** Takes a delta, checks it, and returns it. */
function deltaOf(target: Uint8Array, bases: Uint8Array[], expected = 0): OpList {
  const ops = new OpList();
  encoder.encode({ target, bases, expected }, ops);
  checkOps(ops, target.length);
  assert.deepEqual(replayOps(ops, target, bases), new Uint8Array(target));
  return ops;
}

function checkOps(ops: OpList, size: number): void {
  let at = 0;
  for (let op = 0; op < ops.count; op++) {
    const kind = ops.kinds[op];
    const length = ops.lengths[op] ?? 0;
    at += length;
    assert.ok(length > 0, "an op has a length");
    if (kind === opCopy && at < size) assert.ok(length >= copySizeMin, `a copy of ${length}`);
    if (kind === opHole && at < size) assert.ok(length >= holeSizeMin, `a hole of ${length}`);
    if (op > 0 && kind !== opCopy) {
      assert.notEqual(ops.kinds[op - 1], kind, "no two literals or holes in a row");
    }
  }
  assert.equal(at, size);
}

function text(random: Random, lines: number, ending = "\n"): Uint8Array {
  let result = "";
  for (let line = 0; line < lines; line++) result += word(random, 10 + random.below(50)) + ending;
  return new TextEncoder().encode(result);
}

function word(random: Random, size: number): string {
  let result = "";
  while (result.length < size) result += "abcdefghij klmnop(){};,.\t\0"[random.below(27)] ?? "";
  return result;
}

function join(...parts: Uint8Array[]): Uint8Array<ArrayBuffer> {
  const result = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    result.set(part, at);
    at += part.length;
  }
  return result;
}

Deno.test("DeltaEncoder.encode() costs little more than the lines that changed", () => {
  const random = new Random(1);
  for (const ending of ["\n", "\r\n", "\0"]) {
    for (let round = 0; round < 20; round++) {
      const base = text(random, 50 + random.below(500), ending);
      const lines = new TextDecoder("latin1").decode(base).split(ending);
      let fresh = 0;
      let edits = 0;
      const changed = lines.flatMap((line) => {
        if (!random.one(20)) return [line];
        edits++;
        const added = word(random, 20);
        const kind = random.below(3);
        if (kind > 0) fresh += added.length + ending.length;
        return kind === 0 ? [] : kind === 1 ? [line, added] : [added];
      });
      const target = new TextEncoder().encode(changed.join(ending));
      const ops = deltaOf(target, [base]);
      // Up to 47 bytes around an edit may be lost to the window and the distance of index positions.
      assert.ok(
        ops.total(opLiteral) <= fresh + edits * 48 + 48,
        `${ops.total(opLiteral)} for ${fresh} in ${edits}`,
      );
    }
  }
});

Deno.test("DeltaEncoder.encode() rebuilds every random mutation", () => {
  const random = new Random(2);
  for (let round = 0; round < 400; round++) {
    const alphabet = random.pick([2, 4, 256]);
    const base = random.bytes(random.below(random.pick([40, 400, 20_000]))).map((byte) => byte % alphabet);
    let target: Uint8Array = base.slice();
    for (let step = random.below(6); step > 0; step--) {
      const at = random.below(target.length + 1);
      const end = Math.min(target.length, at + random.below(random.pick([5, 100, 5000])));
      const piece = target.slice(at, end);
      const to = random.below(target.length + 1);
      switch (random.below(5)) {
        case 0: // insert
          target = join(target.subarray(0, at), random.bytes(random.below(100)), target.subarray(at));
          break;
        case 1: // delete
          target = join(target.subarray(0, at), target.subarray(end));
          break;
        case 2: // move or double
          target = join(target.subarray(0, to), piece, target.subarray(to));
          break;
        case 3: // overwrite
          target.set(random.bytes(piece.length), at);
          break;
        default: // zeros
          target.fill(0, at, end);
      }
    }
    const others = random.one(3) ? [random.bytes(200), target.slice(0, random.below(target.length + 1))] : [];
    deltaOf(target, [base, ...others], random.one(4) ? random.below(10_000) : 0);
  }
});

Deno.test("DeltaEncoder.encode() handles empty, equal, and window-sized contents", () => {
  const random = new Random(3);
  const none = new Uint8Array(0);
  assert.equal(deltaOf(none, [none]).count, 0);
  assert.equal(deltaOf(none, []).count, 0);
  for (const size of [1, 15, 16, 17, 31, 32, 33, 47, 48, 49, 63, 64, 65, 1000]) {
    const content = random.bytes(size);
    assert.equal(deltaOf(content, []).total(opLiteral), size);
    assert.equal(deltaOf(content, [none]).total(opLiteral), size);
    deltaOf(content, [content.slice(0, -1)]);
    deltaOf(content, [content.slice(1)]);
    const same = deltaOf(content, [content.slice()]);
    if (size >= copySizeMin) assert.deepEqual([same.count, same.kinds[0]], [1, opCopy]);
  }
});

Deno.test("DeltaEncoder.encode() finds moved blocks, doubled files and appends", () => {
  const random = new Random(4);
  const base = random.bytes(100_000);
  const moved = join(base.subarray(60_000), base.subarray(0, 60_000));
  assert.equal(deltaOf(moved, [base]).total(opLiteral), 0);
  assert.equal(deltaOf(join(base, base), [base]).total(opLiteral), 0);
  assert.equal(deltaOf(join(base, random.bytes(500)), [base]).total(opLiteral), 500);
  assert.equal(deltaOf(join(random.bytes(500), base), [base]).total(opLiteral), 500);
  assert.equal(deltaOf(base.subarray(0, 99_000), [base]).total(opLiteral), 0);
  assert.equal(deltaOf(base.subarray(777), [base]).total(opLiteral), 0);
});

Deno.test("DeltaEncoder.encode() resumes in place after overwritten pages, even among equal pages", () => {
  const random = new Random(5);
  const page = random.bytes(4096);
  const base = new Uint8Array(256 * 4096);
  for (let index = 0; index < 256; index++) base.set(random.one(2) ? page : random.bytes(4096), index * 4096);
  const target = base.slice();
  for (let index = 3; index < 256; index += 25) target.set(random.bytes(4096), index * 4096);
  const ops = deltaOf(target, [base]);
  assert.equal(ops.total(opLiteral), 11 * 4096);
  let at = 0;
  for (let op = 0; op < ops.count; op++) {
    if (ops.kinds[op] === opCopy) assert.equal(ops.offsets[op], at, "every copy is from the same place");
    at += ops.lengths[op] ?? 0;
  }
});

Deno.test("DeltaEncoder.encode() copies from several bases", () => {
  const random = new Random(6);
  const bases = [random.bytes(9000), random.bytes(5003), random.bytes(7000), random.bytes(4001)];
  const [a, b, c, d] = bases as [Uint8Array, Uint8Array, Uint8Array, Uint8Array];
  const target = join(d.subarray(100, 3000), a.subarray(5000), c, b.subarray(0, 400), a.subarray(0, 1000));
  assert.equal(deltaOf(target, bases).total(opLiteral), 0);
  assert.throws(() => deltaOf(target, [...bases, a]), RangeError);
});

Deno.test("DeltaEncoder.encode() sends the whole where hardly anything is found", () => {
  const random = new Random(7);
  const base = random.bytes(20_000);
  const target = random.bytes(20_000);
  target.set(base.subarray(500, 560), 9000);
  assert.equal(deltaOf(target, [base]).count, 1);
  target.set(base.subarray(0, 900), 4000);
  assert.ok(deltaOf(target, [base]).total(opCopy) >= 900, "a long copy is kept however small its share");
});

Deno.test("DeltaEncoder.encode() makes holes of what is no extent, and data of short gaps", () => {
  const random = new Random(8);
  const base = random.bytes(300_000);
  const target = base.slice();
  target.fill(0, 0, 65_536).fill(0, 131_072, 262_144).fill(0, 280_000);
  const ops = new OpList();
  const extents = [{ offset: 65_536, length: 65_536 }, { offset: 262_144, length: 10_000 }, {
    offset: 272_400,
    length: 7600,
  }];
  target.fill(0, 272_144, 272_400);
  encoder.encode({ target, bases: [base], extents }, ops);
  checkOps(ops, target.length);
  assert.deepEqual(replayOps(ops, target, [base]), target);
  assert.equal(ops.total(opHole), 65_536 + 131_072 + 20_000);
  assert.equal(ops.kinds[0], opHole);
  encoder.encode({ target: new Uint8Array(4096), bases: [base], extents: [] }, ops);
  assert.deepEqual([ops.count, ops.kinds[0]], [1, opHole]);
  encoder.encode({ target: base, bases: [], extents: [{ offset: 0, length: 300_000 }] }, ops);
  assert.deepEqual([ops.count, ops.kinds[0]], [1, opLiteral]);
  for (
    const bad of [[{ offset: 0, length: 5 }, { offset: 4, length: 4 }], [{ offset: 1, length: 300_000 }]]
  ) {
    assert.throws(() => encoder.encode({ target: base, bases: [], extents: bad }, ops), RangeError);
  }
});

Deno.test("DeltaEncoder.encode() gives the same ops again, whatever came before", () => {
  const random = new Random(9);
  const base = random.bytes(50_000);
  const target = join(base.subarray(10_000), random.bytes(100), base.subarray(0, 12_000));
  const first = deltaOf(target, [base]);
  deltaOf(random.bytes(900_000), [random.bytes(800_000)]);
  const again = deltaOf(target, [base]);
  assert.equal(again.count, first.count);
  assert.deepEqual(again.offsets.subarray(0, again.count), first.offsets.subarray(0, first.count));
});

Deno.test("DeltaEncoder.encode() finds moved data in contents of the coarser steps", () => {
  const random = new Random(10);
  const base = bigContent(20 << 20, 10);
  const target = join(base.subarray(15 << 20), random.bytes(100), base.subarray(0, 3 << 20));
  const ops = new OpList();
  encoder.encode({ target, bases: [base] }, ops);
  checkOps(ops, target.length);
  assert.ok(ops.total(opLiteral) < 300, `${ops.total(opLiteral)} literals`);
  assert.equal(compare(replayOps(ops, target, [base]), target), -1);
});

/** Random words by position: cheap, without repetition. */
function bigContent(size: number, seed: number, start = 0): Uint8Array<ArrayBuffer> {
  const words = new Int32Array(size >> 2);
  for (let at = 0; at < words.length; at++) {
    let x = at + (start >> 2) + Math.imul(seed, 0x9e3779b1) | 0;
    x = Math.imul(x ^ x >>> 16, 0x45d9f3b);
    x = Math.imul(x ^ x >>> 16, 0x45d9f3b);
    words[at] = x ^ x >>> 16;
  }
  return new Uint8Array(words.buffer);
}

function compare(left: Uint8Array, right: Uint8Array): number {
  if (left.length !== right.length) return 0;
  for (let at = 0; at < left.length; at++) if (left[at] !== right[at]) return at;
  return -1;
}

/**
 * A base that exists only where it is read; it fails the test when asked for much at once, and spoils what it gave
 * before.
 */
class VirtualBase implements BaseReader {
  readonly size: number;
  #last = new Uint8Array(0);

  read(offset: number, length: number): Uint8Array {
    this.#last.fill(0xaa);
    this.#last = this.content(offset, length);
    return this.#last;
  }

  content(offset: number, length: number): Uint8Array<ArrayBuffer> {
    assert.ok(offset >= 0 && offset + length <= this.size, "the reader stays within the base");
    assert.ok(length <= 26 << 20, `one read of ${length} bytes`);
    const start = offset - offset % 4;
    return bigContent(length + 8 & ~3, 77, start).subarray(offset - start, offset - start + length);
  }

  constructor(size: number) {
    this.size = size;
  }
}

function largeRound(size: number, pieces: { offset: number; parts: [number, number][] }[]): OpList[] {
  const base = new VirtualBase(size);
  const large = new LargeDelta(base, new DeltaEncoder());
  return pieces.map(({ offset, parts }, index) => {
    const target = join(
      ...parts.map(([place, length]) =>
        place < 0 ? bigContent(length, 500 + index) : base.content(place, length)
      ),
    );
    const ops = new OpList();
    large.encode({ target, offset }, ops);
    checkOps(ops, target.length);
    let at = 0;
    for (let op = 0; op < ops.count; op++) {
      const length = ops.lengths[op] ?? 0;
      if (ops.kinds[op] === opCopy) {
        const place = ops.offsets[op] ?? 0;
        for (let done = 0; done < length; done += 1 << 20) {
          const part = Math.min(1 << 20, length - done);
          assert.equal(
            compare(base.content(place + done, part), target.subarray(at + done, at + done + part)),
            -1,
          );
        }
      }
      at += length;
    }
    return ops;
  });
}

Deno.test("LargeDelta.encode() follows a shifted file of 200 MB, and finds a block moved far", () => {
  const size = 200_000_000;
  const mib = 1 << 20;
  const literals = largeRound(size, [
    { offset: 0, parts: [[-1, 1000], [0, 4 * mib]] }, // something new at the start shifts all
    { offset: 4 * mib + 1000, parts: [[4 * mib, 2 * mib], [-1, 5000], [6 * mib + 333, 2 * mib]] },
    { offset: 100 * mib, parts: [[100 * mib, mib], [180 * mib + 17, 300_000], [101 * mib, mib]] }, // from far away
    { offset: 20 * mib, parts: [[170 * mib + 5, 4 * mib]] }, // everything from far away
    { offset: 40 * mib, parts: [[-1, 2 * mib]] }, // nothing known
  ]).map((ops) => ops.total(opLiteral));
  const bounds = [1200, 5200, 400, 400, 2 * mib];
  literals.forEach((count, at) => assert.ok(count <= (bounds[at] ?? 0), `${count} literals in piece ${at}`));
  assert.equal(literals[4], 2 * mib);
});

Deno.test("LargeDelta.encode() probes a base that is too big to be read through", () => {
  const [ops] = largeRound(60_000_000_000, [
    { offset: 0, parts: [[50_000_000_001, 3 << 20]] },
  ]);
  assert.ok((ops?.total(opLiteral) ?? Infinity) < 200, `${ops?.total(opLiteral)} literals`);
});
