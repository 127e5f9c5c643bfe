/**
 * Packages for tests: metadata from two trees, segments from contents, and a receiver in memory.
 *
 * @module
 */
import type { BytePath } from "../../lib/base/path.ts";
import { DeltaEncoder, opCopy, opHole, OpList, opLiteral } from "../../lib/version/delta.ts";
import { diffManifests } from "../../lib/version/diff.ts";
import type { VersionInfo } from "../../lib/version/entry.ts";
import { versionId } from "../../lib/version/history.ts";
import type { Manifest } from "../../lib/version/manifest.ts";
import { hasPieces, type PackageMetadata, topmostDeletes, type Upsert } from "../../lib/version/package.ts";
import {
  type Piece,
  type RawSegment,
  SegmentEncoder,
  type SegmentHandler,
} from "../../lib/version/segment.ts";
import { BaseChooser } from "../../lib/version/similar.ts";

/** Metadata that leads from one manifest to the other; `before` null or empty for a full package. */
export function metadataOf(before: Manifest, after: Manifest, versions?: VersionInfo[]): PackageMetadata {
  const changes = diffManifests(before, after);
  const chooser = new BaseChooser(before, changes);
  const upserts: Upsert[] = [];
  for (const { after: entry } of changes) {
    if (entry === null) continue;
    const { bases, sameContent } = chooser.choose(entry);
    upserts.push({ entry, bases, sameContent });
  }
  const isFull = before.count === 0;
  const from = isFull ? null : versionId(null, before.root());
  const root = after.root();
  const chain = versions ??
    [{ id: versionId(from, root), parent: from, root, time: 1_700_000_000_000, message: "ä" }];
  return {
    mode: isFull ? "full" : "delta",
    from,
    to: chain.at(-1)?.id ?? versionId(from, root),
    versions: chain,
    segmentCount: 1,
    treeEntries: after.count,
    treeBytes: after.totals.bytes,
    deletes: topmostDeletes(changes),
    upserts,
  };
}

/** What ops make of the bases and the target's literals; throws where they leave them. */
export function replayOps(
  ops: OpList,
  target: Uint8Array,
  bases: readonly Uint8Array[],
): Uint8Array<ArrayBuffer> {
  const result = new Uint8Array(target.length);
  let at = 0;
  for (let op = 0; op < ops.count; op++) {
    const length = ops.lengths[op] ?? 0;
    const offset = ops.offsets[op] ?? 0;
    switch (ops.kinds[op]) {
      case opLiteral:
        result.set(target.subarray(at, at + length), at);
        break;
      case opCopy: {
        const base = bases[ops.bases[op] ?? 0];
        if (base === undefined || offset + length > base.length) {
          throw new Error(`copy ${offset}+${length} beyond base`);
        }
        result.set(base.subarray(offset, offset + length), at);
        break;
      }
      case opHole:
        break;
    }
    at += length;
  }
  if (at !== target.length) throw new Error(`ops cover ${at} of ${target.length}`);
  return result;
}

/** A segment of whole contents, each against its bases. */
export function segmentOf(
  index: number,
  pieces: readonly Piece[],
  upserts: readonly Upsert[],
  contents: { before: ReadonlyMap<BytePath, Uint8Array>; after: ReadonlyMap<BytePath, Uint8Array> },
): RawSegment {
  const delta = new DeltaEncoder();
  const encoder = new SegmentEncoder();
  const ops = new OpList();
  for (const piece of pieces) {
    const upsert = upserts[piece.upsert];
    const content = upsert && contents.after.get(upsert.entry.path);
    if (upsert === undefined || content === undefined) throw new Error(`no content for ${piece.upsert}`);
    const target = content.subarray(piece.offset, piece.offset + piece.length);
    const bases = upsert.bases.map((path) => contents.before.get(path) ?? new Uint8Array(0));
    delta.encode({ target, bases, expected: piece.offset }, ops);
    encoder.add(piece, target, bases.length === 0 ? null : ops);
  }
  return encoder.finish(index);
}

/** Keeps what segments make, by upsert. */
export class MemoryHandler implements SegmentHandler {
  readonly results = new Map<number, Uint8Array>();
  readonly #upserts: readonly Upsert[];
  readonly #before: ReadonlyMap<BytePath, Uint8Array>;

  constructor(upserts: readonly Upsert[], before: ReadonlyMap<BytePath, Uint8Array>) {
    this.#upserts = upserts;
    this.#before = before;
  }

  /** Bytes of a base, or null. */
  baseSize = (upsert: number, base: number): number | null => this.#base(upsert, base)?.length ?? null;

  begin(piece: Piece): void {
    const upsert = this.#upserts[piece.upsert];
    if (upsert === undefined || !hasPieces(upsert)) throw new Error("a piece of nothing");
    if (!this.results.has(piece.upsert)) {
      this.results.set(piece.upsert, new Uint8Array(upsert.entry.size).fill(0xee));
    }
  }

  copy(piece: Piece, copy: { at: number; base: number; offset: number; length: number }): void {
    const base = this.#base(piece.upsert, copy.base);
    if (base === undefined) throw new Error("no base");
    const bytes = base.subarray(copy.offset, copy.offset + copy.length);
    if (bytes.length !== copy.length) throw new Error("copy beyond base");
    this.#put(piece, copy.at, bytes);
  }

  literal(piece: Piece, at: number, bytes: Uint8Array): void {
    this.#put(piece, at, bytes);
  }

  hole(piece: Piece, at: number, length: number): void {
    this.#put(piece, at, new Uint8Array(length));
  }

  end(_piece: Piece): void {}

  #put(piece: Piece, at: number, bytes: Uint8Array): void {
    if (at + bytes.length > piece.length) throw new Error("beyond the piece");
    this.results.get(piece.upsert)?.set(bytes, piece.offset + at);
  }

  #base(upsert: number, base: number): Uint8Array | undefined {
    const path = this.#upserts[upsert]?.bases[base];
    return path === undefined ? undefined : this.#before.get(path);
  }
}
