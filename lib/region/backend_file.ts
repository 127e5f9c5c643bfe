/**
 * A backend in a file or a block device.
 *
 * Invariants:
 * - Accesses run beside each other: each takes one of several handles, because a handle has one position. Further
 *   ones wait.
 * - With a `Libc` holes are known and made (SEEK_DATA, punching); without it zeros are written and everything is
 *   data.
 * - A file that has become shorter is an error, never zeros.
 * - One writer: with a `Libc` the file is locked (flock) while it is open for writing. Readers are not asked.
 *
 * @module
 */
import type { Libc } from "../../ffi/mod.ts";
import { DroverError } from "../base/errors.ts";
import { pathFromText } from "../base/path.ts";
import { CheckedBackend, type Extent, IoError, ioError } from "./backend.ts";

/** How a file is opened. */
export interface FileOptions {
  /** Nothing is written. */
  readOnly?: boolean;
  /** Makes the file, of this size, where there is none; one of another size is refused. */
  create?: number;
  /** Gives the file this size first, whatever it had. */
  resize?: number;
  /** System calls that Deno has not: holes. */
  libc?: Libc | null;
  /** Accesses at once; default 16. */
  handles?: number;
}

const openFlags = { readOnly: 0, readWrite: 2, cloexec: 0o2000000 } as const;
const [seekData, seekHole] = [3, 4];
const currentDir = -100;
/** Most extents that one call tells. */
const extentsMax = 1024;

/** Octets in a file. */
export class FileBackend extends CheckedBackend {
  readonly #path: string;
  readonly #first: Deno.FsFile;
  /** A file that has taken its place under the name is not it. */
  readonly #identity: Deno.FileInfo;
  readonly #free: Deno.FsFile[];
  readonly #waiting: ((file: Deno.FsFile) => void)[] = [];
  readonly #handlesMax: number;
  #handles = 1;
  readonly #libc: Libc | null;
  #fd: number;
  #canPunch: boolean;

  private constructor(
    path: string,
    file: Deno.FsFile,
    options: { size: number; readOnly: boolean; libc: Libc | null; fd: number; handles: number },
  ) {
    super({ name: path, size: options.size, readOnly: options.readOnly });
    this.#path = path;
    this.#first = file;
    this.#identity = file.statSync();
    this.#free = [file];
    this.#handlesMax = options.handles;
    this.#libc = options.libc;
    this.#fd = options.fd;
    this.#canPunch = options.libc !== null;
  }

  /**
   * Opens it.
   *
   * @throws {IoError} when it is not there or may not be used; {RangeError} when its size is another than `create`
   */
  static open(path: string, options: FileOptions = {}): FileBackend {
    const { readOnly = false, create, resize, libc = null, handles = 16 } = options;
    let file: Deno.FsFile;
    // Opening a pipe would wait for its other end.
    if (isOther(path)) {
      throw new IoError("EINVAL", `Cannot use "${path}": it should be a file or a block device`);
    }
    try {
      file = Deno.openSync(path, { read: true, write: !readOnly, create: create !== undefined && !readOnly });
    } catch (error) {
      throw ioError(error, `Cannot open "${path}"`);
    }
    let fd = -1;
    try {
      const info = file.statSync();
      if (!info.isFile && !info.isBlockDevice) {
        throw new IoError("EINVAL", `Cannot use "${path}": it should be a file or a block device`);
      }
      let size = info.isFile ? info.size : file.seekSync(0, Deno.SeekMode.End);
      const wanted = resize ?? (create !== undefined && size === 0 ? create : size);
      if (wanted !== size && info.isFile && !readOnly) {
        file.truncateSync(wanted);
        size = wanted;
      }
      if (create !== undefined && size !== create) {
        throw new RangeError(`Cannot use "${path}": it has ${size} bytes, and should have ${create}`);
      }
      if (libc !== null) {
        const flags = (readOnly ? openFlags.readOnly : openFlags.readWrite) | openFlags.cloexec;
        fd = libc.open(currentDir, pathFromText(path), flags);
        if (!readOnly && !libc.tryLock(fd, true)) {
          throw new DroverError("busy", `Cannot write to "${path}": another program of drover does`);
        }
      }
      return new FileBackend(path, file, { size, readOnly, libc, fd, handles });
    } catch (error) {
      file.close();
      if (fd >= 0) libc?.close(fd);
      throw error instanceof RangeError ? error : ioError(error, `Cannot open "${path}"`);
    }
  }

  /** See {@link CheckedBackend}. */
  protected override async read(offset: number, into: Uint8Array): Promise<void> {
    const file = this.#free.pop() ?? await this.#handle();
    try {
      file.seekSync(offset, Deno.SeekMode.Start);
      for (let at = 0; at < into.length;) {
        const count = await file.read(at === 0 ? into : into.subarray(at));
        if (count === null) {
          throw new IoError("EIO", `Cannot read "${this.name}" at ${offset + at}: it has become shorter`);
        }
        at += count;
      }
    } catch (error) {
      throw ioError(error, `Cannot read "${this.name}" at ${offset}`);
    } finally {
      this.#giveBack(file);
    }
  }

  /** See {@link CheckedBackend}. */
  protected override async write(offset: number, bytes: Uint8Array): Promise<void> {
    const file = this.#free.pop() ?? await this.#handle();
    try {
      file.seekSync(offset, Deno.SeekMode.Start);
      for (let at = 0; at < bytes.length;) at += await file.write(at === 0 ? bytes : bytes.subarray(at));
    } catch (error) {
      throw ioError(error, `Cannot write "${this.name}" at ${offset}`);
    } finally {
      this.#giveBack(file);
    }
  }

  /** See {@link CheckedBackend}. */
  protected override async sync(): Promise<void> {
    if (this.readOnly) return;
    try {
      await this.#first.syncData();
    } catch (error) {
      throw ioError(error, `Cannot flush "${this.name}"`);
    }
  }

  /** See {@link Backend.zero}. */
  async zero(offset: number, length: number, options: { allocate?: boolean } = {}): Promise<void> {
    this.checkWrite(offset, length);
    if (length === 0 || (options.allocate !== true && this.#punch(offset, length))) return;
    const zeros = new Uint8Array(Math.min(length, 2 ** 20));
    for (let at = 0; at < length; at += zeros.length) {
      await this.write(offset + at, zeros.subarray(0, Math.min(zeros.length, length - at)));
    }
  }

  /** See {@link Backend.trim}. */
  trim(offset: number, length: number): void {
    this.checkWrite(offset, length);
    if (length > 0) this.#punch(offset, length);
  }

  /** See {@link Backend.extents}. */
  extents(offset: number, length: number): Extent[] {
    this.check(offset, length);
    const libc = this.#libc;
    if (libc === null) return [{ length, hole: false, zero: false }];
    const found: Extent[] = [];
    const end = offset + length;
    try {
      for (let at = offset; at < end && found.length < extentsMax;) {
        const data = libc.seek(this.#fd, at, seekData);
        const from = data < 0 ? end : Math.min(data, end);
        if (from > at) found.push({ length: from - at, hole: true, zero: true });
        if (from === end) break;
        const hole = libc.seek(this.#fd, from, seekHole);
        at = hole < 0 ? end : Math.min(Math.max(hole, from + 1), end);
        found.push({ length: at - from, hole: false, zero: false });
      }
    } catch {
      // A device, or a file system that does not tell.
      return [{ length, hole: false, zero: false }];
    }
    return found;
  }

  /** See {@link CheckedBackend}. */
  protected override async release(): Promise<void> {
    // Handles that are at work come back one by one.
    for (let closed = 0; closed < this.#handles; closed++) {
      const file = this.#free.pop() ??
        await new Promise<Deno.FsFile>((resolve) => this.#waiting.push(resolve));
      file.close();
    }
    if (this.#fd >= 0) this.#libc?.close(this.#fd);
    this.#fd = -1;
  }

  /** Makes a hole. @returns false where that cannot be. */
  #punch(offset: number, length: number): boolean {
    if (!this.#canPunch || this.#libc === null) return false;
    try {
      this.#libc.punch(this.#fd, offset, length);
      return true;
    } catch {
      this.#canPunch = false;
      return false;
    }
  }

  /** A further handle, or the next that comes back. */
  #handle(): Promise<Deno.FsFile> {
    if (this.#handles < this.#handlesMax && !this.isClosed) {
      this.#handles++;
      try {
        const file = Deno.openSync(this.#path, { read: true, write: !this.readOnly });
        const info = file.statSync();
        if (info.ino === this.#identity.ino && info.dev === this.#identity.dev) return Promise.resolve(file);
        file.close();
      } catch {
        // Moved, removed or out of descriptors: the handles that there are must do.
      }
      this.#handles--;
    }
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  #giveBack(file: Deno.FsFile): void {
    const next = this.#waiting.shift();
    if (next === undefined) this.#free.push(file);
    else next(file);
  }
}

/** Whether something is there that is neither a file nor a block device. */
function isOther(path: string): boolean {
  try {
    const info = Deno.statSync(path);
    return !info.isFile && info.isBlockDevice !== true;
  } catch {
    return false;
  }
}
