/**
 * `deno task bench digest DIR [OTHER]`: the hash of a tree, or what differs between two; exits 1 if anything does.
 *
 * @module
 */
import { compareTrees, digestTree } from "./digest.ts";

/** The command. */
export function main(args: readonly string[]): number {
  const [dir, other] = args;
  if (dir === undefined || dir.startsWith("-") || args.length > 2) {
    console.log("Usage: deno task bench digest DIR [OTHER]");
    return dir === undefined ? 2 : 0;
  }
  if (other === undefined) {
    console.log(digestTree(dir).hash);
    return 0;
  }
  const { differences, files, bytes, hash } = compareTrees(dir, other);
  for (const line of differences) console.log(line);
  if (differences.length === 0) console.log(`the same: ${files} files, ${bytes} bytes, ${hash}`);
  return differences.length === 0 ? 0 : 1;
}
