/** `drover mem demo`: the page map of a region while a program's working set wanders through it. */
import type { Command } from "commander";
import type { RegionStatus } from "../region/mod.ts";
import { formatBytes } from "./format.ts";
import { pageCount, sizeArgument, usageOf } from "./mem_options.ts";
import type { RunCommand } from "./registry.ts";
import { countArgument } from "./session.ts";
import type { Terminal } from "./terminal.ts";

export const usage = `Usage: drover mem demo [OPTION]...

Opens a region, touches a working set that wanders through it, and draws where each page is. Ends with Ctrl-C, or
after --seconds. Where stdout is no terminal it draws three frames and ends.

Options:
      --size SIZE     of the region; default: 128MiB
      --limit SIZE    RAM that it may take; default: 32MiB
      --seconds N     end after so long
      --ssd PATH      a directory, or a new file, for the cold part; default: /var/tmp
      --json          one object per frame {"second", "resident", "faults", "readBytes", "writtenBytes",
                      "policySteps", "states": {"empty", "cold", "standby", "clean", "dirty", "busy", "lost"}}
  -h, --help          this text

The signs, for the pages that most of a cell's are:
  (space)  never written    .  on SSD    -  leaving    o  in RAM, as on SSD    #  in RAM, changed    !  lost

Example:
  $ drover mem demo --seconds 60
`;

interface Options {
  size: number;
  limit: number;
  seconds?: number;
  ssd: string;
}

/** Signs of the page states of drover.h, in their order. */
const signs = [" ", ".", "~", "o", "#", "-", "-", "-", "!"] as const;

/** Names for `--json`, in the same order. */
const stateNames = [
  "empty",
  "cold",
  "busy",
  "clean",
  "dirty",
  "standby",
  "standby",
  "standby",
  "lost",
] as const;

/** Colours for a terminal, by sign. */
const colours: Readonly<Record<string, string>> = {
  ".": "90",
  "o": "36",
  "#": "33",
  "-": "35",
  "!": "31",
  "~": "37",
};

const stateMask = 0x0f;
const frameMs = 100;
const plainFrames = 3;
const plainFrameMs = 300;
const touchesPerTurn = 2000;
const turnMs = 5;

export function define(command: Command, run: RunCommand): void {
  command
    .option("--size <size>", "", sizeArgument("--size"), 128 * 2 ** 20)
    .option("--limit <size>", "", sizeArgument("--limit"), 32 * 2 ** 20)
    .option("--seconds <n>", "", countArgument("--seconds"))
    .option("--ssd <path>", "", "/var/tmp")
    .action((options: Options) => run((terminal) => demo(terminal, options)));
}

async function demo(terminal: Terminal, options: Options): Promise<void> {
  const { size, limit, ssd } = options;
  const [{ loadNative }, { Region }] = await Promise.all([
    import("../daemon/context.ts"),
    import("../region/mod.ts"),
  ]);
  using region = usageOf(() => Region.open({ native: loadNative(), size, limit, ssd: { path: ssd } }));
  const live = Deno.stdout.isTerminal() && !terminal.json;
  const { columns, rows } = live ? Deno.consoleSize() : { columns: 80, rows: 20 };
  const map = { columns: Math.max(16, columns), rows: Math.max(4, rows - 4), colour: live };
  terminal.note("writing every page once");
  const workload = new Workload(region.bytes);
  const states = new Uint8Array(pageCount(size));
  let stopped = false;
  const stop = (): void => {
    stopped = true;
  };
  if (live) Deno.addSignalListener("SIGINT", stop);
  try {
    const start = performance.now();
    for (let frame = 0; !stopped; frame++) {
      await workload.runFor(live ? frameMs : plainFrameMs);
      region.sample(states);
      const second = (performance.now() - start) / 1000;
      const stats = region.stats();
      terminal.object(frameObject(second, states, stats));
      const picture = [...drawMap(states, map), summary(stats)];
      if (live) terminal.line(`${frame === 0 ? "\x1b[2J" : ""}\x1b[H${picture.join("\x1b[K\n")}\x1b[K`);
      else terminal.line(`${frame > 0 ? "\n" : ""}${picture.join("\n")}`);
      const enough = options.seconds !== undefined && second >= options.seconds;
      if (enough || (!live && options.seconds === undefined && frame + 1 === plainFrames)) break;
    }
  } finally {
    if (live) Deno.removeSignalListener("SIGINT", stop);
  }
}

/** Draws a map: every cell stands for as many pages as it takes to fill the room, and shows what most of them are. */
export function drawMap(
  states: Uint8Array,
  room: { columns: number; rows: number; colour: boolean },
): string[] {
  const perCell = Math.max(1, Math.ceil(states.length / (room.columns * room.rows)));
  const lines: string[] = [];
  for (let first = 0; first < states.length; first += perCell * room.columns) {
    let line = "";
    let colour = "";
    for (let cell = first; cell < Math.min(states.length, first + perCell * room.columns); cell += perCell) {
      const sign = signOf(states.subarray(cell, cell + perCell));
      const wanted = room.colour ? colours[sign] ?? "0" : "";
      if (wanted !== colour) line += `\x1b[${wanted}m`;
      colour = wanted;
      line += sign;
    }
    lines.push(room.colour ? `${line}\x1b[0m` : line);
  }
  return lines;
}

function signOf(states: Uint8Array): string {
  const counts = new Map<string, number>();
  let most = " ";
  for (const state of states) {
    const sign = signs[state & stateMask] ?? "!";
    // One lost page is worth seeing among a thousand good ones.
    if (sign === "!") return sign;
    const count = (counts.get(sign) ?? 0) + 1;
    counts.set(sign, count);
    if (count > (counts.get(most) ?? 0)) most = sign;
  }
  return most;
}

function frameObject(second: number, states: Uint8Array, stats: RegionStatus): Record<string, unknown> {
  const counts: Record<string, number> = Object.fromEntries(stateNames.map((name) => [name, 0]));
  for (const state of states) {
    const name = stateNames[state & stateMask] ?? "lost";
    counts[name] = (counts[name] ?? 0) + 1;
  }
  const { resident, faults, readBytes, writtenBytes, policySteps } = stats;
  return { second, resident, faults, readBytes, writtenBytes, policySteps, states: counts };
}

function summary(stats: RegionStatus): string {
  return `${formatBytes(stats.resident)} of ${formatBytes(stats.limit)} in RAM, ${stats.faults} faults, ` +
    `${formatBytes(stats.readBytes)} read, ${formatBytes(stats.writtenBytes)} written`;
}

/** A working set of an eighth of the memory that moves on, with a few touches anywhere. */
class Workload {
  readonly #bytes: Uint8Array;
  readonly #pages: number;
  #random = 1;
  #centre = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#pages = pageCount(bytes.length);
    for (let page = 0; page < this.#pages; page++) bytes[page * 4096] = 1 + page % 255;
  }

  /** Touches pages for so long, letting others run in between. */
  async runFor(ms: number): Promise<void> {
    const end = performance.now() + ms;
    while (performance.now() < end) {
      const turnEnd = performance.now() + turnMs;
      for (let touch = 0; touch < touchesPerTurn && performance.now() < turnEnd; touch++) this.#touch();
      this.#centre = (this.#centre + this.#pages / 2000) % this.#pages;
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
  }

  #touch(): void {
    const width = this.#next() < 0.95 ? this.#pages / 8 : this.#pages;
    const page = Math.floor(this.#centre + this.#next() * width) % this.#pages;
    const at = page * 4096;
    if (this.#next() < 0.2) this.#bytes[at] = (this.#bytes[at] ?? 0) + 1;
    else this.#random ^= this.#bytes[at] ?? 0;
  }

  #next(): number {
    this.#random = (Math.imul(this.#random, 1_664_525) + 1_013_904_223) >>> 0;
    return this.#random / 2 ** 32;
  }
}
