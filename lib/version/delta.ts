/**
 * Copy and literal deltas: a target expressed as ranges of up to four bases plus what is new.
 *
 * Method. Every 16th position of the bases (every 32nd beyond 8 MiB together, every 64th beyond 64 MiB) enters a hash table by a
 * gear hash of the 32 bytes that start there; the hash shifts old bytes out by itself, so rolling it over the
 * target is one addition per byte. A hit is verified and extended backward and forward. Beside the table the
 * scan compares with the *expected place* (where the last copy ended, moved on by what was new since): an overwritten
 * line or page resumes in place even if its content stands in many other places too.
 *
 * `DeltaEncoder` has base and target in memory. `LargeDelta` looks at a base of any size through a
 * `BaseReader`, one target piece at a time, in bounded memory: a local window around the expected place, and for
 * what is not found there a sparse index of the whole base (at most 2^21 positions).
 *
 * Invariants: the ops of a target cover it exactly, in order; copies are at least 16 bytes long; no literal follows
 * a literal and no hole a hole; the result depends on the arguments only, up to the drift that `LargeDelta`
 * remembers (which moves matches, never correctness). Tables are reused across calls: nothing is allocated per
 * small file but the ops, and those in place.
 *
 * @module
 */

/** What an op does. */
export const opLiteral = 0;
/** Copy `length` bytes from `offset` of base `base`. */
export const opCopy = 1;
/** `length` bytes that read as zeros and are not allocated. */
export const opHole = 2;

/** The shortest copy that an encoder may make and a decoder accepts (unless it ends a piece). */
export const copySizeMin = 16;
/** The shortest hole that an encoder may make and a decoder accepts (unless it ends a piece). */
export const holeSizeMin = 512;
/** The largest base or target of `DeltaEncoder`. */
export const deltaSizeMax: number = 64 * 1024 * 1024;

const windowSize = 32;
/** Distance of the indexed positions, by the size of all bases together. */
const denseStep = 16;
const mediumStep = 32;
const mediumFrom: number = 8 * 1024 * 1024;
const sparseStep = 64;
const tableBitsMin = 8;
const tableBitsMax = 22;
/**
 * A slot of the table is 0 or `tag << 24 | n + 1`: `n * 16` is the position, the tag is the low byte of its hash
 * (the slot's index is the high bits), so that a false hit seldom costs a look at the base.
 */
const slotMask = 0xff_ffff;
/** After so many bytes without a match only every fourth stretch is scanned; extension backward makes up for it. */
const boredAfter = 1 << 20;
const boredScan = 4096;
const boredSkip = 12_288;
/** After so many more it is one stretch in sixteen. */
const veryBoredAfter = 1 << 22;
const veryBoredSkip = 61_440;
/** Where copies make up less than a tenth, those below this length are dropped. */
const scatteredCopyMax = 512;

/** A data extent of a sparse target: everything between extents is a hole. */
export interface Extent {
  offset: number;
  length: number;
}

/** The ops of one target, in parallel arrays that are reused. */
export class OpList {
  /** Number of ops. */
  count = 0;
  kinds: Uint8Array<ArrayBuffer> = new Uint8Array(64);
  bases: Uint8Array<ArrayBuffer> = new Uint8Array(64);
  offsets: Float64Array<ArrayBuffer> = new Float64Array(64);
  lengths: Float64Array<ArrayBuffer> = new Float64Array(64);

  /** Forgets all ops. */
  clear(): void {
    this.count = 0;
  }

  /** Appends an op, joining it with the last one where they continue each other; nothing for length 0. */
  push(kind: number, base: number, offset: number, length: number): void {
    if (length === 0) return;
    const last = this.count - 1;
    if (last >= 0 && this.kinds[last] === kind) {
      const lastLength = this.lengths[last] as number;
      if (
        kind !== opCopy || this.bases[last] === base && (this.offsets[last] as number) + lastLength === offset
      ) {
        this.lengths[last] = lastLength + length;
        return;
      }
    }
    if (this.count === this.kinds.length) this.#grow();
    const at = this.count++;
    this.kinds[at] = kind;
    this.bases[at] = base;
    this.offsets[at] = offset;
    this.lengths[at] = length;
  }

  /** Sum of the lengths of one kind of op. */
  total(kind: number): number {
    let sum = 0;
    for (let at = 0; at < this.count; at++) if (this.kinds[at] === kind) sum += this.lengths[at] as number;
    return sum;
  }

  #grow(): void {
    const size = this.kinds.length * 2;
    const kinds = new Uint8Array(size);
    kinds.set(this.kinds);
    this.kinds = kinds;
    const bases = new Uint8Array(size);
    bases.set(this.bases);
    this.bases = bases;
    const offsets = new Float64Array(size);
    offsets.set(this.offsets);
    this.offsets = offsets;
    const lengths = new Float64Array(size);
    lengths.set(this.lengths);
    this.lengths = lengths;
  }
}

/** What a delta needs. */
export interface DeltaInput {
  /** The content, or the piece of it. */
  target: Uint8Array;
  /** Up to 4 bases, the likeliest first. */
  bases: readonly Uint8Array[];
  /** Where in base 0 the target's first byte is expected: the piece's offset in its file. Default 0. */
  expected?: number;
  /**
   * The target's data extents, ascending, relative to its start; what lies between is holes. Default: all data.
   */
  extents?: readonly Extent[];
}

/** Deltas between contents in memory. One per thread; holds up to 32 MiB of tables once big files came by. */
export class DeltaEncoder {
  #table: Int32Array<ArrayBuffer> = new Int32Array(1 << tableBitsMin);
  #shift = 32;
  /** What the table indexes now, or empty. */
  #indexed: readonly Uint8Array[] = [];
  #starts: number[] = [];
  // State of the call in progress.
  #expectedBase = 0;
  #expectedPlace = 0;

  /**
   * Replaces the content of `ops` with the ops of the target.
   *
   * The index of the bases is kept until the next call with other arrays, so the pieces of one file cost
   * one index; the caller must not change the arrays meanwhile (`forget` drops it).
   *
   * @throws {RangeError} for more than 4 bases, or contents above `deltaSizeMax`.
   */
  encode(input: DeltaInput, ops: OpList): void {
    const { target, bases } = input;
    if (bases.length > 4) {
      throw new RangeError(`Cannot take a delta against ${bases.length} bases: at most 4`);
    }
    for (const bytes of [target, ...bases]) {
      if (bytes.length > deltaSizeMax) {
        throw new RangeError(`Cannot take a delta of ${bytes.length} bytes: at most ${deltaSizeMax}`);
      }
    }
    ops.clear();
    this.#expectedBase = 0;
    this.#expectedPlace = input.expected ?? 0;
    forEachExtent(target.length, input.extents, (offset, length, isData) => {
      if (!isData) {
        ops.push(opHole, 0, 0, length);
        this.#expectedPlace += length;
      } else this.#region(target, bases, offset, offset + length, ops);
    });
    collapse(ops);
  }

  /** Drops the index and the references to the last bases. */
  forget(): void {
    this.#indexed = [];
  }

  #region(target: Uint8Array, bases: readonly Uint8Array[], from: number, to: number, ops: OpList): void {
    let at = from;
    let indexed = false;
    while (at < to) {
      // Invariant: everything before `at` has its op. First what continues at the expected place …
      const base = bases[this.#expectedBase];
      const place = this.#expectedPlace;
      if (base !== undefined && place < base.length) {
        const same = sameForward(target, at, base, place, Math.min(to - at, base.length - place));
        if (same >= copySizeMin) {
          ops.push(opCopy, this.#expectedBase, place, same);
          this.#expectedPlace += same;
          at += same;
          if (at === to) return;
        }
      }
      if (base === undefined || to - at < windowSize) break;
      // … then the common end, which saves most appends and single edits the index.
      if (!indexed) {
        const tail = this.#commonTail(target, base, at, to);
        if (tail >= copySizeMin && (to - at - tail) < windowSize) {
          ops.push(opLiteral, 0, 0, to - at - tail);
          ops.push(opCopy, this.#expectedBase, base.length - tail, tail);
          this.#expectedPlace = base.length;
          return;
        }
        this.#index(bases);
        indexed = true;
      }
      at = this.#scan(target, bases, at, to, ops);
    }
    if (at < to) {
      ops.push(opLiteral, 0, 0, to - at);
      this.#expectedPlace += to - at;
    }
  }

  /** Length of what target (up to `to`) and base have in common at their ends, not reaching behind the expected place. */
  #commonTail(target: Uint8Array, base: Uint8Array, at: number, to: number): number {
    const max = Math.min(to - at, base.length - Math.max(0, Math.min(this.#expectedPlace, base.length)));
    return sameBackward(target, to, base, base.length, max);
  }

  /**
   * Looks for the next match at or after `at`, emits the literal before it and the copy, and returns where it
   * ends; with no match emits all as literal and returns `to`.
   */
  #scan(
    target: Uint8Array,
    bases: readonly Uint8Array[],
    at: number,
    to: number,
    ops: OpList,
  ): number {
    const table = this.#table;
    const shift = this.#shift;
    const expected = bases[this.#expectedBase] as Uint8Array;
    const drift = this.#expectedPlace - at;
    const inPlaceEnd = Math.min(to, expected.length - drift);
    let hash = 0;
    let run = 0;
    let boredAt = at + boredAfter;
    let i = at;
    while (i < to) {
      const warmEnd = Math.min(to, i + windowSize - 1);
      for (; i < warmEnd; i++) {
        const byte = target[i] as number;
        hash = (hash << 1) + (gear[byte] as number) | 0;
        run = i < inPlaceEnd && byte === expected[i + drift] ? run + 1 : 0;
      }
      const scanEnd = Math.min(to, boredAt);
      for (; i < scanEnd; i++) {
        const byte = target[i] as number;
        hash = (hash << 1) + (gear[byte] as number) | 0;
        if (i < inPlaceEnd && byte === expected[i + drift]) {
          if (++run >= windowSize) {
            const start = i + 1 - run;
            return this.#emit(target, bases, at, start, to, this.#expectedBase, start + drift, ops);
          }
        } else run = 0;
        const candidate = table[hash >>> shift] as number;
        if (candidate !== 0 && (candidate >>> 24) === (hash & 0xff)) {
          const start = i - (windowSize - 1);
          let position = ((candidate & slotMask) - 1) * denseStep;
          let index = 0;
          while (index + 1 < bases.length && position >= (this.#starts[index + 1] as number)) index++;
          position -= this.#starts[index] as number;
          const base = bases[index] as Uint8Array;
          if (sameForward(target, start, base, position, windowSize) === windowSize) {
            return this.#emit(target, bases, at, start, to, index, position, ops);
          }
        }
      }
      if (i >= to) break;
      // Nothing matched for long: skip ahead, and warm the hash up again there.
      i = Math.min(to, i + (i - at > veryBoredAfter ? veryBoredSkip : boredSkip));
      boredAt = i + boredScan;
      run = 0;
    }
    ops.push(opLiteral, 0, 0, to - at);
    this.#expectedPlace += to - at;
    return to;
  }

  /** Extends a match both ways and emits it with the literal from `at` up to it; returns its end in the target. */
  #emit(
    target: Uint8Array,
    bases: readonly Uint8Array[],
    at: number,
    start: number,
    to: number,
    index: number,
    place: number,
    ops: OpList,
  ): number {
    const base = bases[index] as Uint8Array;
    const back = sameBackward(target, start, base, place, Math.min(start - at, place));
    const forth = sameForward(target, start, base, place, Math.min(to - start, base.length - place));
    ops.push(opLiteral, 0, 0, start - back - at);
    ops.push(opCopy, index, place - back, back + forth);
    this.#expectedBase = index;
    this.#expectedPlace = place + forth;
    return start + forth;
  }

  /** Makes the table hold `bases`, unless it does already. */
  #index(bases: readonly Uint8Array[]): void {
    if (
      bases === this.#indexed ||
      bases.length === this.#indexed.length && bases.every((base, at) => base === this.#indexed[at])
    ) {
      this.#indexed = bases;
      return;
    }
    let total = 0;
    for (const base of bases) total += base.length;
    const step = total > deltaSizeMax ? sparseStep : total > mediumFrom ? mediumStep : denseStep;
    const positions = Math.ceil(total / step);
    const slots = positions * (step === denseStep ? 2 : 1);
    let bits = tableBitsMin;
    while (bits < tableBitsMax && 1 << bits < slots) bits++;
    if (this.#table.length < 1 << bits) this.#table = new Int32Array(1 << bits);
    else this.#table.fill(0, 0, 1 << bits);
    this.#shift = 32 - bits;
    this.#starts = [];
    let start = 0;
    // The first base goes in last: where contents are the same, it wins.
    for (const base of bases) {
      this.#starts.push(start);
      start += Math.ceil(base.length / denseStep) * denseStep;
    }
    for (let at = bases.length - 1; at >= 0; at--) {
      const base = bases[at] as Uint8Array;
      if (step === denseStep) indexDense(this.#table, this.#shift, base, this.#starts[at] as number);
      else indexSparse(this.#table, this.#shift, base, this.#starts[at] as number, step);
    }
    this.#indexed = bases;
  }
}

/** Random access to a base that is too big for memory. The bytes may be reused by the next call. */
export interface BaseReader {
  readonly size: number;
  /** Exactly `length` bytes from `offset`; the caller stays within `size`. */
  read(offset: number, length: number): Uint8Array;
}

const localMargin = 4 * 1024 * 1024;
const globalPositionsMax = 1 << 21;
const globalTableBits = 22;
/** A slot of its table is 0 or `tag << 22 | n + 1`, with the low ten bits of the hash as tag. */
const globalSlotBits = 22;
const globalSlotMask = 0x3f_ffff;
const globalTagMask = 0x3ff;
const globalBlockSize = 1 << 20;
/** Up to this distance of index positions the base is read through to make the index, beyond it is probed. */
const globalReadStepMax = 4096;
/** Literals shorter than this are not looked for in the whole base. */
const globalLiteralMin = 4096;
/** The share of literals after the local pass that makes the whole base be indexed. */
const globalLiteralShare = 1 / 8;

/**
 * Deltas against one base of any size, piece by piece. Makes the index of the whole base only when a piece
 * has much that is not near its expected place.
 */
export class LargeDelta {
  readonly #base: BaseReader;
  readonly #encoder: DeltaEncoder;
  readonly #local = new OpList();
  #drift = 0;
  #global: GlobalIndex | null = null;

  /**
   * For one file.
   *
   * @param base the old content. @param encoder whose tables the local passes use.
   */
  constructor(base: BaseReader, encoder: DeltaEncoder) {
    this.#base = base;
    this.#encoder = encoder;
  }

  /**
   * Replaces `ops` with the ops of one piece; offsets in copies are absolute in the base (index 0).
   *
   * @param piece target: the bytes, at most 16 MiB by the format; offset: where they are in the file.
   */
  encode(piece: { target: Uint8Array; offset: number; extents?: readonly Extent[] }, ops: OpList): void {
    this.#near(piece, this.#drift, ops);
    const literals = ops.total(opLiteral);
    if (literals > globalLiteralMin && literals > piece.target.length * globalLiteralShare) {
      this.#global ??= new GlobalIndex(this.#base);
      this.#far(piece.target, ops);
      const drift = majorDrift(ops, piece.offset);
      if (drift !== null && Math.abs(drift - this.#drift) > localMargin / 2) {
        this.#near(piece, drift, ops);
        this.#far(piece.target, ops);
      }
    }
    collapse(ops);
    this.#drift = majorDrift(ops, piece.offset) ?? this.#drift;
  }

  /** The pass against the base around `offset + drift`. */
  #near(
    piece: { target: Uint8Array; offset: number; extents?: readonly Extent[] },
    drift: number,
    ops: OpList,
  ): void {
    const expected = Math.max(0, Math.min(this.#base.size, piece.offset + drift));
    const start = Math.max(0, expected - localMargin);
    const end = Math.min(this.#base.size, expected + piece.target.length + localMargin);
    const window = this.#base.read(start, end - start);
    this.#encoder.forget();
    this.#encoder.encode({
      target: piece.target,
      bases: [window],
      expected: expected - start,
      ...(piece.extents === undefined ? {} : { extents: piece.extents }),
    }, ops);
    this.#encoder.forget();
    for (let at = 0; at < ops.count; at++) {
      if (ops.kinds[at] === opCopy) ops.offsets[at] = (ops.offsets[at] as number) + start;
    }
  }

  /** Looks for the longer literals of `ops` in the whole base. */
  #far(target: Uint8Array, ops: OpList): void {
    const global = this.#global;
    if (global === null) return;
    const result = this.#local;
    result.clear();
    let at = 0;
    for (let op = 0; op < ops.count; op++) {
      const kind = ops.kinds[op] as number;
      const length = ops.lengths[op] as number;
      if (kind === opLiteral && length >= globalLiteralMin) global.find(target, at, at + length, result);
      else result.push(kind, ops.bases[op] as number, ops.offsets[op] as number, length);
      at += length;
    }
    ops.clear();
    for (let op = 0; op < result.count; op++) {
      ops.push(
        result.kinds[op] as number,
        result.bases[op] as number,
        result.offsets[op] as number,
        result.lengths[op] as number,
      );
    }
  }
}

/** Every n-th position of a base of any size, n as small as 2^21 positions allow (at least 64). */
class GlobalIndex {
  readonly #base: BaseReader;
  readonly #step: number;
  readonly #table = new Int32Array(1 << globalTableBits);
  #blockStart = -1;
  readonly #buffer = new Uint8Array(globalBlockSize);
  #block: Uint8Array = this.#buffer.subarray(0, 0);

  constructor(base: BaseReader) {
    this.#base = base;
    let step = sparseStep;
    while (step * globalPositionsMax < base.size) step *= 2;
    this.#step = step;
    const shift = 32 - globalTableBits;
    if (step <= globalReadStepMax) {
      for (let start = 0; start < base.size; start += globalBlockSize) {
        const block = base.read(start, Math.min(globalBlockSize, base.size - start));
        for (let at = 0; at + windowSize <= block.length; at += step) this.#add(block, at, start + at, shift);
      }
    } else {
      for (let start = 0; start + windowSize <= base.size; start += step) {
        this.#add(base.read(start, windowSize), 0, start, shift);
      }
    }
  }

  /** Ops for `target[from, to)`: copies from anywhere in the base, literals for the rest. */
  find(target: Uint8Array, from: number, to: number, ops: OpList): void {
    const table = this.#table;
    const shift = 32 - globalTableBits;
    let at = from;
    let hash = 0;
    let warm = 0;
    for (let i = from; i < to; i++) {
      hash = (hash << 1) + (gear[target[i] as number] as number) | 0;
      if (++warm < windowSize) continue;
      const candidate = table[hash >>> shift] as number;
      if (candidate === 0) continue;
      if (candidate >>> globalSlotBits !== (hash & globalTagMask)) continue;
      const place = ((candidate & globalSlotMask) - 1) * this.#step;
      const start = i - (windowSize - 1);
      if (!this.#verify(target, start, place)) continue;
      const forth = this.#forward(target, start, to, place);
      if (forth < windowSize) continue;
      const back = this.#backward(target, at, start, place);
      ops.push(opLiteral, 0, 0, start - back - at);
      ops.push(opCopy, 0, place - back, back + forth);
      at = start + forth;
      i = at - 1;
      hash = 0;
      warm = 0;
    }
    ops.push(opLiteral, 0, 0, to - at);
  }

  #add(block: Uint8Array, at: number, place: number, shift: number): void {
    const first = block[at];
    let plain = true;
    let hash = 0;
    for (let i = at; i < at + windowSize; i++) {
      const byte = block[i] as number;
      if (byte !== first) plain = false;
      hash = (hash << 1) + (gear[byte] as number) | 0;
    }
    // Runs of one byte are everywhere and say nothing about where.
    if (!plain) this.#table[hash >>> shift] = hash << globalSlotBits | place / this.#step + 1;
  }

  /** Whether the 32 bytes are really the same, without reading a whole block for it. */
  #verify(target: Uint8Array, start: number, place: number): boolean {
    const inBlock = place - this.#blockStart;
    const known = this.#blockStart >= 0 && inBlock >= 0 && inBlock + windowSize <= this.#block.length;
    const bytes = known
      ? this.#block.subarray(inBlock, inBlock + windowSize)
      : this.#base.read(place, windowSize);
    return sameForward(target, start, bytes, 0, windowSize) === windowSize;
  }

  #forward(target: Uint8Array, start: number, to: number, place: number): number {
    let length = 0;
    for (;;) {
      const room = Math.min(to - start - length, this.#base.size - place - length);
      if (room <= 0) return length;
      const offset = place + length;
      const block = this.#blockAt(offset);
      const inBlock = offset - this.#blockStart;
      const want = Math.min(room, block.length - inBlock);
      const same = sameForward(target, start + length, block, inBlock, want);
      length += same;
      if (same < want) return length;
    }
  }

  #backward(target: Uint8Array, from: number, start: number, place: number): number {
    let length = 0;
    for (;;) {
      const room = Math.min(start - from - length, place - length);
      if (room <= 0) return length;
      const end = place - length;
      const block = this.#blockAt(end - 1);
      const inBlock = end - this.#blockStart;
      const want = Math.min(room, inBlock);
      const same = sameBackward(target, start - length, block, inBlock, want);
      length += same;
      if (same < want) return length;
    }
  }

  #blockAt(offset: number): Uint8Array {
    const start = offset - offset % globalBlockSize;
    if (start !== this.#blockStart) {
      const size = Math.min(globalBlockSize, this.#base.size - start);
      // A copy, as the reader may use its bytes for the next read.
      this.#buffer.set(this.#base.read(start, size));
      this.#block = this.#buffer.subarray(0, size);
      this.#blockStart = start;
    }
    return this.#block;
  }
}

/** The distance between base and target places at which most copied bytes are, or null without copies. */
function majorDrift(ops: OpList, offset: number): number | null {
  const weights = new Map<number, number>();
  let at = offset;
  let best: number | null = null;
  let bestWeight = 0;
  for (let op = 0; op < ops.count; op++) {
    const length = ops.lengths[op] as number;
    if (ops.kinds[op] === opCopy) {
      const drift = (ops.offsets[op] as number) - at;
      const weight = (weights.get(drift) ?? 0) + length;
      weights.set(drift, weight);
      if (weight > bestWeight) [best, bestWeight] = [drift, weight];
    }
    at += length;
  }
  return best;
}

/** Where copies make up less than a tenth, drops the short ones: they break up literals for next to nothing. */
function collapse(ops: OpList): void {
  const { count } = ops;
  let copied = 0;
  let total = 0;
  for (let at = 0; at < count; at++) {
    if (ops.kinds[at] === opCopy) copied += ops.lengths[at] as number;
    if (ops.kinds[at] !== opHole) total += ops.lengths[at] as number;
  }
  if (copied === 0 || copied * 10 >= total) return;
  // Rewritten in place: an op never goes behind where it was.
  ops.clear();
  for (let at = 0; at < count; at++) {
    const kind = ops.kinds[at] as number;
    const length = ops.lengths[at] as number;
    const isShort = kind === opCopy && length < scatteredCopyMax;
    ops.push(isShort ? opLiteral : kind, ops.bases[at] as number, ops.offsets[at] as number, length);
  }
}

/** Splits `size` bytes into data and holes; short holes count as data. */
function forEachExtent(
  size: number,
  extents: readonly Extent[] | undefined,
  visit: (offset: number, length: number, isData: boolean) => void,
): void {
  if (extents === undefined) {
    if (size > 0) visit(0, size, true);
    return;
  }
  let dataStart = 0;
  let dataEnd = 0;
  for (const { offset, length } of extents) {
    if (offset < dataEnd || length <= 0 || offset + length > size) {
      throw new RangeError(`Cannot use the extent ${offset}+${length}: extents ascend within ${size} bytes`);
    }
    if (offset - dataEnd >= holeSizeMin) {
      if (dataEnd > dataStart) visit(dataStart, dataEnd - dataStart, true);
      visit(dataEnd, offset - dataEnd, false);
      dataStart = offset;
    }
    dataEnd = offset + length;
  }
  if (size - dataEnd < holeSizeMin && dataEnd > 0) dataEnd = size;
  if (dataEnd > dataStart) visit(dataStart, dataEnd - dataStart, true);
  if (size > dataEnd) visit(dataEnd, size - dataEnd, false);
}

/** How many of `max` bytes from `left[at]` and `right[from]` on are equal. */
function sameForward(left: Uint8Array, at: number, right: Uint8Array, from: number, max: number): number {
  const probe = Math.min(max, wordsFrom);
  const same = sameBytes(left, at, right, from, 0, probe);
  if (same < probe || same === max) return same;
  const words = sameWords(left, at + same, right, from + same, max - same);
  return sameBytes(left, at, right, from, same + words, max);
}

/** Matches that reach this length go on in words, if both sides are aligned alike. */
const wordsFrom = 512;

function sameBytes(
  left: Uint8Array,
  at: number,
  right: Uint8Array,
  from: number,
  start: number,
  max: number,
): number {
  let i = start;
  const unrolled = max - 7;
  while (i < unrolled) {
    const l = at + i;
    const r = from + i;
    if (
      left[l] !== right[r] || left[l + 1] !== right[r + 1] || left[l + 2] !== right[r + 2] ||
      left[l + 3] !== right[r + 3] || left[l + 4] !== right[r + 4] || left[l + 5] !== right[r + 5] ||
      left[l + 6] !== right[r + 6] || left[l + 7] !== right[r + 7]
    ) break;
    i += 8;
  }
  while (i < max && left[at + i] === right[from + i]) i++;
  return i;
}

/** A lower bound of the equal bytes; 0 where the two cannot be read as words. */
function sameWords(left: Uint8Array, at: number, right: Uint8Array, from: number, max: number): number {
  const l = left.byteOffset + at;
  const r = right.byteOffset + from;
  const head = -l & 3;
  const count = max - head >> 2;
  if ((l - r & 3) !== 0 || count < 4) return 0;
  for (let i = 0; i < head; i++) if (left[at + i] !== right[from + i]) return i;
  const leftWords = new Int32Array(left.buffer, l + head, count);
  const rightWords = new Int32Array(right.buffer, r + head, count);
  let i = 0;
  while (
    i + 3 < count &&
    ((leftWords[i] as number) ^ (rightWords[i] as number) | (leftWords[i + 1] as number) ^
          (rightWords[i + 1] as number) |
        (leftWords[i + 2] as number) ^ (rightWords[i + 2] as number) |
        (leftWords[i + 3] as number) ^ (rightWords[i + 3] as number)) === 0
  ) i += 4;
  return head + 4 * i;
}

/** How many of `max` bytes before `left[end]` and `right[to]` are equal. */
function sameBackward(left: Uint8Array, end: number, right: Uint8Array, to: number, max: number): number {
  let i = 0;
  while (i < max && left[end - 1 - i] === right[to - 1 - i]) i++;
  return i;
}

function indexDense(table: Int32Array, shift: number, base: Uint8Array, start: number): void {
  const end = base.length - denseStep;
  let hash = 0;
  // At the top of the loop `hash` covers the 16 bytes before `at`; the step makes it the window from at - 16.
  for (let i = 0; i < denseStep && i < base.length; i++) {
    hash = (hash << 1) + (gear[base[i] as number] as number) | 0;
  }
  for (let at = denseStep; at <= end; at += denseStep) {
    hash = (hash << 1) + (gear[base[at] as number] as number) | 0;
    hash = (hash << 1) + (gear[base[at + 1] as number] as number) | 0;
    hash = (hash << 1) + (gear[base[at + 2] as number] as number) | 0;
    hash = (hash << 1) + (gear[base[at + 3] as number] as number) | 0;
    hash = (hash << 1) + (gear[base[at + 4] as number] as number) | 0;
    hash = (hash << 1) + (gear[base[at + 5] as number] as number) | 0;
    hash = (hash << 1) + (gear[base[at + 6] as number] as number) | 0;
    hash = (hash << 1) + (gear[base[at + 7] as number] as number) | 0;
    hash = (hash << 1) + (gear[base[at + 8] as number] as number) | 0;
    hash = (hash << 1) + (gear[base[at + 9] as number] as number) | 0;
    hash = (hash << 1) + (gear[base[at + 10] as number] as number) | 0;
    hash = (hash << 1) + (gear[base[at + 11] as number] as number) | 0;
    hash = (hash << 1) + (gear[base[at + 12] as number] as number) | 0;
    hash = (hash << 1) + (gear[base[at + 13] as number] as number) | 0;
    hash = (hash << 1) + (gear[base[at + 14] as number] as number) | 0;
    hash = (hash << 1) + (gear[base[at + 15] as number] as number) | 0;
    table[hash >>> shift] = hash << 24 | (start + at) / denseStep;
  }
}

function indexSparse(table: Int32Array, shift: number, base: Uint8Array, start: number, step: number): void {
  for (let at = 0; at + windowSize <= base.length; at += step) {
    let hash = 0;
    for (let i = at; i < at + windowSize; i++) hash = (hash << 1) + (gear[base[i] as number] as number) | 0;
    table[hash >>> shift] = hash << 24 | (start + at) / denseStep + 1;
  }
}

/** Random 32-bit numbers, one per byte value. Any table gives right deltas; it is no part of the format. */
const gear: Int32Array<ArrayBuffer> = gearTable();

function gearTable(): Int32Array<ArrayBuffer> {
  const numbers = new Int32Array(256);
  let state = 0x9e3779b9;
  for (let at = 0; at < 256; at++) {
    state = state + 0x6d2b79f5 | 0;
    let mixed = Math.imul(state ^ state >>> 15, state | 1);
    mixed ^= mixed + Math.imul(mixed ^ mixed >>> 7, mixed | 61);
    numbers[at] = mixed ^ mixed >>> 14;
  }
  return numbers;
}
