/**
 * Values of the command lines of `drover mem`.
 *
 * @module
 */
import { DroverError } from "../base/errors.ts";
import { parseSize } from "../base/size.ts";

const pageSize = 4096;

/** A size in whole pages. */
export function sizeArgument(name: string): (text: string) => number {
  return (text) => {
    let size: number;
    try {
      size = parseSize(text);
    } catch (error) {
      throw new DroverError("usage", `Cannot use "${text}" for ${name}: it should be a size like 64MiB`, {
        cause: error,
      });
    }
    if (size === 0 || size % pageSize !== 0) {
      throw new DroverError(
        "usage",
        `Cannot use "${text}" for ${name}: it should be a multiple of ${pageSize} bytes`,
      );
    }
    return size;
  };
}

/** Percent, as a share from 0 to 1. */
export function shareArgument(name: string): (text: string) => number {
  return (text) => {
    const value = /^[0-9]{1,3}(\.[0-9])?$/.test(text) ? Number(text) : Infinity;
    if (value > 100) {
      throw new DroverError("usage", `Cannot use "${text}" for ${name}: it should be a percentage`);
    }
    return value / 100;
  };
}

/** Pages of a size. */
export function pageCount(size: number): number {
  return size / pageSize;
}

/** Runs `open`; what it says of sizes that do not fit together is a wrong command line. */
export function usageOf<T>(open: () => T): T {
  try {
    return open();
  } catch (error) {
    if (error instanceof RangeError) throw new DroverError("usage", error.message, { cause: error });
    throw error;
  }
}

/** The same for work that takes its time. */
export async function usageOfWork<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof RangeError) throw new DroverError("usage", error.message, { cause: error });
    throw error;
  }
}
