import assert from "node:assert/strict";
import { benchNbd, missingTools } from "../../bench/nbd.ts";

const missing = missingTools();
if (missing.length > 0) {
  console.error(`tests/bench: benchNbd() is skipped: there is no ${missing.join(", ")}`);
}

Deno.test({
  name: "benchNbd() fills every row from both servers, and leaves neither running",
  ignore: missing.length > 0,
  fn: async () => {
    const lines: Record<string, unknown>[] = [];
    const said: string[] = [];
    const goals = await benchNbd({
      size: 16 * 2 ** 20,
      rounds: 1,
      seconds: 0.2,
      rows: ["read4k-16", "write1m", "copy-from", "copy-to"],
      tcp: false,
      record: (line) => lines.push(line),
      say: (text) => said.push(text),
    });
    assert.equal(goals.length, 4);
    for (const goal of goals) {
      assert.ok(goal.drover > 0 && goal.nbdkit > 0 && Number.isFinite(goal.ratio), JSON.stringify(goal));
    }
    assert.equal(lines.filter((line) => line.type === "run").length, 8);
    assert.match(said.join("\n"), /nbdcopy from it/);
  },
});
