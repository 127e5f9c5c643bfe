import assert from "node:assert/strict";
import { directoryArgument } from "../../lib/cli/session.ts";
import { homeDirectory } from "../../lib/daemon/context.ts";

Deno.test("directoryArgument() takes text as the bytes of its UTF-8", () => {
  assert.equal(directoryArgument("./a b"), "./a b");
  assert.equal(directoryArgument("\u00fc"), "\xc3\xbc");
  assert.throws(() => directoryArgument(""), { code: "usage" });
});

Deno.test("homeDirectory() prefers DROVER_HOME, then the place of the user", () => {
  const home = (uid: number, variables: Record<string, string>): string =>
    homeDirectory({ environment: (name) => variables[name], uid });
  assert.equal(home(0, { HOME: "/root" }), "/var/lib/drover");
  assert.equal(home(0, { DROVER_HOME: "/x" }), "/x");
  assert.equal(home(1000, { HOME: "/home/a" }), "/home/a/.local/state/drover");
  assert.equal(home(1000, { HOME: "/home/a", XDG_STATE_HOME: "/s" }), "/s/drover");
  assert.equal(home(1000, { HOME: "/home/a", XDG_STATE_HOME: "relative" }), "/home/a/.local/state/drover");
  assert.throws(() => home(1000, {}), /set DROVER_HOME/);
});
