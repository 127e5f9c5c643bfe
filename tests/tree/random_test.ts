/**
 * Goal: what the table of `scenarios.ts` does not think of. A failure names the seed: `DROVER_SEED=7` runs only that one,
 * `DROVER_SEEDS=100` runs more.
 */
import { tryRandom } from "./random_run.ts";
import { has, memoryBase } from "./scratch.ts";

const single = Deno.env.get("DROVER_SEED");
const first = Number(single ?? 1);
const count = single === undefined ? Number(Deno.env.get("DROVER_SEEDS") ?? 6) : 1;

for (let seed = first; seed < first + count; seed++) {
  Deno.test({
    name: `commit() and transfers keep random changes (seed ${seed})`,
    ignore: !has("rsync", "getfattr"),
    // A third of the runs on a disk, the others in memory, where they are quick.
    fn: () => tryRandom(seed, seed % 3 === 0 ? "/var/tmp" : memoryBase()),
  });
}
