/** `drover donors`: who lends how much memory to whom, now. */
import type { Command } from "commander";
import { DroverError } from "../base/errors.ts";
import { formatSize } from "../base/size.ts";
import type { DonorStatus, LeaseStatus } from "../cluster/mod.ts";
import type { Address, ClusterKey } from "../net/mod.ts";
import { type ExitCode, exitCode } from "./exit.ts";
import { formatBytes, formatSeconds, formatTable } from "./format.ts";
import type { RunCommand } from "./registry.ts";
import { keyArgument } from "./session.ts";
import { errorText, type Terminal } from "./terminal.ts";

export const usage = `Usage: drover donors [DONOR]... [OPTION]...

Asks donors (\`drover serve --donate\`) how much memory they lend, to whom, and what goes over it. DONOR is HOST:PORT;
without any the peers of a drover.json are asked. A donor that does not answer is said so, and the exit code is 1.

Options:
      --key FILE     the cluster's key; default: that of --config, else the file that DROVER_KEY names
      --config FILE  the drover.json whose peers are asked
      --json         print per donor {"address", "name", "budget", "lent", "free", "uptimeMs", "leases"} or
                     {"address", "error"}, and at the end {"donors", "silent", "budget", "lent", "free"}
  -h, --help         this text

Example:
  $ drover donors left.example right.example:7707 --key cluster.key
  left at left.example:7707: lends 4GiB, 1GiB of it lent, 3GiB free
    lease  borrower  from      size  state     age    pages  read    written
        3  web       10.0.0.7  1GiB  attended  42 s       2  1.2 GB   890 MB
  right at right.example:7707: lends 2GiB, nothing of it lent
`;

interface Options {
  key?: string;
  config?: string;
}

/** Donors of one command. */
const donorsMax = 256;

type Answer = { address: string; status: DonorStatus } | { address: string; error: unknown };

export function define(command: Command, run: RunCommand): void {
  command.argument("[donor...]").option("--key <file>").option("--config <file>")
    .action((words: string[], options: Options) => run((terminal) => listDonors(terminal, words, options)));
}

async function listDonors(terminal: Terminal, words: readonly string[], options: Options): Promise<ExitCode> {
  const [{ parseAddress, formatAddress }, { listDonor }] = await Promise.all([
    import("../net/mod.ts"),
    import("../cluster/mod.ts"),
  ]);
  const config = options.config === undefined
    ? null
    : await (await import("../daemon/config.ts")).readConfig(options.config);
  const nodes: readonly Address[] = words.length > 0 ? words.map(parseAddress) : config?.peers ?? [];
  if (nodes.length === 0 || nodes.length > donorsMax) {
    throw new DroverError("usage", `Cannot ask ${nodes.length} donors: it should be 1 to ${donorsMax}`, {
      hint: "drover donors HOST:PORT, or --config with a drover.json that has peers",
    });
  }
  const key: ClusterKey | null = await keyArgument(options.key ?? config?.key);
  const answers = await Promise.all(nodes.map(async (node): Promise<Answer> => {
    const address = formatAddress(node);
    try {
      return { address, status: await listDonor({ node, key }) };
    } catch (error) {
      return { address, error };
    }
  }));
  for (const answer of answers) show(terminal, answer);
  const lending = answers.flatMap((answer) => "status" in answer ? [answer.status] : []);
  const sum = (of: (status: DonorStatus) => number): number =>
    lending.reduce((total, status) => total + of(status), 0);
  const silent = answers.length - lending.length;
  terminal.object({
    donors: lending.length,
    silent,
    budget: sum(({ budget }) => budget),
    lent: sum(({ lent }) => lent),
    free: sum(({ free }) => free),
  });
  return silent === 0 ? exitCode.ok : exitCode.failed;
}

function show(terminal: Terminal, answer: Answer): void {
  const { address } = answer;
  if ("error" in answer) {
    const { error } = answer;
    terminal.warning(`no answer from ${address}: ${errorText(error)}`);
    const code = error instanceof DroverError ? error.code : "failed";
    terminal.object({ address, error: { code, message: errorText(error) } });
    return;
  }
  const { status } = answer;
  terminal.object({ address, ...status });
  const { name, budget, lent, free, leases } = status;
  const rest = lent === 0 ? "nothing of it lent" : `${formatSize(lent)} of it lent, ${formatSize(free)} free`;
  terminal.line(`${name} at ${address}: lends ${formatSize(budget)}, ${rest}`);
  if (leases.length === 0) return;
  const head = ["lease", "borrower", "from", "size", "state", "age", "pages", "read", "written"];
  for (const row of formatTable([head, ...leases.map(cells)], [0, 3, 6, 7, 8])) terminal.line(`  ${row}`);
}

function cells(lease: LeaseStatus): string[] {
  return [
    String(lease.lease),
    lease.borrower,
    lease.address,
    formatSize(lease.size),
    lease.state,
    formatSeconds(lease.ageMs / 1000),
    String(lease.connections),
    formatBytes(lease.readBytes),
    formatBytes(lease.writtenBytes),
  ];
}
