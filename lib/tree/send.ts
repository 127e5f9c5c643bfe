/**
 * The sender of a package: what the receiver has → what it should have, as records on a channel.
 *
 * Packing, compression and the connection overlap: while one segment is encoded on this thread, the ones before
 * are compressed on the native pool and the ones before those are on the wire. At most `inFlightMax` segments exist at a
 * time, so memory does not grow with the tree.
 *
 * @module
 */
import { pathToText } from "../base/path.ts";
import { DroverError } from "../base/errors.ts";
import { fromHex, toHex } from "../base/hex.ts";
import type { ContentFile, ContentPiece } from "../../ffi/mod.ts";
import type { Channel, ReceivedRecord } from "../net/mod.ts";
import { DeltaEncoder, type Extent, LargeDelta, OpList, opLiteral } from "../version/delta.ts";
import type { Entry, VersionInfo } from "../version/entry.ts";
import { diffManifests } from "../version/diff.ts";
import { Manifest } from "../version/manifest.ts";
import {
  encodeMetadata,
  encodeMetadataBody,
  encodeTrailerBody,
  metadataDigest,
  packageDigest,
  type PackageMetadata,
  type PackageMode,
  topmostDeletes,
  type Upsert,
} from "../version/package.ts";
import { isIncompressible, makePart, type Part, probeSize } from "../version/part.ts";
import { planSegments } from "../version/plan.ts";
import { joinPrefix, PrefixChooser } from "../version/prefix.ts";
import {
  encodeSegmentBody,
  type Piece,
  pieceSizeMax,
  type PrefixSlice,
  type RawSegment,
  segmentDigest,
  SegmentEncoder,
} from "../version/segment.ts";
import { canRead, chooseBases, readSlice } from "./bases.ts";
import { pause } from "./breath.ts";
import { SEEK_DATA, SEEK_HOLE } from "./posix.ts";
import { decodeDone, decodeReady, type Done, encodeMessage, recordType, remoteError } from "./protocol.ts";
import type { Tree } from "./tree.ts";

/** Segments that are being compressed or sent at a time. */
const inFlightMax = 3;

/**
 * zstd levels, of which compression takes the one that fits the bottleneck: a step up while segments wait for the wire, a
 * step down while the wire waits for them. Below 6 the bytes grow by several per cent for little time: writing the
 * files takes the receiver longer than packing them takes the sender.
 */
const levels = [6, 7, 8, 9];
const levelStart = 8;
/** A package this small is over before the bottleneck shows; then time counts more than the last per cent. */
const smallPackage = 32 << 20;
const smallLevel = 4;
const metadataLevel = 9;

/** Bases that are read whole for a delta; above it a window of them is. */
const wholeBasesMax = 16 << 20;

/** Cost of a segment, smaller for a small package so that its parts overlap too. */
const segmentCostMin = 1 << 19;
const segmentCostMax = 4 << 20;

/** What is to be sent. */
export interface SendPlan {
  mode: PackageMode;
  /** What the receiver has; null makes the package complete in itself. */
  from: { id: string; manifest: Manifest } | null;
  to: { id: string; manifest: Manifest };
  /** The way from a version that the receiver knows to `to`, oldest first. */
  versions: VersionInfo[];
  force: boolean;
  /** The receiver has parts of a package; READY says which, if they are of this one. */
  staged: boolean;
}

/** What sending took. */
export interface SendResult {
  done: Done;
  /** How many versions lie between what the receiver had and what it has. */
  versions: number;
  /** Created, changed and deleted paths. */
  entries: number;
  packSeconds: number;
  sendSeconds: number;
  /** Segments that the receiver still had from an attempt that was cut off. */
  resumedSegments: number;
}

/** Sends the package and waits until the receiver has made it current. */
export async function sendPackage(channel: Channel, tree: Tree, plan: SendPlan): Promise<SendResult> {
  return await new Sender(channel, tree, plan).run();
}

class Sender {
  readonly #channel: Channel;
  readonly #tree: Tree;
  readonly #plan: SendPlan;
  readonly #reader: PieceReader;
  readonly #replies: Replies;
  #level: number = levelStart;
  #packMs = 0;
  #sendMs = 0;

  constructor(channel: Channel, tree: Tree, plan: SendPlan) {
    this.#channel = channel;
    this.#tree = tree;
    this.#plan = plan;
    this.#reader = new PieceReader(tree);
    this.#replies = new Replies(channel);
  }

  async run(): Promise<SendResult> {
    const plan = this.#plan;
    const started = performance.now();
    const base = plan.from?.manifest ?? Manifest.empty;
    const changes = diffManifests(base, plan.to.manifest, { regroup: false });
    const upserts = chooseBases(this.#tree, changes, base, plan.mode);
    const total = upserts.reduce((sum, { entry, sameContent }) => sum + (sameContent ? 0 : entry.size), 0);
    const segments = planSegments(upserts, {
      costMax: Math.min(segmentCostMax, Math.max(segmentCostMin, total / 16)),
    });
    if (total < smallPackage) this.#level = smallLevel;
    const metadata: PackageMetadata = {
      mode: plan.mode,
      from: plan.from?.id ?? null,
      to: plan.to.id,
      versions: plan.versions,
      segmentCount: segments.length,
      treeEntries: plan.to.manifest.count,
      treeBytes: plan.to.manifest.totals.bytes,
      deletes: topmostDeletes(changes),
      upserts,
    };
    const chunks = encodeMetadata(metadata, base);
    const chunkDigests = chunks.map(metadataDigest);
    this.#packMs += performance.now() - started;
    void this.#channel.send(recordType.offer, encodeMessage({ chunks: chunks.length, force: plan.force }))
      .catch(() => {});
    for (const [at, chunk] of chunks.entries()) {
      const columns = await this.#part(chunk.columns, metadataLevel, null);
      const digest = chunkDigests[at] ?? new Uint8Array();
      await this.#send(recordType.metadata, encodeMetadataBody({ columns, digests: chunk.digests, digest }));
    }
    const { digests, resumed } = await this.#sendSegments(segments, upserts, base);
    const digest = packageDigest(chunkDigests, digests);
    const trailer = encodeTrailerBody({
      segmentCount: segments.length,
      root: plan.to.manifest.root(),
      to: plan.to.id,
      digest,
    });
    await this.#send(recordType.trailer, trailer);
    const waiting = performance.now();
    const done = decodeDone((await this.#replies.next(recordType.done)).body);
    this.#sendMs += performance.now() - waiting;
    return {
      done,
      versions: plan.versions.length,
      entries: changes.length,
      packSeconds: (this.#packMs + this.#reader.busyMs) / 1000,
      sendSeconds: this.#sendMs / 1000,
      resumedSegments: resumed,
    };
  }

  /** Sends every segment that the receiver does not have; returns the digests of all. */
  async #sendSegments(
    segments: readonly Piece[][],
    upserts: readonly Upsert[],
    base: Manifest,
  ): Promise<{ digests: Uint8Array[]; resumed: number }> {
    const prefixes = this.#plan.mode === "delta" ? new PrefixChooser(base, upserts) : null;
    const digests = new Array<Uint8Array>(segments.length);
    const pack = (index: number): Promise<Uint8Array> => {
      const body = (async () => {
        const pieces = segments[index] ?? [];
        const slices = prefixes?.choose(pieces, upserts) ?? [];
        const { segment, prefix } = await this.#reader.encode(index, pieces, upserts, base, slices);
        digests[index] = segmentDigest(segment);
        return await this.#pack(segment, prefix);
      })();
      body.catch(() => {}); // whoever sends it hears of it
      return body;
    };
    // The receiver looks at the metadata and makes directories: the first segment is packed meanwhile, and all are sent
    // without a word from it, unless it may have some already.
    const answer = this.#replies.next(recordType.ready).then(({ body }) => decodeReady(body));
    answer.catch(() => {}); // awaited here or at the end
    const first = segments.length > 0 ? pack(0) : null;
    const have = new Map(
      this.#plan.staged ? (await answer).have.map(({ index, digest }) => [index, digest]) : [],
    );
    const sizes = segments.map((pieces) => pieces.reduce((bytes, { length }) => bytes + length, 0));
    const total = sizes.reduce((sum, size) => sum + size, 0);
    const flying: Promise<void>[] = [];
    let order = Promise.resolve();
    let failure: unknown = null;
    let done = 0;
    for (const [index, size] of sizes.entries()) {
      const known = have.get(index);
      if (known !== undefined) digests[index] = fromHex(known);
      else {
        const packed = index === 0 && first !== null ? first : pack(index);
        order = order.then(async () => {
          if (failure === null) await this.#sendPacked(packed);
        }).catch((error) => {
          failure ??= error;
        });
        flying.push(order);
        if (flying.length >= inFlightMax) await this.#waiting(() => flying.shift());
        else await pause();
      }
      if (failure !== null) break;
      this.#replies.check();
      done += size;
      this.#tree.context.progress?.({ phase: "send", done, total, unit: "bytes" });
    }
    await this.#waiting(() => order);
    if (failure !== null) throw await this.#replies.reason(failure);
    const { have: known } = await answer;
    if (known.length > have.size) {
      throw new DroverError(
        "protocol",
        `Cannot go on with ${this.#channel.peer}: it had no segments, and now has some`,
      );
    }
    return { digests, resumed: have.size };
  }

  async #waiting(wait: () => Promise<void> | undefined): Promise<void> {
    const started = performance.now();
    await wait();
    this.#sendMs += performance.now() - started;
  }

  /** Sends a segment, and sees whether the wire or the compression was the slower one. */
  async #sendPacked(packed: Promise<Uint8Array>): Promise<void> {
    const waiting = performance.now();
    const body = await packed;
    const sending = performance.now();
    await this.#send(recordType.segment, body);
    const wireIsSlower = performance.now() - sending > sending - waiting;
    const at = levels.indexOf(this.#level) + (wireIsSlower ? 1 : -1);
    this.#level = levels[Math.max(0, Math.min(levels.length - 1, at))] ?? this.#level;
  }

  async #pack(segment: RawSegment, prefix: Uint8Array): Promise<Uint8Array> {
    const level = this.#level;
    const [ops, literals] = await Promise.all([
      this.#part(segment.ops, level, null),
      this.#part(segment.literals, level, prefix.length === 0 ? null : prefix),
    ]);
    return encodeSegmentBody(segment, { ops, literals }).body;
  }

  async #part(raw: Uint8Array<ArrayBuffer>, level: number, prefix: Uint8Array | null): Promise<Part> {
    if (raw.length === 0) return makePart(raw, null);
    const { zstd } = this.#tree.context.native;
    if (raw.length > 4 * probeSize) {
      const start = raw.subarray(0, probeSize);
      const probe = await zstd.compress(start, { level: 1 });
      if (isIncompressible(start.length, probe.length)) {
        const at = raw.length - probeSize;
        const end = await zstd.compress(raw.subarray(at), { level: 1 });
        if (isIncompressible(probeSize, end.length)) return makePart(raw, null);
      }
    }
    return makePart(raw, await zstd.compress(raw, prefix === null ? { level } : { level, prefix }));
  }

  async #send(type: number, body: Uint8Array): Promise<void> {
    try {
      await this.#channel.send(type, body);
    } catch (error) {
      throw await this.#replies.reason(error);
    }
  }
}

/** What the other side says while this one is sending: an error may come at any time. */
class Replies {
  readonly #channel: Channel;
  #next: Promise<ReceivedRecord>;
  #failure: DroverError | null = null;

  constructor(channel: Channel) {
    this.#channel = channel;
    this.#next = this.#receive();
  }

  #receive(): Promise<ReceivedRecord> {
    const next = (async () => {
      const record = await this.#channel.receive();
      if (record === null) {
        throw new DroverError(
          "disconnected",
          `Cannot go on with ${this.#channel.peer}: it ended the connection`,
        );
      }
      if (record.type === recordType.error) throw remoteError(record.body, this.#channel.peer);
      return record;
    })();
    next.catch((error) => {
      if (error instanceof DroverError) this.#failure = error;
    });
    return next;
  }

  /** The next record, which must be of this type. */
  async next(type: number): Promise<ReceivedRecord> {
    const record = await this.#next;
    if (record.type !== type) {
      throw new DroverError(
        "protocol",
        `Cannot go on with ${this.#channel.peer}: record 0x${record.type.toString(16)} is out of turn`,
      );
    }
    if (type !== recordType.done) this.#next = this.#receive();
    return record;
  }

  /** Throws what the other side reported meanwhile. */
  check(): void {
    if (this.#failure !== null) throw this.#failure;
  }

  /** The other side's reason where it gave one before the connection broke, else what we saw. */
  async reason(seen: unknown): Promise<unknown> {
    const timeout = new Promise<void>((resolve) => setTimeout(resolve, 500));
    await Promise.race([this.#next.then(() => {}, () => {}), timeout]);
    return this.#failure !== null && this.#failure.code !== "disconnected" ? this.#failure : seen;
  }
}

/** Reads pieces of content and makes segments of them. */
class PieceReader {
  readonly #tree: Tree;
  readonly #encoder = new SegmentEncoder();
  readonly #delta = new DeltaEncoder();
  readonly #ops = new OpList();
  #target = new Uint8Array(1 << 20);
  #bases = new Uint8Array(1 << 20);
  #large: { upsert: number; delta: LargeDelta; close: () => void } | null = null;
  /** What it took of this thread, in milliseconds. */
  busyMs = 0;

  constructor(tree: Tree) {
    this.#tree = tree;
  }

  /**
   * One segment, and the bytes of its reference prefix. Whole files of ordinary size are read and compared by the library, on
   * another thread; what it leaves is done here. Several calls may be under way: behind the wait nothing else comes between.
   */
  async encode(
    index: number,
    pieces: readonly Piece[],
    upserts: readonly Upsert[],
    base: Manifest,
    slices: readonly PrefixSlice[],
  ): Promise<{ segment: RawSegment; prefix: Uint8Array }> {
    let started = performance.now();
    const simple = pieces.map((piece) => this.#asWholeFile(piece, upserts[piece.upsert], base));
    const wanted = simple.filter((piece) => piece !== null);
    this.busyMs += performance.now() - started;
    const deltas = await this.#tree.context.native.content.encode(wanted);
    started = performance.now();
    try {
      const cursor = { piece: 0, op: 0, literal: 0 };
      for (const [at, piece] of pieces.entries()) {
        const upsert = upserts[piece.upsert];
        if (upsert === undefined) throw new RangeError(`Cannot pack upsert ${piece.upsert}`);
        const count = simple[at] === null ? null : deltas.counts[cursor.piece++] ?? null;
        if (count === null) this.#add(piece, upsert, base);
        else {
          this.#ops.clear();
          for (const end = cursor.op + count; cursor.op < end; cursor.op++) {
            this.#ops.push(
              deltas.kinds[cursor.op] ?? opLiteral,
              deltas.bases[cursor.op] ?? 0,
              deltas.offsets[cursor.op] ?? 0,
              deltas.lengths[cursor.op] ?? 0,
            );
          }
          cursor.literal += this.#encoder.addPacked(
            piece,
            deltas.literals.subarray(cursor.literal),
            this.#ops,
          );
        }
      }
      const found = slices.filter(({ path }) => canRead(this.#tree, base.get(path)));
      const prefix = joinPrefix(found, (slice, into) => {
        if (readSlice(this.#tree, base, slice, into)) return;
        throw new DroverError("corrupt", `Cannot pack: the content of "${pathToText(slice.path)}" is gone`, {
          hint: `drover fs verify ${this.#tree.name}`,
        });
      });
      return { segment: this.#encoder.finish(index, found), prefix };
    } finally {
      this.#large?.close();
      this.#large = null;
      this.busyMs += performance.now() - started;
    }
  }

  /** A piece as the library takes it, or null. */
  #asWholeFile(piece: Piece, upsert: Upsert | undefined, manifest: Manifest): ContentPiece | null {
    const { content, context } = this.#tree;
    if (upsert === undefined || piece.offset !== 0 || piece.length !== upsert.entry.size) return null;
    if (piece.length > context.native.content.sizeMax) return null;
    const files: ContentFile[] = [];
    let total = 0;
    for (const entry of [upsert.entry, ...upsert.bases.map((path) => manifest.get(path))]) {
      const found = entry === null || entry.digest === null || entry.size === 0
        ? null
        : content.locate(entry.digest, entry.size);
      if (found === null || entry === null) return null;
      files.push({ dir: found.root.fd, path: found.path, size: entry.size });
      total += entry.size;
    }
    const [target, ...bases] = files;
    return target === undefined || total - target.size > wholeBasesMax ? null : { target, bases };
  }

  #add(piece: Piece, { entry, bases }: Upsert, manifest: Manifest): void {
    const { libc, content } = this.#tree;
    const fd = entry.digest === null ? null : content.open(entry.digest, entry.size);
    if (fd === null) throw missing(this.#tree, entry);
    try {
      if (this.#target.length < piece.length) {
        this.#target = new Uint8Array(Math.min(pieceSizeMax, piece.length * 2));
      }
      const target = this.#target.subarray(0, piece.length);
      const stat = libc.fstat(fd);
      const extents = stat.blocks * 512 < stat.size ? dataExtents(libc, fd, piece) : null;
      if (extents?.length !== 0 && libc.pread(fd, target, piece.offset) !== piece.length) {
        throw missing(this.#tree, entry);
      }
      const sparse = extents !== null && !(extents.length === 1 && extents[0]?.length === piece.length);
      const entries = bases.map((path) => manifest.get(path)).filter((found) => found !== null);
      if (entries.length === 0 && !sparse) return this.#encoder.add(piece, target, null);
      const input = sparse && extents !== null ? { target, extents } : { target };
      const whole = piece.offset === 0 && piece.length === entry.size;
      const small = entries.reduce((sum, { size }) => sum + size, 0) <= wholeBasesMax;
      if (entries.length === 0) this.#delta.encode({ ...input, bases: [] }, this.#ops);
      else if (whole && small) this.#delta.encode({ ...input, bases: this.#readBases(entries) }, this.#ops);
      else this.#largeDelta(piece, entries[0]).encode({ ...input, offset: piece.offset }, this.#ops);
      this.#encoder.add(piece, target, this.#ops);
    } finally {
      libc.close(fd);
    }
  }

  #readBases(entries: readonly Entry[]): Uint8Array[] {
    const { libc, content } = this.#tree;
    const total = entries.reduce((sum, { size }) => sum + size, 0);
    if (this.#bases.length < total) this.#bases = new Uint8Array(total + (total >> 3));
    this.#delta.forget();
    let at = 0;
    return entries.map((entry) => {
      const bytes = this.#bases.subarray(at, at + entry.size);
      at += entry.size;
      const fd = entry.digest === null ? null : content.open(entry.digest, entry.size);
      if (fd === null) return bytes.subarray(0, 0); // gone from here: nothing is copied from it
      try {
        if (libc.pread(fd, bytes, 0) !== entry.size) throw missing(this.#tree, entry);
      } finally {
        libc.close(fd);
      }
      return bytes;
    });
  }

  /** Pieces of one file follow each other; they share what was learnt about its base. */
  #largeDelta(piece: Piece, base: Entry | undefined): LargeDelta {
    if (this.#large?.upsert === piece.upsert) return this.#large.delta;
    this.#large?.close();
    this.#large = null;
    const { libc, content } = this.#tree;
    const fd = base === undefined || base.digest === null ? null : content.open(base.digest, base.size);
    if (fd === null || base === undefined) {
      throw new DroverError("corrupt", "Cannot pack: the content of a base is gone");
    }
    const reader = {
      size: base.size,
      read: (offset: number, length: number) => {
        if (this.#bases.length < length) this.#bases = new Uint8Array(length);
        const bytes = this.#bases.subarray(0, length);
        if (libc.pread(fd, bytes, offset) !== length) throw missing(this.#tree, base);
        return bytes;
      },
    };
    const delta = new LargeDelta(reader, this.#delta);
    this.#large = { upsert: piece.upsert, delta, close: () => libc.close(fd) };
    return delta;
  }
}

/** Where a sparse file has data, within one piece and relative to it. */
function dataExtents(
  libc: Tree["libc"],
  fd: number,
  piece: Piece,
): Extent[] {
  const end = piece.offset + piece.length;
  const extents: Extent[] = [];
  for (let at = piece.offset; at < end;) {
    const start = libc.seek(fd, at, SEEK_DATA);
    if (start < 0 || start >= end) break;
    const hole = libc.seek(fd, start, SEEK_HOLE);
    const stop = hole < 0 ? end : Math.min(hole, end);
    extents.push({ offset: start - piece.offset, length: stop - start });
    at = stop;
  }
  return extents;
}

function missing(tree: Tree, entry: Entry): DroverError {
  return new DroverError(
    "corrupt",
    `Cannot pack "${pathToText(entry.path)}": its content (sha256 ${
      entry.digest === null ? "?" : toHex(entry.digest).slice(0, 12)
    }) is not in the store`,
    { hint: `drover fs verify ${tree.name}` },
  );
}
