import assert from "node:assert/strict";
import { errorField, formatLog, logShows, valueLengthMax } from "../../lib/base/log.ts";

const entry = { timeMs: 1_000, level: "warn", event: "lease.ended" } as const;
const start = "1970-01-01T00:00:01.000Z";

Deno.test("formatLog() writes text that splits at blanks, and quotes what would not", () => {
  const fields = {
    lease: 3,
    ok: true,
    none: null,
    left: undefined,
    address: "[::1]:7707",
    why: "too late",
    empty: "",
  };
  assert.equal(
    formatLog({ ...entry, fields }, "text"),
    `${start} warn lease.ended lease=3 ok=true none=null address=[::1]:7707 why="too late" empty=""`,
  );
});

Deno.test("formatLog() writes one line per event, whatever a peer has put into a field", () => {
  const hostile = 'a\nb\r\u001b[2J"=\u0085\u009b31m\u2028\u2029\u007f\ud800 level=error';
  for (const format of ["text", "json"] as const) {
    const line = formatLog({ ...entry, fields: { peer: hostile } }, format);
    // deno-lint-ignore no-control-regex
    assert.doesNotMatch(line, /[\x00-\x1f\x7f-\x9f\u2028\u2029]/);
    assert.equal(new TextDecoder().decode(new TextEncoder().encode(line)), line, "no lone surrogate");
    if (format === "json") assert.equal(JSON.parse(line).peer, hostile);
  }
});

Deno.test("formatLog() lets no field pretend to be the event", () => {
  const line = formatLog(
    { ...entry, fields: { event: "x", level: "debug", time: "never", size: 1 } },
    "json",
  );
  assert.deepEqual(JSON.parse(line), { time: start, level: "warn", event: "lease.ended", size: 1 });
});

Deno.test("formatLog() cuts long values", () => {
  const line = formatLog({ ...entry, fields: { text: "x".repeat(10_000) } }, "json");
  assert.equal(JSON.parse(line).text.length, valueLengthMax);
});

Deno.test("logShows() shows what is as grave or graver", () => {
  const shown = (["error", "warn", "info", "debug"] as const).filter((level) => logShows("warn", level));
  assert.deepEqual(shown, ["error", "warn"]);
});

Deno.test("errorField() names causes, once, and ends where they go in a circle", () => {
  const inner = new Error("no route");
  const outer = new Error("Cannot connect", { cause: inner });
  assert.equal(errorField(outer), "Cannot connect: no route");
  inner.cause = outer;
  assert.equal(errorField(outer), "Cannot connect: no route");
});
