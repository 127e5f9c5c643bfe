/** `drover cp`: one backend to another. */
import { type Command, Option } from "commander";
import { DroverError } from "../base/errors.ts";
import type { Backend } from "../region/backend.ts";
import type { CopyResult, FileJournal } from "../region/copy.ts";
import { formatBytes, formatSeconds } from "./format.ts";
import { openProgress } from "./progress.ts";
import type { RunCommand } from "./registry.ts";
import { countArgument } from "./session.ts";
import { shellWord, withHint } from "./stream_files.ts";
import type { Terminal } from "./terminal.ts";

export const usage = `Usage: drover cp SOURCE DEST [OPTION]...

Copies a disk image, a block device or a remote export. Zeros become holes, the copy is read again and compared, and a
copy that was cut goes on where it was when the same command is given again: nothing that is there is fetched twice.

SOURCE and DEST are paths of files or block devices, or URLs:
  file:PATH  memory:SIZE  dir:PATH[?size=SIZE&chunk=SIZE]  nbd://HOST[:PORT][/NAME]  nbd+unix:///[NAME]?socket=PATH

A DEST that is a file appears under its name when it is complete and replaces what was there; until then it is DEST.part
with the notes DEST.part.journal. Any other DEST is written in place and must be large enough; a dir: that is not there
is made. A source that changes meanwhile is noticed only if it is a file: use --restart after changing another one.

Options:
      --journal FILE  where to note what is copied, for a DEST that is no file; default: nowhere
      --restart       forget what an earlier run has copied
      --no-verify     do not read the copy again
      --parallel N    chunks of 1MiB on their way at once; default: 16
      --watch         go on: keep DEST in step with SOURCE, in place, by the hashes of its pieces of 64KiB, until SIGINT
                      or SIGTERM; only pieces that changed are written
      --interval N    with --watch: seconds between two looks at SOURCE; default: 1
      --json          print {"source", "dest", "size", "copied", "zero", "resumed", "verified", "seconds"}; with --watch
                      a line per look that found changes: {"pass", "read", "changed", "zero", "seconds"}
  -h, --help          this text

Example:
  $ drover cp nbd://backup.example/disk disk.raw
  disk.raw: 11 GB, 3.2 GB copied, 7.5 GB zeros, verified, in 41 s
`;

interface Options {
  journal?: string;
  restart?: boolean;
  verify: boolean;
  parallel: number;
  watch?: boolean;
  interval: number;
}

const parallelMax = 256;

export function define(command: Command, run: RunCommand): void {
  command.argument("<source>").argument("<dest>")
    .option("--journal <file>").option("--restart").option("--no-verify")
    .addOption(new Option("--parallel <n>").argParser(countArgument("--parallel")).default(16))
    .option("--watch")
    .addOption(new Option("--interval <n>").argParser(countArgument("--interval")).default(1))
    .action((source: string, dest: string, options: Options) =>
      run((terminal) =>
        options.watch === true
          ? watch(terminal, source, dest, options)
          : copy(terminal, source, dest, options)
      )
    );
}

async function watch(terminal: Terminal, source: string, dest: string, options: Options): Promise<void> {
  if (options.journal !== undefined || options.restart === true || !options.verify) {
    throw new DroverError("usage", "Cannot use --watch with --journal, --restart or --no-verify");
  }
  const [{ parseBackendUrl }, { watchCopy }] = await Promise.all([
    import("../region/backend_url.ts"),
    import("./cp_watch.ts"),
  ]);
  const to = parseBackendUrl(dest);
  const path = to.scheme === "file" ? filePath(to.rest) : null;
  refuseSame(source, parseBackendUrl(source).scheme, path);
  const create = to.scheme === "dir" || (path !== null && !isDevice(path));
  await watchCopy(terminal, { source, dest, create, ...options });
}

async function copy(terminal: Terminal, source: string, dest: string, options: Options): Promise<void> {
  if (options.parallel > parallelMax) {
    throw new DroverError("usage", `Cannot use "${options.parallel}" for --parallel: at most ${parallelMax}`);
  }
  const [{ openBackend, parseBackendUrl }, { copyBackend }] = await Promise.all([
    import("../region/backend_url.ts"),
    import("../region/copy.ts"),
  ]);
  const connections = Math.min(4, options.parallel);
  const to = parseBackendUrl(dest);
  const path = to.scheme === "file" ? filePath(to.rest) : null;
  const names = path === null || isDevice(path) ? null : namesOf(path);
  refuseSame(source, parseBackendUrl(source).scheme, path);
  await using from = await openBackend(source, { readOnly: true, connections });
  const journalPath = names === null ? options.journal : options.journal ?? `${names.partial}.journal`;
  if (options.restart === true) {
    for (const old of [journalPath, names?.partial]) if (old !== undefined) removeFile(old);
  }
  for (const old of [journalPath, names?.partial]) if (old !== undefined) refuseForeign(old);
  const isNew = names !== null && !exists(names.partial);
  if (isNew && journalPath !== undefined) removeFile(journalPath);
  const started = performance.now();
  const result = await withSignal(terminal, async (signal, report) => {
    await using target = await openTarget(openBackend, {
      dest: names === null ? dest : `file:${names.partial}`,
      size: from.size,
      connections,
      // The notes came before what they note: a file that is not there was never written.
      create: names !== null || to.scheme === "dir",
    });
    // Behind the target's lock: two copies to one place do not share notes.
    using journal = journalPath === undefined ? null : await openJournal(journalPath, { source, dest, from });
    try {
      return await copyBackend(from, target, {
        ...(journal === null ? {} : { journal }),
        targetIsZero: isNew,
        parallel: options.parallel,
        verify: options.verify,
        signal,
        report,
      });
    } catch (error) {
      if (journal === null || (error instanceof DroverError && error.code === "corrupt")) throw error;
      throw withHint(
        error instanceof DroverError ? error : new DroverError("io", "The copy was cut", { cause: error }),
        `give the same command again: ${dest} goes on where it is`,
      );
    }
  });
  if (names !== null) Deno.renameSync(names.partial, names.final);
  if (journalPath !== undefined) removeFile(journalPath);
  print(terminal, {
    source,
    dest,
    size: from.size,
    seconds: (performance.now() - started) / 1000,
    result,
    options,
  });
}

function print(
  terminal: Terminal,
  about: {
    source: string;
    dest: string;
    size: number;
    seconds: number;
    result: CopyResult;
    options: Options;
  },
): void {
  const { source, dest, size, seconds, result, options } = about;
  const parts = [formatBytes(size), `${formatBytes(result.copied)} copied`];
  if (result.zero > 0) parts.push(`${formatBytes(result.zero)} zeros`);
  if (result.resumed > 0) parts.push(`${formatBytes(result.resumed)} were there`);
  if (options.verify) parts.push("verified");
  terminal.line(`${dest}: ${parts.join(", ")}, in ${formatSeconds(seconds)}`);
  terminal.object({ source, dest, size, ...result, seconds });
}

/** Runs `work` with progress, and with a signal that SIGINT and SIGTERM give. */
async function withSignal<T>(
  terminal: Terminal,
  work: (
    signal: AbortSignal,
    report: (phase: "copy" | "verify", done: number, total: number) => void,
  ) => Promise<T>,
): Promise<T> {
  const stop = new AbortController();
  const signals = ["SIGINT", "SIGTERM"] as const;
  const reporter = terminal.json ? null : openProgress((text) => terminal.raw(text));
  let listening = true;
  const forget = (): void => {
    if (listening) signals.forEach((signal) => Deno.removeSignalListener(signal, onSignal));
    listening = false;
  };
  const onSignal = (): void => {
    stop.abort(new DroverError("io", "The copy was interrupted"));
    forget();
  };
  signals.forEach((signal) => Deno.addSignalListener(signal, onSignal));
  try {
    return await work(
      stop.signal,
      (phase, done, total) => reporter?.event({ phase, done, total, unit: "bytes" }),
    );
  } finally {
    reporter?.end();
    forget();
  }
}

/** Opens what is written; what is too small or read-only is refused. */
export async function openTarget(
  open: (text: string, options: { create?: number; connections: number }) => Promise<Backend>,
  options: { dest: string; size: number; connections: number; create: boolean },
): Promise<Backend> {
  const { dest, size, connections, create } = options;
  const target = await open(dest, create ? { create: size, connections } : { connections });
  if (target.size >= size && !target.readOnly) return target;
  await target.close();
  throw new DroverError(
    "usage",
    target.readOnly
      ? `Cannot copy to "${dest}": it is read-only`
      : `Cannot copy to "${dest}": it has ${target.size} bytes, and there are ${size} to copy`,
  );
}

/** The notes of this copy. @throws {DroverError} "usage" for those of another one */
async function openJournal(
  path: string,
  { source, dest, from }: { source: string; dest: string; from: Backend },
): Promise<FileJournal> {
  const [{ FileJournal }, { shownUrl }] = await Promise.all([
    import("../region/copy.ts"),
    import("../region/backend_url.ts"),
  ]);
  const journal = FileJournal.open(path, {
    source: shownUrl(source),
    size: from.size,
    stamp: stampOf(source),
  });
  if (journal !== null) return journal;
  throw new DroverError(
    "usage",
    `Cannot go on with "${path}": it notes another copy, or the source has changed`,
    {
      hint: `drover cp --restart ${shellWord(source)} ${shellWord(dest)}`,
    },
  );
}

/** What changes when a file does; empty for what is no file. */
function stampOf(source: string): string {
  try {
    const { ino, mtime, size } = Deno.statSync(filePath(source.replace(/^file:/, "")));
    return `${ino} ${mtime?.getTime() ?? 0} ${size}`;
  } catch {
    return "";
  }
}

function filePath(rest: string): string {
  return rest.replace(/^\/\/(?=\/)/, "");
}

/** Refuses a copy of a file to itself. */
function refuseSame(source: string, scheme: string, dest: string | null): void {
  if (scheme !== "file" || dest === null) return;
  try {
    const [left, right] = [Deno.statSync(filePath(source.replace(/^file:/, ""))), Deno.statSync(dest)];
    if (left.ino !== right.ino || left.dev !== right.dev) return;
  } catch {
    return;
  }
  throw new DroverError("usage", `Cannot copy "${source}" to "${dest}": they are the same file`);
}

/** What a file is called, and until it is complete: always the same, so that the next run finds it. */
function namesOf(path: string): { final: string; partial: string } {
  const final = exists(path) ? Deno.realPathSync(path) : path;
  return { final, partial: `${final}.part` };
}

/** Refuses what is no plain file: a link that somebody has put there would be written through. */
function refuseForeign(path: string): void {
  if (!exists(path) || Deno.lstatSync(path).isFile) return;
  throw new DroverError("usage", `Cannot use "${path}": it should be a file, or not be there`);
}

function isDevice(path: string): boolean {
  try {
    const info = Deno.statSync(path);
    if (info.isDirectory) {
      throw new DroverError("usage", `Cannot copy to "${path}": it is a directory`, {
        hint: `give the name of a file, or dir:${path} for a directory of chunks`,
      });
    }
    return !info.isFile;
  } catch (error) {
    if (error instanceof DroverError) throw error;
    return false;
  }
}

function exists(path: string): boolean {
  try {
    Deno.lstatSync(path);
    return true;
  } catch {
    return false;
  }
}

function removeFile(path: string): void {
  try {
    Deno.removeSync(path);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}
