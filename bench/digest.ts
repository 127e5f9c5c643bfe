/**
 * An independent opinion on whether two trees are the same, and one hash to name a tree by.
 *
 * It reads a tree with `find`, `getfattr` and plain reads, shares no code with the product, and looks at: path,
 * type, mode, owner, group, mtime in nanoseconds, size and sha256 of content, symlink target, device number,
 * which names are hard links of each other, extended attributes. It does not look at atime, ctime, inode
 * numbers, the size of directories, or where a sparse file has its holes.
 *
 * `compareTrees()` asks rsync too, so that a mistake here does not go unnoticed.
 *
 * Paths are strings with one byte per character, so names that are not UTF-8 are told apart.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { bytesOf, outputOf, toolExists } from "./process.ts";

/** What a tree is, in one hash and in full. */
export interface TreeDigest {
  /** 64 hex digits; equal when, and only when, the trees are (as far as this file looks). */
  hash: string;
  /** Path (`""` for the root, one byte per character) to the facts about it. */
  entries: Map<string, EntryFacts>;
  /** Bytes of all regular files, every hard link counted. */
  bytes: number;
  /** Whether extended attributes were looked at: false where `getfattr` is missing. */
  xattrs: boolean;
}

/** The facts about one entry, each as text. */
export type EntryFacts = Readonly<Record<string, string>>;

/** What to look at. */
export interface DigestOptions {
  /** Whether mode, owner, mtime and attributes of the tree's own directory count; default true. */
  root?: boolean;
}

/** Reads a whole tree. Costs a read of every file. */
export function digestTree(dir: string, options: DigestOptions = {}): TreeDigest {
  const entries = new Map<string, EntryFacts>();
  const attributes = readXattrs(dir);
  const groups = new Map<string, string>();
  let bytes = 0;
  const found = listTree(dir);
  const contents = hashContents(dir, found.filter((entry) => entry.type === "f"));
  for (const entry of found) {
    const facts: Record<string, string> = {
      type: entry.type,
      mode: entry.mode,
      owner: `${entry.uid}:${entry.gid}`,
      mtime: entry.mtime,
    };
    const path = entry.path;
    if (path === "" && options.root === false) continue;
    if (entry.type === "f") {
      facts.size = entry.size;
      bytes += Number(entry.size);
      facts.content = contents.get(path) ?? "unreadable";
    }
    if (entry.type === "l") facts.target = entry.target;
    if (entry.type === "b" || entry.type === "c") {
      facts.device = String(Deno.lstatSync(`${dir}/${path}`).rdev);
    }
    if (entry.type !== "d" && entry.links !== "1") {
      const first = groups.get(entry.inode);
      // The list is sorted, so the group is named by its smallest path on both sides.
      if (first === undefined) groups.set(entry.inode, path);
      else facts.linkOf = first;
    }
    const xattrs = attributes?.get(path);
    if (xattrs !== undefined) facts.xattrs = xattrs;
    entries.set(path, facts);
  }
  const hash = createHash("sha256");
  for (const [path, facts] of entries) hash.update(`${JSON.stringify([path, facts])}\n`);
  return { hash: hash.digest("hex"), entries, bytes, xattrs: attributes !== null };
}

/** What differs, one line per path and fact; empty when nothing does. */
export function diffDigests(left: TreeDigest, right: TreeDigest): string[] {
  const lines: string[] = [];
  for (const [path, facts] of left.entries) {
    const other = right.entries.get(path);
    const shown = JSON.stringify(path);
    if (other === undefined) lines.push(`${shown}: only on the left`);
    else {
      for (const fact of new Set([...Object.keys(facts), ...Object.keys(other)])) {
        if (facts[fact] !== other[fact]) {
          lines.push(`${shown}: ${fact} "${facts[fact]}" and "${other[fact]}"`);
        }
      }
    }
  }
  for (const path of right.entries.keys()) {
    if (!left.entries.has(path)) lines.push(`${JSON.stringify(path)}: only on the right`);
  }
  return lines;
}

/** What a comparison found. */
export interface Comparison {
  /** Hash of the left tree, and so of both when `differences` is empty. */
  hash: string;
  /** Lines of this file's and rsync's finding; empty when the trees are the same. */
  differences: string[];
  files: number;
  bytes: number;
}

/** Compares two trees by their digests and by `rsync -aHAXnic --delete`. */
export function compareTrees(left: string, right: string, options: DigestOptions = {}): Comparison {
  const leftDigest = digestTree(left, options);
  const rightDigest = digestTree(right, options);
  const differences = diffDigests(leftDigest, rightDigest);
  const said = outputOf(["rsync", "-aHAXnic", "--delete", `${left}/`, `${right}/`]);
  for (const line of said.split("\n")) {
    if (line === "" || (options.root === false && line.endsWith(" ./"))) continue;
    differences.push(`rsync: ${line}`);
  }
  let files = 0;
  for (const facts of leftDigest.entries.values()) if (facts.type === "f") files++;
  return { hash: leftDigest.hash, differences, files, bytes: leftDigest.bytes };
}

interface Listed {
  type: string;
  mode: string;
  uid: string;
  gid: string;
  size: string;
  mtime: string;
  target: string;
  inode: string;
  links: string;
  path: string;
}

/** Every entry below `dir` and `dir` itself, sorted by the bytes of the path. */
function listTree(dir: string): Listed[] {
  const format = ["%y", "%m", "%U", "%G", "%s", "%T@", "%l", "%D:%i", "%n", "%P"].join("\\0") + "\\0";
  const fields = latin1(bytesOf(["find", ".", "-printf", format], { cwd: dir })).split("\0");
  const list: Listed[] = [];
  for (let at = 0; at + 10 <= fields.length - 1; at += 10) {
    const [
      type = "",
      mode = "",
      uid = "",
      gid = "",
      size = "",
      mtime = "",
      target = "",
      inode = "",
      links = "",
      path = "",
    ] = fields.slice(at, at + 10);
    list.push({ type, mode, uid, gid, size, mtime, target, inode, links, path });
  }
  return list.sort((a, b) => (a.path < b.path ? -1 : a.path > b.path ? 1 : 0));
}

/** sha256 of every file by path. */
function hashContents(dir: string, files: readonly Listed[]): Map<string, string> {
  const hashes = new Map<string, string>();
  const byInode = new Map<string, string>();
  const buffer = new Uint8Array(1 << 20);
  const rest: Listed[] = [];
  for (const file of files) {
    const known = file.links === "1" ? undefined : byInode.get(file.inode);
    if (known !== undefined) {
      hashes.set(file.path, known);
      continue;
    }
    const name = utf8Of(file.path);
    if (name === null) {
      rest.push(file);
      continue;
    }
    const hash = createHash("sha256");
    using handle = Deno.openSync(`${dir}/${name}`, { read: true });
    for (let count = handle.readSync(buffer); count !== null; count = handle.readSync(buffer)) {
      hash.update(buffer.subarray(0, count));
    }
    const digest = hash.digest("hex");
    hashes.set(file.path, digest);
    if (file.links !== "1") byInode.set(file.inode, digest);
  }
  // Names that are not UTF-8 cannot be opened from here; a file of names goes to sha256sum.
  if (rest.length > 0) {
    const list = Deno.makeTempFileSync({ prefix: "drover-bench-" });
    try {
      Deno.writeFileSync(list, bytesFromLatin1(rest.map((file) => `./${file.path}\0`).join("")));
      const said = latin1(bytesOf(["xargs", "-0", "-a", list, "sha256sum", "-z", "--"], { cwd: dir }));
      for (const line of said.split("\0")) if (line !== "") hashes.set(line.slice(68), line.slice(0, 64));
    } finally {
      Deno.removeSync(list);
    }
  }
  return hashes;
}

/** Attributes by path, each path's as one line; null where `getfattr` is missing. */
function readXattrs(dir: string): Map<string, string> | null {
  if (!toolExists("getfattr")) return null;
  const command = ["getfattr", "-R", "-P", "-h", "-d", "-m", "-", "-e", "hex", "--absolute-names", "."];
  const said = latin1(bytesOf(command, { cwd: dir }));
  const byPath = new Map<string, string>();
  for (const block of said.split("\n\n")) {
    const [head = "", ...lines] = block.split("\n").filter((line) => line !== "");
    if (!head.startsWith("# file: ")) continue;
    const path = unescape(head.slice("# file: ".length)).replace(/^\.\/?/, "");
    byPath.set(path, lines.sort().join(" "));
  }
  return byPath;
}

/** getfattr writes a newline or backslash of a name as `\ooo`. */
function unescape(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(parseInt(octal, 8)));
}

function latin1(bytes: Uint8Array): string {
  let text = "";
  for (let at = 0; at < bytes.length; at += 8192) {
    text += String.fromCharCode(...bytes.subarray(at, at + 8192));
  }
  return text;
}

function bytesFromLatin1(text: string): Uint8Array {
  const bytes = new Uint8Array(text.length);
  for (let at = 0; at < text.length; at++) bytes[at] = text.charCodeAt(at);
  return bytes;
}

/** The path as Deno wants it, or null when its bytes are not UTF-8. */
function utf8Of(path: string): string | null {
  // deno-lint-ignore no-control-regex
  if (/^[\x00-\x7f]*$/.test(path)) return path;
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytesFromLatin1(path));
  } catch {
    return null;
  }
}
