/**
 * A Deno process whose region has its cold pages at a donor, for tests/vm: `rdma_borrower.ts ADDRESS PORT TICKET LENT SIZE LIMIT SEALED TEXT`.
 *
 * Writes the text and its own number into every page, reads all of them, and says "ok" or the first page that is not so.
 */
import { Region } from "../../lib/region/mod.ts";

const [hostname = "", port = "", ticket = "", lent = "", size = "", limit = "", sealed = "", text = ""] =
  Deno.args;
using region = Region.open({
  size: Number(size),
  limit: Number(limit),
  remote: {
    donors: [{
      hostname,
      port: Number(port),
      ticket,
      transport: "rdma",
      size: Number(lent),
      sealed: sealed === "1",
    }],
    copies: 1,
  },
  policy: false,
});
const mark = new TextEncoder().encode(text);
const words = new DataView(region.bytes.buffer, region.bytes.byteOffset, region.bytes.byteLength);
for (let at = 0; at < region.bytes.length; at += 4096) {
  region.bytes.set(mark, at + 8);
  words.setUint32(at, at, true);
}
let wrong = 0;
for (let at = 0; at < region.bytes.length; at += 4096) {
  const here = words.getUint32(at, true) === at &&
    mark.every((byte, index) => words.getUint8(at + 8 + index) === byte);
  if (!here) wrong++;
}
console.log(wrong === 0 ? "ok" : `${wrong} pages are wrong`);
