import assert from "node:assert/strict";
import { missingTools } from "../../bench/nbd.ts";
import { benchRemote } from "../../bench/remote.ts";
import { missing } from "../region/room.ts";

const without = missing ?? (missingTools().length > 0 ? `there is no ${missingTools().join(", ")}` : null);
if (without !== null) console.error(`tests/bench: benchRemote() is skipped: ${without}`);

Deno.test({
  name: "benchRemote() fills every row, finds no wrong word, and leaves no swap area behind",
  ignore: without !== null,
  fn: async () => {
    const swaps = Deno.readTextFileSync("/proc/swaps");
    const cluster = Deno.readTextFileSync("/proc/sys/vm/page-cluster");
    const lines: Record<string, unknown>[] = [];
    const said: string[] = [];
    const goals = await benchRemote({
      size: 32 * 2 ** 20,
      rounds: 1,
      seconds: 0.1,
      rows: ["tm", "ping", "fio", "memory"],
      seed: 11,
      dir: undefined,
      record: (line) => lines.push(line),
      say: (text) => said.push(text),
    });
    const swapping = !said.some((text) => text.startsWith("kernel swap: "));
    assert.equal(goals.length, swapping ? 9 : 8, said.join("\n"));
    for (const goal of goals) assert.ok(Number.isFinite(goal.value), JSON.stringify(goal));
    const loops = lines.filter((line) => line.type === "loop");
    assert.equal(loops.length, swapping ? 3 : 2);
    for (const loop of loops) {
      assert.ok(loop.wrong === 0 && Number(loop.ops) > 0 && Number(loop.faults) > 0, JSON.stringify(loop));
    }
    assert.match(said.join("\n"), /sealed ÷ unsealed/);
    assert.equal(Deno.readTextFileSync("/proc/swaps"), swaps);
    assert.equal(Deno.readTextFileSync("/proc/sys/vm/page-cluster"), cluster);
  },
});
