/**
 * The directory in which a managed mount keeps its notes, as far as they need it: a few files, appended to, synced
 * and renamed. Tests bring a directory that forgets what was not synced.
 *
 * @module
 */
import { join } from "node:path";
import { type Libc, openNative } from "../../ffi/mod.ts";
import { DroverError } from "../base/errors.ts";
import { pathFromText } from "../base/path.ts";
import { IoError, ioError } from "./backend.ts";

/** One file that is written. */
export interface StateFile {
  /** Writes all of `bytes` at `offset`; what follows it later is in order. */
  write(offset: number, bytes: Uint8Array): void;
  /** Brings what was written to where it lasts. */
  sync(): Promise<void>;
  /** Closes it. */
  close(): void;
}

/** A directory of notes. */
export interface StateFiles {
  /** Changes when the machine starts: after that what was not synced is gone. Empty where it is not known. */
  readonly boot: string;
  /** All of a file of at most `sizeMax` bytes; null when there is none. @throws {IoError} when it is larger */
  read(name: string, sizeMax: number): Uint8Array<ArrayBuffer> | null;
  /** A new, empty file in place of an old one of that name. */
  create(name: string): StateFile;
  /** Gives a file the name of another one, and makes that last. */
  rename(from: string, to: string): Promise<void>;
  /** Lets others have it. */
  close(): void;
}

const openFlags = 2 | 0o100 | 0o2000000; // O_RDWR, O_CREAT, O_CLOEXEC
const currentDir = -100;

/** A directory of the file system; one program at a time, where the native library can be loaded. */
export class StateDirectory implements StateFiles {
  /** See {@link StateFiles.boot}. */
  readonly boot: string = bootIdentity();
  readonly #path: string;
  readonly #libc: Libc | null;
  #lock: number;

  private constructor(path: string, libc: Libc | null, lock: number) {
    this.#path = path;
    this.#libc = libc;
    this.#lock = lock;
  }

  /** Opens it, or makes it. @throws {DroverError} "busy" while another program has it */
  static open(path: string): StateDirectory {
    const libc = nativeLibc();
    let lock = -1;
    try {
      Deno.mkdirSync(path, { recursive: true, mode: 0o700 });
      if (libc !== null) {
        lock = libc.open(currentDir, pathFromText(join(path, "lock")), openFlags, 0o600);
        if (!libc.tryLock(lock, true)) {
          throw new DroverError("busy", `Cannot use "${path}": another mount does`, {
            hint: "drover mounts",
          });
        }
      }
      return new StateDirectory(path, libc, lock);
    } catch (error) {
      if (lock >= 0) libc?.close(lock);
      throw ioError(error, `Cannot use "${path}" for the notes of a mount`);
    }
  }

  /** See {@link StateFiles.read}. */
  read(name: string, sizeMax: number): Uint8Array<ArrayBuffer> | null {
    const path = join(this.#path, name);
    try {
      const { size } = Deno.statSync(path);
      if (size > sizeMax) {
        throw new IoError("EIO", `Cannot read "${path}": it has ${size} bytes`, { code: "corrupt" });
      }
      return Deno.readFileSync(path);
    } catch (error) {
      if (error instanceof Deno.errors.NotFound) return null;
      throw ioError(error, `Cannot read "${path}"`);
    }
  }

  /** See {@link StateFiles.create}. */
  create(name: string): StateFile {
    const path = join(this.#path, name);
    try {
      return new DiskFile(
        path,
        Deno.openSync(path, { read: true, write: true, create: true, truncate: true }),
      );
    } catch (error) {
      throw ioError(error, `Cannot write "${path}"`);
    }
  }

  /** See {@link StateFiles.rename}. */
  async rename(from: string, to: string): Promise<void> {
    try {
      Deno.renameSync(join(this.#path, from), join(this.#path, to));
      using directory = Deno.openSync(this.#path, { read: true });
      await directory.sync();
    } catch (error) {
      throw ioError(error, `Cannot rename "${join(this.#path, from)}"`);
    }
  }

  /** See {@link StateFiles.close}. */
  close(): void {
    if (this.#lock >= 0) this.#libc?.close(this.#lock);
    this.#lock = -1;
  }
}

class DiskFile implements StateFile {
  readonly #path: string;
  readonly #file: Deno.FsFile;
  #position = 0;

  constructor(path: string, file: Deno.FsFile) {
    this.#path = path;
    this.#file = file;
  }

  write(offset: number, bytes: Uint8Array): void {
    try {
      if (offset !== this.#position) this.#position = this.#file.seekSync(offset, Deno.SeekMode.Start);
      for (let at = 0; at < bytes.length;) {
        const count = this.#file.writeSync(at === 0 ? bytes : bytes.subarray(at));
        at += count;
        this.#position += count;
      }
    } catch (error) {
      throw ioError(error, `Cannot write "${this.#path}"`);
    }
  }

  async sync(): Promise<void> {
    try {
      await this.#file.syncData();
    } catch (error) {
      throw ioError(error, `Cannot flush "${this.#path}"`);
    }
  }

  close(): void {
    this.#file.close();
  }
}

function bootIdentity(): string {
  try {
    return Deno.readTextFileSync("/proc/sys/kernel/random/boot_id").trim();
  } catch {
    return "";
  }
}

function nativeLibc(): Libc | null {
  try {
    return openNative().libc;
  } catch {
    return null;
  }
}
