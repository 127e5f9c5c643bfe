/**
 * drover as a library: versions of a directory tree, and moving its changes to other hosts.
 *
 * A program composes its own parts: it opens the native library, makes a context, and calls the functions
 * of the tree room with it.
 *
 * ```ts
 * import assert from "node:assert/strict";
 * import { initTree, openNative, openTree, pathFromText } from "@drover/drover";
 *
 * const folder = await Deno.makeTempDir({ dir: "/var/tmp" });
 * const context = { native: openNative(), now: () => Date.now(), home: `${folder}/home` };
 * const site = pathFromText(`${folder}/site`);
 * await Deno.mkdir(`${folder}/site`);
 * await Deno.writeTextFile(`${folder}/site/index.html`, "hello\n");
 *
 * const { head } = await initTree(context, site, { capture: "scan" });
 * {
 *   await using tree = await openTree(context, site);
 *   await Deno.writeTextFile(`${folder}/site/index.html`, "hello again\n");
 *   const [change] = await tree.diff({});
 *   assert.equal(change?.path, "index.html");
 *   const { parent, changed } = await tree.commit({ message: "a friendlier page" });
 *   assert.deepEqual([parent, changed], [head, true]);
 * }
 * await Deno.remove(folder, { recursive: true });
 * ```
 *
 * The formats are usable without any of that: `Manifest` and the package functions are pure, and so are the records
 * of the stream.
 *
 * @module
 */
export { type DroverCode, DroverError, FormatError } from "./lib/base/errors.ts";
export * from "./lib/base/path.ts";
export * from "./ffi/mod.ts";
export * from "./lib/net/mod.ts";
export * from "./lib/stream/mod.ts";
export * from "./lib/tree/mod.ts";
export * from "./lib/version/mod.ts";
