/**
 * Memory of one machine lent to another by RDMA, for real: two machines with soft-RoCE on one cable, a donor in one and a borrower
 * in the other (tests/native/verbs_main.c over native-src/donor.c and store_verbs.c). The data path, who may use what, and every way
 * to lose a donor: lease revoked, process killed, cable cut, adapter gone, machine without power.
 *
 * Goal: a request ends, with its data or with an error, in bounded time; what comes back is what was written or zeros of a
 * fresh lease; and a connection that can be had again is had again without help.
 */
import assert from "node:assert/strict";
import { openNative } from "../../ffi/mod.ts";
import { warningFlags } from "../../native-src/build.ts";
import { whyNot } from "./image.ts";
import { type Machine, machinesOnOneCable, type Talk } from "./machine.ts";

// At the top level: Deno 2.4 takes a library that a test loads for a leak.
const library = openNative().path;
const here = new URL("./", import.meta.url).pathname;
const native = `${here}../../native-src/`;
const reason = await whyNot();
if (reason !== null) console.error(`tests/vm: skipped, ${reason}`);

const MiB = 2 ** 20;
const lent = 16 * MiB;
const port = 7711;
const ticket = "5c".repeat(32), otherTicket = "a3".repeat(32), strange = "00".repeat(32);
/** How long a request may take, as the borrower is told; one that takes longer ends with ETIMEDOUT. */
const timeoutMs = 3000;

/** Compiles a program of tests/native. */
async function build(directory: string, name: string, others: readonly string[]): Promise<string> {
  const program = `${directory}/${name}`;
  const { success, stderr } = await new Deno.Command("cc", {
    args: [
      ...["-std=gnu11", "-O2", "-g", ...warningFlags, "-o", program, `${here}../native/${name}.c`],
      ...[...others, "-ldl", "-pthread"],
    ],
  }).output();
  assert.ok(success, new TextDecoder().decode(stderr));
  return program;
}

/** An answer that has to be good. @returns what comes behind the milliseconds */
async function good(talk: Talk, line: string): Promise<{ text: string }> {
  const answer = await talk.ask(line);
  const [, text] = /^ok [0-9.]+ (.*)$/.exec(answer) ?? [];
  assert.ok(text !== undefined, `"${line}" is answered "${answer}"`);
  return { text: text.trim() };
}

/** An answer that has to be an error. @returns its errno */
async function bad(talk: Talk, line: string): Promise<{ errno: number }> {
  const answer = await talk.ask(line);
  const [, errno] = /^error -([0-9]+) [0-9.]+$/.exec(answer) ?? [];
  assert.ok(errno !== undefined, `"${line}" is answered "${answer}"`);
  return { errno: Number(errno) };
}

const EIO = 5,
  ENOMEM = 12,
  EACCES = 13,
  EINVAL = 22,
  ENOSPC = 28,
  ENOTCONN = 107,
  ETIMEDOUT = 110,
  ECONNREFUSED = 111;

async function startDonor(machine: Machine, program: string): Promise<Talk> {
  const donor = await machine.start(`${program} donor ${machine.address} ${port}`);
  assert.match(await donor.read(), new RegExp(`^ok 0.0 ${port}$`));
  return donor;
}

async function startBorrower(machine: Machine, program: string): Promise<Talk> {
  const borrower = await machine.start(`${program} borrower`);
  assert.equal(await borrower.read(), "ok 0.0 ready");
  return borrower;
}

Deno.test({
  name:
    "store_verbs_open() and drover_donor_open() lend memory from machine to machine, and survive all that cuts them",
  ignore: reason !== null,
  async fn(context) {
    const scratch = await Deno.makeTempDir({ dir: "/var/tmp", prefix: "drover-vm-rdma-" });
    try {
      const program = await build(
        scratch,
        "verbs_main",
        ["verbs.c", "donor.c"].map((name) => `${native}${name}`),
      );
      // The guest has the very library that the other tests use.
      const regions = await build(scratch, "verbs_region", [
        library,
        `-Wl,-rpath=${library.replace(/[^/]*$/, "")}`,
      ]);
      await using machines = await machinesOnOneCable({ memoryMib: 512 });
      const { one, other } = machines;
      let donor = await startDonor(other, program);
      let borrower = await startBorrower(one, program);
      const open = (name: string, size = lent, contexts = 2) =>
        `open ${other.address} ${port} ${name} ${size} ${timeoutMs} ${contexts}`;
      /** One after the other, each upon what the one before left: nothing is worth running after a failure. */
      const step = async (name: string, fn: () => Promise<void>) => {
        let failure: unknown;
        await context.step(name, async () => {
          try {
            await fn();
          } catch (error) {
            failure = new Error(
              `${name}: the consoles said\n${await one.console()}\n--\n${await other.console()}`,
              { cause: error },
            );
            throw failure;
          }
        });
        if (failure !== undefined) throw new Error(`Cannot go on after "${name}"`);
      };
      const stats = async () => (await good(donor, "stats")).text;

      await step("a connection is refused with the reason", async () => {
        await good(donor, `lend ${ticket} ${lent}`);
        assert.equal((await bad(borrower, open(strange))).errno, EACCES, "a ticket that nobody knows");
        assert.equal((await bad(borrower, open(ticket, 2 * lent))).errno, ENOSPC, "more than is lent");
        assert.equal((await bad(borrower, open("5C".repeat(32)))).errno, EINVAL, "a ticket is small letters");
        assert.equal((await bad(donor, `lend ${ticket} ${lent}`)).errno, 17, "a ticket has one lease");
        assert.equal(
          (await bad(borrower, `open ${other.address} ${port + 1} ${ticket} ${lent} ${timeoutMs} 1`)).errno,
          ECONNREFUSED,
          "nobody listens",
        );
        assert.match(await stats(), /links 0 accepted [0-9]+ refused 1 lent 16777216$/);
      });

      await step("pages are written and read, one and many at once", async () => {
        await good(borrower, open(ticket));
        assert.match(await stats(), /^leases 1 links 2 /);
        assert.equal((await good(borrower, "read 0 256 1 0")).text, "wrong 0", "lent memory is zeros");
        await good(borrower, "write 0 1536 1 7");
        assert.equal(
          (await good(borrower, "read 0 1536 1 7")).text,
          "wrong 0",
          "page by page",
        );
        await good(borrower, "write 512 32 16 8");
        assert.equal((await good(borrower, "read 512 32 16 8")).text, "wrong 0", "64 KiB at a time");
        await good(borrower, "write 0 8 64 9");
        assert.equal((await good(borrower, "read 0 8 64 9")).text, "wrong 0", "256 KiB at a time");
        assert.equal(
          (await good(borrower, "read 1024 512 1 7")).text,
          "wrong 0",
          "the neighbours are as they were",
        );
      });

      await step("nothing beyond the lease can be asked for", async () => {
        assert.equal((await bad(borrower, `raw ${lent} 4096`)).errno, EINVAL);
        assert.equal((await bad(borrower, `raw ${lent - 4096} 8192`)).errno, EINVAL);
        await good(borrower, "raw 0 4096");
      });

      await step("one tenant's key does not open another's memory", async () => {
        await good(donor, `lend ${otherTicket} ${lent}`);
        const tenant = await startBorrower(one, program);
        await good(tenant, open(otherTicket, lent, 1));
        const stolen = (await good(borrower, "welcome")).text;
        await good(tenant, `forge ${stolen}`);
        assert.equal((await bad(tenant, "raw 0 4096")).errno, EACCES, "the donor's adapter refuses");
        await good(tenant, "until-up 20000");
        assert.equal((await good(tenant, "read 0 64 1 0")).text, "wrong 0", "and its own is still there");
        const own = (await good(tenant, "welcome")).text.split(" ");
        await good(tenant, `forge ${own[0]} ${BigInt(own[1] ?? 0) + BigInt(lent)}`);
        assert.equal((await bad(tenant, "raw 0 4096")).errno, EACCES, "nor what lies behind its own");
        await good(tenant, "quit");
        await good(donor, `revoke ${otherTicket}`);
        assert.equal((await good(borrower, "read 1024 64 1 7")).text, "wrong 0");
      });

      await step("a revoked lease fails at once, and lent again it is zeros", async () => {
        await good(donor, `revoke ${ticket}`);
        assert.match(await stats(), /^leases 0 links 0 .* lent 0$/);
        const { errno } = await bad(borrower, "raw 0 4096");
        assert.ok(errno === ENOTCONN || errno === EIO, `errno ${errno}`);
        assert.equal((await bad(donor, `revoke ${ticket}`)).errno, 2);
        await good(donor, `lend ${ticket} ${lent}`);
        await good(borrower, "until-up 20000");
        assert.equal((await good(borrower, "read 0 1024 1 0")).text, "wrong 0");
        await good(borrower, "close");
      });

      for (const sealed of [false, true]) {
        await step(`a region has its cold pages there${sealed ? ", sealed" : ""}`, async () => {
          const tried = `${regions} ${other.address} ${port} ${ticket} ${lent} ${6 * MiB} ${2 * MiB} ${
            Number(sealed)
          } 3`;
          const { said, status } = await one.run(tried);
          assert.equal(said, "ok\n");
          assert.equal(status, 0);
          assert.match(await stats(), /^leases 1 links 0 /, "it leaves nothing behind");
        });
      }

      await step(
        "two Deno processes lend and borrow, and a sealed page tells nothing to the donor",
        async () => {
          const script = (name: string) =>
            `${Deno.execPath()} run -A --no-check --cached-only ${here}${name}`;
          const marked = "known-text-of-the-borrower";
          const process = await other.start(
            `${script("rdma_donor.ts")} ${other.address} ${port + 2} ${otherTicket} ${lent}`,
          );
          assert.equal(await process.read(), `lending ${port + 2}`);
          for (const sealed of [true, false]) {
            const { said } = await one.run(
              `${script("rdma_borrower.ts")} ${other.address} ${port + 2} ${otherTicket} ${lent} ${
                4 * MiB
              } ` +
                `${MiB} ${Number(sealed)} ${marked}`,
            );
            assert.equal(said, "ok\n");
            const found = Number((await process.ask(`find ${marked}`)).split(" ")[1]);
            if (sealed) assert.equal(found, 0, "ciphertext only");
            else assert.ok(found > 500, `${found} pages are plain`);
          }
          assert.equal(await process.ask("quit"), "bye");
          process.close();
        },
      );

      await step("a killed donor fails at once; another one is found again", async () => {
        await good(borrower, open(ticket));
        await good(borrower, "write 0 64 1 3");
        assert.equal((await other.run("kill -9 $(pidof verbs_main)")).status, 0);
        donor.close();
        const { errno } = await bad(borrower, "read 0 64 1 3");
        assert.ok(errno === ENOTCONN || errno === EIO, `errno ${errno}`);
        donor = await startDonor(other, program);
        await good(donor, `lend ${ticket} ${lent}`);
        await good(borrower, "until-up 20000");
        assert.equal((await good(borrower, "read 0 64 1 0")).text, "wrong 0", "its memory is new");
      });

      await step("a cut cable costs one time-out; afterwards the data are still there", async () => {
        await good(borrower, "write 0 256 1 11");
        assert.equal((await other.run("tc qdisc add dev eth0 root netem loss 100%")).status, 0);
        const { errno } = await bad(borrower, "read 0 64 1 11");
        assert.equal(errno, ETIMEDOUT);
        assert.equal((await bad(borrower, "raw 0 4096")).errno, ENOTCONN, "the second one does not wait");
        assert.equal((await other.run("tc qdisc del dev eth0 root")).status, 0);
        await good(borrower, "until-up 30000");
        assert.equal((await good(borrower, "read 0 256 1 11")).text, "wrong 0");
      });

      // The kernel takes a software adapter away for good only when the last process that has it open ends.
      const remove = "(rdma link delete rxe0 >/dev/null 2>&1 &) </dev/null; sleep 0.5";
      const restore =
        "while pidof rdma >/dev/null; do sleep 0.1; done; rdma link add rxe0 type rxe netdev eth0";

      await step("when the borrower's adapter goes, requests fail at once", async () => {
        assert.equal((await one.run(remove)).status, 0);
        const { errno } = await bad(borrower, "read 0 64 1 11");
        assert.ok(errno === ENOTCONN || errno === EIO, `errno ${errno}`);
        assert.match(await borrower.ask("quit"), /^ok/);
        borrower.close();
        assert.equal((await one.run(restore)).status, 0);
        borrower = await startBorrower(one, program);
        await good(borrower, open(ticket));
        assert.equal((await good(borrower, "read 0 256 1 11")).text, "wrong 0");
      });

      await step("when the donor's adapter goes, requests fail at once", async () => {
        assert.equal((await other.run(remove)).status, 0);
        const { errno } = await bad(borrower, "read 0 64 1 11");
        assert.ok(errno === ENOTCONN || errno === EIO, `errno ${errno}`);
        assert.match(await stats(), /^leases 1 links 0 /, "the lease outlives the adapter");
        assert.match(await donor.ask("quit"), /^ok/);
        donor.close();
        assert.equal((await other.run(restore)).status, 0);
        donor = await startDonor(other, program);
        await good(donor, `lend ${ticket} ${lent}`);
        await good(borrower, "until-up 30000");
        assert.equal((await good(borrower, "write 0 64 1 11")).text, "wrong 0");
      });

      await step("what the donor may not pin is refused, and it says so", async () => {
        await good(borrower, "close");
        const poor = await other.start(
          `bash -c 'ulimit -l 64; exec setpriv --bounding-set -ipc_lock --inh-caps -ipc_lock ${program} donor ${other.address} ${
            port + 1
          }'`,
        );
        assert.match(await poor.read(), /^ok/);
        await good(poor, `lend ${ticket} ${lent}`);
        const { errno } = await bad(
          borrower,
          `open ${other.address} ${port + 1} ${ticket} ${lent} ${timeoutMs} 1`,
        );
        assert.equal(errno, ENOMEM);
        await good(poor, "quit");
        poor.close();
      });

      await step("a machine without power costs one time-out", async () => {
        await good(borrower, open(ticket));
        await good(borrower, "read 0 64 1 11");
        await other.die();
        const { errno } = await bad(borrower, "read 0 64 1 11");
        assert.equal(errno, ETIMEDOUT);
        assert.equal((await bad(borrower, "raw 0 4096")).errno, ENOTCONN);
        await good(borrower, "close");
        await good(borrower, "quit");
      });

      const { said } = await one.run("dmesg | grep -E 'BUG:|Oops|WARNING:|Call Trace'");
      assert.equal(said, "", "the kernel has nothing to complain about");
    } finally {
      await Deno.remove(scratch, { recursive: true });
    }
  },
});
