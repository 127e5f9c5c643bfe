/**
 * The C library under the address and undefined-behaviour sanitizers: compiles its sources together with the C tests
 * beside this file, and runs each suite in an empty directory. Skipped, with the reason, where there is no compiler.
 */
import assert from "node:assert/strict";
import { addressSanitizers, build, compiler, sanitizerEnvironment } from "./compile.ts";

const native = ["layout", "libc", "dir", "overlay", "probe", "content", "zstd", "delta"];
const suites = ["dir", "libc", "zstd", "probe", "old_kernel", "content", "delta"];

Deno.test({
  name: "libdrover.so is clean under the address and undefined-behaviour sanitizers",
  ignore: compiler === null,
  async fn(context) {
    const scratch = await Deno.makeTempDir({ dir: "/var/tmp", prefix: "drover-native-test-" });
    try {
      const program = `${scratch}/tests`;
      await build({
        native,
        tests: ["main", ...suites.map((name) => `${name}_test`)],
        flags: addressSanitizers.flags,
        libraries: ["-lzstd", "-ldl", "-pthread"],
      }, program);
      for (const suite of suites) {
        await context.step(suite, async () => {
          const directory = `${scratch}/${suite}`;
          await Deno.mkdir(directory);
          const { success, stdout, stderr } = await new Deno.Command(program, {
            args: [suite, directory],
            env: sanitizerEnvironment,
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
