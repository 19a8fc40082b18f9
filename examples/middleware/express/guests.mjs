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
    const answer = await response.json();
    if (response.status === 422 && answer.code === "invalid_token") return null;
    if (!response.ok) throw new Error(`${path} answered ${response.status}: ${answer.detail}`);
    for (const line of response.headers.getSetCookie()) res.append("Set-Cookie", line);
    const fresh = path === "/v1/merge" ? answer.next : answer;
    if (fresh) [req.guestToken, req.guest] = [fresh.token, await verified(fresh.token)];
    return answer;
  }

  // Signs the guest again; makes a new one where there is none, or where the service has revoked it.
  async function write(req, res, body) {
    const token = req.guestToken;
    return (token && (await call(req, res, "/v1/refresh-payload", { token, ...body }))) || call(req, res, "/v1/issue", body);
  }

  // Never stops a login: when the service is out of reach, the guest stays and the next login hands it over.
  async function handOver(req, res, session, options) {
    try {
      return await call(req, res, "/v1/merge", { tokens: [req.guestToken], session, ...options });
    } catch (error) {
      console.warn("nothing was handed over, the next login will:", error.message);
      return { payload: session, merged: false, guests: [], skipped: [], conflicts: [] };
    }
  }

  return async function guestSession(req, res, next) {
    const cookies = (req.get("Cookie") ?? "").split(/;\s*/);
    const token = cookies.find((pair) => pair.startsWith(`${cookie}=`))?.slice(cookie.length + 1) ?? null;
    Object.assign(req, {
      guest: null,
      guestToken: token,
      saveGuest: (payload) => write(req, res, { payload }), // replaces the payload; makes a guest where there is none yet
      handOver: (session, options) => handOver(req, res, session, options), // store the answer's payload before you answer
    });
    try {
      req.guest = token && (await verified(token));
      req.guestToken = req.guest && token;
      if (isPage(req) && !(req.guest?.iat >= Date.now() / 1000 - renewAfterS)) await write(req, res, {});
    } catch (error) {
      console.warn("no guest sessions for now, cookies stay as they are:", error.message);
    }
    next();
  };
}
