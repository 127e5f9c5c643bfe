/**
 * Hostile peers: whatever holds the key and says something else than an honest node would, is refused with the rule that
 * it broke and where, the tree stays as it is, and the honest push that comes next succeeds.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { type BytePath, pathFromText } from "../../lib/base/path.ts";
import { memoryChannelPair } from "../../lib/net/mod.ts";
import { encodeRecordHead } from "../../lib/stream/mod.ts";
import { openTree, recordLimits, verifyTree } from "../../lib/tree/mod.ts";
import { recordType } from "../../lib/tree/protocol.ts";
import { sendTo } from "../../lib/tree/push.ts";
import type { Entry, VersionInfo } from "../../lib/version/entry.ts";
import { versionId } from "../../lib/version/history.ts";
import { Manifest } from "../../lib/version/manifest.ts";
import type { PackageMetadata } from "../../lib/version/package.ts";
import { type RawSegment, SegmentEncoder } from "../../lib/version/segment.ts";
import { opCopy, OpList } from "../../lib/version/delta.ts";
import { Random } from "../version/trees.ts";
import {
  type Craft,
  craft,
  fileEntry,
  plainEntry,
  replaced,
  whole,
  withEntries,
  zerosFrame,
} from "./craft.ts";
import {
  concat,
  hello,
  MemoryNode,
  message,
  octetsOf,
  type Outcome,
  outcomeOf,
  type WireRecord,
} from "./peer.ts";
import { Scratch, type Setup, setups } from "./scratch.ts";
import { makeFirst, makeSecond, rootOf } from "./small_tree.ts";

const nothing = { devices: false, securityXattrs: false };
const everything = { devices: true, securityXattrs: true };

/** One tree of a node, and what an honest peer knows of it. */
class Target {
  head: string | null = null;
  manifest = Manifest.empty;
  readonly dir: string;
  #serial = 0;

  constructor(readonly room: Scratch, readonly node: MemoryNode, readonly name: string) {
    this.dir = join(room.path("node"), name);
  }

  /** Honestly adds a file, and whatever else is given. */
  async grow(...entries: Entry[]): Promise<void> {
    const serial = this.#serial++;
    const path = `honest-${serial % 3}`;
    const content = `honest content ${serial}\n`;
    const first = this.manifest.count === 0 ? [plainEntry("", "directory")] : [];
    const after = withEntries(this.manifest, ...first, fileEntry(path, content), ...entries);
    const { records, to } = craft({
      base: this.manifest,
      from: this.head,
      after,
      content: new Map([[path, content], ...texts]),
    });
    assert.equal(await this.node.tell([hello(this.name), ...records]), "done", "the honest push");
    this.head = to;
    this.manifest = after;
    assert.equal(await Deno.readTextFile(join(this.dir, path)), content);
  }

  /** Sends records after HELLO, which must be refused for this reason and change nothing. */
  async refuses(
    what: string,
    records: readonly WireRecord[],
    says: RegExp,
    code = "format",
    greeting = hello(this.name),
  ): Promise<void> {
    const before = await rootOf(this.dir);
    const logged = this.node.log.length;
    const outcome = await this.node.tell([greeting, ...records]);
    const heard = outcome === null
      ? this.node.log.slice(logged).join("\n")
      : outcome === "done"
      ? "done"
      : `${outcome.code}: ${outcome.message}`;
    assert.match(heard, says, `${what}: ${heard}`);
    if (outcome !== null && outcome !== "done") assert.equal(outcome.code, code, `${what}: ${heard}`);
    assert.notEqual(outcome, "done", what);
    await this.stays(before, what);
  }

  /** Nothing must be different. */
  async stays(root: string, what: string): Promise<void> {
    assert.equal(await rootOf(this.dir), root, `${what}: the directory changed`);
    await using tree = await openTree(this.room.context, pathFromText(this.dir), { readOnly: true });
    assert.equal(tree.store.pointers.head, this.head, `${what}: the head changed`);
    assert.equal(tree.store.pointers.pending, null);
  }

  /** Refuses a crafted package for the tree as it is now, then grows. */
  async refusesCraft(
    what: string,
    options: Partial<Craft> & { add?: Entry },
    says: RegExp,
    code?: string,
  ): Promise<void> {
    const { records } = craft({
      base: this.manifest,
      from: this.head,
      after: options.add === undefined ? null : withEntries(this.manifest, options.add),
      content: texts,
      ...options.upserts === undefined || options.deletes !== undefined ? {} : { deletes: [] },
      ...options,
    });
    await this.refuses(what, records, says, code, hello(this.name, { force: options.force ?? false }));
    await this.grow();
  }
}

const texts: ReadonlyMap<string, string> = new Map([["dir/file", "content of a file\n"], [
  "z",
  "z".repeat(1000),
]]);
const baseEntries = (): Entry[] => [
  plainEntry("dir", "directory"),
  fileEntry("dir/file", "content of a file\n"),
  plainEntry("link", "symlink", { target: "dir" as BytePath }),
];

/** Runs with a node that has a tree `t` of three entries, in each setup. */
function withTarget(
  claim: string,
  work: (target: Target, room: Scratch) => Promise<void>,
  allow = nothing,
): void {
  for (const setup of setups.filter((setup) => setup !== "portable")) {
    Deno.test(`${setup}: ${claim}`, async () => {
      await using room = new Scratch();
      room.mkdir("node");
      await using node = makeNode(room, setup, allow);
      const target = new Target(room, node, "t");
      await target.grow(...baseEntries());
      await work(target, room);
      await target.grow();
      await using tree = await openTree(room.context, pathFromText(target.dir));
      assert.deepEqual((await verifyTree(tree)).findings, []);
      assert.deepEqual([...Deno.readDirSync(join(room.path("node"), ".t.drover/staging"))], []);
      assert.deepEqual((await tree.status()).uncommitted, []);
    });
  }
}

function makeNode(room: Scratch, setup: Setup, allow = nothing): MemoryNode {
  return new MemoryNode(room.context, room.path("node"), {
    allow,
    ...setup === "scan" ? { capture: "scan" } : { capture: "overlay", profile: setup },
  });
}

withTarget("receivePackage() refuses paths that leave the tree", async (target) => {
  const cases: [string, string, RegExp][] = [
    ["XX/evil", "../evil", /"\.\." component.*rule package\.columns\.path, offset \d+/],
    ["Xevil", "/evil", /absolute.*rule package\.columns\.path, offset \d+/],
    ["dir/XX", "dir/..", /"\.\." component.*offset \d+/],
    ["dir/X", "dir/.", /"\." component.*offset \d+/],
    ["dirX/x", "dir//x", /empty component.*offset \d+/],
    ["dir/evilX", "dir/evil\0", /NUL.*offset \d+/],
  ];
  for (const [honest, hostile, says] of cases) {
    await target.refusesCraft(hostile, {
      upserts: whole(fileEntry(honest, "evil\n")),
      columns: (columns) => replaced(columns, honest, hostile),
    }, says);
  }
  await target.refusesCraft("a name of 256 bytes", {
    upserts: whole(fileEntry("n".repeat(255), "evil\n")),
    // The path gets one byte more: its length (255 is ff 01) and an n.
    columns: (columns) => {
      const at = columns.indexOf(0x6e);
      return concat([columns.subarray(0, at - 2), new Uint8Array([0x80, 0x02, 0x6e]), columns.subarray(at)]);
    },
  }, /name of 256 bytes.*offset \d+/);
  assert.throws(() => Deno.lstatSync(join(target.dir, "../evil")), Deno.errors.NotFound);
});

withTarget("receivePackage() refuses to write through a symlink", async (target, room) => {
  const outside = room.mkdir("outside");
  const toOutside = (path: string) => plainEntry(path, "symlink", { target: pathFromText(outside) });
  await target.refusesCraft("a symlink and something below it", {
    upserts: whole(toOutside("s"), fileEntry("s/evil", "evil\n")),
  }, /s\/evil.*(parent|directory).*rule manifest\.apply\.\w+/);
  await target.refusesCraft("something below a symlink that is there", {
    upserts: whole(fileEntry("link/evil", "evil\n")),
  }, /link\/evil.*rule manifest\.apply\.\w+/);
  await target.refusesCraft("a directory that becomes a symlink", {
    upserts: whole(toOutside("dir"), fileEntry("dir/evil", "evil\n")),
  }, /dir\/evil.*rule manifest\.apply\.\w+/);
  await target.refusesCraft("something below a file", {
    upserts: whole(fileEntry("dir/file/evil", "evil\n")),
  }, /dir\/file\/evil.*rule manifest\.apply\.\w+/);
  assert.deepEqual([...Deno.readDirSync(outside)], []);
});

withTarget(
  "receivePackage() refuses hard links to anything but a file before them in the tree",
  async (target) => {
    const link = (path: string, to: string) => plainEntry(path, "link", { target: to as BytePath });
    const honest = "XXX/etc/passwd";
    await target.refusesCraft("outside", {
      upserts: whole(link("hard", honest)),
      columns: (columns) => replaced(columns, honest, "../" + honest.slice(3)),
    }, /"hard": path has a "\.\." component.*rule package\.columns\.entry\.target, offset \d+/);
    await target.refusesCraft("absolute", {
      upserts: whole(link("hard", "Xetc/passwd")),
      columns: (columns) => replaced(columns, "Xetc/passwd", "/etc/passwd"),
    }, /absolute.*rule package\.columns\.entry\.target/);
    for (const to of ["nowhere", "dir", "link", "link/file", "zzz"]) {
      await target.refusesCraft(to, { upserts: whole(link("hard", to)) }, /hard.*rule manifest\.\S+/);
    }
  },
);

withTarget("receivePackage() refuses a path that stands there twice", async (target) => {
  await target.refusesCraft("two equal files", {
    upserts: whole(fileEntry("dupA", "1\n"), fileEntry("dupB", "2\n")),
    columns: (columns) => replaced(columns, "\x03\x01B", "\x03\x01A"),
  }, /"dupA" does not come after "dupA".*rule package\.columns\.order, offset \d+/);
  await target.refusesCraft("a descending path", {
    upserts: whole(fileEntry("dupB", "1\n"), fileEntry("dupC", "2\n")),
    columns: (columns) => replaced(columns, "\x03\x01C", "\x03\x01A"),
  }, /does not come after.*offset \d+/);
  await target.refusesCraft("deleted and there", {
    upserts: whole(fileEntry("dir/new", "1\n")),
    deletes: ["dir" as BytePath],
  }, /rule \S+/);
});

withTarget("receivePackage() refuses to replace or delete the root", async (target) => {
  await target.refusesCraft("the root as a file", { upserts: whole(fileEntry("", "evil\n")) }, /rule \S+/);
  await target.refusesCraft("the root as a symlink", {
    upserts: whole(plainEntry("", "symlink", { target: "/etc" as BytePath })),
  }, /rule \S+/);
  await target.refusesCraft("the root deleted", {
    deletes: ["link" as BytePath],
    // A path of four bytes becomes the empty one.
    columns: (columns) => {
      const at = replacedAt(columns, "\x01\x00\x04link");
      return concat([columns.subarray(0, at), new Uint8Array([1, 0, 0]), columns.subarray(at + 7)]);
    },
  }, /the root cannot be deleted.*rule package\.columns\.path, offset \d+/);
});

function replacedAt(bytes: Uint8Array, wanted: string): number {
  const changed = replaced(
    bytes,
    wanted,
    wanted.replace(/./gs, (c) => String.fromCharCode(c.charCodeAt(0) ^ 1)),
  );
  return changed.findIndex((byte, at) => byte !== bytes[at]);
}

withTarget(
  "receivePackage() refuses what belongs to an overlay, even where all else is allowed",
  async (target) => {
    const xattr = (name: string) => [{ name: name as BytePath, value: new Uint8Array([0x79]) }];
    for (
      const name of [
        "trusted.overlay.opaque",
        "user.overlay.redirect",
        "user.fuseoverlayfs.opaque",
        "trusted.overlay.x",
      ]
    ) {
      const honest = name.replace(/\.(f?)(overlay|useoverlayfs)\./, (all) => all.replace("o", "X"));
      await target.refusesCraft(
        name,
        {
          upserts: whole(plainEntry("evil", "directory", { xattrs: xattr(honest) })),
          columns: (columns) => replaced(columns, honest, name),
        },
        /"evil": xattr "\S+" belongs to an overlay.*rule package\.columns\.entry\.xattr\.overlay, offset \d+/,
      );
    }
    await target.refusesCraft("a 0:0 device", {
      after: withEntries(
        Manifest.build([...target.manifest.entries()].filter(({ path }) => path !== "dir/file")),
        plainEntry("dir", "char"),
      ),
      upserts: whole(plainEntry("dir", "char")),
      deletes: [],
    }, /"dir": a 0:0 device would hide a name.*rule package\.policy\.whiteout/);
  },
  everything,
);

withTarget(
  "receivePackage() refuses devices and privileged xattrs unless they are allowed",
  async (target) => {
    for (const kind of ["char", "block"] as const) {
      const evil = plainEntry("evil", kind, { rdevMajor: 1, rdevMinor: 3 });
      await target.refusesCraft(
        kind,
        { add: evil },
        /"evil": devices are not allowed.*rule package\.policy\.device/,
      );
    }
    for (const name of ["security.capability", "trusted.anything", "system.strange", "strange"]) {
      const evil = fileEntry("evil", "", {
        xattrs: [{ name: name as BytePath, value: new Uint8Array([1]) }],
      });
      await target.refusesCraft(
        name,
        { add: evil },
        /"evil": xattr "\S+" is not allowed.*rule package\.policy\.xattr/,
      );
    }
  },
);

withTarget("receivePackage() refuses a package for another version", async (target) => {
  const other = "ab".repeat(32);
  const add = fileEntry("evil", "evil\n");
  await target.refusesCraft(
    "a base that is not the head",
    { add, from: other },
    /abababab.*head is/,
    "wrong-base",
  );
  await target.refusesCraft(
    "a whole tree beside the head",
    {
      after: withEntries(Manifest.empty, plainEntry("", "directory")),
      base: Manifest.empty,
      from: null,
    },
    /head is/,
    "diverged",
  );
  const skip = (metadata: PackageMetadata): PackageMetadata => ({
    ...metadata,
    to: versionId(other, "22".repeat(32)),
  });
  await target.refusesCraft(
    "a chain that ends elsewhere",
    { add, header: skip },
    /rule package\.columns\.chain, offset \d+/,
  );
  const lie = (metadata: PackageMetadata): PackageMetadata => {
    const root = "33".repeat(32);
    const version: VersionInfo = {
      id: versionId(metadata.from, root),
      parent: metadata.from,
      root,
      time: 0,
      message: "",
    };
    return { ...metadata, to: version.id, versions: [version] };
  };
  await target.refusesCraft(
    "a root that is another tree's",
    { add, header: lie },
    /rule package\.base\.root/,
  );
  await target.refusesCraft("a base file that is not there", {
    upserts: [{ entry: fileEntry("evil", "evil\n"), bases: ["link" as BytePath], sameContent: false }],
    columns: (columns) => replaced(columns, "link", "evil"),
  }, /rule package\.\S+/);
});

withTarget("receivePackage() does not take other content for a version that it knows", async (target) => {
  const known = target.head ?? "";
  await target.grow();
  await target.refusesCraft("no new version, but content", {
    add: fileEntry("evil", "evil\n"),
    force: true,
    content: new Map([["evil", "evil\n"]]),
    header: (metadata) => ({ ...metadata, to: known, versions: [] }),
  }, /rule package\.base\.root/);
});

withTarget("receivePackage() refuses content that is not what the manifest says", async (target) => {
  const evil = fileEntry("z", "z".repeat(1000));
  const segment = (change: (segment: RawSegment) => RawSegment) => ({
    add: evil,
    segments: (segments: RawSegment[]) => segments.map(change),
  });
  await target.refusesCraft(
    "other bytes",
    { add: evil, content: new Map([["z", "y".repeat(1000)]]) },
    /"z".*rule package\.file\.digest/,
    "corrupt",
  );
  await target.refusesCraft("a piece too long", {
    add: evil,
    segments: (segments) =>
      segments.map((one) => ({ ...one, pieces: [{ upsert: 0, offset: 0, length: 1001 }] })),
  }, /1001 bytes at 0 of a file of 1000.*rule package\.head\.piece, offset \d+/);
  await target.refusesCraft("a piece too short", {
    add: evil,
    segments: (segments) =>
      segments.map((one) => ({
        ...one,
        pieces: [{ upsert: 0, offset: 0, length: 999 }],
        literals: one.literals.slice(1),
      })),
  }, /1 bytes of upsert 0 did not come.*rule package\.segment\.missing/);
  await target.refusesCraft("a piece twice", {
    add: evil,
    segments: ([one]) => one === undefined ? [] : [one, { ...one, index: 1 }],
  }, /came twice.*rule package\.segment\.overlap/);
  await target.refusesCraft("overlapping pieces", {
    add: evil,
    segments: () => [half(0, 0, 600), half(1, 400, 600)],
  }, /came twice.*rule package\.segment\.overlap/);
  await target.refusesCraft(
    "a piece of something else",
    segment((one) => ({ ...one, pieces: [{ upsert: 7, offset: 0, length: 1000 }] })),
    /upsert 7 has no pieces.*offset \d+/,
  );
  await target.refusesCraft(
    "literals left over",
    segment((one) => ({ ...one, literals: one.literals.slice(1) })),
    /literals are wanted.*rule package\.ops\.literals, offset \d+/,
  );
  await target.refusesCraft(
    "no segment",
    { add: evil, segments: () => [] },
    /rule package\.segment\.missing/,
  );
  await target.refusesCraft("a copy beyond the base", {
    upserts: [{ entry: evil, bases: ["dir/file" as BytePath], sameContent: false }],
    add: evil,
    segments: () => [copying(1000, 0)],
  }, /a copy of 1000 bytes at 0 of a base of 18.*rule package\.ops\.place, offset \d+/);
  await target.refusesCraft("a copy before the base", {
    upserts: [{ entry: evil, bases: ["dir/file" as BytePath], sameContent: false }],
    add: evil,
    segments: () => [copying(1000, 2 ** 40)],
  }, /rule package\.ops\.place, offset \d+/);
  await target.refusesCraft(
    "a copy without a base",
    segment(() => copying(1000, 0)),
    /there is no base 0.*rule package\.ops\.base, offset \d+/,
  );
  await target.refusesCraft("a base that is a directory", {
    upserts: [{ entry: evil, bases: ["dir/file" as BytePath, "dir" as BytePath], sameContent: false }],
    add: evil,
  }, /rule package\.base\.kind/);
  for (
    const [what, prefix] of Object.entries({
      "of nothing": "nothing",
      "of a directory": "dir",
      "beyond the end": "dir/file",
    })
  ) {
    await target.refusesCraft(`a prefix ${what}`, {
      ...segment((one) => ({ ...one, prefix: [{ path: prefix as BytePath, offset: 10, length: 100 }] })),
      literals: (one) => ({ codec: "zstd", rawSize: one.literals.length, bytes: new Uint8Array(20) }),
    }, /rule package\.segment\.prefix|rule package\.head/);
  }
});

function half(index: number, offset: number, length: number): RawSegment {
  const encoder = new SegmentEncoder();
  encoder.add({ upsert: 0, offset, length }, new TextEncoder().encode("z".repeat(length)), null);
  return encoder.finish(index);
}

/** A segment that is one copy. */
function copying(length: number, offset: number): RawSegment {
  const ops = new OpList();
  ops.push(opCopy, 0, offset, length);
  const encoder = new SegmentEncoder();
  encoder.add({ upsert: 0, offset: 0, length }, new Uint8Array(length), ops);
  return encoder.finish(0);
}

withTarget(
  "receivePackage() decompresses no more than was announced, and takes no announcement beyond the bounds",
  async (target) => {
    const add = fileEntry("z", "z".repeat(1000));
    // 64 MiB of zeros are about 6 KB: with what is announced here, more than 1 : 10⁶.
    const bomb = await zerosFrame(64 << 20);
    assert.ok(bomb.length < 8192);
    await target.refusesCraft("more columns than announced", {
      add,
      part: () => ({ codec: "zstd", rawSize: 1 << 20, bytes: bomb }),
    }, /rule \S+|frame/);
    await target.refusesCraft("less columns than announced", {
      add,
      part: () => ({ codec: "zstd", rawSize: 96 << 20, bytes: bomb }),
    }, /rule \S+|frame/);
    await target.refusesCraft("other columns", {
      add,
      part: () => ({ codec: "zstd", rawSize: 64 << 20, bytes: bomb }),
    }, /sha256.*rule package\.metadata\.digest/);
    await target.refusesCraft("more literals than announced", {
      add,
      literals: () => ({ codec: "zstd", rawSize: 1000, bytes: bomb.slice(0, 999) }),
    }, /rule \S+|frame/);
    await target.refusesCraft(
      "more literals than fit the pieces",
      {
        add,
        literals: () => ({ codec: "zstd", rawSize: 64 << 20, bytes: bomb }),
      },
      /67108864 bytes of literals for pieces of 1000 bytes.*rule package\.segment\.literals-size, offset \d+/,
    );
    await target.refusesCraft("columns beyond the bound", {
      add,
      part: () => ({ codec: "zstd", rawSize: (96 << 20) + 1, bytes: bomb }),
    }, /rule package\.metadata\.columns-size, offset \d+/);
    await target.refusesCraft("a stored part with two sizes", {
      add,
      part: (columns) => ({ codec: "stored", rawSize: columns.length + 1, bytes: columns }),
    }, /rule package\.metadata\.packed-size, offset \d+/);
    await target.refusesCraft(
      "a file larger than any disk",
      {
        add: { ...fileEntry("z", "z"), size: 2 ** 52 },
      },
      /Cannot receive \d+ bytes/,
      "no-space",
    );
  },
);

withTarget("receivePackage() bounds what a few bytes of metadata can make of themselves", async (target) => {
  // One row of xattrs in the columns, of 60 000 bytes, that every entry uses: 1.2 GB when it is spelled out.
  const xattrs = [{ name: "user.big" as BytePath, value: new Uint8Array([0x5a, 0x5a, 0x5a]) }];
  const upserts = whole(...Array.from({ length: 20_000 }, (_, at) => fileEntry(`x${at}`, "", { xattrs })));
  const columns = (columns: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> => {
    const at = replacedAt(columns, "user.big\x03ZZZ") + 8;
    return concat([
      columns.subarray(0, at),
      new Uint8Array([0xe0, 0xd4, 0x03]),
      new Uint8Array(60_000),
      columns.subarray(at + 4),
    ]);
  };
  const { records } = craft({
    base: target.manifest,
    from: target.head,
    after: null,
    upserts,
    deletes: [],
    columns,
  });
  await target.refuses("xattrs", records, /rule package\.columns\.\S+, offset \d+/);
  await target.grow();
});

withTarget("receivePackage() refuses records out of turn", async (target) => {
  const after = withEntries(target.manifest, fileEntry("z", "z".repeat(1000)));
  const { records } = craft({ base: target.manifest, from: target.head, after, content: texts });
  const [offer, metadata, segment, trailer] = records as [WireRecord, WireRecord, WireRecord, WireRecord];
  const turn = /record (of type )?0x[0-9a-f]+.* out of turn/;
  const cases: [string, WireRecord[], RegExp, string?][] = [
    ["metadata without an offer", [metadata, segment, trailer], turn, "protocol"],
    [
      "a segment before the metadata",
      [offer, segment, metadata, trailer],
      /out of turn.*rule protocol\.turn/,
    ],
    ["a trailer before the metadata", [offer, trailer], /out of turn.*rule protocol\.turn/],
    ["a trailer before the segments", [offer, metadata, trailer, segment], /rule package\.segment\.missing/],
    ["two offers", [offer, offer, metadata, segment, trailer], /out of turn.*rule protocol\.turn/],
    ["the metadata twice", [offer, metadata, metadata, segment, trailer], /out of turn.*rule protocol\.turn/],
    ["HELLO twice", [hello("t"), ...records], turn, "protocol"],
    [
      "DONE from the sender",
      [message(recordType.done, { head: "00".repeat(32), applySeconds: 0 })],
      turn,
      "protocol",
    ],
    [
      "READY from the sender",
      [offer, metadata, message(recordType.ready, { have: [] }), segment, trailer],
      /out of turn/,
    ],
    ["the segment twice", [offer, metadata, segment, segment, trailer], /rule package\.segment\.twice/],
    [
      "no metadata at all",
      [message(recordType.offer, { chunks: 0, force: false })],
      /rule protocol\.offer\.chunks/,
    ],
    [
      "too many chunks",
      [message(recordType.offer, { chunks: 5000, force: false })],
      /rule protocol\.offer\.chunks/,
    ],
    ["fewer chunks than announced", [
      message(recordType.offer, { chunks: 2, force: false }),
      metadata,
      metadata,
    ], /rule package\.\S+/],
    ["an unknown record", [{ type: 0x7777, body: new Uint8Array(8) }], /0x7777|30583/],
    ["an unknown optional record", [{ type: 0x8000_7777, body: new Uint8Array(8) }], /0x80007777|2147514231/],
    ["no JSON", [{ type: recordType.offer, body: new Uint8Array([0x7b]) }], /rule protocol\.offer/],
    ["JSON of no object", [message(recordType.offer, [1])], /rule protocol\.offer/],
    [
      "JSON that is deep",
      [{ type: recordType.offer, body: new TextEncoder().encode("[".repeat(1_000_000)) }],
      /rule protocol\.offer/,
    ],
    [
      "a request for what is not there",
      [{ type: recordType.manifestRequest, body: new TextEncoder().encode("ff".repeat(32)) }],
      /manifest of another version/,
      "protocol",
    ],
    [
      "a request that is no id",
      [{ type: recordType.manifestRequest, body: new Uint8Array(64) }],
      /manifest of another version/,
      "protocol",
    ],
  ];
  for (const [what, said, says, code] of cases) await target.refuses(what, said, says, code);
  const request = { type: recordType.manifestRequest, body: new TextEncoder().encode(target.head ?? "") };
  await target.refuses(
    "one question again and again",
    Array.from({ length: 50 }, () => request),
    /wanted and sent before/,
    "protocol",
  );
  for (
    const [type, size] of [[recordType.metadata, 127 << 20], [recordType.trailer, 8192], [
      recordType.segment,
      0xffff_ffff,
    ]] as const
  ) {
    const head = encodeRecordHead(recordType.hello, 0);
    new DataView(head.buffer).setUint32(0, type, true);
    new DataView(head.buffer).setUint32(4, size, true);
    const before = await rootOf(target.dir);
    const logged = target.node.log.length;
    outcomeOf(await target.node.say(concat([octetsOf([hello("t"), offer]), head, new Uint8Array(64)])));
    assert.match(target.node.log.slice(logged).join("\n"), /rule stream\.\S+, offset \d+/, `${size} octets`);
    await target.stays(before, `${size} octets`);
  }
  const flipped = (at: number) => ({
    trailer: (body: Uint8Array<ArrayBuffer>) => body.map((byte, index) => index === at ? byte ^ 4 : byte),
  });
  for (
    const [at, rule] of [[0, "count"], [4, "reserved"], [8, "root"], [40, "to"], [72, "digest"]] as const
  ) {
    const lying = craft({ base: target.manifest, from: target.head, after, content: texts, ...flipped(at) });
    await target.refuses(
      `a trailer with another ${rule}`,
      lying.records,
      new RegExp(`rule package\\.trailer\\.${rule}`),
    );
  }
});

withTarget("serveTrees() refuses names, verbs and versions that it does not know", async (target, room) => {
  const before = [...Deno.readDirSync(room.path("node"))].map(({ name }) => name).sort();
  const names = [
    "..",
    ".",
    ".x",
    ".t.drover",
    "",
    "a/b",
    "/etc",
    "../t",
    "a\0b",
    "a b",
    "é",
    "\n",
    "n".repeat(200),
    "n".repeat(129),
    "t/../t",
  ];
  for (const name of names) {
    for (const verb of ["push", "pull"]) {
      const outcome = await target.node.tell([hello(name, { verb })]);
      assert.ok(
        outcome !== null && outcome !== "done" && outcome.code === "format",
        `${JSON.stringify(name)}: ${JSON.stringify(outcome)}`,
      );
      assert.match(outcome.message, /name of the tree|must be text.*|rule protocol\.hello\.tree/);
    }
  }
  const cases: [Record<string, unknown>, RegExp, string][] = [
    [{ protocol: 2 }, /protocol 2: this node speaks 1/, "protocol"],
    [{ protocol: "1" }, /rule protocol\.hello\.protocol/, "format"],
    [{ verb: "delete" }, /"delete" is unknown.*rule protocol\.hello\.verb/, "format"],
    [{ force: "yes" }, /rule protocol\.hello\.force/, "format"],
    [{ tree: 7 }, /rule protocol\.hello\.tree/, "format"],
    [{ verb: "pull", state: null }, /does not say what it has/, "protocol"],
    [
      {
        verb: "pull",
        state: { exists: true, head: "x", chain: ["x"], uncommitted: 0, uncommittedPaths: [], staged: false },
      },
      /rule protocol\.hello\.\w+/,
      "format",
    ],
    [
      {
        verb: "pull",
        state: {
          exists: true,
          head: null,
          chain: ["00".repeat(32)],
          uncommitted: 0,
          uncommittedPaths: [],
          staged: false,
        },
      },
      /begin with the head/,
      "format",
    ],
    [
      {
        verb: "pull",
        tree: "unknown",
        state: { exists: false, head: null, chain: [], uncommitted: 0, uncommittedPaths: [], staged: false },
      },
      /Cannot find a tree named "unknown"/,
      "unknown-tree",
    ],
  ];
  for (const [fields, says, code] of cases) {
    const outcome = await target.node.tell([hello("t", fields)]);
    assert.ok(outcome !== null && outcome !== "done", JSON.stringify(fields));
    assert.match(outcome.message, says);
    assert.equal(outcome.code, code, outcome.message);
  }
  assert.equal(
    (await target.node.tell([message(recordType.offer, {})]) as { code: string }).code,
    "protocol",
  );
  assert.deepEqual([...Deno.readDirSync(room.path("node"))].map(({ name }) => name).sort(), before);
});

withTarget("receivePackage() refuses what the file system cannot hold, and says so", async (target) => {
  const far = 2 ** 45;
  await target.refusesCraft(
    "an mtime after the end of time",
    {
      add: fileEntry("z", "", { mtimeSeconds: far }),
    },
    /mtime of "z"/,
    "unsupported",
  );
  await target.refusesCraft(
    "an xattr larger than a block",
    {
      add: fileEntry("z", "", { xattrs: [{ name: "user.big" as BytePath, value: new Uint8Array(65_000) }] }),
    },
    /"user\.big" of "z"/,
    "unsupported",
  );
});

withTarget(
  "receivePackage() takes trees deeper than a path may be long, and can remove them",
  async (target) => {
    const entries: Entry[] = [];
    for (let path = "d"; path.length < 4200; path += "/d") entries.push(plainEntry(path, "directory"));
    const good = withEntries(target.manifest, ...entries);
    await target.refusesCraft(
      "deep, and wrong in the end",
      {
        after: withEntries(good, fileEntry("z", "z".repeat(1000))),
        content: new Map([["z", "y".repeat(1000)]]),
      },
      /rule package\.file\.digest/,
      "corrupt",
    );
    await target.grow(...entries);
  },
);

/** The records that an honest sender says to bring the tree `to` to the head of `from`. */
async function honestRecords(
  room: Scratch,
  from: string,
  state: { head: string | null; chain: string[] },
): Promise<WireRecord[]> {
  const said: WireRecord[] = [];
  const [near, far] = memoryChannelPair({ limits: recordLimits });
  const answers = (async () => {
    for (let record = await far.receive(); record !== null; record = await far.receive()) {
      said.push({ type: record.type, body: record.body.slice() });
      const { chunks } = said[0]?.type === recordType.offer
        ? JSON.parse(new TextDecoder().decode(said[0].body))
        : { chunks: 0 };
      if (said.length === 1 + chunks) await far.send(recordType.ready, message(0, { have: [] }).body);
      if (record.type === recordType.trailer) {
        await far.send(recordType.done, message(0, { head: "00".repeat(32), applySeconds: 0 }).body);
      }
    }
  })();
  await using tree = await openTree(room.context, room.bytes(from), { readOnly: true });
  await sendTo(
    near,
    tree,
    { exists: true, uncommitted: 0, uncommittedPaths: [], staged: false, ...state },
    "delta",
    false,
  );
  await near.end();
  await answers;
  return said;
}

/** Runs with a node and the honest way from nothing to a first and to a second version of the small tree. */
function withHonest(
  claim: string,
  work: (at: {
    room: Scratch;
    node: MemoryNode;
    first: WireRecord[];
    second: WireRecord[];
    /** Makes a tree of the node that has the first version. */
    make: (name: string) => Promise<Target>;
    /** What the second version holds. */
    root: string;
    heads: [string, string];
  }) => Promise<void>,
  among = setups.filter((setup) => setup !== "portable"),
): void {
  for (const setup of among) {
    Deno.test(`${setup}: ${claim}`, async () => {
      await using room = new Scratch();
      makeFirst(room.path("source"));
      await room.init("source", "scan");
      const one = await room.with("source", (tree) => Promise.resolve(tree.store.pointers.head ?? ""));
      const first = await honestRecords(room, "source", { head: null, chain: [] });
      const rootBefore = await rootOf(room.path("source"));
      makeSecond(room.path("source"));
      const two = await room.commit("source");
      const second = await honestRecords(room, "source", { head: one, chain: [one] });
      room.mkdir("node");
      await using node = makeNode(room, setup, everything);
      const make = async (name: string): Promise<Target> => {
        const target = new Target(room, node, name);
        assert.equal(await node.tell([hello(name), ...first]), "done");
        assert.equal(await rootOf(target.dir), rootBefore);
        target.head = one;
        return target;
      };
      await work({
        room,
        node,
        first,
        second,
        make,
        root: await rootOf(room.path("source")),
        heads: [one, two],
      });
    });
  }
}

/** How a conversation with damaged octets may end. */
async function sound(
  target: Target,
  before: string,
  after: { head: string; root: string },
  outcome: Outcome,
  what: string,
): Promise<boolean> {
  const root = await rootOf(target.dir);
  await using tree = await openTree(target.room.context, pathFromText(target.dir), { readOnly: true });
  const { head } = tree.store.pointers;
  if (root === before && head === target.head) {
    assert.notEqual(outcome, "done", what);
    return false;
  }
  assert.deepEqual({ root, head, outcome }, { ...after, outcome: "done" }, what);
  return true;
}

withHonest(
  "a flipped bit anywhere is refused, or makes no difference",
  async ({ node, second, make, root, heads }) => {
    const random = new Random(20_261_120);
    const octets = octetsOf([hello("f0"), ...second, { type: 0, body: new Uint8Array() }]);
    // Every octet of the heads of records and of short records, and some of the others.
    const places = new Set<number>();
    let start = 0;
    for (const { body } of [hello("f0"), ...second]) {
      for (let at = 0; at < 72; at++) if (at < 8 + body.length + 8) places.add(start + at);
      for (let count = 0; count < 40; count++) places.add(start + 8 + random.below(body.length));
      start += 8 + Math.ceil(body.length / 8) * 8;
    }
    for (let at = start - 4; at < octets.length; at++) places.add(at);
    let target = await make("f0");
    let before = await rootOf(target.dir);
    let serial = 0;
    let harmless = 0;
    for (const place of [...places].filter((at) => at < octets.length)) {
      const damaged = octets.slice();
      damaged[place] = (damaged[place] ?? 0) ^ 1 << random.below(8);
      const logged = node.log.length;
      const outcome = outcomeOf(await node.say(damaged));
      const what = `octet ${place} of ${octets.length}: ${JSON.stringify(outcome)}`;
      if (await sound(target, before, { head: heads[1], root }, outcome, what)) {
        harmless++;
        target = await make(`f${++serial}`);
        before = await rootOf(target.dir);
        octets.set(octetsOf([hello(target.name)]));
      } else {
        const said = outcome === null || outcome === "done"
          ? node.log.slice(logged).join("\n")
          : outcome.message;
        assert.match(said, /Cannot \w+/, `${what}: ${said}`);
      }
    }
    assert.ok(
      places.size > 300 && harmless < places.size / 20,
      `${harmless} of ${places.size} were harmless`,
    );
    assert.equal(await node.tell([hello(target.name), ...second]), "done");
    assert.equal(await rootOf(target.dir), root);
  },
);

withHonest(
  "a package cut off anywhere changes nothing, and goes on where it was",
  async ({ room, node, first, second, make, root }) => {
    let serial = 0;
    for (const [records, isNew] of [[first, true], [second, false]] as const) {
      const octets = octetsOf(records);
      const cuts: number[] = [];
      let at = 0;
      for (const { body } of records) {
        const size = 8 + Math.ceil(body.length / 8) * 8;
        cuts.push(at, at + 4, at + 8, at + (size >> 1), at + size - 1);
        at += size;
      }
      for (const cut of [...new Set(cuts)].filter((cut) => cut < octets.length)) {
        const target = isNew ? new Target(room, node, `c${serial++}`) : await make(`c${serial++}`);
        const { dir } = target;
        const before = isNew ? "" : await rootOf(dir);
        const outcome = outcomeOf(
          await node.say(concat([octetsOf([hello(target.name)]), octets.slice(0, cut)])),
        );
        assert.ok(outcome !== "done");
        if (isNew) assert.deepEqual([...Deno.readDirSync(dir)], [], `cut at ${cut}`);
        else assert.equal(await rootOf(dir), before, `cut at ${cut}`);
        assert.equal(await node.resume(target.name, records), "done", `after a cut at ${cut}`);
        if (!isNew) assert.equal(await rootOf(dir), root);
      }
    }
  },
);

withHonest("a replayed package is refused", async ({ node, first, second, make, root }) => {
  const target = await make("r");
  const conflict = (outcome: Outcome) => outcome === null || outcome === "done" ? `${outcome}` : outcome.code;
  assert.equal(conflict(await node.tell([hello("r"), ...first])), "diverged");
  assert.equal(conflict(await node.tell([hello("r"), ...second])), "done");
  assert.equal(conflict(await node.tell([hello("r"), ...second])), "wrong-base");
  assert.equal(conflict(await node.tell([hello("r"), ...first])), "diverged");
  assert.equal(await rootOf(target.dir), root);
  assert.equal(conflict(await node.tell([hello("new"), ...second])), "wrong-base");
  assert.equal(conflict(await node.tell([hello("new"), ...first])), "done");
});

withHonest(
  "a tree that is being pushed makes others wait, then refuses them as busy",
  async ({ room, node, second, make, root, heads }) => {
    const target = await make("b");
    const [near, far] = memoryChannelPair({ limits: recordLimits });
    node.take(far);
    await near.send(recordType.hello, hello("b").body);
    assert.equal((await near.receive())?.type, recordType.state);
    // The first pusher holds the tree; one that comes now waits its time and is refused.
    const waiting = node.tell([hello("b"), ...second]);
    assert.equal((await waiting as { code: string }).code, "busy");
    assert.equal(await rootOf(target.dir) === root, false);
    // One that comes later waits for the first one to end.
    const patient = node.tell([hello("b"), ...second]);
    for (const { type, body } of second) await near.send(type, body);
    assert.equal((await near.receive())?.type, recordType.ready);
    assert.equal((await near.receive())?.type, recordType.done);
    await near.end();
    assert.equal((await patient as { code: string }).code, "wrong-base");
    assert.equal(await rootOf(target.dir), root);
    assert.equal(await room.with("node/b", (tree) => Promise.resolve(tree.store.pointers.head)), heads[1]);
  },
  ["scan"],
); // it waits as long as a pusher does
