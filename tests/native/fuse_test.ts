/**
 * FUSE mounts under sanitizers: native-src/fuse.c with fuse_test.c, which answers and uses a file from many threads.
 * Skipped, with the reason, where there is no compiler or no right to mount.
 */
import assert from "node:assert/strict";
import { warningFlags } from "../../native-src/build.ts";
import { toolExists } from "../../bench/process.ts";
import { detachMount, fuseMounts } from "../../lib/region/fuse_target.ts";
import { openNative } from "../../ffi/mod.ts";

const here = new URL("./", import.meta.url).pathname;
const sources = ["fuse", "fuse_mount", "layout", "libc", "overlay"].map((name) =>
  `${here}../../native-src/${name}.c`
);
const compiler = ["cc", "gcc", "clang"].find(toolExists);
if (compiler === undefined) {
  console.error("tests/native: skipped, there is no C compiler; type: apt-get install gcc libc6-dev");
}

for (
  const [name, ...flags] of [
    [
      "address and undefined-behaviour sanitizers",
      "-fsanitize=address,undefined",
      "-fno-sanitize-recover=all",
    ],
    ["thread sanitizer", "-fsanitize=thread"],
  ]
) {
  Deno.test({
    name: `FUSE mounts are clean under the ${name}`,
    ignore: compiler === undefined,
    fn: async () => {
      const scratch = await Deno.makeTempDir({ dir: "/var/tmp", prefix: "drover-fuse-native-" });
      try {
        const program = `${scratch}/tests`;
        const compiled = await new Deno.Command(compiler ?? "cc", {
          args: [
            ...["-std=gnu11", "-O1", "-g", "-fno-omit-frame-pointer", ...warningFlags, ...flags],
            ...["-o", program, ...sources, `${here}fuse_test.c`, "-pthread"],
          ],
        }).output();
        assert.ok(compiled.success, new TextDecoder().decode(compiled.stderr));
        const { success, stdout, stderr } = await new Deno.Command("timeout", {
          args: ["-s", "KILL", "60", program, scratch],
          env: {
            ASAN_OPTIONS: "detect_leaks=1:abort_on_error=0",
            UBSAN_OPTIONS: "print_stacktrace=1",
            TSAN_OPTIONS: "halt_on_error=1:second_deadlock_stack=1",
          },
        }).output();
        const said = new TextDecoder().decode(stdout);
        assert.ok(success, said + new TextDecoder().decode(stderr));
        if (said.startsWith("skipped:")) console.error(`tests/native: ${said.trimEnd()}`);
        else assert.equal(said, "fuse: ok\n");
      } finally {
        for (const { path } of fuseMounts().filter((mount) => mount.path.startsWith(scratch))) {
          await detachMount(path, openNative());
        }
        await Deno.remove(scratch, { recursive: true });
      }
    },
  });
}
