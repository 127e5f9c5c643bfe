import assert from "node:assert/strict";
import { deltaSmoke } from "../../bench/delta.ts";
import { benchStream } from "../../bench/stream.ts";
import { openNative } from "../../ffi/mod.ts";

// Loaded once and for all tests: within one it would count as a leak.
openNative();

Deno.test("benchStream() measures everything at a small size and fills every row", async () => {
  const lines: Record<string, unknown>[] = [];
  const said: string[] = [];
  const goals = await benchStream({
    size: 4 << 20,
    verify: 2 << 20,
    patterns: [1 << 20, 4 << 20],
    peak: 8 << 20,
    runs: 1,
    seed: 5,
    delta: deltaSmoke,
    dir: "/var/tmp",
    record: (line) => lines.push(line),
    say: (text) => said.push(text),
  });
  // A stream that is not valid throws, so being here says that all were.
  const measures = goals.map(({ measure }) => measure).join("\n");
  assert.match(measures, /write 4 MiB.*\n.*, 1 MiB\n.*, 4 MiB\nverify 2 MiB/);
  assert.match(measures, /peak memory/);
  for (const { value, measure } of goals) {
    // Without liblz4 there is nothing to compare deltas with.
    assert.ok((Number.isFinite(value) && value > 0) || measure.includes("lz4"), measure);
  }
  assert.ok(lines.length > 8);
});
