/**
 * Comparing octets: fast also where there are millions of them, and with a message that says where.
 */
import assert from "node:assert/strict";

/** Asserts that both hold the same octets. */
export function assertSameBytes(found: Uint8Array, wanted: Uint8Array, what = "octets"): void {
  assert.equal(found.length, wanted.length, `${what}: length`);
  for (let at = 0; at < wanted.length; at++) {
    if (found[at] === wanted[at]) continue;
    assert.fail(`${what}: at ${at} there is ${found[at]}, and should be ${wanted[at]}`);
  }
}
