import assert from "node:assert/strict";
import { digestTree, type EntryFacts } from "../../bench/digest.ts";
import { Scratch } from "../../bench/scratch.ts";
import { generateTree, mutateTree } from "../../bench/workload.ts";

const bytes = 4e6;

function differing(
  before: Map<string, EntryFacts>,
  after: Map<string, EntryFacts>,
): { created: number; deleted: number; modified: number } {
  const counts = { created: 0, deleted: 0, modified: 0 };
  for (const [path, facts] of before) {
    if (facts.type !== "f") continue;
    const other = after.get(path);
    if (other === undefined) counts.deleted++;
    else if (other.content !== facts.content) counts.modified++;
  }
  for (const [path, facts] of after) if (facts.type === "f" && !before.has(path)) counts.created++;
  return counts;
}

Deno.test("generateTree() makes the same tree for the same seed, and another for another", () => {
  using scratch = new Scratch();
  const first = generateTree(scratch.at("a"), { bytes, seed: 1 });
  const second = generateTree(scratch.at("b"), { bytes, seed: 1 });
  generateTree(scratch.at("c"), { bytes, seed: 2 });
  assert.deepEqual(first, second);
  assert.equal(digestTree(scratch.at("a")).hash, digestTree(scratch.at("b")).hash);
  assert.notEqual(digestTree(scratch.at("a")).hash, digestTree(scratch.at("c")).hash);
});

Deno.test("generateTree() makes what it reports, in the shares it was given", () => {
  using scratch = new Scratch();
  const report = generateTree(scratch.at("a"), { bytes, seed: 3 });
  const digest = digestTree(scratch.at("a"));
  const facts = [...digest.entries.values()];
  assert.equal(
    facts.filter((entry) => entry.type === "f" && entry.linkOf === undefined).length,
    report.files,
  );
  assert.equal(facts.filter((entry) => entry.linkOf !== undefined).length, report.hardLinks);
  assert.equal(facts.filter((entry) => entry.type === "l").length, report.symlinks);
  assert.equal(facts.filter((entry) => entry.type === "d").length, report.directories + 1);
  assert.ok(Math.abs(report.bytes - bytes) <= bytes / 100);
  for (
    const [kind, share] of [["source", 0.4], ["text", 0.1], ["object", 0.22], ["packed", 0.18], [
      "page",
      0.1,
    ]] as const
  ) {
    assert.ok(Math.abs(report.classes[kind].bytes - bytes * share) <= bytes / 100, kind);
  }
  const only = generateTree(scratch.at("b"), {
    bytes: 1e6,
    seed: 3,
    classes: { source: 0, text: 1, object: 0, packed: 0, page: 0 },
  });
  assert.equal(only.classes.text.bytes, 1e6);
  assert.equal(only.classes.packed.files, 0);
});

Deno.test("generateTree() refuses a directory that holds something", () => {
  using scratch = new Scratch();
  Deno.writeTextFileSync(`${scratch.fresh("a")}/x`, "");
  assert.throws(() => generateTree(scratch.at("a"), { bytes, seed: 1 }), /should be empty/);
});

Deno.test("mutateTree() makes the same change for the same seed, and another for another", () => {
  using scratch = new Scratch();
  generateTree(scratch.at("a"), { bytes, seed: 4 });
  scratch.copy(scratch.at("a"), "b");
  scratch.copy(scratch.at("a"), "c");
  const first = mutateTree(scratch.at("a"), { percent: 30, seed: 5, extras: true });
  const second = mutateTree(scratch.at("b"), { percent: 30, seed: 5, extras: true });
  mutateTree(scratch.at("c"), { percent: 30, seed: 6, extras: true });
  assert.deepEqual(first, second);
  assert.equal(digestTree(scratch.at("a")).hash, digestTree(scratch.at("b")).hash);
  assert.notEqual(digestTree(scratch.at("a")).hash, digestTree(scratch.at("c")).hash);
});

Deno.test("mutateTree() creates, deletes and modifies one, one and two parts, and reports it", () => {
  using scratch = new Scratch();
  generateTree(scratch.at("a"), { bytes: 8e6, seed: 7 });
  const before = digestTree(scratch.at("a")).entries;
  const report = mutateTree(scratch.at("a"), { percent: 40, seed: 8 });
  const counts = differing(before, digestTree(scratch.at("a")).entries);
  assert.deepEqual(counts, { created: report.created, deleted: report.deleted, modified: report.modified });
  const files = [...before.values()].filter((entry) => entry.type === "f").length;
  assert.ok(Math.abs(report.created - files * 0.1) <= 5, `${report.created} of ${files} created`);
  assert.ok(Math.abs(report.modified - files * 0.2) <= 5, `${report.modified} of ${files} modified`);
  assert.equal(report.created, report.deleted);
  assert.equal(report.renamed + report.chmodded, 0);
});

Deno.test("mutateTree() changes about the share `touch` of the lines of a modified file", () => {
  using scratch = new Scratch();
  generateTree(scratch.at("a"), {
    bytes: 2e6,
    seed: 9,
    classes: { source: 1, text: 0, object: 0, packed: 0, page: 0 },
  });
  scratch.copy(scratch.at("a"), "b");
  mutateTree(scratch.at("b"), { percent: 50, seed: 10, touch: 0.05 });
  const before = digestTree(scratch.at("a"));
  const after = digestTree(scratch.at("b"));
  let lines = 0;
  let changed = 0;
  for (const [path, facts] of before.entries) {
    const other = after.entries.get(path);
    // Paths of this class are mostly ASCII; the odd ones are not needed here.
    if (facts.type !== "f" || other === undefined || other.content === facts.content || /[^ -~]/.test(path)) {
      continue;
    }
    const old = Deno.readTextFileSync(`${scratch.at("a")}/${path}`).split("\n");
    const kept = new Set(old);
    lines += old.length;
    changed += Deno.readTextFileSync(`${scratch.at("b")}/${path}`).split("\n").filter((line) =>
      !kept.has(line)
    ).length;
  }
  // A quarter of the touched lines is deleted, and some new lines exist elsewhere in the file.
  assert.ok(lines > 5000, `${lines} lines`);
  assert.ok(changed / lines > 0.02 && changed / lines < 0.06, `${changed} of ${lines} lines are new`);
});

Deno.test("mutateTree() refuses a share beyond 100 %", () => {
  assert.throws(() => mutateTree("/nonexistent", { percent: 101, seed: 1 }), RangeError);
});
