/** `Native.openDonor`: arguments and books. That memory is really lent is the matter of tests/vm and tests/native. */
import assert from "node:assert/strict";
import { createFakeNative } from "../../ffi/fake.ts";
import { NativeError, openNative } from "../../ffi/mod.ts";

// At the top level: Deno 2.4 takes a library that a test loads for a leak.
const native = openNative();
const ticket = "0f".repeat(32);

Deno.test("openDonor() says what this machine lacks, or listens", async () => {
  assert.throws(
    () => native.openDonor({ hostname: "not an address", port: 0 }),
    (error) => error instanceof NativeError && error.code === "EINVAL",
  );
  assert.throws(
    () => native.openDonor({ hostname: "127.0.0.1", port: 65_536 }),
    (error) => error instanceof NativeError && error.code === "EINVAL",
  );
  try {
    await using donor = native.openDonor({ hostname: "0.0.0.0", port: 0 });
    assert.ok(donor.port > 0);
  } catch (error) {
    // No library, no adapter, or no right to it.
    assert.ok(error instanceof NativeError, String(error));
    assert.ok(["EOPNOTSUPP", "ENODEV", "EACCES"].includes(error.code), error.message);
  }
});

Deno.test("the fake's donor keeps the books of its leases", async () => {
  const donor = createFakeNative().openDonor({ hostname: "::", port: 7711 });
  assert.equal(donor.port, 7711);
  await donor.lend({ ticket, size: 8192 });
  await assert.rejects(donor.lend({ ticket, size: 4096 }), { code: "EEXIST" });
  await assert.rejects(donor.lend({ ticket: "1f".repeat(32), size: 4097 }), { code: "EINVAL" });
  await assert.rejects(donor.lend({ ticket: "0F".repeat(32), size: 4096 }), TypeError);
  assert.deepEqual(donor.stats(), { lentBytes: 8192, accepted: 0, refused: 0, leases: 1, links: 0 });
  await donor.revoke(ticket);
  await assert.rejects(donor.revoke(ticket), { code: "ENOENT" });
  await donor.close();
  await assert.rejects(donor.lend({ ticket, size: 4096 }), TypeError);
  assert.throws(() => donor.stats(), TypeError);
});
