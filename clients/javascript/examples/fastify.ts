import Fastify from "fastify";
import { type Guest, guestSessions } from "guest-sessions/fastify";

type Shop = { cart?: string[] };
declare module "fastify" {
  interface FastifyRequest { guest: Guest<Shop> }
}

const app = Fastify();
app.register(guestSessions, { url: "http://127.0.0.1:8080", issuer: "https://shop.example" });

app.get("/", async (request) => ({ cart: request.guest.payload.cart ?? [] }));

app.post<{ Body: string[] }>("/cart", async (request) => {
  await request.guest.patch({ cart: request.body });
  return { cart: request.guest.payload.cart };
});

await app.listen({ port: 3000 });
