/**
 * What the reader leaves to others, said once more and as plainly as possible, over typed items: the order of
 * records, and what one says about another. The reader and this together should take exactly what the verifier takes.
 *
 * @module
 */
import { checkDeltas, checkRemusPages, measureRemusPage } from "../../lib/stream/delta.ts";
import type { LegacyHeader, LegacyRecord, LibxcRecord, StreamItem } from "../../lib/stream/item.ts";
import { legacyHole } from "../../lib/stream/legacy_format.ts";
import { xenstoreOfToolstack } from "../../lib/stream/toolstack.ts";
import { join } from "./verify_assembler.ts";

/** What is wrong with a stream of these items; empty when nothing is. `whole` says that nothing was cut off. */
export function lies(items: readonly StreamItem[], whole: boolean): string[] {
  const found: string[] = [];
  const say = (condition: boolean, what: string): void => {
    if (condition) found.push(what);
  };
  xl(items, say);
  libxl(items, say);
  libxc(items, say);
  region(items, say);
  legacy(items, say, whole);
  return found;
}

type Say = (condition: boolean, what: string) => void;

function xl(items: readonly StreamItem[], say: Say): void {
  for (const item of items) {
    if (item.layer !== "xl" || item.header.data.length === 0) continue;
    const { data, bigEndian } = item.header;
    const size = data.length < 4
      ? Infinity
      : new DataView(data.buffer, data.byteOffset).getUint32(0, !bigEndian);
    say(size > data.length - 4, "a configuration too long");
  }
}

function libxl(items: readonly StreamItem[], say: Say): void {
  let pv = false;
  let seen = false;
  let inCheckpoint = false;
  let before = "";
  for (const item of items) {
    if (item.layer === "libxc" && "header" in item) pv = item.header.guest === "pv";
    if (item.layer === "libxc" && "record" in item && item.record.name === "CHECKPOINT") inCheckpoint = true;
    if (item.layer === "libxl" && "record" in item) {
      const { record } = item;
      switch (record.name) {
        case "LIBXC_CONTEXT":
          seen = true;
          break;
        case "END":
          say(inCheckpoint || !seen, "END too early");
          break;
        case "CHECKPOINT_END":
          inCheckpoint = false;
          break;
        case "EMULATOR_XENSTORE_DATA":
        case "EMULATOR_CONTEXT":
          say(pv || !seen, "an emulator that should not be");
          if (record.name === "EMULATOR_XENSTORE_DATA" && record.data.length > 0) {
            const strings = new TextDecoder("latin1").decode(record.data).slice(0, -1).split("\0");
            say(strings.some((key, index) => index % 2 === 0 && !/^[-A-Za-z0-9/_@]+$/.test(key)), "a key");
          }
          break;
        case "CHECKPOINT_STATE":
          say(before !== "CHECKPOINT_END" || record.controlId !== 0, "a state that should not be");
          break;
        case "UNKNOWN":
          say(true, "an optional record of libxl");
      }
    }
    before = "record" in item ? item.record.name : "";
  }
}

const pvRecords = ["X86_PV_INFO", "X86_PV_P2M_FRAMES", "SHARED_INFO"];
const staticRecords = ["X86_PV_INFO", "X86_CPUID_POLICY", "X86_MSR_POLICY"];

function libxc(items: readonly StreamItem[], say: Say): void {
  let version = 0;
  let pv = false;
  let width = 0;
  let last = -1;
  let checkpoints = 0;
  let inSection = 0;
  const seen = new Set<LibxcRecord["name"]>();
  for (const item of items) {
    if (item.layer !== "libxc") continue;
    if ("header" in item) {
      version = item.header.version;
      pv = item.header.guest === "pv";
      continue;
    }
    const { record } = item;
    const { name } = record;
    const vcpu = name.startsWith("X86_PV_VCPU_");
    const register = vcpu || ["SHARED_INFO", "X86_TSC_INFO", "HVM_CONTEXT", "HVM_PARAMS"].includes(name);
    const sde = seen.has("STATIC_DATA_END");
    say(!pv && (vcpu || pvRecords.includes(name)), "a PV record for an HVM guest");
    say(pv && (name === "HVM_CONTEXT" || name === "HVM_PARAMS"), "an HVM record for a PV guest");
    if (version >= 3) {
      say(
        !sde && (register || name === "PAGE_DATA" || name === "X86_PV_P2M_FRAMES"),
        "before STATIC_DATA_END",
      );
      say(sde && staticRecords.includes(name), "behind STATIC_DATA_END");
      say(!sde && name === "END", "no STATIC_DATA_END");
    } else {
      say(["STATIC_DATA_END", "X86_CPUID_POLICY", "X86_MSR_POLICY"].includes(name), "a record of version 3");
    }
    say(sde && name === "STATIC_DATA_END", "STATIC_DATA_END twice");
    if (pv) {
      const info = seen.has("X86_PV_INFO");
      say(info && name === "X86_PV_INFO", "X86_PV_INFO twice");
      say(!info && (name === "X86_PV_P2M_FRAMES" || name === "SHARED_INFO"), "before X86_PV_INFO");
      say(last < 0 && (vcpu || name === "PAGE_DATA"), "before X86_PV_P2M_FRAMES");
    }
    switch (record.name) {
      case "X86_PV_INFO":
        if (width === 0) width = record.guestWidth;
        break;
      case "X86_PV_P2M_FRAMES": {
        const per = width === 4 ? 1024 : 512;
        const frames = Math.floor(record.endPfn / per) - Math.floor(record.startPfn / per) + 1;
        say(width > 0 && frames !== record.frames.length, "another number of frames");
        last = Math.max(last, record.endPfn);
        break;
      }
      case "PAGE_DATA":
        say(new Set(record.batch.pfns).size !== record.batch.pfns.length, "a frame twice");
        say(pv && last >= 0 && record.batch.pfns.some((pfn) => pfn > last), "a frame beyond the last");
        break;
      case "X86_PV_VCPU_BASIC": {
        const { length } = record.context;
        say(
          length > 0 && !(width !== 4 && length === 0x1430 || width !== 8 && length === 0xaf0),
          "a vcpu's size",
        );
        break;
      }
      case "CHECKPOINT_DIRTY_PFN_LIST":
        say(true, "a list for the way back");
        break;
      case "CHECKPOINT":
        checkpoints++;
        break;
      case "END":
        say(checkpoints > 0 && inSection > 0, "records that nobody commits");
    }
    inSection = name === "CHECKPOINT" ? 0 : inSection + 1;
    seen.add(name);
  }
}

function region(items: readonly StreamItem[], say: Say): void {
  let checkpoints = 0;
  let inSection = 0;
  let index = 0;
  let before = "";
  for (const item of items) {
    if (item.layer !== "region" || "header" in item) continue;
    const { record } = item;
    const { name } = record;
    say((index === 0) !== (name === "REGION_INFO"), "REGION_INFO is the first record, once");
    say((name === "END" || name === "CHECKPOINT") && before !== "DIGEST", "no digest");
    say(name !== "END" && name !== "CHECKPOINT" && before === "DIGEST", "a digest amid others");
    say(name === "END" && checkpoints > 0 && inSection > 0, "records that nobody commits");
    if (record.name === "PAGE_DATA") {
      say(new Set(record.batch.pfns).size !== record.batch.pfns.length, "a frame twice");
    }
    if (record.name === "PAGE_DELTAS") {
      say(checkpoints === 0, "deltas in the first section");
      say(fails(() => checkDeltas(record.deltas.data, record.deltas.pfns.length)), "deltas");
    }
    if (name === "CHECKPOINT") {
      checkpoints++;
      inSection = 0;
    } else if (name !== "DIGEST") {
      inSection++;
    }
    before = name;
    index++;
  }
}

function legacy(items: readonly StreamItem[], say: Say, whole: boolean): void {
  const records = items.flatMap((item): LegacyRecord[] => item.layer === "legacy" ? [item.record] : []);
  let header: LegacyHeader | null = null;
  let epoch = 1;
  let enabled = false;
  const batches: number[] = [];
  const payloads: { data: Uint8Array<ArrayBuffer>; announced: number }[] = [];
  for (const record of records) {
    switch (record.name) {
      case "HEADER":
        header = record.header;
        say(
          header.extendedInfo !== null && !header.extendedInfo.some(({ id }) => id === "vcpu"),
          "no vcpu block",
        );
        break;
      case "BATCH": {
        const pfns = [...record.entries].filter((entry) => entry !== legacyHole).map((entry) =>
          entry & 0xfff_ffff
        );
        say(new Set(pfns).size !== pfns.length, "a frame twice");
        if (epoch > 1 && enabled) {
          batches.push([...record.entries].filter((entry) => entry >>> 28 < 0xd).length);
        }
        break;
      }
      case "COMPRESSED_DATA":
        payloads.push({ data: record.data, announced: batches.reduce((sum, count) => sum + count, 0) });
        break;
      case "ENABLE_COMPRESSION":
        say(epoch > 1, "compression too late");
        enabled = true;
        break;
      case "HVM_PARAM":
        say(record.pad !== 0, "a pad");
        say(header?.guest === "pv", "a parameter of a PV guest");
        break;
      case "TOOLSTACK":
        say(fails(() => xenstoreOfToolstack(record.data, header?.width ?? 8, 0)), "a toolstack record");
        break;
      case "END_OF_BODY":
        if (epoch > 1 && enabled) compressed(payloads, batches.reduce((sum, count) => sum + count, 0), say);
        batches.length = 0;
        payloads.length = 0;
        break;
      case "PV_TAIL":
      case "DEVICE_MODEL":
        epoch++;
    }
  }
  say(whole && records.length > 0 && epoch === 1, "no epoch");
}

/** The payloads of an epoch: as many pages as were announced, and at no time more. */
function compressed(
  payloads: readonly { data: Uint8Array<ArrayBuffer>; announced: number }[],
  announced: number,
  say: Say,
): void {
  const all = join(payloads.map(({ data }) => data));
  if (fails(() => checkRemusPages(all, announced))) {
    say(true, "compressed pages");
    return;
  }
  let page = 0;
  const starts: number[] = [];
  for (let at: number | null = 0; at !== null && page < announced; page++) {
    starts.push(at);
    at = measureRemusPage(all, at);
  }
  let end = 0;
  for (const { data, announced: sofar } of payloads) {
    end += data.length;
    say(starts.filter((start) => start < end).length > sofar, "a page before its batch");
  }
}

function fails(check: () => unknown): boolean {
  try {
    check();
    return false;
  } catch {
    return true;
  }
}

/** Commit points among the items. */
export function commits(items: readonly StreamItem[]): number {
  const upper = items.some(({ layer }) => layer === "libxl");
  return items.filter((item) => {
    if (!("record" in item)) return false;
    const { name } = item.record;
    if (item.layer === "legacy") return name === "PV_TAIL" || name === "DEVICE_MODEL";
    return upper ? item.layer === "libxl" && name === "CHECKPOINT_END" : name === "CHECKPOINT";
  }).length;
}
