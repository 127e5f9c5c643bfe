import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { createHash } from "node:crypto";
import { DroverError, FormatError } from "../../lib/base/errors.ts";
import { toHex } from "../../lib/base/hex.ts";
import { type BytePath, pathFromBytes, pathToBytes } from "../../lib/base/path.ts";
import type { Entry } from "../../lib/version/entry.ts";
import {
  encodeTar,
  encodeTarEnd,
  encodeTarHeader,
  formatTarTime,
  parseTarComment,
  type TarEntryItem,
  type TarItem,
  tarPadding,
  type TarPurpose,
  type TarRange,
} from "../../lib/version/tar.ts";
import { paxSizeMax, readTar, type TarEntry, TarReader } from "../../lib/version/tar_reader.ts";
import { layerItemMeaning } from "../../lib/version/whiteout.ts";
import { entry, file, link, Random, randomTree } from "./trees.ts";

type Bytes = Uint8Array<ArrayBuffer>;

const hasTar = (() => {
  try {
    const { stdout } = new Deno.Command("tar", { args: ["--version"], env: { LC_ALL: "C" } }).outputSync();
    return new TextDecoder().decode(stdout).startsWith("tar (GNU tar)");
  } catch {
    return false;
  }
})();
const isRoot = Deno.uid() === 0;

/** What a reader made of one member. */
interface Member {
  entry: TarEntry;
  /** Holes as zeros; null for what has no content. */
  content: Bytes | null;
  sparse: boolean;
}

interface Archive {
  members: Member[];
  warnings: string[];
  comment: string | null;
}

/** Reads an archive in chunks of random sizes. */
function read(archive: Bytes, random: Random = new Random(1), contentMax = 1e7): Archive {
  const warnings: string[] = [];
  const reader = new TarReader({ onWarning: (path, message) => warnings.push(`${path}: ${message}`) });
  const members: Member[] = [];
  let open: Member | null = null;
  for (let at = 0; at < archive.length;) {
    const size = 1 + random.below(random.pick([1, 600, 5000, 100_000]));
    // A copy that is wiped afterwards: nothing may be kept of a chunk.
    const chunk = archive.slice(at, at + size);
    at += size;
    for (const event of reader.push(chunk)) {
      if (event.is === "entry") {
        assert.equal(open, null, "a member begins before the last one ended");
        const content = event.entry.kind === "file"
          ? new Uint8Array(Math.min(event.entry.size, contentMax))
          : null;
        open = { entry: event.entry, content, sparse: event.sparse };
        members.push(open);
        if (content === null) open = null;
      } else {
        if (open === null) throw new Error("content without a file");
        if (event.is === "end") open = null;
        else if (event.offset < contentMax) open.content?.set(event.bytes, event.offset);
      }
    }
    chunk.fill(0xee);
  }
  reader.finish();
  assert.equal(open, null);
  return { members, warnings, comment: reader.comment };
}

async function write(items: Iterable<TarItem>, purpose: TarPurpose = { is: "full" }): Promise<Bytes> {
  const parts: Bytes[] = [];
  for await (const part of encodeTar(items, { purpose, onWarning: () => {} })) parts.push(part.slice());
  return new Uint8Array(Buffer.concat(parts));
}

function withContent(entry: Entry, content: Bytes): TarEntryItem {
  const digest = new Uint8Array(createHash("sha256").update(content).digest());
  return { entry: { ...entry, size: content.length, digest }, content: () => [content] };
}

function withoutDigest(entry: Entry): TarEntry {
  const { digest: _, ...rest } = entry;
  return rest;
}

async function run(
  command: string,
  args: string[],
  options: { cwd?: string; input?: Bytes; locale?: string } = {},
) {
  const child = new Deno.Command(command, {
    args,
    stdin: options.input === undefined ? "null" : "piped",
    stdout: "piped",
    stderr: "piped",
    env: { LC_ALL: options.locale ?? "C", TZ: "UTC0", TAR_OPTIONS: "", POSIXLY_CORRECT: "" },
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
  }).spawn();
  const feed = options.input === undefined ? null : (async () => {
    const writer = child.stdin.getWriter();
    await writer.write(options.input);
    await writer.close();
  })();
  const { code, stdout, stderr } = await child.output();
  await feed;
  const talk = new TextDecoder().decode(stderr);
  assert.equal(code, 0, `${command} ${args.join(" ")}: ${talk}`);
  return { stdout: new Uint8Array(stdout), stderr: talk };
}

async function withDirectory(work: (directory: string) => Promise<void>): Promise<void> {
  const directory = await Deno.makeTempDir({ dir: "/var/tmp", prefix: "drover-tar-" });
  try {
    await work(directory);
  } finally {
    // Names that are not UTF-8 cannot be removed by Deno.
    await run("rm", ["-rf", directory]);
  }
}

/** What find(1) sees below a directory: path, type, mode, owner, mtime, size of files, text of symlinks, first name. */
async function found(directory: string): Promise<string[]> {
  const format = "%P\\0%y %m %U %G %T@ %s %i %D\\0%l\\0";
  const { stdout } = await run("find", [directory, "-printf", format]);
  const fields = pathFromBytes(stdout).split("\0");
  const lines: { path: string; text: string; inode: string }[] = [];
  for (let at = 0; at + 2 < fields.length; at += 3) {
    const [path = "", stat = "", target = ""] = fields.slice(at, at + 3);
    const [type, mode, uid, gid, time = "", size, inode = ""] = stat.split(" ");
    const shown = type === "f" ? size : "-";
    lines.push({
      path,
      inode,
      text: `${type} ${mode} ${uid}:${gid} ${time.slice(0, -1)} ${shown} ${target}`,
    });
  }
  lines.sort((left, right) => left.path < right.path ? -1 : 1);
  const first = new Map<string, string>();
  for (const { path, inode } of lines) if (!first.has(inode)) first.set(inode, path);
  return lines.map(({ path, text, inode }) => `${path} ${text} ${first.get(inode)}`);
}

/** The same line for an entry. */
function expected(entries: readonly Entry[]): string[] {
  const byPath = new Map(entries.map((entry) => [entry.path, entry]));
  const letters = {
    file: "f",
    directory: "d",
    symlink: "l",
    char: "c",
    block: "b",
    fifo: "p",
    socket: "s",
    link: "f",
  };
  return entries.map((own) => {
    const entry = own.kind === "link" ? byPath.get(own.target) ?? own : own;
    // For a time before 1970 find(1) prints the two numbers as they are, not their sum.
    const time = `${entry.mtimeSeconds}.${String(entry.mtimeNanos).padStart(9, "0")}`;
    const size = entry.kind === "file" ? entry.size : "-";
    return `${own.path} ${letters[entry.kind]} ${
      entry.mode.toString(8)
    } ${entry.uid}:${entry.gid} ${time} ${size} ` +
      `${entry.target} ${entry.path}`;
  });
}

const me = { uid: Deno.uid() ?? 0, gid: Deno.gid() ?? 0 };
/** A tree with all that a tar has trouble with, fit for this user to extract. */
function awkward(): { item: TarEntryItem; content: Bytes }[] {
  const time = { mtimeSeconds: 1_760_000_000, mtimeNanos: 123_456_789, ...me };
  const text = (content: string): Bytes => new Uint8Array(new TextEncoder().encode(content));
  const plain = (value: Entry): { item: TarEntryItem; content: Bytes } => ({
    item: { entry: value },
    content: new Uint8Array(0),
  });
  const full = (value: Entry, content: Bytes) => ({ item: withContent(value, content), content });
  const long = `long/${"n".repeat(200)}/${"m".repeat(250)}`;
  return [
    plain(entry("", "directory", { ...time, mode: 0o750 })),
    full(file("-rf", "", time), text("dash")),
    full(file(".wh.real", "", time), text("an ordinary name")),
    plain(file("empty", "", { ...time, mode: isRoot ? 0 : 0o400 })),
    full(file("exactly-512", "", time), new Random(5).bytes(512)),
    full(file("file", "", { ...time, mode: isRoot ? 0o4711 : 0o711 }), text("content\n")),
    ...isRoot
      ? [
        plain(entry("device", "char", { ...time, rdevMajor: 259, rdevMinor: 70_000 })),
        full(file("foreign", "", { ...time, uid: 3_000_000, gid: 4_000_000_000 }), text("big ids")),
      ]
      : [],
    plain(link("hard", "file")),
    plain(entry("long", "directory", time)),
    plain(entry(`long/${"n".repeat(200)}`, "directory", time)),
    full(file(long, "", time), text("long")),
    plain(link("longer-link", long)),
    full(file("n".repeat(100), "", time), text("100")),
    full(file("n".repeat(101), "", time), text("101")),
    full(file("new\nline\ttab \\ back", "", time), text("x")),
    plain(entry("pipe", "fifo", { ...time, mode: 0o600 })),
    plain(entry("symlink", "symlink", { ...time, target: "../out/of\nhere" as BytePath })),
    plain(entry("symlink-long", "symlink", { ...time, target: "t".repeat(300) as BytePath })),
    plain(entry("symlink-raw", "symlink", { ...time, target: "\xfe\xff" as BytePath })),
    full(file("time-before", "", { ...time, mtimeSeconds: -2, mtimeNanos: 500_000_000 }), text("x")),
    full(file("time-later", "", { ...time, mtimeSeconds: 2 ** 33 + 1, mtimeNanos: 1 }), text("x")),
    full(file("time-whole", "", { ...time, mtimeSeconds: 1_000_000_000, mtimeNanos: 0 }), text("x")),
    full(file("\xc3\xa4 utf8", "", time), text("x")),
    full(file("\xff\xfe raw", "", time), text("x")),
  ].sort((left, right) => left.item.entry.path < right.item.entry.path ? -1 : 1);
}

Deno.test("TarReader gives back what encodeTar() wrote, for random trees in random chunks", async () => {
  for (let seed = 1; seed <= 25; seed++) {
    const random = new Random(seed);
    const items: { item: TarEntryItem; content: Bytes | null }[] = [];
    const tree = [...randomTree(random, 40).values()].sort((left, right) => left.path < right.path ? -1 : 1);
    for (const entry of tree) {
      const content = entry.kind === "file" ? random.bytes(random.pick([0, 1, 511, 512, 513, 3000])) : null;
      items.push({ item: content === null ? { entry } : withContent(entry, content), content });
    }
    const archive = await write(items.map(({ item }) => item));
    const { members, comment, warnings } = read(archive, random);
    assert.deepEqual(warnings, []);
    assert.deepEqual(parseTarComment(comment ?? ""), { is: "full" });
    const wanted = items.filter(({ item }) => item.entry.kind !== "socket");
    assert.equal(members.length, wanted.length);
    for (const [index, { item, content }] of wanted.entries()) {
      const member = members[index];
      if (member === undefined) throw new Error("impossible");
      assert.deepEqual(member.entry, withoutDigest(item.entry), `seed ${seed}`);
      assert.deepEqual(member.content, content);
    }
  }
});

for (const locale of ["C", "C.UTF-8"]) {
  Deno.test(
    { name: `encodeTar() is extracted by GNU tar as it should be (${locale})`, ignore: !hasTar },
    async () => {
      await withDirectory(async (directory) => {
        const items = awkward();
        const archive = await write(items.map(({ item }) => item));
        const args = ["-xpf", "-", "--numeric-owner", "--same-owner", "--delay-directory-restore"];
        await run("tar", isRoot ? args : args.filter((arg) => arg !== "--same-owner"), {
          cwd: directory,
          input: archive,
          locale,
        });
        const entries = items.map(({ item }) => item.entry);
        assert.deepEqual(await found(directory), expected(entries));
        // The content and the device numbers by another way: GNU tar packs it again and we read that.
        const { stdout } = await run("tar", ["-cf", "-", "--format=pax", "--sort=name", "."], {
          cwd: directory,
          locale,
        });
        const again = new Map(read(stdout).members.map((member) => [member.entry.path, member]));
        assert.equal(again.size, items.length);
        for (const { item, content } of items) {
          const member = again.get(item.entry.path);
          if (item.entry.kind === "file") {
            assert.equal(toHex(member?.content ?? new Uint8Array()), toHex(content), item.entry.path);
          }
          assert.equal(member?.entry.rdevMajor, item.entry.rdevMajor);
          assert.equal(member?.entry.rdevMinor, item.entry.rdevMinor);
        }
      });
    },
  );
}

Deno.test(
  { name: "encodeTar() and GNU tar agree on xattrs with binary values", ignore: !hasTar },
  async () => {
    await withDirectory(async (directory) => {
      const xattrs = [
        { name: "user.%=x" as BytePath, value: pathToBytes("percent and equals" as BytePath) },
        { name: "user.binary" as BytePath, value: new Uint8Array([0, 10, 61, 255, 32]) },
        { name: "user.empty" as BytePath, value: new Uint8Array(0) },
        { name: "user.text" as BytePath, value: pathToBytes("12 a=b\n" as BytePath) },
      ];
      const wanted = file("f", "", { xattrs, ...me });
      const args = ["--xattrs", "--xattrs-include=*"];
      await run("tar", ["-xf", "-", ...args], { cwd: directory, input: await write([{ entry: wanted }]) });
      const { stdout } = await run("tar", ["-cf", "-", "--format=pax", ...args, "f"], { cwd: directory });
      const found = read(stdout).members[0]?.entry.xattrs ?? [];
      // GNU tar leaves out empty values.
      const kept = found.some(({ name }) => name === "user.empty")
        ? xattrs
        : xattrs.filter(({ value }) => value.length > 0);
      assert.deepEqual(found, kept);
    });
  },
);

for (const format of ["pax", "gnu", "oldgnu", "ustar"]) {
  Deno.test({ name: `TarReader reads GNU tar --format=${format}`, ignore: !hasTar }, async () => {
    await withDirectory(async (directory) => {
      const items = awkward().filter(({ item }) => {
        const { path, target, uid, mtimeSeconds } = item.entry;
        if (format !== "ustar") return true;
        return path.length <= 100 && target.length <= 100 && uid < 2_000_000 && mtimeSeconds >= 0 &&
          mtimeSeconds < 2 ** 33;
      });
      await run("tar", ["-xpf", "-", "--numeric-owner", "--delay-directory-restore"], {
        cwd: directory,
        input: await write(items.map(({ item }) => item)),
      });
      const args = ["-cf", "-", `--format=${format}`, "--numeric-owner", "--sort=name"];
      const { stdout } = await run("tar", [...args, "."], { cwd: directory });
      const { members } = read(stdout, new Random(format.length));
      const again = new Map(members.map((member) => [member.entry.path, member]));
      assert.equal(again.size, items.length);
      const groups = new Map<string, Set<string>>();
      for (const { item, content } of items) {
        const { entry } = item;
        const member = again.get(entry.path);
        if (member === undefined) throw new Error(`${entry.path} is missing`);
        const leader = entry.kind === "link" ? entry.target : entry.path;
        const name = member.entry.kind === "link" ? member.entry.target : member.entry.path;
        groups.set(leader, (groups.get(leader) ?? new Set()).add(name));
        if (entry.kind === "link" || member.entry.kind === "link") continue;
        const nanos = format === "pax" ? entry.mtimeNanos : 0;
        // Without nanoseconds a time is rounded down.
        assert.deepEqual(member.entry, { ...withoutDigest(entry), mtimeNanos: nanos }, entry.path);
        if (entry.kind === "file") assert.equal(toHex(member.content ?? new Uint8Array()), toHex(content));
      }
      // Which of its names comes first is up to GNU tar, but it is one name.
      for (const [leader, names] of groups) assert.equal(names.size, 1, leader);
    });
  });
}

const sparseFiles: [name: string, size: number, ranges: TarRange[]][] = [
  ["all-hole", 1_000_000, []],
  ["hole-at-end", 400_000, [{ offset: 0, size: 65_536 }]],
  ["hole-at-start", 262_144, [{ offset: 131_072, size: 131_072 }]],
  [
    "many",
    65_536 * 60,
    Array.from({ length: 30 }, (_, index) => ({ offset: index * 131_072, size: 65_536 })),
  ],
  ["several", 65_536 * 5 + 77, [{ offset: 65_536, size: 65_536 }, { offset: 65_536 * 4, size: 65_536 + 77 }]],
  [`${"d".repeat(90)}-long`, 300_000, [{ offset: 196_608, size: 103_392 }]],
];

function sparseContent(size: number, ranges: readonly TarRange[]): { whole: Bytes; data: Bytes } {
  const whole = new Uint8Array(size);
  const parts: Bytes[] = [];
  for (const range of ranges) {
    const data = Uint8Array.from({ length: range.size }, (_, at) => 1 + (range.offset + at) % 251);
    whole.set(data, range.offset);
    parts.push(data);
  }
  return { whole, data: new Uint8Array(Buffer.concat(parts)) };
}

for (const version of ["old", "0.0", "0.1", "1.0"]) {
  Deno.test(
    { name: `TarReader reads sparse files of GNU tar, format ${version}`, ignore: !hasTar },
    async () => {
      await withDirectory(async (directory) => {
        for (const [name, size, ranges] of sparseFiles) {
          const { whole } = sparseContent(size, ranges);
          const target = await Deno.open(`${directory}/${name}`, { create: true, write: true });
          await target.truncate(size);
          for (const range of ranges) {
            await target.seek(range.offset, Deno.SeekMode.Start);
            let bytes = whole.subarray(range.offset, range.offset + range.size);
            while (bytes.length > 0) bytes = bytes.subarray(await target.write(bytes));
          }
          target.close();
        }
        const format = version === "old" ? ["--format=gnu"] : ["--format=pax", `--sparse-version=${version}`];
        const { stdout } = await run("tar", ["-cSf", "-", ...format, "."], { cwd: directory });
        const members = new Map(
          read(stdout, new Random(3)).members.map((member) => [member.entry.path, member]),
        );
        assert.equal(members.size, sparseFiles.length + 1);
        for (const [name, size, ranges] of sparseFiles) {
          const member = members.get(name as BytePath);
          assert(member?.sparse, `${name} is not sparse`);
          assert.equal(member.entry.size, size);
          assert(Buffer.from(member.content ?? []).equals(sparseContent(size, ranges).whole), name);
        }
      });
    },
  );
}

Deno.test(
  { name: "encodeTar() of sparse files is read by GNU tar and by TarReader", ignore: !hasTar },
  async () => {
    await withDirectory(async (directory) => {
      const items = sparseFiles.map(([name, size, ranges]): TarItem => {
        const { whole, data } = sparseContent(size, ranges);
        const digest = new Uint8Array(createHash("sha256").update(whole).digest());
        return { entry: file(name, "", { size, digest, ...me }), content: () => [data], ranges };
      });
      const archive = await write(items);
      await run("tar", ["-xf", "-"], { cwd: directory, input: archive });
      const members = new Map(read(archive).members.map((member) => [member.entry.path, member]));
      for (const [name, size, ranges] of sparseFiles) {
        const { whole } = sparseContent(size, ranges);
        assert(Buffer.from(await Deno.readFile(`${directory}/${name}`)).equals(whole), name);
        const member = members.get(name as BytePath);
        assert(member?.sparse);
        assert(Buffer.from(member.content ?? []).equals(whole), name);
      }
      const { blocks, size } = await Deno.stat(`${directory}/all-hole`);
      assert(blocks !== null && blocks * 512 < size, "GNU tar made a hole of the hole");
    });
  },
);

Deno.test({ name: "TarReader reads numbers above 8 GiB, octal no more", ignore: !hasTar }, async () => {
  await withDirectory(async (directory) => {
    const size = 10 * 1024 ** 3;
    await run("truncate", ["-s", String(size), `${directory}/huge`]);
    for (const format of [["--format=gnu"], ["--format=pax", "--sparse-version=1.0"]]) {
      const { stdout } = await run("tar", ["-cSf", "-", ...format, "huge"], { cwd: directory });
      assert.equal(read(stdout).members[0]?.entry.size, size);
    }
  });
  // Ours: without its content, which nobody wants to wait for.
  const header = encodeTarHeader(file("huge", "x", { size: 10 * 1024 ** 3 }));
  const reader = new TarReader({ onWarning: () => {} });
  const [event] = reader.push(header);
  assert(event?.is === "entry");
  assert.equal(event.entry.size, 10 * 1024 ** 3);
  assert.throws(() => reader.finish(), { rule: "tar.truncated" });
});

Deno.test("formatTarTime() is the decimal fraction of seconds", () => {
  const cases: [seconds: number, nanos: number, text: string][] = [
    [0, 0, "0"],
    [1, 500_000_000, "1.5"],
    [1, 1, "1.000000001"],
    [-1, 0, "-1"],
    [-1, 999_999_999, "-0.000000001"],
    [-2, 500_000_000, "-1.5"],
  ];
  for (const [seconds, nanos, text] of cases) {
    assert.equal(formatTarTime(seconds, nanos), text);
    const header = encodeTarHeader(file("f", "", { mtimeSeconds: seconds, mtimeNanos: nanos }));
    const { entry } = read(new Uint8Array(Buffer.concat([header, encodeTarEnd()]))).members[0] ?? {};
    assert.deepEqual([entry?.mtimeSeconds, entry?.mtimeNanos], [seconds, nanos]);
  }
});

Deno.test("encodeTarHeader() says hdrcharset=BINARY exactly where a name or target is not UTF-8, and before it", () => {
  const text = (value: Entry): string => pathFromBytes(encodeTarHeader(value));
  const raw = /21 hdrcharset=BINARY\n\d+ (path|linkpath)=/;
  assert.match(text(file("\xff", "")), raw);
  assert.match(text(link("x", "\xff")), raw);
  assert.match(text(entry("x", "symlink", { target: "\xe4" as BytePath })), raw);
  for (const name of ["a", "\xc3\xa4", "n".repeat(200)]) {
    assert.doesNotMatch(text(file(name, "")), /hdrcharset/);
  }
});

Deno.test("encodeTar() writes deletions as whiteouts and refuses names that would be read as such", async () => {
  const purpose: TarPurpose = { is: "delta", from: "a".repeat(64), to: "b".repeat(64) };
  const items: TarItem[] = [{ entry: entry("", "directory") }, { deleted: "d/x" as BytePath }, {
    deleted: "y" as BytePath,
  }];
  const { members, comment } = read(await write(items, purpose));
  assert.deepEqual(parseTarComment(comment ?? ""), purpose);
  assert.deepEqual(members.map(({ entry }) => entry.path), ["", "d/.wh.x", ".wh.y"]);
  const meanings = members.slice(1).map(({ entry }) => {
    const name = entry.path.slice(entry.path.lastIndexOf("/") + 1) as BytePath;
    return layerItemMeaning({ ...entry, name }, { names: true, xattrWhiteouts: false });
  });
  assert.deepEqual(meanings, [{ is: "whiteout", name: "x" }, { is: "whiteout", name: "y" }]);

  for (const path of [".wh.real", "d/.wh.real", ".wh.d/x"]) {
    const real: TarItem = { entry: file(path, "") };
    await assert.rejects(
      write([real], purpose),
      (error) => error instanceof DroverError && error.code === "unsupported",
    );
    assert.equal(read(await write([real])).members[0]?.entry.path, path);
  }
  await assert.rejects(write([{ deleted: ".wh.x" as BytePath }], purpose), { code: "unsupported" });
  await assert.rejects(write([{ deleted: "x" as BytePath }]), TypeError);
});

Deno.test("parseTarComment() takes only what encodeTarStart() writes", () => {
  const id = "0".repeat(64);
  for (
    const text of [
      "",
      "drover",
      "drover delta",
      `drover delta ${id}`,
      `drover delta ${id} ${id} x`,
      `drover delta ${id} X`,
    ]
  ) {
    assert.equal(parseTarComment(text), null);
  }
});

Deno.test("encodeTar() leaves sockets out with a warning and refuses content of another size", async () => {
  const warnings: string[] = [];
  for await (
    const _ of encodeTar([{ entry: entry("s", "socket") }], {
      purpose: { is: "full" },
      onWarning: (path) => warnings.push(path),
    })
  );
  assert.deepEqual(warnings, ["s"]);
  const three = file("f", "abc");
  for (const size of [0, 2, 4, 600]) {
    await assert.rejects(write([{ entry: three, content: () => [new Uint8Array(size)] }]), {
      code: "corrupt",
    });
  }
  await assert.rejects(write([{ entry: three }]), { code: "corrupt" });
  const overlapping = [{ offset: 0, size: 2 }, { offset: 1, size: 1 }];
  await assert.rejects(write([{ entry: three, content: () => [], ranges: overlapping }]), TypeError);
  await assert.rejects(
    write([{ entry: three, content: () => [], ranges: [{ offset: 2, size: 2 }] }]),
    TypeError,
  );
});

/** One header block with its checksum; fields at their offsets. */
function block(fields: Record<number, string>, checksum = true): Bytes {
  const bytes = new Uint8Array(512);
  const all = {
    0: "name",
    100: "0000644\0",
    108: "0000000\0",
    116: "0000000\0",
    124: "00000000000\0",
    136: "00000000000\0",
  };
  for (
    const [at, text] of Object.entries({ ...all, 148: "        ", 156: "0", 257: "ustar\x0000", ...fields })
  ) {
    bytes.set(pathToBytes(text as BytePath), Number(at));
  }
  if (checksum) {
    const sum = bytes.reduce((total, byte) => total + byte, 0);
    bytes.set(pathToBytes(`${sum.toString(8).padStart(6, "0")}\0 ` as BytePath), 148);
  }
  return bytes;
}

function octal(size: number): string {
  return size.toString(8).padStart(11, "0") + "\0";
}

/** A member of a type whose body is text. */
function withBody(type: string, body: string, fields: Record<number, string> = {}): Bytes {
  const bytes = pathToBytes(body as BytePath);
  return join(block({ 156: type, 124: octal(bytes.length), ...fields }), bytes, tarPadding(bytes.length));
}

function join(...parts: Bytes[]): Bytes {
  return new Uint8Array(Buffer.concat(parts));
}

/** A pax record with its length, which is right unless given. */
function record(key: string, value: string): string {
  const rest = ` ${key}=${value}\n`;
  let size = rest.length;
  while (String(size).length + rest.length !== size) size = String(size).length + rest.length;
  return size + rest;
}

Deno.test("TarReader refuses what is no tar or leaves the tree, by rule", () => {
  const end = encodeTarEnd();
  const plain = block({});
  const x = (...records: string[]): Bytes => withBody("x", records.join(""));
  const sparse1 = (map: string, bodySize: number, size: string): Bytes =>
    join(
      x(
        record("GNU.sparse.major", "1"),
        record("GNU.sparse.minor", "0"),
        record("GNU.sparse.realsize", size),
      ),
      withBody("0", map + "\0".repeat(512 - map.length) + "d".repeat(bodySize)),
    );
  const old = (fields: Record<number, string>): Bytes => block({ 156: "S", 257: "ustar  \0", ...fields });
  const cases: [rule: string, what: string, archive: Bytes][] = [
    ["truncated", "nothing", new Uint8Array(0)],
    ["truncated", "no end mark", plain],
    ["truncated", "half a header", join(plain, plain.subarray(0, 100))],
    ["truncated", "half a body", withBody("0", "x".repeat(600)).subarray(0, 1024)],
    ["truncated", "an end mark behind an extended header", join(x(record("path", "a")), end)],
    ["trailing", "a member behind the end mark", join(plain, end, plain)],
    ["checksum", "a changed byte", block({ 148: "000000\0 " }, false)],
    ["magic", "another magic", block({ 257: "USTAR\x0000" })],
    ["type", "an unknown type", block({ 156: "Z" })],
    ["type", "a part of a multi-volume archive", block({ 156: "M" })],
    ["number", "a size that is not octal", block({ 124: "0000000000x\0" })],
    ["number", "a size beyond 53 bits", block({ 124: "\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff" })],
    ["size", "a negative size", block({ 124: "\xff".repeat(12) })],
    ["size", "a symlink with content", withBody("2", "x", { 157: "target" })],
    ["size", "a hard link with content", withBody("1", "x", { 157: "target" })],
    ["size", "a pax header beyond the bound", block({ 156: "x", 124: octal(paxSizeMax + 1) })],
    ["size", "a long name beyond the bound", block({ 156: "L", 124: octal(40_000) })],
    ["path.escape", "..", block({ 0: "../x" })],
    ["path.escape", ".. inside", block({ 0: "a/../../x" })],
    ["path.escape", ".. in a prefix", block({ 345: "a/.." })],
    ["path.escape", ".. in a long name", join(withBody("L", "../x\0"), plain)],
    ["path.escape", ".. in a pax path", join(x(record("path", "../x")), plain)],
    ["path.escape", ".. in a sparse name", join(x(record("GNU.sparse.name", "../x")), plain)],
    ["path.escape", "a hard link outside", block({ 156: "1", 157: "../x" })],
    ["path.absolute", "an absolute path", block({ 0: "/x" })],
    ["path.absolute", "an absolute hard link", block({ 156: "1", 157: "/etc/shadow" })],
    ["path.absolute", "an absolute pax linkpath", join(x(record("linkpath", "/x")), block({ 156: "1" }))],
    ["path", "no name", block({ 0: "\0\0\0\0" })],
    ["path", "a file at the root", block({ 0: "./." })],
    ["path", "a NUL byte in a pax path", join(x(record("path", "a\0b")), plain)],
    ["path", "a name of 256 bytes", join(x(record("path", "a".repeat(256))), plain)],
    ["target", "an empty symlink", block({ 156: "2" })],
    ["target", "a hard link to the root", block({ 156: "1", 157: "./" })],
    ["owner", "uid -1", block({ 108: "\xff".repeat(8) })],
    ["rdev", "a major beyond 12 bits", block({ 156: "3", 329: "0010000\0" })],
    ["pax", "no length", join(withBody("x", "path=a\n"), plain)],
    ["pax", "length 0", join(withBody("x", "0 path=a\n"), plain)],
    ["pax", "a length beyond the body", join(withBody("x", "99 path=a\n"), plain)],
    ["pax", "a length that is short", join(withBody("x", "8 path=a\n"), plain)],
    ["pax", "no equals sign", join(withBody("x", "10 patha.\n"), plain)],
    ["pax", "no key", join(withBody("x", "6 =ab\n"), plain)],
    ["pax", "a global path", join(withBody("g", record("path", "a")), plain)],
    ["number", "a pax size that is no number", join(x(record("size", "1e3")), plain)],
    ["number", "a negative pax size", join(x(record("size", "-1")), plain)],
    ["number", "a pax size beyond 53 bits", join(x(record("size", "9007199254740993000")), plain)],
    ["number", "a time that is none", join(x(record("mtime", "1.5e3")), plain)],
    ["xattr.size", "too large an xattr", join(x(record("SCHILY.xattr.user.a", "x".repeat(65_537))), plain)],
    [
      "xattr.size",
      "too long a name of an xattr",
      join(x(record("SCHILY.xattr." + "x".repeat(256), "x")), plain),
    ],
    ["sparse", "an unknown sparse format", join(x(record("GNU.sparse.major", "1")), plain)],
    ["sparse", "a map without end", sparse1("3\n0\n", 0, "9")],
    ["sparse", "too many ranges", sparse1("99999999\n", 0, "9")],
    ["sparse", "overlapping ranges", sparse1("2\n0\n5\n4\n5\n", 10, "20")],
    ["sparse", "a range behind the end", sparse1("1\n15\n10\n", 10, "20")],
    ["sparse", "ranges that are not the body", sparse1("1\n0\n9\n", 10, "20")],
    ["number", "a map of no numbers", sparse1("1\n-1\n9\n", 10, "20")],
    [
      "sparse",
      "an odd map",
      join(x(record("GNU.sparse.size", "9"), record("GNU.sparse.map", "1,2,3")), plain),
    ],
    [
      "sparse",
      "a size without an offset",
      join(x(record("GNU.sparse.size", "9"), record("GNU.sparse.numbytes", "1")), plain),
    ],
    [
      "sparse",
      "old: overlapping",
      old({ 124: octal(2), 386: octal(0) + octal(1) + octal(0) + octal(1), 483: octal(9) }),
    ],
    ["sparse", "old: a lying body", old({ 124: octal(5), 386: octal(0) + octal(1), 483: octal(9) })],
  ];
  for (const [rule, what, archive] of cases) {
    const tail = rule === "truncated" || rule === "trailing" ? [] : [end];
    for (const seed of [1, 2, 3]) {
      let error: unknown = null;
      try {
        read(join(archive, ...tail), new Random(seed));
      } catch (thrown) {
        error = thrown;
      }
      assert(error instanceof FormatError, `${what}: ${error ?? "accepted"}`);
      assert.equal(error.rule, `tar.${rule}`, `${what}: ${error.message}`);
      assert(error.offset >= 0 && error.offset % 512 === 0);
    }
  }
});

Deno.test("TarReader takes old and odd but honest archives", () => {
  const end = encodeTarEnd();
  const paths = (archive: Bytes): string[] =>
    read(join(archive, end)).members.map(({ entry }) => `${entry.kind} ${entry.path}`);
  assert.deepEqual(paths(new Uint8Array(0)), []);
  assert.deepEqual(paths(block({ 0: "./a//b/./c" })), ["file a/b/c"]);
  assert.deepEqual(paths(block({ 0: "./", 156: "5" })), ["directory "]);
  assert.deepEqual(paths(block({ 0: "d/", 156: "\0", 257: "\0\0\0\0\0\0\0\0" })), ["directory d"]);
  assert.deepEqual(paths(block({ 0: "f", 156: "7" })), ["file f"]);
  assert.deepEqual(paths(block({ 0: "f", 345: "p/q" })), ["file p/q/f"]);
  // A GNU header has times, not a prefix, there.
  assert.deepEqual(paths(block({ 0: "f", 257: "ustar  \0", 345: "00000000000\0" })), ["file f"]);
  assert.deepEqual(paths(join(withBody("V", "", { 0: "label" }), block({}))), ["file name"]);
  assert.deepEqual(paths(block({ 100: " 644 \0\0\0" })), ["file name"]);
  // One block of zeros is enough of an end, and zeros may follow.
  assert.deepEqual(read(join(block({}), new Uint8Array(512))).members.length, 1);
  assert.deepEqual(read(join(block({}), new Uint8Array(10_240 - 512))).members.length, 1);
  const { members, warnings } = read(join(
    withBody("g", record("mtime", "5.25")),
    withBody(
      "x",
      record("SCHILY.xattr.trusted.overlay.opaque", "y") + record("SCHILY.acl.access", "user::rw-"),
    ),
    block({}),
    block({}),
    end,
  ));
  assert.deepEqual(members.map(({ entry }) => [entry.mtimeSeconds, entry.mtimeNanos, entry.xattrs]), [
    [5, 250_000_000, []],
    [5, 250_000_000, []],
  ]);
  assert.equal(warnings.length, 2);
});

Deno.test("TarReader survives random damage: it refuses or gives entries within bounds, and never loses the end", async () => {
  const archive = await write(awkward().map(({ item }) => item));
  let refused = 0;
  for (let seed = 1; seed <= 400; seed++) {
    const random = new Random(seed);
    const damaged = archive.slice();
    for (let count = 1 + random.below(3); count > 0; count--) {
      damaged[random.below(damaged.length)] = random.below(256);
    }
    try {
      read(random.one(4) ? damaged.subarray(0, random.below(damaged.length)) : damaged, random);
    } catch (error) {
      if (!(error instanceof FormatError)) throw error;
      refused++;
    }
  }
  assert(refused > 200, `${refused} refused`);
});

Deno.test("TarReader refuses every archive that is cut anywhere before its end mark", async () => {
  const archive = await write([
    { entry: entry("", "directory") },
    withContent(file("f", "", { mtimeNanos: 1 }), new Random(1).bytes(700)),
  ]);
  // The first of the two blocks of zeros is the mark.
  for (let size = 0; size < archive.length - 512; size += 64) {
    assert.throws(() => read(archive.slice(0, size)), { rule: "tar.truncated" }, `cut at ${size}`);
  }
});

Deno.test("readTar() streams the events of a whole archive and tells its comment first", async () => {
  const archive = await write([withContent(file("f", ""), new Random(1).bytes(5000))]);
  const chunks = function* () {
    for (let at = 0; at < archive.length; at += 1000) yield archive.subarray(at, at + 1000);
  };
  const seen: string[] = [];
  let bytes = 0;
  for await (
    const event of readTar(chunks(), {
      onWarning: () => {},
      onComment: (comment) => seen.push(comment),
    })
  ) {
    if (event.is === "data") bytes += event.bytes.length;
    else seen.push(event.is);
  }
  assert.deepEqual(seen, ["drover full", "entry", "end"]);
  assert.equal(bytes, 5000);
  await assert.rejects(async () => {
    for await (const _ of readTar([archive.subarray(0, 2048)], { onWarning: () => {} }));
  }, { rule: "tar.truncated" });
});
