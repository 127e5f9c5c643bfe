/** `drover fs export`: a version, or what changed since another one, as a tar that other tools read. */
import type { Command } from "commander";
import { DroverError } from "../base/errors.ts";
import { formatBytes, formatCount } from "./format.ts";
import type { RunCommand } from "./registry.ts";
import { withTree } from "./session.ts";

export const usage = `Usage: drover fs export DIR --tar FILE [--from VERSION] [--to VERSION] [--json]

Writes a version as a pax tar: times to the nanosecond, extended attributes, hard links, devices, sparse files. With
--from only what changed since then, deletions as OCI whiteouts (.wh.NAME), as in a container image's layer.
GNU tar reads it; with --xattrs --xattrs-include='*' it also restores the attributes. Sockets are left out.

Options:
      --tar FILE      where to; - is stdout, refused when that is a terminal. FILE appears when it is complete
      --from VERSION  write the difference from this version; default: everything
      --to VERSION    the version to write; default: the head. Changes not committed stay out
      --json          print {"file", "version", "from", "entries", "deleted", "bytes", "uncommitted", "seconds"};
                      not with --tar -
  -h, --help          this text

Example:
  $ drover fs export /srv/site --tar - --from head~1 | tar -tf -
  index.html
  .wh.old.html
`;

interface Options {
  tar: string;
  from?: string;
  to?: string;
  json?: boolean;
}

export function define(command: Command, run: RunCommand): void {
  command.argument("<dir>").requiredOption("--tar <file>").option("--from <version>").option("--to <version>")
    .action((dir: string, { tar, from, to, json }: Options) =>
      run(async (terminal) => {
        const versions = {
          ...(from === undefined ? {} : { from }),
          ...(to === undefined ? {} : { version: to }),
        };
        if (tar === "-") {
          if (json) {
            throw new DroverError("usage", "Cannot use --json with --tar -: both would write to stdout");
          }
          if (Deno.stdout.isTerminal()) {
            throw new DroverError("usage", "Cannot write a tar to a terminal: it is binary", {
              hint: `drover fs export ${dir} --tar FILE`,
            });
          }
          await withTree(
            terminal,
            dir,
            (tree, trees) =>
              trees.exportTar(tree, { ...versions, write: (chunk) => writeAll(Deno.stdout, chunk) }),
          );
          return;
        }
        const result = await withTree(
          terminal,
          dir,
          (tree, trees) => writeFile(tar, (write) => trees.exportTar(tree, { ...versions, write })),
        );
        terminal.line(
          `${tar}: ${formatCount(result.entries, "entry", "entries")}, ${formatBytes(result.bytes)}`,
        );
        terminal.object({ file: tar, ...result });
      })
    );
}

type Write = (chunk: Uint8Array) => Promise<void>;

/** Writes beside the file and renames at the end, so that half a tar never bears its name. */
async function writeFile<T>(path: string, work: (write: Write) => Promise<T>): Promise<T> {
  const partial = `${path}.part`;
  try {
    using file = await Deno.open(partial, { write: true, create: true, truncate: true });
    const result = await work((chunk) => writeAll(file, chunk));
    await file.sync();
    await Deno.rename(partial, path);
    return result;
  } catch (error) {
    await Deno.remove(partial).catch(() => {});
    throw error;
  }
}

async function writeAll(
  writer: { write(bytes: Uint8Array): Promise<number> },
  chunk: Uint8Array,
): Promise<void> {
  for (let at = 0; at < chunk.length;) at += await writer.write(chunk.subarray(at));
}
