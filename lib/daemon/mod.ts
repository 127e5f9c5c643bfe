/**
 * Composition: opens the native library, and runs a node from its parts.
 *
 * @module
 */
export { homeDirectory, loadNative, openContext } from "./context.ts";
export { serve, type ServeOptions } from "./serve.ts";
