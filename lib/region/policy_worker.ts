/**
 * The policy's thread: an isolate of its own, so that it goes on while the program's stands still on a cold page.
 *
 * It loads the very library that the program has loaded, attaches the region by its handle, and ticks. Anything that goes wrong
 * here ends this thread and nothing else: C keeps the cap and serves faults without it.
 *
 * @module
 */
import { parentPort, workerData } from "node:worker_threads";
import { openNative } from "../../ffi/mod.ts";
import type { Advice } from "../tier/mod.ts";
import type { PolicyPlan } from "./options.ts";
import { PolicyDriver } from "./policy_driver.ts";
import { PolicyGate } from "./policy_gate.ts";

/** What the worker is started with. */
export interface PolicyWorkerData {
  /** `Native.path`. */
  library: string;
  /** `NativeRegion.handle` and `size`. */
  region: { handle: bigint; size: number };
  /** Memory of the gate. */
  gate: SharedArrayBuffer;
  /** What is allowed. */
  plan: PolicyPlan;
}

/** What the owner says later. */
export interface AdviceMessage {
  /** First page. */
  firstPage: number;
  /** Page after the last. */
  endPage: number;
  /** What was said. */
  advice: Advice;
}

const data: PolicyWorkerData = workerData;
const gate = new PolicyGate(data.gate);

/** Runs `work` while the region cannot be closed; false when it is closed. */
function within(work: () => void): boolean {
  if (!gate.enter()) return false;
  try {
    work();
  } finally {
    gate.leave();
  }
  return true;
}

let driver: PolicyDriver | undefined;
const started = within(() => {
  const region = openNative({ path: data.library }).attachRegion(data.region);
  driver = new PolicyDriver(region, data.plan, performance.now());
});

if (started) {
  const timer = setInterval(() => {
    if (!within(() => driver?.tick(performance.now()))) stop();
  }, 1000 / data.plan.hertz);
  const stop = (): void => {
    clearInterval(timer);
    parentPort?.close();
  };
  parentPort?.on("message", ({ firstPage, endPage, advice }: AdviceMessage) => {
    within(() => driver?.advise({ firstPage, endPage }, advice));
  });
}
