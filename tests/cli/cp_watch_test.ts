import assert from "node:assert/strict";
import { assertSameBytes } from "../same_bytes.ts";
import { drover } from "./harness.ts";

const main = new URL("../../main.ts", import.meta.url).pathname;

/** Lines of a child's stdout, one by one. */
async function* linesOf(stream: ReadableStream<Uint8Array>): AsyncGenerator<Record<string, unknown>> {
  let rest = "";
  for await (
    const text of stream.pipeThrough(new TextDecoderStream() as TransformStream<Uint8Array, string>)
  ) {
    const lines = (rest + text).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) yield JSON.parse(line);
  }
}

Deno.test("drover cp --watch keeps the copy in step, until SIGTERM", async () => {
  const room = Deno.makeTempDirSync({ dir: "/var/tmp", prefix: "drover-watch-" });
  try {
    const bytes = new Uint8Array(3 * 2 ** 20 + 99).fill(1, 1_000_000, 1_200_000);
    Deno.writeFileSync(`${room}/a`, bytes);
    const child = new Deno.Command(Deno.execPath(), {
      args: [
        "run",
        "--quiet",
        "--allow-all",
        "--no-check",
        main,
        "cp",
        "--watch",
        `${room}/a`,
        `${room}/b`,
        "--json",
      ],
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    const errors = new Response(child.stderr).text();
    const lines = linesOf(child.stdout);
    const next = async (): Promise<Record<string, unknown>> => (await lines.next()).value ?? {};
    const first = await next();
    assert.equal(first.pass, 1, await Promise.race([errors, "no error"]));
    assertSameBytes(Deno.readFileSync(`${room}/b`), bytes);
    {
      using file = Deno.openSync(`${room}/a`, { write: true });
      file.seekSync(2_000_000, Deno.SeekMode.Start);
      file.writeSync(new Uint8Array([7]));
      bytes[2_000_000] = 7;
    }
    const { changed, zero } = await next();
    assert.deepEqual([changed, zero], [65_536, 0]);
    assertSameBytes(Deno.readFileSync(`${room}/b`), bytes);
    // A file that takes the place of the old one is the source then.
    bytes.fill(3, 5, 6);
    Deno.writeFileSync(`${room}/new`, bytes);
    Deno.renameSync(`${room}/new`, `${room}/a`);
    assert.equal((await next()).changed, 65_536);
    assertSameBytes(Deno.readFileSync(`${room}/b`), bytes);
    child.kill("SIGTERM");
    assert.equal((await lines.next()).done, true);
    assert.equal((await child.status).code, 0, await errors);
  } finally {
    Deno.removeSync(room, { recursive: true });
  }
});

Deno.test("drover cp --watch refuses what does not go with it", async () => {
  for (const words of [["--restart"], ["--no-verify"], ["--journal", "/tmp/x"]]) {
    const ran = await drover("cp", "--watch", "memory:4KiB", "memory:4KiB", ...words);
    assert.match(ran.stderr, /cannot use --watch with/);
    assert.equal(ran.code, 2);
  }
  const ran = await drover("cp", "--watch", "memory:8KiB", "memory:4KiB");
  assert.match(ran.stderr, /it has 4096 bytes, and there are 8192 to copy/);
});
