/**
 * What the tests of FUSE mounts share: a directory, a mount in it, and programs that use the file from outside. This
 * process must use it by asynchronous calls only: it is the one that answers.
 */
import assert from "node:assert/strict";
import { toolExists } from "../../bench/process.ts";
import { openNative } from "../../ffi/mod.ts";
import type { Backend } from "../../lib/region/backend.ts";
import { FuseFile, type FuseOptions } from "../../lib/region/fuse.ts";
import { detachMount, fuseMounts } from "../../lib/region/fuse_target.ts";

/** Why nothing can be mounted here; null where it can. */
export const missing: string | null = ((): string | null => {
  try {
    Deno.openSync("/dev/fuse", { read: true, write: true }).close();
  } catch (error) {
    return `/dev/fuse: ${error instanceof Error ? error.message : error}`;
  }
  if (openNative().identity().canMount || toolExists("fusermount3")) return null;
  return "no fusermount3; type: apt-get install fuse3";
})();

if (missing !== null) console.error(`FUSE tests: skipped: ${missing}`);

/** A directory on a disk; what is still mounted in it is taken away with it. */
export class FuseRoom implements AsyncDisposable {
  readonly path: string = Deno.makeTempDirSync({ dir: "/var/tmp", prefix: "drover-fuse-test-" });

  /** A path in it. */
  at(name: string): string {
    return `${this.path}/${name}`;
  }

  /** Mounts a backend as `disk`. */
  mount(backend: Backend, options: Partial<FuseOptions> = {}): Promise<FuseFile> {
    return FuseFile.open(backend, { path: this.at("disk"), native: openNative(), ...options });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { path } of fuseMounts().filter((mount) => mount.path.startsWith(`${this.path}/`))) {
      await detachMount(path, openNative());
    }
    Deno.removeSync(this.path, { recursive: true });
  }
}

/** A test that mounts. */
export function fuseTest(name: string, fn: (room: FuseRoom) => Promise<void>): void {
  Deno.test({
    name,
    ignore: missing !== null,
    fn: async () => {
      await using room = new FuseRoom();
      await fn(room);
    },
  });
}

/** Runs a program; after 30 s it is killed. */
export async function tryRun(
  program: string,
  ...args: string[]
): Promise<{ code: number; stdout: string; stderr: string }> {
  const done = await new Deno.Command("timeout", {
    args: ["-s", "KILL", "30", program, ...args],
    stdin: "null",
  })
    .output();
  const decoder = new TextDecoder();
  return { code: done.code, stdout: decoder.decode(done.stdout), stderr: decoder.decode(done.stderr) };
}

/** Runs a program that has to succeed. @returns its stdout */
export async function run(program: string, ...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await tryRun(program, ...args);
  assert.equal(code, 0, `${program} ${args.join(" ")}: ${stdout}${stderr}`);
  return stdout;
}

/** Runs lines of Python; `f` is the open file, `path` its path. @returns what it printed */
export function python(path: string, lines: string): Promise<string> {
  const head = "import os,sys,mmap,ctypes,errno\npath=sys.argv[1]\nf=os.open(path,os.O_RDWR)\n";
  return run("python3", "-c", head + lines, path).then((said) => said.trim());
}

/** Python that prints the name of the errno of what it tries. */
export function failing(expression: string): string {
  return `try:\n  ${expression}\n  print("ok")\nexcept OSError as e: print(errno.errorcode[e.errno])\n`;
}
