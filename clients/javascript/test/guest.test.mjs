// A request's guest, and how each framework's responses carry its cookie; the service is a double.
import assert from "node:assert/strict";
import { once } from "node:events";
import { readdir, readFile } from "node:fs/promises";
import { createServer, get } from "node:http";
import { test } from "node:test";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { Worker } from "node:worker_threads";
import express from "express";
import Fastify from "fastify";
import { Hono } from "hono";
import { GuestError, GuestSessions } from "guest-sessions";
import { guestSessions as forExpress } from "guest-sessions/express";
import { guestSessions as forFastify } from "guest-sessions/fastify";
import { ISSUER, listening, page, startService, tokenSet } from "./service.mjs";

const request = (headers = {}, method = "GET") => new Request("http://shop.example/", { method, headers });

async function until(holds) {
  while (!(await holds())) await new Promise((resolve) => setTimeout(resolve, 20));
}

function exposedGarbageCollector() {
  setFlagsFromString("--expose-gc");
  return runInNewContext("gc");
}

async function started(t, settings = {}) {
  const service = await startService(t);
  const warnings = [];
  const all = { url: service.url, issuer: ISSUER, warn: (message) => warnings.push(message), ...settings };
  return { service, warnings, settings: all, guests: new GuestSessions(all) };
}

test("a first page makes a guest, which is shown without its token", async (t) => {
  const { guests } = await started(t);
  const guest = await guests.open(request(page()));
  assert.deepEqual(JSON.parse(JSON.stringify({ guest })).guest, { id: "G-1", version: 1, payload: {}, isNew: true });
  assert.ok(guest.token);
});

test("without a guest there is an empty payload", async (t) => {
  const { guests } = await started(t);
  const guest = await guests.open(request());
  assert.deepEqual([guest.id, guest.version, guest.payload, guest.isNew, guest.token], [null, null, {}, false, null]);
  assert.equal(JSON.stringify({ guest }), '{"guest":null}');
});

test("changes at once build on each other", async (t) => {
  const { guests, service } = await started(t);
  const guest = await guests.open(request());
  await Promise.all([guest.patch({ a: 1 }), guest.patch({ b: 2 }), guest.patch({ c: 3 })]);
  assert.deepEqual(guest.payload, { a: 1, b: 2, c: 3 });
  assert.equal(service.bodiesOf("/v1/issue").length, 1);
});

test("a refused change leaves the guest as it was, and the next one holds", async (t) => {
  const { guests, service } = await started(t);
  const guest = await guests.open(request(page(await service.issue({ cart: "small" }))));
  await assert.rejects(guest.replace({ cart: "too large" }), (error) => {
    assert.ok(error instanceof GuestError);
    assert.deepEqual([error.code, error.message], ["token_too_large", "the token is too large"]);
    assert.deepEqual(error.facts, { bytes: 5000, limit: 3800 });
    return true;
  });
  assert.deepEqual([guest.payload, guest.version], [{ cart: "small" }, 1]);
  await guest.replace({ cart: "new" });
  assert.equal(guest.version, 2);
});

test("the service gets the guest's id, the key and the options", async (t) => {
  const { guests, service } = await started(t, { apiKey: " key-of-20-characters\n" });
  const guest = await guests.open(request(page(await service.issue())));
  await guest.patch({ a: 1 }, { ifCurrent: true, policy: "cart" });
  const [path, { token: _, ...body }, headers] = service.calls.at(-1);
  assert.equal(path, "/v1/refresh-payload");
  assert.deepEqual(body, { merge_patch: { a: 1 }, policy: "cart", if_current: true, cookie: true });
  assert.deepEqual([headers["x-guest-id"], headers["x-api-key"]], ["G-1", "key-of-20-characters"]);
});

test("a value that is not JSON is the application's fault and no outage", async (t) => {
  const { guests, warnings } = await started(t);
  const guest = await guests.open(request(page()));
  await assert.rejects(guest.replace({ amount: 1n }), TypeError);
  await guest.replace({ amount: 1 });
  assert.deepEqual(warnings, []);
});

test("a Bearer token comes back in a header", async (t) => {
  const { guests, service } = await started(t);
  const authorization = `Bearer ${await service.issue()}`;
  const response = await guests.handle(request({ authorization }, "POST"), async (guest) => {
    await guest.patch({ a: 1 });
    return new Response(guest.token);
  });
  assert.deepEqual(response.headers.getSetCookie(), []);
  assert.equal(response.headers.get("X-Guest-Token"), await response.text());
  assert.equal(response.headers.get("Cache-Control"), "private");
  assert.equal(service.bodiesOf("/v1/refresh-payload")[0].cookie, false);
});

test("an application's own Bearer token is not taken to the service", async (t) => {
  const { guests, service } = await started(t);
  const own = [{ alg: "ES256", kid: "own", typ: "at+jwt" }, { sub: "ada" }, "x"];
  const parts = own.map((part) => Buffer.from(JSON.stringify(part)).toString("base64url"));
  const guest = await guests.open(request({ authorization: `Bearer ${parts.join(".")}` }));
  assert.equal(guest.id, null);
  assert.deepEqual(service.bodiesOf("/v1/verify"), []);
});

test("a hand-over sends all good tokens once", async (t) => {
  const { guests, service } = await started(t);
  const [first, second, other] = [await service.issue(), await service.issue(), await service.issue()];
  const guest = await guests.open(request(page(first, "bad", second, first)));
  const merge = await guest.handOver({ name: "Ada" }, { tokens: [other, first, null], policy: "cart", expect: undefined });
  const [{ tokens, session, policy, strict, cookie }] = service.bodiesOf("/v1/merge");
  assert.deepEqual(tokens, [first, other, second]);
  assert.deepEqual([session, policy, strict, cookie], [{ name: "Ada" }, "cart", false, true]);
  assert.deepEqual(merge.payload, { name: "Ada", merged_guests: [] });
  assert.deepEqual([guest.id, guest.isNew], ["G-4", true]);
});

test("a hand-over of the expected guest sends no other's token", async (t) => {
  const { guests, service } = await started(t);
  const [own, planted] = [await service.issue(), await service.issue()];
  const guest = await guests.open(request(page(own, planted)));
  assert.equal((await guest.handOver({}, { expect: guest.id })).unexpectedGuest, false);
  assert.deepEqual(service.bodiesOf("/v1/merge")[0].tokens, [own]);
});

test("a hand-over of an unexpected guest merges nothing", async (t) => {
  const { guests, service } = await started(t);
  const guest = await guests.open(request(page(await service.issue())));
  const merge = await guest.handOver({ name: "Ada" }, { expect: "G-other", tokens: [await service.issue()] });
  assert.deepEqual([merge.payload, merge.merged, merge.unexpectedGuest], [{ name: "Ada" }, false, true]);
  assert.deepEqual(service.bodiesOf("/v1/merge"), []);
});

test("a hand-over of other tokens alone sets no cookie", async (t) => {
  const { guests, service } = await started(t);
  const response = await guests.handle(request({}, "POST"), async (guest) => {
    return Response.json(await guest.handOver(null, { tokens: [await service.issue()] }));
  });
  assert.equal((await response.json()).merged, true);
  const [{ cookie, renew }] = service.bodiesOf("/v1/merge");
  assert.deepEqual([cookie, renew, tokenSet(response)], [false, false, null]);
});

test("a hand-over without a next guest deletes the cookie", async (t) => {
  const { guests, service } = await started(t);
  const response = await guests.handle(request(page(await service.issue()), "POST"), async (guest) => {
    await guest.handOver({}, { renew: false });
    return Response.json({ id: guest.id });
  });
  assert.deepEqual([await response.json(), tokenSet(response)], [{ id: null }, ""]);
});

test("a dry run leaves the guest alone", async (t) => {
  const { guests, service } = await started(t);
  const guest = await guests.open(request(page(await service.issue())));
  await guest.handOver({}, { dryRun: true });
  assert.equal(service.bodiesOf("/v1/merge")[0].dry_run, true);
  assert.equal(guest.id, "G-1");
});

test("a login goes through without the service, and says why nothing was merged", async (t) => {
  const { guests, service, warnings } = await started(t, { url: "http://127.0.0.1:9" });
  const guest = await guests.open(request(page(await service.issue())));
  assert.equal(guest.isUnread, true);
  const merge = await guest.handOver({ name: "Ada" });
  assert.deepEqual([merge.payload, merge.merged, merge.error.code], [{ name: "Ada" }, false, "unavailable"]);
  await assert.rejects(guest.replace({}), { code: "unreadable_guest" });
  assert.equal(warnings.length, 1);
});

test("a service that answers byte by byte holds nobody up, whatever garbage is collected", { timeout: 20_000 }, async (t) => {
  const collectGarbage = exposedGarbageCollector();
  const slow = createServer((_, res) => {
    const writing = setInterval(() => res.write(" "), 50);
    res.on("close", () => clearInterval(writing));
  });
  const url = await listening(t, slow);
  const collecting = setInterval(collectGarbage, 100);
  t.after(() => clearInterval(collecting));
  const warnings = [];
  const guest = await new GuestSessions({ url, issuer: ISSUER, warn: (text) => warnings.push(text) }).open(request(page()));
  assert.equal(guest.id, null);
  assert.match(warnings[0], /TimeoutError/);
});

test("an endless answer does not fill the memory", async (t) => {
  let sent = 0;
  const endless = createServer((_, res) => {
    const write = () => {
      while (!res.destroyed && res.write(" ".repeat(65_536))) sent += 65_536;
    };
    res.on("drain", write);
    write();
  });
  const url = await listening(t, endless);
  const warnings = [];
  const guest = await new GuestSessions({ url, issuer: ISSUER, warn: (text) => warnings.push(text) }).open(request(page()));
  assert.equal(guest.id, null);
  assert.match(warnings[0], /too long/);
  assert.ok(sent < 64 * 2 ** 20);
});

test("connections that were closed while the process was frozen are no outage", async (t) => {
  const answers = `
    const { createServer } = require("node:http");
    const { parentPort, workerData } = require("node:worker_threads");
    const server = createServer((req, res) => {
      const key = workerData.find(([path]) => path === req.url);
      req.resume().on("end", () => res.writeHead(200, { Connection: "keep-alive", ...key[1] }).end(key[2]));
    });
    Object.assign(server, { keepAliveTimeout: 100, keepAliveTimeoutBuffer: 0 });
    server.listen(0, "127.0.0.1", () => parentPort.postMessage(server.address().port));
  `;
  const service = await startService(t);
  const token = await service.issue();
  const keys = await (await fetch(`${service.url}/.well-known/jwks.json`)).text();
  const workerData = [
    ["/.well-known/jwks.json", {}, keys],
    ["/v1/issue", { "Set-Cookie": `__Host-guest=${token}` }, JSON.stringify({ token })],
  ];
  const worker = new Worker(answers, { eval: true, workerData });
  t.after(() => worker.terminate());
  const [port] = await once(worker, "message");
  const warnings = [];
  const guests = new GuestSessions({ url: `http://127.0.0.1:${port}`, issuer: ISSUER, warn: (text) => warnings.push(text) });
  assert.ok((await guests.open(request(page()))).id);
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1_500); // the worker closes, and nothing runs here
  assert.ok((await guests.open(request(page()))).id);
  assert.deepEqual(warnings, []);
});

test("a log that fails neither fails a request nor ends the process", async (t) => {
  const unhandled = [];
  const note = (error) => unhandled.push(error);
  process.on("unhandledRejection", note);
  t.after(() => process.off("unhandledRejection", note));
  let asked = 0;
  const failing = createServer((_, res) => {
    asked += 1;
    res.writeHead(500).end();
  });
  const url = await listening(t, failing);
  const warn = () => {
    throw new Error("the disk is full");
  };
  const guest = await new GuestSessions({ url, issuer: ISSUER, warn }).open(request(page()));
  await until(() => asked > 1); // it is looked for again, beside the requests
  assert.equal(guest.id, null);
  assert.deepEqual(unhandled, []);
});

test("nothing follows the keys for an instance that nobody has any more", { timeout: 20_000 }, async (t) => {
  const collectGarbage = exposedGarbageCollector();
  let asked = 0;
  const failing = createServer((_, res) => {
    asked += 1;
    res.writeHead(500).end();
  });
  const url = await listening(t, failing);
  for (let instance = 0; instance < 20; instance += 1) {
    await new GuestSessions({ url, issuer: ISSUER, warn() {} }).open(request());
  }
  await until(async () => {
    collectGarbage();
    const before = asked;
    await new Promise((resolve) => setTimeout(resolve, 1_100)); // each would ask every second
    return asked === before;
  });
});

for (const status of [302, 307, 308]) {
  test(`the API key follows no redirect with status ${status}`, async (t) => {
    const asked = [];
    const elsewhere = createServer((req, res) => {
      asked.push(req.url);
      const answer = JSON.stringify({ code: "moved", token: "x" });
      res.writeHead(status, { Location: "/elsewhere", "Content-Type": "application/json" }).end(answer);
    });
    const url = await listening(t, elsewhere);
    const warnings = [];
    const guests = new GuestSessions({ url, issuer: ISSUER, apiKey: "secret", warn: (text) => warnings.push(text) });
    const guest = await guests.open(request());
    await assert.rejects(guest.replace({}), (error) => error.code === "unavailable");
    assert.ok(!asked.includes("/elsewhere"));
    assert.match(warnings[0], new RegExp(`status ${status}`));
  });
}

test("a change after the response is refused", async (t) => {
  const { guests } = await started(t);
  const guest = await guests.open(request(page()));
  guest.finish(new Response());
  await assert.rejects(guest.replace({}), { code: "response_started" });
  assert.throws(() => guest.forget(), { code: "response_started" });
  assert.equal((await guest.handOver({})).error.code, "response_started");
});

test("a response without a guest's cookie stays the same object", async (t) => {
  const { guests, service } = await started(t);
  const response = new Response("page");
  assert.equal(await guests.handle(request(page(await service.issue())), () => response), response);
});

test("a response that cannot be changed is copied with the cookie", async (t) => {
  const { guests } = await started(t);
  const response = await guests.handle(request(page()), () => Response.redirect("http://shop.example/cart", 303));
  assert.deepEqual([response.status, response.headers.get("Location")], [303, "http://shop.example/cart"]);
  assert.ok(tokenSet(response));
});

test("a failure carries no cookie", async (t) => {
  const { guests } = await started(t);
  const response = await guests.handle(request(page()), () => new Response("", { status: 500 }));
  assert.equal(tokenSet(response), null);
});

test("a wrong cookie name is reported with the right one", async (t) => {
  const { guests, warnings } = await started(t, { cookieName: "visitor" });
  await guests.open(request(page()));
  assert.deepEqual(warnings, ['guest-sessions: the service sets another cookie than visitor: pass cookieName: "__Host-guest"']);
});

for (const [name, settings] of [
  ["a path for a URL", { url: "/guests" }],
  ["a password in the URL", { url: "http://user:secret@localhost" }],
  ["no issuer", { issuer: "" }],
  ["a time that is no number", { renewAfterS: Number("a day") }],
]) {
  test(`the settings refuse ${name}`, () => {
    const all = { url: "http://localhost", issuer: ISSUER, ...settings };
    assert.throws(() => new GuestSessions(all), (error) => error instanceof TypeError && !error.message.includes("secret"));
  });
}

/** The response of a server that listens just for this. */
async function fetched(t, server, headers) {
  const url = await listening(t, server);
  // By hand: `fetch` sets `Sec-Fetch-Mode` by itself.
  const message = await new Promise((resolve, reject) =>
    get(url, { headers }, resolve).on("error", reject),
  );
  message.resume();
  const pairs = message.rawHeaders.flatMap((name, at) => (at % 2 ? [] : [[name, message.rawHeaders[at + 1]]]));
  return { status: message.statusCode, text: message.statusMessage, headers: new Headers(pairs) };
}

const cookies = Object.freeze(["own=1", "other=2"]); // one list for all visitors: no guest's cookie may get into it
for (const [name, ...given] of [
  ["an object", { "Set-Cookie": cookies, "Cache-Control": "public" }],
  ["a reason and an object", "Fine", { "set-cookie": cookies, "cache-control": "public" }],
  ["a list", ["Set-Cookie", cookies[0], "Set-Cookie", cookies[1], "Cache-Control", "public"]],
]) {
  test(`the headers that writeHead is given as ${name} stay beside the guest's`, async (t) => {
    const { settings } = await started(t);
    const middleware = forExpress(settings);
    const server = createServer((req, res) => middleware(req, res, () => res.writeHead(200, ...given).end()));
    const response = await fetched(t, server, page());
    assert.ok(tokenSet(response));
    assert.deepEqual(response.headers.getSetCookie().slice(0, 2), cookies);
    assert.equal(response.headers.get("Cache-Control"), "private");
    assert.equal(response.text, name.startsWith("a reason") ? "Fine" : "OK");
  });
}

test("Express sets the guest's cookie beside others", async (t) => {
  const { settings } = await started(t);
  const app = express().use(forExpress(settings));
  app.get("/", (req, res) => res.setHeader("Set-Cookie", cookies).json({ guest: req.guest }));
  const response = await fetched(t, createServer(app), page());
  assert.ok(tokenSet(response));
  assert.equal(response.headers.getSetCookie().length, 3);
});

test("Fastify sets the guest's cookie beside others, and none with a failure", async (t) => {
  const { settings } = await started(t);
  const app = Fastify().register(forFastify, settings);
  app.get("/", (request, reply) => reply.header("Set-Cookie", cookies).header("Cache-Control", "public").send(request.guest));
  app.get("/fail", () => {
    throw new Error("this route fails");
  });
  t.after(() => app.close());
  const { headers, body } = await app.inject({ url: "/", headers: page() });
  assert.deepEqual(headers["set-cookie"].map((line) => line.split("=")[0]), ["own", "other", "__Host-guest"]);
  assert.deepEqual([headers["cache-control"], JSON.parse(body).version], ["private", 1]);
  assert.equal((await app.inject({ url: "/fail", headers: page() })).headers["set-cookie"], undefined);
});

test("Hono sets the guest's cookie over a cached response", async (t) => {
  const { guests } = await started(t);
  const app = new Hono();
  app.use(async (c, next) => {
    const guest = await guests.open(c.req.raw);
    await next();
    const response = guest.finish(c.res);
    c.res = undefined;
    c.res = response;
  });
  app.get("/", (c) => c.text("page", 200, { "Cache-Control": "public", "Set-Cookie": "own=1" }));
  const response = await app.request("/", { headers: page() });
  assert.ok(tokenSet(response));
  assert.equal(response.headers.getSetCookie().length, 2);
  assert.equal(response.headers.get("Cache-Control"), "private");
});

test("README shows the examples as they are checked", async () => {
  const read = (path) => readFile(new URL(path, import.meta.url), "utf8");
  const files = await readdir(new URL("../examples", import.meta.url));
  const examples = await Promise.all(files.map((file) => read(`../examples/${file}`)));
  const plain = (text) => text.split("\n").map((line) => line.trim()).join("\n");
  const blocks = [...(await read("../README.md")).matchAll(/^```ts\n(.*?)^```$/gms)].map(([, block]) => block);
  assert.equal(blocks.length, 5);
  for (const block of blocks) assert.ok(examples.some((example) => plain(example).includes(plain(block))), block);
});
