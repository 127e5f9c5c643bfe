/**
 * How much to borrow from whom. Pure: sizes in, sizes out.
 *
 * @module
 */
import { leaseSizeMin } from "./messages.ts";

/** Shares are multiples of it, in bytes. */
export const shareUnit: number = leaseSizeMin;

/**
 * Divides `size` bytes of pages, each kept `copies` times, over donors in proportion to what they have free. A donor never
 * gets more than one copy of everything: a second copy on the same host would be lost with the first.
 *
 * @param options `free`: bytes per donor; `held`: bytes per donor that are borrowed already; `missing`: bytes that are to be
 * divided, if not all of it
 * @returns bytes per donor, in multiples of 1 MiB; their sum is less than `size * copies` where there is not enough
 *
 * @example
 * ```ts
 * import { shareOut } from "./placement.ts";
 *
 * const mebibyte = 2 ** 20;
 * const shares = shareOut({ size: 8 * mebibyte, copies: 1, free: [30 * mebibyte, 10 * mebibyte] });
 * if (shares[0] !== 6 * mebibyte) throw new Error("The larger donor has the wrong share");
 * ```
 */
export function shareOut(
  options: {
    size: number;
    copies: number;
    free: readonly number[];
    held?: readonly number[];
    missing?: number;
  },
): number[] {
  const { size, copies, free, held = [], missing = Infinity } = options;
  const units = Math.ceil(size / shareUnit);
  const places = free.map((bytes, at) => {
    const weight = Math.floor(bytes / shareUnit);
    const rest = Math.max(0, units - Math.ceil((held[at] ?? 0) / shareUnit));
    return { weight, most: Math.min(weight, rest), share: 0 };
  });
  const wanted = Math.min(units * copies, Math.ceil(missing / shareUnit));
  let left = Math.min(wanted, places.reduce((sum, { most }) => sum + most, 0));
  while (left > 0) {
    // In proportion to all that is free, and at least one unit each: who is full leaves the rest to the others.
    const open = places.filter(({ share, most }) => share < most).sort((a, b) => b.weight - a.weight);
    const total = open.reduce((sum, { weight }) => sum + weight, 0);
    const dividing = left;
    for (const place of open) {
      const part = Math.max(1, Math.floor(dividing * place.weight / total));
      const given = Math.min(part, place.most - place.share, left);
      place.share += given;
      left -= given;
    }
  }
  return places.map(({ share }) => share * shareUnit);
}
