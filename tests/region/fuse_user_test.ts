/**
 * A mount of an ordinary user, by fusermount3. As root that user is 65534, otherwise whoever runs the tests; the mount and
 * what uses it are processes of that user.
 */
import assert from "node:assert/strict";
import { basename } from "node:path";
import { fileURLToPath } from "node:url";
import { toolExists } from "../../bench/process.ts";
import { FuseRoom, missing } from "./fuse_room.ts";

const isRoot = Deno.uid() === 0;
const without = missing ?? (toolExists("fusermount3") ? null : "no fusermount3; type: apt-get install fuse3");
if (without !== null && missing === null) {
  console.error(`FUSE tests of an ordinary user: skipped: ${without}`);
}
const project = fileURLToPath(new URL("../../", import.meta.url));

/** What that user runs: mounts, uses the file by another program, is refused what he may not, unmounts. */
const program = `
import { openNative } from "./ffi/mod.ts";
import { MemoryBackend } from "./lib/region/backend_memory.ts";
import { FuseFile } from "./lib/region/fuse.ts";
const native = openNative();
const { uid, canMount } = native.identity();
const [path] = Deno.args;
const disk = await FuseFile.open(new MemoryBackend(2 ** 20), { path, native, source: "a,b\\\\c" });
const { size, uid: owner } = await Deno.stat(path);
const copy = await new Deno.Command("dd", { args: ["if=/dev/zero", "of=" + path, "bs=64k", "count=2", "conv=notrunc,fsync"] }).output();
const info = Deno.readTextFileSync("/proc/self/mountinfo").split("\\n").find((line) => line.includes(" " + path + " "));
const file = await Deno.open(path);
let busy = "";
await disk.unmount().catch((error) => busy = error.code);
file.close();
let denied = "";
try {
  await FuseFile.open(new MemoryBackend(2 ** 20), { path: "/etc/drover-test", native });
} catch (error) {
  denied = error.code;
}
const stats = disk.stats();
await disk.close();
console.log(JSON.stringify({ uid, canMount, size, owner, dd: copy.code, flushes: stats.flushes, written: stats.writtenBytes,
  busy, denied, source: info?.split(" - ")[1], left: [...Deno.readDirSync(path.replace(/[^/]*$/, ""))].length }));
`;

Deno.test({
  name: "FuseFile as an ordinary user: fusermount3 mounts, unmounts, and says who is busy",
  ignore: without !== null,
  fn: async () => {
    await using room = new FuseRoom();
    const [code, place] = [room.at("code"), room.at("place")];
    for (const path of [code, place]) Deno.mkdirSync(path);
    // That user may not be able to look into the place where root keeps these.
    for (const path of [...["ffi", "lib", "build"].map((name) => project + name), Deno.execPath()]) {
      const copied = await new Deno.Command("cp", { args: ["-r", path, code] }).output();
      assert.ok(copied.success);
    }
    Deno.writeTextFileSync(`${code}/user.ts`, program);
    Deno.chmodSync(room.path, 0o755);
    if (isRoot) Deno.chownSync(place, 65534, 65534);
    const user = isRoot ? ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"] : [];
    const command = [...user, `${code}/${basename(Deno.execPath())}`, "run", "--quiet", "--no-check"];
    const [file = "", ...args] = [
      ...command,
      "--no-config",
      "--no-lock",
      "-A",
      `${code}/user.ts`,
      `${place}/disk`,
    ];
    const done = await new Deno.Command("timeout", {
      args: ["-s", "KILL", "60", file, ...args],
      cwd: "/",
      env: { DENO_DIR: `${place}-deno`, HOME: place, NO_COLOR: "1", DENO_NO_UPDATE_CHECK: "1" },
      stdin: "null",
    }).output();
    const [said, talk] = [done.stdout, done.stderr].map((bytes) => new TextDecoder().decode(bytes));
    assert.equal(done.code, 0, talk);
    const uid = isRoot ? 65534 : Deno.uid();
    assert.deepEqual(JSON.parse(said ?? ""), {
      uid,
      canMount: false,
      size: 2 ** 20,
      owner: uid,
      dd: 0,
      flushes: 1,
      written: 131_072,
      busy: "busy",
      denied: "io",
      source: `fuse.drover a,b\\134c rw,user_id=${uid},group_id=${
        isRoot ? 65534 : Deno.gid()
      },default_permissions,max_read=1048576`,
      left: 0,
    });
  },
});
