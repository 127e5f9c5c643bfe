/**
 * Which directories are trees, and where their state is: one small file per tree in the home directory,
 * named by the hash of the directory's path. The state directory is the truth; this only finds it again,
 * after a reboot for instance, when nothing is mounted.
 *
 * @module
 */
import { createHash } from "node:crypto";
import * as fs from "node:fs";
import { join } from "node:path";
import { type BytePath, nameOf, parentOf, pathFromBytes, pathToBytes } from "../base/path.ts";
import { fromHex, toHex } from "../base/hex.ts";

/** A tree's directory and its state directory, both absolute. */
export interface TreePlace {
  dir: BytePath;
  state: BytePath;
}

/** Where the state of `dir` is kept unless the user says otherwise: beside it, so on the same file system. */
export function defaultState(dir: BytePath): BytePath {
  return `${parentOf(dir)}/.${nameOf(dir)}.drover` as BytePath;
}

/** The list of trees in `home`. */
export class Registry {
  readonly #folder: string;

  /** @param home absolute path; made when the first tree is added. */
  constructor(home: string) {
    this.#folder = join(home, "trees");
  }

  /** Adds or replaces a tree. */
  add(place: TreePlace): void {
    fs.mkdirSync(this.#folder, { recursive: true, mode: 0o700 });
    const file = this.#file(place.dir);
    // Paths are bytes, JSON is text: hex keeps them whole.
    const text = JSON.stringify({
      dir: toHex(pathToBytes(place.dir)),
      state: toHex(pathToBytes(place.state)),
    });
    fs.writeFileSync(file + ".new", text, { mode: 0o600 });
    fs.renameSync(file + ".new", file);
  }

  /** Forgets a tree; no error when it is not there. */
  remove(dir: BytePath): void {
    fs.rmSync(this.#file(dir), { force: true });
  }

  /** The tree at `dir`, or null. */
  find(dir: BytePath): TreePlace | null {
    return readPlace(this.#file(dir));
  }

  /** All trees, by directory. */
  list(): TreePlace[] {
    let names: string[];
    try {
      names = fs.readdirSync(this.#folder);
    } catch {
      return [];
    }
    const places = names.filter((name) => /^[0-9a-f]{64}$/.test(name))
      .map((name) => readPlace(join(this.#folder, name)))
      .filter((place) => place !== null);
    return places.sort((a, b) => a.dir < b.dir ? -1 : 1);
  }

  #file(dir: BytePath): string {
    return join(this.#folder, createHash("sha256").update(pathToBytes(dir)).digest("hex"));
  }
}

/** Null also for a file that is damaged, by a power cut for instance: the tree is found again where its state is. */
function readPlace(file: string): TreePlace | null {
  try {
    const value: unknown = JSON.parse(fs.readFileSync(file, "utf8"));
    if (typeof value !== "object" || value === null) return null;
    const { dir, state } = value as Record<string, unknown>;
    if (typeof dir !== "string" || typeof state !== "string") return null;
    return { dir: pathFromBytes(fromHex(dir)), state: pathFromBytes(fromHex(state)) };
  } catch {
    return null;
  }
}
