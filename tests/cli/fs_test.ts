/**
 * The commands on real trees, with capture scan, which works for every user. The JSON names are a contract: these
 * tests are where it is written down.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { drover } from "./harness.ts";

/** A directory with a few files, registered in a home of its own; all is gone afterwards. */
async function withDirectory(work: (directory: string, folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.realPath(await Deno.makeTempDir({ dir: "/var/tmp", prefix: "drover-test-" }));
  const before = Deno.env.get("DROVER_HOME");
  Deno.env.set("DROVER_HOME", join(folder, "home"));
  try {
    const directory = join(folder, "site");
    await Deno.mkdir(join(directory, "sub"), { recursive: true });
    await Deno.writeTextFile(join(directory, "a"), "first\n");
    await Deno.writeTextFile(join(directory, "sub", "b"), "second\n");
    await Deno.symlink("a", join(directory, "link"));
    await work(directory, folder);
  } finally {
    if (before === undefined) Deno.env.delete("DROVER_HOME");
    else Deno.env.set("DROVER_HOME", before);
    await Deno.remove(folder, { recursive: true });
  }
}

async function ok(...args: string[]): Promise<Record<string, unknown>[]> {
  const ran = await drover(...args, "--json");
  assert.equal(ran.code, 0, ran.stdout + ran.stderr);
  assert.equal(ran.stderr, "");
  return ran.objects();
}

function last(objects: Record<string, unknown>[]): Record<string, unknown> {
  return objects.at(-1) ?? {};
}

function pick(object: Record<string, unknown>, ...names: string[]): Record<string, unknown> {
  return Object.fromEntries(names.map((name) => [name, object[name]]));
}

const hexId = /^[0-9a-f]{64}$/;

Deno.test("drover fs init, commit, log, checkout, gc and deinit keep their JSON contract", async () => {
  await withDirectory(async (directory, folder) => {
    const init = last(await ok("fs", "init", directory, "--capture", "scan"));
    assert.deepEqual(
      pick(
        init,
        "dir",
        "state",
        "capture",
        "profile",
        "mounted",
        "versions",
        "entries",
        "bytes",
        "uncommitted",
      ),
      {
        dir: directory,
        state: join(folder, ".site.drover"),
        capture: "scan",
        profile: "portable",
        mounted: true,
        versions: 1,
        entries: 4,
        bytes: 13,
        uncommitted: [],
      },
    );
    assert.match(String(init.head), hexId);

    await Deno.writeTextFile(join(directory, "a"), "changed\n");
    await Deno.remove(join(directory, "sub", "b"));
    await Deno.writeTextFile(join(directory, "new"), "third\n");
    const status = last(await ok("fs", "status", directory));
    const lines = status.uncommitted as Record<string, unknown>[];
    const change = (path: string): unknown => lines.find((line) => line.path === path)?.change;
    assert.deepEqual(["a", "sub/b", "new"].map(change), ["modified", "deleted", "created"]);

    const commit = last(await ok("fs", "commit", directory, "-m", "second"));
    assert.deepEqual(pick(commit, "parent", "changed"), { parent: init.head, changed: true });
    assert.match(String(commit.version), hexId);
    assert.equal(typeof commit.seconds, "number");
    assert.equal(last(await ok("fs", "commit", directory)).changed, false);

    const log = await ok("fs", "log", directory);
    assert.deepEqual(last(log), { versions: 2, head: commit.version });
    assert.deepEqual(
      log.slice(0, -1).map((line) => pick(line, "id", "parent", "message", "head", "stored")),
      [
        { id: commit.version, parent: init.head, message: "second", head: true, stored: true },
        { id: init.head, parent: null, message: log[1]?.message, head: false, stored: true },
      ],
    );

    const diff = await ok("fs", "diff", directory, "--from", "head~1", "--to", "head");
    assert.deepEqual(pick(last(diff), "created", "deleted"), { created: 1, deleted: 1 });
    assert.equal(last(diff).changes, diff.length - 1);

    const verify = last(await ok("fs", "verify", directory));
    assert.deepEqual(pick(verify, "ok", "findings"), { ok: true, findings: 0 });

    const checkout = last(await ok("fs", "checkout", directory, "head~1"));
    assert.deepEqual(pick(checkout, "from", "to"), { from: commit.version, to: init.head });
    assert.equal(await Deno.readTextFile(join(directory, "a")), "first\n");
    const forward = last(await ok("fs", "checkout", directory, String(commit.version).slice(0, 12)));
    assert.equal(forward.to, commit.version);
    assert.equal(await Deno.readTextFile(join(directory, "a")), "changed\n");

    const gc = last(await ok("fs", "gc", directory, "--keep", "1"));
    assert.deepEqual(gc.dropped, [init.head]);
    assert.equal(typeof gc.bytesFreed, "number");

    const listing = await ok("fs", "status");
    assert.deepEqual(last(listing), { trees: 1 });
    assert.deepEqual(pick(listing[0] ?? {}, "dir", "head"), { dir: directory, head: commit.version });

    const deinit = last(await ok("fs", "deinit", directory));
    assert.deepEqual(deinit, { dir: directory, entries: 4 });
    assert.equal(await Deno.readTextFile(join(directory, "new")), "third\n");
    assert.deepEqual(last(await ok("fs", "status")), { trees: 0 });
  });
});

Deno.test("drover fs checkout refuses to drop uncommitted changes with code 3, and does with --force", async () => {
  await withDirectory(async (directory) => {
    await ok("fs", "init", directory, "--capture", "scan");
    await Deno.writeTextFile(join(directory, "a"), "precious\n");
    const refused = await drover("fs", "checkout", directory, "head", "--json");
    assert.equal(refused.code, 3);
    assert.equal((refused.result().error as Record<string, unknown>).code, "uncommitted");
    assert.equal(await Deno.readTextFile(join(directory, "a")), "precious\n");
    await ok("fs", "checkout", directory, "head", "--force");
    assert.equal(await Deno.readTextFile(join(directory, "a")), "first\n");
  });
});

Deno.test("drover fs verify ends with code 4 and names the file when stored content was changed", async () => {
  await withDirectory(async (directory, folder) => {
    await ok("fs", "init", directory, "--capture", "scan");
    await Deno.writeTextFile(join(directory, "a"), "second\n");
    await ok("fs", "commit", directory);
    let damaged = 0;
    const damage = async (place: string): Promise<void> => {
      for await (const entry of Deno.readDir(place)) {
        const path = join(place, entry.name);
        if (entry.isDirectory) await damage(path);
        else if (entry.isFile && await Deno.readTextFile(path) === "first\n") {
          await Deno.chmod(path, 0o600);
          await Deno.writeTextFile(path, "worst\n");
          damaged++;
        }
      }
    };
    await damage(join(folder, ".site.drover"));
    assert.equal(damaged, 1);
    const ran = await drover("fs", "verify", directory, "--json");
    assert.equal(ran.code, 4);
    assert.equal(ran.result().ok, false);
    assert.equal(ran.result().findings, ran.objects().length - 1);
    assert.ok(ran.objects().some((finding) => finding.path === "a"), ran.stdout);
    for (const finding of ran.objects().slice(0, -1)) {
      assert.deepEqual(Object.keys(finding).sort(), ["message", "path", "rule"]);
    }
    assert.match(
      (await drover("fs", "verify", directory)).stdout,
      /^a: .*\n(?:.*\n)*.* do(?:es)? not match\n$/m,
    );
  });
});

Deno.test("drover fs export and import carry a difference to another tree", async () => {
  await withDirectory(async (directory, folder) => {
    const other = join(folder, "other");
    const copied = await new Deno.Command("cp", { args: ["-a", directory, other] }).output();
    assert.ok(copied.success);
    await ok("fs", "init", directory, "--capture", "scan");
    await ok("fs", "init", other, "--capture", "scan");
    await Deno.remove(join(directory, "sub", "b"));
    await Deno.writeTextFile(join(directory, "new"), "third\n");
    await ok("fs", "commit", directory);
    const tar = join(folder, "change.tar");
    const exported = last(await ok("fs", "export", directory, "--tar", tar, "--from", "head~1"));
    assert.equal(exported.file, tar);
    assert.equal(typeof exported.entries, "number");
    const listed = await new Deno.Command("tar", { args: ["-tf", tar] }).output();
    assert.match(new TextDecoder().decode(listed.stdout), /^sub\/\.wh\.b$/m);
    const imported = last(await ok("fs", "import", other, "--tar", tar, "-m", "from there"));
    assert.match(String(imported.version), hexId);
    assert.equal(await Deno.readTextFile(join(other, "new")), "third\n");
    await assert.rejects(Deno.lstat(join(other, "sub", "b")), Deno.errors.NotFound);
  });
});

Deno.test("drover fs export leaves no file behind when it fails", async () => {
  await withDirectory(async (directory, folder) => {
    await ok("fs", "init", directory, "--capture", "scan");
    const ran = await drover(
      "fs",
      "export",
      directory,
      "--tar",
      join(folder, "x.tar"),
      "--to",
      "feed",
      "--json",
    );
    assert.equal(ran.code, 1);
    assert.equal((ran.result().error as Record<string, unknown>).code, "unknown-version");
    const names = [...Deno.readDirSync(folder)].map((entry) => entry.name).filter((name) =>
      name.startsWith("x.tar")
    );
    assert.deepEqual(names, []);
  });
});
