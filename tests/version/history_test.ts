import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import type { VersionInfo } from "../../lib/version/entry.ts";
import {
  checkChain,
  checkVersion,
  messageSizeMax,
  newestCommon,
  sampleAncestors,
  versionId,
} from "../../lib/version/history.ts";

const sha256 = (text: string): string => createHash("sha256").update(text).digest("hex");

/** Versions oldest first. */
function history(count: number, from: string | null = null): VersionInfo[] {
  const versions: VersionInfo[] = [];
  let parent = from;
  for (let index = 0; index < count; index++) {
    const root = sha256(`root ${index}`);
    const id = versionId(parent, root);
    versions.push({ id, parent, root, time: 1_760_000_000_000 + index, message: `version ${index}` });
    parent = id;
  }
  return versions;
}

Deno.test("versionId() is sha256 of parent and root", () => {
  const root = sha256("root");
  const first = createHash("sha256").update(new Uint8Array(32)).update(root, "hex").digest("hex");
  assert.equal(versionId(null, root), first);
  assert.equal(versionId(first, root), createHash("sha256").update(first + root, "hex").digest("hex"));
  assert.throws(() => versionId("x", root), TypeError);
  assert.throws(() => versionId(null, root.toUpperCase()), TypeError);
});

Deno.test("checkVersion() refuses a version whose fields do not belong together", () => {
  const [, good] = history(2);
  if (good === undefined) throw new Error("impossible");
  checkVersion(good);
  const other = sha256("other");
  const cases: [rule: string, fields: Partial<VersionInfo>][] = [
    ["id", { id: other }],
    ["id", { root: other }],
    ["id", { parent: other }],
    ["id", { parent: null }],
    ["id", { id: good.id.toUpperCase() }],
    ["id", { id: good.id + "\n" }],
    ["id", { root: "../../etc" }],
    ["time", { time: 0.5 }],
    ["time", { time: Infinity }],
    ["message", { message: "x".repeat(messageSizeMax + 1) }],
  ];
  for (const [rule, fields] of cases) {
    assert.throws(() => checkVersion({ ...good, ...fields }), {
      name: "FormatError",
      rule: `version.${rule}`,
    });
  }
});

Deno.test("checkChain() takes a gapless way between two versions and no other", () => {
  const versions = history(6);
  const id = (index: number): string => versions[index]?.id ?? "";
  checkChain(null, versions, id(5));
  checkChain(id(1), versions.slice(2), id(5));
  checkChain(id(3), [], id(3));
  const refused = (from: string | null, chain: VersionInfo[], to: string): void =>
    assert.throws(() => checkChain(from, chain, to), { name: "FormatError", rule: "version.chain" });
  refused(null, versions.slice(1), id(5));
  refused(id(0), versions, id(5));
  refused(null, versions.slice(0, 5), id(5));
  refused(null, versions, id(4));
  refused(null, versions.filter((_, index) => index !== 3), id(5));
  refused(null, versions.toReversed(), id(0));
  refused(id(3), [], id(4));
  const forged = versions.map((version, index) =>
    index === 2 ? { ...version, root: sha256("forged") } : version
  );
  assert.throws(() => checkChain(null, forged, id(5)), { rule: "version.id" });
});

Deno.test("sampleAncestors() is exponentially spaced and holds head and first version", () => {
  const chain = Array.from({ length: 1000 }, (_, index) => `v${index}`);
  assert.deepEqual(sampleAncestors(chain).map((name) => Number(name.slice(1))), [
    0,
    1,
    2,
    4,
    8,
    16,
    32,
    64,
    128,
    256,
    512,
    999,
  ]);
  assert.deepEqual(sampleAncestors([]), []);
  for (let count = 1; count < 70; count++) {
    const sample = sampleAncestors(chain.slice(0, count));
    assert.equal(new Set(sample).size, sample.length);
    assert.equal(sample[0], "v0");
    assert.equal(sample.at(-1), `v${count - 1}`);
    assert(sample.length <= 3 + Math.log2(count));
  }
});

Deno.test("newestCommon() finds the newest shared version, with samples one not too old", () => {
  const own = Array.from({ length: 300 }, (_, index) => `v${index}`);
  assert.equal(newestCommon(own, ["v7", "v3", "x"]), "v3");
  assert.equal(newestCommon(own, ["x"]), null);
  assert.equal(newestCommon([], ["x"]), null);
  for (let fork = 0; fork < 300; fork++) {
    for (const ahead of [0, 1, 5, 100]) {
      const other = [...Array.from({ length: ahead }, (_, index) => `w${index}`), ...own.slice(fork)];
      const found = newestCommon(own, sampleAncestors(other));
      const index = own.indexOf(found ?? "");
      assert(
        index >= fork && (index - fork < ahead || index === fork || index === 299),
        `${fork} ${ahead} ${index}`,
      );
    }
  }
});
