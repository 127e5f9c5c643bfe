/** `drover fs log`: the versions of a tree, newest first. */
import type { Command } from "commander";
import { formatTable, formatTime, shortVersion } from "./format.ts";
import type { RunCommand } from "./registry.ts";
import { withTree } from "./session.ts";

export const usage = `Usage: drover fs log DIR [--json]

Lists the versions of a tree, the newest first. A version whose content was dropped by \`fs gc\` is
still known by its id, so that peers which have it can be brought up to date.

Options:
      --json  one object per version {"id", "parent", "root", "time", "message", "head", "stored"},
              then {"versions": N, "head": ID}
  -h, --help  this text

Example:
  $ drover fs log /srv/site
  9d0417be22c1  2026-11-20 09:14:02  head  before the move
  5f2c9a01d3e4  2026-11-20 08:31:05
`;

export function define(command: Command, run: RunCommand): void {
  command.argument("<dir>").action((dir: string) =>
    run(async (terminal) => {
      const versions = await withTree(terminal, dir, (tree) => tree.log());
      const rows = versions.map((version) => [
        shortVersion(version.id),
        formatTime(version.time),
        version.head ? "head" : version.stored ? "" : "dropped",
        version.message,
      ]);
      for (const row of formatTable(rows)) terminal.line(row);
      for (const version of versions) terminal.object(version);
      terminal.object({
        versions: versions.length,
        head: versions.find((version) => version.head)?.id ?? null,
      });
    })
  );
}
