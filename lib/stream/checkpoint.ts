/**
 * Checkpoints: what a receiver makes of a stream that may end at any octet, and when a sender may let out what its
 * guest did. Pure: both are tables, a clock and a connection are somebody else's.
 *
 * ## The receiver
 *
 * A *section* is what lies between two commit points; the first is the whole memory, each later one is an *epoch*'s
 * changes. The commit point of a flat stream (libxc, region) is CHECKPOINT; that of a framed one (libxl) is
 * CHECKPOINT_END, fully received. Epochs count from 1, which is the first section.
 *
 * Invariants:
 * - The committed state is always that of one whole epoch. The first section is applied as it comes, because
 *   before its commit point nothing is promised; of a later section nothing is applied before its commit point.
 * - A stream cut anywhere yields the last committed epoch (`failover`), or an error when there is none.
 * - END is not a commit point, except of a stream without checkpoints. What is held when END comes is dropped.
 * - What is held is bounded, by an explicit limit.
 *
 * Flat streams:
 *
 * | state    | opening | record | CHECKPOINT     | END              | cut               |
 * | -------- | ------- | ------ | -------------- | ---------------- | ----------------- |
 * | first    | apply   | apply  | commit -> open | commit -> complete | -> failed       |
 * | open     | refuse  | hold   | commit         | drop -> complete | drop -> failover  |
 * | complete | refuse  | refuse | refuse         | refuse           | nothing           |
 *
 * Framed streams (`upper` is any libxl record that is not named; between two sections that is CHECKPOINT_STATE):
 *
 * | state         | opening | record | CHECKPOINT       | upper  | CHECKPOINT_END | libxc END     | libxl END        | cut              |
 * | ------------- | ------- | ------ | ---------------- | ------ | -------------- | ------------- | ---------------- | ---------------- |
 * | first         | apply   | apply  | -> first-closing | refuse | refuse         | -> first-tail | refuse           | -> failed        |
 * | first-closing | refuse  | refuse | refuse           | apply  | commit -> open | refuse        | refuse           | -> failed        |
 * | first-tail    | refuse  | refuse | refuse           | apply  | refuse         | refuse        | commit -> complete | -> failed      |
 * | open          | refuse  | hold   | -> closing       | hold   | refuse         | -> tail       | refuse           | drop -> failover |
 * | closing       | refuse  | refuse | refuse           | hold   | commit -> open | refuse        | refuse           | drop -> failover |
 * | tail          | refuse  | refuse | refuse           | hold   | refuse         | refuse        | drop -> complete | drop -> failover |
 * | complete      | refuse  | refuse | refuse           | refuse | refuse         | refuse        | refuse           | nothing          |
 *
 * `opening` is a header, or LIBXC_CONTEXT. A refusal is an error of the stream: like any other it ends in `failed`
 * before the first commit and in `failover` after it.
 *
 * ## The sender
 *
 * Output commit: what the guest lets out during epoch n (packets, writes to shared disks) is held until checkpoint n is
 * acknowledged, so that nobody outside has seen what a failover would undo. See {@link OutputCommit}.
 *
 * @module
 */
import { FormatError } from "../base/errors.ts";
import type { ItemPlace, StreamItem } from "./item.ts";

/** Where a receiver stands. */
export type CheckpointState =
  | "first"
  | "first-closing"
  | "first-tail"
  | "open"
  | "closing"
  | "tail"
  | "complete"
  | "failover"
  | "failed";

/** What can come next. */
export type CheckpointEvent =
  | "opening"
  | "record"
  | "checkpoint"
  | "upper"
  | "checkpoint-end"
  | "end"
  | "upper-end"
  | "cut";

/** What is to be done with it; `pass` is nothing. */
export type CheckpointAction = "apply" | "hold" | "commit" | "drop" | "pass" | "refuse";

/** One field of the table. */
export interface CheckpointStep {
  /** What to do. */
  action: CheckpointAction;
  /** The state afterwards. */
  next: CheckpointState;
}

type Row = Partial<Record<CheckpointEvent, readonly [CheckpointAction, CheckpointState]>>;

const flat: Partial<Record<CheckpointState, Row>> = {
  first: {
    opening: ["apply", "first"],
    record: ["apply", "first"],
    checkpoint: ["commit", "open"],
    end: ["commit", "complete"],
    cut: ["pass", "failed"],
  },
  open: {
    record: ["hold", "open"],
    checkpoint: ["commit", "open"],
    end: ["drop", "complete"],
    cut: ["drop", "failover"],
  },
};

const framed: Partial<Record<CheckpointState, Row>> = {
  first: {
    opening: ["apply", "first"],
    record: ["apply", "first"],
    checkpoint: ["pass", "first-closing"],
    end: ["pass", "first-tail"],
    cut: ["pass", "failed"],
  },
  "first-closing": {
    upper: ["apply", "first-closing"],
    "checkpoint-end": ["commit", "open"],
    cut: ["pass", "failed"],
  },
  "first-tail": {
    upper: ["apply", "first-tail"],
    "upper-end": ["commit", "complete"],
    cut: ["pass", "failed"],
  },
  open: {
    record: ["hold", "open"],
    upper: ["hold", "open"],
    checkpoint: ["pass", "closing"],
    end: ["pass", "tail"],
    cut: ["drop", "failover"],
  },
  closing: {
    upper: ["hold", "closing"],
    "checkpoint-end": ["commit", "open"],
    cut: ["drop", "failover"],
  },
  tail: {
    upper: ["hold", "tail"],
    "upper-end": ["drop", "complete"],
    cut: ["drop", "failover"],
  },
};

/** Looks one field of the tables up. States that nothing leaves answer `pass` to a cut and refuse all else. */
export function checkpointStep(
  options: { framed: boolean; state: CheckpointState; event: CheckpointEvent },
): CheckpointStep {
  const { state, event } = options;
  const step = (options.framed ? framed : flat)[state]?.[event];
  if (step !== undefined) return { action: step[0], next: step[1] };
  return { action: event === "cut" ? "pass" : "refuse", next: state };
}

/** What an item is to the tables. @throws {TypeError} for a legacy item: a converter makes records of those first. */
export function checkpointEvent(item: StreamItem): CheckpointEvent {
  if ("header" in item) return "opening";
  switch (item.layer) {
    case "libxl":
      switch (item.record.name) {
        case "LIBXC_CONTEXT":
          return "opening";
        case "CHECKPOINT_END":
          return "checkpoint-end";
        case "END":
          return "upper-end";
        default:
          return "upper";
      }
    case "libxc":
    case "region":
      switch (item.record.name) {
        case "CHECKPOINT":
          return "checkpoint";
        case "END":
          return "end";
        default:
          return "record";
      }
    case "legacy":
      throw new TypeError("Cannot receive a legacy item: it should be converted first");
  }
}

/** An item of a stream and where it stands. */
export type ReceivedItem = StreamItem & { place: ItemPlace };

/**
 * Where a receiver puts what it takes.
 *
 * A target decodes what it is given to `hold` at once, into scratch: an epoch that cannot be decoded fails there, and
 * `commit` then has nothing left that a malformed stream could make fail.
 */
export interface CheckpointTarget {
  /** Takes an item of the first section. */
  apply(item: ReceivedItem): void;
  /** Takes an item of a later section, without touching the committed state. */
  hold(item: ReceivedItem): void;
  /** Makes what was applied or held the committed state of epoch `epoch`. */
  commit(epoch: number): void;
  /** Forgets what was held. */
  drop(): void;
}

/** How a stream ended for its receiver. */
export interface CheckpointOutcome {
  /** `failover`: the stream was cut or broke after an epoch was committed, and that epoch is the state. */
  status: "complete" | "failover";
  /** Epochs that were committed; the state is that of the last. */
  epochs: number;
  /** Items that were held and dropped. */
  dropped: number;
  /** What broke the stream; undefined when it only stopped or is complete. */
  cause: unknown;
}

/**
 * Runs the table over the items of a stream.
 *
 * ```ts
 * import { CheckpointReceiver, EpochBuffer } from "./checkpoint.ts";
 * const target = new EpochBuffer({ apply: () => {}, commit: (epoch, items) => console.log(epoch, items.length) });
 * const receiver = new CheckpointReceiver({ target, epochSizeMax: 1 << 30 });
 * receiver.take({ layer: "region", header: { bigEndian: false }, place: { index: 0, offset: 0, size: 24 } });
 * receiver.take({ layer: "region", record: { name: "CHECKPOINT" }, place: { index: 1, offset: 24, size: 8 } });
 * console.log(receiver.finish().status); // "failover": the stream stops behind a commit point
 * ```
 */
export class CheckpointReceiver {
  readonly #target: CheckpointTarget;
  readonly #epochSizeMax: number;
  #framed = false;
  #state: CheckpointState = "first";
  #epochs = 0;
  #heldSize = 0;
  #heldCount = 0;
  #dropped = 0;
  #offset = 0;
  #cause: unknown = undefined;

  /**
   * A receiver before the first item.
   *
   * @param options `target`: where items go; `epochSizeMax`: octets of the stream that may be held at a time.
   */
  constructor(options: { target: CheckpointTarget; epochSizeMax: number }) {
    if (!(options.epochSizeMax >= 0)) throw new TypeError("Cannot receive: epochSizeMax should be 0 or more");
    this.#target = options.target;
    this.#epochSizeMax = options.epochSizeMax;
  }

  /** Where it stands. */
  get state(): CheckpointState {
    return this.#state;
  }

  /** Epochs that are committed so far. */
  get epochs(): number {
    return this.#epochs;
  }

  /** Octets of the stream that are held now. */
  get heldSize(): number {
    return this.#heldSize;
  }

  /**
   * Takes the next item.
   *
   * Whatever it throws, the caller gives to `fail()`.
   *
   * @returns whether this item was a commit point.
   * @throws {FormatError} rules `checkpoint.order` and `checkpoint.size`, and what the target throws.
   */
  take(item: ReceivedItem): boolean {
    if (item.layer === "libxl" && "header" in item) this.#framed = true;
    this.#offset = item.place.offset + item.place.size;
    const event = checkpointEvent(item);
    const { action, next } = checkpointStep({ framed: this.#framed, state: this.#state, event });
    switch (action) {
      case "refuse":
        throw new FormatError(
          "checkpoint.order",
          item.place.offset,
          `Cannot take ${nameOf(item)}: it may not stand here (the receiver is in state "${this.#state}")`,
        );
      case "apply":
        this.#target.apply(item);
        break;
      case "hold":
        if (this.#heldSize + item.place.size > this.#epochSizeMax) {
          throw new FormatError(
            "checkpoint.size",
            item.place.offset,
            `Cannot hold epoch ${this.#epochs + 1}: it is over ${this.#epochSizeMax} octets`,
          );
        }
        this.#target.hold(item);
        this.#heldSize += item.place.size;
        this.#heldCount++;
        break;
      case "commit":
        // A commit that fails half-way leaves no state to fall back to.
        this.#state = "failed";
        this.#target.commit(this.#epochs + 1);
        this.#epochs++;
        this.#heldSize = 0;
        this.#heldCount = 0;
        break;
      case "drop":
        this.#drop();
        break;
      case "pass":
        break;
    }
    this.#state = next;
    return action === "commit";
  }

  /**
   * Says that the stream has stopped at the edge of an item.
   *
   * @throws {FormatError} rule `checkpoint.none` when no epoch is committed.
   */
  finish(): CheckpointOutcome {
    return this.#stop(
      new FormatError(
        "checkpoint.none",
        this.#offset,
        "Cannot recover from the cut stream: it stops before the first commit point",
      ),
      undefined,
    );
  }

  /**
   * Says that the stream broke: the reader, the connection, or `take()` threw `error`.
   *
   * @throws `error` itself, when no epoch is committed or committing one failed.
   */
  fail(error: unknown): CheckpointOutcome {
    return this.#stop(error, error);
  }

  #stop(error: unknown, cause: unknown): CheckpointOutcome {
    // After END nothing is missing, but an error there (octets behind END) is still one.
    if (this.#state === "complete" && cause !== undefined) this.#state = "failover";
    const { action, next } = checkpointStep({ framed: this.#framed, state: this.#state, event: "cut" });
    if (action === "drop") this.#drop();
    if (next !== this.#state) this.#cause = cause;
    else this.#cause ??= cause;
    this.#state = next;
    if (next === "failed") throw error;
    return {
      status: next === "complete" ? "complete" : "failover",
      epochs: this.#epochs,
      dropped: this.#dropped,
      cause: this.#cause,
    };
  }

  #drop(): void {
    this.#target.drop();
    this.#dropped += this.#heldCount;
    this.#heldSize = 0;
    this.#heldCount = 0;
  }
}

/** A target that keeps the items of an epoch and gives them out together at its commit point. */
export class EpochBuffer implements CheckpointTarget {
  readonly #apply: (item: ReceivedItem) => void;
  readonly #commit: (epoch: number, items: readonly ReceivedItem[]) => void;
  #items: ReceivedItem[] = [];

  /**
   * A target that holds nothing.
   *
   * @param options `apply`: takes items of the first section; `commit`: takes a later epoch's, in order.
   */
  constructor(
    options: {
      apply: (item: ReceivedItem) => void;
      commit: (epoch: number, items: readonly ReceivedItem[]) => void;
    },
  ) {
    this.#apply = options.apply;
    this.#commit = options.commit;
  }

  /** See {@link CheckpointTarget}. */
  apply(item: ReceivedItem): void {
    this.#apply(item);
  }

  /** See {@link CheckpointTarget}. */
  hold(item: ReceivedItem): void {
    this.#items.push(item);
  }

  /** See {@link CheckpointTarget}. */
  commit(epoch: number): void {
    const items = this.#items;
    this.#items = [];
    this.#commit(epoch, items);
  }

  /** See {@link CheckpointTarget}. */
  drop(): void {
    this.#items = [];
  }
}

/** Bounds of what a sender keeps back. */
export interface OutputCommitLimits {
  /** Effects that may be held. */
  effectsMax: number;
  /** Checkpoints that may wait for their acknowledgement. */
  epochsMax: number;
}

/**
 * The order in which a protected guest's effects leave it.
 *
 * An epoch goes through three states; effects come out in the order in which they were made:
 *
 * | state of epoch n | `effect()`       | `checkpoint()`             | `acknowledge(n)`            | `abandon()`        |
 * | ---------------- | ---------------- | -------------------------- | --------------------------- | ------------------ |
 * | running          | held with n      | -> sent; n + 1 is running  | error: it was not sent      | given out, closed  |
 * | sent             | held with n + 1  | n stays; n + 1 is sent too | -> released, and all before | given out, closed  |
 * | released         |                  |                            | error: it was acknowledged  |                    |
 *
 * `checkpoint()` is called while the guest stands still, before it runs on: what it does from then on belongs to the
 * next epoch, even while the one before is still being sent.
 *
 * ```ts
 * import assert from "node:assert/strict";
 * import { OutputCommit } from "./checkpoint.ts";
 * const output = new OutputCommit<string>({ effectsMax: 1000, epochsMax: 4 });
 * output.effect("packet 1");
 * const epoch = output.checkpoint();
 * output.effect("packet 2");
 * assert.deepEqual(output.acknowledge(epoch), ["packet 1"]);
 * ```
 */
export class OutputCommit<Effect> {
  readonly #limits: OutputCommitLimits;
  /** Effects of the sent epochs, the oldest first; then those of the running one. */
  readonly #sent: Effect[][] = [];
  #running: Effect[] = [];
  #held = 0;
  #acknowledged = 0;
  #closed = false;

  /** Nothing is held and epoch 1 is running. */
  constructor(limits: OutputCommitLimits) {
    this.#limits = limits;
  }

  /** The epoch that is running. */
  get epoch(): number {
    return this.#acknowledged + this.#sent.length + 1;
  }

  /** The last epoch that was acknowledged; 0 for none. */
  get acknowledged(): number {
    return this.#acknowledged;
  }

  /** Effects that are held. */
  get held(): number {
    return this.#held;
  }

  /**
   * Holds an effect of the running epoch.
   *
   * @returns false, and holds nothing, when `effectsMax` are held: the guest has to stop until some are released.
   */
  effect(effect: Effect): boolean {
    this.#checkOpen("hold an effect");
    if (this.#held >= this.#limits.effectsMax) return false;
    this.#running.push(effect);
    this.#held++;
    return true;
  }

  /** Whether another checkpoint may be taken before one is acknowledged. */
  get mayCheckpoint(): boolean {
    return !this.#closed && this.#sent.length < this.#limits.epochsMax;
  }

  /** Ends the running epoch and begins the next. @returns the number of the one that ended. */
  checkpoint(): number {
    this.#checkOpen("take a checkpoint");
    if (!this.mayCheckpoint) {
      throw new RangeError(`Cannot take a checkpoint: ${this.#sent.length} wait for their acknowledgement`);
    }
    this.#sent.push(this.#running);
    this.#running = [];
    return this.#acknowledged + this.#sent.length;
  }

  /**
   * Notes that the receiver has committed epoch `epoch`, and so all before it.
   *
   * @returns their effects, to be let out now and in this order.
   * @throws {RangeError} when the epoch was not sent, or was acknowledged before.
   */
  acknowledge(epoch: number): Effect[] {
    this.#checkOpen("take an acknowledgement");
    const count = epoch - this.#acknowledged;
    if (!Number.isInteger(epoch) || count < 1 || count > this.#sent.length) {
      throw new RangeError(
        `Cannot take the acknowledgement of epoch ${epoch}: ${this.#acknowledged} is acknowledged ` +
          `and ${this.#acknowledged + this.#sent.length} is sent`,
      );
    }
    const released = this.#sent.splice(0, count).flat();
    this.#acknowledged = epoch;
    this.#held -= released.length;
    return released;
  }

  /**
   * Ends the protection: the receiver is lost, or has taken over.
   *
   * @returns everything that was held, in order. Who still owns the guest lets it out; who may have lost it to the
   * receiver must not.
   */
  abandon(): Effect[] {
    this.#checkOpen("abandon");
    this.#closed = true;
    const held = [...this.#sent.splice(0).flat(), ...this.#running];
    this.#running = [];
    this.#held = 0;
    return held;
  }

  #checkOpen(what: string): void {
    if (this.#closed) throw new TypeError(`Cannot ${what}: the protection was abandoned`);
  }
}

function nameOf(item: StreamItem): string {
  return "header" in item ? `the header of ${item.layer}` : `${item.record.name} of ${item.layer}`;
}
