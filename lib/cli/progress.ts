/**
 * Progress on stderr: on a terminal one line that is drawn over (bar, bytes, rate, time left), otherwise a
 * plain line at most every five seconds. With `--json` there is none: `openProgress` is not called.
 *
 * It has no timer: it draws when an event comes and the last drawing is old enough. The clock, the
 * writer and the width are arguments. A terminal that says it has 0 columns (a raw PTY) counts as 80.
 *
 * @module
 */
import type { ProgressEvent } from "../tree/context.ts";
import { formatBytes, formatSeconds } from "./format.ts";

/** What the reporter needs from the world. */
export interface ProgressOptions {
  write: (text: string) => void;
  isTerminal: boolean;
  columns: () => number;
  /** Milliseconds, monotonic. */
  now: () => number;
}

const drawIntervalMs = 100;
const plainIntervalMs = 5000;
const barWidth = 20;

interface Phase extends ProgressEvent {
  startedMs: number;
}

/** Draws progress events; call `end()` before anything else writes to the terminal. */
export class ProgressReporter {
  readonly #options: ProgressOptions;
  readonly #phases = new Map<string, Phase>();
  readonly #interval: number;
  #drawnMs: number;
  #drawn = false;

  /** @param options writer, clock and width. */
  constructor(options: ProgressOptions) {
    this.#options = options;
    this.#interval = options.isTerminal ? drawIntervalMs : plainIntervalMs;
    this.#drawnMs = options.isTerminal ? -Infinity : options.now();
  }

  /** Takes one event and draws when it is time. */
  readonly event = (event: ProgressEvent): void => {
    const now = this.#options.now();
    const known = this.#phases.get(event.phase);
    const goesOn = known !== undefined && event.done >= known.done;
    this.#phases.set(event.phase, { ...event, startedMs: goesOn ? known.startedMs : now });
    if (now - this.#drawnMs < this.#interval) return;
    this.#drawnMs = now;
    const line = progressLine(this.#current(), now);
    if (this.#options.isTerminal) {
      this.#options.write(`\r\x1b[K${line.slice(0, this.#width())}`);
      this.#drawn = true;
    } else {
      this.#options.write(`drover: ${line}\n`);
    }
  };

  /** Wipes the line, if one is there. */
  end(): void {
    if (this.#drawn) this.#options.write("\r\x1b[K");
    this.#drawn = false;
  }

  /** The newest phase that is not complete, else the newest. */
  #current(): Phase {
    let current: Phase | undefined;
    for (const phase of this.#phases.values()) {
      if (current === undefined || phase.total === 0 || phase.done < phase.total) current = phase;
    }
    if (current === undefined) throw new Error("Drawing progress before any event");
    return current;
  }

  #width(): number {
    const columns = this.#options.columns();
    return (columns > 0 ? columns : 80) - 1;
  }
}

/** `send  [########            ]  40%  12 MB of 30 MB  5.1 MB/s  4 s left`. */
export function progressLine(phase: Phase, nowMs: number): string {
  const seconds = (nowMs - phase.startedMs) / 1000;
  const rate = seconds > 0 ? phase.done / seconds : 0;
  const show = (value: number): string =>
    phase.unit === "bytes" ? formatBytes(value) : String(Math.round(value));
  const parts = [phase.phase];
  if (phase.total > 0) {
    const fraction = Math.min(1, phase.done / phase.total);
    const filled = Math.floor(fraction * barWidth);
    parts.push(
      `[${"#".repeat(filled)}${" ".repeat(barWidth - filled)}]`,
      `${String(Math.floor(fraction * 100)).padStart(3)}%`,
    );
    parts.push(`${show(phase.done)} of ${show(phase.total)}`);
  } else {
    parts.push(show(phase.done));
  }
  if (phase.unit === "entries") parts[parts.length - 1] += " entries";
  if (rate > 0 && seconds >= 0.5) {
    parts.push(`${show(rate)}/s`);
    if (phase.total > phase.done) parts.push(`${formatSeconds((phase.total - phase.done) / rate)} left`);
  }
  return parts.join("  ");
}

/** The reporter of this process, on stderr. */
export function openProgress(write: (text: string) => void): ProgressReporter {
  return new ProgressReporter({
    write,
    isTerminal: Deno.stderr.isTerminal(),
    columns: () => {
      try {
        return Deno.consoleSize().columns;
      } catch {
        return 0;
      }
    },
    now: () => performance.now(),
  });
}
