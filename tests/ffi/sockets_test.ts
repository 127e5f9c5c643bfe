/** The two socket calls, seen from the other end of the connection. */
import assert from "node:assert/strict";
import { openSockets, type SocketAddress } from "../../ffi/sockets.ts";

const sockets = openSockets();

function addressOf(address: Deno.Addr): SocketAddress {
  const { hostname, port } = address as Deno.NetAddr;
  return { host: hostname, port };
}

for (const host of ["127.0.0.1", "::1", "::"]) {
  Deno.test(`abort() ends exactly the connection it is told, listening on ${host}`, async (test) => {
    let listener: Deno.TcpListener;
    try {
      listener = Deno.listen({ hostname: host, port: 0 });
    } catch (error) {
      console.log(`skipped ${test.name}: ${error}`);
      return;
    }
    const { port } = listener.addr as Deno.NetAddr;
    const hostname = host === "::" ? "127.0.0.1" : host;
    const clients = [await Deno.connect({ hostname, port }), await Deno.connect({ hostname, port })];
    const servers = [await listener.accept(), await listener.accept()];
    const [first, second] = servers;
    assert.ok(first !== undefined && second !== undefined);
    assert.equal(sockets.abort(addressOf(first.localAddr), addressOf(first.remoteAddr)), true);
    const ended = clients.find(({ localAddr }) => localAddr.port === (first.remoteAddr as Deno.NetAddr).port);
    assert.equal(await ended?.read(new Uint8Array(1)), null);
    assert.equal(await first.read(new Uint8Array(1)), null);
    await second.write(Uint8Array.of(7));
    const other = clients.find((client) => client !== ended);
    assert.equal(await other?.read(new Uint8Array(1)), 1);
    for (const connection of [...clients, ...servers]) connection.close();
    listener.close();
  });
}

Deno.test("abort() says when there is no such connection", () => {
  assert.equal(sockets.abort({ host: "127.0.0.1", port: 1 }, { host: "127.0.0.1", port: 2 }), false);
});

Deno.test("tuneListener() finds listening sockets only", () => {
  for (const hostname of ["127.0.0.1", "::1", "::", "0.0.0.0"]) {
    let listener: Deno.TcpListener;
    try {
      listener = Deno.listen({ hostname, port: 0 });
    } catch {
      continue; // no IPv6 here
    }
    const local = addressOf(listener.addr);
    assert.equal(sockets.tuneListener(local), true, hostname);
    listener.close();
    assert.equal(sockets.tuneListener(local), false, hostname);
  }
});
