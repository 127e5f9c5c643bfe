import assert from "node:assert/strict";
import { benchPing } from "../../bench/ping.ts";
import { toolExists } from "../../bench/process.ts";

const compiler = Deno.env.get("CC") ?? "cc";
if (!toolExists(compiler)) console.error(`tests/bench: benchPing() is skipped: there is no ${compiler}`);

Deno.test({
  name: "benchPing() measures every row against this project's server",
  ignore: !toolExists(compiler),
  fn: async () => {
    const lines: Record<string, unknown>[] = [];
    const said: string[] = [];
    const goals = await benchPing({
      size: 8,
      rounds: 1,
      record: (line) => lines.push(line),
      say: (text) => said.push(text),
    });
    assert.equal(goals.length, 4);
    for (const { ratio } of goals) assert.ok(ratio > 0 && Number.isFinite(ratio), `${ratio}`);
    assert.equal(lines.filter(({ type }) => type === "round").length, 1);
    assert.match(said.join("\n"), /cold page ÷ bare ping-pong/);
  },
});
