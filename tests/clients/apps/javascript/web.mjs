// The conformance application of Web Request and Response, served by node:http: node web.mjs PORT
import { createServer } from "node:http";
import { Readable } from "node:stream";
import { pipeline } from "node:stream";
import { GuestSessions } from "guest-sessions";
import { cacheControl, failure, late, port, routes, settings } from "./shared.mjs";

const guests = new GuestSessions(settings);

async function respond(request, guest) {
  const { pathname } = new URL(request.url);
  const headers = pathname in cacheControl ? { "Cache-Control": cacheControl[pathname] } : {};
  if (pathname === "/late") return lateResponse(guest, await request.json());
  const route = routes[`${request.method} ${pathname}`];
  if (!route) return Response.json({}, { status: 404 });
  let body;
  try {
    body = request.method === "POST" ? await request.json() : undefined;
  } catch {
    return Response.json({}, { status: 400 });
  }
  try {
    return Response.json(await route(guest, body), { headers });
  } catch (error) {
    const [status, problem] = failure(error);
    return Response.json(problem, { status });
  }
}

function lateResponse(guest, payload) {
  async function* body() {
    yield new TextEncoder().encode("started\n");
    yield new TextEncoder().encode(await late(guest, payload));
  }
  return new Response(ReadableStream.from(body()));
}

createServer(async (req, res) => {
  const headers = new Headers();
  for (let at = 0; at < req.rawHeaders.length; at += 2) headers.append(req.rawHeaders[at], req.rawHeaders[at + 1]);
  const body = req.method === "POST" ? Readable.toWeb(req) : undefined;
  const request = new Request(`http://127.0.0.1:${port}${req.url}`, { method: req.method, headers, body, duplex: "half" });
  const response = await guests.handle(request, (guest) => respond(request, guest));
  res.statusCode = response.status;
  res.setHeaders(response.headers);
  pipeline(Readable.fromWeb(response.body), res, () => {}); // a visitor who has left gets no answer
}).listen(port, "127.0.0.1");
