// The conformance application of Express: node express.mjs PORT
import express from "express";
import { guestSessions } from "guest-sessions/express";
import { cacheControl, failure, late, port, routes, settings } from "./shared.mjs";

const app = express();
app.use(express.json({ strict: false, limit: "1mb" }));
app.use(guestSessions(settings));

for (const [route, respond] of Object.entries(routes)) {
  const [method, path] = route.split(" ");
  app[method.toLowerCase()](path, async (req, res) => {
    const answer = await respond(req.guest, req.body);
    if (path in cacheControl) res.set("Cache-Control", cacheControl[path]);
    res.json(answer);
  });
}

app.post("/late", async (req, res) => {
  res.write("started\n");
  res.end(await late(req.guest, req.body));
});

app.use((error, _req, res, next) => {
  if ("statusCode" in error) return next(error); // a body that is not JSON
  const [status, body] = failure(error);
  res.status(status).json(body);
});

app.listen(port, "127.0.0.1");
