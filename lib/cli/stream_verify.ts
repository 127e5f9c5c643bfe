/** `drover stream verify`: holds a stream against every rule of its format. */
import { type Command, Option } from "commander";
import type { GuestKind, StreamProfile } from "../stream/mod.ts";
import { exitCode } from "./exit.ts";
import { formatBytes, formatCount } from "./format.ts";
import type { RunCommand } from "./registry.ts";
import { digestMaker, hex, shellWord, StreamInput, widenPipe, withProgress } from "./stream_files.ts";

export const usage = `Usage: drover stream verify FILE [OPTION]...

Checks a save image, a migration stream or a region: framing, every field, the order of records, checkpoints, and what
follows the end. The verifier shares no code with the reader that the other commands use. Each finding names the
offset and the index of the record it is in, and the rule, which VERIFY.md lists. Exits with 1 when there is an error.

FILE is a file or a pipe; - is stdin. It is read as far as there is something to find. A checkpointed stream that stops
behind a committed epoch is valid; its status is "failover".

Options:
      --profile auto|libxc|libxl|xl|legacy|region  what it should be; default: what its first octets say
      --width auto|32|64  of a legacy stream, the word size of the sender's tools; default: auto
      --guest hvm|pv      of a legacy stream, the kind of the guest; default: found in the stream
      --lenient           take what Xen's own receiver takes: reserved fields that are not zero, and the like
      --json              one object per finding {"rule", "severity", "offset", "record", "layer", "message"}, then
                          {"file", "valid", "profile", "status", "bytes", "records", "pages", "epochs",
                          "committedEpochs", "errors", "warnings", "digests"}
  -h, --help              this text

Example:
  $ drover stream verify guest.save
  guest.save: offset 0x1e, record 0: error: the reserved field is 0x1 and should be 0 (libxc.domain.reserved)
  guest.save: not valid: 1 error, 0 warnings; libxc, 258 records, 262144 pages, 1.1 GB
`;

interface Options {
  profile: StreamProfile | "auto";
  width: "auto" | "32" | "64";
  guest?: GuestKind;
  lenient?: boolean;
}

export function define(command: Command, run: RunCommand): void {
  command.argument("<file>")
    .addOption(
      new Option("--profile <name>").choices(["auto", "libxc", "libxl", "xl", "legacy", "region"]).default(
        "auto",
      ),
    )
    .addOption(new Option("--width <bits>").choices(["auto", "32", "64"]).default("auto"))
    .addOption(new Option("--guest <kind>").choices(["hvm", "pv"]))
    .option("--lenient")
    .action((path: string, { profile, width, guest, lenient }: Options) =>
      run(async (terminal) => {
        await widenPipe(path, 0);
        using input = new StreamInput(path);
        const { Verifier } = await import("../stream/mod.ts");
        const digest = await digestMaker();
        const verifier = new Verifier({
          profile,
          width: width === "auto" ? "auto" : width === "32" ? 4 : 8,
          guest: guest ?? "auto",
          lenient: lenient ?? false,
          digest,
        });
        const result = await withProgress(terminal, "verify", (report) => {
          // What follows a settled verdict may be endless.
          for (let chunk = input.next(); chunk !== null && !verifier.settled; chunk = input.next()) {
            verifier.push(chunk);
            report(input.offset, input.size);
          }
          return verifier.finish();
        });
        const { findings, ...totals } = result;
        for (const finding of findings) {
          terminal.line(
            `${path}: offset ${hex(finding.offset)}, record ${finding.record}: ${finding.severity}: ` +
              `${finding.message} (${finding.rule})`,
          );
          terminal.object(finding);
        }
        const hidden = totals.errors + totals.warnings - findings.length;
        if (hidden > 0) terminal.line(`${path}: and ${formatCount(hidden, "finding", "findings")} more`);
        const epochs = totals.committedEpochs > 1 ? `, ${totals.committedEpochs} epochs` : "";
        const cut = totals.status === "failover" ? `; stops behind epoch ${totals.committedEpochs}` : "";
        const verdict = totals.valid ? "valid" : "not valid";
        const found = totals.errors + totals.warnings === 0
          ? ""
          : `: ${formatCount(totals.errors, "error", "errors")}, ` +
            formatCount(totals.warnings, "warning", "warnings");
        terminal.line(
          `${path}: ${verdict}${found}; ${totals.profile ?? "unknown"}, ${
            formatCount(totals.records, "record", "records")
          }, ` +
            `${formatCount(totals.pages, "page", "pages")}${epochs}, ${formatBytes(totals.bytes)}${cut}`,
        );
        if (!totals.valid && path !== "-") terminal.note(`hint: drover stream inspect ${shellWord(path)}`);
        terminal.object({ file: path, ...totals });
        return totals.valid ? exitCode.ok : exitCode.failed;
      })
    );
}
