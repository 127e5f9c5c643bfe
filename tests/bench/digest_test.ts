import assert from "node:assert/strict";
import { lutimesSync } from "node:fs";
import { compareTrees, diffDigests, digestTree } from "../../bench/digest.ts";
import { outputOf, toolExists } from "../../bench/process.ts";
import { isRoot, Scratch } from "../../bench/scratch.ts";

const rsync = toolExists("rsync");

/** A small tree with one entry of each kind that anybody may make. */
function makeTree(dir: string): void {
  Deno.mkdirSync(`${dir}/sub/empty`, { recursive: true });
  Deno.writeTextFileSync(`${dir}/file`, "content\n");
  Deno.writeTextFileSync(`${dir}/sub/line\nbreak \\ tab\t`, "odd\n");
  Deno.writeTextFileSync(`${dir}/sub/linked`, "twice\n");
  Deno.linkSync(`${dir}/sub/linked`, `${dir}/other name`);
  Deno.symlinkSync("file", `${dir}/sub/symlink`);
  outputOf(["mkfifo", `${dir}/fifo`]);
  // A name that is not UTF-8 needs a shell: Deno cannot say it.
  outputOf(["sh", "-c", "printf bytes > \"$(printf 'bad\\377name')\""], { cwd: dir });
  if (toolExists("setfattr")) outputOf(["setfattr", "-n", "user.note", "-v", "one", "file"], { cwd: dir });
  const time = new Date(1_700_000_000_123);
  lutimesSync(`${dir}/sub/symlink`, time, time);
  for (const path of ["file", "sub/linked", "sub/empty", "sub", ""]) {
    Deno.utimeSync(`${dir}/${path}`, time, time);
  }
}

/** Every single change, and the word by which the difference is told. */
const changes: readonly {
  name: string;
  told: string;
  root?: boolean;
  needs?: string;
  change: (dir: string) => void;
}[] = [
  { name: "a mode", told: "mode", change: (dir) => Deno.chmodSync(`${dir}/file`, 0o4711) },
  {
    name: "an mtime by a nanosecond's digits",
    told: "mtime",
    change: (dir) => outputOf(["touch", "-d", "@1700000000.123000001", `${dir}/file`]),
  },
  { name: "a directory's mtime", told: "mtime", change: (dir) => Deno.utimeSync(`${dir}/sub`, 1, 1) },
  { name: "a symlink's mtime", told: "mtime", change: (dir) => lutimesSync(`${dir}/sub/symlink`, 5, 5) },
  { name: "an owner", told: "owner", root: true, change: (dir) => Deno.chownSync(`${dir}/file`, 12, 0) },
  {
    name: "content of the same size and mtime",
    told: "content",
    change: (dir) => {
      const time = Deno.statSync(`${dir}/file`).mtime ?? 0;
      Deno.writeTextFileSync(`${dir}/file`, "Content\n");
      Deno.utimeSync(`${dir}/file`, time, time);
    },
  },
  {
    name: "content of a name that is not UTF-8",
    told: "content",
    change: (dir) =>
      outputOf([
        "sh",
        "-c",
        'name=$(printf \'bad\\377name\'); printf Bytes >"$name"; touch -r "../a/$name" "$name"',
      ], { cwd: dir }),
  },
  {
    name: "a size",
    told: "size",
    change: (dir) => Deno.writeTextFileSync(`${dir}/file`, "x", { append: true }),
  },
  {
    name: "a symlink's target",
    told: "target",
    change: (dir) => {
      Deno.removeSync(`${dir}/sub/symlink`);
      Deno.symlinkSync("fool", `${dir}/sub/symlink`);
    },
  },
  {
    name: "hard links that were split",
    told: "linkOf",
    change: (dir) => outputOf(["cp", "-a", "--remove-destination", "sub/linked", "other name"], { cwd: dir }),
  },
  {
    name: "files that became hard links",
    told: "linkOf",
    change: (dir) => {
      Deno.removeSync(`${dir}/file`);
      Deno.linkSync(`${dir}/sub/linked`, `${dir}/file`);
    },
  },
  {
    name: "an attribute's value",
    told: "xattrs",
    needs: "setfattr",
    change: (dir) => outputOf(["setfattr", "-n", "user.note", "-v", "two", `${dir}/file`]),
  },
  {
    name: "an attribute more",
    told: "xattrs",
    needs: "setfattr",
    change: (dir) => outputOf(["setfattr", "-n", "user.more", `${dir}/sub/empty`]),
  },
  {
    name: "an access list",
    told: "xattrs",
    needs: "setfacl",
    change: (dir) => outputOf(["setfacl", "-m", "u:daemon:r", `${dir}/file`]),
  },
  {
    name: "a type",
    told: "type",
    change: (dir) => {
      Deno.removeSync(`${dir}/fifo`);
      Deno.mkdirSync(`${dir}/fifo`);
    },
  },
  { name: "an entry less", told: "only on the left", change: (dir) => Deno.removeSync(`${dir}/sub/empty`) },
  {
    name: "an entry more",
    told: "only on the right",
    change: (dir) => Deno.writeTextFileSync(`${dir}/sub/new`, ""),
  },
  {
    name: "a name's case",
    told: "only on the left",
    change: (dir) => Deno.renameSync(`${dir}/file`, `${dir}/File`),
  },
];

for (const { name, told, root, needs, change } of changes) {
  Deno.test({
    name: `digestTree() and compareTrees() tell ${name}`,
    ignore: !rsync || (root === true && !isRoot()) || (needs !== undefined && !toolExists(needs)),
    fn: () => {
      using scratch = new Scratch();
      makeTree(scratch.fresh("a"));
      const copy = scratch.copy(scratch.at("a"), "b");
      assert.deepEqual(compareTrees(scratch.at("a"), copy).differences, []);
      change(copy);
      const left = digestTree(scratch.at("a"));
      const right = digestTree(copy);
      assert.notEqual(left.hash, right.hash);
      assert.ok(
        diffDigests(left, right).some((line) => line.includes(told)),
        diffDigests(left, right).join("\n"),
      );
      assert.ok(compareTrees(scratch.at("a"), copy).differences.length > 0);
    },
  });
}

Deno.test({
  name: "digestTree() tells one device from another",
  ignore: !isRoot(),
  fn: () => {
    using scratch = new Scratch();
    const hashes = ["3", "5"].map((minor) => {
      const dir = scratch.fresh(minor);
      outputOf(["mknod", `${dir}/node`, "c", "1", minor]);
      outputOf(["touch", "-d", "@1", `${dir}/node`, dir]);
      return digestTree(dir).hash;
    });
    assert.notEqual(hashes[0], hashes[1]);
  },
});

Deno.test("digestTree() leaves the tree's own directory out when told so", () => {
  using scratch = new Scratch();
  makeTree(scratch.fresh("a"));
  const before = digestTree(scratch.at("a"), { root: false }).hash;
  Deno.chmodSync(scratch.at("a"), 0o700);
  assert.equal(digestTree(scratch.at("a"), { root: false }).hash, before);
});
