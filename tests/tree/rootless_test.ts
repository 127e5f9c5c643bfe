/**
 * Trees of an ordinary user: in a user namespace, where an overlay with `userxattr` can be mounted, and without one, where
 * trees are walked. The table of `scenarios.ts` and random changes, in a Deno process of such a user. As root that user is 65534,
 * otherwise whoever runs the tests.
 */
import assert from "node:assert/strict";
import { basename } from "node:path";
import { fileURLToPath } from "node:url";
import { has, isRoot, memoryBase, run, Scratch } from "./scratch.ts";

const inner = Deno.env.get("DROVER_INNER") !== undefined;
const project = fileURLToPath(new URL("../../", import.meta.url));

/** Runs the table with one setup, and random changes, as that user and below a command. */
async function asUser(below: readonly string[], setup: string): Promise<string> {
  await using scratch = new Scratch(memoryBase());
  const base = scratch.mkdir("base");
  const user = isRoot ? ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"] : [];
  // That user may not be able to look into the place where root keeps these.
  const code = scratch.mkdir("code");
  await run([
    "cp",
    "-r",
    ...["ffi", "lib", "tests", "build"].map((name) => project + name),
    Deno.execPath(),
    code,
  ]);
  if (isRoot) Deno.chownSync(base, 65534, 65534);
  Deno.chmodSync(scratch.dir, 0o755);
  const command = [
    ...user,
    ...below,
    `${code}/${basename(Deno.execPath())}`,
    "test",
    "--quiet",
    "--no-check",
    "--no-config",
    "--no-lock",
    "-A",
    `--filter=/${setup} tree|random|inode numbers.*${setup}/`,
  ];
  const [file = "", ...args] = [
    ...command,
    ...["capture_test.ts", "random_test.ts", "init_test.ts"].map((name) => `${code}/tests/tree/${name}`),
  ];
  const output = await new Deno.Command(file, {
    args,
    cwd: "/",
    env: {
      DROVER_INNER: "1",
      DROVER_BRIEF: "1",
      DROVER_TEST_BASE: base,
      DROVER_SEEDS: "3",
      DENO_DIR: `${base}/deno`,
      HOME: base,
      NO_COLOR: "1",
    },
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).output();
  const text = new TextDecoder().decode(output.stdout) + new TextDecoder().decode(output.stderr);
  assert.ok(output.success, text.slice(-6000));
  return text;
}

/** What that takes. */
const tools = has("rsync", "setpriv", "unshare", "setfacl", "setcap", "setfattr", "getfattr", "python3");

/** Whether that user may make a user namespace and mount an overlay there. */
async function mayUnshare(): Promise<boolean> {
  const user = isRoot ? ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"] : [];
  const script =
    "d=$(mktemp -d /var/tmp/drover-tree-test-XXXXXX); trap 'rm -rf $d' EXIT; cd $d; mkdir l u w m; " +
    "mount -t overlay -o userxattr,lowerdir=l,upperdir=u,workdir=w o m; umount m";
  const [file = "", ...args] = [
    ...user,
    "unshare",
    "--user",
    "--map-root-user",
    "--mount",
    "sh",
    "-ec",
    script,
  ];
  try {
    return (await new Deno.Command(file, { args, stdout: "null", stderr: "null" }).output()).success;
  } catch {
    return false;
  }
}

const unshare = !inner && tools && await mayUnshare();
if (!inner && !unshare) console.warn("tests/tree: no overlay in a user namespace here");

Deno.test({
  name: "commit() and transfers of a user namespace's root keep every edge case and random changes",
  ignore: !unshare,
  fn: async () => {
    const said = await asUser(["unshare", "--user", "--map-root-user", "--mount"], "portable");
    assert.match(said, /gc and deinit of a portable tree/);
  },
});

Deno.test({
  name: "commit() and transfers of an ordinary user keep every edge case and random changes",
  ignore: inner || !tools,
  fn: async () => {
    const said = await asUser([], "scan");
    assert.match(said, /gc and deinit of a scan tree/);
    assert.doesNotMatch(said, /portable/);
  },
});
