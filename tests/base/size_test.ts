import assert from "node:assert/strict";
import { formatSize, parseSize } from "../../lib/base/size.ts";

const sizes: readonly (readonly [string, number])[] = [
  ["0", 0],
  ["4096", 4096],
  ["12 B", 12],
  ["64KiB", 65_536],
  ["64 KiB", 65_536],
  ["1.5GiB", 1_610_612_736],
  ["10MB", 10_000_000],
  ["7TiB", 7 * 2 ** 40],
  ["9007199254740991", 2 ** 53 - 1],
];

for (const [text, bytes] of sizes) {
  Deno.test(`parseSize() reads "${text}"`, () => assert.equal(parseSize(text), bytes));
}

for (
  const text of [
    "",
    "MiB",
    "1K",
    "1M",
    "1mib",
    "-1",
    "+1",
    "1e3",
    "0x10",
    " 1",
    "1 ",
    "1  KiB",
    ".5GiB",
    "0.3B",
    "9007199254740992",
    "9999TiB",
    "1constructor",
    "1toString",
  ]
) {
  Deno.test(`parseSize() refuses "${text}"`, () => {
    assert.throws(() => parseSize(text), {
      name: "RangeError",
      message: /^Cannot use ".*" as a size: it should be /,
    });
  });
}

Deno.test("formatSize() writes what parseSize() reads back, in the largest unit without a fraction", () => {
  assert.equal(formatSize(1536), "1536");
  assert.equal(formatSize(2048), "2KiB");
  assert.equal(formatSize(3 * 2 ** 30), "3GiB");
  for (const bytes of [0, 1, 4095, 4096, 2 ** 20 + 1024, 5 * 2 ** 40]) {
    assert.equal(parseSize(formatSize(bytes)), bytes);
  }
});
