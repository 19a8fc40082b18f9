// SuperTokens with Express: a visitor who logs in takes the guest's cart along, in the account and in the access token.
//
// `handOverGuests` is what matters. tests/login runs this with SuperTokens' own SDK on a small double of its core.
import { guestSessions } from "guest-sessions/express";
import express from "express";
import supertokens from "supertokens-node";
import { errorHandler, middleware } from "supertokens-node/framework/express/index.js";
import EmailPassword from "supertokens-node/recipe/emailpassword/index.js";
import Session from "supertokens-node/recipe/session/index.js";
import { verifySession } from "supertokens-node/recipe/session/framework/express/index.js";
import { changeAccount } from "./accounts.mjs";

/** Overrides `createNewSession`, through which every login goes, and each sign-up that logs in. */
function handOverGuests(original) {
  return {
    ...original,
    async createNewSession(input) {
      // Express' own request; there is none where a script makes a session.
      const guest = supertokens.getRequestFromUserContext(input.userContext)?.original.guest;
      const account = await changeAccount(input.userId, async (account) => {
        // It does not throw: without guest-sessions the account comes back as it was, and the session is created.
        return guest ? (await guest.handOver(account, { policy: "cart" })).payload : account;
      });
      return original.createNewSession({ ...input, accessTokenPayload: { ...input.accessTokenPayload, account } });
    },
  };
}

const port = Number(process.argv[2] ?? 8000);
const site = `http://localhost:${port}`;

supertokens.init({
  framework: "express",
  supertokens: { connectionURI: process.env.SUPERTOKENS_URL ?? "http://localhost:3567" },
  appInfo: { appName: "shop", apiDomain: site, websiteDomain: site, apiBasePath: "/auth" },
  recipeList: [EmailPassword.init(), Session.init({ override: { functions: handOverGuests } })],
});

const { GUEST_URL: url, GUEST_ISSUER: issuer, GUEST_API_KEY: apiKey } = process.env;
const app = express();
app.use(guestSessions({ url, issuer, apiKey })); // before SuperTokens', whose middleware responds to the login
app.use(middleware());
app.get("/", (req, res) => res.json({ guest: req.guest }));
app.post("/cart", express.json(), async (req, res) => {
  await req.guest.patch({ cart: req.body }, { policy: "cart" });
  res.json({ guest: req.guest });
});
app.get("/account", verifySession(), (req, res) => res.json(req.session.getAccessTokenPayload().account));
app.use(errorHandler());
app.listen(port, "127.0.0.1");
