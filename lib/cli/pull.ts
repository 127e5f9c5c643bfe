/** `drover pull`: brings this tree to a node's head. */
import { type Command, Option } from "commander";
import type { Capture, Profile } from "../tree/mod.ts";
import type { RunCommand } from "./registry.ts";
import { allowArgument, directoryArgument, keyArgument, resolveArgument, withContext } from "./session.ts";
import { printTransfer } from "./transfer.ts";

export const usage = `Usage: drover pull drover://HOST[:PORT]/NAME DIR [OPTION]...

Brings DIR to the head of the node's tree NAME; the first pull creates DIR. One package takes it over any number
of versions. It is applied whole or not at all. Refused while DIR has changes that no version holds, unless
--commit, and when both sides have versions that the other has not; then these are listed.

Options:
      --key FILE              the cluster's key; default: the file that DROVER_KEY names
      --commit                commit first, if anything changed here
      --ours                  where versions diverged, this side stays as it is
      --theirs                where versions diverged, this side follows the node
      --capture overlay|scan  for a DIR that is created: as in \`drover fs init\`
      --profile fast|portable for a DIR that is created: as in \`drover fs init\`
      --allow-devices         take device nodes from the node; default: a package with one is refused
      --allow-security-xattrs take security.* and trusted.* attributes from the node; default: refused
      --json                  print {"from", "to", "versions", "bytesSent", "bytesReceived", "seconds", …}, as push
  -h, --help                  this text

Example:
  $ drover pull drover://backup.example/site /srv/site --key cluster.key
  nothing -> 9d0417be22c1: 2 versions, 3871 entries, 1.2 kB sent, 105 MB received in 1.84 s
  capture 0.00 s, pack 0.62 s, send 0.40 s, apply 0.82 s
`;

interface Options {
  key?: string;
  commit?: boolean;
  ours?: boolean;
  theirs?: boolean;
  capture?: Capture;
  profile?: Profile;
  allowDevices?: boolean;
  allowSecurityXattrs?: boolean;
}

export function define(command: Command, run: RunCommand): void {
  command.argument("<url>").argument("<dir>").option("--key <file>").option("--commit").option("--ours")
    .option("--theirs")
    .addOption(new Option("--capture <how>").choices(["overlay", "scan"]))
    .addOption(new Option("--profile <name>").choices(["fast", "portable"]))
    .option("--allow-devices").option("--allow-security-xattrs")
    .action((address: string, dir: string, options: Options) =>
      run(async (terminal) => {
        const path = directoryArgument(dir);
        const resolve = resolveArgument(options);
        const { parseUrl } = await import("../net/mod.ts");
        const url = parseUrl(address);
        const key = await keyArgument(options.key);
        const { capture, profile, commit = false } = options;
        const result = await withContext(terminal, (context, trees) =>
          trees.pullTree(context, {
            url,
            key,
            dir: path,
            commit,
            allow: allowArgument(options),
            ...(resolve === undefined ? {} : { resolve }),
            ...(capture === undefined ? {} : { capture }),
            ...(profile === undefined ? {} : { profile }),
          }));
        printTransfer(terminal, result);
        terminal.object(result);
      })
    );
}
