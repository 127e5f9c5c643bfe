import assert from "node:assert/strict";
import { benchFuse } from "../../bench/fuse.ts";
import { toolExists } from "../../bench/process.ts";
import { missing } from "../region/fuse_room.ts";

const without = missing ?? (toolExists("fio") ? null : "no fio; type: apt-get install fio");
if (without !== null) console.error(`tests/bench: benchFuse() is skipped: ${without}`);

Deno.test({
  name: "benchFuse() fills every row, and leaves nothing mounted",
  ignore: without !== null,
  fn: async () => {
    const lines: Record<string, unknown>[] = [];
    const said: string[] = [];
    const results = await benchFuse({
      size: 16 * 2 ** 20,
      rounds: 1,
      seconds: 0.2,
      record: (line) => lines.push(line),
      say: (text) => said.push(text),
    });
    assert.equal(results.length, 6);
    for (const result of results) assert.ok(result.mount > 0 && result.yardstick > 0, JSON.stringify(result));
    assert.equal(lines.filter((line) => line.type === "run").length, 12);
    assert.match(said.join("\n"), /4 KiB random reads, 1 in flight/);
  },
});
