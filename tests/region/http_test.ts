/**
 * Goal: a file of a web server is read as it was when it was opened, or not at all.
 * Method: a server of this process that changes its file, cuts, lies and stalls; and nginx.
 */
import assert from "node:assert/strict";
import { toolExists } from "../../bench/process.ts";
import { DroverError } from "../../lib/base/errors.ts";
import { IoError } from "../../lib/region/backend.ts";
import { HttpBackend } from "../../lib/region/backend_http.ts";
import { openBackend } from "../../lib/region/backend_url.ts";
import { copyBackend } from "../../lib/region/copy.ts";
import { MemoryBackend } from "../../lib/region/backend_memory.ts";
import { assertSameBytes } from "../same_bytes.ts";
import { prng } from "../stream/prng.ts";

const random = prng(31);
const content = Uint8Array.from({ length: 3_000_001 }, () => random(256));

/** What a test changes of a well-behaved server. */
interface Behaviour {
  etag?: string | null;
  modified?: string;
  /** Instead of the usual answer, if it gives one. */
  answer?: (request: Request, count: number) => Response | Promise<Response> | null;
}

async function serving(
  behaviour: Behaviour,
  body: (url: string, seen: { url: string; authorization: string | null }[]) => Promise<void>,
): Promise<void> {
  const seen: { url: string; authorization: string | null }[] = [];
  const answer = (request: Request): Response | Promise<Response> => {
    seen.push({ url: request.url, authorization: request.headers.get("authorization") });
    const special = behaviour.answer?.(request, seen.length);
    if (special !== undefined && special !== null) return special;
    const headers = new Headers();
    if (behaviour.etag !== null) headers.set("etag", behaviour.etag ?? '"one"');
    if (behaviour.modified !== undefined) headers.set("last-modified", behaviour.modified);
    const ifRange = request.headers.get("if-range");
    const [, first, last] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.get("range") ?? "") ?? [];
    if (last === undefined || (ifRange !== null && ifRange !== headers.get("etag"))) {
      return new Response(content, { headers });
    }
    const end = Math.min(Number(last), content.length - 1);
    headers.set("content-range", `bytes ${first}-${end}/${content.length}`);
    return new Response(content.subarray(Number(first), end + 1), { status: 206, headers });
  };
  const stop = new AbortController();
  const { signal } = stop;
  const server = Deno.serve({ hostname: "127.0.0.1", port: 0, signal, onListen: () => {} }, answer);
  try {
    await body(`http://127.0.0.1:${server.addr.port}/disk.raw?version=2`, seen);
  } finally {
    // Not shutdown(), which waits for connections that fetch keeps.
    stop.abort();
    await server.finished;
  }
}

const corrupt = (error: unknown): boolean => error instanceof IoError && error.code === "corrupt";

Deno.test("http: any part is what it should be, and the query and the password go with it", async () => {
  await serving({}, async (url, seen) => {
    await using backend = await openBackend(url.replace("//", "//me:a%20secret@"));
    assert.equal(backend.size, content.length);
    assert.equal(backend.readOnly, true);
    for (let step = 0; step < 50; step++) {
      const offset = random(content.length);
      const into = new Uint8Array(random(content.length - offset) >> random(12));
      await backend.readAt(offset, into);
      assertSameBytes(into, content.subarray(offset, offset + into.length));
    }
    await assert.rejects(async () => await backend.writeAt(0, new Uint8Array(1)), IoError);
    await assert.rejects(
      async () => await backend.readAt(content.length, new Uint8Array(1)),
      RangeError,
    );
    for (const request of seen) {
      assert.equal(new URL(request.url).search, "?version=2");
      assert.equal(request.authorization, `Basic ${btoa("me:a secret")}`);
      assert.ok(!request.url.includes("secret"));
    }
  });
});

for (
  const [how, before, after] of [
    ["another ETag", { etag: '"one"' }, { etag: '"two"' }],
    ["another weak ETag", { etag: 'W/"one"' }, { etag: 'W/"two"' }],
    ["another date, where there is no ETag", { etag: null, modified: "a" }, { etag: null, modified: "b" }],
  ] as const
) {
  Deno.test(`http: a file with ${how} has changed, and is refused from then on`, async () => {
    const behaviour: Behaviour = { ...before };
    await serving(behaviour, async (url, seen) => {
      await using backend = await openBackend(url);
      await backend.readAt(10, new Uint8Array(10));
      Object.assign(behaviour, after);
      const into = new Uint8Array(10).fill(1);
      await assert.rejects(async () => await backend.readAt(10, into), corrupt);
      Object.assign(behaviour, before);
      const count = seen.length;
      await assert.rejects(async () => await backend.readAt(10, into), corrupt);
      assert.equal(seen.length, count);
      assert.ok(into.every((byte) => byte === 1));
    });
  });
}

Deno.test("http: a file that is gone, shorter, or comes in another part than asked is refused", async () => {
  const range = (text: string, length: number) => (): Response =>
    new Response(content.subarray(0, length), {
      status: 206,
      headers: { "content-range": text, etag: '"one"' },
    });
  for (
    const [answer, expected] of [
      [() => new Response("", { status: 404 }), corrupt],
      [range("bytes 5-14/3000000", 10), corrupt],
      [range("bytes 6-15/3000001", 10), /another part/],
      [range("bytes 5-14/3000001", 11), /longer than/],
      [range("bytes 5-14/*", 10), corrupt],
      [range("nonsense", 10), corrupt],
      [
        () => new Response("", { status: 403 }),
        (error: unknown) => error instanceof IoError && error.errno === "EPERM",
      ],
    ] as const
  ) {
    const behaviour: Behaviour = {};
    await serving(behaviour, async (url) => {
      await using backend = await HttpBackend.open(url, { timeoutMs: 500 });
      behaviour.answer = answer;
      await assert.rejects(async () => await backend.readAt(5, new Uint8Array(10)), expected);
    });
  }
});

Deno.test("http: what breaks off, and a server that is busy, are asked again; a silent one costs ETIMEDOUT", async () => {
  const behaviour: Behaviour = {};
  await serving(behaviour, async (url) => {
    await using backend = await HttpBackend.open(url, { timeoutMs: 900 });
    const start = await new Promise<number>((resolve) => {
      behaviour.answer = (_, count) => {
        resolve(count);
        return new Response("", { status: 503 });
      };
      void (async () => await backend.readAt(0, new Uint8Array(1)))().catch(() => {});
    });
    behaviour.answer = (_, count) => {
      if (count === start + 1) return new Response("", { status: 503 });
      if (count !== start + 2) return null;
      const body = new ReadableStream<Uint8Array>({
        start: (controller) => {
          controller.enqueue(content.slice(5, 10));
          controller.close();
        },
      });
      return new Response(body, {
        status: 206,
        headers: { "content-range": "bytes 5-24/3000001", etag: '"one"' },
      });
    };
    const into = new Uint8Array(20);
    await backend.readAt(5, into);
    assertSameBytes(into, content.subarray(5, 25));
    const held: (() => void)[] = [];
    behaviour.answer = () => new Promise((resolve) => held.push(() => resolve(new Response(""))));
    await assert.rejects(
      async () => await backend.readAt(5, into),
      (error) => error instanceof IoError && error.errno === "ETIMEDOUT",
    );
    for (const release of held) release();
  });
});

Deno.test("http: a server without ranges, one that encodes, and a URL that is none are refused when opened", async () => {
  await serving({ answer: () => new Response(content) }, async (url) => {
    await assert.rejects(openBackend(url), /has no ranges/);
  });
  await serving({
    answer: () =>
      new Response(new Uint8Array(1), {
        status: 206,
        headers: { "content-range": "bytes 0-0/10", "content-encoding": "br" },
      }),
  }, async (url) => {
    // Some runtimes hide the header, and what comes is no such encoding.
    await assert.rejects(async () => {
      await using backend = await openBackend(url, { timeoutMs: 200 });
      await backend.readAt(0, new Uint8Array(5));
    }, IoError);
  });
  await serving({ answer: () => new Response(null, { headers: { "content-length": "0" } }) }, async (url) => {
    await using empty = await openBackend(url);
    assert.equal(empty.size, 0);
  });
  await assert.rejects(
    openBackend("http://"),
    (error) => error instanceof DroverError && error.code === "usage",
  );
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr;
  listener.close();
  await assert.rejects(
    openBackend(`http://127.0.0.1:${port}/x`, { timeoutMs: 200 }),
    (error) => error instanceof IoError && error.errno === "ETIMEDOUT",
  );
});

if (!toolExists("nginx")) {
  console.error("tests: nginx skipped, there is none; type: apt-get install nginx-light");
}

Deno.test({
  name: "http: a file behind nginx is copied, and one that is replaced meanwhile is noticed",
  ignore: !toolExists("nginx"),
  fn: async () => {
    const room = Deno.makeTempDirSync({ dir: "/var/tmp", prefix: "drover-nginx-" });
    Deno.chmodSync(room, 0o755);
    Deno.mkdirSync(`${room}/www`);
    Deno.writeFileSync(`${room}/www/disk.raw`, content);
    const probe = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const { port } = probe.addr;
    probe.close();
    Deno.writeTextFileSync(
      `${room}/conf`,
      `daemon off; pid ${room}/pid; error_log ${room}/log; events {}
       http { access_log off; client_body_temp_path ${room}; proxy_temp_path ${room}; fastcgi_temp_path ${room};
         uwsgi_temp_path ${room}; scgi_temp_path ${room};
         server { listen 127.0.0.1:${port}; root ${room}/www; } }`,
    );
    const child = new Deno.Command("nginx", {
      args: ["-c", `${room}/conf`, "-p", room],
      stdin: "null",
      stdout: "null",
      stderr: "null",
    }).spawn();
    try {
      await using backend = await openBackend(`http://127.0.0.1:${port}/disk.raw`, { timeoutMs: 10_000 });
      const copy = new MemoryBackend(content.length);
      const { copied } = await copyBackend(backend, copy);
      assert.ok(copied > 2_900_000);
      assertSameBytes(copy.view(0, content.length), content);
      Deno.writeFileSync(`${room}/www/new`, content.subarray(1));
      Deno.renameSync(`${room}/www/new`, `${room}/www/disk.raw`);
      await assert.rejects(async () => await backend.readAt(0, new Uint8Array(10)), corrupt);
    } finally {
      child.kill("SIGTERM");
      await child.status;
      Deno.removeSync(room, { recursive: true });
    }
  },
});
