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
import {
  addressSanitizers,
  build,
  compiler,
  findTool,
  sanitizerEnvironment,
  threadSanitizer,
} from "./compile.ts";

const native = [
  ...["region", "page", "store_file", "fetch", "evict", "serve", "fault", "range", "harvest"],
  ...["store_nbd", "store_nbd_dial", "store_nbd_wire"],
];

const nbdkit = await findTool(["nbdkit"], "nbdkit");

const builds = [
  { sanitizers: addressSanitizers, suites: ["handshake", "broken", "recovery", "model"] },
  { sanitizers: threadSanitizer, suites: ["recovery", "model"] },
];

const size = 8 * 2 ** 20;
const exportName = "00112233445566778899aabbccddeeff";

/** Runs one suite of the program. */
async function run(program: string, suite: string, server: string[] = []): Promise<void> {
  const { success, stdout, stderr } = await new Deno.Command(program, {
    args: [suite, ...server],
    env: sanitizerEnvironment,
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

for (const { sanitizers: { name, flags }, suites } of builds) {
  Deno.test({
    name: `store_nbd_open() gives a store that no peer can break, under the ${name}`,
    ignore: compiler === null,
    async fn(context) {
      const scratch = await Deno.makeTempDir({ dir: "/var/tmp", prefix: "drover-nbd-test-" });
      try {
        const program = `${scratch}/tests`;
        await build(
          { native, tests: ["nbd_peer", "store_nbd_test"], flags, libraries: ["-pthread"] },
          program,
        );
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
