/**
 * `drover mem bench remote`, `pull` and `all` against donors that are processes of their own.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { missing } from "../region/room.ts";
import { drover } from "../cli/harness.ts";
import { Node, withFolder } from "./donor_node.ts";

const MiB = 2 ** 20;

interface Store {
  kind: string;
  state: string;
  used: number;
  reads: number;
  writes: number;
}

/** A test with two donors on loopback. */
function donorTest(
  name: string,
  work: (donors: readonly [Node, Node], folder: string) => Promise<void>,
): void {
  Deno.test({
    name,
    ignore: missing !== null,
    fn: () =>
      withFolder(async (folder) => {
        const options = ["--listen", "127.0.0.1:0", "--donate", "64MiB"];
        await using left = await Node.open(`${folder}/left`, ...options, "--name", "left");
        await using right = await Node.open(`${folder}/right`, ...options, "--name", "right");
        await work([left, right], folder);
      }),
  });
}

/** Bytes that a donor has lent. */
async function lentBy(node: Node): Promise<number> {
  const { objects } = await drover("donors", node.address, "--json");
  return Number(objects()[0]?.lent);
}

donorTest(
  "mem bench remote reads from donors, keeps the limit, and gives everything back",
  async ([left]) => {
    const { code, stderr, result } = await drover(
      ...["mem", "bench", "remote", "--donor", left.address, "--copies", "1", "--ssd", "none"],
      ...["--size", "16MiB", "--limit", "4MiB", "--seconds", "0.3", "--writes", "30", "--threads", "2"],
      ...["--verify", "--json"],
    );
    assert.equal(code, 0, stderr);
    const answer = result();
    assert.ok(Number(answer.faults) > 0 && Number(answer.readBytes) > 0, JSON.stringify(answer));
    assert.ok(Number(answer.resident) <= 4 * MiB, `${answer.resident}`);
    assert.deepEqual([answer.donors, answer.copies, answer.sealed, answer.thin], [1, 1, false, 0]);
    const [store, ...others] = answer.stores as Store[];
    assert.ok(store !== undefined && store.reads > 0 && store.writes > 0, JSON.stringify(store));
    assert.deepEqual([store.kind, store.state, others], ["nbd", "up", []]);
    assert.equal(await lentBy(left), 0);
  },
);

donorTest(
  "mem bench remote takes peers, copies and sealed from drover.json",
  async ([left, right], folder) => {
    const config = join(folder, "drover.json");
    const peers = [left.address, right.address];
    Deno.writeTextFileSync(config, JSON.stringify({ peers, copies: 2, sealed: true }));
    const words = ["--config", config, "--size", "8MiB", "--limit", "4MiB", "--seconds", "0.2", "--json"];
    const { code, stderr, result } = await drover("mem", "bench", "remote", ...words);
    assert.equal(code, 0, stderr);
    const { donors, copies, sealed, thin, stores } = result();
    assert.deepEqual([donors, copies, sealed, thin], [2, 2, true, 0]);
    const used = (stores as Store[]).map(({ kind, used }) => {
      assert.equal(kind, "nbd");
      return used;
    });
    assert.equal(used.length, 2);
    assert.ok(used.every((pages) => pages > 0), `${used}`);
    // What is said on the command line counts.
    const other = await drover("mem", "bench", "remote", ...words, "--copies", "1", "--sealed", "auto");
    assert.equal(other.code, 0, other.stderr);
    assert.deepEqual([other.result().copies, other.result().sealed], [1, false]);
    assert.ok((other.result().stores as Store[]).some(({ kind, used }) => kind === "file" && used > 0));
  },
);

donorTest(
  "mem bench remote sends pages to SSD, and to donors after the t2 of drover.json",
  async ([left], folder) => {
    const config = join(folder, "drover.json");
    Deno.writeTextFileSync(config, JSON.stringify({ peers: [left.address], t1: "50ms", t2: "100ms" }));
    const { code, stderr, result } = await drover(
      ...["mem", "bench", "remote", "--config", config, "--size", "16MiB", "--limit", "4MiB"],
      ...["--seconds", "4", "--pattern", "zipf", "--verify", "--json"],
    );
    assert.equal(code, 0, stderr);
    const [file, donor] = result().stores as Store[];
    assert.deepEqual([file?.kind, donor?.kind], ["file", "nbd"]);
    assert.ok(donor !== undefined && donor.used > 0, JSON.stringify(result()));
  },
);

donorTest("mem bench pull brings back every page that had left", async ([left]) => {
  const words = ["--from", left.address, "--size", "32MiB", "--threads", "2", "--writes", "20"];
  const { code, stderr, result } = await drover("mem", "bench", "pull", ...words, "--json");
  assert.equal(code, 0, stderr);
  const answer = result();
  assert.equal(answer.evictedBytes, 32 * MiB);
  assert.ok(Number(answer.readBytes) >= 32 * MiB && Number(answer.ops) > 0, JSON.stringify(answer));
  assert.ok(Number(answer.bytesPerSecond) > 0 && Number(answer.prefetched) > 0);
  assert.ok(Number(answer.p50Us) <= Number(answer.p90Us) && Number(answer.p90Us) <= Number(answer.p99Us));
  assert.equal(await lentBy(left), 0);
});

donorTest("mem bench all prints one table of four tests", async ([left, right]) => {
  const words = ["--donor", left.address, right.address, "--size", "8MiB", "--seconds", "0.1"];
  const { code, stdout, stderr } = await drover("mem", "bench", "all", ...words);
  assert.equal(code, 0, stderr);
  const names = stdout.trimEnd().split("\n").map((line) => line.split(" ")[0]);
  assert.deepEqual(names, ["test", "local", "ssd", "remote", "pull", "latencies"]);
  const json = await drover("mem", "bench", "all", ...words, "--json");
  assert.deepEqual(json.objects().map(({ test, tests }) => test ?? tests), [
    "local",
    "ssd",
    "remote",
    "pull",
    4,
  ]);
});

donorTest("mem bench says that a donor has too little, and that one is not there", async ([left]) => {
  const little = await drover(
    ...[
      "mem",
      "bench",
      "remote",
      "--donor",
      left.address,
      "--copies",
      "1",
      "--ssd",
      "none",
      "--size",
      "128MiB",
    ],
  );
  assert.equal(little.code, 1);
  assert.match(little.stderr, /cannot borrow 134217728 bytes: the donors have \d+ too few/);
  const gone = await drover("mem", "bench", "pull", "--from", "127.0.0.1:1", "--size", "8MiB", "--json");
  assert.equal((gone.result().error as { code: string }).code, "disconnected");
});
