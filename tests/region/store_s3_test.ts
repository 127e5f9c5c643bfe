/**
 * Goal: a bucket is a backend like all others, requests are signed, and servers that are busy, lie or are silent do no
 * harm. Method: the suite of all backends over a real S3 server (s3rver), and servers of this process that answer what
 * they are told to.
 */
import assert from "node:assert/strict";
import { createHash, createHmac } from "node:crypto";
import { openNative } from "../../ffi/mod.ts";
import { toHex } from "../../lib/base/hex.ts";
import { IoError } from "../../lib/region/backend.ts";
import { openBackend } from "../../lib/region/backend_url.ts";
import { S3Store } from "../../lib/region/store_s3.ts";
import { backendSuite } from "../backend_suite.ts";
import { S3Server } from "./stores.ts";

const room = Deno.makeTempDirSync({ dir: "/var/tmp", prefix: "drover-s3-" });
const s3 = await S3Server.start(room);
globalThis.addEventListener("unload", () => {
  s3?.kill();
  Deno.removeSync(room, { recursive: true });
});
let turn = 0;
// What is opened once for all is opened here.
openNative();

for (
  const [name, place, chunk] of [["s3", "s3://disks/a folder", "32KiB"], [
    "zstd+s3",
    "zstd+s3://disks",
    "64KiB",
  ]]
) {
  if (s3 === null) continue;
  const url = (): string => `${place}/disk${name}${turn}?${s3.query}&chunk=${chunk}`;
  backendSuite({
    name: String(name),
    open: (size) => (turn++, openBackend(url(), { create: size, timeoutMs: 10_000 })),
    reopen: () => openBackend(url(), { timeoutMs: 10_000 }),
    sparse: true,
  });
}

const isIo = (errno: string, code?: string) => (error: unknown): boolean =>
  error instanceof IoError && error.errno === errno && (code === undefined || error.code === code);

/** An S3 server of this process that answers what it is told to. */
async function fakeS3(
  answer: (request: Request) => Response | Promise<Response>,
  body: (store: S3Store) => Promise<void>,
  prefix = "p",
): Promise<void> {
  const stop = new AbortController();
  const { signal } = stop;
  const server = Deno.serve({ hostname: "127.0.0.1", port: 0, signal, onListen: () => {} }, answer);
  try {
    await body(
      new S3Store({
        bucket: "disks",
        prefix,
        endpoint: `http://127.0.0.1:${server.addr.port}`,
        credentials: { accessKeyId: "a", secretAccessKey: "b" },
        timeoutMs: 600,
      }),
    );
  } finally {
    stop.abort();
    await server.finished;
  }
}

Deno.test("S3Store: a busy server is asked again, one that lies or refuses is not", async () => {
  let asked = 0;
  await fakeS3(() => new Response(null, { status: ++asked < 3 ? 503 : 204 }), async (store) => {
    await store.remove(1);
    assert.equal(asked, 3);
  });
  const denied = "<Error><Code>AccessDenied</Code><Message>No</Message></Error>";
  asked = 0;
  await fakeS3(() => (asked++, new Response(denied, { status: 403 })), async (store) => {
    await assert.rejects(
      store.put(1, new Uint8Array(1)),
      (error) => isIo("EPERM")(error) && /AccessDenied: No/.test(String(error)),
    );
    assert.equal(asked, 1);
  });
  await fakeS3(() => new Response(new Uint8Array(200)), async (store) => {
    await assert.rejects(store.get(1, 100), /longer than the 100 bytes/);
  });
  const part = (range: string, length: number) => (): Response =>
    new Response(new Uint8Array(length).fill(7), { status: 206, headers: { "content-range": range } });
  await fakeS3(part("bytes 10-19/100", 20), async (store) => {
    await assert.rejects(store.getPart(1, 10, new Uint8Array(10)), IoError);
  });
  await fakeS3(part("bytes 11-20/100", 10), async (store) => {
    await assert.rejects(store.getPart(1, 10, new Uint8Array(10)), /another part/);
  });
  await fakeS3(part("bytes 10-14/15", 5), async (store) => {
    const into = new Uint8Array(10).fill(1);
    await store.getPart(1, 10, into);
    assert.deepEqual([...into], [7, 7, 7, 7, 7, 0, 0, 0, 0, 0]);
  });
  const held: (() => void)[] = [];
  await fakeS3(() => new Promise((resolve) => held.push(() => resolve(new Response("")))), async (store) => {
    await assert.rejects(store.remove(1), isIo("ETIMEDOUT"));
    for (const release of held) release();
  });
  await fakeS3(
    () => new Response("<Error><Code>NoSuchBucket</Code></Error>", { status: 404 }),
    async (store) => {
      await assert.rejects(store.readDescription(), /no such bucket/);
    },
  );
});

Deno.test("S3Store.present() reads pages, whatever else lies in the folder", async () => {
  const xml = (keys: string[], cut: boolean): string =>
    `<ListBucketResult><IsTruncated>${cut}</IsTruncated>${
      keys.map((key) => `<Contents><Key>${key}</Key></Contents>`).join("")
    }</ListBucketResult>`;
  const urls: URL[] = [];
  let page = "";
  await fakeS3((request) => (urls.push(new URL(request.url)), new Response(page)), async (store) => {
    page = xml(
      ["p/0000000000000005", "p/0000000000000007", "p/zzz", "other/0000000000000006", "p/a&amp;b"],
      false,
    );
    assert.deepEqual(await store.present(4, 5), [false, true, false, true, false]);
    assert.equal(urls[0]?.searchParams.get("start-after"), "p/0000000000000003");
    assert.equal(urls[0]?.searchParams.get("prefix"), "p/");
    page = xml(["p/0000000000000005"], true);
    assert.deepEqual(await store.present(4, 100), [false, true]);
    page = xml([], true);
    assert.deepEqual(await store.present(4, 100), [true]);
    page = "x".repeat(5 * 2 ** 20);
    await assert.rejects(store.present(0, 1), /longer than/);
  });
});

if (s3 !== null) {
  Deno.test("s3: somebody unknown and a bucket that is not there are errors that say so", async () => {
    const store = (bucket: string, accessKeyId: string): S3Store =>
      new S3Store({
        bucket,
        prefix: "",
        endpoint: s3.endpoint,
        credentials: { accessKeyId, secretAccessKey: "S3RVER" },
        timeoutMs: 5000,
      });
    await assert.rejects(store("disks", "nobody").readDescription(), /InvalidAccessKeyId/);
    await assert.rejects(store("nowhere", "S3RVER").readDescription(), /no such bucket/);
  });
}

/** Checks a version 4 signature by its own means. @returns whether it is that of the secret */
async function isSigned(request: Request, secret: string): Promise<boolean> {
  const hash = (bytes: Uint8Array | string): string => createHash("sha256").update(bytes).digest("hex");
  const mac = (key: string | Uint8Array, text: string): Uint8Array =>
    createHmac("sha256", key).update(text).digest();
  const header = request.headers.get("authorization") ?? "";
  const [, day = "", region = "", service = "", names = "", signature = ""] =
    /^AWS4-HMAC-SHA256 Credential=[^/]+\/(\d{8})\/([^/]+)\/([^/]+)\/aws4_request, SignedHeaders=([^,]+), Signature=([0-9a-f]{64})$/
      .exec(header) ?? [];
  const body = new Uint8Array(await request.arrayBuffer());
  if (request.headers.get("x-amz-content-sha256") !== hash(body)) return false;
  if (!names.split(";").includes("host") || !names.split(";").includes("x-amz-content-sha256")) return false;
  const url = new URL(request.url);
  const strict = (text: string): string =>
    encodeURIComponent(text).replace(
      /[!'()*]/g,
      (char) => `%${char.charCodeAt(0).toString(16).toUpperCase()}`,
    );
  const canonical = [
    request.method,
    url.pathname.split("/").map((part) => strict(decodeURIComponent(part))).join("/"),
    [...url.searchParams].map(([key, value]) => `${strict(key)}=${strict(value)}`).sort().join("&"),
    ...names.split(";").map((name) => `${name}:${request.headers.get(name)?.trim() ?? ""}`),
    "",
    names,
    hash(body),
  ].join("\n");
  const scope = `${day}/${region}/${service}/aws4_request`;
  const text = ["AWS4-HMAC-SHA256", request.headers.get("x-amz-date"), scope, hash(canonical)].join("\n");
  const key = [region, service, "aws4_request"].reduce(
    (key, part) => mac(key, part),
    mac(`AWS4${secret}`, day),
  );
  return toHex(mac(key, text)) === signature;
}

Deno.test("S3Store signs every request, with its body's digest, as the rules of AWS say", async () => {
  const signed: boolean[] = [];
  const answer = async (request: Request): Promise<Response> => {
    signed.push(await isSigned(request, "b"));
    return new Response("<ListBucketResult></ListBucketResult>");
  };
  await fakeS3(answer, async (store) => {
    await store.put(3, new Uint8Array(1000).fill(9));
    await store.get(3, 1000);
    await store.present(3, 10);
    await store.remove(3);
  }, "a folder/b(1)*'!");
  assert.deepEqual(signed, [true, true, true, true]);
  signed.length = 0;
  await fakeS3(
    async (request) => (signed.push(await isSigned(request, "c")), new Response(null)),
    async (store) => {
      await store.remove(3);
    },
  );
  assert.deepEqual(signed, [false]);
});
