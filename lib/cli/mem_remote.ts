/**
 * What `drover mem bench` is to do with other hosts' memory: the command line, and the drover.json that it names.
 *
 * @module
 */
import { DroverError } from "../base/errors.ts";
import type { LogLevel } from "../base/log.ts";
import type { Config } from "../daemon/config.ts";
import type { RemoteChoice } from "../daemon/mem_remote.ts";
import { keyArgument } from "./session.ts";
import type { Terminal } from "./terminal.ts";

/** Options that are about other hosts. */
export interface RemoteWords {
  donor?: string[];
  from?: string;
  key?: string;
  config?: string;
  copies?: number;
  sealed?: "yes" | "no" | "auto";
  transport: "tcp" | "rdma";
  ssd?: string;
  logLevel?: LogLevel;
}

/** Text in place of a path: no file. */
export const noFile = "none";

/** What goes where on this host, of the words and of the drover.json that they name. @throws {DroverError} code "usage" */
export async function remoteChoice(terminal: Terminal, words: RemoteWords): Promise<RemoteChoice> {
  const [{ readConfig }, { openLog }, { formatAddress, parseAddress }] = await Promise.all([
    import("../daemon/config.ts"),
    import("../daemon/log.ts"),
    import("../net/mod.ts"),
  ]);
  const config: Config | null = words.config === undefined ? null : await readConfig(words.config);
  // One option may name several, with commas or without.
  const given = (words.donor ?? []).flatMap((word) => word.split(",")).map(parseAddress);
  const donors = (given.length > 0 ? given : config?.peers ?? []).map(formatAddress);
  const copies = words.copies ?? config?.copies ?? 1;
  if (copies !== 1 && copies !== 2) {
    throw new DroverError("usage", `Cannot keep ${copies} copies of a page: it should be 1 or 2`);
  }
  if (words.ssd === noFile && words.copies === undefined && copies === 1) {
    throw new DroverError(
      "usage",
      "Cannot leave out the file: with one donor gone its pages would be lost",
      { hint: "--copies 2 for a second donor, or --copies 1 if that is meant" },
    );
  }
  // Two donors are as good as one and a file.
  const ssd = words.ssd ?? (copies === 2 ? noFile : "/var/tmp");
  const { log } = openLog({
    level: words.logLevel ?? config?.log.level ?? "warn",
    format: config?.log.format ?? "text",
    write: (line) => terminal.raw(line),
  });
  const sealed = words.sealed ?? "auto";
  return {
    donors,
    key: await keyArgument(words.key ?? config?.key),
    copies,
    sealed: words.sealed === undefined ? config?.sealed : sealed === "auto" ? undefined : sealed === "yes",
    transport: words.transport,
    ssd: ssd === noFile ? null : ssd,
    t1Ms: config?.t1Ms,
    t2Ms: config?.t2Ms,
    log,
  };
}
