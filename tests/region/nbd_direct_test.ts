/** Connections that are read and written around Deno's event loop: what arrives, how they end, and what stays open. */
import assert from "node:assert/strict";
import { DirectSocket } from "../../ffi/socket_direct.ts";
import { NbdClient } from "../../lib/nbd/mod.ts";
import { MemoryBackend } from "../../lib/region/backend_memory.ts";
import { DirectTransport } from "../../lib/region/nbd_direct.ts";
import { NbdListener } from "../../lib/region/nbd_listen.ts";
import { assertSameBytes } from "../same_bytes.ts";

/** Descriptors of this process. */
function descriptors(): number {
  return [...Deno.readDirSync("/proc/self/fd")].length;
}

/** Both ends of a TCP connection. */
async function connected(hostname: string): Promise<{ near: Deno.TcpConn; far: Deno.TcpConn }> {
  using listener = Deno.listen({ hostname, port: 0 });
  const connecting = Deno.connect({ hostname, port: listener.addr.port });
  const far = await listener.accept();
  return { near: await connecting, far };
}

for (const hostname of ["127.0.0.1", "::1"]) {
  Deno.test(`DirectSocket.open() is the same connection, on ${hostname}`, async () => {
    const { near, far } = await connected(hostname);
    const socket = DirectSocket.open(far);
    assert.ok(socket !== null);
    const buffer = new Uint8Array(8);
    assert.equal(socket.read(buffer), -1);
    await near.write(Uint8Array.of(1, 2, 3));
    assert.equal(await far.read(buffer.subarray(0, 1)), 1);
    assert.equal(socket.read(buffer.subarray(1)), 2);
    assert.deepEqual([...buffer.subarray(0, 3)], [1, 2, 3]);
    // Deno still hears of what comes after we have taken something.
    const waiting = far.read(buffer);
    await near.write(Uint8Array.of(4));
    assert.equal(await waiting, 1);
    assert.equal(socket.write(Uint8Array.of(5, 6), true), 2);
    assert.equal(socket.write(Uint8Array.of(7), false), 1);
    let got = 0;
    while (got < 3) got += await near.read(buffer.subarray(got)) ?? 9;
    assert.deepEqual([...buffer.subarray(0, 3)], [5, 6, 7]);
    // A full connection takes nothing more, and says so without waiting.
    const much = new Uint8Array(2 ** 20);
    let taken = 0;
    for (let count = socket.write(much, false); count > 0; count = socket.write(much, false)) taken += count;
    assert.ok(taken > 0);
    socket.close();
    assert.equal(socket.read(buffer), -1);
    assert.equal(socket.write(buffer, false), -1);
    far.close();
    near.close();
  });
}

Deno.test("DirectTransport.close() ends the connection for both sides and leaves no descriptor open", async () => {
  const turn = { last: null, streak: 0 };
  const { near: first, far: second } = await connected("127.0.0.1");
  DirectTransport.of(second, turn).close();
  first.close();
  const before = descriptors();
  for (let round = 0; round < 20; round++) {
    const { near, far } = await connected("127.0.0.1");
    const transport = DirectTransport.of(far, turn);
    assert.ok(transport instanceof DirectTransport);
    const waiting = transport.read(new Uint8Array(1)).then(() => "end", () => "error");
    transport.close();
    assert.equal(await near.read(new Uint8Array(1)), null);
    near.close();
    await waiting;
    assert.throws(() => far.close(), Deno.errors.BadResource);
    assert.equal(transport.readNow(new Uint8Array(1)), 0);
  }
  assert.ok(descriptors() <= before, `${descriptors()} descriptors, ${before} before`);
});

Deno.test("NbdListener serves one client after the other and several at once, and endConnections() ends each", async () => {
  const size = 8 * 2 ** 20;
  await using backend = new MemoryBackend(size);
  await using listener = await NbdListener.open({
    place: { hostname: "127.0.0.1", port: 0 },
    offers: [{ name: "a", backend }],
  });
  assert.ok("port" in listener.place);
  const { port } = listener.place;
  const connect = async (): Promise<NbdClient> =>
    await NbdClient.connect(await Deno.connect({ hostname: "127.0.0.1", port }), { name: "a" });
  const work = async (client: NbdClient, first: number): Promise<void> => {
    for (let round = 0; round < 300; round++) {
      const length = round % 50 === 0 ? 600_000 : 4096;
      const data = new Uint8Array(length).fill(first + round);
      await client.writeAt(first * 2 ** 20, data);
      const found = new Uint8Array(length);
      await client.readAt(first * 2 ** 20, found);
      assertSameBytes(found, data);
    }
  };
  const alone = await connect();
  await work(alone, 0);
  await alone.close();
  const clients = await Promise.all([connect(), connect(), connect()]);
  await Promise.all(clients.map((client, at) => work(client, 1 + at)));
  await listener.endConnections("a");
  for (const client of clients) await assert.rejects(client.readAt(0, new Uint8Array(1)));
  assert.deepEqual(listener.connectionsOf("a"), []);
});
