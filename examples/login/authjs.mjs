// Auth.js: a visitor who logs in takes the guest's cart along. The event `signIn` is what matters.
//
// With next-auth, wrap its `handlers` as `respond` wraps `Auth` here; the event is the same.
import { AsyncLocalStorage } from "node:async_hooks";
import { Auth } from "@auth/core";
import Credentials from "@auth/core/providers/credentials";
import { serve } from "@hono/node-server";
import { GuestSessions } from "guest-sessions";
import { changeAccount } from "./accounts.mjs";

const { GUEST_URL: url, GUEST_ISSUER: issuer, GUEST_API_KEY: apiKey } = process.env;
const guests = new GuestSessions({ url, issuer, apiKey });
const visitor = new AsyncLocalStorage(); // the guest of the request: Auth.js gives none to its events

async function signIn({ user }) {
  const guest = visitor.getStore();
  await changeAccount(user.id, async (account) => {
    // It does not throw: without guest-sessions the account comes back as it was.
    return (await guest.handOver(account, { policy: "cart" })).payload;
  });
}

const config = {
  basePath: "/auth",
  secret: process.env.AUTH_SECRET,
  trustHost: true,
  session: { strategy: "jwt" },
  // Yours checks a password, or is an OAuth provider: the event comes with each kind.
  providers: [Credentials({ credentials: { name: {} }, authorize: ({ name }) => ({ id: name, name }) })],
  callbacks: { session: ({ session, token }) => ({ ...session, userId: token.sub }) },
  events: { signIn },
};

async function respond(request, guest) {
  const { pathname } = new URL(request.url);
  if (pathname.startsWith("/auth/")) return visitor.run(guest, () => Auth(request, config));
  if (pathname === "/cart") await guest.patch({ cart: await request.json() }, { policy: "cart" });
  if (pathname !== "/account") return Response.json({ guest });
  const session = await (await Auth(new Request(new URL("/auth/session", request.url), request), config)).json();
  if (!session) return new Response(null, { status: 401 });
  return Response.json(await changeAccount(session.userId, (account) => account));
}

const fetch = (request) => guests.handle(request, (guest) => respond(request, guest));
serve({ fetch, port: Number(process.argv[2] ?? 8000), hostname: "127.0.0.1" });
