/**
 * Which mounts there are: a record per mount in `mounts/` of the state directory, locked by the program that serves it.
 *
 * Invariants:
 * - The lock is the truth: a record that can be locked belongs to a program that has ended, however it did.
 * - A place has one record, named by the hash of what the user calls it, so two programs cannot take one place.
 * - A record is removed by who holds its lock, and nobody trusts one that has been removed meanwhile.
 *
 * @module
 */
import { createHash } from "node:crypto";
import type { Libc, Native } from "../../ffi/mod.ts";
import { DroverError } from "../base/errors.ts";
import { pathFromText } from "../base/path.ts";
import {
  absoluteTarget,
  detachMount,
  fuseMounts,
  isDead,
  removeEmpty,
  unmountByHelper,
} from "../region/fuse_target.ts";
import { homeDirectory } from "./context.ts";

/** One mount, as it is noted. */
export interface MountRecord {
  /** A path, or the URL that NBD clients use. */
  path: string;
  /** What is mounted, as it was given. */
  source: string;
  /** How it is shown. */
  frontend: "fuse" | "nbd";
  /** A local backend is in front of it. */
  managed: boolean;
  /** It cannot be written. */
  readOnly: boolean;
  /** Bytes. */
  size: number;
  /** Of the program that serves it. */
  pid: number;
  /** Milliseconds since 1970. */
  since: number;
}

/** A mount in the list. */
export interface MountListing extends MountRecord {
  /** `dead`: its program has ended without unmounting; `drover unmount` clears it. */
  state: "mounted" | "dead";
}

/** What became of an unmount. */
export type UnmountOutcome = "unmounted" | "detached" | "stopped" | "cleared";

const [readWrite, create, cloexec] = [2, 0o100, 0o2000000];
const currentDir = -100;
/** Most bytes of a record. */
const recordMax = 64 * 1024;
/** Most records that are looked at. */
const recordsMax = 4096;

/** Where the records are. */
export class MountRegistry {
  readonly #directory: string;
  readonly #native: Native;
  readonly #libc: Libc;

  /** @param options `home`: the state directory; by default that of this user */
  constructor(native: Native, options: { home?: string } = {}) {
    const home = options.home ??
      homeDirectory({ environment: (name) => Deno.env.get(name), uid: native.identity().uid });
    this.#directory = `${home}/mounts`;
    this.#native = native;
    this.#libc = native.libc;
  }

  /** The directory of the records, made where it is not there. */
  directory(): string {
    Deno.mkdirSync(this.#directory, { recursive: true, mode: 0o700 });
    return this.#directory;
  }

  /**
   * Takes a place for this program, until it is released or the program ends.
   *
   * @throws {DroverError} "busy" when a program serves it
   */
  async claim(path: string): Promise<MountClaim> {
    const file = `${this.directory()}/${nameOf(path)}`;
    for (let tries = 1;; tries++) {
      const fd = this.#libc.open(currentDir, pathFromText(file), readWrite | create | cloexec, 0o600);
      let kept = false;
      try {
        if (!this.#libc.tryLock(fd, true)) {
          // A program that only looks at it holds it for a moment.
          if (tries < 5) {
            await new Promise((resolve) => setTimeout(resolve, 10));
            continue;
          }
          throw new DroverError("busy", `Cannot mount at "${path}": drover has mounted something there`, {
            hint: `drover unmount ${path}`,
          });
        }
        // Somebody may have removed it between our open and our lock.
        const linked = this.#libc.stat(currentDir, pathFromText(file));
        if (linked === null || linked.inode !== this.#libc.fstat(fd).inode) continue;
        kept = true;
        return new MountClaim(this.#libc, fd, file);
      } finally {
        if (!kept) this.#libc.close(fd);
      }
    }
  }

  /** All mounts: of the records, and those that others of this machine have made. */
  list(): MountListing[] {
    const found = new Map<string, MountListing>();
    const mounted = fuseMounts();
    for (const record of this.#records()) {
      const isThere = record.frontend !== "fuse" || mounted.some(({ path }) => path === record.path);
      const state = this.#isServed(record.path) ? "mounted" : "dead";
      if (state === "mounted" || isThere) found.set(record.path, { ...record, state });
    }
    for (const { path, source, readOnly } of mounted) {
      if (found.has(path)) continue;
      const state = isDead(path) ? "dead" : "mounted";
      found.set(path, {
        path,
        source,
        frontend: "fuse",
        managed: false,
        readOnly,
        size: state === "dead" ? 0 : sizeOf(path),
        pid: 0,
        since: 0,
        state,
      });
    }
    return [...found.values()].sort((left, right) => left.path < right.path ? -1 : 1);
  }

  /**
   * Ends a mount and waits until its program has brought everything where it lasts; clears what a program that was
   * killed has left.
   *
   * @param path a path, or the URL of a mount for NBD clients
   * @param options `detach`: also while it is open; it vanishes at once, and ends when the last program has closed it
   * @throws {DroverError} "busy" while a program has it open, "usage" when nothing is mounted there
   */
  async unmount(path: string, options: { detach?: boolean } = {}): Promise<UnmountOutcome> {
    const { detach = false } = options;
    const place = /^nbd(\+unix)?:/.test(path) ? path : absoluteTarget(path);
    const isMounted = fuseMounts().some((mount) => mount.path === place);
    const served = this.#isServed(place);
    if (isMounted && isDead(place)) {
      await detachMount(place, this.#native);
      await this.#clear(place);
      return "cleared";
    }
    if (isMounted) {
      await this.#unmountLive(place, path, detach);
      if (detach) return "detached";
      await this.#waitFor(place);
      return "unmounted";
    }
    if (served) {
      const pid = this.#read(`${this.#directory}/${nameOf(place)}`)?.pid ?? 0;
      if (pid > 0) Deno.kill(pid, "SIGTERM");
      await this.#waitFor(place);
      return "stopped";
    }
    const left = this.#read(`${this.#directory}/${nameOf(place)}`);
    if (left === null) {
      throw new DroverError("usage", `Cannot unmount "${path}": drover has mounted nothing there`, {
        hint: "drover mounts",
      });
    }
    await this.#clear(place);
    return "cleared";
  }

  async #unmountLive(place: string, path: string, detach: boolean): Promise<void> {
    try {
      if (this.#native.identity().canMount) this.#libc.unmount(pathFromText(place), detach);
      else await unmountByHelper(place, detach);
    } catch (error) {
      const code = error instanceof Error && "code" in error ? error.code : undefined;
      if (code !== "EBUSY" && code !== "busy") throw error;
      throw new DroverError("busy", `Cannot unmount "${path}": a program has it open`, {
        cause: error,
        hint: `drover unmount --detach ${path}`,
      });
    }
  }

  /** Removes what a program that has ended has left: the record, and the empty file below the mount. */
  async #clear(place: string): Promise<void> {
    try {
      using claim = await this.claim(place);
      if (!place.includes("://")) removeEmpty(place);
      claim.release();
    } catch (error) {
      // A new program has it already.
      if (!(error instanceof DroverError) || error.code !== "busy") throw error;
    }
  }

  /** Until the program that serves a place has ended, or at least let go of it. */
  async #waitFor(place: string): Promise<void> {
    let file: Deno.FsFile;
    try {
      file = Deno.openSync(`${this.#directory}/${nameOf(place)}`, { read: true });
    } catch (error) {
      if (error instanceof Deno.errors.NotFound) return;
      throw error;
    }
    using _file = file;
    await file.lock(true);
  }

  #isServed(place: string): boolean {
    let fd: number;
    try {
      fd = this.#libc.open(currentDir, pathFromText(`${this.#directory}/${nameOf(place)}`), cloexec);
    } catch {
      return false;
    }
    try {
      return !this.#libc.tryLock(fd, false);
    } finally {
      this.#libc.close(fd);
    }
  }

  #records(): MountRecord[] {
    const found: MountRecord[] = [];
    let names: string[];
    try {
      names = [...Deno.readDirSync(this.#directory)].map(({ name }) => name).slice(0, recordsMax);
    } catch (error) {
      if (error instanceof Deno.errors.NotFound) return [];
      throw error;
    }
    for (const name of names.filter((each) => /^[0-9a-f]{32}$/.test(each))) {
      const record = this.#read(`${this.#directory}/${name}`);
      if (record !== null && nameOf(record.path) === name) found.push(record);
    }
    return found;
  }

  /** A record, or null where there is none or it is not whole. */
  #read(file: string): MountRecord | null {
    try {
      if (Deno.statSync(file).size > recordMax) return null;
      const value: unknown = JSON.parse(Deno.readTextFileSync(file));
      return isRecord(value) ? value : null;
    } catch {
      return null;
    }
  }
}

/** A place that this program holds. */
export class MountClaim implements Disposable {
  readonly #libc: Libc;
  readonly #file: string;
  #fd: number;

  /** See `MountRegistry.claim`. */
  constructor(libc: Libc, fd: number, file: string) {
    this.#libc = libc;
    this.#fd = fd;
    this.#file = file;
  }

  /** Notes what is mounted. */
  write(record: MountRecord): void {
    const bytes = new TextEncoder().encode(JSON.stringify(record) + "\n");
    this.#libc.ftruncate(this.#fd, 0);
    this.#libc.pwrite(this.#fd, bytes, 0);
  }

  /** Gives the place back. Once is enough. */
  release(): void {
    if (this.#fd < 0) return;
    try {
      Deno.removeSync(this.#file);
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    } finally {
      this.#libc.close(this.#fd);
      this.#fd = -1;
    }
  }

  /** See `release`. */
  [Symbol.dispose](): void {
    this.release();
  }
}

function nameOf(path: string): string {
  return createHash("sha256").update(path).digest("hex").slice(0, 32);
}

function isRecord(value: unknown): value is MountRecord {
  if (typeof value !== "object" || value === null) return false;
  const { path, source, frontend, managed, readOnly, size, pid, since } = value as Record<string, unknown>;
  return typeof path === "string" && typeof source === "string" &&
    (frontend === "fuse" || frontend === "nbd") && typeof managed === "boolean" &&
    typeof readOnly === "boolean" && [size, pid, since].every((each) => Number.isSafeInteger(each));
}

function sizeOf(path: string): number {
  try {
    return Deno.statSync(path).size;
  } catch {
    return 0;
  }
}
