/** `drover key new`: makes the secret that the nodes of one cluster share. */
import type { Command } from "commander";
import type { RunCommand } from "./registry.ts";

export const usage = `Usage: drover key new FILE [--json]

Makes a new random key and writes it to FILE, readable by its owner only. Copy it to every node of the
cluster over a channel you trust: who has it may read and change every tree that is served with it.
An existing FILE is never overwritten.

Options:
      --json  print {"file"}
  -h, --help  this text

Example:
  $ drover key new cluster.key
  cluster.key: new key, readable by its owner only
  $ drover serve --key cluster.key
`;

export function define(command: Command, run: RunCommand): void {
  command.argument("<file>").action((file: string) =>
    run(async (terminal) => {
      const { createKey } = await import("../net/mod.ts");
      await createKey(file);
      terminal.line(`${file}: new key, readable by its owner only`);
      terminal.object({ file });
    })
  );
}
