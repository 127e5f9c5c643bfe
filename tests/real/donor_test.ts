/**
 * `drover serve --donate` and `drover donors` as processes: what they say, kill -9, SIGHUP and SIGTERM, NBD's own
 * tools with a ticket, and how much memory a donor needs for itself.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { borrow, type BorrowEvent } from "../../lib/cluster/mod.ts";
import { createKey } from "../../lib/net/mod.ts";
import { Heard, mebibyte, pageChannel } from "../cluster/room.ts";
import { Node, withFolder } from "./donor_node.ts";
import { fromSource } from "./nodes.ts";

const text = new TextDecoder();

async function drover(...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  const [file = "", ...rest] = fromSource;
  const { code, stdout, stderr } = await new Deno.Command(file, { args: [...rest, ...args] }).output();
  return { code, stdout: text.decode(stdout), stderr: text.decode(stderr) };
}

function rssOf(pid: number): number {
  const status = Deno.readTextFileSync(`/proc/${pid}/status`);
  return Number(/VmRSS:\s+(\d+) kB/.exec(status)?.[1]) * 1024;
}

Deno.test("drover serve --donate lends, and drover donors shows who borrows; no ticket is ever logged", () =>
  withFolder(async (folder) => {
    const keyFile = join(folder, "cluster.key");
    const key = await createKey(keyFile);
    const common = ["--listen", "127.0.0.1:0", "--key", keyFile, "--log-level", "debug"];
    // No adapter has this address: lent by TCP alone, with a word in the log.
    const rdma = ["--rdma", "192.0.2.1"];
    await using left = await Node.open(folder, ...common, ...rdma, "--donate", "64MiB", "--name", "left");
    await left.line(/warn rdma\.unavailable/);
    assert.equal(left.ready["donate"], 64 * mebibyte);
    assert.equal(left.ready["name"], "left");
    await using room = await borrow({ nodes: [left.address], key, size: 16 * mebibyte, name: "web" });
    const [slots] = room.slots;
    assert.ok(slots !== undefined);
    assert.equal(slots.port, left.ready["pagePort"]);
    await using pages = await pageChannel(slots);
    await pages.writeAt(0, new Uint8Array(mebibyte).fill(1));

    const listed = await drover("donors", left.address, "127.0.0.1:1", "--key", keyFile, "--json");
    const objects = listed.stdout.trim().split("\n").map((line) => JSON.parse(line));
    assert.equal(listed.code, 1, "one does not answer");
    const [lease] = objects[0].leases;
    assert.deepEqual(
      [objects[0].name, lease.borrower, lease.size, lease.connections, lease.writtenBytes, objects[0].free],
      ["left", "web", 16 * mebibyte, 1, mebibyte, 48 * mebibyte],
    );
    assert.equal(objects[1].error.code, "disconnected");
    assert.deepEqual([objects[2].donors, objects[2].silent, objects[2].lent], [1, 1, 16 * mebibyte]);
    const people = await drover("donors", left.address, "--key", keyFile);
    assert.equal(people.code, 0, people.stderr);
    assert.match(people.stdout, /^left at 127\.0\.0\.1:\d+: lends 64MiB, 16MiB of it lent, 48MiB free\n/);
    assert.match(people.stdout, /\n +1 {2}web +127\.0\.0\.1 +16MiB {2}attended/);

    await left.line(/debug page-channel\.came lease=1/);
    const secret = Deno.readTextFileSync(keyFile).split(" ").at(-1)?.trim() ?? "";
    for (const shown of [left.stderr, listed.stdout, people.stdout]) {
      assert.ok(!shown.includes(slots.ticket) && !shown.includes(secret));
    }
  }));

Deno.test("drover serve without --donate says so to borrowers, and drover donors needs somebody to ask", () =>
  withFolder(async (folder) => {
    await using node = await Node.open(folder, "--listen", "127.0.0.1:0");
    assert.deepEqual([node.ready["donate"], node.ready["pagePort"]], [0, null]);
    await assert.rejects(
      borrow({ nodes: [node.address], key: null, size: mebibyte }),
      /this node lends none/,
    );
    const { code, stderr } = await drover("donors", node.address);
    assert.equal(code, 1);
    assert.match(stderr, /warning: no answer from .*lends none/);
    assert.equal((await drover("donors")).code, 2);
    const quiet = node.stderr.split("\n").filter((line) => !line.includes("no key"));
    assert.deepEqual(quiet.filter((line) => line !== ""), [], "quiet by default");
    const huge = await drover("serve", "--root", folder, "--listen", "127.0.0.1:0", "--donate", "1000TiB");
    assert.equal(huge.code, 2);
    assert.match(huge.stderr, /Cannot lend 1000TiB|cannot lend 1000TiB/);
  }));

Deno.test("drover serve killed with -9 and started again has lent nothing, and its borrower borrows anew", () =>
  withFolder(async (folder) => {
    const first = await Node.open(folder, "--listen", "127.0.0.1:0", "--donate", "32MiB");
    const heard = new Heard<BorrowEvent>();
    await using room = await borrow({
      nodes: [first.address],
      key: null,
      size: 8 * mebibyte,
      onEvent: heard.hear,
      pauseMs: { first: 20, most: 100 },
    });
    const [before] = room.slots;
    assert.ok(before !== undefined);
    const pages = await pageChannel(before);
    await pages.writeAt(0, new Uint8Array(4096).fill(7));
    await first.end("SIGKILL");
    await assert.rejects(async () => await pages.readAt(0, new Uint8Array(4096)));
    await heard.until(({ event }) => event === "down");
    await using second = await Node.open(folder, "--listen", first.address, "--donate", "32MiB");
    await heard.until(({ event }) => event === "lost");
    const lent = await heard.until((event) => event.event === "lent" && event.slots.ticket !== before.ticket);
    assert.ok(lent.event === "lent" && second.pid !== first.pid);
    await using again = await pageChannel(lent.slots);
    const page = new Uint8Array(4096).fill(1);
    await again.readAt(0, page);
    assert.ok(page.every((byte) => byte === 0), "memory of a new process is zeros");
  }));

Deno.test("drover serve reads its drover.json again on SIGHUP, and recalls what it no longer lends", () =>
  withFolder(async (folder) => {
    const file = join(folder, "drover.json");
    const write = (config: unknown): void => Deno.writeTextFileSync(file, JSON.stringify(config, null, 2));
    write({ donate: "32MiB", log: { level: "info", format: "json" } });
    await using node = await Node.open(folder, "--listen", "127.0.0.1:0", "--config", file);
    const heard = new Heard<BorrowEvent>();
    await using room = await borrow({
      nodes: [node.address],
      key: null,
      size: 24 * mebibyte,
      onEvent: heard.hear,
    });
    Deno.writeTextFileSync(file, '{\n  "donate": "16MiB",\n  "donat": 1\n}');
    node.signal("SIGHUP");
    const refused = JSON.parse(await node.line(/config\.refused/));
    assert.match(refused.error, /line 3: there is no key "donat"/);
    write({ peers: [node.address], log: { level: "info", format: "json" } });
    node.signal("SIGHUP");
    await node.line(/it is this node itself/);
    assert.equal(room.size, 24 * mebibyte, "a file that is wrong changes nothing");
    write({ donate: "16MiB", name: "renamed", log: { level: "info", format: "json" } });
    node.signal("SIGHUP");
    const recalled = await heard.until(({ event }) => event === "recalled");
    assert.ok(recalled.event === "recalled");
    await room.giveBack(recalled.slots);
    const ended = JSON.parse(await node.line(/lease\.ended/));
    assert.deepEqual([ended.level, ended.why, ended.lent], ["info", "returned", 0]);
    const needs = JSON.parse(await node.line(/config\.needs-start/));
    assert.equal(needs.key, "name");
    // SIGTERM: nothing is lent any more, so nothing is waited for.
    assert.equal(await node.end("SIGTERM"), 0);
    for (const line of node.stderr.split("\n").filter((line) => line.startsWith("{"))) JSON.parse(line);
  }));

Deno.test("drover serve that is stopped recalls, and ends when everything is returned", () =>
  withFolder(async (folder) => {
    const node = await Node.open(
      folder,
      "--listen",
      "127.0.0.1:0",
      "--donate",
      "8MiB",
      "--log-level",
      "info",
    );
    const order: string[] = [];
    await using room = await borrow({
      nodes: [node.address],
      key: null,
      size: 8 * mebibyte,
      onEvent: async ({ event, ...rest }) => {
        if (event !== "recalled" || !("slots" in rest)) return;
        order.push("recalled");
        await room.giveBack(rest.slots);
      },
    });
    assert.equal(await node.end("SIGTERM"), 0);
    assert.deepEqual(order, ["recalled"]);
    assert.match(node.stderr, /lease\.ended .*why=returned/);
  }));

Deno.test({
  name: "nbdinfo reads a lease by its ticket, and finds no other export",
  // The package nbdkit's companion, libnbd-bin, has it.
  ignore: !await hasCommand("nbdinfo"),
  fn: () =>
    withFolder(async (folder) => {
      await using node = await Node.open(folder, "--listen", "127.0.0.1:0", "--donate", "8MiB");
      await using room = await borrow({ nodes: [node.address], key: null, size: 2 * mebibyte });
      const [slots] = room.slots;
      assert.ok(slots !== undefined);
      const place = `nbd://127.0.0.1:${slots.port}`;
      const nbdinfo = async (...args: string[]): Promise<{ code: number; out: string }> => {
        const { code, stdout } = await new Deno.Command("nbdinfo", { args, stderr: "null" }).output();
        return { code, out: text.decode(stdout).trim() };
      };
      assert.deepEqual(await nbdinfo("--size", `${place}/${slots.ticket}`), {
        code: 0,
        out: `${2 * mebibyte}`,
      });
      assert.equal((await nbdinfo("--can", "multi-conn", `${place}/${slots.ticket}`)).code, 0);
      assert.notEqual((await nbdinfo("--size", `${place}/${"0".repeat(64)}`)).code, 0);
      assert.notEqual((await nbdinfo("--size", place)).code, 0);
      const { out } = await nbdinfo("--list", "--json", place);
      assert.ok(!out.includes(slots.ticket));
    }),
});

Deno.test("drover serve --donate needs at most 3 % and 64 MB beside what it lends, and gives RAM back", () =>
  withFolder(async (folder) => {
    const size = 256 * mebibyte;
    await using node = await Node.open(folder, "--listen", "127.0.0.1:0", "--donate", "256MiB");
    const before = rssOf(node.pid);
    {
      await using room = await borrow({ nodes: [node.address], key: null, size });
      const [slots] = room.slots;
      assert.ok(slots !== undefined);
      assert.ok(rssOf(node.pid) - before < 32 * mebibyte, "lent, and never written");
      const channels = await Promise.all([1, 2, 3, 4].map(() => pageChannel(slots)));
      const block = crypto.getRandomValues(new Uint8Array(65_536));
      const page = new Uint8Array(4096);
      await Promise.all(channels.map(async (channel, lane) => {
        for (let at = lane * 65_536; at < size; at += 4 * 65_536) {
          await channel.writeAt(at, block);
          if (at % mebibyte === 0) await channel.readAt(at, page);
        }
      }));
      const over = rssOf(node.pid) - before - size;
      console.log(`donor: ${(over / 1e6).toFixed(1)} MB beside ${size / 1e6} MB that are lent and full`);
      assert.ok(over < 0.03 * size + 64e6, `${over} bytes`);
      await Promise.all(channels.map((channel) => channel.close()));
    }
    const { stdout } = await drover("donors", node.address, "--json");
    assert.equal(JSON.parse(stdout.split("\n")[0] ?? "").lent, 0);
    const rest = rssOf(node.pid) - before;
    console.log(`donor: ${(rest / 1e6).toFixed(1)} MB more than before when everything is returned`);
    assert.ok(rest < 64e6, `${rest} bytes are kept`);
  }));

async function hasCommand(name: string): Promise<boolean> {
  try {
    return (await new Deno.Command(name, { args: ["--version"], stdout: "null", stderr: "null" }).output())
      .success;
  } catch {
    return false;
  }
}
