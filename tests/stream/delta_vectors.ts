/** The vectors of page deltas, run by each implementation of them. */
import assert from "node:assert/strict";
import { toHex } from "../../lib/base/hex.ts";
import type { PageCodec } from "../../lib/stream/page_codec.ts";
import { loadVectors } from "../vectors.ts";
import { samePages } from "./pages.ts";

/** Every vector against one implementation; the pages before are all zeros. */
export function deltaVectors(name: string, codec: PageCodec): void {
  for (const vector of loadVectors("delta", ["format", "count", "offset", "canonical"])) {
    const format = vector.fields.get("format") === "remus" ? "remus" : "region";
    const count = Number(vector.fields.get("count"));
    Deno.test(`${name} decode() of ${vector.name} gives ${vector.expect}`, () => {
      const pages = new Uint8Array(count * 4096);
      if (vector.expect !== "ok") {
        assert.throws(() => codec.decode(format, vector.bytes, count, pages, 1000), {
          rule: vector.expect,
          offset: 1000 + Number(vector.fields.get("offset")),
          code: "format",
        });
        assert.ok(pages.every((octet) => octet === 0), "a refused batch has changed a page");
        return;
      }
      codec.decode(format, vector.bytes, count, pages);
      const into = new Uint8Array(count * 4105);
      const size = codec.encode(format, new Uint8Array(count * 4096), pages, count, into);
      const isSame = toHex(into.subarray(0, size)) === toHex(vector.bytes);
      assert.equal(isSame ? "yes" : "no", vector.fields.get("canonical"));
      const again = new Uint8Array(count * 4096);
      codec.decode(format, into.subarray(0, size), count, again);
      samePages(again, pages);
    });
  }
}
