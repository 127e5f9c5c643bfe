/**
 * The stream commands as they are typed: in this process where that is enough, as processes where pipes, stdin and
 * exit codes are the point.
 */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { bytesEqual } from "../../lib/base/hex.ts";
import { toolExists } from "../../bench/process.ts";
import type { StreamItem } from "../../lib/stream/item.ts";
import { encodeItems } from "../../lib/stream/writer.ts";
import { digestMaker, StreamInput } from "../../lib/cli/stream_files.ts";
import { type ImageResult, readImage } from "../../lib/cli/stream_images.ts";
import { legacySample } from "../stream/legacy_samples.ts";
import { prng } from "../stream/prng.ts";
import { allSamples, concat, libxcSample, libxlSample, regionSample } from "../stream/samples.ts";
import { loadVectors } from "../vectors.ts";
import { drover } from "./harness.ts";

const pageSize = 4096;

/** What stands in front of the octets of the verifier's vectors. */
const verifyKeys = [
  ...["offset", "record", "findings", "lenient", "profile", "status", "epochs", "pages", "width", "guest"],
  "checkpointed",
];

/** A directory that is gone at the end. */
class Folder implements Disposable {
  readonly path = Deno.makeTempDirSync({ dir: "/var/tmp", prefix: "drover-stream-test-" });

  at(name: string): string {
    return `${this.path}/${name}`;
  }

  write(name: string, bytes: Uint8Array): string {
    Deno.writeFileSync(this.at(name), bytes);
    return this.at(name);
  }

  names(): string[] {
    return [...Deno.readDirSync(this.path)].map(({ name }) => name).sort();
  }

  [Symbol.dispose](): void {
    Deno.removeSync(this.path, { recursive: true });
  }
}

/** A raw image: some pages random, some zero. */
function rawImage(pages: number, seed: number): Uint8Array<ArrayBuffer> {
  const random = prng(seed);
  const raw = new Uint8Array(pages * pageSize);
  for (let pfn = 0; pfn < pages; pfn++) {
    if (random(3) === 0) continue;
    for (let at = 0; at < 16; at++) raw[pfn * pageSize + random(pageSize)] = 1 + random(255);
  }
  return raw;
}

/** The memory of a sample as a raw image of as many pages as `raw` has. */
function rawOf(memory: ReadonlyMap<number, Uint8Array> | undefined, size: number): Uint8Array {
  assert.ok(memory !== undefined);
  const raw = new Uint8Array(size);
  for (const [pfn, page] of memory) {
    if (page.some((octet) => octet !== 0)) raw.set(page, pfn * pageSize);
  }
  return raw;
}

async function ok(...args: string[]): Promise<Record<string, unknown>> {
  const ran = await drover(...args, "--json");
  assert.equal(ran.code, 0, ran.stdout + ran.stderr);
  return ran.result();
}

const program = fileURLToPath(new URL("../../main.ts", import.meta.url));

/** Runs a shell line in which `drover` is this program. */
async function shell(line: string, directory: string): Promise<{ code: number; out: string; err: string }> {
  const script =
    `set -o pipefail; drover() { "${Deno.execPath()}" run --quiet --no-check --allow-all "${program}" "$@"; }; ${line}`;
  const done = await new Deno.Command("bash", {
    args: ["-c", script],
    cwd: directory,
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).output();
  const text = new TextDecoder();
  return { code: done.code, out: text.decode(done.stdout), err: text.decode(done.stderr) };
}

for (const [profile, ...guest] of [["libxc"], ["libxc", "--guest", "pv"], ["region"]] as const) {
  Deno.test(`drover stream write and extract bring a raw image back: ${[profile, ...guest].join(" ")}`, async () => {
    using folder = new Folder();
    // More than one batch, a last one that is not full, zero pages at the end.
    const raw = rawImage(2100, 3);
    raw.fill(0, 2000 * pageSize);
    const source = folder.write("guest.raw", raw);
    const stream = folder.at("guest.stream");
    const target = folder.at("copy.raw");
    const written = await ok("stream", "write", stream, "--memory", source, "--profile", profile, ...guest);
    assert.equal(written.pages, 2100);
    assert.equal(written.bytes, Deno.statSync(stream).size);
    const { valid, status, pages } = await ok("stream", "verify", stream);
    assert.deepEqual({ valid, status }, { valid: true, status: "complete" });
    assert.equal(pages, 2100 - Number(written.zero));
    const extracted = await ok("stream", "extract", stream, "--memory", target);
    assert.equal(extracted.pages, 2100);
    assert.ok(bytesEqual(Deno.readFileSync(target), raw));
    const { blocks } = Deno.statSync(target);
    assert.ok(blocks !== null && blocks * 512 < raw.length, "zero pages are holes");
    assert.deepEqual(folder.names(), ["copy.raw", "guest.raw", "guest.stream"]);
  });
}

/** A stream whose table is written below. */
const shown: StreamItem[] = [
  { layer: "libxl", header: { bigEndian: false, converted: false } },
  { layer: "libxl", record: { name: "LIBXC_CONTEXT" } },
  { layer: "libxc", header: { version: 3, bigEndian: false, guest: "hvm", xenMajor: 4, xenMinor: 20 } },
  { layer: "libxc", record: { name: "STATIC_DATA_END" } },
  ...[0, 4, 8].map((pfn): StreamItem => ({
    layer: "libxc",
    record: {
      name: "PAGE_DATA",
      batch: {
        pfns: new Float64Array([pfn, pfn + 1, pfn + 0x100]),
        types: new Uint8Array([0, 0, pfn === 4 ? 0xf : 0]),
        pages: new Uint8Array((pfn === 4 ? 2 : 3) * pageSize),
      },
    },
  })),
  {
    layer: "libxc",
    record: { name: "X86_TSC_INFO", tsc: { mode: 1, khz: 2_400_000, nsec: 5n, incarnation: 0 } },
  },
  { layer: "libxc", record: { name: "HVM_CONTEXT", context: new Uint8Array(1000) } },
  { layer: "libxc", record: { name: "HVM_PARAMS", params: [{ index: 1n, value: 2n }] } },
  { layer: "libxc", record: { name: "CHECKPOINT" } },
  {
    layer: "libxl",
    record: { name: "EMULATOR_CONTEXT", emulatorId: 2, index: 0, context: new Uint8Array(2000) },
  },
  { layer: "libxl", record: { name: "CHECKPOINT_END" } },
  {
    layer: "libxc",
    record: {
      name: "PAGE_DATA",
      batch: {
        pfns: new Float64Array([7]),
        types: new Uint8Array([0]),
        pages: new Uint8Array(pageSize).fill(1),
      },
    },
  },
  {
    layer: "libxc",
    record: { name: "X86_TSC_INFO", tsc: { mode: 1, khz: 2_400_000, nsec: 6n, incarnation: 0 } },
  },
  { layer: "libxc", record: { name: "HVM_CONTEXT", context: new Uint8Array(1000) } },
  { layer: "libxc", record: { name: "CHECKPOINT" } },
  { layer: "libxl", record: { name: "CHECKPOINT_END" } },
];

const table = `\
offset  record                             size
0x0          0  libxl  header              16 B  little-endian, not converted
0x10         1  libxl  LIBXC_CONTEXT        8 B
0x18         2  libxc  header              40 B  version 3, hvm, little-endian, Xen 4.20
0x40         3  libxc  STATIC_DATA_END      8 B
0x48       4-6  libxc  PAGE_DATA          33 kB  9 pages, 1 without contents, pfn 0x0-0x108
0x80c0       7  libxc  X86_TSC_INFO        32 B  mode 1, khz 2400000, nsec 5, incarnation 0
0x80e0       8  libxc  HVM_CONTEXT       1.0 kB
0x84d0       9  libxc  HVM_PARAMS          32 B  1 parameter
0x84f0      10  libxc  CHECKPOINT           8 B
0x84f8      11  libxl  EMULATOR_CONTEXT  2.0 kB  emulator 2, index 0
0x8cd8      12  libxl  CHECKPOINT_END       8 B  commits epoch 1
0x8ce0      13  libxc  PAGE_DATA         4.1 kB  1 page, pfn 0x7
0x9cf8      14  libxc  X86_TSC_INFO        32 B  mode 1, khz 2400000, nsec 6, incarnation 0
0x9d18      15  libxc  HVM_CONTEXT       1.0 kB
0xa108      16  libxc  CHECKPOINT           8 B
0xa110      17  libxl  CHECKPOINT_END       8 B  commits epoch 2
FILE: libxl, failover at epoch 2, 18 records, 41 kB
pages: 9 normal, 1 invalid
`;

Deno.test("drover stream inspect shows the table of a stream, and where it stops", async () => {
  using folder = new Folder();
  const file = folder.write("shown", concat(encodeItems(shown)));
  const { code, stdout, stderr } = await drover("stream", "inspect", file);
  assert.equal(stdout.replaceAll(file, "FILE"), table);
  assert.match(
    stderr,
    /^drover: warning: \S+ stops behind epoch 2: .*\(rule libxc\.end\.missing, offset 41240\)\n$/,
  );
  assert.equal(code, 0);
});

Deno.test("drover stream inspect --json has a row per run of records, then the totals", async () => {
  using folder = new Folder();
  const file = folder.write("shown", concat(encodeItems(shown)));
  const objects = (await drover("stream", "inspect", file, "--json")).objects();
  assert.equal(objects.length, 17);
  assert.deepEqual(objects[4], {
    record: 4,
    offset: 0x48,
    size: 32_888,
    count: 3,
    layer: "libxc",
    name: "PAGE_DATA",
    pages: 9,
    bare: 1,
    first: 0,
    last: 0x108,
  });
  assert.deepEqual(objects.at(-1), {
    file,
    profile: "libxl",
    status: "failover",
    bytes: 0xa118,
    records: 18,
    epochs: 2,
    entries: 10,
    types: { normal: 9, invalid: 1 },
  });
});

Deno.test("drover stream inspect reads every profile, and says where a broken one breaks", async () => {
  using folder = new Folder();
  for (const sample of allSamples(4)) {
    const file = folder.write("sample", sample.bytes);
    const { profile, status, bytes, epochs } = await ok("stream", "inspect", file);
    assert.deepEqual(
      { profile, status, bytes, epochs },
      { profile: sample.profile, status: "complete", bytes: sample.bytes.length, epochs: sample.ends.length },
      sample.name,
    );
  }
  const { bytes } = libxcSample({ seed: 1 });
  bytes[16] = 0x40;
  const file = folder.write("broken", bytes);
  const { code, stderr } = await drover("stream", "inspect", file);
  assert.equal(code, 4);
  assert.match(stderr, /^drover: error: .*offset 16\)\ndrover: hint: drover stream verify \S+\n$/);
});

Deno.test("drover stream verify ends with 0, 1 or 2, and says offset, record and rule", async () => {
  using folder = new Folder();
  for (const sample of allSamples(3)) {
    const file = folder.write("good", sample.bytes);
    // Octets without a meaning in legacy streams may be anything to Xen, and are in the samples.
    const mode = sample.profile === "legacy" ? ["--lenient"] : [];
    const ran = await drover("stream", "verify", file, "--json", ...mode);
    assert.equal(ran.code, 0, `${sample.name}: ${ran.stdout}`);
    assert.equal(ran.result().profile, sample.profile, sample.name);
    const told = await drover("stream", "verify", file, "--profile", sample.profile, ...mode);
    assert.equal(told.code, 0, sample.name);
  }
  const { bytes } = libxcSample({ seed: 1 });
  // The padding behind the last record before END would do too; a reserved field of the domain header is at a fixed place.
  bytes[30] = 1;
  const file = folder.write("bad", bytes);
  const strict = await drover("stream", "verify", file, "--json");
  assert.equal(strict.code, 1);
  const [finding] = strict.objects();
  assert.deepEqual([finding?.severity, finding?.offset, finding?.record], ["error", 30, 0]);
  assert.match(String(finding?.rule), /^libxc\.[a-z_.]+$/);
  assert.deepEqual([strict.result().valid, strict.result().errors], [false, 1]);
  const text = await drover("stream", "verify", file);
  assert.match(text.stdout, /^\S+\/bad: offset 0x1e, record 0: error: .* \(libxc\.\S+\)\n/);
  assert.match(text.stdout, /\/bad: not valid: 1 error, /);
  assert.match(text.stderr, /^drover: hint: drover stream inspect \S+\/bad\n$/);
  const lenient = await drover("stream", "verify", file, "--lenient", "--json");
  assert.deepEqual([lenient.code, lenient.result().errors], [0, 0]);
  assert.equal((await drover("stream", "verify", file, "--profile", "qemu")).code, 2);
  assert.equal((await drover("stream", "verify")).code, 2);
  assert.equal((await drover("stream", "verify", folder.path)).code, 2);
  const missing = await drover("stream", "verify", folder.at("nowhere"));
  assert.equal(missing.code, 2);
  assert.match(missing.stderr, /^drover: error: cannot open "\S+\/nowhere": there is no such file\n/);
  assert.equal((await drover("stream", "verify", file, "--profile", "region")).code, 1);
});

Deno.test("drover stream extract gives each epoch, and the last committed one of a cut stream", async () => {
  using folder = new Folder();
  const target = folder.at("out.raw");
  const random = prng(9);
  for (const sample of allSamples(2)) {
    const file = folder.write("sample", sample.bytes);
    const expect = async (epoch: number, ...args: string[]): Promise<Record<string, unknown>> => {
      const result = await ok("stream", "extract", file, "--memory", target, ...args);
      assert.equal(result.epoch, epoch, sample.name);
      const raw = Deno.readFileSync(target);
      assert.equal(raw.length, Number(result.pages) * pageSize);
      const memory = rawOf(sample.memories[epoch - 1], raw.length);
      assert.ok(bytesEqual(raw, memory), `${sample.name}, epoch ${epoch}`);
      return result;
    };
    const last = sample.ends.length;
    assert.equal((await expect(last)).status, "complete");
    if (last < 2) continue;
    for (let epoch = 1; epoch <= last; epoch++) await expect(epoch, "--epoch", String(epoch));
    const missing = await drover("stream", "extract", file, "--memory", target, "--epoch", String(last + 1));
    assert.equal(missing.code, 1);
    assert.match(missing.stderr, new RegExp(`cannot extract epoch ${last + 1}: the stream has ${last},`));
    const first = sample.ends[0] ?? 0;
    const cut = first + 1 + random((sample.ends[1] ?? 0) - first - 1);
    folder.write("sample", sample.bytes.subarray(0, cut));
    assert.equal((await expect(1)).status, "failover", `${sample.name}, cut at ${cut}`);
    folder.write("sample", sample.bytes.subarray(0, random(first)));
    const none = await drover("stream", "extract", file, "--memory", target);
    assert.equal(none.code, 4, sample.name + none.stderr);
  }
  assert.deepEqual(folder.names(), ["out.raw", "sample"]);
});

Deno.test("drover stream diff lists exactly the pages that differ, across profiles", async () => {
  using folder = new Folder();
  const raw = rawImage(300, 5);
  raw.fill(1, 100 * pageSize, 101 * pageSize);
  const changed = raw.slice();
  const one = 2 * pageSize;
  changed[one] = (changed[one] ?? 0) ^ 0xff;
  changed.fill(7, one + pageSize, one + 3 * pageSize);
  raw.fill(3, one + pageSize, one + 3 * pageSize);
  raw.fill(5, one, one + 1);
  changed.fill(0, 100 * pageSize, 101 * pageSize);
  raw.fill(0, 299 * pageSize);
  changed.fill(9, 299 * pageSize);
  const first = folder.at("first");
  const second = folder.at("second");
  await ok("stream", "write", first, "--memory", folder.write("first.raw", raw));
  await ok("stream", "write", second, "--memory", folder.write("second.raw", changed), "--profile", "region");
  const { stdout, code } = await drover("stream", "diff", first, second);
  assert.equal(
    stdout,
    `0x2-0x4  3 pages  changed\n0x64      1 page  only in ${first}\n0x12b     1 page  only in ${second}\n` +
      "5 pages differ\n",
  );
  assert.equal(code, 0);
  const { objects } = await drover("stream", "diff", second, first, "--json");
  assert.deepEqual(objects(), [
    { pfn: 2, count: 3, kind: "changed" },
    { pfn: 100, count: 1, kind: "right" },
    { pfn: 299, count: 1, kind: "left" },
    { same: false, differing: 5, runs: 3 },
  ]);
  assert.deepEqual(await ok("stream", "diff", first, first), { same: true, differing: 0, runs: 0 });
});

Deno.test("drover stream convert makes valid streams with the same memory from every legacy one", async () => {
  using folder = new Folder();
  const raw = folder.at("raw");
  for (const width of [4, 8] as const) {
    for (const guest of ["pv", "hvm"] as const) {
      for (const epochs of [1, 3]) {
        const sample = legacySample({ seed: 20 + epochs, width, guest, epochs, compressed: epochs > 1 });
        const source = folder.write("old", sample.bytes);
        for (const to of ["libxc", "libxl"] as const) {
          const name = `${width} ${guest} ${epochs} ${to}`;
          const target = folder.at(`new.${to}`);
          const result = await ok("stream", "convert", source, target, "--to", to);
          assert.deepEqual(
            [result.to, result.width, result.guest, result.epochs, result.cut],
            [to, width * 8, guest, epochs, false],
            name,
          );
          // What Xen's converter puts behind a libxc stream is no part of it.
          const behind = to === "libxc" && guest === "hvm";
          const verified = await ok("stream", "verify", target, ...behind ? ["--lenient"] : []);
          assert.deepEqual([verified.profile, verified.status], [to, "complete"], name);
          if (behind) {
            assert.equal((await drover("stream", "verify", target)).code, 1);
            await ok("stream", "convert", source, folder.at("without"), "--skip-qemu");
            assert.equal((await ok("stream", "verify", folder.at("without"))).valid, true);
          }
          await ok("stream", "extract", target, "--memory", raw);
          const bytes = Deno.readFileSync(raw);
          assert.ok(bytesEqual(bytes, rawOf(sample.memories.at(-1), bytes.length)), name);
        }
        const forced = folder.at("forced");
        await ok(
          ...["stream", "convert", source, forced, "--width", String(width * 8), "--guest", guest],
        );
        assert.ok(bytesEqual(Deno.readFileSync(forced), Deno.readFileSync(folder.at("new.libxc"))));
      }
    }
  }
});

Deno.test("drover stream convert takes a cut Remus stream as far as it was committed", async () => {
  using folder = new Folder();
  const sample = legacySample({ seed: 3, width: 8, guest: "hvm", epochs: 3, compressed: true });
  const [first = 0, , third = 0] = sample.ends;
  const source = folder.write("old", sample.bytes.subarray(0, third - 9));
  const target = folder.at("new");
  const ran = await drover("stream", "convert", source, target, "--json");
  assert.equal(ran.code, 0, ran.stdout + ran.stderr);
  assert.deepEqual([ran.result().epochs, ran.result().cut], [2, true]);
  const { status, committedEpochs } = await ok("stream", "verify", target);
  assert.deepEqual([status, committedEpochs], ["failover", 2]);
  folder.write("old", sample.bytes.subarray(0, first - 9));
  const failed = await drover("stream", "convert", source, folder.at("none"));
  assert.equal(failed.code, 4);
  assert.deepEqual(folder.names(), ["new", "old"], "nothing is left of what failed");
});

Deno.test("drover stream convert refuses what is not legacy", async () => {
  using folder = new Folder();
  const source = folder.write("new", libxlSample({ seed: 1 }).bytes);
  const { code, stderr } = await drover("stream", "convert", source, folder.at("out"));
  assert.equal(code, 2);
  assert.match(stderr, /it is libxl already\ndrover: hint: drover stream inspect /);
  assert.deepEqual(folder.names(), ["new"]);
});

Deno.test("drover stream refuses outputs that hurt, before anything is done", async () => {
  using folder = new Folder();
  const raw = folder.write("raw", rawImage(3, 1));
  const stream = folder.write("stream", regionSample({ seed: 1 }).bytes);
  Deno.symlinkSync("stream", folder.at("link"));
  Deno.linkSync(stream, folder.at("hard"));
  const cases: [string[], RegExp][] = [
    [["write", raw, "--memory", raw], /it is the input/],
    [["extract", stream, "--memory", stream], /it is the input/],
    [["extract", stream, "--memory", folder.at("link")], /it is the input/],
    [["extract", folder.at("hard"), "--memory", stream], /it is the input/],
    [["convert", stream, folder.at("link")], /it is the input/],
    [["extract", stream, "--memory", folder.path], /it is a directory/],
    [["write", "-", "--memory", raw, "--json"], /both would write to stdout/],
    [["write", "", "--memory", raw], /it is empty/],
    [
      ["write", folder.at("out"), "--memory", raw, "--profile", "region", "--guest", "pv"],
      /a region has no guest/,
    ],
    [
      ["write", folder.at("out"), "--memory", folder.write("odd", new Uint8Array(5000))],
      /a multiple of 4096/,
    ],
    [["write", folder.at("out"), "--memory", folder.write("none", new Uint8Array(0))], /a multiple of 4096/],
    [["diff", "-", "-"], /both streams from stdin/],
    [["extract", stream, "--memory", folder.at("out"), "--epoch", "0"], /for --epoch/],
  ];
  const before = folder.names();
  assert.equal(before.length, 6);
  for (const [args, message] of cases) {
    const { code, stdout, stderr } = await drover("stream", ...args);
    assert.equal(code, 2, args.join(" "));
    assert.match(stdout + stderr, message);
  }
  assert.deepEqual(folder.names(), before);
});

Deno.test("drover stream touches no file but the one that it was told to write", async () => {
  using folder = new Folder();
  const raw = rawImage(5, 2);
  folder.write("guest.raw", raw);
  await ok("stream", "write", folder.at("out.part"), "--memory", folder.at("guest.raw"));
  const stream = Deno.readFileSync(folder.at("out.part"));
  folder.write("new.part", new Uint8Array([1, 2, 3]));
  // The input has the name that a file may bear until it is complete, and so has a bystander.
  await ok("stream", "extract", folder.at("out.part"), "--memory", folder.at("out"));
  await ok("stream", "write", folder.at("new"), "--memory", folder.at("out"));
  assert.deepEqual(Deno.readFileSync(folder.at("out")), raw);
  assert.deepEqual(Deno.readFileSync(folder.at("new")), stream);
  assert.deepEqual(Deno.readFileSync(folder.at("out.part")), stream);
  assert.deepEqual(Deno.readFileSync(folder.at("new.part")), new Uint8Array([1, 2, 3]));
  assert.deepEqual(folder.names(), ["guest.raw", "new", "new.part", "out", "out.part"]);
});

Deno.test("drover stream refuses to mix contents with what it says on stdout", async () => {
  using folder = new Folder();
  folder.write("guest.raw", rawImage(3, 1));
  const { out, err } = await shell(
    "drover stream write s --memory guest.raw >/dev/null; " +
      "drover stream extract s --memory /dev/stdout | cat; echo $?; drover stream extract s --memory here >here; echo $?; " +
      "drover stream extract - --memory s <s; echo $?; drover stream extract s --memory /dev/null; echo $?",
    folder.path,
  );
  assert.deepEqual(out.split("\n").filter((line) => /^\d$/.test(line)), ["2", "2", "2", "0"], err);
  assert.equal(err.match(/it is stdout, which is to be named -/g)?.length, 2);
  assert.match(err, /cannot write "s": it is the input/);
  assert.equal((await drover("stream", "verify", folder.at("s"))).code, 0);
});

Deno.test("drover stream says what is too large for a file, and what is no stream at all", async () => {
  using folder = new Folder();
  const far: StreamItem[] = [
    { layer: "libxc", header: { version: 3, bigEndian: false, guest: "hvm", xenMajor: 4, xenMinor: 20 } },
    { layer: "libxc", record: { name: "STATIC_DATA_END" } },
    {
      layer: "libxc",
      record: {
        name: "PAGE_DATA",
        batch: {
          pfns: new Float64Array([2 ** 50]),
          types: new Uint8Array(1),
          pages: new Uint8Array(pageSize).fill(1),
        },
      },
    },
    { layer: "libxc", record: { name: "END" } },
  ];
  folder.write("far", concat([...encodeItems(far)]));
  const large: StreamItem[] = [
    { layer: "region", header: { bigEndian: false } },
    {
      layer: "region",
      record: { name: "REGION_INFO", regionId: new Uint8Array(16), pages: 2 ** 40, term: 0n, label: "" },
    },
    { layer: "region", record: { name: "CHECKPOINT" } },
  ];
  folder.write("large", concat([...encodeItems(large)]));
  folder.write("text", new TextEncoder().encode("This is a text of some lines, and no stream.\n"));
  folder.write("empty", new Uint8Array(0));
  for (
    const [name, code, message] of [
      ["far", 1, /cannot place page \d+ in a file: the file system has no files of \d+ octets/],
      ["large", 1, /cannot place page \d+ in a file: the file system has no files of \d+ octets/],
      ["text", 4, /this may be no stream at all/],
      ["empty", 4, /rule stream\.profile\.unknown, offset 0/],
    ] as const
  ) {
    const ran = await drover("stream", "extract", folder.at(name), "--memory", folder.at("out"));
    assert.equal(ran.code, code, ran.stderr);
    assert.match(ran.stderr, message);
    if (code === 4) {
      const inspected = await drover("stream", "inspect", folder.at(name));
      assert.deepEqual([inspected.code, inspected.stdout], [4, ""], name);
      assert.match(inspected.stderr, message);
    }
  }
  assert.deepEqual(folder.names(), ["empty", "far", "large", "text"]);
});

Deno.test("drover stream verify takes width and guest of a legacy stream that do not show", async () => {
  using folder = new Folder();
  const bare = loadVectors("verify", verifyKeys).find(({ name }) => name === "ok_legacy_pv_bare");
  assert.ok(bare);
  const file = folder.write("bare", bare.bytes);
  assert.equal((await drover("stream", "verify", file)).code, 1);
  const { valid } = await ok("stream", "verify", file, "--guest", "pv", "--width", "64");
  assert.equal(valid, true);
  const refused = await drover(
    "stream",
    "convert",
    file,
    folder.at("out"),
    "--guest",
    "hvm",
    "--width",
    "64",
  );
  assert.match(refused.stderr, /hint: drover stream verify \S+ --width 64 --guest hvm\n/);
});

Deno.test("readImage() falls back to an epoch when the stream breaks, and not when the disk is full", async () => {
  using folder = new Folder();
  const stream = await import("../../lib/stream/mod.ts");
  const newDigest = await digestMaker();
  const read = (bytes: Uint8Array, full: boolean): ImageResult => {
    using input = new StreamInput(folder.write("stream", bytes));
    const scratch = new stream.MemoryImage({ sizeMax: 1 << 28 });
    if (full) {
      scratch.write = () => {
        throw new Error("No space left on device (os error 28)");
      };
    }
    const image = new stream.MemoryImage({ sizeMax: 1 << 28 });
    return readImage({ stream, input, image, scratch, newDigest, report: () => {} });
  };
  const { bytes } = regionSample({ seed: 4, epochs: 3 });
  assert.deepEqual([read(bytes, false).status, read(bytes, false).epoch], ["complete", 3]);
  assert.equal(read(bytes.subarray(0, bytes.length - 50), false).status, "failover");
  assert.throws(() => read(bytes, true), /No space left/);
});

Deno.test("drover stream leaves nothing behind when the input is broken", async () => {
  using folder = new Folder();
  const broken = folder.write("broken", regionSample({ seed: 1 }).bytes.subarray(0, 200));
  const { code, stderr } = await drover("stream", "extract", broken, "--memory", folder.at("out"));
  assert.equal(code, 4);
  assert.match(stderr, /hint: drover stream verify /);
  assert.deepEqual(folder.names(), ["broken"]);
});

Deno.test("drover stream works through pipes, stdin and stdout, with its exit codes", async () => {
  using folder = new Folder();
  const raw = rawImage(1500, 8);
  folder.write("guest.raw", raw);
  const through = await shell(
    "drover stream write - --memory guest.raw | tee whole | drover stream verify - --json && " +
      "cat guest.raw | drover stream write - --memory - | cmp - whole && " +
      "drover stream extract - --memory - <whole | cmp - guest.raw && " +
      "mkfifo pipe && { cat pipe >piped & drover stream write pipe --memory guest.raw; wait; } && cmp piped whole && " +
      "test -p pipe && drover stream diff whole - <piped",
    folder.path,
  );
  assert.equal(through.code, 0, through.out + through.err);
  assert.match(through.out, /"valid":true.*"status":"complete"/);
  assert.match(through.out, /no page differs\n$/);
  const codes = await shell(
    "drover stream verify - </dev/null; echo $?; drover stream verify - --wrong </dev/null; echo $?; " +
      "head -c 9000 whole | drover stream verify - --json; echo $?; " +
      "cat guest.raw | drover stream write out --memory - --profile region; echo $?; " +
      "head -c 5000 guest.raw | drover stream write - --memory - >out; echo $?; " +
      "drover stream write - --memory guest.raw | head -c 10 >out; echo done; " +
      "drover stream verify /dev/zero; echo $?; cat whole /dev/zero | drover stream verify -; echo $?; " +
      "drover stream inspect /dev/zero; echo $?",
    folder.path,
  );
  assert.deepEqual(
    codes.out.split("\n").filter((line) => /^[0-9]+$|done/.test(line)),
    ["1", "2", "1", "2", "2", "done", "1", "1", "4"],
  );
  assert.deepEqual(folder.names(), ["guest.raw", "out", "pipe", "piped", "whole"]);
});

Deno.test({
  name: "drover stream writes no binary to a terminal, and reads none from it",
  ignore: !toolExists("script"),
  fn: async () => {
    using folder = new Folder();
    folder.write("guest.raw", rawImage(3, 1));
    const line = (command: string): string =>
      `script -qec '"${Deno.execPath()}" run --quiet --no-check --allow-all "${program}" ${command}' /dev/null </dev/null`;
    for (
      const [command, message] of [
        ["stream write - --memory guest.raw", /cannot write to a terminal: it is binary/],
        ["stream verify -", /cannot read from a terminal/],
      ] as const
    ) {
      const { code, out } = await shell(line(command), folder.path);
      assert.equal(code, 2, out);
      assert.match(out, message);
    }
  },
});
