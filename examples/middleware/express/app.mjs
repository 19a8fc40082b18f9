// A small Express application with guest sessions: node app.mjs PORT
import express from "express";
import { guestSessions } from "./guests.mjs";

const sessions = { ada: { name: "Ada" } };
const app = express();
app.use(express.json({ strict: false }));
app.use(guestSessions({
  url: process.env.GUEST_URL,
  issuer: process.env.GUEST_ISSUER,
  cookie: process.env.GUEST_COOKIE_NAME,
  apiKey: process.env.GUEST_API_KEY,
  renewAfterS: Number(process.env.GUEST_RENEW_AFTER ?? 2592000),
}));

app.get("/", (req, res) => res.json({ guest: req.guest }));

app.post("/cart", async (req, res) => {
  await req.saveGuest({ cart: req.body });
  res.json({ guest: req.guest });
});

app.post("/login", async (req, res) => {
  const merge = await req.handOver(sessions.ada);
  sessions.ada = merge.payload;
  res.json({ session: sessions.ada, merged: merge.merged });
});

app.listen(Number(process.argv[2]), "127.0.0.1");
