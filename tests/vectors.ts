/**
 * Test vectors: one case per file, `tests/vectors/AREA/NAME.vec`.
 *
 * ```text
 * expect: manifest.order           the rule that must refuse it, or "ok"
 * comment: the second path is smaller
 *                                  a blank line
 * "DRVRMANI" 01000000 00*4         the bytes; # begins a comment
 * ```
 *
 * The body is hexadecimal digits in pairs, text in double quotes (one byte per character, no escapes), and either of them
 * repeated by `*COUNT`; with the header `body: raw` it is everything behind the blank line, as it is. The
 * loader refuses keys it was not told of, so that a misspelt one is no silent pass.
 *
 * @module
 */

/** One case. */
export interface Vector {
  /** File name without `.vec`. */
  name: string;
  /** The rule that must refuse the bytes, or "ok". */
  expect: string;
  /** What the area's own keys say. */
  fields: ReadonlyMap<string, string>;
  bytes: Uint8Array<ArrayBuffer>;
}

const sizeMax = 16 * 1024 * 1024;

/**
 * All vectors of an area, by name. None at all is an error.
 *
 * @param area the directory below `tests/vectors/`.
 * @param keys further header keys that the area uses, each at most once per file.
 */
export function loadVectors(area: string, keys: readonly string[] = []): Vector[] {
  const directory = new URL(`./vectors/${area}/`, import.meta.url);
  const names = [...Deno.readDirSync(directory)].map(({ name }) => name).sort();
  const vectors = names.map((file) => {
    if (!file.endsWith(".vec")) throw new Error(`${area}/${file} is not a vector: its name must end in .vec`);
    return parseVector(file.slice(0, -4), Deno.readFileSync(new URL(file, directory)), keys);
  });
  if (vectors.length === 0) throw new Error(`there are no vectors in ${directory.pathname}`);
  return vectors;
}

/** Parses one vector file. */
export function parseVector(
  name: string,
  file: Uint8Array<ArrayBuffer>,
  keys: readonly string[] = [],
): Vector {
  const fail = (message: string): Error => new Error(`vector ${name}: ${message}`);
  const fields = new Map<string, string>();
  let comments = 0;
  let at = 0;
  for (;;) {
    const end = file.indexOf(0x0a, at);
    if (end < 0) throw fail("no blank line after the header");
    const line = new TextDecoder("utf-8", { fatal: true }).decode(file.subarray(at, end));
    at = end + 1;
    if (line === "") break;
    const [, key, value] = /^([a-z][a-z-]*): (.*\S)$/.exec(line) ?? [];
    if (key === undefined || value === undefined) throw fail(`"${line}" is not "key: value"`);
    if (key === "comment") {
      comments++;
      continue;
    }
    if (!["expect", "body", ...keys].includes(key)) throw fail(`key "${key}" is unknown`);
    if (fields.has(key)) throw fail(`key "${key}" is there twice`);
    fields.set(key, value);
  }
  const expect = fields.get("expect");
  const body = fields.get("body") ?? "hex";
  if (expect === undefined || !/^[a-z0-9_-]+(\.[a-z0-9_-]+)*$/.test(expect)) {
    throw fail("expect must be a rule or ok");
  }
  if (comments === 0) throw fail("a comment must say what it shows");
  if (body !== "hex" && body !== "raw") throw fail(`body is "${body}", neither hex nor raw`);
  fields.delete("expect");
  fields.delete("body");
  const rest = file.slice(at);
  return { name, expect, fields, bytes: body === "raw" ? rest : parseBody(rest, fail) };
}

function parseBody(body: Uint8Array<ArrayBuffer>, fail: (message: string) => Error): Uint8Array<ArrayBuffer> {
  const text = new TextDecoder("utf-8", { fatal: true }).decode(body).replace(/#.*/g, "");
  const bytes: number[] = [];
  const token = /\s+|(?:((?:[0-9a-f]{2})+)|"([\x20\x21\x23-\x7e]*)")(?:\*([1-9][0-9]{0,7}))?(?=\s|$)/gy;
  while (token.lastIndex < text.length) {
    const from = token.lastIndex;
    const found = token.exec(text);
    if (found === null) throw fail(`cannot read the body at "${text.slice(from, from + 40)}"`);
    const [, hex, quoted, count] = found;
    const unit = hex !== undefined
      ? (hex.match(/../g) ?? []).map((pair) => parseInt(pair, 16))
      : [...quoted ?? ""].map((character) => character.charCodeAt(0));
    const times = Number(count ?? 1);
    if (bytes.length + unit.length * times > sizeMax) throw fail(`the body is more than ${sizeMax} bytes`);
    for (let time = 0; time < times; time++) bytes.push(...unit);
  }
  return new Uint8Array(bytes);
}
