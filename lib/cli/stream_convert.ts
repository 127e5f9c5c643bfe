/** `drover stream convert`: a legacy stream becomes one of today. */
import { type Command, Option } from "commander";
import { DroverError, FormatError } from "../base/errors.ts";
import type { GuestKind, StreamItem } from "../stream/mod.ts";
import { exitCode } from "./exit.ts";
import { formatBytes, formatCount, formatSeconds } from "./format.ts";
import type { RunCommand } from "./registry.ts";
import {
  checkOutput,
  shellWord,
  StreamInput,
  StreamOutput,
  widenPipe,
  withHint,
  withProgress,
} from "./stream_files.ts";
import { itemsOf } from "./stream_images.ts";
import { errorText } from "./terminal.ts";

export const usage = `Usage: drover stream convert INPUT OUTPUT [OPTION]...

Converts a save image or migration stream of Xen 4.5 and before, with or without the header of xl, to today's format,
version 3. Word size and kind of the guest are found in the stream. Compressed checkpoints are expanded; a Remus stream
becomes a checkpointed one. The output is that of Xen's convert-legacy-stream, octet for octet, where that one works.

A libxl stream has a record for the device model's state. A libxc stream has none: there it follows END as it is.

INPUT is a file or a pipe, - is stdin. OUTPUT is a file, which appears when it is complete, or a pipe or device; - is
stdout, refused when that is a terminal.

Options:
      --width auto|32|64  word size of the sender's tools; default: auto
      --guest hvm|pv      kind of the guest; default: found in the stream
      --to libxc|libxl    what to write; default: libxc
      --skip-qemu         to libxc: leave the device model's state out, and take an image that has none
      --json              print {"file", "to", "width", "guest", "epochs", "pages", "bytes", "cut", "seconds"};
                          not with OUTPUT -
  -h, --help              this text

Example:
  $ drover stream convert old.save new.save --to libxl
  new.save: libxl from legacy (64-bit, hvm), 131072 pages, 538 MB in 0.61 s
`;

interface Options {
  width: "auto" | "32" | "64";
  guest?: GuestKind;
  to: "libxc" | "libxl";
  skipQemu?: boolean;
}

/** Batches of pages up to this size share one buffer: each is written before the next one is read. */
const batchSizeMax = 1024 * 4096;

export function define(command: Command, run: RunCommand): void {
  command.argument("<input>").argument("<output>")
    .addOption(new Option("--width <bits>").choices(["auto", "32", "64"]).default("auto"))
    .addOption(new Option("--guest <kind>").choices(["hvm", "pv"]))
    .addOption(new Option("--to <format>").choices(["libxc", "libxl"]).default("libxc"))
    .option("--skip-qemu")
    .action((path: string, out: string, { width, guest, to, skipQemu }: Options) =>
      run(async (terminal) => {
        checkOutput(out, {
          terminal,
          inputs: [path],
          hint: `drover stream convert ${shellWord(path)} FILE`,
        });
        await widenPipe(path, 0);
        await widenPipe(out, 1);
        using input = new StreamInput(path);
        const { LegacyConverter, newWriterState, encodeItem, StreamReader } = await import(
          "../stream/mod.ts"
        );
        const batch = new Uint8Array(batchSizeMax);
        const reader = new StreamReader({
          width: width === "auto" ? "auto" : width === "32" ? 4 : 8,
          guest: guest ?? "auto",
          allocate: (size) => size <= batchSizeMax ? batch.subarray(0, size) : new Uint8Array(size),
        });
        const converter = new LegacyConverter({ to, skipDeviceModel: skipQemu === true });
        using output = new StreamOutput(out);
        const state = newWriterState();
        // What the user said about the stream is to be said to the next command, too.
        const told = (width === "auto" ? "" : ` --width ${width}`) +
          (guest === undefined ? "" : ` --guest ${guest}`);
        let pages = 0;
        let found = "";
        let details: { width: number; guest: GuestKind } | null = null;
        let deviceModel = false;
        let cut: unknown = undefined;
        const write = (items: Iterable<StreamItem>): void => {
          for (const item of items) {
            if (item.layer === "libxc" && "record" in item && item.record.name === "PAGE_DATA") {
              pages += item.record.batch.pfns.length;
            }
            output.write(...encodeItem(item, state));
          }
        };
        const started = performance.now();
        await withProgress(terminal, "convert", (report) => {
          try {
            for (const item of itemsOf(input, reader, report)) {
              if (item.layer !== "legacy" && item.layer !== "xl") {
                throw new DroverError("usage", `Cannot convert "${path}": it is ${item.layer} already`, {
                  hint: `drover stream inspect ${shellWord(path)}`,
                });
              }
              if (item.layer === "legacy") {
                if (item.record.name === "HEADER") {
                  const { header } = item.record;
                  details = { width: header.width * 8, guest: header.guest };
                  found = `${header.width * 8}-bit, ${header.guest}`;
                } else if (item.record.name === "DEVICE_MODEL") {
                  deviceModel = true;
                }
              }
              write(converter.convert(item));
            }
            write(converter.finish());
          } catch (error) {
            if (!(error instanceof FormatError) || converter.epochs === 0 || !isTruncation(error)) {
              if (path === "-") throw error;
              const missing = error instanceof FormatError && error.rule === "legacy.device_model.missing";
              throw withHint(
                error,
                missing && to === "libxc"
                  ? `drover stream convert ${shellWord(path)} ${shellWord(out)}${told} --skip-qemu`
                  : `drover stream verify ${shellWord(path)}${told}`,
              );
            }
            cut = error;
            write(converter.finish({ cut: true }));
          }
        });
        output.finish();
        const seconds = (performance.now() - started) / 1000;
        const { epochs } = converter;
        if (cut !== undefined) {
          terminal.warning(`${path} stops behind epoch ${epochs}, and so does ${out}: ${errorText(cut)}`);
        }
        if (to === "libxc" && deviceModel) {
          terminal.warning(
            skipQemu === true
              ? "the device model's state is left out"
              : "the device model's state follows the end of the libxc stream, where no reader looks for it",
          );
          terminal.note(`hint: drover stream convert ${shellWord(path)} ${shellWord(out)}${told} --to libxl`);
        }
        if (out !== "-") {
          terminal.line(
            `${out}: ${to} from legacy (${found}), ${formatCount(pages, "page", "pages")}` +
              `${epochs > 1 ? `, ${epochs} epochs` : ""}, ${formatBytes(output.size)} in ${
                formatSeconds(seconds)
              }`,
          );
          terminal.note(`hint: drover stream verify ${shellWord(out)}`);
        }
        terminal.object({
          file: out,
          to,
          ...(details ?? {}),
          epochs,
          pages,
          bytes: output.size,
          cut: cut !== undefined,
          seconds,
        });
        return exitCode.ok;
      })
    );
}

/** Whether the stream only stopped, as it does when its sender dies. */
function isTruncation(error: FormatError): boolean {
  return error.rule.endsWith(".truncated") || error.rule.endsWith(".end.missing");
}
