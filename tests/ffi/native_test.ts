/** Finding, checking and loading the library; the probe. */
import assert from "node:assert/strict";
import { layoutText } from "../../ffi/layout.ts";
import { openNative } from "../../ffi/mod.ts";
import { libraryVersion } from "../../ffi/symbols.ts";
import { DroverError } from "../../lib/base/errors.ts";
import { pathFromText as p, pathToText } from "../../lib/base/path.ts";
import { diskRoom } from "./room.ts";

// At the top level: Deno 2.4 takes a library that a test loads for a leak.
const loaded = openNative();
const sameByPath = openNative({ path: loaded.path });

function refused(action: () => unknown, message: RegExp): void {
  assert.throws(action, (error: unknown) => {
    assert.ok(error instanceof DroverError, String(error));
    assert.equal(error.code, "unsupported");
    assert.equal(error.hint, "deno task native");
    assert.match(error.message, message);
    return true;
  });
}

Deno.test("openNative() hands out one object per library", () => {
  assert.equal(loaded.version, libraryVersion);
  assert.equal(openNative(), loaded);
  assert.equal(openNative({ path: loaded.path }), sameByPath);
  assert.equal(sameByPath.path, loaded.path);
  assert.match(loaded.path, /libdrover\.so$/);
});

Deno.test("openNative() says what to type when the library is missing or is something else", async () => {
  const directory = await Deno.makeTempDir();
  try {
    refused(() => openNative({ path: `${directory}/none.so` }), /Cannot load ".*none\.so"/);
    await Deno.writeTextFile(`${directory}/text.so`, "not a library");
    refused(() => openNative({ path: `${directory}/text.so` }), /Cannot load ".*text\.so"/);
    refused(() => openNative({ path: "libc.so.6" }), /Cannot load "libc\.so\.6"/);
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});

Deno.test("openNative() refuses another version and another layout", async () => {
  const directory = await Deno.makeTempDir();
  try {
    const variants: [name: string, version: string, layout: string, message: RegExp][] = [
      ["version", `9${libraryVersion}`, layoutText(), /has version 9/],
      ["layout", libraryVersion, layoutText().replace("inode 16 8", "inode 24 8"), /another struct layout/],
      ["functions", libraryVersion, layoutText(), /Cannot load/],
    ];
    for (const [name, version, layout, message] of variants) {
      const source = `${directory}/${name}.c`;
      const path = `${directory}/${name}.so`;
      await Deno.writeTextFile(
        source,
        `#include <string.h>
         int drover_version(char *b, size_t n) { (void)n; strcpy(b, ${
          JSON.stringify(version)
        }); return ${version.length}; }
         int drover_layout(char *b, size_t n) { (void)n; strcpy(b, ${
          JSON.stringify(layout)
        }); return ${layout.length}; }`,
      );
      const compiled = await new Deno.Command("cc", { args: ["-shared", "-fPIC", "-o", path, source] })
        .output();
      assert.ok(compiled.success, new TextDecoder().decode(compiled.stderr));
      refused(() => openNative({ path }), message);
    }
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});

Deno.test("openNative() honours DROVER_LIB and works in a worker", async () => {
  const directory = await Deno.makeTempDir();
  try {
    await Deno.copyFile(openNative().path, `${directory}/other name.so`);
    const module = new URL("../../ffi/mod.ts", import.meta.url).href;
    await Deno.writeTextFile(
      `${directory}/main.ts`,
      `import { openNative } from "${module}";
       if (typeof self.postMessage === "function") {
         self.onmessage = (event) => self.postMessage(openNative({ path: event.data }).identity().uid);
       } else {
         const native = openNative();
         const worker = new Worker(import.meta.url, { type: "module" });
         worker.onmessage = (event) => { console.log(native.path, event.data); worker.terminate(); };
         worker.postMessage(native.path);
       }`,
    );
    const { stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "--quiet", "--allow-all", "--no-check", `${directory}/main.ts`],
      env: { DROVER_LIB: `${directory}/other name.so`, NO_COLOR: "1" },
    }).output();
    assert.equal(
      new TextDecoder().decode(stdout),
      `${directory}/other name.so ${Deno.uid()}\n`,
      new TextDecoder().decode(stderr),
    );
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});

Deno.test("openNative() needs no permission but FFI for the built library", async () => {
  const script = `import { openNative } from "${new URL("../../ffi/mod.ts", import.meta.url).href}";
    console.log(openNative().version)`;
  const { stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["eval", "--quiet", "--no-check", script],
    env: { NO_COLOR: "1" },
  }).output();
  assert.equal(new TextDecoder().decode(stdout), `${libraryVersion}\n`, new TextDecoder().decode(stderr));
});

const ids = [
  "kernel",
  "userfaultfd",
  "userfaultfd.missing",
  "userfaultfd.wp",
  "userfaultfd.sigbus",
  "userfaultfd.wp_unpopulated",
  "userfaultfd.poison",
  "userfaultfd.wp_async",
  "userfaultfd.move",
  "userfaultfd.unprivileged",
  "pagemap_scan",
  "hugepages",
  "thp",
  "io_uring",
  "filesystem",
  "o_direct",
  "reflink",
  "overlay.root",
  "overlay.whiteout",
  "overlay.redirect_dir",
  "overlay.metacopy",
  "overlay.index",
  "overlay.beneath",
  "overlay.rootless",
  "fuse",
  "nbd",
  "verbs",
];

Deno.test("probe() names every item once, and leaves nothing behind", () => {
  const room = diskRoom();
  try {
    // Other programs mount and unmount meanwhile.
    const own = () =>
      Deno.readTextFileSync("/proc/self/mountinfo").split("\n").filter((line) => line.includes(roomPath));
    const roomPath = pathToText(room.path);
    const items = openNative().probe(room.path);
    assert.deepEqual(items.map((item) => item.id), ids);
    for (const item of items) {
      assert.equal(item.ok, item.errno === 0, item.id);
      assert.ok(item.detail.length > 0, item.id);
    }
    assert.deepEqual(room.libc.readDir(room.dir), []);
    assert.deepEqual(own(), []);
  } finally {
    room.close();
  }
});

Deno.test("probe() agrees with what the system says elsewhere", () => {
  const items = new Map(openNative().probe(p("/var/tmp")).map((item) => [item.id, item]));
  assert.ok(items.get("kernel")?.detail.includes(Deno.osRelease()));
  const pages = Number(Deno.readTextFileSync("/proc/sys/vm/nr_hugepages"));
  assert.equal(items.get("hugepages")?.ok, pages > 0);
  const overlays = Deno.readTextFileSync("/proc/filesystems").includes("overlay");
  if (!overlays) assert.equal(items.get("overlay.root")?.ok, false);
});

Deno.test("probe() of a directory that is not there fails", () => {
  assert.throws(() => openNative().probe(p("/var/tmp/drover-none")), { code: "ENOENT" });
});
