import assert from "node:assert/strict";
import { benchMem } from "../../bench/mem.ts";
import { missing } from "../region/room.ts";

Deno.test({
  name: "benchMem() fills every row, finds no wrong word, and leaves no swap area, group or setting behind",
  ignore: missing !== null,
  fn: async () => {
    const swaps = Deno.readTextFileSync("/proc/swaps");
    const cluster = Deno.readTextFileSync("/proc/sys/vm/page-cluster");
    const lines: Record<string, unknown>[] = [];
    const said: string[] = [];
    const goals = await benchMem({
      size: 64 * 2 ** 20,
      resident: 60,
      rounds: 1,
      seconds: 0.1,
      rows: ["uniform", "zipf", "hints", "threads", "writes", "harvest", "local", "js"],
      seed: 11,
      dir: undefined,
      record: (line) => lines.push(line),
      say: (text) => said.push(text),
    });
    const swapping = !said.some((text) => text.startsWith("kernel swap: "));
    assert.equal(goals.length, swapping ? 10 : 4, said.join("\n"));
    for (const goal of goals) assert.ok(Number.isFinite(goal.value), JSON.stringify(goal));
    const loops = lines.filter((line) => line.type === "loop");
    assert.equal(loops.length, swapping ? 12 : 7);
    for (const loop of loops) assert.ok(loop.wrong === 0 && Number(loop.ops) > 0, JSON.stringify(loop));
    const faulting = loops.filter((loop) => loop.row === "uniform");
    for (const loop of faulting) {
      assert.ok(Number(loop.faults) > 0, `${loop.side} did not fault: ${JSON.stringify(loop)}`);
    }
    assert.equal(Deno.readTextFileSync("/proc/swaps"), swaps);
    assert.equal(Deno.readTextFileSync("/proc/sys/vm/page-cluster"), cluster);
    assert.deepEqual(groupsOf(Deno.pid), []);
  },
});

/** Control groups that the bench of this process has made and left. */
function groupsOf(pid: number): string[] {
  const found = new Deno.Command("find", { args: ["/sys/fs/cgroup", "-name", `drover-bench-${pid}`] })
    .outputSync();
  return new TextDecoder().decode(found.stdout).split("\n").filter((line) => line !== "");
}
