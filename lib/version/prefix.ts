/**
 * The reference prefix of a segment: which slices of files that the receiver has will help to compress
 * the segment's new files. New files resemble their neighbours in the old tree: licence texts, imports, idioms.
 * Figures are in PACKAGE.md, section 6.
 *
 * Both sides build the prefix from the slices in the segment's head (`joinPrefix`), so the choice made
 * here is not part of the format; it depends on metadata only, so that a segment packed again is the same.
 *
 * @module
 */
import { type BytePath, parentOf } from "../base/path.ts";
import { hasPieces, type Upsert } from "./package.ts";
import type { Manifest } from "./manifest.ts";
import { contentClassOf, extensionOf } from "./plan.ts";
import { type Piece, prefixCountMax, prefixSizeMax, type PrefixSlice } from "./segment.ts";

/** The most bytes taken from the start of one file. */
const sliceSizeMax = 65_536;
/** Neighbours that are looked at per new file: nearest names before and after. */
const neighbourCount = 4;
/** A prefix larger than this multiple of the new content costs more time than it saves. */
const prefixShare = 4;
/** Files below this size teach nothing. */
const sliceSizeMin = 64;

interface Neighbour {
  path: BytePath;
  /** Position in the base's manifest. */
  index: number;
  /** In octets; -1 until somebody asks. */
  size: number;
}

/** The files of a base by directory and extension. Made once per package; one item per file that may help. */
export class PrefixChooser {
  readonly #base: Manifest;
  /** Directory and extension to files in order of path. */
  readonly #groups = new Map<string, Neighbour[]>();
  /** Extension to files in order of path, for directories that are new. */
  readonly #extensions = new Map<string, Neighbour[]>();

  /**
   * Looks once through the paths of the base.
   *
   * @param base the manifest of `from`. @param upserts the package's; only extensions of its new files are kept.
   */
  constructor(base: Manifest, upserts: readonly Upsert[]) {
    this.#base = base;
    const wanted = new Set<string>();
    for (const upsert of upserts) if (mayGain(upsert)) wanted.add(extensionOf(upsert.entry.path));
    if (wanted.size === 0) return;
    for (let index = 0; index < base.count; index++) {
      if (base.kindAt(index) !== "file") continue;
      const path = base.pathAt(index);
      const extension = extensionOf(path);
      if (!wanted.has(extension)) continue;
      const neighbour = { path, index, size: -1 };
      append(this.#groups, groupKey(path), neighbour);
      append(this.#extensions, extension, neighbour);
    }
  }

  /** The slices for a segment; none where they would not help. */
  choose(pieces: readonly Piece[], upserts: readonly Upsert[]): PrefixSlice[] {
    let content = 0;
    const lists: Neighbour[][] = [];
    for (const { upsert: number, length } of pieces) {
      const upsert = upserts[number];
      if (upsert === undefined || !mayGain(upsert) || length !== upsert.entry.size) continue;
      content += length;
      lists.push(this.#near(upsert.entry.path));
    }
    const sizeMax = Math.min(prefixSizeMax, content * prefixShare);
    const chosen = new Map<BytePath, PrefixSlice>();
    let size = 0;
    for (let rank = 0; rank < neighbourCount; rank++) {
      for (const list of lists) {
        const neighbour = list[rank];
        if (neighbour === undefined || chosen.has(neighbour.path)) continue;
        if (neighbour.size < 0) neighbour.size = this.#base.at(neighbour.index).size;
        const length = Math.min(neighbour.size, sliceSizeMax);
        if (length < sliceSizeMin || size + length > sizeMax || chosen.size === prefixCountMax) continue;
        chosen.set(neighbour.path, { path: neighbour.path, offset: 0, length });
        size += length;
      }
    }
    return [...chosen.values()].sort((left, right) => left.path < right.path ? -1 : 1);
  }

  #near(path: BytePath): Neighbour[] {
    const files = this.#groups.get(groupKey(path)) ?? this.#extensions.get(extensionOf(path)) ?? [];
    let low = 0;
    let high = files.length;
    while (low < high) {
      const middle = low + high >>> 1;
      if ((files[middle] as Neighbour).path < path) low = middle + 1;
      else high = middle;
    }
    // The file itself, where it is in the base, is what a whole file without a delta compresses best against.
    return [low - 1, low, low + 1, low - 2].flatMap((at) => files[at] ?? []);
  }
}

/**
 * Builds a prefix from its slices.
 *
 * @param read fills `into`, which is as long as the slice, from a file of `from`; throws where it has not so many.
 */
export function joinPrefix(
  slices: readonly PrefixSlice[],
  read: (slice: PrefixSlice, into: Uint8Array<ArrayBuffer>) => void,
): Uint8Array<ArrayBuffer> {
  let size = 0;
  for (const slice of slices) size += slice.length;
  const prefix = new Uint8Array(size);
  let at = 0;
  for (const slice of slices) {
    read(slice, prefix.subarray(at, at + slice.length));
    at += slice.length;
  }
  return prefix;
}

/** Whether a neighbour can help: whole new content of a kind that compresses. */
function mayGain(upsert: Upsert): boolean {
  return hasPieces(upsert) && upsert.bases.length === 0 && contentClassOf(upsert.entry.path) !== "compressed";
}

function groupKey(path: BytePath): string {
  return `${parentOf(path)}\0${extensionOf(path)}`;
}

function append<T>(map: Map<string, T[]>, key: string, value: T): void {
  const list = map.get(key);
  if (list === undefined) map.set(key, [value]);
  else list.push(value);
}
