/** The libc calls on real files. Some need root (owners, devices, `trusted.` attributes); without it all are skipped. */
import assert from "node:assert/strict";
import { openNative } from "../../ffi/mod.ts";
import { pathFromText as p } from "../../lib/base/path.ts";
import { diskRoom, isRoot } from "./room.ts";
import { libcSuite, O, text, throwsCode, writeFile } from "./suite.ts";

libcSuite("NativeLibc", !isRoot, diskRoom);

Deno.test({
  name: "NativeLibc: the umask does not hide bits that chmod() sets",
  ignore: !isRoot,
  fn() {
    const room = diskRoom();
    try {
      const { libc, dir } = room;
      libc.mkdir(dir, p("d"), 0o777);
      libc.chmod(dir, p("d"), 0o3777);
      assert.equal(libc.stat(dir, p("d"))?.mode, 0o3777);
      libc.symlink(p("d"), dir, p("l"));
      // fchmodat2 came with Linux 6.6; before, the contract forbids the call.
      const [major = 0, minor = 0] = Deno.osRelease().split(".").map(Number);
      if (major > 6 || (major === 6 && minor >= 6)) {
        throwsCode("EOPNOTSUPP", () => libc.chmod(dir, p("l"), 0o700));
      }
      assert.equal(libc.stat(dir, p("d"))?.mode, 0o3777);
    } finally {
      room.close();
    }
  },
});

Deno.test({
  name: "NativeLibc: setMtime() leaves the access time alone",
  ignore: !isRoot,
  fn() {
    const room = diskRoom();
    try {
      const { libc, dir, path } = room;
      writeFile(libc, dir, p("f"), text("x"));
      Deno.utimeSync(`${path}/f`, 1000, 2000);
      libc.setMtime(dir, p("f"), 3000, 4);
      const stat = Deno.statSync(`${path}/f`);
      assert.deepEqual([stat.atime?.getTime(), stat.mtime?.getTime()], [1_000_000, 3_000_000]);
    } finally {
      room.close();
    }
  },
});

Deno.test("NativeLibc: mknod() of kinds and directories given by AT_FDCWD work on absolute paths", () => {
  const room = diskRoom();
  try {
    const { libc, dir, path } = room;
    const fifo = p(`${path}/fifo`);
    libc.mknod(-100, fifo, "fifo", 0o600, 0, 0);
    assert.equal(libc.stat(-100, fifo)?.kind, "fifo");
    assert.equal(libc.stat(dir, fifo)?.kind, "fifo");
    writeFile(libc, -100, p(`${path}/f`), text("x"));
    libc.setXattr(-100, p(`${path}/f`), p("user.a"), text("b"));
    assert.deepEqual(libc.xattrs(dir, p("f")), [{ name: "user.a", value: text("b") }]);
  } finally {
    room.close();
  }
});

Deno.test("NativeLibc: xattrs() grows its buffer for large values", { ignore: !isRoot }, () => {
  // tmpfs takes large values; ext4 mostly one block.
  const { libc } = openNative();
  const directory = Deno.makeTempDirSync({ dir: "/dev/shm", prefix: "drover-ffi-test-" });
  try {
    const path = p(`${directory}/f`);
    writeFile(libc, -100, path, text(""));
    const values = [65_536, 60_000, 40_000].map((size) => new Uint8Array(size).fill(size % 251));
    values.forEach((value, index) => libc.setXattr(-100, path, p(`trusted.${index}`), value));
    assert.deepEqual(libc.xattrs(-100, path).map((xattr) => xattr.value), values);
    assert.deepEqual(libc.getXattr(-100, path, p("trusted.0")), values[0]);
    throwsCode("E2BIG", () => libc.setXattr(-100, path, p("trusted.x"), new Uint8Array(65_537)));
  } finally {
    Deno.removeSync(directory, { recursive: true });
  }
});

Deno.test("NativeLibc: an O_PATH descriptor of a symlink gives its attributes", { ignore: !isRoot }, () => {
  const room = diskRoom();
  try {
    const { libc, dir } = room;
    libc.symlink(p("nowhere"), dir, p("l"));
    libc.setXattr(dir, p("l"), p("trusted.t"), text("v"));
    const fd = libc.open(dir, p("l"), O.PATH | O.NOFOLLOW);
    assert.deepEqual(libc.xattrs(fd, p("")), [{ name: "trusted.t", value: text("v") }]);
    assert.equal(libc.fstat(fd).kind, "symlink");
    assert.equal(libc.readlink(fd, p("")), "nowhere");
    libc.close(fd);
  } finally {
    room.close();
  }
});

Deno.test("NativeLibc: pread() of a large file with small pieces in between stays exact", () => {
  const room = diskRoom();
  try {
    const { libc, dir } = room;
    const fd = libc.open(dir, p("f"), O.RDWR | O.CREAT, 0o600);
    const far = 5 * 2 ** 32 + 17;
    libc.pwrite(fd, text("far away"), far);
    const buffer = new Uint8Array(8);
    assert.equal(libc.pread(fd, buffer, far), 8);
    assert.deepEqual(buffer, text("far away"));
    assert.equal(libc.fstat(fd).size, far + 8);
    assert.ok(libc.seek(fd, 0, 3) > far - 65_536);
    libc.close(fd);
  } finally {
    room.close();
  }
});

Deno.test("identity() agrees with Deno", () => {
  const identity = openNative().identity();
  assert.equal(identity.uid, Deno.uid());
  assert.equal(identity.gid, Deno.gid());
  const map = Deno.readTextFileSync("/proc/self/uid_map").trim().split(/\s+/);
  assert.equal(identity.inUserNamespace, map.join(" ") !== "0 0 4294967295");
});
