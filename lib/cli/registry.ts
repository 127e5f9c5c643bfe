/**
 * The list of commands: name, one line, and how to load the file that does it. Nothing of a command is
 * loaded before it is called, so `drover --version` and `--help` cost a few milliseconds; the import
 * strings are literals because `deno compile` has to find them.
 *
 * @module
 */
import type { Command } from "commander";
import type { ExitCode } from "./exit.ts";
import type { Terminal } from "./terminal.ts";

/** What a command's file exports. */
export interface CommandModule {
  /** The whole help text: forms, options, defaults, an example session. */
  usage: string;
  /** Declares operands and options; `run` is what the action has to call. */
  define(command: Command, run: RunCommand): void;
}

/** Runs the work of a command with its terminal; the code it returns (nothing is 0) becomes the exit code. */
export type RunCommand = (work: (terminal: Terminal) => Promise<ExitCode | void>) => Promise<void>;

/** One command. */
export interface CommandEntry {
  /** The words to type, for instance `["fs", "init"]`. */
  words: readonly string[];
  summary: string;
  load: () => Promise<CommandModule>;
}

/** The words that only group other commands. */
export const groups: Readonly<Record<string, string>> = {
  fs: "put directory trees under drover, version them",
  stream: "look into, check, convert and write migration streams and save images",
  mem: "memory larger than its RAM: measure it, watch it",
  key: "the secret that nodes of one cluster share",
};

/** All commands, in the order of the help text. */
export const commands: readonly CommandEntry[] = [
  { words: ["fs", "init"], summary: "put a directory under drover", load: () => import("./fs_init.ts") },
  { words: ["fs", "deinit"], summary: "give the plain directory back", load: () => import("./fs_deinit.ts") },
  {
    words: ["fs", "mount"],
    summary: "mount a tree again, after a reboot",
    load: () => import("./fs_mount.ts"),
  },
  {
    words: ["fs", "unmount"],
    summary: "take the mount away, keep the tree",
    load: () => import("./fs_unmount.ts"),
  },
  {
    words: ["fs", "status"],
    summary: "what a tree is and what changed",
    load: () => import("./fs_status.ts"),
  },
  { words: ["fs", "diff"], summary: "what differs between two versions", load: () => import("./fs_diff.ts") },
  { words: ["fs", "log"], summary: "the versions of a tree", load: () => import("./fs_log.ts") },
  {
    words: ["fs", "commit"],
    summary: "keep the present state as a version",
    load: () => import("./fs_commit.ts"),
  },
  {
    words: ["fs", "checkout"],
    summary: "go back, or forward, to a version",
    load: () => import("./fs_checkout.ts"),
  },
  { words: ["fs", "verify"], summary: "check every hash", load: () => import("./fs_verify.ts") },
  { words: ["fs", "gc"], summary: "drop old versions", load: () => import("./fs_gc.ts") },
  {
    words: ["fs", "export"],
    summary: "write a version, or a difference, as a tar",
    load: () => import("./fs_export.ts"),
  },
  { words: ["fs", "import"], summary: "make a version from a tar", load: () => import("./fs_import.ts") },
  { words: ["push"], summary: "bring a node to this tree's head", load: () => import("./push.ts") },
  { words: ["pull"], summary: "bring this tree to a node's head", load: () => import("./pull.ts") },
  {
    words: ["serve"],
    summary: "be a node: take pushes, answer pulls, lend memory",
    load: () => import("./serve.ts"),
  },
  {
    words: ["donors"],
    summary: "who lends how much memory to whom",
    load: () => import("./donors.ts"),
  },
  {
    words: ["stream", "inspect"],
    summary: "what is in a save image or migration stream",
    load: () => import("./stream_inspect.ts"),
  },
  {
    words: ["stream", "verify"],
    summary: "hold a stream against every rule of its format",
    load: () => import("./stream_verify.ts"),
  },
  {
    words: ["stream", "convert"],
    summary: "bring a legacy stream to today's format",
    load: () => import("./stream_convert.ts"),
  },
  {
    words: ["stream", "extract"],
    summary: "the memory of a stream, as a raw file",
    load: () => import("./stream_extract.ts"),
  },
  {
    words: ["stream", "diff"],
    summary: "the pages in which two streams differ",
    load: () => import("./stream_diff.ts"),
  },
  {
    words: ["stream", "write"],
    summary: "make a stream from a raw memory image",
    load: () => import("./stream_write.ts"),
  },
  {
    words: ["mem", "bench"],
    summary: "how fast memory is: in RAM, on SSD, at other hosts, on its way back",
    load: () => import("./mem_bench.ts"),
  },
  {
    words: ["mem", "demo"],
    summary: "where each page is, while a working set wanders",
    load: () => import("./mem_demo.ts"),
  },
  { words: ["export"], summary: "offer a disk image to NBD clients", load: () => import("./export.ts") },
  { words: ["mount"], summary: "show a disk image as a file", load: () => import("./mount.ts") },
  { words: ["unmount"], summary: "take such a file away again", load: () => import("./unmount.ts") },
  { words: ["mounts"], summary: "what is mounted", load: () => import("./mounts.ts") },
  { words: ["cp"], summary: "copy a disk image, sparse, checked, resumable", load: () => import("./cp.ts") },
  { words: ["key", "new"], summary: "make a key for a cluster", load: () => import("./key_new.ts") },
  {
    words: ["doctor"],
    summary: "what this machine can do, and what is missing",
    load: () => import("./doctor.ts"),
  },
  {
    words: ["completions"],
    summary: "completion script for a shell",
    load: () => import("./completions.ts"),
  },
];
