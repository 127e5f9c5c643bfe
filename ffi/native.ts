/**
 * Finds, checks and loads libdrover.so.
 *
 * The order: the path that was given; `DROVER_LIB`; in a compiled executable the embedded file; else
 * build/libdrover.so beside the sources. The library is refused unless its version and its struct layout are those
 * this code was written for.
 *
 * The embedded file cannot be loaded where it is, and the runtime's own way, a predictable name in a shared
 * temporary directory, would let another user of the machine put a library of his there first. So its bytes go
 * into a memfd, which has no name and needs no directory that allows execution; where the system refuses that,
 * into a private directory that is removed again as soon as the library is mapped. The memfd stays open until the
 * process ends: its /proc/self/fd path is how a worker thread loads the very same library.
 *
 * @module
 */
import type { BytePath } from "../lib/base/path.ts";
import { DroverError } from "../lib/base/errors.ts";
import { check } from "./errno.ts";
import { identity as identityLayout, layoutText } from "./layout.ts";
import { NativeContent } from "./content.ts";
import { NativeDelta } from "./delta.ts";
import { NativeDirect } from "./direct.ts";
import { openDonor } from "./donor.ts";
import { openFuse } from "./fuse.ts";
import { NativeLibc } from "./libc.ts";
import { attachRegion, openRegion } from "./region.ts";
import type {
  ContentDelta,
  DirectIo,
  FuseSettings,
  Libc,
  Native,
  NativeDonor,
  NativeFuse,
  NativeRegion,
  PageDelta,
  ProbeItem,
  RegionSettings,
  Zstd,
} from "./mod.ts";
import { identitySymbols, libraryVersion, type Symbols, symbols } from "./symbols.ts";
import { NativeZstd } from "./zstd.ts";

/** Where a source checkout builds it and where `deno compile --include` puts it. */
const besideSources = new URL("../build/libdrover.so", import.meta.url);

/** Room for everything the probe has to say. */
const probeSize = 65_536;

/** MFD_CLOEXEC, and MFD_EXEC, which kernels before 6.3 do not know. */
const memfdCloexec = 1;
const memfdExec = 0x10;

const decoder = new TextDecoder();

/** libdrover.so, loaded and checked. */
class LoadedNative implements Native {
  readonly version: string;
  readonly path: string;
  readonly libc: Libc;
  readonly direct: DirectIo;
  readonly zstd: Zstd;
  readonly delta: PageDelta;
  readonly content: ContentDelta;
  readonly #lib: Symbols;

  constructor(lib: Symbols, version: string, path: string) {
    this.#lib = lib;
    this.version = version;
    this.path = path;
    this.libc = new NativeLibc(lib);
    this.direct = new NativeDirect(lib);
    this.zstd = new NativeZstd(lib);
    this.delta = new NativeDelta(lib);
    this.content = new NativeContent(lib);
  }

  openRegion(settings: RegionSettings): NativeRegion {
    return openRegion(this.#lib, settings);
  }

  attachRegion(region: { handle: bigint; size: number }): NativeRegion {
    return attachRegion(this.#lib, region);
  }

  openDonor(settings: { hostname: string; port: number }): NativeDonor {
    return openDonor(this.#lib, settings);
  }

  openFuse(settings: FuseSettings): Promise<NativeFuse> {
    return openFuse(this.#lib, settings);
  }

  probe(dir: BytePath): ProbeItem[] {
    const path = new Uint8Array(dir.length + 1);
    for (let at = 0; at < dir.length; at++) path[at] = dir.charCodeAt(at);
    const room = new Uint8Array(probeSize);
    const size = check(this.#lib.drover_probe(path, room, BigInt(probeSize)), "probe", dir);
    const items: ProbeItem[] = [];
    for (const line of decoder.decode(room.subarray(0, size)).split("\n")) {
      const [id, ok, errno, detail] = line.split("\t");
      if (id === undefined || id === "" || detail === undefined) continue;
      items.push({ id, ok: ok === "1", errno: Number(errno), detail });
    }
    return items;
  }

  identity(): { uid: number; gid: number; canMount: boolean; inUserNamespace: boolean } {
    const room = new Uint8Array(identityLayout.structSize);
    check(this.#lib.drover_identity(room), "read the identity of this process");
    const values = new DataView(room.buffer);
    return {
      uid: values.getUint32(identityLayout.uid, true),
      gid: values.getUint32(identityLayout.gid, true),
      canMount: values.getUint32(identityLayout.canMount, true) === 1,
      inUserNamespace: values.getUint32(identityLayout.inUserNamespace, true) === 1,
    };
  }
}

/** What has been loaded in this isolate, by the path that was asked for: a second call is free. */
const loaded = new Map<string, Native>();

/**
 * Loads libdrover.so, or hands out the one that is loaded already.
 *
 * @param options `path`: the library to load, before every other place. A worker passes its parent's `Native.path`.
 * @throws {DroverError} code "unsupported" when there is none, or one of another version; the hint says what to type.
 *
 * @example
 * ```ts ignore
 * const native = openNative();
 * native.libc.mkdir(AT_FDCWD, pathFromText("spool"), 0o700);
 * ```
 */
export function openNative(options: { path?: string } = {}): Native {
  const wanted = options.path ?? libraryFromEnvironment();
  const key = wanted ?? "";
  const known = loaded.get(key);
  if (known !== undefined) return known;
  let native: Native;
  if (wanted !== undefined) native = load(wanted);
  else if (Deno.build.standalone) native = loadEmbedded();
  else if (besideSources.protocol === "file:") native = load(decodeURIComponent(besideSources.pathname));
  else {
    throw new DroverError("unsupported", "Cannot load libdrover.so: this code has no directory beside it", {
      hint: "set DROVER_LIB to the path of libdrover.so",
    });
  }
  loaded.set(key, native);
  return native;
}

/** `DROVER_LIB`, if it is set and may be read. */
function libraryFromEnvironment(): string | undefined {
  try {
    const path = Deno.env.get("DROVER_LIB");
    return path === "" ? undefined : path;
  } catch (error) {
    if (error instanceof Deno.errors.NotCapable) return undefined;
    throw error;
  }
}

/** Opens the library at `path`, checks that it is ours, and only then binds all of its functions. */
function load(path: string, shownAs = path): Native {
  let version: string;
  try {
    const first = Deno.dlopen(path, identitySymbols);
    try {
      version = textOf((buffer, size) => first.symbols.drover_version(buffer, size));
      if (version !== libraryVersion) {
        throw mismatch(shownAs, `version ${version}`, `version ${libraryVersion}`);
      }
      const layout = textOf((buffer, size) => first.symbols.drover_layout(buffer, size));
      if (layout !== layoutText()) {
        throw mismatch(shownAs, "another struct layout", `that of version ${libraryVersion}`);
      }
    } finally {
      first.close();
    }
    return new LoadedNative(Deno.dlopen(path, symbols).symbols, version, path);
  } catch (error) {
    if (error instanceof DroverError || error instanceof Deno.errors.NotCapable) throw error;
    throw new DroverError(
      "unsupported",
      `Cannot load "${shownAs}": it is missing, broken or of another version`,
      {
        hint: "deno task native",
        cause: error,
      },
    );
  }
}

function textOf(write: (buffer: Uint8Array<ArrayBuffer>, size: bigint) => number): string {
  const room = new Uint8Array(8192);
  return decoder.decode(room.subarray(0, check(write(room, BigInt(room.length)), "ask libdrover.so")));
}

function mismatch(path: string, is: string, should: string): DroverError {
  return new DroverError("unsupported", `Cannot use "${path}": it has ${is}, and should have ${should}`, {
    hint: "deno task native",
  });
}

/** The library inside a compiled executable. */
function loadEmbedded(): Native {
  const shownAs = "the embedded libdrover.so";
  let bytes: Uint8Array<ArrayBuffer>;
  try {
    bytes = Deno.readFileSync(besideSources);
  } catch (error) {
    throw new DroverError("unsupported", "Cannot find libdrover.so inside this executable", {
      hint: "set DROVER_LIB to the path of libdrover.so",
      cause: error,
    });
  }
  const path = memfdOf(bytes);
  return path === null ? loadFromPrivateDirectory(bytes, shownAs) : load(path, shownAs);
}

/** Puts bytes into a memfd that stays open; its path, or null where the system refuses. */
function memfdOf(bytes: Uint8Array<ArrayBuffer>): string | null {
  let libc;
  try {
    libc = Deno.dlopen("libc.so.6", {
      // int memfd_create(const char *name, unsigned int flags);
      memfd_create: { parameters: ["buffer", "u32"], result: "i32" },
      // ssize_t write(int fd, const void *buf, size_t count);
      write: { parameters: ["i32", "buffer", "usize"], result: "isize" },
      // int close(int fd);
      close: { parameters: ["i32"], result: "i32" },
    });
  } catch (error) {
    if (error instanceof Deno.errors.NotCapable) throw error;
    return null;
  }
  try {
    const name = new TextEncoder().encode("libdrover.so\0");
    let fd = libc.symbols.memfd_create(name, memfdCloexec | memfdExec);
    if (fd < 0) fd = libc.symbols.memfd_create(name, memfdCloexec);
    if (fd < 0) return null;
    for (let at = 0; at < bytes.length;) {
      const rest = bytes.subarray(at);
      const written = Number(libc.symbols.write(fd, rest, BigInt(rest.length)));
      if (written <= 0) {
        libc.symbols.close(fd);
        return null;
      }
      at += written;
    }
    return `/proc/self/fd/${fd}`;
  } finally {
    libc.close();
  }
}

/** Writes the library where only this user can, loads it and removes it again. */
function loadFromPrivateDirectory(bytes: Uint8Array<ArrayBuffer>, shownAs: string): Native {
  const directory = Deno.makeTempDirSync({ prefix: "drover-" });
  try {
    Deno.chmodSync(directory, 0o700);
    const path = `${directory}/libdrover.so`;
    Deno.writeFileSync(path, bytes, { createNew: true, mode: 0o700 });
    return load(path, shownAs);
  } finally {
    Deno.removeSync(directory, { recursive: true });
  }
}
