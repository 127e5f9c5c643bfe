/**
 * Overlay mounts through the library, as root, in a scratch directory below /var/tmp. Everything that was
 * mounted is unmounted in `finally`, whatever happens.
 */
import assert from "node:assert/strict";
import type { Libc, OverlayOptions } from "../../ffi/mod.ts";
import { openNative } from "../../ffi/mod.ts";
import { type BytePath, pathFromText as p } from "../../lib/base/path.ts";
import { type DiskRoom, diskRoom, isRoot } from "./room.ts";
import { O, readFile, text, throwsCode, writeFile } from "./suite.ts";

const canMount = isRoot && openNative().identity().canMount;
const items = canMount ? openNative().probe(p("/var/tmp")) : [];
const can = (id: string) => items.find((item) => item.id === id)?.ok === true;

/** A scratch room with a mount point `m`, which is unmounted at the end however often it was mounted. */
function test(name: string, needs: string[], run: (room: MountRoom) => void | Promise<void>): void {
  Deno.test({
    name,
    ignore: !canMount || !needs.every(can),
    async fn() {
      const room = diskRoom();
      const { libc, dir, path } = room;
      const at = (child: string): BytePath => `${path}/${child}` as BytePath;
      const make = (child: string): BytePath => {
        libc.mkdir(dir, p(child), 0o755);
        return at(child);
      };
      const target = make("m");
      try {
        await run({ ...room, at, make, target });
      } finally {
        for (let count = 0; count < 20 && tryUnmount(libc, target); count++);
        room.close();
      }
    },
  });
}

interface MountRoom extends DiskRoom {
  at(child: string): BytePath;
  make(child: string): BytePath;
  target: BytePath;
}

function tryUnmount(libc: Libc, target: BytePath): boolean {
  try {
    libc.unmount(target, true);
    return true;
  } catch {
    return false;
  }
}

const off = {
  redirectDir: false,
  metacopy: false,
  index: false,
  userxattr: false,
  readOnly: false,
} satisfies Partial<OverlayOptions>;

/** Mount options as the kernel shows them. */
function mountInfo(target: BytePath): string[] {
  return Deno.readTextFileSync("/proc/self/mountinfo").split("\n").filter((line) =>
    line.split(" ")[4] === target
  );
}

test(
  "mountOverlay() shows lower and upper, and writes to the upper",
  ["overlay.root"],
  ({ libc, dir, make, target }) => {
    const [top, bottom, upper, work] = [make("top"), make("bottom"), make("upper"), make("work")];
    writeFile(libc, dir, p("top/both"), text("top"));
    writeFile(libc, dir, p("bottom/both"), text("bottom"));
    writeFile(libc, dir, p("bottom/low"), text("low"));
    libc.mountOverlay({ ...off, lower: [top, bottom], upper, work }, target, false);
    assert.deepEqual(readFile(libc, dir, p("m/both")), text("top"));
    libc.unlink(dir, p("m/low"));
    writeFile(libc, dir, p("m/new"), text("new"));
    const whiteout = libc.stat(dir, p("upper/low"));
    assert.deepEqual([whiteout?.kind, whiteout?.rdevMajor, whiteout?.rdevMinor], ["char", 0, 0]);
    assert.deepEqual(readFile(libc, dir, p("upper/new")), text("new"));
    libc.unmount(target, false);
    assert.equal(libc.stat(dir, p("m/new")), null);
    throwsCode("EINVAL", () => libc.unmount(target, false));
  },
);

test("mountOverlay() takes any byte in a layer's path", ["overlay.root"], ({ libc, dir, path, target }) => {
  const odd = [
    "a:b",
    "a\\b",
    "a,b",
    "a\\:b",
    "a\\,",
    "lowerdir=x",
    "new\nline",
    "\xff\xfe",
    " ",
    "=",
    "-o",
    "n".repeat(250),
  ];
  for (const name of odd) {
    const lower = `${name}1`.slice(-255), second = `${name}2`.slice(-255);
    const upper = `${name}3`.slice(-255), work = `${name}4`.slice(-255);
    for (const child of [lower, second, upper, work]) libc.mkdir(dir, child as BytePath, 0o755);
    writeFile(libc, dir, `${lower}/one` as BytePath, text("1"));
    writeFile(libc, dir, `${second}/two` as BytePath, text("2"));
    const layer = (child: string) => `${path}/${child}` as BytePath;
    libc.mountOverlay(
      { ...off, lower: [layer(lower), layer(second)], upper: layer(upper), work: layer(work) },
      target,
      false,
    );
    const fd = libc.open(-100, target, O.RDONLY | O.DIRECTORY);
    const names = libc.readDir(fd).map((entry) => entry.name as string).sort();
    libc.close(fd);
    libc.unmount(target, false);
    assert.deepEqual(names, ["one", "two"], JSON.stringify(name));
  }
});

test("mountOverlay() stacks 60 layers, topmost first", ["overlay.root"], ({ libc, dir, make, target }) => {
  const lower = Array.from({ length: 60 }, (_, index) => make(`layer-with-a-name-of-some-length-${index}`));
  for (const layer of lower) writeFile(libc, -100, `${layer}/f` as BytePath, text(layer));
  libc.mountOverlay({ ...off, lower, upper: null, work: null, readOnly: true }, target, false);
  assert.deepEqual(readFile(libc, dir, p("m/f")), text(lower[0] ?? ""));
  throwsCode("EROFS", () => writeFile(libc, dir, p("m/g"), text("")));
});

test(
  "mountOverlay() passes every feature explicitly",
  ["overlay.root", "overlay.metacopy", "overlay.index"],
  (room) => {
    const { libc, make, target } = room;
    const [lower, upper, work] = [make("lower"), make("upper"), make("work")];
    const fast = { redirectDir: true, metacopy: true, index: true };
    libc.mountOverlay({ ...off, ...fast, lower: [lower], upper, work }, target, false);
    const options = mountInfo(target).join();
    for (const part of ["redirect_dir=on", "metacopy=on", "index=on"]) {
      assert.ok(
        options.includes(part),
        options,
      );
    }
    libc.unmount(target, false);
    const [upper2, work2] = [make("upper2"), make("work2")];
    libc.mountOverlay({ ...off, lower: [lower], upper: upper2, work: work2 }, target, false);
    const plain = mountInfo(target).join();
    for (
      const part of ["redirect_dir=on", "redirect_dir=nofollow", "metacopy=on", "index=on", "nfs_export=on"]
    ) {
      assert.ok(!plain.includes(part), plain);
    }
  },
);

test(
  "without redirectDir, redirects in a lower layer are still followed",
  ["overlay.redirect_dir"],
  (room) => {
    const { libc, dir, make, target } = room;
    const [lower, upper, work, upper2, work2] = ["lower", "upper", "work", "upper2", "work2"].map(make) as [
      BytePath,
      BytePath,
      BytePath,
      BytePath,
      BytePath,
    ];
    make("lower/old");
    writeFile(libc, dir, p("lower/old/f"), text("moved"));
    libc.mountOverlay({ ...off, redirectDir: true, lower: [lower], upper, work }, target, false);
    libc.rename(dir, p("m/old"), dir, p("m/new"));
    libc.unmount(target, false);
    assert.ok(libc.getXattr(dir, p("upper/new"), p("trusted.overlay.redirect")) !== null);
    libc.mountOverlay({ ...off, lower: [upper, lower], upper: upper2, work: work2 }, target, false);
    assert.deepEqual(readFile(libc, dir, p("m/new/f")), text("moved"));
    throwsCode("EXDEV", () => libc.rename(dir, p("m/new"), dir, p("m/third")));
  },
);

test("mountOverlay() refuses what cannot be, and leaves nothing mounted", ["overlay.root"], (room) => {
  const { libc, dir, at, make, target } = room;
  const [lower, upper, work] = [make("lower"), make("upper"), make("work")];
  writeFile(libc, dir, p("file"), text(""));
  libc.symlink(p("m"), dir, p("link"));
  const good = { ...off, lower: [lower], upper, work };
  throwsCode("EINVAL", () => libc.mountOverlay({ ...good, lower: [] }, target, false));
  throwsCode("EINVAL", () => libc.mountOverlay({ ...good, work: null }, target, false));
  throwsCode("EINVAL", () => libc.mountOverlay({ ...good, userxattr: true, metacopy: true }, target, false));
  throwsCode("ENOENT", () => libc.mountOverlay({ ...good, lower: [at("none")] }, target, false));
  throwsCode("EINVAL", () => libc.mountOverlay({ ...good, lower: [at("file")] }, target, false));
  throwsCode("ENOENT", () => libc.mountOverlay(good, at("none"), false));
  throwsCode("ENOTDIR", () => libc.mountOverlay(good, at("file"), false));
  throwsCode("ENOTDIR", () => libc.mountOverlay(good, at("link"), false));
  throwsCode("EINVAL", () => libc.mountOverlay({ ...good, lower: ["a\0b" as BytePath] }, target, false));
  assert.deepEqual(mountInfo(target), []);
  // The same layers still work: nothing was left in use.
  libc.mountOverlay({ ...good, index: true }, target, false);
});

test(
  "a mount beneath becomes visible when the top goes",
  ["overlay.beneath"],
  ({ libc, dir, make, target }) => {
    const [first, second, upper, work] = [make("first"), make("second"), make("upper"), make("work")];
    writeFile(libc, dir, p("first/f"), text("first"));
    writeFile(libc, dir, p("second/f"), text("second"));
    libc.mountOverlay({ ...off, lower: [first], upper, work }, target, false);
    const [upper2, work2] = [make("upper2"), make("work2")];
    libc.mountOverlay({ ...off, lower: [second], upper: upper2, work: work2 }, target, true);
    assert.deepEqual(readFile(libc, dir, p("m/f")), text("first"));
    const held = libc.open(dir, p("m/f"), O.RDONLY);
    throwsCode("EBUSY", () => libc.unmount(target, false));
    libc.unmount(target, true);
    assert.deepEqual(readFile(libc, dir, p("m/f")), text("second"));
    const buffer = new Uint8Array(5);
    libc.pread(held, buffer, 0);
    assert.deepEqual(buffer, text("first"));
    libc.close(held);
    libc.unmount(target, false);
    assert.deepEqual(mountInfo(target), []);
  },
);

test("mountOverlay() beneath a plain directory is refused", ["overlay.beneath"], ({ libc, make, target }) => {
  const [lower, upper, work] = [make("lower"), make("upper"), make("work")];
  throwsCode("EINVAL", () => libc.mountOverlay({ ...off, lower: [lower], upper, work }, target, true));
  assert.deepEqual(mountInfo(target), []);
});

test("remount() to read-only is refused while a file is open for writing", ["overlay.root"], (room) => {
  const { libc, dir, make, target } = room;
  const [lower, upper, work] = [make("lower"), make("upper"), make("work")];
  writeFile(libc, dir, p("lower/f"), text("f"));
  libc.mountOverlay({ ...off, lower: [lower], upper, work }, target, false);
  const writer = libc.open(dir, p("m/f"), O.RDWR);
  const reader = libc.open(dir, p("m/f"), O.RDONLY);
  assert.equal(libc.remount(target, true), false);
  writeFile(libc, dir, p("m/still-writable"), text(""));
  libc.close(writer);
  assert.equal(libc.remount(target, true), true);
  assert.equal(libc.remount(target, true), true);
  throwsCode("EROFS", () => writeFile(libc, dir, p("m/g"), text("")));
  assert.equal(libc.remount(target, false), true);
  writeFile(libc, dir, p("m/g"), text(""));
  libc.close(reader);
});

test(
  "remount() to read-only is refused while a file is mapped shared and writable",
  ["overlay.root"],
  async (room) => {
    const { libc, dir, path, make, target } = room;
    const [lower, upper, work] = [make("lower"), make("upper"), make("work")];
    writeFile(libc, dir, p("lower/f"), new Uint8Array(4096));
    libc.mountOverlay({ ...off, lower: [lower], upper, work }, target, false);
    const system = Deno.dlopen("libc.so.6", {
      mmap: { parameters: ["pointer", "usize", "i32", "i32", "i32", "i64"], result: "pointer" },
      munmap: { parameters: ["pointer", "usize"], result: "i32" },
    });
    const fd = libc.open(dir, p("m/f"), O.RDWR);
    const memory = system.symbols.mmap(null, 4096n, 3, 1, fd, 0n);
    libc.close(fd);
    try {
      assert.ok((await Deno.readTextFile("/proc/self/maps")).includes(`${path}/m/f`));
      assert.equal(libc.remount(target, true), false);
    } finally {
      system.symbols.munmap(memory, 4096n);
      system.close();
    }
    assert.equal(libc.remount(target, true), true);
  },
);

test("remount() of a directory that is no overlay is refused", ["overlay.root"], ({ libc, target }) => {
  throwsCode("EINVAL", () => libc.remount(target, true));
  throwsCode("EINVAL", () => libc.remount(p("/var/tmp"), true));
});

test("the mount takes over nosuid, nodev and noexec from its top layer", ["overlay.root"], (room) => {
  const { libc, make, target } = room;
  const [lower, upper, work, other] = [make("lower"), make("upper"), make("work"), make("other")];
  libc.mountOverlay({ ...off, lower: [lower], upper, work }, target, false);
  assert.ok(!(mountInfo(target)[0] ?? "").includes("nosuid"));
  libc.unmount(target, false);
  // /dev/shm is mounted nosuid,nodev nearly everywhere; without it there is nothing to see.
  const shm = Deno.readTextFileSync("/proc/self/mountinfo").split("\n").find((line) =>
    line.split(" ")[4] === "/dev/shm"
  );
  if (shm === undefined || !/ rw,nosuid,nodev/.test(shm)) return;
  const layer = p(Deno.makeTempDirSync({ dir: "/dev/shm", prefix: "drover-ffi-test-" }));
  try {
    libc.mountOverlay(
      { ...off, lower: [layer, other], upper: null, work: null, readOnly: true },
      target,
      false,
    );
    assert.match(mountInfo(target)[0] ?? "", /nosuid,nodev/);
    libc.unmount(target, false);
  } finally {
    Deno.removeSync(layer);
  }
});
