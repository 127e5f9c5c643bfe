/**
 * What `drover doctor` knows about each thing the native library probes: what it is for, how to get it,
 * what works without it. Ids are those of native-src/probe.c; a test compares the two lists.
 *
 * @module
 */

/** What belongs to one probed thing. */
export interface Remedy {
  group: Group;
  /** What it is, in a few words. */
  title: string;
  /** What to type, or to change, to get it. */
  get: string;
  /** What still works without it. */
  without: string;
}

/** Headings, in the order of the output. */
export const groupTitles = {
  program: "Program",
  trees: "Trees",
  storage: "Storage",
  memory: "Memory",
  network: "Network",
  other: "Other",
} as const;

/** One of the headings. */
export type Group = keyof typeof groupTitles;

/** What all of a group lack when one of them is missing. */
const withoutMemory = "all tree and stream commands; only regions (mem bench, mem demo, Region.open) need it";
const withoutNodes = "all tree commands; only remote memory needs it";

/** By probe id, in the order of the output. */
export const remedies: Readonly<Record<string, Remedy>> = {
  native: {
    group: "program",
    title: "libdrover.so",
    get: "apt-get install gcc libc6-dev libzstd-dev && deno task native",
    without: "only key new, completions and help",
  },
  kernel: {
    group: "program",
    title: "kernel",
    get: "apt-get install -t bookworm-backports linux-image-amd64, and reboot",
    without: "what the items below show as ok",
  },
  "overlay.root": {
    group: "trees",
    title: "overlay mounts",
    get:
      "run as root, on ext4, xfs, btrfs or tmpfs, not inside another overlay (in a container: on a volume)",
    without: "overlay.rootless where it is ok; fs init --capture scan always",
  },
  "overlay.rootless": {
    group: "trees",
    title: "overlay mounts for ordinary users",
    get: "sysctl -w kernel.unprivileged_userns_clone=1 user.max_user_namespaces=10000 (overlay: Linux 5.11)",
    without: "ordinary users: fs init --capture scan; root: everything",
  },
  "overlay.whiteout": {
    group: "trees",
    title: "overlay whiteouts",
    get: "put the tree on ext4, xfs, btrfs or tmpfs",
    without: "fs init --capture scan",
  },
  "overlay.redirect_dir": {
    group: "trees",
    title: "overlay redirect_dir",
    get: "run as root, with overlayfs of Linux 4.10 or later",
    without: "fs init --profile portable; renaming a directory then copies it",
  },
  "overlay.metacopy": {
    group: "trees",
    title: "overlay metacopy",
    get: "run as root, with overlayfs of Linux 4.19 or later",
    without: "fs init --profile portable; a change of mode or owner then copies the file",
  },
  "overlay.index": {
    group: "trees",
    title: "overlay index",
    get: "put the tree on a file system with file handles: ext4, xfs, btrfs",
    without: "fs init --profile portable; a write to one of several hard links then separates them",
  },
  "overlay.beneath": {
    group: "trees",
    title: "switching a mount without a gap",
    get: "Linux 6.5 or later: apt-get install -t bookworm-backports linux-image-amd64, and reboot",
    without: "everything; for a moment of a switch the directory shows what lies below",
  },
  filesystem: {
    group: "storage",
    title: "file system",
    get: "give a directory that exists: drover doctor DIR",
    without: "the other items",
  },
  reflink: {
    group: "storage",
    title: "reflinks",
    get: "put the tree on xfs or btrfs",
    without: "everything; a large file that changes is copied once per version that needs it whole",
  },
  o_direct: {
    group: "storage",
    title: "O_DIRECT",
    get: "put the directory on a local disk's file system: ext4, xfs, btrfs",
    without: "all tree commands; regions then need ssd: { buffered: true }, and are slower",
  },
  io_uring: {
    group: "storage",
    title: "io_uring",
    get: "sysctl -w kernel.io_uring_disabled=0 (in a container: allow it in the seccomp profile)",
    without: "all tree commands; only storing memory pages on disk needs it",
  },
  fuse: {
    group: "storage",
    title: "FUSE",
    get: "modprobe fuse (in a container: --device /dev/fuse)",
    without: "all tree commands; only showing remote storage as files needs it",
  },
  nbd: {
    group: "storage",
    title: "kernel network block devices",
    get: "modprobe nbd",
    without: "all tree commands, and NBD clients in user space",
  },
  userfaultfd: {
    group: "memory",
    title: "userfaultfd",
    get:
      "run as root, or: sysctl -w vm.unprivileged_userfaultfd=1 (in a container: allow it in the seccomp profile)",
    without: withoutMemory,
  },
  "userfaultfd.unprivileged": {
    group: "memory",
    title: "userfaultfd for faults in the kernel, for ordinary users",
    get: "sysctl -w vm.unprivileged_userfaultfd=1",
    without:
      'everything as root; as an ordinary user everything but regions with faults: "thread"; others need pin() before system calls',
  },
  ...Object.fromEntries(
    ([
      ["missing", "filling missing pages", "4.3"],
      ["sigbus", "faults as signals", "4.14"],
      ["wp", "write protection", "5.7"],
      ["wp_unpopulated", "write protection of pages that are not there", "6.4"],
      ["poison", "poisoned pages", "6.6"],
      ["wp_async", "write tracking without faults", "6.7"],
      ["move", "moving pages without a copy", "6.8"],
    ] as const).map(([name, title, version]) => [`userfaultfd.${name}`, {
      group: "memory",
      title: `userfaultfd: ${title}`,
      get: `Linux ${version} or later, with userfaultfd allowed (above)`,
      without: withoutMemory,
    }]),
  ),
  pagemap_scan: {
    group: "memory",
    title: "PAGEMAP_SCAN",
    get: "Linux 6.7 or later: apt-get install -t bookworm-backports linux-image-amd64, and reboot",
    without: withoutMemory,
  },
  hugepages: {
    group: "memory",
    title: "huge pages",
    get: "sysctl -w vm.nr_hugepages=128",
    without: "everything; large regions of memory are a little slower",
  },
  thp: {
    group: "memory",
    title: "transparent huge pages",
    get: "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
    without: "everything; large regions of memory are a little slower",
  },
  verbs: {
    group: "network",
    title: "RDMA",
    get:
      "apt-get install ibverbs-providers rdma-core, and an RDMA device (or: rdma link add rxe0 type rxe netdev eth0)",
    without: withoutNodes,
  },
};

/** What is known about a probed id; an id that nobody described shows as itself. */
export function describe(id: string): Remedy {
  return remedies[id] ??
    { group: "other", title: id, get: "see the detail", without: "everything that does not need it" };
}
