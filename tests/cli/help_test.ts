import assert from "node:assert/strict";
import config from "../../deno.json" with { type: "json" };
import { exitCode } from "../../lib/cli/exit.ts";
import { buildProgram } from "../../lib/cli/program.ts";
import { commands, groups } from "../../lib/cli/registry.ts";
import { drover } from "./harness.ts";

for (const entry of commands) {
  const name = entry.words.join(" ");

  Deno.test(`drover ${name} --help has a form, every option, and an example`, async () => {
    const { code, stdout, stderr } = await drover(...entry.words, "--help");
    assert.equal(code, 0);
    assert.equal(stderr, "");
    assert.ok(stdout.startsWith(`Usage: drover ${name}`), stdout);
    assert.match(stdout, /\nExample:\n {2}\$ /);
    assert.ok(stdout.includes(`drover ${name}`));

    const program = await buildProgram({ load: [entry], run: () => Promise.resolve(), stdout: () => {} });
    let command = program;
    for (const word of entry.words) {
      const child = command.commands.find((candidate) => candidate.name() === word);
      assert.ok(child !== undefined);
      command = child;
    }
    // The text is written by hand: it must list exactly what the parser takes.
    const taken = command.options.flatMap((option) => [option.short, option.long]).filter((flag) =>
      flag !== undefined
    );
    const section = stdout.slice(stdout.indexOf("\nOptions:"), stdout.indexOf("\nExample:"));
    const listed = [...section.matchAll(/^ {2}(?: {4}|(-\w), )(--[\w-]+)/gm)].flatMap((
      [, short, long],
    ) => [short, long]);
    assert.deepEqual(
      listed.filter((flag) => flag !== undefined).sort(),
      [...taken, "-h", "--help"].filter((flag) => flag !== null).sort(),
    );
    for (const option of command.options) {
      if (option.argChoices) {
        assert.ok(section.includes(option.argChoices.join("|")), `choices of ${option.long}`);
      }
    }
    const operands = command.registeredArguments.length;
    const form = stdout.slice(0, stdout.indexOf("\n"));
    assert.equal(
      (form.replace(/\[-.*?\]|--\w+ \w+/g, "").match(/\b[A-Z]{3,}\b|drover:\/\/|bash\||local\|/g) ?? [])
        .filter((
          word,
        ) => !["OPTION", "HOST", "PORT", "NAME"].includes(word)).length,
      operands,
      form,
    );
    for (const line of stdout.split("\n")) assert.ok(line.length <= 120, line);
  });
}

for (const group of Object.keys(groups)) {
  Deno.test(`drover ${group} --help lists its commands`, async () => {
    const { code, stdout } = await drover(group, "--help");
    assert.equal(code, 0);
    for (const { words } of commands) {
      assert.equal(stdout.includes(`\n  ${words.join(" ")} `), words[0] === group);
    }
  });
}

Deno.test("drover --help lists every command and every exit code", async () => {
  const { code, stdout } = await drover("--help");
  assert.equal(code, 0);
  for (const { words, summary } of commands) {
    assert.ok(stdout.includes(`  ${words.join(" ").padEnd(14)}  ${summary}\n`));
  }
  for (const value of Object.values(exitCode)) assert.match(stdout, new RegExp(`^  ${value}  `, "m"));
  assert.equal((await drover("help")).stdout, stdout);
  assert.equal((await drover("-h")).stdout, stdout);
});

Deno.test("drover help COMMAND is drover COMMAND --help", async () => {
  assert.equal((await drover("help", "fs", "init")).stdout, (await drover("fs", "init", "--help")).stdout);
});

Deno.test("drover --version prints the version of deno.json", async () => {
  assert.deepEqual(await drover("--version").then(({ code, stdout }) => ({ code, stdout })), {
    code: 0,
    stdout: `drover ${config.version}\n`,
  });
  assert.deepEqual((await drover("--version", "--json")).result(), { version: config.version });
});

Deno.test("drover --version loads neither parser, database, sockets nor library", async () => {
  const root = new URL("../../", import.meta.url);
  const output = await new Deno.Command(Deno.execPath(), {
    args: ["info", "--json", "lib/cli/mod.ts"],
    cwd: root,
    stdout: "piped",
    stderr: "null",
  }).output();
  interface Module {
    specifier: string;
    dependencies?: { code?: { specifier?: string }; isDynamic?: boolean }[];
  }
  const info: { modules: Module[]; roots: string[] } = JSON.parse(new TextDecoder().decode(output.stdout));
  const reached = new Set<string>();
  const visit = (specifier: string): void => {
    if (reached.has(specifier)) return;
    reached.add(specifier);
    for (
      const { code, isDynamic }
        of info.modules.find((module) => module.specifier === specifier)?.dependencies ?? []
    ) {
      if (code?.specifier !== undefined && isDynamic !== true) visit(code.specifier);
    }
  };
  info.roots.forEach(visit);
  assert.deepEqual(
    [...reached].map((specifier) => specifier.replace(/^.*\/(?=lib\/|deno\.json)/, "")).sort(),
    [
      "deno.json",
      "lib/base/errors.ts",
      "lib/cli/exit.ts",
      "lib/cli/help.ts",
      "lib/cli/mod.ts",
      "lib/cli/registry.ts",
      "lib/cli/terminal.ts",
    ],
  );
});
