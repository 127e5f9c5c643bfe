import assert from "node:assert/strict";
import { type Link, loopback, shaped } from "../../bench/link.ts";
import { Background, freePort, outputOf } from "../../bench/process.ts";
import { Scratch } from "../../bench/scratch.ts";

const sink = `
import socket, sys
with socket.create_server((sys.argv[1], int(sys.argv[2]))) as server:
    while True:
        peer, _ = server.accept()
        count = 0
        while data := peer.recv(65536): count += len(data)
        peer.sendall(str(count).encode())
        peer.close()
`;
const source = `
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as peer:
    peer.sendall(bytes(300000))
    peer.shutdown(socket.SHUT_WR)
    print(peer.recv(100).decode())
`;

async function passes(link: Link): Promise<void> {
  using scratch = new Scratch();
  try {
    const port = freePort();
    const server = new Background(
      [...link.target, "python3", "-c", sink, link.host, String(port)],
      scratch.at("log"),
    );
    try {
      await server.listening(link.host, port, link.source);
      const { host, port: near } = await link.address(port);
      // Not outputOf(): the relay runs in this process and must not be blocked.
      const [program = "", ...args] = [...link.source, "python3", "-c", source, host, String(near)];
      const done = await new Deno.Command(program, { args }).output();
      assert.equal(new TextDecoder().decode(done.stdout).trim(), "300000");
      const wire = link.wireBytes();
      assert.ok(wire === null || wire >= 300_000, `${wire} bytes on the wire`);
      link.shape(false);
      link.shape(false);
      link.shape(true);
    } finally {
      await server.stop();
    }
  } finally {
    link.close();
  }
}

const python = ((): boolean => {
  try {
    return outputOf(["python3", "-c", "print(1)"]).trim() === "1";
  } catch {
    return false;
  }
})();

Deno.test({ name: "loopback() carries bytes both ways", ignore: !python, fn: () => passes(loopback()) });

Deno.test({
  name: "shaped() carries bytes both ways and counts them",
  ignore: !python,
  fn: () => passes(shaped(200)),
});

Deno.test({
  name: "shaped() is a relay where namespaces cannot be had",
  ignore: !python,
  fn: async () => {
    const link = shaped(200, { namespaces: false });
    assert.match(link.name, /relay/);
    await passes(link);
  },
});
