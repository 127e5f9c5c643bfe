/**
 * Builds build/libdrover.so from native-src/ with the C compiler, when sources or flags changed.
 *
 *     deno run --allow-all native-src/build.ts [--force] [--quiet]
 *
 * The stamp build/libdrover.stamp holds the hash of everything that went in: sources, flags, compiler,
 * libzstd.a and libsodium.a. The library is linked under another name and renamed, so that a process which has the old one mapped
 * keeps it, and an interrupted build leaves no half of one.
 *
 * @module
 */
import { createHash } from "node:crypto";

/** In the order of drover.h. */
const sources = [
  "layout.c",
  "libc.c",
  "dir.c",
  "overlay.c",
  "probe.c",
  "content.c",
  "zstd.c",
  "delta.c",
  "region.c",
  "page.c",
  "store_file.c",
  "store_nbd.c",
  "store_nbd_dial.c",
  "store_nbd_wire.c",
  "slots.c",
  "tiers_place.c",
  "store_tiers.c",
  "store_seal.c",
  "stores.c",
  "moves.c",
  "fetch.c",
  "evict.c",
  "serve.c",
  "fault.c",
  "range.c",
  "harvest.c",
  "verbs.c",
  "store_verbs.c",
  "donor.c",
  "bench.c",
  "fuse.c",
  "fuse_mount.c",
];
const headers = ["drover.h", "internal.h", "region.h", "tiers.h", "store_nbd.h", "verbs.h", "libdrover.map"];

/** The warnings that a C file must be free of; tests/native compiles with the same. */
export const warningFlags: readonly string[] = [
  "-Wall",
  "-Wextra",
  "-Wparentheses",
  "-Wtype-limits",
  "-Wconversion",
  "-Wshadow",
  "-Werror",
];
const compileFlags = ["-std=gnu11", "-O2", "-g1", "-fPIC", "-fvisibility=hidden", ...warningFlags];

/** Debian's static archives are not built for a shared object: hiding their symbols makes them linkable. */
const linkFlags = ["-shared", "-Wl,--exclude-libs,ALL", "-Wl,-z,relro,-z,now", "-Wl,--gc-sections"];

/** What went wrong, with the package to install where that is known. */
class BuildError extends Error {}

async function run(command: string, args: string[]): Promise<string> {
  let output: Deno.CommandOutput;
  try {
    output = await new Deno.Command(command, { args, stdout: "piped", stderr: "piped" }).output();
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    throw new BuildError(`Cannot find the C compiler "${command}"; type: apt-get install gcc libc6-dev`);
  }
  const text = new TextDecoder().decode(output.stdout);
  if (output.success) return text;
  throw new BuildError(explain(command, new TextDecoder().decode(output.stderr)));
}

/** The compiler's message, with the Debian package that would help. */
function explain(command: string, message: string): string {
  const needs: [RegExp, string][] = [
    [/zstd(_errors)?\.h: No such file|cannot find .*libzstd\.a|libzstd\.a: No such file/, "libzstd-dev"],
    [/sodium\.h: No such file|libsodium\.a: No such file/, "libsodium-dev"],
    [/linux\/\w+\.h: No such file/, "linux-libc-dev"],
    [/\w+\.h: No such file|cannot find (crti\.o|-lc\b)/, "libc6-dev"],
  ];
  const hit = needs.find(([pattern]) => pattern.test(message));
  return `Cannot build libdrover.so with ${command}:\n${message.trimEnd()}` +
    (hit === undefined ? "" : `\nMissing package; type: apt-get install ${hit[1]}`);
}

async function findCompiler(): Promise<{ name: string; version: string }> {
  const wanted = Deno.env.get("CC");
  for (const name of wanted === undefined || wanted === "" ? ["cc", "gcc", "clang"] : [wanted]) {
    try {
      return { name, version: (await run(name, ["--version"])).split("\n", 1)[0] ?? "" };
    } catch (error) {
      if (!(error instanceof BuildError)) throw error;
    }
  }
  throw new BuildError(
    `Cannot find a C compiler${
      wanted ? ` "${wanted}"` : ""
    }; type: apt-get install gcc libc6-dev libzstd-dev`,
  );
}

/** A static library as the compiler finds it; it answers with the bare name when there is none. */
async function findArchive(compiler: string, name: string): Promise<string> {
  const path = (await run(compiler, [`-print-file-name=${name}.a`])).trim();
  if (!path.includes("/")) {
    throw new BuildError(`Cannot find ${name}.a; type: apt-get install ${name}-dev`);
  }
  return path;
}

/**
 * Builds the library if anything changed.
 *
 * @returns whether it was built, and where it is.
 */
export async function buildNative(options: { force: boolean }): Promise<{ built: boolean; path: string }> {
  const here = new URL("./", import.meta.url);
  const outDirectory = new URL("../build/", import.meta.url);
  const library = decodeURIComponent(new URL("libdrover.so", outDirectory).pathname);
  const stampPath = new URL("libdrover.stamp", outDirectory);

  const compiler = await findCompiler();
  const archives = [
    await findArchive(compiler.name, "libzstd"),
    await findArchive(compiler.name, "libsodium"),
  ];
  const hash = createHash("sha256");
  for (const part of [compiler.name, compiler.version, ...compileFlags, ...linkFlags]) {
    hash.update(part + "\0");
  }
  const inputs: (string | URL)[] = [...headers, ...sources].map((name) => new URL(name, here));
  for (const input of [...inputs, ...archives]) {
    hash.update(createHash("sha256").update(await Deno.readFile(input)).digest());
  }
  const stamp = hash.digest("hex") + "\n";

  if (!options.force && await readOrNull(stampPath) === stamp && await exists(library)) {
    return { built: false, path: library };
  }
  await Deno.mkdir(outDirectory, { recursive: true });
  const temporary = `${library}.${Deno.pid}.part`;
  const sourceDirectory = decodeURIComponent(here.pathname);
  try {
    await run(compiler.name, [
      ...compileFlags,
      ...linkFlags,
      `-Wl,--version-script=${sourceDirectory}libdrover.map`,
      "-Wl,-soname,libdrover.so",
      "-o",
      temporary,
      ...sources.map((name) => sourceDirectory + name),
      ...archives,
      "-lm",
      "-ldl",
      "-pthread",
    ]);
    await Deno.rename(temporary, library);
  } catch (error) {
    await Deno.remove(temporary).catch(() => {});
    throw error;
  }
  await Deno.writeTextFile(stampPath, stamp);
  return { built: true, path: library };
}

async function readOrNull(path: URL): Promise<string | null> {
  try {
    return await Deno.readTextFile(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return null;
    throw error;
  }
}

async function exists(path: string): Promise<boolean> {
  try {
    await Deno.stat(path);
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

if (import.meta.main) {
  try {
    const { built, path } = await buildNative({ force: Deno.args.includes("--force") });
    if (!Deno.args.includes("--quiet")) console.error(`${path}: ${built ? "built" : "up to date"}`);
  } catch (error) {
    if (!(error instanceof BuildError)) throw error;
    console.error(`drover: error: ${error.message}`);
    Deno.exit(1);
  }
}
