/**
 * `drover mount` as a process of its own, as a user would start it, and what its tests share.
 */
import assert from "node:assert/strict";
import { toolExists } from "../../bench/process.ts";
import { openNative } from "../../ffi/mod.ts";
import { FuseRoom, missing } from "../region/fuse_room.ts";
import { fromSource } from "./nodes.ts";

const tools = ["fio", "mkfs.ext4", "losetup", "sqlite3", "python3"];
const absent = tools.filter((tool) => !toolExists(tool));
if (absent.length > 0) {
  console.error(
    `tests/real: skipped, there is no ${
      absent.join(", ")
    }; type: apt-get install fio e2fsprogs mount sqlite3 python3`,
  );
}
/** Loop devices and mounts of ext4 are root's. */
export const canLoop = openNative().identity().canMount && exists("/dev/loop-control");

/** A room with a registry of its own, and what was started in it. */
export class MountRoom extends FuseRoom {
  readonly env = { DROVER_HOME: this.at("home") };

  /** Runs a command to its end. */
  async drover(...args: string[]): Promise<{ code: number; last: Record<string, unknown>; text: string }> {
    const [program = "", ...rest] = fromSource;
    const done = await new Deno.Command(program, {
      args: [...rest, ...args, "--json"],
      env: this.env,
      stdin: "null",
      stderr: "null",
    }).output();
    const text = new TextDecoder().decode(done.stdout);
    const last: Record<string, unknown> = JSON.parse(text.trim().split("\n").at(-1) ?? "");
    return { code: done.code, last, text };
  }

  /** Mounts in the background. @returns the process id that serves it */
  async mountDetached(source: string, ...options: string[]): Promise<number> {
    const { code, last, text } = await this.drover("mount", source, this.at("disk"), "--detach", ...options);
    assert.equal(code, 0, text);
    return Number(last.pid);
  }
}

/** A test that mounts, in a room of its own. */
export function mountTest(claim: string, body: (room: MountRoom) => Promise<void>, needs = true): void {
  Deno.test({
    name: claim,
    ignore: missing !== null || absent.length > 0 || !needs,
    fn: async () => {
      await using room = new MountRoom();
      await body(room);
    },
  });
}

/** Whether something is there that answers. */
export function exists(path: string): boolean {
  try {
    Deno.lstatSync(path);
    return true;
  } catch {
    return false;
  }
}

/** Waits until something is so; half a minute at most. */
export async function until(what: string, check: () => boolean): Promise<void> {
  for (let tries = 0; tries < 600; tries++) {
    if (check()) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  assert.fail(`${what} has not come`);
}

/** What loop devices have open. */
export function loopFiles(): string[] {
  return [...Deno.readDirSync("/sys/block")].filter(({ name }) => name.startsWith("loop")).map(({ name }) => {
    try {
      return Deno.readTextFileSync(`/sys/block/${name}/loop/backing_file`).trim();
    } catch {
      return "";
    }
  });
}
