/** The simulated file system: the suite of the real one, and its own hooks. */
import assert from "node:assert/strict";
import { createFakeNative } from "../../ffi/fake.ts";
import { pathFromText as p } from "../../lib/base/path.ts";
import { libcSuite, O, text, throwsCode, writeFile } from "./suite.ts";

libcSuite("FakeLibc", false, () => {
  const { libc } = createFakeNative();
  libc.mkdir(-100, p("room"), 0o755);
  return { libc, dir: libc.open(-100, p("/room"), O.RDONLY | O.DIRECTORY), close: () => {} };
});

Deno.test("FakeLibc budget gives ENOSPC in the middle of a write, and room back after unlink()", () => {
  const { libc } = createFakeNative({ budget: 5 * 4096 });
  const fd = libc.open(-100, p("f"), O.RDWR | O.CREAT, 0o600);
  throwsCode("ENOSPC", () => libc.pwrite(fd, new Uint8Array(10 * 4096).fill(1), 0));
  assert.equal(libc.fstat(fd).size, 4 * 4096);
  assert.equal(libc.statfs(fd).available, 0);
  throwsCode("ENOSPC", () => libc.mkdir(-100, p("d"), 0o700));
  libc.unlink(-100, p("f"));
  assert.equal(libc.statfs(fd).available, 0);
  libc.close(fd);
  assert.equal(libc.openCount, 0);
  libc.mkdir(-100, p("d"), 0o700);
  libc.rmdir(-100, p("d"));
  assert.equal(libc.used, 4096);
});

Deno.test("FakeLibc failAfter() fails the chosen call, once or for ever", async () => {
  const { libc } = createFakeNative();
  libc.failAfter(1, { code: "EDQUOT" });
  libc.mkdir(-100, p("a"), 0o700);
  throwsCode("EDQUOT", () => libc.mkdir(-100, p("b"), 0o700));
  libc.mkdir(-100, p("b"), 0o700);
  const fd = libc.open(-100, p("a"), O.RDONLY);
  libc.failAfter(0, { times: Infinity });
  throwsCode("EIO", () => libc.stat(-100, p("a")));
  await assert.rejects(() => libc.syncfs(fd), { code: "EIO" });
  libc.close(fd);
  libc.disarm();
  assert.equal(libc.stat(-100, p("a"))?.kind, "directory");
  assert.throws(() => libc.failAfter(0, { code: "EWHAT" }), TypeError);
});

Deno.test("FakeLibc is deterministic", () => {
  const run = () => {
    const { libc } = createFakeNative();
    libc.mkdir(-100, p("d"), 0o755);
    writeFile(libc, -100, p("d/f"), text("content"));
    libc.link(-100, p("d/f"), -100, p("g"));
    return libc.readDir(libc.open(-100, p("."), O.RDONLY));
  };
  assert.deepEqual(run(), run());
});

Deno.test("FakeLibc mountOverlay() throws ENOSYS", () => {
  const { libc } = createFakeNative();
  throwsCode("ENOSYS", () => libc.mountOverlay({}, p("/")));
});
