/** `drover fs commit`: keeps the present state of a tree as a version. */
import type { Command } from "commander";
import { formatBytes, formatCount, formatSeconds, shortVersion } from "./format.ts";
import type { RunCommand } from "./registry.ts";
import { withTree } from "./session.ts";

export const usage = `Usage: drover fs commit DIR [-m TEXT] [--json]

Keeps the present state of DIR as a new version, the head. Nothing is made when nothing changed.

Options:
  -m, --message TEXT  what the log says about it; default: nothing
      --json          print {"version", "parent", "changed", "entries", "bytes", "seconds"}
  -h, --help          this text

Example:
  $ drover fs commit /srv/site -m "before the move"
  version 9d0417be22c1: 12 entries, 1.4 MB in 0.05 s
`;

interface Options {
  message?: string;
}

export function define(command: Command, run: RunCommand): void {
  command.argument("<dir>").option("-m, --message <text>").action((dir: string, { message }: Options) =>
    run(async (terminal) => {
      const result = await withTree(
        terminal,
        dir,
        (tree) => tree.commit(message === undefined ? {} : { message }),
      );
      terminal.line(
        result.changed
          ? `version ${shortVersion(result.version)}: ${formatCount(result.entries, "entry", "entries")}, ` +
            `${formatBytes(result.bytes)} in ${formatSeconds(result.seconds)}`
          : `nothing changed since version ${shortVersion(result.version)}`,
      );
      terminal.object(result);
    })
  );
}
