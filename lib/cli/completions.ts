/** `drover completions`: the script that a shell loads to complete drover's command lines. */
import type { Command } from "commander";
import { type CompletionNode, completionScript, type Shell, shells } from "./completion_script.ts";
import { buildProgram } from "./program.ts";
import { commands, type RunCommand } from "./registry.ts";

export const usage = `Usage: drover completions bash|zsh|fish [--json]

Writes a completion script for a shell to stdout.

Options:
      --json  print {"shell", "script"}
  -h, --help  this text

Example:
  $ drover completions bash > /etc/bash_completion.d/drover
  $ drover completions zsh > /usr/local/share/zsh/site-functions/_drover
  $ drover completions fish > ~/.config/fish/completions/drover.fish
`;

export function define(command: Command, run: RunCommand): void {
  command.addArgument(command.createArgument("<shell>").choices(shells)).action((shell: Shell) =>
    run(async (terminal) => {
      const program = await buildProgram({ load: commands, run: () => Promise.resolve(), stdout: () => {} });
      const script = completionScript(shell, walk(program, []));
      terminal.line(script.trimEnd());
      terminal.object({ shell, script });
    })
  );
}

/** The command tree as plain data: what there is to complete at each place. */
function walk(command: Command, route: readonly string[]): CompletionNode[] {
  const children = command.commands;
  const own: CompletionNode = {
    route: route.join(" "),
    commands: children.map((child) => ({ name: child.name(), summary: child.description() })),
    options: [
      ...command.options.map((option) => ({
        names: [option.short, option.long].filter((name) => name !== undefined && name !== null),
        takesValue: option.required || option.optional,
        choices: option.argChoices ?? [],
      })),
      { names: ["-h", "--help"], takesValue: false, choices: [] },
      ...(route.length === 0 ? [{ names: ["-V", "--version"], takesValue: false, choices: [] }] : []),
    ],
    operandChoices: command.registeredArguments.flatMap((operand) => operand.argChoices ?? []),
  };
  return [own, ...children.flatMap((child) => walk(child, [...route, child.name()]))];
}
