/**
 * The borrower: what it takes from whom, what it refuses, and what it hears when donors want memory back, vanish, or come
 * back empty.
 */
import assert from "node:assert/strict";
import { DroverError } from "../../lib/base/errors.ts";
import { borrow, type BorrowEvent, clusterLimits } from "../../lib/cluster/mod.ts";
import { clusterRecord, encode } from "../../lib/cluster/messages.ts";
import { ClusterKey } from "../../lib/net/key.ts";
import { formatAddress, listen, parseAddress } from "../../lib/net/mod.ts";
import { Heard, mebibyte, pageChannel, TestDonor } from "./room.ts";

const key = null;
const pauseMs = { first: 10, most: 20 };

function isCode(code: string): (error: unknown) => boolean {
  return (error) => error instanceof DroverError && error.code === code;
}

/** Cuts connections between a borrower and a donor, and lets new ones through again. */
class Cable implements AsyncDisposable {
  readonly address: string;
  readonly #listener: Deno.TcpListener;
  readonly #target: { hostname: string; port: number };
  readonly #ends = new Set<Deno.Conn>();
  readonly #running: Promise<void>;
  plugged = true;

  constructor(target: string) {
    const { host, port } = parseAddress(target);
    this.#target = { hostname: host, port };
    this.#listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    this.address = `127.0.0.1:${this.#listener.addr.port}`;
    this.#running = this.#run();
  }

  cut(): void {
    this.plugged = false;
    for (const end of this.#ends) end.close();
    this.#ends.clear();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#listener.close();
    this.cut();
    await this.#running;
  }

  async #run(): Promise<void> {
    const pumps: Promise<unknown>[] = [];
    try {
      for await (const near of this.#listener) {
        if (!this.plugged) {
          near.close();
          continue;
        }
        const far = await Deno.connect(this.#target);
        for (const end of [near, far]) this.#ends.add(end);
        pumps.push(this.#pump(near, far), this.#pump(far, near));
      }
    } catch {
      // Closed.
    }
    await Promise.all(pumps);
  }

  async #pump(from: Deno.Conn, to: Deno.Conn): Promise<void> {
    const buffer = new Uint8Array(65_536);
    try {
      for (let size; (size = await from.read(buffer)) !== null;) {
        for (let at = 0; at < size;) at += await to.write(buffer.subarray(at, size));
      }
      await to.closeWrite();
    } catch {
      // Cut.
    }
  }
}

Deno.test("borrow() spreads over donors by what they have free, each copy on another donor", async () => {
  await using one = await TestDonor.open({ name: "one", budget: 30 * mebibyte });
  await using two = await TestDonor.open({ name: "two", budget: 10 * mebibyte });
  const nodes = [one.address, two.address];
  {
    await using room = await borrow({ nodes, key, size: "8MiB" });
    const sizes = new Map(room.slots.map(({ donor, size }) => [donor, size / mebibyte]));
    assert.deepEqual([sizes.get("one"), sizes.get("two")], [6, 2]);
  }
  {
    await using room = await borrow({ nodes, key, size: 9 * mebibyte, copies: 2 });
    assert.deepEqual(room.slots.map(({ size }) => size / mebibyte), [9, 9]);
  }
  await assert.rejects(borrow({ nodes, key, size: 11 * mebibyte, copies: 2 }), isCode("no-space"));
  await assert.rejects(borrow({ nodes, key, size: 41 * mebibyte }), isCode("no-space"));
  await using part = await borrow({ nodes, key, size: 41 * mebibyte, partial: true });
  assert.equal(part.size, 40 * mebibyte);
});

Deno.test("borrow() gives everything back when it fails, and when it is closed", async () => {
  await using one = await TestDonor.open({ budget: 8 * mebibyte });
  const nodes = [one.address];
  await assert.rejects(borrow({ nodes, key, size: 9 * mebibyte }), isCode("no-space"));
  assert.equal(one.donor.status.lent, 0);
  const room = await borrow({ nodes, key, size: 8 * mebibyte });
  assert.equal(one.donor.status.lent, 8 * mebibyte);
  await room.close();
  assert.equal(one.donor.status.lent, 0);
});

Deno.test("borrow() refuses one donor by two addresses, two donors with one name, and itself", async () => {
  const secret = new ClusterKey(new Uint8Array(32).fill(1));
  await using one = await TestDonor.open({ name: "same", place: { hostname: "::", port: 0 } }, {
    host: "",
    key: secret,
  });
  await using two = await TestDonor.open({ name: "same" }, { key: secret });
  const { port } = parseAddress(one.address);
  const again = `[::1]:${port}`;
  const size = mebibyte;
  await assert.rejects(
    borrow({ nodes: [`127.0.0.1:${port}`, again], key: secret, size, copies: 2 }),
    /it is the same donor as/,
  );
  await assert.rejects(borrow({ nodes: [again, two.address], key: secret, size }), isCode("usage"));
  await assert.rejects(
    borrow({ nodes: [two.address], key: secret, size, own: [two.donor.instance] }),
    /it is this process/,
  );
  assert.equal(one.donor.status.lent + two.donor.status.lent, 0);
});

Deno.test("borrow() needs the cluster's key", async () => {
  const right = new ClusterKey(new Uint8Array(32).fill(1));
  const wrong = new ClusterKey(new Uint8Array(32).fill(2));
  await using node = await TestDonor.open({}, { key: right });
  await assert.rejects(borrow({ nodes: [node.address], key: wrong, size: mebibyte }), isCode("auth"));
  await assert.rejects(borrow({ nodes: [node.address], key: null, size: mebibyte }), isCode("auth"));
  await using room = await borrow({ nodes: [node.address], key: right, size: mebibyte });
  assert.equal(room.slots[0]?.sealed, false, "loopback");
});

Deno.test("borrow() uses the donors that are there", async () => {
  await using one = await TestDonor.open({ name: "one" });
  const gone = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const nobody = `127.0.0.1:${gone.addr.port}`;
  gone.close();
  await using room = await borrow({ nodes: [nobody, one.address], key, size: mebibyte });
  assert.equal(room.slots[0]?.donor, "one");
  await assert.rejects(borrow({ nodes: [nobody], key, size: mebibyte }), isCode("disconnected"));
});

Deno.test("Borrowed comes back to its pages after a cut", async () => {
  await using node = await TestDonor.open({ renewMs: 50, graceMs: 60_000 });
  await using cable = new Cable(node.address);
  const heard = new Heard<BorrowEvent>();
  await using room = await borrow({
    nodes: [cable.address],
    key,
    size: mebibyte,
    onEvent: heard.hear,
    pauseMs,
  });
  const [slots] = room.slots;
  assert.ok(slots !== undefined);
  await using pages = await pageChannel(slots);
  await pages.writeAt(0, new Uint8Array(4096).fill(3));
  cable.cut();
  await heard.until(({ event }) => event === "down");
  await node.logs("borrower.left");
  assert.equal(node.donor.status.leases[0]?.state, "unattended");
  const page = new Uint8Array(4096);
  await pages.readAt(0, page);
  cable.plugged = true;
  await heard.until(({ event }) => event === "up");
  assert.equal(node.donor.status.leases[0]?.state, "attended");
  assert.deepEqual(room.slots, [slots]);
  await pages.readAt(0, page);
  assert.ok(page.every((byte) => byte === 3));
  assert.deepEqual(heard.all.map(({ event }) => event), ["lent", "down", "up"]);
});

Deno.test("Borrowed that comes back too late has lost its room, hears so once, and borrows anew", async () => {
  await using node = await TestDonor.open({ renewMs: 20, graceMs: 60 });
  await using cable = new Cable(node.address);
  const heard = new Heard<BorrowEvent>();
  await using room = await borrow({
    nodes: [cable.address],
    key,
    size: mebibyte,
    onEvent: heard.hear,
    pauseMs,
  });
  const [before] = room.slots;
  cable.cut();
  await node.logs("lease.ended");
  cable.plugged = true;
  await heard.until((event) => event.event === "lent" && event.slots.ticket !== before?.ticket);
  const lost = heard.all.filter(({ event }) => event === "lost");
  assert.equal(lost.length, 1);
  assert.equal(room.slots.length, 1);
  await assert.rejects(pageChannel(before ?? { hostname: "", port: 0, ticket: "" }));
});

Deno.test("Borrowed takes another instance at the same address for another memory", async () => {
  const first = await TestDonor.open({ graceMs: 60_000 });
  const port = parseAddress(first.address).port;
  const heard = new Heard<BorrowEvent>();
  await using room = await borrow({
    nodes: [first.address],
    key,
    size: mebibyte,
    onEvent: heard.hear,
    pauseMs,
  });
  const [before] = room.slots;
  // As after kill -9: nothing is recalled, and the connection just ends.
  await first.close();
  await using second = await TestDonor.open({}, { port });
  const lent = await heard.until((event) => event.event === "lent" && event.slots.ticket !== before?.ticket);
  assert.ok(lent.event === "lent");
  await using pages = await pageChannel(lent.slots);
  const page = new Uint8Array(4096).fill(1);
  await pages.readAt(0, page);
  assert.ok(page.every((byte) => byte === 0));
  assert.equal(second.donor.status.leases.length, 1);
  assert.ok(heard.all.some((event) => event.event === "lost" && event.slots.ticket === before?.ticket));
});

Deno.test("Borrowed hears a recall, gives back, and borrows the room elsewhere", async () => {
  await using one = await TestDonor.open({ name: "one", budget: 8 * mebibyte });
  await using two = await TestDonor.open({ name: "two", budget: 8 * mebibyte });
  const heard = new Heard<BorrowEvent>();
  await using room = await borrow({
    nodes: [one.address, two.address],
    key,
    size: 8 * mebibyte,
    onEvent: heard.hear,
  });
  one.donor.setBudget(0);
  const recalled = await heard.until((event) => event.event === "recalled");
  assert.ok(recalled.event === "recalled");
  assert.deepEqual([recalled.slots.donor, recalled.slots.size], ["one", 4 * mebibyte]);
  await room.giveBack(recalled.slots);
  assert.equal(one.donor.status.lent, 0);
  await heard.until((event) => event.event === "lent" && room.size === 8 * mebibyte);
  assert.ok(room.slots.every(({ donor }) => donor === "two"));
});

Deno.test("Borrowed that does not heed a recall loses the room when the time is over", async () => {
  await using one = await TestDonor.open({ budget: 4 * mebibyte, recallMs: 40 });
  const heard = new Heard<BorrowEvent>();
  await using room = await borrow({
    nodes: [one.address],
    key,
    size: 4 * mebibyte,
    onEvent: heard.hear,
    pauseMs,
  });
  const [slots] = room.slots;
  assert.ok(slots !== undefined);
  await using pages = await pageChannel(slots);
  await pages.writeAt(0, new Uint8Array(4096));
  one.donor.setBudget(mebibyte);
  const { fields } = await one.logs("lease.ended");
  assert.equal(fields["why"], "overdue");
  await assert.rejects(async () => await pages.readAt(0, new Uint8Array(4096)));
  assert.equal(one.donor.free, mebibyte);
});

/** A donor that answers by a script: what it sends after each record it gets. */
async function scripted(answers: (type: number, body: Uint8Array) => [number, object][]): Promise<{
  address: string;
  close: () => Promise<void>;
}> {
  const listener = await listen({ host: "127.0.0.1", port: 0, key, limits: clusterLimits });
  const serve = async (): Promise<void> => {
    for await (const channel of listener) {
      using _ = channel;
      for (let record; (record = await channel.receive().catch(() => null)) !== null;) {
        for (const [type, message] of answers(record.type, record.body)) {
          await channel.send(type, encode(message)).catch(() => {});
        }
      }
    }
  };
  const done = serve();
  return {
    address: formatAddress(listener.address),
    close: async () => {
      listener.close();
      await done;
    },
  };
}

Deno.test("borrow() refuses a donor that answers what it should not", async () => {
  const instance = "a".repeat(32);
  const welcome = {
    name: "x",
    instance,
    budget: 2 ** 30,
    free: 2 ** 30,
    graceMs: 50,
    renewMs: 1000,
    pageSize: 4096,
  };
  const lent = { request: 1, lease: 1, ticket: "b".repeat(64), size: mebibyte, port: 1, rdmaPort: null };
  const { hello, welcome: welcomeType, lent: lentType } = clusterRecord;
  const donors: [string, object, object][] = [
    ["no instance", { ...welcome, instance: "" }, lent],
    ["another page size", { ...welcome, pageSize: 65_536 }, lent],
    ["renewals without a pause", { ...welcome, renewMs: 0 }, lent],
    ["a name that is none", { ...welcome, name: "\u001b[2J" }, lent],
    ["a huge free", { ...welcome, free: 2 ** 60 }, lent],
    ["an answer to nothing", welcome, { ...lent, request: 7 }],
    ["more than was asked for", welcome, { ...lent, size: 2 * mebibyte }],
    ["a ticket that is none", welcome, { ...lent, ticket: "b" }],
    ["port 0", welcome, { ...lent, port: 0 }],
    ["port 65536", welcome, { ...lent, port: 65_536 }],
  ];
  for (const [what, first, second] of donors) {
    const node = await scripted((type) => type === hello ? [[welcomeType, first]] : [[lentType, second]]);
    await assert.rejects(
      borrow({ nodes: [node.address], key, size: mebibyte, pauseMs }),
      (error) => error instanceof DroverError,
      what,
    );
    await node.close();
  }
});

Deno.test("Borrowed takes a donor that went silent for cut", async () => {
  const instance = "a".repeat(32);
  const node = await scripted((type) => {
    if (type === clusterRecord.hello) {
      return [[clusterRecord.welcome, {
        name: "x",
        instance,
        budget: 2 ** 30,
        free: 2 ** 30,
        graceMs: 30,
        renewMs: 20,
        pageSize: 4096,
      }]];
    }
    if (type !== clusterRecord.lend) return [];
    return [[clusterRecord.lent, {
      request: 1,
      lease: 1,
      ticket: "b".repeat(64),
      size: mebibyte,
      port: 1,
      rdmaPort: null,
    }]];
  });
  const heard = new Heard<BorrowEvent>();
  const room = await borrow({
    nodes: [node.address],
    key,
    size: mebibyte,
    onEvent: heard.hear,
    pauseMs,
    timeoutMs: 100,
  });
  await heard.until(({ event }) => event === "down");
  await heard.until(({ event }) => event === "lost");
  assert.equal(room.slots.length, 0);
  await room.close();
  await node.close();
});
