/**
 * What to take a delta against: the old file of the same path; else a file of the old tree with the very same content
 * (then there is nothing to send); else a file of the same name that went or changed elsewhere; else one
 * that looks alike by eight min-hash samples of its content.
 *
 * Bases are files of `from` only, never files that the package itself makes: segments stand alone.
 * Everything here is a hint; a bad base costs bytes, never correctness.
 *
 * @module
 */
import { bytesEqual } from "../base/hex.ts";
import { type BytePath, nameOf } from "../base/path.ts";
import type { Change, Entry } from "./entry.ts";
import { digestSize } from "./entry_codec.ts";
import type { Manifest } from "./manifest.ts";

/** Samples per sketch. */
export const sketchSize = 8;
/** Contents shorter than this have no meaningful sketch. */
export const sketchBytesMin = 512;
/** The most files a `SketchIndex` keeps. */
export const sketchCountMax = 4096;

const noSample = 0xffff_ffff;
/** Files that share one sample beyond this many are boilerplate and tell nothing. */
const sampleFilesMax = 16;
/** Samples in common that make two contents similar. */
const sharedMin = 2;
/** Files of one name that are kept. */
const nameFilesMax = 8;

/**
 * Eight samples of a content: per eighth of the hash space the smallest hash of any 32 bytes. Two contents have about
 * as many samples in common, of eight, as they share of their 32-byte windows. For up to some MiB give all of it; for larger
 * files some MiB from the same place are enough.
 */
export function sketch(bytes: Uint8Array): Uint32Array<ArrayBuffer> {
  const samples = new Uint32Array(sketchSize).fill(noSample);
  if (bytes.length < sketchBytesMin) return samples;
  let hash = 0;
  for (let at = 0; at < 31; at++) hash = (hash << 1) + (table[bytes[at] as number] as number) | 0;
  for (let at = 31; at < bytes.length; at++) {
    hash = (hash << 1) + (table[bytes[at] as number] as number) | 0;
    // The high bits depend on all 32 bytes: three choose the sample, the others are its value.
    const slot = hash >>> 29;
    const value = hash & 0x1fff_ffff;
    if (value < (samples[slot] as number)) samples[slot] = value;
  }
  return samples;
}

/** Files by their samples; bounded, further ones are ignored. */
export class SketchIndex {
  readonly #countMax: number;
  readonly #paths: BytePath[] = [];
  readonly #bySample = new Map<number, number[]>();

  /**
   * An empty index.
   *
   * @param countMax the most files to keep.
   */
  constructor(countMax: number = sketchCountMax) {
    this.#countMax = countMax;
  }

  /** Number of files. */
  get size(): number {
    return this.#paths.length;
  }

  /** Adds a file of the old tree; false when the index is full. */
  add(path: BytePath, samples: Uint32Array): boolean {
    if (this.#paths.length >= this.#countMax) return false;
    const id = this.#paths.push(path) - 1;
    samples.forEach((value, slot) => {
      if (value === noSample) return;
      const key = slot * 2 ** 29 + value;
      const files = this.#bySample.get(key);
      if (files === undefined) this.#bySample.set(key, [id]);
      else if (files.length < sampleFilesMax) files.push(id);
    });
    return true;
  }

  /** The files that share most samples, at least two, the likeliest first. */
  find(samples: Uint32Array, countMax = 2): BytePath[] {
    const shared = new Map<number, number>();
    samples.forEach((value, slot) => {
      if (value === noSample) return;
      for (const id of this.#bySample.get(slot * 2 ** 29 + value) ?? []) {
        shared.set(id, (shared.get(id) ?? 0) + 1);
      }
    });
    return [...shared].filter(([, count]) => count >= sharedMin)
      .sort((left, right) => right[1] - left[1] || left[0] - right[0])
      .slice(0, countMax).map(([id]) => this.#paths[id] as BytePath);
  }
}

/** What was found for an entry. */
export interface BaseChoice {
  /** For the upsert, the likeliest first. */
  bases: BytePath[];
  /** The first base has the very same content. */
  sameContent: boolean;
  /** How it was found. */
  reason: "metadata" | "content" | "path" | "origin" | "name" | "none";
}

/** Chooses bases from metadata alone. Made once per package; its size is that of the change list. */
export class BaseChooser {
  readonly #base: Manifest;
  /** New contents by the first bytes of their digest; `found` once the base has the content somewhere. */
  readonly #wanted = new Map<number, Wanted[]>();
  /** Files that went or changed, by name. */
  readonly #byName = new Map<BytePath, Entry[]>();

  /**
   * Looks once through the base for contents of the change list.
   *
   * @param changes without `collapse`.
   */
  constructor(base: Manifest, changes: readonly Change[]) {
    this.#base = base;
    const candidates: Entry[] = [];
    for (const { before, after } of changes) {
      if (before?.kind === "file" && before.size > 0 && !sameContent(before, after)) candidates.push(before);
      if (after?.kind === "file" && after.size > 0 && after.digest !== null && !sameContent(after, before)) {
        this.#want(after.path, after.digest);
      }
    }
    if (this.#wanted.size > 0) this.#findContents();
    for (const entry of candidates) {
      const name = nameOf(entry.path);
      const files = this.#byName.get(name);
      if (files === undefined) this.#byName.set(name, [entry]);
      else if (files.length < nameFilesMax) files.push(entry);
    }
  }

  /**
   * The bases of one upsert.
   *
   * @param after the new entry. @param origin where capture saw it come from, if it did.
   */
  choose(after: Entry, origin: BytePath | null = null): BaseChoice {
    if (after.kind === "link") return { bases: [], sameContent: false, reason: "none" };
    const own = this.#entry(after.path);
    if (after.kind !== "file" || after.size === 0) {
      const from = own ?? (origin === null ? null : this.#entry(origin));
      return from === null
        ? { bases: [], sameContent: false, reason: "none" }
        : { bases: [from.path], sameContent: false, reason: "metadata" };
    }
    if (sameContent(after, own)) return { bases: [after.path], sameContent: true, reason: "content" };
    const from = origin === null ? null : this.#entry(origin);
    if (origin !== null && sameContent(after, from)) {
      return { bases: [origin], sameContent: true, reason: "content" };
    }
    const equal = after.digest === null ? null : this.#wantedOf(after.digest)?.found ?? null;
    if (equal !== null) return { bases: [equal], sameContent: true, reason: "content" };
    const bases: BytePath[] = [];
    if (own?.kind === "file" && own.size > 0) bases.push(own.path);
    if (from?.kind === "file" && from.size > 0 && from.path !== after.path) bases.push(from.path);
    if (bases.length > 0) {
      return { bases, sameContent: false, reason: bases[0] === after.path ? "path" : "origin" };
    }
    const named = this.#byName.get(nameOf(after.path)) ?? [];
    if (named.length === 0) return { bases: [], sameContent: false, reason: "none" };
    const nearest = [...named].sort((left, right) =>
      Math.abs(left.size - after.size) - Math.abs(right.size - after.size) ||
      (left.path < right.path ? -1 : 1)
    );
    return { bases: nearest.slice(0, 2).map(({ path }) => path), sameContent: false, reason: "name" };
  }

  #entry(path: BytePath): Entry | null {
    const entry = this.#base.get(path);
    return entry === null || entry.kind === "link" ? null : entry;
  }

  #want(path: BytePath, digest: Uint8Array<ArrayBuffer>): void {
    const known = this.#wantedOf(digest);
    if (known !== undefined) {
      known.names.add(nameOf(path));
      return;
    }
    const item: Wanted = { digest, names: new Set([nameOf(path)]), found: null };
    const key = digestKey(digest, 0);
    const items = this.#wanted.get(key);
    if (items === undefined) this.#wanted.set(key, [item]);
    else items.push(item);
  }

  #wantedOf(digest: Uint8Array): Wanted | undefined {
    return this.#wanted.get(digestKey(digest, 0))?.find((item) => bytesEqual(item.digest, digest));
  }

  #findContents(): void {
    const base = this.#base;
    for (let index = 0; index < base.count; index++) {
      if (base.kindAt(index) !== "file") continue;
      // The digest is what a file's encoding ends with; only the few that may be wanted are decoded.
      const bytes = base.entryBytes(index);
      if (bytes.length < digestSize || !this.#wanted.has(digestKey(bytes, bytes.length - digestSize))) {
        continue;
      }
      const { path, size, digest } = base.at(index);
      const item = size === 0 || digest === null ? undefined : this.#wantedOf(digest);
      if (item === undefined) continue;
      // The first in order, unless a later one has the name of a file that wants it.
      const isBetter = item.found === null ||
        item.names.has(nameOf(path)) && !item.names.has(nameOf(item.found));
      if (isBetter) item.found = path;
    }
  }
}

interface Wanted {
  digest: Uint8Array<ArrayBuffer>;
  names: Set<BytePath>;
  found: BytePath | null;
}

/** 48 bits of a digest as a number. */
function digestKey(bytes: Uint8Array, at: number): number {
  let key = 0;
  for (let index = at; index < at + 6; index++) key = key * 256 + (bytes[index] as number);
  return key;
}

function sameContent(left: Entry, right: Entry | null): boolean {
  if (right === null || left.kind !== "file" || right.kind !== "file" || left.size !== right.size) {
    return false;
  }
  if (left.digest === null || right.digest === null) return false;
  return bytesEqual(left.digest, right.digest);
}

/** Random numbers per byte value; both sketches of a comparison are made here, so it is no part of a format. */
const table: Int32Array<ArrayBuffer> = sampleTable();

function sampleTable(): Int32Array<ArrayBuffer> {
  const numbers = new Int32Array(256);
  let state = 0x2545f491;
  for (let at = 0; at < 256; at++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    numbers[at] = Math.imul(state, 0x9e3779b1);
  }
  return numbers;
}
