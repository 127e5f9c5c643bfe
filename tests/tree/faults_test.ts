/**
 * Faults that are nobody's intention: a full disk, a broken connection, two pushers at once. The tree has the old version or the
 * new one, never something in between, and doing it again when the fault is gone succeeds.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { NativeError } from "../../ffi/mod.ts";
import { errnoOf } from "../../ffi/errno.ts";
import { DroverError } from "../../lib/base/errors.ts";
import { pathFromText, rootPath } from "../../lib/base/path.ts";
import { type Channel, listen, type Listener, memoryChannelPair } from "../../lib/net/mod.ts";
import {
  findTree,
  openTree,
  type PushResult,
  pushTree,
  recordLimits,
  serveTrees,
  type TreeContext,
  verifyTree,
} from "../../lib/tree/mod.ts";
import { decodeState, recordType, remoteError } from "../../lib/tree/protocol.ts";
import { sendTo } from "../../lib/tree/push.ts";
import { Random } from "../version/trees.ts";
import { Manifest } from "../../lib/version/manifest.ts";
import { type RawSegment, SegmentEncoder } from "../../lib/version/segment.ts";
import { craft, fileEntry, plainEntry, withEntries } from "./craft.ts";
import { hello, MemoryNode } from "./peer.ts";
import { allowAll, assertSame, isRoot, native, run, Scratch, type Setup, setups } from "./scratch.ts";
import { makeFirst, makeOther, makeSecond, rootOf } from "./small_tree.ts";
import { hookDatabases, stepping } from "./steps.ts";

function optionsOf(setup: Setup): { capture: "overlay" | "scan"; profile?: "fast" | "portable" } {
  return setup === "scan" ? { capture: "scan" } : { capture: "overlay", profile: setup };
}

/** Brings a tree of a node to the head of a local one over a channel in memory. */
async function push(
  room: Scratch,
  node: MemoryNode,
  from: string,
  name: string,
  begin: () => void = () => {},
): Promise<void> {
  await using tree = await openTree(room.context, room.bytes(from), { readOnly: true });
  const [near, far] = memoryChannelPair({ limits: recordLimits });
  begin();
  node.take(far);
  try {
    await near.send(recordType.hello, hello(name).body);
    const record = await near.receive();
    assert.ok(record !== null);
    if (record.type === recordType.error) throw remoteError(record.body, "the node");
    const state = decodeState(record.body);
    if (state.head !== tree.store.pointers.head) await sendTo(near, tree, state, "delta", false);
    await near.end();
  } finally {
    near.close();
  }
}

/** What can be seen of a tree: nothing where there is none. */
async function stateOf(context: TreeContext, dir: string): Promise<{ head: string | null; root: string }> {
  if (findTree(context, pathFromText(dir)) === null) return { head: null, root: "" };
  await using tree = await openTree(context, pathFromText(dir));
  const { head } = tree.store.pointers;
  if (head === null) return { head, root: "" };
  await tree.mount();
  assert.deepEqual((await tree.status()).uncommitted, []);
  return { head, root: await rootOf(dir) };
}

/** Two local trees: one at a first version, one at the second that follows it. */
async function makeSources(room: Scratch): Promise<{ one: State; two: State }> {
  makeFirst(room.path("first"));
  await room.init("first", "scan");
  await room.transfer("first", "second");
  makeSecond(room.path("second"));
  await room.commit("second");
  return {
    one: await stateOf(room.context, room.path("first")),
    two: await stateOf(room.context, room.path("second")),
  };
}

type State = Awaited<ReturnType<typeof stateOf>>;

/** Calls that need room on a disk. */
const needsRoom =
  /^(open|openBeneath|pwrite|ftruncate|copyRange|symlink|link|mknod|mkdir|rename|syncfs|mountOverlay|database)/;

for (const setup of setups) {
  Deno.test(`${setup}: a disk that is full at any step refuses the push with "no-space", and there is no mixed state`, async () => {
    await using room = new Scratch();
    const { one, two } = await makeSources(room);
    room.mkdir("node");
    let countdown = Infinity;
    let steps = 0;
    const hook = (step: string): void => {
      if (!needsRoom.test(step)) return;
      steps++;
      if (--countdown > 0) return;
      if (!step.startsWith("database")) throw new NativeError(errnoOf("ENOSPC"), step);
      throw Object.assign(new Error("database or disk is full"), { code: "ERR_SQLITE_ERROR" });
    };
    const context = { ...room.context, native: stepping(native, hook) };
    await using node = new MemoryNode(context, room.path("node"), { allow: allowAll, ...optionsOf(setup) });
    let failures = 0;
    let late = 0;
    // Counts the steps of a push, then fails it from each of some steps on.
    const attempt = async (name: string, at: number): Promise<boolean> => {
      const before = name.startsWith("new") ? { head: null, root: "" } : one;
      if (!name.startsWith("new")) await push(room, node, "first", name);
      let error: unknown = null;
      try {
        await push(room, node, "second", name, () => {
          steps = 0;
          countdown = at;
          hookDatabases(hook);
        });
      } catch (thrown) {
        error = thrown;
      } finally {
        countdown = Infinity;
        hookDatabases(null);
      }
      const dir = room.path(`node/${name}`);
      const where = `${name}, full from step ${at} on`;
      if (error !== null) {
        failures++;
        assert.ok(error instanceof DroverError && error.code === "no-space", `${where}: ${error}`);
      }
      const found = await stateOf(room.context, dir);
      const isOld = found.head === before.head && found.root === before.root;
      assert.ok(
        isOld || found.head === two.head && found.root === two.root,
        `${where}: ${JSON.stringify({ found, before, two })}`,
      );
      // At the very end it may be too late to take it back; then it says so.
      const recorded = /is recorded/.test(`${error}`);
      if (error !== null) assert.equal(isOld, !recorded, `${where}: ${error}`);
      if (recorded) late++;
      await push(room, node, "second", name);
      assert.deepEqual(await stateOf(room.context, dir), two, `${where}: after the retry`);
      return error !== null;
    };
    for (const kind of ["new", "old"]) {
      await attempt(`${kind}-count`, Infinity);
      const count = steps;
      const stride = Math.max(1, Math.floor(count / 20));
      for (let at = 1; at <= count; at += at > count - 22 || at < 5 ? 1 : stride) {
        await attempt(`${kind}-${at}`, at);
      }
    }
    assert.ok(failures > 50 && late < failures / 2, `${failures} failures, ${late} of them late`);
  });
}

for (const setup of setups) {
  Deno.test(`${setup}: a step that fails once, anywhere, is got over by pushing again, also for a file that comes in pieces`, async () => {
    await using room = new Scratch();
    room.mkdir("node");
    let countdown = Infinity;
    let steps = 0;
    const hook = (step: string): void => {
      if (step.startsWith("database")) return;
      steps++;
      if (--countdown === 0) throw new NativeError(errnoOf("EIO"), step);
    };
    const context = { ...room.context, native: stepping(native, hook) };
    await using node = new MemoryNode(context, room.path("node"), { allow: allowAll, ...optionsOf(setup) });
    const text = "0123456789".repeat(100);
    const entries = [plainEntry("", "directory"), fileEntry("a", "first\n"), fileEntry("pieces", text)];
    const piece = (index: number, offset: number): RawSegment => {
      const encoder = new SegmentEncoder();
      const bytes = new TextEncoder().encode(text.slice(offset, offset + 500));
      encoder.add({ upsert: 2, offset, length: 500 }, bytes, null);
      return encoder.finish(index);
    };
    const { records, to } = craft({
      base: Manifest.empty,
      from: null,
      after: withEntries(Manifest.empty, ...entries),
      content: new Map([["a", "first\n"], ["pieces", text]]),
      segments: ([first]) => first === undefined ? [] : [first, piece(1, 0), piece(2, 500)],
    });
    assert.equal(await node.tell([hello("count"), ...records]), "done");
    const count = steps;
    for (let at = 1; at <= count; at++) {
      const name = `t${at}`;
      countdown = at;
      const outcome = await node.tell([hello(name), ...records]);
      countdown = Infinity;
      if (outcome === "done") continue; // a step that does without
      const where = `${name}: ${JSON.stringify(outcome)}`;
      const found = await stateOf(room.context, room.path(`node/${name}`));
      if (found.head === null) assert.equal(await node.resume(name, records), "done", where);
      assert.equal((await stateOf(room.context, room.path(`node/${name}`))).head, to, where);
      assert.equal(Deno.readTextFileSync(room.path(`node/${name}/pieces`)), text, where);
    }
    assert.ok(count > 30);
  });
}

/** Runs with a small file system of its own. */
async function withSmallDisk(size: string, work: (dir: string) => Promise<void>): Promise<void> {
  await using room = new Scratch();
  const dir = room.mkdir("disk");
  await run(["mount", "-t", "tmpfs", "-o", `size=${size}`, "drover-test", dir]);
  await work(dir);
}

for (const setup of setups.filter((setup) => setup !== "portable")) {
  Deno.test({
    name:
      `${setup}: a disk that is really full refuses the push with "no-space", and takes it when there is room`,
    ignore: !isRoot, // only root mounts a disk to fill
    fn: async () => {
      await using room = new Scratch();
      const random = new Random(7);
      makeFirst(room.path("first"));
      Deno.writeFileSync(room.path("first/big"), random.bytes(300_000));
      await room.init("first", "scan");
      await room.transfer("first", "second");
      makeSecond(room.path("second"));
      Deno.writeFileSync(room.path("second/big"), random.bytes(500_000));
      for (let at = 0; at < 40; at++) {
        Deno.writeFileSync(room.path(`second/kept/${at}`), random.bytes(10_000));
      }
      await room.commit("second");
      const one = await stateOf(room.context, room.path("first"));
      const two = await stateOf(room.context, room.path("second"));
      await withSmallDisk("8m", async (disk) => {
        const context = { ...room.context, home: join(room.dir, "far") };
        await using node = new MemoryNode(context, disk, { allow: allowAll, ...optionsOf(setup) });
        let refused = 0;
        for (
          const [round, free] of [0, 4, 12, 20, 40, 80, 160, 320, 480, 640, 800, 960, 1200, 1500, 1900, 2400]
            .entries()
        ) {
          const name = `t${round}`;
          const dir = join(disk, name);
          const isNew = round % 2 === 1;
          if (!isNew) await push(room, node, "first", name);
          const before = isNew ? { head: null, root: "" } : one;
          const filler = join(disk, "filler");
          await fill(filler, free * 1024);
          let error: unknown = null;
          try {
            await push(room, node, "second", name);
          } catch (thrown) {
            error = thrown;
          }
          const where = `${name}, ${free} KiB free`;
          if (error !== null) {
            refused++;
            assert.ok(error instanceof DroverError && error.code === "no-space", `${where}: ${error}`);
          }
          Deno.removeSync(filler);
          const found = await stateOf(context, dir);
          assert.deepEqual(found, error === null ? two : before, where);
          await push(room, node, "second", name);
          assert.deepEqual(await stateOf(context, dir), two, `${where}: after the retry`);
          await assertSame(room.path("second"), dir, where);
          await using tree = await openTree(context, pathFromText(dir));
          assert.deepEqual((await verifyTree(tree)).findings, []);
          await clear(context, tree, dir);
        }
        assert.ok(refused >= 6, `only ${refused} were refused`);
      });
    },
  });
}

/** Writes a file until only so much is free. */
async function fill(file: string, free: number): Promise<void> {
  using out = await Deno.open(file, { write: true, create: true });
  const block = new Uint8Array(4096);
  try {
    while (true) await out.write(block);
  } catch {
    // full
  }
  const { size } = await out.stat();
  await out.truncate(Math.max(0, size - free));
}

async function clear(
  context: TreeContext,
  tree: { store: { path: string }; unmount(): void },
  dir: string,
): Promise<void> {
  tree.unmount();
  await run(["rm", "-rf", dir, tree.store.path]);
  assert.equal(findTree(context, pathFromText(dir)), null);
}

/** A TCP relay that breaks one connection after so many octets from the client. */
class Relay implements AsyncDisposable {
  /** Octets from clients per connection. */
  readonly passed: number[] = [];
  readonly #listener: Deno.TcpListener;
  readonly #port: number;
  readonly #running = new Set<Promise<void>>();
  readonly #done: Promise<void>;
  #left = Infinity;

  constructor(port: number) {
    this.#port = port;
    this.#listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    this.#done = this.#accept();
  }

  get port(): number {
    return this.#listener.addr.port;
  }

  /** The next connection breaks after so many octets of the client's. */
  breakAfter(octets: number): void {
    this.#left = octets;
    this.passed.length = 0;
  }

  async #accept(): Promise<void> {
    for await (const client of this.#listener) {
      const server = await Deno.connect({ hostname: "127.0.0.1", port: this.#port });
      const left = this.#left;
      this.#left = Infinity;
      const index = this.passed.push(0) - 1;
      const running = this.#join(client, server, index, left).finally(() => this.#running.delete(running));
      this.#running.add(running);
    }
  }

  async #join(client: Deno.TcpConn, server: Deno.TcpConn, index: number, limit: number): Promise<void> {
    const buffer = new Uint8Array(65_536);
    const back = server.readable.pipeTo(client.writable).catch(() => {});
    try {
      for (let left = limit; left > 0;) {
        const size = await client.read(buffer.subarray(0, Math.min(buffer.length, left)));
        if (size === null) break;
        for (let at = 0; at < size;) at += await server.write(buffer.subarray(at, size));
        this.passed[index] = (this.passed[index] ?? 0) + size;
        left -= size;
        if (left > 0) continue;
        for (const side of [client, server]) close(side);
        return;
      }
      await server.closeWrite();
    } catch {
      // one side has gone
    } finally {
      await back;
      for (const side of [client, server]) close(side);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#listener.close();
    await this.#done.catch(() => {});
    await Promise.all(this.#running);
  }
}

function close(closer: { close(): void }): void {
  try {
    closer.close();
  } catch {
    // closed already
  }
}

/** A node on loopback. */
async function withNode(
  room: Scratch,
  setup: Setup,
  work: (port: number, log: string[]) => Promise<void>,
): Promise<void> {
  const listener: Listener = await listen({ host: "127.0.0.1", port: 0, key: null, limits: recordLimits });
  const stop = new AbortController();
  const log: string[] = [];
  const served = serveTrees({ ...room.context, log: (line) => log.push(line) }, {
    listener,
    root: pathFromText(room.mkdir("node")),
    allow: allowAll,
    signal: stop.signal,
    ...optionsOf(setup),
  });
  try {
    await work(listener.address.port, log);
  } finally {
    stop.abort();
    await served;
  }
}

function pushOver(room: Scratch, from: string, name: string, port: number): Promise<PushResult> {
  return pushTree(room.context, room.bytes(from), {
    url: { host: "127.0.0.1", port, name },
    key: null,
    mode: "delta",
  });
}

for (const setup of setups.filter((setup) => setup !== "portable")) {
  Deno.test(`${setup}: a connection that breaks at any segment is made anew, and only what is missing is sent again`, async () => {
    await using room = new Scratch();
    const random = new Random(11);
    // Eight segments and more: 2 MiB each, of bytes that do not compress.
    room.mkdir("source");
    const block = random.bytes(1 << 20);
    for (let at = 0; at < 24; at++) {
      block.set(random.bytes(4096), at * 4096);
      Deno.writeFileSync(room.path(`source/file-${at}`), block.map((byte) => byte ^ at * 7));
    }
    Deno.writeFileSync(room.path("source/large"), block);
    await room.init("source", "scan");
    const goal = await stateOf(room.context, room.path("source"));
    await withNode(room, setup, async (port) => {
      await using relay = new Relay(port);
      const whole = await pushOver(room, "source", "whole", relay.port);
      const size = relay.passed[0] ?? 0;
      assert.ok(
        whole.rounds === 1 && whole.bytesSent <= size && size > 20 << 20,
        `${whole.bytesSent} of ${size}`,
      );
      let serial = 0;
      for (let part = 1; part < 20; part++) {
        const name = `t${serial++}`;
        relay.breakAfter(Math.floor(size * part / 20));
        const { rounds, bytesSent, resumedSegments } = await pushOver(room, "source", name, relay.port);
        assert.equal(rounds, 2, name);
        assert.equal(relay.passed.length, 2);
        if (part > 5) {
          assert.ok(
            resumedSegments > 0 && bytesSent < size - (2 << 20),
            `${name}: ${bytesSent} of ${size}, ${resumedSegments}`,
          );
        }
        if (part > 15) assert.ok(bytesSent < size / 2, `${name}: ${bytesSent} of ${size}`);
        if (part % 6 === 0) await assertSame(room.path("source"), room.path(`node/${name}`), name);
        else assert.deepEqual(await stateOf(room.context, room.path(`node/${name}`)), goal);
      }
      // In the very last octets, and three times in a row.
      for (const octets of [size - 1, size - 20, size - 200]) {
        const name = `t${serial++}`;
        relay.breakAfter(octets);
        assert.equal((await pushOver(room, "source", name, relay.port)).to, goal.head);
        assert.deepEqual(await stateOf(room.context, room.path(`node/${name}`)), goal);
      }
    });
  });

  Deno.test(`${setup}: two pushers at once leave one of their versions, and the other hears why`, async () => {
    await using room = new Scratch();
    const { one, two } = await makeSources(room);
    await room.transfer("first", "other");
    makeOther(room.path("other"));
    await room.commit("other");
    const other = await stateOf(room.context, room.path("other"));
    await withNode(room, setup, async (port) => {
      for (let round = 0; round < 6; round++) {
        // Both make the tree.
        const made = await Promise.allSettled([
          pushOver(room, "first", `n${round}`, port),
          pushOver(room, "second", `n${round}`, port),
        ]);
        assert.ok(made.some(({ status }) => status === "fulfilled"));
        const after = await stateOf(room.context, room.path(`node/n${round}`));
        assert.ok(JSON.stringify([one, two]).includes(JSON.stringify(after)), JSON.stringify(after));
        for (const result of made) {
          if (result.status === "rejected") assert.equal((result.reason as DroverError).code, "diverged");
        }

        // Both have a version after the same one.
        const name = `d${round}`;
        await pushOver(room, "first", name, port);
        const results = await Promise.allSettled([
          pushOver(room, "second", name, port),
          pushOver(room, "other", name, port),
        ]);
        assert.deepEqual(results.map(({ status }) => status).sort(), ["fulfilled", "rejected"]);
        const [winner, loser] = results[0].status === "fulfilled" ? [two, results[1]] : [other, results[0]];
        assert.deepEqual(await stateOf(room.context, room.path(`node/${name}`)), winner);
        const reason = loser.status === "rejected" ? loser.reason as DroverError : null;
        assert.equal(reason?.code, "diverged");
        assert.ok(
          Array.isArray(reason?.details?.["theirs"]) && reason.details["theirs"].includes(winner.head),
        );
      }
      // The same version from both: one brings it, the other finds it there.
      await pushOver(room, "first", "same", port);
      await room.transfer("second", "twin");
      const twins = await Promise.all([
        pushOver(room, "second", "same", port),
        pushOver(room, "twin", "same", port),
      ]);
      assert.deepEqual(twins.map(({ versions }) => versions).sort(), [0, 1]);
      assert.deepEqual(await stateOf(room.context, room.path("node/same")), two);
    });
  });
}

Deno.test("a channel that is cut after any octet ends both sides with an error, never with half a push", async () => {
  await using room = new Scratch();
  const { one, two } = await makeSources(room);
  room.mkdir("node");
  await using node = new MemoryNode(room.context, room.path("node"), { allow: allowAll, capture: "scan" });
  await using tree = await openTree(room.context, room.bytes("second"), { readOnly: true });
  const once = async (name: string, options: { cutAfterBytes?: number }): Promise<number> => {
    const [near, far]: Channel[] = memoryChannelPair({ limits: recordLimits, ...options }) as [
      Channel,
      Channel,
    ];
    assert.ok(near !== undefined && far !== undefined);
    node.take(far);
    try {
      await near.send(recordType.hello, hello(name).body);
      const record = await near.receive();
      assert.ok(record !== null);
      if (record.type === recordType.error) throw remoteError(record.body, "the node");
      await sendTo(near, tree, decodeState(record.body), "delta", false);
      return near.bytesSent + near.bytesReceived;
    } finally {
      near.close();
    }
  };
  await push(room, node, "first", "measure");
  const total = await once("measure", {});
  const names: string[] = [];
  for (let cut = 1; cut < total; cut += Math.max(1, Math.floor(total / 40))) {
    const name = `c${cut}`;
    names.push(name);
    await push(room, node, "first", name);
    await assert.rejects(
      once(name, { cutAfterBytes: cut }),
      (error) => error instanceof DroverError && error.code === "disconnected",
      name,
    );
    const state = await stateOf(room.context, room.path(`node/${name}`));
    assert.ok(
      state.head === one.head && state.root === one.root ||
        state.head === two.head && state.root === two.root,
      name,
    );
    await push(room, node, "second", name);
    assert.deepEqual(await stateOf(room.context, room.path(`node/${name}`)), two, name);
  }
  assert.ok(names.length > 30 && rootPath === "");
});
