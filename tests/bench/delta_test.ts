/** The bench of page deltas at its smallest: that it runs, and that all levels encode the same. */
import assert from "node:assert/strict";
import { deltaRows, deltaSmoke, deltaTable } from "../../bench/delta.ts";
import { openNative } from "../../ffi/mod.ts";

// At the top level: Deno 2.4 takes a library that a test loads for a leak.
openNative();

Deno.test("deltaRows() measures every level, and all of a format encode the same octets", () => {
  const rows = deltaRows(deltaSmoke);
  assert.ok(rows.some(({ name }) => name === "region scalar"));
  assert.ok(rows.some(({ name }) => name === "remus typescript decode"));
  for (const format of ["region", "remus"]) {
    const hashes = new Set(rows.filter(({ name }) => name.startsWith(format)).map(({ hash }) => hash));
    assert.equal(hashes.size, 1, format);
  }
  for (const { name, gigabytesPerSecond, ratio } of rows) {
    assert.ok(gigabytesPerSecond > 0, name);
    assert.ok(ratio > 0.05 && ratio <= 1, `${name}: ${ratio}`);
  }
  assert.equal(deltaTable(rows).split("\n").length, rows.length + 2);
});
