/**
 * Loopback without a key, and other users of the machine. Needs root to become somebody else; says so when it
 * cannot. The strangers are bash and perl, since Deno itself need not be readable for nobody.
 */
import assert from "node:assert/strict";
import { DroverError } from "../../lib/base/errors.ts";
import { dial, listen } from "../../lib/net/mod.ts";
import { isOwnUser, ownerOf } from "../../lib/net/socket_table.ts";

const limits = (): number => 1024;
const host = "127.0.0.1";

/** A command as user nobody, or null with the reason printed. */
async function asNobody(test: string, program: string, ...args: string[]): Promise<Deno.Command | null> {
  if (Deno.uid() !== 0) {
    console.log(`skipped ${test}: only root can become another user`);
    return null;
  }
  const prefix = ["--reuid=65534", "--regid=65534", "--clear-groups", program];
  try {
    const probe = await new Deno.Command("setpriv", {
      args: [...prefix, ...args.slice(0, 1), "exit 0"],
      stdout: "null",
    })
      .output();
    if (!probe.success) throw new Error(`${program} does not run`);
  } catch (error) {
    console.log(`skipped ${test}: ${error instanceof Error ? error.message : error}`);
    return null;
  }
  return new Deno.Command("setpriv", { args: [...prefix, ...args], stdout: "piped" });
}

const openOctets = String.raw`\x01\x00\x72\x64\x00\x00\x00\x00`;

for (
  const [name, script] of [
    [
      "waits for the answer",
      `exec 3<>/dev/tcp/127.0.0.1/PORT; printf '${openOctets}' >&3; cat <&3 >/dev/null`,
    ],
    // The kernel shows uid 0 for a socket that its process has closed.
    ["hangs up at once", `exec 3<>/dev/tcp/127.0.0.1/PORT; printf '${openOctets}' >&3; exec 3>&-`],
  ] as const
) {
  Deno.test(`listen() without a key refuses another user who ${name}`, async (test) => {
    const refusals: unknown[] = [];
    let heard = (): void => {};
    const listener = await listen({
      host,
      port: 0,
      key: null,
      limits,
      onRefused: (_peer, error) => {
        refusals.push(error);
        heard();
      },
    });
    const channels: unknown[] = [];
    const serving = (async () => {
      for await (const channel of listener) {
        channels.push(channel.peer);
        channel.close();
      }
    })();
    try {
      const command = await asNobody(
        test.name,
        "bash",
        "-c",
        script.replace("PORT", `${listener.address.port}`),
      );
      if (command === null) return;
      for (let round = 0; round < 5; round++) {
        await command.output();
        while (refusals.length === 0) await new Promise<void>((resolve) => heard = resolve);
        const error = refusals.shift();
        assert.ok(error instanceof DroverError && error.code === "auth", String(error));
      }
      assert.deepEqual(channels, []);
    } finally {
      listener.close();
      await serving;
    }
  });
}

Deno.test("dial() without a key refuses another user's server", async (test) => {
  // The server speaks the protocol well: it takes OPEN and says READY.
  const script = String.raw`use IO::Socket; $| = 1;
    my $s = IO::Socket::INET->new(LocalAddr => "127.0.0.1", Listen => 1) or die; print $s->sockport, "\n";
    my $c = $s->accept; sysread $c, my $b, 8; syswrite $c, pack("VV", 0x64720002, 0); sysread $c, $b, 1;`;
  const command = await asNobody(test.name, "perl", "-e", script);
  if (command === null) return;
  await using server = command.spawn();
  const output = server.stdout.getReader();
  const port = Number(new TextDecoder().decode((await output.read()).value));
  await assert.rejects(
    dial({ host, port, key: null, limits }),
    (error) => error instanceof DroverError && error.code === "auth" && /uid 65534/.test(error.message),
  );
  await output.cancel();
});

Deno.test("ownerOf() finds our own connections and fails for others", async () => {
  using socket = Deno.listen({ hostname: host, port: 0 });
  const { port } = socket.addr as Deno.NetAddr;
  const client = await Deno.connect({ hostname: host, port });
  const far = { host: client.localAddr.hostname, port: client.localAddr.port };
  const near = { host, port };
  // The client's end has an owner at once; the server's end only when it is accepted.
  assert.equal(await ownerOf(far, near), Deno.uid());
  await assert.rejects(ownerOf(near, far), DroverError);
  using server = await socket.accept();
  assert.equal(await ownerOf(near, far), Deno.uid());
  await assert.rejects(ownerOf(far, { host, port: port === 1 ? 2 : 1 }), DroverError);
  await assert.rejects(ownerOf({ host: "localhost", port: 1 }, near), DroverError);
  client.close();
  await server.read(new Uint8Array(1));
  await assert.rejects(ownerOf(far, near), DroverError);
});

Deno.test("isOwnUser() takes this user and root", async () => {
  assert.equal(await isOwnUser(0), true);
  assert.equal(await isOwnUser(Deno.uid() ?? -1), true);
  assert.equal(await isOwnUser((Deno.uid() ?? 0) + 4711), false);
  assert.equal(await isOwnUser(NaN), false);
});
