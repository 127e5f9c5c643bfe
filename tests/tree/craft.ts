/**
 * Packages by hand: the encoders of `lib/version`, with a chance to change what they say at every step.
 */
import { createHash } from "node:crypto";
import { type BytePath, pathToBytes } from "../../lib/base/path.ts";
import { diffManifests } from "../../lib/version/diff.ts";
import type { Entry, VersionInfo } from "../../lib/version/entry.ts";
import { versionId } from "../../lib/version/history.ts";
import { Manifest } from "../../lib/version/manifest.ts";
import {
  encodeMetadata,
  encodeMetadataBody,
  encodeTrailerBody,
  hasPieces,
  metadataDigest,
  packageDigest,
  type PackageMetadata,
  topmostDeletes,
  type Upsert,
} from "../../lib/version/package.ts";
import { makePart, type Part } from "../../lib/version/part.ts";
import { encodeSegmentBody, type Piece, type RawSegment, SegmentEncoder } from "../../lib/version/segment.ts";
import { recordType } from "../../lib/tree/protocol.ts";
import { native } from "./scratch.ts";
import { message, type WireRecord } from "./peer.ts";

/** What a package is made from, and how it lies. */
export interface Craft {
  /** What the receiver has. */
  base: Manifest;
  from: string | null;
  /** What it should have. Where it cannot be said, give `upserts`. */
  after: Manifest | null;
  upserts?: Upsert[];
  deletes?: BytePath[];
  /** Content by path; whatever is missing is zeros. */
  content?: ReadonlyMap<string, string>;
  force?: boolean;
  /** Changes fields of the header. */
  header?: (metadata: PackageMetadata) => PackageMetadata;
  /** Changes the raw columns; the digest is made to fit. */
  columns?: (columns: Uint8Array<ArrayBuffer>) => Uint8Array<ArrayBuffer>;
  /** Replaces the columns' part. */
  part?: (columns: Uint8Array<ArrayBuffer>) => Part;
  /** Changes the segments before they are encoded. */
  segments?: (segments: RawSegment[], upserts: readonly Upsert[]) => RawSegment[];
  /** Replaces the parts of a segment. */
  literals?: (segment: RawSegment) => Part;
  trailer?: (body: Uint8Array<ArrayBuffer>) => Uint8Array<ArrayBuffer>;
}

/** The records of a package, from OFFER to TRAILER. */
export function craft(options: Craft): { records: WireRecord[]; to: string } {
  const { base, from, after } = options;
  const changes = after === null ? [] : diffManifests(base, after);
  const upserts = options.upserts ??
    changes.flatMap(({ after: entry }) => entry === null ? [] : [{ entry, bases: [], sameContent: false }]);
  const root = after?.root() ?? "11".repeat(32);
  const version: VersionInfo = {
    id: versionId(from, root),
    parent: from,
    root,
    time: 1_700_000_000_000,
    message: "crafted",
  };
  const segments = plan(upserts, options);
  const plain: PackageMetadata = {
    mode: from === null ? "full" : "delta",
    from,
    to: version.id,
    versions: [version],
    segmentCount: segments.length,
    treeEntries: after?.count ?? 1,
    treeBytes: after?.totals.bytes ?? 0,
    deletes: options.deletes ?? topmostDeletes(changes),
    upserts,
  };
  const metadata = options.header?.(plain) ?? plain;
  const chunks = encodeMetadata(metadata, base).map(({ columns, digests }) => ({
    columns: options.columns?.(columns) ?? columns,
    digests,
  }));
  const chunkDigests = chunks.map(metadataDigest);
  const bodies = segments.map((segment) =>
    encodeSegmentBody(segment, {
      ops: makePart(segment.ops, null),
      literals: options.literals?.(segment) ?? makePart(segment.literals, null),
    })
  );
  const trailer = encodeTrailerBody({
    segmentCount: segments.length,
    root,
    to: metadata.to,
    digest: packageDigest(chunkDigests, bodies.map(({ digest }) => digest)),
  });
  const records = [
    message(recordType.offer, { chunks: chunks.length, force: options.force ?? false }),
    ...chunks.map(({ columns, digests }, at) => ({
      type: recordType.metadata,
      body: encodeMetadataBody({
        columns: options.part?.(columns) ?? makePart(columns, null),
        digests,
        digest: chunkDigests[at] ?? new Uint8Array(32),
      }),
    })),
    ...bodies.map(({ body }) => ({ type: recordType.segment, body })),
    { type: recordType.trailer, body: options.trailer?.(trailer) ?? trailer },
  ];
  return { records, to: metadata.to };
}

function plan(upserts: readonly Upsert[], options: Craft): RawSegment[] {
  const encoder = new SegmentEncoder();
  const segments: RawSegment[] = [];
  upserts.forEach((upsert, at) => {
    if (!hasPieces(upsert) || upsert.entry.size > 1 << 20) return;
    const { path, size } = upsert.entry;
    const text = options.content?.get(path);
    const bytes = text === undefined ? new Uint8Array(size) : new TextEncoder().encode(text).slice(0, size);
    const whole: Piece = { upsert: at, offset: 0, length: size };
    encoder.add(whole, bytes.length === size ? bytes : new Uint8Array(size), null);
    segments.push(encoder.finish(segments.length));
  });
  return options.segments?.(segments, upserts) ?? segments;
}

/** A file entry with this content. */
export function fileEntry(path: string, content: string, fields: Partial<Entry> = {}): Entry {
  const bytes = new TextEncoder().encode(content);
  return {
    ...plainEntry(path, "file"),
    size: bytes.length,
    digest: new Uint8Array(createHash("sha256").update(bytes).digest()),
    ...fields,
  };
}

/** An entry of another kind. */
export function plainEntry(path: string, kind: Entry["kind"], fields: Partial<Entry> = {}): Entry {
  return {
    path: path as BytePath,
    kind,
    mode: kind === "symlink" ? 0o777 : kind === "link" ? 0 : kind === "directory" ? 0o755 : 0o644,
    uid: 0,
    gid: 0,
    mtimeSeconds: kind === "link" ? 0 : 1_600_000_000,
    mtimeNanos: 0,
    size: 0,
    digest: null,
    target: "" as BytePath,
    rdevMajor: 0,
    rdevMinor: 0,
    xattrs: [],
    ...fields,
  };
}

/** Upserts without bases. */
export function whole(...entries: Entry[]): Upsert[] {
  return entries.sort((a, b) => a.path < b.path ? -1 : 1).map((entry) => ({
    entry,
    bases: [],
    sameContent: false,
  }));
}

/** Puts other bytes in the place of bytes of the same length, which must stand there once. */
export function replaced(bytes: Uint8Array, from: string, to: string): Uint8Array<ArrayBuffer> {
  if (from.length !== to.length) throw new RangeError(`${from} and ${to} differ in length`);
  const result = bytes.slice() as Uint8Array<ArrayBuffer>;
  const wanted = pathToBytes(from as BytePath);
  const places: number[] = [];
  for (let at = 0; at + wanted.length <= bytes.length; at++) {
    if (wanted.every((byte, index) => bytes[at + index] === byte)) places.push(at);
  }
  if (places.length !== 1) throw new RangeError(`"${from}" stands there ${places.length} times`);
  result.set(pathToBytes(to as BytePath), places[0]);
  return result;
}

/** A zstd frame of zeros. */
export async function zerosFrame(size: number): Promise<Uint8Array<ArrayBuffer>> {
  return await native.zstd.compress(new Uint8Array(size), { level: 19 });
}

/** The manifest of a version with further entries. */
export function withEntries(base: Manifest, ...entries: Entry[]): Manifest {
  const paths = new Set(entries.map(({ path }) => path));
  return Manifest.build([...[...base.entries()].filter(({ path }) => !paths.has(path)), ...entries]);
}
