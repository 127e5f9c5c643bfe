/**
 * Goal: whatever a peer sends, in whatever pieces, it is answered as the protocol says or refused with the rule and
 * the offset that NBD.md names, in bounded memory. Method: every file of tests/vectors/nbd is one peer's side of a
 * connection; answers are read by a decoder of this file.
 */
import assert from "node:assert/strict";
import { DroverError, FormatError } from "../../lib/base/errors.ts";
import { fromHex, toHex } from "../../lib/base/hex.ts";
import { NbdClient, type NbdExports, serveNbd } from "../../lib/nbd/mod.ts";
import { prng } from "../stream/prng.ts";
import { loadVectors, type Vector } from "../vectors.ts";
import { pipe } from "./pipe.ts";

const vectors = loadVectors("nbd", ["side", "answers", "replies", "data", "offset", "handshake"]);

/** One memory for the default export and "disk", another that is read-only. */
function twoExports(): NbdExports {
  const backend = (): {
    size: number;
    readAt: (o: number, i: Uint8Array) => void;
    writeAt: (o: number, b: Uint8Array) => void;
  } => {
    const bytes = new Uint8Array(2 ** 20);
    return {
      size: bytes.length,
      readAt: (offset, into) => into.set(bytes.subarray(offset, offset + into.length)),
      writeAt: (offset, from) => bytes.set(from, offset),
    };
  };
  const disk = { name: "disk", description: "for the vectors", backend: backend() };
  const readOnly = { name: "ro", backend: backend(), readOnly: true };
  return {
    list: () => [disk, readOnly],
    find: (name) => name === "" || name === "disk" ? disk : name === "ro" ? readOnly : null,
  };
}

/** How a connection delivers: whole, octet by octet, or in pieces from a seed. */
const deliveries: readonly [string, () => (most: number) => number][] = [
  ["whole", () => (most) => most],
  ["octet by octet", () => () => 1],
  ["in pieces", () => {
    const random = prng(11);
    return (most) => 1 + random(most);
  }],
];

async function outcome(work: Promise<unknown>): Promise<{ rule: string; offset: number | null }> {
  try {
    await work;
    return { rule: "ok", offset: null };
  } catch (error) {
    if (error instanceof FormatError) return { rule: error.rule, offset: error.offset };
    if (error instanceof DroverError) return { rule: error.code, offset: null };
    throw error;
  }
}

function check(vector: Vector, found: { rule: string; offset: number | null }): void {
  assert.equal(found.rule, vector.expect);
  const offset = vector.fields.get("offset");
  assert.equal(found.offset === null ? undefined : String(found.offset), offset, "offset");
}

async function runServer(vector: Vector, sizes: (most: number) => number): Promise<void> {
  const [client, server] = pipe(sizes);
  server.deliver(vector.bytes);
  server.end();
  check(vector, await outcome(serveNbd(server, { exports: twoExports() })));
  assert.ok(server.largestRead <= 256 * 1024, `${server.largestRead} octets were set aside`);
  const sent = client.arrived();
  // A client that has left need not get all of the greeting.
  const greeting = "4e42444d4147494349484156454f50540003";
  assert.ok(greeting.startsWith(toHex(sent.subarray(0, 18))));
  let at = 18;
  const answers = vector.fields.get("answers");
  const replies = vector.fields.get("replies");
  if (answers?.startsWith("raw")) at += Number(answers.slice(3));
  else if (answers !== undefined || replies !== undefined) {
    const found: string[] = [];
    const isOption = (): boolean => toHex(sent.subarray(at, at + 8)) === "0003e889045565a9";
    while (at < sent.length && isOption()) {
      const fields = new DataView(sent.buffer, at, 20);
      const type = fields.getUint32(12);
      found.push(`${fields.getUint32(8)}:${type > 2 ** 31 ? `err${type - 2 ** 31}` : type}`);
      at += 20 + fields.getUint32(16);
    }
    if (answers !== undefined) assert.equal(found.join(" ") || "-", answers);
  }
  for (const reply of replies?.split(" ") ?? []) {
    const [error = "", data] = reply.split(":");
    const fields = new DataView(sent.buffer, at, 16);
    assert.equal(fields.getUint32(0), 0x67446698);
    assert.equal(fields.getUint32(4), Number(error));
    assert.equal(toHex(sent.subarray(at + 8, at + 16)), "1122334455667788");
    at += 16;
    if (data === undefined) continue;
    assert.equal(toHex(sent.subarray(at, at + data.length / 2)), data);
    at += data.length / 2;
  }
  if (vector.expect === "ok" && sent.length >= 18) {
    assert.equal(at, sent.length, "octets that nobody asked for");
  }
}

async function runClient(vector: Vector, sizes: (most: number) => number): Promise<void> {
  const [client, server] = pipe(sizes);
  // What follows the handshake comes when it was asked for.
  const handshake = Number(vector.fields.get("handshake") ?? vector.bytes.length);
  client.deliver(vector.bytes.slice(0, handshake));
  if (handshake === vector.bytes.length && !vector.fields.has("handshake")) client.end();
  const into = new Uint8Array(8).fill(0xee);
  let connection: NbdClient | null = null;
  const work = async (): Promise<void> => {
    connection = await NbdClient.connect(client);
    const reading = connection.readAt(100, into);
    client.deliver(vector.bytes.slice(handshake));
    if (!vector.fields.has("data")) client.end();
    await reading;
    // What comes behind the answer is found by the next one.
    if (vector.expect !== "ok" && vector.fields.has("data")) await connection.readAt(100, new Uint8Array(8));
    client.end();
  };
  check(vector, await outcome(work()));
  const data = vector.fields.get("data");
  if (data !== undefined) assert.deepEqual(into, fromHex(data));
  assert.ok(client.largestRead <= 256 * 1024);
  const later = connection as NbdClient | null;
  if (later !== null && vector.expect.startsWith("nbd.")) {
    await assert.rejects(later.readAt(0, new Uint8Array(1)), FormatError);
    await later.close();
  } else {
    await later?.close();
  }
  void server;
}

for (const vector of vectors) {
  const side = vector.fields.get("side");
  for (const [how, sizes] of deliveries) {
    const slow = vector.bytes.length > 20_000 && how !== "whole";
    if (slow && how === "octet by octet") continue;
    Deno.test(`vector ${vector.name}, delivered ${how}: ${vector.expect}`, async () => {
      if (side === "server") await runServer(vector, sizes());
      else if (side === "client") await runClient(vector, sizes());
      else assert.fail(`side is "${side}"`);
    });
  }
}

Deno.test("every rule of NBD.md has a vector, or is named here with its reason", async () => {
  const text = await Deno.readTextFile(new URL("../../lib/nbd/NBD.md", import.meta.url));
  const rules = new Set([...text.matchAll(/^\| `(nbd\.[a-z.]+)`/gm)].map(([, rule]) => rule));
  assert.ok(rules.size > 20);
  const tested = new Set(vectors.map(({ expect }) => expect));
  tested.add("nbd.reply.chunks"); // 65537 chunks are made by client_test.ts
  // Both need a side that has TLS: tests/region/nbd_tls_test.ts.
  tested.add("nbd.option.tls");
  tested.add("nbd.tls.plain");
  assert.deepEqual([...rules].filter((rule) => !tested.has(rule ?? "")), []);
  for (const rule of tested) {
    if (rule.startsWith("nbd.")) assert.ok(rules.has(rule), `${rule} is not in NBD.md`);
  }
});
