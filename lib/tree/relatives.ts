/**
 * What a new file was made of, among the files that went away: for files that were moved and changed.
 *
 * An overlay notes on each file that it copied up where it took it from (`origin`, a file handle), and layers keep that note,
 * so there it is known exactly, whatever the profile. Without the note, in a plain tree, contents that look alike
 * are taken for relatives, by samples of their first MiB.
 *
 * Invariant: what is returned is a path of the old version. It is a hint: a wrong one costs bytes, never correctness.
 *
 * @module
 */
import type { BytePath } from "../base/path.ts";
import { toHex } from "../base/hex.ts";
import type { Change, Entry } from "../version/entry.ts";
import { sketch, sketchBytesMin, sketchCountMax, SketchIndex } from "../version/similar.ts";
import { overlayXattr } from "../version/whiteout.ts";
import type { Tree } from "./tree.ts";

/** Bytes at the start of a file that its samples are taken of. */
const sampledMax = 1 << 20;

/** Bytes of gone files that are read to find relatives; the rest is not looked at. */
const sampledTotalMax = 64 << 20;

/** The file handle in an `origin` stands behind version, magic, length, flags, type and the file system's id. */
const originHead = 21;
const originMagic = 0xfb;

/** Finds relatives of new files. Looks at the gone files once, when it is first asked. */
export class Relatives {
  readonly #tree: Tree;
  readonly #gone: Entry[];
  readonly #isPlain: boolean;
  #byHandle: Map<string, BytePath> | null = null;
  #bySamples: SketchIndex | null = null;
  readonly #buffer = new Uint8Array(sampledMax);

  /** @param changes from the old version to the new one, not collapsed. */
  constructor(tree: Tree, changes: readonly Change[]) {
    this.#tree = tree;
    this.#isPlain = tree.store.setup.capture === "scan";
    this.#gone = changes.flatMap(({ before, after }) =>
      before?.kind === "file" && after === null && before.size >= sketchBytesMin ? [before] : []
    );
  }

  /** Where in the old version the content of a new file began, or null. */
  find(entry: Entry): BytePath | null {
    if (this.#gone.length === 0 || entry.kind !== "file" || entry.size < sketchBytesMin) return null;
    return this.#isPlain ? this.#alike(entry) : this.#origin(entry);
  }

  #origin({ digest, size }: Entry): BytePath | null {
    if (digest === null) return null;
    for (const { root, path } of this.#tree.content.find(digest, size)) {
      const handle = handleOf(overlayXattr(root.xattrs(path), "origin"));
      if (handle === null) continue;
      this.#byHandle ??= this.#handles();
      const from = this.#byHandle.get(handle);
      if (from !== undefined) return from;
    }
    return null;
  }

  /** The gone files by the handles of the places where their content lies. */
  #handles(): Map<string, BytePath> {
    const { content, libc } = this.#tree;
    const handles = new Map<string, BytePath>();
    for (const entry of this.#gone) {
      if (entry.digest === null) continue;
      for (const { root, path } of content.find(entry.digest, entry.size)) {
        const { fd, name } = root.place(path);
        const handle = libc.fileHandle(fd, name);
        if (handle === null) return handles; // a file system without handles: then there are no origins either
        handles.set(toHex(handle), entry.path);
      }
    }
    return handles;
  }

  #alike(entry: Entry): BytePath | null {
    const samples = this.#samples(entry);
    if (samples === null) return null;
    this.#bySamples ??= this.#index();
    return this.#bySamples.find(samples, 1)[0] ?? null;
  }

  #index(): SketchIndex {
    const index = new SketchIndex(sketchCountMax);
    let total = 0;
    for (const entry of this.#gone) {
      total += Math.min(entry.size, sampledMax);
      if (total > sampledTotalMax) break;
      const samples = this.#samples(entry);
      if (samples !== null && !index.add(entry.path, samples)) break;
    }
    return index;
  }

  #samples({ digest, size }: Entry): Uint32Array | null {
    const { content, libc } = this.#tree;
    const fd = digest === null ? null : content.open(digest, size);
    if (fd === null) return null;
    try {
      return sketch(this.#buffer.subarray(0, libc.pread(fd, this.#buffer, 0)));
    } finally {
      libc.close(fd);
    }
  }
}

/** The handle in an `origin`, in the form of `Libc.fileHandle`: four octets of type, then the handle. */
function handleOf(origin: Uint8Array | null): string | null {
  if (origin === null || origin.length <= originHead) return null;
  if (origin[0] !== 0 || origin[1] !== originMagic || origin[2] !== origin.length) return null;
  const handle = new Uint8Array(4 + origin.length - originHead);
  handle[0] = origin[4] ?? 0;
  handle.set(origin.subarray(originHead), 4);
  return toHex(handle);
}
