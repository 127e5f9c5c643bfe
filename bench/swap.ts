/**
 * The kernel's own swapping as a yardstick: a swap file, and a memory control group that makes its members use it.
 *
 * Invariants:
 * - The group lies below the one this process is in, so that every limit of this process holds for it as well.
 * - Whatever happens to this process, a guardian undoes it all: it waits for the end of a pipe that only this process
 *   holds, and so it also wakes when this process is killed.
 * - The area is at least twice as large as what goes into it: above a half full the kernel gives a page's slot up when it
 *   comes back in and has to write it again, which would be unfair to it.
 *
 * @module
 */
import { onInterrupt } from "./cleanup.ts";
import { outputOf, toolExists } from "./process.ts";

/** Why there is no yardstick on this machine. */
export class NoSwapError extends Error {}

/** Before all others, should the machine swap already. */
const priority = "32767";

const clusterPath = "/proc/sys/vm/page-cluster";

/** What guardian and interrupt do; every step is done even if one fails, and a second time does no harm. */
const undo = `
group=$1 area=$2 cluster=$3
if [ -d "$group" ]; then
  for try in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    members=$(cat "$group/cgroup.procs")
    [ -z "$members" ] && break
    kill -9 $members 2>/dev/null
    sleep 0.2
  done
fi
grep -qF "$area " /proc/swaps && swapoff "$area"
[ -d "$group" ] && rmdir "$group"
rm -f "$area"
echo "$cluster" >${clusterPath}
`;

/** One swap file and one group. */
export class SwapGroup implements AsyncDisposable {
  readonly #area: string;
  readonly #group: string;
  readonly #cluster: string;
  readonly #guardian: Deno.ChildProcess;
  readonly #lease: WritableStreamDefaultWriter<Uint8Array>;
  readonly #forget: () => void;

  /**
   * Turns swapping on for a group that nobody is in yet.
   *
   * @param options `dir`: where the swap file goes; `areaSize`: its size; `limit`: memory of the group in bytes
   * @throws {NoSwapError} where that is not permitted or would not measure what it should.
   */
  constructor(options: { dir: string; areaSize: number; limit: number }) {
    const missing = ["mkswap", "swapon", "swapoff", "fallocate", "setsid"].filter((tool) =>
      !toolExists(tool)
    );
    if (missing.length > 0) {
      throw new NoSwapError(`there is no ${missing.join(", ")}; type: apt-get install util-linux`);
    }
    if (Deno.uid() !== 0) throw new NoSwapError("only root may turn a swap file on");
    if (readOr("/sys/module/zswap/parameters/enabled", "N").trim() === "Y") {
      throw new NoSwapError(
        "zswap is on, which keeps pages in memory; type: echo N > /sys/module/zswap/parameters/enabled",
      );
    }
    const { parent, limitFile } = findGroup();
    this.#area = `${options.dir}/swap`;
    this.#group = `${parent}/drover-bench-${Deno.pid}`;
    this.#cluster = Deno.readTextFileSync(clusterPath).trim();
    this.#guardian = new Deno.Command("setsid", {
      args: ["sh", "-c", `trap '' INT TERM HUP; cat >/dev/null; ${undo}`, "sh", ...this.#undoWords],
      stdin: "piped",
      stdout: "null",
      stderr: "null",
    }).spawn();
    this.#lease = this.#guardian.stdin.getWriter();
    this.#forget = onInterrupt(() => this.#undo());
    try {
      Deno.mkdirSync(this.#group);
      Deno.writeTextFileSync(`${this.#group}/${limitFile}`, String(Math.floor(options.limit)));
      outputOf(["fallocate", "-l", String(options.areaSize), this.#area]);
      Deno.chmodSync(this.#area, 0o600);
      outputOf(["mkswap", this.#area]);
      this.#turnOn();
    } catch (error) {
      this.#undo();
      this.#lease.close().catch(() => {});
      this.#forget();
      throw new NoSwapError(error instanceof Error ? error.message : String(error));
    }
  }

  /** Puts a process that has allocated nothing yet under the limit. */
  enter(pid: number): void {
    Deno.writeTextFileSync(`${this.#group}/cgroup.procs`, String(pid));
  }

  /** Empties the area: slots that the dead left behind would fill it. There must be no member. */
  reset(): void {
    outputOf(["swapoff", this.#area]);
    this.#turnOn();
  }

  /** How many pages the kernel reads for one: 2 to this power. */
  readAround(cluster: number): void {
    Deno.writeTextFileSync(clusterPath, String(cluster));
  }

  /** Share of the area that is in use. */
  used(): number {
    const line = Deno.readTextFileSync("/proc/swaps").split("\n").find((text) =>
      text.startsWith(`${this.#area} `)
    );
    const [, , size, used] = line?.split(/\s+/) ?? [];
    return Number(used) / Number(size);
  }

  /** Takes everything back. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#forget();
    await this.#lease.close();
    await this.#guardian.status;
    if (Deno.readTextFileSync("/proc/swaps").includes(`${this.#area} `)) {
      throw new Error(
        `Cannot turn "${this.#area}" off: it is still in /proc/swaps; type: swapoff ${this.#area}`,
      );
    }
  }

  get #undoWords(): string[] {
    return [this.#group, this.#area, this.#cluster];
  }

  #undo(): void {
    outputOf(["sh", "-c", undo, "sh", ...this.#undoWords], { okCodes: [0, 1] });
  }

  #turnOn(): void {
    outputOf(["swapon", "--priority", priority, this.#area]);
  }
}

/** The directory below which a group can be made, and the file that limits its memory. */
function findGroup(): { parent: string; limitFile: string } {
  const memberships = Deno.readTextFileSync("/proc/self/cgroup").trim().split("\n").map((line) => {
    const [, controllers = "", ...path] = line.split(":");
    return { controllers: controllers.split(","), path: path.join(":") };
  });
  const first = memberships.find(({ controllers }) => controllers.includes("memory"));
  if (first !== undefined) {
    const own = placeOf(
      first.path,
      (kind, options) => kind === "cgroup" && options.split(",").includes("memory"),
    );
    if (own !== null) return { parent: own, limitFile: "memory.limit_in_bytes" };
  }
  const second = memberships.find(({ controllers }) => controllers.length === 1 && controllers[0] === "");
  let at = second === undefined ? null : placeOf(second.path, (kind) => kind === "cgroup2");
  // A group with members of its own cannot have limited groups below it; then one of those above will do.
  for (; at !== null && at.length > 1; at = at.slice(0, at.lastIndexOf("/"))) {
    if (readOr(`${at}/cgroup.subtree_control`, "").split(/\s+/).includes("memory")) {
      return { parent: at, limitFile: "memory.max" };
    }
  }
  throw new NoSwapError("no memory control group is mounted that this process may divide");
}

/** Where a group of /proc/self/cgroup is in the file system, by the mounts of this process. */
function placeOf(path: string, wanted: (kind: string, options: string) => boolean): string | null {
  for (const line of Deno.readTextFileSync("/proc/self/mountinfo").trim().split("\n")) {
    const [left = "", right = ""] = line.split(" - ");
    const [, , , root = "", point = ""] = left.split(" ");
    const [kind = "", , options = ""] = right.split(" ");
    if (!wanted(kind, options)) continue;
    const below = root === "/"
      ? path
      : path === root || path.startsWith(`${root}/`)
      ? path.slice(root.length)
      : "";
    return `${point}${below}`.replace(/\/$/, "");
  }
  return null;
}

function readOr(path: string, fallback: string): string {
  try {
    return Deno.readTextFileSync(path);
  } catch {
    return fallback; // not there, or not for us to read: the same to the caller
  }
}
