/**
 * The scripts go through the shells themselves: each shell checks the syntax of its own, and bash
 * and fish complete real command lines.
 */
import assert from "node:assert/strict";
import { shells } from "../../lib/cli/completion_script.ts";
import { commands } from "../../lib/cli/registry.ts";
import { drover } from "./harness.ts";

function has(program: string): boolean {
  try {
    return new Deno.Command(program, { args: ["-c", "true"], stdout: "null", stderr: "null" }).outputSync()
      .success;
  } catch {
    return false;
  }
}

/** Runs shell code; the script is in the file that `$1` (fish: `$argv[1]`) names. */
async function shell(name: string, args: (file: string) => string[]): Promise<string> {
  const { stdout: script } = await drover("completions", name);
  const file = await Deno.makeTempFile();
  try {
    await Deno.writeTextFile(file, script);
    const output = await new Deno.Command(name, { args: args(file), stdout: "piped", stderr: "piped" })
      .output();
    const text = new TextDecoder();
    assert.ok(output.success, text.decode(output.stderr));
    assert.equal(text.decode(output.stderr), "");
    return text.decode(output.stdout);
  } finally {
    await Deno.remove(file);
  }
}

for (const name of shells) {
  // Skipped, not passed, where the shell is not installed: apt-get install zsh fish
  Deno.test({
    name: `drover completions ${name} is valid ${name}`,
    ignore: !has(name),
    fn: async () => {
      await shell(name, (file) => ["-n", file]);
    },
  });
}

const lines: readonly { words: string[]; offers: string[] }[] = [
  { words: ["fs", "in"], offers: ["init"] },
  { words: ["key", ""], offers: ["new"] },
  { words: ["fs", "init", "--p"], offers: ["--profile"] },
  { words: ["fs", "init", "/srv", "--capture", ""], offers: ["overlay", "scan"] },
  { words: ["push", "--mode", "d"], offers: ["delta"] },
  { words: ["completions", ""], offers: ["bash", "fish", "zsh"] },
  { words: [""], offers: [...new Set(commands.map(({ words }) => words[0] ?? ""))].sort() },
];

Deno.test({
  name: "drover completions bash offers commands, options and choices",
  ignore: !has("bash"),
  fn: async () => {
    const code = `source "$1"
complete_line() { COMP_WORDS=(drover "$@"); COMP_CWORD=$#; _drover; printf '%s\\n' "\${COMPREPLY[@]}" | sort | tr '\\n' ' '; echo; }
${lines.map(({ words }) => `complete_line ${words.map((word) => `'${word}'`).join(" ")}`).join("\n")}`;
    const offered = (await shell("bash", (file) => ["-c", code, "bash", file])).trimEnd().split("\n");
    assert.deepEqual(offered.map((line) => line.trim().split(" ")), lines.map(({ offers }) => offers));
  },
});

Deno.test({
  name: "drover completions fish offers commands, options and choices",
  ignore: !has("fish"),
  fn: async () => {
    const code = `source $argv[1]
${lines.map(({ words }) => `complete -C 'drover ${words.join(" ")}'; echo .`).join("\n")}`;
    const offered = (await shell("fish", (file) => ["--no-config", "-c", code, file])).trimEnd().split(
      /^\.\n?/m,
    ).slice(0, -1);
    assert.deepEqual(
      offered.map((text) => text.trimEnd().split("\n").map((line) => line.split("\t")[0]).sort()),
      lines.map(({ offers }) => offers),
    );
  },
});
