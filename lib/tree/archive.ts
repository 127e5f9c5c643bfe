/**
 * A version as a tar, and a tar as the next version. The bytes are those of `lib/version/tar.ts`; what members mean on
 * top of a tree is in `archive_view.ts`.
 *
 * Out: everything of one version in manifest order, or with `from` what is different since then, deletions as OCI
 * whiteouts. Content comes from the store and is hashed on its way: a file that does not match fails the export.
 *
 * In: the archive says what it is by its first header.
 * - `drover full`: the tree becomes exactly what the archive holds.
 * - `drover delta FROM TO`: applied to version FROM only, which must be the head. Leads to the same version id as TO
 *   where TO is the very next version.
 * - none of these: somebody else's. It adds and overwrites, whiteouts delete, as a container image's layer does.
 *
 * Content goes to the state directory's `staging/` while it is hashed, from there it is renamed into a new layer or the object
 * store; then one syncfs, one transaction, the switch, as for a received package. A crash leaves files in `staging/`
 * and a layer that no version names; the next import removes them. Memory does not grow with the content, only
 * with the number of entries.
 *
 * @module
 */
import { createHash, type Hash } from "node:crypto";
import { bytesEqual, toHex } from "../base/hex.ts";
import { DroverError } from "../base/errors.ts";
import { type BytePath, pathToText, rootPath } from "../base/path.ts";
import { diffManifests } from "../version/diff.ts";
import type { Change, Entry } from "../version/entry.ts";
import { versionId } from "../version/history.ts";
import { Manifest } from "../version/manifest.ts";
import {
  encodeTar,
  parseTarComment,
  tarBlockSize,
  type TarItem,
  type TarPurpose,
  type TarRange,
} from "../version/tar.ts";
import { sparseCountMax, type TarEntry, type TarEvent, TarReader } from "../version/tar_reader.ts";
import type { Libc } from "../../ffi/mod.ts";
import { ArchiveView } from "./archive_view.ts";
import { Beneath, isFull } from "./beneath.ts";
import { Breath } from "./breath.ts";
import { copyWithHoles, objectPath } from "./content.ts";
import type { Capture, Profile, TreeContext } from "./context.ts";
import { createEmptyTree, removeUnfinished } from "./init.ts";
import { LayerBuilder } from "./layer.ts";
import { absolutePath, findTree, openTree } from "./locate.ts";
import { AT_FDCWD, SEEK_DATA, SEEK_HOLE } from "./posix.ts";
import { type Allowance, checkAllowed } from "./admission.ts";
import { defaultState } from "./registry.ts";
import { objectLayer, type StoredVersion } from "./store.ts";
import { secondsSince, uncommitted } from "./report.ts";
import type { Tree } from "./tree.ts";
import { emptyDigest } from "./walk.ts";

/** Bytes that are read, and written, at a time. */
const chunkSize = 1 << 20;

/** The longest name of which `.wh.NAME` is still a name. */
const whiteoutSizeMax = 251;

const zeros = new Uint8Array(1 << 16);

/** What to export, and where to. */
export interface ExportOptions {
  /** Takes the next bytes; they are valid until the promise settles. */
  write: (chunk: Uint8Array<ArrayBuffer>) => Promise<void>;
  /** Only what is different from this version. */
  from?: string;
  /** Which version; default the head. */
  version?: string;
}

/** What was exported. */
export interface ExportResult {
  /** The version that the archive holds, or leads to. */
  version: string;
  /** The version that it applies to; null when it holds everything. */
  from: string | null;
  /** Paths that it says something about, the root of the tree not counted. */
  entries: number;
  /** How many of them it says to be gone. */
  deleted: number;
  /** Size of the archive. */
  bytes: number;
  /** Changes in the tree that no version holds: they are not in the archive. */
  uncommitted: number;
  /** How long it took. */
  seconds: number;
}

/**
 * Writes a version, or the difference between two, as a pax tar.
 *
 * @throws {DroverError} "unknown-version"; "unsupported" for names that a delta cannot say; "corrupt" where stored content does
 * not have its hash. What was written until then is no archive.
 */
export async function exportTar(tree: Tree, options: ExportOptions): Promise<ExportResult> {
  const started = performance.now();
  const { store, context } = tree;
  const id = tree.resolve(options.version ?? "head");
  const from = options.from === undefined ? null : tree.resolve(options.from);
  if (store.version(id)?.stack === null) {
    throw new DroverError(
      "unknown-version",
      `Cannot export ${id.slice(0, 12)}: its content is not kept here`,
      {
        hint: `drover fs log ${tree.name}`,
      },
    );
  }
  const manifest = store.manifestOf(id);
  const changes = from === null ? null : diffManifests(store.manifestOf(from), manifest, { collapse: true });
  if (changes !== null) refuseLongNames(changes);
  const left = await uncommittedCount(tree);
  if (left > 0) {
    context.log?.(
      `${left} uncommitted change${left === 1 ? " stays" : "s stay"} out; commit them first to have them in`,
    );
  }

  const reader = new ContentReader(tree, changes === null ? manifest.totals.bytes : changedBytes(changes));
  const sink = new Batch(options.write);
  const purpose: TarPurpose = from === null ? { is: "full" } : { is: "delta", from, to: id };
  const items = changes === null ? reader.full(manifest) : reader.delta(changes);
  const onWarning = (path: BytePath, message: string) => context.log?.(`${pathToText(path)}: ${message}`);
  for await (const bytes of encodeTar(items, { purpose, onWarning })) await sink.add(bytes);
  await sink.flush();
  return {
    version: id,
    from,
    entries: reader.entries,
    deleted: reader.deleted,
    bytes: sink.total,
    uncommitted: left,
    seconds: secondsSince(started),
  };
}

/** How many changes no version holds; a tree that never stands still must not keep its versions from being exported. */
async function uncommittedCount(tree: Tree): Promise<number> {
  try {
    return (await tree.live()).changes.length;
  } catch (error) {
    if (!(error instanceof DroverError)) throw error;
    tree.context.log?.(`cannot tell whether there are uncommitted changes, which stay out: ${error.message}`);
    return 0;
  }
}

function refuseLongNames(changes: readonly Change[]): void {
  for (const { path, after } of changes) {
    if (after !== null || path.length - path.lastIndexOf("/") - 1 <= whiteoutSizeMax) continue;
    throw new DroverError(
      "unsupported",
      `Cannot export the deletion of "${
        pathToText(path)
      }": with ".wh." before it the name would be longer than 255 bytes`,
      { hint: "export the whole tree, without --from" },
    );
  }
}

function changedBytes(changes: readonly Change[]): number {
  return changes.reduce((sum, { after }) => sum + (after?.size ?? 0), 0);
}

/** Gives entries with their content, through one buffer. */
class ContentReader {
  entries = 0;
  deleted = 0;
  readonly #tree: Tree;
  readonly #libc: Libc;
  readonly #buffer = new Uint8Array(chunkSize);
  readonly #total: number;
  readonly #breath = new Breath();
  #done = 0;

  constructor(tree: Tree, total: number) {
    this.#tree = tree;
    this.#libc = tree.libc;
    this.#total = total;
  }

  async *full(manifest: Manifest): AsyncGenerator<TarItem> {
    for (const entry of manifest.entries()) {
      if (this.#breath.due) await this.#breath.take();
      yield* this.#entry(entry);
    }
  }

  async *delta(changes: readonly Change[]): AsyncGenerator<TarItem> {
    for (const { path, after } of changes) {
      if (this.#breath.due) await this.#breath.take();
      if (after !== null) yield* this.#entry(after);
      else {
        this.entries++;
        this.deleted++;
        yield { deleted: path };
      }
    }
  }

  *#entry(entry: Entry): Generator<TarItem> {
    if (entry.path !== rootPath && entry.kind !== "socket") this.entries++;
    if (entry.kind !== "file" || entry.size === 0 || entry.digest === null) {
      yield { entry };
      return;
    }
    const fd = this.#tree.content.open(entry.digest, entry.size);
    if (fd === null) throw this.#corrupt(entry, "its content is not in the store");
    try {
      const ranges = this.#dataRanges(fd, entry.size);
      const content = () => this.#content(fd, entry, ranges ?? [{ offset: 0, size: entry.size }]);
      yield ranges === null ? { entry, content } : { entry, content, ranges };
    } finally {
      this.#libc.close(fd);
    }
  }

  async *#content(
    fd: number,
    entry: Entry,
    ranges: readonly TarRange[],
  ): AsyncGenerator<Uint8Array<ArrayBuffer>> {
    const hash = createHash("sha256");
    let at = 0;
    for (const range of ranges) {
      await hashZeros(hash, range.offset - at, this.#breath);
      const end = range.offset + range.size;
      for (at = range.offset; at < end;) {
        const count = this.#libc.pread(fd, this.#buffer.subarray(0, Math.min(chunkSize, end - at)), at);
        if (count === 0) throw this.#corrupt(entry, "its content is shorter than it was");
        const bytes = this.#buffer.subarray(0, count);
        hash.update(bytes);
        at += count;
        yield bytes;
        if (this.#breath.due) {
          this.#tree.context.progress?.({
            phase: "export",
            done: this.#done + at,
            total: this.#total,
            unit: "bytes",
          });
          await this.#breath.take();
        }
      }
    }
    await hashZeros(hash, entry.size - at, this.#breath);
    this.#done += entry.size;
    if (entry.digest === null || !bytesEqual(hash.digest(), entry.digest)) {
      throw this.#corrupt(entry, "its content in the store does not have its hash");
    }
  }

  /** Where a file with holes has data; null for a file without holes, or with too many for a tar to say. */
  #dataRanges(fd: number, size: number): TarRange[] | null {
    const stat = this.#libc.fstat(fd);
    if (stat.blocks * 512 >= size) return null;
    const ranges: TarRange[] = [];
    for (let at = 0; at < size;) {
      const start = this.#libc.seek(fd, at, SEEK_DATA);
      if (start < 0 || start >= size) break;
      const hole = this.#libc.seek(fd, start, SEEK_HOLE);
      at = hole < 0 ? size : Math.min(hole, size);
      ranges.push({ offset: start, size: at - start });
      if (ranges.length >= sparseCountMax) return null;
    }
    return ranges[0]?.size === size ? null : ranges;
  }

  #corrupt(entry: Entry, what: string): DroverError {
    return new DroverError("corrupt", `Cannot export "${pathToText(entry.path)}": ${what}`, {
      hint: `drover fs verify ${this.#tree.name}`,
    });
  }
}

/** Hashes that many zeros: what a hole reads as. */
async function hashZeros(hash: Hash, count: number, breath: Breath): Promise<void> {
  for (let left = count; left > 0; left -= zeros.length) {
    hash.update(left < zeros.length ? zeros.subarray(0, left) : zeros);
    if (breath.due) await breath.take();
  }
}

/** Collects the many small parts of an archive into large writes. */
class Batch {
  total = 0;
  readonly #write: (chunk: Uint8Array<ArrayBuffer>) => Promise<void>;
  readonly #buffer = new Uint8Array(chunkSize);
  #size = 0;

  constructor(write: (chunk: Uint8Array<ArrayBuffer>) => Promise<void>) {
    this.#write = write;
  }

  async add(bytes: Uint8Array<ArrayBuffer>): Promise<void> {
    this.total += bytes.length;
    for (let at = 0; at < bytes.length;) {
      const count = Math.min(bytes.length - at, chunkSize - this.#size);
      this.#buffer.set(bytes.subarray(at, at + count), this.#size);
      this.#size += count;
      at += count;
      if (this.#size === chunkSize) await this.flush();
    }
  }

  async flush(): Promise<void> {
    const size = this.#size;
    this.#size = 0;
    if (size > 0) await this.#write(this.#buffer.subarray(0, size));
  }
}

/** What to import. */
export interface ImportOptions {
  /** The archive's bytes, not compressed. */
  read: AsyncIterable<Uint8Array<ArrayBuffer>> | Iterable<Uint8Array<ArrayBuffer>>;
  /** What the log will say about the version. */
  message?: string;
  /** What may be in it that an ordinary user could not make; nothing by default. */
  allow?: Allowance;
}

/** Options of an import into a directory that may not be a tree yet. */
export interface ImportTreeOptions extends ImportOptions {
  /** For a tree that is made. */
  capture?: Capture;
  /** For a tree that is made. */
  profile?: Profile;
}

/** What was imported. */
export interface ImportResult {
  /** The head afterwards. */
  version: string;
  /** The head before. */
  parent: string | null;
  /** False when the archive says nothing that the head does not have. */
  changed: boolean;
  /** What the archive was: a whole tree, the difference between two versions, or somebody else's. */
  archive: "full" | "delta" | "foreign";
  /** Paths that changed. */
  entries: number;
  /** Size of the archive. */
  bytes: number;
  /** How long it took. */
  seconds: number;
}

/**
 * Imports into the tree at `dir`; where nothing is, or an empty directory, the tree is made first. It is not left behind when
 * the import fails.
 *
 * @throws {DroverError} "exists" for a directory that is neither empty nor a tree; else as `importTar`.
 */
export async function importTree(
  context: TreeContext,
  dir: BytePath,
  options: ImportTreeOptions,
): Promise<ImportResult> {
  const absolute = absolutePath(dir);
  if (findTree(context, absolute) !== null) {
    await using tree = await openTree(context, absolute);
    return await importTar(tree, options);
  }
  const { capture, profile } = options;
  const { libc } = context.native;
  const existed = libc.stat(AT_FDCWD, absolute) !== null;
  const made = createEmptyTree(context, absolute, {
    ...capture === undefined ? {} : { capture },
    ...profile === undefined ? {} : { profile },
  });
  try {
    await using tree = made;
    return await importTar(tree, options);
  } catch (error) {
    // Not when it failed after the version was recorded: then it is a tree.
    if (removeUnfinished(context, defaultState(absolute), absolute) && !existed) {
      libc.rmdir(AT_FDCWD, absolute);
    }
    throw error;
  }
}

/**
 * Makes the archive's tree, or the head with the archive's changes, the next version and the current one.
 *
 * @throws {FormatError} for what breaks the format or leads out of the tree; {DroverError} "wrong-base" for a difference to
 * another version than the head, "uncommitted", "no-space", "unsupported" for a compressed archive. Nothing has changed then.
 */
export async function importTar(tree: Tree, options: ImportOptions): Promise<ImportResult> {
  const started = performance.now();
  const { store } = tree;
  const parent = store.pointers.head;
  if (parent !== null) {
    await tree.mount();
    const { changes } = await tree.live();
    if (changes.length > 0) throw uncommitted(tree.name, changes, "import into");
  }
  sweepImports(tree);
  const layer = store.newLayer();
  const name = `import-${layer}` as BytePath;
  using staging = Beneath.open(tree.libc, store.below("staging"));
  staging.mkdir(name);
  try {
    using place = Beneath.open(tree.libc, store.below(`staging/${name}`));
    const unpacking = new Unpacking(tree, place, options.allow ?? { devices: false, securityXattrs: false });
    const { manifest, changes, staged } = await unpacking.run(options.read);
    const common = { parent, archive: unpacking.archive, bytes: unpacking.bytes };
    if (parent !== null && changes.length === 0) {
      return { version: parent, ...common, changed: false, entries: 0, seconds: secondsSince(started) };
    }
    const before = store.manifestOf(parent);
    const all = unpacking.archive === "full" ? diffManifests(before, manifest) : changes;
    if (parent !== null && all.length === 0) {
      return { version: parent, ...common, changed: false, entries: 0, seconds: secondsSince(started) };
    }
    const keep = store.setup.capture === "scan" ? keepObjects : keepLayer;
    const places = await keep(tree, { layer, before, after: manifest, changes: all, staged, place });
    const root = store.writeManifest(manifest);
    await tree.flush(store.setup.capture === "scan" ? objectLayer : layer);
    const version: StoredVersion = {
      id: versionId(parent, root),
      parent,
      root,
      time: tree.context.now(),
      message: options.message ?? "",
      stack: [],
    };
    await tree.exclusively(async (live) => {
      if (parent !== null && live.changes.length > 0) {
        throw uncommitted(tree.name, live.changes, "import into");
      }
      const stack = store.setup.capture === "scan" ? [] : [...await tree.shallowStack(parent), layer];
      await tree.advance({ ...version, stack }, [], manifest, live.captured.manifest, places);
    });
    return {
      version: version.id,
      ...common,
      changed: true,
      entries: all.length,
      seconds: secondsSince(started),
    };
  } catch (error) {
    if (!isFull(error)) throw error;
    const recorded = store.pointers.head !== parent || store.pointers.pending !== null;
    throw new DroverError(
      "no-space",
      `Cannot import into "${tree.name}": the file system is full; ${
        recorded ? "the version is recorded, its files are not all in place" : "nothing was changed"
      }`,
      {
        cause: error,
        ...recorded ? { hint: `make room, then drover fs status ${tree.name} finishes it` } : {},
      },
    );
  } finally {
    staging.removeAll(name);
    if (store.pointers.head === parent && store.pointers.pending === null) tree.removeLayer(layer);
  }
}

/** Removes what an import that was cut off left in `staging/`, and layers that nobody needs. */
function sweepImports(tree: Tree): void {
  using staging = Beneath.open(tree.libc, tree.store.below("staging"));
  for (const { name } of staging.list(rootPath)) if (/^import-\d+$/.test(name)) staging.removeAll(name);
  tree.sweepLayers();
}

/** Reads an archive: entries into a view, content into numbered files. */
class Unpacking {
  archive: ImportResult["archive"] = "foreign";
  bytes = 0;
  readonly #tree: Tree;
  readonly #libc: Libc;
  readonly #place: Beneath;
  readonly #allow: Allowance;
  readonly #breath = new Breath();
  #view: ArchiveView | null = null;
  #file: StagedFile | null = null;
  #serial = 0;
  #logical = 0;

  constructor(tree: Tree, place: Beneath, allow: Allowance) {
    this.#tree = tree;
    this.#libc = tree.libc;
    this.#place = place;
    this.#allow = allow;
  }

  async run(read: ImportOptions["read"]): Promise<ReturnType<ArchiveView["finish"]>> {
    const { context } = this.#tree;
    const reader = new TarReader({
      onWarning: (path, message) => context.log?.(`${pathToText(path)}: ${message}`),
    });
    try {
      for await (const chunk of startWhole(read)) {
        let at = 0;
        // Block by block until it is known what the archive is: entries mean something only then.
        for (; this.#view === null && at < chunk.length; at += tarBlockSize) {
          const events = reader.push(chunk.subarray(at, at + tarBlockSize));
          if (reader.comment !== null || events.length > 0) this.#begin(reader.comment);
          await this.#take(events);
        }
        if (at < chunk.length) await this.#take(reader.push(chunk.subarray(at)));
        this.bytes += chunk.length;
        if (!this.#breath.due) continue;
        context.progress?.({ phase: "import", done: this.bytes, total: 0, unit: "bytes" });
        await this.#breath.take();
      }
      reader.finish();
    } finally {
      if (this.#file !== null) this.#libc.close(this.#file.fd);
    }
    if (this.#view === null) this.#begin(null);
    const viewed = this.#view?.finish();
    if (viewed === undefined || viewed.manifest.count === 0) {
      throw new DroverError("usage", `Cannot import into "${this.#tree.name}": the archive holds nothing`);
    }
    return viewed;
  }

  /** Decides what the archive is, before its first member counts. */
  #begin(comment: string | null): void {
    const purpose = comment === null ? null : parseTarComment(comment);
    const { head } = this.#tree.store.pointers;
    if (purpose?.is === "delta" && purpose.from !== head) {
      throw new DroverError(
        "wrong-base",
        `Cannot import a difference from version ${
          purpose.from.slice(0, 12)
        } into "${this.#tree.name}": its head is ${head?.slice(0, 12) ?? "nothing"}`,
        { hint: "import the archives in their order, or one that was exported without --from" },
      );
    }
    this.archive = purpose?.is ?? "foreign";
    const base = this.archive === "full" ? Manifest.empty : this.#tree.store.manifestOf(head);
    this.#view = new ArchiveView(base, { whiteouts: this.archive !== "full" });
  }

  async #take(events: readonly TarEvent[]): Promise<void> {
    for (const event of events) {
      if (event.is === "entry") this.#entry(event.entry);
      else if (this.#file === null) continue;
      else if (event.is === "data") await this.#data(this.#file, event.offset, event.bytes);
      else await this.#end(this.#file);
      // Data is a view of the chunk, which stays as it is until the next push.
      if (this.#breath.due) await this.#breath.take();
    }
  }

  #entry(member: TarEntry): void {
    const view = this.#view;
    if (view === null || view.takeSign(member)) return;
    checkAllowed({ ...member, digest: null }, this.#allow, "tar");
    if (member.kind === "link") return view.link(member);
    if (member.kind !== "file") return view.put(member, null, -1);
    if (member.size === 0) return view.put(member, emptyDigest, -1);
    this.#checkRoom(member);
    const serial = this.#serial++;
    this.#file = {
      member,
      serial,
      fd: this.#place.create(`${serial}` as BytePath),
      hash: createHash("sha256"),
      at: 0,
    };
  }

  /** Refuses early what cannot fit. Holes need no room, but they are hashed: so there is a limit for them, too. */
  #checkRoom(member: TarEntry): void {
    this.#logical += member.size;
    if (this.#logical <= 1 << 30) return;
    const { available } = this.#libc.statfs(this.#place.fd);
    if (available * 16 >= this.#logical) return;
    throw new DroverError(
      "no-space",
      `Cannot import "${
        pathToText(member.path)
      }": with it the archive's files have ${this.#logical} bytes, ${available} are free`,
    );
  }

  async #data(file: StagedFile, offset: number, bytes: Uint8Array<ArrayBuffer>): Promise<void> {
    await hashZeros(file.hash, offset - file.at, this.#breath);
    file.hash.update(bytes);
    this.#libc.pwrite(file.fd, bytes, offset);
    file.at = offset + bytes.length;
  }

  async #end(file: StagedFile): Promise<void> {
    const { member, serial, fd, hash, at } = file;
    await hashZeros(hash, member.size - at, this.#breath);
    if (at < member.size) this.#libc.ftruncate(fd, member.size);
    this.#file = null;
    this.#libc.close(fd);
    this.#view?.put(member, new Uint8Array(hash.digest()), serial);
  }
}

/** A file whose content is under way. */
interface StagedFile {
  member: TarEntry;
  serial: number;
  fd: number;
  hash: Hash;
  /** Where the content that was hashed ends. */
  at: number;
}

/** Gives the chunks as they are, but for a first one of at least a block; refuses compressed archives. */
async function* startWhole(read: ImportOptions["read"]): AsyncGenerator<Uint8Array<ArrayBuffer>> {
  let start: Uint8Array<ArrayBuffer> | null = new Uint8Array(0);
  for await (const chunk of read) {
    if (start === null) {
      yield chunk;
      continue;
    }
    const joined: Uint8Array<ArrayBuffer> = new Uint8Array(start.length + chunk.length);
    joined.set(start);
    joined.set(chunk, start.length);
    start = joined;
    refuseCompressed(start);
    if (start.length < tarBlockSize) continue;
    yield start;
    start = null;
  }
  if (start !== null && start.length > 0) yield start;
}

const compressions: readonly { magic: number[]; name: string; command: string }[] = [
  { magic: [0x1f, 0x8b], name: "gzip", command: "zcat" },
  { magic: [0x28, 0xb5, 0x2f, 0xfd], name: "zstd", command: "zstdcat" },
  { magic: [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00], name: "xz", command: "xzcat" },
  { magic: [0x42, 0x5a, 0x68], name: "bzip2", command: "bzcat" },
];

function refuseCompressed(start: Uint8Array): void {
  const found = compressions.find(({ magic }) => magic.every((byte, at) => start[at] === byte));
  if (found === undefined) return;
  throw new DroverError("unsupported", `Cannot read the archive: it is compressed with ${found.name}`, {
    hint: `${found.command} FILE | drover fs import DIR --tar -`,
  });
}

/** What becomes of unpacked content. */
interface Keeping {
  layer: number;
  before: Manifest;
  after: Manifest;
  changes: readonly Change[];
  staged: ReadonlyMap<BytePath, number>;
  place: Beneath;
}

type Places = { digest: Uint8Array; layer: number; path: BytePath }[];

/** Builds an overlay layer from the staged files. */
async function keepLayer(tree: Tree, keeping: Keeping): Promise<Places> {
  const { libc, store } = tree;
  const { layer, changes, staged, place } = keeping;
  libc.mkdir(AT_FDCWD, store.layerPath(layer), 0o700);
  using root = Beneath.open(libc, store.layerPath(layer));
  const builder = new LayerBuilder(root, { ...store.setup, ...keeping });
  const breath = new Breath();
  const places: Places = [];
  await builder.begin();
  for (const { after } of changes) {
    if (breath.due) await breath.take();
    if (after?.kind !== "file" || after.digest === null) continue;
    const serial = staged.get(after.path);
    if (serial !== undefined) {
      const { fd, name } = root.place(after.path);
      libc.rename(place.fd, `${serial}` as BytePath, fd, name);
    } else copyBelow(tree, after, builder.create(after));
    builder.close(after);
    places.push({ digest: after.digest, layer, path: after.path });
  }
  await builder.finish();
  return places;
}

/** Content that the version below has, under another name or with other names of the same file. Closes `target`. */
function copyBelow(tree: Tree, entry: Entry, target: number): void {
  try {
    if (entry.size === 0) return;
    const source = entry.digest === null ? null : tree.content.open(entry.digest, entry.size);
    if (source === null) {
      throw new DroverError(
        "corrupt",
        `Cannot import "${pathToText(entry.path)}": its content is not in the store`,
        {
          hint: `drover fs verify ${tree.name}`,
        },
      );
    }
    try {
      copyWithHoles(tree.libc, source, target, entry.size);
    } finally {
      tree.libc.close(source);
    }
  } finally {
    tree.libc.close(target);
  }
}

/** Moves the staged files into the object store. */
async function keepObjects(tree: Tree, { changes, staged, place }: Keeping): Promise<Places> {
  const { libc, store } = tree;
  using objects = Beneath.open(libc, store.layerPath(objectLayer));
  const breath = new Breath();
  const places: Places = [];
  const known = new Set<string>();
  for (const { after } of changes) {
    if (breath.due) await breath.take();
    if (after?.kind !== "file" || after.digest === null || known.has(toHex(after.digest))) continue;
    known.add(toHex(after.digest));
    const object = objectPath(after.digest);
    const serial = after.size === 0 ? "empty" : `${staged.get(after.path) ?? ""}`;
    if (serial === "") continue; // the version below has it
    if (after.size === 0) libc.close(place.create(serial as BytePath));
    const folder = object.slice(0, 2) as BytePath;
    if (objects.stat(folder) === null) objects.mkdir(folder);
    // Also over one that is there: without a row in the store nobody knows that it is whole.
    const target = objects.place(object);
    libc.rename(place.fd, serial as BytePath, target.fd, target.name);
    places.push({ digest: after.digest, layer: objectLayer, path: object });
  }
  return places;
}
