/**
 * Mounts: a backend as an ordinary file, for as long as this program wants.
 *
 * ```ts ignore
 * import { mount } from "./mount.ts";
 *
 * await using disk = await mount("nbd://backup.example/disk", "/run/disk");
 * const bytes = await Deno.readFile("/run/disk");
 * ```
 *
 * @module
 */
import { type FuseStats, type Native, openNative } from "../../ffi/mod.ts";
import type { Backend } from "./backend.ts";
import { openBackend } from "./backend_url.ts";
import { FuseFile, type FuseOptions } from "./fuse.ts";
import type { ManagedByUrl } from "./mount_managed.ts";

/** How a backend is mounted. */
export interface MountOptions extends Omit<FuseOptions, "path" | "native"> {
  /** The library; by default that of this machine. */
  native?: Native;
  /** A local backend in front of a source that is given by its URL; see `openManaged`. */
  managed?: Omit<ManagedByUrl, "readOnly" | "timeoutMs" | "libc">;
}

/** A request waits a little longer than the backend does for its server, whose error says more. */
const patienceMs = 1000;

/** A mounted backend. */
export class Mount implements AsyncDisposable {
  /** Where it is: absolute. */
  readonly path: string;
  /** What is behind it. */
  readonly backend: Backend;
  /** Settles when it is unmounted, by whomever. What is left to do then is `close`. */
  readonly ended: Promise<void>;
  readonly #file: FuseFile;
  readonly #owned: boolean;
  #closed: Promise<void> | null = null;

  /** Use `mount`. @param parts `owned`: the backend is closed with the mount */
  constructor(parts: { backend: Backend; file: FuseFile; owned: boolean }) {
    this.path = parts.file.path;
    this.backend = parts.backend;
    this.ended = parts.file.ended;
    this.#file = parts.file;
    this.#owned = parts.owned;
  }

  /** Counters, also after the end. */
  stats(): FuseStats {
    return this.#file.stats();
  }

  /**
   * Takes the file away; what the kernel has of it is written first. What is left to do then is `close`.
   *
   * @param options `detach`: it vanishes from its path at once, and ends when the last program has closed it
   * @throws {DroverError} "busy" while it is open
   */
  unmount(options: { detach?: boolean } = {}): Promise<void> {
    return this.#file.unmount(options);
  }

  /**
   * Unmounts, flushes the backend, and closes it where `mount` has opened it. A program that has the file open loses
   * it; `unmount` first to be told.
   */
  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  /** See `close`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #close(): Promise<void> {
    try {
      await this.#file.close();
      if (!this.backend.readOnly) await this.backend.flush();
    } finally {
      if (this.#owned) await this.backend.close();
    }
  }
}

/**
 * Shows a backend as the file `path`, by FUSE: as root, or as an ordinary user where there is fusermount3. Any program
 * can read, write, map and sync it; it keeps its size.
 *
 * @param source a backend, which stays the caller's, or a URL or path as `openBackend` takes it
 * @param path nothing, or an empty file, in a directory that is there
 * @throws {DroverError} "busy", "exists", "unsupported" with a hint, and what opening the source runs into
 *
 * @example
 * ```ts ignore
 * import { mount } from "./mount.ts";
 *
 * await using scratch = await mount("memory:64MiB", "/var/tmp/scratch");
 * using file = await Deno.open(scratch.path, { write: true });
 * await file.write(new TextEncoder().encode("hello"));
 * ```
 */
export async function mount(
  source: string | Backend,
  path: string,
  options: MountOptions = {},
): Promise<Mount> {
  const { native = openNative(), managed, timeoutMs = 30_000, ...rest } = options;
  const owned = typeof source === "string";
  if (managed !== undefined && !owned) {
    throw new TypeError("Cannot manage a backend that is open: give its URL, or openManaged() it first");
  }
  const access = { readOnly: options.readOnly ?? false, libc: native.libc, timeoutMs };
  const backend = !owned
    ? source
    : managed === undefined
    ? await openBackend(source, { ...access, connections: 4 })
    : await (await import("./mount_managed.ts")).openManagedByUrl(source, { ...managed, ...access });
  try {
    const file = await FuseFile.open(backend, {
      ...(owned ? { source } : {}),
      // What is managed is this mount's alone.
      keepCache: managed !== undefined,
      ...rest,
      timeoutMs: Math.min(timeoutMs + patienceMs, 3_600_000),
      path,
      native,
    });
    return new Mount({ backend, file, owned });
  } catch (error) {
    if (owned) await backend.close();
    throw error;
  }
}
