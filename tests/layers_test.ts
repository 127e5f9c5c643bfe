/**
 * Holds the arrows of the house: which room may import which, which rooms are pure, who may touch the native
 * library. Reads `deno info --json`, so type-only imports count too, and the sources themselves.
 *
 * Tests and benches may import anything and are not looked at.
 */
import assert from "node:assert/strict";
import { dirname, join, relative } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

/** "types": only interfaces may be taken, no code is loaded. */
type Strength = "code" | "types";

interface Rule {
  /** Rooms that may be imported, and how strongly. */
  may: Readonly<Record<string, Strength>>;
  /** Why exactly these. */
  why: string;
}

const everythingBelowDaemon = {
  "lib/cluster": "code",
  "lib/region": "code",
  "lib/tier": "code",
  "lib/nbd": "code",
  "lib/tree": "code",
  "lib/net": "code",
  "lib/version": "code",
  "lib/stream": "code",
  "lib/base": "code",
} as const;

const rules: Readonly<Record<string, Rule>> = {
  "main.ts": { may: { "lib/cli": "code" }, why: "it is the name of the program and nothing else" },
  "mod.ts": {
    may: { ...everythingBelowDaemon, ffi: "code" },
    why:
      "the library: a program that imports it composes its own parts, so it has openNative() and no daemon",
  },
  "lib/cli": {
    may: { "lib/daemon": "code", ...everythingBelowDaemon },
    why: "the porch walks down; the native library comes to it through daemon",
  },
  "lib/daemon": {
    may: { ...everythingBelowDaemon, ffi: "code" },
    why: "composition is the only caller of openNative()",
  },
  "lib/cluster": {
    may: { "lib/region": "code", "lib/net": "code", "lib/stream": "code", "lib/base": "code" },
    why:
      "what is lent is a backend that region serves over NBD, and tickets go over net; the pages of a borrower " +
      "are its region's business",
  },
  "lib/tree": {
    may: { "lib/version": "code", "lib/stream": "code", "lib/net": "code", "lib/base": "code", ffi: "types" },
    why: "it gets a Native as an argument, so that tests can give it another one",
  },
  "lib/region": {
    may: {
      "lib/tier": "code",
      "lib/nbd": "code",
      "lib/net": "code",
      "lib/stream": "code",
      "lib/base": "code",
      ffi: "code",
    },
    why:
      "backends inside of TLS are proved by the cluster's key, which net reads; its policy runs in a worker, an isolate of its own that has to load the library there, and " +
      "Region.open() of a program that brings no Native takes that of this machine; what should move is decided " +
      "in tier, and a snapshot is a stream of the region profile, not a format of its own",
  },
  "lib/net": {
    may: { "lib/stream": "code", "lib/base": "code", ffi: "types" },
    why: "it carries frames and proofs; what a package means is not its business",
  },
  "lib/version": {
    may: { "lib/base": "code" },
    why: "pure rooms stand side by side, never on each other, so that each can be understood and moved alone",
  },
  "lib/stream": {
    may: { "lib/base": "code" },
    why: "pure rooms stand side by side, never on each other, so that each can be understood and moved alone",
  },
  "lib/tier": {
    may: { "lib/base": "code" },
    why: "pure rooms stand side by side, never on each other, so that each can be understood and moved alone",
  },
  "lib/nbd": {
    may: { "lib/base": "code" },
    why: "pure rooms stand side by side, never on each other, so that each can be understood and moved alone",
  },
  "lib/base": { may: {}, why: "the floor" },
  ffi: { may: { "lib/base": "code" }, why: "the border to C must load without the rest of the house" },
};

/** Rooms without windows: values in, values out. */
const pureRooms = ["lib/base", "lib/stream", "lib/version", "lib/tier", "lib/nbd"];

/** What a pure room cannot have, and what to do instead. */
const windows: readonly [RegExp, string][] = [
  [/\bDeno\s*[.[]/, "take what you need as an argument"],
  [/\bDate\.now\b|\bnew Date\(\)/, "take the time as an argument"],
  [/\bperformance\.now\b/, "take the time as an argument"],
  [
    /\bMath\.random\b|\bgetRandomValues\b|\brandomUUID\b|\brandomBytes\b/,
    "take a source of randomness as an argument",
  ],
  [/\bconsole\s*\./, "return the finding, or throw"],
  [/\bfetch\s*\(/, "pure rooms have no network"],
  [/\bset(?:Timeout|Interval|Immediate)\b/, "wait on a promise that somebody above resolves"],
  [/from "node:(?!crypto")|import\("node:/, "of Node's modules only node:crypto's hashes are pure"],
];

const root = dirname(dirname(fileURLToPath(import.meta.url)));

/** `lib/tree/walk.ts` is in `lib/tree`, `ffi/mod.ts` in `ffi`, `main.ts` in itself. */
function roomOf(file: string): string {
  const parts = file.split("/");
  if (parts.length === 1) return file;
  return parts[0] === "lib" ? parts.slice(0, 2).join("/") : parts[0] ?? file;
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

function allSources(): string[] {
  return ["main.ts", "mod.ts", ...sources("lib"), ...sources("ffi")];
}

interface Arrow {
  from: string;
  to: string;
  strength: Strength;
}

interface InfoDependency {
  code?: { specifier?: string };
  type?: { specifier?: string };
}

/** Every import between our own files, from one `deno info` over a file that imports them all. */
async function arrows(): Promise<Arrow[]> {
  const entry = await Deno.makeTempFile({ suffix: ".ts" });
  try {
    await Deno.writeTextFile(
      entry,
      allSources().map((file) => `import ${JSON.stringify(pathToFileURL(join(root, file)).href)};\n`).join(
        "",
      ),
    );
    const output = await new Deno.Command(Deno.execPath(), {
      args: ["info", "--json", "--config", join(root, "deno.json"), entry],
      cwd: root,
      stdout: "piped",
      stderr: "piped",
    }).output();
    assert.ok(output.success, new TextDecoder().decode(output.stderr));
    const info: { modules: { specifier: string; error?: string; dependencies?: InfoDependency[] }[] } = JSON
      .parse(
        new TextDecoder().decode(output.stdout),
      );
    const found: Arrow[] = [];
    for (const module of info.modules) {
      const from = ownFile(module.specifier);
      if (from === null) continue;
      assert.equal(module.error, undefined, `${from}: ${module.error}`);
      for (const { code, type } of module.dependencies ?? []) {
        const target = code?.specifier ?? type?.specifier;
        const to = target === undefined ? null : ownFile(target);
        if (to !== null) found.push({ from, to, strength: code?.specifier === undefined ? "types" : "code" });
      }
    }
    return found;
  } finally {
    await Deno.remove(entry);
  }
}

function ownFile(specifier: string): string | null {
  if (!specifier.startsWith("file:")) return null;
  const file = relative(root, fileURLToPath(specifier));
  return file.startsWith("..") || file.startsWith("node_modules/") || file === "deno.json" ? null : file;
}

Deno.test("lib and ffi import only downwards", async () => {
  const found = await arrows();
  assert.ok(found.length > 20, `deno info shows ${found.length} imports; is it read rightly?`);
  const broken: string[] = [];
  for (const { from, to, strength } of found) {
    const room = roomOf(from);
    const target = roomOf(to);
    if (room === target) continue;
    const rule = rules[room];
    const allowed = rule?.may[target];
    if (rule === undefined) broken.push(`${from}: the room ${room} has no rule in tests/layers_test.ts`);
    else if (allowed === undefined) {
      broken.push(`${from} -> ${to}: ${room} may not import ${target}: ${rule.why}`);
    } else if (allowed === "types" && strength === "code") {
      broken.push(`${from} -> ${to}: ${room} may take only types from ${target}: ${rule.why}`);
    }
  }
  assert.deepEqual(broken, []);
});

Deno.test("lib and ffi have a rule for every room and no rule for a missing one", () => {
  assert.deepEqual([...new Set(allSources().map(roomOf))].sort(), Object.keys(rules).sort());
});

Deno.test("pure rooms have no windows", () => {
  const broken: string[] = [];
  for (const file of allSources().filter((file) => pureRooms.includes(roomOf(file)))) {
    const code = withoutComments(Deno.readTextFileSync(join(root, file)));
    for (const [pattern, remedy] of windows) {
      const hit = pattern.exec(code);
      if (hit !== null) broken.push(`${file}: "${hit[0]}": ${remedy}`);
    }
  }
  assert.deepEqual(broken, []);
});

Deno.test("only ffi touches the native library, and only daemon, region and mod.ts take openNative()", () => {
  const broken: string[] = [];
  for (const file of allSources()) {
    const code = withoutComments(Deno.readTextFileSync(join(root, file)));
    const room = roomOf(file);
    const pointer = /\bDeno\.(?:dlopen|Unsafe\w+)/.exec(code);
    if (room !== "ffi" && pointer !== null) broken.push(`${file}: "${pointer[0]}": pointers stay in ffi/`);
    if (/\bopenNative\b/.test(code) && !["ffi", "lib/daemon", "lib/region", "mod.ts"].includes(room)) {
      broken.push(`${file}: openNative(): take a Native as an argument`);
    }
  }
  assert.deepEqual(broken, []);
});

Deno.test("withoutComments() keeps code and drops what only talks about it", () => {
  assert.equal(withoutComments('a("// no"); // Date.now\n/* Deno. */b'), 'a("// no"); \nb');
});

/** Code without its comments; strings and templates stay as they are. */
function withoutComments(source: string): string {
  return source.replace(
    /("(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|`(?:\\[^]|[^`\\])*`)|\/\*[^]*?\*\/|\/\/[^\n]*/g,
    (_all, text?: string) => text ?? "",
  );
}
