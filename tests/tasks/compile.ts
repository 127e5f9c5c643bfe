/**
 * `deno task compile`: builds dist/drover, one executable with the library and the workers inside.
 *
 * `deno compile` embeds a runtime, denort, of exactly its own version and downloads it. Where that cannot
 * be, `DENORT_BIN` names one (and `DENO` the Deno of its version), or `../shared/tools/denort` beside the checkout
 * prints both. It lives with the tests because they are its first user: tests/real/compile_test.ts.
 *
 * dist/drover.stamp holds the hash of all that went in; nothing is built when it matches.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { dirname, isAbsolute, join } from "node:path";
import { fileURLToPath } from "node:url";
import { buildNative } from "../../native-src/build.ts";

const root = dirname(dirname(dirname(fileURLToPath(import.meta.url))));

/** A Deno and the runtime that it embeds; null is the one that it downloads. */
interface Compiler {
  deno: string;
  denort: string | null;
}

/** There is no runtime to embed, and it could not be downloaded: the machine's fault, not the program's. */
export class NoRuntimeError extends Error {}

/**
 * Builds the executable if anything changed.
 *
 * @param entry the program; main.ts by default
 * @returns whether it was built, and where it is
 * @throws {NoRuntimeError} where no denort is at hand.
 */
export async function compileProgram(
  options: { force: boolean; entry?: string; output?: string },
): Promise<{ built: boolean; path: string }> {
  const { force, entry = join(root, "main.ts"), output = join(root, "dist", "drover") } = options;
  const { path: library } = await buildNative({ force: false });
  const compiler = await findCompiler();
  const workers = sources("lib").filter((path) => path.endsWith("worker.ts"));
  const stamp = stampOf([entry, library, "deno.json", ...sources("lib"), ...sources("ffi")], compiler);
  if (!force && readOrNull(`${output}.stamp`) === stamp && readOrNull(output, 0) !== null) {
    return { built: false, path: output };
  }
  Deno.mkdirSync(dirname(output), { recursive: true });
  const partial = `${output}.${Deno.pid}.part`;
  try {
    await run(compiler, [
      "compile",
      "--quiet",
      "--allow-all",
      "--no-check",
      "--config",
      join(root, "deno.json"),
      ...[library, ...workers].flatMap((path) => ["--include", path]),
      "--output",
      partial,
      entry,
    ]);
    await checkStarts(partial);
    Deno.renameSync(partial, output);
  } finally {
    if (readOrNull(partial, 0) !== null) Deno.removeSync(partial);
  }
  Deno.writeTextFileSync(`${output}.stamp`, stamp);
  return { built: true, path: output };
}

async function findCompiler(): Promise<Compiler> {
  const denort = Deno.env.get("DENORT_BIN");
  if (denort !== undefined) return { deno: Deno.env.get("DENO") ?? Deno.execPath(), denort };
  const tool = join(root, "..", "shared", "tools", "denort");
  if (readOrNull(tool) === null) return { deno: Deno.execPath(), denort: null };
  const output = await new Deno.Command("bash", { args: [tool], stdout: "piped", stderr: "inherit" })
    .output();
  const found = new Map(
    new TextDecoder().decode(output.stdout).trim().split("\n").map((line) => {
      const [name = "", value = ""] = line.split("=", 2);
      return [name, value] as const;
    }),
  );
  const deno = found.get("DENO");
  const runtime = found.get("DENORT_BIN");
  if (!output.success || !deno || !runtime) {
    throw new NoRuntimeError(`Cannot get a runtime from "${tool}": it failed`);
  }
  return { deno, denort: runtime };
}

async function run(compiler: Compiler, args: string[]): Promise<void> {
  const output = await new Deno.Command(compiler.deno, {
    args,
    cwd: root,
    env: {
      // Some module graphs overflow the stack of the thread that writes the executable.
      RUST_MIN_STACK: "134217728",
      DENO_TLS_CA_STORE: "system",
      ...(compiler.denort === null ? {} : { DENORT_BIN: compiler.denort }),
    },
    stdout: "piped",
    stderr: "piped",
  }).output();
  if (output.success) return;
  const message = new TextDecoder().decode(output.stderr);
  if (compiler.denort === null && /denort|dl\.deno\.land/.test(message)) {
    throw new NoRuntimeError(
      `Cannot download the runtime that goes into the executable: ${shorten(message)}`,
    );
  }
  throw new Error(`Cannot compile: ${message.trim()}`);
}

/** A runtime of another version than the compiler's makes an executable that cannot find its program. */
async function checkStarts(path: string): Promise<void> {
  const { stderr } = await new Deno.Command(path, { args: ["--version"], stdout: "null", stderr: "piped" })
    .output();
  const message = new TextDecoder().decode(stderr);
  if (!message.includes("standalone binary section")) return;
  throw new NoRuntimeError(
    `Cannot compile with the runtime "${
      Deno.env.get("DENORT_BIN") ?? ""
    }": it is of another version than the compiler`,
  );
}

/** The lines that say why, without the stack. */
function shorten(message: string): string {
  return message.replace(/\n\s*Stack backtrace[^]*/, "").trim().split("\n").map((line) => line.trim()).join(
    " ",
  );
}

function stampOf(files: readonly string[], compiler: Compiler): string {
  const hash = createHash("sha256").update(`${compiler.deno}\0${compiler.denort ?? ""}\0`);
  for (const file of files) {
    hash.update(file + "\0").update(
      createHash("sha256").update(Deno.readFileSync(isAbsolute(file) ? file : join(root, file))).digest(),
    );
  }
  return hash.digest("hex") + "\n";
}

function sources(directory: string): string[] {
  const found: string[] = [];
  for (const entry of Deno.readDirSync(join(root, directory))) {
    const path = `${directory}/${entry.name}`;
    if (entry.isDirectory) found.push(...sources(path));
    else if (path.endsWith(".ts")) found.push(path);
  }
  return found.sort();
}

/** The text of a file, its presence (with `size` 0), or null. */
function readOrNull(path: string, size?: 0): string | null {
  try {
    return size === 0 ? (Deno.statSync(path), "") : Deno.readTextFileSync(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return null;
    throw error;
  }
}

if (import.meta.main) {
  try {
    const { built, path } = await compileProgram({ force: Deno.args.includes("--force") });
    console.error(
      `${path}: ${built ? "built" : "up to date"}, ${Math.round(Deno.statSync(path).size / 1e6)} MB`,
    );
  } catch (error) {
    console.error(`drover: error: ${error instanceof Error ? error.message : String(error)}`);
    if (error instanceof NoRuntimeError) {
      console.error(
        "drover: hint: set DENORT_BIN to the denort of this Deno's version, and type: deno task compile",
      );
    }
    Deno.exit(1);
  }
}
