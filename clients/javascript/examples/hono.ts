import { Hono } from "hono";
import { type Guest, GuestSessions } from "guest-sessions";

type Shop = { cart?: string[] };
const guests = new GuestSessions<Shop>({ url: "http://127.0.0.1:8080", issuer: "https://shop.example" });

const app = new Hono<{ Variables: { guest: Guest<Shop> } }>();
app.use(async (c, next) => {
  const guest = await guests.open(c.req.raw);
  c.set("guest", guest);
  await next();
  const response = guest.finish(c.res);
  c.res = undefined; // else Hono puts the former headers over the guest's
  c.res = response;
});

app.get("/", (c) => c.json({ cart: c.get("guest").payload.cart ?? [] }));

app.post("/cart", async (c) => {
  await c.get("guest").patch({ cart: await c.req.json<string[]>() });
  return c.json({ cart: c.get("guest").payload.cart });
});

export default app;
