import express from "express";
import { type Guest, GuestError, guestSessions } from "guest-sessions/express";

type Shop = { cart?: string[] };
declare global {
  namespace Express {
    interface Request { guest: Guest<Shop> }
  }
}

const { GUEST_URL = "http://127.0.0.1:8080", GUEST_ISSUER = GUEST_URL, GUEST_API_KEY } = process.env;
const app = express();
app.use(express.json());
app.use(guestSessions<Shop>({ url: GUEST_URL, issuer: GUEST_ISSUER, apiKey: GUEST_API_KEY }));

app.get("/", (req, res) => void res.json({ cart: req.guest.payload.cart ?? [] }));

app.post("/cart", async (req, res) => {
  await req.guest.patch({ cart: [...(req.guest.payload.cart ?? []), req.body.item] });
  res.json({ cart: req.guest.payload.cart });
});

app.use((error: unknown, _req: express.Request, res: express.Response, next: express.NextFunction) => {
  if (!(error instanceof GuestError)) return next(error);
  res.status(error.code === "unavailable" ? 503 : 422).json({ code: error.code, ...error.facts });
});

app.listen(3000);
