// better-auth: a visitor who logs in takes the guest's cart along. `after` is what matters.
import { AsyncLocalStorage } from "node:async_hooks";
import { serve } from "@hono/node-server";
import { betterAuth } from "better-auth";
import { memoryAdapter } from "better-auth/adapters/memory";
import { createAuthMiddleware } from "better-auth/api";
import { GuestSessions } from "guest-sessions";
import { changeAccount } from "./accounts.mjs";

const { GUEST_URL: url, GUEST_ISSUER: issuer, GUEST_API_KEY: apiKey } = process.env;
const guests = new GuestSessions({ url, issuer, apiKey });
const visitor = new AsyncLocalStorage(); // the guest of the request that is being handled

/** Runs after each of better-auth's endpoints; those that log in leave `newSession`. */
const after = createAuthMiddleware(async ({ context: { newSession } }) => {
  const guest = visitor.getStore();
  if (!newSession || !guest) return;
  await changeAccount(newSession.user.id, async (account) => {
    // It does not throw: without guest-sessions the account comes back as it was.
    return (await guest.handOver(account, { policy: "cart" })).payload;
  });
});

const port = Number(process.argv[2] ?? 8000);
const auth = betterAuth({
  baseURL: `http://localhost:${port}`,
  basePath: "/auth",
  secret: process.env.AUTH_SECRET,
  database: memoryAdapter({ user: [], session: [], account: [], verification: [] }), // yours is a real one
  emailAndPassword: { enabled: true },
  hooks: { after },
});

async function respond(request, guest) {
  const { pathname } = new URL(request.url);
  if (pathname.startsWith("/auth/")) return visitor.run(guest, () => auth.handler(request));
  if (pathname === "/cart") await guest.patch({ cart: await request.json() }, { policy: "cart" });
  if (pathname !== "/account") return Response.json({ guest });
  const session = await auth.api.getSession({ headers: request.headers });
  if (!session) return new Response(null, { status: 401 });
  return Response.json(await changeAccount(session.user.id, (account) => account));
}

const fetch = (request) => guests.handle(request, (guest) => respond(request, guest));
serve({ fetch, port, hostname: "127.0.0.1" });
