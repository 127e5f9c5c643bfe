/**
 * A process of the stream bench that writes a stream to stdout:
 *
 * - `generate BYTES SEED`: a libxc stream of about so many octets, made up as it goes.
 * - `gathered RAW BYTES`: the pages of a raw image as PAGE_DATA records, each read into its place behind its head and
 *   written with one call: the pattern of today's format.
 * - `single RAW BYTES`: the same pages as legacy batches, a write for each field and each page: the pattern of before.
 *
 * The last two time themselves, from the first read to the last write, and say the seconds on stderr.
 *
 * @module
 */
import { openNative } from "../ffi/mod.ts";
import { pageSize } from "../lib/stream/item.ts";
import { encodeLibxcHeader, encodeLibxcRecord } from "../lib/stream/libxc_record.ts";
import { encodePageData } from "../lib/stream/page_data.ts";
import { Random } from "./random.ts";

const batchPages = 1024;
const batchSize = batchPages * pageSize;

function writeAll(bytes: Uint8Array): void {
  for (let at = 0; at < bytes.length;) at += Deno.stdout.writeSync(bytes.subarray(at));
}

/** A buffer for one record: the pages on a page's edge, and the end of the head right before them. */
class Record {
  readonly #pagesAt = 3 * pageSize;
  readonly #buffer = new Uint8Array(this.#pagesAt + batchSize);
  readonly pages: Uint8Array<ArrayBuffer> = this.#buffer.subarray(this.#pagesAt);

  /** The record of the first `count` pages, whose frame numbers begin at `pfn`. */
  bytes(pfn: number, count: number): Uint8Array {
    const pfns = new Float64Array(count);
    for (let index = 0; index < count; index++) pfns[index] = pfn + index;
    const pages = this.pages.subarray(0, count * pageSize);
    const [head] = encodePageData({ pfns, types: new Uint8Array(count), pages });
    if (head === undefined) throw new Error("A record without a head");
    this.#buffer.set(head, this.#pagesAt - head.length);
    return this.#buffer.subarray(this.#pagesAt - head.length, this.#pagesAt + pages.length);
  }
}

function start(): void {
  writeAll(encodeLibxcHeader({ version: 3, bigEndian: false, guest: "hvm", xenMajor: 4, xenMinor: 20 }));
  encodeLibxcRecord({ name: "STATIC_DATA_END" }).forEach(writeAll);
}

function end(): void {
  encodeLibxcRecord({ name: "END" }).forEach(writeAll);
}

/** Fills `into` from a file. @returns whole pages. */
function fill(file: Deno.FsFile, into: Uint8Array): number {
  let filled = 0;
  while (filled < into.length) {
    const count = file.readSync(into.subarray(filled));
    if (count === null) break;
    filled += count;
  }
  return Math.floor(filled / pageSize);
}

function generate(bytes: number, seed: number): void {
  const record = new Record();
  new Random(seed).fill(record.pages);
  start();
  for (let pfn = 0; pfn * pageSize < bytes; pfn += batchPages) writeAll(record.bytes(pfn, batchPages));
  end();
}

function gathered(file: Deno.FsFile, bytes: number): void {
  const record = new Record();
  start();
  for (let pfn = 0; pfn * pageSize < bytes;) {
    const count = fill(file, record.pages.subarray(0, Math.min(batchSize, bytes - pfn * pageSize)));
    if (count === 0) break;
    writeAll(record.bytes(pfn, count));
    pfn += count;
  }
  end();
}

function single(file: Deno.FsFile, bytes: number): void {
  const pages = new Uint8Array(batchSize);
  const head = new Uint8Array(4);
  const entries = new BigUint64Array(batchPages);
  const size = new BigUint64Array([BigInt(Math.ceil(bytes / pageSize))]);
  writeAll(new Uint8Array(size.buffer));
  for (let pfn = 0; pfn * pageSize < bytes;) {
    const count = fill(file, pages.subarray(0, Math.min(batchSize, bytes - pfn * pageSize)));
    if (count === 0) break;
    new DataView(head.buffer).setInt32(0, count, true);
    writeAll(head);
    for (let index = 0; index < count; index++) entries[index] = BigInt(pfn + index);
    writeAll(new Uint8Array(entries.buffer, 0, 8 * count));
    for (let index = 0; index < count; index++) {
      writeAll(pages.subarray(index * pageSize, (index + 1) * pageSize));
    }
    pfn += count;
  }
  writeAll(new Uint8Array(4));
}

if (import.meta.main) {
  // What the product does too. With 64 KiB in it, waiting for the other end is all that would be measured.
  openNative().libc.growPipe(1, 1 << 20);
  const [mode = "", first = "", second = ""] = Deno.args;
  if (mode === "generate") {
    generate(Number(first), Number(second));
  } else {
    using file = Deno.openSync(first);
    const started = performance.now();
    (mode === "gathered" ? gathered : single)(file, Number(second));
    console.error(JSON.stringify({ seconds: (performance.now() - started) / 1000 }));
  }
}
