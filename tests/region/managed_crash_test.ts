/**
 * A managed mount whose process, or machine, dies between any two steps, again and again on the same disk.
 *
 * Goal: nothing that was acknowledged is lost, nothing reads as what it never was, and local and source never differ without
 * the mount knowing. Method: several writers, each with cells of its own (64 bytes, so that many share a block),
 * write numbered values; what each cell may hold afterwards follows from what was acknowledged and flushed.
 * After each death the mount is opened again on what is left, every cell is read, everything is pushed, and then
 * the source must hold the same.
 *
 * DROVER_CRASH_SEEDS=100000 runs more; a failing seed is in the message.
 */
import assert from "node:assert/strict";
import { openManaged } from "../../lib/region/managed.ts";
import { prng } from "../stream/prng.ts";
import { Machine, Process, Remote } from "./state_files.ts";

const block = 512;
const cellSize = 64;
const size = 40 * block - 64;
const cells = size / cellSize;
const writers = 4;

/** What a cell was given, in order, and from where on it may still be. */
interface History {
  values: number[];
  /** Index of the last value that was acknowledged. */
  acknowledged: number;
  /** Index of the last value that a flush covers. */
  flushed: number;
  /** Index of the last value that a flush to the source covers. */
  remote: number;
}

function cellBytes(value: number): Uint8Array {
  const bytes = new Uint8Array(cellSize);
  new Uint32Array(bytes.buffer).fill(value);
  return bytes;
}

/** The value of a cell; several where a write of it was cut. */
function valueOf(bytes: Uint8Array, cell: number): number[] {
  const words = new Uint32Array(bytes.slice(cell * cellSize, (cell + 1) * cellSize).buffer);
  return [...new Set(words)];
}

async function runSeed(seed: number): Promise<{ deaths: number; recovered: string[] }> {
  const chance = prng(seed);
  const machine = new Machine(size);
  const remote = new Uint8Array(size);
  const histories: History[] = [];
  let nextValue = 1;
  for (let cell = 0; cell < cells; cell++) {
    remote.set(cellBytes(nextValue), cell * cellSize);
    histories.push({ values: [nextValue++], acknowledged: 0, flushed: 0, remote: 0 });
  }
  const check = (bytes: Uint8Array, floor: (history: History) => number, what: string): void => {
    for (let cell = 0; cell < cells; cell++) {
      const history = histories[cell];
      assert.ok(history !== undefined);
      const allowed = history.values.slice(floor(history));
      for (const value of valueOf(bytes, cell)) {
        assert.ok(
          allowed.includes(value),
          `seed ${seed}: ${what}: cell ${cell} holds ${value}, and should be one of ${allowed.join()}`,
        );
      }
    }
  };
  let deaths = 0;
  const recovered: string[] = [];
  for (let session = 0; session < 4; session++) {
    let death = (): void => {};
    const died = new Promise<void>((resolve) => death = resolve);
    const process = new Process(chance(5) === 0 ? Infinity : 1 + chance(chance(2) === 0 ? 60 : 600), death);
    const durability = chance(2) === 0 ? "local" : "remote";
    let ended = false;
    try {
      const mount = await openManaged({
        source: new Remote(remote, process),
        local: machine.disk(process, chance),
        state: machine.notes(process),
        block,
        demand: 1024,
        chunk: 4096,
        inFlightMax: 4096 * (1 + chance(3)),
        pull: chance(3) > 0,
        durability,
        pushIntervalMs: [0, 1, null][chance(3)] ?? null,
        timeoutMs: 5000,
      });
      recovered.push(mount.stats.recovered);
      const writer = async (index: number): Promise<void> => {
        for (let round = 0; round < 12 && !process.dead; round++) {
          const kind = chance(10);
          const span = Math.floor(cells / writers);
          const first = index * span + chance(span);
          const count = 1 + chance(Math.min(chance(2) === 0 ? 3 : 24, index * span + span - first));
          if (kind < 2) {
            const before = histories.map(({ acknowledged }) => acknowledged);
            await mount.flush();
            histories.forEach((history, cell) => {
              history.flushed = Math.max(history.flushed, before[cell] ?? 0);
              if (durability === "remote") history.remote = Math.max(history.remote, before[cell] ?? 0);
            });
          } else if (kind < 5) {
            const into = new Uint8Array(count * cellSize);
            await mount.readAt(first * cellSize, into);
            for (let cell = 0; cell < count; cell++) {
              const history = histories[first + cell];
              assert.deepEqual(valueOf(into, cell), [history?.values.at(-1)], `seed ${seed}: a read`);
            }
          } else {
            const bytes = new Uint8Array(count * cellSize);
            for (let cell = 0; cell < count; cell++) {
              histories[first + cell]?.values.push(nextValue);
              bytes.set(cellBytes(nextValue++), cell * cellSize);
            }
            await mount.writeAt(first * cellSize, bytes);
            for (let cell = 0; cell < count; cell++) {
              const history = histories[first + cell];
              if (history !== undefined) history.acknowledged = history.values.length - 1;
            }
          }
          if (chance(6) === 0) await new Promise((resolve) => setTimeout(resolve, 0));
        }
      };
      const work = Promise.allSettled(Array.from({ length: writers }, (_, index) => writer(index)));
      await Promise.race([work, died]);
      const results = await work;
      for (const result of results) {
        if (result.status === "rejected" && !(result.reason instanceof TypeError)) throw result.reason;
      }
      await mount.close().catch((error) => {
        if (!process.dead) throw error;
      });
      ended = !process.dead;
    } catch (error) {
      if (!process.dead || error instanceof assert.AssertionError) throw error;
    }
    check(remote, (history) => history.remote, "the source");
    const cut = chance(2) === 0;
    if (!ended) deaths++;
    // After a clean end a power cut must cost nothing either.
    if (cut) machine.cutPower(chance);
    const alive = new Process(Infinity, () => {});
    await using mount = await openManaged({
      source: new Remote(remote, alive),
      local: machine.disk(alive, () => 0),
      state: machine.notes(alive),
      block,
      demand: 1024,
      chunk: 4096,
      inFlightMax: 8192,
      pull: false,
      pushIntervalMs: null,
    });
    const all = new Uint8Array(size);
    await mount.readAt(0, all);
    check(
      all,
      (history) => cut && !ended ? history.flushed : history.acknowledged,
      cut ? "a power cut" : "a kill",
    );
    await mount.push();
    for (let at = 0; at < size; at++) {
      assert.ok(
        remote[at] === all[at],
        `seed ${seed}: the source differs from the mount at ${at}, and nobody knows`,
      );
    }
    // What each cell holds is what it is from now on.
    histories.forEach((history, cell) => {
      remote.set(cellBytes(nextValue), cell * cellSize);
      history.values = [];
    });
    const fresh = new Uint8Array(size);
    for (let cell = 0; cell < cells; cell++) {
      const history = histories[cell];
      if (history === undefined) continue;
      history.values = [nextValue];
      history.acknowledged = history.flushed = history.remote = 0;
      fresh.set(cellBytes(nextValue++), cell * cellSize);
    }
    await mount.writeAt(0, fresh);
    await mount.push();
    await mount.flush();
  }
  return { deaths, recovered };
}

Deno.test("ManagedBackend loses nothing that was acknowledged, whenever its process or its machine dies", async () => {
  const seeds = Number(Deno.env.get("DROVER_CRASH_SEEDS") ?? 50);
  let deaths = 0;
  const recovered = new Set<string>();
  for (let seed = 1; seed <= seeds; seed++) {
    const ran = await runSeed(seed);
    deaths += ran.deaths;
    for (const how of ran.recovered) recovered.add(how);
  }
  assert.ok(deaths >= seeds, `only ${deaths} deaths in ${seeds} seeds`);
});

Deno.test("ManagedBackend.flush() to the source outlives a power cut that takes the local backend back", async () => {
  const machine = new Machine(size);
  const remote = new Uint8Array(size);
  const open = (process: Process, durability: "local" | "remote") =>
    openManaged({
      source: new Remote(remote, process),
      local: machine.disk(process, () => 0),
      state: machine.notes(process),
      block,
      demand: 1024,
      chunk: 4096,
      durability,
      pull: false,
      pushIntervalMs: null,
    });
  const kill = async (process: Process, mount: AsyncDisposable): Promise<void> => {
    process.kill();
    await assert.rejects(async () => await mount[Symbol.asyncDispose]());
  };
  for (const [durability, value] of [["local", 1], ["remote", 2]] as const) {
    const process = new Process(Infinity, () => {});
    const mount = await open(process, durability);
    await mount.writeAt(0, new Uint8Array(block).fill(value));
    await mount.flush();
    await kill(process, mount);
  }
  // Nothing that was not flushed is kept.
  machine.cutPower(() => 0);
  await using mount = await open(new Process(Infinity, () => {}), "local");
  const into = new Uint8Array(block);
  await mount.readAt(0, into);
  assert.equal(into[0], 2);
  await mount.push();
  assert.equal(remote[0], 2, "an older block was pushed over a newer one");
});
