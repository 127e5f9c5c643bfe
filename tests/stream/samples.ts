/**
 * Valid streams from a seed: every profile but legacy, which `legacy_samples.ts` makes.
 *
 * The octets come from the writer, and the writer is held against octets made by hand in the tests of the records.
 * Two samples with the same options are the same.
 */
import { createHash } from "node:crypto";
import { encodePages, regionPageSizeMax } from "../../lib/stream/delta.ts";
import {
  carriesPage,
  type LibxcRecord,
  type LibxlRecord,
  type PageBatch,
  pageSize,
  pageTypes,
  type RegionRecord,
  type StreamItem,
  type StreamProfile,
} from "../../lib/stream/item.ts";
import type { StreamDigest } from "../../lib/stream/intake.ts";
import { encodeItem, newWriterState } from "../../lib/stream/writer.ts";
import { legacySample } from "./legacy_samples.ts";
import { prng } from "./prng.ts";

/** What a sample should be. Everything that is left out has a default. */
export interface SampleOptions {
  seed: number;
  /** HVM by default. */
  guest?: "pv" | "hvm";
  /** Width of a PV guest: 8 by default. */
  guestWidth?: 4 | 8;
  /** Of libxc's image header: 3 by default. */
  version?: 2 | 3;
  /** Checkpoints; 0, the default, makes a plain stream. */
  epochs?: number;
  /** Endianness of the records; of libxl's, libxc's and xl's alike. */
  bigEndian?: boolean;
  /** Pages of the guest: 1100 by default, so that a PV guest's table has more than one frame. */
  pages?: number;
  /** PAGE_DATA records of an epoch: 3 by default. */
  batches?: number;
  /** Entries of such a record at most: 10 by default. */
  entries?: number;
  /** VERIFY and every page once more, in a plain stream. */
  verify?: boolean;
  /** libxl: CHECKPOINT_STATE behind each CHECKPOINT_END. */
  colo?: boolean;
  /** Unknown optional records, which Xen's libxc passes over. */
  optional?: boolean;
}

/** A sample. */
export interface Sample {
  /** Says which, in the message of a test. */
  name: string;
  profile: StreamProfile;
  bytes: Uint8Array<ArrayBuffer>;
  /** What a reader should give, without places; empty for a legacy sample. */
  items: StreamItem[];
  /** The memory after each epoch, or at the end of a plain stream, by frame number. */
  memories: Map<number, Uint8Array<ArrayBuffer>>[];
  /** Offsets behind the record that ends each epoch; of a plain stream behind END. */
  ends: number[];
}

/** A running SHA-256, as readers of regions want it. */
export function sha256(): StreamDigest {
  const hash = createHash("sha256");
  return {
    update: (bytes) => void hash.update(bytes),
    digest: () => new Uint8Array(hash.copy().digest()),
  };
}

/** Octets of pieces, one after the other. */
export function concat(parts: Iterable<Uint8Array>): Uint8Array<ArrayBuffer> {
  const pieces = [...parts];
  const bytes = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    bytes.set(piece, at);
    at += piece.length;
  }
  return bytes;
}

/** A libxc stream. */
export function libxcSample(options: SampleOptions): Sample {
  const maker = new Maker(options);
  maker.libxc(() => {});
  return maker.sample("libxc");
}

/** A libxl stream. */
export function libxlSample(options: SampleOptions): Sample {
  const maker = new Maker(options);
  maker.libxl();
  return maker.sample("libxl");
}

/** A file of `xl save`. */
export function xlSample(options: SampleOptions): Sample {
  const maker = new Maker(options);
  const text = new TextEncoder().encode('{"c_info":{"name":"sample"}}');
  const data = new Uint8Array(4 + text.length);
  new DataView(data.buffer).setUint32(0, text.length, options.bigEndian !== true);
  data.set(text, 4);
  maker.add({
    layer: "xl",
    header: { bigEndian: options.bigEndian === true, mandatoryFlags: 3, optionalFlags: 0, data },
  });
  maker.libxl();
  return maker.sample("xl");
}

/** A region. */
export function regionSample(options: SampleOptions): Sample {
  const maker = new Maker(options);
  maker.region();
  return maker.sample("region");
}

/** Small samples of every profile and shape; `sizes` makes them smaller still. */
export function* allSamples(
  seed: number,
  sizes: Pick<SampleOptions, "batches" | "entries"> = {},
): Generator<Sample, void, undefined> {
  for (const bigEndian of [false, true]) {
    for (const epochs of [0, 1, 3]) {
      const common = { ...sizes, seed, bigEndian, epochs, optional: seed % 2 === 0, verify: seed % 3 === 0 };
      for (const version of [2, 3] as const) {
        yield libxcSample({ ...common, version, guest: "hvm" });
        yield libxcSample({ ...common, version, guest: "pv", guestWidth: 4 });
        yield libxcSample({ ...common, version, guest: "pv", guestWidth: 8 });
      }
      for (const make of [libxlSample, xlSample]) {
        yield make({ ...common, guest: "hvm", optional: false });
        yield make({ ...common, guest: "hvm", colo: true, optional: false });
        yield make({ ...common, guest: "pv", optional: false });
        yield make({ ...common, guest: "pv", colo: true, optional: false });
      }
      yield regionSample(common);
    }
  }
  for (const width of [4, 8] as const) {
    for (const guest of ["pv", "hvm"] as const) {
      for (const epochs of [1, 3]) {
        const { bytes, memories, ends } = legacySample({
          ...sizes,
          seed,
          width,
          guest,
          epochs,
          compressed: seed % 2 === 0,
        });
        yield {
          name: `legacy ${JSON.stringify({ seed, width, guest, epochs })}`,
          profile: "legacy",
          bytes,
          items: [],
          memories: memories.map((memory) =>
            new Map([...memory].map(([pfn, page]) => [pfn, new Uint8Array(page)] as const))
          ),
          ends,
        };
      }
    }
  }
}

/** Makes one sample, item by item. */
class Maker {
  readonly #options: Required<SampleOptions>;
  readonly #random: (bound: number) => number;
  readonly #state = newWriterState();
  readonly #parts: Uint8Array[] = [];
  readonly #items: StreamItem[] = [];
  readonly #memory = new Map<number, Uint8Array<ArrayBuffer>>();
  readonly #memories: Map<number, Uint8Array<ArrayBuffer>>[] = [];
  readonly #ends: number[] = [];
  readonly #hash = sha256();
  #size = 0;

  constructor(options: SampleOptions) {
    this.#options = {
      guest: "hvm",
      guestWidth: 8,
      version: 3,
      epochs: 0,
      bigEndian: false,
      pages: 1100,
      batches: 3,
      entries: 10,
      verify: false,
      colo: false,
      optional: false,
      ...options,
    };
    this.#random = prng(options.seed);
  }

  add(item: StreamItem): void {
    this.#items.push(item);
    for (const piece of encodeItem(item, this.#state)) {
      this.#parts.push(piece);
      this.#hash.update(piece);
      this.#size += piece.length;
    }
  }

  sample(profile: StreamProfile): Sample {
    if (this.#options.epochs === 0) this.#commit();
    return {
      name: `${profile} ${JSON.stringify(this.#options)}`,
      profile,
      bytes: concat(this.#parts),
      items: this.#items,
      memories: this.#memories,
      ends: this.#ends,
    };
  }

  libxl(): void {
    const { bigEndian, epochs, guest, colo } = this.#options;
    const add = (record: LibxlRecord): void => this.add({ layer: "libxl", record });
    const emulator = (): void => {
      if (guest === "pv") return;
      const text = this.#random(4) === 0
        ? ""
        : `physmap/${this.#random(9)}0000000/start_addr\0${this.#random(9)}000\0hvmloader/bios\0seabios\0`;
      const place = { emulatorId: 1 + this.#random(2), index: 0 };
      add({ name: "EMULATOR_XENSTORE_DATA", ...place, data: new Uint8Array(new TextEncoder().encode(text)) });
      add({ name: "EMULATOR_CONTEXT", ...place, context: this.#octets(this.#random(300)) });
    };
    this.add({ layer: "libxl", header: { bigEndian, converted: false } });
    add({ name: "LIBXC_CONTEXT" });
    this.libxc(() => {
      emulator();
      add({ name: "CHECKPOINT_END" });
      this.#commit();
      if (colo) add({ name: "CHECKPOINT_STATE", controlId: 0 });
    });
    if (epochs === 0) emulator();
    add({ name: "END" });
  }

  /** A libxc stream; `afterCheckpoint` writes what stands behind each CHECKPOINT. */
  libxc(afterCheckpoint: () => void): void {
    const { guest, guestWidth, version, epochs, bigEndian, pages, batches, verify, optional } = this.#options;
    const add = (record: LibxcRecord): void => this.add({ layer: "libxc", record });
    this.add({ layer: "libxc", header: { version, bigEndian, guest, xenMajor: 4, xenMinor: 20 } });
    if (guest === "pv") add({ name: "X86_PV_INFO", guestWidth, ptLevels: guestWidth === 4 ? 3 : 4 });
    if (version === 3) {
      add({
        name: "X86_CPUID_POLICY",
        leaves: Array.from({ length: 1 + this.#random(5) }, (_, leaf) => {
          const [eax, ebx, ecx, edx] = [this.#u32(), this.#u32(), this.#u32(), this.#u32()] as const;
          return { leaf, subleaf: 0xffff_ffff, eax, ebx, ecx, edx };
        }),
      });
      add({ name: "X86_MSR_POLICY", msrs: [{ index: 0xce, flags: 0, value: this.#u64() }] });
      add({ name: "STATIC_DATA_END" });
    }
    if (optional) {
      add({ name: "UNKNOWN", type: 0x8000_0000 + this.#random(99), body: this.#octets(this.#random(20)) });
    }
    if (guest === "pv") {
      const perFrame = 4096 / guestWidth;
      const frames = BigUint64Array.from(
        { length: Math.floor((pages - 1) / perFrame) + 1 },
        () => BigInt(this.#random(pages)),
      );
      add({ name: "X86_PV_P2M_FRAMES", startPfn: 0, endPfn: pages - 1, frames });
    }
    for (let epoch = 0; epoch < Math.max(1, epochs); epoch++) {
      for (let count = 0; count < batches; count++) add({ name: "PAGE_DATA", batch: this.#batch(guest) });
      if (verify && epochs === 0 && this.#memory.size > 0) {
        add({ name: "VERIFY" });
        const pfns = Float64Array.from(this.#memory.keys());
        const types = new Uint8Array(pfns.length);
        add({ name: "PAGE_DATA", batch: { pfns, types, pages: concat(this.#memory.values()) } });
      }
      add({
        name: "X86_TSC_INFO",
        tsc: { mode: 1, khz: 2_400_000, nsec: this.#u64(), incarnation: this.#random(5) },
      });
      if (guest === "pv") this.#pvState(add);
      else this.#hvmState(add);
      if (epochs > 0) {
        add({ name: "CHECKPOINT" });
        afterCheckpoint();
        if (this.#memories.length <= epoch) this.#commit();
      }
    }
    add({ name: "END" });
  }

  region(): void {
    const { bigEndian, epochs, pages, batches, optional } = this.#options;
    const add = (record: RegionRecord): void => this.add({ layer: "region", record });
    const digest = (): void => add({ name: "DIGEST", digest: new Uint8Array(this.#hash.digest()) });
    this.add({ layer: "region", header: { bigEndian } });
    const label = ["", "cache", "Zwischenspeicher ÄÖÜ", "\ufeff"][this.#random(4)] ?? "";
    add({ name: "REGION_INFO", regionId: this.#octets(16), pages, term: this.#u64(), label });
    if (optional) add({ name: "UNKNOWN", type: 0xffff_fff0, body: this.#octets(9) });
    for (let epoch = 0; epoch < Math.max(1, epochs); epoch++) {
      const zero = [{ pfn: this.#random(20), count: 1 + this.#random(20) }, { pfn: pages - 3, count: 3 }];
      add({ name: "ZERO_RANGES", ranges: zero });
      for (const { pfn, count } of zero) {
        for (let at = pfn; at < pfn + count; at++) this.#memory.set(at, new Uint8Array(pageSize));
      }
      for (let count = 0; count < batches; count++) add({ name: "PAGE_DATA", batch: this.#batch(null) });
      if (epoch > 0) add({ name: "PAGE_DELTAS", deltas: this.#deltas() });
      digest();
      if (epochs > 0) {
        add({ name: "CHECKPOINT" });
        this.#commit();
      }
    }
    if (epochs > 0) digest();
    add({ name: "END" });
  }

  #pvState(add: (record: LibxcRecord) => void): void {
    const { guestWidth } = this.#options;
    add({ name: "SHARED_INFO", page: this.#page() });
    for (let vcpuId = 0; vcpuId < 2; vcpuId++) {
      const blobs = [
        ["X86_PV_VCPU_BASIC", guestWidth === 4 ? 2800 : 5168],
        ["X86_PV_VCPU_EXTENDED", vcpuId === 0 ? 128 : this.#random(129)],
        ["X86_PV_VCPU_XSAVE", 16 + this.#random(600)],
      ] as const;
      for (const [name, size] of blobs) add({ name, vcpuId, context: this.#octets(size) });
      const msrs = Array.from({ length: this.#random(3) }, (_, index) => ({ index, value: this.#u64() }));
      add({ name: "X86_PV_VCPU_MSRS", vcpuId, msrs });
    }
  }

  #hvmState(add: (record: LibxcRecord) => void): void {
    add({ name: "HVM_CONTEXT", context: this.#octets(1 + this.#random(500)) });
    const params = Array.from({ length: this.#random(5) }, () => ({
      index: BigInt(this.#random(39)),
      value: this.#u64(),
    }));
    add({ name: "HVM_PARAMS", params });
  }

  /** A batch of pages; of plain ones for a region, which has no guest. */
  #batch(guest: "pv" | "hvm" | null): PageBatch {
    const { pages, entries } = this.#options;
    const wanted = new Set<number>();
    for (let count = 1 + this.#random(entries); count > 0; count--) wanted.add(this.#random(pages));
    const pfns = Float64Array.from(wanted);
    const kinds = guest === null
      ? [pageTypes.normal]
      : guest === "hvm"
      ? [pageTypes.normal, pageTypes.normal, pageTypes.normal, pageTypes.invalid, pageTypes.broken]
      : Object.values(pageTypes);
    const types = Uint8Array.from(pfns, () => kinds[this.#random(kinds.length)] ?? 0);
    const contents: Uint8Array[] = [];
    pfns.forEach((pfn, index) => {
      if (!carriesPage(types[index] ?? 0)) return;
      const page = this.#page();
      contents.push(page);
      this.#memory.set(pfn, page);
    });
    return { pfns, types, pages: concat(contents) };
  }

  /** Changes to some pages of the memory, as they are now. */
  #deltas(): { pfns: Float64Array<ArrayBuffer>; data: Uint8Array<ArrayBuffer> } {
    const pfns = Float64Array.from(this.#memory.keys()).filter(() => this.#random(3) === 0).slice(0, 20);
    const chosen = pfns.length > 0 ? pfns : Float64Array.from(this.#memory.keys()).slice(0, 1);
    const olds = concat(Array.from(chosen, (pfn) => this.#memory.get(pfn) ?? new Uint8Array(pageSize)));
    const news = olds.slice();
    chosen.forEach((pfn, index) => {
      const page = news.subarray(pageSize * index, pageSize * (index + 1));
      const changes = [0, 1, 40, 400, 4096][this.#random(5)] ?? 0;
      for (let count = 0; count < changes; count++) page[this.#random(pageSize)] = this.#random(256);
      this.#memory.set(pfn, page.slice());
    });
    const room = new Uint8Array(regionPageSizeMax * chosen.length);
    return { pfns: chosen, data: room.slice(0, encodePages(olds, news, chosen.length, room)) };
  }

  #commit(): void {
    this.#memories.push(new Map(this.#memory));
    this.#ends.push(this.#size);
  }

  #page(): Uint8Array<ArrayBuffer> {
    const page = new Uint8Array(pageSize).fill(this.#random(256));
    for (let count = 0; count < 32; count++) page[this.#random(pageSize)] = this.#random(256);
    return page;
  }

  #octets(size: number): Uint8Array<ArrayBuffer> {
    return Uint8Array.from({ length: size }, () => this.#random(256));
  }

  #u32(): number {
    return this.#random(0xffff_ffff);
  }

  #u64(): bigint {
    return BigInt(this.#u32()) << 32n | BigInt(this.#u32());
  }
}
