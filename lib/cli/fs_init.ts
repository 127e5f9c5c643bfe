/** `drover fs init`: an existing directory becomes a tree, without its data being copied. */
import { type Command, Option } from "commander";
import type { Capture, Profile } from "../tree/mod.ts";
import { formatBytes, formatCount, shortVersion } from "./format.ts";
import type { RunCommand } from "./registry.ts";
import { directoryArgument, withContext } from "./session.ts";

export const usage = `Usage: drover fs init DIR [OPTION]...

Puts an existing directory under drover. Its data is not copied: it becomes the lowest layer, an overlay
is mounted in its place, and everybody goes on in DIR. The present content is the first version.

Options:
      --capture overlay|scan    how changes are found: in the overlay's upper directory, or by comparing
                                with the last version, which needs no mount and no privilege;
                                default: overlay where it can be mounted, otherwise scan
      --profile fast|portable   overlay features: redirect_dir, metacopy and index on (fast, needs root), or
                                all off (portable, works in a user namespace);
                                default: fast where it can be mounted
      --state PATH              where versions are kept, on the same file system as DIR;
                                default: .NAME.drover beside DIR
      --json                    print the tree's status as one JSON object
  -h, --help                    this text

Example:
  $ drover fs init /srv/site
  /srv/site: 3865 entries, 202 MB, capture overlay, profile fast
  version 5f2c9a01d3e4 (head)
`;

interface Options {
  capture?: Capture;
  profile?: Profile;
  state?: string;
}

export function define(command: Command, run: RunCommand): void {
  command.argument("<dir>")
    .addOption(new Option("--capture <how>").choices(["overlay", "scan"]))
    .addOption(new Option("--profile <name>").choices(["fast", "portable"]))
    .option("--state <path>")
    .action((dir: string, { capture, profile, state }: Options) =>
      run(async (terminal) => {
        const path = directoryArgument(dir);
        const options = {
          ...(capture === undefined ? {} : { capture }),
          ...(profile === undefined ? {} : { profile }),
          ...(state === undefined ? {} : { state: directoryArgument(state) }),
        };
        const status = await withContext(
          terminal,
          (context, trees) => trees.initTree(context, path, options),
        );
        terminal.line(
          `${status.dir}: ${formatCount(status.entries, "entry", "entries")}, ${
            formatBytes(status.bytes)
          }, ` +
            `capture ${status.capture}, profile ${status.profile}`,
        );
        terminal.line(`version ${shortVersion(status.head)} (head)`);
        terminal.object(status);
      })
    );
}
