/**
 * The bench's trees: makes one, and changes one as people do between two migrations.
 *
 * Invariants: everything follows from the seed (names, content, modes, links, mtimes of files, symlinks and
 * directories), so two runs with one seed give trees that no comparison tells apart; the clock is not read.
 * `mutateTree()` needs only the tree itself: the class of a file is told by the end of its name.
 *
 * The mix, by bytes: 40 % source of about 12 KB each, 10 % longer text, 22 % object-like, 18 % incompressible,
 * 10 % databases and disk images. About 20 000 files per 1000 MB; the whole tree shrinks to about 0.50 by zstd -3.
 * On top come symbolic links, hard links, odd modes, executables, empty files, `user.` attributes and names
 * beyond ASCII (all UTF-8). What it does not make: devices, sparse files, foreign owners, names that are not
 * UTF-8; those belong to the tests of single cases.
 *
 * @module
 */
import { lutimesSync } from "node:fs";
import { type ContentClass, drawWord, editContent, makeContent } from "./content.ts";
import { Random } from "./random.ts";
import { outputOf, toolExists } from "./process.ts";

/** What `generateTree()` shall make. */
export interface TreeOptions {
  /** Bytes of all files together, within one per cent or one small file. */
  bytes: number;
  seed: number;
  /** Share of the bytes for each class; the default is the mix above. */
  classes?: Partial<Record<ContentClass, number>>;
  /** Whether some symlinks have absolute targets, which an rsync daemon without chroot rewrites; default true. */
  absoluteLinks?: boolean;
}

/** What `generateTree()` made. */
export interface TreeReport {
  files: number;
  bytes: number;
  directories: number;
  symlinks: number;
  hardLinks: number;
  /** Files with an extended attribute; 0 where `setfattr` is missing. */
  xattrs: number;
  classes: Record<ContentClass, { files: number; bytes: number }>;
}

/** What `mutateTree()` shall do. */
export interface MutateOptions {
  /** Share of the files of every class that change, 0 to 100: a quarter created, a quarter deleted, half modified. */
  percent: number;
  seed: number;
  /** Share of the lines or pages of a modified file; default 0.05. */
  touch?: number;
  /** Also rename files and a directory, change modes and redirect symlinks. Not part of ELFM's workload. */
  extras?: boolean;
}

/** What `mutateTree()` did. */
export interface MutateReport {
  created: number;
  deleted: number;
  modified: number;
  renamed: number;
  chmodded: number;
  bytesCreated: number;
  bytesDeleted: number;
  /** Whole size of the modified files, after the change. */
  bytesModified: number;
}

interface Shape {
  share: number;
  median: number;
  sigma: number;
  min: number;
  max: number;
  suffixes: readonly string[];
  /** Directory of a project that holds it; null for the source directories. */
  place: string | null;
}

const KiB = 1024;
const MiB = 1024 * KiB;

const shapes: Readonly<Record<ContentClass, Shape>> = {
  source: {
    share: 0.40,
    median: 12 * KiB,
    sigma: 1.1,
    min: 200,
    max: 512 * KiB,
    suffixes: ["c", "h", "py", "ts", "go"],
    place: null,
  },
  text: {
    share: 0.10,
    median: 90 * KiB,
    sigma: 1.0,
    min: 2 * KiB,
    max: 2 * MiB,
    suffixes: ["txt", "md", "log", "csv"],
    place: "doc",
  },
  object: {
    share: 0.22,
    median: 150 * KiB,
    sigma: 1.2,
    min: 1 * KiB,
    max: 8 * MiB,
    suffixes: ["o", "so", "a", "bin"],
    place: "build",
  },
  packed: {
    share: 0.18,
    median: 250 * KiB,
    sigma: 1.3,
    min: 4 * KiB,
    max: 16 * MiB,
    suffixes: ["jpg", "gz", "mp4", "png"],
    place: "assets",
  },
  page: {
    share: 0.10,
    median: 6 * MiB,
    sigma: 0.7,
    min: 2 * MiB,
    max: 32 * MiB,
    suffixes: ["db", "img"],
    place: "data",
  },
};

const classes = Object.keys(shapes) as ContentClass[];
const classOfSuffix = new Map<string, ContentClass>(
  classes.flatMap((kind) => shapes[kind].suffixes.map((suffix): [string, ContentClass] => [suffix, kind])),
);

/** Seconds since 1970 before which every mtime of a fresh tree lies, and how far back. */
const treeEpoch = 1_735_700_000;
const treeSpan = 60_000_000;

/** Makes a tree in `dir`, which is created and must be empty or absent. */
export function generateTree(dir: string, options: TreeOptions): TreeReport {
  const { bytes, seed } = options;
  Deno.mkdirSync(dir, { recursive: true });
  for (const entry of Deno.readDirSync(dir)) {
    throw new Error(`Cannot generate a tree in "${dir}": it holds "${entry.name}" and should be empty`);
  }
  const report: TreeReport = {
    files: 0,
    bytes: 0,
    directories: 0,
    symlinks: 0,
    hardLinks: 0,
    xattrs: 0,
    classes: {
      source: { files: 0, bytes: 0 },
      text: { files: 0, bytes: 0 },
      object: { files: 0, bytes: 0 },
      packed: { files: 0, bytes: 0 },
      page: { files: 0, bytes: 0 },
    },
  };
  const random = new Random("tree", seed);
  const maker = new Maker(dir, seed, (at) => treeEpoch - at.below(treeSpan));
  const places = planDirectories(bytes, random);
  for (const path of places.all) maker.directory(path);

  for (const kind of classes) {
    const shape = shapes[kind];
    const budget = bytes * (options.classes?.[kind] ?? shape.share);
    const spots = places.of[kind];
    for (const size of sizesOf(shape, budget, random)) {
      const spot = random.pick(spots);
      maker.file(maker.freshName(spot, kind, random), kind, size);
      report.classes[kind].files++;
      report.classes[kind].bytes += size;
      report.bytes += size;
    }
  }
  const regular = [...maker.files];
  for (let count = Math.ceil(regular.length * 0.005); count > 0; count--) {
    maker.file(maker.freshName(random.pick(places.of.source), "source", random), "source", 0);
    report.classes.source.files++;
  }
  report.files = maker.files.length;
  for (let count = Math.ceil(regular.length * 0.006); count > 0; count--) {
    const first = random.pick(regular);
    const suffix = first.slice(first.lastIndexOf(".") + 1);
    const path = maker.freshPath(`${random.pick(places.of.source)}/${drawWord(random)}_link`, suffix, random);
    Deno.linkSync(`${dir}/${first}`, `${dir}/${path}`);
    report.hardLinks++;
  }
  for (let count = Math.ceil(regular.length * 0.012); count > 0; count--) {
    const spot = random.pick(places.of.source);
    const draw = random.below(10);
    const target = draw < 6
      ? relativePath(spot, random.pick(regular))
      : draw < 8
      ? relativePath(spot, random.pick(places.all))
      : draw < 9 || options.absoluteLinks === false
      ? `missing/${drawWord(random)}`
      : `/usr/share/${drawWord(random)}`;
    maker.symlink(maker.freshPath(`${spot}/${drawWord(random)}_at`, "", random), target);
    report.symlinks++;
  }
  report.xattrs = maker.writeXattrs();
  maker.finishDirectories();
  report.directories = places.all.length;
  return report;
}

/** Creates, deletes and modifies `percent` % of the files of every class of the tree in `dir`. */
export function mutateTree(dir: string, options: MutateOptions): MutateReport {
  const { percent, seed, touch = 0.05, extras = false } = options;
  if (!(percent >= 0 && percent <= 100)) {
    throw new RangeError(`Cannot change ${percent} % of a tree: should be 0 to 100`);
  }
  const random = new Random("mutate", seed);
  const hopEpoch = 1_770_000_000 + random.below(20_000_000);
  const clock = (at: Random): number => hopEpoch + at.below(3600);
  const maker = new Maker(dir, seed, clock);
  const tree = walk(dir);
  for (const path of tree.paths) maker.known.add(path);
  const report: MutateReport = {
    created: 0,
    deleted: 0,
    modified: 0,
    renamed: 0,
    chmodded: 0,
    bytesCreated: 0,
    bytesDeleted: 0,
    bytesModified: 0,
  };

  for (const kind of classes) {
    const files = tree.files.filter((file) => file.kind === kind);
    const count = files.length;
    const quarter = Math.round((count * percent) / 400);
    const doomed = new Set(random.sample(count, quarter));
    // A write through one of several names would change the others too, or split them under an overlay.
    const editable = files.filter((file, index) => !doomed.has(index) && !file.linked);
    const half = Math.min(editable.length, Math.round((count * percent) / 200));
    const spots = files.length === 0 ? [] : files.map((file) => parentOf(file.path));
    // Budget for sizes as in a tree of this size, so that no created database outgrows a small tree.
    const sizeMax = files.reduce((most, file) => Math.max(most, file.size), shapes[kind].min);

    for (const index of random.sample(editable.length, half)) {
      const file = editable[index];
      if (file === undefined) continue;
      report.bytesModified += maker.edit(file, touch);
      report.modified++;
    }
    for (let left = quarter; left > 0; left--) {
      const parent = random.pick(spots);
      const spot = random.chance(0.08) ? `${parent}/${drawWord(random)}_new` : parent;
      const size = Math.min(sizeMax, sizeOf(shapes[kind], random));
      if (!maker.known.has(spot)) maker.directory(spot);
      maker.file(maker.freshName(spot, kind, random), kind, size);
      maker.touched.add(spot);
      report.bytesCreated += size;
      report.created++;
    }
    for (const index of doomed) {
      const file = files[index];
      if (file === undefined) continue;
      maker.remove(file.path);
      report.bytesDeleted += file.size;
      report.deleted++;
    }
  }
  // First the attributes: what comes then may rename the files that get them.
  maker.writeXattrs();
  if (extras) changeMore(maker, random, percent, report);
  maker.finishDirectories();
  return report;
}

/** Renames and metadata changes, of files that are still there and as they were. */
function changeMore(maker: Maker, random: Random, percent: number, report: MutateReport): void {
  const now = walk(maker.dir);
  const count = Math.max(1, Math.round((now.files.length * percent) / 1000));
  const chosen = random.sample(now.files.length, Math.min(now.files.length, 2 * count));
  for (const [turn, index] of chosen.entries()) {
    const file = now.files[index];
    if (file === undefined) continue;
    if (turn % 2 === 0) {
      const spot = random.chance(0.5)
        ? parentOf(file.path)
        : parentOf((now.files[random.below(now.files.length)] ?? file).path);
      const path = maker.freshName(spot, file.kind, random);
      Deno.renameSync(`${maker.dir}/${file.path}`, `${maker.dir}/${path}`);
      maker.known.delete(file.path);
      maker.touched.add(parentOf(file.path)).add(spot);
      report.renamed++;
    } else {
      Deno.chmodSync(`${maker.dir}/${file.path}`, random.pick([0o600, 0o640, 0o755, 0o444, 0o664]));
      report.chmodded++;
    }
  }
  for (const path of now.symlinks.slice(0, Math.ceil(count / 10))) {
    Deno.removeSync(`${maker.dir}/${path}`);
    maker.symlink(path, `elsewhere/${drawWord(random)}`);
    maker.touched.add(parentOf(path));
  }
  const leaves = now.directories.filter((path) => path.includes("/"));
  const moved = leaves[random.below(leaves.length)];
  if (moved === undefined) return;
  const to = maker.freshPath(`${parentOf(moved)}/${drawWord(random)}_moved`, "", random);
  // As people do: an overlay without redirect_dir refuses rename(2) of a lower directory, and mv(1) copies it.
  outputOf(["mv", "-T", "--", `${maker.dir}/${moved}`, `${maker.dir}/${to}`]);
  maker.forgetBelow(moved, to);
  report.renamed++;
}

// ── Plans ───────────────────────────────────────────────────────────────────────────────────────────

/** Names beyond ASCII, with blanks and with shell characters: all legal, all UTF-8. */
const oddNames = [
  "Straße",
  "naïve façade",
  "データ",
  "отчёт",
  "a b  c",
  "-dash",
  "it's",
  "100%",
  "emoji 🚜",
  "$HOME",
  "#tmp#",
];

interface Places {
  all: string[];
  of: Record<ContentClass, string[]>;
}

/** One project per 6 MB, each with nested source directories and one place for every other class. */
function planDirectories(bytes: number, random: Random): Places {
  const all: string[] = [];
  const known = new Set<string>();
  const of: Places["of"] = { source: [], text: [], object: [], packed: [], page: [] };
  const add = (path: string): string => {
    if (!known.has(path)) all.push(path);
    known.add(path);
    return path;
  };
  const projects = Math.max(1, Math.round(bytes / 6e6));
  const sourceDirectories = Math.max(2, Math.round((bytes * shapes.source.share) / projects / 20e3 / 14));
  for (let project = 0; project < projects; project++) {
    const area = add(random.pick(["work", "lib", "srv", "home"]));
    const top = add(`${area}/${drawWord(random)}_${project}`);
    const nested = [top];
    for (let count = 0; count < sourceDirectories; count++) {
      const parent = random.pick(nested);
      if (parent.split("/").length > 8) continue;
      const name = random.chance(0.04) ? random.pick(oddNames) : drawWord(random);
      nested.push(add(`${parent}/${name}`));
    }
    of.source.push(...nested);
    for (const kind of classes) {
      const place = shapes[kind].place;
      if (place === null) continue;
      // An empty directory here and there is part of the picture.
      if (place !== "data" || project % 4 === 0) of[kind].push(add(`${top}/${place}`));
    }
  }
  return { all, of };
}

function sizeOf(shape: Shape, random: Random): number {
  return Math.round(Math.min(shape.max, Math.max(shape.min, random.logNormal(shape.median, shape.sigma))));
}

function sizesOf(shape: Shape, budget: number, random: Random): number[] {
  const sizes: number[] = [];
  const cap = Math.max(64 * KiB, budget / 2);
  for (let left = Math.round(budget); left >= 200;) {
    const size = Math.min(left, Math.round(cap), sizeOf(shape, random));
    sizes.push(size);
    left -= size;
  }
  return sizes;
}

function parentOf(path: string): string {
  return path.slice(0, Math.max(0, path.lastIndexOf("/")));
}

function relativePath(fromDirectory: string, to: string): string {
  return "../".repeat(fromDirectory.split("/").length) + to;
}

/** The directory whose identifiers a file uses. */
function projectOf(path: string): string {
  return path.split("/").slice(0, 2).join("/");
}

// ── The tree on disk ────────────────────────────────────────────────────────────────────────────────

interface WalkedFile {
  path: string;
  kind: ContentClass;
  size: number;
  mode: number;
  /** Whether the tree has another name for it. */
  linked: boolean;
}

interface Walked {
  files: WalkedFile[];
  directories: string[];
  symlinks: string[];
  paths: string[];
}

/** Everything below `dir`, in an order that does not depend on the file system. */
function walk(dir: string): Walked {
  const found: Walked = { files: [], directories: [], symlinks: [], paths: [] };
  const namesOfInode = new Map<number, WalkedFile[]>();
  const visit = (parent: string): void => {
    const entries = [...Deno.readDirSync(`${dir}/${parent}`)].sort((a, b) => (a.name < b.name ? -1 : 1));
    for (const entry of entries) {
      const path = parent === "" ? entry.name : `${parent}/${entry.name}`;
      found.paths.push(path);
      if (entry.isDirectory) {
        found.directories.push(path);
        visit(path);
      } else if (entry.isSymlink) {
        found.symlinks.push(path);
      } else if (entry.isFile) {
        const kind = classOfSuffix.get(path.slice(path.lastIndexOf(".") + 1));
        if (kind === undefined) continue;
        const stat = Deno.lstatSync(`${dir}/${path}`);
        const file = { path, kind, size: stat.size, mode: (stat.mode ?? 0o644) & 0o7777, linked: false };
        found.files.push(file);
        if ((stat.nlink ?? 1) > 1 && stat.ino !== null) {
          const names = namesOfInode.get(stat.ino);
          if (names === undefined) namesOfInode.set(stat.ino, [file]);
          else names.push(file);
        }
      }
    }
  };
  visit("");
  for (const names of namesOfInode.values()) {
    if (names.length > 1) { for (const file of names) file.linked = true; }
  }
  return found;
}

/** Writes files with everything that belongs to them, and remembers which directories' mtimes to set. */
class Maker {
  readonly dir: string;
  readonly known = new Set<string>();
  readonly files: string[] = [];
  /** Directories whose mtime is due. */
  readonly touched = new Set<string>();
  readonly #seed: number;
  readonly #clock: (random: Random) => number;
  readonly #xattrs: string[] = [];
  readonly #directoryModes = new Map<string, number>();

  constructor(dir: string, seed: number, clock: (random: Random) => number) {
    this.dir = dir;
    this.#seed = seed;
    this.#clock = clock;
  }

  /** A path `stem.suffix` that nothing has yet. */
  freshPath(stem: string, suffix: string, random: Random): string {
    const tail = suffix === "" ? "" : `.${suffix}`;
    let path = stem + tail;
    while (this.known.has(path)) path = `${stem}_${random.below(100_000)}${tail}`;
    this.known.add(path);
    return path;
  }

  freshName(spot: string, kind: ContentClass, random: Random): string {
    const name = random.chance(0.01)
      ? random.pick(oddNames)
      : drawWord(random) + (random.chance(0.6) ? `_${drawWord(random)}` : "");
    return this.freshPath(`${spot}/${name}`, random.pick(shapes[kind].suffixes), random);
  }

  directory(path: string): void {
    const random = new Random(this.#seed, "directory", path);
    Deno.mkdirSync(`${this.dir}/${path}`);
    this.known.add(path);
    const draw = random.below(40);
    this.#directoryModes.set(path, draw === 0 ? 0o700 : draw === 1 ? 0o2775 : draw === 2 ? 0o1777 : 0o755);
    this.touched.add(path).add(parentOf(path));
  }

  file(path: string, kind: ContentClass, size: number): void {
    const random = new Random(this.#seed, "file", path);
    const full = `${this.dir}/${path}`;
    Deno.writeFileSync(full, makeContent(kind, size, projectOf(path), random), { createNew: true });
    Deno.chmodSync(full, modeOf(kind, random));
    this.#stamp(full, random);
    this.files.push(path);
    if (random.chance(0.015)) this.#planXattr(path, random);
  }

  symlink(path: string, target: string): void {
    const random = new Random(this.#seed, "symlink", path);
    Deno.symlinkSync(target, `${this.dir}/${path}`);
    const time = this.#time(random);
    lutimesSync(`${this.dir}/${path}`, time, time);
  }

  /** Changes a file in the way of its class; the size it has then. */
  edit(file: WalkedFile, touch: number): number {
    const random = new Random(this.#seed, "edit", file.path);
    const full = `${this.dir}/${file.path}`;
    const writable = (file.mode & 0o200) !== 0;
    if (!writable) Deno.chmodSync(full, file.mode | 0o200);
    const edit = editContent(file.kind, Deno.readFileSync(full), touch, projectOf(file.path), random);
    let size = file.size;
    let replaced = false;
    if ("patches" in edit) {
      using handle = Deno.openSync(full, { write: true });
      for (const patch of edit.patches) {
        handle.seekSync(patch.offset, Deno.SeekMode.Start);
        for (let done = 0; done < patch.bytes.length;) done += handle.writeSync(patch.bytes.subarray(done));
      }
    } else if (file.kind !== "object" && random.chance(0.3)) {
      // As editors save: a new file over the old one.
      const temporary = `${full}.~save`;
      Deno.writeFileSync(temporary, edit.content, { createNew: true });
      Deno.renameSync(temporary, full);
      size = edit.content.length;
      replaced = true;
      this.touched.add(parentOf(file.path));
    } else {
      Deno.writeFileSync(full, edit.content, { create: false });
      size = edit.content.length;
    }
    if (!writable || replaced) Deno.chmodSync(full, file.mode);
    this.#stamp(full, random);
    return size;
  }

  /** Removes a file, and its directory if that is empty then. */
  remove(path: string): void {
    Deno.removeSync(`${this.dir}/${path}`);
    this.known.delete(path);
    const parent = parentOf(path);
    this.touched.add(parent);
    if (parent === "" || [...Deno.readDirSync(`${this.dir}/${parent}`)].length > 0) return;
    Deno.removeSync(`${this.dir}/${parent}`);
    this.known.delete(parent);
    this.touched.delete(parent);
    this.touched.add(parentOf(parent));
  }

  /** A directory has moved: what was due below it is due there. */
  forgetBelow(from: string, to: string): void {
    for (const path of [...this.touched]) {
      if (path !== from && !path.startsWith(`${from}/`)) continue;
      this.touched.delete(path);
      this.touched.add(to + path.slice(from.length));
    }
    this.touched.add(parentOf(from)).add(parentOf(to));
  }

  /** Sets the attributes planned so far, by one process; how many files have one. */
  writeXattrs(): number {
    if (this.#xattrs.length === 0 || !toolExists("setfattr")) return 0;
    outputOf(["setfattr", "--restore=-"], { cwd: this.dir, stdin: this.#xattrs.join("") });
    return this.#xattrs.length;
  }

  /** Modes and mtimes of directories, which the work inside them has changed; deepest first. */
  finishDirectories(): void {
    const due = [...this.touched].sort((a, b) =>
      b.split("/").length - a.split("/").length || (a < b ? -1 : 1)
    );
    for (const path of due) {
      const mode = this.#directoryModes.get(path);
      const full = path === "" ? this.dir : `${this.dir}/${path}`;
      if (mode !== undefined) Deno.chmodSync(full, mode);
      this.#stamp(full, new Random(this.#seed, "stamp", path));
    }
  }

  #stamp(full: string, random: Random): void {
    const time = this.#time(random);
    Deno.utimeSync(full, time, time);
  }

  #time(random: Random): Date {
    return new Date(this.#clock(random) * 1000 + random.below(1000));
  }

  #planXattr(path: string, random: Random): void {
    // The restore format has escapes; a plain name needs none.
    if (!/^[\w./-]+$/.test(path)) return;
    const value = random.chance(0.5)
      ? `"${drawWord(random)} ${drawWord(random)}"`
      : `0x${random.next().toString(16).padStart(8, "0")}00ff`;
    this.#xattrs.push(`# file: ${path}\nuser.${drawWord(random)}=${value}\n\n`);
  }
}

function modeOf(kind: ContentClass, random: Random): number {
  const draw = random.below(100);
  if (draw < 3) return 0o600;
  if (draw < 9) return 0o664;
  if (draw < 11) return 0o644 | 0o4000 | 0o111;
  if (draw < (kind === "object" ? 50 : 15)) return 0o755;
  return draw > 97 && kind !== "page" ? 0o444 : 0o644;
}
