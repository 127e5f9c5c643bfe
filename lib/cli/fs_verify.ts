/** `drover fs verify`: reads everything a tree keeps and checks every hash. */
import type { Command } from "commander";
import { exitCode } from "./exit.ts";
import { formatBytes, formatCount } from "./format.ts";
import type { RunCommand } from "./registry.ts";
import { withTree } from "./session.ts";

export const usage = `Usage: drover fs verify DIR [--json]

Reads all content that the tree's versions hold and checks it against the recorded hashes, and every manifest
against its version. Exits with 4 when something does not match.

Options:
      --json  one object per finding {"path", "rule", "message"}, then {"ok", "checked", "bytes", "findings": N}
  -h, --help  this text

Example:
  $ drover fs verify /srv/site
  3871 entries, 203 MB: all as recorded
`;

export function define(command: Command, run: RunCommand): void {
  command.argument("<dir>").action((dir: string) =>
    run(async (terminal) => {
      const { ok, checked, bytes, findings } = await withTree(
        terminal,
        dir,
        (tree, trees) => trees.verifyTree(tree),
      );
      for (const finding of findings) {
        terminal.line(`${finding.path}: ${finding.message} (${finding.rule})`);
        terminal.object(finding);
      }
      terminal.line(
        `${formatCount(checked, "entry", "entries")}, ${formatBytes(bytes)}: ` +
          (ok ? "all as recorded" : formatCount(findings.length, "does not match", "do not match")),
      );
      terminal.object({ ok, checked, bytes, findings: findings.length });
      return ok ? exitCode.ok : exitCode.damaged;
    })
  );
}
