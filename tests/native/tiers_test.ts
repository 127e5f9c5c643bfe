/** Regions over several stores under sanitizers: where pages go, seals, and moves while everything fails. */
import { addressSanitizers, threadSanitizer } from "./compile.ts";
import { testRegions } from "./region_suites.ts";

testRegions("regions over several stores", [
  {
    sanitizers: addressSanitizers,
    suites: ["tiers", "seal", "moves"],
  },
  { sanitizers: threadSanitizer, suites: ["moves"] },
]);
