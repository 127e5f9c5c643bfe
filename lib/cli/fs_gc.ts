/** `drover fs gc`: drops the content of old versions. */
import type { Command } from "commander";
import { formatBytes, formatCount } from "./format.ts";
import type { RunCommand } from "./registry.ts";
import { countArgument, withTree } from "./session.ts";

export const usage = `Usage: drover fs gc DIR --keep N [--json]

Keeps the head and the N - 1 versions before it, drops the content of all others, and frees what only they needed. The
log still knows them. The present state is not touched. A peer whose head was dropped gets a full package.

Options:
      --keep N  how many versions stay; at least 1
      --json    print {"dropped", "bytesFreed"}
  -h, --help    this text

Example:
  $ drover fs gc /srv/site --keep 5
  2 versions dropped, 4.1 MB freed
`;

interface Options {
  keep: number;
}

export function define(command: Command, run: RunCommand): void {
  command.argument("<dir>").requiredOption("--keep <n>", "", countArgument("--keep")).action((
    dir: string,
    { keep }: Options,
  ) =>
    run(async (terminal) => {
      const result = await withTree(terminal, dir, (tree, trees) => trees.collectGarbage(tree, { keep }));
      terminal.line(
        `${formatCount(result.dropped.length, "version", "versions")} dropped, ${
          formatBytes(result.bytesFreed)
        } freed`,
      );
      terminal.object(result);
    })
  );
}
