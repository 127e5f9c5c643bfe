/**
 * The receiver against its own tables, against grammars written as regular expressions, and over every order of few
 * events; the sender's output commit over every order of effects, checkpoints and acknowledgements.
 */
import assert from "node:assert/strict";
import { FormatError } from "../../lib/base/errors.ts";
import { bytesEqual } from "../../lib/base/hex.ts";
import {
  type CheckpointAction,
  type CheckpointEvent,
  type CheckpointOutcome,
  CheckpointReceiver,
  type CheckpointState,
  checkpointStep,
  type CheckpointTarget,
  EpochBuffer,
  OutputCommit,
  type ReceivedItem,
} from "../../lib/stream/checkpoint.ts";
import type { StreamItem } from "../../lib/stream/item.ts";
import { ImageTarget } from "../../lib/stream/image_target.ts";
import { MemoryImage } from "../../lib/stream/memory_image.ts";
import { StreamReader } from "../../lib/stream/reader.ts";
import { prng } from "./prng.ts";
import { allSamples, libxcSample, libxlSample, regionSample, type Sample, sha256 } from "./samples.ts";

const words: Readonly<Record<string, CheckpointEvent>> = {
  opening: "opening",
  record: "record",
  CHECKPOINT: "checkpoint",
  upper: "upper",
  CHECKPOINT_END: "checkpoint-end",
  END: "end",
  "libxc END": "end",
  "libxl END": "upper-end",
  cut: "cut",
};
const actions: readonly string[] = ["apply", "hold", "commit", "drop", "refuse", "nothing"];

interface Field {
  framed: boolean;
  state: string;
  event: CheckpointEvent;
  action: string;
  next: string;
}

/** Reads the tables out of the comment of the module: `| state | event | … |`, fields `action -> next`. */
function tables(): Field[] {
  const source = Deno.readTextFileSync(new URL("../../lib/stream/checkpoint.ts", import.meta.url));
  const fields: Field[] = [];
  let events: (CheckpointEvent | undefined)[] = [];
  let count = 0;
  for (const line of source.slice(0, source.indexOf("## The sender")).split("\n")) {
    const cells = line.replace(/^ \*\s*/, "").split("|").slice(1, -1).map((cell) => cell.trim());
    const [state = "", ...rest] = cells;
    if (cells.length === 0 || state.startsWith("---")) continue;
    if (state === "state") {
      count++;
      events = rest.map((word) => words[word]);
      assert.ok(!events.includes(undefined), line);
      continue;
    }
    rest.forEach((cell, column) => {
      const event = events[column];
      assert.ok(event !== undefined);
      const [left = "", right] = cell.split("->").map((part) => part.trim());
      const action = left === "" || left === "nothing" ? "pass" : left;
      assert.ok(left === "" || actions.includes(left), cell);
      fields.push({ framed: count === 2, state, event, action, next: right ?? state });
    });
  }
  assert.equal(count, 2);
  return fields;
}

Deno.test("checkpointStep() does what the tables of its module say, field by field", () => {
  const fields = tables();
  assert.equal(fields.length, 3 * 5 + 7 * 8);
  for (const { framed, state, event, action, next } of fields) {
    assert.deepEqual(
      checkpointStep({ framed, state: state as CheckpointState, event }),
      { action: action as CheckpointAction, next },
      `${framed ? "framed" : "flat"}, ${state}, ${event}`,
    );
  }
});

Deno.test("checkpointStep() never leaves a final state", () => {
  for (const framed of [false, true]) {
    for (const state of ["complete", "failover", "failed"] as const) {
      for (const event of Object.values(words)) {
        const action = event === "cut" ? "pass" : "refuse";
        assert.deepEqual(checkpointStep({ framed, state, event }), { action, next: state });
      }
    }
  }
});

/** One letter per event, as an item. */
const letters: Readonly<Record<string, StreamItem>> = {
  o: { layer: "libxl", record: { name: "LIBXC_CONTEXT" } },
  r: { layer: "libxc", record: { name: "STATIC_DATA_END" } },
  c: { layer: "libxc", record: { name: "CHECKPOINT" } },
  u: {
    layer: "libxl",
    record: { name: "EMULATOR_CONTEXT", emulatorId: 2, index: 0, context: new Uint8Array(1) },
  },
  x: { layer: "libxl", record: { name: "CHECKPOINT_END" } },
  n: { layer: "libxc", record: { name: "END" } },
  m: { layer: "libxl", record: { name: "END" } },
};
const framedHeader: StreamItem = { layer: "libxl", header: { bigEndian: false, converted: false } };
const flatHeader: StreamItem = { layer: "region", header: { bigEndian: false } };

function place(item: StreamItem, index: number): ReceivedItem {
  return { ...item, place: { index, offset: 8 * index, size: 8 } };
}

/** Keeps the places of what it was given; "committed" is what a guest would resume from. */
class Recorder implements CheckpointTarget {
  committed: number[] | null = null;
  #scratch: number[] = [];
  #first: number[] = [];
  apply(item: ReceivedItem): void {
    assert.equal(this.committed, null, "applied after a commit");
    this.#first.push(item.place.index);
  }
  hold(item: ReceivedItem): void {
    assert.notEqual(this.committed, null, "held before the first commit");
    this.#scratch.push(item.place.index);
  }
  commit(epoch: number): void {
    this.committed = [...this.committed ?? this.#first, ...this.#scratch];
    this.#scratch = [];
    assert.ok(epoch > 0);
  }
  drop(): void {
    this.#scratch = [];
  }
}

/** What the grammar says of a word: how much of it is taken, how much is committed, how it ends. */
interface Expected {
  taken: number;
  committed: number | null;
  status: "complete" | "failover" | "error";
}

function expect(word: string, grammar: { prefix: RegExp; committed: RegExp; complete: RegExp }): Expected {
  let taken = 0;
  while (taken < word.length && grammar.prefix.test(word.slice(0, taken + 1))) taken++;
  const valid = word.slice(0, taken);
  const complete = grammar.complete.test(valid);
  const committed = grammar.committed.exec(valid)?.[0].length ?? null;
  if (complete && taken === word.length) return { taken, committed, status: "complete" };
  return { taken, committed, status: committed === null ? "error" : "failover" };
}

const flatGrammar = {
  prefix: /^[or]*(?:n|c[rc]*n?)?$/,
  // END commits only where no checkpoint is.
  committed: /^[or]*(?:n|c(?:r*c)*)/,
  complete: /n$/,
};
const framedGrammar = {
  prefix: /^[or]*(?:nu*m?|cu*|cu*x(?:[ru]*cu*x)*[ru]*(?:cu*|nu*m?)?)?$/,
  committed: /^[or]*(?:nu*m|cu*x(?:[ru]*cu*x)*)/,
  complete: /m$/,
};

function* allWords(alphabet: string, lengthMax: number): Generator<string> {
  let words = [""];
  yield "";
  for (let length = 1; length <= lengthMax; length++) {
    const longer: string[] = [];
    for (const word of words) {
      for (const letter of alphabet) {
        longer.push(word + letter);
      }
    }
    yield* longer;
    words = longer;
  }
}

/** Runs one word; stops at the first refusal and gives it to `fail()`, else the stream is cut behind the word. */
function receive(header: StreamItem, word: string): Expected & { dropped: number } {
  const target = new Recorder();
  const receiver = new CheckpointReceiver({ target, epochSizeMax: 1000 });
  receiver.take(place(header, 0));
  let taken = 0;
  let outcome;
  try {
    try {
      for (const letter of word) {
        const item = letters[letter];
        assert.ok(item !== undefined);
        const before = receiver.epochs;
        const committed = receiver.take(place(item, taken + 1));
        assert.equal(receiver.epochs, before + (committed ? 1 : 0));
        taken++;
      }
    } catch (error) {
      assert.ok(error instanceof FormatError && error.rule === "checkpoint.order", String(error));
      assert.equal(error.offset, 8 * (taken + 1));
      outcome = receiver.fail(error);
      assert.equal(outcome.cause, error);
    }
    outcome ??= receiver.finish();
  } catch (error) {
    assert.ok(error instanceof FormatError);
    assert.equal(receiver.state, "failed");
    assert.equal(target.committed, null);
    return { taken, committed: null, status: "error", dropped: 0 };
  }
  assert.ok(target.committed !== null);
  assert.equal(receiver.heldSize, 0);
  assert.equal(receiver.state, outcome.status);
  // Everything of the committed prefix that is not itself a mark, in order.
  const marks = [...word].flatMap((letter, at) => "cxnm".includes(letter) ? [] : [at + 1]);
  const last = target.committed.at(-1) ?? 0;
  assert.deepEqual(target.committed, [0, ...marks.filter((index) => index <= last)]);
  let committed = 0;
  for (let at = 0; at < taken; at++) {
    if (last > 0 && at < last) committed = at + 1;
  }
  return { taken, committed, status: outcome.status, dropped: outcome.dropped };
}

for (
  const [name, header, grammar, alphabet, length] of [
    ["flat", flatHeader, flatGrammar, "orcn", 7],
    ["framed", framedHeader, framedGrammar, "rcuxnm", 6],
    ["framed", framedHeader, framedGrammar, "orcuxnm", 5],
  ] as const
) {
  Deno.test(`CheckpointReceiver takes every order of up to ${length} of ${alphabet} as the ${name} grammar says`, () => {
    const statuses = new Set<string>();
    for (const word of allWords(alphabet, length)) {
      const expected = expect(word, grammar);
      const found = receive(header, word);
      assert.equal(found.taken, expected.taken, word);
      assert.equal(found.status, expected.status, word);
      statuses.add(found.status);
      if (expected.committed !== null) {
        // The committed prefix without its marks, counted from its end.
        const prefix = word.slice(0, expected.committed).replace(/[cxnm]+$/, "");
        assert.equal(found.committed, prefix.length, word);
        const held = word.slice(expected.committed, expected.taken).replace(/[cxnm]/g, "").length;
        assert.equal(found.dropped, held, word);
      }
    }
    assert.deepEqual([...statuses].sort(), ["complete", "error", "failover"]);
  });
}

Deno.test("CheckpointReceiver.take() holds no more than epochSizeMax octets, and falls back to the epoch before", () => {
  const target = new Recorder();
  const receiver = new CheckpointReceiver({ target, epochSizeMax: 16 });
  const take = (letter: string, index: number): boolean => {
    const item = letters[letter];
    assert.ok(item !== undefined);
    return receiver.take(place(item, index));
  };
  [..."rrrrc"].forEach((letter, at) => take(letter, at));
  take("r", 5);
  take("r", 6);
  assert.equal(receiver.heldSize, 16);
  assert.throws(
    () => take("r", 7),
    (error) => error instanceof FormatError && error.rule === "checkpoint.size",
  );
  const { status, epochs, dropped } = receiver.fail(new Error("too much"));
  assert.deepEqual({ status, epochs, dropped }, { status: "failover", epochs: 1, dropped: 2 });
  assert.deepEqual(target.committed, [0, 1, 2, 3]);
});

Deno.test("CheckpointReceiver.fail() throws after a commit that failed half-way: there is nothing to fall back to", () => {
  const target = new Recorder();
  const receiver = new CheckpointReceiver({ target, epochSizeMax: 1000 });
  [..."rcr"].forEach((letter, at) => receiver.take(place(letters[letter] ?? flatHeader, at)));
  const broken = new Error("disk full");
  target.commit = () => {
    throw broken;
  };
  assert.throws(() => receiver.take(place(letters.c ?? flatHeader, 3)), broken);
  assert.throws(() => receiver.fail(broken), broken);
  assert.throws(() => receiver.finish(), FormatError);
});

Deno.test("CheckpointReceiver.fail() behind END is no complete stream", () => {
  const receiver = new CheckpointReceiver({ target: new Recorder(), epochSizeMax: 0 });
  [..."rn"].forEach((letter, at) => receiver.take(place(letters[letter] ?? flatHeader, at)));
  const trailing = new Error("octets behind END");
  assert.deepEqual(receiver.fail(trailing), { status: "failover", epochs: 1, dropped: 0, cause: trailing });
});

Deno.test("CheckpointReceiver.take() refuses legacy items", () => {
  const receiver = new CheckpointReceiver({ target: new Recorder(), epochSizeMax: 0 });
  assert.throws(
    () => receiver.take(place({ layer: "legacy", record: { name: "END_OF_BODY" } }, 0)),
    TypeError,
  );
});

Deno.test("EpochBuffer gives an epoch's items out together, in order, or not at all", () => {
  const log: string[] = [];
  const target = new EpochBuffer({
    apply: (item) => log.push(`apply ${item.place.index}`),
    commit: (epoch, items) => log.push(`commit ${epoch}: ${items.map((item) => item.place.index).join(" ")}`),
  });
  const receiver = new CheckpointReceiver({ target, epochSizeMax: 1000 });
  [..."rcrrcr"].forEach((letter, at) => receiver.take(place(letters[letter] ?? flatHeader, at)));
  assert.equal(receiver.finish().dropped, 1);
  assert.deepEqual(log, ["apply 0", "commit 1: ", "commit 2: 2 3"]);
  target.commit(3);
  assert.equal(log.at(-1), "commit 3: ");
});

Deno.test("OutputCommit lets nothing out before its epoch is acknowledged, over every order of 6 steps", () => {
  // e: effect, c: checkpoint, 1 to 3: acknowledge that epoch, a: abandon.
  const alphabet = "ec123a";
  let released = 0;
  for (const word of allWords(alphabet, 6)) {
    if (word.length < 6) continue;
    const output = new OutputCommit<{ id: number; epoch: number }>({ effectsMax: 3, epochsMax: 2 });
    let epoch = 1;
    let acknowledged = 0;
    let made = 0;
    const out: number[] = [];
    for (const letter of word) {
      assert.equal(output.epoch, epoch);
      if (letter === "e") {
        const room = made - out.length < 3;
        assert.equal(output.effect({ id: made, epoch }), room, word);
        if (room) made++;
      } else if (letter === "c") {
        assert.equal(output.mayCheckpoint, epoch - 1 - acknowledged < 2);
        if (output.mayCheckpoint) assert.equal(output.checkpoint(), epoch++);
        else assert.throws(() => output.checkpoint(), RangeError);
      } else if (letter === "a") {
        out.push(...output.abandon().map(({ id }) => id));
        assert.equal(out.length, made, "abandon() gives out everything");
        assert.throws(() => output.effect({ id: -1, epoch }), TypeError);
        assert.throws(() => output.acknowledge(epoch), TypeError);
        break;
      } else {
        const number = Number(letter);
        if (number > acknowledged && number < epoch) {
          const effects = output.acknowledge(number);
          for (const effect of effects) {
            assert.ok(effect.epoch <= number && effect.epoch > acknowledged, word);
          }
          out.push(...effects.map(({ id }) => id));
          acknowledged = number;
          released += effects.length;
        } else {
          assert.throws(() => output.acknowledge(number), RangeError, word);
        }
      }
      assert.equal(output.held, made - out.length, word);
      assert.equal(output.acknowledged, acknowledged);
    }
    assert.deepEqual(out, out.map((_, index) => index), `${word}: in the order they were made`);
  }
  assert.ok(released > 1000);
});

/** Reads a sample octet by octet and asks at each cut which epoch a receiver would fall back to. */
function cutEverywhere(sample: Sample): void {
  const image = new MemoryImage({ sizeMax: 1 << 26 });
  const target = new ImageTarget({ image, scratch: new MemoryImage({ sizeMax: 1 << 26 }) });
  const receiver = new CheckpointReceiver({ target, epochSizeMax: 1 << 26 });
  const reader = new StreamReader({ digest: sha256 });
  let epochs = 0;
  for (let cut = 0;; cut++) {
    const expected = sample.ends.filter((end) => end <= cut).length;
    assert.equal(receiver.epochs, expected, `cut at ${cut}`);
    if (expected > epochs) {
      epochs = expected;
      assertMemory(image, sample.memories[epochs - 1], `${sample.name}, epoch ${epochs}`);
    }
    if (cut === sample.bytes.length) break;
    reader.push(sample.bytes.subarray(cut, cut + 1));
    for (let item = reader.next(); item !== null; item = reader.next()) receiver.take(item);
  }
  reader.finish();
  assert.equal(receiver.finish().status, "complete");
  assertMemory(image, sample.memories.at(-1), sample.name);
}

/** Cuts a sample at a few places and looks at the outcome and the image themselves. */
function cutSomewhere(sample: Sample, random: (bound: number) => number): void {
  const cuts = [0, ...sample.ends.flatMap((end) => [end - 1, end, end + 1]), sample.bytes.length - 1];
  for (const cut of [...cuts, random(sample.bytes.length), random(sample.bytes.length)]) {
    const image = new MemoryImage({ sizeMax: 1 << 26 });
    const target = new ImageTarget({ image, scratch: new MemoryImage({ sizeMax: 1 << 26 }) });
    const receiver = new CheckpointReceiver({ target, epochSizeMax: 1 << 26 });
    const reader = new StreamReader();
    const ended = sample.ends.filter((end) => end <= cut).length;
    const outcome = (): CheckpointOutcome => {
      try {
        reader.push(sample.bytes.subarray(0, cut));
        for (let item = reader.next(); item !== null; item = reader.next()) receiver.take(item);
        reader.finish();
      } catch (error) {
        return receiver.fail(error);
      }
      return receiver.finish();
    };
    if (ended === 0) {
      assert.throws(outcome, FormatError, `${sample.name}, cut at ${cut}`);
      continue;
    }
    const { epochs, status } = outcome();
    assert.deepEqual([epochs, status], [ended, cut >= sample.bytes.length ? "complete" : "failover"]);
    assertMemory(image, sample.memories[ended - 1], `${sample.name}, cut at ${cut}`);
  }
}

function assertMemory(
  image: MemoryImage,
  memory: ReadonlyMap<number, Uint8Array> | undefined,
  message: string,
): void {
  assert.ok(memory !== undefined, message);
  const pfns = new Set(memory.keys());
  for (const { pfn, count } of image.runs()) for (let at = 0; at < count; at++) pfns.add(pfn + at);
  const zero = new Uint8Array(4096);
  for (const pfn of pfns) {
    assert.ok(bytesEqual(image.page(pfn), memory.get(pfn) ?? zero), `${message}, page ${pfn}`);
  }
}

Deno.test("CheckpointReceiver yields the last committed epoch of a stream cut at any octet", () => {
  const size = { seed: 5, epochs: 3, batches: 1, entries: 3, pages: 50 };
  cutEverywhere(regionSample(size));
  cutEverywhere(libxcSample({ ...size, guest: "hvm" }));
  cutEverywhere(libxlSample({ ...size, guest: "hvm", colo: true }));
  cutEverywhere(libxlSample({ ...size, epochs: 0, guest: "hvm" }));
});

Deno.test("CheckpointReceiver yields the last committed epoch of cut streams of every shape", () => {
  const random = prng(7);
  const profiles = new Set<string>();
  for (const sample of allSamples(6)) {
    if (sample.profile === "legacy") continue;
    profiles.add(sample.profile);
    cutSomewhere(sample, random);
  }
  assert.deepEqual([...profiles].sort(), ["libxc", "libxl", "region", "xl"]);
});
