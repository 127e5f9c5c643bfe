/**
 * What every operation on a tree needs from outside: the native library, a clock, a place for the
 * registry, and somewhere to report progress to.
 *
 * @module
 */
import type { Native } from "../../ffi/mod.ts";

/** How changes are found: from the overlay's upper directory, or by walking and comparing. */
export type Capture = "overlay" | "scan";

/**
 * Which overlay features a tree is mounted with. `fast`: redirect_dir, metacopy and index on (needs root): renaming a
 * directory or changing a mode copies nothing, and hard links stay linked. `portable`: all off; also in user namespaces.
 */
export type Profile = "fast" | "portable";

/** What one step of a long operation has done so far. `total` is 0 while it is not known. */
export interface ProgressEvent {
  /** Which step; steps may run side by side. */
  phase: string;
  /** How much of it is done. */
  done: number;
  /** How much it is altogether; 0 while nobody knows. */
  total: number;
  /** What is counted. */
  unit: "bytes" | "entries";
}

/** Everything from outside that the operations of this room use. */
export interface TreeContext {
  /** The native library. */
  native: Native;
  /** Milliseconds since 1970. */
  now: () => number;
  /** Absolute path of the directory where the list of trees is kept. */
  home: string;
  /** Hears how far a long operation is. */
  progress?: (event: ProgressEvent) => void;
  /** One line about something unusual that did not stop the work. */
  log?: (line: string) => void;
}
