/**
 * The receiver of a package: records from a channel → a layer, or objects → the current version.
 *
 * The metadata alone gives the whole manifest of the new version, so what comes is checked against the version's id before a
 * byte of content is written. Content is written as it arrives, into a place that no version names yet;
 * finished segments are noted in the staging directory, so a connection that breaks is taken up where it was. Every file is
 * checked against its hash. Then: one syncfs, one transaction, the switch.
 *
 * Everything that arrives is taken for hostile: sizes are bounded before memory is, paths go through `Beneath`, and
 * devices and privileged xattrs are refused unless they are allowed.
 *
 * @module
 */
import * as fs from "node:fs";
import { createHash } from "node:crypto";
import { type BytePath, pathToText, rootPath } from "../base/path.ts";
import { DroverError, FormatError } from "../base/errors.ts";
import { bytesEqual, toHex } from "../base/hex.ts";
import type { Channel, ReceivedRecord } from "../net/mod.ts";
import type { Change, Entry } from "../version/entry.ts";
import { diffManifests } from "../version/diff.ts";
import { checkChain } from "../version/history.ts";
import { Manifest } from "../version/manifest.ts";
import {
  checkMetadataDigest,
  decodeMetadataChunk,
  hasPieces,
  type MetadataChunk,
  metadataChunksMax,
  packageDigest,
  type PackageMetadata,
  parseMetadataBody,
  parseTrailerBody,
  resolveMetadata,
  targetManifest,
  type Upsert,
} from "../version/package.ts";
import type { Part } from "../version/part.ts";
import { joinPrefix } from "../version/prefix.ts";
import {
  checkSegmentDigest,
  decodeSegment,
  parseSegmentBody,
  type Piece,
  PieceLedger,
  pieceSizeMax,
  type RawSegment,
  type SegmentBody,
} from "../version/segment.ts";
import { isOverlayXattr, isWhiteoutDevice } from "../version/whiteout.ts";
import { readSlice } from "./bases.ts";
import { Beneath, isFull } from "./beneath.ts";
import { Breath } from "./breath.ts";
import { copyWithHoles, objectPath } from "./content.ts";
import { LayerBuilder } from "./layer.ts";
import { AT_FDCWD, O_CREAT, O_RDONLY, O_TRUNC, O_WRONLY } from "./posix.ts";
import { decodeOffer, encodeMessage, haveMax, type Offer, recordType, remoteError } from "./protocol.ts";
import { objectLayer, readWhole, type StoredVersion } from "./store.ts";
import { type Tree, uncommitted } from "./tree.ts";
import { Hasher } from "./walk.ts";

/** What a receiver takes besides ordinary files. */
export interface Allowance {
  /** Character and block devices. */
  devices: boolean;
  /** Xattrs in `security.` (file capabilities among them) and `trusted.`. */
  securityXattrs: boolean;
}

/** Window of the largest frame that is decompressed. */
const windowLogMax = 25;

/** Segments that are decompressed ahead of the one that is being written. */
const aheadMax = 2;

/** Bases of at most this size are read whole, once per run of pieces. */
const wholeBaseMax = 4 << 20;

/** What a staging directory says about itself; it is taken up again only for exactly the same package. */
interface Staging {
  layer: number;
  to: string;
  metadata: string;
  boot: string;
}

/** What receiving took. */
export interface ReceiveResult {
  from: string | null;
  to: string;
  versions: number;
  entries: number;
  applySeconds: number;
}

/**
 * Receives one package into the tree and makes it current. With `force` it may leave the head's history; then the conversation
 * was begun that way.
 *
 * @throws {FormatError} for what breaks its format; {DroverError} "wrong-base", "diverged", "uncommitted", "no-space", …
 */
export async function receivePackage(
  channel: Channel,
  tree: Tree,
  allow: Allowance,
  offerBody: Uint8Array,
  force: boolean,
): Promise<ReceiveResult> {
  const offer = decodeOffer(offerBody);
  if (offer.force && !force) {
    throw new DroverError(
      "protocol",
      `Cannot take what ${channel.peer} sends: it wants "${tree.name}" to give its history up, which nobody asked for`,
    );
  }
  const before = tree.store.pointers.head;
  try {
    const receiver = await PackageReceiver.begin(channel, tree, allow, offer);
    return await receiver.run();
  } catch (error) {
    // What is wrong in itself must not be taken up again.
    if (error instanceof DroverError && ["format", "corrupt"].includes(error.code)) dropStaging(tree);
    const { head, pending } = tree.store.pointers;
    const recorded = head !== before || pending !== null;
    const full = isFull(error) || error instanceof DroverError && error.code === "no-space" && recorded;
    if (!full) throw error;
    throw new DroverError(
      "no-space",
      `Cannot receive into "${tree.name}": the file system is full; ${
        recorded ? "the version is recorded, its files are not all in place" : "nothing was changed"
      }`,
      {
        hint: recorded
          ? "make room there and push again, which puts the rest in place"
          : "make room and push again: what was received is kept",
        cause: error,
      },
    );
  }
}

class PackageReceiver {
  readonly #channel: Channel;
  readonly #tree: Tree;
  readonly #metadata: PackageMetadata;
  readonly #chunkDigests: Uint8Array[];
  readonly #before: Manifest;
  readonly #after: Manifest;
  readonly #changes: Change[];
  readonly #ledger: PieceLedger;
  readonly #segmentDigests: (Uint8Array | null)[];
  readonly #totalBytes: number;
  #doneBytes = 0;
  #applyMs = 0;

  private constructor(channel: Channel, tree: Tree, metadata: PackageMetadata, chunkDigests: Uint8Array[]) {
    this.#channel = channel;
    this.#tree = tree;
    this.#metadata = metadata;
    this.#chunkDigests = chunkDigests;
    this.#before = metadata.from === null ? Manifest.empty : tree.store.manifestOf(metadata.from);
    this.#after = targetManifest(metadata, this.#before);
    // A version that is known here is not in the package, but what comes must be its content all the same.
    const root = tree.store.version(metadata.to)?.root ?? metadata.versions.at(-1)?.root;
    if (root !== this.#after.root()) {
      throw new FormatError(
        "package.base.root",
        -1,
        `Cannot use the package: its result is not version "${metadata.to}"`,
      );
    }
    this.#changes = diffManifests(this.#before, this.#after);
    this.#ledger = new PieceLedger(metadata.upserts);
    this.#totalBytes = metadata.upserts.reduce(
      (sum, upsert) => sum + (hasPieces(upsert) ? upsert.entry.size : 0),
      0,
    );
    this.#segmentDigests = new Array<Uint8Array | null>(metadata.segmentCount).fill(null);
  }

  /** Reads the metadata, and refuses what must not be applied here. */
  static async begin(channel: Channel, tree: Tree, allow: Allowance, offer: Offer): Promise<PackageReceiver> {
    if (offer.chunks < 1 || offer.chunks > metadataChunksMax) {
      throw new FormatError("protocol.offer.chunks", -1, `Cannot take ${offer.chunks} chunks of metadata`);
    }
    const chunks: MetadataChunk[] = [];
    const digests: Uint8Array[] = [];
    for (let at = 0; at < offer.chunks; at++) {
      const body = parseMetadataBody(await expect(channel, recordType.metadata));
      const columns = await unpack(tree, body.columns);
      checkMetadataDigest(body, columns);
      digests.push(body.digest);
      chunks.push(decodeMetadataChunk({ columns, digests: body.digests }));
    }
    const from = chunks[0]?.header?.from ?? null;
    const { head } = tree.store.pointers;
    if (from !== null && from !== head) {
      throw new DroverError(
        "wrong-base",
        `Cannot apply a package for version ${from.slice(0, 12)} to "${tree.name}": its head is ${
          head?.slice(0, 12) ?? "nothing"
        }`,
      );
    }
    const base = from === null ? Manifest.empty : tree.store.manifestOf(from);
    const metadata = resolveMetadata(chunks, base);
    checkHistory(tree, metadata, offer);
    for (const { entry } of metadata.upserts) checkAllowed(entry, allow);
    checkRoom(tree, metadata.upserts);
    return new PackageReceiver(channel, tree, metadata, digests);
  }

  async run(): Promise<ReceiveResult> {
    const { store } = this.#tree;
    const staging = this.#openStaging();
    using sink = store.setup.capture === "scan"
      ? new ObjectSink(this.#tree, staging.layer, this.#metadata.upserts)
      : new LayerSink(this.#tree, staging.layer, {
        before: this.#before,
        after: this.#after,
        changes: this.#changes,
        ...store.setup,
      });
    const done = new StagedSegments(this.#tree, staging.layer);
    const seen = new Set<number>();
    const have = done.read().filter(({ index }) => {
      if (index >= this.#segmentDigests.length || seen.has(index)) return false;
      seen.add(index);
      return true;
    }).slice(0, haveMax); // the others come again
    for (const { index, digest, pieces } of have) {
      this.#ledger.add(pieces);
      this.#segmentDigests[index] = digest;
    }
    await this.#channel.send(
      recordType.ready,
      encodeMessage({ have: have.map(({ index, digest }) => ({ index, digest: toHex(digest) })) }),
    );
    await this.#timed(() => sink.begin());
    await this.#timed(() => this.#inherit(sink));
    const trailer = await this.#segments(sink, done);
    this.#checkTrailer(trailer);
    await this.#timed(() => this.#finish(sink));
    const metadata = this.#metadata;
    await this.#timed(() => this.#switch(sink, staging.layer));
    return {
      from: metadata.from,
      to: metadata.to,
      versions: metadata.versions.length,
      entries: metadata.upserts.length + metadata.deletes.length,
      applySeconds: this.#applyMs / 1000,
    };
  }

  async #timed<Result>(work: () => Promise<Result>): Promise<Result> {
    const started = performance.now();
    try {
      return await work();
    } finally {
      this.#applyMs += performance.now() - started;
    }
  }

  /** The staging place of this package: an earlier attempt's, or a new one. */
  #openStaging(): Staging {
    const { store } = this.#tree;
    const metadata = toHex(packageDigest(this.#chunkDigests, []));
    const boot = fs.readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
    const note = store.note("staging");
    if (note !== null) {
      const known = JSON.parse(note) as Staging;
      // After a reboot what was written without a sync cannot be trusted.
      if (known.to === this.#metadata.to && known.metadata === metadata && known.boot === boot) return known;
      dropStaging(this.#tree);
    }
    const staging = { layer: store.newLayer(), to: this.#metadata.to, metadata, boot };
    this.#tree.libc.mkdir(AT_FDCWD, stagingPath(this.#tree, staging.layer), 0o700);
    if (store.setup.capture === "overlay") {
      this.#tree.libc.mkdir(AT_FDCWD, store.layerPath(staging.layer), 0o700);
    }
    store.setNote("staging", JSON.stringify(staging)); // last: what it names is there
    return staging;
  }

  /** Files whose content is here already: moved, or only their metadata changed. And empty ones. */
  async #inherit(sink: Sink): Promise<void> {
    const breath = new Breath();
    for (const { entry, sameContent } of this.#allFiles()) {
      if (breath.due) await breath.take();
      if (entry.size === 0) sink.empty(entry);
      else if (sameContent) sink.inherit(entry);
    }
  }

  /** Files of the layer without pieces: also those of a hard-link group that only stands here because another name changed. */
  *#allFiles(): Generator<{ entry: Entry; sameContent: boolean }> {
    const withPieces = new Set(this.#metadata.upserts.filter(hasPieces).map(({ entry }) => entry.path));
    for (const { after } of this.#changes) {
      if (after?.kind === "file" && !withPieces.has(after.path)) {
        yield { entry: after, sameContent: after.size > 0 };
      }
    }
  }

  /** Receives segments; one is written while the next ones arrive and are decompressed. Returns the trailer's body. */
  async #segments(sink: Sink, done: StagedSegments): Promise<Uint8Array<ArrayBuffer>> {
    const replay = new Replay(this.#tree, this.#metadata.upserts, this.#before, sink);
    const waiting: Promise<void>[] = [];
    let writing = Promise.resolve();
    let failure: unknown = null;
    try {
      for (;;) {
        const record = await this.#channel.receive();
        if (failure !== null) throw failure;
        if (record === null) {
          throw new DroverError(
            "disconnected",
            `Cannot go on with ${this.#channel.peer}: it ended before the trailer`,
          );
        }
        if (record.type === recordType.trailer) {
          await writing;
          if (failure !== null) throw failure;
          return record.body;
        }
        if (record.type !== recordType.segment) throw unexpected(this.#channel, record);
        const body = parseSegmentBody(record.body, {
          segmentCount: this.#metadata.segmentCount,
          upserts: this.#metadata.upserts,
        });
        const digest = body.digest.slice(); // the body's memory is given back
        const raw = unpackSegment(this.#tree, body, this.#before);
        raw.catch(() => {}); // awaited in order below
        writing = writing.then(async () => {
          if (failure !== null) return;
          const segment = await raw;
          await this.#timed(() => this.#write(replay, sink, done, segment, digest));
          this.#channel.recycle(record.body);
        }).catch((error) => {
          failure ??= error;
        });
        waiting.push(writing);
        if (waiting.length > aheadMax) await waiting.shift();
        if (failure !== null) throw failure;
      }
    } finally {
      await writing;
      replay.close();
    }
  }

  async #write(
    replay: Replay,
    sink: Sink,
    done: StagedSegments,
    segment: RawSegment,
    digest: Uint8Array,
  ): Promise<void> {
    if (this.#segmentDigests[segment.index] !== null) {
      throw new FormatError(
        "package.segment.twice",
        -1,
        `Cannot use segment ${segment.index}: it came before`,
      );
    }
    const complete = this.#ledger.add(segment.pieces);
    const whole = new Set(
      segment.pieces.filter(({ upsert, length }) => this.#metadata.upserts[upsert]?.entry.size === length)
        .map(({ upsert }) => upsert),
    );
    await replay.run(segment);
    for (const upsert of complete) {
      const entry = this.#metadata.upserts[upsert]?.entry;
      if (entry !== undefined) sink.complete(entry, upsert, whole.has(upsert));
    }
    this.#segmentDigests[segment.index] = digest;
    done.add(segment.index, digest, segment.pieces);
    this.#doneBytes += segment.pieces.reduce((sum, { length }) => sum + length, 0);
    this.#tree.context.progress?.({
      phase: "receive",
      done: this.#doneBytes,
      total: this.#totalBytes,
      unit: "bytes",
    });
  }

  #checkTrailer(body: Uint8Array<ArrayBuffer>): void {
    const trailer = parseTrailerBody(body);
    this.#ledger.finish();
    const digests = this.#segmentDigests.map((digest, index) => {
      if (digest !== null) return digest;
      throw new FormatError(
        "package.segment.missing",
        -1,
        `Cannot use the package: segment ${index} did not come`,
      );
    });
    const rule = trailer.segmentCount !== digests.length
      ? "count"
      : trailer.to !== this.#metadata.to
      ? "to"
      : trailer.root !== this.#after.root()
      ? "root"
      : bytesEqual(trailer.digest, packageDigest(this.#chunkDigests, digests))
      ? null
      : "digest";
    if (rule !== null) {
      throw new FormatError(
        `package.trailer.${rule}`,
        0,
        "Cannot use the package: its trailer does not fit it",
      );
    }
  }

  async #finish(sink: Sink): Promise<void> {
    await sink.finish();
    await this.#tree.flush(sink.layer);
  }

  /** From here on the version is current. */
  async #switch(sink: Sink, layer: number): Promise<void> {
    const { store } = this.#tree;
    const metadata = this.#metadata;
    const last = metadata.versions.at(-1) ?? store.version(metadata.to);
    if (last === null || last === undefined) {
      throw new FormatError("version.chain", -1, "Cannot use the package: it names no version");
    }
    await this.#tree.exclusively(async (live) => {
      if (live.changes.length > 0 && store.pointers.head !== null) {
        throw uncommitted(this.#tree.name, live.changes, "bring a new version to");
      }
      const below = await this.#tree.shallowStack(metadata.from);
      const version: StoredVersion = {
        ...last,
        stack: store.setup.capture === "scan" ? [] : [...below, layer],
      };
      const history = metadata.versions.slice(0, -1).map((known) => ({ ...known, stack: null }));
      await this.#tree.advance(version, history, this.#after, live.captured.manifest, sink.places());
    });
    using staging = Beneath.open(this.#tree.libc, store.below("staging"));
    staging.removeAll(`${layer}` as BytePath);
  }
}

/** Where received content goes: a new layer, or the object store. */
interface Sink extends Disposable {
  readonly layer: number;
  begin(): Promise<void>;
  /** A file without content. */
  empty(entry: Entry): void;
  /** A file whose content is in the store. */
  inherit(entry: Entry): void;
  /** The open file for a piece; closed with `written`. */
  open(entry: Entry, upsert: number, piece: Piece): number;
  written(fd: number, entry: Entry): void;
  /** All pieces of a file are written. `hashed` by the caller when it was one piece. */
  complete(entry: Entry, upsert: number, hashed: boolean): void;
  finish(): Promise<void>;
  /** Where the new content is. */
  places(): Iterable<{ digest: Uint8Array; layer: number; path: BytePath }>;
}

/** Builds an overlay layer. */
class LayerSink implements Sink {
  readonly layer: number;
  readonly #tree: Tree;
  readonly #root: Beneath;
  readonly #builder: LayerBuilder;
  readonly #hasher: Hasher;
  readonly #changes: readonly Change[];

  constructor(tree: Tree, layer: number, plan: ConstructorParameters<typeof LayerBuilder>[1]) {
    this.layer = layer;
    this.#tree = tree;
    this.#root = Beneath.open(tree.libc, tree.store.layerPath(layer));
    this.#builder = new LayerBuilder(this.#root, plan);
    this.#changes = plan.changes;
    this.#hasher = new Hasher(tree.libc);
  }

  [Symbol.dispose](): void {
    this.#root[Symbol.dispose]();
  }

  begin(): Promise<void> {
    return this.#builder.begin();
  }

  empty(entry: Entry): void {
    this.#tree.libc.close(this.#builder.create(entry));
    this.#builder.close(entry);
  }

  inherit(entry: Entry): void {
    if (entry.digest === null) return;
    if (this.#root.stat(entry.path) !== null) this.#root.unlink(entry.path); // from an attempt that was cut off
    const only = this.#builder.isOnlyOne(entry);
    for (const found of only ? this.#tree.content.find(entry.digest, entry.size) : []) {
      if (this.#builder.link(entry, found)) return;
    }
    const target = this.#builder.create(entry);
    try {
      copyContent(this.#tree, this.#hasher, entry, target, () => this.#root.open(entry.path, O_RDONLY));
    } finally {
      this.#tree.libc.close(target);
    }
    this.#builder.close(entry);
  }

  open(entry: Entry, _upsert: number, piece: Piece): number {
    return this.#builder.create(entry, piece.length !== entry.size);
  }

  written(fd: number): void {
    this.#tree.libc.close(fd);
  }

  complete(entry: Entry, _upsert: number, hashed: boolean): void {
    if (!hashed) {
      const fd = this.#root.open(entry.path, O_RDONLY);
      try {
        checkContent(this.#hasher, fd, entry);
      } finally {
        this.#tree.libc.close(fd);
      }
    }
    this.#builder.close(entry);
  }

  finish(): Promise<void> {
    return this.#builder.finish();
  }

  *places(): Generator<{ digest: Uint8Array; layer: number; path: BytePath }> {
    for (const { after } of this.#changes) {
      if (after !== null && after.digest !== null) {
        yield { digest: after.digest, layer: this.layer, path: after.path };
      }
    }
  }
}

/** Fills the object store. */
class ObjectSink implements Sink {
  readonly layer = objectLayer;
  readonly #tree: Tree;
  readonly #staging: Beneath;
  readonly #objects: Beneath;
  readonly #upserts: readonly Upsert[];
  readonly #hasher: Hasher;

  constructor(tree: Tree, layer: number, upserts: readonly Upsert[]) {
    this.#tree = tree;
    this.#upserts = upserts;
    this.#staging = Beneath.open(tree.libc, stagingPath(tree, layer));
    this.#objects = Beneath.open(tree.libc, tree.store.layerPath(objectLayer));
    this.#hasher = new Hasher(tree.libc);
  }

  [Symbol.dispose](): void {
    this.#staging[Symbol.dispose]();
    this.#objects[Symbol.dispose]();
  }

  begin(): Promise<void> {
    return Promise.resolve();
  }

  empty(entry: Entry): void {
    const name = "empty" as BytePath;
    this.#tree.libc.close(this.#create(name));
    this.#keep(entry, name);
  }

  inherit(): void {
    // An object with this content is there already.
  }

  open(entry: Entry, upsert: number, piece: Piece): number {
    const fd = this.#create(name(upsert), piece.length === entry.size);
    return fd;
  }

  #create(file: BytePath, truncate = true): number {
    return this.#tree.libc.openBeneath(
      this.#staging.fd,
      file,
      O_WRONLY | O_CREAT | (truncate ? O_TRUNC : 0),
      0o600,
    );
  }

  written(fd: number): void {
    this.#tree.libc.close(fd);
  }

  complete(entry: Entry, upsert: number, hashed: boolean): void {
    if (!hashed) {
      const fd = this.#staging.open(name(upsert), O_RDONLY);
      try {
        checkContent(this.#hasher, fd, entry);
      } finally {
        this.#tree.libc.close(fd);
      }
    }
    // It stays in the staging directory until all is there: an attempt that is taken up again looks for its pieces here.
  }

  #keep(entry: Entry, from: BytePath): void {
    if (entry.digest === null) return;
    const object = objectPath(entry.digest);
    const folder = object.slice(0, 2) as BytePath;
    if (this.#objects.stat(folder) === null) this.#objects.mkdir(folder);
    const target = this.#objects.place(object);
    this.#tree.libc.rename(this.#staging.fd, from, target.fd, target.name);
  }

  async finish(): Promise<void> {
    const breath = new Breath();
    for (const [upsert, { entry }] of this.#upserts.entries()) {
      if (this.#staging.stat(name(upsert)) !== null) this.#keep(entry, name(upsert));
      if (breath.due) await breath.take();
    }
  }

  *places(): Generator<{ digest: Uint8Array; layer: number; path: BytePath }> {
    for (const { entry: { digest } } of this.#upserts) {
      if (digest !== null) yield { digest, layer: objectLayer, path: objectPath(digest) };
    }
  }
}

function name(upsert: number): BytePath {
  return `${upsert}` as BytePath;
}

/** Replays segments into a sink: a piece is put together in memory, hashed if it is a whole file, and written. */
class Replay {
  readonly #tree: Tree;
  readonly #upserts: readonly Upsert[];
  readonly #sink: Sink;
  readonly #bases: Bases;
  #buffer = new Uint8Array(1 << 20);
  #holes: { at: number; length: number }[] = [];

  constructor(tree: Tree, upserts: readonly Upsert[], before: Manifest, sink: Sink) {
    this.#tree = tree;
    this.#upserts = upserts;
    this.#sink = sink;
    this.#bases = new Bases(tree, upserts, before);
  }

  close(): void {
    this.#bases.close();
  }

  run(segment: RawSegment): Promise<void> {
    decodeSegment(segment, (upsert, base) => this.#bases.size(upsert, base), {
      begin: (piece) => {
        this.#holes = [];
        if (this.#buffer.length < piece.length) {
          this.#buffer = new Uint8Array(
            Math.min(pieceSizeMax, Math.max(piece.length, this.#buffer.length * 2)),
          );
        }
      },
      copy: (piece, { at, base, offset, length }) => {
        this.#bases.read(piece.upsert, base, offset, this.#buffer.subarray(at, at + length));
      },
      literal: (_piece, at, bytes) => this.#buffer.set(bytes, at),
      hole: (_piece, at, length) => {
        this.#buffer.fill(0, at, at + length);
        this.#holes.push({ at, length });
      },
      end: (piece) => this.#writePiece(piece),
    });
    return Promise.resolve();
  }

  #writePiece(piece: Piece): void {
    const { libc } = this.#tree;
    const entry = this.#upserts[piece.upsert]?.entry;
    if (entry === undefined) throw new RangeError(`Cannot write upsert ${piece.upsert}`);
    const bytes = this.#buffer.subarray(0, piece.length);
    if (piece.length === entry.size) {
      const digest = createHash("sha256").update(bytes).digest();
      if (entry.digest === null || !bytesEqual(digest, entry.digest)) throw wrongContent(entry, digest);
    }
    const fd = this.#sink.open(entry, piece.upsert, piece);
    try {
      let at = 0;
      for (const hole of this.#holes) {
        if (hole.at > at) libc.pwrite(fd, bytes.subarray(at, hole.at), piece.offset + at);
        at = hole.at + hole.length;
      }
      if (at < piece.length) libc.pwrite(fd, bytes.subarray(at), piece.offset + at);
      // A hole at the end of what is written so far must still count.
      if (at === piece.length && this.#holes.length > 0 && libc.fstat(fd).size < piece.offset + at) {
        libc.ftruncate(fd, piece.offset + at);
      }
    } finally {
      this.#sink.written(fd, entry);
    }
  }
}

/** Content of the base version, read by copies. */
class Bases {
  readonly #tree: Tree;
  readonly #upserts: readonly Upsert[];
  readonly #before: Manifest;
  readonly #open = new Map<string, { fd: number; whole: Uint8Array | null }>();

  constructor(tree: Tree, upserts: readonly Upsert[], before: Manifest) {
    this.#tree = tree;
    this.#upserts = upserts;
    this.#before = before;
  }

  size(upsert: number, base: number): number | null {
    return this.#entry(upsert, base)?.size ?? null;
  }

  #entry(upsert: number, base: number): Entry | null {
    const path = this.#upserts[upsert]?.bases[base];
    const entry = path === undefined ? null : this.#before.get(path);
    return entry?.kind === "file" ? entry : null;
  }

  read(upsert: number, base: number, offset: number, into: Uint8Array): void {
    const entry = this.#entry(upsert, base);
    if (entry === null || entry.digest === null) {
      throw new RangeError(`Cannot read base ${base} of upsert ${upsert}`);
    }
    const key = toHex(entry.digest);
    let file = this.#open.get(key);
    if (file === undefined) this.#open.set(key, file = this.#openBase(entry));
    if (file.whole !== null) into.set(file.whole.subarray(offset, offset + into.length));
    else if (this.#tree.libc.pread(file.fd, into, offset) !== into.length) throw shortBase(entry);
  }

  #openBase(entry: Entry): { fd: number; whole: Uint8Array | null } {
    const { libc, content } = this.#tree;
    if (this.#open.size >= 4) this.close();
    const fd = entry.digest === null ? null : content.open(entry.digest, entry.size);
    if (fd === null) throw shortBase(entry);
    if (entry.size > wholeBaseMax) return { fd, whole: null };
    const whole = new Uint8Array(entry.size);
    if (libc.pread(fd, whole, 0) !== entry.size) throw shortBase(entry);
    return { fd, whole };
  }

  close(): void {
    for (const { fd } of this.#open.values()) this.#tree.libc.close(fd);
    this.#open.clear();
  }
}

/** Which segments are written, for the next attempt: one JSON line each, in the staging directory. */
class StagedSegments {
  readonly #tree: Tree;
  readonly #path: BytePath;
  #size = 0;

  constructor(tree: Tree, layer: number) {
    this.#tree = tree;
    this.#path = `${stagingPath(tree, layer)}/segments` as BytePath;
  }

  read(): { index: number; digest: Uint8Array<ArrayBuffer>; pieces: Piece[] }[] {
    const { libc } = this.#tree;
    if (libc.stat(AT_FDCWD, this.#path) === null) return [];
    const text = new TextDecoder().decode(readWhole(libc, this.#path));
    const lines = text.slice(0, text.lastIndexOf("\n") + 1);
    this.#size = new TextEncoder().encode(lines).length;
    return lines.split("\n").filter((line) => line !== "").map((line) => {
      const { index, digest, pieces } = JSON.parse(line) as {
        index: number;
        digest: string;
        pieces: number[];
      };
      const list: Piece[] = [];
      for (let at = 0; at + 2 < pieces.length; at += 3) {
        list.push({ upsert: pieces[at] ?? 0, offset: pieces[at + 1] ?? 0, length: pieces[at + 2] ?? 0 });
      }
      return { index, digest: hexBytes(digest), pieces: list };
    });
  }

  add(index: number, digest: Uint8Array, pieces: readonly Piece[]): void {
    const { libc } = this.#tree;
    const flat = pieces.flatMap(({ upsert, offset, length }) => [upsert, offset, length]);
    const line = new TextEncoder().encode(
      JSON.stringify({ index, digest: toHex(digest), pieces: flat }) + "\n",
    );
    const fd = libc.open(AT_FDCWD, this.#path, O_WRONLY | O_CREAT, 0o600);
    try {
      libc.pwrite(fd, line, this.#size);
      this.#size += line.length;
    } finally {
      libc.close(fd);
    }
  }
}

function hexBytes(hex: string): Uint8Array<ArrayBuffer> {
  return new Uint8Array(
    Array.from({ length: hex.length / 2 }, (_, at) => parseInt(hex.slice(at * 2, at * 2 + 2), 16)),
  );
}

/** Forgets a package that was not finished. */
export function dropStaging(tree: Tree): void {
  const note = tree.store.note("staging");
  if (note === null) return;
  const { layer } = JSON.parse(note) as Staging;
  tree.store.setNote("staging", null);
  tree.removeLayer(layer);
  using staging = Beneath.open(tree.libc, tree.store.below("staging"));
  staging.removeAll(`${layer}` as BytePath);
}

function stagingPath(tree: Tree, layer: number): BytePath {
  return tree.store.below(`staging/${layer}`);
}

/** The versions must lead from one that is known here to the new one; without `force` from the head. */
function checkHistory(tree: Tree, metadata: PackageMetadata, offer: Offer): void {
  const { head } = tree.store.pointers;
  const first = metadata.versions[0];
  if (first === undefined) {
    if (tree.store.version(metadata.to) === null || !offer.force) {
      throw new FormatError("version.chain", -1, "Cannot use the package: it names no new version");
    }
    return;
  }
  checkChain(first.parent, metadata.versions, metadata.to);
  if (first.parent === head) return;
  if (!offer.force) {
    throw new DroverError(
      "diverged",
      `Cannot apply versions after ${
        first.parent?.slice(0, 12) ?? "nothing"
      } to "${tree.name}": its head is ${head?.slice(0, 12) ?? "nothing"}`,
    );
  }
  if (first.parent !== null && tree.store.version(first.parent) === null) {
    throw new DroverError(
      "unknown-version",
      `Cannot apply versions after ${first.parent.slice(0, 12)} to "${tree.name}": it is not known here`,
    );
  }
}

/**
 * Refuses entries that an ordinary user could not make, or that mean something to the overlay.
 *
 * @throws {FormatError} rules `FORMAT.policy.…`.
 */
export function checkAllowed(entry: Entry, allow: Allowance, format = "package"): void {
  const path = pathToText(entry.path === rootPath ? "." as BytePath : entry.path);
  const refuse = (rule: string, message: string, hint: string) => {
    const error = new FormatError(`${format}.policy.${rule}`, -1, `Cannot accept "${path}": ${message}`);
    return Object.assign(error, { hint });
  };
  if (entry.kind === "char" || entry.kind === "block") {
    if (isWhiteoutDevice({ ...entry })) {
      throw refuse("whiteout", "a 0:0 device would hide a name", "remove it at the source");
    }
    if (!allow.devices) {
      throw refuse("device", "devices are not allowed here", "allow it with --allow-devices");
    }
  }
  for (const { name } of entry.xattrs) {
    const text = pathToText(name);
    if (isOverlayXattr(name)) {
      throw refuse("xattr", `xattr "${text}" belongs to the overlay`, "remove it at the source");
    }
    if (name.startsWith("user.") || name.startsWith("system.posix_acl_")) continue;
    if (!allow.securityXattrs || !/^(security|trusted)\./.test(name)) {
      throw refuse("xattr", `xattr "${text}" is not allowed here`, "allow it with --allow-security-xattrs");
    }
  }
}

/** Refuses early what cannot fit. */
function checkRoom(tree: Tree, upserts: readonly Upsert[]): void {
  using root = Beneath.open(tree.libc, tree.store.path);
  const fd = tree.libc.openBeneath(root.fd, "." as BytePath, O_RDONLY);
  try {
    const { available } = tree.libc.statfs(fd);
    const needed = upserts.reduce((sum, upsert) => sum + (hasPieces(upsert) ? upsert.entry.size : 0), 0);
    // Sparse files may need less than their size, so only what is far too much is refused here.
    if (available * 16 < needed) {
      throw new DroverError(
        "no-space",
        `Cannot receive ${needed} bytes into "${tree.name}": ${available} bytes are free`,
      );
    }
  } finally {
    tree.libc.close(fd);
  }
}

async function unpack(tree: Tree, part: Part, prefix = new Uint8Array()): Promise<Uint8Array<ArrayBuffer>> {
  if (part.codec === "stored") return part.bytes;
  const size = { size: part.rawSize, windowLogMax };
  return await tree.context.native.zstd.decompress(
    part.bytes,
    prefix.length === 0 ? size : { ...size, prefix },
  );
}

async function unpackSegment(tree: Tree, body: SegmentBody, before: Manifest): Promise<RawSegment> {
  const prefix = body.literals.codec === "stored" ? new Uint8Array() : joinPrefix(body.prefix, (slice) => {
    const bytes = readSlice(tree, before, slice);
    if (bytes === null) {
      throw new FormatError(
        "package.segment.prefix",
        -1,
        `Cannot use "${pathToText(slice.path)}" as prefix: it has no such bytes`,
      );
    }
    return bytes;
  });
  const [ops, literals] = await Promise.all([unpack(tree, body.ops), unpack(tree, body.literals, prefix)]);
  return checkSegmentDigest(body, { ops, literals });
}

async function expect(channel: Channel, type: number): Promise<Uint8Array<ArrayBuffer>> {
  const record = await channel.receive();
  if (record === null) {
    throw new DroverError("disconnected", `Cannot go on with ${channel.peer}: it ended the connection`);
  }
  if (record.type !== type) throw unexpected(channel, record);
  return record.body;
}

/** Why the sender's record is not the one that was due: it may have failed and say so. */
function unexpected(channel: Channel, { type, body }: ReceivedRecord): DroverError {
  if (type === recordType.error) return remoteError(body, channel.peer);
  return new FormatError(
    "protocol.turn",
    -1,
    `Cannot use a record of type 0x${type.toString(16)}: it is out of turn`,
  );
}

function copyContent(tree: Tree, hasher: Hasher, entry: Entry, target: number, reopen: () => number): void {
  const source = entry.digest === null ? null : tree.content.open(entry.digest, entry.size);
  if (source === null) throw shortBase(entry);
  try {
    copyWithHoles(tree.libc, source, target, entry.size);
  } finally {
    tree.libc.close(source);
  }
  const copy = reopen();
  try {
    checkContent(hasher, copy, entry);
  } finally {
    tree.libc.close(copy);
  }
}

function checkContent(hasher: Hasher, fd: number, entry: Entry): void {
  const { digest } = hasher.hash(fd);
  if (entry.digest === null || !bytesEqual(digest, entry.digest)) throw wrongContent(entry, digest);
}

function wrongContent(entry: Entry, digest: Uint8Array): DroverError {
  return new DroverError(
    "corrupt",
    `Cannot accept "${pathToText(entry.path)}": its content has sha256 ${
      toHex(digest).slice(0, 12)
    }…, the manifest says ${
      entry.digest === null ? "nothing" : toHex(entry.digest).slice(0, 12)
    }… (rule package.file.digest)`,
  );
}

function shortBase(entry: Entry): DroverError {
  return new DroverError(
    "corrupt",
    `Cannot build from "${pathToText(entry.path)}": its content is not in the store`,
  );
}
