/**
 * The donor: real sockets of loopback, a real NBD client for the pages, and peers that do what they should not.
 */
import assert from "node:assert/strict";
import { DroverError } from "../../lib/base/errors.ts";
import { borrow, listDonor } from "../../lib/cluster/mod.ts";
import { clusterRecord, decodeError, decodeLent, encode, encodeHello } from "../../lib/cluster/messages.ts";
import { clusterLimits } from "../../lib/cluster/mod.ts";
import { type Channel, dial, parseAddress } from "../../lib/net/mod.ts";
import { listNbdExports } from "../../lib/nbd/mod.ts";
import { mebibyte, pageChannel, TestDonor } from "./room.ts";

const key = null;

/** A control connection, by hand. */
async function control(address: string, name = "hand"): Promise<Channel> {
  const channel = await dial({ ...parseAddress(address), key, limits: clusterLimits });
  await channel.send(clusterRecord.hello, encodeHello({ name, instance: "0".repeat(32) }));
  const welcome = await channel.receive();
  assert.equal(welcome?.type, clusterRecord.welcome);
  return channel;
}

async function ask(
  channel: Channel,
  type: number,
  message: object,
): Promise<{ type: number; body: Uint8Array }> {
  await channel.send(type, encode({ request: 1, ...message }));
  const record = await channel.receive();
  assert.notEqual(record, null);
  return record as { type: number; body: Uint8Array };
}

Deno.test("Donor lends memory that keeps pages, apart from every other borrower's", async () => {
  await using node = await TestDonor.open();
  const nodes = [node.address];
  await using one = await borrow({ nodes, key, size: 2 * mebibyte, name: "one" });
  await using two = await borrow({ nodes, key, size: 3 * mebibyte, name: "two" });
  const [mine, theirs] = [one.slots[0], two.slots[0]];
  assert.ok(mine !== undefined && theirs !== undefined);
  assert.notEqual(mine.ticket, theirs.ticket);
  await using pages = await pageChannel(mine);
  await using others = await pageChannel(theirs);
  assert.equal(pages.info.size, 2 * mebibyte);
  await pages.writeAt(8192, new Uint8Array(4096).fill(7));
  await others.writeAt(8192, new Uint8Array(4096).fill(9));
  const page = new Uint8Array(4096);
  await pages.readAt(8192, page);
  assert.ok(page.every((byte) => byte === 7));
  await others.readAt(0, page);
  assert.ok(page.every((byte) => byte === 0));
  await assert.rejects(pages.readAt(2 * mebibyte, page));

  const status = await listDonor({ node: parseAddress(node.address), key });
  assert.deepEqual(
    status.leases.map(({ borrower, size, state, connections, writtenBytes }) => ({
      borrower,
      size,
      state,
      connections,
      writtenBytes,
    })),
    [
      { borrower: "one", size: 2 * mebibyte, state: "attended", connections: 1, writtenBytes: 4096 },
      { borrower: "two", size: 3 * mebibyte, state: "attended", connections: 1, writtenBytes: 4096 },
    ],
  );
  assert.equal(status.free, 59 * mebibyte);
});

Deno.test("Donor shows tickets to nobody: not in LIST, not in its log, not to NBD's LIST", async () => {
  await using node = await TestDonor.open();
  await using room = await borrow({ nodes: [node.address], key, size: mebibyte });
  const [slots] = room.slots;
  assert.ok(slots !== undefined);
  {
    await using pages = await pageChannel(slots);
    await pages.writeAt(0, new Uint8Array(4096).fill(1));
  }
  await assert.rejects(pageChannel({ ...slots, ticket: "f".repeat(64) }));
  const shown = JSON.stringify([node.donor.status, node.logged]);
  assert.ok(!shown.includes(slots.ticket), "the ticket is shown");
  assert.ok(!shown.includes("f".repeat(64)), "a ticket that somebody tried is shown");
  const plain = await Deno.connect({ hostname: slots.hostname, port: slots.port });
  assert.deepEqual(await listNbdExports(plain), []);
});

Deno.test("Donor refuses tickets that are wrong, dead, or come from another host, all with one answer", async () => {
  await using node = await TestDonor.open({ place: { hostname: "::", port: 0 } });
  const room = await borrow({ nodes: [node.address], key, size: mebibyte });
  const [slots] = room.slots;
  assert.ok(slots !== undefined);
  const answer = async (attempt: { hostname: string; ticket: string }): Promise<string> => {
    const error = await pageChannel({ ...slots, ...attempt }).then(() => null, (reason) => reason);
    assert.ok(error instanceof Error);
    return error.message.replaceAll(`"${attempt.ticket}"`, "TICKET");
  };
  const flipped = (slots.ticket.startsWith("0") ? "1" : "0") + slots.ticket.slice(1);
  const wrong = await answer({ hostname: "127.0.0.1", ticket: flipped });
  // The lease was lent over 127.0.0.1: the same ticket from ::1 comes from another host.
  const stranger = await answer({ hostname: "::1", ticket: slots.ticket });
  await (await pageChannel(slots)).close();
  await room.close();
  const dead = await answer({ hostname: "127.0.0.1", ticket: slots.ticket });
  const none = await answer({ hostname: "127.0.0.1", ticket: "" });
  assert.equal(stranger, wrong);
  assert.equal(dead, wrong);
  assert.equal(none, wrong);
  const reasons = node.logged.filter(({ event }) => event === "page-channel.refused").map(({ fields }) =>
    fields["reason"]
  );
  // The client asks once or twice, but each attempt has its own reason.
  const changes = reasons.filter((reason, at) => reason !== reasons[at - 1]);
  assert.deepEqual(changes, ["no lease", "another host", "no lease"]);
});

Deno.test("Donor gives memory back when it is returned, and what is lent next is zeros", async () => {
  await using node = await TestDonor.open({ budget: 32 * mebibyte });
  const nodes = [node.address];
  const rss = (): number => Deno.memoryUsage().rss;
  const before = rss();
  for (let round = 0; round < 3; round++) {
    await using room = await borrow({ nodes, key, size: 32 * mebibyte });
    const [slots] = room.slots;
    assert.ok(slots !== undefined);
    await using pages = await pageChannel(slots);
    const block = new Uint8Array(mebibyte);
    for (let at = 0; at < 32; at++) {
      await pages.readAt(at * mebibyte, block);
      assert.ok(block.every((byte) => byte === 0), `round ${round}: memory that was lent before`);
      await pages.writeAt(at * mebibyte, block.fill(round + 1));
      block.fill(0);
    }
    assert.equal(node.donor.free, 0);
  }
  await node.logs("lease.ended", 3);
  assert.equal(node.donor.free, 32 * mebibyte);
  assert.ok(rss() - before < 24 * mebibyte, `RSS grew by ${rss() - before}`);
});

Deno.test("Donor zeroes what is trimmed", async () => {
  await using node = await TestDonor.open();
  await using room = await borrow({ nodes: [node.address], key, size: mebibyte });
  const [slots] = room.slots;
  assert.ok(slots !== undefined);
  await using pages = await pageChannel(slots);
  await pages.writeAt(0, new Uint8Array(mebibyte).fill(5));
  await pages.trim(4096, 8192);
  const bytes = new Uint8Array(4 * 4096);
  await pages.readAt(0, bytes);
  const kept = [...bytes].map((byte, at) => [byte, Math.floor(at / 4096)]).filter(([byte]) => byte === 5)
    .map(([, page]) => page);
  assert.deepEqual([...new Set(kept)], [0, 3]);
});

Deno.test("Donor bounds what it lends: budget, leases of one borrower, leases of all, and the system's memory", async () => {
  let available = Infinity;
  await using node = await TestDonor.open({
    budget: 8 * mebibyte,
    leases: 4,
    leasesPerBorrower: 2,
    available: () => available,
  });
  using one = await control(node.address, "one");
  const lend = async (channel: Channel, size: number, least = size): Promise<string | number> => {
    const { type, body } = await ask(channel, clusterRecord.lend, { size, least });
    if (type === clusterRecord.error) return decodeError(body, "donor").error.code;
    return decodeLent(body).size;
  };
  assert.equal(await lend(one, 9 * mebibyte), "no-space");
  assert.equal(await lend(one, 9 * mebibyte, mebibyte), 8 * mebibyte);
  assert.equal(await lend(one, mebibyte), "no-space");
  await ask(one, clusterRecord.return, { lease: 1 });
  available = 3 * mebibyte + 100;
  assert.equal(await lend(one, 4 * mebibyte), "no-space");
  assert.equal(await lend(one, 4 * mebibyte, mebibyte), 3 * mebibyte);
  available = Infinity;
  assert.equal(await lend(one, mebibyte), mebibyte);
  assert.equal(await lend(one, mebibyte), "busy");
  using two = await control(node.address, "two");
  assert.equal(await lend(two, mebibyte), mebibyte);
  assert.equal(await lend(two, mebibyte), mebibyte);
  using three = await control(node.address, "three");
  assert.equal(await lend(three, mebibyte), "busy");
  assert.equal(node.donor.status.lent, 6 * mebibyte);
});

Deno.test("Donor takes a lease back from nobody but its borrower", async () => {
  await using node = await TestDonor.open();
  await using room = await borrow({ nodes: [node.address], key, size: mebibyte });
  using other = await control(node.address, "other");
  const { type, body } = await ask(other, clusterRecord.return, { lease: 1 });
  assert.equal(type, clusterRecord.error);
  assert.equal(decodeError(body, "donor").error.code, "usage");
  const missing = decodeError((await ask(other, clusterRecord.return, { lease: 2 })).body, "donor").error;
  assert.equal(missing.message.replace("2", "1"), decodeError(body, "donor").error.message);
  assert.equal(room.slots.length, 1);
  assert.equal(node.donor.status.leases.length, 1);
});

Deno.test("Donor ends a conversation that breaks the rules, and no other", async () => {
  await using node = await TestDonor.open();
  await using room = await borrow({ nodes: [node.address], key, size: mebibyte });
  const attempts: [string, number, Uint8Array][] = [
    ["no JSON", clusterRecord.lend, new TextEncoder().encode("{")],
    ["a list", clusterRecord.lend, new TextEncoder().encode("[]")],
    ["no size", clusterRecord.lend, encode({ request: 1, least: mebibyte })],
    ["an odd size", clusterRecord.lend, encode({ request: 1, size: mebibyte + 1, least: mebibyte })],
    ["a small size", clusterRecord.lend, encode({ request: 1, size: 4096, least: 4096 })],
    ["a huge size", clusterRecord.lend, encode({ request: 1, size: 2 ** 50, least: mebibyte })],
    ["least above size", clusterRecord.lend, encode({ request: 1, size: mebibyte, least: 2 * mebibyte })],
    ["a negative request", clusterRecord.lend, encode({ request: -1, size: mebibyte, least: mebibyte })],
    ["a claim of no ticket", clusterRecord.renew, encode({ request: 1, claim: ["x"] })],
    ["too many claims", clusterRecord.renew, encode({ request: 1, claim: Array(513).fill("0".repeat(64)) })],
    ["WELCOME", clusterRecord.welcome, encode({})],
    ["HELLO again", clusterRecord.hello, encodeHello({ name: "x", instance: "0".repeat(32) })],
  ];
  for (const [what, type, body] of attempts) {
    using channel = await control(node.address);
    await channel.send(type, body);
    const record = await channel.receive();
    assert.equal(record?.type, clusterRecord.error, what);
    assert.equal(decodeError(record.body, "donor").request, null, what);
    assert.equal(await channel.receive(), null, what);
  }
  // A body above its bound and a type that is not there end it on the record's head.
  for (const [type, size] of [[clusterRecord.lend, 65_537], [0x3aa, 1]] as const) {
    using channel = await control(node.address);
    await channel.send(type, new Uint8Array(size)).catch(() => {});
    const error = await channel.receive().then(() => null, (reason) => reason);
    assert.ok(error === null || error instanceof DroverError);
    await node.logs("borrower.refused", attempts.length + (type === 0x3aa ? 2 : 1));
  }
  const hellos = [
    { protocol: 2, name: "x", instance: "0".repeat(32) },
    { protocol: 1, name: "two words", instance: "0".repeat(32) },
    { protocol: 1, name: "x", instance: "short" },
    { protocol: 1, name: "x".repeat(65), instance: "0".repeat(32) },
  ];
  for (const hello of hellos) {
    using channel = await dial({ ...parseAddress(node.address), key, limits: clusterLimits });
    await channel.send(clusterRecord.hello, encode(hello));
    assert.equal((await channel.receive())?.type, clusterRecord.error);
  }
  assert.equal(node.donor.status.leases.length, 1);
  const [slots] = room.slots;
  assert.ok(slots !== undefined);
  await using pages = await pageChannel(slots);
  await pages.writeAt(0, new Uint8Array(4096));
});

Deno.test("Donor's page channels: those that name no ticket make room for those that do", async () => {
  await using node = await TestDonor.open({ pageChannels: 4, pageChannelsPerLease: 2 });
  await using room = await borrow({ nodes: [node.address], key, size: mebibyte });
  const [slots] = room.slots;
  assert.ok(slots !== undefined);
  // Slow loris: they connect, send half an option, and stay.
  const silent: Deno.Conn[] = [];
  for (let count = 0; count < 12; count++) {
    const connection = await Deno.connect({ hostname: slots.hostname, port: slots.port });
    await connection.write(new Uint8Array([0, 0, 0, 1, 0x49]));
    silent.push(connection);
  }
  await using one = await pageChannel(slots);
  await using two = await pageChannel(slots);
  await assert.rejects(pageChannel(slots), "a third channel of one lease");
  await one.writeAt(0, new Uint8Array(4096).fill(1));
  await two.writeAt(4096, new Uint8Array(4096).fill(2));
  // Those that have an export are never ended for others.
  for (let count = 0; count < 12; count++) {
    const connection = await Deno.connect({ hostname: slots.hostname, port: slots.port });
    silent.push(connection);
  }
  await one.writeAt(8192, new Uint8Array(4096).fill(1));
  await two.writeAt(8192, new Uint8Array(4096).fill(2));
  for (const connection of silent) connection.close();
});

Deno.test("Donor ends a page channel that names no ticket in time, and a borrower that says nothing", async () => {
  await using node = await TestDonor.open({ pageDeadlineMs: 50, renewMs: 20, graceMs: 30 });
  const slow = await Deno.connect({ hostname: "127.0.0.1", port: node.donor.pagePort });
  await node.logs("page-channel.failed");
  slow.close();
  using mute = await control(node.address, "mute");
  const lent = decodeLent((await ask(mute, clusterRecord.lend, { size: mebibyte, least: mebibyte })).body);
  await node.logs("borrower.left");
  const { fields } = await node.logs("lease.ended");
  assert.deepEqual([fields["lease"], fields["why"]], [lent.lease, "overdue"]);
  assert.equal(node.donor.status.lent, 0);
});

Deno.test("Donor keeps a lease through a step of the clock", async () => {
  const real = Date.now;
  await using node = await TestDonor.open({ renewMs: 20, graceMs: 60 });
  await using room = await borrow({ nodes: [node.address], key, size: mebibyte });
  try {
    for (const step of [3600_000, -7200_000]) {
      Date.now = () => real() + step;
      const before = node.donor.status.uptimeMs;
      while (node.donor.status.uptimeMs < before + 150) {
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
      assert.equal(room.slots.length, 1);
      assert.equal(node.donor.status.leases[0]?.state, "attended");
    }
  } finally {
    Date.now = real;
  }
});

Deno.test("Donor that is closed recalls, and waits until everything is returned", async () => {
  const node = await TestDonor.open();
  await using room = await borrow({
    nodes: [node.address],
    key,
    size: mebibyte,
    onEvent: (event) => {
      if (event.event === "recalled") void room.giveBack(event.slots);
    },
  });
  await node.donor.close({ withinMs: 60_000 });
  const ended = node.logged.filter(({ event }) => event === "lease.ended");
  assert.deepEqual(ended.map(({ fields }) => fields["why"]), ["returned"]);
  await node.close();
});

Deno.test("Donor without a working transport for a lease has lent nothing", async () => {
  const rdma = {
    port: 1,
    lend: () => {
      throw new Error("no device");
    },
    recall: () => {},
  };
  await using node = await TestDonor.open({ rdma });
  await assert.rejects(
    borrow({ nodes: [node.address], key, size: mebibyte }),
    (error) => error instanceof DroverError && error.code === "no-space",
  );
  await node.logs("lease.ended");
  assert.equal(node.donor.status.lent, 0);
});
