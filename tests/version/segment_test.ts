/**
 * Goal: a segment rebuilds its pieces by itself, in any order, and nothing that is not a segment of this package
 * gets through. Method: random contents round trip; every truncation and every flipped byte of a body.
 */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { ByteWriter } from "../../lib/base/bytes.ts";
import { FormatError } from "../../lib/base/errors.ts";
import type { BytePath } from "../../lib/base/path.ts";
import { opCopy, opHole, OpList, opLiteral } from "../../lib/version/delta.ts";
import type { Upsert } from "../../lib/version/package.ts";
import { isIncompressible, makePart } from "../../lib/version/part.ts";
import { planSegments } from "../../lib/version/plan.ts";
import {
  checkSegmentDigest,
  decodeSegment,
  encodeSegmentBody,
  opsSizeMax,
  parseSegmentBody,
  type Piece,
  PieceLedger,
  prefixSizeMax,
  type RawSegment,
  segmentDigest,
  SegmentEncoder,
  type SegmentHandler,
} from "../../lib/version/segment.ts";
import { MemoryHandler, segmentOf } from "./packages.ts";
import { entry, Random } from "./trees.ts";

interface Case {
  upserts: Upsert[];
  before: Map<BytePath, Uint8Array>;
  after: Map<BytePath, Uint8Array>;
}

function upsertOf(path: string, content: Uint8Array, bases: string[] = []): Upsert {
  const digest = new Uint8Array(createHash("sha256").update(content).digest());
  return {
    entry: entry(path, "file", { size: content.length, digest }),
    bases: bases as BytePath[],
    sameContent: false,
  };
}

function randomCase(random: Random, count: number): Case {
  const before = new Map<BytePath, Uint8Array>();
  const after = new Map<BytePath, Uint8Array>();
  const upserts: Upsert[] = [];
  for (let index = 0; index < count; index++) {
    const path = `d${random.below(3)}/f${String(index).padStart(3, "0")}.${
      random.pick(["c", "png", "md"])
    }` as BytePath;
    const old = random.bytes(random.below(3000));
    const content = random.one(3) ? random.bytes(random.below(2000)) : old.slice(random.below(100));
    if (content.length > 10 && random.one(2)) content[5] = (content[5] ?? 0) ^ 1;
    const other = `${path}.old` as BytePath;
    before.set(path, old);
    before.set(other, random.one(2) ? content : random.bytes(100));
    after.set(path, content);
    const bases = random.pick<string[]>([[], [path], [path, other]]);
    upserts.push(upsertOf(path, content, bases));
  }
  upserts.sort((left, right) => left.entry.path < right.entry.path ? -1 : 1);
  return { upserts, before, after };
}

function bodyOf(segment: RawSegment): Uint8Array<ArrayBuffer> {
  return encodeSegmentBody(segment, {
    ops: makePart(segment.ops, null),
    literals: makePart(segment.literals, null),
  }).body;
}

function replay(
  body: Uint8Array<ArrayBuffer>,
  segmentCount: number,
  data: Case,
  handler: MemoryHandler,
): void {
  const parsed = parseSegmentBody(body, { segmentCount, upserts: data.upserts });
  const segment = checkSegmentDigest(parsed, { ops: parsed.ops.bytes, literals: parsed.literals.bytes });
  decodeSegment(segment, handler.baseSize, handler);
}

const ignore: SegmentHandler = { begin() {}, copy() {}, literal() {}, hole() {}, end() {} };

function refused(rule: RegExp, act: () => void): void {
  assert.throws(act, (error) => error instanceof FormatError && rule.test(error.rule));
}

Deno.test("decodeSegment() rebuilds contents from segments in any order", () => {
  const random = new Random(20);
  for (let round = 0; round < 30; round++) {
    const data = randomCase(random, 1 + random.below(30));
    const plan = planSegments(data.upserts, { costMax: 4000, pieceMax: 700 });
    const bodies = plan.map((pieces, index) => bodyOf(segmentOf(index, pieces, data.upserts, data)));
    const handler = new MemoryHandler(data.upserts, data.before);
    const ledger = new PieceLedger(data.upserts);
    const complete: number[] = [];
    for (const body of bodies.reverse()) {
      complete.push(
        ...ledger.add(parseSegmentBody(body, { segmentCount: plan.length, upserts: data.upserts }).pieces),
      );
      replay(body, plan.length, data, handler);
    }
    ledger.finish();
    const wanted = data.upserts.flatMap(({ entry }, index) => entry.size > 0 ? [index] : []);
    assert.deepEqual(complete.sort((left, right) => left - right), wanted);
    for (const index of wanted) {
      const path = data.upserts[index]?.entry.path ?? "" as BytePath;
      assert.deepEqual(handler.results.get(index), data.after.get(path));
    }
  }
});

Deno.test("parseSegmentBody() and decodeSegment() refuse every truncation and every flipped byte", () => {
  const random = new Random(21);
  const data = randomCase(random, 6);
  const [pieces = []] = planSegments(data.upserts);
  const segment = segmentOf(0, pieces, data.upserts, data);
  segment.prefix = [{ path: "d0/x" as BytePath, offset: 0, length: 10 }, {
    path: "d1/x" as BytePath,
    offset: 7,
    length: 1,
  }];
  const body = bodyOf(segment);
  const run = (bytes: Uint8Array<ArrayBuffer>) => () =>
    replay(bytes, 1, data, new MemoryHandler(data.upserts, data.before));
  run(body)();
  for (let size = 0; size < body.length; size++) {
    refused(/^package\.(segment|head)\./, run(body.slice(0, size)));
  }
  for (let at = 0; at < Math.min(body.length, 3000); at++) {
    const bad = body.slice();
    bad[at] = (bad[at] ?? 0) ^ (1 << random.below(8));
    refused(/^package\.(segment|head)\./, run(bad));
  }
  refused(/^package\.segment\.trailing$/, run(new Uint8Array([...body, 0])));
});

Deno.test("segmentDigest() does not depend on how parts are packed, and on all the rest", () => {
  const random = new Random(22);
  const data = randomCase(random, 4);
  const [pieces = []] = planSegments(data.upserts);
  const segment = segmentOf(3, pieces, data.upserts, data);
  const frame = new Uint8Array(1);
  const packed = encodeSegmentBody(segment, {
    ops: makePart(segment.ops, frame),
    literals: makePart(segment.literals, frame),
  });
  assert.deepEqual(packed.digest, segmentDigest(segment));
  const digest = createHash("sha256").update(segmentDigest(segment)).digest("hex");
  const others: RawSegment[] = [
    { ...segment, index: 4 },
    { ...segment, pieces: segment.pieces.slice(1) },
    { ...segment, prefix: [{ path: "a" as BytePath, offset: 0, length: 1 }] },
    { ...segment, ops: new Uint8Array([...segment.ops, 0]) },
    { ...segment, literals: segment.literals.slice(1) },
  ];
  for (const other of others) {
    assert.notEqual(createHash("sha256").update(segmentDigest(other)).digest("hex"), digest);
  }
});

Deno.test("makePart() stores what does not get below 97 %", () => {
  const raw = new Uint8Array(1000);
  assert.equal(makePart(raw, new Uint8Array(969)).codec, "zstd");
  assert.equal(makePart(raw, new Uint8Array(970)).codec, "stored");
  assert.equal(makePart(new Uint8Array(0), new Uint8Array(9)).codec, "stored");
  assert.ok(isIncompressible(65_536, 65_000) && !isIncompressible(65_536, 60_000));
});

/** Ops as bytes, for one piece of the given length of upsert 0, whose base 0 has 1000 bytes and base 2 has 50. */
function decodeOps(write: (ops: ByteWriter) => void, length = 2000, literals = 100): () => void {
  const ops = new ByteWriter();
  write(ops);
  const segment: RawSegment = {
    index: 0,
    pieces: [{ upsert: 0, offset: 0, length }],
    prefix: [],
    ops: ops.finish(),
    literals: new Uint8Array(literals),
  };
  return () => decodeSegment(segment, (_upsert, base) => base === 0 ? 1000 : base === 2 ? 50 : null, ignore);
}

const tag = (length: number, kind: number): number => length * 4 + kind;

Deno.test("decodeSegment() refuses ops that break a rule", () => {
  const rest = (ops: ByteWriter) => {
    ops.varint(tag(0, 3));
    ops.u8(0);
  };
  const cases: [string, (ops: ByteWriter) => void, number?][] = [
    ["truncated", () => {}],
    ["literals", (ops) => ops.varint(tag(0, 0))], // 2000 of 100
    ["literals", (ops) => rest(ops)], // 100 are left
    ["trailing", (ops) => {
      ops.varint(tag(100, 0));
      rest(ops);
      ops.u8(0);
    }],
    ["length", (ops) => ops.varint(tag(2000, 1))], // an op that reaches the end is written with 0
    ["length", (ops) => ops.varint(tag(2001, 0))],
    ["length", (ops) => ops.varint(tag(15, 1))],
    ["place", (ops) => ops.varint(tag(1001, 1))], // beyond the base
    ["place", (ops) => {
      ops.varint(tag(20, 2));
      ops.svarint(-1);
    }],
    ["place", (ops) => {
      ops.varint(tag(20, 2));
      ops.svarint(981);
    }],
    ["place", (ops) => {
      ops.varint(tag(20, 2));
      ops.svarint(0);
    }],
    ["kind", (ops) => {
      ops.varint(tag(600, 3));
      ops.u8(2);
    }],
    ["base", (ops) => {
      ops.varint(tag(20, 3));
      ops.u8(1);
      ops.varint(0);
      ops.varint(0);
    }],
    ["base", (ops) => {
      ops.varint(tag(20, 3));
      ops.u8(1);
      ops.varint(1); // not there
      ops.varint(0);
    }],
    ["base", (ops) => {
      ops.varint(tag(20, 3));
      ops.u8(1);
      ops.varint(4);
      ops.varint(0);
    }],
    ["place", (ops) => {
      ops.varint(tag(20, 3));
      ops.u8(1);
      ops.varint(2);
      ops.varint(31);
    }],
    ["length", (ops) => {
      ops.varint(tag(511, 3));
      ops.u8(0);
    }],
    ["order", (ops) => {
      ops.varint(tag(50, 0));
      ops.varint(tag(50, 0));
    }],
    ["order", (ops) => {
      ops.varint(tag(512, 3));
      ops.u8(0);
      rest(ops);
    }],
    ["varint", (ops) => ops.bytes(new Uint8Array([0x90, 0x00]))], // padded
    ["varint", (ops) => ops.bytes(new Uint8Array(9).fill(0xff))],
  ];
  decodeOps((ops) => {
    ops.varint(tag(100, 0));
    ops.varint(tag(900, 1));
    rest(ops);
  })();
  cases.forEach(([rule, write], at) => {
    assert.throws(
      decodeOps(write),
      (error) => error instanceof FormatError && error.rule === `package.ops.${rule}`,
      `case ${at}: ${rule}`,
    );
  });
});

Deno.test("SegmentEncoder.add() writes what decodeSegment() reads, for all kinds of ops", () => {
  const before = new Map([["b0" as BytePath, new Uint8Array(3000).fill(1)], [
    "b1" as BytePath,
    new Uint8Array(100).fill(2),
  ]]);
  const target = new Uint8Array(5000);
  target.fill(1, 0, 1000).fill(9, 1000, 1010).fill(1, 1010, 1040).fill(2, 2064, 2164).fill(1, 2164, 2200)
    .fill(7, 2200);
  const upserts = [upsertOf("x", target, ["b0", "b1"])];
  const ops = new OpList();
  ops.push(opCopy, 0, 0, 1000);
  ops.push(opLiteral, 0, 0, 10);
  ops.push(opCopy, 0, 5, 30);
  ops.push(opHole, 0, 0, 1024);
  ops.push(opCopy, 1, 0, 100);
  ops.push(opCopy, 0, 2900, 36);
  ops.push(opLiteral, 0, 0, 2800);
  const encoder = new SegmentEncoder();
  const piece: Piece = { upsert: 0, offset: 0, length: 5000 };
  encoder.add(piece, target, ops);
  assert.equal(encoder.size, 5000);
  const body = bodyOf(encoder.finish(0));
  assert.equal(encoder.size, 0);
  const data: Case = { upserts, before, after: new Map() };
  const handler = new MemoryHandler(upserts, before);
  replay(body, 1, data, handler);
  assert.deepEqual(handler.results.get(0), target);
  assert.throws(() => encoder.add(piece, target.subarray(1), null), RangeError);
  ops.clear();
  ops.push(opLiteral, 0, 0, 4999);
  assert.throws(() => encoder.add(piece, target, ops), RangeError);
});

Deno.test("parseSegmentBody() bounds sizes before anything is decompressed", () => {
  const upserts = [upsertOf("x", new Uint8Array(1000))];
  const raw = (ops: number, literals: number): Uint8Array<ArrayBuffer> =>
    encodeSegmentBody(
      {
        index: 0,
        pieces: [{ upsert: 0, offset: 0, length: 1000 }],
        prefix: [],
        ops: new Uint8Array(1),
        literals: new Uint8Array(0),
      },
      {
        ops: { codec: "zstd", rawSize: ops, bytes: new Uint8Array(1) },
        literals: { codec: "zstd", rawSize: literals, bytes: new Uint8Array(1) },
      },
    ).body;
  const limits = { segmentCount: 1, upserts };
  const opsMax = opsSizeMax([{ upsert: 0, offset: 0, length: 1000 }]);
  assert.equal(parseSegmentBody(raw(opsMax, 1000), limits).literals.rawSize, 1000);
  refused(/^package\.segment\.ops-size$/, () => parseSegmentBody(raw(opsMax + 1, 1000), limits));
  refused(/^package\.segment\.literals-size$/, () => parseSegmentBody(raw(10, 1001), limits));
  refused(/^package\.segment\.literals-size$/, () => parseSegmentBody(raw(10, 0xffff_ffff), limits)); // a bomb
  refused(/^package\.segment\.packed-size$/, () => parseSegmentBody(raw(1, 1000), limits));
  refused(/^package\.segment\.index$/, () => parseSegmentBody(raw(10, 10), { segmentCount: 0, upserts }));
});

Deno.test("parseSegmentBody() refuses pieces and prefixes out of bounds", () => {
  const upserts = [
    upsertOf("a", new Uint8Array(1000)),
    { ...upsertOf("b", new Uint8Array(1000), ["a"]), sameContent: true },
    upsertOf("c", new Uint8Array(0)),
  ];
  const parse = (pieces: Piece[], prefix: RawSegment["prefix"] = []) => () =>
    parseSegmentBody(
      bodyOf({ index: 0, pieces, prefix, ops: new Uint8Array(0), literals: new Uint8Array(0) }),
      { segmentCount: 1, upserts },
    );
  const whole = { upsert: 0, offset: 0, length: 1000 };
  const path = "p" as BytePath;
  parse([whole], [{ path, offset: 5, length: prefixSizeMax }])();
  refused(/head\.piece-count$/, parse([]));
  refused(/head\.upsert$/, parse([{ ...whole, upsert: 1 }]));
  refused(/head\.upsert$/, parse([{ ...whole, upsert: 2 }]));
  refused(/head\.upsert$/, parse([{ ...whole, upsert: 3 }]));
  refused(/head\.upsert$/, parse([{ ...whole, upsert: -1 }]));
  refused(/head\.piece$/, parse([{ ...whole, offset: 1 }]));
  refused(/head\.piece$/, parse([{ ...whole, length: 0 }]));
  refused(/head\.prefix$/, parse([whole], [{ path, offset: 0, length: 0 }]));
  refused(
    /head\.prefix$/,
    parse([whole], [{ path, offset: 0, length: prefixSizeMax }, { path, offset: 0, length: 1 }]),
  );
  for (const bad of ["../x", "/etc/passwd", "a//b", "a/.", "", "a\0"]) {
    refused(/head\.path$/, parse([whole], [{ path: bad as BytePath, offset: 0, length: 1 }]));
  }
});

Deno.test("PieceLedger refuses content that comes twice or not at all", () => {
  const upserts = [upsertOf("a", new Uint8Array(100)), upsertOf("b", new Uint8Array(50))];
  const piece = (upsert: number, offset: number, length: number): Piece => ({ upsert, offset, length });
  const ledger = new PieceLedger(upserts);
  assert.deepEqual(ledger.add([piece(0, 40, 20), piece(0, 0, 30)]), []);
  refused(/overlap$/, () => ledger.add([piece(0, 29, 5)]));
  refused(/overlap$/, () => ledger.add([piece(0, 35, 6)]));
  assert.deepEqual(ledger.add([piece(0, 30, 10)]), []);
  refused(/overlap$/, () => ledger.add([piece(0, 0, 100)]));
  refused(/missing$/, () => ledger.finish());
  assert.deepEqual(ledger.add([piece(1, 0, 50), piece(0, 60, 40)]), [1, 0]);
  refused(/overlap$/, () => ledger.add([piece(1, 0, 50)]));
  ledger.finish();
});
