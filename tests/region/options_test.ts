import assert from "node:assert/strict";
import { createFakeNative } from "../../ffi/fake.ts";
import { Region, type RegionOptions } from "../../lib/region/mod.ts";
import { checkOptions } from "../../lib/region/options.ts";

const good: RegionOptions = { size: "8MiB", limit: "2MiB", ssd: { path: "/nowhere" } };

Deno.test("checkOptions() reads sizes and fills in what was not said", () => {
  const { settings, policy } = checkOptions(good);
  assert.equal(settings.size, 8 * 2 ** 20);
  assert.equal(settings.limit, 2 * 2 ** 20);
  assert.deepEqual(settings.ssd, { path: "/nowhere", size: 8 * 2 ** 20, anonymous: true });
  assert.deepEqual([settings.faults, settings.dirty], ["inline", "hash"]);
  assert.deepEqual(policy, { hertz: 20, idleMs: Infinity, limitMinPages: 512 });
  assert.equal(checkOptions({ ...good, policy: false }).policy, null);
});

const bad: readonly { name: string; change: Record<string, unknown>; error: RegExp }[] = [
  {
    name: "a size that is no whole pages",
    change: { size: 4097 },
    error: /of 4097 bytes: the size should be a multiple of 4096/,
  },
  { name: "a size of nothing", change: { size: 0 }, error: /should be a multiple of 4096/ },
  {
    name: "a size above 1 TiB",
    change: { size: "2TiB", ssd: { path: "/x" } },
    error: /at most 1099511627776/,
  },
  { name: "a size that is no number", change: { size: NaN }, error: /Cannot use NaN for size/ },
  { name: "a negative size", change: { size: -4096 }, error: /Cannot use -4096 for size/ },
  { name: "a size in words", change: { size: "much" }, error: /Cannot use "much" as a size/ },
  {
    name: "a limit below the minimum",
    change: { limit: 4096 },
    error: /limit of 4096 bytes: it should be at least 1048576/,
  },
  {
    name: "an SSD smaller than the region",
    change: { ssd: { path: "/x", size: "4MiB" } },
    error: /on 4194304 bytes of SSD/,
  },
  {
    name: "a way of faulting that is none",
    change: { faults: "magic" },
    error: /"magic" for faults: it should be one of inline, thread/,
  },
  { name: "a way of tracking that is none", change: { dirty: "soft" }, error: /"soft" for dirty/ },
  { name: "a policy that hurries", change: { policy: { hertz: 1000 } }, error: /1000 times a second/ },
  {
    name: "a policy that gives back below the minimum",
    change: { policy: { limitMin: 4096 } },
    error: /down to 4096 bytes/,
  },
  {
    name: "a policy that gives back above the limit",
    change: { policy: { limitMin: "3MiB" } },
    error: /down to 3145728 bytes/,
  },
  { name: "a policy without patience", change: { policy: { idleSeconds: 0 } }, error: /after 0 seconds/ },
];

for (const { name, change, error } of bad) {
  Deno.test(`Region.open() refuses ${name} before anything is opened`, () => {
    const native = createFakeNative();
    const opened: unknown[] = [];
    native.openRegion = (settings) => {
      opened.push(settings);
      throw new Error("opened");
    };
    const options = { ...good, native, ...change } as RegionOptions;
    assert.throws(() => Region.open(options), { message: error });
    assert.deepEqual(opened, []);
  });
}

Deno.test("checkOptions() lets a small region have all of itself as its limit", () => {
  assert.equal(checkOptions({ ...good, size: "64KiB", limit: "64KiB" }).settings.limit, 65_536);
});
