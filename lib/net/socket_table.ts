/**
 * The kernel's table of TCP sockets (`/proc/net/tcp`, `tcp6`): who owns the other end of a loopback connection.
 *
 * Invariants (each closes a way to be taken for root, because the kernel shows uid 0 for sockets without a
 * process): the row must be ESTABLISHED, which a closed socket never is, and must have an inode, which a socket
 * that nobody accepted has not. Whatever cannot be found out is an error: callers refuse then.
 *
 * @module
 */
import { DroverError } from "../base/errors.ts";
import { type Address, formatAddress, parseIp } from "./address.ts";

const tablePaths = ["/proc/net/tcp", "/proc/net/tcp6"];
const established = 0x01;
const overflowUid = 65534;
/** The kernel walks its hash table in pieces, so a row can be missed while others come and go. */
const attemptsMax = 3;

/**
 * The user who owns the far end of a connection between two sockets of this machine.
 *
 * @param far the other process's end; @param near our own end.
 * @throws {DroverError} code `auth` when it cannot be found out.
 */
export async function ownerOf(far: Address, near: Address): Promise<number> {
  const wanted = `${tableKey(far)} ${tableKey(near)}`;
  for (let attempt = 0; attempt < attemptsMax; attempt++) {
    const uid = await findOwner(wanted);
    if (uid !== null) return uid;
  }
  throw new DroverError(
    "auth",
    `Cannot find out which user is behind "${formatAddress(far)}": /proc/net/tcp does not show its socket`,
    { hint: "use a key on both sides: drover key new FILE" },
  );
}

/**
 * Whether the user `uid` may talk to this process without a key: the same user, or root. In a user namespace
 * the kernel shows all strangers as 65534, so that number is nobody's there.
 */
export async function isOwnUser(uid: number): Promise<boolean> {
  if (uid === 0) return true;
  if (uid !== Deno.uid()) return false;
  if (uid !== overflowUid) return true;
  const map = await Deno.readTextFile("/proc/self/uid_map");
  return /^\s*0\s+0\s+4294967295\s*$/.test(map);
}

async function findOwner(wanted: string): Promise<number | null> {
  for (const path of tablePaths) {
    let text: string;
    try {
      text = await Deno.readTextFile(path);
    } catch (error) {
      if (error instanceof Deno.errors.NotFound) continue; // no IPv6, or no /proc: then no row is found
      throw error;
    }
    for (const line of text.split("\n").slice(1)) {
      // sl  local_address rem_address  st tx_queue:rx_queue tr:tm->when retrnsmt  uid  timeout inode …
      const [, local, remote, state, , , , uid, , inode] = line.trim().split(/\s+/);
      if (local === undefined || remote === undefined || state === undefined) continue;
      if (uid === undefined || inode === undefined) continue;
      if (parseInt(state, 16) !== established || Number(inode) === 0) continue;
      if (`${rowKey(local)} ${rowKey(remote)}` === wanted) return Number(uid);
    }
  }
  return null;
}

/** `0100007F:1E1B` as 32 hex digits of the address in network order (IPv4 mapped) and the port. */
function rowKey(field: string): string {
  const [address = "", port = ""] = field.split(":");
  // The kernel prints 32-bit words in the byte order of the machine, which is little-endian wherever Deno runs.
  const words = address.match(/.{8}/g) ?? [];
  const octets = words.map((word) => (word.match(/../g) ?? []).reverse().join("")).join("").toLowerCase();
  return `${octets.length === 8 ? "0".repeat(20) + "ffff" + octets : octets}:${port.toLowerCase()}`;
}

function tableKey(address: Address): string {
  const bytes = parseIp(address.host);
  if (bytes === null) {
    throw new DroverError("auth", `Cannot look up "${formatAddress(address)}": it is not a literal address`);
  }
  const octets = [...bytes].map((octet) => octet.toString(16).padStart(2, "0")).join("");
  return `${octets}:${address.port.toString(16).padStart(4, "0")}`;
}
