/**
 * The fields of one JSON object that came from outside, each checked for type and bound when it is taken.
 *
 * Invariant: what is refused is refused by a rule `PREFIX.MESSAGE.FIELD`, and nothing of a refused object is used.
 *
 * @module
 */
import { FormatError } from "./errors.ts";

/** Where a rule id begins and what the message is called in errors. */
export interface FieldsPlace {
  /** The family of rules, for instance "protocol". */
  prefix: string;
  /** The message, for instance "hello". */
  what: string;
}

/**
 * The fields of one JSON object.
 *
 * @example
 * ```ts
 * import { Fields } from "./fields.ts";
 *
 * const body = new TextEncoder().encode('{"size": 4096}');
 * const fields = new Fields(body, { prefix: "donor", what: "lend" });
 * if (fields.count("size", 2 ** 40) !== 4096) throw new Error("The size is wrong");
 * ```
 */
export class Fields {
  readonly #value: Record<string, unknown>;
  readonly #place: FieldsPlace;

  /** Takes the object. @param source its JSON in UTF-8, bounded before; or the value itself. @throws {FormatError} */
  constructor(source: unknown, place: FieldsPlace) {
    this.#place = place;
    const { prefix, what } = place;
    let value: unknown = source;
    if (source instanceof Uint8Array) {
      try {
        value = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(source));
      } catch (error) {
        throw new FormatError(`${prefix}.${what}`, 0, `Cannot read a ${what} message: it is no JSON`, {
          cause: error,
        });
      }
    }
    if (typeof value !== "object" || value === null || Array.isArray(value)) {
      throw new FormatError(`${prefix}.${what}`, 0, `Cannot read a ${what} message: it is no object`);
    }
    this.#value = value as Record<string, unknown>;
  }

  /** The refusal of a field, to be thrown. */
  fail(key: string, message: string): FormatError {
    const { prefix, what } = this.#place;
    return new FormatError(
      `${prefix}.${what}.${key}`,
      -1,
      `Cannot read a ${what} message: ${key}: ${message}`,
    );
  }

  /** Text of at most so many characters. */
  text(key: string, lengthMax: number): string {
    const value = this.#value[key];
    if (typeof value !== "string" || value.length > lengthMax) {
      throw this.fail(key, `must be text of at most ${lengthMax}`);
    }
    return value;
  }

  /** The same, or undefined where it is absent or null. */
  optionalText(key: string, lengthMax: number): string | undefined {
    const value = this.#value[key];
    return value === undefined || value === null ? undefined : this.text(key, lengthMax);
  }

  /** A number that is no NaN and not infinite. */
  number(key: string): number {
    const value = this.#value[key];
    if (typeof value !== "number" || !Number.isFinite(value)) throw this.fail(key, "must be a number");
    return value;
  }

  /** A whole number from 0 to `max`. */
  count(key: string, max: number): number {
    const value = this.number(key);
    if (!Number.isInteger(value) || value < 0 || value > max) {
      throw this.fail(key, `must be a whole number up to ${max}`);
    }
    return value;
  }

  /** The same, or null where it is absent or null. */
  optionalCount(key: string, max: number): number | null {
    const value = this.#value[key];
    return value === undefined || value === null ? null : this.count(key, max);
  }

  /** True or false. */
  flag(key: string): boolean {
    const value = this.#value[key];
    if (typeof value !== "boolean") throw this.fail(key, "must be true or false");
    return value;
  }

  /** A list of texts. */
  texts(key: string, countMax: number, lengthMax: number): string[] {
    return this.#items(key, countMax).map((item: unknown) => {
      if (typeof item !== "string" || item.length > lengthMax) {
        throw this.fail(key, `must hold texts of at most ${lengthMax}`);
      }
      return item;
    });
  }

  /** A list of objects. */
  list(key: string, countMax: number): Fields[] {
    return this.#items(key, countMax).map((item) => new Fields(item, this.#place));
  }

  /** A list of objects and nulls. */
  optionalList(key: string, countMax: number): (Fields | null)[] {
    return this.#items(key, countMax).map((item) => item === null ? null : new Fields(item, this.#place));
  }

  /** An object, or null where it is absent or null. */
  nested(key: string): Fields | null {
    const value = this.#value[key];
    return value === undefined || value === null ? null : new Fields(value, this.#place);
  }

  /** An object as it is; an empty one where there is none. */
  record(key: string): Record<string, unknown> {
    const value = this.#value[key];
    return typeof value === "object" && value !== null && !Array.isArray(value)
      ? value as Record<string, unknown>
      : {};
  }

  #items(key: string, countMax: number): unknown[] {
    const value = this.#value[key];
    if (!Array.isArray(value) || value.length > countMax) {
      throw this.fail(key, `must be a list of at most ${countMax}`);
    }
    return value;
  }
}

/** A peer's words on their way to a terminal: without its control characters. */
export function printable(text: string): string {
  // deno-lint-ignore no-control-regex
  return text.replace(/[\x00-\x1f\x7f-\x9f]/g, (c) => `\\x${c.charCodeAt(0).toString(16).padStart(2, "0")}`);
}
