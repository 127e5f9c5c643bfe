/**
 * The lease table against a model: random grants, claims, departures, recalls and ends, by seed.
 */
import assert from "node:assert/strict";
import { DroverError } from "../../lib/base/errors.ts";
import { type Lease, LeaseTable, stateOf } from "../../lib/cluster/lease_table.ts";

const mebibyte = 2 ** 20;

function dice(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = Math.imul(state ^ (state >>> 15), 0x2c1b3c6d) + 0x9e3779b9 | 0;
    return (state >>> 0) % below;
  };
}

Deno.test("LeaseTable never lends beyond its budget, and a ticket opens one lease or none", () => {
  for (let seed = 1; seed <= 300; seed++) {
    const roll = dice(seed);
    const budget = (4 + roll(30)) * mebibyte;
    const table = new LeaseTable<string>({ budget, limits: { leases: 6, perOwner: 3, graceMs: 100 } });
    const live = new Map<string, Lease<string>>();
    const ending = new Set<Lease<string>>();
    let now = 0;
    let tickets = 0;
    for (let step = 0; step < 120; step++) {
      now += roll(40);
      const owner = `owner${roll(3)}`;
      const some = [...live.values()][roll(Math.max(1, live.size))];
      switch (roll(7)) {
        case 0:
        case 1: {
          const size = (1 + roll(8)) * mebibyte;
          const ticket = `ticket${++tickets}`;
          try {
            const lease = table.grant({
              owner,
              borrower: owner,
              address: "::1",
              size,
              least: mebibyte,
              ticket,
              available: Infinity,
              now,
            });
            assert.ok(lease.size <= size && lease.size >= mebibyte);
            live.set(ticket, lease);
          } catch (error) {
            assert.ok(error instanceof DroverError, `seed ${seed}: ${error}`);
          }
          break;
        }
        case 2:
          if (some !== undefined) {
            const claimed = table.claim(some.ticket, { owner, borrower: owner, address: "::1" });
            if (claimed !== null) assert.equal(claimed, some);
          }
          assert.equal(table.claim("ticket0", { owner, borrower: owner, address: "::1" }), null);
          break;
        case 3:
          for (const lease of table.leave(owner, now)) assert.equal(stateOf(lease), "unattended");
          assert.equal(table.owned(owner).length, 0);
          break;
        case 4:
          if (some !== undefined) table.recall(some, now + roll(100));
          break;
        case 5: {
          const due = table.due(now);
          for (const lease of live.values()) {
            const isDue = lease.graceEndsAt <= now || lease.recallEndsAt <= now;
            assert.equal(due.includes(lease), isDue, `seed ${seed}: lease ${lease.id}`);
          }
          for (const lease of due) {
            table.beginEnd(lease);
            live.delete(lease.ticket);
            ending.add(lease);
          }
          break;
        }
        default:
          for (const lease of ending) table.ended(lease);
          ending.clear();
      }
      const bytes = [...live.values(), ...ending].reduce((sum, { size }) => sum + size, 0);
      assert.equal(table.lent, bytes, `seed ${seed}, step ${step}`);
      assert.ok(table.lent <= budget, `seed ${seed}, step ${step}`);
      assert.equal(table.leases.length, live.size);
      for (const [ticket, lease] of live) assert.equal(table.find(ticket), lease);
      for (const { ticket } of ending) assert.equal(table.find(ticket), null);
      for (const owner of ["owner0", "owner1", "owner2"]) assert.ok(table.owned(owner).length <= 3);
    }
  }
});

Deno.test("LeaseTable recalls the newest leases first, and no more than has to go", () => {
  const table = new LeaseTable<string>({
    budget: 10 * mebibyte,
    limits: { leases: 9, perOwner: 9, graceMs: 1 },
  });
  const common = { owner: "a", borrower: "a", address: "::1", available: Infinity, now: 0 };
  for (const [at, size] of [2, 3, 4].entries()) {
    table.grant({ ...common, size: size * mebibyte, least: mebibyte, ticket: `t${at}` });
  }
  table.setBudget(6 * mebibyte);
  assert.deepEqual(table.excess().map(({ id }) => id), [3]);
  for (const lease of table.excess()) table.recall(lease, 10);
  assert.deepEqual(table.excess(), []);
  table.setBudget(0);
  assert.deepEqual(table.excess().map(({ id }) => id), [2, 1]);
  assert.equal(table.free, 0);
});
