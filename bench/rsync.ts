/**
 * The yardstick: rsync, as a daemon on the target side and a client on the source side, over TCP.
 *
 * Both are processes of their own and nothing is encrypted, which is the cheapest way rsync has; a
 * push of drover pays for TLS and does not get it back in this comparison. TCP_NODELAY is set on both sides: without
 * it every small message waits for a delayed acknowledgement, 0.1 s and more per transfer.
 *
 * @module
 */
import type { Link } from "./link.ts";
import { Background, freePort, measure, outputOf } from "./process.ts";
import { isRoot } from "./scratch.ts";

/** How to run it. */
export interface RsyncMode {
  /** Compression by `-z --zc=zstd`. */
  compress: boolean;
  /** Every file is flushed before it is put in place (`--fsync`). */
  fsync: boolean;
}

/** One transfer. */
export interface RsyncRun {
  /** Total bytes sent and received, as `--stats` says. */
  bytes: number;
  /** Wall time of the client. */
  seconds: number;
  memoryPeak: number;
}

/** `rsync --version`, its first line, or null where there is none. */
export function rsyncVersion(): string | null {
  try {
    return /version (\S+ +protocol version \S+)/.exec(outputOf(["rsync", "--version"]))?.[1] ?? "unknown";
  } catch {
    return null;
  }
}

/** Whether this rsync has `--fsync` (3.2.4 and later). */
export function rsyncHasFsync(): boolean {
  return outputOf(["rsync", "--help"]).includes("--fsync");
}

/** The arguments that make the mode, as one shows them. */
export function rsyncName(mode: RsyncMode): string {
  return `rsync -aHAX${mode.compress ? " -z --zc=zstd" : ""}${mode.fsync ? " --fsync" : ""}`;
}

/** A daemon with one module for each directory. */
export class RsyncDaemon {
  readonly #process: Background;
  readonly #link: Link;
  readonly #port: number;

  private constructor(process: Background, link: Link, port: number) {
    this.#process = process;
    this.#link = link;
    this.#port = port;
  }

  /** Starts one. @param modules name to directory; @param workDir for its configuration and log. */
  static async start(
    workDir: string,
    modules: Readonly<Record<string, string>>,
    link: Link,
  ): Promise<RsyncDaemon> {
    const port = freePort();
    const global = [
      // Without chroot the daemon rewrites absolute symlinks; only root can have it.
      `use chroot = ${isRoot() ? "yes" : "no"}`,
      "munge symlinks = no",
      "socket options = TCP_NODELAY",
      "reverse lookup = no",
      "numeric ids = yes",
      ...(isRoot() ? ["uid = 0", "gid = 0"] : []),
    ];
    const parts = Object.entries(modules).map(([name, path]) =>
      `[${name}]\npath = ${path}\nread only = no\n`
    );
    const config = `${workDir}/rsyncd-${port}.conf`;
    Deno.writeTextFileSync(config, [...global, ...parts].join("\n"));
    const command = [
      "rsync",
      "--daemon",
      "--no-detach",
      `--config=${config}`,
      `--port=${port}`,
      `--address=${link.host}`,
    ];
    const process = new Background([...link.target, ...command], `${workDir}/rsyncd-${port}.log`);
    await process.listening(link.host, port, link.source);
    return new RsyncDaemon(process, link, port);
  }

  /** Makes the module equal to `source`. */
  async push(source: string, module: string, mode: RsyncMode): Promise<RsyncRun> {
    const { host, port } = await this.#link.address(this.#port);
    const flags = ["-aHAX", "--delete", "--stats", "--sockopts=TCP_NODELAY"];
    if (mode.compress) flags.push("-z", "--zc=zstd");
    if (mode.fsync) flags.push("--fsync");
    const run = await measure([
      ...this.#link.source,
      "rsync",
      ...flags,
      `${source}/`,
      `rsync://${host}:${port}/${module}/`,
    ]);
    const count = (what: string): number => {
      const digits = new RegExp(`Total bytes ${what}: ([\\d,]+)`).exec(run.stdout)?.[1];
      if (digits === undefined) {
        throw new Error(`Cannot read what rsync says: no "Total bytes ${what}" in "${run.stdout}"`);
      }
      return Number(digits.replaceAll(",", ""));
    };
    return { bytes: count("sent") + count("received"), seconds: run.seconds, memoryPeak: run.memoryPeak };
  }

  /** Largest resident set of a process of the receiving side, in bytes. */
  get memoryPeak(): number {
    return this.#process.memoryPeak;
  }

  async stop(): Promise<void> {
    await this.#process.stop();
  }
}
