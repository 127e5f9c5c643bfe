/**
 * `deno task check`: everything that is said about the code without running it. All steps run, also after one
 * that failed; the exit code is 1 if any did.
 *
 * @module
 */
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(dirname(dirname(fileURLToPath(import.meta.url))));

const steps: readonly { name: string; args: readonly string[] }[] = [
  { name: "format", args: ["fmt", "--check", "--quiet"] },
  { name: "lint", args: ["lint", "--quiet"] },
  { name: "types", args: ["check", "--quiet", "main.ts", "mod.ts", "tests/", "bench/", "native-src/"] },
  { name: "documentation", args: ["doc", "--lint", "mod.ts"] },
  { name: "package", args: ["publish", "--dry-run", "--allow-dirty", "--quiet"] },
  // Its flags make every warning an error.
  { name: "C warnings", args: ["run", "--allow-all", "native-src/build.ts", "--force", "--quiet"] },
];

let failed = 0;
for (const { name, args } of steps) {
  const output = await new Deno.Command(Deno.execPath(), {
    args: [...args],
    cwd: root,
    env: { RUST_BACKTRACE: "0" },
    stdout: "piped",
    stderr: "piped",
  }).output();
  console.log(`${name}: ${output.success ? "ok" : "FAILED"}`);
  if (output.success) continue;
  failed++;
  const text = new TextDecoder();
  console.log((text.decode(output.stdout) + text.decode(output.stderr)).trim());
}
if (failed > 0) Deno.exit(1);
