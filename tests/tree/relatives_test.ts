/**
 * Files that were moved and changed: only what is new of them goes over the wire.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { Random } from "../version/trees.ts";
import { assertSame, has, Scratch, setups } from "./scratch.ts";

const tools = has("rsync", "getfattr");

for (const setup of setups) {
  Deno.test({
    name: `a file that was moved, renamed and changed is sent as a delta (${setup})`,
    ignore: !tools,
    fn: async () => {
      await using scratch = new Scratch();
      const tree = scratch.mkdir("tree");
      const random = new Random(7);
      Deno.mkdirSync(join(tree, "from"));
      const contents = [0, 1, 2].map(() => random.bytes(300_000));
      contents.forEach((bytes, at) => Deno.writeFileSync(join(tree, `from/${at}.bin`), bytes));
      await scratch.init("tree", setup);
      await scratch.transfer("tree", "copy");
      Deno.mkdirSync(join(tree, "to"));
      contents.forEach((bytes, at) => {
        Deno.renameSync(join(tree, `from/${at}.bin`), join(tree, `to/new-${9 - at}.dat`));
        bytes.fill(at + 1, 1000 * at, 1000 * at + 10);
        using file = Deno.openSync(join(tree, `to/new-${9 - at}.dat`), { write: true });
        file.seekSync(1000 * at, Deno.SeekMode.Start);
        file.writeSync(bytes.subarray(1000 * at, 1000 * at + 10));
      });
      Deno.writeFileSync(join(tree, "to/unrelated"), random.bytes(20_000));
      await scratch.commit("tree");
      const { bytesSent } = await scratch.transfer("tree", "copy");
      assert.ok(bytesSent > 20_000 && bytesSent < 60_000, `${bytesSent} octets were sent`);
      await assertSame(tree, scratch.path("copy"), "after the move");
    },
  });
}
