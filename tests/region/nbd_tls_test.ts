/**
 * Goal: NBD inside of TLS is the same NBD, nobody gets in beside it, and nothing that was said in the clear counts.
 * Method: our client and server over the cluster's certificates, and hand-made peers for what they may not do.
 */
import assert from "node:assert/strict";
import { DroverError, FormatError } from "../../lib/base/errors.ts";
import { NbdClient, serveNbd } from "../../lib/nbd/mod.ts";
import { clusterTrust, createLeaf } from "../../lib/net/certificate.ts";
import { ClusterKey } from "../../lib/net/key.ts";
import { createKey } from "../../lib/net/key_file.ts";
import type { Backend } from "../../lib/region/backend.ts";
import { MemoryBackend } from "../../lib/region/backend_memory.ts";
import { NbdBackend } from "../../lib/region/backend_nbd.ts";
import { openBackend } from "../../lib/region/backend_url.ts";
import { NbdListener } from "../../lib/region/nbd_listen.ts";
import { TlsGate } from "../../lib/region/nbd_tls.ts";
import { keyedExport } from "../../lib/region/nbd_trust.ts";
import { pipe } from "../nbd/pipe.ts";
import { backendSuite } from "../backend_suite.ts";

const room = Deno.makeTempDirSync({ dir: "/var/tmp", prefix: "drover-tls-" });
globalThis.addEventListener("unload", () => Deno.removeSync(room, { recursive: true }));
const key = new ClusterKey(new Uint8Array(32).fill(5));
const leaf = await createLeaf(key);
const trust = await clusterTrust(key);
const tls = { caCerts: [trust.authority], hostname: trust.name };
const anyPort = { hostname: "127.0.0.1", port: 0 };
// What is opened once for all is opened here: libraries for sockets in the clear, and for those of TLS.
new TlsGate(leaf).close();
{
  const offers = [{ name: "", backend: new MemoryBackend(4096) }];
  await using plain = await NbdListener.open({ place: anyPort, offers });
  await (await NbdBackend.connect(plain.place)).close();
}

async function serving(backend: Backend): Promise<NbdListener> {
  return await NbdListener.open({ place: anyPort, offers: [{ name: "", backend }], tls: leaf });
}

backendSuite({
  name: "nbd inside of TLS",
  sparse: true,
  open: async (size) => {
    const listener = await serving(new MemoryBackend(size));
    const backend = await NbdBackend.connect(listener.place, { tls, connections: 2 });
    const close = backend.close.bind(backend);
    backend.close = async () => {
      await close();
      await listener.close();
    };
    return backend;
  },
});

const hasCode = (code: string) => (error: unknown): boolean =>
  error instanceof DroverError && error.code === code;

Deno.test("NbdBackend: a connection in the clear, another authority and another name are refused", async () => {
  await using server = await serving(new MemoryBackend(4096));
  await assert.rejects(NbdBackend.connect(server.place), (error) => {
    assert.ok(error instanceof DroverError && error.code === "auth" && /wants TLS/.test(error.message));
    assert.match(error.hint ?? "", /nbds:/);
    return true;
  });
  const stranger = await clusterTrust(new ClusterKey(new Uint8Array(32).fill(6)));
  await assert.rejects(
    NbdBackend.connect(server.place, { tls: { ...tls, caCerts: [stranger.authority] } }),
    hasCode("auth"),
  );
  await assert.rejects(
    NbdBackend.connect(server.place, { tls: { ...tls, hostname: "localhost" } }),
    hasCode("auth"),
  );
  await using plain = await NbdListener.open({
    place: anyPort,
    offers: [{ name: "", backend: new MemoryBackend(4096) }],
  });
  await assert.rejects(NbdBackend.connect(plain.place, { tls }), (error) => {
    assert.ok(hasCode("auth")(error));
    assert.match(String(error), /does not speak TLS/);
    return true;
  });
});

Deno.test("NbdBackend: inside of TLS it comes back when the server does", async () => {
  const disk = new MemoryBackend(64 * 1024);
  let server = await serving(disk);
  const { place } = server;
  await using backend = await NbdBackend.connect(place, { tls, timeoutMs: 10_000 });
  await backend.writeAt(100, new Uint8Array([1, 2, 3]));
  await server.close();
  server = await NbdListener.open({ place, offers: [{ name: "", backend: disk }], tls: leaf });
  const into = new Uint8Array(3);
  await backend.readAt(100, into);
  assert.deepEqual([...into], [1, 2, 3]);
  await backend.close();
  await server.close();
});

Deno.test("openBackend() with a key file comes in; without it nobody does, and nothing is listed", async () => {
  const keyFile = `${room}/key`;
  await createKey(keyFile);
  await createKey(`${room}/other`);
  const { name, certificate } = await keyedExport(keyFile, "a disk");
  assert.match(name, /^[0-9a-f]{32}\/a disk$/);
  const offer = { name, backend: new MemoryBackend(4096) };
  await using server = await NbdListener.open({
    place: anyPort,
    offers: { list: () => [], find: (asked) => asked === name ? offer : null },
    tls: certificate,
  });
  const url = server.url("a disk");
  assert.match(url, /^nbds:\/\/127\.0\.0\.1:\d+\/a%20disk$/);
  await using backend = await openBackend(`${url}?key=${keyFile}&timeout=5`);
  assert.equal(backend.size, 4096);
  await backend.writeAt(0, new Uint8Array(100));
  await assert.rejects(openBackend(`${url}?key=${room}/other`), hasCode("auth"));
  await assert.rejects(openBackend(`${url}?key=${keyFile}&tls-certificates=${room}`), hasCode("usage"));
  await assert.rejects(openBackend(`${url}?tls-certificates=${room}`), hasCode("usage"));
  // Who believes the authority but has no key knows no name.
  Deno.writeTextFileSync(`${room}/ca-cert.pem`, trust.authority);
  await using other = await serving(new MemoryBackend(4096));
  const query = `tls-certificates=${room}&tls-hostname=${encodeURIComponent(trust.name)}`;
  await using known = await openBackend(`${other.url("")}?${query}`);
  assert.equal(known.size, 4096);
  await assert.rejects(openBackend(`${other.url("a disk")}?${query}`), /no such export/);
});

/** Options of the haggling, as a client sends them. */
function option(kind: number, data: number[] = []): number[] {
  return [...new TextEncoder().encode("IHAVEOPT"), 0, 0, 0, kind, 0, 0, 0, data.length, ...data];
}

Deno.test("serveNbd() refuses what stands behind a STARTTLS, and answers nothing else in the clear", async () => {
  const exports = { list: () => [{ name: "secret" }], find: () => null };
  const run = async (sent: number[]): Promise<{ said: Uint8Array; error: unknown }> => {
    const [ours, theirs] = pipe();
    let error: unknown = null;
    const served = serveNbd(theirs, {
      exports,
      tls: { required: true, start: () => Promise.reject(new Error("TLS was started")) },
    }).catch((reason) => error = reason);
    await ours.write(new Uint8Array([0, 0, 0, 3, ...sent]));
    const parts: number[] = [];
    const buffer = new Uint8Array(4096);
    const ended = served.then(() => null);
    for (;;) {
      const count = await Promise.race([ours.read(buffer), ended]);
      if (count === null) break;
      parts.push(...buffer.subarray(0, count));
    }
    await served;
    ours.close();
    return { said: Uint8Array.from(parts), error };
  };
  const injected = await run([...option(5), ...option(3)]);
  assert.ok(injected.error instanceof FormatError && injected.error.rule === "nbd.tls.plain");
  assert.equal(injected.said.length, 18, "the greeting and nothing else");

  const curious = await run([...option(3), ...option(8), ...option(7, [0, 0, 0, 0, 0, 0]), ...option(2)]);
  assert.equal(curious.error, null);
  const types: number[] = [];
  const view = new DataView(curious.said.buffer);
  for (let at = 18; at < curious.said.length; at += 20 + view.getUint32(at + 16)) {
    types.push(view.getUint32(at + 12));
  }
  assert.deepEqual(types, [0x80000005, 0x80000005, 0x80000005, 1]);
  assert.ok(!new TextDecoder().decode(curious.said).includes("secret"));

  const named = await run(option(1));
  assert.ok(named.error instanceof FormatError && named.error.rule === "nbd.option.tls");
});

Deno.test("NbdClient.connect() refuses what stands behind the answer to STARTTLS", async () => {
  const [ours, theirs] = pipe();
  const greeting = new Uint8Array([...new TextEncoder().encode("NBDMAGICIHAVEOPT"), 0, 3]);
  const ack = [0, 3, 0xe8, 0x89, 4, 0x55, 0x65, 0xa9, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0, 0, 0];
  await theirs.write(new Uint8Array([...greeting, ...ack, 0, 3, 0xe8]));
  let started = false;
  await assert.rejects(
    NbdClient.connect(ours, {
      startTls: (transport) => {
        started = true;
        return Promise.resolve(transport);
      },
    }),
    (error) => error instanceof FormatError && error.rule === "nbd.tls.plain",
  );
  assert.equal(started, false);
  theirs.close();
});
