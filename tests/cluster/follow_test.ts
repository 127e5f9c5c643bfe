/**
 * A region in step with its room: a region that only notes what is asked of it, over real donors.
 */
import assert from "node:assert/strict";
import { borrow, followRoom, type RegionDonors } from "../../lib/cluster/mod.ts";
import type { RemoteSlots } from "../../lib/region/mod.ts";
import { Heard, mebibyte, TestDonor } from "./room.ts";

const key = null;

/** Notes what is asked of it. A file is store 0. */
class NotedRegion implements RegionDonors {
  readonly heard = new Heard<string>();
  readonly tickets: (string | null)[] = [null];
  /** Attempts to clear a donor that leave pages there. */
  full = 0;

  constructor(opened: readonly RemoteSlots[]) {
    this.tickets.push(...opened.map(({ ticket }) => ticket));
  }

  stores(): { kind: string }[] {
    return this.tickets.map((ticket) => ({ kind: ticket === null ? "file" : "nbd" }));
  }

  addDonor({ ticket }: RemoteSlots): Promise<number> {
    this.heard.hear(`add ${ticket}`);
    return Promise.resolve(this.tickets.push(ticket) - 1);
  }

  retireDonor(store: number, { lost = false }: { lost?: boolean } = {}): Promise<number> {
    this.heard.hear(`${lost ? "lost" : "retire"} ${this.tickets[store]}`);
    if (lost || this.full === 0) return Promise.resolve(0);
    this.full--;
    return Promise.resolve(5);
  }

  mend(): Promise<number> {
    this.heard.hear("mend");
    return Promise.resolve(0);
  }
}

Deno.test("followRoom() clears a recalled donor before it gets its memory, and takes the new room", async () => {
  await using one = await TestDonor.open({ name: "one" });
  await using two = await TestDonor.open({ name: "two" });
  await using room = await borrow({ nodes: [one.address, two.address], key, size: 8 * mebibyte });
  const opened = room.slots;
  const region = new NotedRegion(opened);
  region.full = 1;
  await using _ = followRoom({ region, room, opened });
  const mine = opened.find(({ donor }) => donor === "one")?.ticket;
  one.donor.setBudget(0);
  await one.logs("lease.ended");
  const { all } = region.heard;
  assert.deepEqual(all.filter((call) => call.startsWith("retire")), [`retire ${mine}`, `retire ${mine}`]);
  assert.equal(one.logged.filter(({ event }) => event === "lease.ended")[0]?.fields["why"], "returned");
  await region.heard.until((call) => call.startsWith("add "));
  await region.heard.until((call) => call === "mend");
  assert.ok(!all.some((call) => call.startsWith("lost")));
});

Deno.test("followRoom() gives up what was lost, also before it began, and learns of what came meanwhile", async () => {
  const one = await TestDonor.open({ name: "one", graceMs: 60_000 });
  await using two = await TestDonor.open({ name: "two" });
  await using room = await borrow({
    nodes: [one.address, two.address],
    key,
    size: 8 * mebibyte,
    pauseMs: { first: 5, most: 10 },
  });
  const opened = room.slots;
  const mine = opened.find(({ donor }) => donor === "one")?.ticket;
  const region = new NotedRegion(opened);
  const port = Number(one.address.split(":").at(-1));
  const changed = new Heard<string>();
  room.subscribe(({ event }) => changed.hear(event));
  await one.close();
  await using again = await TestDonor.open({ name: "one" }, { port });
  await changed.until((event) => event === "lent");
  assert.ok(again.donor.status.lent + two.donor.status.lent >= 8 * mebibyte);
  {
    await using _ = followRoom({ region, room, opened });
    await region.heard.until((call) => call === `lost ${mine}`);
    await region.heard.until((call) => call.startsWith("add "));
  }
  // Nothing is asked of the region any more.
  const calls = region.heard.all.length;
  two.donor.setBudget(0);
  await changed.until((event) => event === "recalled");
  assert.equal(region.heard.all.length, calls);
});
