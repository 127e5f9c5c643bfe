/**
 * A file that the kernel shows and this program fills (native-src/fuse.c), as an object that owns a handle.
 *
 * C answers what needs no content; what does comes in batches from `take` or `wait`, lies in a slot of memory that both sides
 * share, and wants one `reply`. A request that gets none within the time-out was answered with EIO by C; its slot
 * stays the taker's until he replies, so nothing is written into memory that serves another request.
 *
 * @module
 */
import type { BytePath } from "../lib/base/path.ts";
import { check } from "./errno.ts";
import { fuseFlags, fuseOps, fuseOptions, fuseRequest, fuseSlotSize, fuseStats } from "./layout.ts";
import type { FuseOp, FuseRequest, FuseSettings, FuseStats, NativeFuse } from "./mod.ts";
import type { Symbols } from "./symbols.ts";

/** Requests that are taken at once. */
const batchMax = 64;
const opNames = Object.keys(fuseOps) as FuseOp[];
const enodev = 19;
const etimedout = 110;

/** Mounts. @throws {NativeError} what `drover_fuse_open` says */
export async function openFuse(lib: Symbols, settings: FuseSettings): Promise<NativeFuse> {
  const options = new DataView(new ArrayBuffer(fuseOptions.structSize));
  options.setBigUint64(fuseOptions.size, BigInt(settings.size), true);
  options.setUint32(fuseOptions.mode, settings.mode, true);
  options.setUint32(fuseOptions.uid, settings.uid, true);
  options.setUint32(fuseOptions.gid, settings.gid, true);
  options.setUint32(fuseOptions.timeoutMs, settings.timeoutMs, true);
  options.setUint32(fuseOptions.slots, settings.slots, true);
  options.setUint32(
    fuseOptions.flags,
    (settings.readOnly ? fuseFlags.readOnly : 0) | (settings.keepCache ? fuseFlags.keepCache : 0) |
      (settings.allowOther ? fuseFlags.allowOther : 0) | (settings.helper ? fuseFlags.helper : 0),
    true,
  );
  const out = new BigUint64Array(1);
  const rc = await lib.drover_fuse_open_async(
    terminated(settings.path),
    terminated(settings.source),
    new Uint8Array(options.buffer),
    new Uint8Array(out.buffer),
  );
  check(rc, "mount", settings.path);
  return new LoadedFuse(lib, { handle: out[0] ?? 0n, settings });
}

class LoadedFuse implements NativeFuse {
  readonly slots: number;
  readonly #lib: Symbols;
  readonly #path: BytePath;
  readonly #pointer: Deno.PointerObject;
  readonly #room: ArrayBuffer;
  readonly #batch = new Uint8Array(batchMax * fuseRequest.structSize);
  readonly #words = new Uint32Array(this.#batch.buffer);
  #waiting = false;
  #open = true;

  constructor(lib: Symbols, fuse: { handle: bigint; settings: FuseSettings }) {
    this.#lib = lib;
    this.slots = fuse.settings.slots;
    this.#path = fuse.settings.path;
    this.#pointer = pointerOf(fuse.handle);
    this.#room = Deno.UnsafePointerView.getArrayBuffer(
      pointerOf(lib.drover_fuse_room(this.#pointer)),
      fuse.settings.slots * fuseSlotSize - (fuseSlotSize - 2 ** 20),
    );
  }

  room(slot: number, length: number): Uint8Array<ArrayBuffer> {
    return new Uint8Array(this.#room, slot * fuseSlotSize, length);
  }

  take(requests: FuseRequest[], spinUs: number): number {
    if (this.#waiting) throw new TypeError("Cannot take requests while somebody waits for them");
    return this.#unpack(
      this.#lib.drover_fuse_wait(this.#use(), this.#batch, batchMax, spinUs, 0),
      requests,
    );
  }

  async wait(requests: FuseRequest[], timeoutMs: number): Promise<number> {
    if (this.#waiting) throw new TypeError("Cannot wait twice for requests");
    this.#waiting = true;
    try {
      const pointer = this.#use();
      return this.#unpack(
        await this.#lib.drover_fuse_wait_async(pointer, this.#batch, batchMax, 0, timeoutMs),
        requests,
      );
    } finally {
      this.#waiting = false;
    }
  }

  reply(slot: number, errno: number, bytes: Uint8Array<ArrayBuffer> | null, size: number): boolean {
    const rc = this.#lib.drover_fuse_reply(this.#use(), slot, errno, bytes, size);
    if (rc === -etimedout) return false;
    check(rc, "answer a request of", this.#path);
    return true;
  }

  stats(): FuseStats {
    const out = new Uint8Array(fuseStats.structSize);
    check(this.#lib.drover_fuse_stats(this.#use(), out), "read the counters of", this.#path);
    const values = new DataView(out.buffer);
    const at = (field: number): number => Number(values.getBigUint64(field, true));
    return {
      requests: at(fuseStats.requests),
      reads: at(fuseStats.reads),
      readBytes: at(fuseStats.readBytes),
      writes: at(fuseStats.writes),
      writtenBytes: at(fuseStats.writtenBytes),
      flushes: at(fuseStats.flushes),
      errors: at(fuseStats.errors),
      timeouts: at(fuseStats.timeouts),
      late: at(fuseStats.late),
      pending: at(fuseStats.pending),
    };
  }

  async unmount(detach: boolean): Promise<void> {
    const rc = await this.#lib.drover_unmount_async(terminated(this.#path), detach ? 1 : 0);
    check(rc, "unmount", this.#path);
  }

  close(): number {
    if (!this.#open) return 0;
    if (this.#waiting) throw new TypeError("Cannot close a mount while somebody waits for its requests");
    this.#open = false;
    const kept = check(this.#lib.drover_fuse_close(this.#pointer), "close", this.#path);
    // Where nothing is kept the memory is gone: views of it become empty.
    if (kept === 0) this.#room.transfer();
    return kept;
  }

  #use(): Deno.PointerObject {
    if (!this.#open) throw new TypeError("Cannot use a mount that is closed");
    return this.#pointer;
  }

  #unpack(rc: number, requests: FuseRequest[]): number {
    if (rc === -enodev) return -1;
    check(rc, "take requests of", this.#path);
    const words = this.#words;
    for (let index = 0, at = 0; index < rc; index++, at += fuseRequest.structSize / 4) {
      const request = requests[index] ?? (requests[index] = { op: "read", slot: 0, offset: 0, length: 0 });
      request.offset = (words[at] ?? 0) + (words[at + 1] ?? 0) * 2 ** 32;
      request.length = (words[at + 2] ?? 0) + (words[at + 3] ?? 0) * 2 ** 32;
      request.slot = words[at + 4] ?? 0;
      request.op = opNames[(words[at + 5] ?? 0) - 1] ?? "flush";
    }
    return rc;
  }
}

function terminated(path: BytePath): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(path.length + 1);
  for (let at = 0; at < path.length; at++) bytes[at] = path.charCodeAt(at);
  return bytes;
}

function pointerOf(value: bigint): Deno.PointerObject {
  const pointer = Deno.UnsafePointer.create(value);
  if (pointer === null) throw new TypeError("Cannot use a mount that is closed");
  return pointer;
}
