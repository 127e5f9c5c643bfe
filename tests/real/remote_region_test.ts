/**
 * A region whose cold pages are in the memory of other processes, over TCP, while those processes come and go.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { borrow, type BorrowEvent, followRoom } from "../../lib/cluster/mod.ts";
import { Region } from "../../lib/region/mod.ts";
import { Heard, mebibyte } from "../cluster/room.ts";
import { Node, withFolder } from "./donor_node.ts";

Deno.test("a region over three donors keeps every byte while one is killed and comes back, and another recalls", () =>
  withFolder(async (folder) => {
    const size = 8 * mebibyte;
    const pause = { first: 20, most: 100 };
    const options = ["--listen", "127.0.0.1:0", "--donate", "64MiB", "--log-level", "info"];
    const left = await Node.open(`${folder}/left`, ...options, "--name", "left");
    const file = join(folder, "drover.json");
    Deno.writeTextFileSync(file, JSON.stringify({ donate: "64MiB", log: { level: "info" } }));
    await using right = await Node.open(
      `${folder}/right`,
      ...["--listen", "127.0.0.1:0", "--config", file, "--name", "right"],
    );
    await using third = await Node.open(`${folder}/third`, ...options, "--name", "third");
    const heard = new Heard<BorrowEvent>();
    await using room = await borrow({
      nodes: [left.address, right.address, third.address],
      key: null,
      // More than the region needs: the others have room for what the one that is killed was just being given.
      size: 2 * size,
      copies: 2,
      onEvent: heard.hear,
      pauseMs: pause,
    });
    const opened = room.slots;
    using region = Region.open({ size, limit: "2MiB", remote: { donors: opened, copies: 2 } });
    const failures: string[] = [];
    const follower = followRoom({
      region,
      room,
      opened,
      log: (_level, event, fields) => failures.push(`${event} ${JSON.stringify(fields)}`),
    });
    const words = new Uint32Array(region.bytes.buffer, region.bytes.byteOffset, size / 4);
    const check = (round: number): void => {
      for (let at = 0; at < words.length; at += 256) {
        assert.equal(words[at], (at * 2654435761 + round) >>> 0, `round ${round}, word ${at}`);
      }
    };
    const fill = (round: number): void => {
      for (let at = 0; at < words.length; at += 256) words[at] = (at * 2654435761 + round) >>> 0;
    };
    const isWhole = async (): Promise<void> => {
      for (let tries = 0; await region.mend() > 0; tries++) {
        assert.ok(tries < 100, `no second copies: ${JSON.stringify(region.stores())}`);
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
    };
    fill(1);
    check(1);
    await left.end("SIGKILL");
    check(1);
    fill(2);
    check(2);
    await using again = await Node.open(`${folder}/left`, "--listen", left.address, "--donate", "64MiB");
    await heard.until((event) => event.event === "lent" && !opened.includes(event.slots));
    assert.ok(again.pid !== left.pid);
    await isWhole();
    check(2);
    // The other one wants its memory back: pages move, and only then it gets it.
    Deno.writeTextFileSync(file, JSON.stringify({ donate: 0, log: { level: "info" } }));
    right.signal("SIGHUP");
    // It may have lent twice by now.
    assert.match(await right.line(/lease\.ended .* lent=0$/), /info lease\.ended .*why=returned/);
    assert.ok(room.slots.every(({ donor }) => donor !== "right"));
    check(2);
    await isWhole();
    fill(3);
    check(3);
    await follower[Symbol.asyncDispose]();
    assert.deepEqual(failures, []);
  }));
