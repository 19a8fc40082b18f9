// Guest sessions for Express 4 and 5: copy this file, app.use(guestSessions({ url, issuer })). Needs `jose` and Node 20.
//
// req.guest is then the guest's claims or null; req.saveGuest(payload) writes the payload, req.handOver(session) merges it
// at login. Tokens are checked here, offline, by the JWKS; the service is asked for a new guest, a renewal, a change and a
// hand-over only, and about a token whose key is not known here yet.
import { createLocalJWKSet, decodeJwt, jwtVerify } from "jose";

const REFRESH = "/v1/refresh-payload";

// Whether a person opens a page: bots, prefetches and fetch() get no guest.
function isPage(req) {
  const purpose = req.get("Sec-Purpose") ?? req.get("Purpose") ?? "";
  return req.method === "GET" && req.get("Sec-Fetch-Mode") === "navigate" && req.get("Sec-Fetch-Dest") === "document"
    && !purpose.includes("prefetch");
}

// renewAfterS: a token older than that is renewed on a page; browsers forget a cookie after 400 days.
export function guestSessions({ url, issuer, cookie = "__Host-guest", apiKey, renewAfterS = 30 * 86_400 }) {
  const headers = { "Content-Type": "application/json", ...(apiKey && { Authorization: `Bearer ${apiKey}` }) };
  let [keys, keysEnd, quietUntil] = [createLocalJWKSet({ keys: [] }), Infinity, 0];

  // Fetches the keys every 30 s, so that no request waits for them; the last ones are good for a day.
  async function fetchKeys() {
    try {
      const response = await fetch(new URL("/.well-known/jwks.json", url), { signal: AbortSignal.timeout(3000) });
      [keys, keysEnd] = [createLocalJWKSet(await response.json()), Date.now() + 86_400_000];
    } catch (error) {
      console.warn("the keys stay as they are:", error);
    }
  }
  fetchKeys();
  setInterval(fetchKeys, 30_000).unref();

  // The claims of a good token, null for a bad one, {} where its key is not known here: the service must tell.
  async function read(token) {
    try {
      if (Date.now() > keysEnd) return {};
      return (await jwtVerify(token, keys, { issuer, typ: "guest+jwt", algorithms: ["ES256", "RS256"] })).payload;
    } catch (error) {
      return error.code === "ERR_JWKS_NO_MATCHING_KEY" ? {} : null;
    }
  }

  // Whether to ask the service: one that was silent is asked by one request in 5 s, the others do not wait.
  function mayAsk() {
    const [now, until] = [Date.now(), quietUntil];
    if (until && now >= until) quietUntil = now + 5000;
    return now >= until;
  }

  async function call(req, res, path, body) {
    const init = { method: "POST", headers, body: JSON.stringify(body), signal: AbortSignal.timeout(3000) };
    let response, answer;
    try {
      response = await fetch(new URL(path, url), init);
      answer = await response.json();
    } catch (error) {
      quietUntil = Date.now() + 5000;
      throw error;
    }
    quietUntil = 0;
    if (answer.code === "invalid_token") {
      Object.assign(req, { guest: null, guestToken: null });
      return answer;
    }
    if (!response.ok) throw new Error(`${path} answered ${response.status}: ${answer.detail}`);
    for (const line of response.headers.getSetCookie()) res.append("Set-Cookie", line);
    const { token } = answer.next ?? answer;
    if (token) Object.assign(req, { guest: decodeJwt(token), guestToken: token }); // the service's own word
    return answer;
  }

  // Signs the guest again; makes a new one where there is none, or where the service finds the token bad.
  async function write(req, res, body) {
    if (req.guestToken) await call(req, res, REFRESH, { token: req.guestToken, ...body, cookie: true });
    if (!req.guestToken) await call(req, res, "/v1/issue", { ...body, cookie: true });
  }

  // Replaces the guest's payload; makes a guest where there is none yet. Throws when nothing was saved.
  async function save(req, res, payload) {
    if (!req.guest && req.guestToken) throw new Error("this guest could not be read, and is not written over unread");
    if (!req.guest && !["none", "same-origin"].includes(req.get("Sec-Fetch-Site") ?? "none")) {
      throw Object.assign(new Error("another site's request comes without the guest's cookie"), { status: 403 });
    }
    await write(req, res, { payload });
  }

  // The merge's answer: store its payload as the user's session before you answer. Never stops a login.
  async function handOver(req, res, session, options) {
    const nothing = { payload: session, merged: false, guests: [], skipped: [], conflicts: [], next: null };
    if (!req.guestToken) return nothing; // leave the cookie alone: a login that comes from another site is without it
    try {
      const body = { tokens: [req.guestToken], session, cookie: true, ...options, strict: false };
      return await call(req, res, "/v1/merge", body);
    } catch (error) {
      console.warn("nothing was handed over, the next login will:", error);
      return nothing;
    }
  }

  return async function guestSession(req, res, next) {
    const values = (req.get("Cookie") ?? "").split(/;\s*/).filter((pair) => pair.startsWith(`${cookie}=`));
    const tokens = values.map((pair) => pair.slice(cookie.length + 1));
    const claims = await Promise.all(tokens.map(read));
    // Of several cookies the first good one counts, else the first that is not known to be bad.
    const good = claims.findIndex((each) => each?.sub);
    const chosen = good >= 0 ? good : claims.findIndex((each) => each);
    Object.assign(req, {
      guest: claims[good] ?? null,
      guestToken: tokens[chosen] ?? null,
      saveGuest: (payload) => save(req, res, payload),
      handOver: (session, options) => handOver(req, res, session, options),
    });
    try {
      const unsure = req.guestToken && !req.guest; // this sets no cookie: it could overtake that of a change
      if (unsure && mayAsk()) await call(req, res, REFRESH, { token: req.guestToken });
      const fresh = req.guest?.iat > Date.now() / 1000 - renewAfterS;
      if (isPage(req) && !fresh && mayAsk()) await write(req, res, {});
    } catch (error) {
      console.warn("no guest sessions for now, cookies stay as they are:", error);
    }
    next();
  };
}
