/**
 * The kernel and the initial RAM disk of the machines of the tests beside this file, made once and kept in
 * `$XDG_CACHE_HOME/drover-test-vm` (or `~/.cache`).
 *
 * Everything comes from Debian: the kernel is the newest 6.12 of bookworm-backports, from the mirror and with the keys that apt has for Debian
 * on this machine, and apt checks it. The RAM disk holds busybox and the modules that RDMA in software needs; it mounts
 * this machine's root file system read-only (9p) below a tmpfs, so the guest has the same programs at the same paths, and its
 * writes vanish with it.
 *
 * @module
 */

/** What a machine boots. */
export interface Image {
  kernel: string;
  ramDisk: string;
}

/** Debian packages that the machines need on the host, each with a file that it brings. */
const packages: readonly (readonly [name: string, file: string])[] = [
  ["qemu-system-x86", "/usr/bin/qemu-system-x86_64"],
  ["busybox-static", "/bin/busybox"],
  ["cpio", "/usr/bin/cpio"],
  ["kmod", "/sbin/modprobe"],
  ["xz-utils", "/usr/bin/xz"],
  ["iproute2", "/usr/bin/rdma"],
  ["librdmacm1", "/usr/lib/x86_64-linux-gnu/librdmacm.so.1"],
  ["ibverbs-providers", "/usr/lib/x86_64-linux-gnu/libibverbs/librxe-rdmav34.so"],
];

/** Loaded in this order, each with what it needs. */
const modules = [
  "crc32_generic",
  "virtio_pci",
  "virtio_net",
  "virtio_console",
  "9pnet_virtio",
  "9p",
  "overlay",
  "rdma_rxe",
  "ib_uverbs",
  "rdma_ucm",
  "sch_netem",
];

/** The program that the kernel starts: mounts, and hands over to the guest's agent. */
const init = `#!/bin/sh
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
for module in ${modules.join(" ")}; do modprobe $module || echo "no module $module"; done
mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,cache=loose,ro host /host
mount -t tmpfs tmp /tmp; mkdir -p /tmp/upper /tmp/work
mount -t overlay -o lowerdir=/host,upperdir=/tmp/upper,workdir=/tmp/work o /root-of-guest
for directory in proc sys dev; do mount -o bind /$directory /root-of-guest/$directory; done
mkdir -p /root-of-guest/vm
mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144 vm /root-of-guest/vm
exec busybox chroot /root-of-guest /bin/bash /vm/agent
`;

/** Why machines cannot run here, with what to type, or null. */
export async function whyNot(): Promise<string | null> {
  if (Deno.build.arch !== "x86_64") return "the machines of tests/vm are x86-64 machines";
  if (Deno.uid() !== 0) return "only root may read all of this machine's files for the guest";
  const missing: string[] = [];
  for (const [name, file] of packages) {
    if (!await exists(file)) missing.push(name);
  }
  if (missing.length > 0) return `missing packages; type: apt-get install ${missing.join(" ")}`;
  return null;
}

/**
 * The image, fetched and made if it is not there yet (about 100 MB from Debian's mirror).
 *
 * @throws {Error} with what apt or a tool said
 */
export async function image(): Promise<Image> {
  const cache = `${
    Deno.env.get("XDG_CACHE_HOME") ?? `${Deno.env.get("HOME") ?? "/root"}/.cache`
  }/drover-test-vm`;
  await Deno.mkdir(cache, { recursive: true });
  // A change here makes another image.
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(init)));
  const name = [...digest.subarray(0, 6)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  const kernel = `${cache}/vmlinuz`, ramDisk = `${cache}/ram-disk.${name}`;
  using lock = await Deno.open(`${cache}/lock`, { create: true, write: true });
  await lock.lock(true);
  if (!await exists(ramDisk) || !await exists(kernel)) {
    const scratch = await Deno.makeTempDir({ dir: cache, prefix: "making-" });
    try {
      const version = await fetchKernel(scratch);
      await makeRamDisk({ scratch, version, out: `${scratch}/ram-disk` });
      for await (const old of Deno.readDir(cache)) {
        if (old.name.startsWith("ram-disk.")) await Deno.remove(`${cache}/${old.name}`);
      }
      await Deno.rename(`${scratch}/kernel/boot/vmlinuz-${version}`, kernel);
      await Deno.rename(`${scratch}/ram-disk`, ramDisk);
    } finally {
      await Deno.remove(scratch, { recursive: true });
    }
  }
  return { kernel, ramDisk };
}

/** Gets and unpacks the kernel's package below `scratch`/kernel; its version. */
async function fetchKernel(scratch: string): Promise<string> {
  for (const directory of ["lists/partial", "archives/partial"]) {
    await Deno.mkdir(`${scratch}/apt/${directory}`, { recursive: true });
  }
  await Deno.writeTextFile(`${scratch}/backports.sources`, await backportsSource());
  const apt = [
    ...["-qq", "-o", `Dir::Etc::sourcelist=${scratch}/backports.sources`, "-o", "Dir::Etc::sourceparts=-"],
    ...["-o", `Dir::State::lists=${scratch}/apt/lists`, "-o", "APT::Sandbox::User=root"],
  ];
  await run("apt-get", [...apt, "update"]);
  const found = await run("apt-cache", [
    ...apt,
    "search",
    "--names-only",
    "^linux-image-6\\.12\\.[0-9+deb.]*-amd64$",
  ]);
  const names = found.split("\n").map((line) => line.split(" ")[0] ?? "").filter((name) =>
    name !== "" && !name.includes("cloud")
  );
  names.sort((one, other) => one.localeCompare(other, "en", { numeric: true }));
  const newest = names.at(-1);
  if (newest === undefined) throw new Error("Cannot find a kernel 6.12 in bookworm-backports");
  await run("apt-get", [...apt, "download", newest], scratch);
  for await (const { name } of Deno.readDir(scratch)) {
    if (name.endsWith(".deb")) await run("dpkg", ["-x", `${scratch}/${name}`, `${scratch}/kernel`]);
  }
  for await (const { name } of Deno.readDir(`${scratch}/kernel/lib/modules`)) return name;
  throw new Error(`Cannot find the modules of "${newest}"`);
}

/** Debian's mirror and key as apt has them here, for bookworm-backports. */
async function backportsSource(): Promise<string> {
  const fallback = "Types: deb\nURIs: http://deb.debian.org/debian\nComponents: main\n" +
    "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n";
  let text = fallback;
  try {
    text = (await Deno.readTextFile("/etc/apt/sources.list.d/debian.sources")).split(/\n\n/)[0] ?? fallback;
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
  return text.split("\n").filter((line) => !/^(Suites:|#|\s*$)/.test(line)).join("\n") +
    "\nSuites: bookworm-backports\n";
}

/** Busybox, the modules and `init`, as the kernel wants them. */
async function makeRamDisk(options: { scratch: string; version: string; out: string }): Promise<void> {
  const { scratch, version, out } = options;
  const root = `${scratch}/root`, kernel = `${scratch}/kernel`;
  const directories = ["bin", "proc", "sys", "dev", "host", "root-of-guest", "tmp", `lib/modules/${version}`];
  for (const directory of directories) await Deno.mkdir(`${root}/${directory}`, { recursive: true });
  await Deno.copyFile("/bin/busybox", `${root}/bin/busybox`);
  for (const applet of ["sh", "mount", "modprobe", "insmod", "mkdir", "cat"]) {
    await Deno.symlink("busybox", `${root}/bin/${applet}`);
  }
  await run("depmod", ["-b", kernel, version]);
  for (const module of modules) {
    const needed = await run("modprobe", ["-d", kernel, "-S", version, "--show-depends", module]);
    for (const [, file] of needed.matchAll(/^insmod (\S+)/gm)) {
      const inside = `lib/modules/${(file ?? "").split("/lib/modules/")[1]}`;
      const target = `${root}/${inside.replace(/\.xz$/, "")}`;
      await Deno.mkdir(target.replace(/\/[^/]*$/, ""), { recursive: true });
      if (inside.endsWith(".xz")) {
        await run("sh", ["-c", 'xz -dc "$1" >"$2"', "sh", `${kernel}/${inside}`, target]);
      } else await Deno.copyFile(`${kernel}/${inside}`, target);
    }
  }
  for (const file of ["modules.order", "modules.builtin", "modules.builtin.modinfo"]) {
    await Deno.copyFile(`${kernel}/lib/modules/${version}/${file}`, `${root}/lib/modules/${version}/${file}`);
  }
  await run("depmod", ["-b", root, version]);
  await Deno.writeTextFile(`${root}/init`, init, { mode: 0o755 });
  await run("sh", ["-c", 'cd "$1" && find . | cpio --quiet -o -H newc | gzip -1 >"$2"', "sh", root, out]);
}

async function run(command: string, args: string[], cwd?: string): Promise<string> {
  const { success, stdout, stderr } = await new Deno.Command(command, {
    args,
    env: { DEBIAN_FRONTEND: "noninteractive" },
    ...(cwd === undefined ? {} : { cwd }),
  }).output();
  if (success) return new TextDecoder().decode(stdout);
  throw new Error(`Cannot run "${command} ${args.join(" ")}": ${new TextDecoder().decode(stderr).trim()}`);
}

async function exists(path: string): Promise<boolean> {
  try {
    await Deno.stat(path);
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}
