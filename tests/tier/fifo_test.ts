import assert from "node:assert/strict";
import { type Segment, SegmentedFifo } from "../../lib/tier/mod.ts";
import { prng } from "../stream/prng.ts";

/** The same lists as arrays, oldest first. */
class SlowFifo {
  active: number[] = [];
  standby: number[] = [];
  target: number;

  constructor(target: number) {
    this.target = target;
  }

  remove(page: number): void {
    this.active = this.active.filter((other) => other !== page);
    this.standby = this.standby.filter((other) => other !== page);
  }

  insert(page: number): void {
    this.remove(page);
    this.active.push(page);
    while (this.standby.length < this.target && this.active.length > this.target) {
      this.standby.push(this.active.shift() ?? -1);
    }
  }

  touch(page: number): Segment {
    if (this.active.includes(page)) return "active";
    if (!this.standby.includes(page)) return "absent";
    this.insert(page);
    return "standby";
  }

  setAside(page: number): boolean {
    if (!this.active.includes(page)) return false;
    this.remove(page);
    this.standby.push(page);
    return true;
  }

  take(count: number): number[] {
    const taken = this.standby.splice(0, count);
    return [...taken, ...this.active.splice(0, count - taken.length)];
  }
}

Deno.test("SegmentedFifo does what two plain arrays do, over random operations", () => {
  for (let seed = 1; seed <= 40; seed++) {
    const random = prng(seed);
    const pages = 1 + random(40);
    const target = random(12);
    const fifo = new SegmentedFifo({ pages, standbyTarget: target });
    const slow = new SlowFifo(target);
    for (let turn = 0; turn < 400; turn++) {
      const page = random(pages);
      const kind = random(9);
      if (kind < 4) {
        fifo.insert(page);
        slow.insert(page);
      } else if (kind === 8) {
        assert.equal(fifo.setAside(page), slow.setAside(page), `seed ${seed}, turn ${turn}`);
      } else if (kind < 6) assert.equal(fifo.touch(page), slow.touch(page), `seed ${seed}, turn ${turn}`);
      else if (kind === 6) {
        fifo.remove(page);
        slow.remove(page);
      } else {
        const into = new Uint32Array(random(4));
        const count = fifo.take(into);
        assert.deepEqual([...into.subarray(0, count)], slow.take(into.length), `seed ${seed}, turn ${turn}`);
      }
      assert.deepEqual([...fifo.order("active")], slow.active, `seed ${seed}, turn ${turn}`);
      assert.deepEqual([...fifo.order("standby")], slow.standby, `seed ${seed}, turn ${turn}`);
      assert.equal(fifo.activeCount, slow.active.length);
      assert.equal(fifo.standbyCount, slow.standby.length);
    }
  }
});

Deno.test("SegmentedFifo gives a page in standby a second chance", () => {
  const fifo = new SegmentedFifo({ pages: 10, standbyTarget: 2 });
  for (let page = 0; page < 6; page++) fifo.insert(page);
  assert.deepEqual([...fifo.order("standby")], [0, 1]);
  assert.equal(fifo.touch(0), "standby");
  assert.deepEqual([...fifo.order("standby")], [1, 2]);
  assert.equal(fifo.segmentOf(0), "active");
  const victims = new Uint32Array(3);
  assert.equal(fifo.take(victims), 3);
  assert.deepEqual([...victims], [1, 2, 3]);
});

Deno.test("SegmentedFifo.insert() refuses a page outside the region", () => {
  const fifo = new SegmentedFifo({ pages: 4, standbyTarget: 1 });
  assert.throws(() => fifo.insert(4), RangeError);
  assert.throws(() => fifo.insert(-1), RangeError);
  assert.equal(fifo.segmentOf(99), "absent");
});

Deno.test("SegmentedFifo.standbyTarget changes how much is put aside from the next insert on", () => {
  const fifo = new SegmentedFifo({ pages: 100, standbyTarget: 0 });
  for (let page = 0; page < 50; page++) fifo.insert(page);
  assert.equal(fifo.standbyCount, 0);
  fifo.standbyTarget = 7.9;
  fifo.insert(50);
  assert.equal(fifo.standbyCount, 7);
});
