/**
 * Sizes as people write them: `4096`, `64KiB`, `1.5GiB`, `10MB`.
 *
 * A size is whole bytes, at most 2^53 - 1. Units say what they mean: KiB is 1024 bytes and kB is 1000; a bare `K` or `M`, which
 * means one thing to one program and the other to the next, is refused.
 *
 * @module
 */

const units: Readonly<Record<string, number>> = {
  "": 1,
  B: 1,
  kB: 1e3,
  MB: 1e6,
  GB: 1e9,
  TB: 1e12,
  KiB: 2 ** 10,
  MiB: 2 ** 20,
  GiB: 2 ** 30,
  TiB: 2 ** 40,
};

/**
 * Reads a size.
 *
 * @param text digits, perhaps with a fraction, and perhaps a unit
 * @returns bytes
 * @throws {RangeError} for anything else, and for a size that is not whole bytes
 *
 * @example
 * ```ts
 * import { parseSize } from "./size.ts";
 *
 * if (parseSize("1.5KiB") !== 1536) throw new Error("The size is wrong");
 * ```
 */
export function parseSize(text: string): number {
  const [, digits = "", unit = ""] = /^([0-9]{1,16}(?:\.[0-9]{1,9})?)(?: ?([A-Za-z]+))?$/.exec(text) ?? [];
  const factor = Object.hasOwn(units, unit) ? units[unit] : undefined;
  if (digits === "" || factor === undefined) {
    throw new RangeError(
      `Cannot use "${text}" as a size: it should be a number with one of ${
        Object.keys(units).slice(2).join(", ")
      }`,
    );
  }
  const bytes = Number(digits) * factor;
  if (!Number.isSafeInteger(bytes)) {
    throw new RangeError(`Cannot use "${text}" as a size: it should be whole bytes, at most 2^53 - 1`);
  }
  return bytes;
}

/**
 * Writes a size in the largest binary unit that leaves no fraction: what `parseSize` reads back.
 *
 * @param bytes a whole number
 */
export function formatSize(bytes: number): string {
  for (const unit of ["TiB", "GiB", "MiB", "KiB"]) {
    const factor = units[unit] ?? 1;
    if (bytes >= factor && bytes % factor === 0) return `${bytes / factor}${unit}`;
  }
  return `${bytes}`;
}
