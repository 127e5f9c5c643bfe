/** What `push` and `pull` share: how a transfer's result is shown. */
import type { PullResult, PushResult } from "../tree/mod.ts";
import { formatBytes, formatCount, formatSeconds, shortVersion } from "./format.ts";
import type { Terminal } from "./terminal.ts";

/** Two lines: what moved, and where the time went. */
export function printTransfer(terminal: Terminal, result: PushResult | PullResult): void {
  if (result.from === result.to) {
    terminal.line(`nothing to do: both sides are at version ${shortVersion(result.to)}`);
    return;
  }
  const from = result.from === null ? "nothing" : shortVersion(result.from);
  terminal.line(
    `${from} -> ${shortVersion(result.to)}: ${formatCount(result.versions, "version", "versions")}, ` +
      `${formatCount(result.entries, "entry", "entries")}, ${formatBytes(result.bytesSent)} sent, ` +
      `${formatBytes(result.bytesReceived)} received in ${formatSeconds(result.seconds)}`,
  );
  const { capture, pack, send, apply } = result.phases;
  terminal.line(
    `capture ${formatSeconds(capture)}, pack ${formatSeconds(pack)}, send ${formatSeconds(send)}, ` +
      `apply ${formatSeconds(apply)}`,
  );
}
