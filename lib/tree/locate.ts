/**
 * From a directory that a user names to the tree it is.
 *
 * @module
 */
import * as fs from "node:fs";
import { resolve } from "node:path";
import { type BytePath, joinPath, pathFromText, pathToBytes, pathToText, rootPath } from "../base/path.ts";
import { DroverError } from "../base/errors.ts";
import type { TreeContext } from "./context.ts";
import { AT_FDCWD } from "./posix.ts";
import { defaultState, Registry, type TreePlace } from "./registry.ts";
import { Store } from "./store.ts";
import { mountedUpper } from "./overlay.ts";
import { Tree } from "./tree.ts";

/** One line of the list of trees. */
export interface TreeListing {
  /** Absolute path, for people. */
  dir: string;
  /** Where its versions are kept. */
  state: string;
  /** How changes are found. */
  capture: string;
  /** Whether it can be seen in its directory. */
  mounted: boolean;
  /** Its current version; null when it has none yet. */
  head: string | null;
}

/** The absolute path of `dir` with its symlinks resolved, as far as it exists. */
export function absolutePath(dir: BytePath): BytePath {
  const bytes = pathToBytes(dir);
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    return dir.startsWith("/") ? dir : joinPath(pathFromText(Deno.cwd()), dir);
  }
  let path = resolve(text);
  const missing: string[] = [];
  for (;;) {
    try {
      path = fs.realpathSync(path);
      break;
    } catch {
      const slash = path.lastIndexOf("/");
      if (slash < 0 || path === "/") break;
      missing.unshift(path.slice(slash + 1));
      path = path.slice(0, slash) || "/";
    }
  }
  return pathFromText([path === "/" && missing.length > 0 ? "" : path, ...missing].join("/"));
}

/** Finds the state of the tree at `dir`: by the registry, else in the default place; null if there is none. */
export function findTree(context: TreeContext, dir: BytePath): TreePlace | null {
  const absolute = absolutePath(dir);
  const known = new Registry(context.home).find(absolute);
  // The registry is written first and cleared last: an entry may be all that a crash left.
  for (const place of [...known === null ? [] : [known], { dir: absolute, state: defaultState(absolute) }]) {
    if (context.native.libc.stat(AT_FDCWD, `${place.state}/tree.db` as BytePath) !== null) return place;
  }
  return null;
}

/**
 * Opens the tree at `dir`, locked; a crash is recovered from first.
 *
 * @throws {DroverError} "not-a-tree" when it is none, "busy" when another process works on it.
 */
export async function openTree(
  context: TreeContext,
  dir: BytePath,
  options: { readOnly?: boolean } = {},
): Promise<Tree> {
  const place = findTree(context, dir);
  if (place === null) {
    const text = pathToText(dir === rootPath ? "." as BytePath : dir);
    throw new DroverError("not-a-tree", `Cannot find a tree at "${text}": it is not under drover`, {
      hint: `drover fs init ${text}`,
    });
  }
  return await Tree.open(context, place.state, options);
}

/** All trees that this machine's registry knows. */
export function listTrees(context: TreeContext): TreeListing[] {
  const listings: TreeListing[] = [];
  for (const { dir, state } of new Registry(context.home).list()) {
    try {
      using store = Store.open(context.native, state);
      const { setup, pointers } = store;
      listings.push({
        dir: pathToText(dir),
        state: pathToText(state),
        capture: setup.capture,
        mounted: setup.capture === "scan" || mountedUpper(store) !== null,
        head: pointers.head,
      });
    } catch (error) {
      context.log?.(
        `cannot read the tree of ${pathToText(dir)}: ${error instanceof Error ? error.message : error}`,
      );
    }
  }
  return listings;
}
