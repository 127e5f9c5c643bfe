/**
 * How a directory comes under drover and leaves it, where that is not straightforward: what its parent hands down, odd names, programs at
 * work, other mounts, a tree that is not mounted.
 */
import assert from "node:assert/strict";
import { deinitTree, initTree, openTree } from "../../lib/tree/mod.ts";
import { type BytePath, joinPath } from "../../lib/base/path.ts";
import {
  assertNoMarks,
  assertSame,
  has,
  isRoot,
  native,
  plainCopy,
  Scratch,
  type Setup,
  setups,
  sh,
} from "./scratch.ts";

function test(name: string, needs: boolean, work: (scratch: Scratch, setup: Setup) => Promise<void>): void {
  for (const setup of setups) {
    Deno.test({
      name: `${name} (${setup})`,
      ignore: !has("rsync", "getfattr", "setfacl") || !needs,
      fn: async () => {
        await using scratch = new Scratch("/var/tmp");
        await work(scratch, setup);
      },
    });
  }
}

const options = (setup: Setup) =>
  setup === "scan" ? { capture: "scan" as const } : { capture: "overlay" as const, profile: setup };

test("initTree() keeps what the parent hands down out of its layers", true, async (scratch, setup) => {
  const tree = scratch.mkdir("parent/tree");
  await sh(
    scratch.path("parent"),
    "echo a > tree/a; mkdir tree/d; setfacl -d -m u:1234:rwx .; setfacl -m u:1234:rwx .; chmod g+s .",
  );
  await plainCopy(tree, scratch.path("v0"));
  await scratch.init("parent/tree", setup);
  await assertSame(scratch.path("v0"), tree, "init");
  assert.deepEqual(await scratch.changes("parent/tree"), []);
  await sh(tree, "echo b > b; mkdir e; echo c > d/c; ln -s b l; chmod 600 a");
  assert.equal(await sh(tree, "getfacl -R -s -p . | head -3"), "", "new files inherit nothing");
  await plainCopy(tree, scratch.path("v1"));
  await scratch.commit("parent/tree");
  await assertSame(scratch.path("v1"), tree, "commit");
  for (const other of setups) {
    await scratch.transfer("parent/tree", `parent/${other}`, { setup: other });
    await assertSame(scratch.path("v1"), scratch.path(`parent/${other}`), other);
    assert.deepEqual(await scratch.changes(`parent/${other}`), [], other);
    await scratch.deinit(`parent/${other}`);
    await assertSame(scratch.path("v1"), scratch.path(`parent/${other}`), `${other} after deinit`);
  }
});

test("initTree() takes a directory of any name", true, async (scratch, setup) => {
  for (const name of ["a,b:c\\d", "new\nline =x", "\u00e9\u4e2d \"'$", "-o", "lowerdir=x"]) {
    const tree = scratch.mkdir(name);
    await sh(tree, "echo a > a; mkdir d");
    await scratch.init(name, setup);
    await sh(tree, "echo b > b; rmdir d");
    await plainCopy(tree, scratch.path("copy"));
    await scratch.commit(name);
    await assertSame(scratch.path("copy"), tree, name);
    await scratch.deinit(name);
    await assertSame(scratch.path("copy"), tree, name);
    await sh(scratch.dir, "rm -rf copy");
  }
});

test(
  "initTree() takes a directory whose name is not UTF-8, with its state elsewhere",
  true,
  async (scratch, setup) => {
    const dir = joinPath(scratch.bytes(""), "caf\xe9" as BytePath).replace("//", "/") as BytePath;
    native.libc.mkdir(-100, dir, 0o755);
    await sh(scratch.dir, "cd caf*; echo a > a");
    await assert.rejects(initTree(scratch.context, dir, options(setup)), { code: "unsupported" });
    await initTree(scratch.context, dir, { ...options(setup), state: scratch.bytes("state") });
    await sh(scratch.dir, "cd caf*; echo b > b; rm a");
    {
      await using tree = await openTree(scratch.context, dir);
      assert.ok((await tree.commit()).changed);
      await tree.checkout({ version: "head~1" });
    }
    assert.equal(await sh(scratch.dir, "ls caf*"), "a\n");
    await deinitTree(scratch.context, dir);
    assert.equal(await sh(scratch.dir, "ls caf*"), "a\n");
  },
);

test(
  "initTree() refuses a mount point inside the tree, commit() and checkout() leave one alone",
  isRoot,
  async (scratch, setup) => {
    const tree = scratch.mkdir("tree");
    await sh(tree, "mkdir m; mount -t tmpfs none m");
    await assert.rejects(scratch.init("tree", setup), { code: "unsupported" });
    await sh(tree, "umount m");
    await scratch.init("tree", setup);
    const first = await scratch.with("tree", (open) => Promise.resolve(open.resolve("head")));
    await sh(tree, "mount -t tmpfs none m; echo kept > m/kept; echo a > a");
    if (setup === "scan") await assert.rejects(scratch.commit("tree"), { code: "unsupported" });
    else {
      // The version does not have it, and it stays where it is.
      assert.deepEqual(await scratch.changes("tree"), ["modified .", "created a"]);
      await scratch.commit("tree");
      assert.equal(await sh(tree, "cat m/kept"), "kept\n");
      await assert.rejects(scratch.checkout("tree", first), { code: "busy" });
      assert.equal(await sh(tree, "cat m/kept a"), "kept\na\n");
    }
    await sh(tree, "umount m");
  },
);

test(
  "initTree() refuses while a file is open or mapped for writing",
  has("python3"),
  async (scratch, setup) => {
    if (setup === "scan") return; // nothing is moved away from under anybody
    const tree = scratch.mkdir("tree");
    await sh(tree, "echo a > a; head -c 8192 /dev/zero > mapped");
    {
      using file = Deno.openSync(`${tree}/a`, { append: true });
      assert.ok(file.statSync().isFile);
      await assert.rejects(scratch.init("tree", setup), { code: "busy" });
    }
    const program = `import ctypes, os, sys
c = ctypes.CDLL(None); c.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + 3 * [ctypes.c_int] + [ctypes.c_long]
f = os.open("mapped", os.O_RDWR); c.mmap(None, 8192, 3, 1, f, 0); os.close(f); print("ready", flush=True); sys.stdin.read()`;
    const child = new Deno.Command("python3", {
      args: ["-c", program],
      cwd: tree,
      stdin: "piped",
      stdout: "piped",
    }).spawn();
    const output = child.stdout.getReader();
    try {
      await output.read();
      await assert.rejects(scratch.init("tree", setup), { code: "busy" });
    } finally {
      await child.stdin.close();
      while (!(await output.read()).done);
      await child.status;
    }
    await scratch.init("tree", setup);
  },
);

test("initTree() takes a directory with hard links to outside", true, async (scratch, setup) => {
  const tree = scratch.mkdir("tree");
  await sh(
    tree,
    "echo a > a; ln a ../outside; echo b > b; ln b c; ln b ../outside2; mkdir d; echo e > d/e; ln d/e ../outside3",
  );
  await scratch.init("tree", setup);
  await sh(tree, "echo more >> a; mv d e; chmod 600 e/e; rm b; echo more >> c; ln c f");
  await plainCopy(tree, scratch.path("v1"));
  await scratch.commit("tree");
  await assertSame(scratch.path("v1"), tree, "commit");
  await scratch.transfer("tree", "other", { setup });
  await assertSame(scratch.path("v1"), scratch.path("other"), "other");
  await scratch.gc("tree", 1);
  await scratch.deinit("tree");
  await assertSame(scratch.path("v1"), tree, "deinit");
});

test("deinitTree() gives back what was not committed", true, async (scratch, setup) => {
  const tree = scratch.mkdir("tree");
  await sh(
    tree,
    `head -c 70000 /dev/urandom > a; ln a b; ln a c; cp -p a d; mkdir -p x/y; echo z > x/y/z; ln x/y/z x/w; truncate -s 3M s
    head -c 70000 /dev/urandom > big; echo 1 > gone; echo q > q; ln q q2`,
  );
  await scratch.init("tree", setup);
  // b is written under another name, which is removed: in a fast tree only its index knows.
  await sh(
    tree,
    `echo more >> a; rm a; chmod 600 big; mv big big2; mv x x2; rm gone; mkdir gone; echo in > gone/in
    ln d dd; printf y | dd of=s bs=1 seek=2000000 conv=notrunc status=none; chmod 640 q; rm q; setfattr -n user.k -v v x2/w`,
  );
  await plainCopy(tree, scratch.path("now"));
  assert.ok(
    (await scratch.changes("tree")).some((line) => line.endsWith(" b") || line.endsWith(" c")),
    "b or c was modified",
  );
  await scratch.deinit("tree");
  await assertSame(scratch.path("now"), tree, "deinit");
  await assertNoMarks(tree);
});

test(
  "a tree that is not mounted is mounted before its hard links are looked at",
  true,
  async (scratch, setup) => {
    if (setup === "scan") return;
    const tree = scratch.mkdir("tree");
    await sh(
      tree,
      "for f in a b; do head -c 5000 /dev/urandom > $f; ln $f $f.2; ln $f $f.3; done; echo x > x",
    );
    await scratch.init("tree", setup);
    const first = await scratch.with("tree", (open) => Promise.resolve(open.resolve("head")));
    await sh(tree, "chmod 600 a; echo y > y");
    await plainCopy(tree, scratch.path("v1"));
    const second = await scratch.commit("tree");
    await scratch.with("tree", (open) => Promise.resolve(open.unmount()));
    await scratch.checkout("tree", first);
    await scratch.checkout("tree", second);
    await assertSame(scratch.path("v1"), tree, "checkout of an unmounted tree");
    await sh(tree, ": >> a; : >> b.2");
    await scratch.with("tree", (open) => Promise.resolve(open.unmount()));
    // With the index that changed nothing, without it hard links parted; a fast tree tells only while it is mounted.
    await scratch.checkout("tree", first, setup !== "fast");
    await scratch.checkout("tree", second);
    await assertSame(scratch.path("v1"), tree, "again");
  },
);

test("initTree() refuses the layers of other overlays", isRoot, async (scratch, setup) => {
  for (
    const mark of [
      "mknod w c 0 0",
      "mkdir d; setfattr -n trusted.overlay.opaque -v y d",
      "touch f; setfattr -n user.overlay.x -v y f",
    ]
  ) {
    const tree = scratch.mkdir("tree");
    await sh(tree, mark);
    await assert.rejects(scratch.init("tree", setup), { code: "unsupported" }, mark);
    await sh(tree, "rm -rf *");
  }
});

test(
  "deinitTree() does not take along what was moved out of a version's way",
  true,
  async (scratch, setup) => {
    if (setup !== "scan") return; // an overlay has nothing in the way
    scratch.mkdir("tree");
    await scratch.init("tree", setup);
    await sh(scratch.dir, "cd .tree.drover; echo precious > work/rescued-0-x");
    await assert.rejects(scratch.deinit("tree"), { code: "uncommitted" });
    await sh(scratch.dir, "cd .tree.drover; mv work/rescued-0-x ../x");
    await scratch.deinit("tree");
  },
);

test(
  "commit() links what is linked, whatever inode numbers the kernel shows",
  true,
  async (scratch, setup) => {
    const tree = scratch.mkdir("tree");
    await sh(tree, "for f in a b; do echo $f > $f; done; echo c > c; ln c c2; ln c c3");
    await scratch.init("tree", setup);
    await sh(tree, "ln a a2; chmod 600 a; echo more >> b; mkdir d; ln b d/b; ln c2 d/c; chmod 640 c2");
    // In a user namespace the first and the second name show different numbers, until a remount makes the kernel forget. There is
    // none while a process works in the directory.
    const resident = new Deno.Command("sleep", { args: ["60"], cwd: tree }).spawn();
    try {
      await scratch.commit("tree");
    } finally {
      resident.kill();
      await resident.status;
    }
    await scratch.settle("tree");
    for (const other of setups) await scratch.transfer("tree", other, { setup: other });
    for (const name of ["tree", ...setups]) {
      assert.equal(
        await sh(scratch.path(name), "stat -c %i a a2 | uniq | wc -l; stat -c %i b d/b | uniq | wc -l"),
        "1\n1\n",
        name,
      );
      await assertSame(tree, scratch.path(name), name);
    }
  },
);
