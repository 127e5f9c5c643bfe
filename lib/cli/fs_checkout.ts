/** `drover fs checkout`: makes the tree what it was at a version; also forward again. */
import type { Command } from "commander";
import { shortVersion } from "./format.ts";
import type { RunCommand } from "./registry.ts";
import { withTree } from "./session.ts";

export const usage = `Usage: drover fs checkout DIR VERSION [--force] [--json]

Makes DIR what it was at VERSION: back, or forward again. The newer versions are kept, so a checkout
can be undone. Refused while DIR has changes that no version holds, unless --force drops them.

VERSION is an id, the start of one that is unique, head, or head~N.

Options:
      --force  drop the changes that no version holds
      --json   print the result as one JSON object
  -h, --help   this text

Example:
  $ drover fs checkout /srv/site head~1
  /srv/site: at version 5f2c9a01d3e4
`;

interface Options {
  force?: boolean;
}

export function define(command: Command, run: RunCommand): void {
  command.argument("<dir>").argument("<version>").option("--force").action((
    dir: string,
    version: string,
    { force = false }: Options,
  ) =>
    run(async (terminal) => {
      const result = await withTree(terminal, dir, (tree) => tree.checkout({ version, force }));
      terminal.line(`${directoryText(dir)}: at version ${shortVersion(result.to)}`);
      terminal.object(result);
    })
  );
}

/** As the user typed it, without the slashes at its end. */
function directoryText(dir: string): string {
  return dir.replace(/(.)\/+$/, "$1");
}
