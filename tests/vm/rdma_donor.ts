/**
 * A Deno process that lends memory of its own by RDMA, for tests/vm: `rdma_donor.ts ADDRESS PORT TICKET SIZE`.
 *
 * Says "lending PORT"; answers "find TEXT" with how often the text is in the memory, and "quit".
 */
import { openNative } from "../../ffi/mod.ts";
import { rdmaLender } from "../../lib/daemon/rdma_lender.ts";

const [hostname = "", port = "", ticket = "", size = ""] = Deno.args;
await using lender = rdmaLender(openNative().openDonor({ hostname, port: Number(port) }), {
  failed: (error) => console.log("failed", error),
});
const memory = new Uint8Array(Number(size));
lender.lend(ticket, memory);
console.log(`lending ${lender.port}`);

function occurrences(text: string): number {
  const sought = new TextEncoder().encode(text);
  let found = 0;
  for (let at = memory.indexOf(sought[0] ?? 0); at >= 0; at = memory.indexOf(sought[0] ?? 0, at + 1)) {
    if (sought.every((byte, index) => memory[at + index] === byte)) found++;
  }
  return found;
}

for await (const chunk of Deno.stdin.readable.pipeThrough(new TextDecoderStream())) {
  const [word, text = ""] = chunk.trim().split(" ");
  if (word === "quit") break;
  console.log(`found ${occurrences(text)}`);
}
await lender.recall(ticket);
console.log("bye");
Deno.exit(0);
