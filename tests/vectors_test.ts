import assert from "node:assert/strict";
import { toHex } from "../lib/base/hex.ts";
import { parseVector } from "./vectors.ts";

const parse = (text: string, keys: string[] = []) =>
  parseVector("case", new Uint8Array(new TextEncoder().encode(text)), keys);

Deno.test("parseVector() reads hexadecimal, text, repetition and raw bytes", () => {
  const vector = parse(
    'expect: a.b\ncomment: c\nbase: x\n\n0aff "hi #" 00*3 # rest\n"ab"*2\n'.replace(' #"', '"'),
    ["base"],
  );
  assert.deepEqual([vector.expect, vector.fields.get("base")], ["a.b", "x"]);
  assert.equal(toHex(vector.bytes), "0aff" + "6869" + "000000" + "61626162");
  assert.equal(toHex(parse("expect: ok\ncomment: c\nbody: raw\n\n\n00").bytes), "0a3030");
});

Deno.test("parseVector() refuses what a misspelt vector would be", () => {
  const cases = [
    "expect: ok\ncomment: c\nbase: x\n\n",
    "expect: ok\nexpect: ok\ncomment: c\n\n",
    "expect: ok\n\n",
    "comment: c\n\n",
    "expect:ok\ncomment: c\n\n",
    "expect: Not a rule\ncomment: c\n\n",
    "expect: ok\ncomment: c\nbody: text\n\n",
    "expect: ok\ncomment: c\n",
    "expect: ok\ncomment: c\n\n0",
    "expect: ok\ncomment: c\n\n0G",
    'expect: ok\ncomment: c\n\n"open',
    "expect: ok\ncomment: c\n\n00*0",
    'expect: ok\ncomment: c\n\n00"a"',
  ];
  for (const text of cases) assert.throws(() => parse(text), /vector case:/, text);
});
