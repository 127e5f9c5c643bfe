import assert from "node:assert/strict";
import { NoSwapError, SwapGroup } from "../../bench/swap.ts";
import { Scratch } from "../../bench/scratch.ts";

const MiB = 2 ** 20;
const clusterPath = "/proc/sys/vm/page-cluster";

/** Why there is no yardstick here; null where there is one. */
const refusal: string | null = await (async () => {
  using scratch = new Scratch();
  try {
    await using _swap = new SwapGroup({ dir: scratch.path, areaSize: 4 * MiB, limit: 64 * MiB });
    return null;
  } catch (error) {
    if (!(error instanceof NoSwapError)) throw error;
    return error.message;
  }
})();
if (refusal !== null) console.error(`tests/bench: SwapGroup is skipped: ${refusal}`);

Deno.test({
  name: "SwapGroup turns swapping on for its members and takes everything back",
  ignore: refusal !== null,
  fn: async () => {
    using scratch = new Scratch();
    const before = Deno.readTextFileSync(clusterPath);
    {
      await using swap = new SwapGroup({ dir: scratch.path, areaSize: 8 * MiB, limit: 64 * MiB });
      assert.ok(Deno.readTextFileSync("/proc/swaps").includes(scratch.path));
      const child = new Deno.Command("sleep", { args: ["60"] }).spawn();
      swap.enter(child.pid);
      assert.match(Deno.readTextFileSync(`/proc/${child.pid}/cgroup`), /drover-bench-/);
      swap.readAround(0);
      assert.equal(Deno.readTextFileSync(clusterPath), "0\n");
      assert.equal(swap.used(), 0);
      swap.reset();
      child.kill();
      await child.status;
    }
    assert.ok(!Deno.readTextFileSync("/proc/swaps").includes(scratch.path));
    assert.equal(Deno.readTextFileSync(clusterPath), before);
    assert.deepEqual([...Deno.readDirSync(scratch.path)], []);
  },
});

Deno.test({
  name: "SwapGroup leaves nothing behind when its process is killed",
  ignore: refusal !== null,
  fn: async () => {
    using scratch = new Scratch();
    const before = Deno.readTextFileSync(clusterPath);
    const source = `
      import { SwapGroup } from ${JSON.stringify(new URL("../../bench/swap.ts", import.meta.url).href)};
      const swap = new SwapGroup({ dir: ${JSON.stringify(scratch.path)}, areaSize: ${8 * MiB}, limit: ${
      64 * MiB
    } });
      const member = new Deno.Command("sleep", { args: ["60"], stdout: "null" }).spawn();
      swap.enter(member.pid);
      swap.readAround(0);
      console.log("ready", member.pid);
      setTimeout(() => {}, 60_000);`;
    const child = new Deno.Command(Deno.execPath(), {
      args: ["eval", "--no-lock", source],
      stdout: "piped",
    }).spawn();
    const reader = child.stdout.getReader();
    const { value } = await reader.read();
    const [, member = ""] = /^ready (\d+)/.exec(new TextDecoder().decode(value)) ?? [];
    assert.ok(Deno.readTextFileSync("/proc/swaps").includes(scratch.path));
    child.kill("SIGKILL");
    await child.status;
    await reader.cancel();
    // The guardian is nobody's child any more: all there is to wait for is its work, every step of it.
    const undone = (): boolean =>
      Deno.readTextFileSync(clusterPath) === before &&
      !Deno.readTextFileSync("/proc/swaps").includes(scratch.path) &&
      [...Deno.readDirSync(scratch.path)].length === 0;
    for (let wait = 0; wait < 200 && !undone(); wait++) {
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    assert.equal(Deno.readTextFileSync(clusterPath), before);
    assert.ok(!Deno.readTextFileSync("/proc/swaps").includes(scratch.path));
    assert.throws(() => Deno.statSync(`/proc/${member}/exe`), "a member of the group lives on");
    assert.deepEqual([...Deno.readDirSync(scratch.path)], []);
  },
});
