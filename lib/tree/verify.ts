/**
 * Checks everything a tree keeps: each version's id and manifest, and the hash of every file of every kept
 * version, in every place where it is.
 *
 * @module
 */
import { type BytePath, pathToText } from "../base/path.ts";
import { bytesEqual, toHex } from "../base/hex.ts";
import { versionId } from "../version/history.ts";
import { Beneath } from "./beneath.ts";
import { Breath } from "./breath.ts";
import { O_RDONLY } from "./posix.ts";
import type { Tree } from "./tree.ts";
import { Hasher } from "./walk.ts";

/** One thing that is not as it should be. */
export interface VerifyFinding {
  /** What is concerned: a file in a layer, a version, a path in the tree. */
  path: string;
  /** What does not hold. */
  rule: "version.id" | "manifest.hash" | "content.missing" | "content.hash" | "content.read";
  /** The same for people. */
  message: string;
}

/** The result; `ok` means no findings. */
export interface VerifyResult {
  /** Nothing was found. */
  ok: boolean;
  /** Files and bytes that were hashed. */
  checked: number;
  /** Bytes that were read. */
  bytes: number;
  /** Versions that were looked at. */
  versions: number;
  /** What does not match. */
  findings: VerifyFinding[];
}

/** Reads and hashes all content of all kept versions. */
export async function verifyTree(tree: Tree): Promise<VerifyResult> {
  const { store } = tree;
  const findings: VerifyFinding[] = [];
  const wanted = new Map<string, { path: BytePath; version: string; size: number }>();
  const layers = new Set<number>();
  const roots = new Set<string>();
  let versions = 0;
  for (const version of store.versions()) {
    if (versionId(version.parent, version.root) !== version.id) {
      findings.push({
        path: version.id,
        rule: "version.id",
        message: "its id is not the hash of parent and manifest",
      });
    }
    if (version.stack === null) continue;
    versions++;
    for (const layer of version.stack) layers.add(layer);
    if (roots.has(version.root)) continue;
    roots.add(version.root);
    try {
      for (const entry of store.manifestOf(version.id).entries()) {
        if (entry.digest !== null) wanted.set(toHex(entry.digest), { ...entry, version: version.id });
      }
    } catch (error) {
      findings.push({
        path: version.id,
        rule: "manifest.hash",
        message: error instanceof Error ? error.message : `${error}`,
      });
    }
  }
  if (store.setup.capture === "scan") layers.add(-1);
  const good = new Set<string>();
  let checked = 0;
  let bytes = 0;
  const hasher = new Hasher(tree.libc);
  const breath = new Breath();
  for (const layer of [...layers].sort((a, b) => a - b)) {
    using root = Beneath.open(tree.libc, store.layerPath(layer));
    for (const { digest, path } of store.layerContent(layer)) {
      const hex = toHex(digest);
      try {
        const fd = root.open(path, O_RDONLY);
        try {
          const found = hasher.hash(fd);
          checked++;
          bytes += found.size;
          if (bytesEqual(found.digest, digest)) good.add(hex);
          else {
            findings.push({
              path: pathToText(store.layerPath(layer)) + "/" + pathToText(path),
              rule: "content.hash",
              message: `its sha256 is ${toHex(found.digest)}, and was ${hex}`,
            });
          }
        } finally {
          tree.libc.close(fd);
        }
      } catch (error) {
        findings.push({
          path: pathToText(store.layerPath(layer)) + "/" + pathToText(path),
          rule: "content.read",
          message: error instanceof Error ? error.message : `${error}`,
        });
      }
      if (!breath.due) continue;
      tree.context.progress?.({ phase: "verify", done: bytes, total: 0, unit: "bytes" });
      await breath.take();
    }
  }
  for (const [hex, { path, version }] of wanted) {
    if (good.has(hex)) continue;
    findings.push({
      path: pathToText(path),
      rule: "content.missing",
      message: `no good copy of its content in version ${version.slice(0, 12)} (sha256 ${hex})`,
    });
  }
  return { ok: findings.length === 0, checked, bytes, versions, findings };
}
