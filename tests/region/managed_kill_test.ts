/**
 * kill -9, for real: a process with a managed mount over files dies at one step of its work after the other, and the
 * mount is opened again on what it left.
 *
 * DROVER_KILL_EVERY=1 kills at every step there is; in the suite it is a sample of them.
 */
import assert from "node:assert/strict";
import { openNative } from "../../ffi/mod.ts";
import { FileBackend } from "../../lib/region/backend_file.ts";
import { openManaged } from "../../lib/region/managed.ts";
import { victimSize } from "./managed_victim.ts";

const victim = new URL("./managed_victim.ts", import.meta.url).pathname;
const config = new URL("../../deno.json", import.meta.url).pathname;
const { libc } = openNative();

async function run(room: string, seed: number, dieAt: number): Promise<Deno.Signal | null> {
  const { signal, code, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [
      "run",
      "--quiet",
      "--allow-all",
      "--no-check",
      "--cached-only",
      "--config",
      config,
      victim,
      room,
      `${seed}`,
      `${dieAt}`,
    ],
    stdout: "null",
    stderr: "piped",
  }).output();
  assert.ok(signal === "SIGKILL" || code === 0, new TextDecoder().decode(stderr));
  return signal;
}

/** What each block may hold: everything from the last acknowledged value on; and of the source, from the last flush. */
function read(log: string): { blocks: number[][]; remote: number[][]; steps: number } {
  const blocks = Array.from({ length: victimSize / 4096 }, () => [0]);
  const remote = blocks.map((values) => [...values]);
  let steps = 0;
  for (const line of log.trimEnd().split("\n")) {
    const [kind, first, count, value] = line.split(" ");
    if (kind === "steps") steps = Number(first);
    if (kind === "f" && first === "remote") blocks.forEach((values, block) => remote[block] = [...values]);
    for (let block = Number(first); block < Number(first) + Number(count); block++) {
      if (kind === "w") {
        blocks[block]?.push(Number(value));
        remote[block]?.push(Number(value));
      }
      if (kind === "a") blocks[block] = [Number(value)];
    }
  }
  return { blocks, remote, steps };
}

function check(bytes: Uint8Array, allowed: readonly number[][], what: string): void {
  allowed.forEach((values, block) => {
    for (const word of new Set(new Uint32Array(bytes.slice(block * 4096, block * 4096 + 4096).buffer))) {
      assert.ok(
        values.includes(word),
        `${what}: block ${block} holds ${word}, and should be one of ${values}`,
      );
    }
  });
}

Deno.test("ManagedBackend loses nothing that was acknowledged when its process is killed at any step", async () => {
  const room = Deno.makeTempDirSync({ dir: "/var/tmp", prefix: "drover-managed-kill-" });
  const fresh = (): void => {
    for (const { name } of [...Deno.readDirSync(room)]) {
      Deno.removeSync(`${room}/${name}`, { recursive: true });
    }
    Deno.writeFileSync(`${room}/source`, new Uint8Array(victimSize));
    Deno.writeFileSync(`${room}/log`, new Uint8Array(0));
  };
  try {
    fresh();
    assert.equal(await run(room, 1, 0), null);
    const { steps } = read(Deno.readTextFileSync(`${room}/log`));
    assert.ok(steps > 200, `${steps} steps`);
    const every = Number(Deno.env.get("DROVER_KILL_EVERY") ?? Math.ceil(steps / 14));
    let killed = 0;
    for (let dieAt = 1; dieAt <= steps; dieAt += every) {
      fresh();
      const seed = 1 + dieAt % 7;
      if (await run(room, seed, dieAt) !== null) killed++;
      const { blocks, remote } = read(Deno.readTextFileSync(`${room}/log`));
      const what = `seed ${seed}, killed at step ${dieAt}`;
      check(Deno.readFileSync(`${room}/source`), remote, `${what}, the source`);
      {
        await using mount = await openManaged({
          source: FileBackend.open(`${room}/source`, { libc }),
          local: FileBackend.open(`${room}/local`, { create: victimSize, libc }),
          state: `${room}/state`,
        });
        const bytes = new Uint8Array(victimSize);
        await mount.readAt(0, bytes);
        check(bytes, blocks, what);
        await mount.push();
        assert.deepEqual(
          Deno.readFileSync(`${room}/source`),
          bytes,
          `${what}: the source differs afterwards`,
        );
      }
    }
    assert.ok(killed >= 10, `only ${killed} were killed`);
  } finally {
    Deno.removeSync(room, { recursive: true });
  }
});
