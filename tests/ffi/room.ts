/** Scratch directories on the real file system, for tests; removed by `close`. */
import type { Libc } from "../../ffi/mod.ts";
import { openNative } from "../../ffi/mod.ts";
import { type BytePath, pathFromText } from "../../lib/base/path.ts";
import { O, type Room } from "./suite.ts";

// At the top level: Deno 2.4 takes a library that a test loads for a leak.
const { libc } = openNative();

/** Whether this process may chown, mknod and set `trusted.` attributes. */
export const isRoot = Deno.uid() === 0;

/** An absolute scratch directory, opened. */
export interface DiskRoom extends Room {
  path: BytePath;
}

/** A fresh directory on a disk (not tmpfs, where overlays and O_DIRECT differ). */
export function diskRoom(): DiskRoom {
  const directory = Deno.makeTempDirSync({ dir: "/var/tmp", prefix: "drover-ffi-test-" });
  const path = pathFromText(directory);
  const dir = libc.open(-100, path, O.RDONLY | O.DIRECTORY);
  return {
    libc,
    dir,
    path,
    close() {
      clear(libc, dir);
      libc.close(dir);
      Deno.removeSync(directory);
    },
  };
}

/** Removes everything below an open directory, with names of any bytes. */
function clear(libc: Libc, dir: number): void {
  for (const entry of libc.readDir(dir)) {
    if (entry.kind !== "directory") {
      libc.unlink(dir, entry.name);
      continue;
    }
    libc.chmod(dir, entry.name, 0o700);
    const child = libc.open(dir, entry.name, O.RDONLY | O.DIRECTORY | O.NOFOLLOW);
    try {
      clear(libc, child);
    } finally {
      libc.close(child);
    }
    libc.rmdir(dir, entry.name);
  }
}
