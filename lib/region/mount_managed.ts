/**
 * A managed backend by URLs: the source is opened again when its connection ends, the local backend is made where there is
 * none, and the notes lie beside it.
 *
 * @module
 */
import type { Libc } from "../../ffi/mod.ts";
import type { Backend } from "./backend.ts";
import { openBackend, parseBackendUrl } from "./backend_url.ts";
import { type ManagedBackend, type ManagedOptions, openManaged } from "./managed.ts";

/** How a source is managed. */
export interface ManagedByUrl
  extends
    Pick<ManagedOptions, "durability" | "learn" | "pull" | "pullFirst" | "timeoutMs" | "readOnly" | "log"> {
  /** The near backend: a path or URL; made where there is none. Default: memory, which forgets. */
  local?: string;
  /** The directory of the notes; by default the local file or directory with `.notes` behind its name. */
  state?: string;
  /** System calls for holes in files. */
  libc?: Libc;
}

/** Connections to a source that allows several. */
const connections = 4;

/**
 * Opens it.
 *
 * @param source a path or URL as `openBackend` takes it
 * @throws what opening the source runs into, unless an earlier mount has noted its size; and what `openManaged` throws
 */
export async function openManagedByUrl(source: string, options: ManagedByUrl = {}): Promise<ManagedBackend> {
  const { local = "memory:", libc, state: wanted, ...rest } = options;
  const { timeoutMs, readOnly = false } = rest;
  const { scheme, rest: place } = parseBackendUrl(local);
  const onDisk = scheme === "file" || scheme === "dir";
  const state = wanted ?? (onDisk ? `${place.replace(/\/+$/, "")}.notes` : undefined);
  const open = (): Promise<Backend> =>
    openBackend(source, {
      readOnly,
      connections,
      ...(libc === undefined ? {} : { libc }),
      ...(timeoutMs === undefined ? {} : { timeoutMs }),
    });
  // The first is opened here, because its size is that of a local backend which has to be made.
  let first: Backend | null = null;
  let failed: unknown = null;
  try {
    first = await open();
  } catch (error) {
    if (state === undefined) throw error;
    failed = error;
  }
  const isNew = first !== null && (!onDisk || !exists(place));
  let near: Backend;
  try {
    near = await openBackend(local, {
      ...(isNew && first !== null ? { create: first.size } : {}),
      ...(libc === undefined ? {} : { libc }),
    });
  } catch (error) {
    await first?.close();
    throw failed ?? error;
  }
  return await openManaged({
    ...rest,
    source: () => {
      const opened = first;
      first = null;
      return opened ?? open();
    },
    local: near,
    // A local file that was made anew has none of what notes of the old one say.
    identity: onDisk ? `${source}\n${inodeOf(place)}` : source,
    ...(state === undefined ? {} : { state }),
  });
}

function exists(path: string): boolean {
  try {
    Deno.lstatSync(path.replace(/^\/\/(?=\/)/, ""));
    return true;
  } catch {
    return false;
  }
}

function inodeOf(path: string): string {
  const { dev, ino } = Deno.statSync(path.replace(/^\/\/(?=\/)/, ""));
  return `${dev} ${ino}`;
}
