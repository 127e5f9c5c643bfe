/**
 * The help of `drover` itself and of the words that group commands. The help of a command stands on top
 * of its own file.
 *
 * @module
 */
import { commands, groups } from "./registry.ts";

const forms = `Usage: drover COMMAND [OPTION]...

Versions a directory tree and moves its changes to other hosts; reads, checks and converts migration streams; offers,
copies and mounts disk images; lends memory to other hosts, and measures memory that is larger than its RAM.
`;

const details = `Every command has its own help with an example: drover COMMAND --help

Options:
      --json     data as one JSON object per line; the last line is the result, or {"error": …}
  -h, --help     this text, or the help of a command
  -V, --version  the version

Environment:
  DROVER_HOME    where drover notes which trees exist; default /var/lib/drover for root,
                 otherwise $XDG_STATE_HOME/drover or ~/.local/state/drover
  DROVER_KEY     the key file, where --key is not given

Exit codes:
  0  done
  1  failed, or refused for a reason not listed here
  2  the command line is wrong; nothing was done
  3  a decision is needed: uncommitted changes, or heads that diverged; nothing was lost
  4  damage: content does not match its hash or format
  5  busy: another process holds the tree or files in it; try again

Directories are text on the command line, so the path of a tree must be UTF-8; names inside a tree
may hold any bytes.

Example:
  $ drover fs init /srv/site
  $ drover key new cluster.key
  $ drover fs commit /srv/site -m "before the move"
  $ drover push /srv/site drover://backup.example/site --key cluster.key
  $ drover stream verify guest.save
`;

/** The text of `drover --help`. */
export function rootUsage(): string {
  return `${forms}\nCommands:\n${commandList([])}\n${details}`;
}

/** The text of `drover fs --help`. */
export function groupUsage(group: string): string {
  return `Usage: drover ${group} COMMAND [OPTION]...\n\nCommands: ${groups[group] ?? ""}\n${
    commandList([group])
  }\n` +
    `Every command has its own help with an example: drover ${group} COMMAND --help\n`;
}

function commandList(prefix: readonly string[]): string {
  return commands.filter((entry) => prefix.every((word, at) => entry.words[at] === word))
    .map((entry) => `  ${entry.words.join(" ").padEnd(14)}  ${entry.summary}\n`).join("");
}
