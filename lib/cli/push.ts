/** `drover push`: brings a node to this tree's head. */
import { type Command, Option } from "commander";
import type { PushMode } from "../tree/mod.ts";
import type { RunCommand } from "./registry.ts";
import { directoryArgument, keyArgument, resolveArgument, withContext } from "./session.ts";
import { printTransfer } from "./transfer.ts";

export const usage = `Usage: drover push DIR drover://HOST[:PORT]/NAME [OPTION]...

Brings the tree NAME of a node to the head of DIR; the first push creates NAME. One package takes it over any
number of versions. It is applied whole or not at all. Changes that no version holds stay here, unless --commit.
When both sides have versions that the other has not, nothing is done and the versions are listed.

Options:
      --key FILE              the cluster's key; default: the file that DROVER_KEY names
      --mode full|upper|delta everything; changed files whole; what changed within files; default: delta
      --commit                commit first, if anything changed
  -m, --message TEXT          the message of that commit; implies --commit
      --ours                  where versions diverged, the node follows this side
      --theirs                where versions diverged, nothing is sent and this side follows the node
      --json                  print {"from", "to", "versions", "bytesSent", "bytesReceived", "seconds",
                              "phases": {"capture", "pack", "send", "apply"}, "entries", "rounds", …}
  -h, --help                  this text

Example:
  $ drover push /srv/site drover://backup.example/site --key cluster.key --commit
  5f2c9a01d3e4 -> 9d0417be22c1: 1 version, 12 entries, 48 kB sent, 1.2 kB received in 0.21 s
  capture 0.02 s, pack 0.05 s, send 0.05 s, apply 0.08 s
`;

interface Options {
  key?: string;
  mode: PushMode;
  commit?: boolean;
  message?: string;
  ours?: boolean;
  theirs?: boolean;
}

export function define(command: Command, run: RunCommand): void {
  command.argument("<dir>").argument("<url>").option("--key <file>")
    .addOption(new Option("--mode <mode>").choices(["full", "upper", "delta"]).default("delta"))
    .option("--commit").option("-m, --message <text>").option("--ours").option("--theirs")
    .action((dir: string, address: string, options: Options) =>
      run(async (terminal) => {
        const path = directoryArgument(dir);
        const resolve = resolveArgument(options);
        const { parseUrl } = await import("../net/mod.ts");
        const url = parseUrl(address);
        const key = await keyArgument(options.key);
        const result = await withContext(terminal, (context, trees) =>
          trees.pushTree(context, path, {
            url,
            key,
            mode: options.mode,
            commit: options.commit === true || options.message !== undefined,
            ...(options.message === undefined ? {} : { message: options.message }),
            ...(resolve === undefined ? {} : { resolve }),
          }));
        printTransfer(terminal, result);
        terminal.object(result);
      })
    );
}
