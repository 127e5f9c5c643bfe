import assert from "node:assert/strict";
import { parseDuration } from "../../lib/base/duration.ts";
import { FormatError } from "../../lib/base/errors.ts";
import { type JsonNode, jsonSizeMax, parseJsonSource } from "../../lib/base/json_source.ts";

function plain({ value }: JsonNode): unknown {
  if (value instanceof Map) return Object.fromEntries([...value].map(([key, node]) => [key, plain(node)]));
  return Array.isArray(value) ? value.map(plain) : value;
}

Deno.test("parseJsonSource() reads what JSON.parse() reads", () => {
  const texts = [
    "null",
    " true ",
    "-0.5e+3",
    '""',
    '"\\u00e9\\n\\"\\\\\\/"',
    "[]",
    "[1,[2,[3]],{}]",
    '{"a":{"b":[null,false,"x"]},"__proto__":1}',
    '\ufeff{\r\n\t"a" : 1 ,\n"b":2}',
  ];
  for (const text of texts) {
    const expected = JSON.stringify(JSON.parse(text.replace("\ufeff", "")));
    assert.equal(JSON.stringify(plain(parseJsonSource(text))), expected, text);
  }
});

Deno.test("parseJsonSource() refuses what JSON.parse() refuses, at every cut and with every octet changed", () => {
  const text = '{"a": [1, -2.5e3, "x\\u0041"], "b": {"c": null, "d": true}}';
  const agree = (candidate: string): void => {
    let expected: unknown;
    try {
      expected = JSON.stringify(JSON.parse(candidate));
    } catch {
      expected = "refused";
    }
    let found: unknown;
    try {
      found = JSON.stringify(plain(parseJsonSource(candidate)));
    } catch (error) {
      assert.ok(error instanceof FormatError);
      // A key that stands twice is the one thing that JSON.parse() takes.
      if (error.rule === "json.twice") return;
      found = "refused";
    }
    assert.equal(found, expected, candidate);
  };
  for (let at = 0; at < text.length; at++) {
    agree(text.slice(0, at));
    for (const octet of '{}[]",:0 -.eEx\\\n\t') agree(text.slice(0, at) + octet + text.slice(at + 1));
  }
});

Deno.test("parseJsonSource() says where values and mistakes are", () => {
  const node = parseJsonSource('{\n "a": 1,\n  "b": [\n   2,\n  3]\n}');
  assert.ok(node.value instanceof Map);
  const b = node.value.get("b");
  assert.deepEqual([b.line, b.column, b.keyLine], [3, 8, 3]);
  assert.deepEqual([b.value[1].line, b.value[1].column], [5, 3]);
  const mistakes: [string, RegExp, string][] = [
    ['{\n"a": 1,\n}', /line 3, column 1: "}" stands where a key/, "json.key"],
    ['{"a" 1}', /line 1, column 6: "1" stands where ":"/, "json.colon"],
    ["[1 2]", /column 4: "2" stands where ","/, "json.comma"],
    ['{"a":1,\n"a":2}', /line 2, .*"a" stands twice/, "json.twice"],
    ["1\n\n2", /line 3, column 1/, "json.end"],
    ['"a\nb"', /line 1/, "json.text"],
    ["// no", /column 1: "\/" stands where a value/, "json.value"],
    ["", /the end of the text/, "json.value"],
    ["[".repeat(100), /deeper than 32/, "json.depth"],
    [" ".repeat(jsonSizeMax + 1), /at most/, "json.size"],
  ];
  for (const [text, message, rule] of mistakes) {
    assert.throws(
      () => parseJsonSource(text),
      (error) => error instanceof FormatError && error.rule === rule && message.test(error.message),
      text.slice(0, 40),
    );
  }
});

Deno.test("parseDuration() reads a number with a unit, and nothing else", () => {
  assert.deepEqual(
    ["0s", "500ms", "30s", "1.5min", "2h", "1 d"].map(parseDuration),
    [0, 500, 30_000, 90_000, 7_200_000, 86_400_000],
  );
  for (
    const text of ["", "30", "s", "-1s", "1m", "0.5ms", "1e3s", "99999999999d", "1s2", " 1s", "Infinitys"]
  ) {
    assert.throws(() => parseDuration(text), RangeError, text);
  }
});
