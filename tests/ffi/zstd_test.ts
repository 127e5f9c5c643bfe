/** Compression through the library, and the same promises kept by the simulated one. */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { createFakeNative } from "../../ffi/fake.ts";
import { openNative } from "../../ffi/mod.ts";
import { FormatError } from "../../lib/base/errors.ts";

/** Deterministic bytes: text-like when `spread` is small. */
function bytes(size: number, seed: number, spread = 256): Uint8Array<ArrayBuffer> {
  const out = new Uint8Array(size);
  let state = seed >>> 0;
  for (let at = 0; at < size; at++) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    out[at] = (state >>> 24) % spread;
  }
  return out;
}

async function refused(rule: string, action: () => Promise<unknown>): Promise<void> {
  await assert.rejects(action, (error: unknown) => {
    assert.ok(error instanceof FormatError, String(error));
    assert.equal(error.rule, rule, error.message);
    assert.equal(error.code, "format");
    return true;
  });
}

for (
  const [name, zstd] of [["NativeZstd", openNative().zstd], ["FakeZstd", createFakeNative().zstd]] as const
) {
  Deno.test(`${name}: a frame gives back what went in, at every level and size`, async () => {
    for (const size of [0, 1, 4095, 4096, 150_000]) {
      const input = bytes(size, size + 1, 20);
      for (const level of [1, 3, 9, 19]) {
        const frame = await zstd.compress(input, { level });
        assert.deepEqual(await zstd.decompress(frame, { size }), input);
        assert.deepEqual(zstd.decompressSync(zstd.compressSync(input, { level }), { size }), input);
      }
    }
  });

  Deno.test(`${name}: a prefix must be given again`, async () => {
    const prefix = bytes(100_000, 1);
    const input = prefix.slice(5000, 95_000);
    input[777] = (input[777] ?? 0) ^ 1;
    const frame = await zstd.compress(input, { level: 3, prefix });
    assert.deepEqual(await zstd.decompress(frame, { size: input.length, prefix }), input);
    await assert.rejects(() => zstd.decompress(frame, { size: input.length }), FormatError);
    await assert.rejects(
      () => zstd.decompress(frame, { size: input.length, prefix: prefix.slice(0, -1) }),
      FormatError,
    );
  });

  Deno.test(`${name}: another size than announced is refused`, async () => {
    const input = bytes(10_000, 2, 4);
    const frame = await zstd.compress(input, { level: 3 });
    for (const size of [0, 9999, 10_001, 1 << 29]) {
      await refused("zstd.size", () => zstd.decompress(frame, { size }));
      assert.throws(() => zstd.decompressSync(frame, { size }), { rule: "zstd.size" });
    }
  });

  Deno.test(`${name}: every truncation is refused`, async () => {
    const input = bytes(2000, 3, 30);
    const frame = await zstd.compress(input, { level: 3 });
    for (let size = 0; size < frame.length; size++) {
      assert.throws(() => zstd.decompressSync(frame.subarray(0, size), { size: 2000 }), {
        rule: "zstd.truncated",
      });
    }
  });

  Deno.test(`${name}: bytes or a second frame behind the frame are refused`, async () => {
    const input = bytes(2000, 4, 30);
    const frame = await zstd.compress(input, { level: 3 });
    for (const tail of [Uint8Array.of(0), frame]) {
      const both = new Uint8Array(frame.length + tail.length);
      both.set(frame);
      both.set(tail, frame.length);
      await refused("zstd.trailing", () => zstd.decompress(both, { size: 2000 }));
    }
  });

  Deno.test(`${name}: no flipped bit passes`, async () => {
    const input = bytes(500, 5, 30);
    const frame = await zstd.compress(input, { level: 3 });
    for (let bit = 0; bit < frame.length * 8; bit++) {
      const bad = frame.slice();
      bad[bit >> 3] = (bad[bit >> 3] ?? 0) ^ 1 << (bit & 7);
      let out: Uint8Array | null = null;
      try {
        out = zstd.decompressSync(bad, { size: 500 });
      } catch (error) {
        assert.ok(error instanceof FormatError, `bit ${bit}: ${error}`);
      }
      // A header bit that changes nothing about the content may pass; other content may not.
      if (out !== null) assert.deepEqual(out, input, `bit ${bit}`);
    }
  });

  Deno.test(`${name}: senseless arguments are refused`, async () => {
    const frame = zstd.compressSync(new Uint8Array(10), { level: 1 });
    for (const level of [0, 20, 1.5, NaN]) {
      assert.throws(() => zstd.compressSync(new Uint8Array(10), { level }), RangeError);
    }
    for (const size of [-1, 1.5, 2 ** 30 + 1, NaN]) {
      await assert.rejects(() => zstd.decompress(frame, { size }), RangeError);
    }
  });
}

const { zstd } = openNative();

Deno.test("NativeZstd: a prefix makes a small change a small frame, near or far", async () => {
  for (const size of [4096, 200_000, 12_000_000]) {
    const prefix = bytes(size, 6);
    const input = prefix.slice();
    for (const at of [3, size >> 1, size - 1]) input[at] = (input[at] ?? 0) ^ 0x55;
    const frame = await zstd.compress(input, { level: 3, prefix });
    assert.ok(frame.length < 200 + size / 1000, `${frame.length} bytes for ${size}`);
    const output = await zstd.decompress(frame, { size, prefix });
    assert.equal(Buffer.compare(output, input), 0);
  }
});

Deno.test("NativeZstd: a bomb is refused by its announced size before anything is decoded", async () => {
  // 64 MiB of zeros in some kilobytes.
  const bomb = await zstd.compress(new Uint8Array(64 << 20), { level: 19 });
  assert.ok(bomb.length < 10_000);
  await refused("zstd.size", () => zstd.decompress(bomb, { size: 1000 }));
});

Deno.test("NativeZstd: a frame that hides its size is bounded by the announced one", async () => {
  // Magic; descriptor: no content size, no checksum, not single segment; window 1 KiB; one RLE block, the last.
  const rle = (size: number) =>
    Uint8Array.of(
      0x28,
      0xb5,
      0x2f,
      0xfd,
      0x00,
      0x00,
      ...[1 | 1 << 1 | size << 3].flatMap((n) => [n & 255, n >> 8 & 255, n >> 16]),
      0x41,
    );
  assert.deepEqual(await zstd.decompress(rle(1000), { size: 1000 }), new Uint8Array(1000).fill(0x41));
  await refused("zstd.size", () => zstd.decompress(rle(1000), { size: 999 }));
  await refused("zstd.size", () => zstd.decompress(rle(1000), { size: 1001 }));
});

Deno.test("NativeZstd: a window above windowLogMax is refused", async () => {
  const input = bytes(3_000_000, 7);
  const frame = await zstd.compress(input, { level: 3 });
  await refused("zstd.window", () => zstd.decompress(frame, { size: input.length, windowLogMax: 20 }));
  assert.equal((await zstd.decompress(frame, { size: input.length, windowLogMax: 22 })).length, input.length);
  await assert.rejects(() => zstd.decompress(frame, { size: input.length, windowLogMax: 31 }), RangeError);
});

Deno.test("NativeZstd: a skippable frame and an empty input are not a frame", async () => {
  await refused(
    "zstd.frame",
    () => zstd.decompress(Uint8Array.of(0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 9), { size: 0 }),
  );
  await refused("zstd.frame", () => zstd.decompress(bytes(100, 8), { size: 100 }));
  await refused("zstd.truncated", () => zstd.decompress(new Uint8Array(0), { size: 0 }));
});

Deno.test("NativeZstd: many calls at once do not mix", async () => {
  const inputs = Array.from({ length: 40 }, (_, index) => bytes(1000 * index + 1, index, 2 + index));
  const frames = await Promise.all(
    inputs.map((input, index) => zstd.compress(input, { level: 1 + index % 9 })),
  );
  const outputs = await Promise.all(
    frames.map((frame, index) => zstd.decompress(frame, { size: 1000 * index + 1 })),
  );
  assert.deepEqual(outputs, inputs);
});

Deno.test("NativeZstd: takes views into larger and shared memory", async () => {
  const shared = new Uint8Array(new SharedArrayBuffer(5000), 100, 3000);
  shared.set(bytes(3000, 9, 10));
  const frame = await zstd.compress(shared, { level: 3 });
  const padded = new Uint8Array(frame.length + 20).fill(0xff);
  padded.set(frame, 10);
  const output = await zstd.decompress(padded.subarray(10, 10 + frame.length), { size: 3000 });
  assert.deepEqual(output, new Uint8Array(shared));
});
