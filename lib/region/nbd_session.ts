/**
 * The connections of one NBD backend, and what happens when they end: they are opened again, and what was under
 * way is asked again.
 *
 * ```text
 *   connected --(a connection ends, or stands still for stallMs)--> lost --(somebody asks)--> dialling
 *      ^                                                                                        |
 *      '---- what was written and not flushed is written again ---- all are there again <-------'
 * ```
 *
 * Invariants:
 * - Connections live and die together: after a loss no request passes another generation's. So the order of
 *   changes that overlap is that in which they were answered.
 * - A request is answered, refused by the server, or rejected (ETIMEDOUT) within `timeoutMs`. Until then it may be
 *   sent several times: reading, writing, zeroing, trimming and flushing may be done twice.
 * - A buffer is asked about again only when the connection that had it has ended: nothing of it is touched then.
 * - What was answered and not flushed is kept (`ReplayLog`), at most `replaySizeMax` octets; a flush makes room.
 *   A restarted server gets it before anything else. If it refuses that, the next flush fails, once.
 * - With a `timeoutMs` of 0 nothing is kept and nothing opened again: the first loss is the last word.
 * - Timers run only while something is under way.
 *
 * What it cannot exclude: a server that is cut off, not dead, may still carry out a write of the lost connection
 * after the same write, and later ones, came by the new one. Servers see the end of a connection at once unless the
 * network eats it; `qemu` and the kernel's client have the same gap.
 *
 * @module
 */
import { DroverError } from "../base/errors.ts";
import { NbdClient, NbdError, type NbdExportInfo, type NbdTransport } from "../nbd/mod.ts";
import { IoError } from "./backend.ts";
import { type NbdChange, ReplayLog } from "./nbd_replay.ts";
import { within } from "./patience.ts";

/** How a session behaves. */
export interface NbdSessionOptions {
  /** For errors. */
  where: string;
  /** The export. */
  name: string;
  /** Connections, where the server allows several. */
  connections: number;
  /** Opens a transport; `signal` gives up. */
  dial: (signal: AbortSignal) => Promise<NbdTransport>;
  /** Starts TLS on a transport; `use` gets what is to be closed from then on, before anything has passed. */
  startTls: ((transport: NbdTransport, use: (inner: NbdTransport) => void) => Promise<void>) | null;
  /** Milliseconds that a request may take, losses and all; 0 never connects again. */
  timeoutMs: number;
}

/** Octets that are kept for a server that may forget them; at half of it a flush is sent. */
const replaySizeMax = 64 * 2 ** 20;
/** Changes that are sent again at once. */
const replayParallel = 16;
/** A connection attempt may take this, in milliseconds. */
const attemptMsMax = 10_000;
/** Waits between attempts, in milliseconds: the first, and the longest. */
const [pauseMsMin, pauseMsMax] = [50, 2000];

/** A transport that says how much has passed. */
class CountedTransport implements NbdTransport {
  /** Octets in both directions. */
  count = 0;
  inner: NbdTransport;

  constructor(inner: NbdTransport) {
    this.inner = inner;
  }

  async read(buffer: Uint8Array): Promise<number | null> {
    const count = await this.inner.read(buffer);
    this.count += count ?? 0;
    return count;
  }

  async write(bytes: Uint8Array): Promise<number> {
    const count = await this.inner.write(bytes);
    this.count += count;
    return count;
  }

  close(): void {
    this.inner.close();
  }
}

/** One connection of a generation. */
interface Line {
  client: NbdClient;
  transport: CountedTransport;
  /** Requests under way. */
  busy: number;
  /** What had passed, and when that was seen first. */
  seen: number;
  seenAt: number;
}

/** A request under way. */
interface Pending {
  /** When it has to be over. */
  until: number;
  /** It is. */
  isLate: boolean;
  line: Line | null;
  /** Ends its waiting for a connection. */
  wake: (() => void) | null;
}

/** Connections that come again. */
export class NbdSession {
  /** What the server says of the export. */
  readonly info: NbdExportInfo;
  readonly #options: NbdSessionOptions;
  /** Nothing passes for so long: it stands still. Longer after each time, because it may only be slow. */
  #stallMs: number;
  readonly #log = new ReplayLog();
  readonly #pending = new Set<Pending>();
  #lines: readonly Line[];
  #next = 0;
  /** Under way to new connections. */
  #reaching: Promise<void> | null = null;
  #lastFailure: unknown = null;
  /** The next flush fails with it. */
  #lostWrites: unknown = null;
  #room: Promise<void> | null = null;
  #timer: ReturnType<typeof setInterval> | undefined;
  #ended: DroverError | null = null;
  readonly #stop = new AbortController();

  private constructor(options: NbdSessionOptions, lines: readonly Line[], info: NbdExportInfo) {
    this.#options = options;
    this.#stallMs = options.timeoutMs / 3;
    this.#lines = lines;
    this.info = info;
  }

  /** Connects, once. @throws {DroverError} "disconnected" when nobody answers, and what the server refuses */
  static async open(options: NbdSessionOptions): Promise<NbdSession> {
    const lines = await within(attemptMsMax, null, (signal) => connectAll(options, signal, null));
    const [first] = lines;
    if (first === undefined) throw new Error("A session without a connection");
    return new NbdSession(options, lines, first.client.info);
  }

  /** Whether the server says this of the export. */
  has(flag: Parameters<NbdClient["has"]>[0]): boolean {
    return this.#lines[0]?.client.has(flag) ?? false;
  }

  /** Asks, as often as it takes. @param change what it changes, if anything */
  async run<T>(ask: (client: NbdClient) => Promise<T>, change: NbdChange | null = null): Promise<T> {
    const { timeoutMs } = this.#options;
    if (timeoutMs === 0) return await ask(this.#pick().client);
    const pending: Pending = { until: now() + timeoutMs, isLate: false, line: null, wake: null };
    this.#pending.add(pending);
    this.#watch();
    try {
      if (change !== null && this.#log.size >= replaySizeMax / 2) await this.#makeRoom();
      for (;;) {
        const line = this.#ready() ?? await this.#line(pending);
        pending.line = line;
        if (line.busy++ === 0) this.#look(line, true);
        try {
          const result = await ask(line.client);
          if (change !== null && this.#keeps) this.#log.add(change);
          this.#stallMs = timeoutMs / 3;
          return result;
        } catch (error) {
          if (!isLoss(line.client, error)) throw error;
          this.#lastFailure = error;
          this.#drop(error);
          await line.client.ended;
          if (pending.isLate) throw this.#late();
          if (this.#ended !== null) throw this.#ended;
        } finally {
          line.busy--;
          pending.line = null;
        }
      }
    } finally {
      this.#pending.delete(pending);
    }
  }

  /** Makes durable what was answered. */
  async flush(): Promise<void> {
    const lost = this.#lostWrites;
    this.#lostWrites = null;
    if (lost !== null) throw lost;
    const mark = this.#log.mark();
    await this.run((client) => client.flush());
    if (this.#lostWrites !== null) return await this.flush();
    this.#log.forget(mark);
  }

  /** Ends the connections at once; what is under way fails, and everything later. */
  abandon(reason?: unknown): void {
    const error = reason instanceof DroverError
      ? reason
      : new DroverError("disconnected", `The connection to "${this.#options.where}" was given up`, {
        cause: reason,
      });
    this.#end(error);
    for (const { client } of this.#lines) client.abandon(error);
  }

  /** Finishes what is under way and says goodbye. */
  async close(): Promise<void> {
    const isLost = this.#lines.some(({ client }) => client.failure !== null);
    this.#end(new DroverError("disconnected", `The connection to "${this.#options.where}" is closed`));
    await this.#reaching?.catch(() => {});
    if (isLost) { for (const { client } of this.#lines) client.abandon(); }
    await Promise.all(this.#lines.map(({ client }) => client.close()));
    clearInterval(this.#timer);
    this.#timer = undefined;
  }

  /** Whether changes are worth keeping: the server has a cache that it can lose. */
  get #keeps(): boolean {
    return this.has("sendFlush");
  }

  #end(error: DroverError): void {
    if (this.#ended !== null) return;
    this.#ended = error;
    this.#stop.abort(error);
    for (const pending of this.#pending) pending.wake?.();
  }

  #pick(): Line {
    this.#next = (this.#next + 1) % this.#lines.length;
    const line = this.#lines[this.#next];
    if (line === undefined) throw new Error("A session without a connection");
    return line;
  }

  /** A connection that works, if there is one. */
  #ready(): Line | null {
    if (this.#ended !== null || this.#reaching !== null) return null;
    const line = this.#pick();
    return line.client.failure === null ? line : null;
  }

  /** A connection that works, as soon as there is one. */
  async #line(pending: Pending): Promise<Line> {
    for (;;) {
      if (this.#ended !== null) throw this.#ended;
      if (pending.isLate) throw this.#late();
      if (this.#reaching === null) {
        const line = this.#pick();
        if (line.client.failure === null) return line;
        this.#drop(line.client.failure);
        this.#reaching = this.#reach().finally(() => this.#reaching = null);
      }
      // Each failure of it is the failure of who waits for it.
      const woken = new Promise<void>((resolve) => pending.wake = resolve);
      try {
        await Promise.race([this.#reaching, woken]);
      } finally {
        pending.wake = null;
      }
    }
  }

  /** One connection is gone, so all are. */
  #drop(reason: unknown): void {
    for (const { client } of this.#lines) client.abandon(reason);
  }

  /** Connects again while somebody waits for it. @throws {IoError} when what is there now is something else */
  async #reach(): Promise<void> {
    await Promise.all(this.#lines.map(({ client }) => client.ended));
    for (let pause = pauseMsMin; this.#ended === null && this.#pending.size > 0;) {
      try {
        const attemptMs = Math.min(attemptMsMax, Math.max(this.#options.timeoutMs / 3, 100));
        const lines = await within(
          attemptMs,
          this.#stop.signal,
          (signal) => connectAll(this.#options, signal, this.info),
        );
        this.#lines = lines;
        await this.#writeAgain();
        if (lines.every(({ client }) => client.failure === null)) return;
      } catch (error) {
        if (error instanceof ChangedError) throw error;
        this.#lastFailure = error;
      }
      if (this.#ended !== null) break;
      // Many clients of one server that has come back do not all knock at once.
      await this.#sleep(pause * (0.5 + Math.random()));
      pause = Math.min(pause * 2, pauseMsMax, Math.max(pauseMsMin, this.#options.timeoutMs / 10));
    }
    if (this.#ended !== null) throw this.#ended;
  }

  /** Gives the server what it may have forgotten. */
  async #writeAgain(): Promise<void> {
    const line = this.#pick();
    line.busy++;
    this.#look(line, true);
    try {
      await this.#log.replay((change) => apply(line.client, change), replayParallel);
    } catch (error) {
      if (isLoss(line.client, error)) {
        this.#drop(error);
        throw error;
      }
      this.#lostWrites = new IoError(
        "EIO",
        `Cannot make durable what was written to "${this.#options.where}": it was restarted and refuses it`,
        { cause: error },
      );
      this.#log.forget(this.#log.mark());
    } finally {
      line.busy--;
    }
  }

  /** Waits while too much is kept; a flush of its own makes it less. */
  async #makeRoom(): Promise<void> {
    if (!this.#keeps) return;
    this.#room ??= this.flush().catch((error) => {
      // Its caller is nobody: whoever flushes next hears of it.
      this.#lostWrites ??= error;
      this.#log.forget(this.#log.mark());
    }).finally(() => this.#room = null);
    if (this.#log.size >= replaySizeMax) await this.#room;
  }

  /** Looks after what is under way, a few times within the time that it has. */
  #watch(): void {
    if (this.#timer !== undefined) return;
    const everyMs = Math.min(1000, Math.max(10, this.#options.timeoutMs / 12));
    this.#timer = setInterval(() => {
      if (this.#pending.size === 0) {
        clearInterval(this.#timer);
        this.#timer = undefined;
        return;
      }
      const time = now();
      for (const pending of this.#pending) {
        if (pending.until > time || pending.isLate) continue;
        pending.isLate = true;
        pending.wake?.();
        // Its buffer is free when the connection is gone.
        if (pending.line !== null) this.#drop(this.#late());
      }
      for (const line of this.#lines) {
        if (line.busy > 0 && this.#look(line, false) > this.#stallMs) {
          this.#stallMs *= 2;
          this.#drop(
            new DroverError("disconnected", `Nothing came from "${this.#options.where}" for a while`),
          );
        }
      }
    }, everyMs);
  }

  /** For how many milliseconds nothing has passed. @param isNew it was idle before */
  #look(line: Line, isNew: boolean): number {
    const time = now();
    const { count } = line.transport;
    if (isNew || count !== line.seen) {
      line.seen = count;
      line.seenAt = time;
    }
    return time - line.seenAt;
  }

  async #sleep(ms: number): Promise<void> {
    if (this.#stop.signal.aborted) return;
    await new Promise<void>((resolve) => {
      const done = (): void => {
        clearTimeout(timer);
        this.#stop.signal.removeEventListener("abort", done);
        resolve();
      };
      const timer = setTimeout(done, ms);
      this.#stop.signal.addEventListener("abort", done);
    });
  }

  #late(): IoError {
    const { where, timeoutMs } = this.#options;
    return new IoError("ETIMEDOUT", `No answer from "${where}" within ${timeoutMs / 1000} s`, {
      code: "disconnected",
      cause: this.#lastFailure,
    });
  }
}

/** The server is there again, and offers something else. */
class ChangedError extends IoError {}

/** Opens as many connections as are wanted and allowed. */
async function connectAll(
  options: NbdSessionOptions,
  signal: AbortSignal,
  before: NbdExportInfo | null,
): Promise<Line[]> {
  const { where, name, startTls, connections } = options;
  const lines: Line[] = [];
  let opening: CountedTransport | null = null;
  const giveUp = (): void => {
    try {
      opening?.close();
    } catch {
      // It is closed.
    }
  };
  signal.addEventListener("abort", giveUp);
  try {
    do {
      const transport: CountedTransport = new CountedTransport(await options.dial(signal));
      opening = transport;
      if (signal.aborted) throw signal.reason;
      const client = await NbdClient.connect(transport, {
        name,
        ...(startTls === null ? {} : {
          startTls: async () => {
            await startTls(transport.inner, (inner) => transport.inner = inner);
            return transport;
          },
        }),
      });
      lines.push({ client, transport, busy: 0, seen: 0, seenAt: 0 });
      opening = null;
    } while (lines.length < connections && lines[0]?.client.has("canMultiConn"));
    const was = before ?? lines[0]?.client.info;
    for (const { client: { info } } of lines) {
      if (
        info.size === was?.size && info.flags === was.flags && info.minimumBlockSize <= was.minimumBlockSize
      ) continue;
      throw new ChangedError(
        "EIO",
        before === null
          ? `Cannot use "${where}": it tells each connection something else`
          : `Cannot go on with "${where}": it is another export now, of ${info.size} bytes, and had ${was?.size}`,
      );
    }
    return lines;
  } catch (error) {
    giveUp();
    for (const { client } of lines) client.abandon(error);
    if (signal.aborted && !(error instanceof DroverError && error.code !== "disconnected")) {
      throw new IoError("ETIMEDOUT", `Cannot connect to "${where}": no answer in time`, {
        code: "disconnected",
        cause: error,
      });
    }
    throw error;
  } finally {
    signal.removeEventListener("abort", giveUp);
  }
}

async function apply(client: NbdClient, change: NbdChange): Promise<void> {
  const { offset, length } = change;
  switch (change.kind) {
    case "write":
      return await client.writeAt(offset, change.bytes);
    case "zero":
      return await client.zero(offset, length, { allocate: change.allocate });
    case "trim":
      return await client.trim(offset, length);
  }
}

/** Whether the connection is gone, and it is not the server that answered. */
function isLoss(client: NbdClient, error: unknown): boolean {
  if (error instanceof NbdError) {
    if (error.errno !== "ESHUTDOWN") return false;
    // It is about to end; the next one will know.
    client.abandon(error);
    return true;
  }
  if (client.failure === null) return false;
  // What it sent was no NBD: it would send that again.
  return !(error instanceof DroverError && error.code === "format");
}

function now(): number {
  return performance.now();
}
