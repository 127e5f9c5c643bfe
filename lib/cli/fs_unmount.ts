/** `drover fs unmount`: takes the overlay away; versions and changes stay in the tree's state. */
import type { Command } from "commander";
import type { RunCommand } from "./registry.ts";
import { withTree } from "./session.ts";

export const usage = `Usage: drover fs unmount DIR [--json]

Takes the mount of a tree away, for instance before maintenance. DIR then shows what lies below the
mount, so do not write there. \`drover fs mount DIR\` brings everything back. Refused while a
program has files open in DIR.

Options:
      --json  print the tree's status as one JSON object
  -h, --help  this text

Example:
  $ drover fs unmount /srv/site
  /srv/site: not mounted
`;

export function define(command: Command, run: RunCommand): void {
  command.argument("<dir>").action((dir: string) =>
    run(async (terminal) => {
      const status = await withTree(terminal, dir, async (tree) => {
        await tree.unmount();
        return await tree.status();
      });
      terminal.line(`${status.dir}: not mounted`);
      terminal.object(status);
    })
  );
}
