/**
 * A small directory with one of everything, and two further states of it: quick to make again and again, for tests
 * that break the work on it at every step.
 */
import { join } from "node:path";
import { type BytePath, pathFromText } from "../../lib/base/path.ts";
import { Manifest } from "../../lib/version/manifest.ts";
import { Beneath } from "../../lib/tree/beneath.ts";
import { walkTree } from "../../lib/tree/walk.ts";
import { isRoot, native } from "./scratch.ts";

const { libc } = native;
const here = -100;

function write(dir: string, name: string, text: string): void {
  Deno.writeTextFileSync(join(dir, name), text);
}

/** About thirty entries of all kinds. */
export function makeFirst(dir: string): void {
  for (
    const name of ["", "sub", "sub/deep", "moved", "moved/inner", "emptied", "becomes-file", "opaque", "kept"]
  ) {
    Deno.mkdirSync(join(dir, name), { recursive: true });
  }
  write(dir, "a", "first\n".repeat(100));
  write(dir, "empty", "");
  write(dir, "sub/b", "second\n".repeat(1000));
  write(dir, "sub/deep/c", "third\n");
  write(dir, "moved/d", "fourth\n".repeat(50));
  write(dir, "moved/inner/e", "fifth\n");
  write(dir, "emptied/f", "sixth\n");
  write(dir, "becomes-file/g", "seventh\n");
  write(dir, "opaque/h", "eighth\n");
  write(dir, "opaque/i", "ninth\n");
  write(dir, "becomes-directory", "tenth\n");
  write(dir, "mode", "eleventh\n");
  write(dir, "kept/j", "twelfth\n");
  write(dir, "hard-1", "linked\n");
  Deno.linkSync(join(dir, "hard-1"), join(dir, "hard-2"));
  Deno.linkSync(join(dir, "hard-1"), join(dir, "sub/hard-3"));
  Deno.symlinkSync("a", join(dir, "soft"));
  Deno.symlinkSync("/nowhere/at all", join(dir, "dangling"));
  const path = (name: string) => pathFromText(join(dir, name));
  libc.mknod(here, path("fifo"), "fifo", 0o640, 0, 0);
  libc.setXattr(here, path("a"), pathFromText("user.note"), new Uint8Array([1, 2, 3]));
  Deno.truncateSync(join(dir, "sub/deep/c"), 100_000);
  const bytes = pathFromText(dir) + "/kept/\xff\xfe\n";
  libc.close(libc.open(here, bytes as BytePath, 0o101, 0o600));
  if (isRoot) {
    libc.mknod(here, path("device"), "char", 0o600, 1, 3);
    libc.chown(here, path("sub/b"), 1000, 1001);
    libc.chmod(here, path("a"), 0o4755);
  }
  setOldTimes(dir);
}

/** The next state: created, changed, deleted, renamed, replaced by another kind. */
export function makeSecond(dir: string): void {
  write(dir, "new", "new\n".repeat(300));
  write(dir, "a", "first\n".repeat(80) + "changed\n" + "first\n".repeat(20));
  Deno.removeSync(join(dir, "emptied/f"));
  moveDirectory(join(dir, "moved"), join(dir, "kept/moved"));
  Deno.removeSync(join(dir, "becomes-file"), { recursive: true });
  write(dir, "becomes-file", "now a file\n");
  Deno.removeSync(join(dir, "becomes-directory"));
  Deno.mkdirSync(join(dir, "becomes-directory"));
  write(dir, "becomes-directory/k", "inside\n");
  Deno.removeSync(join(dir, "opaque"), { recursive: true });
  Deno.mkdirSync(join(dir, "opaque"));
  write(dir, "opaque/i", "alone\n");
  Deno.chmodSync(join(dir, "mode"), 0o600);
  Deno.removeSync(join(dir, "hard-1"));
  write(dir, "hard-2", "linked and changed\n");
  Deno.removeSync(join(dir, "soft"));
  Deno.symlinkSync("sub/b", join(dir, "soft"));
  Deno.removeSync(join(dir, "fifo"));
  libc.mknod(here, pathFromText(join(dir, "fifo-2")), "fifo", 0o600, 0, 0);
}

/** Renames a directory; as `mv` does it where an overlay without redirects cannot. */
function moveDirectory(from: string, to: string): void {
  try {
    return Deno.renameSync(from, to);
  } catch (error) {
    if (!(error instanceof Error) || !error.message.includes("os error 18")) throw error;
  }
  Deno.mkdirSync(to);
  for (const { name, isDirectory } of [...Deno.readDirSync(from)]) {
    (isDirectory ? moveDirectory : Deno.renameSync)(join(from, name), join(to, name));
  }
  Deno.removeSync(from);
}

/** A change that has nothing to do with the second state. */
export function makeOther(dir: string): void {
  write(dir, "mine", "other\n");
  Deno.removeSync(join(dir, "sub/b"));
}

/** Times far enough back that the stat cache may trust them. */
function setOldTimes(dir: string): void {
  for (const name of ["a", "sub/b", "mode", "hard-1"]) {
    libc.setMtime(here, pathFromText(join(dir, name)), 1_600_000_000, 123_456_789);
  }
}

/** Names everything that is in a directory, content and metadata: equal trees have equal roots. */
export async function rootOf(dir: string): Promise<string> {
  return (await manifestOf(dir)).root();
}

/** The manifest of what is in a directory. */
export async function manifestOf(dir: string): Promise<Manifest> {
  using root = Beneath.open(libc, pathFromText(dir));
  return Manifest.build((await walkTree(root, { now: () => Date.now() })).entries);
}
