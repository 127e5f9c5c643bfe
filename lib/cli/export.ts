/** `drover export`: a backend for NBD clients. */
import type { Command } from "commander";
import { DroverError } from "../base/errors.ts";
import type { NbdPlace } from "../region/backend_nbd.ts";
import type { KeyedNbd } from "../region/nbd_trust.ts";
import { formatBytes, formatCount } from "./format.ts";
import type { RunCommand } from "./registry.ts";
import { shellWord } from "./stream_files.ts";
import { errorText, type Terminal } from "./terminal.ts";

export const usage = `Usage: drover export SOURCE [OPTION]...

Offers a backend to NBD clients (nbdcopy, qemu, the kernel's nbd-client, drover itself) until SIGINT or SIGTERM; then
what is in flight is finished and flushed. A second signal ends it at once.

SOURCE is a path of a file or block device, or a URL:
  file:PATH  direct:PATH  memory:SIZE  dir:PATH[?size=SIZE&chunk=SIZE]  http[s]://HOST/PATH
  nbd://HOST[:PORT][/NAME]  nbds://HOST[:PORT][/NAME]?key=FILE  nbd+unix:///[NAME]?socket=PATH
  redis://[USER:PASSWORD@]HOST[:PORT][/DB]?name=NAME  s3://BUCKET[/PREFIX]?endpoint=URL
  zstd+dir:… zstd+redis:… zstd+s3:…  the same, compressed

NBD has no authentication of its own: whoever reaches the address may read, and unless --read-only is said write. So
only loopback and unix sockets, which are the owner's alone, are listened on unless --allow-remote or --key is said.
With --key only holders of the cluster's key come in, by TLS: as nbds://HOST:PORT/NAME?key=FILE.

Options:
      --listen ADDR   HOST:PORT, [IPv6]:PORT or unix:PATH; port 0 takes a free one; default: 127.0.0.1:10809
      --name NAME     the export's name; default: the export without a name
      --read-only     refuse writes
      --key FILE      TLS, and for holders of the cluster's key only (drover key new FILE)
      --tls-certificates DIR
                      TLS with server-cert.pem and server-key.pem of DIR; clients stay unknown
      --allow-remote  listen on an address that others can reach
      --json          print {"listening", "source", "size", "name", "readOnly"} when clients can connect, {"event"}
                      lines, and at the end {"connections", "requests", "readBytes", "writtenBytes", "errors"}
  -h, --help          this text

Example:
  $ drover export disk.raw --listen 127.0.0.1:10809
  nbd://127.0.0.1:10809  1.1 GB, disk.raw
  drover: next: drover cp nbd://127.0.0.1:10809 copy.raw
`;

interface Options {
  listen: string;
  name: string;
  readOnly?: boolean;
  allowRemote?: boolean;
  key?: string;
  tlsCertificates?: string;
}

const portDefault = 10809;

export function define(command: Command, run: RunCommand): void {
  command.argument("<source>").option("--listen <addr>", "", `127.0.0.1:${portDefault}`)
    .option("--name <name>", "", "").option("--read-only").option("--allow-remote")
    .option("--key <file>").option("--tls-certificates <dir>")
    .action((source: string, options: Options) => run((terminal) => offer(terminal, source, options)));
}

async function offer(terminal: Terminal, source: string, options: Options): Promise<void> {
  const { name } = options;
  const readOnly = options.readOnly ?? false;
  if (new TextEncoder().encode(name).length > 4096 || name.includes("\0")) {
    throw new DroverError("usage", "Cannot use that --name: it may have 4096 bytes, none of them zero");
  }
  const tls = await tlsOf(options);
  const place = await placeOf(source, options, terminal);
  const [{ openBackend, shownUrl }, { NbdListener }] = await Promise.all([
    import("../region/backend_url.ts"),
    import("../region/nbd_listen.ts"),
  ]);
  const stop = stopSignals(terminal);
  try {
    await using backend = await openBackend(source, { readOnly });
    // It is shown to clients, and may hold a password.
    const shown = shownUrl(source);
    const offer = { name: tls?.name ?? name, description: shown.slice(0, 256), backend, readOnly };
    const listener = await NbdListener.open({
      place,
      // With a key the name is a secret.
      offers: options.key === undefined
        ? [offer]
        : { list: () => [], find: (asked) => asked === offer.name ? offer : null },
      ...(tls === null ? {} : { tls: tls.certificate }),
      log: (event) => {
        if (event.event !== "refused") return;
        const line = `${event.peer}: ${errorText(event.error)}`;
        terminal.note(line);
        terminal.object({ event: line });
      },
    });
    const url = `${listener.url(name)}${tlsQuery(options)}`;
    const isReadOnly = readOnly || backend.readOnly;
    terminal.line(`${url}  ${formatBytes(backend.size)}, ${shown}${isReadOnly ? ", read-only" : ""}`);
    terminal.note(`next: drover cp ${shellWord(url)} copy.raw`);
    terminal.object({ listening: url, source: shown, size: backend.size, name, readOnly: isReadOnly });
    await stop.stopped;
    await listener.close();
    if (!isReadOnly) await backend.flush();
    const { connections, requests, readBytes, writtenBytes, errors } = listener.tally;
    terminal.note(
      `${formatCount(connections, "connection", "connections")}, ${formatBytes(readBytes)} read, ` +
        `${formatBytes(writtenBytes)} written`,
    );
    terminal.object({ connections, requests, readBytes, writtenBytes, errors });
  } finally {
    stop.forget();
  }
}

/** What the server shows, and the name that it is asked for; null for a connection in the clear. */
async function tlsOf(options: Options): Promise<KeyedNbd | null> {
  const { key, tlsCertificates, name, listen } = options;
  if (key === undefined && tlsCertificates === undefined) return null;
  if (key !== undefined && tlsCertificates !== undefined) {
    throw new DroverError("usage", "Cannot use --key with --tls-certificates: the key brings its own");
  }
  if (listen.startsWith("unix:")) {
    throw new DroverError(
      "usage",
      `Cannot use TLS on "${listen}": a unix socket is its owner's alone as it is`,
    );
  }
  const { keyedExport, serverCertificate } = await import("../region/nbd_trust.ts");
  if (key !== undefined) return await keyedExport(key, name);
  return { name, certificate: serverCertificate(tlsCertificates ?? "") };
}

/** What a client on this machine has to add to the URL. */
function tlsQuery({ key, tlsCertificates }: Options): string {
  if (key !== undefined) return `?key=${encodeURIComponent(key).replaceAll("%2F", "/")}`;
  if (tlsCertificates === undefined) return "";
  return `?tls-certificates=${encodeURIComponent(tlsCertificates).replaceAll("%2F", "/")}`;
}

/** Where to listen: a place that only programs of this machine can reach, unless it was said otherwise. */
async function placeOf(source: string, options: Options, terminal: Terminal): Promise<NbdPlace> {
  const { listen } = options;
  if (listen.startsWith("unix:")) {
    const path = listen.slice("unix:".length);
    if (path === "" || path.includes("\0") || new TextEncoder().encode(path).length > 107) {
      throw new DroverError("usage", `Cannot listen on "${listen}": the path of a socket has 1 to 107 bytes`);
    }
    return { path };
  }
  const { isLoopback, parseAddress } = await import("../net/address.ts");
  const withPort = /:\d+$/.test(listen) ? listen : `${listen}:${portDefault}`;
  const { host, port } = parseAddress(withPort);
  const hostname = host === "localhost" ? "127.0.0.1" : host;
  if (!isLoopback(hostname)) {
    if (options.key !== undefined) return { hostname: hostname === "" ? "0.0.0.0" : hostname, port };
    if (options.allowRemote !== true) {
      throw new DroverError(
        "usage",
        `Cannot listen on "${listen}": others can reach it, and NBD asks nobody who he is`,
        { hint: `drover export ${shellWord(source)} --listen ${shellWord(listen)} --allow-remote` },
      );
    }
    terminal.warning(
      `NBD has no authentication: everybody who reaches ${listen} can read ${source}` +
        `${options.readOnly === true ? "" : " and write to it"}`,
    );
  }
  return { hostname: hostname === "" ? "0.0.0.0" : hostname, port };
}

/** Resolves at the first SIGINT or SIGTERM; the second one ends the program. */
function stopSignals(terminal: Terminal): { stopped: Promise<void>; forget: () => void } {
  const signals = ["SIGINT", "SIGTERM"] as const;
  let resolve: () => void = () => {};
  const stopped = new Promise<void>((done) => resolve = done);
  let listening = true;
  const forget = (): void => {
    if (listening) signals.forEach((signal) => Deno.removeSignalListener(signal, onSignal));
    listening = false;
  };
  const onSignal = (): void => {
    terminal.note("stopping");
    forget();
    resolve();
  };
  signals.forEach((signal) => Deno.addSignalListener(signal, onSignal));
  return { stopped, forget };
}
