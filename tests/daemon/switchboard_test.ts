import assert from "node:assert/strict";
import { Switchboard } from "../../lib/daemon/switchboard.ts";
import { type Channel, dial, listen } from "../../lib/net/mod.ts";

const limits = (type: number): number => type === 0 ? 0 : type < 0x400 ? 100 : -1;

async function connect(port: number): Promise<Channel> {
  return await dial({ host: "127.0.0.1", port, key: null, limits });
}

Deno.test("Switchboard gives each connection to the service of its first record, with that record", async () => {
  const refused: string[] = [];
  let toldRefused = (): void => {};
  const isRefused = new Promise<void>((resolve) => toldRefused = resolve);
  const board = new Switchboard(await listen({ host: "127.0.0.1", port: 0, key: null, limits }), {
    serviceOf: (type) =>
      type !== 0x301 ? null : async (channel, first) => {
        await channel.send(0x302, first.body);
        await channel.end();
        channel.close();
      },
    onRefused: (_peer, error) => {
      refused.push(error instanceof Error ? error.message : String(error));
      toldRefused();
    },
  });
  const { port } = board.address;
  const iterated = (async (): Promise<number[]> => {
    const types: number[] = [];
    for await (const channel of board) {
      const first = await channel.receive();
      types.push(first?.type ?? -1);
      await channel.send(0x103, first?.body ?? new Uint8Array(0));
      await channel.end();
      channel.close();
    }
    return types;
  })();
  // One that says nothing holds nobody up.
  using silent = await connect(port);
  for (const [type, answer] of [[0x101, 0x103], [0x301, 0x302], [0x101, 0x103]] as const) {
    using channel = await connect(port);
    await channel.send(type, new Uint8Array([7, type & 0xff]));
    const record = await channel.receive();
    assert.deepEqual([record?.type, [...record?.body ?? []]], [answer, [7, type & 0xff]]);
  }
  using wrong = await connect(port);
  await wrong.send(0x500, new Uint8Array(1));
  await isRefused;
  assert.equal(refused.length, 1);
  board.close();
  assert.deepEqual(await iterated, [0x101, 0x101]);
  await board.settled();
  await assert.rejects(silent.receive());
});
