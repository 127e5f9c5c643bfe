/**
 * Goal: metadata of any change goes over and gives the same manifest; nothing else gets through; it is small.
 * Method: random trees and changes; every truncation; vectors under tests/vectors/package.
 */
import assert from "node:assert/strict";
import { zstdCompress } from "./zstd.ts";
import { FormatError } from "../../lib/base/errors.ts";
import { fromHex } from "../../lib/base/hex.ts";
import type { BytePath } from "../../lib/base/path.ts";
import { diffManifests } from "../../lib/version/diff.ts";
import type { Entry } from "../../lib/version/entry.ts";
import { versionId } from "../../lib/version/history.ts";
import { Manifest } from "../../lib/version/manifest.ts";
import {
  checkMetadataDigest,
  chunkCountMax,
  decodeMetadataChunk,
  encodeMetadata,
  encodeMetadataBody,
  encodeTrailerBody,
  metadataDigest,
  packageDigest,
  type PackageMetadata,
  parseMetadataBody,
  parseTrailerBody,
  type RawChunk,
  resolveMetadata,
  targetManifest,
  topmostDeletes,
} from "../../lib/version/package.ts";
import { makePart } from "../../lib/version/part.ts";
import { decodeSegment, parseSegmentBody } from "../../lib/version/segment.ts";
import { loadVectors } from "../vectors.ts";
import { metadataOf } from "./packages.ts";
import { entry, file, link, Random, randomChange, randomTree } from "./trees.ts";

function refused(rule: RegExp, act: () => void): void {
  assert.throws(act, (error) => error instanceof FormatError && rule.test(error.rule));
}

function bodyOf(chunk: RawChunk): Uint8Array<ArrayBuffer> {
  return encodeMetadataBody({
    columns: makePart(chunk.columns, null),
    digests: chunk.digests,
    digest: metadataDigest(chunk),
  });
}

/** Out, over, and in again. */
function transfer(metadata: PackageMetadata, base: Manifest): PackageMetadata {
  const chunks = encodeMetadata(metadata, base).map((chunk) => {
    const body = parseMetadataBody(bodyOf(chunk));
    checkMetadataDigest(body, body.columns.bytes);
    return decodeMetadataChunk({ columns: body.columns.bytes, digests: body.digests });
  });
  return resolveMetadata(chunks, base);
}

const root = entry("", "directory");

Deno.test("resolveMetadata() gives back what encodeMetadata() was given, and the same manifest", () => {
  for (let seed = 0; seed < 60; seed++) {
    const random = new Random(seed);
    const tree = randomTree(random, 1 + random.below(60));
    const before = random.one(6) ? Manifest.empty : Manifest.build(tree.values());
    const after = Manifest.build(randomChange(random, tree, random.below(40)).values());
    const metadata = metadataOf(before, after);
    const received = transfer(metadata, before);
    assert.deepEqual(received, metadata, `seed ${seed}`);
    assert.equal(targetManifest(received, before).root(), after.root(), `seed ${seed}`);
  }
});

Deno.test("encodeMetadata() keeps chains of versions, other parents, and no versions at all", () => {
  const before = Manifest.build([root]);
  const after = Manifest.build([root, file("a", "x")]);
  const from = versionId(null, before.root());
  const first = {
    id: versionId(from, "11".repeat(32)),
    parent: from,
    root: "11".repeat(32),
    time: -5,
    message: "a\nb",
  };
  const second = {
    id: versionId(first.id, after.root()),
    parent: first.id,
    root: after.root(),
    time: 9e14,
    message: "",
  };
  const foreign = "ab".repeat(32);
  const fork = { ...second, parent: foreign, id: versionId(foreign, after.root()) };
  for (const versions of [[first, second], [fork], []]) {
    const metadata = { ...metadataOf(before, after, versions), to: versions.at(-1)?.id ?? foreign };
    assert.deepEqual(transfer(metadata, before), metadata);
  }
  const gap = [first, fork];
  const broken = encodeMetadata({ ...metadataOf(before, after, gap) }, before);
  refused(/^package\.columns\.parent$/, () => broken.map(decodeMetadataChunk));
  const wrongTo = encodeMetadata({ ...metadataOf(before, after), to: foreign }, before);
  refused(/^package\.columns\.chain$/, () => wrongTo.map(decodeMetadataChunk));
  const wrongRoot = { ...first, root: after.root(), id: versionId(from, after.root()) };
  const metadata = metadataOf(before, Manifest.build([root]), [wrongRoot]);
  refused(/^package\.base\.root$/, () => targetManifest(transfer(metadata, before), before));
});

function manyFiles(directory: string, count: number, mode: number, mtime: number): Entry[] {
  const random = new Random(99);
  return [
    entry(directory, "directory", { mtimeSeconds: mtime }),
    ...Array.from(
      { length: count },
      (_, index) =>
        entry(`${directory}/file-${index}-${random.below(1e6)}.ts`, "file", {
          mode,
          size: 1000 + index,
          digest: random.bytes(32),
          mtimeSeconds: mtime + random.below(100_000),
          mtimeNanos: random.below(1e9),
        }),
    ),
  ];
}

/** Bytes per entry on the wire, digests included. */
function costOf(before: Entry[], after: Entry[]): number {
  const base = Manifest.build([root, ...before]);
  const metadata = metadataOf(base, Manifest.build([root, ...after]));
  let size = 0;
  for (const chunk of encodeMetadata(metadata, base)) {
    size += zstdCompress(chunk.columns).length + chunk.digests.length;
  }
  return size / metadata.upserts.length;
}

Deno.test("encodeMetadata() takes at most 20 bytes per entry for mv, chmod and touch of everything", () => {
  const files = manyFiles("old", 5000, 0o644, 1_700_000_000);
  const moved = files.map((item) => ({ ...item, path: item.path.replace(/^old/, "new") as BytePath }));
  const chmod = files.map((item) => ({ ...item, mode: 0o600 }));
  const random = new Random(1);
  const touched = files.map((item) => ({
    ...item,
    mtimeSeconds: 1_800_000_000,
    mtimeNanos: random.below(1e9),
  }));
  assert.ok(costOf(files, moved) <= 20, `mv ${costOf(files, moved)}`);
  assert.ok(costOf(files, chmod) <= 20, `chmod ${costOf(files, chmod)}`);
  assert.ok(costOf(files, touched) <= 20, `touch ${costOf(files, touched)}`);
  const fresh = costOf([], files) - 32;
  assert.ok(fresh <= 20, `new ${fresh} and a digest`);
});

Deno.test("encodeMetadata() cuts chunks that stand alone", () => {
  const files = manyFiles("d", chunkCountMax + 10, 0o644, 0);
  const after = Manifest.build([root, ...files]);
  const metadata = metadataOf(Manifest.empty, after);
  const chunks = encodeMetadata(metadata, Manifest.empty);
  assert.equal(chunks.length, 2);
  const read = chunks.map(decodeMetadataChunk);
  assert.deepEqual(read.map(({ index, count, header }) => [index, count, header !== null]), [[0, 2, true], [
    1,
    2,
    false,
  ]]);
  assert.equal(targetManifest(resolveMetadata(read, Manifest.empty), Manifest.empty).root(), after.root());
  const [first, second] = read;
  if (first === undefined || second === undefined) throw new Error("two chunks");
  refused(/columns\.chunk$/, () => resolveMetadata([first], Manifest.empty));
  refused(/columns\.chunk$/, () => resolveMetadata([second, first], Manifest.empty));
  refused(/columns\.chunk$/, () => resolveMetadata([], Manifest.empty));
  refused(/columns\.chunk$/, () => resolveMetadata([first, first], Manifest.empty));
  refused(
    /columns\.order$/,
    () => resolveMetadata([first, { ...second, upserts: first.upserts }], Manifest.empty),
  );
  refused(/columns\.count$/, () => resolveMetadata([first, { ...second, upserts: [] }], Manifest.empty));
});

Deno.test("parseMetadataBody() refuses every truncation and every flipped byte", () => {
  const random = new Random(5);
  const tree = randomTree(random, 12);
  const before = Manifest.build(tree.values());
  const after = Manifest.build(randomChange(random, tree, 10).values());
  const [chunk] = encodeMetadata(metadataOf(before, after), before);
  if (chunk === undefined) throw new Error("a chunk");
  const body = bodyOf(chunk);
  const run = (bytes: Uint8Array<ArrayBuffer>) => () => {
    const parsed = parseMetadataBody(bytes);
    checkMetadataDigest(parsed, parsed.columns.bytes);
  };
  run(body)();
  for (let size = 0; size < body.length; size++) refused(/^package\.metadata\./, run(body.slice(0, size)));
  for (let at = 0; at < body.length; at++) {
    const bad = body.slice();
    bad[at] = (bad[at] ?? 0) ^ (1 << random.below(8));
    refused(/^package\.metadata\./, run(bad));
  }
  // Whoever can forge the digest still cannot get past the columns with anything but a format error.
  for (let size = 0; size < chunk.columns.length; size++) {
    refused(
      /^package\.columns\./,
      () => decodeMetadataChunk({ columns: chunk.columns.slice(0, size), digests: chunk.digests }),
    );
  }
  for (let round = 0; round < 3000; round++) {
    const columns = chunk.columns.slice();
    for (let flips = 1 + random.below(3); flips > 0; flips--) {
      columns[random.below(columns.length)] = random.below(256);
    }
    try {
      targetManifest(
        resolveMetadata([decodeMetadataChunk({ columns, digests: chunk.digests })], before),
        before,
      );
    } catch (error) {
      assert.ok(error instanceof FormatError, `${error}`);
    }
  }
});

Deno.test("resolveMetadata() refuses what does not fit the base", () => {
  const base = Manifest.build([
    root,
    entry("d", "directory"),
    file("d/a", "a"),
    file("d/b", "b"),
    link("l", "d/a"),
    entry("s", "symlink", { target: "x" as BytePath }),
  ]);
  const after = Manifest.build([root, entry("d", "directory"), file("d/a", "c"), file("new", "b")]);
  const good = metadataOf(base, after);
  const decoded = (metadata: PackageMetadata) => encodeMetadata(metadata, base).map(decodeMetadataChunk);
  const [chunk] = decoded(good);
  if (chunk === undefined) throw new Error("a chunk");
  const resolve = (changes: Partial<typeof chunk>, against = base) => () => {
    const header = chunk.header && {
      ...chunk.header,
      deleteCount: (changes.deletes ?? chunk.deletes).length,
      upsertCount: (changes.upserts ?? chunk.upserts).length,
    };
    targetManifest(resolveMetadata([{ ...chunk, header, ...changes }], against), against);
  };
  const paths = (...list: string[]) => list as BytePath[];
  resolve({})();
  assert.deepEqual(good.deletes, ["d/b", "l", "s"]);
  refused(/base\.delete$/, resolve({ deletes: paths("d", "d/b") }));
  refused(/base\.delete$/, resolve({ deletes: paths("nowhere") }));
  refused(
    /base\.missing$/,
    resolve(
      {},
      Manifest.build([root, file("l", "x"), file("s", "x"), entry("d", "directory"), file("d/b", "b")]),
    ),
  );
  const upsert = (fields: Partial<(typeof chunk.upserts)[number]>) => ({
    upserts: [{ entry: file("n", "n"), bases: [], inherits: 0, ...fields }],
  });
  refused(/base\.missing$/, resolve(upsert({ bases: paths("l") })));
  refused(/base\.missing$/, resolve(upsert({ bases: paths("gone") })));
  refused(/base\.kind$/, resolve(upsert({ bases: paths("s"), inherits: 0x10 })));
  refused(/base\.kind$/, resolve(upsert({ bases: paths("d/a", "d") })));
  refused(
    /base\.entry\./,
    resolve(
      upsert({
        entry: entry("n", "symlink", { target: "t" as BytePath }),
        bases: paths("d/a"),
        inherits: 0x40,
      }),
    ),
  );
  refused(/^manifest\./, resolve(upsert({ entry: file("no/parent", "n") })));
  refused(/^manifest\./, resolve(upsert({ entry: file("s/below", "n") })));
  refused(/^manifest\./, resolve(upsert({ entry: link("n", "s") })));
  refused(/base\.root$/, resolve({ upserts: [] }));
});

Deno.test("encodeMetadata() refuses metadata that is none", () => {
  const base = Manifest.build([root, file("a", "a"), link("l", "a")]);
  const good = metadataOf(base, Manifest.build([root, file("a", "b"), file("c", "c")]));
  const bad: Partial<PackageMetadata>[] = [
    { mode: "full" },
    { from: null },
    { deletes: ["l", "a"] as BytePath[] },
    { deletes: [""] as BytePath[] },
    { upserts: [...good.upserts].reverse() },
    { upserts: [{ entry: file("a", "b"), bases: ["l"] as BytePath[], sameContent: false }] },
    { upserts: [{ entry: file("a", "b"), bases: ["a"] as BytePath[], sameContent: true }] },
    { upserts: [{ entry: file("a", "b"), bases: Array(5).fill("a") as BytePath[], sameContent: false }] },
    { upserts: [{ entry: file("../a", "b"), bases: [], sameContent: false }] },
    { upserts: [{ entry: { ...file("a", "b"), size: -1 }, bases: [], sameContent: false }] },
  ];
  for (const fields of bad) refused(/^package\.encode$/, () => encodeMetadata({ ...good, ...fields }, base));
});

Deno.test("topmostDeletes() names what goes without what is below", () => {
  const before = Manifest.build([
    root,
    ...["d", "d/e", "d!", "f", "g"].map((path) => entry(path, "directory")),
    ...["d/e/x", "d/y", "d!/z", "f/a", "g/a", "g/b"].map((path) => file(path, path)),
  ]);
  const after = Manifest.build([
    root,
    entry("d!", "directory"),
    file("f", "was a directory"),
    entry("g", "directory"),
    file("g/b", "g/b"),
  ]);
  assert.deepEqual(topmostDeletes(diffManifests(before, after)), ["d", "d!/z", "g/a"]);
});

Deno.test("parseTrailerBody() reads what encodeTrailerBody() wrote, and nothing else", () => {
  const trailer = {
    segmentCount: 7,
    root: "12".repeat(32),
    to: "34".repeat(32),
    digest: packageDigest([new Uint8Array(32)], [new Uint8Array(32).fill(1)]),
  };
  const body = encodeTrailerBody(trailer);
  assert.equal(body.length, 104);
  assert.deepEqual(parseTrailerBody(body), trailer);
  for (let size = 0; size < 104; size++) {
    refused(/^package\.trailer\.truncated$/, () => parseTrailerBody(body.slice(0, size)));
  }
  const swapped = packageDigest([new Uint8Array(32).fill(1)], [new Uint8Array(32)]);
  assert.notDeepEqual(swapped, trailer.digest);
});

Deno.test("package vectors are refused by the rule they name", () => {
  for (const { name, expect, fields, bytes } of loadVectors("package", ["of", "digests"])) {
    const act = () => {
      switch (fields.get("of")) {
        case "metadata": {
          const body = parseMetadataBody(bytes);
          checkMetadataDigest(body, body.columns.bytes);
          return;
        }
        case "columns": {
          const chunk = decodeMetadataChunk({
            columns: bytes,
            digests: fromHex(fields.get("digests") ?? ""),
          });
          const metadata = resolveMetadata([chunk], vectorBase(chunk.header?.from ?? null));
          const again = encodeMetadata(metadata, vectorBase(metadata.from));
          assert.deepEqual(again[0]?.columns, bytes, `${name} is written in another way`);
          return;
        }
        case "segment":
          parseSegmentBody(bytes, { segmentCount: 2, upserts: vectorUpserts });
          return;
        case "ops":
          decodeSegment(
            {
              index: 0,
              pieces: [{ upsert: 0, offset: 0, length: 1000 }],
              prefix: [],
              ops: bytes,
              literals: new Uint8Array(10),
            },
            (_upsert, base) => base === 0 ? 900 : null,
            { begin() {}, copy() {}, literal() {}, hole() {}, end() {} },
          );
          return;
        case "trailer":
          parseTrailerBody(bytes);
          return;
        default:
          throw new Error(`${name} does not say of what it is`);
      }
    };
    if (expect === "ok") act();
    else {assert.throws(act, (error) =>
        error instanceof FormatError && error.rule === expect, `${name}: ${expect}`);}
  }
});

/** What vectors with a `from` refer to. */
function vectorBase(from: string | null): Manifest {
  return from === null
    ? Manifest.empty
    : Manifest.build([root, file("a", "a"), entry("d", "directory"), file("d/f", "f")]);
}

const vectorUpserts = [{
  entry: entry("x", "file", { size: 1000, digest: new Uint8Array(32) }),
  bases: ["a" as BytePath],
  sameContent: false,
}];
