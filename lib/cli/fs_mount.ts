/** `drover fs mount`: brings a tree's overlay back, for instance after a reboot. */
import type { Command } from "commander";
import type { RunCommand } from "./registry.ts";
import { withTree } from "./session.ts";

export const usage = `Usage: drover fs mount DIR [--json]

Mounts the overlay of a tree again, after a reboot or \`drover fs unmount\`. Nothing to do for a tree with
capture scan, or one that is mounted. \`drover serve\` does this by itself for the trees below its root.

Options:
      --json  print the tree's status as one JSON object
  -h, --help  this text

Example:
  $ drover fs mount /srv/site
  /srv/site: mounted
`;

export function define(command: Command, run: RunCommand): void {
  command.argument("<dir>").action((dir: string) =>
    run(async (terminal) => {
      const status = await withTree(terminal, dir, async (tree) => {
        await tree.mount();
        return await tree.status();
      });
      terminal.line(
        `${status.dir}: ${status.capture === "scan" ? "capture scan needs no mount" : "mounted"}`,
      );
      terminal.object(status);
    })
  );
}
