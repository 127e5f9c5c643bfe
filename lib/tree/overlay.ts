/**
 * The overlay of a tree as it is mounted: what stands on a directory now, and how another stack gets there.
 *
 * A switch never changes a layer under a mounted overlay (the kernel calls that undefined). The new
 * overlay goes beneath the old one and the old one is taken off, so a path is never without a tree; where
 * the kernel has no MOVE_MOUNT_BENEATH (before 6.5), and for the commit of a `fast` tree, there is a gap of a few
 * milliseconds between the two. Descriptors that are open keep the old overlay alive until they are closed.
 *
 * Kernel document: Documentation/filesystems/overlayfs.rst.
 *
 * @module
 */
import * as fs from "node:fs";
import process from "node:process";
import { type BytePath, isBelow, joinPath, pathFromBytes, pathToBytes, pathToText } from "../base/path.ts";
import { DroverError } from "../base/errors.ts";
import type { Libc } from "../../ffi/mod.ts";
import { errorCode } from "./beneath.ts";
import type { Store, TreeSetup } from "./store.ts";

/** An overlay that stands on a directory. */
export interface Mounted {
  /** Its upper directory; null for a read-only one, or one that is not an overlay. */
  upper: BytePath | null;
  readOnly: boolean;
  /** The mount options as the kernel lists them. */
  options: string;
}

/** What is mounted exactly on `dir`, the visible one last. */
export function mountsOn(dir: BytePath): Mounted[] {
  const text = pathFromBytes(fs.readFileSync("/proc/self/mountinfo"));
  const mounts = new Map<string, Mounted & { parent: string }>();
  for (const line of text.split("\n")) {
    const [before, after] = line.split(" - ");
    const fields = before?.split(" ") ?? [];
    if (after === undefined || unescape(fields[4] ?? "") !== dir) continue;
    const options = after.split(" ").slice(2).join(" ").split(",");
    const upper = options.find((option) => option.startsWith("upperdir="))?.slice("upperdir=".length);
    const flags = `${fields[5]},${options.join(",")}`.split(",");
    mounts.set(fields[0] ?? "", {
      upper: upper === undefined ? null : withoutBackslashes(unescape(upper)),
      readOnly: flags.includes("ro"),
      options: unescape(options.join(",")),
      parent: fields[1] ?? "",
    });
  }
  // The file lists them in the order of their making; one that was put beneath another is younger, but not visible.
  const ordered: Mounted[] = [];
  for (
    let below = [...mounts.values()].find(({ parent }) => !mounts.has(parent))?.parent;
    below !== undefined;
  ) {
    const next = [...mounts].find(([, { parent }]) => parent === below);
    if (next !== undefined) ordered.push(next[1]);
    below = next?.[0];
  }
  return ordered;
}

/** Where other file systems are mounted below `dir`. */
export function mountsBelow(dir: BytePath): BytePath[] {
  const text = pathFromBytes(fs.readFileSync("/proc/self/mountinfo"));
  return text.split("\n").map((line) => unescape(line.split(" ")[4] ?? "")).filter((place) =>
    isBelow(place, dir)
  );
}

/** mountinfo writes blanks, newlines and backslashes as three octal digits. */
function unescape(text: string): BytePath {
  return text.replace(
    /\\([0-7]{3})/g,
    (_, digits: string) => String.fromCharCode(parseInt(digits, 8)),
  ) as BytePath;
}

/** The overlay shows its upper directory as it was told it, with backslashes before `,`, `:` and backslashes. */
function withoutBackslashes(text: string): BytePath {
  return text.replace(/\\([^])/g, "$1") as BytePath;
}

/** The tree's own overlay that is visible on its directory, as the number of its upper layer; null if none is. */
export function mountedUpper(store: Store): { upper: number; readOnly: boolean } | null {
  const top = mountsOn(store.setup.dir).at(-1);
  const prefix = store.below("layers/");
  if (top?.upper === null || top?.upper === undefined || !top.upper.startsWith(prefix)) return null;
  const upper = Number(top.upper.slice(prefix.length));
  return Number.isInteger(upper) ? { upper, readOnly: top.readOnly } : null;
}

/** Every layer of the tree that a mount on its directory uses, visible or not. */
export function mountedLayers(store: Store): number[] {
  const prefix = store.below("layers/");
  const numbers: number[] = [];
  for (const mount of mountsOn(store.setup.dir)) {
    // Some kinds of layers are shown with backslashes before special characters, some as they are.
    for (const options of [mount.options, withoutBackslashes(mount.options)]) {
      for (let at = options.indexOf(prefix); at >= 0; at = options.indexOf(prefix, at + 1)) {
        numbers.push(parseInt(options.slice(at + prefix.length, at + prefix.length + 15), 10));
      }
    }
  }
  return numbers;
}

/** Makes the empty directories for a new upper, with the root's own metadata still to be set. */
export function makeUpper(libc: Libc, store: Store, upper: number): void {
  const at = -100;
  libc.mkdir(at, store.layerPath(upper), 0o700);
  const work = store.below(`work/${upper}`);
  if (libc.stat(at, work) === null) libc.mkdir(at, work, 0o700);
}

/** Whether the tree is mounted with redirect_dir, metacopy and index. */
export function hasIndex(setup: TreeSetup): boolean {
  return setup.capture === "overlay" && setup.profile === "fast" && !setup.userxattr;
}

/**
 * Mounts the stack of the store's pointers on the tree's directory, and takes off what was there of ours.
 *
 * @throws {NativeError} as mount(2); {DroverError} "busy" when somebody else's mount is on the directory.
 */
export function showStack(libc: Libc, store: Store, log?: (line: string) => void): void {
  const { setup, pointers } = store;
  const base = pointers.base === null ? null : store.version(pointers.base);
  if (base?.stack === null || base?.stack === undefined) {
    throw new DroverError(
      "corrupt",
      `Cannot mount "${pathToText(setup.dir)}": the content of its version is not kept`,
    );
  }
  const lower = [...base.stack].reverse().map((layer) => store.layerPath(layer));
  const fast = hasIndex(setup);
  const options = {
    lower,
    upper: store.layerPath(pointers.upper),
    work: store.below(`work/${pointers.upper}`),
    redirectDir: fast,
    metacopy: fast,
    index: fast,
    userxattr: setup.userxattr,
    readOnly: false,
  };
  const there = mountedUpper(store);
  const mounts = mountsOn(setup.dir);
  if (there === null && mounts.length > 0) {
    throw new DroverError(
      "busy",
      `Cannot mount "${pathToText(setup.dir)}": something else is mounted there`,
      {
        hint: "see `findmnt`, and unmount it first",
      },
    );
  }
  const at = mounts.findIndex(({ upper }) => upper === options.upper);
  if (at >= 0) {
    // A switch was interrupted when the new overlay was beneath the old one already.
    for (let above = mounts.length - 1; above > at; above--) libc.unmount(setup.dir, true);
    if (mounts[at]?.readOnly === true) libc.remount(setup.dir, false);
    return;
  }
  // With index=on the kernel refuses a lower that a live overlay has as its upper.
  if (there !== null && !(fast && lower.some((path) => path === store.layerPath(there.upper)))) {
    try {
      libc.mountOverlay(options, setup.dir, true);
      libc.unmount(setup.dir, true);
      return;
    } catch (error) {
      if (!["EINVAL", "EOPNOTSUPP", "ENOSYS", "EBUSY"].includes(errorCode(error) ?? "")) throw error;
    }
  }
  if (there !== null) libc.unmount(setup.dir, true);
  try {
    libc.mountOverlay(options, setup.dir, false);
  } catch (error) {
    if (!fast || errorCode(error) !== "EBUSY") throw error;
    log?.(
      `${
        pathToText(setup.dir)
      }: programs still hold the overlay that was there; mounted without the inode index`,
    );
    libc.mountOverlay({ ...options, index: false }, setup.dir, false);
  }
}

/** A process that uses a tree, and what of it. */
export interface TreeUser {
  pid: number;
  command: string;
  path: string;
}

/** Processes that have something below `dir` open or mapped for writing, at most `limit`. */
export function writersOf(dir: BytePath, limit = 8): TreeUser[] {
  return usersOf(dir, limit, (pid, prefix) => openForWriting(pid, prefix) ?? mappedForWriting(pid, prefix));
}

/** Other processes whose working directory or root is in `dir`, at most `limit`. */
export function residentsOf(dir: BytePath, limit = 8): TreeUser[] {
  return usersOf(dir, limit, (pid, prefix) => {
    if (pid === `${process.pid}`) return null;
    for (const name of ["cwd", "root"]) {
      const path = fs.readlinkSync(`/proc/${pid}/${name}`);
      if (`${path}/`.startsWith(prefix)) return path;
    }
    return null;
  });
}

function usersOf(
  dir: BytePath,
  limit: number,
  use: (pid: string, prefix: string) => string | null,
): TreeUser[] {
  const found: TreeUser[] = [];
  // As the runtime decodes what /proc says; what is not UTF-8 becomes the same on both sides.
  const prefix = new TextDecoder().decode(pathToBytes(joinPath(dir, "" as BytePath)));
  for (const pid of fs.readdirSync("/proc").filter((name) => /^\d+$/.test(name))) {
    try {
      const path = use(pid, prefix);
      if (path === null) continue;
      found.push({ pid: Number(pid), command: fs.readFileSync(`/proc/${pid}/comm`, "utf8").trim(), path });
    } catch {
      continue; // the process has ended, or is not ours to look into
    }
    if (found.length >= limit) break;
  }
  return found;
}

function openForWriting(pid: string, prefix: string): string | null {
  for (const fd of fs.readdirSync(`/proc/${pid}/fd`)) {
    const path = fs.readlinkSync(`/proc/${pid}/fd/${fd}`);
    if (!path.startsWith(prefix)) continue;
    const flags = /^flags:\s*(\d+)/m.exec(fs.readFileSync(`/proc/${pid}/fdinfo/${fd}`, "utf8"))?.[1] ?? "0";
    if ((parseInt(flags, 8) & 3) !== 0) return path;
  }
  return null;
}

/** A shared mapping lives on when its descriptor is closed. */
function mappedForWriting(pid: string, prefix: string): string | null {
  const maps = fs.readFileSync(`/proc/${pid}/maps`, "utf8");
  if (!maps.includes(prefix)) return null;
  for (const line of maps.split("\n")) {
    const path = /^\S+ .w.s \S+ \S+ \S+ +(.*)$/.exec(line)?.[1];
    if (path?.startsWith(prefix) === true) return path;
  }
  return null;
}
