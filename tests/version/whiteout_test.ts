import assert from "node:assert/strict";
import { type BytePath, pathToBytes } from "../../lib/base/path.ts";
import {
  isOverlayXattr,
  type LayerDialect,
  type LayerItem,
  layerItemMeaning,
  opacity,
  overlayXattr,
  overlayXattrNames,
  whiteoutNameOf,
} from "../../lib/version/whiteout.ts";

const xattr = (name: string, value = "") => ({
  name: name as BytePath,
  value: pathToBytes(value as BytePath),
});
const kernel: LayerDialect = { names: false, xattrWhiteouts: false };
const named: LayerDialect = { names: true, xattrWhiteouts: false };

function item(name: string, fields: Partial<LayerItem> = {}): LayerItem {
  return { name: name as BytePath, kind: "file", rdevMajor: 0, rdevMinor: 0, size: 0, xattrs: [], ...fields };
}

function meaning(value: LayerItem, dialect: LayerDialect): string {
  const result = layerItemMeaning(value, dialect);
  return result.is === "whiteout" ? `whiteout ${result.name}` : result.is;
}

Deno.test("layerItemMeaning() knows every spelling of a whiteout, in its own dialect only", () => {
  const device = item("x", { kind: "char" });
  const marked = item("x", { xattrs: [xattr("trusted.overlay.whiteout")] });
  const cases: [LayerItem, LayerDialect, string][] = [
    [device, kernel, "whiteout x"],
    [device, named, "whiteout x"],
    [item("x", { kind: "block" }), kernel, "entry"],
    [item("x", { kind: "char", rdevMinor: 1 }), kernel, "entry"],
    [item("x", { kind: "char", rdevMajor: 1 }), kernel, "entry"],
    [marked, { names: false, xattrWhiteouts: true }, "whiteout x"],
    [
      item("x", { xattrs: [xattr("user.overlay.whiteout", "y")] }),
      { names: false, xattrWhiteouts: true },
      "whiteout x",
    ],
    [marked, kernel, "entry"],
    [{ ...marked, size: 1 }, { names: false, xattrWhiteouts: true }, "entry"],
    [{ ...marked, kind: "directory" }, { names: false, xattrWhiteouts: true }, "entry"],
    [item("x"), { names: false, xattrWhiteouts: true }, "entry"],
    [item(".wh.x"), named, "whiteout x"],
    [item(".wh.x"), kernel, "entry"],
    [item(".wh..x"), named, "whiteout .x"],
    [item(".wh..wh..opq"), named, "opaque-marker"],
    [item(".wh..wh..opq"), kernel, "entry"],
    [item(".wh..opq"), named, "opaque-marker"],
    [item(".wh..opq", { kind: "char" }), named, "opaque-marker"],
    [item(".wh..opq", { kind: "char" }), kernel, "whiteout .wh..opq"],
    [item(".wh..wh.plnk", { kind: "directory" }), named, "bookkeeping"],
    [item(".wh."), named, "bookkeeping"],
    [item(".wh.."), named, "bookkeeping"],
    [item(".wh..."), named, "bookkeeping"],
    [item("wh.x"), named, "entry"],
  ];
  for (const [value, dialect, wanted] of cases) {
    assert.equal(meaning(value, dialect), wanted, `${value.name} ${value.kind} ${JSON.stringify(dialect)}`);
  }
});

Deno.test("whiteoutNameOf() is read back as the whiteout of the name", () => {
  for (const name of ["a", ".a", "\xff\n", "..."]) {
    assert.equal(meaning(item(whiteoutNameOf(name as BytePath)), named), `whiteout ${name}`);
  }
});

Deno.test("opacity() reads the opaque xattr of all overlays and no other value", () => {
  assert.equal(opacity([]), "transparent");
  for (const prefix of ["trusted.overlay.", "user.overlay.", "user.fuseoverlayfs."]) {
    assert.equal(opacity([xattr("user.a", "y"), xattr(prefix + "opaque", "y")]), "opaque");
    assert.equal(opacity([xattr(prefix + "opaque", "x")]), "xattr-whiteouts");
    for (const value of ["", "n", "yy"]) {
      assert.equal(opacity([xattr(prefix + "opaque", value)]), "transparent");
    }
  }
  assert.equal(opacity([xattr("user.opaque", "y")]), "transparent");
});

Deno.test("isOverlayXattr() holds for everything below the prefixes and nothing beside", () => {
  for (const prefix of ["trusted.overlay.", "user.overlay.", "user.fuseoverlayfs."] as const) {
    for (const name of Object.values(overlayXattrNames(prefix))) assert(isOverlayXattr(name), name);
    assert(isOverlayXattr(prefix + "something.new"));
  }
  for (
    const name of ["user.overlay", "user.overlayfs.x", "trusted.other", "security.capability", "user.origin"]
  ) {
    assert(!isOverlayXattr(name), name);
  }
});

Deno.test("overlayXattr() finds a value below any prefix", () => {
  const value = overlayXattr(
    [xattr("user.redirect", "no"), xattr("user.overlay.redirect", "/d")],
    "redirect",
  );
  assert.equal(new TextDecoder().decode(value ?? new Uint8Array()), "/d");
  assert.equal(overlayXattr([xattr("user.redirect", "no")], "redirect"), null);
});
