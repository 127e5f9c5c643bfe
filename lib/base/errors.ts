/**
 * The errors that callers catch. Everything else is a built-in class (`TypeError` for a wrong argument,
 * `NativeError` of `ffi/` for a failed system call).
 *
 * Messages follow one form: *Cannot do X to "Y": what is, and what should be*, no full stop. `hint` is
 * the next command to type, where there is one.
 *
 * @module
 */

/** Why an operation was refused; stable, part of the `--json` contract and of the wire protocol. */
export type DroverCode =
  | "usage" // the arguments contradict each other or the state of the tree
  | "not-a-tree" // the directory is not under drover
  | "exists" // something is already where the new thing should go
  | "unknown-tree"
  | "unknown-version"
  | "busy" // another process holds the tree, or files in it are open for writing
  | "uncommitted" // the tree has changes that no version holds
  | "diverged" // both sides have versions that the other has not
  | "auth" // the peer did not prove the cluster key
  | "protocol" // the peer sent what the protocol does not allow
  | "format" // bytes that are not what their format says
  | "wrong-base" // a package for a version that is not here
  | "corrupt" // stored or received content does not match its hash
  | "disconnected" // the connection ended in the middle
  | "unsupported" // this machine or file system cannot do it
  | "no-space" // the file system, or the user's share of it, is full
  | "io"; // storage could not be read or written

/** An expected failure with a stable code. */
export class DroverError extends Error {
  /** The name that stands in front of the message in a stack trace. */
  override name = "DroverError";
  /** The reason, for programs. */
  readonly code: DroverCode;
  /** What to type next, if anything. */
  readonly hint: string | undefined;
  /** Further data, shown with `--json` (for instance the list of diverged versions). */
  readonly details: Readonly<Record<string, unknown>> | undefined;

  /**
   * An error with a reason.
   *
   * @param code stable reason
   * @param message in the form above
   * @param options hint, details, cause
   */
  constructor(
    code: DroverCode,
    message: string,
    options: { hint?: string; details?: Record<string, unknown>; cause?: unknown } = {},
  ) {
    super(message, options.cause === undefined ? {} : { cause: options.cause });
    this.code = code;
    this.hint = options.hint;
    this.details = options.details;
  }
}

/** Bytes from outside that break their format: where, and which rule. */
export class FormatError extends DroverError {
  /** The name that stands in front of the message in a stack trace. */
  override name = "FormatError";
  /** Byte offset in the unit that was being read, or -1 where there is none. */
  readonly offset: number;
  /** Short stable name of the rule that was broken, for instance `package.path.escape`. */
  readonly rule: string;

  /**
   * An error with a rule and a place.
   *
   * @param rule stable rule id
   * @param offset where
   * @param message what is, and what should be
   */
  constructor(rule: string, offset: number, message: string, options: { cause?: unknown } = {}) {
    super("format", `${message} (rule ${rule}${offset >= 0 ? `, offset ${offset}` : ""})`, {
      details: { rule, offset },
      ...options,
    });
    this.rule = rule;
    this.offset = offset;
  }
}
