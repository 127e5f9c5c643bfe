/**
 * From the registry to a parser: one commander tree in which only the command that was called is
 * loaded. The parser never prints and never exits; what it refuses becomes a `usage` error whose hint is
 * the corrected command line.
 *
 * @module
 */
import { Command, CommanderError } from "commander";
import { DroverError } from "../base/errors.ts";
import { type ExitCode, exitCode } from "./exit.ts";
import { groupUsage, rootUsage } from "./help.ts";
import { type CommandEntry, commands, groups, type RunCommand } from "./registry.ts";
import type { Streams, Terminal } from "./terminal.ts";

/** Parses and runs. @throws {DroverError} what the command throws; code "usage" for a wrong command line. */
export async function runProgram(
  args: readonly string[],
  options: { terminal: Terminal; streams: Streams },
): Promise<ExitCode> {
  let code: ExitCode = exitCode.ok;
  const run: RunCommand = async (work) => {
    code = (await work(options.terminal)) ?? exitCode.ok;
  };
  const called = commands.filter((entry) => entry.words.every((word, at) => args[at] === word));
  const program = await buildProgram({ load: called, run, stdout: options.streams.stdout });
  try {
    await program.parseAsync([...args], { from: "user" });
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    if (error.exitCode === 0) return exitCode.ok;
    throw usageError(error, args);
  }
  return code;
}

/**
 * Builds the parser.
 *
 * @param options `load`: the commands that get their operands and options; `run`: runs their work;
 * `stdout`: where help goes.
 */
export async function buildProgram(
  options: { load: readonly CommandEntry[]; run: RunCommand; stdout: (text: string) => void },
): Promise<Command> {
  const program = prepare(new Command("drover"), { usage: rootUsage(), stdout: options.stdout });
  const parents = new Map<string, Command>();
  for (const [name, summary] of Object.entries(groups)) {
    const group = prepare(program.command(name), { usage: groupUsage(name), stdout: options.stdout });
    parents.set(name, group.summary(summary).description(summary));
  }
  for (const entry of commands) {
    const [first = "", second] = entry.words;
    const parent = second === undefined ? program : parents.get(first);
    if (parent === undefined) throw new Error(`Command "${first}" is not a group`);
    const command = parent.command(second ?? first).description(entry.summary);
    if (options.load.includes(entry)) {
      const { usage, define } = await entry.load();
      prepare(command, { usage, stdout: options.stdout });
      command.option("--json");
      define(command, options.run);
    }
  }
  return program;
}

function prepare(command: Command, options: { usage: string; stdout: (text: string) => void }): Command {
  command.exitOverride().helpCommand(false).allowExcessArguments(false);
  command.configureOutput({ writeOut: options.stdout, writeErr: () => {}, outputError: () => {} });
  command.helpInformation = () => options.usage;
  return command;
}

/** Turns the parser's refusal into ours: first line the message, the suggestion the hint. */
function usageError(error: CommanderError, args: readonly string[]): DroverError {
  const [first = "", ...rest] = error.message.split("\n");
  if (error.code === "commander.help") {
    return new DroverError("usage", "A command is missing", {
      hint: `drover ${[...args, "--help"].join(" ")}`,
    });
  }
  const message = first.replace(/^error: /, "");
  return new DroverError("usage", message, { hint: correction(message, rest.join(" "), args) });
}

function correction(message: string, suggestion: string, args: readonly string[]): string {
  const wrong = /^unknown (?:command|option) '([^']+)'/.exec(message)?.[1];
  const right = /^\(Did you mean ([^ ]+)\?\)$/.exec(suggestion)?.[1];
  if (wrong !== undefined && right !== undefined) {
    return commandLine(args.map((word) => word === wrong ? right : word));
  }
  const near = /^\(Did you mean one of (.+)\?\)$/.exec(suggestion)?.[1];
  if (near !== undefined) return `did you mean one of ${near}`;
  if (wrong !== undefined && args[0] === wrong) {
    const grouped = commands.find((entry) => entry.words.length === 2 && entry.words[1] === wrong);
    if (grouped !== undefined) return commandLine([...grouped.words, ...args.slice(1)]);
  }
  const command = commands.find((entry) => entry.words.every((word, at) => args[at] === word));
  return commandLine([...(command?.words ?? []), "--help"]);
}

/** A command line that a shell reads back as these words. */
function commandLine(words: readonly string[]): string {
  return [
    "drover",
    ...words.map((word) => /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`),
  ]
    .join(" ");
}
