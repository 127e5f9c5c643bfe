import assert from "node:assert/strict";
import { groupTitles, remedies } from "../../lib/cli/remedies.ts";
import { drover } from "./harness.ts";

Deno.test("drover doctor describes everything that the library probes, and nothing else", async () => {
  const { code, objects } = await drover("doctor", "/var/tmp", "--json");
  assert.equal(code, 0);
  const items = objects().slice(0, -1);
  assert.deepEqual(items.map((item) => item.id).sort(), Object.keys(remedies).sort());
});

Deno.test("drover doctor says for each item what it is, and for a missing one what to do", async () => {
  const { code, objects, result } = await drover("doctor", "/var/tmp", "--json");
  assert.equal(code, 0);
  const items = objects().slice(0, -1);
  for (const item of items) {
    assert.deepEqual(Object.keys(item).sort(), [
      "detail",
      "errno",
      "get",
      "group",
      "id",
      "ok",
      "title",
      "without",
    ]);
    for (const name of ["id", "group", "title", "get", "without"]) {
      assert.ok(typeof item[name] === "string" && item[name] !== "", `${item.id} has no ${name}`);
    }
    assert.ok(Object.hasOwn(groupTitles, String(item.group)));
    assert.equal(typeof item.errno, "number");
  }
  assert.equal(typeof result().native, "string");
  assert.equal(result().missing, items.filter((item) => item.ok === false).length);
});

Deno.test("drover doctor prints groups, and remedies for what is missing only", async () => {
  const { stdout, objects } = await drover("doctor", "/var/tmp").then(async (text) => ({
    stdout: text.stdout,
    objects: (await drover("doctor", "/var/tmp", "--json")).objects(),
  }));
  const missing = objects.slice(0, -1).filter((item) => item.ok === false);
  assert.match(stdout, /^Program\n {2}ok {7}libdrover\.so: version /);
  assert.equal(stdout.match(/^ {2}missing /gm)?.length ?? 0, missing.length);
  assert.equal(stdout.match(/^ {11}get it: /gm)?.length ?? 0, missing.length);
  for (const item of missing) assert.ok(stdout.includes(String(item.get)), String(item.id));
});

Deno.test("drover doctor says how to get the library when it is absent, and ends with 0", async () => {
  const before = Deno.env.get("DROVER_LIB");
  Deno.env.set("DROVER_LIB", "/nowhere/libdrover.so");
  try {
    const { code, objects, result } = await drover("doctor", "--json");
    assert.equal(code, 0);
    assert.equal(objects().length, 2);
    assert.deepEqual([objects()[0]?.id, objects()[0]?.ok], ["native", false]);
    assert.match(String(objects()[0]?.get), /deno task native/);
    assert.deepEqual(result(), { native: null, missing: 1 });
  } finally {
    if (before === undefined) Deno.env.delete("DROVER_LIB");
    else Deno.env.set("DROVER_LIB", before);
  }
});

Deno.test("drover doctor ends with 1 when asking fails", async () => {
  const { code, result } = await drover("doctor", "/nowhere/at/all", "--json");
  assert.equal(code, 1);
  assert.ok(Object.hasOwn(result(), "error"));
});
