/**
 * Builds native-src/region.c and its neighbours together with the region suites beside this file, under sanitizers, and runs
 * suites. Skipped, with the reason, where there is no compiler, or no right to userfaultfd.
 *
 * `DROVER_STRESS_SECONDS=3600` makes suites with random choices long.
 */
import assert from "node:assert/strict";
import { warningFlags } from "../../native-src/build.ts";

const here = new URL("./", import.meta.url).pathname;
const sources = [
  ...["region", "page", "store_file", "fetch", "evict", "serve", "fault", "range", "harvest"],
  ...["slots", "tiers_place", "store_tiers", "store_seal", "stores", "moves"],
].map((name) => `${here}../../native-src/${name}.c`);
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
].map((name) => `${here}${name}.c`);

const compiler = await findCompiler();

async function findCompiler(): Promise<string | null> {
  for (const name of ["cc", "gcc", "clang"]) {
    try {
      if ((await new Deno.Command(name, { args: ["--version"], stdout: "null" }).output()).success) {
        return name;
      }
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    }
  }
  console.error(
    "tests/native: skipped, there is no C compiler; type: apt-get install gcc libc6-dev libsodium-dev",
  );
  return null;
}

/** The sanitizers of one build, and what is worth running under them. */
export interface Build {
  /** For people. */
  name: string;
  /** For the compiler. */
  flags: readonly string[];
  /** What to run. */
  suites: readonly string[];
}

/** Registers a test for each build. */
export function testRegions(what: string, builds: readonly Build[]): void {
  for (const { name, flags, suites } of builds) {
    Deno.test({
      name: `${what} are clean under the ${name}`,
      ignore: compiler === null,
      async fn(context) {
        const scratch = await Deno.makeTempDir({ dir: "/var/tmp", prefix: "drover-region-test-" });
        try {
          const program = `${scratch}/tests`;
          const compiled = await new Deno.Command(compiler ?? "cc", {
            args: [
              ...["-std=gnu11", "-O1", "-g", "-fno-omit-frame-pointer", ...warningFlags, ...flags],
              ...["-o", program, ...sources, ...tests, "-lsodium", "-pthread"],
            ],
          }).output();
          assert.ok(compiled.success, new TextDecoder().decode(compiled.stderr));
          for (const suite of suites) {
            await context.step(suite, async () => {
              const directory = `${scratch}/${suite}`;
              await Deno.mkdir(directory);
              const { success, stdout, stderr } = await new Deno.Command(program, {
                args: [suite, directory],
                env: {
                  ASAN_OPTIONS: "detect_leaks=1:abort_on_error=0",
                  UBSAN_OPTIONS: "print_stacktrace=1",
                  TSAN_OPTIONS: "halt_on_error=1:second_deadlock_stack=1",
                },
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
