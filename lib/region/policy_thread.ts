/**
 * The owner's end of the policy: starts the worker, passes advice on, and stops it before the region goes.
 *
 * The thread does not keep the program alive, and its death is no error of the program's: `state` says it.
 *
 * @module
 */
import { Worker } from "node:worker_threads";
import type { Native, NativeRegion } from "../../ffi/mod.ts";
import type { PolicyPlan } from "./options.ts";
import { makeGate, PolicyGate } from "./policy_gate.ts";
import type { AdviceMessage, PolicyWorkerData } from "./policy_worker.ts";

/** The thread of one region. */
export class PolicyThread {
  readonly #worker: Worker;
  readonly #gate: PolicyGate;
  #failure: Error | null = null;

  /** Starts it. @param native the library; @param region to watch; @param plan what is allowed. */
  constructor(native: Native, region: NativeRegion, plan: PolicyPlan) {
    const gate = makeGate();
    this.#gate = new PolicyGate(gate);
    const data: PolicyWorkerData = {
      library: native.path,
      region: { handle: region.handle, size: region.size },
      gate,
      plan,
    };
    this.#worker = new Worker(new URL("./policy_worker.ts", import.meta.url), { workerData: data });
    this.#worker.on("error", (error: Error) => this.#failure = error);
    this.#worker.unref();
  }

  /** What ended it, if anything did. */
  get failure(): Error | null {
    return this.#failure;
  }

  /** Looks so far. */
  get steps(): number {
    return this.#gate.steps;
  }

  /** Passes advice on. */
  advise(message: AdviceMessage): void {
    this.#worker.postMessage(message);
  }

  /** Waits until no step is under way, and ends the thread. */
  close(): void {
    this.#gate.close();
    this.#worker.terminate();
  }
}
