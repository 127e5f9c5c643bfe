/**
 * Goal: PostgreSQL on ext4 on a loop device on a managed mount of an NBD export recovers from kill -9, and the source holds
 * all of it after the unmount.
 */
import assert from "node:assert/strict";
import { run, tryRun } from "../region/fuse_room.ts";
import { Exported } from "./exported.ts";
import { canLoop, exists, loopFiles, mountTest, until } from "./mounted.ts";

const MiB = 2 ** 20;

/** Where Debian keeps the server's programs. */
const postgres = ["15", "16", "17"].map((version) => `/usr/lib/postgresql/${version}/bin`).find(exists);
if (postgres === undefined) {
  console.error(
    "tests/real: PostgreSQL on a mount: skipped, it is not there; type: apt-get install postgresql",
  );
}

mountTest(
  "drover mount --managed: PostgreSQL on it recovers from kill -9, and so does what the source has afterwards",
  async (room) => {
    Deno.writeFileSync(room.at("image"), new Uint8Array(0));
    Deno.truncateSync(room.at("image"), 384 * MiB);
    await using source = await Exported.start(room.at("image"), "--listen", `unix:${room.at("s")}`);
    await room.mountDetached(source.url, "--managed", "--local", room.at("local"));
    await run("mkfs.ext4", "-q", room.at("disk"));
    const [mnt, data, sockets] = [room.at("mnt"), room.at("mnt/data"), room.at("sockets")];
    for (const path of [mnt, sockets]) Deno.mkdirSync(path);
    Deno.chmodSync(room.path, 0o755);
    await run("chown", "postgres", sockets);
    const asPostgres = (...command: string[]): Promise<string> =>
      run("setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups", ...command);
    const start = (): Promise<string> =>
      asPostgres(
        ...[`${postgres}/pg_ctl`, "-D", data, "-w", "-t", "25", "-l", `${sockets}/log`],
        ...["-o", `-k ${sockets} -c listen_addresses= -c shared_buffers=16MB`, "start"],
      );
    const ask = async (text: string): Promise<string> =>
      (await asPostgres(`${postgres}/psql`, "-h", sockets, "-d", "postgres", "-Atc", text)).trim();
    const stop = (mode: string): Promise<string> =>
      asPostgres(`${postgres}/pg_ctl`, "-D", data, "-m", mode, "stop");
    const sums =
      "select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history), " +
      "(select count(*) from pgbench_history)";
    await run("mount", "-o", "loop", room.at("disk"), mnt);
    try {
      Deno.mkdirSync(data, { mode: 0o700 });
      await run("chown", "postgres", data);
      await asPostgres(`${postgres}/initdb`, "-D", data, "-A", "trust");
      await start();
      const bench = [`${postgres}/pgbench`, "-h", sockets];
      await asPostgres(...bench, "-i", "-q", "postgres");
      await asPostgres(...bench, "-c", "2", "-t", "100", "postgres");
      // All its processes at once, as a power cut would.
      const main = Number(Deno.readTextFileSync(`${data}/postmaster.pid`).split("\n")[0]);
      const children = (await run("pgrep", "-P", String(main))).trim().split("\n").map(Number);
      for (const pid of [main, ...children]) Deno.kill(pid, "SIGKILL");
      await until("the server's end", () => !exists(`/proc/${main}`));
      await start();
      assert.equal(await ask(sums), "t|200");
      await stop("fast");
    } finally {
      await tryRun(
        "setpriv",
        "--reuid",
        "postgres",
        "--clear-groups",
        "--regid",
        "postgres",
        `${postgres}/pg_ctl`,
        "-D",
        data,
        "-m",
        "immediate",
        "stop",
      );
      await run("umount", mnt);
    }
    await until("the loop device's end", () => !loopFiles().includes(room.at("disk")));
    assert.equal((await room.drover("unmount", room.at("disk"))).code, 0);
    // The source has everything now.
    await run("fsck.ext4", "-fn", room.at("image"));
    await run("mount", "-o", "loop", room.at("image"), mnt);
    try {
      await start();
      assert.equal(await ask(sums), "t|200");
      await stop("fast");
    } finally {
      await run("umount", mnt);
    }
  },
  canLoop && postgres !== undefined,
);
