import assert from "node:assert/strict";
import { DroverError, FormatError } from "../../lib/base/errors.ts";
import { exitCodeOf } from "../../lib/cli/exit.ts";
import { errorText, Terminal } from "../../lib/cli/terminal.ts";

function terminal(json: boolean): { terminal: Terminal; out: string[]; err: string[] } {
  const out: string[] = [];
  const err: string[] = [];
  return {
    terminal: new Terminal({
      json,
      streams: { stdout: (text) => out.push(text), stderr: (text) => err.push(text) },
    }),
    out,
    err,
  };
}

Deno.test("errorText() lowers the first letter, drops the full stop, joins the causes", () => {
  const cause = new Error("ENOSPC: no space left on device");
  assert.equal(
    errorText(new Error("Cannot write the layer.", { cause: new Error("Cannot sync", { cause }) })),
    "cannot write the layer: cannot sync: ENOSPC: no space left on device",
  );
});

Deno.test("errorText() leaves an abbreviation in capitals and says a clause once", () => {
  assert.equal(errorText(new Error("TLS failed")), "TLS failed");
  assert.equal(errorText(new Error("TypeError: no")), "TypeError: no");
  assert.equal(
    errorText(new Error("Cannot open: ENOENT", { cause: new Error("ENOENT") })),
    "cannot open: ENOENT",
  );
});

Deno.test("errorText() is one line and ends where causes go in a circle", () => {
  const error = new Error("One\n two");
  error.cause = new Error("Three", { cause: error });
  assert.equal(errorText(error), "one; two: three");
  assert.equal(errorText("plain text"), "plain text");
});

Deno.test("report() writes error and hint to stderr only", () => {
  const { terminal: target, out, err } = terminal(false);
  assert.equal(
    target.report(new DroverError("uncommitted", "Cannot pull", { hint: "drover fs commit x" })),
    3,
  );
  assert.deepEqual(out, []);
  assert.deepEqual(err, ["drover: error: cannot pull\n", "drover: hint: drover fs commit x\n"]);
});

Deno.test("report() writes one object with code, message, hint and details with --json", () => {
  const { terminal: target, out, err } = terminal(true);
  target.report(
    new DroverError("diverged", "Cannot push", { hint: "drover pull", details: { ours: ["a"] } }),
  );
  target.report(new TypeError("Bad"));
  assert.deepEqual(err, []);
  assert.deepEqual(out.map((line) => JSON.parse(line)), [
    { error: { code: "diverged", message: "cannot push", hint: "drover pull", details: { ours: ["a"] } } },
    { error: { code: "failed", message: "bad" } },
  ]);
});

Deno.test("line(), note() and object() obey --json", () => {
  const text = terminal(false);
  text.terminal.line("for people");
  text.terminal.note("talk");
  text.terminal.object({ a: 1 });
  assert.deepEqual([text.out, text.err], [["for people\n"], ["drover: talk\n"]]);
  const json = terminal(true);
  json.terminal.line("for people");
  json.terminal.note("talk");
  json.terminal.object({ inode: 2n ** 60n });
  assert.deepEqual([json.out, json.err], [['{"inode":"1152921504606846976"}\n'], []]);
});

Deno.test("exitCodeOf() tells a decision, damage, a busy tree and a wrong command line apart", () => {
  const codes = (["usage", "uncommitted", "diverged", "corrupt", "busy", "auth", "not-a-tree"] as const)
    .map((code) => exitCodeOf(new DroverError(code, "")));
  assert.deepEqual(codes, [2, 3, 3, 4, 5, 1, 1]);
  assert.equal(exitCodeOf(new FormatError("package.path.escape", 8, "Bad")), 4);
  assert.equal(exitCodeOf(new Error()), 1);
});
