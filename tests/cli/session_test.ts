import assert from "node:assert/strict";
import { pathToText } from "../../lib/base/path.ts";
import { directoryArgument } from "../../lib/cli/session.ts";
import { homeDirectory } from "../../lib/daemon/context.ts";

Deno.test("directoryArgument() resolves symlinks of what exists and keeps the rest", async () => {
  const directory = await Deno.realPath(await Deno.makeTempDir());
  try {
    await Deno.mkdir(`${directory}/real/sub`, { recursive: true });
    await Deno.symlink("real", `${directory}/link`);
    const text = (path: string): string => pathToText(directoryArgument(path));
    assert.equal(text(`${directory}/link/`), `${directory}/real`);
    assert.equal(text(`${directory}/link/new`), `${directory}/real/new`);
    assert.equal(text(`${directory}/link/sub/..`), `${directory}/real`);
    assert.equal(text(`${directory}/none/new`), `${directory}/none/new`);
    assert.equal(text(`${directory}/ümlaut`), `${directory}/ümlaut`);
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
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
