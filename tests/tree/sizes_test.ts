/**
 * What is large: a sparse file, paths beyond PATH_MAX, directories of many entries. With `DROVER_BIG=1` the file is larger
 * than 4 GiB and tried in every setup, and a directory has 100 000 entries.
 */
import assert from "node:assert/strict";
import { assertSame, has, memoryBase, plainCopy, Scratch, type Setup, setups, sh } from "./scratch.ts";

const big = Deno.env.get("DROVER_BIG") !== undefined;
const tools = has("rsync", "getfattr");

/** Allocated bytes below a directory. */
async function allocated(dir: string): Promise<number> {
  return Number((await sh(dir, "du -s --block-size=1 . | cut -f 1")).trim());
}

// Every byte of it is hashed several times, holes too.
const shift = big ? 32 : 28;

for (const setup of big ? setups : setups.slice(0, 1)) {
  Deno.test({
    name: `a sparse file of 2^${shift} + 1 bytes keeps its content and its holes (${setup})`,
    ignore: !tools,
    fn: async () => {
      await using scratch = new Scratch();
      const tree = scratch.mkdir("tree");
      const page = (at: string) =>
        `head -c 5000 /dev/urandom | dd of=f bs=1 oflag=seek_bytes seek=$((${at})) conv=notrunc status=none`;
      const [end, half] = [`(1 << ${shift})`, `(1 << ${shift - 1})`];
      await sh(
        tree,
        `truncate -s $((${end} + 1)) f; ${page("0")}; ${page(`${half} - 100`)}; ${page(`${end} - 4999`)}`,
      );
      await scratch.init("tree", setup);
      const receivers: Setup[] = big ? [...setups] : ["scan"];
      for (const other of receivers) await scratch.transfer("tree", other, { setup: other });
      await sh(
        tree,
        `${page(`${half} + 7000`)}; truncate -s $((${end} + 70000)) f; printf x >> f; chmod 600 f`,
      );
      await scratch.commit("tree");
      for (const other of receivers) {
        const { sent } = await scratch.transfer("tree", other);
        assert.equal(sent.entries, 1);
        await assertSame(tree, scratch.path(other), other);
        // The kernel copies up a piece of a hole around what is written.
        assert.ok(await allocated(scratch.path(other)) < 8 << 20, "the holes are still there");
      }
      assert.ok(await allocated(scratch.dir) < 64 << 20, "nothing that drover keeps has filled them");
    },
  });
}

for (const setup of setups) {
  Deno.test({
    name: `paths longer than PATH_MAX are kept (${setup})`,
    ignore: !tools,
    fn: async () => {
      await using scratch = new Scratch(memoryBase());
      const tree = scratch.mkdir("tree");
      // 30 directories of 200 bytes each; tools that take whole paths cannot follow, so it is walked by cd.
      const enter = `n=$(printf '%0200d' 7); for i in $(seq 30); do [ $1 = 0 ] || mkdir $n; cd -P ./$n; done`;
      const list = `find . -type d -printf '%y %m %U %T@\\n' -o -printf '%y %m %U %s %T@ %l\\n' | sort
        find . -type f -execdir sha256sum {} + | sort`;
      const shown = (name: string) => sh(scratch.path(name), list);
      await sh(tree, `set -- 1; ${enter}; echo deep > f; ln -s f l; mkdir d; echo x > d/x; ln f hard`);
      const v0 = await shown("tree");
      assert.equal(v0.match(/ \.\/f\n/g)?.length, 1);
      await scratch.init("tree", setup);
      const first = await scratch.with("tree", (open) => Promise.resolve(open.resolve("head")));
      assert.equal(await shown("tree"), v0);
      await sh(
        tree,
        `set -- 0; ${enter}; echo more >> f; rm -r d; mkdir d; echo y > d/y; chmod 700 .; mv l k`,
      );
      const v1 = await shown("tree");
      const second = await scratch.commit("tree");
      assert.equal(await shown("tree"), v1);
      assert.deepEqual(await scratch.changes("tree"), []);
      for (const other of setups) {
        await scratch.transfer("tree", other, { setup: other });
        assert.equal(await shown(other), v1, other);
      }
      await scratch.checkout("tree", first);
      assert.equal(await shown("tree"), v0);
      await scratch.checkout("tree", second);
      assert.equal(await shown("tree"), v1);
      await scratch.verify("tree");
      await scratch.gc("tree", 1);
      await scratch.deinit("tree");
      assert.equal(await shown("tree"), v1);
    },
  });

  Deno.test({
    name: `a directory of many entries is kept (${setup})`,
    ignore: !tools,
    fn: async () => {
      await using scratch = new Scratch(memoryBase());
      const tree = scratch.mkdir("tree");
      const count = big ? 100_000 : 5000;
      await sh(
        tree,
        `mkdir w; seq -f 'w/%07.0f' 1 ${count} | xargs touch; mkdir x; cd x; seq 1 300 | while read i; do echo $i > $i; done`,
      );
      await scratch.init("tree", setup);
      await scratch.transfer("tree", "late", { setup });
      await sh(
        tree,
        "cd w; rm *7; for i in *11; do mv $i m$i; done; for i in *22; do echo $i > $i; done; cd ..; mv w v; mkdir w; touch w/new",
      );
      await plainCopy(tree, scratch.path("v1"));
      await scratch.commit("tree");
      await assertSame(scratch.path("v1"), tree, "commit");
      await scratch.transfer("tree", "late");
      await assertSame(scratch.path("v1"), scratch.path("late"), "late");
      await scratch.gc("late", 1);
      await scratch.deinit("late");
      await assertSame(scratch.path("v1"), scratch.path("late"), "late after deinit");
    },
  });
}
