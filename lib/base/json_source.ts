/**
 * JSON that remembers where each value stood, for files that people write: a mistake is reported with its line.
 *
 * Strict RFC 8259: no comments, no trailing commas; besides, a key may not stand twice in an object.
 *
 * @module
 */
import { FormatError } from "./errors.ts";

/** The largest text, in characters. */
export const jsonSizeMax: number = 2 ** 20;
/** How deep arrays and objects may lie within each other. */
export const jsonDepthMax = 32;

/** A value and its place. */
export interface JsonNode {
  /** The value: of arrays and objects their parts. */
  readonly value: null | boolean | number | string | readonly JsonNode[] | ReadonlyMap<string, JsonMember>;
  /** From 1. */
  readonly line: number;
  /** From 1, in UTF-16 units. */
  readonly column: number;
}

/** A value in an object, with the place of its key. */
export interface JsonMember extends JsonNode {
  /** Where the key stands. */
  readonly keyLine: number;
}

/**
 * Reads a text.
 *
 * @throws {FormatError} rules `json.…`; the message says line and column
 *
 * @example
 * ```ts
 * import { parseJsonSource } from "./json_source.ts";
 *
 * const node = parseJsonSource('{\n  "size": 7\n}');
 * const size = node.value instanceof Map ? node.value.get("size") : undefined;
 * if (size?.value !== 7 || size.line !== 2) throw new Error("The place is wrong");
 * ```
 */
export function parseJsonSource(text: string): JsonNode {
  if (text.length > jsonSizeMax) {
    throw new FormatError(
      "json.size",
      -1,
      `Cannot read JSON of ${text.length} characters: at most ${jsonSizeMax}`,
    );
  }
  return new Parser(text).document();
}

class Parser {
  readonly #text: string;
  #at = 0;
  #line = 1;
  #lineStart = 0;

  constructor(text: string) {
    this.#text = text.startsWith("\ufeff") ? text.slice(1) : text;
  }

  document(): JsonNode {
    this.#space();
    const node = this.#value(0);
    this.#space();
    if (this.#at < this.#text.length) throw this.#fail("end", `${this.#here()} follows the end`);
    return node;
  }

  #value(depth: number): JsonNode {
    const place = { line: this.#line, column: this.#at - this.#lineStart + 1 };
    if (depth > jsonDepthMax) throw this.#fail("depth", `values lie deeper than ${jsonDepthMax}`);
    switch (this.#text[this.#at]) {
      case "{":
        return { value: this.#object(depth), ...place };
      case "[":
        return { value: this.#array(depth), ...place };
      case '"':
        return { value: this.#string(), ...place };
    }
    const word = this.#match(/(?:true|false|null)(?![\w])/y);
    if (word !== null) return { value: JSON.parse(word), ...place };
    const number = this.#match(/-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?(?![\w.])/y);
    if (number !== null) return { value: Number(number), ...place };
    throw this.#fail("value", `${this.#here()} stands where a value should`);
  }

  #object(depth: number): ReadonlyMap<string, JsonMember> {
    const members = new Map<string, JsonMember>();
    this.#at++;
    this.#space();
    if (this.#take("}")) return members;
    while (true) {
      const keyLine = this.#line;
      if (this.#text[this.#at] !== '"') {
        throw this.#fail("key", `${this.#here()} stands where a key in quotes should`);
      }
      const key = this.#string();
      if (members.has(key)) {
        throw this.#fail("twice", `the key ${JSON.stringify(key.slice(0, 80))} stands twice`);
      }
      this.#space();
      if (!this.#take(":")) throw this.#fail("colon", `${this.#here()} stands where ":" should`);
      this.#space();
      members.set(key, { ...this.#value(depth + 1), keyLine });
      this.#space();
      if (this.#take("}")) return members;
      if (!this.#take(",")) throw this.#fail("comma", `${this.#here()} stands where "," or "}" should`);
      this.#space();
    }
  }

  #array(depth: number): readonly JsonNode[] {
    const items: JsonNode[] = [];
    this.#at++;
    this.#space();
    if (this.#take("]")) return items;
    while (true) {
      items.push(this.#value(depth + 1));
      this.#space();
      if (this.#take("]")) return items;
      if (!this.#take(",")) throw this.#fail("comma", `${this.#here()} stands where "," or "]" should`);
      this.#space();
    }
  }

  #string(): string {
    // deno-lint-ignore no-control-regex
    const raw = this.#match(/"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"/y);
    if (raw === null) throw this.#fail("text", "a text has no end on its line, or an escape that is none");
    return JSON.parse(raw);
  }

  #match(pattern: RegExp): string | null {
    pattern.lastIndex = this.#at;
    const found = pattern.exec(this.#text)?.[0] ?? null;
    if (found !== null) this.#at += found.length;
    return found;
  }

  #take(character: string): boolean {
    if (this.#text[this.#at] !== character) return false;
    this.#at++;
    return true;
  }

  #space(): void {
    for (;; this.#at++) {
      const character = this.#text[this.#at];
      if (character === "\n") {
        this.#line++;
        this.#lineStart = this.#at + 1;
      } else if (character !== " " && character !== "\t" && character !== "\r") {
        return;
      }
    }
  }

  #here(): string {
    const character = this.#text[this.#at];
    return character === undefined ? "the end of the text" : JSON.stringify(character);
  }

  #fail(rule: string, message: string): FormatError {
    const column = this.#at - this.#lineStart + 1;
    return new FormatError(
      `json.${rule}`,
      this.#at,
      `Cannot read JSON: line ${this.#line}, column ${column}: ${message}`,
    );
  }
}
