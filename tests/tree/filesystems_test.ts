/**
 * Trees on other file systems than the one of /var/tmp: in memory, and on xfs and btrfs images, which copy by reference, where
 * their tools are installed and a loop device can be had. Random changes as in `random_run.ts`.
 */
import { tryRandom } from "./random_run.ts";
import { has, isRoot, run, Scratch } from "./scratch.ts";

/** How to make each file system in `$IMAGE` and mount it on `$PLACE`. */
const kinds: Readonly<Record<string, { tools: string[]; script: string }>> = {
  tmpfs: { tools: ["mount"], script: `mount -t tmpfs -o size=512m none "$PLACE"` },
  xfs: {
    tools: ["mount", "mkfs.xfs"],
    script: `truncate -s 400M "$IMAGE"; mkfs.xfs -q "$IMAGE"; mount -o loop "$IMAGE" "$PLACE"`,
  },
  btrfs: {
    tools: ["mount", "mkfs.btrfs"],
    script: `truncate -s 400M "$IMAGE"; mkfs.btrfs -q "$IMAGE"; mount -o loop "$IMAGE" "$PLACE"`,
  },
  ext4: {
    tools: ["mount", "mkfs.ext4"],
    script: `truncate -s 400M "$IMAGE"; mkfs.ext4 -q "$IMAGE"; mount -o loop "$IMAGE" "$PLACE"`,
  },
};

for (const [kind, { tools, script }] of Object.entries(kinds)) {
  const missing = !isRoot
    ? "only root may mount"
    : has("rsync", "getfattr", ...tools)
    ? null
    : `no ${tools.join(" or ")}`;
  if (missing !== null) console.warn(`tests/tree: ${kind} is left out: ${missing}`);
  Deno.test({
    name: `commit() and transfers keep random changes on ${kind}`,
    ignore: missing !== null,
    fn: async () => {
      await using scratch = new Scratch();
      const place = scratch.mkdir("place");
      await run(["sh", "-ec", script], { env: { IMAGE: scratch.path("image"), PLACE: place } });
      for (const seed of [1, 2, 3]) await tryRandom(seed, place);
    },
  });
}
