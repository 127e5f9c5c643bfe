import assert from "node:assert/strict";
import { ProgressReporter } from "../../lib/cli/progress.ts";
import { formatBytes, formatSeconds, formatTable } from "../../lib/cli/format.ts";

interface Fake {
  reporter: ProgressReporter;
  written: string[];
  /** Sets the clock, in milliseconds. */
  at(ms: number): void;
}

function fake(options: { isTerminal: boolean; columns: number }): Fake {
  let now = 0;
  const written: string[] = [];
  const reporter = new ProgressReporter({
    write: (text) => written.push(text),
    isTerminal: options.isTerminal,
    columns: () => options.columns,
    now: () => now,
  });
  return { reporter, written, at: (ms) => now = ms };
}

Deno.test("ProgressReporter draws bar, bytes, rate and time left over one line of a terminal", () => {
  const { reporter, written, at } = fake({ isTerminal: true, columns: 100 });
  reporter.event({ phase: "send", done: 0, total: 40_000_000, unit: "bytes" });
  at(1000);
  reporter.event({ phase: "send", done: 10_000_000, total: 40_000_000, unit: "bytes" });
  reporter.end();
  assert.deepEqual(written, [
    "\r\x1b[Ksend  [                    ]    0%  0 B of 40 MB",
    "\r\x1b[Ksend  [#####               ]   25%  10 MB of 40 MB  10 MB/s  3.00 s left",
    "\r\x1b[K",
  ]);
});

Deno.test("ProgressReporter draws at most ten times a second", () => {
  const { reporter, written, at } = fake({ isTerminal: true, columns: 80 });
  for (let ms = 0; ms < 1000; ms++) {
    at(ms);
    reporter.event({ phase: "pack", done: ms, total: 1000, unit: "entries" });
  }
  assert.equal(written.length, 10);
});

for (const columns of [0, 1, 2, 20]) {
  Deno.test(`ProgressReporter stays on one line of a terminal with ${columns} columns`, () => {
    const { reporter, written, at } = fake({ isTerminal: true, columns });
    reporter.event({ phase: "apply", done: 1, total: 3, unit: "entries" });
    at(2000);
    reporter.event({ phase: "apply", done: 2, total: 3, unit: "entries" });
    for (const text of written) {
      assert.doesNotMatch(text, /\n/);
      assert.ok(text.replace("\r\x1b[K", "").length < (columns === 0 ? 80 : Math.max(columns, 1)), text);
    }
  });
}

Deno.test("ProgressReporter writes a plain line every five seconds where there is no terminal", () => {
  const { reporter, written, at } = fake({ isTerminal: false, columns: 0 });
  for (let ms = 0; ms <= 12_000; ms += 500) {
    at(ms);
    reporter.event({ phase: "send", done: ms * 1000, total: 0, unit: "bytes" });
  }
  reporter.end();
  assert.deepEqual(written, ["drover: send  5.0 MB  1.0 MB/s\n", "drover: send  10 MB  1.0 MB/s\n"]);
});

Deno.test("ProgressReporter says nothing about work that is over in a moment, off a terminal", () => {
  const { reporter, written } = fake({ isTerminal: false, columns: 0 });
  reporter.event({ phase: "send", done: 5, total: 5, unit: "bytes" });
  reporter.end();
  assert.deepEqual(written, []);
});

Deno.test("ProgressReporter shows the newest phase that is not complete", () => {
  const { reporter, written, at } = fake({ isTerminal: true, columns: 80 });
  reporter.event({ phase: "pack", done: 1, total: 4, unit: "entries" });
  at(200);
  reporter.event({ phase: "send", done: 8, total: 8, unit: "bytes" });
  at(400);
  reporter.event({ phase: "send", done: 8, total: 9, unit: "bytes" });
  assert.deepEqual(written.map((text) => text.slice(4, 8)), ["pack", "pack", "send"]);
});

Deno.test("formatBytes() keeps two digits and rounds up to the next unit", () => {
  assert.deepEqual(
    [0, 999, 1000, 9_949, 9_950, 999_499, 999_500, 1_500_000_000, 2e15].map(formatBytes),
    ["0 B", "999 B", "1.0 kB", "9.9 kB", "10 kB", "999 kB", "1.0 MB", "1.5 GB", "2000 TB"],
  );
});

Deno.test("formatSeconds() goes from hundredths to hours", () => {
  assert.deepEqual([0, 0.051, 12.4, 99.6, 3599, 7500].map(formatSeconds), [
    "0.00 s",
    "0.05 s",
    "12 s",
    "1 min 40 s",
    "59 min 59 s",
    "2 h 5 min",
  ]);
});

Deno.test("formatTable() pads to the widest cell and sets chosen columns right", () => {
  assert.deepEqual(formatTable([["hop", "bytes"], ["A->B", "7"]], [1]), ["hop   bytes", "A->B      7"]);
});
