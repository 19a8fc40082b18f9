// A small Express application with guest sessions: node app.mjs PORT
import express from "express";
import { guestSessions, NotSaved } from "./guests.mjs";

const users = { ada: { name: "Ada" } };
const app = express();
app.use(express.json({ strict: false }));
app.use(guestSessions({
  url: process.env.GUEST_URL,
  issuer: process.env.GUEST_ISSUER.split(/\s*,\s*/),
  cookie: process.env.GUEST_COOKIE_NAME,
  apiKey: process.env.GUEST_API_KEY,
  renewAfterS: Number(process.env.GUEST_RENEW_AFTER ?? 2592000),
}));

app.get("/", (req, res) => res.json({ guest: req.guest.claims }));

app.post("/cart", async (req, res, next) => {
  try {
    await req.guest.save({ cart: req.body });
  } catch (error) {
    if (!(error instanceof NotSaved)) return next(error);
    return res.status(503).json({ detail: error.message });
  }
  res.json({ guest: req.guest.claims });
});

app.post("/login", async (req, res) => {
  const merge = await req.guest.handOver(users.ada);
  users.ada = merge.payload;
  res.json({ session: users.ada, merged: merge.merged });
});

app.listen(Number(process.argv[2]), "127.0.0.1");
