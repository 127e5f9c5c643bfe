import assert from "node:assert/strict";
import { drover } from "./harness.ts";

/** Wrong command lines: all end with 2, name the mistake, and say what to type. */
const mistakes: readonly { args: string[]; error: RegExp; hint?: string }[] = [
  { args: ["fs"], error: /a command is missing/, hint: "drover fs --help" },
  { args: ["fs", "ini", "/srv/x"], error: /unknown command 'ini'/, hint: "drover fs init /srv/x" },
  { args: ["pul", "u", "d"], error: /unknown command 'pul'/, hint: "drover pull u d" },
  { args: ["commit", "/srv/x"], error: /unknown command 'commit'/, hint: "drover fs commit /srv/x" },
  {
    args: ["fs", "commit", "x y", "--mesage", "z"],
    error: /unknown option '--mesage'/,
    hint: "drover fs commit 'x y' --message z",
  },
  { args: ["fs", "init"], error: /missing required argument 'dir'/, hint: "drover fs init --help" },
  { args: ["fs", "init", "a", "b"], error: /too many arguments/, hint: "drover fs init --help" },
  {
    args: ["fs", "init", "a", "--capture", "magic"],
    error: /'magic' is invalid.*overlay, scan/,
    hint: "drover fs init --help",
  },
  { args: ["fs", "init", "a", "--profile", "slow"], error: /'slow' is invalid.*fast, portable/ },
  { args: ["fs", "gc", "a"], error: /required option '--keep <n>' not specified/ },
  {
    args: ["fs", "gc", "a", "--keep", "0"],
    error: /cannot use "0" for --keep: it should be a whole number from 1/,
  },
  { args: ["fs", "gc", "a", "--keep", "-1"], error: /cannot use "-1" for --keep/ },
  { args: ["fs", "gc", "a", "--keep", "1e3"], error: /cannot use "1e3" for --keep/ },
  { args: ["fs", "export", "a"], error: /required option '--tar <file>' not specified/ },

  { args: ["fs", "init", ""], error: /cannot use "" as a directory/ },
  { args: ["push", "a"], error: /missing required argument 'url'/ },
  { args: ["push", "a", "drover://h/n", "--mode", "most"], error: /'most' is invalid.*full, upper, delta/ },
  { args: ["push", "a", "drover://h/n", "--ours", "--theirs"], error: /cannot use --ours with --theirs/ },
  { args: ["pull", "drover://h/n", "a", "--ours", "--theirs"], error: /cannot use --ours with --theirs/ },
  { args: ["push", "a", "http://h/n"], error: /cannot use the URL "http:\/\/h\/n"/ },
  { args: ["push", "a", "drover://h/../n"], error: /cannot use the URL/ },
  { args: ["completions", "tcsh"], error: /'tcsh' is invalid.*bash, zsh, fish/ },
  { args: ["--jsno"], error: /unknown option '--jsno'/ },
];

for (const { args, error, hint } of mistakes) {
  Deno.test(`run() refuses "drover ${args.join(" ")}" with code 2`, async () => {
    const text = await drover(...args);
    assert.equal(text.code, 2);
    const [first = "", second] = text.stderr.trimEnd().split("\n");
    assert.match(first, /^drover: error: [^A-Z]/);
    assert.match(first, error);
    assert.doesNotMatch(first, /\.$/);
    if (hint !== undefined) assert.equal(second, `drover: hint: ${hint}`);
    assert.equal(text.stdout, "");
  });
}

Deno.test("run() reports a usage error as one JSON object with --json, and nothing on stderr", async () => {
  const { code, stderr, objects } = await drover("fs", "ini", "x", "--json");
  assert.equal(code, 2);
  assert.equal(stderr, "");
  assert.deepEqual(objects(), [
    { error: { code: "usage", message: "unknown command 'ini'", hint: "drover fs init x --json" } },
  ]);
});

Deno.test("run() refuses to mix a tar and JSON on stdout", async () => {
  const { code, result } = await drover("fs", "export", "a", "--tar", "-", "--json");
  assert.equal(code, 2);
  assert.match(JSON.stringify(result()), /cannot use --json with --tar -/);
});

Deno.test("run() takes --json behind -- for an operand, not for the option", async () => {
  const { code, stderr, stdout } = await drover("fs", "init", "a", "b", "--", "--json");
  assert.equal(code, 2);
  assert.equal(stdout, "");
  assert.match(stderr, /too many arguments/);
});

Deno.test("run() without a command prints the help on stderr and ends with 2", async () => {
  const { code, stdout, stderr } = await drover();
  assert.equal(code, 2);
  assert.equal(stdout, "");
  assert.match(stderr, /^Usage: drover COMMAND/);
});

Deno.test("run() names the tree's directory when it is not a tree", async () => {
  const directory = await Deno.makeTempDir();
  try {
    const { code, result } = await drover("fs", "status", directory, "--json");
    assert.equal(code, 1);
    const error = result().error as { code: string; message: string };
    assert.equal(error.code, "not-a-tree");
    assert.ok(error.message.includes(directory), error.message);
  } finally {
    await Deno.remove(directory);
  }
});
