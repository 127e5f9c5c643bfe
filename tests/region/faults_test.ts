/**
 * What may go wrong under a region: for each the program gets the right bytes, an error it can catch, or SIGBUS with a line that says
 * why; never other bytes, and never nothing at all.
 */
import assert from "node:assert/strict";
import { Region } from "../../lib/region/mod.ts";
import { MiB, missing, openReal, realTest, Room } from "./room.ts";

interface Ended {
  code: number;
  signal: Deno.Signal | null;
  stdout: string[];
  stderr: string;
}

const victim = new URL("./victim.ts", import.meta.url).pathname;

/** Runs one scenario of victim.ts to its end. */
async function run(scenario: string, room: Room, prefix: readonly string[] = []): Promise<Ended> {
  const config = new URL("../../deno.json", import.meta.url).pathname;
  const deno = [
    Deno.execPath(),
    "run",
    "--quiet",
    "--allow-all",
    "--no-check",
    "--cached-only",
    "--config",
    config,
  ];
  const [program = "", ...args] = [...prefix, ...deno, victim, scenario, room.path];
  const child = new Deno.Command(program, {
    args,
    stdout: "piped",
    stderr: "piped",
    env: { RUST_BACKTRACE: "0" },
  });
  const { code, signal, stdout, stderr } = await child.output();
  const text = new TextDecoder();
  return { code, signal, stdout: text.decode(stdout).trimEnd().split("\n"), stderr: text.decode(stderr) };
}

for (
  const { scenario, why } of [
    { scenario: "short file", why: "short" },
    { scenario: "bad checksum", why: "checksum" },
    { scenario: "another page's data", why: "checksum" },
    { scenario: "poison", why: null },
  ]
) {
  realTest(`Region.pin() throws and a touch is SIGBUS for a page behind this: ${scenario}`, async () => {
    using room = new Room();
    const { signal, stdout, stderr } = await run(scenario, room);
    assert.equal(stdout[0], "pin: EIO", stdout.join("; ") + stderr);
    if (why !== null) assert.ok(stdout.includes(`event: page 7 ${why}`), stdout.join("; "));
    assert.equal(stdout.at(-1), "touch");
    assert.equal(signal, "SIGBUS", stderr);
    assert.match(stderr, /drover.*page 7/i);
  });
}

realTest("Region keeps its pages when its file is removed", async () => {
  using room = new Room();
  const { code, stdout, stderr } = await run("file removed", room);
  assert.deepEqual(stdout, [`sum ${(2048 * 2049) / 2}`, "end"], stderr);
  assert.equal(code, 0);
});

realTest("Region's memory is never other memory after close()", async () => {
  using room = new Room();
  const { signal, stdout } = await run("after close", room);
  assert.deepEqual(stdout, ["touch"]);
  assert.equal(signal, "SIGSEGV");
});

realTest("Region.open() names the file that is no new one, and the size that is no room", () => {
  using room = new Room();
  Deno.writeTextFileSync(room.at("full"), "content");
  assert.throws(() => openReal(room, { ssd: { path: room.at("full") } }), {
    name: "DroverError",
    code: "exists",
    message: /Cannot open a region on ".*\/full": the file has content/,
  });
  assert.equal(Deno.readTextFileSync(room.at("full")), "content");
  assert.throws(() => openReal(room, { ssd: { path: room.at("no/such/dir") } }), { code: "ENOENT" });
});

realTest("Region.open() refuses a file that another region has", () => {
  using room = new Room();
  using first = openReal(room, { ssd: { path: room.at("named"), named: true } });
  assert.throws(
    () => openReal(room, { ssd: { path: room.at("named"), named: true } }),
    (error: { code: string }) => ["busy", "exists"].includes(error.code),
  );
  first.bytes[0] = 1;
});

const isRoot = Deno.uid() === 0;

Deno.test({
  name: "Region.open() says that the disk is full, and leaves it as it was",
  ignore: !isRoot,
  fn: async () => {
    using room = new Room();
    Deno.mkdirSync(room.at("small"));
    const mounted = await new Deno.Command("mount", {
      args: ["-t", "tmpfs", "-o", "size=4m", "none", room.at("small")],
    })
      .output();
    if (!mounted.success) return console.error("tests/region: skipped, a tmpfs cannot be mounted here");
    try {
      const ssd = { path: room.at("small"), buffered: true };
      assert.throws(() => Region.open({ size: 64 * MiB, limit: 2 * MiB, ssd, policy: false }), {
        name: "DroverError",
        code: "no-space",
      });
      assert.deepEqual([...Deno.readDirSync(room.at("small"))], []);
    } finally {
      await new Deno.Command("umount", { args: [room.at("small")] }).output();
    }
  },
});

Deno.test({
  name: "Region serves an ordinary user inline, and says what faults by a thread would need",
  ignore: !isRoot || missing !== null,
  fn: async () => {
    using room = new Room();
    const project = new URL("../../", import.meta.url).pathname;
    const code = room.at("code");
    Deno.mkdirSync(`${code}/tests/region`, { recursive: true });
    // That user may not be able to look into the place where root keeps these.
    const copied = await new Deno.Command("cp", {
      args: ["-r", `${project}ffi`, `${project}lib`, `${project}build`, Deno.execPath(), code],
    }).output();
    assert.ok(copied.success);
    Deno.copyFileSync(victim, `${code}/tests/region/victim.ts`);
    Deno.mkdirSync(room.at("base"));
    Deno.chownSync(room.at("base"), 65534, 65534);
    Deno.chmodSync(room.path, 0o755);
    const [, executable = ""] = /([^/]+)$/.exec(Deno.execPath()) ?? [];
    const child = new Deno.Command("setpriv", {
      args: [
        ...["--reuid", "65534", "--regid", "65534", "--clear-groups", `${code}/${executable}`],
        ...["run", "--quiet", "--allow-all", "--no-check", "--no-config", "--no-lock"],
        ...[`${code}/tests/region/victim.ts`, "no permission", room.at("base")],
      ],
      cwd: "/",
      env: { DENO_DIR: `${room.at("base")}/deno`, HOME: room.at("base"), RUST_BACKTRACE: "0" },
      stdout: "piped",
      stderr: "piped",
    });
    const { stdout, stderr } = await child.output();
    const text = new TextDecoder();
    const allowed = Deno.readTextFileSync("/proc/sys/vm/unprivileged_userfaultfd").trim() === "1";
    assert.deepEqual(text.decode(stdout).trimEnd().split("\n"), [
      "inline: 77",
      allowed ? "thread: 77" : `thread: unsupported, drover doctor ${room.at("base")}`,
      "end",
    ], text.decode(stderr));
  },
});
