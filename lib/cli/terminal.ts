/**
 * The rule of all output: stdout is data, stderr is talk.
 *
 * Talk is one line each, `drover: error: …`, `drover: warning: …`, `drover: hint: …`, lower case, no full
 * stop. With `--json` data is one JSON object per line and the last line is the result or the error; the only
 * talk left is warnings. A reader that closed stdout (`drover … | head`) ends the program quietly.
 *
 * @module
 */
import { DroverError } from "../base/errors.ts";
import { type ExitCode, exitCode, exitCodeOf } from "./exit.ts";

/** Where the program speaks. Tests pass their own; `processStreams` is the real one. */
export interface Streams {
  stdout(text: string): void;
  stderr(text: string): void;
}

/** The real stdout and stderr, written whole and at once. */
export const processStreams: Streams = {
  stdout: (text) => {
    try {
      writeAll(Deno.stdout, text);
    } catch (error) {
      if (error instanceof Deno.errors.BrokenPipe) Deno.exit(exitCode.failed);
      throw error;
    }
  },
  stderr: (text) => {
    try {
      writeAll(Deno.stderr, text);
    } catch (error) {
      if (!(error instanceof Deno.errors.BrokenPipe)) throw error;
    }
  },
};

function writeAll(writer: { writeSync(bytes: Uint8Array): number }, text: string): void {
  const bytes = new TextEncoder().encode(text);
  for (let at = 0; at < bytes.length;) at += writer.writeSync(bytes.subarray(at));
}

/** What a command writes to. */
export class Terminal {
  /** Whether `--json` was given. */
  readonly json: boolean;
  readonly #streams: Streams;

  /** @param options `json`: data as JSON lines; `streams`: where to. */
  constructor(options: { json: boolean; streams: Streams }) {
    this.json = options.json;
    this.#streams = options.streams;
  }

  /** One line for people on stdout; nothing with `--json`. */
  line(text: string): void {
    if (!this.json) this.#streams.stdout(text + "\n");
  }

  /** One object on stdout; nothing without `--json`. */
  object(value: object): void {
    if (this.json) this.#streams.stdout(JSON.stringify(value, jsonValue) + "\n");
  }

  /** Talk that is neither warning nor error; nothing with `--json`. */
  note(text: string): void {
    if (!this.json) this.#streams.stderr(`drover: ${text}\n`);
  }

  /** Something is not as one may expect, and the work goes on. */
  warning(text: string): void {
    this.#streams.stderr(`drover: warning: ${text}\n`);
  }

  /** Says what went wrong and what to type next. @returns the exit code. */
  report(error: unknown): ExitCode {
    if (this.json) {
      this.object({ error: errorObject(error) });
    } else {
      this.#streams.stderr(`drover: error: ${errorText(error)}\n`);
      const hint = hintOf(error);
      if (hint !== undefined) this.#streams.stderr(`drover: hint: ${hint}\n`);
    }
    return exitCodeOf(error);
  }

  /** Raw text on stderr: for the progress reporter. */
  raw(text: string): void {
    this.#streams.stderr(text);
  }
}

/** JSON of a size that left the safe integers: text, so that no digit is lost. */
function jsonValue(_key: string, value: unknown): unknown {
  return typeof value === "bigint" ? value.toString() : value;
}

/** The error and its causes in one line: first letters lowered, joined with ": ", repeated clauses dropped. */
export function errorText(error: unknown): string {
  const clauses: string[] = [];
  const seen = new Set<unknown>();
  for (let at: unknown = error; at !== undefined && at !== null && !seen.has(at);) {
    seen.add(at);
    const message = at instanceof Error ? at.message || at.name : String(at);
    const clause = lowerFirst(message.trim().replace(/\s*\n\s*/g, "; ").replace(/\.$/, ""));
    if (!clauses.some((earlier) => earlier.includes(clause))) clauses.push(clause);
    at = at instanceof Error ? at.cause : undefined;
  }
  return clauses.join(": ");
}

/** Lowers the first letter, but leaves words like "ENOSPC" and "TypeError" alone. */
function lowerFirst(text: string): string {
  return /^[A-Z](?!\w*[A-Z0-9])/.test(text) ? text.charAt(0).toLowerCase() + text.slice(1) : text;
}

function hintOf(error: unknown): string | undefined {
  return error instanceof DroverError ? error.hint : undefined;
}

function errorObject(error: unknown): Record<string, unknown> {
  const hint = hintOf(error);
  return {
    code: error instanceof DroverError ? error.code : "failed",
    message: errorText(error),
    ...(hint === undefined ? {} : { hint }),
    ...(error instanceof DroverError && error.details !== undefined ? { details: error.details } : {}),
  };
}
