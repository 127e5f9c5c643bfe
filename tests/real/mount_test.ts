/**
 * Goal: programs that others wrote take the file of `drover mount` for a disk, direct and managed, and nothing that was
 * acknowledged as durable is lost when a program of the chain is killed. Method: real processes: `drover export` as the
 * source, `drover mount`, and on top of it fio, mkfs.ext4, the loop device, fsck, sqlite3, dd.
 */
import assert from "node:assert/strict";
import { failing, python, run, tryRun } from "../region/fuse_room.ts";
import { Exported } from "./exported.ts";
import { canLoop, exists, loopFiles, type MountRoom, mountTest, until } from "./mounted.ts";

const MiB = 2 ** 20;

function fio(room: MountRoom, ...options: string[]): Promise<string> {
  return run(
    "fio",
    "--name=verify",
    `--filename=${room.at("disk")}`,
    "--size=24m",
    "--verify=crc32c",
    "--verify_fatal=1",
    "--randseed=5",
    `--output=${room.at("fio.log")}`,
    ...options,
  );
}

mountTest(
  "drover mount: fio writes and verifies over NBD: buffered, direct with sixteen in flight, by mapping",
  async (room) => {
    Deno.writeFileSync(room.at("image"), new Uint8Array(0));
    Deno.truncateSync(room.at("image"), 32 * MiB);
    await using source = await Exported.start(room.at("image"), "--listen", `unix:${room.at("s")}`);
    await room.mountDetached(source.url);
    await fio(room, "--ioengine=psync", "--rw=randwrite", "--bsrange=1k-200k", "--fsync=16");
    await fio(
      room,
      "--ioengine=libaio",
      "--rw=randwrite",
      "--bs=4k",
      "--direct=1",
      "--iodepth=16",
      "--io_size=8m",
    );
    await fio(room, "--ioengine=mmap", "--rw=randwrite", "--bs=4k", "--io_size=8m");
    // The same octets by another way.
    await run("cmp", "-n", String(24 * MiB), room.at("disk"), room.at("image"));
    assert.equal((await room.drover("unmount", room.at("disk"))).last.outcome, "unmounted");
    assert.ok(!exists(room.at("disk")));
  },
);

mountTest("drover mount: ext4 on a loop device on it, SQLite in it, fsck after it", async (room) => {
  Deno.writeFileSync(room.at("image"), new Uint8Array(0));
  Deno.truncateSync(room.at("image"), 64 * MiB);
  await room.mountDetached(room.at("image"));
  await run("mkfs.ext4", "-q", room.at("disk"));
  Deno.mkdirSync(room.at("mnt"));
  await run("mount", "-o", "loop", room.at("disk"), room.at("mnt"));
  try {
    const said = await run(
      "sqlite3",
      room.at("mnt/db"),
      "pragma journal_mode=wal; create table t(x); with recursive n(i) as (select 1 union all select i+1 from n where i<20000) " +
        "insert into t select i*7 from n; pragma integrity_check; select sum(x) from t;",
    );
    assert.equal(said.trim(), "wal\nok\n1400070000");
    await run("cp", "-r", new URL("../../native-src", import.meta.url).pathname, room.at("mnt/src"));
    await run("fstrim", room.at("mnt"));
    // While it is in use it stays.
    const refused = await room.drover("unmount", room.at("disk"));
    assert.equal(refused.code, 5, refused.text);
  } finally {
    await run("umount", room.at("mnt"));
  }
  await until("the loop device's end", () => !loopFiles().includes(room.at("disk")));
  assert.equal((await room.drover("unmount", room.at("disk"))).code, 0);
  await run("fsck.ext4", "-fn", room.at("image"));
  await run("mount", "-o", "loop,ro", room.at("image"), room.at("mnt"));
  try {
    assert.equal(
      (await run("sqlite3", `file:${room.at("mnt/db")}?immutable=1`, "select count(*) from t")).trim(),
      "20000",
    );
    await run("diff", "-r", new URL("../../native-src", import.meta.url).pathname, room.at("mnt/src"));
  } finally {
    await run("umount", room.at("mnt"));
  }
}, canLoop);

mountTest(
  "drover mount: SIGTERM unmounts, and detaches what is open; kill -9 leaves nothing that the next does not clear",
  async (room) => {
    const disk = room.at("disk");
    Deno.writeFileSync(room.at("image"), new Uint8Array(2 * MiB).fill(1));
    const first = await room.mountDetached(room.at("image"));
    await run("dd", "if=/dev/zero", `of=${disk}`, "bs=1000", "count=1", "conv=notrunc", "status=none");
    Deno.kill(first, "SIGTERM");
    await until("the end of the mount", () => !exists(disk));
    assert.equal(Deno.readFileSync(room.at("image"))[999], 0);

    const second = await room.mountDetached(room.at("image"));
    const file = Deno.openSync(disk);
    Deno.kill(second, "SIGTERM");
    await until("the path to vanish", () => Deno.statSync(disk).size === 0);
    assert.equal(file.readSync(new Uint8Array(10)), 10);
    file.close();
    await until("the end of the mount", () => !exists(disk));

    // Killed, and unmounted.
    const third = await room.mountDetached(room.at("image"));
    Deno.kill(third, "SIGKILL");
    await until("ENOTCONN", () => !exists(disk));
    const listed = await room.drover("mounts");
    assert.match(listed.text, new RegExp(`"path":"${disk}".*"state":"dead"`));
    assert.equal((await room.drover("unmount", disk)).last.outcome, "cleared");
    assert.ok(![...Deno.readDirSync(room.path)].some(({ name }) => name === "disk"));
    assert.equal((await room.drover("unmount", disk)).code, 2);

    // Killed, and mounted anew.
    const fourth = await room.mountDetached(room.at("image"));
    assert.equal((await room.drover("mount", room.at("image"), disk, "--detach")).code, 5);
    Deno.kill(fourth, "SIGKILL");
    await until("ENOTCONN", () => !exists(disk));
    await room.mountDetached(room.at("image"), "--read-only");
    assert.notEqual((await tryRun("dd", "if=/dev/zero", `of=${disk}`, "count=1", "conv=notrunc")).code, 0);
    assert.equal((await room.drover("unmount", disk)).code, 0);
    assert.ok(![...Deno.readDirSync(room.path)].some(({ name }) => name === "disk"));
    assert.deepEqual([...Deno.readDirSync(room.at("home/mounts"))], []);
  },
);

mountTest(
  "drover mount: a source that is gone is EIO after the time-out, and back again without a new mount",
  async (room) => {
    Deno.writeFileSync(room.at("image"), new Uint8Array(4 * MiB).fill(6));
    const listen = ["--listen", `unix:${room.at("s")}`];
    let source = await Exported.start(room.at("image"), ...listen);
    try {
      await room.mountDetached(source.url, "--timeout", "1");
      assert.equal(await python(room.at("disk"), "print(os.pread(f, 1, 0))"), "b'\\x06'");
      await source.stop("SIGKILL");
      assert.equal(await python(room.at("disk"), failing(`os.pread(f, 1, ${3 * MiB})`)), "EIO");
      assert.equal(await python(room.at("disk"), failing("os.pwrite(f, b'x', 0)")), "EIO");
      source = await Exported.start(room.at("image"), ...listen);
      let answer = "";
      for (let tries = 0; tries < 20 && answer !== "ok"; tries++) {
        answer = await python(room.at("disk"), failing(`os.pread(f, 1, ${3 * MiB})`));
      }
      assert.equal(answer, "ok");
      assert.equal((await room.drover("unmount", room.at("disk"))).code, 0);
    } finally {
      await source[Symbol.asyncDispose]();
    }
  },
);

mountTest(
  "drover mount --managed: what was synced survives kill -9 of the mount, and reaches the source",
  async (room) => {
    Deno.writeFileSync(room.at("image"), new Uint8Array(16 * MiB).fill(2));
    await using source = await Exported.start(room.at("image"), "--listen", `unix:${room.at("s")}`);
    const options = ["--managed", "--local", room.at("local"), "--learn", room.at("order")];
    const first = await room.mountDetached(source.url, ...options);
    assert.equal(
      await python(
        room.at("disk"),
        "os.pwrite(f, b'durable', 5000000)\nos.fsync(f)\nprint(os.pread(f, 1, 9))",
      ),
      "b'\\x02'",
    );
    Deno.kill(first, "SIGKILL");
    await until("ENOTCONN", () => !exists(room.at("disk")));
    await room.mountDetached(source.url, ...options);
    assert.equal(await python(room.at("disk"), "print(os.pread(f, 9, 4999999))"), "b'\\x02durable\\x02'");
    await fio(room, "--ioengine=psync", "--rw=randwrite", "--bsrange=1k-100k", "--size=8m", "--fsync=8");
    assert.match((await room.drover("mounts")).text, /"managed":true/);
    await run("cp", room.at("disk"), room.at("copy"));
    assert.equal((await room.drover("unmount", room.at("disk"))).code, 0);
    // Unmounting waited for the source.
    await run("cmp", room.at("copy"), room.at("image"));
    // Durable is durable there, where that was asked for.
    const last = await room.mountDetached(source.url, "--managed", "--durability", "remote");
    await python(room.at("disk"), "os.pwrite(f, b'remote', 77)\nos.fsync(f)");
    assert.equal(new TextDecoder().decode(Deno.readFileSync(room.at("image")).subarray(77, 83)), "remote");
    Deno.kill(last, "SIGKILL");
    await until("ENOTCONN", () => !exists(room.at("disk")));
    assert.equal((await room.drover("unmount", room.at("disk"))).last.outcome, "cleared");
  },
);
