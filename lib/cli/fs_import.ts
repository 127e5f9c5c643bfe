/** `drover fs import`: a tar becomes the next version of a tree. */
import type { Command } from "commander";
import { DroverError } from "../base/errors.ts";
import { formatCount, shortVersion } from "./format.ts";
import type { RunCommand } from "./registry.ts";
import { withTree } from "./session.ts";

export const usage = `Usage: drover fs import DIR --tar FILE [-m TEXT] [--json]

Unpacks a pax tar over the head of DIR and commits the result: OCI whiteouts (.wh.NAME, .wh..wh..opq) delete,
everything else is created or replaced. A tar of \`fs export --from V\` applied at V gives the same tree again.
Refused while DIR has changes that no version holds. The tar is treated as hostile: no entry leaves DIR.

Options:
      --tar FILE      the tar, not compressed; - is stdin
  -m, --message TEXT  what the log says about it; default: nothing
      --json          print the result as one JSON object
  -h, --help          this text

Example:
  $ zcat layer.tar.gz | drover fs import /srv/site --tar - -m "layer"
  version 9d0417be22c1: 12 entries
`;

interface Options {
  tar: string;
  message?: string;
}

export function define(command: Command, run: RunCommand): void {
  command.argument("<dir>").requiredOption("--tar <file>").option("-m, --message <text>")
    .action((dir: string, { tar, message }: Options) =>
      run(async (terminal) => {
        if (tar === "-" && Deno.stdin.isTerminal()) {
          throw new DroverError(
            "usage",
            "Cannot read a tar from a terminal: stdin should be a file or a pipe",
          );
        }
        using file = tar === "-" ? null : await Deno.open(tar);
        const read = (file ?? Deno.stdin).readable;
        const result = await withTree(
          terminal,
          dir,
          (tree) => tree.importTar({ read, ...(message === undefined ? {} : { message }) }),
        );
        terminal.line(
          `version ${shortVersion(result.version)}: ${formatCount(result.entries, "entry", "entries")}`,
        );
        terminal.object(result);
      })
    );
}
