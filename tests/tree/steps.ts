/**
 * Steps: every call by which the product changes something outside of its memory, seen from a wrapper around the native
 * library and around SQLite. A test counts them, lets one fail, or dies at one. The product knows nothing of it.
 *
 * A call counts before it is made, so "after step n" is "before step n + 1". A write of several bytes counts twice: before,
 * and when half of it is written. What happens between BEGIN and COMMIT is one step, as it is for SQLite.
 */
import { DatabaseSync, StatementSync } from "node:sqlite";
import type { Libc, Native } from "../../ffi/mod.ts";

/** Hears of a step before it is taken; what it throws, the call throws. */
export type StepHook = (step: string) => void;

const O_CREAT = 0o100;
const O_TRUNC = 0o1000;

/** Calls that change something. */
const changing: ReadonlySet<string> = new Set<keyof Libc>([
  "pwrite",
  "ftruncate",
  "copyRange",
  "clone",
  "fsync",
  "syncfs",
  "symlink",
  "link",
  "mknod",
  "mkdir",
  "unlink",
  "rmdir",
  "rename",
  "chown",
  "chmod",
  "setMtime",
  "fchown",
  "fchmod",
  "fsetMtime",
  "setXattr",
  "removeXattr",
  "mountOverlay",
  "unmount",
  "remount",
]);

/** The same library, which tells `hook` of each step. */
export function stepping(native: Native, hook: StepHook): Native {
  const libc = new Proxy(native.libc, {
    get(target, key) {
      const value: unknown = Reflect.get(target, key, target);
      if (typeof key !== "string" || typeof value !== "function") return value;
      const call = (...args: unknown[]): unknown => Reflect.apply(value, target, args);
      if (key === "open" || key === "openBeneath") {
        return (...args: unknown[]): unknown => {
          if ((Number(args[2]) & (O_CREAT | O_TRUNC)) !== 0 && args[1] !== "lock") hook(key);
          return call(...args);
        };
      }
      if (!changing.has(key)) return value.bind(target);
      if (key !== "pwrite") {
        return (...args: unknown[]): unknown => {
          hook(key);
          return call(...args);
        };
      }
      return (fd: number, bytes: Uint8Array, offset: number): void => {
        hook(key);
        const half = bytes.length >> 1;
        if (half > 0) {
          target.pwrite(fd, bytes.subarray(0, half), offset);
          hook("pwrite, half of it");
        }
        target.pwrite(fd, bytes.subarray(half), offset + half);
      };
    },
  });
  return new Proxy(native, {
    get(target, key) {
      if (key === "libc") return libc;
      const value: unknown = Reflect.get(target, key, target);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}

let databaseHook: StepHook | null = null;
let patched = false;
/** Of the one database that is worked on at a time in these tests: a statement does not know its own. */
let inTransaction = false;

/** Tells `hook` of each durable step of any database of this process; null for nobody. */
export function hookDatabases(hook: StepHook | null): void {
  databaseHook = hook;
  if (patched) return;
  patched = true;
  patch(DatabaseSync.prototype, "exec", (args) => {
    const sql = String(args[0]).trim();
    if (sql.startsWith("BEGIN")) inTransaction = true;
    else if (sql === "COMMIT" || sql === "ROLLBACK") inTransaction = false;
    if (!inTransaction && sql !== "ROLLBACK") databaseHook?.(`database: ${sql.slice(0, 24)}`);
  });
  patch(StatementSync.prototype, "run", () => {
    if (!inTransaction) databaseHook?.("database: autocommit");
  });
}

/** Puts `before` in front of a method, wherever on the prototype chain it is. */
function patch(prototype: object, name: string, before: (args: unknown[]) => void): void {
  for (let at: object | null = prototype; at !== null; at = Object.getPrototypeOf(at)) {
    const descriptor = Object.getOwnPropertyDescriptor(at, name);
    if (descriptor === undefined) continue;
    const original: unknown = descriptor.value;
    if (typeof original !== "function") throw new TypeError(name);
    Object.defineProperty(at, name, {
      ...descriptor,
      value: function (this: object, ...args: unknown[]): unknown {
        before(args);
        return Reflect.apply(original, this, args);
      },
    });
    return;
  }
  throw new TypeError(`no ${name}`);
}
