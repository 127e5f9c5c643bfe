/**
 * Asking a donor who borrows what.
 *
 * @module
 */
import { DroverError } from "../base/errors.ts";
import { type Address, type ClusterKey, dial, formatAddress } from "../net/mod.ts";
import {
  clusterLimits,
  clusterRecord,
  decodeError,
  decodeListed,
  type DonorStatus,
  encodeList,
} from "./messages.ts";

/**
 * Asks one donor.
 *
 * @param options `timeoutMs`: for everything; default 10 s
 * @throws {DroverError} codes `disconnected`, `auth`; `unsupported` for a node that lends nothing
 */
export async function listDonor(
  options: { node: Address; key: ClusterKey | null; timeoutMs?: number },
): Promise<DonorStatus> {
  const { node, key, timeoutMs = 10_000 } = options;
  const label = formatAddress(node);
  using channel = await dial({ ...node, key, limits: clusterLimits, timeoutMs });
  const timer = setTimeout(() => channel.close(), timeoutMs);
  try {
    await channel.send(clusterRecord.list, encodeList());
    const record = await channel.receive();
    if (record?.type === clusterRecord.error) throw decodeError(record.body, label).error;
    if (record?.type !== clusterRecord.listed) {
      throw new DroverError("protocol", `Cannot understand "${label}": it did not answer with a list`);
    }
    const status = decodeListed(record.body);
    await channel.end().catch(() => {});
    return status;
  } finally {
    clearTimeout(timer);
  }
}
