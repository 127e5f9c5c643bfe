import assert from "node:assert/strict";
import { drawMap } from "../../lib/cli/mem_demo.ts";
// Loaded once and for all tests, and so not by the first test that needs it: that would count as a leak.
import "../../lib/daemon/mem_remote.ts";
import { missing } from "../region/room.ts";
import { drover } from "./harness.ts";

/** A command that needs a region of this machine. */
function realTest(name: string, fn: () => Promise<void>): void {
  Deno.test({ name, ignore: missing !== null, fn });
}

const keys = ["faults", "opsPerSecond", "p50Us", "p90Us", "p99Us", "readBytes", "resident", "writtenBytes"];

realTest("mem bench local has all in RAM and prints every number that programs read", async () => {
  const { code, stderr, result } = await drover(
    "mem",
    "bench",
    "local",
    "--size",
    "8MiB",
    "--seconds",
    "0.1",
    "--json",
  );
  assert.equal(code, 0, stderr);
  const answer = result();
  for (const key of keys) assert.equal(typeof answer[key], "number", key);
  assert.deepEqual([answer.faults, answer.readBytes, answer.resident], [0, 0, 8 * 2 ** 20]);
  assert.ok(Number(answer.opsPerSecond) > 0);
});

realTest("mem bench ssd reads from SSD, keeps the limit, and finds no wrong word", async () => {
  const { code, stderr, result } = await drover(
    ...[
      "mem",
      "bench",
      "ssd",
      "--size",
      "16MiB",
      "--limit",
      "4MiB",
      "--seconds",
      "0.3",
      "--verify",
      "--json",
    ],
    ...["--writes", "30", "--threads", "2"],
  );
  assert.equal(code, 0, stderr);
  const answer = result();
  assert.ok(Number(answer.faults) > 0 && Number(answer.readBytes) > 0, JSON.stringify(answer));
  assert.ok(Number(answer.resident) <= 4 * 2 ** 20, `${answer.resident}`);
  assert.ok(Number(answer.p50Us) <= Number(answer.p90Us) && Number(answer.p90Us) <= Number(answer.p99Us));
});

for (const pattern of ["uniform", "zipf", "scan"]) {
  realTest(`mem bench runs the pattern ${pattern} with hints`, async () => {
    const { code, stdout, stderr } = await drover(
      ...["mem", "bench", "ssd", "--size", "8MiB", "--limit", "4MiB", "--seconds", "0.1", "--hints", "16"],
      ...["--pattern", pattern],
    );
    assert.equal(code, 0, stderr);
    assert.match(stdout, new RegExp(`^8MiB, 4.2 MB in RAM, ${pattern}, 1 thread\\n`));
    assert.match(stdout, /accesses +\d+ per second/);
  });
}

realTest("mem demo draws three plain frames where stdout is no terminal", async () => {
  const { code, stdout, stderr } = await drover("mem", "demo", "--size", "8MiB", "--limit", "2MiB");
  assert.equal(code, 0, stderr);
  assert.equal(stdout.match(/ in RAM, /g)?.length, 3);
  // deno-lint-ignore no-control-regex
  assert.doesNotMatch(stdout, /\x1b/);
  assert.match(stdout, /\.\.\./);
  assert.match(stdout, /#|o/);
});

realTest("mem demo prints one object per frame with --json", async () => {
  const { code, objects } = await drover("mem", "demo", "--size", "8MiB", "--limit", "2MiB", "--json");
  assert.equal(code, 0);
  assert.equal(objects().length, 3);
  for (const frame of objects()) {
    const states = frame.states as Record<string, number>;
    assert.equal(Object.values(states).reduce((sum, count) => sum + count), 2048);
    assert.ok(Number(frame.resident) <= 2 * 2 ** 20);
  }
});

const mistakes: readonly { args: string[]; error: RegExp }[] = [
  { args: ["mem"], error: /a command is missing/ },
  { args: ["mem", "bench"], error: /missing required argument 'where'/ },
  { args: ["mem", "bench", "tape"], error: /'tape' is invalid.*local, ssd, remote, pull, all/ },
  { args: ["mem", "bench", "remote"], error: /cannot borrow memory: no donor is named/ },
  { args: ["mem", "bench", "pull", "--size", "8MiB"], error: /no donor is named/ },
  { args: ["mem", "bench", "remote", "--donor", "a:b:c"], error: /cannot use the address "a:b:c"/ },
  { args: ["mem", "bench", "remote", "--donor", "h:1", "--copies", "3"], error: /"3" for --copies/ },
  {
    args: ["mem", "bench", "remote", "--donor", "127.0.0.1:1", "--copies", "2"],
    error: /cannot borrow from 1 donors: it should be 2 to 64/,
  },
  {
    args: ["mem", "bench", "remote", "--donor", "127.0.0.1:1", "--ssd", "none"],
    error: /cannot leave out the file: with one donor gone its pages would be lost/,
  },
  {
    args: ["mem", "bench", "ssd", "--donor", "127.0.0.1:1"],
    error: /cannot use --donor with ssd: no donor is asked/,
  },
  { args: ["mem", "bench", "ssd", "--ssd", "none"], error: /cannot use "none" for --ssd/ },
  { args: ["mem", "bench", "remote", "--sealed", "maybe"], error: /'maybe' is invalid.*yes, no, auto/ },
  {
    args: ["mem", "bench", "ssd", "--size", "many"],
    error: /cannot use "many" for --size: it should be a size like 64MiB/,
  },
  {
    args: ["mem", "bench", "ssd", "--size", "5000"],
    error: /cannot use "5000" for --size: it should be a multiple of 4096/,
  },
  { args: ["mem", "bench", "ssd", "--size", "0"], error: /cannot use "0" for --size/ },
  {
    args: ["mem", "bench", "ssd", "--writes", "101"],
    error: /cannot use "101" for --writes: it should be a percentage/,
  },
  {
    args: ["mem", "bench", "ssd", "--threads", "65"],
    error: /cannot use "65" for --threads: it should be at most 64/,
  },
  {
    args: ["mem", "bench", "ssd", "--hints", "65"],
    error: /cannot use "65" for --hints: it should be at most 64/,
  },
  { args: ["mem", "bench", "ssd", "--seconds", "0"], error: /cannot use "0" for --seconds/ },
  { args: ["mem", "bench", "ssd", "--pattern", "spiral"], error: /'spiral' is invalid.*uniform, zipf, scan/ },
];

for (const { args, error } of mistakes) {
  Deno.test(`run() refuses "drover ${args.join(" ")}" with code 2`, async () => {
    const { code, stdout, stderr } = await drover(...args);
    assert.equal(code, 2, stderr);
    assert.match(stderr, error);
    assert.equal(stdout, "");
  });
}

realTest("mem bench refuses a limit that is too small, and says which is not", async () => {
  const { code, stderr } = await drover("mem", "bench", "ssd", "--size", "8MiB", "--limit", "64KiB");
  assert.equal(code, 2);
  assert.match(stderr, /limit of 65536 bytes: it should be at least 1048576/);
});

Deno.test("drawMap() shows what most pages of a cell are, and every lost one", () => {
  const states = Uint8Array.of(0, 0, 0, 1, 1, 4, 1, 1, 4, 4, 4, 8, 3, 3, 3 | 0xf0, 1);
  assert.deepEqual(drawMap(states, { columns: 2, rows: 2, colour: false }), [" .", "!o"]);
});

Deno.test("drawMap() colours cells only where it is told to", () => {
  const [line = ""] = drawMap(Uint8Array.of(1, 1, 4), { columns: 3, rows: 1, colour: true });
  assert.equal(line, "\x1b[90m..\x1b[33m#\x1b[0m");
});
