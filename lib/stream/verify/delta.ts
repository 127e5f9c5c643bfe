/**
 * Walks through encoded page changes without applying them: only their structure is looked at.
 *
 * Two forms are known. `remus` is that of compressed legacy streams: the first octet of a page is 0x00 (nothing
 * changed), 0x80 (4096 octets follow) or the first of the markers that cover the page. `region` has a codec octet
 * first: 0 nothing changed, 1 whole page, 2 markers, 3 a bitmap of 128 octets and the changed words.
 *
 *     marker  0lllllll  l words follow and replace those of the page here
 *             1lllllll  l words of the page stay
 *
 * Invariants:
 * - The walk can stop between any two octets and go on with the next piece; its state is a few numbers.
 * - The bound of an encoding is what it covers, 1024 words, never its size.
 *
 * @module
 */

const pageSize = 4096;
const pageWords = 1024;
const bitmapSize = pageWords / 8;

/** What stopped a walk: the piece is used up, a page is complete, or an offence at the octet before. */
export type DeltaEvent = "more" | "page" | "codec" | "marker" | "run_beyond" | "skip_beyond";

/** What a walk is in the middle of. */
export type DeltaPlace = "edge" | "markers" | "run" | "full" | "bitmap";

/** Number of set bits by octet. */
const bits = Uint8Array.from({ length: 256 }, (_, octet) => {
  let count = 0;
  for (let rest = octet; rest > 0; rest >>>= 1) count += rest & 1;
  return count;
});

/** A walk over the encodings of many pages, one after the other. */
export class DeltaWalk {
  readonly #form: "remus" | "region";
  #place: DeltaPlace = "edge";
  /** Words of the page that are covered. */
  #covered = 0;
  /** Octets of contents that are still to come, or of the bitmap. */
  #left = 0;
  /** Words that the bitmap announced so far. */
  #changed = 0;
  /** Index behind the last octet that was looked at. */
  #at = 0;

  /** A walk at the edge of a page. */
  constructor(form: "remus" | "region") {
    this.#form = form;
  }

  /** What the walk is in the middle of. */
  get place(): DeltaPlace {
    return this.#place;
  }

  /** Where in the piece the walk stopped; an offence is at the octet before. */
  get at(): number {
    return this.#at;
  }

  /** Goes back to the edge of a page. */
  reset(): void {
    this.#place = "edge";
    this.#at = 0;
  }

  /** Walks on through `piece` from `from` to the end of a page, of the piece, or to an offence. */
  walk(piece: Uint8Array, from: number): DeltaEvent {
    let at = from;
    const end = piece.length;
    while (at < end) {
      switch (this.#place) {
        case "edge": {
          const octet = piece[at] ?? 0;
          if (this.#form === "region") {
            at++;
            if (octet > 3) return this.#stop("codec", at);
            if (octet === 0) return this.#stop("page", at);
            if (octet === 1) this.#enter("full", pageSize);
            else if (octet === 2) this.#enter("markers", 0);
            else this.#enter("bitmap", bitmapSize);
          } else if (octet === 0x00) {
            return this.#stop("page", at + 1);
          } else if (octet === 0x80) {
            at++;
            this.#enter("full", pageSize);
          } else {
            this.#enter("markers", 0);
          }
          this.#covered = 0;
          this.#changed = 0;
          break;
        }
        case "markers": {
          const marker = piece[at++] ?? 0;
          const words = marker & 0x7f;
          if (words === 0) return this.#stop("marker", at);
          this.#covered += words;
          if (this.#covered > pageWords) return this.#stop(marker < 0x80 ? "run_beyond" : "skip_beyond", at);
          if (marker < 0x80) this.#enter("run", 4 * words);
          else if (this.#covered === pageWords) return this.#page(at);
          break;
        }
        case "bitmap": {
          this.#changed += bits[piece[at++] ?? 0] ?? 0;
          if (--this.#left === 0) {
            if (this.#changed === 0) return this.#page(at);
            this.#enter("full", 4 * this.#changed);
          }
          break;
        }
        case "run":
        case "full": {
          const count = Math.min(this.#left, end - at);
          at += count;
          this.#left -= count;
          if (this.#left > 0) break;
          if (this.#place === "full" || this.#covered === pageWords) return this.#page(at);
          this.#place = "markers";
          break;
        }
      }
    }
    return this.#stop("more", at);
  }

  #enter(place: DeltaPlace, left: number): void {
    this.#place = place;
    this.#left = left;
  }

  #page(at: number): DeltaEvent {
    this.#place = "edge";
    return this.#stop("page", at);
  }

  #stop(event: DeltaEvent, at: number): DeltaEvent {
    this.#at = at;
    return event;
  }
}
