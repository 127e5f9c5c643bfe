/** `drover serve`: the node that takes pushes, answers pulls, and lends memory. */
import { type Command, Option } from "commander";
import { DroverError } from "../base/errors.ts";
import { type Log, type LogFormat, type LogLevel, logLevels } from "../base/log.ts";
import { formatSize } from "../base/size.ts";
import type { Config } from "../daemon/config.ts";
import type { Ready } from "../daemon/serve.ts";
import type { LogSink } from "../daemon/log.ts";
import type { Capture, Profile } from "../tree/mod.ts";
import { sizeArgument } from "./mem_options.ts";
import type { RunCommand } from "./registry.ts";
import { allowArgument, keyArgument, withContext } from "./session.ts";
import type { Terminal } from "./terminal.ts";

export const usage = `Usage: drover serve [OPTION]...

Is a node: takes pushes into, and answers pulls from, the trees below a directory. drover://HOST/NAME is the tree
NAME there. Trees that a reboot unmounted are mounted again. Runs until SIGINT or SIGTERM and lets what is
being applied finish; a second signal ends it at once.

With --donate it also lends memory of this host: programs of other hosts keep cold pages there. At the end everything
that is lent is recalled, and borrowers have 10 seconds to move their pages.

Peers prove the cluster's key before anything else is said, inside TLS. Without a key only programs of the same
user on this host can connect: another address than loopback is refused. Pages travel on a port of their own, in
clear text unless the borrower seals them; it takes tickets that are told over the first.

Options:
      --listen ADDR            HOST:PORT or [IPv6]:PORT; port 0 takes a free one;
                               default: [::]:7707 with a key, 127.0.0.1:7707 without
      --root PATH              where the trees are; created if absent; default: the current directory
      --key FILE               the cluster's key; default: the file that DROVER_KEY names
      --capture overlay|scan   for trees that a push creates: as in \`drover fs init\`
      --profile fast|portable  for trees that a push creates: as in \`drover fs init\`
      --allow-devices          take device nodes from peers; default: a package with one is refused
      --allow-security-xattrs  take security.* and trusted.* attributes from peers; default: refused
      --donate SIZE            memory that is lent at most, for instance 4GiB; default: none
      --page-port PORT         the port of lent pages; default: 0, any that is free
      --rdma ADDR              the numeric address of an RDMA adapter that lends too; default: none, only TCP does
      --name NAME              what this node is called where memory is lent; default: the host name
      --config FILE            read these and more from a drover.json, and again on SIGHUP; options win over it
      --log-level error|warn|info|debug
                               events that are lines on stderr: these and graver ones; default: warn
      --log-format text|json   how such a line looks; default: text
      --json                   print {"listening", "root", "authenticated", "name", "donate", "pagePort", "peers"} when
                               peers can connect, then {"event"} lines
  -h, --help                   this text

Example:
  $ drover serve --root /srv/trees --key cluster.key --donate 4GiB
  listening on [::]:7707, trees in /srv/trees
  lending 4GiB as "left", pages on port 40123
`;

interface Options {
  listen?: string;
  root?: string;
  key?: string;
  capture?: Capture;
  profile?: Profile;
  allowDevices?: boolean;
  allowSecurityXattrs?: boolean;
  donate?: number;
  pagePort?: number;
  rdma?: string;
  name?: string;
  config?: string;
  logLevel?: LogLevel;
  logFormat?: LogFormat;
}

export function define(command: Command, run: RunCommand): void {
  command.option("--listen <addr>").option("--root <path>").option("--key <file>")
    .addOption(new Option("--capture <how>").choices(["overlay", "scan"]))
    .addOption(new Option("--profile <name>").choices(["fast", "portable"]))
    .option("--allow-devices").option("--allow-security-xattrs")
    .option("--donate <size>", "", sizeArgument("--donate"))
    .option("--page-port <port>", "", portArgument)
    .option("--rdma <addr>").option("--name <name>").option("--config <file>")
    .addOption(new Option("--log-level <level>").choices([...logLevels]))
    .addOption(new Option("--log-format <format>").choices(["text", "json"]))
    .action((options: Options) => run((terminal) => serveNode(terminal, options)));
}

async function serveNode(terminal: Terminal, options: Options): Promise<void> {
  const { readConfig } = await import("../daemon/config.ts");
  const config = options.config === undefined ? null : await readConfig(options.config);
  await checkName(options.name);
  const key = await keyArgument(options.key ?? config?.key);
  if (key === null) {
    terminal.warning("no key: listening on loopback only, for programs of this user");
  }
  const { openLog } = await import("../daemon/log.ts");
  const sink = openLog({ ...logOf(options, config), write: (line) => terminal.raw(line) });
  // Whoever asks for a log gets the news of trees in it, and no talk beside it.
  const isLogging = options.logLevel !== undefined || options.logFormat !== undefined ||
    config?.log.level !== undefined || config?.log.format !== undefined;
  const stop = new AbortController();
  const reloads: { change: (config: Config) => Promise<void> } = { change: () => Promise.resolve() };
  const handlers: [Deno.Signal, () => void][] = [
    ["SIGINT", () => onStop()],
    ["SIGTERM", () => onStop()],
  ];
  if (config !== null) {
    handlers.push(["SIGHUP", () => void reload({ config, options, sink, change: reloads.change })]);
  }
  const forget = (): void => {
    for (const [signal, handler] of handlers.splice(0)) Deno.removeSignalListener(signal, handler);
  };
  const onStop = (): void => {
    terminal.note("stopping");
    sink.log("info", "node.stopping");
    stop.abort();
    forget();
  };
  for (const [signal, handler] of handlers) Deno.addSignalListener(signal, handler);
  const address = options.listen ?? config?.listen;
  const name = options.name ?? config?.name;
  const pagePort = options.pagePort ?? config?.pagePort;
  const rdma = options.rdma ?? config?.rdma;
  const donate = options.donate ?? config?.donate ?? 0;
  const { log } = sink;
  try {
    const { serve } = await import("../daemon/serve.ts");
    await withContext(terminal, (context) =>
      serve(context, {
        ...(address === undefined ? {} : { address }),
        key,
        root: options.root ?? config?.root ?? ".",
        allow: allowArgument(options),
        ...(options.capture === undefined ? {} : { capture: options.capture }),
        ...(options.profile === undefined ? {} : { profile: options.profile }),
        ...(name === undefined ? {} : { name }),
        ...(pagePort === undefined ? {} : { pagePort }),
        ...(config === null ? {} : { limits: config.limits, borrows: config }),
        ...(rdma === undefined ? {} : { rdma }),
        donate,
        log: isLogging ? log : talkOf(terminal, log),
        changes: (change) =>
          reloads.change = (fresh) => change({ donate: options.donate ?? fresh.donate ?? 0, borrows: fresh }),
        signal: stop.signal,
        ready: (ready) => announce(terminal, log, { ...ready, donate, config, authenticated: key !== null }),
      }), {
      log: (line) => {
        if (isLogging) log("info", "tree", { message: line });
        else terminal.note(line);
        terminal.object({ event: line });
      },
    });
  } finally {
    forget();
  }
}

/** Says what the node listens on, lends and borrows. */
function announce(
  terminal: Terminal,
  log: Log,
  at: Ready & { donate: number; config: Config | null; authenticated: boolean },
): void {
  const { address, root, name, pagePort, donate, config, authenticated } = at;
  const peers =
    config?.peers.map(({ host, port }) => host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`) ??
      [];
  terminal.line(`listening on ${address}, trees in ${root}`);
  log("info", "node.listening", { address, root, authenticated });
  if (donate > 0 && pagePort !== null) {
    terminal.line(`lending ${formatSize(donate)} as "${name}", pages on port ${pagePort}`);
    log("info", "node.lends", { budget: donate, name, pagePort });
  }
  if (peers.length > 0) {
    terminal.line(`programs of this host borrow from ${peers.join(", ")}`);
    log("info", "node.borrows", { peers: peers.join(","), copies: config?.copies ?? 1 });
  }
  terminal.object({ listening: address, root, authenticated, name, donate, pagePort, peers });
}

/** What was refused is talk where nobody asked for a log; all other events are quiet then. */
function talkOf(terminal: Terminal, log: Log): Log {
  return (level, event, fields = {}) => {
    if (event !== "peer.refused") return log(level, event, fields);
    const line = `refused ${fields["peer"]}: ${fields["error"]}`;
    terminal.note(line);
    terminal.object({ event: line });
  };
}

/** Reads the file again, and changes what can be changed. A file that is wrong changes nothing. */
async function reload(
  node: { config: Config; options: Options; sink: LogSink; change: (config: Config) => Promise<void> },
): Promise<void> {
  const { config, options, sink, change } = node;
  const { log } = sink;
  try {
    const { readConfig } = await import("../daemon/config.ts");
    const fresh = await readConfig(config.path);
    await change(fresh);
    sink.configure(logOf(options, fresh));
    log("info", "config.read", { path: config.path });
    const fixed = ["name", "listen", "pagePort", "rdma", "root", "key", "limits"] as const;
    for (const key of fixed) {
      if (JSON.stringify(fresh[key]) !== JSON.stringify(config[key])) {
        log("warn", "config.needs-start", { path: config.path, key });
      }
    }
  } catch (error) {
    const { errorField } = await import("../base/log.ts");
    log("error", "config.refused", { path: config.path, error: errorField(error) });
  }
}

function logOf(options: Options, config: Config | null): { level: LogLevel; format: LogFormat } {
  return {
    level: options.logLevel ?? config?.log.level ?? "warn",
    format: options.logFormat ?? config?.log.format ?? "text",
  };
}

async function checkName(name: string | undefined): Promise<void> {
  if (name === undefined) return;
  const { nodeNameFault } = await import("../cluster/mod.ts");
  const fault = nodeNameFault(name);
  if (fault !== null) throw new DroverError("usage", `Cannot use "${name}" for --name: ${fault}`);
}

function portArgument(text: string): number {
  const port = /^[0-9]{1,5}$/.test(text) ? Number(text) : -1;
  if (port < 0 || port > 65_535) {
    throw new DroverError("usage", `Cannot use "${text}" for --page-port: it should be 0 to 65535`);
  }
  return port;
}
