/** `drover mounts`: what is mounted. */
import type { Command } from "commander";
import { formatBytes, formatTable } from "./format.ts";
import type { RunCommand } from "./registry.ts";

export const usage = `Usage: drover mounts [--json]

Lists what \`drover mount\` has mounted on this machine, as far as this user sees it.

Options:
      --json  one object per mount {"path", "source", "frontend", "managed", "readOnly", "size", "pid", "since",
              "state"}, then {"mounts": N}; "state" is "mounted", or "dead" when its program ended without unmounting
  -h, --help  this text

Example:
  $ drover mounts
  /run/disk  11 GB  nbd://backup.example/disk  mounted
  /run/old   52 MB  old.raw                    dead: drover unmount /run/old
`;

export function define(command: Command, run: RunCommand): void {
  command.action(() =>
    run(async (terminal) => {
      const [{ loadNative }, { MountRegistry }] = await Promise.all([
        import("../daemon/context.ts"),
        import("../daemon/mounts.ts"),
      ]);
      const mounts = new MountRegistry(loadNative()).list();
      const rows = mounts.map(({ path, source, size, readOnly, managed, state }) => [
        path,
        state === "dead" && size === 0 ? "-" : formatBytes(size),
        source,
        state === "dead"
          ? `dead: drover unmount ${path}`
          : `mounted${managed ? ", managed" : ""}${readOnly ? ", read-only" : ""}`,
      ]);
      for (const row of formatTable(rows)) terminal.line(row);
      for (const mount of mounts) terminal.object(mount);
      terminal.object({ mounts: mounts.length });
    })
  );
}
