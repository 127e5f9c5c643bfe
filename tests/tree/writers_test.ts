/**
 * Goal: programs go on while versions are made. Each version holds what its directory showed when it was made, and what
 * is written later is in the next one. Method: files held open, rotated, unlinked, mapped, or written by another process during
 * commits; versions are compared with plain copies by sending them to a tree of their own.
 */
import assert from "node:assert/strict";
import { DroverError } from "../../lib/base/errors.ts";
import { assertSame, has, plainCopy, Scratch, type Setup, setups, sh } from "./scratch.ts";

const tools = has("rsync", "getfattr");

function test(name: string, needs: boolean, work: (scratch: Scratch, setup: Setup) => Promise<void>): void {
  for (const setup of setups) {
    Deno.test({
      name: `commit() of a ${setup} tree ${name}`,
      ignore: !tools || !needs,
      fn: async () => {
        await using scratch = new Scratch();
        scratch.mkdir("tree");
        await work(scratch, setup);
      },
    });
  }
}

/** Commits, keeps a copy of what the directory shows, and compares what another tree gets with it. */
class Story {
  readonly #scratch: Scratch;
  readonly #setup: Setup;
  readonly versions: string[] = [];

  constructor(scratch: Scratch, setup: Setup) {
    this.#scratch = scratch;
    this.#setup = setup;
  }

  async begin(script: string): Promise<void> {
    await this.run(script);
    await this.#scratch.init("tree", this.#setup);
    await plainCopy(this.#scratch.path("tree"), this.#scratch.path("v0"));
    this.versions.push(await this.#scratch.with("tree", (tree) => Promise.resolve(tree.resolve("head"))));
    await this.#scratch.transfer("tree", "receiver", { setup: this.#setup });
  }

  async run(script: string): Promise<void> {
    await sh(this.#scratch.path("tree"), script);
  }

  /** Nobody writes while this runs. */
  async commit(): Promise<void> {
    const at = this.versions.length;
    await plainCopy(this.#scratch.path("tree"), this.#scratch.path(`v${at}`));
    this.versions.push(await this.#scratch.commit("tree"));
    await assertSame(this.#scratch.path(`v${at}`), this.#scratch.path("tree"), `after commit ${at}`);
    assert.deepEqual(await this.#scratch.changes("tree"), [], `uncommitted after commit ${at}`);
    await this.#scratch.transfer("tree", "receiver");
    await assertSame(
      this.#scratch.path(`v${at}`),
      this.#scratch.path("receiver"),
      `receiver at version ${at}`,
    );
  }

  /** With nothing open any more: every version again. */
  async end(): Promise<void> {
    for (const at of [...this.versions.keys(), this.versions.length - 1]) {
      await this.#scratch.checkout("tree", this.versions[at] ?? "");
      await assertSame(this.#scratch.path(`v${at}`), this.#scratch.path("tree"), `checkout of ${at}`);
    }
    await this.#scratch.verify("tree");
    await this.#scratch.gc("tree", 1);
    await this.#scratch.deinit("tree");
    await assertSame(
      this.#scratch.path(`v${this.versions.length - 1}`),
      this.#scratch.path("tree"),
      "deinit",
    );
  }
}

const text = new TextEncoder();

test(
  "takes a copy while a file is open for writing, and what comes later is in later versions",
  true,
  async (scratch, setup) => {
    const story = new Story(scratch, setup);
    await story.begin(
      `echo 0 > log; echo a > a; echo b > b; mkdir -p d/e; echo x > d/x; echo y > d/e/y; ln a hard; mkdir gone; echo g > gone/g
    head -c 200000 /dev/urandom > big; ln big big2; mkdir moved; echo m > moved/m`,
    );
    {
      using log = Deno.openSync(scratch.path("tree/log"), { append: true });
      log.writeSync(text.encode("one\n"));
      await story.run(
        "echo more >> a; rm b; chmod 600 big; mv moved moved1; rm -r gone; mkdir gone; echo n > gone/n; echo c > c",
      );
      await story.commit();
      log.writeSync(text.encode("two\n"));
      await story.run(
        "rm a c; rm -r d; mv moved1 moved2; echo tail >> big2; echo late > gone/late; chmod 755 gone",
      );
      assert.ok((await scratch.changes("tree")).length > 5);
      await story.commit();
      await story.run("mkdir d; echo new > d/new; rm hard; rm -r gone");
      await story.commit();
      log.writeSync(text.encode("three\n"));
    }
    await story.commit();
    await story.run("echo four >> log; mv log log.1; echo c > c");
    await story.commit();
    await story.end();
  },
);

test("keeps a log that is rotated while its writer goes on", true, async (scratch, setup) => {
  const story = new Story(scratch, setup);
  await story.begin("echo 0 > log; echo 9 > log.1");
  {
    using log = Deno.openSync(scratch.path("tree/log"), { append: true });
    log.writeSync(text.encode("one\n"));
    await story.run("mv log.1 log.2; mv log log.1; : > log");
    log.writeSync(text.encode("still into the old one\n"));
    await story.commit();
    using next = Deno.openSync(scratch.path("tree/log"), { append: true });
    next.writeSync(text.encode("into the new one\n"));
    log.writeSync(text.encode("last\n"));
    await story.commit();
    await story.run("gzip -n log.2; mv log.1 log.2; mv log log.1; echo 3 > log");
    next.writeSync(text.encode("behind\n"));
    await story.commit();
  }
  await story.run("cp log.1 copy; : > log.1");
  await story.commit();
  await story.end();
});

test("does not keep a file that is open but unlinked", true, async (scratch, setup) => {
  const story = new Story(scratch, setup);
  await story.begin("echo 0 > old; echo 1 > kept");
  {
    using old = Deno.openSync(scratch.path("tree/old"), { write: true });
    using fresh = Deno.openSync(scratch.path("tree/fresh"), { write: true, create: true });
    await story.run("rm old fresh; echo more >> kept");
    old.writeSync(text.encode("nobody sees this\n"));
    fresh.writeSync(text.encode("nor this\n"));
    await story.commit();
    old.writeSync(text.encode("again\n"));
    await story.run("echo anew > old");
    await story.commit();
  }
  await story.run("echo end >> old");
  await story.commit();
  await story.end();
});

test("goes on while files are open for reading", true, async (scratch, setup) => {
  const story = new Story(scratch, setup);
  await story.begin(
    "for f in a b c; do echo $f > $f; ln $f $f.hard; done; mkdir d; echo d > d/d; head -c 100000 /dev/zero > z; ln z z2",
  );
  {
    using reader = Deno.openSync(scratch.path("tree/a"));
    using directory = Deno.openSync(scratch.path("tree/d"));
    assert.ok(directory.statSync().isDirectory);
    await story.run("echo more >> a; mv d e; chmod 600 z");
    await story.commit();
    await story.run("echo more >> b; rm a; mv e f; echo y >> z2; rm z; chmod 600 c.hard");
    await story.commit();
    await story.run("echo more >> b.hard; echo z > c; ln c c3; mv f d");
    await story.commit();
    const bytes = new Uint8Array(10);
    assert.equal(new TextDecoder().decode(bytes.subarray(0, reader.readSync(bytes) ?? 0)).slice(0, 2), "a\n");
  }
  await story.run("echo more >> b.hard; rm c3");
  await story.commit();
  await story.end();
});

/** A program that maps a file and writes to it when it is told to, with its descriptor closed. */
const mapper = `import ctypes, os, sys
c = ctypes.CDLL(None); c.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + 3 * [ctypes.c_int] + [ctypes.c_long]
c.mmap.restype = ctypes.c_void_p
f = os.open("mapped", os.O_RDWR); m = c.mmap(None, 20000, 3, 1, f, 0); os.close(f); print("ready", flush=True)
for line in sys.stdin:
    at, value = line.split(); ctypes.memmove(m + int(at), value.encode(), len(value)); print("done", flush=True)
`;

/** A python program of which each line of input is answered by a line. */
class Dialogue implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;
  readonly #input: WritableStreamDefaultWriter<Uint8Array>;
  readonly #output: ReadableStreamDefaultReader<string>;
  #pending = "";

  constructor(cwd: string, program: string) {
    this.#child = new Deno.Command("python3", { args: ["-c", program], cwd, stdin: "piped", stdout: "piped" })
      .spawn();
    this.#input = this.#child.stdin.getWriter();
    this.#output = this.#child.stdout.pipeThrough(new TextDecoderStream()).getReader();
  }

  /** Waits for the next answer: a whole line, however the pipe cuts it. */
  async answer(): Promise<string> {
    for (;;) {
      const end = this.#pending.indexOf("\n") + 1;
      if (end > 0) {
        const line = this.#pending.slice(0, end);
        this.#pending = this.#pending.slice(end);
        return line;
      }
      const { value, done } = await this.#output.read();
      if (done) throw new Error("python3 ended");
      this.#pending += value;
    }
  }

  async say(line: string): Promise<void> {
    await this.#input.write(text.encode(`${line}\n`));
    await this.answer();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#input.close();
    while (!(await this.#output.read()).done);
    await this.#child.status;
  }
}

test("sees what is written through a memory map", has("python3"), async (scratch, setup) => {
  const story = new Story(scratch, setup);
  await story.begin("head -c 20000 /dev/zero > mapped; echo x > other");
  {
    await using program = new Dialogue(scratch.path("tree"), mapper);
    await program.answer();
    for (let round = 1; round <= 4; round++) {
      // Always the same page: the file's times change with the first write after a flush only.
      await program.say(`${100 * round} first${round}`);
      await new Promise((resolve) => setTimeout(resolve, 60));
      assert.deepEqual(await scratch.changes("tree"), ["modified mapped"], `round ${round}`);
      await program.say(`${100 * round} again${round}`);
      await story.commit();
      await new Promise((resolve) => setTimeout(resolve, 60));
    }
    await program.say("7000 last");
  }
  await story.commit();
  await story.end();
});

const database = `import sqlite3, sys, threading
db = sqlite3.connect("db", check_same_thread=False, isolation_level=None)
db.execute("PRAGMA journal_mode=WAL"); db.execute("CREATE TABLE IF NOT EXISTS t (n INTEGER, s TEXT)")
stop = threading.Event()
def write():
    n = 0
    while not stop.is_set():
        db.execute("INSERT INTO t VALUES (?, ?)", (n, "x" * 200)); n += 1
        if n % 40 == 0: db.execute("PRAGMA wal_checkpoint(PASSIVE)")
        stop.wait(0.01)
thread = threading.Thread(target=write); thread.start()
print("ready", flush=True)
for line in sys.stdin: print("done", flush=True)
stop.set(); thread.join(); print(db.execute("SELECT count(*) FROM t").fetchone()[0], flush=True)
`;

test("makes versions of a database while it is written", has("python3"), async (scratch, setup) => {
  const story = new Story(scratch, setup);
  await story.begin("echo x > other");
  {
    await using program = new Dialogue(scratch.path("tree"), database);
    await program.answer();
    for (let round = 0; round < 6; round++) {
      await scratch.commit("tree");
      await scratch.transfer("tree", "receiver");
      assert.deepEqual(await scratch.changes("receiver"), []);
      await scratch.verify("receiver");
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }
  await story.run("sync .");
  await story.commit();
  const count =
    `python3 -c 'import sqlite3; print(sqlite3.connect("db").execute("PRAGMA integrity_check").fetchone()[0])'`;
  assert.equal(await sh(scratch.path("receiver"), count), "ok\n");
});

test("leaves a process where it works", true, async (scratch, setup) => {
  const story = new Story(scratch, setup);
  await story.begin("mkdir d; echo 0 > d/f");
  {
    await using program = new Dialogue(
      scratch.path("tree/d"),
      `import sys
print("ready", flush=True)
for line in sys.stdin:
    open("f", "a").write(line); print("done", flush=True)
`,
    );
    await program.answer();
    for (const line of ["one", "two", "three"]) {
      await program.say(line);
      await story.commit();
    }
  }
  await story.run("echo end >> d/f");
  await story.commit();
  await story.end();
});

const churn = `set +e; i=0; while [ ! -e "$STOP" ]; do i=$((i+1)); n=$((i % 20))
  case $((i % 7)) in
    0) echo $i >> f$n ;; 1) rm -f f$n ;; 2) echo $i > t; mv t f$n ;; 3) mkdir -p d$n; echo $i > d$n/f ;; 4) rm -rf d$n ;;
    5) mv f$n g$n ;; 6) truncate -s $i f$n; ln -f f$n h$n ;;
  esac 2>/dev/null; [ $((i % 3)) -ne 0 ] || sleep 0.002; done; :`;

test("never mixes up files that are written, renamed and removed meanwhile", true, async (scratch, setup) => {
  const story = new Story(scratch, setup);
  await story.begin("for i in $(seq 0 19); do echo $i > f$i; mkdir d$i; echo $i > d$i/f; done");
  const running = sh(scratch.path("tree"), churn, { STOP: scratch.path("stop") });
  let made = 0;
  try {
    for (let round = 0; round < 12; round++) {
      try {
        await scratch.commit("tree");
        made++;
      } catch (error) {
        // A file that does not stand still is named, nothing else may happen.
        assert.ok(error instanceof DroverError && error.code === "busy", String(error));
      }
    }
  } finally {
    Deno.writeTextFileSync(scratch.path("stop"), "");
    await running;
  }
  assert.ok(made > 0);
  await scratch.verify("tree");
  await story.commit();
  await scratch.verify("receiver");
});
