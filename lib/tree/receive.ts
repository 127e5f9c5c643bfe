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
import { type BytePath, pathToText } from "../base/path.ts";
import { DroverError, FormatError } from "../base/errors.ts";
import { bytesEqual, toHex } from "../base/hex.ts";
import type { Channel, ReceivedRecord } from "../net/mod.ts";
import type { Change, Entry } from "../version/entry.ts";
import { diffManifests } from "../version/diff.ts";
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
} from "../version/package.ts";
import type { Part } from "../version/part.ts";
import { joinPrefix } from "../version/prefix.ts";
import {
  checkSegmentDigest,
  parseSegmentBody,
  PieceLedger,
  type RawSegment,
  type SegmentBody,
} from "../version/segment.ts";
import { type Allowance, checkAllowed, checkHistory, checkRoom } from "./admission.ts";
import { readSlice } from "./bases.ts";
import { Beneath, isFull } from "./beneath.ts";
import { Breath } from "./breath.ts";
import { AT_FDCWD } from "./posix.ts";
import { decodeOffer, encodeMessage, haveMax, type Offer, recordType, remoteError } from "./protocol.ts";
import { Replay } from "./replay.ts";
import { LayerSink, ObjectSink, type Sink } from "./sinks.ts";
import { dropStaging, StagedSegments, type Staging, stagingPath } from "./staging.ts";
import type { StoredVersion } from "./store.ts";
import { uncommitted } from "./report.ts";
import type { Tree } from "./tree.ts";

/** Window of the largest frame that is decompressed. */
const windowLogMax = 25;

/** Segments that are decompressed ahead of the one that is being written. */
const aheadMax = 2;

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

async function unpack(tree: Tree, part: Part, prefix = new Uint8Array()): Promise<Uint8Array<ArrayBuffer>> {
  if (part.codec === "stored") return part.bytes;
  const size = { size: part.rawSize, windowLogMax };
  return await tree.context.native.zstd.decompress(
    part.bytes,
    prefix.length === 0 ? size : { ...size, prefix },
  );
}

async function unpackSegment(tree: Tree, body: SegmentBody, before: Manifest): Promise<RawSegment> {
  const prefix = body.literals.codec === "stored"
    ? new Uint8Array()
    : joinPrefix(body.prefix, (slice, into) => {
      if (readSlice(tree, before, slice, into)) return;
      throw new FormatError(
        "package.segment.prefix",
        -1,
        `Cannot use "${pathToText(slice.path)}" as prefix: it has no such bytes`,
      );
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
