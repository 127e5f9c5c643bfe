/**
 * Random changes to a directory, the same for the same seed: every kind of entry, few names so that they meet often,
 * byte paths throughout.
 */
import type { DirEntry, FileKind, Libc } from "../../ffi/mod.ts";
import { type BytePath, joinPath, nameOf, parentOf } from "../../lib/base/path.ts";

const AT_FDCWD = -100;
const O = { RDONLY: 0, RDWR: 2, CREAT: 0o100, DIRECTORY: Deno.build.arch === "aarch64" ? 0o40000 : 0o200000 };

/** A generator of numbers (mulberry32). */
export class Random {
  #state: number;

  /** @param seed any whole number. */
  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  /** A whole number from 0 to below `end`. */
  below(end: number): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let t = this.#state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) % end;
  }

  /** One of them. */
  pick<Item>(items: readonly Item[]): Item {
    const item = items[this.below(items.length)];
    if (item === undefined) throw new RangeError("nothing to pick from");
    return item;
  }
}

const names = [
  "a",
  "b",
  "c",
  "d",
  "e",
  "f",
  "\xff\xfe",
  "n\nl",
  ".wh.a",
  "-r",
  "x".repeat(100),
] as BytePath[];
const modes = [0o600, 0o644, 0o755, 0o700, 0o444, 0o000, 0o4755, 0o2750, 0o1777];
const specials: readonly [FileKind, number, number][] = [["fifo", 0, 0], ["socket", 0, 0], ["char", 1, 3], [
  "block",
  7,
  200,
]];

/** There is no entry of the kind that was to be changed. */
class NothingToDo extends Error {}

/** One directory that is changed at random. */
export class Mutator {
  readonly #libc: Libc;
  readonly #root: BytePath;
  readonly #random: Random;
  readonly #isRoot: boolean;
  #entries: { path: BytePath; entry: DirEntry }[] = [];
  /** What was done, for the message of a failing test. */
  readonly done: string[] = [];

  /** @param root absolute. */
  constructor(libc: Libc, root: BytePath, random: Random, isRoot: boolean) {
    this.#libc = libc;
    this.#root = root;
    this.#random = random;
    this.#isRoot = isRoot;
  }

  /** Makes `count` changes; one that the system refuses is none. */
  run(count: number): void {
    for (let at = 0; at < count; at++) {
      this.#entries = [];
      this.#list("" as BytePath);
      const operation = this.#random.pick(this.#operations);
      try {
        operation.call(this);
      } catch (error) {
        if (error instanceof NothingToDo) continue;
        if (!(error instanceof Error) || !("errno" in error)) throw error;
        this.#note(`(${error.message})`);
      }
    }
  }

  readonly #operations: readonly (() => void)[] = [
    this.#createFile,
    this.#createFile,
    this.#createFile,
    this.#mkdir,
    this.#mkdir,
    this.#edit,
    this.#edit,
    this.#edit,
    this.#sameLooks,
    this.#unlink,
    this.#removeAll,
    this.#rename,
    this.#rename,
    this.#renameDirectory,
    this.#renameDirectory,
    this.#renameDirectory,
    this.#swap,
    this.#link,
    this.#link,
    this.#symlink,
    this.#special,
    this.#chmod,
    this.#chmod,
    this.#chown,
    this.#mtime,
    this.#touchNothing,
    this.#xattr,
    this.#xattr,
    this.#recreate,
    this.#changeType,
    this.#copy,
  ];

  #note(text: string): void {
    this.done.push(text);
  }

  #abs(path: BytePath): BytePath {
    return joinPath(this.#root, path);
  }

  #list(directory: BytePath): void {
    const fd = this.#libc.open(
      AT_FDCWD,
      directory === "" ? this.#root : this.#abs(directory),
      O.RDONLY | O.DIRECTORY,
    );
    let found: DirEntry[];
    try {
      found = this.#libc.readDir(fd).sort((a, b) => a.name < b.name ? -1 : 1);
    } finally {
      this.#libc.close(fd);
    }
    for (const entry of found) {
      const path = joinPath(directory, entry.name);
      this.#entries.push({ path, entry });
      if (entry.kind === "directory") this.#list(path);
    }
  }

  #some(...kinds: FileKind[]): BytePath {
    const list = this.#entries.filter(({ entry }) => kinds.length === 0 || kinds.includes(entry.kind));
    if (list.length === 0) throw new NothingToDo();
    return this.#random.pick(list).path;
  }

  /** A directory, the root most often, as they are few. */
  #place(): BytePath {
    const directories = this.#entries.filter(({ entry }) => entry.kind === "directory").map(({ path }) =>
      path
    );
    const directory = this.#random.below(4) === 0 || directories.length === 0
      ? "" as BytePath
      : this.#random.pick(directories);
    return joinPath(directory.split("/").length > 5 ? "" as BytePath : directory, this.#random.pick(names));
  }

  #bytes(size: number): Uint8Array {
    const bytes = new Uint8Array(size);
    const word = this.#random.below(2 ** 31);
    for (let at = 0; at < size; at++) bytes[at] = Math.imul(word + (at >> 4), 2654435761) >>> 24;
    return bytes;
  }

  #createFile(): void {
    const path = this.#place();
    const size = this.#random.pick([0, 1, 100, 4096, 5000, 70_000]);
    this.#note(`create ${path} ${size}`);
    const fd = this.#libc.open(AT_FDCWD, this.#abs(path), O.RDWR | O.CREAT, 0o644);
    try {
      this.#libc.ftruncate(fd, 0);
      if (size > 0) this.#libc.pwrite(fd, this.#bytes(size), 0);
    } finally {
      this.#libc.close(fd);
    }
  }

  #edit(): void {
    const path = this.#some("file");
    this.#note(`edit ${path}`);
    const fd = this.#libc.open(AT_FDCWD, this.#abs(path), O.RDWR);
    try {
      const { size } = this.#libc.fstat(fd);
      switch (this.#random.below(4)) {
        case 0:
          return this.#libc.pwrite(fd, this.#bytes(50), size);
        case 1:
          return this.#libc.pwrite(fd, this.#bytes(10), this.#random.below(size + 1));
        case 2:
          return this.#libc.ftruncate(fd, this.#random.below(size + 1));
        default:
          return this.#libc.ftruncate(fd, size + this.#random.below(30_000));
      }
    } finally {
      this.#libc.close(fd);
    }
  }

  /** Other content of the same size, and the mtime put back. */
  #sameLooks(): void {
    const path = this.#some("file");
    this.#note(`same looks ${path}`);
    const stat = this.#libc.stat(AT_FDCWD, this.#abs(path));
    if (stat === null || stat.size === 0) return;
    const fd = this.#libc.open(AT_FDCWD, this.#abs(path), O.RDWR);
    try {
      this.#libc.pwrite(fd, this.#bytes(Math.min(stat.size, 20)), 0);
      this.#libc.fsetMtime(fd, stat.mtimeSeconds, stat.mtimeNanos);
    } finally {
      this.#libc.close(fd);
    }
  }

  #mkdir(): void {
    const path = this.#place();
    this.#note(`mkdir ${path}`);
    this.#libc.mkdir(AT_FDCWD, this.#abs(path), 0o755);
  }

  #unlink(): void {
    const path = this.#some("file", "symlink", "fifo", "socket", "char", "block");
    this.#note(`unlink ${path}`);
    this.#libc.unlink(AT_FDCWD, this.#abs(path));
  }

  #removeAll(): void {
    const path = this.#some();
    this.#note(`remove ${path}`);
    this.#remove(path);
  }

  #remove(path: BytePath): void {
    const below = this.#entries.filter((known) => known.path === path || known.path.startsWith(path + "/"))
      .reverse();
    for (const { path, entry } of below) {
      if (entry.kind === "directory") this.#libc.rmdir(AT_FDCWD, this.#abs(path));
      else this.#libc.unlink(AT_FDCWD, this.#abs(path));
    }
  }

  #rename(): void {
    const [from, to] = [
      this.#some("file", "symlink", "fifo"),
      this.#random.below(3) === 0 ? this.#some("file") : this.#place(),
    ];
    this.#note(`rename ${from} ${to}`);
    this.#libc.rename(AT_FDCWD, this.#abs(from), AT_FDCWD, this.#abs(to));
  }

  #renameDirectory(): void {
    const [from, to] = [
      this.#some("directory"),
      this.#random.below(3) === 0 ? this.#some("directory") : this.#place(),
    ];
    this.#note(`rename directory ${from} ${to}`);
    this.#move(from, to);
  }

  /** rename(2), or what mv(1) does where an overlay refuses that. */
  #move(from: BytePath, to: BytePath): void {
    try {
      return this.#libc.rename(AT_FDCWD, this.#abs(from), AT_FDCWD, this.#abs(to));
    } catch (error) {
      if (!(error instanceof Error) || !("code" in error) || error.code !== "EXDEV") throw error;
    }
    if (to === from || to.startsWith(from + "/")) return;
    const there = this.#libc.stat(AT_FDCWD, this.#abs(to));
    if (there !== null) {
      if (there.kind !== "directory") return;
      this.#libc.rmdir(AT_FDCWD, this.#abs(to)); // ENOTEMPTY as rename(2) would say
    }
    const stat = this.#libc.stat(AT_FDCWD, this.#abs(from));
    this.#libc.mkdir(AT_FDCWD, this.#abs(to), 0o700);
    const fd = this.#libc.open(AT_FDCWD, this.#abs(from), O.RDONLY | O.DIRECTORY);
    try {
      for (const { name } of this.#libc.readDir(fd)) this.#move(joinPath(from, name), joinPath(to, name));
    } finally {
      this.#libc.close(fd);
    }
    for (const { name, value } of this.#libc.xattrs(AT_FDCWD, this.#abs(from))) {
      this.#libc.setXattr(AT_FDCWD, this.#abs(to), name, value);
    }
    if (stat !== null) {
      if (this.#isRoot) this.#libc.chown(AT_FDCWD, this.#abs(to), stat.uid, stat.gid);
      this.#libc.chmod(AT_FDCWD, this.#abs(to), stat.mode);
      this.#libc.setMtime(AT_FDCWD, this.#abs(to), stat.mtimeSeconds, stat.mtimeNanos);
    }
    this.#libc.rmdir(AT_FDCWD, this.#abs(from));
  }

  #swap(): void {
    const [one, other] = [this.#some(), this.#some()];
    this.#note(`swap ${one} ${other}`);
    if (one === other || one.startsWith(other + "/") || other.startsWith(one + "/")) return;
    const between = joinPath(parentOf(one), "swapping" as BytePath);
    this.#move(one, between);
    this.#move(other, one);
    this.#move(between, other);
  }

  #link(): void {
    const [from, to] = [this.#some("file"), this.#place()];
    this.#note(`link ${from} ${to}`);
    this.#libc.link(AT_FDCWD, this.#abs(from), AT_FDCWD, this.#abs(to));
  }

  #symlink(): void {
    const path = this.#place();
    this.#note(`symlink ${path}`);
    this.#libc.symlink(this.#random.pick(names), AT_FDCWD, this.#abs(path));
  }

  #special(): void {
    const path = this.#place();
    const [kind, major, minor] = this.#random.pick(this.#isRoot ? specials : specials.slice(0, 2));
    this.#note(`${kind} ${path}`);
    this.#libc.mknod(AT_FDCWD, this.#abs(path), kind, 0o600, major, minor);
  }

  #chmod(): void {
    const path = this.#some("file", "directory", "fifo", "socket", "char");
    // What its owner cannot read, an ordinary user cannot keep.
    const mode = this.#isRoot
      ? this.#random.pick(modes)
      : this.#random.pick([0o600, 0o644, 0o755, 0o1700]) | 0o700;
    this.#note(`chmod ${path} ${mode.toString(8)}`);
    this.#libc.chmod(AT_FDCWD, this.#abs(path), mode);
  }

  #chown(): void {
    if (!this.#isRoot) return;
    const path = this.#some();
    this.#note(`chown ${path}`);
    this.#libc.chown(AT_FDCWD, this.#abs(path), this.#random.below(3), this.#random.below(3));
  }

  #mtime(): void {
    const path = this.#some();
    this.#note(`mtime ${path}`);
    const seconds = this.#random.pick([0, -1, 1, -2_000_000_000, 1_700_000_000, 4_200_000_000]);
    this.#libc.setMtime(AT_FDCWD, this.#abs(path), seconds, this.#random.below(1_000_000_000));
  }

  /** In an overlay this copies the file up. */
  #touchNothing(): void {
    const path = this.#some();
    this.#note(`touch nothing ${path}`);
    const stat = this.#libc.stat(AT_FDCWD, this.#abs(path));
    if (stat !== null) this.#libc.setMtime(AT_FDCWD, this.#abs(path), stat.mtimeSeconds, stat.mtimeNanos);
  }

  #xattr(): void {
    const path = this.#some("file", "directory");
    const name = `user.${this.#random.pick(["x", "y"])}` as BytePath;
    this.#note(`xattr ${path} ${name}`);
    if (this.#random.below(3) === 0) this.#libc.removeXattr(AT_FDCWD, this.#abs(path), name);
    else this.#libc.setXattr(AT_FDCWD, this.#abs(path), name, this.#bytes(this.#random.below(20)));
  }

  /** A directory is removed and made again, with other children. */
  #recreate(): void {
    const path = this.#some("directory");
    this.#note(`recreate ${path}`);
    this.#remove(path);
    this.#libc.mkdir(AT_FDCWD, this.#abs(path), 0o755);
    if (this.#random.below(2) === 0) {
      this.#libc.mkdir(AT_FDCWD, this.#abs(joinPath(path, this.#random.pick(names))), 0o755);
    }
  }

  #changeType(): void {
    const path = this.#some();
    this.#note(`change type of ${path}`);
    this.#remove(path);
    switch (this.#random.below(3)) {
      case 0:
        return this.#libc.mkdir(AT_FDCWD, this.#abs(path), 0o755);
      case 1:
        return this.#libc.symlink(nameOf(path), AT_FDCWD, this.#abs(path));
      default:
        return this.#libc.mknod(AT_FDCWD, this.#abs(path), "fifo", 0o644, 0, 0);
    }
  }

  /** A second file with the same content and the same metadata. */
  #copy(): void {
    const [from, to] = [this.#some("file"), this.#place()];
    this.#note(`copy ${from} ${to}`);
    const stat = this.#libc.stat(AT_FDCWD, this.#abs(from));
    if (stat === null || this.#libc.stat(AT_FDCWD, this.#abs(to)) !== null) return;
    const source = this.#libc.open(AT_FDCWD, this.#abs(from), O.RDONLY);
    const target = this.#libc.open(AT_FDCWD, this.#abs(to), O.RDWR | O.CREAT, 0o644);
    try {
      this.#libc.copyRange(source, 0, target, 0, stat.size);
      this.#libc.fchmod(target, stat.mode & 0o777);
      this.#libc.fsetMtime(target, stat.mtimeSeconds, stat.mtimeNanos);
    } finally {
      this.#libc.close(source);
      this.#libc.close(target);
    }
  }
}
