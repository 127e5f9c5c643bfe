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

const unknown: Remedy = {
  group: "other",
  title: "",
  get: "see the detail",
  without: "everything else",
};

/** What is known about a probed id; ids that nobody described yet show as themselves. */
export function describe(id: string): Remedy {
  return remedies[id] ?? { ...unknown, title: id };
}

/** By probe id. */
export const remedies: Readonly<Record<string, Remedy>> = {
  native: {
    group: "program",
    title: "libdrover.so",
    get: "deno task native (needs: apt-get install gcc libc6-dev libzstd-dev)",
    without: "only key new, completions and help",
  },
};
