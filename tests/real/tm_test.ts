/**
 * Three hosts as network namespaces: a borrower runs `drover mem bench remote` over two donors, one of which is killed and comes
 * back, and later its link is cut for a while. Every access is checked, and at the end every word.
 *
 * Needs root, `ip` and `nsenter` (Debian: iproute2, util-linux).
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { toolExists } from "../../bench/process.ts";
import { Heard } from "../cluster/room.ts";
import { missing } from "../region/room.ts";
import { Node, withFolder } from "./donor_node.ts";
import { fromSource } from "./nodes.ts";

const text = new TextDecoder();

function ip(...args: string[]): void {
  const { success, stderr } = new Deno.Command("ip", { args }).outputSync();
  if (!success) throw new Error(`ip ${args.join(" ")}: ${text.decode(stderr)}`);
}

/** A borrower's namespace with a wire to each of its donors'. */
class Hosts implements Disposable {
  readonly #id = `drvt${Deno.pid}`;
  readonly #names: string[] = [];

  constructor(donors: number) {
    try {
      this.#add("");
      for (let donor = 1; donor <= donors; donor++) this.#join(donor);
    } catch (error) {
      this[Symbol.dispose]();
      throw error;
    }
  }

  /** What a program of the borrower runs under. */
  get borrower(): string[] {
    return this.#under("");
  }

  /** What a program of donor 1, 2, … runs under. */
  donor(donor: number): string[] {
    return this.#under(String(donor));
  }

  /** Where it is. */
  address(donor: number): string {
    return `10.77.${donor}.2`;
  }

  /** Cuts its wire, or mends it. */
  wire(donor: number, state: "up" | "down"): void {
    ip("-n", this.#id, "link", "set", `far${donor}`, state);
  }

  [Symbol.dispose](): void {
    for (const name of this.#names.splice(0)) ip("netns", "del", name);
  }

  #under(suffix: string): string[] {
    return ["nsenter", `--net=/run/netns/${this.#id}${suffix}`, "--"];
  }

  #add(suffix: string): void {
    const name = `${this.#id}${suffix}`;
    ip("netns", "add", name);
    this.#names.push(name);
    ip("-n", name, "link", "set", "lo", "up");
  }

  #join(donor: number): void {
    const [near, far] = [this.#id, `${this.#id}${donor}`];
    this.#add(String(donor));
    ip("link", "add", `far${donor}`, "netns", near, "type", "veth", "peer", "name", "near", "netns", far);
    ip("-n", near, "addr", "add", `10.77.${donor}.1/24`, "dev", `far${donor}`);
    ip("-n", far, "addr", "add", `10.77.${donor}.2/24`, "dev", "near");
    ip("-n", near, "link", "set", `far${donor}`, "up");
    ip("-n", far, "link", "set", "near", "up");
  }
}

/** Why this machine cannot; null where it can. */
const refusal: string | null = ((): string | null => {
  if (missing !== null) return missing;
  if (Deno.uid() !== 0) return "only root makes network namespaces";
  const tools = ["ip", "nsenter"].filter((tool) => !toolExists(tool));
  if (tools.length > 0) return `there is no ${tools.join(", ")}; type: apt-get install iproute2 util-linux`;
  try {
    using _hosts = new Hosts(1);
    return null;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
})();
if (refusal !== null) console.error(`tests/real: three hosts in namespaces are skipped: ${refusal}`);

/** `drover mem bench remote` of a host. */
class Bench implements AsyncDisposable {
  readonly #process: Deno.ChildProcess;
  readonly #lines = new Heard<string>();
  readonly #said: Promise<string>;
  readonly #talked: Promise<void>;

  constructor(prefix: readonly string[], args: readonly string[]) {
    const [file = "", ...rest] = [...prefix, ...fromSource, "mem", "bench", "remote", ...args, "--json"];
    this.#process = new Deno.Command(file, { args: rest, stdin: "null", stdout: "piped", stderr: "piped" })
      .spawn();
    this.#said = new Response(this.#process.stdout).text();
    this.#talked = this.#hear(this.#process.stderr);
  }

  /** Lines of the log so far. */
  get log(): readonly string[] {
    return this.#lines.all;
  }

  /** Resolves when so many lines fit; fails when the program ends before that. */
  async line(pattern: RegExp, count = 1): Promise<void> {
    const heard = this.#lines.until(() => this.log.filter((line) => pattern.test(line)).length >= count);
    await Promise.race([
      heard,
      this.#process.status.then(async ({ code, signal }) => {
        await this.#talked;
        throw new Error(
          `No ${pattern}: it ended with ${signal ?? code}: ${await this.#said}${this.log.join("\n")}`,
        );
      }),
    ]);
  }

  /** Its end. */
  async ended(): Promise<{ code: number; signal: string | null; said: string }> {
    const { code, signal } = await this.#process.status;
    await this.#talked;
    return { code, signal, said: await this.#said };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      this.#process.kill("SIGKILL");
    } catch {
      // It has ended.
    }
    await this.ended();
  }

  async #hear(stream: ReadableStream<Uint8Array>): Promise<void> {
    let rest = "";
    const decoded = stream.pipeThrough(new TextDecoderStream() as TransformStream<Uint8Array, string>);
    for await (const chunk of decoded) {
      const lines = (rest + chunk).split("\n");
      rest = lines.pop() ?? "";
      for (const line of lines) this.#lines.hear(line);
    }
  }
}

interface Store {
  kind: string;
  state: string;
  slots: number;
  used: number;
  reads: number;
  errors: number;
}

const pause = (milliseconds: number): Promise<void> =>
  new Promise((resolve) => setTimeout(resolve, milliseconds));

Deno.test({
  name:
    "mem bench remote in three namespaces keeps every word while a donor is killed, returns, and is cut off",
  ignore: refusal !== null,
  fn: () =>
    withFolder(async (folder) => {
      using hosts = new Hosts(2);
      const key = join(folder, "cluster.key");
      const [file = "", ...rest] = fromSource;
      const made = await new Deno.Command(file, { args: [...rest, "key", "new", key] }).output();
      assert.ok(made.success, text.decode(made.stderr));
      const open = (donor: number): Promise<Node> =>
        Node.openUnder(hosts.donor(donor), `${folder}/${donor}`, ...[
          ...["--listen", `${hosts.address(donor)}:7707`, "--key", key],
          ...["--donate", "128MiB", "--name", `donor-${donor}`],
        ]);
      const [first, second] = await Promise.all([open(1), open(2)]);
      await using _second = second;
      const size = 48 * 2 ** 20;
      await using bench = new Bench(hosts.borrower, [
        ...["--donor", first.address, second.address, "--key", key, "--copies", "2", "--log-level", "info"],
        ...["--size", String(size), "--seconds", "12", "--writes", "30", "--threads", "2", "--verify"],
      ]);
      await bench.line(/bench\.filled/);
      await pause(500);
      await first.end("SIGKILL");
      await bench.line(/remote\.down .*10\.77\.1\.2/);
      await pause(1500);
      await using _again = await open(1);
      await bench.line(/remote\.lost .*donor-1/);
      // One from each at the beginning, and the new one.
      await bench.line(/remote\.lent /, 3);
      await pause(2000);
      hosts.wire(2, "down");
      await pause(1500);
      hosts.wire(2, "up");
      const { code, signal, said } = await bench.ended();
      const log = bench.log.join("\n");
      assert.deepEqual([code, signal], [0, null], `${said}${log}`);
      const answer = JSON.parse(said);
      assert.deepEqual([answer.copies, answer.sealed, answer.thin], [2, true, 0], `${said}${log}`);
      assert.ok(answer.ops > 0 && answer.faults > 0 && answer.resident <= answer.limit, said);
      const stores = (answer.stores as Store[]).filter(({ state }) => state === "up");
      assert.equal(stores.length, 2, said);
      // Every page that has left RAM is at both, the one that was empty when it came back too.
      for (const { kind, used } of stores) assert.ok(kind === "nbd" && used > size / 4096 / 2, said);
    }),
});
