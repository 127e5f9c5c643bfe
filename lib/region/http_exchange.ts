/**
 * Requests over HTTP whose answers are bounded, asked again while the server is busy or gone.
 *
 * Invariants:
 * - A body is taken into a buffer that was there before, or not at all: what is longer is an error, and what is
 *   shorter is asked for again.
 * - Every body is read or cancelled.
 *
 * @module
 */
import { IoError } from "./backend.ts";
import { type Patience, patiently, TransientError } from "./patience.ts";

/** A request. It may be sent several times. */
export interface Exchange {
  /** Makes it, anew for each attempt. */
  make: () => Promise<Request> | Request;
  /** Statuses that are answers. */
  expect: readonly number[];
  /** What it does, for errors: "read", "write". */
  verb: string;
}

/** What came back. */
export interface Answer {
  /** One of those that were expected. */
  status: number;
  /** As the server said. */
  headers: Headers;
}

/** Statuses that pass. */
const transient: ReadonlySet<number> = new Set([408, 425, 429, 500, 502, 503, 504]);
/** Octets of an error's body that are looked at. */
const errorTextMax = 2048;

/**
 * Asks, and gives the body to `take`, which has to take all of it or cancel it.
 *
 * @throws {IoError} EPERM for 401 and 403, EIO for other statuses, ETIMEDOUT when there was no answer in time
 */
export async function exchange<T>(
  patience: Patience,
  { make, expect, verb }: Exchange,
  take: (answer: Answer, body: ReadableStream<Uint8Array> | null) => Promise<T>,
): Promise<T> {
  return await patiently(patience, async (signal) => {
    let response: Response;
    const request = await make();
    try {
      response = await fetch(request, signal === null ? {} : { signal });
    } catch (error) {
      throw new TransientError(`Cannot reach "${patience.where}"`, { cause: error });
    }
    const { status, headers, body } = response;
    if (expect.includes(status)) {
      try {
        return await take({ status, headers }, body);
      } finally {
        // All that is left of it, if it was not read to its end.
        await body?.cancel().catch(() => {});
      }
    }
    const said = await errorText(body);
    const message = `Cannot ${verb} "${patience.where}": the server said ${status}${said}`;
    if (transient.has(status)) throw new TransientError(message);
    throw new IoError(status === 401 || status === 403 ? "EPERM" : "EIO", message);
  });
}

/** Takes a body that has exactly the length of `into`. @throws {TransientError} when it ends early */
export async function takeBody(body: ReadableStream<Uint8Array> | null, into: Uint8Array): Promise<void> {
  const count = await takeAtMost(body, into);
  if (count < into.length) {
    throw new TransientError(`The answer ended after ${count} of ${into.length} bytes`);
  }
}

/** Takes a body of at most the length of `into`. @returns how long it is. @throws {IoError} when it is longer */
export async function takeAtMost(
  body: ReadableStream<Uint8Array> | null,
  into: Uint8Array,
): Promise<number> {
  let at = 0;
  if (body === null) return 0;
  try {
    for await (const piece of body.values({ preventCancel: true })) {
      if (piece.length > into.length - at) {
        throw new IoError("EIO", `The answer is longer than the ${into.length} bytes that were asked for`);
      }
      into.set(piece, at);
      at += piece.length;
    }
  } catch (error) {
    if (error instanceof IoError) throw error;
    throw new TransientError(`The answer broke off after ${at} bytes`, { cause: error });
  }
  return at;
}

/** What a server says of an error, shortened; nothing where it is no text. */
async function errorText(body: ReadableStream<Uint8Array> | null): Promise<string> {
  const bytes = new Uint8Array(errorTextMax);
  const size = await takeAtMost(body, bytes).catch(() => 0);
  await body?.cancel().catch(() => {});
  const text = new TextDecoder().decode(bytes.subarray(0, size));
  // S3 says it in two elements; of a page for people nothing is said.
  const [, code] = /<Code>([^<]{1,100})<\/Code>/.exec(text) ?? [];
  const [, message] = /<Message>([^<]{1,200})<\/Message>/.exec(text) ?? [];
  return code === undefined ? "" : ` (${code}${message === undefined ? "" : `: ${message}`})`;
}
