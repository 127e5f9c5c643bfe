/**
 * Composition: the one place that opens the native library and gives the rooms below what they
 * need from outside: `Native`, the clock, the registry's directory.
 *
 * @module
 */
import { openNative } from "../../ffi/mod.ts";
import type { Native } from "../../ffi/mod.ts";
import type { TreeContext } from "../tree/context.ts";

/** Loads libdrover.so. @throws {DroverError} code "unsupported" where it is absent. */
export function loadNative(): Native {
  return openNative();
}

/** A context of this process. @param options who hears about progress and oddities. */
export function openContext(options: Pick<TreeContext, "progress" | "log"> = {}): TreeContext {
  const native = openNative();
  return {
    native,
    now: () => Date.now(),
    home: homeDirectory({ environment: (name) => Deno.env.get(name), uid: native.identity().uid }),
    ...options,
  };
}

/**
 * Where the list of trees is kept: `DROVER_HOME`, else /var/lib/drover for root, else
 * `$XDG_STATE_HOME/drover` or `~/.local/state/drover`.
 */
export function homeDirectory(
  options: { environment: (name: string) => string | undefined; uid: number },
): string {
  const { environment, uid } = options;
  const own = environment("DROVER_HOME");
  if (own !== undefined && own !== "") return absolute(own);
  if (uid === 0) return "/var/lib/drover";
  const state = environment("XDG_STATE_HOME");
  if (state !== undefined && state.startsWith("/")) return `${state}/drover`;
  const user = environment("HOME");
  if (user !== undefined && user.startsWith("/")) return `${user}/.local/state/drover`;
  throw new TypeError("Cannot find a place for the list of trees: HOME is not set; set DROVER_HOME");
}

function absolute(path: string): string {
  return path.startsWith("/") ? path : `${Deno.cwd()}/${path}`;
}
