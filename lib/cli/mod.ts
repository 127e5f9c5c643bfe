/**
 * The command line. `main()` answers `--version` and `--help` by itself and loads the parser and the
 * one command that was asked for; anything thrown ends in `Terminal.report()`.
 *
 * @module
 */
import config from "../../deno.json" with { type: "json" };
import { type ExitCode, exitCode } from "./exit.ts";
import { rootUsage } from "./help.ts";
import { processStreams, type Streams, Terminal } from "./terminal.ts";

/** Runs the program and leaves its exit code in `Deno.exitCode`. */
export async function main(args: readonly string[]): Promise<void> {
  Deno.exitCode = await run(args, processStreams);
}

/**
 * Runs one command line.
 *
 * @param args the words after `drover`
 * @param streams where it writes
 * @returns the exit code
 */
export async function run(args: readonly string[], streams: Streams): Promise<ExitCode> {
  const terminal = new Terminal({ json: wantsJson(args), streams });
  const [first, ...rest] = args;
  if (first === undefined) {
    terminal.raw(rootUsage());
    return exitCode.usage;
  }
  if (first === "--version" || first === "-V") {
    terminal.line(`drover ${config.version}`);
    terminal.object({ version: config.version });
    return exitCode.ok;
  }
  if (first === "--help" || first === "-h" || (first === "help" && rest.length === 0)) {
    streams.stdout(rootUsage());
    return exitCode.ok;
  }
  try {
    const { runProgram } = await import("./program.ts");
    return await runProgram(first === "help" ? [...rest, "--help"] : args, { terminal, streams });
  } catch (error) {
    return terminal.report(error);
  }
}

/** Whether `--json` stands among the options; known before anything is parsed, so that errors obey it too. */
function wantsJson(args: readonly string[]): boolean {
  const end = args.indexOf("--");
  return (end < 0 ? args : args.slice(0, end)).includes("--json");
}
