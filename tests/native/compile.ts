/**
 * The C compiler for the tests here: programs of native-src/ and C tests, under sanitizers.
 *
 * Every source becomes an object of its own in build/objects/, named by the hash of all that went in: the suites share
 * theirs, and a second run compiles only what changed.
 */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { warningFlags } from "../../native-src/build.ts";

/** The directory of the C tests, ended by a slash. */
export const here: string = new URL("./", import.meta.url).pathname;
const nativeSources = new URL("../../native-src/", import.meta.url).pathname;
const objects = new URL("../../build/objects/", import.meta.url).pathname;

/** What a program is built with. */
export interface Sanitizers {
  /** For people. */
  name: string;
  /** For the compiler. */
  flags: readonly string[];
}

/** Reads and writes out of bounds, leaks, undefined behaviour. */
export const addressSanitizers: Sanitizers = {
  name: "address and undefined-behaviour sanitizers",
  flags: ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
};

/** Races. */
export const threadSanitizer: Sanitizers = { name: "thread sanitizer", flags: ["-fsanitize=thread"] };

/** How the sanitizers end a program. */
export const sanitizerEnvironment: Readonly<Record<string, string>> = {
  ASAN_OPTIONS: "detect_leaks=1:abort_on_error=0",
  UBSAN_OPTIONS: "print_stacktrace=1",
  TSAN_OPTIONS: "halt_on_error=1:second_deadlock_stack=1",
};

const common = ["-std=gnu11", "-O1", "-g", "-fno-omit-frame-pointer", "-fPIC", ...warningFlags];

/** What a program is made of. */
export interface Program {
  /** Names in native-src/, without ending. */
  native: readonly string[];
  /** Names in this directory, without ending. */
  tests: readonly string[];
  /** Sanitizers. */
  flags: readonly string[];
  /** For the linker, behind the objects. */
  libraries: readonly string[];
}

/** The compiler's command; null, with a word on stderr, where there is none. */
export const compiler: string | null = await findTool(["cc", "gcc", "clang"], "gcc libc6-dev libsodium-dev");

/** The first of some programs that is here; null, with a word on stderr, for none. */
export async function findTool(names: readonly string[], packages: string): Promise<string | null> {
  for (const name of names) {
    try {
      if ((await new Deno.Command(name, { args: ["--version"], stdout: "null" }).output()).success) {
        return name;
      }
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    }
  }
  console.error(
    `tests/native: skipped, there is no ${names.join(" or ")}; type: apt-get install ${packages}`,
  );
  return null;
}

/** Runs the compiler. @throws with what it said */
export async function compile(args: readonly string[]): Promise<void> {
  const { success, stderr } = await new Deno.Command(compiler ?? "cc", { args: [...common, ...args] })
    .output();
  assert.ok(success, new TextDecoder().decode(stderr));
}

/** Builds a program. @param output its path */
export async function build(program: Program, output: string): Promise<void> {
  await Deno.mkdir(objects, { recursive: true });
  const headers = await headersHash();
  const sources = [
    ...program.native.map((name) => `${nativeSources}${name}.c`),
    ...program.tests.map((name) => `${here}${name}.c`),
  ];
  const made: string[] = [];
  const waiting = [...sources.entries()];
  const work = async (): Promise<void> => {
    for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) {
      const [at, source] = next;
      made[at] = await object(source, program.flags, headers);
    }
  };
  await Promise.all([work(), work()]);
  await compile([...program.flags, "-o", output, ...made, ...program.libraries]);
}

async function object(source: string, flags: readonly string[], headers: string): Promise<string> {
  const hash = createHash("sha256");
  for (const part of [headers, source, ...common, ...flags]) hash.update(`${part}\0`);
  hash.update(await Deno.readFile(source));
  const path = `${objects}${hash.digest("hex").slice(0, 32)}.o`;
  try {
    await Deno.stat(path);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    const temporary = `${path}.${Deno.pid}.part`;
    await compile([...flags, "-c", "-o", temporary, source]);
    await Deno.rename(temporary, path);
  }
  return path;
}

/** Of every header that a source may include, and the compiler: any change of one makes all objects anew. */
async function headersHash(): Promise<string> {
  const hash = createHash("sha256");
  const version = await new Deno.Command(compiler ?? "cc", { args: ["--version"] }).output();
  hash.update(version.stdout);
  for (const directory of [nativeSources, here]) {
    const names = [...Deno.readDirSync(directory)].map(({ name }) => name).filter((name) =>
      name.endsWith(".h")
    );
    for (const name of names.sort()) hash.update(name).update(await Deno.readFile(directory + name));
  }
  return hash.digest("hex");
}
