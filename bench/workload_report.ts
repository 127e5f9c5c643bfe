/**
 * `deno task bench workload`: makes trees, changes them, and says what they are, so that the other benches' figures
 * can be judged. No part of the product runs.
 *
 * @module
 */
import { parseArgs } from "node:util";
import { digestTree } from "./digest.ts";
import { numberOf, numbersOf } from "./options.ts";
import { outputOf } from "./process.ts";
import { Scratch } from "./scratch.ts";
import { formatTable, megabytes, seconds } from "./table.ts";
import { generateTree, mutateTree } from "./workload.ts";

const usage = `Usage: deno task bench workload [--sizes 200,1000] [--percents 10,40] [--seed N] [--dir PATH]

Prints for each size the tree's files, bytes and ratio by zstd -3, and for each share of changes what changed
and what rsync sends for it. With --keep DIR it only makes the first tree in DIR and leaves it there.
`;

/** The command. */
export function main(args: readonly string[]): number {
  const { values } = parseArgs({
    args: [...args],
    options: {
      sizes: { type: "string", default: "200,1000" },
      percents: { type: "string", default: "10,40" },
      seed: { type: "string", default: "20261120" },
      dir: { type: "string" },
      keep: { type: "string" },
      help: { type: "boolean", short: "h", default: false },
    },
  });
  if (values.help) {
    console.log(usage);
    return 0;
  }
  const seed = numberOf(values.seed);
  const sizes = numbersOf(values.sizes);
  if (values.keep !== undefined) {
    const report = generateTree(values.keep, { bytes: (sizes[0] ?? 200) * 1e6, seed });
    console.log(JSON.stringify({ ...report, hash: digestTree(values.keep).hash }));
    return 0;
  }
  using scratch = new Scratch(values.dir);
  const trees: string[][] = [];
  const changes: string[][] = [];
  for (const size of sizes) {
    scratch.clear("v0");
    const v0 = scratch.at("v0");
    const start = performance.now();
    const report = generateTree(v0, { bytes: size * 1e6, seed });
    const took = (performance.now() - start) / 1000;
    const tar = count(v0, "cat");
    const packed = count(v0, "zstd -3 -q -c");
    trees.push([
      `${size} MB`,
      String(report.files),
      String(report.directories),
      String(report.symlinks),
      String(report.hardLinks),
      String(report.xattrs),
      megabytes(tar),
      (packed / tar).toFixed(3),
      seconds(took),
      digestTree(v0).hash.slice(0, 16),
    ]);
    for (const percent of numbersOf(values.percents)) {
      const v1 = scratch.copy(v0, "v1");
      const done = mutateTree(v1, { percent, seed: seed + percent });
      const sent = (...flags: string[]): string => {
        const target = scratch.copy(v0, "v2");
        const said = outputOf([
          "rsync",
          "-aHAX",
          "--no-whole-file",
          "--delete",
          "--stats",
          ...flags,
          `${v1}/`,
          `${target}/`,
        ]);
        const total = [...said.matchAll(/Total bytes (?:sent|received): ([\d,]+)/g)]
          .reduce((sum, match) => sum + Number((match[1] ?? "").replaceAll(",", "")), 0);
        return megabytes(total);
      };
      changes.push([
        `${size} MB, ${percent} %`,
        String(done.created),
        String(done.deleted),
        String(done.modified),
        megabytes(done.bytesCreated),
        megabytes(done.bytesModified),
        sent(),
        sent("-z", "--zc=zstd"),
        sent("--whole-file"),
      ]);
    }
  }
  console.log(formatTable(
    [
      "tree",
      "files",
      "directories",
      "symlinks",
      "hard links",
      "xattrs",
      "tar MB",
      "zstd -3",
      "seconds",
      "digest",
    ],
    trees,
  ));
  console.log();
  console.log(formatTable(
    [
      "change",
      "created",
      "deleted",
      "modified",
      "created MB",
      "modified MB",
      "rsync MB",
      "rsync -z MB",
      "rsync -W MB",
    ],
    changes,
  ));
  return 0;
}

/** Bytes of the tree's tar after a filter. */
function count(dir: string, filter: string): number {
  return Number(outputOf(["sh", "-c", `tar -cf - -C "$1" . | ${filter} | wc -c`, "sh", dir]).trim());
}
