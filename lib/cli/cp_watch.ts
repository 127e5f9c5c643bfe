/** `drover cp --watch`: a copy that is kept in step with its source. */
import type { SyncResult } from "../region/watch.ts";
import { openTarget } from "./cp.ts";
import { formatBytes, formatSeconds } from "./format.ts";
import { errorText, type Terminal } from "./terminal.ts";

/** What is kept in step, and how. */
export interface WatchCopyOptions {
  source: string;
  dest: string;
  /** Whether the destination is made where there is none. */
  create: boolean;
  /** Spans on their way at once. */
  parallel: number;
  /** Seconds. */
  interval: number;
}

/** Runs until SIGINT or SIGTERM. */
export async function watchCopy(terminal: Terminal, options: WatchCopyOptions): Promise<void> {
  const { source, dest, create, parallel, interval } = options;
  const [{ openBackend }, { watchBackend }] = await Promise.all([
    import("../region/backend_url.ts"),
    import("../region/watch.ts"),
  ]);
  const connections = Math.min(4, parallel);
  const open = () => openBackend(source, { readOnly: true, connections });
  let size: number;
  {
    await using first = await open();
    size = first.size;
  }
  await using target = await openTarget(openBackend, { dest, size, connections, create });
  const stop = new AbortController();
  const signals = ["SIGINT", "SIGTERM"] as const;
  const onSignal = (): void => stop.abort();
  signals.forEach((signal) => Deno.addSignalListener(signal, onSignal));
  let pass = 0;
  let startedMs = performance.now();
  const tell = (result: SyncResult): void => {
    const seconds = (performance.now() - startedMs) / 1000;
    pass++;
    if (pass > 1 && result.changed === 0) return;
    terminal.line(
      `${dest}: ${formatBytes(size)}, ${formatBytes(result.changed)} changed, in ${formatSeconds(seconds)}`,
    );
    terminal.object({ pass, ...result, seconds });
  };
  try {
    await watchBackend(
      async () => {
        startedMs = performance.now();
        return await open();
      },
      target,
      {
        parallel,
        intervalMs: interval * 1000,
        signal: stop.signal,
        pass: tell,
        failed: (error) => terminal.warning(`${errorText(error)}; trying again`),
      },
    );
  } finally {
    signals.forEach((signal) => Deno.removeSignalListener(signal, onSignal));
  }
}
