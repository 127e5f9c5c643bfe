/**
 * The wire between the two sides of a measurement: loopback, or a link of a given rate.
 *
 * A shaped link is two network namespaces joined by a veth pair with a token bucket (tc tbf) on each end.
 * Where that cannot be had (no root, no such module) it is a small relay on loopback that lets so many bytes
 * through per second in each direction; `name` says which. Both sides of a comparison use the same link.
 *
 * @module
 */
import { onInterrupt } from "./cleanup.ts";
import { isRoot } from "./scratch.ts";
import { outputOf, toolExists } from "./process.ts";

/** A wire. */
export interface Link {
  /** For the table: what it is made of. */
  readonly name: string;
  /** Megabits per second each way; null where nothing limits. */
  readonly rate: number | null;
  /** Where programs of the target side listen. */
  readonly host: string;
  /** What to run a program of the source or target side under. */
  readonly source: readonly string[];
  readonly target: readonly string[];
  /** Where the source side reaches a port of the target side. */
  address(port: number): Promise<{ host: string; port: number }>;
  /** Lifts or sets the limit; a new link has it set. */
  shape(on: boolean): void;
  /** Bytes that went over it so far both ways with all headers (a relay: without), or null where nobody counts. */
  wireBytes(): number | null;
  close(): void;
}

/** No limit: 127.0.0.1. */
export function loopback(): Link {
  return {
    name: "loopback",
    rate: null,
    host: "127.0.0.1",
    source: [],
    target: [],
    address: (port) => Promise.resolve({ host: "127.0.0.1", port }),
    shape: () => {},
    wireBytes: () => null,
    close: () => {},
  };
}

/** A link of so many megabits per second. @param options `namespaces: false` takes the relay in any case. */
export function shaped(rate: number, options: { namespaces?: boolean } = {}): Link {
  if (options.namespaces !== false && isRoot() && ["ip", "tc", "nsenter"].every(toolExists)) {
    const link = namespaces(rate);
    if (link !== null) return link;
  }
  return new Relay(rate);
}

function namespaces(rate: number): Link | null {
  const id = Deno.pid;
  const ends = [{ space: `drvb${id}a`, device: `drv${id}a`, host: `10.213.${id % 256}.1` }, {
    space: `drvb${id}b`,
    device: `drv${id}b`,
    host: `10.213.${id % 256}.2`,
  }] as const;
  const remove = (): void => {
    for (const { space } of ends) outputOf(["ip", "netns", "del", space], { okCodes: [0, 1] });
  };
  const forget = onInterrupt(remove);
  const close = (): void => {
    forget();
    remove();
  };
  let limited = false;
  const limit = (on: boolean): void => {
    if (limited === on) return;
    limited = on;
    for (const { space, device } of ends) {
      const qdisc = ["ip", "netns", "exec", space, "tc", "qdisc"];
      if (on) {
        outputOf([
          ...qdisc,
          "add",
          "dev",
          device,
          "root",
          "tbf",
          "rate",
          `${rate}mbit`,
          "burst",
          "64kb",
          "latency",
          "50ms",
        ]);
      } else outputOf([...qdisc, "del", "dev", device, "root"]);
    }
  };
  // nsenter changes the network only; `ip netns exec` would also leave this mount namespace.
  const enter = (space: string): string[] => ["nsenter", `--net=/run/netns/${space}`, "--"];
  const [near, far] = ends;
  try {
    for (const { space } of ends) outputOf(["ip", "netns", "add", space]);
    outputOf([
      "ip",
      "link",
      "add",
      near.device,
      "netns",
      near.space,
      "type",
      "veth",
      "peer",
      "name",
      far.device,
      "netns",
      far.space,
    ]);
    for (const { space, device, host } of ends) {
      outputOf(["ip", "-n", space, "addr", "add", `${host}/30`, "dev", device]);
      outputOf(["ip", "-n", space, "link", "set", device, "up"]);
      outputOf(["ip", "-n", space, "link", "set", "lo", "up"]);
    }
    limit(true);
  } catch {
    close();
    return null;
  }
  return {
    name: `${rate} Mbit/s (namespaces, veth, tbf)`,
    rate,
    host: far.host,
    source: enter(near.space),
    target: enter(far.space),
    address: (port) => Promise.resolve({ host: far.host, port }),
    shape: limit,
    wireBytes: () => {
      const said = JSON.parse(
        outputOf(["ip", "-n", far.space, "-s", "-j", "link", "show", "dev", far.device]),
      ) as {
        stats64: { rx: { bytes: number }; tx: { bytes: number } };
      }[];
      return (said[0]?.stats64.rx.bytes ?? 0) + (said[0]?.stats64.tx.bytes ?? 0);
    },
    close,
  };
}

/** Bytes that may pass at once; a bucket's depth. */
const burstSize = 64 * 1024;

/** So many bytes per second, shared by all connections of one direction. */
class Bucket {
  readonly #bytesPerSecond: number;
  #freeAt = 0;
  on = true;

  constructor(bytesPerSecond: number) {
    this.#bytesPerSecond = bytesPerSecond;
  }

  async take(bytes: number): Promise<void> {
    if (!this.on) return;
    const now = performance.now();
    const start = Math.max(this.#freeAt, now - (burstSize / this.#bytesPerSecond) * 1000);
    this.#freeAt = start + (bytes / this.#bytesPerSecond) * 1000;
    if (this.#freeAt > now) await new Promise((done) => setTimeout(done, this.#freeAt - now));
  }
}

/** A relay on loopback. */
class Relay implements Link {
  readonly name: string;
  readonly rate: number;
  readonly host = "127.0.0.1";
  readonly source: readonly string[] = [];
  readonly target: readonly string[] = [];
  readonly #up: Bucket;
  readonly #down: Bucket;
  readonly #ports = new Map<number, number>();
  readonly #open = new Set<{ close(): void }>();
  #bytes = 0;

  constructor(rate: number) {
    this.rate = rate;
    this.name = `${rate} Mbit/s (relay on loopback)`;
    this.#up = new Bucket((rate * 1e6) / 8);
    this.#down = new Bucket((rate * 1e6) / 8);
  }

  address(port: number): Promise<{ host: string; port: number }> {
    let relayed = this.#ports.get(port);
    if (relayed === undefined) {
      const listener = Deno.listen({ hostname: this.host, port: 0 });
      this.#open.add(listener);
      this.#accept(listener, port);
      relayed = listener.addr.port;
      this.#ports.set(port, relayed);
    }
    return Promise.resolve({ host: this.host, port: relayed });
  }

  shape(on: boolean): void {
    this.#up.on = on;
    this.#down.on = on;
  }

  wireBytes(): number {
    return this.#bytes;
  }

  close(): void {
    for (const open of this.#open) {
      try {
        open.close();
      } catch (error) {
        if (!(error instanceof Deno.errors.BadResource)) throw error; // it has closed itself
      }
    }
  }

  async #accept(listener: Deno.TcpListener, port: number): Promise<void> {
    try {
      for await (const near of listener) {
        this.#open.add(near);
        let far: Deno.TcpConn;
        try {
          far = await Deno.connect({ hostname: this.host, port });
        } catch {
          near.close(); // nobody listens there: the peer sees a closed connection, as it would without us
          this.#open.delete(near);
          continue;
        }
        this.#open.add(far);
        near.setNoDelay(true);
        far.setNoDelay(true);
        Promise.all([this.#pump(near, far, this.#up), this.#pump(far, near, this.#down)]).finally(() => {
          for (const end of [near, far]) {
            this.#open.delete(end);
            try {
              end.close();
            } catch {
              continue; // the relay was closed meanwhile
            }
          }
        });
      }
    } catch (error) {
      if (!(error instanceof Deno.errors.BadResource) && !(error instanceof Deno.errors.Interrupted)) {
        throw error;
      }
    }
  }

  async #pump(from: Deno.TcpConn, to: Deno.TcpConn, bucket: Bucket): Promise<void> {
    const buffer = new Uint8Array(16 * 1024);
    try {
      for (let count = await from.read(buffer); count !== null; count = await from.read(buffer)) {
        this.#bytes += count;
        await bucket.take(count);
        for (let done = 0; done < count;) done += await to.write(buffer.subarray(done, count));
      }
      await to.closeWrite();
    } catch {
      return; // either side went away; the other pump ends by itself when its reads do
    }
  }
}
