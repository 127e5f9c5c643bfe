/** `drover stream extract`: the memory that a stream describes, as a raw file. */
import { type Command, Option } from "commander";
import { exitCode } from "./exit.ts";
import { formatBytes, formatCount, formatSeconds } from "./format.ts";
import type { RunCommand } from "./registry.ts";
import { countArgument } from "./session.ts";
import {
  checkOutput,
  digestMaker,
  isSpecial,
  PageFile,
  partialName,
  shellWord,
  StreamInput,
  StreamOutput,
  widenPipe,
  withHint,
  withProgress,
} from "./stream_files.ts";
import { imageWarnings, readImage } from "./stream_images.ts";
import { errorText } from "./terminal.ts";

export const usage = `Usage: drover stream extract FILE --memory OUT [OPTION]...

Writes the memory that a stream describes as a raw image: page N at octet 4096 * N, pages of zeros as holes. Of a page
that was sent more than once the last contents count. A checkpointed stream gives its last committed epoch, also
when it was cut behind it; a stream without one gives what it holds at END. Legacy streams are converted on the way.

FILE is a file or a pipe, - is stdin. OUT is a file, which appears when it is complete, or a pipe or device, which is
written when all was read; - is stdout, refused when that is a terminal.

Options:
      --memory OUT  where to
      --epoch N     the memory at the end of epoch N, from 1; default: the last committed one
      --json        print {"file", "profile", "epoch", "status", "pages", "stored", "seconds"}; not with OUT -
  -h, --help        this text

Example:
  $ drover stream extract guest.save --memory guest.raw
  guest.raw: 262144 pages, 1.1 GB, 87040 pages not zero, in 1.12 s
`;

interface Options {
  memory: string;
  epoch?: number;
}

export function define(command: Command, run: RunCommand): void {
  command.argument("<file>").requiredOption("--memory <out>")
    .addOption(new Option("--epoch <n>").argParser(countArgument("--epoch")))
    .action((path: string, { memory, epoch }: Options) =>
      run(async (terminal) => {
        checkOutput(memory, {
          terminal,
          inputs: [path],
          hint: `drover stream extract ${shellWord(path)} --memory FILE`,
        });
        await widenPipe(path, 0);
        await widenPipe(memory, 1);
        using input = new StreamInput(path);
        const stream = await import("../stream/mod.ts");
        const newDigest = await digestMaker();
        const names = isSpecial(memory) ? null : partialName(memory);
        using image = names === null ? PageFile.temporary() : new PageFile(names.partial);
        using scratch = PageFile.temporary();
        const started = performance.now();
        const result = await withProgress(terminal, "extract", (report) => {
          try {
            return readImage({ stream, input, image, scratch, epoch, newDigest, report });
          } catch (error) {
            throw path === "-" ? error : withHint(error, `drover stream verify ${shellWord(path)}`);
          }
        });
        for (const line of imageWarnings(path, result, errorText)) terminal.warning(line);
        if (names === null) {
          using output = new StreamOutput(memory);
          image.copyTo(output);
          output.finish();
        } else {
          image.keep(names.final);
        }
        const seconds = (performance.now() - started) / 1000;
        const { profile, status } = result;
        const size = image.pages * stream.pageSize;
        if (memory !== "-") {
          terminal.line(
            `${memory}: ${formatCount(image.pages, "page", "pages")}, ${formatBytes(size)}, ` +
              `${formatCount(image.stored, "page", "pages")} not zero` +
              `${result.epoch > 1 ? `, epoch ${result.epoch}` : ""}, in ${formatSeconds(seconds)}`,
          );
        }
        terminal.object({
          file: memory,
          profile,
          epoch: result.epoch,
          status,
          pages: image.pages,
          stored: image.stored,
          seconds,
        });
        return exitCode.ok;
      })
    );
}
