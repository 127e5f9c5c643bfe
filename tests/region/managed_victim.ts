/**
 * A program with a managed mount that is killed (SIGKILL, by itself) at one of its effects: a write, flush or zeroing of
 * the local backend or of the source, a note, a sync of the notes, or what follows such a thing.
 *
 * `deno run managed_victim.ts ROOM SEED STEP`: writes numbered blocks, and tells of each with a line of ROOM/log *before* the
 * write (`w BLOCK VALUE`), when it was acknowledged (`a BLOCK VALUE`), and when a flush was (`f`).
 */
import { openNative } from "../../ffi/mod.ts";
import type { Backend } from "../../lib/region/backend.ts";
import { FileBackend } from "../../lib/region/backend_file.ts";
import { WrappedBackend } from "../../lib/region/backend_wrap.ts";
import { openManaged } from "../../lib/region/managed.ts";
import { prng } from "../stream/prng.ts";

const [room = "", seed = "1", dieAt = "0"] = Deno.args;
export const victimSize = 64 * 4096;

let steps = 0;
function step(): void {
  if (++steps === Number(dieAt)) Deno.kill(Deno.pid, "SIGKILL");
}

/** Dies before or after an effect. */
class Deadly extends WrappedBackend {
  constructor(inner: Backend) {
    super(inner, { name: "deadly" });
  }
  protected override async write(offset: number, bytes: Uint8Array): Promise<void> {
    step();
    await super.write(offset, bytes);
    step();
  }
  protected override async sync(): Promise<void> {
    step();
    await super.sync();
    step();
  }
  override async zero(offset: number, length: number): Promise<void> {
    step();
    await super.zero(offset, length);
    step();
  }
}

if (import.meta.main) {
  const { libc } = openNative();
  const log = Deno.openSync(`${room}/log`, { append: true });
  const tell = (line: string): void => {
    log.writeSync(new TextEncoder().encode(`${line}\n`));
  };
  // Notes and their syncs are steps, too. What this program tells is none.
  const { writeSync, syncData } = Deno.FsFile.prototype;
  Deno.FsFile.prototype.writeSync = function (bytes: Uint8Array): number {
    if (this === log) return writeSync.call(this, bytes);
    step();
    const count = writeSync.call(this, bytes);
    step();
    return count;
  };
  Deno.FsFile.prototype.syncData = async function (): Promise<void> {
    step();
    await syncData.call(this);
    step();
  };
  const random = prng(Number(seed));
  const durability = random(2) === 0 ? "local" : "remote";
  const mount = await openManaged({
    source: new Deadly(FileBackend.open(`${room}/source`, { libc })),
    local: new Deadly(FileBackend.open(`${room}/local`, { create: victimSize, libc })),
    state: `${room}/state`,
    chunk: 16 * 4096,
    demand: 4 * 4096,
    durability,
    pushIntervalMs: 1,
  });
  for (let value = 1; value <= 60; value++) {
    const count = 1 + random(3);
    const block = random(64 - count);
    const stamp = Number(seed) * 1000 + value;
    tell(`w ${block} ${count} ${stamp}`);
    const bytes = new Uint8Array(count * 4096);
    new Uint32Array(bytes.buffer).fill(stamp);
    await mount.writeAt(block * 4096, bytes);
    tell(`a ${block} ${count} ${stamp}`);
    if (random(4) === 0) {
      await mount.flush();
      tell(`f ${durability}`);
    }
  }
  await mount.close();
  tell(`steps ${steps}`);
  log.close();
}
