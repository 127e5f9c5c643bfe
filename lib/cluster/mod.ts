/**
 * Memory of other hosts: donors lend it, borrowers keep cold pages there. `DONOR.md` has the conversation.
 *
 * @module
 */
export { borrow, Borrowed, type BorrowedSlots, type BorrowEvent, type BorrowOptions } from "./borrow.ts";
export { Donor, type DonorOptions, type RdmaLender, refuseBorrower } from "./donor.ts";
export { type FollowOptions, followRoom, type RegionDonors } from "./follow.ts";
export { defaultNodeName, sameHost } from "./identity.ts";
export { type MemorySource, plainMemory } from "./lent_memory.ts";
export { listDonor } from "./list.ts";
export {
  clusterLimits,
  clusterRecord,
  type DonorStatus,
  leaseSizeMax,
  leaseSizeMin,
  type LeaseState,
  type LeaseStatus,
  nodeNameFault,
} from "./messages.ts";
