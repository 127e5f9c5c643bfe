/**
 * Values of the bench's command lines.
 *
 * @module
 */

/** `10,40` as numbers above 0. @throws {RangeError} for anything else. */
export function numbersOf(list: string): number[] {
  return list.split(",").map(numberOf);
}

/** One number above 0. @throws {RangeError} for anything else. */
export function numberOf(text: string): number {
  const value = Number(text);
  if (text.trim() === "" || !(value > 0) || !Number.isFinite(value)) {
    throw new RangeError(`Cannot read "${text}": should be a number above 0`);
  }
  return value;
}

/** `a,b` as a list of known words. @throws {RangeError} for a word that is not known. */
export function wordsOf<T extends string>(list: string, known: readonly T[]): T[] {
  return list.split(",").map((text) => {
    const word = known.find((candidate) => candidate === text);
    if (word === undefined) {
      throw new RangeError(`Cannot read "${text}": should be one of ${known.join(", ")}`);
    }
    return word;
  });
}
