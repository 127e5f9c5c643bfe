/**
 * Durations as people write them: `500ms`, `30s`, `5min`, `2h`, `1.5d`.
 *
 * @module
 */

const units: Readonly<Record<string, number>> = {
  ms: 1,
  s: 1000,
  min: 60_000,
  h: 3_600_000,
  d: 86_400_000,
};

/** The longest duration, in milliseconds: a century. */
export const durationMsMax: number = 36_525 * 86_400_000;

/**
 * Reads a duration.
 *
 * @param text digits, perhaps with a fraction, and a unit: a bare number, seconds to one and milliseconds to the next, is
 * refused
 * @returns milliseconds, whole
 * @throws {RangeError} for anything else
 *
 * @example
 * ```ts
 * import { parseDuration } from "./duration.ts";
 *
 * if (parseDuration("1.5min") !== 90_000) throw new Error("The duration is wrong");
 * ```
 */
export function parseDuration(text: string): number {
  const [, digits = "", unit = ""] = /^([0-9]{1,12}(?:\.[0-9]{1,9})?) ?([a-z]+)$/.exec(text) ?? [];
  const factor = Object.hasOwn(units, unit) ? units[unit] : undefined;
  const milliseconds = factor === undefined ? NaN : Number(digits) * factor;
  if (!Number.isSafeInteger(milliseconds) || milliseconds > durationMsMax) {
    throw new RangeError(
      `Cannot use "${text}" as a duration: it should be a number with one of ${
        Object.keys(units).join(", ")
      }, whole milliseconds`,
    );
  }
  return milliseconds;
}
