/**
 * Regions over donors: real NBD servers in processes of their own, which are killed, come back empty and give up their memory, while
 * every byte of the region stays what it was.
 */
import assert from "node:assert/strict";
import { createFakeNative } from "../../ffi/fake.ts";
import { DroverError } from "../../lib/base/errors.ts";
import { Region, type RegionOptions, type RemoteSlots } from "../../lib/region/mod.ts";
import { checkOptions } from "../../lib/region/options.ts";
import { PolicyDriver } from "../../lib/region/policy_driver.ts";
import { pathFromText } from "../../lib/base/path.ts";
import type { NativeRegion, StoreSettings } from "../../ffi/mod.ts";
import { MiB, openReal, realTest, Room } from "./room.ts";

const ticket = "5e1f";

/** A donor's process. */
class Donor implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;
  readonly #said: ReadableStreamDefaultReader<string>;
  readonly slots: RemoteSlots;
  #ended = false;

  private constructor(
    child: Deno.ChildProcess,
    said: ReadableStreamDefaultReader<string>,
    slots: RemoteSlots,
  ) {
    this.#child = child;
    this.#said = said;
    this.slots = slots;
  }

  static async start(options: { size: number; port?: number; sealed?: boolean }): Promise<Donor> {
    const { size, port = 0, sealed = false } = options;
    const program = decodeURIComponent(new URL("donor.ts", import.meta.url).pathname);
    const child = new Deno.Command(Deno.execPath(), {
      args: ["run", "--no-check", "--allow-all", program, `${port}`, ticket, `${size}`],
      stdout: "piped",
      stderr: "inherit",
    }).spawn();
    const reader = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
    let said = "";
    while (!said.includes("\n")) {
      const { value, done } = await reader.read();
      if (done) throw new Error("The donor did not start");
      said += value;
    }
    return new Donor(child, reader, {
      hostname: "127.0.0.1",
      port: Number(said),
      ticket,
      transport: "tcp",
      size,
      sealed,
    });
  }

  /** As when the machine loses its power. */
  async kill(): Promise<void> {
    if (this.#ended) return;
    this.#ended = true;
    this.#child.kill("SIGKILL");
    await this.#said.cancel();
    await this.#child.status;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.kill();
  }
}

/** Gives each page a content of its own. */
function write(region: Region, version: number): void {
  const words = new Uint32Array(region.bytes.buffer);
  for (let page = 0; page < words.length / 1024; page++) words[page * 1024 + 5] = page * 16 + version;
}

/** Whether each page has it. */
function verify(region: Region, version: number): void {
  const words = new Uint32Array(region.bytes.buffer);
  for (let page = 0; page < words.length / 1024; page++) {
    if (words[page * 1024 + 5] !== page * 16 + version) {
      assert.fail(`page ${page} has ${words[page * 1024 + 5]} instead of ${page * 16 + version}`);
    }
  }
}

for (const sealed of [false, true]) {
  realTest(
    `Region on ${sealed ? "sealed " : ""}donors alone survives the death and the return of one`,
    async () => {
      using room = new Room();
      await using first = await Donor.start({ size: 10 * MiB, sealed });
      await using second = await Donor.start({ size: 10 * MiB, sealed });
      const { ssd: _, ...options }: RegionOptions = {
        size: 8 * MiB,
        limit: 2 * MiB,
        ssd: { path: room.path },
      };
      using region = Region.open({
        ...options,
        policy: false,
        remote: { donors: [first.slots, second.slots], copies: 2, timeoutSeconds: 2 },
      });
      write(region, 1);
      verify(region, 1);
      assert.deepEqual(region.stores().map(({ kind, state }) => [kind, state]), [["nbd", "up"], [
        "nbd",
        "up",
      ]]);
      assert.ok(region.stores().every(({ used }) => used >= 1536), "not every page that left has two copies");

      await first.kill();
      verify(region, 1);
      write(region, 2);
      verify(region, 2);
      assert.equal(region.stores()[0]?.state, "down");
      assert.ok(region.events().some(({ why, page }) => why === "storeDown" && page === 0));

      // The same place, and nothing in it.
      await using _again = await Donor.start({ size: 10 * MiB, port: first.slots.port, sealed });
      for (
        let round = 0;
        round < 300 && (await region.mend() > 0 || region.stores()[0]?.state !== "up");
        round++
      ) {
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
      assert.equal(region.stores()[0]?.state, "up");
      verify(region, 2);
      // What it lost by its end is told from what it has, one read at a time, or all at once:
      assert.equal(await region.retireDonor(0, { lost: true }), 0);
      assert.equal(await region.addDonor({ ...first.slots }), 0);
      while (await region.mend() > 0);
      await second.kill();
      verify(region, 2);
      assert.equal(region.stats().eventsLost, 0);
      assert.ok(region.events().every(({ why }) => why === "storeDown" || why === "storeUp"));
    },
  );
}

realTest(
  "Region reads what a donor lost from its file, and a donor that wants its memory gets it",
  async () => {
    using room = new Room();
    await using first = await Donor.start({ size: 4 * MiB });
    await using second = await Donor.start({ size: 3 * MiB });
    using region = openReal(room, {
      remote: { donors: [first.slots, second.slots], timeoutSeconds: 2 },
      faults: "thread",
    });
    write(region, 1);
    verify(region, 1);
    const [one, two, file] = region.stores();
    assert.ok(one !== undefined && two !== undefined && file !== undefined);
    assert.ok(one.used > 0 && two.used > 0 && file.used >= 1536, "donors and file are not filled");
    assert.ok(one.reads + two.reads > 0, "nothing was read from a donor");
    assert.equal(await region.retireDonor(0), 0);
    assert.equal(region.stores()[0]?.state, "gone");
    await first.kill();
    verify(region, 1);
    await second.kill();
    verify(region, 1);
    write(region, 3);
    verify(region, 3);
  },
);

realTest("Region.open() says of a donor what is wrong with it", async () => {
  using room = new Room();
  await using donor = await Donor.start({ size: 4 * MiB });
  const open = (change: Partial<RemoteSlots>): void => {
    openReal(room, { remote: { donors: [{ ...donor.slots, ...change }], timeoutSeconds: 2 } }).close();
  };
  open({});
  const isCode = (code: string) => (error: unknown): boolean =>
    error instanceof DroverError && error.code === code;
  assert.throws(() => open({ ticket: "beef" }), isCode("auth"));
  assert.throws(() => open({ size: 5 * MiB }), isCode("no-space"));
  await donor.kill();
  assert.throws(() => open({}), isCode("disconnected"));
  assert.equal([...Deno.readDirSync(room.path)].length, 0, "a refused region left something");
});

const slots: RemoteSlots = {
  hostname: "192.0.2.7",
  port: 7000,
  ticket: "00ff",
  transport: "tcp",
  size: "8MiB",
  sealed: true,
};
const sizes = { size: "8MiB", limit: "2MiB" };

Deno.test("checkOptions() makes stores of donors, in the order that was asked for", () => {
  const ssd = { path: "/nowhere" };
  const file = { kind: "file", path: "/nowhere", size: 8 * MiB };
  const lent = {
    kind: "nbd",
    path: "192.0.2.7",
    name: "00ff",
    port: 7000,
    size: 8 * MiB,
    sealed: true,
    timeoutMs: 5000,
  };
  const of = (options: Partial<RegionOptions>) => checkOptions({ ...sizes, ...options }).settings;
  assert.deepEqual(of({ ssd, remote: { donors: [slots] } }).stores, [lent, file]);
  assert.equal(of({ ssd, remote: { donors: [slots] } }).copies, 1);
  assert.deepEqual(of({ ssd, remote: { donors: [slots], order: "ssd-first" } }).stores, [file, lent]);
  const rdma = { ...slots, transport: "rdma" as const };
  const alone = of({ remote: { donors: [slots, rdma], copies: 2, timeoutSeconds: 0.5 } });
  assert.deepEqual(alone.stores, [{ ...lent, timeoutMs: 500 }, { ...lent, kind: "verbs", timeoutMs: 500 }]);
  assert.equal(alone.copies, 2);
  assert.equal(of({ ssd }).stores, undefined);
  assert.deepEqual(checkOptions({ ...sizes, ssd, policy: { nextSeconds: 30 } }).policy?.nextMs, 30_000);
});

Deno.test("checkOptions() refuses donors that cannot be, and never shows a ticket", () => {
  const refused: [Partial<RegionOptions>, RegExp][] = [
    [{}, /without a place for cold pages/],
    [{ remote: { donors: [slots] } }, /on donors alone/],
    [{ remote: { donors: [], copies: 1 } }, /with 0 donors/],
    [{ remote: { donors: [slots], copies: 2 } }, /with 1 donors/],
    [{ remote: { donors: Array(9).fill(slots), copies: 2 } }, /with 9 donors/],
    [{ ssd: { path: "/x" }, remote: { donors: Array(8).fill(slots) } }, /with 8 donors/],
    [{ remote: { donors: [slots], copies: 3 as 2 } }, /3 copies/],
    [{ remote: { donors: [{ ...slots, size: "4MiB" }], copies: 1 } }, /lend 4194304 bytes/],
    [{ remote: { donors: [{ ...slots, hostname: "donor.example" }], copies: 1 } }, /numeric address/],
    [{ remote: { donors: [{ ...slots, port: 0 }], copies: 1 } }, /port 0/],
    [{ remote: { donors: [{ ...slots, ticket: "secret!" }], copies: 1 } }, /hexadecimal/],
    [{ remote: { donors: [{ ...slots, size: 5000 }], copies: 1 } }, /multiple of 4096/],
    [{ remote: { donors: [{ ...slots, transport: "udp" as "tcp" }], copies: 1 } }, /"udp" for transport/],
    [{ remote: { donors: [slots], copies: 1, order: "x" as "ssd-first" } }, /"x" for remote.order/],
    [{ remote: { donors: [slots], copies: 1, timeoutSeconds: 61 } }, /61 seconds/],
    [{ ssd: { path: "/x" }, policy: { nextSeconds: 0 } }, /after 0 seconds/],
  ];
  for (const [options, message] of refused) {
    assert.throws(() => checkOptions({ ...sizes, ...options }), (error: unknown) => {
      assert.ok(error instanceof Error);
      assert.match(error.message, message);
      assert.ok(!error.message.includes("secret!"), "the ticket is in the message");
      return true;
    });
  }
});

/** A stand-in over two stores, with every page cold in the first. */
function openLadder(stores: readonly StoreSettings[]): NativeRegion {
  const region = createFakeNative().openRegion({
    size: 8 * MiB,
    limit: 8 * MiB,
    ssd: { path: pathFromText("/fake"), size: 0, anonymous: true },
    faults: "inline",
    dirty: "hash",
    spinUs: 0,
    stores,
    copies: 1,
  });
  const pages = BigUint64Array.from({ length: 2048 }, (_, page) => BigInt(page));
  void region.populate({ first: 0, count: 2048 });
  region.evict(pages);
  return region;
}

const fakeFile: StoreSettings = { kind: "file", path: pathFromText("/fake"), size: 8 * MiB };
const fakeDonor: StoreSettings = { kind: "nbd", path: pathFromText("192.0.2.7"), size: 4 * MiB };

for (
  const [order, stores] of [["ssd-first", [fakeFile, fakeDonor]], ["remote-first", [
    fakeDonor,
    fakeFile,
  ]]] as const
) {
  Deno.test(`PolicyDriver moves pages on to the next store after their time, ${order}`, () => {
    using region = openLadder(stores);
    const driver = new PolicyDriver(region, {
      hertz: 20,
      idleMs: Infinity,
      nextMs: 10_000,
      limitMinPages: 2048,
    }, 0);
    const run = (from: number, to: number): void => {
      for (let now = from; now < to; now += 50) driver.tick(now);
    };
    run(0, 9500);
    assert.equal(region.stores()[1]?.used, 0, "a page moved before its time");
    run(9500, 30_000);
    // As many as there is room for; the file always has room.
    assert.equal(region.stores()[1]?.used, order === "ssd-first" ? 1024 : 2048);
    assert.equal(region.stores()[0]?.used, order === "ssd-first" ? 2048 : 0);
  });
}

Deno.test("PolicyDriver leaves pages where they are without a time for it", () => {
  using region = openLadder([fakeFile, fakeDonor]);
  const driver = new PolicyDriver(region, { hertz: 20, idleMs: Infinity, limitMinPages: 2048 }, 0);
  for (let now = 0; now < 30_000; now += 50) driver.tick(now);
  assert.equal(region.stores()[1]?.used, 0);
});
