/**
 * Throw-away machines with RDMA in software (soft-RoCE), for what the kernel of the machine that runs the tests lacks.
 *
 * `machinesOnOneCable` boots two of them, emulated (QEMU's TCG: no /dev/kvm needed, so it is the same everywhere, and
 * slow: for checking that things work). Each has one network card; the cable between the cards is a pair of unix datagram sockets,
 * so that it can be cut, and one machine can die without a word to the other. They see this machine's files read-only, at the same
 * paths; what they write vanishes with them.
 *
 * An agent in the guest, a few lines of bash, takes commands from a virtual serial port. `run` waits for one; `start` leaves it running
 * with its input and output on a port of its own, so that a test can talk with it line by line.
 *
 * @module
 */
import { image } from "./image.ts";

/** Ports for programs that are talked with. */
const talksMax = 6;

/** The most that is believed of a guest's line. */
const lineMax = 65_536;

const agent = (address: string) => `
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mkdir -p /dev/shm /dev/pts /run
mount -t devpts p /dev/pts; mount -t tmpfs t /dev/shm; mount -t tmpfs t /run
ip link set lo up
ip addr add ${address}/24 dev eth0; ip link set eth0 up
rdma link add rxe0 type rxe netdev eth0
ulimit -l unlimited
port() { for d in /sys/class/virtio-ports/*; do [[ $(<$d/name) == "$1" ]] && echo /dev/\${d##*/}; done; }
exec 3<>"$(port control)"
echo ready >&3
while read -r id talk <&3; do
  if [[ $talk == none ]]; then
    ( exec 3>&-; bash /vm/$id.command </dev/null >/vm/$id.said 2>&1; echo $? >/vm/$id.status ) &&
      echo "ended $id" >&3 &
  else
    ( exec 3>&- <>"$(port $talk)" >&0 2>/vm/$id.said; exec bash /vm/$id.command ) &
  fi
done
`;

/** One machine that runs. */
export class Machine implements AsyncDisposable {
  /** Its address on the cable. */
  readonly address: string;
  readonly #process: Deno.ChildProcess;
  readonly #directory: string;
  readonly #control: Talk;
  #commands = 0;
  readonly #talks: Talk[] = [];
  #exited = false;

  private constructor(
    machine: { address: string; process: Deno.ChildProcess; directory: string; control: Talk },
  ) {
    this.address = machine.address;
    this.#process = machine.process;
    this.#directory = machine.directory;
    this.#control = machine.control;
    void machine.process.status.then(() => this.#exited = true);
  }

  /** Boots one. `directory` is its own; `cable` names the sockets at its own and at the other end. */
  static async boot(
    options: { address: string; directory: string; cable: { own: string; other: string }; memoryMib: number },
  ): Promise<Machine> {
    const { address, directory, cable } = options;
    const { kernel, ramDisk } = await image();
    await Deno.mkdir(`${directory}/shared`, { recursive: true });
    await Deno.writeTextFile(`${directory}/shared/agent`, agent(address));
    const ports = ["control", ...Array.from({ length: talksMax }, (_, at) => `talk${at}`)];
    // The last octet tells the cards apart.
    const octet = Number(address.split(".")[3]).toString(16).padStart(2, "0");
    const process = new Deno.Command("qemu-system-x86_64", {
      args: [
        ...["-M", "q35", "-accel", "tcg", "-cpu", "Nehalem", "-m", `${options.memoryMib}`, "-smp", "1"],
        // On a busy machine the kernel would find that its timer does not work, and give up.
        ...["-append", "console=ttyS0 panic=-1 quiet net.ifnames=0 no_timer_check"],
        ...["-kernel", kernel, "-initrd", ramDisk],
        ...["-display", "none", "-monitor", "none", "-no-reboot", "-serial", `file:${directory}/console`],
        ...["-netdev"],
        `dgram,id=cable,local.type=unix,local.path=${cable.own},remote.type=unix,remote.path=${cable.other}`,
        ...["-device", `virtio-net-pci,netdev=cable,mac=52:54:00:d0:00:${octet},romfile=`],
        ...["-device", "virtio-serial-pci"],
        ...ports.flatMap((name) => [
          ...["-chardev", `socket,id=${name},path=${directory}/${name},server=on,wait=off`],
          ...["-device", `virtserialport,chardev=${name},name=${name}`],
        ]),
        "-virtfs",
        "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap",
        "-virtfs",
        `local,path=${directory}/shared,mount_tag=vm,security_model=none,multidevs=remap`,
      ],
      stdin: "null",
      stdout: "null",
      stderr: "inherit",
    }).spawn();
    try {
      const control = await Talk.open(`${directory}/control`);
      const machine = new Machine({ address, process, directory, control });
      await machine.#within(control.read(), 120_000, "boot");
      return machine;
    } catch (error) {
      kill(process);
      await process.status;
      throw error;
    }
  }

  /** Runs a shell command to its end. @returns its exit status, and what it said on both outputs */
  async run(command: string): Promise<{ status: number; said: string }> {
    const { id, path } = await this.#give(command);
    await this.#control.write(`${id} none`);
    for (;;) {
      const line = await this.#within(this.#control.read(), 120_000, `run "${command}"`);
      if (line === `ended ${id}`) break;
    }
    return {
      status: Number(await Deno.readTextFile(`${path}.status`)),
      said: await Deno.readTextFile(`${path}.said`),
    };
  }

  /** Starts a command that stays, to talk with it. */
  async start(command: string): Promise<Talk> {
    const at = this.#talks.length;
    if (at === talksMax) throw new RangeError(`Cannot talk with more than ${talksMax} programs`);
    const name = `talk${at}`;
    const { id } = await this.#give(`exec ${command}`);
    const talk = await Talk.open(`${this.#directory}/${name}`);
    this.#talks.push(talk);
    await this.#control.write(`${id} ${name}`);
    return talk;
  }

  /** What the kernel and the last command on the console said, for the message of a failed test. */
  async console(): Promise<string> {
    return (await Deno.readTextFile(`${this.#directory}/console`)).split("\n").slice(-40).join("\n");
  }

  /** Takes the power away: nobody says good-bye. */
  async die(): Promise<void> {
    if (!this.#exited) kill(this.#process);
    await this.#process.status;
    for (const talk of [this.#control, ...this.#talks]) talk.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.die();
  }

  async #give(command: string): Promise<{ id: string; path: string }> {
    const id = `c${this.#commands++}`;
    const path = `${this.#directory}/shared/${id}`;
    await Deno.writeTextFile(`${path}.command`, command);
    return { id, path };
  }

  async #within<T>(promise: Promise<T>, limitMs: number, what: string): Promise<T> {
    try {
      return await within(promise, limitMs, what);
    } catch (error) {
      throw new Error(
        `${error instanceof Error ? error.message : error}; the console said:\n${await this.console()}`,
      );
    }
  }
}

/** Lines to and from a program in a machine. */
export class Talk {
  readonly #connection: Deno.UnixConn;
  readonly #lines: AsyncIterator<string>;

  private constructor(connection: Deno.UnixConn) {
    this.#connection = connection;
    this.#lines = linesOf(connection.readable);
  }

  /** Connects to a port's socket, which QEMU makes soon. */
  static async open(path: string): Promise<Talk> {
    for (let tries = 0;; tries++) {
      try {
        return new Talk(await Deno.connect({ transport: "unix", path }));
      } catch (error) {
        if (tries > 200 || !isNotYet(error)) throw error;
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
    }
  }

  /** Says one line and waits for the one that answers it. */
  async ask(line: string, limitMs = 60_000): Promise<string> {
    await this.write(line);
    return within(this.read(), limitMs, `have an answer to "${line}"`);
  }

  /** Says one line. */
  async write(line: string): Promise<void> {
    const bytes = new TextEncoder().encode(`${line}\n`);
    for (let done = 0; done < bytes.length;) done += await this.#connection.write(bytes.subarray(done));
  }

  /** The next line. @throws {Error} when the other end is gone */
  async read(): Promise<string> {
    const { value, done } = await this.#lines.next();
    if (done) throw new Error("Cannot read on: the machine is gone");
    return value;
  }

  /** Hangs up. */
  close(): void {
    try {
      this.#connection.close();
    } catch (error) {
      if (!(error instanceof Deno.errors.BadResource)) throw error;
    }
  }
}

/** Two machines, 10.77.0.1 and 10.77.0.2, booted at the same time. */
export async function machinesOnOneCable(
  options: { memoryMib: number },
): Promise<AsyncDisposable & { one: Machine; other: Machine }> {
  const directory = await Deno.makeTempDir({ dir: "/var/tmp", prefix: "drover-vm-" });
  const boot = (own: number, other: number) =>
    Machine.boot({
      address: `10.77.0.${own}`,
      directory: `${directory}/${own}`,
      cable: { own: `${directory}/cable${own}`, other: `${directory}/cable${other}` },
      ...options,
    });
  const booted = await Promise.allSettled([boot(1, 2), boot(2, 1)]);
  const machines = booted.flatMap((result) => result.status === "fulfilled" ? [result.value] : []);
  const end = async () => {
    for (const machine of machines) await machine.die();
    await Deno.remove(directory, { recursive: true });
  };
  const failed = booted.find((result) => result.status === "rejected");
  const [one, other] = machines;
  if (failed !== undefined || one === undefined || other === undefined) {
    await end();
    throw failed?.status === "rejected" ? failed.reason : new Error("Cannot boot two machines");
  }
  return { one, other, [Symbol.asyncDispose]: end };
}

function isNotYet(error: unknown): boolean {
  return error instanceof Deno.errors.NotFound || error instanceof Deno.errors.ConnectionRefused;
}

async function* linesOf(source: ReadableStream<Uint8Array>): AsyncGenerator<string, void, void> {
  let rest = "";
  const decoder = new TextDecoder();
  for await (const bytes of source) {
    const parts = (rest + decoder.decode(bytes, { stream: true })).split("\n");
    rest = parts.pop() ?? "";
    if (rest.length > lineMax) throw new Error(`Cannot read a line of more than ${lineMax} characters`);
    yield* parts;
  }
}

async function within<T>(promise: Promise<T>, limitMs: number, what: string): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`Cannot ${what} within ${limitMs} ms`)), limitMs);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

function kill(process: Deno.ChildProcess): void {
  try {
    process.kill("SIGKILL");
  } catch (error) {
    // It has ended by itself.
    if (!(error instanceof TypeError || error instanceof Deno.errors.NotFound)) throw error;
  }
}
