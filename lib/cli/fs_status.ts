/** `drover fs status`: what a tree is, and what changed since its head. */
import type { Command } from "commander";
import { printChanges } from "./changes.ts";
import { formatBytes, formatCount, shortVersion } from "./format.ts";
import type { RunCommand } from "./registry.ts";
import { withContext, withTree } from "./session.ts";

export const usage = `Usage: drover fs status [DIR] [--json]

Shows a tree: its head, how many versions it holds, and the changes that no version holds yet
(A created, M modified, D deleted, R renamed). Without DIR: all trees of this host.

Options:
      --json  print the status as one JSON object; without DIR one object per tree, then {"trees": N}
  -h, --help  this text

Example:
  $ drover fs status /srv/site
  /srv/site: mounted, capture overlay, profile fast
  head 5f2c9a01d3e4, 1 version, 3865 entries, 202 MB
  2 changes not committed:
  M  index.html  12 kB  (content)
  A  new.html  840 B
`;

export function define(command: Command, run: RunCommand): void {
  command.argument("[dir]").action((dir: string | undefined) =>
    run(async (terminal) => {
      if (dir === undefined) {
        const listing = await withContext(terminal, (context, trees) => trees.listTrees(context));
        for (const tree of listing) {
          terminal.line(`${tree.dir}: head ${shortVersion(tree.head)}`);
          terminal.object(tree);
        }
        if (listing.length === 0) terminal.note("no trees on this host");
        terminal.object({ trees: listing.length });
        return;
      }
      const status = await withTree(terminal, dir, (tree) => tree.status());
      const mounted = status.capture === "scan" ? "" : status.mounted ? "mounted, " : "not mounted, ";
      terminal.line(`${status.dir}: ${mounted}capture ${status.capture}, profile ${status.profile}`);
      terminal.line(
        `head ${shortVersion(status.head)}, ${formatCount(status.versions, "version", "versions")}, ` +
          `${formatCount(status.entries, "entry", "entries")}, ${formatBytes(status.bytes)}`,
      );
      terminal.line(
        status.uncommitted.length === 0
          ? "nothing changed since the head"
          : `${formatCount(status.uncommitted.length, "change", "changes")} not committed:`,
      );
      printChanges(terminal, status.uncommitted);
      terminal.object(status);
    })
  );
}
