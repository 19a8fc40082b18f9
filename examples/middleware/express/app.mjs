// A small Express application with guest sessions: node app.mjs PORT
import express from "express";
import { GuestError, guestSessions } from "guest-sessions/express";

const users = { ada: { name: "Ada" } };
let lastLogin = Promise.resolve();

const app = express();
app.use(express.json());
app.use(guestSessions({
  url: process.env.GUEST_URL,
  issuer: process.env.GUEST_ISSUER,
  apiKey: process.env.GUEST_API_KEY,
}));

app.get("/", (req, res) => res.json({ guest: req.guest }));

app.post("/cart", async (req, res) => {
  await req.guest.patch({ cart: req.body }, { policy: "cart" });
  res.json({ guest: req.guest });
});

// Reads, hands over and stores in one step, one login after the other: a database has a transaction for that.
app.post("/login", async (req, res) => {
  const login = lastLogin.then(async () => {
    const { payload, merged } = await req.guest.handOver(users.ada, { policy: "cart" });
    users.ada = payload;
    res.json({ session: payload, merged });
  });
  lastLogin = login.catch(() => undefined);
  await login;
});

app.post("/logout", (req, res) => {
  req.guest.forget();
  res.json({});
});

app.use((error, _req, res, next) => {
  if (!(error instanceof GuestError)) return next(error);
  res.status(error.code === "unavailable" ? 503 : 422).json({ code: error.code, detail: error.message, ...error.facts });
});

app.listen(Number(process.argv[2]), "127.0.0.1");
