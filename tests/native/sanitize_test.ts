/**
 * The C library under the address and undefined-behaviour sanitizers: compiles its sources together with the C tests
 * beside this file, and runs each suite in an empty directory. Skipped, with the reason, where there is no compiler.
 */
import assert from "node:assert/strict";
import { warningFlags } from "../../native-src/build.ts";

const here = new URL("./", import.meta.url).pathname;
const sources = ["layout", "libc", "dir", "overlay", "probe", "zstd", "content", "delta"].map((name) =>
  `${here}../../native-src/${name}.c`
);
const tests = ["main", "dir_test", "libc_test", "zstd_test", "probe_test", "old_kernel_test", "content_test", "delta_test"]
  .map((name) => `${here}${name}.c`);

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
    "tests/native: skipped, there is no C compiler; type: apt-get install gcc libc6-dev libzstd-dev",
  );
  return null;
}

Deno.test({
  name: "libdrover.so is clean under the address and undefined-behaviour sanitizers",
  ignore: compiler === null,
  async fn(context) {
    const scratch = await Deno.makeTempDir({ dir: "/var/tmp", prefix: "drover-native-test-" });
    try {
      const program = `${scratch}/tests`;
      const compiled = await new Deno.Command(compiler ?? "cc", {
        args: [
          "-std=gnu11",
          "-O1",
          "-g",
          ...warningFlags,
          "-fsanitize=address,undefined",
          "-fno-sanitize-recover=all",
          "-fno-omit-frame-pointer",
          "-o",
          program,
          ...sources,
          ...tests,
          "-lzstd",
          "-ldl",
          "-pthread",
        ],
      }).output();
      assert.ok(compiled.success, new TextDecoder().decode(compiled.stderr));
      for (const suite of ["dir", "libc", "zstd", "probe", "old_kernel", "content", "delta"]) {
        await context.step(suite, async () => {
          const directory = `${scratch}/${suite}`;
          await Deno.mkdir(directory);
          const { success, stdout, stderr } = await new Deno.Command(program, {
            args: [suite, directory],
            env: { ASAN_OPTIONS: "detect_leaks=1:abort_on_error=0", UBSAN_OPTIONS: "print_stacktrace=1" },
          }).output();
          assert.ok(success, new TextDecoder().decode(stderr));
          assert.equal(new TextDecoder().decode(stdout), `${suite}: ok\n`);
        });
      }
    } finally {
      await Deno.remove(scratch, { recursive: true });
    }
  },
});
