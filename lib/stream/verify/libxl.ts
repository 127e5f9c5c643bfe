/**
 * The libxl layer, and the header that xl puts in front of it.
 *
 * A libxl stream hands over to libxc's at LIBXC_CONTEXT, without a length, and gets it back at libxc's END. In a
 * checkpointed stream it gets it back at each CHECKPOINT and hands it over again at CHECKPOINT_END:
 *
 *     header, LIBXC_CONTEXT, [libxc ... CHECKPOINT], emulator*, CHECKPOINT_END,
 *                            [libxc ... CHECKPOINT], emulator*, CHECKPOINT_END, ...
 *
 * With COLO a CHECKPOINT_STATE (new checkpoint) stands behind each CHECKPOINT_END. There it is told from a record
 * of libxc by type 5 with a length of 8, which as X86_PV_VCPU_EXTENDED would have no context.
 *
 * @module
 */
import { hex, type Trace } from "./findings.ts";
import type { Step } from "./input.ts";
import { LibxcVerifier } from "./libxc.ts";
import type { VerifyRule } from "./rules.ts";

const bodyMax = 128 * 1024 * 1024;
const xlDataMax = 16 * 1024 * 1024;
const xlMagic = "Xen saved domain, xl format\n \0 \r";

const types = {
  end: 0,
  libxcContext: 1,
  xenstoreData: 2,
  emulatorContext: 3,
  checkpointEnd: 4,
  checkpointState: 5,
} as const;

const names: readonly string[] = [
  "END",
  "LIBXC_CONTEXT",
  "EMULATOR_XENSTORE_DATA",
  "EMULATOR_CONTEXT",
  "CHECKPOINT_END",
  "CHECKPOINT_STATE",
];

/** Reads the header that xl writes. @returns whether a libxl stream follows. */
export function* verifyXlHeader(trace: Trace): Step<boolean> {
  const { input } = trace;
  trace.begin("xl", true);
  const start = input.offset;
  yield* input.take(48);
  for (let at = 0; at < xlMagic.length; at++) {
    if (input.u8(at) !== xlMagic.charCodeAt(at)) {
      trace.stop(
        "xl.header.magic",
        start + at,
        `an octet of the magic is ${hex(input.u8(at))} and should be ${hex(xlMagic.charCodeAt(at))}`,
      );
    }
  }
  input.littleEndian = true;
  const order = input.u32(32);
  if (order !== 0x0102_0304 && order !== 0x0403_0201) {
    trace.stop("xl.header.byte_order", start + 32, `the byte-order word is ${hex(order)}`);
  }
  input.littleEndian = order === 0x0102_0304;
  const flags = input.u32(36);
  const size = input.u32(44);
  if ((flags & ~3) !== 0) {
    trace.report(
      "xl.header.mandatory_flags",
      start + 36,
      `the mandatory flags are ${hex(flags)} and bits 2 to 31 should be 0`,
    );
  }
  if (size > xlDataMax) {
    trace.stop(
      "xl.header.data_length",
      start + 44,
      `the optional data are ${size} octets and may be ${xlDataMax}`,
    );
  }
  if (size > 0) {
    const end = input.offset + size;
    const config = size >= 4 ? (yield* input.take(4), input.u32(0)) : 0;
    if (size < 4 || config > size - 4) {
      trace.report(
        "xl.data.config_length",
        start + 48,
        `the configuration is ${config} octets and the optional data are ${size}, with its length`,
      );
    }
    yield* input.skip(end - input.offset);
  }
  trace.done();
  return (flags & 2) !== 0;
}

/** Reads a whole libxl stream, with those of libxc inside it. */
export class LibxlVerifier {
  readonly #trace: Trace;
  readonly #libxc: LibxcVerifier;
  #littleEndian = true;
  #context = false;
  /** Between libxc's CHECKPOINT and CHECKPOINT_END. */
  #inCheckpoint = false;

  /** A verifier that has read nothing. */
  constructor(trace: Trace) {
    this.#trace = trace;
    this.#libxc = new LibxcVerifier(trace);
  }

  /** Reads the stream to its END. */
  *stream(): Step {
    yield* this.#header();
    while (true) {
      switch (yield* this.#record()) {
        case types.end:
          if (this.#context && !this.#libxc.checkpointed) this.#trace.committedEpochs++;
          return;
        case types.libxcContext:
          yield* this.#libxc.headers();
          yield* this.#section();
          break;
        case types.checkpointEnd:
          this.#inCheckpoint = false;
          this.#trace.committedEpochs++;
          if (yield* this.#atCheckpointState()) yield* this.#record(true);
          yield* this.#section();
          break;
      }
    }
  }

  *#header(): Step {
    const trace = this.#trace;
    const { input } = trace;
    trace.begin("libxl", true);
    const start = input.offset;
    yield* input.take(16);
    input.littleEndian = false;
    for (const [at, wanted] of [[0, 0x4c69_6278], [4, 0x6c46_6d74]] as const) {
      if (input.u32(at) !== wanted) {
        trace.stop(
          "libxl.header.ident",
          start + at,
          `half of the ident is ${hex(input.u32(at))} and should be ${hex(wanted)}`,
        );
      }
    }
    const version = input.u32(8);
    if (version !== 2) {
      trace.stop("libxl.header.version", start + 8, `the version is ${version} and should be 2`);
    }
    const options = input.u32(12);
    if ((options & ~3) !== 0) {
      trace.report(
        "libxl.header.options",
        start + 12,
        `the options are ${hex(options)} and bits 2 to 31 should be 0`,
      );
    }
    this.#littleEndian = (options & 1) === 0;
    if (!this.#littleEndian) {
      trace.report(
        "libxl.header.endian",
        start + 12,
        "the stream is big-endian, which Xen itself cannot read",
      );
    }
    trace.done();
  }

  *#section(): Step {
    this.#inCheckpoint = (yield* this.#libxc.section()) === "checkpoint";
  }

  /** Whether CHECKPOINT_STATE stands here, where libxc's records may begin too. */
  *#atCheckpointState(): Step<boolean> {
    const { input } = this.#trace;
    input.littleEndian = this.#littleEndian;
    return (yield* input.peek(8)) === 8 && input.u32(0) === types.checkpointState && input.u32(4) === 8;
  }

  /** Reads one record. @returns its type. */
  *#record(behindCheckpoint = false): Step<number> {
    const trace = this.#trace;
    const { input } = trace;
    trace.begin("libxl");
    input.littleEndian = this.#littleEndian;
    const start = input.offset;
    yield* input.take(8);
    const type = input.u32(0);
    const length = input.u32(4);
    if (length > bodyMax) {
      trace.stop(
        "libxl.record.length",
        start + 4,
        `the body of ${nameOf(type)} is ${length} octets and may be ${bodyMax}`,
      );
    }
    yield* this.#body(type, length, start, behindCheckpoint);
    yield* trace.finishRecord("libxl", { start, length, name: nameOf(type) });
    return type;
  }

  *#body(type: number, length: number, start: number, behindCheckpoint: boolean): Step {
    const trace = this.#trace;
    switch (type) {
      case types.end:
        this.#empty("libxl.end.length", type, length, start);
        if (this.#inCheckpoint) {
          trace.stop("libxl.end.in_checkpoint", start, "END stands where CHECKPOINT_END should");
        }
        if (!this.#context) {
          trace.report("libxl.end.no_context", start, "END stands before any LIBXC_CONTEXT");
        }
        break;
      case types.libxcContext:
        this.#empty("libxl.libxc_context.length", type, length, start);
        if (this.#context) {
          trace.stop("libxl.libxc_context.repeated", start, "LIBXC_CONTEXT stands here a second time");
        }
        this.#context = true;
        break;
      case types.xenstoreData:
      case types.emulatorContext:
        yield* this.#emulator(type, length, start);
        break;
      case types.checkpointEnd:
        this.#empty("libxl.checkpoint_end.length", type, length, start);
        if (!this.#inCheckpoint) {
          trace.stop("libxl.checkpoint_end.outside", start, "CHECKPOINT_END stands outside a checkpoint");
        }
        break;
      case types.checkpointState:
        yield* this.#checkpointState(length, start, behindCheckpoint);
        break;
      default:
        if (type >= 0x8000_0000) {
          trace.report(
            "libxl.record.optional",
            start,
            `the optional type ${hex(type)} is unknown, and Xen's libxl passes over none`,
          );
        } else {
          trace.report(
            "libxl.record.type",
            start,
            `the type is ${hex(type)}, which is mandatory and unknown`,
          );
        }
    }
  }

  *#emulator(type: number, length: number, start: number): Step {
    const trace = this.#trace;
    const { input } = trace;
    if (!this.#context) {
      trace.report("libxl.emulator.early", start, `${nameOf(type)} stands before LIBXC_CONTEXT`);
    } else if (this.#libxc.pv) {
      trace.report("libxl.emulator.guest", start, `${nameOf(type)} stands in the stream of a PV guest`);
    }
    if (length < 8) {
      trace.report(
        "libxl.emulator.length",
        start + 4,
        `the length of ${nameOf(type)} is ${length} and should be at least 8`,
      );
      return;
    }
    yield* input.take(8);
    if (input.u32(0) > 2) {
      trace.report("libxl.emulator.id", start + 8, `the emulator id is ${input.u32(0)} and should be 0 to 2`);
    }
    if (type === types.xenstoreData && length > 8) yield* this.#xenstore(length - 8);
  }

  /** Strings, each ended by NUL, in pairs of key and value. */
  *#xenstore(size: number): Step {
    const trace = this.#trace;
    const { input } = trace;
    const end = input.offset + size;
    let strings = 0;
    let stringSize = 0;
    let wrongKey = false;
    while (input.offset < end) {
      const from = input.offset;
      const piece = yield* input.some(end - from);
      for (let at = 0; at < piece.length; at++) {
        const octet = piece[at] ?? 0;
        const inKey = strings % 2 === 0;
        if (inKey && !wrongKey && (octet === 0 ? stringSize === 0 : !isKeyOctet(octet))) {
          wrongKey = true;
          trace.report(
            "libxl.xenstore.key",
            from + at,
            octet === 0 ? "a xenstore key is empty" : `a xenstore key has the octet ${hex(octet)}`,
          );
        }
        if (octet === 0) {
          strings++;
          stringSize = 0;
        } else {
          stringSize++;
        }
      }
    }
    if (stringSize > 0) {
      trace.report("libxl.xenstore.nul", end - 1, "the last xenstore string does not end in NUL");
    } else if (strings % 2 !== 0) {
      trace.report(
        "libxl.xenstore.pairs",
        end - 1,
        `there are ${strings} xenstore strings, and should be pairs`,
      );
    }
  }

  *#checkpointState(length: number, start: number, behindCheckpoint: boolean): Step {
    const trace = this.#trace;
    const { input } = trace;
    if (!behindCheckpoint) {
      trace.report(
        "libxl.checkpoint_state.outside",
        start,
        "CHECKPOINT_STATE stands elsewhere than behind CHECKPOINT_END",
      );
    }
    if (length !== 8) {
      trace.report(
        "libxl.checkpoint_state.length",
        start + 4,
        `the length of CHECKPOINT_STATE is ${length} and should be 8`,
      );
      return;
    }
    yield* input.take(8);
    const id = input.u32(0);
    if (id > 3) {
      trace.report("libxl.checkpoint_state.id", start + 8, `the control id is ${id} and should be 0`);
    } else if (id > 0) {
      trace.report(
        "libxl.checkpoint_state.forward",
        start + 8,
        `the control id is ${id}, which belongs on the way back, from secondary to primary`,
      );
    }
    if (input.u32(4) !== 0) {
      trace.report(
        "libxl.checkpoint_state.reserved",
        start + 12,
        `the reserved field is ${hex(input.u32(4))} and should be 0`,
      );
    }
  }

  #empty(rule: VerifyRule, type: number, length: number, start: number): void {
    if (length !== 0) {
      this.#trace.report(rule, start + 4, `the length of ${nameOf(type)} is ${length} and should be 0`);
    }
  }
}

function isKeyOctet(octet: number): boolean {
  return octet >= 0x61 && octet <= 0x7a || octet >= 0x40 && octet <= 0x5a || octet >= 0x2d && octet <= 0x39 &&
      octet !== 0x2e ||
    octet === 0x5f;
}

function nameOf(type: number): string {
  return names[type] ?? hex(type);
}
