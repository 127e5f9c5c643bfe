/**
 * What must not be left behind when a bench is interrupted: processes, mounts, namespaces, directories.
 *
 * Invariant: what is undone last was made first, and one failing step does not stop the others.
 *
 * @module
 */

const steps = new Set<() => void>();

/** Runs `step` on an interrupt. @returns takes it off the list, when its owner has done it himself. */
export function onInterrupt(step: () => void): () => void {
  steps.add(step);
  return () => {
    steps.delete(step);
  };
}

/** From now on SIGINT and SIGTERM undo everything on the list and end the process. */
export function cleanUpOnSignals(): void {
  for (const [signal, code] of [["SIGINT", 130], ["SIGTERM", 143]] as const) {
    Deno.addSignalListener(signal, () => {
      for (const step of [...steps].reverse()) {
        try {
          step();
        } catch (error) {
          console.error(`bench: ${error instanceof Error ? error.message : String(error)}`);
        }
      }
      Deno.exit(code);
    });
  }
}
