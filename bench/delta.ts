/**
 * How fast changed pages are encoded: every level of the library, the reference in TypeScript, and lz4 beside them.
 *
 * Goal: bytes of new pages per second, one thread, with scattered changes of known density. Not the goal: what real guests
 * change, or the transport.
 *
 * Measured with: pages of random octets; the chosen share of their words changed, each on its own, at random places. The
 * smaller working set (8 MiB of old and 8 MiB of new pages) is larger than a core's L2 cache and fits a last-level cache of
 * 32 MiB, the larger one fits none. The yardstick is liblz4.so.1's LZ4_compress_default on the XOR of old and new, page by
 * page: `lz4` has the XOR computed beforehand and outside the timing, `lz4 + xor` within, by a loop over words in
 * JavaScript. `memcpy` copies the new pages. All contenders take turns in each round; a figure is the median of the rounds.
 * Fixed seed; the hash of what was encoded is part of each row, the same for all levels.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { openNative } from "../ffi/mod.ts";
import { encodedSizeMax, type PageCodec, pageCodec } from "../lib/stream/page_codec.ts";
import { Random } from "./random.ts";
import { formatTable, median } from "./table.ts";

const pageSize = 4096;

/** What to measure. */
export interface DeltaOptions {
  /** Working sets, in pages. */
  pages: readonly number[];
  /** Shares of the words that changed, 0 to 1. */
  changed: readonly number[];
  /** Turns of each contender. */
  rounds: number;
  /** Milliseconds that a turn lasts at least. */
  turnMs: number;
}

/** Enough for a figure. */
export const deltaFull: DeltaOptions = {
  pages: [2048, 16_384],
  changed: [0.01, 0.1, 0.5],
  rounds: 7,
  turnMs: 40,
};

/** Enough to see that it runs. */
export const deltaSmoke: DeltaOptions = { pages: [16], changed: [0.1], rounds: 3, turnMs: 0 };

/** One figure. */
export interface DeltaRow {
  /** `region avx512`, `remus scalar decode`, `lz4`, `memcpy`. */
  name: string;
  /** Pages of the working set: as many old ones as new ones. */
  pages: number;
  /** Share of the words that changed. */
  changed: number;
  /** 10⁹ octets of new pages per second. */
  gigabytesPerSecond: number;
  /** Octets of the encoding ÷ octets of the pages. */
  ratio: number;
  /** How many times the speed of `lz4`, the XOR outside the timing; null where there is no liblz4.so.1. */
  timesLz4: number | null;
  /** First 16 digits of the SHA-256 of the encoding; "" for what only copies. */
  hash: string;
}

interface Contender {
  name: string;
  /** Works on all pages once; returns octets of output. */
  run: () => number;
  output: () => Uint8Array;
}

/** Measures; rows in the order of `pages`, `changed`, contender. */
export function deltaRows(options: DeltaOptions): DeltaRow[] {
  const rows: DeltaRow[] = [];
  const lz4 = openLz4();
  try {
    for (const pages of options.pages) {
      for (const changed of options.changed) rows.push(...measure(pages, changed, options, lz4));
    }
  } finally {
    lz4?.close();
  }
  return rows;
}

function measure(pages: number, changed: number, options: DeltaOptions, lz4: Lz4 | null): DeltaRow[] {
  const { olds, news } = makePages(pages, changed);
  const contenders = [...codecContenders(pages, olds, news), ...yardsticks(olds, news, lz4)];
  const speeds = contenders.map((): number[] => []);
  const sizes = contenders.map(({ run }) => run());
  for (let round = 0; round < options.rounds; round++) {
    contenders.forEach(({ run }, index) => {
      const start = performance.now();
      let turns = 0;
      let elapsed: number;
      do {
        run();
        turns++;
        elapsed = performance.now() - start;
      } while (elapsed < options.turnMs);
      speeds[index]?.push(turns * olds.length / Math.max(elapsed, 1e-3) / 1e6);
    });
  }
  const middle = speeds.map((values) => median(values));
  const yard = middle[contenders.findIndex(({ name }) => name === "lz4")];
  return contenders.map(({ name, run, output }, index) => {
    const size = sizes[index] ?? 0;
    if (size !== run()) throw new Error(`${name} gives another size each time`);
    return {
      name,
      pages,
      changed,
      gigabytesPerSecond: middle[index] ?? NaN,
      ratio: size / olds.length,
      timesLz4: yard === undefined ? null : (middle[index] ?? NaN) / yard,
      hash: createHash("sha256").update(output().subarray(0, size)).digest("hex").slice(0, 16),
    };
  });
}

function makePages(pages: number, changed: number): { olds: Uint8Array; news: Uint8Array } {
  const random = new Random("delta", pages, String(changed));
  const olds = new Uint32Array(pages * pageSize / 4);
  for (let at = 0; at < olds.length; at++) olds[at] = random.below(2 ** 32);
  const news = olds.slice();
  for (let at = 0; at < news.length; at++) {
    if (random.below(1_000_000) < changed * 1_000_000) {
      news[at] = (news[at] ?? 0) ^ (1 + random.below(2 ** 31));
    }
  }
  return { olds: new Uint8Array(olds.buffer), news: new Uint8Array(news.buffer) };
}

function codecContenders(pages: number, olds: Uint8Array, news: Uint8Array): Contender[] {
  const native = openNative().delta;
  const codecs: [string, PageCodec][] = native.levels.map((level) => [level, native.at(level)]);
  codecs.push(["typescript", pageCodec]);
  const into = new Uint8Array(pages * encodedSizeMax("remus"));
  // Decoding the same deltas again gives the same pages: no copy is needed between the turns.
  const target = olds.slice();
  return (["region", "remus"] as const).flatMap((format) => {
    const encoded = into.slice(0, native.encode(format, olds, news, pages, into));
    return codecs.flatMap(([level, codec]): Contender[] => [
      {
        name: `${format} ${level}`,
        run: () => codec.encode(format, olds, news, pages, into),
        output: () => into,
      },
      {
        name: `${format} ${level} decode`,
        run: () => {
          codec.decode(format, encoded, pages, target);
          return encoded.length;
        },
        output: () => encoded,
      },
    ]);
  });
}

function yardsticks(olds: Uint8Array, news: Uint8Array, lz4: Lz4 | null): Contender[] {
  const copy = new Uint8Array(news.length);
  const found: Contender[] = [{
    name: "memcpy",
    run: () => {
      copy.set(news);
      return copy.length;
    },
    output: () => copy,
  }];
  if (lz4 === null) return found;
  const xored = new Uint8Array(news.length);
  const words = new Int32Array(xored.buffer);
  const oldWords = new Int32Array(olds.buffer);
  const newWords = new Int32Array(news.buffer);
  const xor = () => {
    for (let at = 0; at < words.length; at++) words[at] = (oldWords[at] ?? 0) ^ (newWords[at] ?? 0);
  };
  xor();
  const { run, output } = lz4.compressor(xored);
  found.push({ name: "lz4", run, output });
  found.push({
    name: "lz4 + xor",
    run: () => {
      xor();
      return run();
    },
    output,
  });
  return found;
}

/** liblz4.so.1, page by page. */
interface Lz4 {
  /** Compresses each page of `pages` on its own, one output behind the other. */
  compressor(pages: Uint8Array): { run: () => number; output: () => Uint8Array };
  close(): void;
}

function openLz4(): Lz4 | null {
  let library;
  try {
    library = Deno.dlopen("liblz4.so.1", {
      // int LZ4_compress_default(const char *src, char *dst, int srcSize, int dstCapacity);
      LZ4_compress_default: { parameters: ["pointer", "pointer", "i32", "i32"], result: "i32" },
    });
  } catch (error) {
    if (error instanceof Deno.errors.NotCapable) throw error;
    return null;
  }
  const compress = library.symbols.LZ4_compress_default;
  // What lz4 may need for a page that it cannot compress.
  const roomSize = pageSize + pageSize / 255 + 16 | 0;
  return {
    compressor(pages) {
      const count = pages.length / pageSize;
      const room = new Uint8Array(count * roomSize);
      // Pointers are made beforehand: a view for each call would cost as much as lz4 itself.
      const pointers = (bytes: Uint8Array, step: number) =>
        Array.from({ length: count }, (_, page) => pointerTo(bytes, page * step));
      const sources = pointers(pages, pageSize);
      const targets = pointers(room, roomSize);
      return {
        run: () => {
          let size = 0;
          for (let page = 0; page < count; page++) {
            size += compress(sources[page] ?? null, targets[page] ?? null, pageSize, roomSize);
          }
          return size;
        },
        output: () => room,
      };
    },
    close: () => library.close(),
  };
}

function pointerTo(bytes: Uint8Array, at: number): Deno.PointerObject | null {
  return Deno.UnsafePointer.of(bytes.subarray(at) as Uint8Array<ArrayBuffer>);
}

/** The rows as a table. */
export function deltaTable(rows: readonly DeltaRow[]): string {
  return formatTable(
    ["contender", "pages", "changed", "GB/s", "× lz4", "size", "hash"],
    rows.map((row) => [
      row.name,
      String(row.pages),
      `${row.changed * 100} %`,
      row.gigabytesPerSecond.toFixed(2),
      row.timesLz4 === null ? "-" : row.timesLz4.toFixed(2),
      `${(row.ratio * 100).toFixed(2)} %`,
      row.hash,
    ]),
  );
}

/** `deno task bench delta [--smoke]`. */
export function main(args: readonly string[]): number {
  const wrong = args.find((arg) => arg !== "--smoke");
  if (wrong !== undefined) {
    console.error(`Usage: deno task bench delta [--smoke]`);
    return wrong === "--help" ? 0 : 2;
  }
  console.log(deltaTable(deltaRows(args.includes("--smoke") ? deltaSmoke : deltaFull)));
  return 0;
}

if (import.meta.main) Deno.exitCode = main(Deno.args);
