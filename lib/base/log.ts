/**
 * Log lines: what one event looks like, as text for people and as JSON for programs. Where they go and what time it is
 * is the caller's.
 *
 * Invariants: an event is exactly one line, whatever a peer put into a field; no value is longer than `valueLengthMax`.
 * Fields are chosen by those who log; keys, tickets and contents are never among them.
 *
 * @module
 */

/** Levels, the gravest first. A level shows itself and what is graver. */
export const logLevels = ["error", "warn", "info", "debug"] as const;

/** How grave an event is. */
export type LogLevel = (typeof logLevels)[number];

/** How a line looks. */
export type LogFormat = "text" | "json";

/** What an event has to say; undefined is left out. */
export type LogFields = Readonly<Record<string, string | number | boolean | null | undefined>>;

/** Takes an event: `log("info", "lease.lent", { size })`. */
export type Log = (level: LogLevel, event: string, fields?: LogFields) => void;

/** The longest value of a field, in characters; the rest is cut. */
export const valueLengthMax = 1024;

/** How many causes of an error are named. */
const causesMax = 8;

/** Whether a logger of one level shows an event of another. */
export function logShows(threshold: LogLevel, level: LogLevel): boolean {
  return logLevels.indexOf(level) <= logLevels.indexOf(threshold);
}

/**
 * One event as one line, without its newline.
 *
 * @param entry `timeMs`: milliseconds since 1970; `event`: dotted lower-case words
 *
 * @example
 * ```ts
 * import { formatLog } from "./log.ts";
 *
 * const line = formatLog({
 *   timeMs: 0,
 *   level: "info",
 *   event: "lease.lent",
 *   fields: { size: 4096, to: "a host" },
 * }, "text");
 * if (line !== '1970-01-01T00:00:00.000Z info lease.lent size=4096 to="a host"') throw new Error(line);
 * ```
 */
export function formatLog(
  entry: { timeMs: number; level: LogLevel; event: string; fields?: LogFields },
  format: LogFormat,
): string {
  const { level, event, fields = {} } = entry;
  const time = new Date(entry.timeMs).toISOString();
  const shown = Object.entries(fields).flatMap(([name, value]) =>
    value === undefined ? [] : [[name, typeof value === "string" ? cut(value) : value] as const]
  );
  if (format === "json") {
    // The four own names come first and win: a field cannot pretend to be another event.
    const own = { time, level, event };
    return escape(JSON.stringify({ ...own, ...Object.fromEntries(shown), ...own }));
  }
  return [time, level, event, ...shown.map(([name, value]) => `${name}=${textOf(value)}`)].join(" ");
}

/** The message of an error with its causes, for a field. */
export function errorField(error: unknown): string {
  const clauses: string[] = [];
  let at: unknown = error;
  for (let depth = 0; depth < causesMax && at !== undefined && at !== null; depth++) {
    const clause = at instanceof Error ? at.message || at.name : String(at);
    if (!clauses.some((earlier) => earlier.includes(clause))) clauses.push(clause);
    at = at instanceof Error ? at.cause : undefined;
  }
  return clauses.join(": ");
}

function textOf(value: string | number | boolean | null): string {
  if (typeof value !== "string") return String(value);
  return /^[\w.:/@%+[\]-]+$/.test(value) ? value : escape(JSON.stringify(value));
}

function cut(text: string): string {
  return text.length <= valueLengthMax ? text : `${text.slice(0, valueLengthMax - 1)}…`;
}

/** What JSON leaves as it is, but a terminal or another reader may take for a command or the end of a line. */
function escape(json: string): string {
  return json.replace(
    /[\x7f-\x9f\u2028\u2029]/g,
    (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}
