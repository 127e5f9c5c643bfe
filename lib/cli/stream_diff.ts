/** `drover stream diff`: the pages in which two streams differ. */
import type { Command } from "commander";
import { DroverError } from "../base/errors.ts";
import { exitCode } from "./exit.ts";
import { formatCount, formatTable } from "./format.ts";
import type { RunCommand } from "./registry.ts";
import {
  digestMaker,
  hex,
  PageFile,
  shellWord,
  StreamInput,
  withHint,
  withProgress,
} from "./stream_files.ts";
import { type ImageResult, imageWarnings, readImage } from "./stream_images.ts";
import { errorText } from "./terminal.ts";

export const usage = `Usage: drover stream diff FIRST SECOND [--json]

Compares the memory that two streams describe, page by page, each at its last committed epoch; their profiles may
differ. A page that a stream does not have counts as zero. Lists runs of pages by their frame numbers: changed, or other
than zero in one of the two only.

FIRST and SECOND are files or pipes; one of them may be -, which is stdin. The memory of both is kept in temporary
files meanwhile, in the directory TMPDIR or /var/tmp.

Options:
      --json  one object per run {"pfn", "count", "kind": "changed"|"left"|"right"}, then {"same", "differing", "runs"}
  -h, --help  this text

Example:
  $ drover stream diff before.save after.save
  0x1a0-0x1ff  96 pages  changed
  0x31000        1 page  only in after.save
  97 pages differ
`;

export function define(command: Command, run: RunCommand): void {
  command.argument("<first>").argument("<second>").action((first: string, second: string) =>
    run(async (terminal) => {
      if (first === "-" && second === "-") {
        throw new DroverError("usage", "Cannot read both streams from stdin: one of them should be a file");
      }
      const stream = await import("../stream/mod.ts");
      const newDigest = await digestMaker();
      using left = PageFile.temporary();
      using right = PageFile.temporary();
      const read = async (path: string, image: PageFile): Promise<ImageResult> => {
        using input = new StreamInput(path);
        using scratch = PageFile.temporary();
        return await withProgress(terminal, "read", (report) => {
          try {
            return readImage({ stream, input, image, scratch, newDigest, report });
          } catch (error) {
            throw path === "-" ? error : withHint(error, `drover stream verify ${shellWord(path)}`);
          }
        });
      };
      for (const [path, image] of [[first, left], [second, right]] as const) {
        for (const line of imageWarnings(path, await read(path, image), errorText)) terminal.warning(line);
      }
      let differing = 0;
      let runs = 0;
      let rows: string[][] = [];
      const flush = (): void => {
        for (const row of formatTable(rows, [1])) terminal.line(row);
        rows = [];
      };
      for (const { pfn, count, kind } of stream.diffImages(left, right)) {
        differing += count;
        runs++;
        const what = kind === "changed" ? "changed" : `only in ${kind === "left" ? first : second}`;
        const range = count === 1 ? hex(pfn) : `${hex(pfn)}-${hex(pfn + count - 1)}`;
        rows.push([range, formatCount(count, "page", "pages"), what]);
        if (rows.length === tableRows) flush();
        terminal.object({ pfn, count, kind });
      }
      flush();
      terminal.line(
        differing === 0
          ? "no page differs"
          : `${formatCount(differing, "page differs", "pages differ")}${
            left.pages === right.pages ? "" : `; ${left.pages} and ${right.pages} pages of memory`
          }`,
      );
      terminal.object({ same: differing === 0, differing, runs });
      return exitCode.ok;
    })
  );
}

/** Rows that are lined up together. */
const tableRows = 1000;
