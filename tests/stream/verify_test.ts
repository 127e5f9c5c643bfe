import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { FormatError } from "../../lib/base/errors.ts";
import { CheckpointReceiver } from "../../lib/stream/checkpoint.ts";
import { LegacyConverter } from "../../lib/stream/convert.ts";
import { ImageTarget } from "../../lib/stream/image_target.ts";
import { MemoryImage } from "../../lib/stream/memory_image.ts";
import { StreamReader } from "../../lib/stream/reader.ts";
import {
  type Finding,
  findingsMax,
  type RunningDigest,
  Verifier,
  type VerifyOptions,
  type VerifyProfile,
  type VerifyReport,
  verifyRules,
} from "../../lib/stream/verify/verifier.ts";
import { loadVectors, type Vector } from "../vectors.ts";
import { prng } from "./prng.ts";
import { Assembly, fill } from "./verify_assembler.ts";
import { vectorText, verifyCases } from "./verify_cases.ts";

const keys = [
  "offset",
  "record",
  "findings",
  "lenient",
  "profile",
  "status",
  "epochs",
  "pages",
  "width",
  "guest",
  "checkpointed",
];
const vectors = loadVectors("verify", keys);

/** A SHA-256 that runs on after its digest was asked for. */
function sha256(): RunningDigest {
  const hash = createHash("sha256");
  return { update: (bytes) => hash.update(bytes), digest: () => hash.copy().digest() };
}

function optionsOf({ fields }: Vector): VerifyOptions {
  const options: VerifyOptions = { digest: sha256 };
  const profile = fields.get("profile");
  if (profile !== undefined) options.profile = profile as VerifyProfile;
  const width = fields.get("width");
  if (width !== undefined) options.width = width === "4" ? 4 : 8;
  if (fields.get("guest") === "pv") options.guest = "pv";
  const checkpointed = fields.get("checkpointed");
  if (checkpointed !== undefined) options.checkpointed = checkpointed === "true";
  return options;
}

function verify(chunks: Iterable<Uint8Array>, options: VerifyOptions = {}): VerifyReport {
  const verifier = new Verifier(options);
  for (const chunk of chunks) verifier.push(chunk);
  return verifier.finish();
}

const short = ({ rule, offset, record }: Finding): string => `${rule}@${offset}#${record}`;

Deno.test("Verifier finds in every vector what it shows, and nothing else", () => {
  for (const vector of vectors) {
    const { name, expect, fields, bytes } = vector;
    const report = verify([bytes], optionsOf(vector));
    const wanted = fields.get("findings")?.split(" ") ??
      (expect === "ok" ? [] : [`${expect}@${fields.get("offset")}#${fields.get("record")}`]);
    assert.deepEqual(report.findings.map(short), wanted, name);
    const first = report.findings.find(({ severity }) => severity === "error");
    assert.equal(first?.rule ?? "ok", expect, name);
    assert.equal(report.valid, expect === "ok", name);
    assert.equal(report.status, fields.get("status") ?? "complete", name);
    assert.equal(report.bytes, bytes.length, name);
    assert.equal(report.digests.unchecked, 0, name);
    const pages = fields.get("pages");
    if (pages !== undefined) assert.equal(`${report.pages}`, pages, name);
    const epochs = fields.get("epochs");
    if (epochs !== undefined) assert.equal(`${report.epochs}/${report.committedEpochs}`, epochs, name);
    for (const { offset } of report.findings) assert.ok(offset <= bytes.length, name);
  }
});

Deno.test("Verifier is as lenient as every vector says", () => {
  for (const vector of vectors) {
    const strict = verify([vector.bytes], optionsOf(vector));
    const lenient = verify([vector.bytes], { ...optionsOf(vector), lenient: true });
    const first = lenient.findings.find(({ severity }) => severity === "error");
    assert.equal(first?.rule ?? "ok", vector.fields.get("lenient") ?? vector.expect, vector.name);
    assert.deepEqual(lenient.findings.map(short), strict.findings.map(short), vector.name);
  }
});

Deno.test("Verifier gives the same report for every chunking", () => {
  const random = prng(3);
  for (const vector of vectors) {
    const { name, bytes } = vector;
    const options = optionsOf(vector);
    const whole = verify([bytes], options);
    const cut = (size: () => number): Uint8Array[] => {
      const chunks: Uint8Array[] = [];
      for (let at = 0; at < bytes.length;) {
        const next = Math.min(bytes.length, at + size());
        chunks.push(bytes.slice(at, next));
        at = next;
      }
      return chunks;
    };
    assert.deepEqual(verify(cut(() => 1), options), whole, `${name}, by octets`);
    for (let round = 0; round < 4; round++) {
      assert.deepEqual(verify(cut(() => random(40)), options), whole, `${name}, in small pieces`);
      assert.deepEqual(verify(cut(() => 1 + random(5000)), options), whole, `${name}, in pieces`);
    }
  }
});

Deno.test("Verifier keeps nothing of a chunk", () => {
  for (const vector of vectors) {
    const options = optionsOf(vector);
    const verifier = new Verifier(options);
    const reused = new Uint8Array(97);
    for (let at = 0; at < vector.bytes.length; at += 97) {
      const chunk = vector.bytes.subarray(at, at + 97);
      reused.fill(0xa5);
      reused.set(chunk);
      verifier.push(reused.subarray(0, chunk.length));
    }
    assert.deepEqual(verifier.finish(), verify([vector.bytes], options), vector.name);
  }
});

Deno.test("Verifier calls no prefix of a valid stream complete", () => {
  for (const vector of vectors.filter(({ name }) => name.startsWith("ok_"))) {
    const { name, bytes } = vector;
    if (name === "ok_legacy_qemu_old") continue;
    const sizes = new Set([...Array.from({ length: 60 }, (_, size) => size)]);
    for (let at = 1; at < 400; at++) sizes.add(Math.floor(bytes.length * at / 400));
    for (let back = 1; back < 60; back++) sizes.add(bytes.length - back);
    for (const size of sizes) {
      if (size < 0 || size >= bytes.length) continue;
      const report = verify([bytes.subarray(0, size)], optionsOf(vector));
      const told = report.findings.at(-1)?.rule ?? "";
      const early = name.startsWith("ok_legacy_remus") && told === "legacy.end.no_last_checkpoint";
      if (early) continue;
      assert.notEqual(report.status, "complete", `${name}, ${size} octets`);
      assert.equal(report.status === "failover", report.committedEpochs > 0, `${name}, ${size} octets`);
      assert.equal(report.valid, report.status === "failover", `${name}, ${size} octets`);
    }
  }
});

Deno.test("Verifier tells the profile by the first octets", () => {
  for (const { name, bytes } of vectors.filter(({ name }) => /^ok_[a-z]+(?!.*bare)/.test(name))) {
    const [, told] = /^ok_(libxc|libxl|xl|legacy|region)/.exec(name) ?? [];
    if (name.endsWith("_bare")) continue;
    assert.equal(verify([bytes]).profile, told, name);
  }
});

Deno.test("Verifier counts the digests that it has no hash for", () => {
  const vector = vectors.find(({ name }) => name === "region_digest_mismatch");
  assert.ok(vector);
  const report = verify([vector.bytes]);
  assert.deepEqual([report.valid, report.digests], [true, { checked: 0, unchecked: 2 }]);
});

Deno.test("Verifier knows no rule that no vector breaks", () => {
  const broken = new Set(["libxc.page_data.unchecked", "region.page_data.unchecked"]);
  for (const vector of vectors) {
    for (const { rule } of verify([vector.bytes], optionsOf(vector)).findings) broken.add(rule);
  }
  assert.deepEqual(Object.keys(verifyRules).filter((rule) => !broken.has(rule)), []);
});

Deno.test("every malformed case of the list has a vector", () => {
  const numbers = new Set(vectors.map(({ name }) => Number(/^(\d\d)_/.exec(name)?.[1] ?? 0)));
  for (let number = 1; number <= 61; number++) assert.ok(numbers.has(number), `case ${number}`);
});

Deno.test("the vectors of the verifier are what verify_cases.ts makes", async () => {
  const weights = new Map<string, string>(
    Object.entries(verifyRules).map(([rule, { weight }]) => [rule, weight]),
  );
  const cases = await verifyCases();
  assert.deepEqual(cases.map(({ name }) => name).sort(), vectors.map(({ name }) => name));
  for (const one of cases) {
    const file = await Deno.readTextFile(new URL(`../vectors/verify/${one.name}.vec`, import.meta.url));
    assert.equal(vectorText(one, (rule) => weights.get(rule) !== "warning"), file, one.name);
  }
});

Deno.test("Verifier looks for duplicates among many entries out of order, and says where it stops", () => {
  const stream = (pfns: number[]): Uint8Array => {
    const a = new Assembly();
    a.libxc("hvm");
    a.record("STATIC_DATA_END", 0x10);
    a.record("PAGE_DATA", 1, [a.u32(pfns.length), a.u32(0), ...pfns.map((pfn) => a.entry(pfn, 0xf))]);
    a.record("X86_TSC_INFO", 8, [fill(0, 24)]);
    a.record("HVM_CONTEXT", 9, [fill(1, 8)]);
    a.record("END", 0);
    return a.bytes();
  };
  const rules = (pfns: number[]): string[] => verify([stream(pfns)]).findings.map(({ rule }) => rule);
  const ascending = Array.from({ length: 70_000 }, (_, index) => 3 * index);
  const descending = ascending.slice().reverse();
  assert.deepEqual(rules(ascending), []);
  assert.deepEqual(rules([...ascending, 3 * 69_999]), ["libxc.page_data.duplicate"]);
  assert.deepEqual(rules(descending), ["libxc.page_data.unchecked"]);
  assert.deepEqual(rules([...ascending, 1]), ["libxc.page_data.unchecked"]);
  assert.deepEqual(rules([...ascending, 3]), ["libxc.page_data.duplicate", "libxc.page_data.unchecked"]);
  assert.deepEqual(rules([...descending.slice(0, 60_000), 2 ** 40, 2 ** 51, 2 ** 40 + 1]), []);
  assert.deepEqual(rules([...descending.slice(0, 60_000), 2 ** 40, 2 ** 51, 2 ** 40]), [
    "libxc.page_data.duplicate",
  ]);
});

Deno.test("Verifier finds duplicates as a set does", () => {
  const random = prng(11);
  for (let round = 0; round < 300; round++) {
    const count = 1 + random(round < 290 ? 60 : 3000);
    const bound = [20, 2000, 2 ** 31, 2 ** 31][random(4)] ?? 20;
    const shift = random(2) === 0 ? 1 : 2 ** 21;
    const pfns = Array.from({ length: count }, () => random(bound) * shift);
    if (random(3) === 0) pfns.sort((left, right) => left - right);
    const seen = new Set<number>();
    const first = pfns.findIndex((pfn) => seen.size === seen.add(pfn).size);
    const a = new Assembly();
    a.libxc("hvm", 2);
    const at = a.record("PAGE_DATA", 1, [a.u32(count), a.u32(0), ...pfns.map((pfn) => a.entry(pfn, 0xe))]);
    const found = verify([a.bytes()]).findings.find(({ rule }) => rule === "libxc.page_data.duplicate");
    assert.equal(found?.offset, first < 0 ? undefined : at + 16 + 8 * first, `round ${round}`);
  }
});

Deno.test("Verifier keeps a bounded number of findings and counts all", () => {
  const a = new Assembly();
  a.libxc("hvm");
  for (let index = 0; index < 5000; index++) a.record("TOOLSTACK", 11);
  const report = verify([a.bytes()]);
  assert.equal(report.findings.length, findingsMax);
  assert.deepEqual([report.errors, report.warnings, report.records], [5001, 0, 5001]);
});

Deno.test("Verifier passes over 16 GiB with the memory of its state", () => {
  const head = new Assembly();
  head.libxc("hvm");
  head.record("STATIC_DATA_END", 0x10);
  const tail = new Assembly();
  tail.record("X86_TSC_INFO", 8, [fill(0, 24)]);
  tail.record("HVM_CONTEXT", 9, [fill(1, 8)]);
  tail.record("END", 0);
  const record = new Uint8Array(16 + 1024 * 4104);
  const view = new DataView(record.buffer);
  view.setUint32(0, 1, true);
  view.setUint32(4, record.length - 8, true);
  view.setUint32(8, 1024, true);
  const verifier = new Verifier();
  verifier.push(head.bytes());
  const before = Deno.memoryUsage();
  let most = 0;
  for (let pfn = 0; pfn < 2 ** 22; pfn += 1024) {
    for (let index = 0; index < 1024; index++) view.setUint32(16 + 8 * index, pfn + (1023 - index), true);
    verifier.push(record);
    const { heapUsed, external } = Deno.memoryUsage();
    most = Math.max(most, heapUsed + external - before.heapUsed - before.external);
  }
  verifier.push(tail.bytes());
  const report = verifier.finish();
  assert.deepEqual([report.valid, report.pages, report.records], [true, 2 ** 22, 2 ** 12 + 5]);
  assert.ok(most < 64 * 1024 * 1024, `${most} octets more than at the start`);
});

Deno.test("Verifier is settled where nothing can be found any more, and not before", () => {
  for (const vector of vectors) {
    const { name, bytes } = vector;
    const verifier = new Verifier(optionsOf(vector));
    let size = 0;
    while (size < bytes.length && !verifier.settled) verifier.push(bytes.subarray(size, ++size));
    if (!verifier.settled) {
      const { status, findings } = verifier.finish();
      assert.notEqual(status, "stopped", name);
      assert.ok(findings.every(({ rule }) => !rule.endsWith(".end.trailing")), name);
      continue;
    }
    const whole = verify([bytes], optionsOf(vector)).findings;
    assert.deepEqual(
      verify([bytes.subarray(0, size), fill(0xa5, 9000)], optionsOf(vector)).findings,
      whole,
      name,
    );
    assert.notDeepEqual(verify([bytes.subarray(0, size - 1)], optionsOf(vector)).findings, whole, name);
  }
});

Deno.test("Verifier refuses a chunk after finish()", () => {
  const verifier = new Verifier();
  const report = verifier.finish();
  assert.throws(() => verifier.push(new Uint8Array(1)), TypeError);
  assert.deepEqual(verifier.finish(), report);
});

Deno.test("Verifier shares no code with the readers", async () => {
  const directory = new URL("../../lib/stream/verify/", import.meta.url);
  const files = [...Deno.readDirSync(directory)].map(({ name }) => name).filter((name) =>
    name.endsWith(".ts")
  );
  assert.ok(files.length >= 9);
  for (const file of files) {
    const source = await Deno.readTextFile(new URL(file, directory));
    const imports = [...source.matchAll(/^(?!\s*\*).*\b(?:from|import)\s*\(?\s*"([^"]+)"/gm)].map((
      [, path],
    ) => path ?? "");
    for (const path of imports) {
      assert.match(path, /^\.\/\w+\.ts$/, `${file} imports ${path}`);
    }
  }
});

Deno.test("VERIFY.md lists every rule with its weight, and no other", async () => {
  const text = await Deno.readTextFile(new URL("../../lib/stream/verify/VERIFY.md", import.meta.url));
  const listed = [...text.matchAll(/^\| `([a-z]+\.[a-z0-9_.]+)` +\| (error|ignored|warning) +\|/gm)]
    .map(([, rule, weight]) => `${rule} ${weight}`).sort();
  assert.deepEqual(
    listed,
    Object.entries(verifyRules).map(([rule, { weight }]) => `${rule} ${weight}`).sort(),
  );
});

/** The rule with which reader, converter or receiver refuse a stream; null when they take it. */
function ruleOfReaders({ bytes, fields }: Vector): string | null {
  const guest = fields.get("guest") === "pv" ? "pv" : "auto";
  const reader = new StreamReader({ digest: sha256, guest });
  const image = new MemoryImage({ sizeMax: 1 << 28 });
  const target = new ImageTarget({ image, scratch: new MemoryImage({ sizeMax: 1 << 28 }) });
  const receiver = new CheckpointReceiver({ target, epochSizeMax: 1 << 28 });
  const converter = new LegacyConverter({ to: "libxl", remember: "all" });
  const take = (): void => {
    for (let item = reader.next(); item !== null; item = reader.next()) {
      if (item.layer !== "legacy") {
        receiver.take(item);
        continue;
      }
      for (const one of converter.convert(item)) receiver.take({ ...one, place: item.place });
    }
  };
  try {
    reader.push(bytes);
    take();
    reader.finish();
    take();
    return null;
  } catch (error) {
    assert.ok(error instanceof FormatError, String(error));
    return error.rule;
  }
}

Deno.test("VERIFY.md says where readers name another rule than the verifier, and nothing else", async () => {
  const text = await Deno.readTextFile(new URL("../../lib/stream/verify/VERIFY.md", import.meta.url));
  const [, section = ""] = /\n## What readers call it\n([^]*?)\n## /.exec(text) ?? [];
  const listed = new Map<string, string[]>();
  for (const [, own = "", others = ""] of section.matchAll(/^\| `(\S+)` +\| (`.*`) +\|$/gm)) {
    assert.ok(own in verifyRules, own);
    listed.set(own, [...others.matchAll(/`([^`]+)`/g)].map(([, rule = ""]) => rule));
  }
  assert.ok(listed.size > 20);
  const met = new Set<string>();
  for (const vector of vectors) {
    if (vector.expect === "ok" || vector.fields.has("profile") || vector.fields.has("checkpointed")) continue;
    const rule = ruleOfReaders(vector);
    if (rule === null || rule === vector.expect) continue;
    assert.ok(listed.get(vector.expect)?.includes(rule), `${vector.name}: ${vector.expect}, ${rule}`);
    met.add(vector.expect);
  }
  assert.deepEqual([...listed.keys()].filter((rule) => !met.has(rule)), []);
});
