/**
 * The content of a region as a file and back: one stream of the profile "region" (lib/stream/STREAM.md).
 *
 * Invariants:
 * - Writing: a page that was never written is in a ZERO_RANGES and costs nothing, every other page is in one PAGE_DATA; a page is
 *   pinned while it is copied, so that one that was lost is an error and not a SIGBUS; a page that had to be fetched for it leaves
 *   again. The file is written beside its name, flushed, and only then renamed.
 * - Reading: nothing is believed before its bounds are checked, and the region is given out only after the digest and END were right.
 *
 * @module
 */
import { createHash, type Hash, randomBytes } from "node:crypto";
import type { NativeRegion, PageDelta, PageSpan } from "../../ffi/mod.ts";
import { DroverError, FormatError } from "../base/errors.ts";
import { toHex } from "../base/hex.ts";
import { pageTypes, type RegionRecord } from "../stream/item.ts";
import { StreamReader } from "../stream/reader.ts";
import { headerSize } from "../stream/record.ts";
import { encodeRegionHeader, encodeRegionRecord, rangesMax } from "../stream/region_record.ts";
import { pageSize, regionSizeMax } from "./options.ts";

/** Pages of one PAGE_DATA that is written: 1 MiB of content. */
const batchPages = 256;

/** Octets read from the file at once. */
const chunkSize = 2 ** 20;

const stateMask = 0x0f;
const emptyState = 0;
const coldState = 1;
const poisonState = 8;

/** What was written. */
export interface SnapshotResult {
  /** Octets of the file. */
  bytes: number;
  /** Pages with content. */
  pages: number;
  /** Pages of zeros that nobody wrote. */
  zeroPages: number;
  /** SHA-256 of the stream up to its DIGEST record, in hexadecimal. */
  digest: string;
}

/** A file that becomes a snapshot: counts, hashes, and is renamed when it is complete. */
class SnapshotFile {
  readonly #path: string;
  readonly #partial: string;
  readonly #file: Deno.FsFile;
  readonly #hash: Hash = createHash("sha256");
  bytes = 0;

  private constructor(path: string, partial: string, file: Deno.FsFile) {
    this.#path = path;
    this.#partial = partial;
    this.#file = file;
  }

  static async create(path: string): Promise<SnapshotFile> {
    const partial = `${path}.${Deno.pid}.part`;
    return new SnapshotFile(
      path,
      partial,
      await Deno.open(partial, { createNew: true, write: true, mode: 0o600 }),
    );
  }

  async write(pieces: readonly Uint8Array[], options: { hashed: boolean } = { hashed: true }): Promise<void> {
    for (const piece of pieces) {
      if (options.hashed) this.#hash.update(piece);
      for (let at = 0; at < piece.length;) at += await this.#file.write(piece.subarray(at));
      this.bytes += piece.length;
    }
  }

  /** The digest of all that was written so far. */
  digest(): Uint8Array<ArrayBuffer> {
    return new Uint8Array(this.#hash.copy().digest());
  }

  async finish(): Promise<void> {
    await this.#file.sync();
    this.#file.close();
    await Deno.rename(this.#partial, this.#path);
  }

  async abandon(): Promise<void> {
    try {
      this.#file.close();
    } catch (error) {
      if (!(error instanceof Deno.errors.BadResource)) throw error; // closed before the rename failed
    }
    await Deno.remove(this.#partial).catch((error) => {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    });
  }
}

/** Writes a region to a file. */
export async function writeSnapshot(
  path: string,
  region: NativeRegion,
  options: { label?: string },
): Promise<SnapshotResult> {
  const pages = region.size / pageSize;
  const file = await SnapshotFile.create(path);
  try {
    await file.write([encodeRegionHeader({ bigEndian: false })]);
    const info: RegionRecord = {
      name: "REGION_INFO",
      regionId: new Uint8Array(randomBytes(16)),
      pages,
      term: 0n,
      label: options.label ?? "",
    };
    await file.write(encodeRegionRecord(info));
    const written = await writePages(file, region);
    const digest = file.digest();
    await file.write(encodeRegionRecord({ name: "DIGEST", digest }));
    await file.write(encodeRegionRecord({ name: "END" }));
    await file.finish();
    return { bytes: file.bytes, pages: written, zeroPages: pages - written, digest: toHex(digest) };
  } catch (error) {
    await file.abandon();
    throw error;
  }
}

/** @returns pages with content. */
async function writePages(file: SnapshotFile, region: NativeRegion): Promise<number> {
  const total = region.size / pageSize;
  const states = new Uint8Array(batchPages);
  let zeros: PageSpan[] = [];
  let written = 0;
  const flushZeros = async (): Promise<void> => {
    if (zeros.length === 0) return;
    const ranges = zeros.map(({ first, count }) => ({ pfn: first, count }));
    zeros = [];
    await file.write(encodeRegionRecord({ name: "ZERO_RANGES", ranges }));
  };
  for (let first = 0; first < total; first += batchPages) {
    const count = Math.min(batchPages, total - first);
    region.sample({ first, count }, states);
    const full: number[] = [];
    for (let at = 0; at < count; at++) {
      const page = first + at;
      const state = (states[at] ?? 0) & stateMask;
      if (state === poisonState) {
        throw new DroverError("corrupt", `Cannot take a snapshot of the region: page ${page} was lost`);
      }
      if (state !== emptyState) full.push(page);
      else {
        const last = zeros.at(-1);
        if (last !== undefined && last.first + last.count === page) last.count++;
        else zeros.push({ first: page, count: 1 });
      }
      if (zeros.length === rangesMax) await flushZeros();
    }
    if (full.length === 0) continue;
    const cold = full.filter((page) => ((states[page - first] ?? 0) & stateMask) === coldState);
    const pfns = Float64Array.from(full);
    const types = new Uint8Array(full.length).fill(pageTypes.normal);
    const batch = { pfns, types, pages: copyPages(region, full, cold) };
    await file.write(encodeRegionRecord({ name: "PAGE_DATA", batch }));
    written += full.length;
  }
  await flushZeros();
  return written;
}

/** Copies pages that are ascending, and sends those that were cold out again. */
function copyPages(
  region: NativeRegion,
  pages: readonly number[],
  cold: readonly number[],
): Uint8Array<ArrayBuffer> {
  const coldPages = BigUint64Array.from(cold, BigInt);
  region.prefetch(coldPages);
  const memory = new Uint8Array(region.memory);
  const copy = new Uint8Array(pages.length * pageSize);
  for (const span of spansOf(pages)) {
    region.pin(span);
    try {
      const at = pages.indexOf(span.first);
      copy.set(memory.subarray(span.first * pageSize, (span.first + span.count) * pageSize), at * pageSize);
    } finally {
      region.unpin(span);
    }
  }
  region.evict(coldPages);
  return copy;
}

/** Runs of ascending pages, none so long that pinning it could be too much. */
function spansOf(pages: readonly number[]): PageSpan[] {
  const spans: PageSpan[] = [];
  for (const page of pages) {
    const last = spans.at(-1);
    if (last !== undefined && last.first + last.count === page && last.count < spanPagesMax) last.count++;
    else spans.push({ first: page, count: 1 });
  }
  return spans;
}

/** Half of the smallest limit, rounded down to a power of two. */
const spanPagesMax = 128;

/** What a snapshot is of, from its first record. @throws {FormatError} for a file that does not begin as one. */
export async function snapshotHead(path: string): Promise<{ size: number; label: string }> {
  for await (const record of readRecords(path)) {
    if (record.name === "REGION_INFO") return { size: sizeOf(record.pages), label: record.label };
    break;
  }
  throw new FormatError(
    "region.info.missing",
    headerSize,
    `Cannot read "${path}": REGION_INFO should come first`,
  );
}

/** Fills a new region, all zeros, from a snapshot. */
export async function restoreInto(
  path: string,
  region: NativeRegion,
  delta: PageDelta,
): Promise<void> {
  const memory = new Uint8Array(region.memory);
  for await (const record of readRecords(path)) {
    switch (record.name) {
      case "REGION_INFO":
        if (record.pages * pageSize !== region.size) {
          throw new FormatError(
            "region.info.pages",
            headerSize,
            `Cannot read "${path}": it is of ${record.pages} pages`,
          );
        }
        break;
      case "PAGE_DATA":
        record.batch.pfns.forEach((pfn, index) => {
          memory.set(record.batch.pages.subarray(index * pageSize, (index + 1) * pageSize), pfn * pageSize);
        });
        break;
      case "ZERO_RANGES":
        for (const { pfn, count } of record.ranges) region.reset({ first: pfn, count });
        break;
      case "PAGE_DELTAS": {
        const { pfns, data } = record.deltas;
        const bases = new Uint8Array(pfns.length * pageSize);
        pfns.forEach((pfn, index) => {
          bases.set(memory.subarray(pfn * pageSize, (pfn + 1) * pageSize), index * pageSize);
        });
        delta.decode("region", data, pfns.length, bases);
        pfns.forEach((pfn, index) => {
          memory.set(bases.subarray(index * pageSize, (index + 1) * pageSize), pfn * pageSize);
        });
        break;
      }
    }
  }
}

/** Reads a snapshot record by record; ends only when digest and END were right and nothing follows. */
async function* readRecords(path: string): AsyncGenerator<RegionRecord> {
  using file = await Deno.open(path);
  const reader = new StreamReader({ profile: "region", digest: runningDigest });
  const order = new RecordOrder(path);
  const chunk = new Uint8Array(chunkSize);
  for (let count = await file.read(chunk); count !== null; count = await file.read(chunk)) {
    reader.push(chunk.subarray(0, count));
    for (let item = reader.next(); item !== null; item = reader.next()) {
      if (item.layer !== "region" || !("record" in item)) continue;
      order.take(item.record, item.place.offset);
      yield item.record;
    }
  }
  reader.finish();
  order.finish(reader.offset);
}

/** SHA-256 that tells what it is so far and runs on. */
function runningDigest(): { update(octets: Uint8Array): void; digest(): Uint8Array } {
  const hash = createHash("sha256");
  return { update: (octets) => void hash.update(octets), digest: () => hash.copy().digest() };
}

/** What may follow what: REGION_INFO, then sections that end in DIGEST and CHECKPOINT, the last in DIGEST and END. */
class RecordOrder {
  readonly #path: string;
  #last: RegionRecord["name"] | undefined;
  #sections = 0;

  constructor(path: string) {
    this.#path = path;
  }

  take(record: RegionRecord, offset: number): void {
    const refuse = (rule: string, why: string): never => {
      throw new FormatError(rule, offset, `Cannot read "${this.#path}": ${why}`);
    };
    const { name } = record;
    if ((name === "REGION_INFO") !== (this.#last === undefined)) {
      refuse("region.order", "REGION_INFO should come first, and once");
    }
    if (this.#last === "DIGEST" && name !== "CHECKPOINT" && name !== "END") {
      refuse("region.order", "DIGEST should stand before CHECKPOINT or END");
    }
    if ((name === "CHECKPOINT" || name === "END") && this.#last !== "DIGEST") {
      refuse("region.order", `there is no DIGEST before ${name}`);
    }
    if (name === "PAGE_DELTAS" && this.#sections === 0) {
      refuse("region.order", "there is nothing that deltas in the first section could refer to");
    }
    if (name === "CHECKPOINT") this.#sections++;
    this.#last = name;
  }

  finish(offset: number): void {
    if (this.#last === "END") return;
    throw new FormatError("region.end.missing", offset, `Cannot read "${this.#path}": it ends without END`);
  }
}

function sizeOf(pages: number): number {
  const size = pages * pageSize;
  if (pages === 0 || size > regionSizeMax) {
    throw new FormatError(
      "region.info.pages",
      headerSize + 24,
      `Cannot read a snapshot of ${pages} pages: there should be 1 to ${regionSizeMax / pageSize}`,
    );
  }
  return size;
}
