/**
 * The image header that libxc's streams and regions begin with: 24 octets, big-endian.
 *
 * @module
 */
import { hex, type Trace } from "./findings.ts";
import type { Step } from "./input.ts";

/** What must stand in the header of one kind of stream. */
export interface ImageHeaderRule {
  /** Four letters. */
  id: number;
  versionMin: number;
  versionMax: number;
  /** What another marker may mean, behind a colon; or nothing. */
  markerHint: string;
}

/** Reads the header; fields behind it are read in the endianness that it says. @returns its version. */
export function* verifyImageHeader(
  trace: Trace,
  layer: "libxc" | "region",
  rule: ImageHeaderRule,
): Step<{ version: number; bigEndian: boolean }> {
  const { input } = trace;
  const start = input.offset;
  yield* input.take(24);
  input.littleEndian = false;
  for (const at of [0, 4]) {
    if (input.u32(at) !== 0xffff_ffff) {
      const hint = rule.markerHint === "" ? "" : `: ${rule.markerHint}`;
      trace.stop(
        `${layer}.header.marker`,
        start + at,
        `the marker is ${hex(input.u32(at))} and should be 0xffffffff${hint}`,
      );
    }
  }
  if (input.u32(8) !== rule.id) {
    trace.stop(
      `${layer}.header.id`,
      start + 8,
      `the id is ${hex(input.u32(8))} and should be ${hex(rule.id)}`,
    );
  }
  const version = input.u32(12);
  if (version < rule.versionMin || version > rule.versionMax) {
    const range = rule.versionMin === rule.versionMax
      ? `${rule.versionMin}`
      : `${rule.versionMin} or ${rule.versionMax}`;
    trace.stop(`${layer}.header.version`, start + 12, `the version is ${version} and should be ${range}`);
  }
  const options = input.u16(16);
  if ((options & 0xfffe) !== 0) {
    trace.report(
      `${layer}.header.options`,
      start + 16,
      `the options are ${hex(options)} and bits 1 to 15 should be 0`,
    );
  }
  const reserved = input.nonZero(18, 24);
  if (reserved >= 0) {
    trace.report(`${layer}.header.reserved`, start + reserved, "a reserved octet is not 0");
  }
  const bigEndian = (options & 1) !== 0;
  input.littleEndian = !bigEndian;
  return { version, bigEndian };
}
