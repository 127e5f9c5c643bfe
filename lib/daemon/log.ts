/**
 * Where log lines go: one line per event, written whole.
 *
 * @module
 */
import { formatLog, type Log, type LogFormat, type LogLevel, logShows } from "../base/log.ts";

/** A log whose level and format can change while it is in use. */
export interface LogSink {
  /** Takes an event. */
  log: Log;
  /** From now on. */
  configure(options: { level: LogLevel; format: LogFormat }): void;
}

/**
 * Opens a log.
 *
 * @param options `level`: what is graver, or as grave, is shown; `write`: takes a line with its newline; `now`:
 * milliseconds since 1970
 */
export function openLog(
  options: { level: LogLevel; format: LogFormat; write: (line: string) => void; now?: () => number },
): LogSink {
  const { write, now = () => Date.now() } = options;
  let { level: threshold, format } = options;
  return {
    log: (level, event, fields = {}) => {
      if (!logShows(threshold, level)) return;
      write(`${formatLog({ timeMs: now(), level, event, fields }, format)}\n`);
    },
    configure: (changed) => {
      threshold = changed.level;
      format = changed.format;
    },
  };
}
