/**
 * Writes a stream of any profile: typed items in, octets out.
 *
 * Invariants:
 * - What `StreamReader` read strictly is written as it was, octet for octet.
 * - Page contents are not copied: an item becomes a list of arrays, to be written in one gathered write.
 *
 * The order of items is the caller's: it is the order of the stream.
 *
 * @module
 */
import type { StreamItem } from "./item.ts";
import { encodeLegacyRecord } from "./legacy_record.ts";
import { encodeLibxcHeader, encodeLibxcRecord } from "./libxc_record.ts";
import { encodeLibxlHeader, encodeLibxlRecord } from "./libxl_record.ts";
import { encodeRegionHeader, encodeRegionRecord } from "./region_record.ts";
import { encodeXlHeader } from "./xl_header.ts";

/** What the headers said that were written, for the records that follow them. */
export interface WriterState {
  /** Endianness of each layer's records; null before its header. */
  libxl: { bigEndian: boolean } | null;
  /** Endianness of libxc's records; null before its header. */
  libxc: { bigEndian: boolean } | null;
  /** Endianness of a region's records; null before its header. */
  region: { bigEndian: boolean } | null;
  /** Word size of a legacy stream; null before its header. */
  legacyWidth: 4 | 8 | null;
}

/** The state before the first item of a stream. */
export function newWriterState(): WriterState {
  return { libxl: null, libxc: null, region: null, legacyWidth: null };
}

/**
 * Makes the octets of one item, as arrays to be written one after the other.
 *
 * @param state of the stream; a header changes it.
 * @throws {TypeError} for a value that no valid item can hold, and for a record before its layer's header.
 */
export function encodeItem(item: StreamItem, state: WriterState): Uint8Array[] {
  switch (item.layer) {
    case "xl":
      return encodeXlHeader(item.header);
    case "libxl":
      if ("header" in item) {
        state.libxl = item.header;
        return [encodeLibxlHeader(item.header)];
      }
      return encodeLibxlRecord(item.record, known(state.libxl, item.layer).bigEndian);
    case "libxc":
      if ("header" in item) {
        state.libxc = item.header;
        return [encodeLibxcHeader(item.header)];
      }
      return encodeLibxcRecord(item.record, known(state.libxc, item.layer).bigEndian);
    case "region":
      if ("header" in item) {
        state.region = item.header;
        return [encodeRegionHeader(item.header)];
      }
      return encodeRegionRecord(item.record, known(state.region, item.layer).bigEndian);
    case "legacy":
      if (item.record.name === "HEADER") state.legacyWidth = item.record.header.width;
      // A converted libxc stream has a device model behind END, which looks the same in either width.
      if (item.record.name === "DEVICE_MODEL") return encodeLegacyRecord(item.record, 8);
      return encodeLegacyRecord(item.record, known(state.legacyWidth, item.layer));
  }
}

/**
 * Makes the octets of many items, an item at a time.
 *
 * @throws {TypeError} as {@link encodeItem}.
 */
export function* encodeItems(items: Iterable<StreamItem>): Generator<Uint8Array, void, undefined> {
  const state = newWriterState();
  for (const item of items) yield* encodeItem(item, state);
}

function known<Value>(value: Value | null, layer: string): Value {
  if (value === null) throw new TypeError(`Cannot encode a ${layer} record: its header was not written yet`);
  return value;
}
