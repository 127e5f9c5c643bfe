/**
 * Turns segments back into files: a piece is put together in memory from copies, literals and holes, hashed if it is a
 * whole file, and handed to a sink.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { bytesEqual, toHex } from "../base/hex.ts";
import type { Entry } from "../version/entry.ts";
import type { Manifest } from "../version/manifest.ts";
import type { Upsert } from "../version/package.ts";
import { decodeSegment, type Piece, pieceSizeMax, type RawSegment } from "../version/segment.ts";
import { shortBase, wrongContent } from "./content_faults.ts";
import type { Sink } from "./sinks.ts";
import type { Tree } from "./tree.ts";

/** Bases of at most this size are read whole, once per run of pieces. */
const wholeBaseMax = 4 << 20;

/** Replays segments into a sink: a piece is put together in memory, hashed if it is a whole file, and written. */
export class Replay {
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
  /** What the last call was about: the copies of a piece come one after the other, mostly from one base. */
  #last: { upsert: number; base: number; entry: Entry | null; key: string } | null = null;

  constructor(tree: Tree, upserts: readonly Upsert[], before: Manifest) {
    this.#tree = tree;
    this.#upserts = upserts;
    this.#before = before;
  }

  size(upsert: number, base: number): number | null {
    return this.#find(upsert, base).entry?.size ?? null;
  }

  #find(upsert: number, base: number): { entry: Entry | null; key: string } {
    const last = this.#last;
    if (last !== null && last.upsert === upsert && last.base === base) return last;
    const path = this.#upserts[upsert]?.bases[base];
    const found = path === undefined ? null : this.#before.get(path);
    const entry = found?.kind === "file" ? found : null;
    const key = entry === null || entry.digest === null ? "" : toHex(entry.digest);
    this.#last = { upsert, base, entry, key };
    return this.#last;
  }

  read(upsert: number, base: number, offset: number, into: Uint8Array): void {
    const { entry, key } = this.#find(upsert, base);
    if (entry === null || entry.digest === null) {
      throw new RangeError(`Cannot read base ${base} of upsert ${upsert}`);
    }
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
