/**
 * Builds native-src/region.c and its neighbours together with the region suites beside this file, under sanitizers, and runs
 * suites. Skipped, with the reason, where there is no compiler, or no right to userfaultfd.
 *
 * `DROVER_STRESS_SECONDS=3600` makes suites with random choices long.
 */
import assert from "node:assert/strict";
import { build, compiler, sanitizerEnvironment, type Sanitizers } from "./compile.ts";

const native = [
  ...["region", "page", "store_file", "fetch", "evict", "serve", "fault", "range", "harvest"],
  ...["slots", "tiers_place", "store_tiers", "store_seal", "stores", "moves"],
];
const tests = [
  "region_main",
  "store_faulty",
  "region_basic_test",
  "region_calls_test",
  "region_errors_test",
  "region_faults_test",
  "region_harvest_test",
  "region_stress_test",
  "region_tiers_test",
  "region_seal_test",
  "region_moves_test",
];

/** One build, and what is worth running of it. */
export interface SuiteBuild {
  sanitizers: Sanitizers;
  /** What to run. */
  suites: readonly string[];
}

/** Registers a test for each build. */
export function testRegions(what: string, builds: readonly SuiteBuild[]): void {
  for (const { sanitizers: { name, flags }, suites } of builds) {
    Deno.test({
      name: `${what} are clean under the ${name}`,
      ignore: compiler === null,
      async fn(context) {
        const scratch = await Deno.makeTempDir({ dir: "/var/tmp", prefix: "drover-region-test-" });
        try {
          const program = `${scratch}/tests`;
          await build({ native, tests, flags, libraries: ["-lsodium", "-pthread"] }, program);
          for (const suite of suites) {
            await context.step(suite, async () => {
              const directory = `${scratch}/${suite}`;
              await Deno.mkdir(directory);
              const { success, stdout, stderr } = await new Deno.Command(program, {
                args: [suite, directory],
                env: sanitizerEnvironment,
              }).output();
              const said = new TextDecoder().decode(stdout);
              assert.ok(success, new TextDecoder().decode(stderr));
              if (said.startsWith("skipped:")) console.error(`tests/native: ${said.trimEnd()}`);
              else assert.equal(said, `${suite}: ok\n`);
            });
          }
        } finally {
          await Deno.remove(scratch, { recursive: true });
        }
      },
    });
  }
}
