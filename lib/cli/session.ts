/**
 * What the commands that touch trees share: directories and keys from the command line, and a context
 * whose progress goes to stderr while the work runs and is gone before the result is printed.
 *
 * @module
 */
import { DroverError } from "../base/errors.ts";
import { type BytePath, pathFromText } from "../base/path.ts";
import type { ClusterKey } from "../net/mod.ts";
import type { Tree, TreeContext } from "../tree/mod.ts";
import { openProgress } from "./progress.ts";
import type { Terminal } from "./terminal.ts";

/** The functions of the tree room. */
export type Trees = typeof import("../tree/mod.ts");

/**
 * Runs `work` with a context and the tree functions.
 *
 * @param options `log`: what to do with lines about something unusual; by default they are warnings.
 */
export async function withContext<T>(
  terminal: Terminal,
  work: (context: TreeContext, trees: Trees) => T | Promise<T>,
  options: { log?: (line: string) => void } = {},
): Promise<T> {
  const [{ openContext }, trees] = await Promise.all([
    import("../daemon/context.ts"),
    import("../tree/mod.ts"),
  ]);
  const reporter = terminal.json ? null : openProgress((text) => terminal.raw(text));
  const log = (line: string): void => {
    reporter?.end();
    if (options.log === undefined) terminal.warning(line);
    else options.log(line);
  };
  try {
    return await work(openContext(reporter === null ? { log } : { log, progress: reporter.event }), trees);
  } finally {
    reporter?.end();
  }
}

/** Runs `work` on the tree at `directory`, holding its lock. */
export function withTree<T>(
  terminal: Terminal,
  directory: string,
  work: (tree: Tree, trees: Trees) => T | Promise<T>,
): Promise<T> {
  const path = directoryArgument(directory);
  return withContext(terminal, async (context, trees) => {
    await using tree = await trees.openTree(context, path);
    return await work(tree, trees);
  });
}

/** A directory from the command line; the tree room makes it absolute. */
export function directoryArgument(text: string): BytePath {
  if (text === "") throw new DroverError("usage", 'Cannot use "" as a directory: it is empty');
  return pathFromText(text);
}

/** The cluster key: from `--key FILE`, else from the file that `DROVER_KEY` names, else none. */
export async function keyArgument(file: string | undefined): Promise<ClusterKey | null> {
  const path = file ?? Deno.env.get("DROVER_KEY");
  if (path === undefined || path === "") return null;
  const { readKey } = await import("../net/mod.ts");
  return await readKey(path);
}

/** What may come from a peer that an ordinary user could not make: nothing unless it was said. */
export function allowArgument(
  options: { allowDevices?: boolean; allowSecurityXattrs?: boolean },
): { devices: boolean; securityXattrs: boolean } {
  return { devices: options.allowDevices ?? false, securityXattrs: options.allowSecurityXattrs ?? false };
}

/** A positive whole number from the command line. */
export function countArgument(name: string): (text: string) => number {
  return (text) => {
    const value = /^[0-9]{1,9}$/.test(text) ? Number(text) : 0;
    if (value < 1) {
      throw new DroverError("usage", `Cannot use "${text}" for ${name}: it should be a whole number from 1`);
    }
    return value;
  };
}

/** Refuses two options that contradict each other. */
export function resolveArgument(
  options: { ours?: boolean; theirs?: boolean },
): "ours" | "theirs" | undefined {
  if (options.ours && options.theirs) {
    throw new DroverError("usage", "Cannot use --ours with --theirs: only one side can win");
  }
  return options.ours ? "ours" : options.theirs ? "theirs" : undefined;
}
