/**
 * Regions over one store under sanitizers. The address and undefined-behaviour build runs all suites; the thread build runs those that
 * are about threads.
 */
import { addressSanitizers, threadSanitizer } from "./compile.ts";
import { testRegions } from "./region_suites.ts";

testRegions("regions", [
  {
    sanitizers: addressSanitizers,
    suites: ["errors", "basic", "calls", "faults", "harvest", "stress"],
  },
  // A SIGBUS of a touch is synchronous, so the thread sanitizer runs the handler at once, as the kernel does.
  { sanitizers: threadSanitizer, suites: ["harvest", "stress"] },
]);
