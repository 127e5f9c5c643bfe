/**
 * What the bench's files hold: five classes of content, and how an edited file differs from the old one.
 *
 * | class  | like                          | zstd -3 alone, about | unit of change           |
 * | ------ | ----------------------------- | -------------------- | ------------------------ |
 * | source | programs                      | 0.25                 | lines, in hunks          |
 * | text   | prose, logs, tables           | 0.35                 | lines, in hunks          |
 * | object | object files, libraries       | 0.45                 | 256-byte units, in hunks |
 * | packed | images, archives              | 1.00                 | scattered 4 KiB ranges   |
 * | page   | databases, disk images        | 0.50                 | 4 KiB pages, in place    |
 *
 * All of it is made from one fixed language, so that files of different versions and seeds resemble each
 * other as files of one kind do. A project (a directory) adds its own identifiers, a file its own few.
 *
 * Content is written into one shared buffer: what `makeContent()` and `editContent()` return is valid
 * until the next call.
 *
 * @module
 */
import { Random, Zipf } from "./random.ts";

/** The classes of content. */
export type ContentClass = "source" | "text" | "object" | "packed" | "page";

/** Bytes of one page of class `page`. */
export const pageSize = 4096;

/** A range to be overwritten in a file that is changed in place. */
export interface Patch {
  offset: number;
  bytes: Uint8Array;
}

/** An edited file: either new content, or ranges to overwrite. */
export type Edit = { content: Uint8Array } | { patches: Patch[] };

/** Bytes that one unit of change has on average, for classes that are changed in units and not lines. */
const objectUnitSize = 256;
const packedRangeSize = 4096;
/** Lines or units that one hunk has on average. */
const hunkLengthMean = 3;

/** Makes the content of a new file of `size` bytes. `project` names whose identifiers it uses. */
export function makeContent(kind: ContentClass, size: number, project: string, random: Random): Uint8Array {
  sink.reset(size);
  if (kind === "source") new SourceWriter(project, random).write(size);
  else if (kind === "text") writeText(size, project, random);
  else if (kind === "object") writeObject(size, random);
  else if (kind === "packed") writePacked(size, random);
  else writePages(size, random);
  return sink.take(size);
}

/** Changes the share `touch` of the lines, units or pages of a file, at least one. */
export function editContent(
  kind: ContentClass,
  old: Uint8Array,
  touch: number,
  project: string,
  random: Random,
): Edit {
  if (kind === "page") return { patches: editPages(old, touch, random) };
  if (kind === "packed") return { patches: editPacked(old, touch, random) };
  if (kind === "object") return { content: editObject(old, touch, random) };
  return { content: editLines(kind, old, touch, project, random) };
}

/** A growing buffer that is used again for every file. */
class Sink {
  bytes = new Uint8Array(1 << 20);
  length = 0;

  reset(size: number): void {
    this.length = 0;
    this.room(size + 65536);
  }

  room(size: number): void {
    if (this.length + size <= this.bytes.length) return;
    const bytes = new Uint8Array(Math.max(this.bytes.length * 2, this.length + size));
    bytes.set(this.bytes.subarray(0, this.length));
    this.bytes = bytes;
  }

  put(part: Uint8Array): void {
    const length = part.length;
    if (this.length + length > this.bytes.length) this.room(length);
    if (length > 48) this.bytes.set(part, this.length);
    else for (let at = 0, to = this.length; at < length; at++, to++) this.bytes[to] = part[at] ?? 0;
    this.length += length;
  }

  byte(value: number): void {
    if (this.length === this.bytes.length) this.room(1);
    this.bytes[this.length++] = value;
  }

  number(value: number): void {
    this.put(ascii(String(value)));
  }

  word32(value: number): void {
    this.byte(value & 255);
    this.byte((value >>> 8) & 255);
    this.byte((value >>> 16) & 255);
    this.byte((value >>> 24) & 255);
  }

  zeros(count: number): void {
    this.room(count);
    this.bytes.fill(0, this.length, this.length + count);
    this.length += count;
  }

  noise(count: number, random: Random): void {
    this.room(count);
    random.fill(this.bytes.subarray(this.length, this.length + count));
    this.length += count;
  }

  take(size: number): Uint8Array {
    return this.bytes.subarray(0, size);
  }
}

const sink = new Sink();

function ascii(text: string): Uint8Array {
  const bytes = new Uint8Array(text.length);
  for (let at = 0; at < text.length; at++) bytes[at] = text.charCodeAt(at);
  return bytes;
}

// ── The language ────────────────────────────────────────────────────────────────────────────────────

/** 4000 pronounceable words, the frequent ones short. */
export const words: readonly string[] = makeWords();
const wordBytes: readonly Uint8Array[] = words.map(ascii);
const wordZipf = new Zipf(words.length, 30);

function makeWords(): string[] {
  const random = new Random("language");
  const heads = [
    "b",
    "c",
    "d",
    "f",
    "g",
    "h",
    "l",
    "m",
    "n",
    "p",
    "r",
    "s",
    "t",
    "v",
    "w",
    "st",
    "tr",
    "pl",
    "ch",
    "sh",
    "",
  ];
  const cores = ["a", "e", "i", "o", "u", "ea", "ou", "io", "e", "a"];
  const tails = ["", "", "n", "r", "s", "t", "l", "nd", "st", "ck", "m", "d"];
  const known = new Set<string>();
  while (known.size < 4000) {
    const syllables = 1 + Math.floor(Math.sqrt(known.size / 500)) + random.below(2);
    let word = "";
    for (let count = 0; count < syllables; count++) {
      word += random.pick(heads) + random.pick(cores) + random.pick(tails);
    }
    if (word.length > 1) known.add(word);
  }
  return [...known];
}

/** A word, the frequent ones often. */
export function drawWord(random: Random): string {
  return words[wordZipf.draw(random)] ?? "the";
}

function putWord(random: Random): void {
  sink.put(wordBytes[wordZipf.draw(random)] ?? space);
}

const space = ascii(" ");
const tab = 9;
const newline = 10;

/** What the files of one directory share. */
interface Project {
  identifiers: readonly Uint8Array[];
  header: Uint8Array;
}

const projects = new Map<string, Project>();
const identifierZipf = new Zipf(600, 12);

function projectOf(name: string): Project {
  const known = projects.get(name);
  if (known !== undefined) return known;
  const random = new Random("project", name);
  const identifiers: Uint8Array[] = [];
  const prefix = drawWord(random);
  for (let count = 0; count < 600; count++) {
    const parts = random.chance(0.3) ? [prefix] : [];
    for (let part = random.between(1, 2); part > 0; part--) parts.push(drawWord(random));
    identifiers.push(ascii(parts.join("_")));
  }
  let header = "/*\n";
  for (let line = 0; line < 6; line++) {
    header += " *";
    while (header.length % 76 < 66) header += ` ${drawWord(random)}`;
    header += "\n";
  }
  const project = { identifiers, header: ascii(`${header} */\n\n`) };
  if (projects.size > 2000) projects.clear();
  projects.set(name, project);
  return project;
}

// ── Source ──────────────────────────────────────────────────────────────────────────────────────────

/** `%i` identifier of the file, `%p` of the project, `%n` number, `%h` hexadecimal, `%s` words, `%t` type, `%C` constant. */
const statementTexts = [
  "%i = %i;",
  "%i->%i = %i;",
  "%i = %p(%i, %i);",
  "%i = %p(%i);",
  "%p(%i, %i, %n);",
  "%p(%i);",
  "%i += %n;",
  "%i = %i->%i;",
  "%t %i = %p(%i);",
  "%t %i;",
  "return %i;",
  "return %p(%i, %i);",
  "goto out;",
  "%i[%n] = %i;",
  "%i = (%t)%i;",
  'log_error("%s: %%d", %i);',
  'die("%s");',
  "assert(%i != NULL);",
  "memcpy(%i, %i, sizeof(%i));",
  "list_add(&%i->%i, &%i->%i);",
  "/* %s */",
  "break;",
  "free(%i);",
  "%i = %C | %C;",
  "%i &= ~%C;",
  'report(%C, "%s", %n, %i);',
  "%i = hash(%i, 0x%h);",
];
const openerTexts = [
  "if (!%i) {",
  "if (%i == NULL) {",
  "if (%i < 0) {",
  "if (%i->%i > %n) {",
  "if (%p(%i, %i)) {",
  "for (%i = 0; %i < %i->%i; %i++) {",
  "while (%i != %i) {",
  "} else {",
  "switch (%i->%i) {",
  "list_for_each(%i, &%i->%i) {",
];
const types = [
  "int",
  "size_t",
  "uint32_t",
  "const char *",
  "bool",
  "struct buffer *",
  "unsigned long",
  "void *",
].map(ascii);

type Template = readonly (Uint8Array | string)[];

function compile(text: string): Template {
  return text.split(/(%[ipnhstC%])/).filter((part) => part !== "").map((part) => {
    if (part === "%%") return ascii("%");
    return /^%[ipnhstC]$/.test(part) ? part : ascii(part);
  });
}

const statements = statementTexts.map(compile);
const openers = openerTexts.map(compile);
const signature = compile("static %t %p_%i(%t %i, %t %i)");
const includeLine = compile("#include <%p.h>");
const statementZipf = new Zipf(statements.length, 8);
const localZipf = new Zipf(60, 8);

class SourceWriter {
  #random: Random;
  #project: Project;
  #locals: Uint8Array[] = [];
  #depth = 0;
  #left = 0;

  constructor(project: string, random: Random) {
    this.#random = random;
    this.#project = projectOf(project);
    for (let count = 0; count < 60; count++) this.#locals.push(this.#identifier());
  }

  /** A whole file. */
  write(size: number): void {
    sink.put(this.#project.header);
    for (let count = this.#random.between(2, 9); count > 0; count--) this.#emit(includeLine, 0);
    while (sink.length < size) this.line();
  }

  /** One line, continuing where the last one stopped. */
  line(): void {
    const random = this.#random;
    if (this.#depth === 0) {
      if (this.#left === 0) {
        this.#comment();
        this.#left = 1;
      } else {
        this.#emit(signature, 0);
        sink.put(ascii("{\n"));
        this.#depth = 1;
        this.#left = random.run(14);
      }
    } else if (this.#left-- <= 0) {
      this.#depth = 0;
      this.#left = 0;
      sink.put(ascii("}\n"));
    } else if (this.#depth > 1 && random.chance(0.3)) {
      this.#depth--;
      for (let tabs = this.#depth; tabs > 0; tabs--) sink.byte(tab);
      sink.put(ascii("}\n"));
    } else if (this.#depth < 5 && random.chance(0.2)) {
      this.#emit(openers[random.below(openers.length)] ?? [], this.#depth++);
    } else {
      this.#emit(statements[statementZipf.draw(random)] ?? [], this.#depth);
    }
  }

  /** What stands above a function. */
  #comment(): void {
    sink.put(ascii("\n/*\n"));
    for (let lines = this.#random.run(5); lines > 0; lines--) {
      sink.put(ascii(" * "));
      putWords(this.#random.between(4, 11), this.#random);
      sink.byte(newline);
    }
    sink.put(ascii(" */\n"));
  }

  #identifier(): Uint8Array {
    return this.#project.identifiers[identifierZipf.draw(this.#random)] ?? space;
  }

  #emit(template: Template, depth: number): void {
    const random = this.#random;
    for (let tabs = depth; tabs > 0; tabs--) sink.byte(tab);
    for (const part of template) {
      if (typeof part !== "string") sink.put(part);
      else if (part === "%i") sink.put(this.#locals[localZipf.draw(random)] ?? space);
      else if (part === "%p") sink.put(this.#identifier());
      else if (part === "%n") sink.number(random.chance(0.6) ? 1 << random.below(9) : random.below(1000));
      else if (part === "%h") sink.put(ascii(random.next().toString(16)));
      else if (part === "%t") sink.put(types[random.below(types.length)] ?? space);
      else if (part === "%C") sink.put(ascii(drawWord(random).toUpperCase()));
      else putWords(random.between(2, 6), random);
    }
    sink.byte(newline);
  }
}

function putWords(count: number, random: Random): void {
  for (let at = 0; at < count; at++) {
    if (at > 0) sink.byte(32);
    putWord(random);
  }
}

// ── Longer text ─────────────────────────────────────────────────────────────────────────────────────

/** Prose, a log or a table, by the project's taste. */
function writeText(size: number, project: string, random: Random): void {
  const style = random.below(3);
  const writer = new TextWriter(project, random, style);
  while (sink.length < size) writer.line();
}

const levels = ["info ", "info ", "info ", "debug", "warn ", "error"].map(ascii);

class TextWriter {
  #random: Random;
  #style: number;
  #clock: number;
  #serial: number;
  #sources: Uint8Array[] = [];

  constructor(project: string, random: Random, style: number) {
    this.#random = random;
    this.#style = style;
    this.#clock = random.below(86_400_000);
    this.#serial = random.below(1_000_000);
    const { identifiers } = projectOf(project);
    for (let count = 0; count < 12; count++) this.#sources.push(random.pick(identifiers));
  }

  line(): void {
    const random = this.#random;
    if (this.#style === 0) {
      const end = sink.length + random.between(58, 76);
      if (random.chance(0.08)) sink.byte(newline);
      while (sink.length < end) {
        putWord(random);
        if (random.chance(0.1)) sink.byte(random.chance(0.5) ? 44 : 46);
        sink.byte(32);
      }
      sink.length--;
    } else if (this.#style === 1) {
      this.#clock += random.run(400);
      const second = Math.floor(this.#clock / 1000) % 86_400;
      const part = (value: number): string => String(value).padStart(2, "0");
      sink.put(
        ascii(
          `${part(Math.floor(second / 3600))}:${part(Math.floor(second / 60) % 60)}:${part(second % 60)}.`,
        ),
      );
      sink.put(ascii(String(this.#clock % 1000).padStart(3, "0")));
      sink.byte(32);
      sink.put(random.pick(levels));
      sink.byte(32);
      sink.put(random.pick(this.#sources));
      sink.put(ascii(": "));
      putWords(random.between(3, 7), random);
      sink.put(ascii(` id=${random.next().toString(16)} took=${random.run(900)}us`));
    } else {
      this.#serial += random.run(3);
      sink.number(this.#serial);
      sink.byte(59);
      putWord(random);
      sink.byte(59);
      putWord(random);
      sink.put(ascii(`;${random.below(100_000) / 100};`));
      sink.put(random.pick(this.#sources));
      sink.put(ascii(`;${random.below(2)};${random.below(365)};${random.next().toString(36)}`));
    }
    sink.byte(newline);
  }
}

// ── Objects ─────────────────────────────────────────────────────────────────────────────────────────

const opcodes = makeOpcodes();
const opcodeZipf = new Zipf(opcodes.length, 3);

function makeOpcodes(): Uint8Array[] {
  const random = new Random("opcodes");
  const list: Uint8Array[] = [];
  for (let count = 0; count < 220; count++) {
    const bytes = new Uint8Array(random.between(1, 3));
    random.fill(bytes);
    list.push(bytes);
  }
  return list;
}

/** Sections one after the other: code, names, relocations, tables and padding. */
function writeObject(size: number, random: Random): void {
  sink.put(ascii("\x7fOBJ"));
  sink.zeros(60);
  while (sink.length < size) writeSection(random.between(512, 24_576), random);
}

function writeSection(size: number, random: Random): void {
  const end = sink.length + size;
  const kind = random.below(20);
  if (kind < 9) {
    while (sink.length < end) writeInstruction(random);
  } else if (kind < 14) {
    while (sink.length < end) {
      putWord(random);
      sink.byte(95);
      putWord(random);
      sink.byte(0);
    }
  } else if (kind < 17) {
    let address = random.below(1 << 20);
    while (sink.length < end) {
      address += random.between(3, 60);
      sink.word32(address);
      sink.word32(0);
      sink.word32(random.below(3) + 2);
      sink.word32(random.below(2000));
      sink.word32(0xfffffffc);
      sink.word32(0xffffffff);
    }
  } else if (kind < 19) {
    while (sink.length < end) sink.word32(random.chance(0.4) ? 0 : random.below(1 << random.between(4, 24)));
  } else {
    sink.zeros(Math.min(size, 4096));
  }
  sink.zeros((16 - (sink.length & 15)) & 15);
}

function writeInstruction(random: Random): void {
  sink.put(opcodes[opcodeZipf.draw(random)] ?? space);
  const kind = random.below(8);
  if (kind < 3) sink.byte(random.below(8) * 8);
  else if (kind < 5) sink.byte(random.below(32) * 8);
  else if (kind === 5) sink.word32(random.below(1 << random.between(4, 22)));
  else if (kind === 6) sink.byte(random.next() & 255);
}

// ── Packed ──────────────────────────────────────────────────────────────────────────────────────────

function writePacked(size: number, random: Random): void {
  sink.put(ascii("\x89PACKED\r\n"));
  sink.zeros(24);
  sink.noise(Math.max(0, size - sink.length), random);
}

// ── Pages ───────────────────────────────────────────────────────────────────────────────────────────

/** A database (pages of records) or a disk image (runs of pages of every kind). */
function writePages(size: number, random: Random): void {
  const image = random.chance(0.4);
  let kind = 0;
  let left = 0;
  for (let page = 0; sink.length < size; page++) {
    if (image && left-- <= 0) {
      kind = random.below(20);
      left = random.run(24);
    }
    writePage(image ? kind : 0, page, random);
  }
}

/** One page: kinds 0 to 8 records, to 11 zeros, to 14 noise, to 16 code, the rest text. */
function writePage(kind: number, page: number, random: Random): void {
  const end = sink.length + pageSize;
  if (kind < 9) writeRecords(page, end, random);
  else if (kind < 12) sink.zeros(pageSize);
  else if (kind < 15) sink.noise(pageSize, random);
  else if (kind < 17) { while (sink.length < end) writeInstruction(random); }
  else {
    while (sink.length < end) {
      putWord(random);
      sink.byte(32);
    }
  }
  sink.length = end;
}

function writeRecords(page: number, end: number, random: Random): void {
  sink.put(ascii("PG01"));
  sink.word32(page);
  sink.word32(random.next());
  sink.word32(random.below(1 << 24));
  const stop = end - random.between(40, 900);
  let key = page * 64;
  while (sink.length < stop) writeRecord(key++, random);
  sink.room(pageSize);
  sink.bytes.fill(0, sink.length, end);
}

function writeRecord(key: number, random: Random): void {
  sink.word32(key);
  sink.word32(1_700_000_000 + random.below(50_000_000));
  sink.byte(random.below(4));
  putWords(random.between(2, 5), random);
  sink.byte(0);
  sink.word32(random.below(1_000_000));
  if (random.chance(0.9)) sink.noise(16, random);
}

// ── Edits ───────────────────────────────────────────────────────────────────────────────────────────

type Operation = "insert" | "delete" | "replace";

/** Where hunks begin and how long they are: `touched` units in all, ascending, not overlapping. */
function hunksOf(count: number, touched: number, random: Random): { start: number; length: number }[] {
  const lengths: number[] = [];
  for (let left = touched; left > 0;) {
    const length = Math.min(left, random.run(hunkLengthMean));
    lengths.push(length);
    left -= length;
  }
  // Choosing the gaps among what is left untouched keeps hunks apart.
  const starts = random.sample(
    Math.max(0, count - touched) + 1,
    Math.min(lengths.length, count - touched + 1),
  );
  let shift = 0;
  return starts.map((start, index) => {
    const length = lengths[index] ?? 1;
    const hunk = { start: start + shift, length };
    shift += length;
    return hunk;
  });
}

function operationOf(random: Random): Operation {
  const draw = random.below(4);
  return draw === 0 ? "insert" : draw === 1 ? "delete" : "replace";
}

function editLines(
  kind: "source" | "text",
  old: Uint8Array,
  touch: number,
  project: string,
  random: Random,
): Uint8Array {
  const starts = [0];
  for (let at = old.indexOf(newline); at >= 0; at = old.indexOf(newline, at + 1)) starts.push(at + 1);
  if (starts[starts.length - 1] !== old.length) starts.push(old.length);
  const count = starts.length - 1;
  const touched = Math.min(count, Math.max(1, Math.round(count * touch)));
  const writer = kind === "source"
    ? new SourceWriter(project, random)
    : new TextWriter(project, random, styleOf(old.subarray(0, starts[1] ?? 0)));
  sink.reset(old.length + touched * 256);
  let copied = 0;
  for (const hunk of hunksOf(count, touched, random)) {
    const from = starts[hunk.start] ?? old.length;
    const to = starts[hunk.start + hunk.length] ?? old.length;
    sink.put(old.subarray(copied, from));
    const operation = count === 0 ? "insert" : operationOf(random);
    if (operation === "insert") {
      for (let line = 0; line < hunk.length; line++) writer.line();
      sink.put(old.subarray(from, to));
    } else if (operation === "replace") {
      for (let line = 0; line < hunk.length; line++) {
        const begin = starts[hunk.start + line] ?? old.length;
        const end = starts[hunk.start + line + 1] ?? old.length;
        if (random.chance(0.5)) writer.line();
        else changeWord(old.subarray(begin, end), random);
      }
    }
    copied = to;
  }
  sink.put(old.subarray(copied));
  return different(old, random);
}

/** A log line begins with a time of day, a table row has semicolons; prose has neither. */
function styleOf(line: Uint8Array): number {
  if (line[2] === 58 && line[5] === 58) return 1;
  return line.includes(59) ? 2 : 0;
}

/** The line with one word of it replaced. */
function changeWord(line: Uint8Array, random: Random): void {
  const letter = (byte: number | undefined): boolean => byte !== undefined && byte >= 97 && byte <= 122;
  let begin = random.below(line.length);
  while (begin < line.length && !letter(line[begin])) begin++;
  while (begin > 0 && letter(line[begin - 1])) begin--;
  let end = begin;
  while (letter(line[end])) end++;
  sink.put(line.subarray(0, begin));
  putWord(random);
  sink.put(line.subarray(end));
}

/** What the sink holds, with one more line if an edit came out equal to the old content. */
function different(old: Uint8Array, random: Random): Uint8Array {
  let same = sink.length === old.length;
  for (let at = 0; same && at < old.length; at++) same = sink.bytes[at] === old[at];
  if (same) {
    putWord(random);
    sink.byte(newline);
  }
  return sink.take(sink.length);
}

function editObject(old: Uint8Array, touch: number, random: Random): Uint8Array {
  const count = Math.max(1, Math.floor(old.length / objectUnitSize));
  const touched = Math.min(count, Math.max(1, Math.round(count * touch)));
  sink.reset(old.length + touched * 1024);
  let copied = 0;
  for (const hunk of hunksOf(count, touched, random)) {
    const from = hunk.start * objectUnitSize;
    const to = Math.min(old.length, from + hunk.length * objectUnitSize);
    sink.put(old.subarray(copied, from));
    copied = to;
    const operation = operationOf(random);
    if (operation === "delete") continue;
    const end = sink.length + (to - from);
    while (sink.length < end) writeInstruction(random);
    if (operation === "replace") sink.length = end;
    else sink.put(old.subarray(from, to));
  }
  sink.put(old.subarray(copied));
  return different(old, random);
}

function editPacked(old: Uint8Array, touch: number, random: Random): Patch[] {
  const ranges = Math.max(1, Math.round((old.length * touch) / packedRangeSize));
  const patches: Patch[] = [];
  for (let range = 0; range < ranges; range++) {
    const size = Math.min(old.length, random.between(packedRangeSize / 2, packedRangeSize * 1.5));
    const bytes = new Uint8Array(size);
    random.fill(bytes);
    patches.push({ offset: random.below(old.length - size + 1), bytes });
  }
  return patches;
}

/** Half of the touched pages are new, in the others a few records change; both get a new sequence number. */
function editPages(old: Uint8Array, touch: number, random: Random): Patch[] {
  const count = Math.max(1, Math.floor(old.length / pageSize));
  const touched = Math.min(count, Math.max(1, Math.round(count * touch)));
  return random.sample(count, touched).map((page) => {
    const offset = page * pageSize;
    const bytes = old.slice(offset, Math.min(old.length, offset + pageSize));
    sink.reset(pageSize);
    if (random.chance(0.5)) {
      writePage(0, page, random);
      bytes.set(sink.take(bytes.length));
    } else {
      for (let cell = random.between(1, 4); cell > 0; cell--) {
        sink.length = 0;
        writeRecord(page * 64 + random.below(64), random);
        const record = sink.take(Math.min(sink.length, bytes.length));
        bytes.set(record, random.below(bytes.length - record.length + 1));
      }
      for (let at = 8; at < Math.min(12, bytes.length); at++) bytes[at] = random.next() & 255;
    }
    return { offset, bytes };
  });
}
