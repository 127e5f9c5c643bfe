/**
 * FUSE mounts under sanitizers: native-src/fuse.c with fuse_test.c, which answers and uses a file from many threads.
 * Skipped, with the reason, where there is no compiler or no right to mount.
 */
import assert from "node:assert/strict";
import { detachMount, fuseMounts } from "../../lib/region/fuse_target.ts";
import { openNative } from "../../ffi/mod.ts";
import { addressSanitizers, build, compiler, sanitizerEnvironment, threadSanitizer } from "./compile.ts";

const native = ["fuse", "fuse_mount", "layout", "libc", "overlay"];

for (const { name, flags } of [addressSanitizers, threadSanitizer]) {
  Deno.test({
    name: `FUSE mounts are clean under the ${name}`,
    ignore: compiler === null,
    fn: async () => {
      const scratch = await Deno.makeTempDir({ dir: "/var/tmp", prefix: "drover-fuse-native-" });
      try {
        const program = `${scratch}/tests`;
        await build({ native, tests: ["fuse_test"], flags, libraries: ["-pthread"] }, program);
        const { success, stdout, stderr } = await new Deno.Command("timeout", {
          args: ["-s", "KILL", "60", program, scratch],
          env: sanitizerEnvironment,
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
