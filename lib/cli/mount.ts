/** `drover mount`: a backend as a file, or for NBD clients. */
import { type Command, Option } from "commander";
import { DroverError } from "../base/errors.ts";
import type { MountClaim, MountRecord } from "../daemon/mounts.ts";
import type { Mount, MountOptions } from "../region/mount.ts";
import { formatBytes, formatCount } from "./format.ts";
import type { RunCommand } from "./registry.ts";
import { countArgument } from "./session.ts";
import { shellWord } from "./stream_files.ts";
import { errorText, type Terminal } from "./terminal.ts";

export const usage = `Usage: drover mount SOURCE PATH [OPTION]...

Shows a disk image, local or remote, as the file PATH, until SIGINT, SIGTERM or \`drover unmount PATH\`. Any program can
read, write, map and sync it; it keeps its size. PATH is made, or is an empty file. Works as root, and as an ordinary
user where there is fusermount3 (apt-get install fuse3).

SOURCE is a path of a file or block device, or a URL:
  file:PATH  memory:SIZE  dir:PATH[?size=SIZE&chunk=SIZE]  nbd://HOST[:PORT][/NAME]  nbd+unix:///[NAME]?socket=PATH

A write that has returned has reached SOURCE, and fsync makes it last there. With --managed a local backend is in front:
PATH is there at once, fills in the background, and what is written is brought to SOURCE at intervals, also by the next
mount after a kill. A request that SOURCE does not answer in time fails with EIO, and the next one is tried anew.

A signal unmounts; while a program has PATH open it vanishes at once, and ends when the last program has closed it, or
with a second signal.

Options:
      --managed          keep a local copy, pull and push in the background; SOURCE is this mount's alone
      --local BACKEND    where the copy is: a path or URL as above, made where there is none, with its notes beside it
                         in BACKEND.notes; default: memory, which forgets what was not pushed
      --durability WHERE local|remote: what fsync waits for; default: local
      --learn FILE       note which parts are read, and pull those first the next time
      --on-demand        pull only what is read
      --read-only        refuse writes
      --keep-cache       what was read once need not be read again when PATH is opened anew: nobody else writes to
                         SOURCE
      --mode OCTAL       permissions of PATH; with rights for others they may come, too; default: 600
      --timeout SECONDS  when a request that is not answered fails; default: 30
      --detach           go on in the background, once it is mounted
      --json             print {"mounted", "source", "size", "readOnly", "pid"} when it is there, and at the end
                         {"requests", "readBytes", "writtenBytes", "flushes", "errors", "timeouts"}
  -h, --help             this text

Example:
  $ drover mount nbd://backup.example/disk /run/disk --detach
  /run/disk: 11 GB, nbd://backup.example/disk
  drover: next: drover unmount /run/disk
  $ mount -o loop /run/disk /mnt
`;

interface Options {
  managed?: boolean;
  local?: string;
  durability?: "local" | "remote";
  learn?: string;
  onDemand?: boolean;
  readOnly?: boolean;
  keepCache?: boolean;
  mode: number;
  timeout: number;
  detach?: boolean;
}

/** Longest time-out, in seconds. */
const timeoutMax = 3600;

export function define(command: Command, run: RunCommand): void {
  command.argument("<source>").argument("<path>")
    .option("--managed").option("--local <backend>")
    .addOption(new Option("--durability <where>").choices(["local", "remote"]))
    .option("--learn <file>").option("--on-demand")
    .option("--read-only").option("--keep-cache")
    .addOption(new Option("--mode <octal>").argParser(modeArgument).default(0o600))
    .addOption(new Option("--timeout <seconds>").argParser(countArgument("--timeout")).default(30))
    .option("--detach")
    .action((source: string, path: string, options: Options) =>
      run((terminal) => {
        if (options.timeout > timeoutMax) {
          throw new DroverError(
            "usage",
            `Cannot use "${options.timeout}" for --timeout: at most ${timeoutMax}`,
          );
        }
        checkManaged(options);
        return options.detach === true
          ? runDetached(terminal, path)
          : serve(terminal, { source, path, options });
      })
    );
}

/** Refuses what only a managed mount knows. */
function checkManaged(options: Options): void {
  if (options.managed === true) return;
  const { local, durability, learn, onDemand } = options;
  const given = Object.entries({ local, durability, learn, "on-demand": onDemand }).find(([, value]) =>
    value !== undefined
  );
  if (given === undefined) return;
  throw new DroverError("usage", `Cannot use --${given[0]} without --managed`);
}

/** What `mount` takes for a managed mount. */
function managedOptions(terminal: Terminal, options: Options): Pick<MountOptions, "managed"> {
  if (options.managed !== true) return {};
  const { local, durability, learn, onDemand } = options;
  return {
    managed: {
      ...(local === undefined ? {} : { local }),
      ...(durability === undefined ? {} : { durability }),
      ...(learn === undefined ? {} : { learn }),
      pull: onDemand !== true,
      log: ({ event, error }) => {
        const line = error === undefined ? event : `${event}: ${errorText(error)}`;
        if (event === "pulled" || event === "recovered" || event === "source-up") terminal.note(line);
        else terminal.warning(line);
      },
    },
  };
}

function modeArgument(text: string): number {
  if (/^[0-7]{3,4}$/.test(text) && parseInt(text, 8) <= 0o777) return parseInt(text, 8);
  throw new DroverError("usage", `Cannot use "${text}" for --mode: it should be octal, from 000 to 777`);
}

async function serve(
  terminal: Terminal,
  { source, path, options }: { source: string; path: string; options: Options },
): Promise<void> {
  const [{ loadNative }, { MountRegistry }, { mount }, { absoluteTarget }] = await Promise.all([
    import("../daemon/context.ts"),
    import("../daemon/mounts.ts"),
    import("../region/mount.ts"),
    import("../region/fuse_target.ts"),
  ]);
  const native = loadNative();
  const registry = new MountRegistry(native);
  const place = absoluteTarget(path);
  const stop = new StopSignals(terminal);
  let claim: MountClaim | null = null;
  try {
    claim = await registry.claim(place);
    const mounted = await mount(source, path, {
      native,
      mode: options.mode,
      timeoutMs: options.timeout * 1000,
      ...(options.keepCache === true ? { keepCache: true } : {}),
      readOnly: options.readOnly ?? false,
      ...managedOptions(terminal, options),
    });
    try {
      const readOnly = options.readOnly === true || mounted.backend.readOnly;
      const record: MountRecord = {
        path: place,
        source,
        frontend: "fuse",
        managed: options.managed ?? false,
        readOnly,
        size: mounted.backend.size,
        pid: Deno.pid,
        since: Date.now(),
      };
      claim.write(record);
      announce(terminal, record);
      await untilEnd(terminal, mounted, stop);
    } finally {
      await mounted.close();
    }
    // Before the last words: nobody may be there to hear them.
    claim.release();
    report(terminal, mounted);
  } finally {
    claim?.release();
    stop.forget();
  }
}

function announce(terminal: Terminal, { path, source, size, readOnly, pid }: MountRecord): void {
  terminal.line(`${path}: ${formatBytes(size)}, ${source}${readOnly ? ", read-only" : ""}`);
  terminal.note(`next: drover unmount ${shellWord(path)}`);
  terminal.object({ mounted: path, source, size, readOnly, pid });
}

/** Until it is unmounted, or signals say so: the first asks, the second does not. */
async function untilEnd(terminal: Terminal, mounted: Mount, stop: StopSignals): Promise<void> {
  const ended = mounted.ended.then(() => "ended" as const);
  if (await Promise.race([ended, stop.next()]) === "ended") return;
  try {
    await mounted.unmount();
  } catch (error) {
    if (!(error instanceof DroverError) || error.code !== "busy") throw error;
    await mounted.unmount({ detach: true });
    terminal.note(`a program has ${mounted.path} open: ends when it is closed, or with a second signal`);
    await Promise.race([ended, stop.next()]);
  }
}

function report(terminal: Terminal, mounted: Mount): void {
  const { requests, readBytes, writtenBytes, flushes, errors, timeouts } = mounted.stats();
  const failed = errors === 0 ? "" : `, ${formatCount(errors, "error", "errors")}`;
  terminal.note(`${formatBytes(readBytes)} read, ${formatBytes(writtenBytes)} written${failed}`);
  terminal.object({ requests, readBytes, writtenBytes, flushes, errors, timeouts });
}

/** SIGINT, SIGTERM and SIGHUP, one after the other; behind the second they are the system's again. */
class StopSignals {
  static readonly #signals = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
  readonly #came: (() => void)[] = [];
  #waiting = 0;
  #seen = 0;
  #listening = true;
  readonly #onSignal = (): void => {
    this.#terminal.note("stopping");
    this.#seen++;
    for (const resolve of this.#came.splice(0)) resolve();
    if (this.#seen > 1) this.forget();
  };
  readonly #terminal: Terminal;

  constructor(terminal: Terminal) {
    this.#terminal = terminal;
    for (const signal of StopSignals.#signals) Deno.addSignalListener(signal, this.#onSignal);
  }

  /** Resolves at the next signal that nobody has waited for. */
  next(): Promise<void> {
    this.#waiting++;
    return this.#seen >= this.#waiting
      ? Promise.resolve()
      : new Promise((resolve) => this.#came.push(resolve));
  }

  forget(): void {
    if (this.#listening) {
      for (const signal of StopSignals.#signals) Deno.removeSignalListener(signal, this.#onSignal);
    }
    this.#listening = false;
  }
}

/** Starts the same command line as a program of its own, and ends when that one has mounted. */
async function runDetached(terminal: Terminal, path: string): Promise<void> {
  const child = new Deno.Command(Deno.execPath(), {
    args: [
      ...ownProgram(),
      ...Deno.args.filter((word) => word !== "--detach" && word !== "--json"),
      "--json",
    ],
    stdin: "null",
    stdout: "piped",
    stderr: "null",
    detached: true,
  }).spawn();
  const line = await firstLine(child.stdout);
  const said: unknown = line === "" ? null : JSON.parse(line);
  if (isObject(said) && typeof said.mounted === "string") {
    const { mounted, source, size, readOnly } = said;
    announce(terminal, {
      path: mounted,
      source: String(source),
      size: Number(size),
      readOnly: readOnly === true,
      pid: child.pid,
      frontend: "fuse",
      managed: false,
      since: 0,
    });
    child.unref();
    return;
  }
  await child.status;
  const error = isObject(said) && isObject(said.error) ? said.error : {};
  throw new DroverError(
    isCode(error.code) ? error.code : "io",
    typeof error.message === "string"
      ? error.message
      : `Cannot mount "${path}": its program ended at once: ${errorText(said)}`,
    typeof error.hint === "string" ? { hint: error.hint } : {},
  );
}

/** What stands between the executable and our own words: nothing, or what runs it from source. */
function ownProgram(): string[] {
  if (Deno.build.standalone) return [];
  return ["run", "--quiet", "--allow-all", "--no-check", Deno.mainModule];
}

async function firstLine(stream: ReadableStream<Uint8Array>): Promise<string> {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  while (!text.includes("\n") && text.length < 65_536) {
    const { done, value } = await reader.read();
    if (done) break;
    text += value;
  }
  await reader.cancel();
  return text.split("\n", 1)[0] ?? "";
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null;
}

function isCode(value: unknown): value is ConstructorParameters<typeof DroverError>[0] {
  return typeof value === "string" && /^[a-z-]+$/.test(value);
}
