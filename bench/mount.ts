/**
 * `deno task bench mount`: what a managed mount costs and saves, over a distance that the delay wrapper makes.
 *
 * Goals:
 *
 * | what                                                              | goal                                    |
 * | ----------------------------------------------------------------- | --------------------------------------- |
 * | first 4 KiB of a mount just opened, round trip 0, 10, 40 ms       | at most as the direct mount + 0.2 ms    |
 * | the same, pulled before it is opened                              | at most 0.3 ms                          |
 * | sequential read of it all, 40 ms, at most 16 MiB on their way     | 500 MB/s, or 0.9 × 16 MiB / 40 ms       |
 * | 4 KiB writes, each flushed, by 64 clients, until all is pushed    | 20 000 per second                       |
 * | reads that wait in the second use, with the order of the first    | 90 % fewer                              |
 *
 * Not goals: what a network does besides being far: losses, queues, other people.
 *
 * Method: everything is in this process. The source is noise in memory behind `delayed()`, the wall's clock; timers
 * are late by up to a millisecond, for direct and managed alike. Local backends are memory, but for the durable
 * writes: there a file with notes beside it, in a directory of --scratch, both flushed for real. Latencies are
 * medians of the rounds, throughput the median of the rounds' rates; each sequential read is checked against the
 * source, octet by octet, afterwards. Beside the durable writes stands what the disk gives without any of it: as many
 * clients on a plain file, flushes shared in the same way.
 *
 * @module
 */
import { parseArgs } from "node:util";
import { openNative } from "../ffi/mod.ts";
import { bytesEqual } from "../lib/base/hex.ts";
import type { Backend } from "../lib/region/backend.ts";
import { FileBackend } from "../lib/region/backend_file.ts";
import { MemoryBackend } from "../lib/region/backend_memory.ts";
import { delayed, systemClock } from "../lib/region/backend_wrap.ts";
import { type ManagedBackend, openManaged } from "../lib/region/managed.ts";
import { Rounds } from "../lib/region/rounds.ts";
import { commonOptions, numberOf, type Outlets, outlets } from "./options.ts";
import { Random } from "./random.ts";
import { Scratch } from "./scratch.ts";
import { formatTable, median } from "./table.ts";

const usage = `Usage: deno task bench mount [OPTION]...

Measures managed mounts over a distance, and prints each goal with what was reached.

Options:
      --size MIB     of the sequential reads; default: 512
      --rounds N     default: 5
      --writes N     durable writes; default: 40000
      --scratch DIR  where files go; default: /var/tmp
      --smoke        16 MiB, one round, few writes
      --strict       exit 1 when a goal is missed
      --json         JSON lines on stdout: one per figure and per goal; the table goes to stderr`;

const MiB = 2 ** 20;
const roundTripsMs = [0, 10, 40] as const;

/** What to measure. */
export interface MountBenchOptions extends Outlets {
  /** Bytes of the sequential reads. */
  size: number;
  rounds: number;
  /** Durable writes. */
  writes: number;
  scratch: string;
}

/** One goal and what was reached. */
export interface MountGoal {
  what: string;
  reached: number;
  /** What it is held against. */
  bound: number;
  unit: string;
  verdict: "ok" | "short";
}

/** The command. */
export async function main(args: readonly string[]): Promise<number> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      size: { type: "string" },
      rounds: { type: "string" },
      writes: { type: "string" },
      scratch: { type: "string", default: "/var/tmp" },
      ...commonOptions,
    },
  });
  if (values.help) {
    console.log(usage);
    return 0;
  }
  const { smoke } = values;
  const goals = await benchMount({
    size: numberOf(values.size ?? (smoke ? "16" : "512")) * MiB,
    rounds: numberOf(values.rounds ?? (smoke ? "1" : "5")),
    writes: numberOf(values.writes ?? (smoke ? "1000" : "40000")),
    scratch: values.scratch,
    ...outlets(values.json),
  });
  return values.strict && goals.some(({ verdict }) => verdict === "short") ? 1 : 0;
}

/** Measures everything. */
export async function benchMount(options: MountBenchOptions): Promise<MountGoal[]> {
  const { record, say, size } = options;
  const content = new Uint8Array(size);
  new Random("mount").fill(content.subarray(0, Math.min(size, 16 * MiB)));
  for (let at = 16 * MiB; at < size; at += 16 * MiB) content.copyWithin(at, at - 16 * MiB + 4096, at);
  const goals: MountGoal[] = [];
  const goal = (what: string, reached: number, bound: number, unit: string, atMost: boolean): void => {
    const good = atMost ? reached <= bound : reached >= bound;
    goals.push({ what, reached, bound, unit, verdict: good ? "ok" : "short" });
    record({ type: "figure", what, reached, unit });
  };
  for (const roundTripMs of roundTripsMs) {
    const direct = await firstByte(content, roundTripMs, "direct", options.rounds);
    const managed = await firstByte(content, roundTripMs, "managed", options.rounds);
    const pulled = await firstByte(content, roundTripMs, "pulled", options.rounds);
    record({ type: "figure", what: `first 4 KiB, direct, ${roundTripMs} ms`, reached: direct, unit: "ms" });
    goal(`first 4 KiB, ${roundTripMs} ms (direct ${direct.toFixed(2)})`, managed, direct + 0.2, "ms", true);
    goal(`first 4 KiB, ${roundTripMs} ms, pulled before`, pulled, 0.3, "ms", true);
  }
  for (const roundTripMs of roundTripsMs) {
    const rates: number[] = [];
    for (let round = 0; round < options.rounds; round++) rates.push(await sequential(content, roundTripMs));
    const bound = Math.min(500, roundTripMs === 0 ? 500 : 0.9 * 16 * MiB / 1e6 / (roundTripMs / 1000));
    if (roundTripMs === 40) goal("sequential read, 40 ms", median(rates), bound, "MB/s", false);
    else {
      record({
        type: "figure",
        what: `sequential read, ${roundTripMs} ms`,
        reached: median(rates),
        unit: "MB/s",
      });
      say(`sequential read, ${roundTripMs} ms: ${median(rates).toFixed(0)} MB/s`);
    }
  }
  {
    using scratch = new Scratch(options.scratch);
    const rates: number[] = [];
    const plain: number[] = [];
    for (let round = 0; round < options.rounds; round++) {
      rates.push(await durableWrites(scratch.at(`managed-${round}`), options.writes));
      plain.push(await plainWrites(scratch.at(`plain-${round}`), options.writes));
    }
    record({ type: "figure", what: "durable 4 KiB writes, plain file", reached: median(plain), unit: "/s" });
    goal(`durable 4 KiB writes (plain file ${median(plain).toFixed(0)})`, median(rates), 20_000, "/s", false);
  }
  {
    using scratch = new Scratch(options.scratch);
    const saved = await learned(content, scratch.at("order"));
    goal("waiting reads saved by the learned order", 100 * saved, 90, "%", false);
  }
  say(formatTable(
    ["what", "reached", "goal", ""],
    goals.map(({ what, reached, bound, unit, verdict }) => [
      what,
      `${reached.toFixed(unit === "ms" ? 2 : 0)} ${unit}`,
      `${bound.toFixed(unit === "ms" ? 2 : 0)} ${unit}`,
      verdict,
    ]),
  ));
  say(
    `\n${size / MiB} MiB, ${options.rounds} rounds; load ${
      Deno.loadavg().map((load) => load.toFixed(1)).join(" ")
    }`,
  );
  for (const one of goals) record({ type: "goal", ...one });
  return goals;
}

function farAway(content: Uint8Array, latencyMs: number): Backend {
  return delayed(new MemoryBackend(content), { clock: systemClock, latencyMs });
}

/** Milliseconds from an open mount to its first 4 KiB; the median. */
async function firstByte(
  content: Uint8Array,
  latencyMs: number,
  how: "direct" | "managed" | "pulled",
  rounds: number,
): Promise<number> {
  const took: number[] = [];
  const random = new Random("first", how, latencyMs);
  const into = new Uint8Array(4096);
  for (let round = 0; round < Math.max(3, 3 * rounds); round++) {
    const source = farAway(content.subarray(0, 16 * MiB), latencyMs);
    const { size } = source;
    const mount = how === "direct" ? source : await openManaged({
      source,
      local: new MemoryBackend(size),
      pullFirst: how === "pulled" ? size : 0,
    });
    const offset = random.below(size / 4096) * 4096;
    const startMs = performance.now();
    await mount.readAt(offset, into);
    took.push(performance.now() - startMs);
    if (!bytesEqual(into, content.subarray(offset, offset + 4096))) throw new Error("It read something else");
    await mount.close();
  }
  return median(took);
}

/** MB per second of reading everything in order, from opening on. */
async function sequential(content: Uint8Array, latencyMs: number): Promise<number> {
  const found = new Uint8Array(content.length);
  const local = new MemoryBackend(new Uint8Array(content.length));
  const startMs = performance.now();
  await using mount = await openManaged({ source: farAway(content, latencyMs), local });
  const step = MiB;
  // As a reader does who reads ahead a little.
  const ahead = 4;
  const reads: Promise<void>[] = [];
  for (let at = 0; at < content.length; at += step) {
    reads.push(Promise.resolve(mount.readAt(at, found.subarray(at, at + step))));
    if (reads.length >= ahead) await reads.shift();
  }
  await Promise.all(reads);
  const rate = content.length / 1e6 / ((performance.now() - startMs) / 1000);
  if (!bytesEqual(found, content)) throw new Error("It read something else");
  return rate;
}

const clients = 64;
const writtenSize = 256 * MiB;

/** 4 KiB writes per second, each with a flush, until the source has them all. */
async function durableWrites(path: string, writes: number): Promise<number> {
  const content = new Uint8Array(writtenSize);
  const { libc } = openNative();
  await using mount = await openManaged({
    source: new MemoryBackend(content),
    local: FileBackend.open(path, { create: writtenSize, libc }),
    state: `${path}.state`,
    pull: false,
  });
  const startMs = performance.now();
  const last = await writeAll(mount, writes, () => Promise.resolve(mount.flush()));
  await mount.push();
  const rate = writes / ((performance.now() - startMs) / 1000);
  for (const [offset, value] of last) {
    if (content[offset] !== value || content[offset + 4095] !== value) throw new Error("It was not pushed");
  }
  return rate;
}

/** The same on a plain file. */
async function plainWrites(path: string, writes: number): Promise<number> {
  await using file = FileBackend.open(path, { create: writtenSize });
  const flushes = new Rounds(async () => await file.flush(), { gather: true });
  const startMs = performance.now();
  await writeAll(file, writes, () => flushes.run());
  return writes / ((performance.now() - startMs) / 1000);
}

/** Writes by many clients, each to places of its own. @returns what was written last */
async function writeAll(
  backend: Backend,
  writes: number,
  flush: () => Promise<void>,
): Promise<Map<number, number>> {
  const last = new Map<number, number>();
  const client = async (index: number): Promise<void> => {
    const random = new Random("writes", index);
    const bytes = new Uint8Array(4096);
    for (let write = 0; write < writes / clients; write++) {
      const offset = (random.below(writtenSize / 4096 / clients) * clients + index) * 4096;
      bytes.fill(1 + write % 255);
      await backend.writeAt(offset, bytes);
      last.set(offset, bytes[0] ?? 0);
      await flush();
    }
  };
  await Promise.all(Array.from({ length: clients }, (_, index) => client(index)));
  return last;
}

/** Of the reads that waited the first time, how many did not the second; a program that starts, as it were. */
async function learned(content: Uint8Array, path: string): Promise<number> {
  const waited: number[] = [];
  for (let use = 0; use < 2; use++) {
    const random = new Random("learned");
    await using mount: ManagedBackend = await openManaged({
      source: delayed(new MemoryBackend(content), {
        clock: systemClock,
        latencyMs: 10,
        bytesPerSecond: 100e6,
      }),
      local: new MemoryBackend(content.length),
      learn: path,
    });
    // What a program does before it reads its first file.
    await systemClock.sleep(30);
    const into = new Uint8Array(16 * 1024);
    for (let read = 0; read < 150; read++) {
      const offset = random.below(content.length / into.length) * into.length;
      await mount.readAt(offset, into);
      if (!bytesEqual(into, content.subarray(offset, offset + into.length))) {
        throw new Error("It read something else");
      }
      await systemClock.sleep(1);
    }
    waited.push(mount.stats.demandReads);
  }
  const [first = 0, second = 0] = waited;
  return first === 0 ? 1 : 1 - second / first;
}
