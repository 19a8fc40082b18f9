// Guest sessions for Express 4 and 5: copy this file, app.use(guestSessions({ url, issuer })). Needs `jose`, Node 20.
//
// req.guest then has the guest's claims or null; its save(payload) writes the payload, handOver(session) merges it at
// login. Tokens are checked here, offline, by the JWKS; the service is asked for a new guest, a renewal, a change and a
// hand-over only, and about a token whose key is not known here yet.
import { createLocalJWKSet, decodeJwt, jwtVerify } from "jose";

// What a browser says when a person opens a page, and no prefetch: bots and fetch() get no guest either.
const PAGE = { "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document", "Sec-Purpose": "", Purpose: "" };

export class NotSaved extends Error {} // the guest is as it was; the message says why

// Tokens are renewed after 30 days, as browsers forget a cookie after 400.
export function guestSessions({ url, issuer, cookie = "__Host-guest", apiKey = "", renewAfterS = 30 * 86_400 }) {
  const headers = { "Content-Type": "application/json", "X-API-Key": apiKey.trim() };
  let [keys, away] = [createLocalJWKSet({ keys: [] }), false];
  setInterval(fetchKeys, 5000).unref();
  fetchKeys();

  return async function guestSession(req, res, next) {
    // Only SP and HTAB are white space here (RFC 6265, section 4.2.1). Any other space belongs to the name: skipping it
    // would make `__Host-guest` of a cookie whose prefix the browser did not see and so did not protect.
    const values = (req.get("Cookie") ?? "").split(/;[ \t]*/).filter((pair) => pair.startsWith(`${cookie}=`));
    const tokens = await Promise.all(values.map((pair) => read(pair.slice(cookie.length + 1))));
    // Of several cookies the first good one counts, else the first that is not known to be bad.
    const { claims = null, token = null } = tokens.find((each) => each?.claims) ?? tokens.find((each) => each) ?? {};
    const guest = (req.guest = { claims, token, cookies: [], save, handOver, toJSON: () => guest.claims });
    const { writeHead } = res;
    res.writeHead = (status, ...rest) => {
      if (status < 500) res.append("Set-Cookie", guest.cookies); // else the guest is as it was
      return writeHead.call(res, status, ...rest);
    };
    // A token whose key is not known is asked about, no more: a cookie could overtake that of a change.
    if (token && !claims && !away) await ask(res, "/v1/refresh-payload", { token });
    const fresh = guest.claims?.iat > Date.now() / 1000 - renewAfterS;
    const page = req.method === "GET" && Object.entries(PAGE).every(([name, value]) => (req.get(name) ?? "") === value);
    if (page && !fresh && !away) await sign({ cookie: true });
    next();

    // Replaces the guest's payload; makes a guest where there is none yet. Throws NotSaved.
    async function save(payload) {
      const elsewhere = !["none", "same-origin"].includes(req.get("Sec-Fetch-Site") ?? "none");
      const unseen = !guest.claims && (guest.token || elsewhere); // another site's request comes without the cookie
      if (unseen) throw new NotSaved("a guest may be there that could not be read, and is not written over unread");
      const answer = await sign({ payload, cookie: true });
      if (!answer.token) throw new NotSaved(answer.detail ?? "guest-sessions is away");
    }

    // The merge's answer: store its payload as the user's session before you answer. Never stops a login.
    async function handOver(session, options) {
      const nothing = { payload: session, merged: false, guests: [], skipped: [], conflicts: [], next: null };
      const body = { ...options, tokens: [guest.token], session, cookie: true, strict: false };
      // Without a token leave the cookie alone: a login that comes from another site does not show it.
      return { ...nothing, ...(guest.token && (await ask(res, "/v1/merge", body))) };
    }

    // Signs the guest again; makes a new one where there is none, or where the service finds the token bad.
    async function sign(body) {
      const answer = guest.token && (await ask(res, "/v1/refresh-payload", { ...body, token: guest.token }));
      return guest.token ? answer : ask(res, "/v1/issue", body);
    }
  };

  // Null for a bad token; one without claims where its key is not known here: then the service must tell.
  function read(token) {
    return jwtVerify(token, keys, { issuer, typ: "guest+jwt" }).then(({ payload }) => ({ token, claims: payload }))
      .catch(({ code }) => (code === "ERR_JWKS_NO_MATCHING_KEY" ? { token } : null));
  }

  // The service's answer, {} without one. Its word counts from then on: a token that it gives, or finds bad.
  async function ask(res, path, body) {
    if (res?.headersSent) return {}; // too late for a cookie
    const content = { method: body ? "POST" : "GET", headers, body: JSON.stringify(body) };
    try {
      const response = await fetch(new URL(path, url), { ...content, signal: AbortSignal.timeout(3000) });
      const answer = await response.json();
      const cookies = response.headers.getSetCookie().filter((line) => line.startsWith(`${cookie}=`));
      const { token = null } = answer.next ?? answer;
      away = false;
      if (token || cookies.length || answer.code === "invalid_token") {
        Object.assign(res.req.guest, { claims: token && decodeJwt(token), token, cookies });
      } else if (!response.ok) console.warn(`guest-sessions refuses ${path}:`, answer);
      if (token && !cookies.length && body.cookie) console.warn(`guest-sessions sets another cookie than ${cookie}`);
      return answer;
    } catch (error) {
      console.warn("guest-sessions is away, cookies stay as they are:", error);
      away = true; // nobody else waits for it, until `fetchKeys` finds it there again
      return {};
    }
  }

  // The keys are fetched every 5 s, beside the requests; the last ones count while the service is away.
  async function fetchKeys() {
    const jwks = await ask(null, "/.well-known/jwks.json");
    if (Array.isArray(jwks.keys) && jwks.keys[0] && jwks.keys.every((key) => key?.kid)) keys = createLocalJWKSet(jwks);
  }
}
