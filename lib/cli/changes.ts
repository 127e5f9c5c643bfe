/** How `status` and `diff` show changes: one line each, a letter, the path, what is different. */
import type { ChangeLine } from "../tree/mod.ts";
import { formatBytes } from "./format.ts";
import type { Terminal } from "./terminal.ts";

const letters: Readonly<Record<ChangeLine["change"], string>> = {
  created: "A",
  deleted: "D",
  modified: "M",
  renamed: "R",
};

/** `M  index.html  (content, mtime)  12 kB`; a renamed file names where it came from. */
export function printChanges(terminal: Terminal, changes: readonly ChangeLine[]): void {
  for (const change of changes) {
    const what = change.kind === "file" ? formatBytes(change.size) : change.kind;
    const aspects = change.change === "modified" && change.aspects.length > 0
      ? `  (${change.aspects.join(", ")})`
      : "";
    const from = change.from === undefined ? "" : `  from ${change.from}`;
    terminal.line(
      `${letters[change.change]}  ${change.path}${
        change.change === "deleted" ? "" : `  ${what}`
      }${aspects}${from}`,
    );
  }
}

/** How many of each: the last JSON line of `diff`. */
export function countChanges(
  changes: readonly ChangeLine[],
): Record<ChangeLine["change"] | "changes", number> {
  const counts = { changes: changes.length, created: 0, deleted: 0, modified: 0, renamed: 0 };
  for (const change of changes) counts[change.change]++;
  return counts;
}
