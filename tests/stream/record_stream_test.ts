/** Records of a web stream, and the vectors of the grammar, which run through it whole and octet by octet. */
import assert from "node:assert/strict";
import { FormatError } from "../../lib/base/errors.ts";
import { encodeHeader, encodeRecord, RecordStream, type StreamRecord } from "../../lib/stream/mod.ts";
import { loadVectors } from "../vectors.ts";

const header = { id: 0x58454e46, versionMin: 2, versionMax: 3 };
const limits = (type: number): number => type === 0x13 ? -1 : 4096;

function sourceOf(bytes: Uint8Array, chunkSize: number): ReadableStream<Uint8Array> {
  let at = 0;
  return new ReadableStream({
    pull(controller) {
      if (at >= bytes.length) return controller.close();
      controller.enqueue(bytes.subarray(at, at += chunkSize));
    },
  });
}

async function collect(stream: RecordStream): Promise<StreamRecord[]> {
  const records: StreamRecord[] = [];
  for await (const record of stream) records.push(record);
  return records;
}

for (const vector of loadVectors("stream", ["offset"])) {
  Deno.test(`RecordStream on vector ${vector.name}: ${vector.expect}`, async () => {
    for (const chunkSize of [1, 5, 24, vector.bytes.length + 1]) {
      const stream = new RecordStream(sourceOf(vector.bytes, chunkSize), {
        limits,
        header,
        afterEnd: "refuse",
      });
      if (vector.expect !== "ok") {
        await assert.rejects(collect(stream), (error) => {
          assert.ok(error instanceof FormatError);
          assert.equal(error.rule, vector.expect);
          assert.equal(String(error.offset), vector.fields.get("offset"));
          return true;
        });
        continue;
      }
      const records = await collect(stream);
      // What was little-endian comes out the same when it is written again.
      if (stream.header?.bigEndian === false) {
        const again = [
          encodeHeader(stream.header),
          ...records.flatMap(({ type, body }) => encodeRecord(type, body)),
          ...encodeRecord(0),
        ];
        assert.deepEqual(new Uint8Array(await new Blob(again as BlobPart[]).arrayBuffer()), vector.bytes);
      }
    }
  });
}

Deno.test("RecordStream leaves what follows END where the caller asks", async () => {
  const bytes = Uint8Array.from([...encodeRecord(0).flatMap((piece) => [...piece]), 1, 2, 3, 4, 5]);
  const source = sourceOf(bytes, 10);
  const stream = new RecordStream(source, { limits, afterEnd: "leave" });
  assert.deepEqual(await collect(stream), []);
  assert.deepEqual([...stream.rest], [1, 2]);
  const reader = source.getReader();
  assert.deepEqual([...(await reader.read()).value ?? []], [3, 4, 5]);
});

Deno.test("RecordStream cancels its source when the loop is left", async () => {
  let cancelled = false;
  const source = new ReadableStream<Uint8Array>({
    pull(controller) {
      for (const piece of encodeRecord(1)) controller.enqueue(piece);
    },
    cancel() {
      cancelled = true;
    },
  });
  for await (const _ of new RecordStream(source, { limits, afterEnd: "refuse" })) break;
  assert.equal(cancelled, true);
});

Deno.test("RecordStream is read once", async () => {
  const stream = new RecordStream(sourceOf(new Uint8Array(8), 8), { limits, afterEnd: "refuse" });
  await collect(stream);
  await assert.rejects(collect(stream), TypeError);
});
