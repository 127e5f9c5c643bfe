/**
 * RDMA without an adapter: what native-src/verbs.h says of the libraries against their own headers, and both ends of a lease over
 * a stand-in of the libraries (fake_verbs.c) under sanitizers, while connections are cut and the adapter goes. The same code over real
 * connections is in tests/vm.
 *
 * `DROVER_VERBS_SEED=7` runs another order of events, `DROVER_VERBS_SECONDS=600` a long one.
 */
import assert from "node:assert/strict";
import { warningFlags } from "../../native-src/build.ts";

const here = new URL("./", import.meta.url).pathname;
const compiler = await findCompiler();
const headers = await exists("/usr/include/infiniband/verbs.h") &&
  await exists("/usr/include/rdma/rdma_cma.h");
if (!headers) {
  console.error(
    "tests/native: skipped, no headers to compare with; type: apt-get install libibverbs-dev librdmacm-dev",
  );
}

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
  console.error("tests/native: skipped, there is no C compiler; type: apt-get install gcc libc6-dev");
  return null;
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

async function compile(args: string[]): Promise<void> {
  const { success, stderr } = await new Deno.Command(compiler ?? "cc", {
    args: ["-std=gnu11", "-O1", "-g", "-fno-omit-frame-pointer", ...warningFlags, ...args],
  }).output();
  assert.ok(success, new TextDecoder().decode(stderr));
}

Deno.test({
  name: "verbs.h has the structures and values of libibverbs and librdmacm",
  ignore: compiler === null || !headers,
  fn: () => compile(["-fsyntax-only", `${here}verbs_abi_test.c`]),
});

for (
  const { name, flags } of [
    {
      name: "address and undefined-behaviour sanitizers",
      flags: ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    },
    { name: "thread sanitizer", flags: ["-fsanitize=thread"] },
  ]
) {
  Deno.test({
    name:
      `store_verbs_open() and drover_donor_open() keep their promises while connections are cut, under the ${name}`,
    ignore: compiler === null,
    async fn() {
      const scratch = await Deno.makeTempDir({ dir: "/var/tmp", prefix: "drover-verbs-test-" });
      try {
        // One object under both names: they share what they know.
        await compile([
          ...[...flags, "-fPIC", "-shared", "-o", `${scratch}/libibverbs.so.1`],
          ...[`${here}fake_verbs.c`, "-pthread"],
        ]);
        await Deno.symlink("libibverbs.so.1", `${scratch}/librdmacm.so.1`);
        const sources = ["verbs", "store_verbs", "donor"].map((file) => `${here}../../native-src/${file}.c`);
        await compile([
          ...[...flags, "-o", `${scratch}/test`, `${here}verbs_fake_test.c`, ...sources],
          ...["-ldl", "-pthread"],
        ]);
        const seed = Deno.env.get("DROVER_VERBS_SEED") ?? "1";
        const seconds = Number(Deno.env.get("DROVER_VERBS_SECONDS") ?? "2");
        const { success, stdout, stderr } = await new Deno.Command(`${scratch}/test`, {
          args: [seed, `${Math.round(seconds * 1000)}`],
          env: {
            LD_LIBRARY_PATH: scratch,
            ASAN_OPTIONS: "detect_leaks=1:abort_on_error=0",
            UBSAN_OPTIONS: "print_stacktrace=1",
            TSAN_OPTIONS: "halt_on_error=1:second_deadlock_stack=1",
          },
        }).output();
        assert.ok(success, `DROVER_VERBS_SEED=${seed}: ${new TextDecoder().decode(stderr)}`);
        assert.match(new TextDecoder().decode(stdout), /^ok [0-9]+ good, [0-9]+ failed\n$/);
      } finally {
        await Deno.remove(scratch, { recursive: true });
      }
    },
  });
}
