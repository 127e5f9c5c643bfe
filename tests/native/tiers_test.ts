/** Regions over several stores under sanitizers: where pages go, seals, and moves while everything fails. */
import { testRegions } from "./region_suites.ts";

testRegions("regions over several stores", [
  {
    name: "address and undefined-behaviour sanitizers",
    flags: ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    suites: ["tiers", "seal", "moves"],
  },
  { name: "thread sanitizer", flags: ["-fsanitize=thread"], suites: ["moves"] },
]);
