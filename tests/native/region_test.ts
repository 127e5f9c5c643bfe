/**
 * Regions over one store under sanitizers. The address and undefined-behaviour build runs all suites; the thread build runs those that
 * are about threads.
 */
import { testRegions } from "./region_suites.ts";

testRegions("regions", [
  {
    name: "address and undefined-behaviour sanitizers",
    flags: ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    suites: ["errors", "basic", "calls", "faults", "harvest", "stress"],
  },
  // A SIGBUS of a touch is synchronous, so the thread sanitizer runs the handler at once, as the kernel does.
  { name: "thread sanitizer", flags: ["-fsanitize=thread"], suites: ["harvest", "stress"] },
]);
