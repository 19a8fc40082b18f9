// Guest sessions for Express 4 and 5: copy this file, app.use(guestSessions({ url, issuer })). Needs `jose` and Node 20.
//
// req.guest is then the guest's claims or null; req.saveGuest(payload) writes the payload, req.handOver(session) merges it
// at login. Tokens are checked here, offline, by the JWKS; the service is asked for a new guest, a renewal, a change and a
// hand-over only.
import { createRemoteJWKSet, errors, jwtVerify } from "jose";

// Whether a person opens a page: bots, prefetches and fetch() get no guest.
function isPage(req) {
  const purpose = req.get("Sec-Purpose") ?? req.get("Purpose") ?? "";
  return req.method === "GET" && req.get("Sec-Fetch-Mode") === "navigate" && req.get("Sec-Fetch-Dest") === "document"
    && !purpose.includes("prefetch");
}

// renewAfterS: a token older than that is renewed on a page; browsers forget a cookie after 400 days.
export function guestSessions({ url, issuer, cookie = "__Host-guest", apiKey, renewAfterS = 30 * 86_400 }) {
  const keys = createRemoteJWKSet(new URL("/.well-known/jwks.json", url));
  const headers = { "Content-Type": "application/json", ...(apiKey && { Authorization: `Bearer ${apiKey}` }) };

  // The claims; null for a bad token; an error when the keys cannot be had, which says nothing about the token.
  async function verified(token) {
    try {
      const options = { issuer, typ: "guest+jwt", algorithms: ["ES256", "RS256"] };
      return (await jwtVerify(token, keys, options)).payload;
    } catch (error) {
      if (error instanceof errors.JOSEError && error.code !== "ERR_JWKS_TIMEOUT" && error.code !== "ERR_JOSE_GENERIC") return null;
      throw error;
    }
  }

  async function call(req, res, path, body) {
    const init = { method: "POST", headers, body: JSON.stringify({ ...body, cookie: true }), signal: AbortSignal.timeout(3000) };
    const response = await fetch(new URL(path, url), init);
    if (!response.ok) throw new Error(`${path} answered ${response.status}`);
    const answer = await response.json();
    for (const line of response.headers.getSetCookie()) res.append("Set-Cookie", line);
    const fresh = path === "/v1/merge" ? answer.next : answer;
    if (fresh) [req.guestToken, req.guest] = [fresh.token, await verified(fresh.token)];
    return answer;
  }

  return async function guestSession(req, res, next) {
    const cookies = (req.get("Cookie") ?? "").split(/;\s*/);
    const token = (req.guestToken = cookies.find((pair) => pair.startsWith(`${cookie}=`))?.slice(cookie.length + 1) ?? null);
    req.guest = null;
    // Replaces the guest's payload; makes a guest where there is none yet.
    req.saveGuest = (payload) => req.guest
      ? call(req, res, "/v1/refresh-payload", { token: req.guestToken, payload })
      : call(req, res, "/v1/issue", { payload });
    // The merge's answer: store its `payload` as the user's session before you answer the login.
    req.handOver = (session, options) => call(req, res, "/v1/merge", { tokens: [req.guestToken], session, ...options });
    try {
      req.guest = token && (await verified(token));
      if (isPage(req) && !req.guest) await call(req, res, "/v1/issue", {});
      else if (isPage(req) && req.guest.iat < Date.now() / 1000 - renewAfterS) await call(req, res, "/v1/refresh-payload", { token });
    } catch (error) {
      console.warn("no guest sessions for now:", error.message); // the cookie stays as it is
    }
    next();
  };
}
