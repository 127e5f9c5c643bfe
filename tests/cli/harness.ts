/**
 * Runs a command line inside the test process and keeps what it wrote.
 */
import { openNative } from "../../ffi/mod.ts";
import { run } from "../../lib/cli/mod.ts";

// Loaded once and for all tests, and so not by the first test that needs it: that would count as a leak.
openNative();

/** What one command line did. */
export interface Ran {
  code: number;
  stdout: string;
  stderr: string;
  /** The lines of stdout as JSON; call it only for `--json`. */
  objects(): Record<string, unknown>[];
  /** The last of them: the result or the error. */
  result(): Record<string, unknown>;
}

/** Runs `drover` with these words. */
export async function drover(...args: string[]): Promise<Ran> {
  let stdout = "";
  let stderr = "";
  const code = await run(args, {
    stdout: (text) => {
      stdout += text;
    },
    stderr: (text) => {
      stderr += text;
    },
  });
  const objects = (): Record<string, unknown>[] =>
    stdout.trimEnd().split("\n").map((line) => JSON.parse(line));
  return { code, stdout, stderr, objects, result: () => objects().at(-1) ?? {} };
}
