/** Deltas of files by the library: the ops are those of lib/version's `DeltaEncoder`, which is the reference. */
import assert from "node:assert/strict";
import { createFakeNative } from "../../ffi/fake.ts";
import { openNative } from "../../ffi/mod.ts";
import { type BytePath, pathFromText } from "../../lib/base/path.ts";
import { DeltaEncoder, OpList } from "../../lib/version/delta.ts";
import { Random } from "../version/trees.ts";
import { diskRoom } from "./room.ts";
import { O } from "./suite.ts";

// At the top level: Deno 2.4 takes a library that a test loads for a leak.
const { content, libc } = openNative();

/** A target that is made of its bases in one of the ways that files change. */
function change(random: Random, bases: readonly Uint8Array[]): Uint8Array {
  const parts: Uint8Array[] = [];
  for (let count = 1 + random.below(8); count > 0; count--) {
    const base = random.pick(bases);
    const from = random.below(base.length);
    parts.push(base.subarray(from, from + 1 + random.below(random.pick([20, 300, 30_000]))));
    if (random.one(2)) parts.push(random.bytes(random.below(random.pick([3, 50, 4000]))));
  }
  const whole = random.pick(bases);
  if (random.one(3)) parts.push(whole);
  const target = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    target.set(part, at);
    at += part.length;
  }
  for (let edits = random.below(10); edits > 0; edits--) {
    const at = random.below(target.length);
    target[at] = (target[at] ?? 0) ^ 1;
  }
  return target;
}

Deno.test("NativeContent.encode() gives the ops of the reference, and the literals", async () => {
  const random = new Random(31);
  const room = diskRoom();
  try {
    const pieces = [];
    const contents: { target: Uint8Array; bases: Uint8Array[] }[] = [];
    let files = 0;
    const put = (bytes: Uint8Array) => {
      const path = pathFromText(`${files++}`);
      const fd = libc.open(room.dir, path, O.WRONLY | O.CREAT, 0o600);
      libc.pwrite(fd, bytes, 0);
      libc.close(fd);
      return { dir: room.dir, path, size: bytes.length };
    };
    for (let round = 0; round < 120; round++) {
      const sizeMax = random.pick([40, 2000, 60_000]);
      const alphabet = random.pick([2, 26, 256]);
      const bases = Array.from(
        { length: random.below(5) },
        () => random.bytes(1 + random.below(sizeMax)).map((byte) => byte % alphabet),
      );
      const target = bases.length === 0 ? random.bytes(1 + random.below(sizeMax)) : change(random, bases);
      contents.push({ target, bases });
      pieces.push({ target: put(target), bases: bases.map(put) });
    }
    // The larger the bases together, the fewer positions of them are indexed.
    for (const size of [5 << 20, 9 << 20]) {
      const base = random.bytes(size);
      const target = new Uint8Array(size + 100);
      target.set(base.subarray(size >> 1));
      target.set(random.bytes(100), size >> 1);
      target.set(base.subarray(0, size >> 1), (size >> 1) + 100);
      contents.push({ target, bases: [base] });
      pieces.push({ target: put(target), bases: [put(base)] });
    }
    const found = await content.encode(pieces);
    const encoder = new DeltaEncoder();
    const expected = new OpList();
    let op = 0;
    let literals = 0;
    for (const [index, { target, bases }] of contents.entries()) {
      encoder.encode({ target, bases }, expected);
      assert.equal(found.counts[index], expected.count, `number of ops of piece ${index}`);
      let at = 0;
      for (let own = 0; own < expected.count; own++, op++) {
        const length = expected.lengths[own] ?? 0;
        const isCopy = expected.kinds[own] === 1;
        assert.deepEqual(
          [found.kinds[op], found.lengths[op], isCopy ? found.bases[op] : 0, isCopy ? found.offsets[op] : 0],
          [expected.kinds[own], length, isCopy ? expected.bases[own] : 0, isCopy ? expected.offsets[own] : 0],
          `op ${own} of piece ${index}`,
        );
        if (!isCopy) {
          assert.deepEqual(
            found.literals.subarray(literals, literals + length),
            target.subarray(at, at + length),
          );
          literals += length;
        }
        at += length;
      }
    }
    assert.equal(found.kinds.length, op);
    assert.equal(found.literals.length, literals);
  } finally {
    room.close();
  }
});

Deno.test("NativeContent.encode() leaves what is not as it was thought, and does the rest", async () => {
  const room = diskRoom();
  try {
    const fd = libc.open(room.dir, pathFromText("file"), O.WRONLY | O.CREAT, 0o600);
    libc.pwrite(fd, new Uint8Array(5000).fill(7), 0);
    libc.close(fd);
    const file = (path: string, size: number) => ({ dir: room.dir, path: pathFromText(path), size });
    const { counts, literals } = await content.encode([
      { target: file("file", 5000), bases: [] },
      { target: file("gone", 5000), bases: [] },
      { target: file("file", 4999), bases: [] },
      { target: file("file", 5000), bases: [file("gone", 5000)] },
      { target: file("file", 5000), bases: [file("file", 5000)] },
    ]);
    assert.deepEqual(counts, [1, null, null, null, 1]);
    assert.equal(literals.length, 5000);
    await assert.rejects(
      content.encode([{ target: file("file", 5000), bases: new Array(5).fill(file("file", 5000)) }]),
      RangeError,
    );
    await assert.rejects(content.encode([{ target: file("a\0b", 1), bases: [] }]), RangeError);
    assert.deepEqual((await content.encode([])).counts, []);
  } finally {
    room.close();
  }
});

Deno.test("FakeNative's content leaves every piece to its caller", async () => {
  const file = { dir: 3, path: "a" as BytePath, size: 1 };
  const { counts } = await createFakeNative().content.encode([{ target: file, bases: [] }]);
  assert.deepEqual(counts, [null]);
});
