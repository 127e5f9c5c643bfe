/** `drover fs diff`: what differs between two versions, or between a version and the present state. */
import type { Command } from "commander";
import { countChanges, printChanges } from "./changes.ts";
import type { RunCommand } from "./registry.ts";
import { withTree } from "./session.ts";

export const usage = `Usage: drover fs diff DIR [--from VERSION] [--to VERSION] [--json]

Shows what differs, one path per line (A created, M modified, D deleted, R renamed). Names hold any bytes:
what is not UTF-8 or not printable is shown as \\xNN, a backslash as \\\\.

Options:
      --from VERSION  the older side; default: the head. A version is its id or the start of it, head, head~N
      --to VERSION    the newer side; default: the present state, committed or not
      --json          one object per change, then {"changes", "created", "deleted", "modified",
                      "renamed"}
  -h, --help          this text

Example:
  $ drover fs diff /srv/site --from head~1 --to head
  M  index.html  12 kB  (content, mtime)
  D  old.html
`;

interface Options {
  from?: string;
  to?: string;
}

export function define(command: Command, run: RunCommand): void {
  command.argument("<dir>").option("--from <version>").option("--to <version>").action((
    dir: string,
    { from, to }: Options,
  ) =>
    run(async (terminal) => {
      const changes = await withTree(terminal, dir, (tree) =>
        tree.diff({ ...(from === undefined ? {} : { from }), ...(to === undefined ? {} : { to }) }));
      printChanges(terminal, changes);
      for (const change of changes) {
        terminal.object(change);
      }
      terminal.object(countChanges(changes));
    })
  );
}
