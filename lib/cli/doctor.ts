/** `drover doctor`: what this machine can do, what is missing, what to type to get it, what works without it. */
import type { Command } from "commander";
import { DroverError } from "../base/errors.ts";
import { describe, groupTitles, type Remedy } from "./remedies.ts";
import type { RunCommand } from "./registry.ts";
import { directoryArgument } from "./session.ts";
import { errorText, type Terminal } from "./terminal.ts";

export const usage = `Usage: drover doctor [DIR] [--json]

Asks the kernel what it allows, and changes nothing. For everything that is missing: what to type to get it, and
what still works without it. Overlay and O_DIRECT are tried in DIR, because file systems differ;
default: the current directory. Exits with 0 whatever is missing, with 1 only if asking failed.

Options:
      --json  one object per item {"id", "ok", "errno", "detail", "group", "title", "get", "without"},
              then {"version", "native", "missing": N}
  -h, --help  this text

Example:
  $ drover doctor /srv
  Storage
    ok       file system: ext4 (0xef53)
    ok       O_DIRECT: memory aligned to 512, offsets to 512
    missing  reflinks: Operation not supported
             get it:     put the tree on xfs or btrfs
             without it: everything; a large file that changes is copied once per version that needs it whole
`;

interface Item extends Remedy {
  id: string;
  ok: boolean;
  errno: number;
  detail: string;
}

export function define(command: Command, run: RunCommand): void {
  command.argument("[dir]", undefined, ".").action((dir: string) => run((terminal) => doctor(terminal, dir)));
}

async function doctor(terminal: Terminal, dir: string): Promise<void> {
  const { loadNative } = await import("../daemon/context.ts");
  const items: Item[] = [];
  let version: string | null = null;
  try {
    const native = loadNative();
    version = native.version;
    items.push({ ...describe("native"), id: "native", ok: true, errno: 0, detail: `version ${version}` });
    for (const item of native.probe(directoryArgument(dir))) items.push({ ...describe(item.id), ...item });
  } catch (error) {
    // Without the library there is one finding, and it is the one that matters.
    if (!(error instanceof DroverError) || version !== null) throw error;
    items.push({ ...describe("native"), id: "native", ok: false, errno: 0, detail: errorText(error) });
  }
  for (const [group, title] of Object.entries(groupTitles)) {
    const members = items.filter((item) => item.group === group);
    if (members.length === 0) continue;
    terminal.line(title);
    for (const item of members) {
      terminal.line(
        `  ${item.ok ? "ok     " : "missing"}  ${item.title}${item.detail === "" ? "" : `: ${item.detail}`}`,
      );
      if (item.ok) continue;
      terminal.line(`           get it:     ${item.get}`);
      terminal.line(`           without it: ${item.without}`);
    }
  }
  for (const item of items) terminal.object(item);
  terminal.object({ native: version, missing: items.filter((item) => !item.ok).length });
}
