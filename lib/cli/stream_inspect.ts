/** `drover stream inspect`: what is in a stream, as a table. */
import type { Command } from "commander";
import { FormatError } from "../base/errors.ts";
import { toHex } from "../base/hex.ts";
import type { CheckpointOutcome, PlacedItem } from "../stream/mod.ts";
import { exitCode } from "./exit.ts";
import { formatBytes, formatCount, formatTable } from "./format.ts";
import type { RunCommand } from "./registry.ts";
import {
  digestMaker,
  hex,
  shellWord,
  StreamInput,
  widenPipe,
  withHint,
  withProgress,
} from "./stream_files.ts";
import { itemsOf, type Stream } from "./stream_images.ts";
import { errorText, type Terminal } from "./terminal.ts";

export const usage = `Usage: drover stream inspect FILE [--json]

Shows the headers and records of a save image, a migration stream or a region, with their offsets and what is in them.
Records of one kind that follow each other are one row. At the end: epochs, and pages by their type. What can be read
of a broken stream is shown before the error.

FILE is a file or a pipe; - is stdin.

Options:
      --json  one object per row {"record", "offset", "size", "count", "layer", "name", …}, then {"file", "profile",
              "status", "bytes", "records", "epochs", "entries", "types"}
  -h, --help  this text

Example:
  $ drover stream inspect guest.save
  offset      record                            size
  0x0              0  libxc  header             40 B  version 3, hvm, little-endian, Xen 4.20
  0x28             1  libxc  STATIC_DATA_END     8 B
  0x30         2-257  libxc  PAGE_DATA        1.1 GB  262144 pages, pfn 0x0-0x3ffff
  0x40080030     258  libxc  END                 8 B  commits epoch 1
  guest.save: libxc, complete, 259 records, 1.1 GB
  pages: 262144 normal
`;

export function define(command: Command, run: RunCommand): void {
  command.argument("<file>").action((path: string) =>
    run(async (terminal) => {
      await widenPipe(path, 0);
      using input = new StreamInput(path);
      const stream = await import("../stream/mod.ts");
      // Contents are counted, not kept.
      let memory = new Uint8Array(0);
      const reader = new stream.StreamReader({
        digest: await digestMaker(),
        allocate: (size) => {
          if (memory.length < size) memory = new Uint8Array(size);
          return memory.subarray(0, size);
        },
      });
      const inspection = new Inspection(stream, terminal);
      let failure: unknown = undefined;
      await withProgress(terminal, "inspect", (report) => {
        try {
          for (const item of itemsOf(input, reader, report)) inspection.take(item);
        } catch (error) {
          failure = error;
        }
      });
      const result = inspection.finish(failure);
      const { status, epochs, entries, types } = result;
      const profile = reader.profile ?? "unknown";
      if (status !== "unreadable") {
        terminal.line(
          `${path}: ${profile}, ${status}${
            epochs === 1 && status === "complete" ? "" : ` at epoch ${epochs}`
          }, ` +
            `${formatCount(result.records, "record", "records")}, ${formatBytes(result.bytes)}`,
        );
      }
      if (entries > 0) {
        terminal.line(
          `pages: ${Object.entries(types).map(([name, count]) => `${count} ${name}`).join(", ")}`,
        );
      }
      terminal.object({
        file: path,
        profile,
        status,
        bytes: result.bytes,
        records: result.records,
        epochs,
        entries,
        types,
      });
      if (failure !== undefined && (status === "unreadable" || !isTruncation(failure))) {
        throw path === "-" ? failure : withHint(failure, `drover stream verify ${shellWord(path)}`);
      }
      if (failure !== undefined) {
        terminal.warning(`${path} stops behind epoch ${epochs}: ${errorText(failure)}`);
      }
      return exitCode.ok;
    })
  );
}

/** Names of the page types, for people and for `--json`. */
const typeNames: readonly string[] = [
  ...["normal", "l1", "l2", "l3", "l4", "reserved-5", "reserved-6", "reserved-7", "reserved-8"],
  ...["l1-pinned", "l2-pinned", "l3-pinned", "l4-pinned", "broken", "allocate-only", "invalid"],
];

/** Rows that are lined up together: all, unless they are very many. */
const tableRows = 1000;

/** Records of one kind that follow each other. */
interface Row {
  record: number;
  offset: number;
  size: number;
  count: number;
  layer: string;
  name: string;
  facts: Facts;
}

/** What is known of a record: numbers that add up, the range of its frames, and the rest. */
interface Facts {
  /** Entries, zero pages, changed pages. */
  pages?: number;
  /** Entries without contents. */
  bare?: number;
  first?: number;
  last?: number;
  /** Everything else, by name; shown for a single record only. */
  more?: Readonly<Record<string, string | number | bigint | boolean>>;
  /** The epoch that it commits. */
  commits?: number;
}

/** Takes items and shows rows. */
class Inspection {
  readonly #terminal: Terminal;
  readonly #receiver: InstanceType<Stream["CheckpointReceiver"]>;
  readonly #carriesPage: Stream["carriesPage"];
  readonly #types = new Array<number>(16).fill(0);
  #rows: string[][] = [["offset", "record", "", "", "size", ""]];
  #open: Row | null = null;
  #records = 0;
  #bytes = 0;
  #legacy = false;
  #legacyEpochs = 0;
  /** What the tables of checkpoints refused: shown, and no reason to stop. */
  #refused: unknown = undefined;

  constructor(stream: Stream, terminal: Terminal) {
    this.#terminal = terminal;
    this.#carriesPage = stream.carriesPage;
    const nothing = (): void => {};
    this.#receiver = new stream.CheckpointReceiver({
      target: { apply: nothing, hold: nothing, commit: nothing, drop: nothing },
      epochSizeMax: Infinity,
    });
  }

  take(item: PlacedItem): void {
    this.#records++;
    this.#bytes = item.place.offset + item.place.size;
    const facts = this.#factsOf(item);
    const commits = this.#commits(item);
    if (commits !== null) facts.commits = commits;
    const name = "header" in item ? "header" : item.record.name;
    const open = this.#open;
    if (
      open !== null && open.layer === item.layer && open.name === name && commits === null &&
      open.facts.commits === undefined
    ) {
      open.count++;
      open.size += item.place.size;
      add(open.facts, facts);
      return;
    }
    this.#close();
    const { index, offset, size } = item.place;
    this.#open = { record: index, offset, size, count: 1, layer: item.layer, name, facts };
  }

  /** Shows the rest and says what it came to. */
  finish(failure: unknown): {
    status: CheckpointOutcome["status"] | "unreadable";
    epochs: number;
    records: number;
    bytes: number;
    entries: number;
    types: Record<string, number>;
  } {
    this.#close();
    this.#flush();
    const types: Record<string, number> = {};
    this.#types.forEach((count, type) => {
      if (count > 0) types[typeNames[type] ?? String(type)] = count;
    });
    const entries = this.#types.reduce((sum, count) => sum + count, 0);
    const totals = { records: this.#records, bytes: this.#bytes, entries, types };
    if (this.#legacy) {
      const status = failure === undefined ? "complete" : this.#legacyEpochs > 0 ? "failover" : "unreadable";
      return { status, epochs: this.#legacyEpochs, ...totals };
    }
    try {
      const outcome = failure === undefined && this.#refused === undefined
        ? this.#receiver.finish()
        : this.#receiver.fail(failure ?? this.#refused);
      return { status: outcome.status, epochs: outcome.epochs, ...totals };
    } catch {
      return { status: "unreadable", epochs: 0, ...totals };
    }
  }

  /** The epoch that an item commits, or null. */
  #commits(item: PlacedItem): number | null {
    if (item.layer === "legacy") {
      this.#legacy = true;
      const { name } = item.record;
      return name === "HVM_TAIL" || name === "PV_TAIL" ? ++this.#legacyEpochs : null;
    }
    if (this.#refused !== undefined) return null;
    try {
      return this.#receiver.take(item) ? this.#receiver.epochs : null;
    } catch (error) {
      if (!(error instanceof FormatError)) throw error;
      this.#refused = error;
      this.#terminal.warning(errorText(error));
      return null;
    }
  }

  #close(): void {
    const row = this.#open;
    if (row === null) return;
    this.#open = null;
    const { record, offset, size, count, layer, name, facts } = row;
    const { more, ...counts } = facts;
    this.#terminal.object({ record, offset, size, count, layer, name, ...counts, ...more });
    this.#rows.push([
      hex(offset),
      count === 1 ? String(record) : `${record}-${record + count - 1}`,
      layer,
      name,
      formatBytes(size),
      describe(row),
    ]);
    if (this.#rows.length >= tableRows) this.#flush();
  }

  #flush(): void {
    if (this.#records === 0) return;
    for (const line of formatTable(this.#rows, [1, 4])) this.#terminal.line(line);
    this.#rows = [];
  }

  /** Entries of a batch: counted by type, with the range of those that carry a page. */
  #entries(count: number, pfnOf: (index: number) => number, typeOf: (index: number) => number): Facts {
    let bare = 0;
    let first = Infinity;
    let last = 0;
    for (let index = 0; index < count; index++) {
      const type = typeOf(index) & 0xf;
      this.#types[type] = (this.#types[type] ?? 0) + 1;
      if (!this.#carriesPage(type)) bare++;
      const pfn = pfnOf(index);
      if (pfn < first) first = pfn;
      if (pfn > last) last = pfn;
    }
    return { pages: count, ...(bare > 0 ? { bare } : {}), first, last };
  }

  #factsOf(item: PlacedItem): Facts {
    if ("header" in item) {
      switch (item.layer) {
        case "xl":
          return { more: { mandatoryFlags: hex(item.header.mandatoryFlags), data: item.header.data.length } };
        case "libxl":
          return { more: { bigEndian: item.header.bigEndian, converted: item.header.converted } };
        case "libxc": {
          const { version, guest, bigEndian, xenMajor, xenMinor } = item.header;
          return { more: { version, guest, bigEndian, xen: `${xenMajor}.${xenMinor}` } };
        }
        case "region":
          return { more: { bigEndian: item.header.bigEndian } };
      }
    }
    const { record } = item;
    switch (record.name) {
      case "PAGE_DATA": {
        const { pfns, types } = record.batch;
        return this.#entries(pfns.length, (index) => pfns[index] ?? 0, (index) => types[index] ?? 0);
      }
      case "BATCH": {
        const { entries } = record;
        return this.#entries(
          entries.length,
          (index) => (entries[index] ?? 0) & 0xfff_ffff,
          (index) => (entries[index] ?? 0) >>> 28,
        );
      }
      case "PAGE_DELTAS": {
        const { pfns } = record.deltas;
        const facts: Facts = { pages: pfns.length };
        for (const pfn of pfns) {
          facts.first = Math.min(facts.first ?? pfn, pfn);
          facts.last = Math.max(facts.last ?? pfn, pfn);
        }
        return facts;
      }
      case "ZERO_RANGES": {
        const last = record.ranges.at(-1);
        return {
          pages: record.ranges.reduce((sum, { count }) => sum + count, 0),
          first: record.ranges[0]?.pfn ?? 0,
          last: last === undefined ? 0 : last.pfn + last.count - 1,
        };
      }
      case "X86_PV_INFO":
        return { more: { guestWidth: record.guestWidth, ptLevels: record.ptLevels } };
      case "X86_PV_P2M_FRAMES":
        return { first: record.startPfn, last: record.endPfn, more: { frames: record.frames.length } };
      case "X86_PV_VCPU_BASIC":
      case "X86_PV_VCPU_EXTENDED":
      case "X86_PV_VCPU_XSAVE":
        return { more: { vcpu: record.vcpuId } };
      case "X86_PV_VCPU_MSRS":
        return { more: { vcpu: record.vcpuId, msrs: record.msrs.length } };
      case "X86_TSC_INFO":
      case "TSC_INFO":
        return { more: { ...record.tsc } };
      case "HVM_PARAMS":
        return { more: { params: record.params.length } };
      case "HVM_PARAM":
        return { more: { id: record.id, value: record.value } };
      case "X86_CPUID_POLICY":
        return { more: { leaves: record.leaves.length } };
      case "X86_MSR_POLICY":
        return { more: { msrs: record.msrs.length } };
      case "EMULATOR_XENSTORE_DATA":
      case "EMULATOR_CONTEXT":
        return { more: { emulator: record.emulatorId, index: record.index } };
      case "CHECKPOINT_STATE":
        return { more: { control: record.controlId } };
      case "REGION_INFO": {
        const { regionId, pages, term, label } = record;
        return { more: { regionId: toHex(regionId), label: JSON.stringify(label), pagesTotal: pages, term } };
      }
      case "DIGEST":
        return { more: { digest: toHex(record.digest) } };
      case "HEADER": {
        const { width, guest, p2mSize } = record.header;
        return { more: { width: width * 8, guest, p2mSize } };
      }
      case "VCPU_INFO":
        return { more: { vcpuIdMax: record.vcpuIdMax } };
      case "DEVICE_MODEL":
        return { more: { signature: record.signature } };
      case "PV_TAIL":
        return { more: { vcpus: record.vcpus.length } };
      case "UNKNOWN":
        return { more: { type: hex(record.type) } };
      default:
        return {};
    }
  }
}

/** Adds what another record of the row has. */
function add(facts: Facts, other: Facts): void {
  if (other.pages !== undefined) facts.pages = (facts.pages ?? 0) + other.pages;
  if (other.bare !== undefined) facts.bare = (facts.bare ?? 0) + other.bare;
  if (other.first !== undefined) facts.first = Math.min(facts.first ?? other.first, other.first);
  if (other.last !== undefined) facts.last = Math.max(facts.last ?? other.last, other.last);
  delete facts.more;
}

/** The last column, in words. */
function describe(row: Row): string {
  const { pages, bare, first, last, more, commits } = row.facts;
  const parts: string[] = [];
  if (row.count > 1 && pages === undefined) parts.push(`${row.count} times`);
  if (pages !== undefined) {
    const kind = row.name === "ZERO_RANGES" ? " zero" : row.name === "PAGE_DELTAS" ? " changed" : "";
    parts.push(`${pages}${kind} ${pages === 1 ? "page" : "pages"}`);
  }
  if (bare !== undefined) parts.push(`${bare} without contents`);
  if (first !== undefined && last !== undefined) {
    parts.push(`pfn ${first === last ? hex(first) : `${hex(first)}-${hex(last)}`}`);
  }
  for (const [name, value] of Object.entries(more ?? {})) parts.push(words(name, value));
  if (commits !== undefined) parts.push(`commits epoch ${commits}`);
  return parts.join(", ");
}

/** One fact of a record in words. */
function words(name: string, value: string | number | bigint | boolean): string {
  switch (name) {
    case "bigEndian":
      return value === true ? "big-endian" : "little-endian";
    case "converted":
      return value === true ? "converted" : "not converted";
    case "guest":
      return String(value);
    case "guestWidth":
      return `${Number(value) * 8}-bit guest`;
    case "width":
      return `${value}-bit sender`;
    case "ptLevels":
      return `${value} levels`;
    case "xen":
      return value === "0.1" ? "converted from legacy" : `Xen ${value}`;
    case "data":
      return `${formatBytes(Number(value))} of configuration`;
    case "frames":
      return formatCount(Number(value), "frame", "frames");
    case "params":
      return formatCount(Number(value), "parameter", "parameters");
    case "leaves":
      return formatCount(Number(value), "leaf", "leaves");
    case "msrs":
      return formatCount(Number(value), "register", "registers");
    case "vcpus":
      return formatCount(Number(value), "processor", "processors");
    case "pagesTotal":
      return `${value} pages`;
    default:
      return `${name} ${value}`;
  }
}

/** Whether the stream only stopped, as a checkpointed one does when its sender dies. */
function isTruncation(error: unknown): boolean {
  return error instanceof FormatError && /\.(truncated|missing)$/.test(error.rule);
}
