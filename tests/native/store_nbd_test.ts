/**
 * native-src/store_nbd.c, with sanitizers, against servers of every kind: those of nbd_peer.c, which break each rule in
 * turn, this project's own, and nbdkit. Skipped, with the reason, where there is no compiler.
 *
 * Method: one program (store_nbd_test.c), built twice. Each suite is one run of it; suites for real servers get address,
 * port and name of an export.
 */
import assert from "node:assert/strict";
import { MemoryBackend } from "../../lib/region/backend_memory.ts";
import { NbdListener } from "../../lib/region/nbd_listen.ts";
import { warningFlags } from "../../native-src/build.ts";

const here = new URL("./", import.meta.url).pathname;
const sources = [
  ...["region", "page", "store_file", "fetch", "evict", "serve", "fault", "range", "harvest"],
  ...["store_nbd", "store_nbd_dial", "store_nbd_wire"],
].map((name) => `${here}../../native-src/${name}.c`);
const tests = ["nbd_peer", "store_nbd_test"].map((name) => `${here}${name}.c`);

const compiler = await findTool(["cc", "gcc", "clang"], "gcc libc6-dev");
const nbdkit = await findTool(["nbdkit"], "nbdkit");

async function findTool(names: string[], packages: string): Promise<string | null> {
  for (const name of names) {
    try {
      if ((await new Deno.Command(name, { args: ["--version"], stdout: "null" }).output()).success) {
        return name;
      }
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    }
  }
  console.error(
    `tests/native: skipped, there is no ${names.join(" or ")}; type: apt-get install ${packages}`,
  );
  return null;
}

const builds = [
  {
    name: "address and undefined-behaviour sanitizers",
    flags: ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    suites: ["handshake", "broken", "recovery", "model"],
  },
  { name: "thread sanitizer", flags: ["-fsanitize=thread"], suites: ["recovery", "model"] },
];

const size = 8 * 2 ** 20;
const exportName = "00112233445566778899aabbccddeeff";

/** Runs one suite of the program. */
async function run(program: string, suite: string, server: string[] = []): Promise<void> {
  const { success, stdout, stderr } = await new Deno.Command(program, {
    args: [suite, ...server],
    env: {
      ASAN_OPTIONS: "detect_leaks=1:abort_on_error=0",
      UBSAN_OPTIONS: "print_stacktrace=1",
      TSAN_OPTIONS: "halt_on_error=1:second_deadlock_stack=1",
    },
  }).output();
  const said = new TextDecoder().decode(stdout);
  assert.ok(success, `${suite} ${server.join(" ")}: ${new TextDecoder().decode(stderr)}`);
  if (said.startsWith("skipped:")) console.error(`tests/native: ${said.trimEnd()}`);
  else assert.equal(said, `${suite}: ok\n`);
}

/** This project's server. @returns its port, and how to end it */
async function drover(): Promise<{ port: number; close: () => Promise<void> }> {
  const backend = new MemoryBackend(size);
  const listener = await NbdListener.open({
    place: { hostname: "127.0.0.1", port: 0 },
    offers: [{ name: exportName, backend }],
  });
  assert.ok("port" in listener.place);
  return {
    port: listener.place.port,
    close: async () => {
      await listener.close();
      assert.ok(listener.tally.requests > 1000);
      assert.equal(listener.tally.errors, 0);
      await backend.close();
    },
  };
}

/** nbdkit's memory. It takes the port itself, so a free one is found first, and waits until it can be connected to. */
async function nbdkitMemory(): Promise<{ port: number; close: () => Promise<void> }> {
  const probe = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = probe.addr;
  probe.close();
  const process = new Deno.Command("nbdkit", {
    args: ["-f", "--ipaddr", "127.0.0.1", "--port", `${port}`, "memory", `${size}`],
    stdout: "null",
  }).spawn();
  for (let tries = 0;; tries++) {
    try {
      (await Deno.connect({ hostname: "127.0.0.1", port })).close();
      break;
    } catch (error) {
      if (!(error instanceof Deno.errors.ConnectionRefused) || tries > 500) throw error;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
  return {
    port,
    close: async () => {
      process.kill("SIGTERM");
      await process.status;
    },
  };
}

for (const { name, flags, suites } of builds) {
  Deno.test({
    name: `store_nbd_open() gives a store that no peer can break, under the ${name}`,
    ignore: compiler === null,
    async fn(context) {
      const scratch = await Deno.makeTempDir({ dir: "/var/tmp", prefix: "drover-nbd-test-" });
      try {
        const program = `${scratch}/tests`;
        const compiled = await new Deno.Command(compiler ?? "cc", {
          args: [
            ...["-std=gnu11", "-O1", "-g", "-fno-omit-frame-pointer", ...warningFlags, ...flags],
            ...["-o", program, ...sources, ...tests, "-pthread"],
          ],
        }).output();
        assert.ok(compiled.success, new TextDecoder().decode(compiled.stderr));
        for (const suite of suites) await context.step(suite, () => run(program, suite));
        await context.step("model and region, on this project's server", async () => {
          const server = await drover();
          const place = ["127.0.0.1", `${server.port}`];
          await run(program, "model", [...place, exportName]);
          await run(program, "region", [...place, exportName]);
          await run(program, "unknown", [...place, exportName]);
          await server.close();
        });
        await context.step({
          name: "model and region, on nbdkit",
          ignore: nbdkit === null,
          fn: async () => {
            const server = await nbdkitMemory();
            await run(program, "model", ["127.0.0.1", `${server.port}`, ""]);
            await run(program, "region", ["127.0.0.1", `${server.port}`, ""]);
            await server.close();
          },
        });
      } finally {
        await Deno.remove(scratch, { recursive: true });
      }
    },
  });
}
