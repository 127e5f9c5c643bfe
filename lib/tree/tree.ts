/**
 * A directory under drover: its versions, what changed since, and how it gets from one version to another.
 *
 * An overlay tree goes from version to version by remounting (`overlay.ts`), a plain one by renaming files into place
 * (`plain.ts`). Either way the one durable step is a transaction of the store; `recover()` brings what is
 * visible in line with it, and every command that changes a tree does that first.
 *
 * @module
 */
import { type BytePath, pathToText, rootPath } from "../base/path.ts";
import { DroverError } from "../base/errors.ts";
import type { Change, VersionInfo } from "../version/entry.ts";
import { diffManifests } from "../version/diff.ts";
import { versionId } from "../version/history.ts";
import { Manifest } from "../version/manifest.ts";
import type { Libc } from "../../ffi/mod.ts";
import { Beneath } from "./beneath.ts";
import { type Captured, captureUpper, captureWalk } from "./capture.ts";
import { Content } from "./content.ts";
import type { TreeContext } from "./context.ts";
import { buildLayer, copyTriesMax, keepObjects, type Kept, RemovedMeanwhile } from "./keep.ts";
import { applyMetadata } from "./metadata.ts";
import {
  hasIndex,
  makeUpper,
  mountedLayers,
  mountedUpper,
  mountsBelow,
  residentsOf,
  showStack,
  writersOf,
} from "./overlay.ts";
import { applyPlain, type PlainPlan, preparePlain } from "./plain.ts";
import { AT_FDCWD, O_RDONLY } from "./posix.ts";
import {
  type ChangeLine,
  changeLines,
  type CheckoutResult,
  type CommitResult,
  secondsSince,
  type TreeStatus,
  uncommitted,
  type VersionLine,
} from "./report.ts";
import { objectLayer, Store, type StoredVersion } from "./store.ts";
import type { Seen } from "./walk.ts";

/** How long a command waits for another one to finish with the tree. */
const lockWaitMs = 10_000;

/** How many layers a stack may have before they are merged. */
const stackDepthMax = 40;

/** The live state against the head. */
export interface LiveState {
  captured: Captured;
  head: Manifest;
  changes: Change[];
}

/** An open tree. */
export class Tree implements AsyncDisposable {
  /** What the tree needs from outside. */
  readonly context: TreeContext;
  /**
   * Its state directory.
   *
   * @internal
   */
  readonly store: Store;
  /**
   * Where content is found by its hash.
   *
   * @internal
   */
  readonly content: Content;
  /** File calls on byte paths. */
  readonly libc: Libc;

  /** Takes ownership of the store. */
  constructor(context: TreeContext, store: Store) {
    this.context = context;
    this.libc = context.native.libc;
    this.store = store;
    this.content = new Content(this.libc, store);
  }

  /** Opens the tree in a state directory, waits for its lock, and finishes what a crash left. */
  static async open(
    context: TreeContext,
    state: BytePath,
    options: { readOnly?: boolean } = {},
  ): Promise<Tree> {
    const tree = new Tree(context, Store.open(context.native, state));
    try {
      if (options.readOnly !== true) {
        await tree.#takeLock();
        await tree.recover();
        // Only now: later on there are layers in the making. While it comes or leaves, layer 0 may be the directory itself.
        if (tree.store.note("init") === null && tree.store.note("deinit") === null) tree.sweepLayers();
      }
      return tree;
    } catch (error) {
      await tree[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** Gives up the lock and closes what is open. */
  [Symbol.asyncDispose](): Promise<void> {
    this.content[Symbol.dispose]();
    this.store[Symbol.dispose]();
    return Promise.resolve();
  }

  async #takeLock(): Promise<void> {
    for (let waited = 0; !this.store.lock(); waited += 50) {
      if (waited >= lockWaitMs) {
        throw new DroverError("busy", `Cannot work on "${this.name}": another drover process is at it`, {
          hint: "try again when it has finished",
        });
      }
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  /** The tree's directory, for people. */
  get name(): string {
    return pathToText(this.store.setup.dir);
  }

  /** Whether the tree can be seen in its directory. */
  get mounted(): boolean {
    return this.store.setup.capture === "scan" || mountedUpper(this.store) !== null;
  }

  /**
   * The chain of the current version, newest first.
   *
   * @internal
   */
  get chain(): StoredVersion[] {
    return this.store.chain(this.store.pointers.head);
  }

  /** Makes what is visible agree with the store, after a crash at any point. */
  async recover(): Promise<void> {
    const { setup, pointers } = this.store;
    const mounted = mountedUpper(this.store);
    if (this.store.note("deinit") !== null) {
      if (mounted === null) return;
      this.store.setNote("deinit", null);
    }
    if (setup.capture === "scan") {
      if (pointers.pending !== null) await this.#applyPending();
    } else if (pointers.head === null) {
      this.#undoMove();
    } else if (
      this.store.note("switching") !== null || mounted !== null && mounted.upper !== pointers.upper
    ) {
      this.#show();
    } else if (mounted?.readOnly === true) this.libc.remount(setup.dir, false);
  }

  /** Shows an overlay tree in its directory, after a reboot for instance. */
  async mount(): Promise<void> {
    await this.recover();
    if (this.mounted || this.store.pointers.head === null) return;
    if (this.store.note("deinit") !== null) {
      throw new DroverError("usage", `Cannot mount "${this.name}": it is leaving drover`, {
        hint: `drover fs deinit ${this.name}`,
      });
    }
    this.#show();
  }

  #show(): void {
    const { dir } = this.store.setup;
    if (this.libc.stat(AT_FDCWD, dir) === null) this.libc.mkdir(AT_FDCWD, dir, 0o755);
    this.showCurrent();
  }

  /**
   * Shows the stack that a transaction made current. The transaction sets the note `switching`: there may be a moment
   * without any mount, and a crash in it must not look like a tree that was taken off.
   *
   * @internal
   */
  showCurrent(): void {
    const residents = residentsOf(this.store.setup.dir).map(({ pid, command }) => `${command} (${pid})`);
    if (residents.length > 0) {
      this.context.log?.(
        `${residents.join(", ")} still sees what was there before: cd out of ${this.name} and in again`,
      );
    }
    showStack(this.libc, this.store, this.context.log);
    if (this.store.note("switching") !== null) this.store.setNote("switching", null);
  }

  /** An init that crashed while the directory was renamed: it goes back. */
  #undoMove(): void {
    const { dir } = this.store.setup;
    if (this.store.note("init") !== "moving" || this.libc.stat(AT_FDCWD, dir) !== null) return;
    if (this.libc.stat(AT_FDCWD, this.store.layerPath(0)) === null) return;
    this.libc.rename(AT_FDCWD, this.store.layerPath(0), AT_FDCWD, dir);
  }

  /**
   * The last step of leaving drover: the plain copy takes the directory's place, where the note `deinit` names one. Returns
   * its number of entries.
   */
  finishLeaving(): number {
    const [layer, entries] = (this.store.note("deinit") ?? "").split(" ");
    const copy = this.store.layerPath(Number(layer));
    if (layer !== "" && this.libc.stat(AT_FDCWD, copy) !== null) {
      this.libc.rename(AT_FDCWD, copy, AT_FDCWD, this.store.setup.dir);
    }
    return Number(entries);
  }

  /** Takes an overlay tree out of sight; refused while it is in use. */
  unmount(): void {
    if (this.store.setup.capture === "scan" || !this.mounted) return;
    this.libc.unmount(this.store.setup.dir, false);
  }

  /**
   * What the tree holds now, against its head. What was hashed for it need not be hashed for the next answer, unless
   * `remember` is false: a commit writes that down itself.
   *
   * @internal
   */
  async live(options: { remember?: boolean } = {}): Promise<LiveState> {
    const { setup, pointers } = this.store;
    if (pointers.head === null && setup.capture === "overlay") {
      // Made for a version that has not come yet: there is nothing to look at.
      const captured = { manifest: Manifest.empty, content: [], outside: [], seen: [], hashed: 0, apart: [] };
      return { captured, head: Manifest.empty, changes: [] };
    }
    const head = this.store.manifestOf(pointers.head);
    const seen: ReadonlyMap<BytePath, Seen> = this.store.readSeen();
    const mounted = setup.capture === "scan" ? null : mountedUpper(this.store);
    const common = {
      now: this.context.now,
      seen,
      progress: this.context.progress,
      owners: setup.owners,
      flush: mounted?.readOnly === true ? undefined : () => this.flush(objectLayer),
    };
    let captured: Captured;
    if (setup.capture === "scan") {
      using root = Beneath.open(this.libc, setup.dir);
      captured = await captureWalk(root, { ...common, base: head });
    } else {
      using upper = Beneath.open(this.libc, this.store.layerPath(pointers.upper));
      const base = pointers.base === pointers.head ? head : this.store.manifestOf(pointers.base);
      using merged = mounted !== null ? Beneath.open(this.libc, setup.dir) : null;
      captured = await captureUpper(upper, { ...common, base, merged, index: hasIndex(setup) });
    }
    if (options.remember !== false && this.store.locked && captured.seen.length > 0) {
      this.store.transaction(() => this.store.updateSeen(captured.seen, []));
    }
    return { captured, head, changes: diffManifests(head, captured.manifest) };
  }

  /** Everything about the tree, with its uncommitted changes. */
  async status(): Promise<TreeStatus> {
    const { setup, pointers } = this.store;
    const { head, changes } = await this.live();
    return {
      dir: this.name,
      state: pathToText(this.store.path),
      capture: setup.capture,
      profile: setup.profile,
      mounted: this.mounted,
      head: pointers.head,
      versions: this.chain.length,
      entries: Math.max(0, head.count - 1),
      bytes: head.totals.bytes,
      uncommitted: changeLines(changes),
    };
  }

  /** Changes between two versions, or from a version (default the head) to what the tree holds now. */
  async diff(options: { from?: string; to?: string }): Promise<ChangeLine[]> {
    if (options.from === undefined && options.to === undefined) {
      return changeLines((await this.live()).changes);
    }
    const from = this.store.manifestOf(this.resolve(options.from ?? "head"));
    const to = options.to === undefined
      ? (await this.live()).captured.manifest
      : this.store.manifestOf(this.resolve(options.to));
    return changeLines(diffManifests(from, to));
  }

  /** All versions that are known, newest first: the head's chain, then others. */
  log(): VersionLine[] {
    const { head } = this.store.pointers;
    const chain = this.chain;
    const onChain = new Set(chain.map((version) => version.id));
    const others = this.store.versions().filter((version) => !onChain.has(version.id)).reverse();
    return [...chain, ...others].map(({ stack, ...info }) => ({
      ...info,
      head: info.id === head,
      stored: stack !== null,
    }));
  }

  /** A version named by the user: a full id, a unique beginning of one, `head`, or `head~N`. */
  resolve(text: string): string {
    const relative = /^head(?:~(\d{1,9}))?$/i.exec(text);
    if (relative !== null) {
      const id = this.chain[Number(relative[1] ?? 0)]?.id;
      if (id !== undefined) return id;
    } else if (/^[0-9a-f]{4,64}$/.test(text)) {
      const [id, second] = this.store.versionsByPrefix(text);
      if (id !== undefined && second === undefined) return id;
      if (second !== undefined) {
        throw new DroverError(
          "unknown-version",
          `Cannot tell which version "${text}" is: more than one begins so`,
        );
      }
    }
    throw new DroverError("unknown-version", `Cannot find version "${text}" of "${this.name}"`, {
      hint: `drover fs log ${this.name}`,
    });
  }

  /** Makes a version of what the tree holds now. */
  async commit(options: { message?: string } = {}): Promise<CommitResult> {
    const started = performance.now();
    const { setup } = this.store;
    if (!this.mounted) {
      throw new DroverError("usage", `Cannot commit "${this.name}": it is not mounted`, {
        hint: `drover fs mount ${this.name}`,
      });
    }
    // Read-only first: nobody can write between the capture and the switch. Refused while a file is open for writing.
    // A process that works in the directory would stay in the old overlay, where it can write no more, and what is
    // mounted below would go away with it: then the overlay is left as it is.
    let quiet = setup.capture === "overlay" && residentsOf(setup.dir).length === 0 &&
      mountsBelow(setup.dir).length === 0 && this.libc.remount(setup.dir, true);
    let switched = false;
    try {
      let live = await this.live({ remember: false });
      if (live.captured.apart.length > 0) {
        this.#joinLinks(live.captured.apart);
        quiet &&= this.libc.remount(setup.dir, true);
        live = await this.live({ remember: false });
      }
      const parent = this.store.pointers.head;
      if (live.changes.length === 0 && parent !== null) {
        return {
          version: parent,
          parent,
          changed: false,
          entries: 0,
          bytes: 0,
          seconds: secondsSince(started),
        };
      }
      const describe = (manifest: Manifest): VersionInfo => {
        const root = manifest.root();
        return {
          id: versionId(parent, root),
          parent,
          root,
          time: this.context.now(),
          message: options.message ?? "",
        };
      };
      let version: VersionInfo;
      if (quiet && live.captured.apart.length === 0) {
        version = describe(live.captured.manifest);
        await this.#commitUpper(version, live);
        switched = true;
      } else version = await this.#commitWhileWritten(live, describe);
      const bytes = live.changes.reduce((sum, { after }) => sum + (after?.size ?? 0), 0);
      return {
        version: version.id,
        parent,
        changed: true,
        entries: live.changes.length,
        bytes,
        seconds: secondsSince(started),
      };
    } finally {
      if (quiet && !switched) this.libc.remount(setup.dir, false);
    }
  }

  /**
   * Brings names of hard-linked files up to where their other names already are, by setting the mtime they have: the
   * kernel then links them in the upper. (Opening them for writing would do too, but copies the content of a file of which
   * only the metadata had changed, and gives it a new mtime.) The index, which keeps them together until then, does not
   * work in lower layers.
   */
  #joinLinks(paths: readonly BytePath[]): void {
    if (mountedUpper(this.store)?.readOnly === true) this.libc.remount(this.store.setup.dir, false);
    using merged = Beneath.open(this.libc, this.store.setup.dir);
    for (const path of paths) {
      const stat = merged.stat(path);
      if (stat === null) continue; // removed just now
      const { fd, name } = merged.place(path);
      this.libc.setMtime(fd, name, stat.mtimeSeconds, stat.mtimeNanos);
    }
  }

  /** Makes copies while programs go on; begins again where a file was removed before it could be copied. */
  async #commitWhileWritten(
    first: LiveState,
    describe: (manifest: Manifest) => VersionInfo,
  ): Promise<VersionInfo> {
    const { setup } = this.store;
    if (setup.capture === "overlay") {
      const users = [...residentsOf(setup.dir), ...writersOf(setup.dir)].map(({ pid, command }) =>
        `${command} (${pid})`
      );
      const who = users.length === 0 ? "some program" : [...new Set(users)].join(", ");
      this.context.log?.(`${who} is at work in ${this.name}: the version is a copy of the changed files`);
    }
    let live = first;
    for (let tries = 1;; tries++) {
      try {
        return setup.capture === "scan"
          ? await this.#commitObjects(live, describe)
          : await this.#commitCopy(live, describe);
      } catch (error) {
        if (!(error instanceof RemovedMeanwhile)) throw error;
        if (tries >= copyTriesMax) {
          throw new DroverError(
            "busy",
            `Cannot commit "${this.name}": its files are removed faster than they are copied`,
            {
              hint: "stop the program that removes them, or try again when it is quiet",
            },
          );
        }
        live = await this.live({ remember: false });
      }
    }
  }

  /** The upper becomes a layer as it is, and a new one goes on top: no byte is copied. */
  async #commitUpper(version: VersionInfo, { captured }: LiveState): Promise<void> {
    const { pointers } = this.store;
    const below = await this.shallowStack(pointers.base);
    this.store.writeManifest(captured.manifest);
    const upper = this.newUpper(captured.manifest);
    await this.flush(pointers.upper);
    this.#switchTo({ ...version, stack: [...below, pointers.upper] }, upper, () => {
      this.store.addContent(captured.content.map((found) => ({ ...found, layer: pointers.upper })));
    });
  }

  /** The one transaction that makes a version of an overlay tree current, and the mount; takes it back where that cannot be. */
  #switchTo(version: StoredVersion, upper: number, more: () => void): void {
    const { store } = this;
    const before = store.pointers;
    const staging = store.note("staging");
    const stack = store.version(version.id)?.stack ?? null;
    store.transaction(() => {
      more();
      store.addVersion(version);
      store.clearSeen();
      store.setNote("staging", null);
      store.setNote("switching", "1");
      store.setPointers({ head: version.id, base: version.id, upper });
    });
    try {
      this.showCurrent();
    } catch (error) {
      store.transaction(() => {
        const layer = version.stack?.at(-1);
        if (stack === null && layer !== undefined) store.dropLayerContent(layer);
        store.setStack(version.id, stack);
        store.setNote("staging", staging);
        if (before.head === null) store.setNote("switching", null);
        store.setPointers(before);
      });
      try {
        if (before.head !== null) this.showCurrent();
      } catch {
        // the note stays, so the next command tries again
      }
      throw error;
    }
  }

  /**
   * The layers of a version, to build on. When there are very many, they are merged into one first, which is made of hard
   * links and so copies no content: each layer costs every look-up a little, and the kernel takes only so many.
   */
  async shallowStack(id: string | null): Promise<number[]> {
    const stack = id === null ? [] : this.store.version(id)?.stack ?? [];
    if (id === null || stack.length < stackDepthMax) return stack;
    const manifest = this.store.manifestOf(id);
    const layer = this.store.newLayer();
    const { places } = await buildLayer(this, layer, {
      before: Manifest.empty,
      after: manifest,
      changes: diffManifests(Manifest.empty, manifest),
      share: () => true, // the layers stay, but in no stack beside this one
    });
    await this.flush(layer);
    this.store.transaction(() => {
      this.store.addContent(places);
      this.store.setStack(id, [layer]);
    });
    return [layer];
  }

  /** Files are open for writing: the version gets a copy of what changed, and the upper goes on as it is. */
  async #commitCopy(
    live: LiveState,
    describe: (manifest: Manifest) => VersionInfo,
  ): Promise<VersionInfo> {
    const { pointers } = this.store;
    const stack = await this.shallowStack(pointers.head);
    using upper = Beneath.open(this.libc, this.store.layerPath(pointers.upper));
    const layer = this.store.newLayer();
    let kept: Kept;
    try {
      kept = await buildLayer(this, layer, {
        before: live.head,
        after: live.captured.manifest,
        changes: live.changes,
        written: { root: upper, paths: new Set(live.captured.content.map(({ path }) => path)) },
        share: () => false,
      });
    } catch (error) {
      this.removeLayer(layer);
      throw error;
    }
    const { places, revised } = kept;
    const manifest = live.captured.manifest.apply(revised);
    const version = describe(manifest);
    this.store.writeManifest(manifest);
    await this.flush(layer);
    this.store.transaction(() => {
      this.store.addVersion({ ...version, stack: [...stack, layer] });
      this.store.addContent(places);
      this.store.updateSeen(live.captured.seen, []);
      this.store.setPointers({ head: version.id });
    });
    return version;
  }

  /** A plain directory: changed files are copied to the object store. */
  async #commitObjects(
    { captured, head }: LiveState,
    describe: (manifest: Manifest) => VersionInfo,
  ): Promise<VersionInfo> {
    const { setup } = this.store;
    using root = Beneath.open(this.libc, setup.dir);
    const { places, revised } = await keepObjects(this, root, captured);
    const manifest = captured.manifest.apply(revised);
    const version = describe(manifest);
    this.store.writeManifest(manifest);
    await this.flush(objectLayer);
    const gone = [...head.entries()].filter(({ path }) => captured.manifest.indexOf(path) < 0).map((
      { path },
    ) => path);
    this.store.transaction(() => {
      this.store.addVersion({ ...version, stack: [] });
      this.store.addContent(places);
      this.store.updateSeen(captured.seen, gone);
      this.store.setPointers({ head: version.id });
    });
    return version;
  }

  /** Makes another version the current one. Uncommitted changes are in the way unless `force` gives them up. */
  async checkout(options: { version: string; force?: boolean }): Promise<CheckoutResult> {
    const started = performance.now();
    const id = this.resolve(options.version);
    const version = this.store.version(id);
    if (version === null || version.stack === null) {
      throw new DroverError(
        "unknown-version",
        `Cannot check out ${id.slice(0, 12)}: its content is not kept here`,
      );
    }
    const from = this.store.pointers.head;
    let entries = 0;
    await this.exclusively(async (live) => {
      if (live.changes.length > 0 && options.force !== true) {
        throw uncommitted(this.name, live.changes, "check out");
      }
      const after = this.store.manifestOf(id);
      entries = diffManifests(live.captured.manifest, after).length;
      await this.advance({ ...version, stack: version.stack ?? [] }, [], after, live.captured.manifest);
    });
    return { from, to: id, entries, seconds: secondsSince(started) };
  }

  /**
   * Runs `body` while nothing can write to the tree, with the live state.
   * @throws {DroverError} "busy" while files are open for writing.
   *
   * @internal
   */
  async exclusively<Result>(body: (live: LiveState) => Promise<Result>): Promise<Result> {
    const { setup } = this.store;
    // What the upper says of hard links is the whole truth only where it is mounted.
    await this.mount();
    if (setup.capture === "scan" || !this.mounted) return await body(await this.live());
    const [below] = mountsBelow(setup.dir);
    if (below !== undefined) {
      throw new DroverError(
        "busy",
        `Cannot switch "${this.name}": something is mounted on "${pathToText(below)}"`,
        {
          hint: `umount ${pathToText(below)}`,
        },
      );
    }
    if (!this.libc.remount(setup.dir, true)) {
      const writers = writersOf(setup.dir).map(({ pid, command, path }) => `${command} (${pid}): ${path}`);
      throw new DroverError("busy", `Cannot switch "${this.name}": files in it are open for writing`, {
        hint: writers.length > 0 ? `stop ${writers.join(", ")}` : "stop the programs that write there",
        details: { writers },
      });
    }
    const { upper } = this.store.pointers;
    try {
      return await body(await this.live());
    } finally {
      if (this.store.pointers.upper === upper && this.mounted) this.libc.remount(setup.dir, false);
    }
  }

  /**
   * Makes `version`, whose content is all here and on disk, the current one; `history` are versions to be
   * remembered with it. For a plain tree `live` is what its directory holds now. What was being received is received,
   * or does not fit any more. Call it within `exclusively`.
   *
   * @internal
   */
  async advance(
    version: StoredVersion,
    history: readonly StoredVersion[],
    after: Manifest,
    live: Manifest,
    content: Iterable<{ digest: Uint8Array; layer: number; path: BytePath }> = [],
  ): Promise<void> {
    const { setup, pointers } = this.store;
    this.store.writeManifest(after);
    if (setup.capture === "scan") {
      this.store.writeManifest(live);
      const places = [...content];
      await this.#withPlainPlan(live, after, preparePlain, places);
      await this.flush(objectLayer);
      this.store.transaction(() => {
        for (const known of history) this.store.addVersion(known);
        this.store.addVersion(version);
        this.store.addContent(places);
        this.store.setNote("staging", null);
        this.store.setNote("pendingFrom", live.root());
        this.store.setPointers({ pending: version.id });
      });
      return await this.#applyPending();
    }
    const upper = this.newUpper(after);
    await this.flush(upper);
    this.#switchTo(version, upper, () => {
      for (const known of history) this.store.addVersion(known);
      this.store.addContent(content);
    });
    if (pointers.upper >= 0 && !this.#isInStack(pointers.upper)) this.removeLayer(pointers.upper);
  }

  #isInStack(layer: number): boolean {
    return this.store.versions().some((version) => version.stack?.includes(layer) === true);
  }

  /** Brings a plain directory to the version that the journal names. */
  async #applyPending(): Promise<void> {
    const { setup, pointers } = this.store;
    if (pointers.pending === null) return;
    const after = this.store.manifestOf(pointers.pending);
    const fromRoot = this.store.note("pendingFrom");
    const before = (fromRoot === null ? null : this.store.readManifest(fromRoot)) ??
      this.store.manifestOf(pointers.head);
    await this.#withPlainPlan(before, after, applyPlain);
    await this.#flushPath(setup.dir);
    this.store.transaction(() => {
      this.store.setNote("pendingFrom", null);
      this.store.setPointers({ head: pointers.pending, pending: null });
    });
  }

  /** Works on a plain directory's way between two versions. `places` is where content is that no transaction recorded yet. */
  async #withPlainPlan(
    before: Manifest,
    after: Manifest,
    work: (root: Beneath, plan: PlainPlan) => Promise<void>,
    places: Iterable<{ digest: Uint8Array; path: BytePath }> = [],
  ): Promise<void> {
    const { setup } = this.store;
    using root = Beneath.open(this.libc, setup.dir);
    using workshop = Beneath.open(this.libc, this.store.below("work"));
    using objects = Beneath.open(this.libc, this.store.layerPath(objectLayer));
    for (const { digest, path } of places) this.content.offer(digest, objects, path);
    try {
      await work(root, {
        before,
        after,
        changes: diffManifests(before, after),
        owners: setup.owners,
        workshop,
        content: this.content,
        log: this.context.log,
        progress: this.context.progress,
      });
    } finally {
      this.content.withdraw();
    }
  }

  /** A new, empty upper directory with the root's metadata. */
  newUpper(manifest: Manifest): number {
    const upper = this.store.newLayer();
    makeUpper(this.libc, this.store, upper);
    const root = manifest.get(rootPath);
    if (root !== null) {
      using place = Beneath.open(this.libc, this.store.layerPath(upper));
      applyMetadata(this.libc, place.fd, "." as BytePath, root, {
        owners: this.store.setup.owners,
        replace: false,
      });
    }
    return upper;
  }

  /** Waits until everything in the layer's file system is on disk. */
  flush(layer: number): Promise<void> {
    return this.#flushPath(this.store.layerPath(layer));
  }

  async #flushPath(path: BytePath): Promise<void> {
    const fd = this.libc.open(AT_FDCWD, path, O_RDONLY);
    try {
      await this.libc.syncfs(fd);
    } finally {
      this.libc.close(fd);
    }
  }

  /** Removes a layer that no version needs. */
  removeLayer(layer: number): void {
    this.store.transaction(() => this.store.dropLayerContent(layer));
    for (const folder of ["layers", "work"]) {
      using parent = Beneath.open(this.libc, this.store.below(folder));
      parent.removeAll(`${layer}` as BytePath);
    }
  }

  /** Removes what an interrupted operation left: whatever neither a version, nor a mount, nor the journal needs. */
  sweepLayers(): void {
    const needed = new Set<string>([`${this.store.pointers.upper}`]);
    for (const version of this.store.versions()) {
      for (const layer of version.stack ?? []) needed.add(`${layer}`);
    }
    for (const layer of mountedLayers(this.store)) needed.add(`${layer}`);
    const note = this.store.note("staging");
    const staged = note === null ? "" : `${(JSON.parse(note) as { layer: number }).layer}`;
    needed.add(staged);
    const names = new Set<BytePath>();
    for (const folder of ["layers", "work", "staging"]) {
      using parent = Beneath.open(this.libc, this.store.below(folder));
      for (const { name } of parent.list(rootPath)) {
        if (/^(new|made|import)-\d+$/.test(name) || folder === "staging" && name !== staged) {
          parent.removeAll(name);
        } else if (/^\d+$/.test(name)) names.add(name);
      }
    }
    for (const name of names) if (!needed.has(name)) this.removeLayer(Number(name));
  }
}
