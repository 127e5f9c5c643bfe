/**
 * The bench's place on disk: made fresh, and gone at the end with every mount below it.
 *
 * @module
 */
import { onInterrupt } from "./cleanup.ts";
import { outputOf } from "./process.ts";

/** A directory that is removed by `dispose`. */
export class Scratch implements Disposable {
  /** Absolute path. */
  readonly path: string;
  readonly #forget: () => void;

  /** @param parent where to make it; default /var/tmp, which is on a disk. */
  constructor(parent = "/var/tmp") {
    Deno.mkdirSync(parent, { recursive: true });
    this.path = Deno.makeTempDirSync({ dir: Deno.realPathSync(parent), prefix: "drover-bench-" });
    this.#forget = onInterrupt(() => this.#remove());
  }

  /** A path in it. */
  at(name: string): string {
    return `${this.path}/${name}`;
  }

  /** A new, empty directory in it. */
  fresh(name: string): string {
    this.clear(name);
    Deno.mkdirSync(this.at(name), { recursive: true });
    return this.at(name);
  }

  /** Unmounts and removes what is at `name`. */
  clear(name: string): void {
    unmountBelow(this.at(name));
    outputOf(["rm", "-rf", "--one-file-system", this.at(name)]);
  }

  /** A copy of the tree `source` at `name`, with everything. */
  copy(source: string, name: string): string {
    this.clear(name);
    const parent = this.at(name).slice(0, this.at(name).lastIndexOf("/"));
    Deno.mkdirSync(parent, { recursive: true });
    outputOf(["cp", "-a", source, this.at(name)]);
    return this.at(name);
  }

  [Symbol.dispose](): void {
    this.#forget();
    this.#remove();
  }

  #remove(): void {
    unmountBelow(this.path);
    outputOf(["rm", "-rf", "--one-file-system", this.path]);
  }
}

/** Detaches every mount at or below `dir`, the innermost first. */
export function unmountBelow(dir: string): void {
  const points = Deno.readTextFileSync("/proc/self/mountinfo").split("\n")
    .map((line) =>
      (line.split(" ")[4] ?? "").replace(
        /\\([0-7]{3})/g,
        (_, octal: string) => String.fromCharCode(parseInt(octal, 8)),
      )
    )
    .filter((point) => point === dir || point.startsWith(`${dir}/`));
  for (const point of points.reverse()) outputOf(["umount", "-l", point]);
}

/** Writes everything that is dirty to disk, so that one run does not pay for the one before. */
export function settle(): void {
  outputOf(["sync"]);
}

/** Whether this process may mount and make network namespaces. */
export function isRoot(): boolean {
  return Deno.uid() === 0;
}
