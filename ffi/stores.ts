/**
 * The stores of a region as libdrover.so takes and gives them: struct drover_store_options and struct drover_store_stats.
 *
 * @module
 */
import { storeKinds, storeOptions, storeSealed, storeStates, storeStats } from "./layout.ts";
import type { StoreSettings, StoreStatus } from "./mod.ts";

/** Text, one byte per character, with its NUL. */
export function bytesOfText(text: string): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(text.length + 1);
  for (let at = 0; at < text.length; at++) bytes[at] = text.charCodeAt(at);
  return bytes;
}

/** Keeps what structs point to from being collected, until the call that reads them is over. */
export class Strings {
  #kept: Uint8Array<ArrayBuffer>[] = [];

  /** The address of a text. */
  addressOf(text: string): bigint {
    const bytes = bytesOfText(text);
    this.#kept.push(bytes);
    return BigInt(Deno.UnsafePointer.value(Deno.UnsafePointer.of(bytes)));
  }

  /** Says that nobody reads them any more. */
  release(): void {
    this.#kept = [];
  }
}

/** An array of struct drover_store_options. `strings` must be released after the call, and not before. */
export function bytesOfStores(
  stores: readonly StoreSettings[],
): { bytes: Uint8Array<ArrayBuffer>; count: number; strings: Strings } {
  const bytes = new Uint8Array(stores.length * storeOptions.structSize);
  const values = new DataView(bytes.buffer);
  const strings = new Strings();
  stores.forEach((store, index) => {
    const at = index * storeOptions.structSize;
    values.setBigUint64(at + storeOptions.path, strings.addressOf(store.path), true);
    if (store.name !== undefined) {
      values.setBigUint64(at + storeOptions.name, strings.addressOf(store.name), true);
    }
    values.setBigUint64(at + storeOptions.size, BigInt(store.size), true);
    values.setBigUint64(at + storeOptions.timeoutNanos, BigInt(store.timeoutMs ?? 0) * 1_000_000n, true);
    values.setUint32(at + storeOptions.kind, storeKinds[store.kind], true);
    values.setUint32(at + storeOptions.port, store.port ?? 0, true);
    values.setUint32(at + storeOptions.flags, store.sealed === true ? storeSealed : 0, true);
  });
  return { bytes, count: stores.length, strings };
}

const kindNames = Object.keys(storeKinds) as (keyof typeof storeKinds)[];
const stateNames = Object.keys(storeStates) as (keyof typeof storeStates)[];

/** The first `count` of an array of struct drover_store_stats. */
export function statusOfStores(bytes: Uint8Array<ArrayBuffer>, count: number): StoreStatus[] {
  const values = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return Array.from({ length: count }, (_, index) => {
    const base = index * storeStats.structSize;
    const at = (field: number): number => Number(values.getBigUint64(base + field, true));
    const kind = values.getUint32(base + storeStats.kind, true);
    const state = values.getUint32(base + storeStats.state, true);
    return {
      kind: kindNames.find((name) => storeKinds[name] === kind) ?? "file",
      state: stateNames.find((name) => storeStates[name] === state) ?? "gone",
      slots: at(storeStats.slots),
      used: at(storeStats.used),
      reads: at(storeStats.reads),
      writes: at(storeStats.writes),
      errors: at(storeStats.errors),
      refused: at(storeStats.refused),
      latencyNanos: at(storeStats.latencyNanos),
    };
  });
}
