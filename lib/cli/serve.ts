/** `drover serve`: the node that takes pushes and answers pulls. */
import { type Command, Option } from "commander";
import type { Capture, Profile } from "../tree/mod.ts";
import type { RunCommand } from "./registry.ts";
import { allowArgument, keyArgument, withContext } from "./session.ts";

export const usage = `Usage: drover serve [OPTION]...

Is a node: takes pushes into, and answers pulls from, the trees below a directory. drover://HOST/NAME is the tree
NAME there. Trees that a reboot unmounted are mounted again. Runs until SIGINT or SIGTERM and lets what is
being applied finish; a second signal ends it at once.

Peers prove the cluster's key before anything else is said, inside TLS. Without a key only programs of the same
user on this host can connect: another address than loopback is refused.

Options:
      --listen ADDR            HOST:PORT or [IPv6]:PORT; port 0 takes a free one;
                               default: [::]:7707 with a key, 127.0.0.1:7707 without
      --root PATH              where the trees are; created if absent; default: the current directory
      --key FILE               the cluster's key; default: the file that DROVER_KEY names
      --capture overlay|scan   for trees that a push creates: as in \`drover fs init\`
      --profile fast|portable  for trees that a push creates: as in \`drover fs init\`
      --allow-devices          take device nodes from peers; default: a package with one is refused
      --allow-security-xattrs  take security.* and trusted.* attributes from peers; default: refused
      --json                   print {"listening", "root", "authenticated"} when peers can connect, then {"event"} lines
  -h, --help                   this text

Example:
  $ drover serve --root /srv/trees --key cluster.key
  listening on [::]:7707, trees in /srv/trees
`;

interface Options {
  listen?: string;
  root: string;
  key?: string;
  capture?: Capture;
  profile?: Profile;
  allowDevices?: boolean;
  allowSecurityXattrs?: boolean;
}

export function define(command: Command, run: RunCommand): void {
  command.option("--listen <addr>").option("--root <path>", undefined, ".").option("--key <file>")
    .addOption(new Option("--capture <how>").choices(["overlay", "scan"]))
    .addOption(new Option("--profile <name>").choices(["fast", "portable"]))
    .option("--allow-devices").option("--allow-security-xattrs")
    .action((options: Options) =>
      run(async (terminal) => {
        const key = await keyArgument(options.key);
        if (key === null) {
          terminal.warning("no key: listening on loopback only, for programs of this user");
        }
        const stop = new AbortController();
        const signals = ["SIGINT", "SIGTERM"] as const;
        const forget = (): void => signals.forEach((signal) => Deno.removeSignalListener(signal, onSignal));
        const onSignal = (): void => {
          terminal.note("stopping");
          stop.abort();
          forget();
        };
        signals.forEach((signal) => Deno.addSignalListener(signal, onSignal));
        try {
          const { serve } = await import("../daemon/serve.ts");
          await withContext(terminal, (context) =>
            serve(context, {
              ...(options.listen === undefined ? {} : { address: options.listen }),
              key,
              root: options.root,
              allow: allowArgument(options),
              ...(options.capture === undefined ? {} : { capture: options.capture }),
              ...(options.profile === undefined ? {} : { profile: options.profile }),
              signal: stop.signal,
              ready: ({ address, root }) => {
                terminal.line(`listening on ${address}, trees in ${root}`);
                terminal.object({ listening: address, root, authenticated: key !== null });
              },
            }), {
            log: (line) => {
              terminal.note(line);
              terminal.object({ event: line });
            },
          });
        } finally {
          forget();
        }
      })
    );
}
