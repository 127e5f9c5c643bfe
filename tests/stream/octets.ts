/** Octets by hand, and refusals by rule and offset. */
import assert from "node:assert/strict";
import { FormatError } from "../../lib/base/errors.ts";
import { parseVector } from "../vectors.ts";

/** Octets as a vector writes them: hexadecimal pairs, text in quotes, `*` and a count to repeat. */
export function bytes(text: string): Uint8Array<ArrayBuffer> {
  const file = new TextEncoder().encode(`expect: ok\ncomment: by hand\n\n${text}`);
  return parseVector("by hand", new Uint8Array(file)).bytes;
}

/** Asserts that `act` refuses its input by this rule, at this offset. */
export function refuses(act: () => unknown, rule: string, offset: number): void {
  try {
    act();
  } catch (error) {
    if (!(error instanceof FormatError)) throw error;
    assert.deepEqual([error.rule, error.offset], [rule, offset], error.message);
    return;
  }
  assert.fail(`nothing was refused, and ${rule} at ${offset} should have been`);
}
