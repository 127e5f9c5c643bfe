/**
 * The path at which a mount appears: a regular file that it covers, made where there is none and removed afterwards.
 *
 * Invariants:
 * - No file with content is ever covered, and none is removed but an empty one that was made for a mount: by this one, or
 *   by one whose program was killed.
 * - A mount whose program was killed answers ENOTCONN; it is taken away, and what it covered is used again.
 *
 * @module
 */
import type { Native } from "../../ffi/mod.ts";
import { DroverError } from "../base/errors.ts";
import { pathFromText } from "../base/path.ts";

/** A path that is ready to be mounted on. */
export interface FuseTarget {
  /** Absolute. */
  path: string;
  /** Removes the file, where it was made for the mount. Once is enough. */
  release(): void;
}

/** A line of the list of mounts. */
export interface MountLine {
  /** Where. */
  path: string;
  /** What was mounted. */
  source: string;
  /** MAJOR:MINOR. */
  device: string;
  /** The kind of file system. */
  type: string;
  /** It cannot be written. */
  readOnly: boolean;
}

/** What drover's mounts are called in /proc/self/mountinfo. */
export const fuseType = "fuse.drover";

/** Takes the text of /proc/self/mountinfo apart; lines that are none are left out. */
export function parseMountInfo(text: string): MountLine[] {
  const lines: MountLine[] = [];
  for (const line of text.split("\n")) {
    const fields = line.split(" ");
    const dash = fields.indexOf("-", 6);
    const [device, path, options] = [fields[2], fields[4], fields[5]];
    const [type, source] = [fields[dash + 1], fields[dash + 2]];
    if (
      dash < 0 || device === undefined || path === undefined || options === undefined || type === undefined ||
      source === undefined
    ) {
      continue;
    }
    lines.push({
      path: unescape(path),
      source: unescape(source),
      device,
      type,
      readOnly: options.split(",").includes("ro"),
    });
  }
  return lines;
}

/** The mounts of drover that this process sees. */
export function fuseMounts(): MountLine[] {
  return parseMountInfo(Deno.readTextFileSync("/proc/self/mountinfo")).filter(({ type }) =>
    type === fuseType
  );
}

/**
 * The path as the list of mounts has it: absolute, without symlinks in its directories.
 *
 * @throws {DroverError} "usage" when its directory is not there
 */
export function absoluteTarget(path: string): string {
  const at = path.lastIndexOf("/");
  const [directory, name] = [at < 0 ? "." : path.slice(0, at) || "/", path.slice(at + 1)];
  if (name === "" || name === "." || name === ".." || path.includes("\0")) {
    throw new DroverError("usage", `Cannot mount at "${path}": it should be the name of a file`);
  }
  try {
    const real = Deno.realPathSync(directory);
    return real === "/" ? `/${name}` : `${real}/${name}`;
  } catch (error) {
    throw new DroverError("usage", `Cannot mount at "${path}": there is no directory "${directory}"`, {
      cause: error,
    });
  }
}

/** Whether a mount is there whose program has ended. */
export function isDead(path: string): boolean {
  try {
    Deno.lstatSync(path);
    return false;
  } catch (error) {
    return error instanceof Error && "code" in error && error.code === "ENOTCONN";
  }
}

/**
 * Makes a path ready.
 *
 * @throws {DroverError} "busy" when a mount is there that answers, "exists" when something else is, and "usage"
 */
export async function openTarget(path: string, native: Native): Promise<FuseTarget> {
  const absolute = absoluteTarget(path);
  let made = false;
  if (fuseMounts().some((mount) => mount.path === absolute)) {
    if (!isDead(absolute)) {
      throw new DroverError("busy", `Cannot mount at "${path}": drover has mounted something there`, {
        hint: `drover unmount ${path}`,
      });
    }
    await detachMount(absolute, native);
    made = true;
  }
  try {
    Deno.openSync(absolute, { write: true, createNew: true, mode: 0o600 }).close();
    made = true;
  } catch (error) {
    if (!(error instanceof Deno.errors.AlreadyExists)) {
      throw new DroverError("io", `Cannot make "${path}"`, { cause: error });
    }
    const found = Deno.lstatSync(absolute);
    if (!found.isFile || found.size > 0) {
      throw new DroverError("exists", `Cannot mount at "${path}": it should be an empty file, or nothing`);
    }
  }
  let released = false;
  return {
    path: absolute,
    release(): void {
      if (made && !released) removeEmpty(absolute);
      released = true;
    },
  };
}

/** Lets the kernel read a mount further ahead than its 128 KiB, where this user may say so. */
export function growReadAhead(path: string): void {
  const device = fuseMounts().findLast((mount) => mount.path === path)?.device;
  try {
    if (device !== undefined) Deno.writeTextFileSync(`/sys/class/bdi/${device}/read_ahead_kb`, "1024");
  } catch {
    // It is an ordinary user, or there is no sysfs: it reads as far ahead as it does.
  }
}

/** Takes a mount from its path, whoever uses it. */
export async function detachMount(path: string, native: Native): Promise<void> {
  if (native.identity().canMount) native.libc.unmount(pathFromText(path), true);
  else await unmountByHelper(path, true);
}

/** Removes a file that is empty and no mount. */
export function removeEmpty(path: string): void {
  try {
    if (fuseMounts().some((mount) => mount.path === path)) return;
    const { isFile, size } = Deno.lstatSync(path);
    if (isFile && size === 0) Deno.removeSync(path);
  } catch {
    // Gone, or no longer ours to remove.
  }
}

/** Unmounts as an ordinary user. @throws {DroverError} "busy" while a program has it open */
export async function unmountByHelper(path: string, detach: boolean): Promise<void> {
  let done: Deno.CommandOutput;
  try {
    done = await new Deno.Command("fusermount3", {
      args: ["-u", ...(detach ? ["-z"] : []), "--", path],
      env: { LC_ALL: "C" },
      stdin: "null",
      stdout: "null",
      stderr: "piped",
    }).output();
  } catch (error) {
    throw new DroverError("unsupported", `Cannot unmount "${path}": there is no fusermount3`, {
      hint: "apt-get install fuse3",
      cause: error,
    });
  }
  if (done.success) return;
  const said = new TextDecoder().decode(done.stderr).trim();
  if (/busy/i.test(said)) throw new DroverError("busy", `Cannot unmount "${path}": a program has it open`);
  if (/not found in/.test(said)) return;
  throw new DroverError("io", `Cannot unmount "${path}": ${said}`);
}

function unescape(text: string): string {
  if (!text.includes("\\")) return text;
  const bytes: number[] = [];
  for (const [part] of text.matchAll(/\\[0-7]{3}|[^\\]+|\\/g)) {
    if (/^\\[0-7]{3}$/.test(part)) bytes.push(parseInt(part.slice(1), 8));
    else bytes.push(...new TextEncoder().encode(part));
  }
  return new TextDecoder().decode(Uint8Array.from(bytes));
}
