import assert from "node:assert/strict";
import { benchFs } from "../../bench/fs.ts";
import { toolExists } from "../../bench/process.ts";

Deno.test({
  name: "benchFs() carries a small tree by every method over both links and fills every row",
  ignore: !toolExists("rsync"),
  fn: async () => {
    const lines: Record<string, unknown>[] = [];
    const said: string[] = [];
    const rows = await benchFs({
      sizes: [3],
      percents: [10],
      runs: 1,
      seed: 11,
      rate: 200,
      links: ["loopback", "shaped"],
      extras: true,
      dir: undefined,
      record: (line) => lines.push(line),
      say: (text) => said.push(text),
    });
    // A target that differs from its source throws, so being here says that all transfers were right.
    assert.ok(rows.length >= 7, said.join("\n"));
    for (const row of rows) assert.ok(Number.isFinite(row.ratio) && row.ratio > 0, JSON.stringify(row));
    assert.ok(lines.filter((line) => line.type === "run" && line.method === "drover push").length === 2);
    assert.match(said.join("\n"), /tree [0-9a-f]{64}/);
  },
});
