/** Key files: what is written, what is refused. */
import assert from "node:assert/strict";
import { createHmac, hkdfSync } from "node:crypto";
import { DroverError } from "../../lib/base/errors.ts";
import { ClusterKey } from "../../lib/net/key.ts";
import { createKey, readKey } from "../../lib/net/mod.ts";

async function inDirectory(job: (directory: string) => Promise<void>): Promise<void> {
  const directory = await Deno.makeTempDir({ prefix: "drover-key-" });
  try {
    await job(directory);
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
}

const isAuth = (error: unknown): boolean => error instanceof DroverError && error.code === "auth";

Deno.test("createKey() writes a private file that readKey() takes", () =>
  inDirectory(async (directory) => {
    const path = `${directory}/key`;
    const key = await createKey(path);
    assert.equal(((await Deno.stat(path)).mode ?? 0) & 0o777, 0o600);
    assert.match(await Deno.readTextFile(path), /^# .*\ndrover-key-1 [A-Za-z0-9_-]{43}\n$/);
    assert.equal(await (await readKey(path)).fingerprint(), await key.fingerprint());
    await assert.rejects(createKey(path), (error) => error instanceof DroverError && error.code === "exists");
    assert.notEqual(await (await createKey(`${directory}/other`)).fingerprint(), await key.fingerprint());
  }));

Deno.test("readKey() refuses a file that others may touch, with the command that helps", () =>
  inDirectory(async (directory) => {
    const path = `${directory}/key`;
    await createKey(path);
    for (const mode of [0o640, 0o604, 0o620, 0o602, 0o610, 0o644]) {
      await Deno.chmod(path, mode);
      await assert.rejects(
        readKey(path),
        (error) => isAuth(error) && (error as DroverError).hint === `chmod 600 ${path}`,
      );
    }
    for (const mode of [0o600, 0o400]) {
      await Deno.chmod(path, mode);
      await readKey(path);
    }
  }));

Deno.test("readKey() refuses what is no key, and never repeats it", () =>
  inDirectory(async (directory) => {
    const secret = "A".repeat(43);
    const path = `${directory}/key`;
    for (
      const text of [
        "",
        "# only a comment\n",
        secret,
        `drover-key-2 ${secret}\n`,
        `drover-key-1 ${secret}A\n`,
        `drover-key-1 ${secret.slice(1)}\n`,
        `drover-key-1 ${secret.slice(1)}B\n`, // not the one spelling of its bytes
        `drover-key-1 ${secret.slice(1)}+\n`,
        `drover-key-1 ${secret}=\n`,
        `drover-key-1  ${secret}\n`,
        `drover-key-1 ${secret}\ndrover-key-1 ${secret}\n`,
        `drover-key-1 ${secret}\n#${"x".repeat(5000)}\n`,
      ]
    ) {
      await Deno.writeTextFile(path, text, { mode: 0o600 });
      await assert.rejects(readKey(path), (error) => isAuth(error) && !String(error).includes("AAAA"), text);
    }
    await Deno.writeTextFile(path, `\r\n # with spaces\r\n drover-key-1 ${secret}\r\n`);
    await readKey(path);
    await assert.rejects(readKey(directory), isAuth);
    await assert.rejects(
      readKey(`${directory}/none`),
      (error) => isAuth(error) && (error as DroverError).hint === `drover key new ${directory}/none`,
    );
  }));

Deno.test("ClusterKey derives by HKDF-SHA256, and shows no secret", async () => {
  const secret = Uint8Array.from({ length: 32 }, (_, index) => index);
  const key = new ClusterKey(secret);
  const expected = hkdfSync("sha256", secret, new Uint8Array(0), "drover-auth-1 proof", 32);
  assert.deepEqual(await key.derive("proof", 32), new Uint8Array(expected));
  assert.notDeepEqual(await key.derive("authority", 32), new Uint8Array(expected));
  assert.doesNotMatch(Deno.inspect(key, { showHidden: true, depth: 10 }), /\b0, 1, 2\b|1,\s+2,\s+3/);
  assert.equal(JSON.stringify(key), "{}");
  // The same by hand, so that two libraries agree: extract with an empty salt, expand one block.
  const prk = createHmac("sha256", new Uint8Array(32)).update(secret).digest();
  const block = createHmac("sha256", prk).update("drover-auth-1 proof\x01").digest();
  assert.deepEqual(await key.derive("proof", 32), new Uint8Array(block));
});
