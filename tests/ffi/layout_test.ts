/** Both sides of the border agree: struct layout, exported names, version. */
import assert from "node:assert/strict";
import * as layout from "../../ffi/layout.ts";
import { openNative } from "../../ffi/mod.ts";
import { identitySymbols, libraryVersion, symbols } from "../../ffi/symbols.ts";

const read = (path: string) => Deno.readTextFileSync(new URL(`../../${path}`, import.meta.url));

const path = openNative().path;

/** What the library says, line by line. */
function libraryLayout(): Map<string, [offset: number, size: number]> {
  const loaded = Deno.dlopen(path, identitySymbols);
  const library = loaded.symbols;
  const room = new Uint8Array(8192);
  const size = library.drover_layout(room, BigInt(room.length));
  assert.ok(size > 0);
  assert.equal(library.drover_layout(room, 40n), -34, "too small a buffer is ERANGE");
  library.drover_layout(room, BigInt(room.length));
  loaded.close();
  const text = new TextDecoder().decode(room.subarray(0, size));
  assert.equal(text, layout.layoutText());
  return new Map(
    text.trimEnd().split("\n").map((line) => {
      const [name = "", offset, size] = line.split(" ");
      return [name, [Number(offset), Number(size)]];
    }),
  );
}

Deno.test("layout.ts offsets are those of the library", () => {
  const library = libraryLayout();
  const snake = (name: string) => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
  let compared = 0;
  for (const struct of ["stat", "entry", "xattr", "statfs", "identity"] as const) {
    for (const [field, value] of Object.entries(layout[struct])) {
      const line = field === "structSize" ? `drover_${struct}` : `drover_${struct}.${snake(field)}`;
      const [offset, size] = library.get(line) ?? [NaN, NaN];
      assert.equal(value, field === "structSize" ? size : offset, line);
      compared++;
    }
  }
  assert.equal(compared, 5 + 14 + 2 + 3 + 3 + 4);
});

Deno.test("symbols.ts, drover.h and libdrover.map name the same functions in the same order", () => {
  const inHeader = [...read("native-src/drover.h").matchAll(/^DROVER_API \w+ (drover_\w+)\(/gm)].map((
    match,
  ) => match[1]);
  const inMap = [...read("native-src/libdrover.map").matchAll(/^\t(drover_\w+);/gm)].map((match) => match[1]);
  const inTable = Object.keys({ ...identitySymbols, ...symbols }).map((name) => name.replace(/_async$/, ""));
  assert.deepEqual(inMap, inHeader);
  assert.deepEqual([...new Set(inTable)], inHeader);
});

Deno.test("symbols.ts repeats the prototypes of drover.h", () => {
  const normal = (text: string) =>
    text.replace(/\/\/|DROVER_API /g, " ").replace(/\s+/g, " ").replace(/\( /g, "(");
  const table = normal(read("ffi/symbols.ts"));
  const header = read("native-src/drover.h");
  for (const [prototype] of header.matchAll(/^DROVER_API [^;]+;/gm)) {
    assert.ok(table.includes(normal(prototype).trim()), prototype);
  }
});

Deno.test("flags and bounds of layout.ts are those of drover.h", () => {
  const header = read("native-src/drover.h");
  const defined = new Map(
    [...header.matchAll(/#define (DROVER_\w+) (\d+)u\n/g)].map((m) => [m[1], Number(m[2])]),
  );
  const flags = Object.entries(layout.overlayFlags).map(([name, value]) => [
    `DROVER_OVERLAY_${name.replace(/[A-Z]/g, (letter) => `_${letter}`).toUpperCase()}`,
    value,
  ]);
  assert.deepEqual([...defined].filter(([name]) => name?.startsWith("DROVER_OVERLAY_")), flags);
  assert.match(header, /#define DROVER_ZSTD_SIZE_MAX \(1u << 30\)/);
  assert.equal(layout.zstdSizeMax, 2 ** 30);
  assert.match(header, new RegExp(`#define DROVER_VERSION "${libraryVersion.replaceAll(".", "\\.")}"`));
});
