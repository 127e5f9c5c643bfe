/** Streams that are broken in one way or another, from a seed. */
import { concat } from "./samples.ts";

/** Changes some octets, cuts, repeats or moves a piece. */
export function mutate(input: Uint8Array, random: (bound: number) => number): Uint8Array<ArrayBuffer> {
  const output = input.slice();
  // Most changes where they matter: in the first octets of something, not in a page.
  const place = (): number => random(3) === 0 ? random(Math.min(input.length, 400)) : random(input.length);
  for (let count = 1 + random(4); count > 0; count--) {
    const at = place();
    switch (random(6)) {
      case 0:
        output[at] = random(256);
        break;
      case 1:
        output[at] = (output[at] ?? 0) ^ 1 << random(8);
        break;
      case 2:
        output.fill([0, 0xff, 0x80, 0x7f][random(4)] ?? 0, at, at + 1 + random(8));
        break;
      case 3:
        return concat([output.subarray(0, at), output.subarray(place())]);
      case 4:
        return output.slice(0, at);
      default:
        output.copyWithin(at, place(), Math.min(input.length, place() + random(64)));
    }
  }
  return output;
}
