/** `drover fs deinit`: the plain directory comes back, with its newest content; the versions go. */
import type { Command } from "commander";
import { formatCount } from "./format.ts";
import type { RunCommand } from "./registry.ts";
import { directoryArgument, withContext } from "./session.ts";

export const usage = `Usage: drover fs deinit DIR [--json]

Gives the plain directory back with its newest content, committed or not. The mount and all versions are
removed. Refused while a program has files open in DIR.

Options:
      --json  print {"dir", "entries"}
  -h, --help  this text

Example:
  $ drover fs deinit /srv/site
  /srv/site: a plain directory again, 3871 entries
`;

export function define(command: Command, run: RunCommand): void {
  command.argument("<dir>").action((dir: string) =>
    run(async (terminal) => {
      const path = directoryArgument(dir);
      const result = await withContext(terminal, (context, trees) => trees.deinitTree(context, path));
      terminal.line(
        `${result.dir}: a plain directory again, ${formatCount(result.entries, "entry", "entries")}`,
      );
      terminal.object(result);
    })
  );
}
