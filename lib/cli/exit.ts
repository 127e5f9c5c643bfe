/**
 * Exit codes: documented in `drover --help`, tested in tests/cli. An unknown code means failure.
 *
 * @module
 */
import { DroverError } from "../base/errors.ts";

/** What the shell sees. */
export const exitCode = {
  ok: 0,
  /** It failed, or was refused for a reason without a code of its own. */
  failed: 1,
  /** The command line is wrong; nothing was done. */
  usage: 2,
  /** A decision is needed: uncommitted changes, or heads that diverged. Nothing was lost. */
  undecided: 3,
  /** Stored or received content is not what its hash or format says. */
  damaged: 4,
  /** Another process holds the tree or files in it; try again later. */
  busy: 5,
} as const;

/** One of the documented exit codes. */
export type ExitCode = (typeof exitCode)[keyof typeof exitCode];

/** The exit code that belongs to an error. */
export function exitCodeOf(error: unknown): ExitCode {
  if (!(error instanceof DroverError)) return exitCode.failed;
  switch (error.code) {
    case "usage":
      return exitCode.usage;
    case "uncommitted":
    case "diverged":
      return exitCode.undecided;
    case "corrupt":
    case "format":
      return exitCode.damaged;
    case "busy":
      return exitCode.busy;
    default:
      return exitCode.failed;
  }
}
