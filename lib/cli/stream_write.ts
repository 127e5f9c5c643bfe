/** `drover stream write`: a raw memory image becomes a stream. */
import { type Command, Option } from "commander";
import { DroverError } from "../base/errors.ts";
import type { GuestKind, PageRange, RegionRecord, StreamDigest } from "../stream/mod.ts";
import { exitCode } from "./exit.ts";
import { formatBytes, formatCount, formatSeconds } from "./format.ts";
import type { RunCommand } from "./registry.ts";
import {
  checkOutput,
  digestMaker,
  shellWord,
  StreamInput,
  StreamOutput,
  widenPipe,
  withProgress,
} from "./stream_files.ts";

export const usage = `Usage: drover stream write OUT --memory RAW [OPTION]...

Writes the pages of a raw memory image as a stream: memory only, without the state of processors and devices, so a
libxc stream made by it can be looked into, compared and sent, but no guest resumes from it. Page N is at octet
4096 * N of RAW. A region stream says which pages are zero instead of carrying them, and ends in a digest.

OUT is a file, a pipe or a device; - is stdout, refused when that is a terminal. A file appears when it is complete.

Options:
      --memory RAW            the image, a multiple of 4096 octets; - is stdin (for a libxc stream of an hvm guest)
      --profile libxc|region  what to write; default: libxc
      --guest hvm|pv          kind of the guest, for libxc; default: hvm
      --json                  print {"file", "profile", "pages", "zero", "bytes", "seconds"}; not with OUT -
  -h, --help                  this text

Example:
  $ drover stream write guest.stream --memory guest.raw
  guest.stream: libxc, 262144 pages, 1.1 GB in 0.85 s
`;

interface Options {
  memory: string;
  profile: "libxc" | "region";
  guest?: GuestKind;
}

type Stream = typeof import("../stream/mod.ts");

export function define(command: Command, run: RunCommand): void {
  command.argument("<out>").requiredOption("--memory <raw>")
    .addOption(new Option("--profile <name>").choices(["libxc", "region"]).default("libxc"))
    .addOption(new Option("--guest <kind>").choices(["hvm", "pv"]))
    .action((out: string, { memory, profile, guest }: Options) =>
      run(async (terminal) => {
        if (profile === "region" && guest !== undefined) {
          throw new DroverError("usage", "Cannot use --guest with --profile region: a region has no guest");
        }
        checkOutput(out, {
          terminal,
          inputs: [memory],
          hint: `drover stream write FILE --memory ${shellWord(memory)}`,
        });
        const stream = await import("../stream/mod.ts");
        const newDigest = await digestMaker();
        await widenPipe(memory, 0);
        await widenPipe(out, 1);
        using input = new StreamInput(memory);
        const pages = pagesOf(input, stream.pageSize);
        if (pages === null && (profile === "region" || guest === "pv")) {
          throw new DroverError(
            "usage",
            `Cannot write a ${
              profile === "region" ? "region" : "pv guest"
            } from "${memory}": its size has to be ` +
              "known beforehand, so it should be a file",
          );
        }
        using output = new StreamOutput(out);
        const started = performance.now();
        const written = await withProgress(terminal, "write", (report) => {
          const writer = new MemoryWriter({ stream, input, output, report });
          if (profile === "region") {
            return writer.region({ pages: pages ?? 0, label: labelOf(memory), digest: newDigest() });
          }
          return writer.libxc({ guest: guest ?? "hvm", pages });
        });
        output.finish();
        const seconds = (performance.now() - started) / 1000;
        if (out !== "-") {
          terminal.line(
            `${out}: ${profile}, ${formatCount(written.pages, "page", "pages")}` +
              (profile === "region" ? ` (${written.zero} zero)` : "") +
              `, ${formatBytes(output.size)} in ${formatSeconds(seconds)}`,
          );
          terminal.note(`hint: drover stream verify ${shellWord(out)}`);
        }
        terminal.object({ file: out, profile, ...written, bytes: output.size, seconds });
        return exitCode.ok;
      })
    );
}

/** Pages of the image, or null for a pipe. */
function pagesOf(input: StreamInput, pageSize: number): number | null {
  if (input.size === null) return null;
  if (input.size === 0 || input.size % pageSize !== 0) {
    throw new DroverError(
      "usage",
      `Cannot write "${input.path}" as pages: it is ${input.size} octets, and should be a multiple of ${pageSize}`,
    );
  }
  return input.size / pageSize;
}

/** The last part of the path, as far as it fits. */
function labelOf(path: string): string {
  let label = path.slice(path.lastIndexOf("/") + 1);
  while (new TextEncoder().encode(label).length > 255) label = label.slice(0, -1);
  return label;
}

const batchPages = 1024;

/** One batch at a time, in one buffer: the head right before the pages, so that a record is one write. */
class MemoryWriter {
  readonly #stream: Stream;
  readonly #input: StreamInput;
  readonly #output: StreamOutput;
  readonly #report: (done: number, total: number | null) => void;
  readonly #pagesAt: number;
  readonly #buffer: Uint8Array<ArrayBuffer>;
  readonly #pages: Uint8Array<ArrayBuffer>;

  constructor(
    options: {
      stream: Stream;
      input: StreamInput;
      output: StreamOutput;
      report: (done: number, total: number | null) => void;
    },
  ) {
    this.#stream = options.stream;
    this.#input = options.input;
    this.#output = options.output;
    this.#report = options.report;
    const { pageSize } = options.stream;
    // Head of the record, count, reserved and the entry words; on a page's edge, so that the pages are on one too.
    this.#pagesAt = Math.ceil((16 + 8 * batchPages) / pageSize) * pageSize;
    this.#buffer = new Uint8Array(this.#pagesAt + batchPages * pageSize);
    this.#pages = this.#buffer.subarray(this.#pagesAt);
  }

  /** A libxc stream of version 3: headers, static data, pages, END. */
  libxc(options: { guest: GuestKind; pages: number | null }): { pages: number; zero: number } {
    const { encodeLibxcHeader, encodeLibxcRecord } = this.#stream;
    const { guest } = options;
    this.#output.write(
      encodeLibxcHeader({ version: 3, bigEndian: false, guest, xenMajor: 4, xenMinor: 20 }),
    );
    if (guest === "pv") {
      this.#output.write(...encodeLibxcRecord({ name: "X86_PV_INFO", guestWidth: 8, ptLevels: 4 }));
    }
    this.#output.write(...encodeLibxcRecord({ name: "STATIC_DATA_END" }));
    if (guest === "pv" && options.pages !== null) {
      const endPfn = options.pages - 1;
      const frames = new BigUint64Array(Math.floor(endPfn / 512) + 1);
      this.#output.write(...encodeLibxcRecord({ name: "X86_PV_P2M_FRAMES", startPfn: 0, endPfn, frames }));
    }
    let pfn = 0;
    for (let count = this.#fill(); count > 0; count = this.#fill()) {
      const pfns = new Float64Array(count);
      for (let index = 0; index < count; index++) pfns[index] = pfn++;
      this.#output.write(this.#record(pfns));
    }
    this.#output.write(...encodeLibxcRecord({ name: "END" }));
    return { pages: pfn, zero: 0 };
  }

  /** A region's stream: what it is, its pages, which of them are zero, a digest, END. */
  region(
    options: {
      pages: number;
      label: string;
      digest: StreamDigest;
    },
  ): { pages: number; zero: number } {
    const { encodeRegionHeader, encodeRegionRecord, isZeroPage, pageSize, rangesMax } = this.#stream;
    const { pages, digest } = options;
    const write = (...pieces: Uint8Array[]): void => {
      for (const piece of pieces) digest.update(piece);
      this.#output.write(...pieces);
    };
    const record = (value: RegionRecord): void => write(...encodeRegionRecord(value));
    write(encodeRegionHeader({ bigEndian: false }));
    const regionId = crypto.getRandomValues(new Uint8Array(16));
    record({ name: "REGION_INFO", regionId, pages, term: 0n, label: options.label });
    let ranges: PageRange[] = [];
    const pfns = new Float64Array(batchPages);
    let pfn = 0;
    let zero = 0;
    for (let count = this.#fill(); count > 0; count = this.#fill()) {
      let kept = 0;
      for (let index = 0; index < count; index++, pfn++) {
        if (isZeroPage(this.#pages, index * pageSize)) {
          zero++;
          const last = ranges.at(-1);
          if (last !== undefined && last.pfn + last.count === pfn) last.count++;
          else ranges.push({ pfn, count: 1 });
        } else {
          if (kept < index) {
            this.#pages.copyWithin(kept * pageSize, index * pageSize, (index + 1) * pageSize);
          }
          pfns[kept++] = pfn;
        }
      }
      if (kept > 0) write(this.#record(pfns.slice(0, kept)));
      if (ranges.length > rangesMax - batchPages) {
        record({ name: "ZERO_RANGES", ranges });
        ranges = [];
      }
    }
    if (pfn !== pages) {
      throw new DroverError("busy", `Cannot write "${this.#input.path}": it changed its size meanwhile`);
    }
    if (ranges.length > 0) record({ name: "ZERO_RANGES", ranges });
    record({ name: "DIGEST", digest: new Uint8Array(digest.digest()) });
    record({ name: "END" });
    return { pages, zero };
  }

  /** Reads a batch into its place. @returns its pages, 0 at the end. */
  #fill(): number {
    const size = this.#input.fill(this.#pages);
    if (size % this.#stream.pageSize !== 0) {
      throw new DroverError(
        "usage",
        `Cannot write "${this.#input.path}" as pages: it ends ${
          size % this.#stream.pageSize
        } octets into one`,
      );
    }
    this.#report(this.#input.offset, this.#input.size);
    return size / this.#stream.pageSize;
  }

  /** The PAGE_DATA record of the first pages of the buffer, as one piece of it. */
  #record(pfns: Float64Array<ArrayBuffer>): Uint8Array {
    const size = pfns.length * this.#stream.pageSize;
    const [head] = this.#stream.encodePageData({
      pfns,
      types: new Uint8Array(pfns.length),
      pages: this.#pages.subarray(0, size),
    });
    if (head === undefined) throw new Error("A record without a head");
    const at = this.#pagesAt - head.length;
    this.#buffer.set(head, at);
    return this.#buffer.subarray(at, this.#pagesAt + size);
  }
}
