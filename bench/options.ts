/**
 * What the command lines of the benches have in common: their shared options, values, and where the results go.
 *
 * @module
 */

/** Options of every bench that has goals, for `parseArgs`. */
export const commonOptions = {
  smoke: { type: "boolean", default: false },
  strict: { type: "boolean", default: false },
  json: { type: "boolean", default: false },
  help: { type: "boolean", short: "h", default: false },
} as const;

/** Where a bench's results go. */
export interface Outlets {
  /** Takes JSON lines. */
  record: (line: Record<string, unknown>) => void;
  /** Takes text for people. */
  say: (text: string) => void;
}

/** With `--json` the lines are on stdout and the text on stderr; else there is only the text. */
export function outlets(json: boolean): Outlets {
  return {
    record: (line) => {
      if (json) console.log(JSON.stringify(line));
    },
    say: (text) => json ? console.error(text) : console.log(text),
  };
}

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
