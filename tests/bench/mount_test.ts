import assert from "node:assert/strict";
import { benchMount } from "../../bench/mount.ts";
import { openNative } from "../../ffi/mod.ts";

// Loaded before the test: it stays, and would count as a leak of it.
openNative();

Deno.test("benchMount() fills every row and checks what it read", async () => {
  const lines: Record<string, unknown>[] = [];
  const said: string[] = [];
  const goals = await benchMount({
    size: 16 * 2 ** 20,
    rounds: 1,
    writes: 640,
    scratch: "/var/tmp",
    record: (line) => lines.push(line),
    say: (text) => said.push(text),
  });
  assert.equal(goals.length, 9);
  for (const goal of goals) assert.ok(Number.isFinite(goal.reached), JSON.stringify(goal));
  assert.equal(lines.filter(({ type }) => type === "goal").length, 9);
  assert.match(said.join("\n"), /durable 4 KiB writes/);
});
