/**
 * RDMA without an adapter: what native-src/verbs.h says of the libraries against their own headers, and both ends of a lease over
 * a stand-in of the libraries (fake_verbs.c) under sanitizers, while connections are cut and the adapter goes. The same code over real
 * connections is in tests/vm.
 *
 * `DROVER_VERBS_SEED=7` runs another order of events, `DROVER_VERBS_SECONDS=600` a long one.
 */
import assert from "node:assert/strict";
import {
  addressSanitizers,
  build,
  compile,
  compiler,
  here,
  sanitizerEnvironment,
  threadSanitizer,
} from "./compile.ts";

const headers = await exists("/usr/include/infiniband/verbs.h") &&
  await exists("/usr/include/rdma/rdma_cma.h");
if (!headers) {
  console.error(
    "tests/native: skipped, no headers to compare with; type: apt-get install libibverbs-dev librdmacm-dev",
  );
}

async function exists(path: string): Promise<boolean> {
  try {
    await Deno.stat(path);
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

Deno.test({
  name: "verbs.h has the structures and values of libibverbs and librdmacm",
  ignore: compiler === null || !headers,
  fn: () => compile(["-fsyntax-only", `${here}verbs_abi_test.c`]),
});

for (const { name, flags } of [addressSanitizers, threadSanitizer]) {
  Deno.test({
    name:
      `store_verbs_open() and drover_donor_open() keep their promises while connections are cut, under the ${name}`,
    ignore: compiler === null,
    async fn() {
      const scratch = await Deno.makeTempDir({ dir: "/var/tmp", prefix: "drover-verbs-test-" });
      try {
        // One object under both names: they share what they know.
        await compile([
          ...[...flags, "-shared", "-o", `${scratch}/libibverbs.so.1`],
          ...[`${here}fake_verbs.c`, "-pthread"],
        ]);
        await Deno.symlink("libibverbs.so.1", `${scratch}/librdmacm.so.1`);
        await build({
          native: ["verbs", "store_verbs", "donor"],
          tests: ["verbs_fake_test"],
          flags,
          libraries: ["-ldl", "-pthread"],
        }, `${scratch}/test`);
        const seed = Deno.env.get("DROVER_VERBS_SEED") ?? "1";
        const seconds = Number(Deno.env.get("DROVER_VERBS_SECONDS") ?? "2");
        const { success, stdout, stderr } = await new Deno.Command(`${scratch}/test`, {
          args: [seed, `${Math.round(seconds * 1000)}`],
          env: { ...sanitizerEnvironment, LD_LIBRARY_PATH: scratch },
        }).output();
        assert.ok(success, `DROVER_VERBS_SEED=${seed}: ${new TextDecoder().decode(stderr)}`);
        assert.match(new TextDecoder().decode(stdout), /^ok [0-9]+ good, [0-9]+ failed\n$/);
      } finally {
        await Deno.remove(scratch, { recursive: true });
      }
    },
  });
}
