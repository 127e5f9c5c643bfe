/**
 * What every `Libc` must do: the same tests for the kernel's and for the simulated one. A backend gives a fresh, empty
 * directory as a descriptor and takes it away again.
 */
import assert from "node:assert/strict";
import { NativeError } from "../../ffi/errno.ts";
import type { Libc } from "../../ffi/mod.ts";
import { type BytePath, pathFromBytes, pathFromText } from "../../lib/base/path.ts";

export const O = {
  RDONLY: 0,
  WRONLY: 1,
  RDWR: 2,
  CREAT: 0o100,
  EXCL: 0o200,
  TRUNC: 0o1000,
  DIRECTORY: 0o200000,
  NOFOLLOW: 0o400000,
  PATH: 0o10000000,
} as const;

export const SEEK_DATA = 3;
export const SEEK_HOLE = 4;

/** A place to test in. */
export interface Room {
  libc: Libc;
  /** Descriptor of an empty directory. */
  dir: number;
  close(): void;
}

/** Names that text tools stumble over; all legal. */
export const oddNames: readonly BytePath[] = [
  pathFromText("new\nline"),
  pathFromText("-rf"),
  pathFromText(" "),
  pathFromText('tab\tand "quotes" and \\'),
  pathFromText("größe"),
  pathFromBytes(Uint8Array.of(0xff, 0xfe, 0x80)),
  pathFromBytes(Uint8Array.of(0x01, 0x7f, 0xc3)),
  "x".repeat(255) as BytePath,
  pathFromText(".wh.x"),
  pathFromText("..."),
];

export const text = (value: string): Uint8Array<ArrayBuffer> =>
  new Uint8Array(new TextEncoder().encode(value));

/** Runs `action` and checks that it throws a NativeError with this code. */
export function throwsCode(code: string, action: () => unknown): void {
  assert.throws(action, (error: unknown) => {
    assert.ok(error instanceof NativeError, String(error));
    assert.equal(error.code, code, error.message);
    return true;
  });
}

/** Creates a file with this content. */
export function writeFile(libc: Libc, dir: number, path: BytePath, content: Uint8Array, mode = 0o644): void {
  const fd = libc.open(dir, path, O.WRONLY | O.CREAT | O.EXCL, mode);
  try {
    libc.pwrite(fd, content, 0);
  } finally {
    libc.close(fd);
  }
}

/** Reads a whole small file. */
export function readFile(libc: Libc, dir: number, path: BytePath): Uint8Array<ArrayBuffer> {
  const fd = libc.open(dir, path, O.RDONLY | O.NOFOLLOW);
  try {
    const buffer = new Uint8Array(libc.fstat(fd).size + 1);
    return buffer.slice(0, libc.pread(fd, buffer, 0));
  } finally {
    libc.close(fd);
  }
}

/** Registers the suite for one backend. */
export function libcSuite(backend: string, ignore: boolean, makeRoom: () => Room): void {
  const p = pathFromText;
  const test = (name: string, run: (room: Room) => void | Promise<void>): void => {
    Deno.test({
      name: `${backend}: ${name}`,
      ignore,
      async fn() {
        const room = makeRoom();
        try {
          await run(room);
        } finally {
          room.close();
        }
      },
    });
  };

  test("open() and readDir() keep names of any bytes", ({ libc, dir }) => {
    for (const name of oddNames) writeFile(libc, dir, name, text(name.slice(0, 3)));
    const entries = libc.readDir(dir);
    assert.deepEqual(entries.map((entry) => entry.name).sort(), [...oddNames].sort());
    for (const entry of entries) {
      assert.equal(entry.kind, "file");
      assert.deepEqual(readFile(libc, dir, entry.name), text(entry.name.slice(0, 3)));
      const { name: _, ...stat } = entry;
      assert.deepEqual(libc.stat(dir, entry.name), stat);
    }
    for (const name of oddNames) libc.unlink(dir, name);
    assert.deepEqual(libc.readDir(dir), []);
  });

  test("readDir() returns each of many entries once, and again when called again", ({ libc, dir }) => {
    const names = Array.from({ length: 3000 }, (_, index) => `${index}-${"n".repeat(index % 200)}`);
    for (const name of names) libc.mknod(dir, name as BytePath, "fifo", 0o600, 0, 0);
    names.sort();
    for (let round = 0; round < 2; round++) {
      assert.deepEqual(libc.readDir(dir).map((entry) => entry.name as string).sort(), names);
    }
  });

  test("a path with a NUL byte or a character above 255 is refused, not cut", ({ libc, dir }) => {
    writeFile(libc, dir, p("a"), text("a"));
    throwsCode("EINVAL", () => libc.open(dir, "a\0b" as BytePath, O.RDONLY));
    throwsCode("EINVAL", () => libc.unlink(dir, "a\0" as BytePath));
    throwsCode("EINVAL", () => libc.mkdir(dir, "\u0161" as BytePath, 0o755));
    throwsCode("ENAMETOOLONG", () => libc.mkdir(dir, "d".repeat(256) as BytePath, 0o755));
    throwsCode("ENAMETOOLONG", () => libc.unlink(dir, "a/".repeat(5000) as BytePath));
    assert.deepEqual(libc.readDir(dir).map((entry) => entry.name), ["a"]);
  });

  test("the error names call, path and errno", ({ libc, dir }) => {
    assert.throws(() => libc.open(dir, p("no/such\n"), O.RDONLY), {
      name: "NativeError",
      message: 'Cannot open "no/such\\x0a": No such file or directory (ENOENT)',
      code: "ENOENT",
      errno: 2,
      syscall: "open",
    });
  });

  test("the empty path names the directory itself", ({ libc, dir }) => {
    libc.chmod(dir, p(""), 0o710);
    libc.setMtime(dir, p(""), 77, 5);
    libc.chown(dir, p(""), 3, 4);
    libc.setXattr(dir, p(""), p("user.root"), text("here"));
    const stat = libc.stat(dir, p(""));
    assert.deepEqual([stat?.mode, stat?.mtimeSeconds, stat?.mtimeNanos, stat?.uid, stat?.gid], [
      0o710,
      77,
      5,
      3,
      4,
    ]);
    assert.deepEqual(libc.getXattr(dir, p(""), p("user.root")), text("here"));
    assert.deepEqual(libc.xattrs(dir, p("")).map((xattr) => xattr.name), ["user.root"]);
    const fd = libc.openBeneath(dir, p(""), O.RDONLY | O.DIRECTORY);
    assert.equal(libc.fstat(fd).inode, stat?.inode);
    libc.close(fd);
  });

  test("openBeneath() refuses every way out", ({ libc, dir }) => {
    libc.mkdir(dir, p("in"), 0o755);
    libc.mkdir(dir, p("out"), 0o755);
    writeFile(libc, dir, p("out/secret"), text("secret"));
    libc.symlink(p("../out"), dir, p("in/up"));
    libc.symlink(p("inner"), dir, p("in/side"));
    libc.mkdir(dir, p("in/inner"), 0o755);
    const inside = libc.open(dir, p("in"), O.RDONLY | O.DIRECTORY);
    try {
      throwsCode("EXDEV", () => libc.openBeneath(inside, p("../out/secret"), O.RDONLY));
      throwsCode("EXDEV", () => libc.openBeneath(inside, p("inner/../../out/secret"), O.RDONLY));
      throwsCode("EXDEV", () => libc.openBeneath(inside, p("/"), O.RDONLY));
      throwsCode("ELOOP", () => libc.openBeneath(inside, p("up/secret"), O.RDONLY));
      throwsCode("ELOOP", () => libc.openBeneath(inside, p("up"), O.RDONLY));
      throwsCode("ELOOP", () => libc.openBeneath(inside, p("side/new"), O.WRONLY | O.CREAT, 0o600));
      const link = libc.openBeneath(inside, p("up"), O.PATH | O.NOFOLLOW);
      assert.equal(libc.fstat(link).kind, "symlink");
      libc.close(link);
      const fd = libc.openBeneath(inside, p("inner/new"), O.WRONLY | O.CREAT | O.EXCL, 0o600);
      libc.close(fd);
    } finally {
      libc.close(inside);
    }
    assert.equal(libc.stat(dir, p("in/inner/new"))?.kind, "file");
    const outside = libc.open(dir, p("out"), O.RDONLY | O.DIRECTORY);
    assert.deepEqual(libc.readDir(outside).map((entry) => entry.name), ["secret"]);
    libc.close(outside);
  });

  test("open() honours O_EXCL, O_NOFOLLOW, O_DIRECTORY and O_TRUNC", ({ libc, dir }) => {
    writeFile(libc, dir, p("f"), text("content"));
    libc.symlink(p("f"), dir, p("l"));
    throwsCode("EEXIST", () => libc.open(dir, p("f"), O.WRONLY | O.CREAT | O.EXCL, 0o600));
    throwsCode("EEXIST", () => libc.open(dir, p("l"), O.WRONLY | O.CREAT | O.EXCL, 0o600));
    throwsCode("ELOOP", () => libc.open(dir, p("l"), O.RDONLY | O.NOFOLLOW));
    throwsCode("ENOTDIR", () => libc.open(dir, p("f"), O.RDONLY | O.DIRECTORY));
    throwsCode("ENOTDIR", () => libc.open(dir, p("f/x"), O.RDONLY));
    throwsCode("EISDIR", () => libc.open(dir, p("."), O.WRONLY));
    const fd = libc.open(dir, p("l"), O.WRONLY | O.TRUNC);
    assert.equal(libc.fstat(fd).size, 0);
    throwsCode("EBADF", () => libc.pread(fd, new Uint8Array(1), 0));
    libc.close(fd);
    throwsCode("EBADF", () => libc.close(fd));
    throwsCode("EBADF", () => libc.fstat(fd));
  });

  test("punch() makes a hole that reads as zeros, and keeps the size", ({ libc, dir }) => {
    const fd = libc.open(dir, p("punched"), O.RDWR | O.CREAT, 0o644);
    const page = new Uint8Array(16384).fill(7);
    libc.pwrite(fd, page, 0);
    libc.punch(fd, 4096, 4096);
    libc.punch(fd, 9000, 100);
    const back = new Uint8Array(20000);
    assert.equal(libc.pread(fd, back, 0), 16384);
    page.fill(0, 4096, 8192).fill(0, 9000, 9100);
    assert.deepEqual(back.subarray(0, 16384), page);
    assert.equal(libc.seek(fd, 0, 4), 4096);
    throwsCode("EINVAL", () => libc.punch(fd, 0, 0));
    libc.close(fd);
  });

  test("growPipe() refuses what is no pipe", ({ libc, dir }) => {
    const fd = libc.open(dir, p("no-pipe"), O.RDWR | O.CREAT, 0o600);
    throwsCode("EBADF", () => libc.growPipe(fd, 1 << 20));
    libc.close(fd);
  });

  test("pread() and pwrite() work at any offset, and stop at the end", ({ libc, dir }) => {
    const fd = libc.open(dir, p("f"), O.RDWR | O.CREAT, 0o600);
    const content = new Uint8Array(20_000).map((_, index) => index * 7);
    libc.pwrite(fd, content, 5000);
    libc.pwrite(fd, new Uint8Array(0), 1e6);
    assert.equal(libc.fstat(fd).size, 25_000);
    const buffer = new Uint8Array(30_000).fill(9);
    assert.equal(libc.pread(fd, buffer, 0), 25_000);
    assert.deepEqual(buffer.subarray(0, 5000), new Uint8Array(5000));
    assert.deepEqual(buffer.subarray(5000, 25_000), content);
    assert.equal(buffer[25_000], 9);
    assert.equal(libc.pread(fd, buffer, 25_000), 0);
    assert.equal(libc.pread(fd, buffer.subarray(10, 20), 4995), 10);
    assert.deepEqual(buffer.subarray(10, 20), Uint8Array.of(0, 0, 0, 0, 0, 0, 7, 14, 21, 28));
    libc.ftruncate(fd, 5002);
    libc.ftruncate(fd, 6000);
    assert.equal(libc.pread(fd, buffer, 5000), 1000);
    assert.deepEqual(buffer.subarray(0, 4), Uint8Array.of(0, 7, 0, 0));
    throwsCode("EINVAL", () => libc.pread(fd, buffer, -1));
    libc.close(fd);
  });

  test("seek() finds data and holes, and -1 where there are none", ({ libc, dir }) => {
    const fd = libc.open(dir, p("sparse"), O.RDWR | O.CREAT, 0o600);
    libc.ftruncate(fd, 10 * 65_536);
    assert.equal(libc.seek(fd, 0, SEEK_DATA), -1);
    assert.equal(libc.seek(fd, 0, SEEK_HOLE), 0);
    libc.pwrite(fd, new Uint8Array(65_536).fill(1), 4 * 65_536);
    assert.equal(libc.seek(fd, 0, SEEK_DATA), 4 * 65_536);
    assert.equal(libc.seek(fd, 4 * 65_536 + 3, SEEK_DATA), 4 * 65_536 + 3);
    assert.equal(libc.seek(fd, 4 * 65_536, SEEK_HOLE), 5 * 65_536);
    assert.equal(libc.seek(fd, 10 * 65_536, SEEK_DATA), -1);
    assert.ok(libc.fstat(fd).blocks * 512 <= 2 * 65_536);
    libc.close(fd);
  });

  test("copyRange() copies exactly the range, aligned or not", ({ libc, dir }) => {
    const content = new Uint8Array(300_000).map((_, index) => index ^ index >> 8);
    writeFile(libc, dir, p("from"), content);
    const from = libc.open(dir, p("from"), O.RDONLY);
    const to = libc.open(dir, p("to"), O.RDWR | O.CREAT, 0o600);
    libc.copyRange(from, 0, to, 0, 65_536 * 4);
    libc.copyRange(from, 12_345, to, 65_536 * 4 + 1, 1001);
    libc.copyRange(from, 0, to, 0, 0);
    const expected = new Uint8Array(65_536 * 4 + 1002);
    expected.set(content.subarray(0, 65_536 * 4));
    expected.set(content.subarray(12_345, 13_346), 65_536 * 4 + 1);
    assert.deepEqual(readFile(libc, dir, p("to")), expected);
    throwsCode("ENODATA", () => libc.copyRange(from, 299_999, to, 0, 2));
    throwsCode("EINVAL", () => libc.copyRange(to, 0, to, 10, 11));
    libc.copyRange(to, 0, to, 100_000, 10);
    libc.close(from);
    libc.close(to);
  });

  test("stat() is null where there is nothing, and never follows", ({ libc, dir }) => {
    writeFile(libc, dir, p("f"), text("12345"), 0o640);
    libc.symlink(p("f"), dir, p("l"));
    assert.equal(libc.stat(dir, p("none")), null);
    assert.equal(libc.stat(dir, p("f/none")), null);
    const file = libc.stat(dir, p("f"));
    assert.deepEqual([file?.kind, file?.mode, file?.size, file?.nlink], ["file", 0o640, 5, 1]);
    const link = libc.stat(dir, p("l"));
    assert.deepEqual([link?.kind, link?.mode, link?.size], ["symlink", 0o777, 1]);
  });

  test("symlink() and readlink() keep any target", ({ libc, dir }) => {
    const targets = [
      ...oddNames,
      "/abs/olute" as BytePath,
      "../.." as BytePath,
      "t".repeat(4095) as BytePath,
    ];
    targets.forEach((target, index) => {
      libc.symlink(target, dir, p(`l${index}`));
      assert.equal(libc.readlink(dir, p(`l${index}`)), target);
    });
    throwsCode("ENAMETOOLONG", () => libc.symlink("t".repeat(4096) as BytePath, dir, p("long")));
    throwsCode("ENOENT", () => libc.symlink(p(""), dir, p("empty")));
    throwsCode("EINVAL", () => libc.readlink(dir, p(".")));
    throwsCode("EEXIST", () => libc.symlink(p("x"), dir, p("l0")));
  });

  test("link() makes a second name, also of a symlink, not of a directory", ({ libc, dir }) => {
    writeFile(libc, dir, p("a"), text("a"));
    libc.symlink(p("a"), dir, p("s"));
    libc.mkdir(dir, p("d"), 0o755);
    libc.link(dir, p("a"), dir, p("d/b"));
    libc.link(dir, p("s"), dir, p("s2"));
    assert.equal(libc.stat(dir, p("a"))?.inode, libc.stat(dir, p("d/b"))?.inode);
    assert.equal(libc.stat(dir, p("a"))?.nlink, 2);
    assert.equal(libc.stat(dir, p("s2"))?.kind, "symlink");
    throwsCode("EPERM", () => libc.link(dir, p("d"), dir, p("d2")));
    throwsCode("EEXIST", () => libc.link(dir, p("a"), dir, p("s")));
    libc.unlink(dir, p("a"));
    assert.equal(libc.stat(dir, p("d/b"))?.nlink, 1);
    assert.deepEqual(readFile(libc, dir, p("d/b")), text("a"));
  });

  test("mknod() makes devices, whiteouts, FIFOs and sockets", ({ libc, dir }) => {
    libc.mknod(dir, p("whiteout"), "char", 0, 0, 0);
    libc.mknod(dir, p("block"), "block", 0o600, 259, 1_000_000);
    libc.mknod(dir, p("fifo"), "fifo", 0o600, 0, 0);
    libc.mknod(dir, p("socket"), "socket", 0o700, 0, 0);
    libc.mknod(dir, p("file"), "file", 0o600, 0, 0);
    const found = new Map(
      libc.readDir(dir).map((e) => [e.name as string, [e.kind, e.mode, e.rdevMajor, e.rdevMinor]]),
    );
    assert.deepEqual(found.get("whiteout"), ["char", 0, 0, 0]);
    assert.deepEqual(found.get("block"), ["block", 0o600, 259, 1_000_000]);
    assert.deepEqual(found.get("fifo"), ["fifo", 0o600, 0, 0]);
    assert.deepEqual(found.get("socket"), ["socket", 0o700, 0, 0]);
    assert.deepEqual(found.get("file"), ["file", 0o600, 0, 0]);
    throwsCode("EPERM", () => libc.mknod(dir, p("d"), "directory", 0o700, 0, 0));
  });

  test("unlink(), rmdir() and mkdir() refuse the wrong kind", ({ libc, dir }) => {
    libc.mkdir(dir, p("d"), 0o755);
    libc.mkdir(dir, p("d/e"), 0o755);
    writeFile(libc, dir, p("f"), text(""));
    throwsCode("EISDIR", () => libc.unlink(dir, p("d")));
    throwsCode("ENOTDIR", () => libc.rmdir(dir, p("f")));
    throwsCode("ENOTEMPTY", () => libc.rmdir(dir, p("d")));
    throwsCode("ENOENT", () => libc.rmdir(dir, p("g")));
    throwsCode("EEXIST", () => libc.mkdir(dir, p("f"), 0o755));
    throwsCode("ENOENT", () => libc.mkdir(dir, p("g/h"), 0o755));
    assert.equal(libc.stat(dir, p("d"))?.kind, "directory");
    libc.rmdir(dir, p("d/e"));
    libc.rmdir(dir, p("d"));
    assert.deepEqual(libc.readDir(dir).map((entry) => entry.name), ["f"]);
  });

  test("rename() replaces, refuses and exchanges as its flags say", ({ libc, dir }) => {
    writeFile(libc, dir, p("a"), text("a"));
    writeFile(libc, dir, p("b"), text("b"));
    libc.mkdir(dir, p("d"), 0o755);
    libc.mkdir(dir, p("d/sub"), 0o755);
    throwsCode("EEXIST", () => libc.rename(dir, p("a"), dir, p("b"), 1));
    throwsCode("ENOENT", () => libc.rename(dir, p("a"), dir, p("none"), 2));
    throwsCode("EINVAL", () => libc.rename(dir, p("d"), dir, p("d/sub/x")));
    throwsCode("EISDIR", () => libc.rename(dir, p("a"), dir, p("d")));
    throwsCode("ENOTDIR", () => libc.rename(dir, p("d"), dir, p("a")));
    libc.rename(dir, p("a"), dir, p("d"), 2);
    assert.deepEqual(readFile(libc, dir, p("d")), text("a"));
    assert.equal(libc.stat(dir, p("a/sub"))?.kind, "directory");
    libc.rename(dir, p("d"), dir, p("b"));
    assert.deepEqual(readFile(libc, dir, p("b")), text("a"));
    libc.mkdir(dir, p("empty"), 0o755);
    throwsCode("ENOTEMPTY", () => libc.rename(dir, p("empty"), dir, p("a")));
    libc.rename(dir, p("a"), dir, p("empty"));
    assert.deepEqual(libc.readDir(dir).map((entry) => entry.name).sort(), ["b", "empty"]);
  });

  test("setMtime() keeps nanoseconds before 1970 and far ahead", ({ libc, dir }) => {
    writeFile(libc, dir, p("f"), text("x"));
    libc.symlink(p("f"), dir, p("l"));
    const times: [number, number][] = [[0, 0], [-1, 1], [-86_400 * 365 * 60, 999_999_999], [
      4_294_967_296,
      123_456_789,
    ], [
      8_000_000_000,
      1,
    ]];
    for (const [seconds, nanos] of times) {
      for (const name of ["f", "l"]) {
        libc.setMtime(dir, p(name), seconds, nanos);
        const stat = libc.stat(dir, p(name));
        assert.deepEqual([stat?.mtimeSeconds, stat?.mtimeNanos], [seconds, nanos]);
      }
      const fd = libc.open(dir, p("f"), O.RDONLY);
      libc.fsetMtime(fd, seconds + 1, nanos);
      assert.deepEqual([libc.fstat(fd).mtimeSeconds, libc.fstat(fd).mtimeNanos], [seconds + 1, nanos]);
      libc.close(fd);
    }
    throwsCode("EINVAL", () => libc.setMtime(dir, p("f"), 0, 1_000_000_000));
  });

  test("chown() and chmod() set every bit; chown clears setuid", ({ libc, dir }) => {
    writeFile(libc, dir, p("f"), text("x"));
    libc.symlink(p("f"), dir, p("l"));
    libc.chown(dir, p("l"), 11, 12);
    libc.chmod(dir, p("f"), 0o7777);
    assert.equal(libc.stat(dir, p("f"))?.mode, 0o7777);
    libc.chown(dir, p("f"), 4_000_000_000, 22);
    const file = libc.stat(dir, p("f"));
    assert.deepEqual([file?.uid, file?.gid, file?.mode], [4_000_000_000, 22, 0o1777]);
    assert.deepEqual([libc.stat(dir, p("l"))?.uid, libc.stat(dir, p("l"))?.gid], [11, 12]);
    const fd = libc.open(dir, p("f"), O.RDONLY);
    libc.fchown(fd, 5, 6);
    libc.fchmod(fd, 0o2755);
    assert.deepEqual([libc.fstat(fd).uid, libc.fstat(fd).gid, libc.fstat(fd).mode], [5, 6, 0o2755]);
    libc.close(fd);
  });

  test("xattrs are kept raw, sorted, and on the symlink itself", ({ libc, dir }) => {
    writeFile(libc, dir, p("f"), text("x"));
    libc.symlink(p("f"), dir, p("l"));
    const big = new Uint8Array(3000).map((_, index) => index);
    libc.setXattr(dir, p("f"), p("user.z"), text("last"));
    libc.setXattr(dir, p("f"), p("user.a"), big);
    libc.setXattr(
      dir,
      p("f"),
      pathFromBytes(Uint8Array.of(117, 115, 101, 114, 46, 0xff, 10)),
      new Uint8Array(0),
    );
    libc.setXattr(dir, p("l"), p("trusted.overlay.test"), text("link"));
    assert.deepEqual(libc.xattrs(dir, p("f")), [
      { name: "user.a", value: big },
      { name: "user.z", value: text("last") },
      { name: "user.\xff\n", value: new Uint8Array(0) },
    ]);
    assert.deepEqual(libc.xattrs(dir, p("l")), [{ name: "trusted.overlay.test", value: text("link") }]);
    assert.equal(libc.getXattr(dir, p("f"), p("trusted.overlay.test")), null);
    assert.deepEqual(libc.getXattr(dir, p("f"), p("user.z")), text("last"));
    throwsCode("EPERM", () => libc.setXattr(dir, p("l"), p("user.x"), text("")));
    throwsCode("EOPNOTSUPP", () => libc.setXattr(dir, p("f"), p("nothing.x"), text("")));
    throwsCode("ENOENT", () => libc.xattrs(dir, p("none")));
    libc.removeXattr(dir, p("f"), p("user.z"));
    libc.removeXattr(dir, p("f"), p("user.z"));
    assert.equal(libc.getXattr(dir, p("f"), p("user.z")), null);
  });

  test("fileHandle() is equal for two names of one file only", ({ libc, dir }) => {
    writeFile(libc, dir, p("a"), text(""));
    writeFile(libc, dir, p("c"), text(""));
    libc.link(dir, p("a"), dir, p("b"));
    const handle = libc.fileHandle(dir, p("a"));
    assert.ok(handle === null || handle.length > 4);
    assert.deepEqual(libc.fileHandle(dir, p("b")), handle);
    if (handle !== null) assert.notDeepEqual(libc.fileHandle(dir, p("c")), handle);
  });

  test("tryLock() is exclusive between open files until close()", ({ libc, dir }) => {
    const open = () => libc.open(dir, p("lock"), O.RDWR | O.CREAT, 0o600);
    const [a, b, c] = [open(), open(), open()];
    assert.equal(libc.tryLock(a, false), true);
    assert.equal(libc.tryLock(b, false), true);
    assert.equal(libc.tryLock(c, true), false);
    libc.close(a);
    assert.equal(libc.tryLock(b, true), true);
    assert.equal(libc.tryLock(c, false), false);
    libc.close(b);
    assert.equal(libc.tryLock(c, true), true);
    libc.close(c);
  });

  test("an open file lives on after unlink()", ({ libc, dir }) => {
    const fd = libc.open(dir, p("f"), O.RDWR | O.CREAT, 0o600);
    libc.pwrite(fd, text("still here"), 0);
    libc.unlink(dir, p("f"));
    assert.equal(libc.fstat(fd).nlink, 0);
    const buffer = new Uint8Array(10);
    assert.equal(libc.pread(fd, buffer, 0), 10);
    assert.deepEqual(buffer, text("still here"));
    libc.close(fd);
  });

  test("fsync(), syncfs() and statfs() answer", async ({ libc, dir }) => {
    const fd = libc.open(dir, p("f"), O.RDWR | O.CREAT, 0o600);
    libc.pwrite(fd, text("x"), 0);
    await libc.fsync(fd);
    await libc.syncfs(fd);
    const { available, blockSize } = libc.statfs(fd);
    assert.ok(available > 0 && blockSize >= 512);
    libc.close(fd);
    await assert.rejects(() => libc.fsync(fd), { code: "EBADF" });
  });
}
