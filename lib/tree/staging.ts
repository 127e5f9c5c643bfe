/**
 * What has been received of a package that is not complete: which place it goes to, and which segments are written,
 * so that a connection that broke is taken up again.
 *
 * @module
 */
import type { BytePath } from "../base/path.ts";
import { fromHex, toHex } from "../base/hex.ts";
import type { Piece } from "../version/segment.ts";
import { Beneath } from "./beneath.ts";
import { AT_FDCWD, O_CREAT, O_WRONLY } from "./posix.ts";
import { readWhole } from "./store.ts";
import type { Tree } from "./tree.ts";

/** What a staging directory says about itself; it is taken up again only for exactly the same package. */
export interface Staging {
  layer: number;
  to: string;
  metadata: string;
  boot: string;
}

/** Which segments are written, for the next attempt: one JSON line each, in the staging directory. */
export class StagedSegments {
  readonly #tree: Tree;
  readonly #path: BytePath;
  #size = 0;

  constructor(tree: Tree, layer: number) {
    this.#tree = tree;
    this.#path = `${stagingPath(tree, layer)}/segments` as BytePath;
  }

  read(): { index: number; digest: Uint8Array<ArrayBuffer>; pieces: Piece[] }[] {
    const { libc } = this.#tree;
    if (libc.stat(AT_FDCWD, this.#path) === null) return [];
    const text = new TextDecoder().decode(readWhole(libc, this.#path));
    const lines = text.slice(0, text.lastIndexOf("\n") + 1);
    this.#size = new TextEncoder().encode(lines).length;
    return lines.split("\n").filter((line) => line !== "").map((line) => {
      const { index, digest, pieces } = JSON.parse(line) as {
        index: number;
        digest: string;
        pieces: number[];
      };
      const list: Piece[] = [];
      for (let at = 0; at + 2 < pieces.length; at += 3) {
        list.push({ upsert: pieces[at] ?? 0, offset: pieces[at + 1] ?? 0, length: pieces[at + 2] ?? 0 });
      }
      return { index, digest: fromHex(digest), pieces: list };
    });
  }

  add(index: number, digest: Uint8Array, pieces: readonly Piece[]): void {
    const { libc } = this.#tree;
    const flat = pieces.flatMap(({ upsert, offset, length }) => [upsert, offset, length]);
    const line = new TextEncoder().encode(
      JSON.stringify({ index, digest: toHex(digest), pieces: flat }) + "\n",
    );
    const fd = libc.open(AT_FDCWD, this.#path, O_WRONLY | O_CREAT, 0o600);
    try {
      libc.pwrite(fd, line, this.#size);
      this.#size += line.length;
    } finally {
      libc.close(fd);
    }
  }
}

/** Forgets a package that was not finished. */
export function dropStaging(tree: Tree): void {
  const note = tree.store.note("staging");
  if (note === null) return;
  const { layer } = JSON.parse(note) as Staging;
  tree.store.setNote("staging", null);
  tree.removeLayer(layer);
  using staging = Beneath.open(tree.libc, tree.store.below("staging"));
  staging.removeAll(`${layer}` as BytePath);
}

export function stagingPath(tree: Tree, layer: number): BytePath {
  return tree.store.below(`staging/${layer}`);
}
