/** `drover unmount`: ends a mount, or clears what a killed one has left. */
import type { Command } from "commander";
import type { UnmountOutcome } from "../daemon/mounts.ts";
import type { RunCommand } from "./registry.ts";

export const usage = `Usage: drover unmount PATH [OPTION]...

Takes the file PATH of \`drover mount\` away, and waits until what was written has been brought to where it lasts. Refused
with exit code 5 while a program has it open. Where the program of a mount was killed, what it has left is cleared.

Options:
      --detach   also while it is open: it vanishes from its path at once, and ends when the last program has closed it
      --json     print {"path", "outcome": "unmounted" | "detached" | "stopped" | "cleared"}
  -h, --help     this text

Example:
  $ drover unmount /run/disk
  /run/disk: unmounted
`;

const words: Readonly<Record<UnmountOutcome, string>> = {
  unmounted: "unmounted",
  detached: "ends when the last program has closed it",
  stopped: "stopped",
  cleared: "cleared: its program had ended without unmounting",
};

export function define(command: Command, run: RunCommand): void {
  command.argument("<path>").option("--detach").action((path: string, options: { detach?: boolean }) =>
    run(async (terminal) => {
      const [{ loadNative }, { MountRegistry }] = await Promise.all([
        import("../daemon/context.ts"),
        import("../daemon/mounts.ts"),
      ]);
      const registry = new MountRegistry(loadNative());
      const outcome = await registry.unmount(path, { detach: options.detach ?? false });
      terminal.line(`${path}: ${words[outcome]}`);
      terminal.object({ path, outcome });
    })
  );
}
