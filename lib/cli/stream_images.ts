/**
 * What the stream commands that look at contents share: the items of an input, and its memory image at an epoch.
 *
 * @module
 */
import { DroverError, FormatError } from "../base/errors.ts";
import type {
  CheckpointOutcome,
  ImageStore,
  PlacedItem,
  ReceivedItem,
  StreamDigest,
  StreamReader,
} from "../stream/mod.ts";
import type { StreamInput } from "./stream_files.ts";

/** The functions of the stream room. */
export type Stream = typeof import("../stream/mod.ts");

/** Takes how many octets of how many were read; null where nobody knows. */
export type Report = (done: number, total: number | null) => void;

/** Reads large bodies right into their place when at least this much of one is missing. */
const directSize = 1 << 16;

/** At most this much of a body at a time, so that progress is seen. */
const directSizeMax = 1 << 22;

/** The items of a stream, one after the other. @throws what the reader throws. */
export function* itemsOf(
  input: StreamInput,
  reader: StreamReader,
  report: Report,
): Generator<PlacedItem, void, undefined> {
  for (;;) {
    const room = reader.openBody();
    if (room.length >= directSize) {
      const count = input.read(room.subarray(0, directSizeMax));
      if (count === 0) break;
      reader.filledBody(count);
    } else {
      const chunk = input.next();
      if (chunk === null) break;
      reader.push(chunk);
    }
    for (let item = reader.next(); item !== null; item = reader.next()) yield item;
    report(input.offset, input.size);
  }
  reader.finish();
  for (let item = reader.next(); item !== null; item = reader.next()) yield item;
}

/** What reading an image came to. */
export interface ImageResult {
  profile: string;
  /** The epoch that the image is at. */
  epoch: number;
  status: CheckpointOutcome["status"];
  /** Items behind the last commit point. */
  dropped: number;
  /** What broke the stream behind it. */
  cause: unknown;
  /** Pages that the sender wanted compared, and how many differed. */
  compared: number;
  mismatches: number;
}

/**
 * Reads the memory that a stream describes.
 *
 * @param options `image` takes the committed pages, `scratch` those of an epoch that is not; `epoch`: where to stop, the
 * last one without it.
 * @throws {FormatError} when no epoch is committed. {DroverError} `unknown-version` for an epoch that is not there.
 */
export function readImage(
  options: {
    stream: Stream;
    input: StreamInput;
    image: ImageStore;
    scratch: ImageStore;
    epoch?: number | undefined;
    newDigest: () => StreamDigest;
    report: Report;
  },
): ImageResult {
  const { stream, input, image, scratch, epoch } = options;
  const target = new stream.ImageTarget({ image, scratch });
  // An epoch is held on disk, so that its size needs no bound of its own.
  const receiver = new stream.CheckpointReceiver({ target, epochSizeMax: Infinity });
  // A batch is in its place before the next one is read, so all of them may use the same memory.
  let memory = new Uint8Array(0);
  const allocate = (size: number): Uint8Array<ArrayBuffer> => {
    if (memory.length < size) memory = new Uint8Array(size);
    return memory.subarray(0, size);
  };
  const reader = new stream.StreamReader({ digest: options.newDigest, allocate });
  const items = modernItems({ stream, items: itemsOf(input, reader, options.report) });
  const done = (): boolean => epoch !== undefined && receiver.epochs >= epoch;
  let outcome: CheckpointOutcome | null = null;
  try {
    for (const item of items) {
      receiver.take(item);
      if (done()) break;
    }
  } catch (error) {
    // The stream may break and leave an epoch to fall back to. A full disk is no news of the stream.
    if (!(error instanceof FormatError)) throw error;
    outcome = receiver.fail(error);
  }
  if (done()) outcome = { status: "complete", epochs: receiver.epochs, dropped: 0, cause: undefined };
  outcome ??= receiver.finish();
  if (epoch !== undefined && outcome.epochs < epoch) {
    throw new DroverError(
      "unknown-version",
      `Cannot extract epoch ${epoch}: the stream has ${outcome.epochs}, of which the last is complete`,
      { cause: outcome.cause },
    );
  }
  return {
    profile: reader.profile ?? "unknown",
    epoch: outcome.epochs,
    status: outcome.status,
    dropped: outcome.dropped,
    cause: outcome.cause,
    ...target.verified,
  };
}

/** The items as a receiver takes them: those of a legacy stream converted, the others as they are. */
export function* modernItems(
  options: { stream: Stream; items: Iterable<PlacedItem> },
): Generator<ReceivedItem, void, undefined> {
  const { stream, items } = options;
  let converter: InstanceType<Stream["LegacyConverter"]> | null = null;
  let last: PlacedItem | null = null;
  const iterator = items[Symbol.iterator]();
  for (;;) {
    let next: IteratorResult<PlacedItem>;
    try {
      next = iterator.next();
    } catch (error) {
      // A cut legacy stream still has the epochs before; what follows shows where the last of them ends.
      if (converter !== null && last !== null && converter.epochs > 0 && error instanceof FormatError) {
        for (const item of converter.finish({ cut: true })) yield { ...item, place: last.place };
      }
      throw error;
    }
    if (next.done) break;
    const item = next.value;
    last = item;
    if (item.layer !== "legacy") {
      yield item;
      continue;
    }
    converter ??= new stream.LegacyConverter({ to: "libxc", skipDeviceModel: true });
    for (const converted of converter.convert(item)) yield { ...converted, place: item.place };
  }
  if (converter !== null && last !== null) {
    for (const item of converter.finish()) yield { ...item, place: last.place };
  }
}

/** What to say on stderr about an image that is not the whole story. */
export function imageWarnings(path: string, result: ImageResult, text: (error: unknown) => string): string[] {
  const lines: string[] = [];
  if (result.status === "failover") {
    const dropped = result.dropped === 0 ? "" : `, ${result.dropped} records of the next are dropped`;
    const why = result.cause === undefined ? "" : `: ${text(result.cause)}`;
    lines.push(`${path} stops behind epoch ${result.epoch}${dropped}${why}`);
  }
  if (result.mismatches > 0) {
    lines.push(
      `${path}: ${result.mismatches} of ${result.compared} pages that the sender wanted compared differ`,
    );
  }
  return lines;
}
