/**
 * `deno task bench NAME [OPTION]...`: runs one bench. Each file that is named here answers one question.
 *
 * @module
 */

import { cleanUpOnSignals } from "./cleanup.ts";

/** A bench: its question, and the module that answers it with `main(args)`. */
interface Bench {
  question: string;
  load: () => Promise<{ main: (args: readonly string[]) => number | Promise<number> }>;
}

const benches: Readonly<Record<string, Bench>> = {
  fs: {
    question: "how one hop of a changed tree compares with rsync: bytes, time, memory",
    load: () => import("./fs.ts"),
  },
  elfm: {
    question: "ELFM's evaluation: A, B, C, B, A by three modes and rsync",
    load: () => import("./elfm.ts"),
  },
  fuse: {
    question: "a FUSE file on memory: requests per second",
    load: () => import("./fuse.ts"),
  },
  mem: {
    question: "memory larger than its RAM: a region beside kernel swap, the device and plain memory",
    load: () => import("./mem.ts"),
  },
  mount: {
    question: "a managed mount over a distance: first byte, throughput, durable writes, learned order",
    load: () => import("./mount.ts"),
  },
  nbd: {
    question: "an NBD server in TypeScript beside nbdkit, both on memory",
    load: () => import("./nbd.ts"),
  },
  ping: {
    question: "a page from a donor over TCP beside a bare ping-pong, and a pull beside a bare stream",
    load: () => import("./ping.ts"),
  },
  remote: {
    question: "memory of other hosts beside kernel swap, bare TCP and nbdkit",
    load: () => import("./remote.ts"),
  },
  stream: {
    question: "streams of memory beside cat, and deltas beside lz4",
    load: () => import("./stream.ts"),
  },
  workload: {
    question: "what the generated trees are: files, bytes, compressibility, seconds to make",
    load: () => import("./workload_report.ts"),
  },
  digest: {
    question: "the independent hash of a tree, or what differs between two",
    load: () => import("./digest_report.ts"),
  },
};

if (import.meta.main) {
  const [name = "", ...args] = Deno.args;
  const bench = benches[name];
  if (bench === undefined) {
    const list = Object.entries(benches).map(([known, { question }]) => `  ${known.padEnd(10)} ${question}`)
      .join("\n");
    console.error(`Usage: deno task bench NAME [OPTION]...\n\n${list}\n\nNAME --help shows the options.`);
    Deno.exitCode = name === "" || name === "--help" || name === "-h" ? 0 : 2;
  } else {
    cleanUpOnSignals();
    try {
      Deno.exitCode = await (await bench.load()).main(args);
    } catch (error) {
      console.error(`bench ${name}: ${error instanceof Error ? error.message : String(error)}`);
      Deno.exitCode = 1;
    }
  }
}
