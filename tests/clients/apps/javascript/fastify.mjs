// The conformance application of Fastify: node fastify.mjs PORT
import { Readable } from "node:stream";
import Fastify from "fastify";
import { guestSessions } from "guest-sessions/fastify";
import { cacheControl, failure, late, port, routes, settings } from "./shared.mjs";

const app = Fastify();
app.register(guestSessions, settings);

for (const [route, respond] of Object.entries(routes)) {
  const [method, url] = route.split(" ");
  app.route({
    method,
    url,
    async handler(request, reply) {
      const answer = await respond(request.guest, request.body);
      if (url in cacheControl) reply.header("Cache-Control", cacheControl[url]);
      return answer;
    },
  });
}

app.post("/late", (request, reply) => {
  async function* body() {
    yield "started\n";
    yield await late(request.guest, request.body);
  }
  return reply.send(Readable.from(body()));
});

app.setErrorHandler((error, _request, reply) => {
  if (error.statusCode) return reply.send(error); // a body that is not JSON
  const [status, body] = failure(error);
  return reply.status(status).send(body);
});

await app.listen({ port, host: "127.0.0.1" });
