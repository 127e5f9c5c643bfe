/**
 * Goal: a receiver holds to PROTOCOL.md whatever the sender does. Method: a sender that is played by hand, record by record, over
 * a connection in memory, against the real receiver and a real tree.
 */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { DroverError } from "../../lib/base/errors.ts";
import { type BytePath, pathFromText, rootPath } from "../../lib/base/path.ts";
import { type Channel, memoryChannelPair } from "../../lib/net/mod.ts";
import { findTree, openTree, recordLimits, type Tree } from "../../lib/tree/mod.ts";
import { createEmptyTree } from "../../lib/tree/init.ts";
import {
  decodeState,
  encodeMessage,
  errorMessage,
  recordLimits as limits,
  recordType,
  remoteError,
} from "../../lib/tree/protocol.ts";
import { receiveFrom, sideState } from "../../lib/tree/push.ts";
import type { Entry } from "../../lib/version/entry.ts";
import { versionId } from "../../lib/version/history.ts";
import { Manifest } from "../../lib/version/manifest.ts";
import {
  encodeMetadata,
  encodeMetadataBody,
  encodeTrailerBody,
  metadataDigest,
  packageDigest,
  type PackageMetadata,
} from "../../lib/version/package.ts";
import { makePart } from "../../lib/version/part.ts";
import { encodeSegmentBody, type Piece, segmentDigest, SegmentEncoder } from "../../lib/version/segment.ts";
import { metadataOf } from "../version/packages.ts";
import { allowAll, native, Scratch, setups } from "./scratch.ts";

const text = new TextEncoder();
const path = pathFromText;

function entryOf(name: string, content: Uint8Array<ArrayBuffer> | null): Entry {
  return {
    path: path(name),
    kind: content === null ? "directory" : "file",
    mode: content === null ? 0o755 : 0o644,
    uid: Deno.uid() ?? 0,
    gid: Deno.gid() ?? 0,
    mtimeSeconds: 1_500_000_000,
    mtimeNanos: 7,
    size: content?.length ?? 0,
    digest: content === null ? null : new Uint8Array(createHash("sha256").update(content).digest()),
    target: rootPath,
    rdevMajor: 0,
    rdevMinor: 0,
    xattrs: [],
  };
}

/** What a hand-made sender sends: pieces of content, each in a segment of its own. */
interface Play {
  metadata: PackageMetadata;
  base: Manifest;
  after: Manifest;
  pieces: { piece: Piece; bytes: Uint8Array<ArrayBuffer> }[];
  force?: boolean;
}

/** Sends a package as the protocol has it. Returns the segments that the receiver said it has. */
async function play(
  channel: Channel,
  { metadata, base, after, pieces, force = false }: Play,
): Promise<number[]> {
  const chunks = encodeMetadata({ ...metadata, segmentCount: pieces.length }, base);
  await channel.send(recordType.offer, encodeMessage({ chunks: chunks.length, force }));
  const chunkDigests = chunks.map(metadataDigest);
  for (const [at, { columns, digests }] of chunks.entries()) {
    const digest = chunkDigests[at] ?? new Uint8Array();
    await channel.send(
      recordType.metadata,
      encodeMetadataBody({ columns: makePart(columns, null), digests, digest }),
    );
  }
  const ready = await channel.receive();
  if (ready?.type !== recordType.ready) {
    throw new Error(`not READY but ${new TextDecoder().decode(ready?.body)}`);
  }
  const { have } = JSON.parse(new TextDecoder().decode(ready.body)) as { have: { index: number }[] };
  const digests: Uint8Array[] = [];
  for (const [index, { piece, bytes }] of pieces.entries()) {
    const encoder = new SegmentEncoder();
    encoder.add(piece, bytes, null);
    const segment = encoder.finish(index, []);
    digests.push(segmentDigest(segment));
    if (have.some((known) => known.index === index)) continue;
    const parts = { ops: makePart(segment.ops, null), literals: makePart(segment.literals, null) };
    await channel.send(recordType.segment, encodeSegmentBody(segment, parts).body);
  }
  const digest = packageDigest(chunkDigests, digests);
  await channel.send(
    recordType.trailer,
    encodeTrailerBody({ segmentCount: pieces.length, root: after.root(), to: metadata.to, digest }),
  );
  return have.map(({ index }) => index);
}

/** Runs sender and receiver against each other; what the receiver throws, this throws. */
async function receive(
  tree: Tree,
  send: (channel: Channel) => Promise<unknown>,
  force = false,
): Promise<void> {
  const [near, far] = memoryChannelPair({ limits: recordLimits });
  const sending = send(near).catch((error: unknown) => error);
  try {
    await receiveFrom(far, tree, allowAll, force);
  } finally {
    far.close();
    near.close();
    await sending;
  }
}

async function withTree(
  scratch: Scratch,
  setup: (typeof setups)[number],
  work: (tree: Tree) => Promise<void>,
): Promise<void> {
  const dir: BytePath = scratch.bytes("tree");
  const exists = findTree(scratch.context, dir) !== null;
  await using tree = exists ? await openTree(scratch.context, dir) : createEmptyTree(
    scratch.context,
    dir,
    setup === "scan" ? { capture: "scan" } : { capture: "overlay", profile: setup },
  );
  await work(tree);
}

const content = text.encode("the content of a small file, of which two pieces are sent\n");

function firstPackage(): Play {
  const after = Manifest.build([entryOf("", null), entryOf("a", content)]);
  const metadata = metadataOf(Manifest.empty, after);
  const upsert = metadata.upserts.findIndex(({ entry }) => entry.path === "a");
  const half = content.length >> 1;
  return {
    metadata,
    base: Manifest.empty,
    after,
    pieces: [
      { piece: { upsert, offset: 0, length: half }, bytes: content.slice(0, half) },
      { piece: { upsert, offset: half, length: content.length - half }, bytes: content.slice(half) },
    ],
  };
}

for (const setup of setups) {
  Deno.test(`receivePackage() hashes a small file that came in pieces, into a ${setup} tree`, async () => {
    await using scratch = new Scratch();
    const wrong = firstPackage();
    wrong.pieces[1]?.bytes.fill(0x58);
    await withTree(scratch, setup, async (tree) => {
      await assert.rejects(receive(tree, (channel) => play(channel, wrong)), { code: "corrupt" });
      assert.equal(tree.store.pointers.head, null);
      assert.equal(tree.store.note("staging"), null, "what is wrong in itself is not taken up again");
    });
    await withTree(scratch, setup, async (tree) => {
      await receive(tree, (channel) => play(channel, firstPackage()));
      assert.equal(tree.store.pointers.head, wrong.metadata.to);
    });
    assert.deepEqual(Deno.readFileSync(scratch.path("tree/a")), content);
  });
}

Deno.test("receivePackage() takes a package up at the segment where the connection broke", async () => {
  for (const setup of setups) {
    await using scratch = new Scratch();
    await withTree(scratch, setup, async (tree) => {
      await assert.rejects(
        receive(tree, async (channel) => {
          const short = firstPackage();
          // The second segment never comes: its bytes are one short, so the hand-made sender fails there.
          await play(channel, {
            ...short,
            pieces: short.pieces.map((piece, at) => at === 0 ? piece : { ...piece, bytes: content }),
          })
            .catch(() => {});
          while (tree.store.note("staging") === null || !segmentsNoted(scratch)) {
            await new Promise((resolve) => setTimeout(resolve, 5));
          }
          channel.close();
        }),
        { code: "disconnected" },
      );
    });
    let have: number[] = [];
    await withTree(scratch, setup, async (tree) => {
      await receive(tree, async (channel) => {
        have = await play(channel, firstPackage());
      });
    });
    assert.deepEqual(have, [0]);
    assert.deepEqual(Deno.readFileSync(scratch.path("tree/a")), content);
  }
});

function segmentsNoted(scratch: Scratch): boolean {
  const staging = scratch.path(".tree.drover/staging");
  return [...Deno.readDirSync(staging)].some(({ name }) => {
    try {
      return Deno.readTextFileSync(`${staging}/${name}/segments`).endsWith("\n");
    } catch {
      return false;
    }
  });
}

Deno.test("receiveFrom() refuses an OFFER that makes the history give way when the conversation did not begin so", async () => {
  await using scratch = new Scratch();
  const tree = scratch.mkdir("tree");
  Deno.writeTextFileSync(`${tree}/mine`, "mine");
  await scratch.init("tree", "scan");
  const head = await scratch.commit("tree");
  await withTree(scratch, "scan", async (open) => {
    await assert.rejects(receive(open, (channel) => play(channel, { ...firstPackage(), force: true })), {
      code: "protocol",
    });
    assert.equal(open.store.pointers.head, head);
    await assert.rejects(receive(open, (channel) => play(channel, firstPackage()), true), {
      code: "diverged",
    });
    await receive(open, (channel) => play(channel, { ...firstPackage(), force: true }), true);
    assert.ok(open.log().some(({ id, stored }) => id === head && stored), "the other history is kept");
  });
  assert.deepEqual([...Deno.readDirSync(tree)].map(({ name }) => name), ["a"]);
});

Deno.test("receiveFrom() answers MANIFEST_REQUEST for its head only", async () => {
  await using scratch = new Scratch();
  const dir = scratch.mkdir("tree");
  Deno.writeTextFileSync(`${dir}/a`, "a");
  await scratch.init("tree", "scan");
  await withTree(scratch, "scan", async (tree) => {
    const head = tree.store.pointers.head ?? "";
    let size = 0;
    await receive(tree, async (channel) => {
      await channel.send(recordType.manifestRequest, text.encode(head));
      const manifest = await channel.receive();
      assert.equal(manifest?.type, recordType.manifest);
      size = manifest?.body.length ?? 0;
      await channel.send(recordType.nothing, encodeMessage({ reason: "enough" }));
    });
    assert.ok(size > 8);
    const other = versionId(head, head);
    await assert.rejects(
      receive(tree, (channel) => channel.send(recordType.manifestRequest, text.encode(other))),
      {
        code: "protocol",
      },
    );
  });
});

Deno.test("receiveFrom() refuses records that are out of turn, and packages for another base", async () => {
  await using scratch = new Scratch();
  const dir = scratch.mkdir("tree");
  Deno.writeTextFileSync(`${dir}/a`, "a");
  await scratch.init("tree", "scan");
  await withTree(scratch, "scan", async (tree) => {
    const head = tree.store.pointers.head;
    for (
      const type of [
        recordType.segment,
        recordType.trailer,
        recordType.ready,
        recordType.state,
        recordType.done,
      ]
    ) {
      await assert.rejects(
        receive(tree, (channel) => channel.send(type, text.encode("{}"))),
        (error) => error instanceof DroverError && ["protocol", "format"].includes(error.code),
      );
    }
    // From a version that is not the head.
    const base = Manifest.build([entryOf("", null), entryOf("b", content)]);
    const after = Manifest.build([entryOf("", null)]);
    const play1 = { metadata: metadataOf(base, after), base, after, pieces: [] };
    await assert.rejects(receive(tree, (channel) => play(channel, play1)), { code: "wrong-base" });
    assert.equal(tree.store.pointers.head, head);
  });
});

Deno.test("receivePackage() passes on why the sender gave up, at any point of the package", async () => {
  await using scratch = new Scratch();
  const message = encodeMessage({ code: "busy", message: 'Cannot read "x": it changes' });
  await withTree(scratch, "scan", async (tree) => {
    for (const after of [recordType.offer, recordType.metadata, recordType.segment]) {
      await assert.rejects(
        receive(tree, async (channel) => {
          const cut: Channel = Object.create(channel, {
            send: {
              value: async (type: number, ...parts: Uint8Array[]) => {
                await channel.send(type, ...parts);
                if (type !== after) return;
                await channel.send(recordType.error, message);
                throw new Error("enough");
              },
            },
            receive: { value: () => channel.receive() },
          });
          await play(cut, firstPackage());
        }),
        (error) =>
          error instanceof DroverError && error.code === "busy" && error.message.includes("it changes"),
        `after ${after}`,
      );
    }
  });
});

Deno.test("errorMessage() and sideState() stay within what the other side takes, however long paths are", async () => {
  const long = "\\xff".repeat(32_768);
  const details = { uncommitted: Array.from({ length: 200 }, () => ({ path: long })) };
  const error = new DroverError("uncommitted", `Cannot do it: ${long}`, { hint: long, details });
  const body = encodeMessage(errorMessage(error));
  assert.ok(body.length <= limits(recordType.error));
  const remote = remoteError(body, "peer");
  assert.equal(remote.code, "uncommitted");
  assert.ok(remote.message.startsWith("peer refused: Cannot do it: "));

  await using scratch = new Scratch();
  const dir = scratch.mkdir("tree");
  await scratch.init("tree", "scan");
  // As deep as names below descriptors can be made without one path being too long for the kernel.
  const { libc } = native;
  const name = "\xff".repeat(255) as BytePath;
  let fd = libc.open(-100, path(dir), 0);
  for (let depth = 0; depth < 100; depth++) {
    libc.mkdir(fd, name, 0o700);
    const next = libc.open(fd, name, 0);
    libc.close(fd);
    fd = next;
  }
  libc.close(fd);
  await withTree(scratch, "scan", async (tree) => {
    const state = decodeState(encodeMessage(await sideState(tree, false, true)));
    assert.equal(state.uncommitted, 101);
  });
});
