/** `drover fs import`: a tar becomes the next version of a tree. */
import { type Command, Option } from "commander";
import { DroverError } from "../base/errors.ts";
import type { Capture, Profile } from "../tree/mod.ts";
import { formatCount, shortVersion } from "./format.ts";
import type { RunCommand } from "./registry.ts";
import { allowArgument, directoryArgument, withContext } from "./session.ts";

export const usage = `Usage: drover fs import DIR --tar FILE [-m TEXT] [OPTION]...

Makes the next version of DIR from a pax, GNU or ustar tar, and brings DIR there. What becomes of the tree depends on
what the tar says it is:
  of \`fs export\`              the tree becomes exactly what the tar holds
  of \`fs export --from V\`     only when V is the head; the result is the version that was exported
  of anything else             adds and overwrites; .wh.NAME deletes, .wh..wh..opq empties its directory, as in the
                               layer of a container image
DIR is made if it is missing or empty. Refused while DIR has changes that no version holds. The tar is treated as
hostile: no entry leaves DIR, nothing is written through a symlink, and all of it is taken or nothing.

Options:
      --tar FILE              the tar, not compressed; - is stdin
  -m, --message TEXT          what the log says about it; default: nothing
      --capture overlay|scan  for a DIR that is made: as in \`drover fs init\`
      --profile fast|portable for a DIR that is made: as in \`drover fs init\`
      --allow-devices         take device nodes; default: a tar with one is refused
      --allow-security-xattrs take security.* and trusted.* attributes; default: refused
      --json                  print {"version", "parent", "changed", "archive", "entries", "bytes", "seconds"}
  -h, --help                  this text

Example:
  $ zcat layer.tar.gz | drover fs import /srv/site --tar - -m "layer"
  version 9d0417be22c1: 12 entries
`;

interface Options {
  tar: string;
  message?: string;
  capture?: Capture;
  profile?: Profile;
  allowDevices?: boolean;
  allowSecurityXattrs?: boolean;
}

export function define(command: Command, run: RunCommand): void {
  command.argument("<dir>").requiredOption("--tar <file>").option("-m, --message <text>")
    .addOption(new Option("--capture <how>").choices(["overlay", "scan"]))
    .addOption(new Option("--profile <name>").choices(["fast", "portable"]))
    .option("--allow-devices").option("--allow-security-xattrs")
    .action((dir: string, options: Options) =>
      run(async (terminal) => {
        const { tar, message, capture, profile } = options;
        const path = directoryArgument(dir);
        if (tar === "-" && Deno.stdin.isTerminal()) {
          throw new DroverError(
            "usage",
            "Cannot read a tar from a terminal: stdin should be a file or a pipe",
          );
        }
        using file = tar === "-" ? null : await Deno.open(tar);
        const result = await withContext(terminal, (context, trees) =>
          trees.importTree(context, path, {
            read: chunksOf(file ?? Deno.stdin),
            allow: allowArgument(options),
            ...(message === undefined ? {} : { message }),
            ...(capture === undefined ? {} : { capture }),
            ...(profile === undefined ? {} : { profile }),
          }));
        terminal.line(
          result.changed
            ? `version ${shortVersion(result.version)}: ${formatCount(result.entries, "entry", "entries")}`
            : `nothing to import, version ${shortVersion(result.version)} is the same`,
        );
        terminal.object(result);
      })
    );
}

/** Large chunks: a tar of many small files is read with few calls. */
async function* chunksOf(
  source: { read(into: Uint8Array): Promise<number | null> },
): AsyncGenerator<Uint8Array<ArrayBuffer>> {
  const buffer = new Uint8Array(1 << 18);
  for (;;) {
    const count = await source.read(buffer);
    if (count === null) return;
    yield buffer.subarray(0, count);
  }
}
