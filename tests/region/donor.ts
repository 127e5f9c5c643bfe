/**
 * A donor that remote_test.ts starts because it gets killed: `donor.ts PORT TICKET BYTES` lends memory until its end, and says
 * on stdout where it listens.
 */
import { MemoryBackend } from "../../lib/region/backend_memory.ts";
import { NbdListener } from "../../lib/region/nbd_listen.ts";

const [port = "0", name = "", size = "0"] = Deno.args;
const listener = await NbdListener.open({
  place: { hostname: "127.0.0.1", port: Number(port) },
  offers: [{ name, backend: new MemoryBackend(Number(size)) }],
});
const { place } = listener;
console.log("port" in place ? place.port : 0);
await new Promise(() => setInterval(() => {}, 2 ** 30));
