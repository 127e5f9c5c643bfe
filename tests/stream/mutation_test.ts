/**
 * Random mutation of valid streams, and what must then hold of the verifier:
 *
 * - It comes to a report, without an exception, and to the same report however the octets are cut.
 * - Lenience refuses nothing that strictness takes, finds the same, and takes nothing that a lenient reader refuses.
 * - It takes a stream exactly if the reader reads it whole and the plain model of `verify_model.ts` finds no lie
 *   among its items. The verifier shares no code with the other two.
 * - What it takes is written again from the reader's items, octet for octet, and has as many of them.
 * - Where the reader refuses an item, the verifier found an error in that one or before.
 * - What it calls a failover has a commit before the cut, and the model finds no lie before it either.
 * - A finding lies within the stream; findings, counts and memory are bounded.
 *
 * `DROVER_MUTATIONS` says how many mutants there are, `DROVER_SEED` with what seed.
 */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { FormatError } from "../../lib/base/errors.ts";
import { bytesEqual } from "../../lib/base/hex.ts";
import type { StreamItem } from "../../lib/stream/item.ts";
import { StreamReader, type StreamReaderOptions } from "../../lib/stream/reader.ts";
import {
  findingsMax,
  Verifier,
  type VerifyOptions,
  type VerifyReport,
} from "../../lib/stream/verify/verifier.ts";
import { encodeItem, newWriterState } from "../../lib/stream/writer.ts";
import { prng } from "./prng.ts";
import { join } from "./verify_assembler.ts";
import { verifyCases } from "./verify_cases.ts";
import { commits, lies } from "./verify_model.ts";

const mutants = Number(Deno.env.get("DROVER_MUTATIONS") ?? 12_000);
const seed = Number(Deno.env.get("DROVER_SEED") ?? 61);

type Random = (bound: number) => number;

interface Seed {
  name: string;
  bytes: Uint8Array<ArrayBuffer>;
  options: VerifyOptions & { profile: "libxc" | "libxl" | "xl" | "legacy" | "region" };
  /** Offsets that are not amid a run of equal octets: where a change means something. */
  telling: Int32Array;
  /** Offsets of eight-octet words that look like the head of a record. */
  heads: number[];
}

function sha256() {
  const hash = createHash("sha256");
  return {
    update: (bytes: Uint8Array): void => void hash.update(bytes),
    digest: (): Uint8Array => hash.copy().digest(),
  };
}

async function seeds(): Promise<Seed[]> {
  const made: Seed[] = [];
  for (const { name, keys, assembly } of await verifyCases()) {
    const [, profile] = /^ok_(libxc|libxl|xl|legacy|region)/.exec(name) ?? [];
    if (profile === undefined) continue;
    const bytes = assembly.bytes();
    const telling: number[] = [];
    for (let at = 0; at < bytes.length; at++) {
      if (at < 64 || bytes[at] !== bytes[at - 7] || bytes[at] !== bytes[at + 7]) telling.push(at);
    }
    const heads: number[] = [];
    const first = bytes[0] === 0x58 ? bytes.indexOf(0xff) % 8 : 0;
    for (let at = first; at + 8 <= bytes.length; at += 8) {
      if ((bytes[at] ?? 99) < 0x13 && bytes[at + 1] === 0 && bytes[at + 2] === 0 && bytes[at + 3] === 0) {
        heads.push(at);
      }
    }
    const options: Seed["options"] = {
      profile: profile as Seed["options"]["profile"],
      digest: sha256,
    };
    // A broken mark of extended info would leave the kind of guest to taste.
    if (name.includes("legacy")) options.guest = name.includes("_pv") ? "pv" : "hvm";
    if (keys.width === 8) options.width = 8;
    made.push({ name, bytes, options, telling: Int32Array.from(telling), heads });
  }
  return made;
}

const words = [
  0,
  1,
  2,
  3,
  4,
  5,
  7,
  8,
  9,
  15,
  16,
  17,
  24,
  127,
  128,
  255,
  1024,
  1025,
  4095,
  4096,
  4104,
  0x1000_0000,
];
const wide = [0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 0x0800_0000, 0x0800_0001, 0xffff_fff8, 0x2000_0001];

/** One change, somewhere that tells. */
function change(bytes: Uint8Array<ArrayBuffer>, { telling, heads }: Seed, others: Seed[], random: Random) {
  const place = (): number => (telling[random(telling.length)] ?? 0) % Math.max(1, bytes.length);
  const head = (): number =>
    Math.min(heads.length === 0 ? place() : heads[random(heads.length)] ?? 0, bytes.length);
  const at = random(3) === 0 ? head() + random(12) : place();
  const output = bytes.slice();
  const view = new DataView(output.buffer);
  switch (random(14)) {
    case 0:
    case 1:
    case 2:
      if (at < output.length) output[at] = (output[at] ?? 0) ^ 1 << random(8);
      return output;
    case 3:
      if (at < output.length) output[at] = random(256);
      return output;
    case 4: {
      const word = at & ~3;
      const values = random(3) === 0 ? wide : words;
      if (word + 4 <= output.length) view.setUint32(word, values[random(values.length)] ?? 0, random(8) > 0);
      return output;
    }
    case 5: {
      const word = at & ~3;
      if (word + 4 <= output.length) {
        view.setUint32(word, view.getUint32(word, true) + random(5) - 2 >>> 0, true);
      }
      return output;
    }
    case 6: // record out
      return join([bytes.subarray(0, head()), bytes.subarray(head())]);
    case 7: { // record twice, or somewhere else
      const from = head();
      const to = Math.max(from, head());
      const into = head();
      return join([bytes.subarray(0, into), bytes.subarray(from, to), bytes.subarray(into)]);
    }
    case 8: { // two neighbours swapped
      const places = [head(), head(), head()].sort((left, right) => left - right);
      const [a = 0, b = 0, c = 0] = places;
      return join([bytes.subarray(0, a), bytes.subarray(b, c), bytes.subarray(a, b), bytes.subarray(c)]);
    }
    case 9: // cut
      return bytes.slice(0, random(2) === 0 ? head() : at);
    case 10: { // the end of another stream
      const other = others[random(others.length)];
      if (other === undefined) return output;
      const from = other.heads.length === 0 ? 0 : other.heads[random(other.heads.length)] ?? 0;
      return join([bytes.subarray(0, head()), other.bytes.subarray(from)]);
    }
    case 11: { // a piece out
      const size = random(3) === 0 ? 4096 : 1 + random(24);
      return join([bytes.subarray(0, at), bytes.subarray(at + size)]);
    }
    case 12: // a piece in
      return join([
        bytes.subarray(0, at),
        new Uint8Array(8 * random(3) + random(2)).fill(random(3)),
        bytes.subarray(at),
      ]);
    default: { // one word over another
      const from = place() & ~7;
      const to = place() & ~7;
      output.copyWithin(to, from, from + 8);
      return output;
    }
  }
}

function verify(bytes: Uint8Array, options: VerifyOptions, random?: Random): VerifyReport {
  const verifier = new Verifier(options);
  if (random === undefined) {
    verifier.push(bytes);
  } else {
    const most = Math.ceil(bytes.length / (1 + random(200)));
    for (let at = 0; at < bytes.length;) {
      const next = at + 1 + random(most);
      verifier.push(bytes.slice(at, next));
      at = next;
    }
  }
  return verifier.finish();
}

/** Items that a reader gives, and the error it ends with. */
function read(
  bytes: Uint8Array,
  options: StreamReaderOptions,
): { items: StreamItem[]; error: FormatError | null } {
  const items: StreamItem[] = [];
  try {
    const reader = new StreamReader(options);
    reader.push(bytes);
    for (let item = reader.next(); item !== null; item = reader.next()) items.push(item);
    reader.finish();
    for (let item = reader.next(); item !== null; item = reader.next()) items.push(item);
    return { items, error: null };
  } catch (error) {
    assert.ok(error instanceof FormatError, `the reader threw ${error}`);
    return { items, error };
  }
}

/** Whether a rule says that the stream ends too early. */
function isCut(rule: string): boolean {
  return /\.(truncated|missing|unknown)$/.test(rule);
}

/** Holds one mutant against everything above. @returns what became of it. */
function judge(
  bytes: Uint8Array,
  options: Seed["options"],
  random: Random,
): "valid" | "failover" | "invalid" {
  const report = verify(bytes, options);
  const lenient = verify(bytes, { ...options, lenient: true });
  assert.ok(!report.valid || lenient.valid, "strict takes it and lenient does not");
  assert.deepEqual(lenient.findings.map(({ rule }) => rule), report.findings.map(({ rule }) => rule));
  assert.deepEqual(verify(bytes, options, random), report, "the report depends on the chunks");
  assert.ok(report.findings.length <= findingsMax);
  assert.equal(report.valid, report.errors === 0);
  assert.equal(report.bytes, bytes.length);
  assert.ok(report.committedEpochs <= report.epochs);
  for (const { offset, record } of report.findings) {
    assert.ok(
      offset >= 0 && offset <= bytes.length && record >= 0 && record <= report.records,
      "a finding outside",
    );
  }

  // Legacy streams have no lenient reader.
  if (lenient.valid && lenient.status === "complete" && options.guest === undefined) {
    assert.equal(read(bytes, { ...options, lenient: true }).error, null, "the lenient reader refuses it");
  }
  const { items, error } = read(bytes, options);
  if (error !== null) {
    // A reader may look ahead into the item behind, so where both see the end of the stream they need not agree in what.
    const cut = isCut(error.rule) &&
      (report.status === "failover" ||
        report.findings.some(({ rule, offset }) => isCut(rule) && offset === bytes.length));
    assert.ok(
      cut || report.findings.some(({ severity, record }) => severity === "error" && record <= items.length),
      `the reader refuses item ${items.length}: ${error.message}`,
    );
  }
  if (report.valid && report.status === "failover") {
    assert.ok(commits(items) > 0 && commits(items) === report.committedEpochs, "a failover to nothing");
    assert.deepEqual(lies(items, false), []);
    return "failover";
  }
  const found = lies(items, error === null);
  assert.equal(
    report.valid,
    error === null && found.length === 0,
    `verifier: ${report.findings[0]?.rule}; reader: ${error?.message}; model: ${found}`,
  );
  if (!report.valid) return "invalid";
  assert.equal(report.status, "complete");
  const state = newWriterState();
  assert.ok(bytesEqual(join(items.flatMap((item) => encodeItem(item, state))), bytes), "written otherwise");
  assert.equal(report.records, items.length);
  return "valid";
}

Deno.test(`Verifier, reader and model agree on ${mutants} mutants, seed ${seed}`, async () => {
  const all = await seeds();
  const random = prng(seed);
  const counts = { valid: 0, failover: 0, invalid: 0 };
  for (let round = 0; round < mutants; round++) {
    const one = all[random(all.length)];
    assert.ok(one);
    const others = all.filter(({ options }) => options.profile === one.options.profile);
    let { bytes } = one;
    const changes = random(3) === 0 ? 1 + random(4) : 1;
    for (let count = 0; count < changes; count++) bytes = change(bytes, one, others, random);
    try {
      counts[judge(bytes, one.options, random)]++;
    } catch (error) {
      const file = Deno.env.get("DROVER_MUTANT");
      if (file !== undefined) Deno.writeFileSync(file, bytes);
      throw new Error(`mutant ${round} of ${one.name}, seed ${seed}: DROVER_MUTANT=FILE keeps it`, {
        cause: error,
      });
    }
  }
  const share = (count: number): number => count / mutants;
  assert.ok(share(counts.valid) > 0.02 && share(counts.invalid) > 0.3, JSON.stringify(counts));
  assert.ok(mutants < 1000 || counts.failover > 0, JSON.stringify(counts));
});

Deno.test("the unchanged streams pass what mutants are held against", async () => {
  const random = prng(seed);
  for (const { name, bytes, options } of await seeds()) {
    assert.equal(judge(bytes, options, random), "valid", name);
  }
});

Deno.test("the model tells lies from truths: every malformed vector is refused by it or by the reader", async () => {
  for (const { name, keys, findings, assembly } of await verifyCases()) {
    if (keys.checkpointed !== undefined || keys.profile !== undefined || name.startsWith("ok_")) continue;
    const bytes = assembly.bytes();
    const report = verify(bytes, { digest: sha256 });
    if (report.valid || report.profile === null) continue;
    const { items, error } = read(bytes, { profile: report.profile, digest: sha256 });
    assert.ok(error !== null || lies(items, true).length > 0, `${name}: ${findings[0]?.rule}`);
  }
});
