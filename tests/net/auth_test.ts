/**
 * The handshake against honest and dishonest peers. The dishonest ones are written with `node:crypto` and raw
 * sockets, after AUTH.md, and share no code with lib/net but the certificate of the server they imitate.
 */
import assert from "node:assert/strict";
import { createHmac, hkdfSync, randomBytes } from "node:crypto";
import { Buffer } from "node:buffer";
import { DroverError } from "../../lib/base/errors.ts";
import { openSockets } from "../../ffi/sockets.ts";
import { clusterTrust, createLeaf } from "../../lib/net/certificate.ts";
import { ClusterKey } from "../../lib/net/key.ts";
import { type Channel, dial, listen, type Listener, type ListenOptions } from "../../lib/net/mod.ts";

const secret = new Uint8Array(32).fill(1);
const key = new ClusterKey(secret);
const otherKey = new ClusterKey(new Uint8Array(32).fill(2));
const limits = (): number => 1024;
const host = "127.0.0.1";
const sockets = openSockets();

interface Node extends AsyncDisposable {
  listener: Listener;
  port: number;
  /** The next refusal. */
  refusal(): Promise<DroverError>;
  /** How many channels came out. */
  served(): number;
}

/** A node that echoes one record of each channel. */
async function startNode(options: Partial<ListenOptions> & { key: ClusterKey | null }): Promise<Node> {
  const refusals: unknown[] = [];
  let heard = (): void => {};
  const listener = await listen({
    host,
    port: 0,
    limits,
    sockets,
    onRefused: (_peer, error) => {
      refusals.push(error);
      heard();
    },
    ...options,
  });
  const echoes: Promise<void>[] = [];
  const serving = (async () => {
    for await (const channel of listener) echoes.push(echo(channel));
  })();
  return {
    listener,
    port: listener.address.port,
    served: () => echoes.length,
    refusal: async () => {
      while (refusals.length === 0) await new Promise<void>((resolve) => heard = resolve);
      return refusals.shift() as DroverError;
    },
    [Symbol.asyncDispose]: async () => {
      listener.close();
      await serving;
      await Promise.all(echoes);
    },
  };
}

async function echo(channel: Channel): Promise<void> {
  using owned = channel;
  try {
    const record = await owned.receive();
    if (record !== null) await owned.send(record.type, record.body);
    await owned.end();
    await owned.receive();
  } catch (error) {
    if (!(error instanceof DroverError) || error.code !== "disconnected") throw error;
  }
}

/** Proves that a node still serves. */
async function assertServes(port: number, options: { key: ClusterKey | null }): Promise<void> {
  using channel = await dial({ host, port, key: options.key, limits });
  await channel.send(9, Uint8Array.of(1, 2, 3));
  assert.deepEqual(await channel.receive(), { type: 9, body: Uint8Array.of(1, 2, 3) });
  await channel.end();
  assert.equal(await channel.receive(), null);
}

const hasCode = (code: string, message?: RegExp) => (error: unknown): boolean => {
  assert.ok(error instanceof DroverError, String(error));
  assert.equal(error.code, code, error.message);
  if (message !== undefined) assert.match(error.message, message);
  return true;
};

/** TLS to a node as one who can see that the server is real. */
async function rawTls(port: number): Promise<Deno.TlsConn> {
  const trust = await clusterTrust(key);
  const tcp = await Deno.connect({ hostname: host, port });
  const tls = await Deno.startTls(tcp, { hostname: trust.name, caCerts: [trust.authority] });
  await tls.handshake();
  return tls;
}

/** All that comes until the connection ends in whatever way, which it must within some seconds. */
async function readAll(connection: Deno.Conn): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    connection.close();
  }, 5000);
  try {
    while (true) {
      const buffer = new Uint8Array(4096);
      const size = await connection.read(buffer);
      if (size === null) break;
      parts.push(buffer.subarray(0, size));
    }
  } catch {
    // A reset is an end too.
  } finally {
    clearTimeout(timer);
  }
  assert.equal(late, false, "the connection should have been closed by the other side");
  return new Uint8Array(Buffer.concat(parts));
}

async function readSome(connection: Deno.Conn, size: number): Promise<Buffer> {
  const buffer = Buffer.alloc(size);
  for (let at = 0; at < size;) at += await connection.read(buffer.subarray(at)) ?? assert.fail("ended early");
  return buffer;
}

function head(type: number, length: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeUInt32LE(type, 0);
  bytes.writeUInt32LE(length, 4);
  return bytes;
}

const open = head(0x64720001, 0);
const refused = head(0x64720006, 0);

function proof(side: string, serverNonce: Uint8Array, clientNonce: Uint8Array, from = secret): Buffer {
  const proofKey = new Uint8Array(hkdfSync("sha256", from, "", "drover-auth-1 proof", 32));
  return createHmac("sha256", proofKey).update(`drover-auth-1 ${side}\0`).update(serverNonce).update(
    clientNonce,
  )
    .digest();
}

for (const [name, nodeKey] of [["with a key", key], ["without a key", null]] as const) {
  Deno.test(`dial() and listen() ${name} agree, for many at once`, async () => {
    await using node = await startNode({ key: nodeKey });
    await Promise.all(Array.from({ length: 20 }, () => assertServes(node.port, { key: nodeKey })));
    using channel = await dial({ host: "localhost", port: node.port, key: nodeKey, limits });
    assert.equal(channel.encrypted, nodeKey !== null);
    assert.equal(channel.peer, `127.0.0.1:${node.port}`);
    await channel.send(1, new Uint8Array(9));
    await channel.receive();
    assert.equal(channel.bytesSent, 24);
    assert.ok(channel.bytesReceived >= 24);
  });
}

Deno.test("listen() serves IPv6 loopback without a key", async (test) => {
  let node: Node;
  try {
    node = await startNode({ key: null, host: "::1" });
  } catch (error) {
    if (!(error instanceof DroverError) || error.code !== "unsupported") throw error;
    console.log(`skipped ${test.name}: no IPv6 here`);
    return;
  }
  await using owned = node;
  using channel = await dial({ host: "::1", port: owned.port, key: null, limits });
  await channel.send(1);
  assert.equal((await channel.receive())?.type, 1);
});

Deno.test("listen() with a key serves every address when the host is empty", async () => {
  await using node = await startNode({ key, host: "" });
  await assertServes(node.port, { key });
});

Deno.test("listen() without a key refuses addresses beyond loopback, with a hint", async () => {
  for (const beyond of ["", "0.0.0.0", "::", "192.0.2.1", "example.org"]) {
    await assert.rejects(startNode({ key: null, host: beyond }), (error) => {
      hasCode("auth", /without a key/)(error);
      assert.match(String((error as DroverError).hint), /drover key new FILE/);
      return true;
    });
  }
});

Deno.test("listen() says when the port is taken", async () => {
  await using node = await startNode({ key: null });
  await assert.rejects(startNode({ key: null, port: node.port }), hasCode("busy"));
});

Deno.test("dial() without a key refuses addresses beyond loopback", async () => {
  await assert.rejects(
    dial({ host: "192.0.2.1", port: 1, key: null, limits }),
    hasCode("auth", /without a key/),
  );
});

Deno.test("dial() refuses a server with another key, and the server hears of it", async () => {
  await using node = await startNode({ key: otherKey });
  await assert.rejects(
    dial({ host, port: node.port, key, limits }),
    hasCode("auth", /the server did not prove this key/),
  );
  await node.refusal();
  assert.equal(node.served(), 0);
  await assertServes(node.port, { key: otherKey });
});

Deno.test("dial() with a key says that the server has none", async () => {
  await using node = await startNode({ key: null });
  await assert.rejects(
    dial({ host, port: node.port, key, limits }),
    hasCode("auth", /the server has no key/),
  );
  hasCode("auth", /client has a key/)(await node.refusal());
  assert.equal(node.served(), 0);
});

Deno.test("dial() without a key says that the server has one", async () => {
  await using node = await startNode({ key });
  await assert.rejects(
    dial({ host, port: node.port, key: null, limits }),
    hasCode("auth", /the server has a key/),
  );
  await node.refusal();
  assert.equal(node.served(), 0);
});

Deno.test("dial() refuses a server of another name under the same authority", async () => {
  // A leaf for another cluster's name, signed by ours, would have to come from a holder of both secrets; here
  // the trust is bent instead: our authority, and the other cluster's name.
  const leaf = await createLeaf(key);
  using socket = Deno.listenTls({ hostname: host, port: 0, cert: leaf.cert, key: leaf.key });
  const accepted = socket.accept();
  const tcp = await Deno.connect({ hostname: host, port: (socket.addr as Deno.NetAddr).port });
  const [ours, others] = [await clusterTrust(key), await clusterTrust(otherKey)];
  assert.notEqual(ours.name, others.name);
  assert.match(ours.name, /^fd/);
  using tls = await Deno.startTls(tcp, { hostname: others.name, caCerts: [ours.authority] });
  using server = await accepted;
  await Promise.all([
    assert.rejects(tls.handshake(), /not valid for name/),
    assert.rejects(server.handshake()),
  ]);
});

Deno.test("dial() refuses a server that returns the client's own proof", async () => {
  const leaf = await createLeaf(key);
  using socket = Deno.listenTls({ hostname: host, port: 0, cert: leaf.cert, key: leaf.key });
  const serving = (async () => {
    using connection = await socket.accept();
    await connection.write(Buffer.concat([head(0x64720003, 32), randomBytes(32)]));
    const said = await readSome(connection, 72);
    await connection.write(Buffer.concat([head(0x64720005, 32), said.subarray(40)]));
    await readAll(connection);
  })();
  const { port } = socket.addr as Deno.NetAddr;
  await assert.rejects(dial({ host, port, key, limits }), hasCode("auth", /server did not prove/));
  await serving;
});

Deno.test("listen() admits the handshake as AUTH.md has it, and answers with its own proof", async () => {
  await using node = await startNode({ key });
  using tls = await rawTls(node.port);
  const challenge = await readSome(tls, 40);
  assert.deepEqual(challenge.subarray(0, 8), head(0x64720003, 32));
  const [serverNonce, clientNonce] = [challenge.subarray(8), randomBytes(32)];
  await tls.write(
    Buffer.concat([head(0x64720004, 64), clientNonce, proof("client", serverNonce, clientNonce)]),
  );
  const accept = await readSome(tls, 40);
  assert.deepEqual(accept, Buffer.concat([head(0x64720005, 32), proof("server", serverNonce, clientNonce)]));
});

Deno.test("listen() refuses a proof that was heard on another connection", async () => {
  await using node = await startNode({ key });
  using first = await rawTls(node.port);
  const challenge = await readSome(first, 40);
  const clientNonce = randomBytes(32);
  const said = Buffer.concat([
    head(0x64720004, 64),
    clientNonce,
    proof("client", challenge.subarray(8), clientNonce),
  ]);
  await first.write(said);
  assert.deepEqual((await readSome(first, 40)).subarray(0, 8), head(0x64720005, 32));
  using second = await rawTls(node.port);
  const other = await readSome(second, 40);
  assert.notDeepEqual(other, challenge);
  await second.write(said);
  assert.deepEqual(Buffer.from(await readAll(second)), refused);
  hasCode("auth", /did not prove/)(await node.refusal());
});

Deno.test("listen() refuses proofs of another key, of the other side, and with any bit flipped", async () => {
  await using node = await startNode({ key });
  const attempts: ((server: Buffer, client: Buffer) => Buffer)[] = [
    (server, client) => proof("client", server, client, new Uint8Array(32).fill(2)),
    (server, client) => proof("server", server, client),
    (server, client) => proof("client", client, server),
    () => Buffer.alloc(32),
    ...[0, 100, 255].map((bit) => (server: Buffer, client: Buffer) => {
      const bytes = proof("client", server, client);
      bytes[bit >> 3] = (bytes[bit >> 3] ?? 0) ^ (1 << (bit & 7));
      return bytes;
    }),
  ];
  for (const attempt of attempts) {
    using tls = await rawTls(node.port);
    const serverNonce = (await readSome(tls, 40)).subarray(8);
    const clientNonce = randomBytes(32);
    await tls.write(Buffer.concat([head(0x64720004, 64), clientNonce, attempt(serverNonce, clientNonce)]));
    assert.deepEqual(Buffer.from(await readAll(tls)), refused);
    hasCode("auth", /did not prove/)(await node.refusal());
  }
  assert.equal(node.served(), 0);
});

Deno.test("listen() ends a handshake record of the wrong type or size without reading it", async () => {
  await using node = await startNode({ key });
  for (
    const wrong of [
      head(0x64720004, 65),
      head(0x64720004, 0xffff_ffff),
      head(0x64720005, 64),
      head(0, 0),
      head(9, 8),
    ]
  ) {
    using tls = await rawTls(node.port);
    await readSome(tls, 40);
    await tls.write(wrong);
    assert.equal((await readAll(tls)).length, 0);
    hasCode("protocol")(await node.refusal());
  }
  await assertServes(node.port, { key });
});

for (const [name, nodeKey] of [["with a key", key], ["without a key", null]] as const) {
  Deno.test(`listen() ${name} refuses garbage and goes on`, async () => {
    await using node = await startNode({ key: nodeKey });
    for (
      const garbage of [
        Buffer.from("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        Buffer.from("POST / HTTP/1.1\r\n\r\n" + open.toString("latin1"), "latin1"),
        Buffer.concat([head(0x64720001, 8), Buffer.alloc(8)]),
        Buffer.alloc(4096),
        randomBytes(100).fill(0x17, 0, 1),
        Buffer.of(0x16, 3, 1, 0xff, 0xff, 1, 0xff, 0xff, 0xff, 0xff),
      ]
    ) {
      using connection = await Deno.connect({ hostname: host, port: node.port });
      await connection.write(garbage);
      await connection.closeWrite();
      const answer = await readAll(connection);
      assert.ok(answer.length <= 8, `${answer.length} octets for garbage`);
      await node.refusal();
    }
    // And one that says nothing at all.
    (await Deno.connect({ hostname: host, port: node.port })).close();
    await node.refusal();
    assert.equal(node.served(), 0);
    await assertServes(node.port, { key: nodeKey });
  });

  Deno.test(`listen() ${name} drops who takes too long`, async () => {
    await using node = await startNode({ key: nodeKey, handshakeMs: 150 });
    using silent = await Deno.connect({ hostname: host, port: node.port });
    using slow = await Deno.connect({ hostname: host, port: node.port });
    await slow.write(nodeKey === null ? open.subarray(0, 3) : Buffer.of(0x16, 3, 1));
    assert.equal((await readAll(silent)).length, 0);
    assert.equal((await readAll(slow)).length, 0);
    hasCode("auth", /longer than 150 ms/)(await node.refusal());
    hasCode("auth", /longer than 150 ms/)(await node.refusal());
    await assertServes(node.port, { key: nodeKey });
  });

  Deno.test(`listen() ${name} serves while two hundred connections hang in the handshake`, async () => {
    await using node = await startNode({ key: nodeKey });
    const hanging = await Promise.all(
      Array.from({ length: 200 }, () => Deno.connect({ hostname: host, port: node.port })),
    );
    try {
      await assertServes(node.port, { key: nodeKey });
    } finally {
      for (const connection of hanging) connection.close();
    }
  });

  Deno.test(`listen() ${name} gives up the oldest handshake when there are too many`, async () => {
    await using node = await startNode({ key: nodeKey, handshakesMax: 5 });
    const hanging: Deno.Conn[] = [];
    try {
      for (let count = 0; count < 20; count++) {
        hanging.push(await Deno.connect({ hostname: host, port: node.port }));
      }
      await assertServes(node.port, { key: nodeKey });
      for (let count = 0; count < 16; count++) {
        hasCode("auth", /oldest of too many/)(await node.refusal());
        assert.equal((await readAll(hanging[count] as Deno.Conn)).length, 0);
      }
    } finally {
      for (const connection of hanging) connection.close();
    }
  });
}

Deno.test("dial() gives up on a server that says nothing", async () => {
  using socket = Deno.listen({ hostname: host, port: 0 });
  const { port } = socket.addr as Deno.NetAddr;
  for (const dialKey of [key, null]) {
    const accepted = socket.accept();
    await assert.rejects(
      dial({ host, port, key: dialKey, limits, timeoutMs: 150 }),
      hasCode("disconnected", /no answer within 0.15 s/),
    );
    (await accepted).close();
  }
});

Deno.test("dial() says when nobody listens, and when somebody else does", async () => {
  const socket = Deno.listen({ hostname: host, port: 0 });
  const { port } = socket.addr as Deno.NetAddr;
  const serving = (async () => {
    for (const _ of [1, 2]) {
      using connection = await socket.accept();
      await connection.read(new Uint8Array(2000));
      await connection.write(new TextEncoder().encode("HTTP/1.1 400 Bad Request\r\n\r\n"));
      await connection.closeWrite();
      await readAll(connection);
    }
  })();
  await assert.rejects(dial({ host, port, key, limits }), hasCode("protocol"));
  await assert.rejects(dial({ host, port, key: null, limits }), hasCode("protocol"));
  await serving;
  socket.close();
  for (const dialKey of [key, null]) {
    await assert.rejects(dial({ host, port, key: dialKey, limits }), hasCode("disconnected"));
  }
});

Deno.test("dial() refuses to run where certificates are not verified", async () => {
  const program = `
    const { ClusterKey } = await import(${JSON.stringify(import.meta.resolve("../../lib/net/key.ts"))});
    const { dial } = await import(${JSON.stringify(import.meta.resolve("../../lib/net/mod.ts"))});
    await dial({ host: "127.0.0.1", port: 1, key: new ClusterKey(new Uint8Array(32)), limits: () => 0 })
      .catch((error) => console.log(error.code));`;
  const file = await Deno.makeTempFile({ suffix: ".ts" });
  try {
    await Deno.writeTextFile(file, program);
    const run = async (...flags: string[]): Promise<string> => {
      const { stdout } = await new Deno.Command(Deno.execPath(), {
        args: ["run", "--no-check", "--no-config", "--allow-all", ...flags, file],
        stderr: "inherit",
      }).output();
      return new TextDecoder().decode(stdout).trim();
    };
    assert.equal(await run("--unsafely-ignore-certificate-errors"), "auth");
    assert.equal(await run(), "disconnected");
  } finally {
    await Deno.remove(file);
  }
});

Deno.test("Listener.close() ends the iteration and drops handshakes, not channels", async () => {
  const listener = await listen({ host, port: 0, key, limits, sockets });
  const { port } = listener.address;
  using hanging = await Deno.connect({ hostname: host, port });
  const taken = listener[Symbol.asyncIterator]().next();
  using client = await dial({ host, port, key, limits });
  using server: Channel = (await taken).value ?? assert.fail("no channel");
  listener.close();
  assert.equal((await readAll(hanging)).length, 0);
  await client.send(4, Uint8Array.of(4));
  assert.equal((await server.receive())?.type, 4);
  await assert.rejects(Deno.connect({ hostname: host, port }));
});
