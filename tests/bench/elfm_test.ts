import assert from "node:assert/strict";
import { benchElfm, type HopResult, tablesOf } from "../../bench/elfm.ts";
import { toolExists } from "../../bench/process.ts";

Deno.test({
  name: "benchElfm() goes A, B, C, B, A by all modes and rsync, and ends with one tree",
  ignore: !toolExists("rsync"),
  fn: async () => {
    const said: string[] = [];
    const hops = await benchElfm({
      sizes: [2],
      percents: [20],
      methods: ["full", "upper", "delta", "rsync"],
      seed: 12,
      rate: null,
      dir: undefined,
      quick: false,
      record: () => {},
      say: (text) => said.push(text),
    });
    assert.deepEqual(
      hops.map((hop) => `${hop.method} ${hop.gap}`),
      ["full", "upper", "delta", "rsync"].flatMap((method) => [1, 2, 1, 3].map((gap) => `${method} ${gap}`)),
    );
    const bytes = (method: string): number =>
      hops.filter((hop) => hop.method === method).reduce((sum, hop) => sum + hop.bytes, 0);
    assert.ok(bytes("delta") < bytes("upper") && bytes("upper") < bytes("full"), said.join("\n"));
  },
});

Deno.test("tablesOf() prints ELFM's four sets and its claims beside ours", () => {
  const phases = { capture: 0.25, pack: 0.5, send: 0.5, apply: 1 };
  const hops: HopResult[] = (["full", "delta", "rsync"] as const).flatMap((method) =>
    [1, 2, 1, 3].map((gap, hop) => ({
      size: 100,
      percent: 10,
      method,
      hop,
      gap,
      seconds: method === "full" ? 4 : 1,
      bytes: method === "full" ? 100e6 : 5e6,
      phases: method === "rsync" ? null : phases,
    }))
  );
  const tables = tablesOf(hops, ["full", "delta", "rsync"]);
  assert.equal(tables.length, 5);
  assert.match(
    tables[0] ?? "",
    /\| 100 MB \| +10 % \| 4\.00 \| +1\.00 \| +1\.00 \| +– \| +0\.250 \| +1\.000 \|/,
  );
  assert.match(tables[1] ?? "", /\| 400\.0 \| +20\.00 \| +20\.00 \|/);
  assert.match(tables[2] ?? "", /delta 4: 3/);
  assert.match(tables[3] ?? "", /\| +0\.25 \| +0\.50 \| +0\.50 \| +1\.00 \|/);
  assert.match(tables[4] ?? "", /75 % \| +50 % \| +95 % \| +70 %/);
  assert.match(tables[4] ?? "", /1 of 1 cases/);
});
