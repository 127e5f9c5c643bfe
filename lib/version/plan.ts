/**
 * Which pieces go into which segment: a pure function of the metadata, so that a sender that starts again
 * arrives at the same segments, and segments can be packed by several workers.
 *
 * Invariants: the pieces cover every content upsert exactly once, in segments within the bounds of the format;
 * equal upserts give equal plans. Within each run files go by class (text, unknown, binary, compressed), extension,
 * directory and name, so that what resembles each other shares a zstd window.
 *
 * The order of the runs keeps sender, wire and receiver busy at the same time: first new files that do not compress, which
 * the wire carries while the others are being compressed; then new files that do; last the modified ones, which are
 * little on the wire.
 *
 * @module
 */
import { type BytePath, nameOf, parentOf } from "../base/path.ts";
import { hasPieces, type Upsert } from "./package.ts";
import { type Piece, pieceCountMax, pieceSizeMax, segmentSizeMax } from "./segment.ts";

/** How big segments are. */
export interface PlanOptions {
  /** Cost per segment: bytes of new content, modified content counts an eighth. Default 8 MiB. */
  costMax?: number;
  /** Sum of the piece lengths per segment, at most the format's 64 MiB, which is the default. */
  sizeMax?: number;
  /** Longest piece, at most the format's 16 MiB, which is the default. */
  pieceMax?: number;
}

/** Cost of a piece beside its bytes: opening, creating and naming a file. */
const pieceCost = 512;
const modifiedShare = 8;

/** How well content compresses, by file name. */
export type ContentClass = "text" | "unknown" | "binary" | "compressed";

const classOrder: Readonly<Record<ContentClass, number>> = { text: 0, unknown: 1, binary: 2, compressed: 3 };

const classes: ReadonlyMap<string, ContentClass> = new Map([
  ...words(
    "c h cc cpp cxx hh hpp m s asm rs go py rb pl pm lua js mjs cjs ts tsx jsx java kt scala cs swift php sh bash zsh " +
      "awk sql html htm css scss xml svg json yaml yml toml ini conf cfg md rst txt tex log csv tsv diff patch in " +
      "am ac m4 cmake mk map d po dtd xsd proto vue",
    "text",
  ),
  ...words(
    "o a so ko obj dll exe bin dat db sqlite pyc class elc wasm ttf otf bmp wav tar img iso qcow2",
    "binary",
  ),
  ...words(
    "gz tgz bz2 xz zst lz4 lzma zip 7z rar jar whl apk deb rpm png jpg jpeg gif webp avif heic mp3 ogg opus flac m4a " +
      "mp4 mkv webm avi mov woff woff2 pdf docx xlsx pptx odt crx br",
    "compressed",
  ),
]);

/** The part after the last dot of a name in lower case, or nothing; a leading dot begins no extension. */
export function extensionOf(path: BytePath): string {
  const name = nameOf(path);
  const dot = name.lastIndexOf(".");
  return dot <= 0 || name.length - dot > 9 ? "" : name.slice(dot + 1).toLowerCase();
}

/** The class of a file by its name. */
export function contentClassOf(path: BytePath): ContentClass {
  return classes.get(extensionOf(path)) ?? "unknown";
}

/** The pieces of each segment. No segments if no upsert has content of its own. */
export function planSegments(upserts: readonly Upsert[], options: PlanOptions = {}): Piece[][] {
  const costMax = options.costMax ?? 8 * 1024 * 1024;
  const sizeMax = Math.min(options.sizeMax ?? segmentSizeMax, segmentSizeMax);
  const pieceMax = Math.min(options.pieceMax ?? pieceSizeMax, pieceSizeMax, sizeMax);
  const segments: Piece[][] = [];
  let pieces: Piece[] = [];
  let cost = 0;
  let size = 0;
  for (const { upsert, modified } of inOrder(upserts)) {
    const total = (upserts[upsert] as Upsert).entry.size;
    for (let offset = 0; offset < total; offset += pieceMax) {
      const length = Math.min(pieceMax, total - offset);
      const own = pieceCost + (modified ? length / modifiedShare : length);
      if (
        pieces.length > 0 &&
        (cost + own > costMax || size + length > sizeMax || pieces.length === pieceCountMax)
      ) {
        segments.push(pieces);
        pieces = [];
        cost = 0;
        size = 0;
      }
      pieces.push({ upsert, offset, length });
      cost += own;
      size += length;
    }
  }
  if (pieces.length > 0) segments.push(pieces);
  return segments;
}

interface Ordered {
  upsert: number;
  modified: boolean;
  order: number;
  extension: string;
  directory: BytePath;
}

function inOrder(upserts: readonly Upsert[]): Ordered[] {
  const ordered: Ordered[] = [];
  upserts.forEach((upsert, index) => {
    if (!hasPieces(upsert)) return;
    const { path } = upsert.entry;
    const modified = upsert.bases.length > 0;
    ordered.push({
      upsert: index,
      modified,
      order: orderOf(contentClassOf(path), modified),
      extension: extensionOf(path),
      directory: parentOf(path),
    });
  });
  // Upserts ascend by path, so within a directory their numbers are in the order of names.
  return ordered.sort((left, right) =>
    left.order - right.order || compare(left.extension, right.extension) ||
    compare(left.directory, right.directory) || left.upsert - right.upsert
  );
}

function orderOf(kind: ContentClass, modified: boolean): number {
  if (modified) return 4 + classOrder[kind];
  return kind === "compressed" ? 0 : 1 + classOrder[kind];
}

function compare(left: string, right: string): number {
  return left < right ? -1 : left > right ? 1 : 0;
}

function words(list: string, value: ContentClass): [string, ContentClass][] {
  return list.split(" ").map((word) => [word, value]);
}
