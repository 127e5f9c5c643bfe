/**
 * What the commands that touch trees share: directories and keys from the command line, and a context
 * whose progress goes to stderr while the work runs and is gone before the result is printed.
 *
 * @module
 */
import { basename, dirname, join, resolve } from "node:path";
import { DroverError } from "../base/errors.ts";
import { type BytePath, pathFromText } from "../base/path.ts";
import type { ClusterKey } from "../net/mod.ts";
import type { Tree, TreeContext } from "../tree/mod.ts";
import { openProgress } from "./progress.ts";
import type { Terminal } from "./terminal.ts";

/** The functions of the tree room. */
export type Trees = typeof import("../tree/mod.ts");

/** The functions of the net room. */
export type Net = typeof import("../net/mod.ts");

/** Runs `work` with a context and the tree functions. */
export async function withContext<T>(
  terminal: Terminal,
  work: (context: TreeContext, trees: Trees) => T | Promise<T>,
): Promise<T> {
  const [{ openContext }, trees] = await Promise.all([
    import("../daemon/context.ts"),
    import("../tree/mod.ts"),
  ]);
  const reporter = terminal.json ? null : openProgress((text) => terminal.raw(text));
  const log = (line: string): void => {
    reporter?.end();
    terminal.warning(line);
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
  work: (tree: Tree) => Promise<T>,
): Promise<T> {
  const path = directoryArgument(directory);
  return withContext(terminal, async (context, trees) => {
    await using tree = await trees.openTree(context, path);
    return await work(tree);
  });
}

/**
 * A directory from the command line, absolute, without symlinks on the way. It need not exist, nor its
 * last component.
 */
export function directoryArgument(text: string): BytePath {
  if (text === "") throw new DroverError("usage", 'Cannot use "" as a directory: it is empty');
  const path = resolve(text);
  return pathFromText(realPath(text) ?? join(realPath(dirname(path)) ?? dirname(path), basename(path)));
}

function realPath(path: string): string | null {
  try {
    return Deno.realPathSync(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound || error instanceof Deno.errors.NotADirectory) return null;
    throw error;
  }
}

/** The cluster key: from `--key FILE`, else from the file that `DROVER_KEY` names, else none. */
export async function keyArgument(file: string | undefined): Promise<ClusterKey | null> {
  const path = file ?? Deno.env.get("DROVER_KEY");
  if (path === undefined || path === "") return null;
  const { readKey } = await import("../net/mod.ts");
  return await readKey(path);
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
