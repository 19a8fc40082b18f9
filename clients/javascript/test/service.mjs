// A small double of the guest-sessions service for unit tests: it signs, and replaces or patches payloads one level deep.
import { createServer } from "node:http";
import { exportJWK, generateKeyPair, SignJWT, decodeJwt } from "jose";

export const ISSUER = "https://shop.example";
const PAGE = { "sec-fetch-mode": "navigate", "sec-fetch-dest": "document" };

/** A request's headers for a page navigation, with the guest cookies. */
export const page = (...tokens) => ({ ...PAGE, cookie: tokens.map((token) => `__Host-guest=${token}`).join("; ") });

/** The token in the response's only guest cookie, or null. */
export function tokenSet(response) {
  const [line, ...more] = response.headers.getSetCookie().filter((each) => each.startsWith("__Host-guest="));
  if (more.length) throw new Error("several guest cookies");
  return line?.split(";")[0].slice("__Host-guest=".length) ?? null;
}

/** The address of the server, which ends with the test. */
export async function listening(t, server) {
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => server.close().closeAllConnections());
  return `http://127.0.0.1:${server.address().port}`;
}

export async function startService(t) {
  const { privateKey, publicKey } = await generateKeyPair("ES256");
  const jwk = { ...(await exportJWK(publicKey)), kid: "key-1", alg: "ES256", use: "sig" };
  const calls = []; // [path, body, headers]
  let guests = 0;

  async function sign({ sub, ver, payload, iat = Math.floor(Date.now() / 1000), orig_iat = iat }) {
    const claims = new SignJWT({ ver, payload, orig_iat }).setProtectedHeader({ alg: "ES256", kid: "key-1", typ: "guest+jwt" });
    return claims.setSubject(sub).setIssuer(ISSUER).setIssuedAt(iat).setExpirationTime(iat + 1_000_000).sign(privateKey);
  }
  const issue = (payload = {}, members = {}) => sign({ sub: `G-${++guests}`, ver: 1, payload, ...members });

  async function respond(path, body) {
    if (path === "/.well-known/jwks.json") return [200, { keys: [jwk] }];
    if (path === "/v1/issue") return [201, { token: await issue(body.payload) }];
    if (path === "/v1/refresh-payload") {
      const { sub, ver, orig_iat, payload: old } = decodeJwt(body.token);
      if (body.payload?.cart === "too large") {
        return [422, { code: "token_too_large", detail: "the token is too large", bytes: 5000, limit: 3800, status: 422 }];
      }
      const payload = body.payload ?? { ...old, ...body.merge_patch };
      return [200, { token: await sign({ sub, orig_iat, payload, ver: ver + (body.payload || body.merge_patch ? 1 : 0) }) }];
    }
    if (path === "/v1/merge") {
      const next = body.renew === false ? null : { token: await issue() };
      return [200, { payload: { ...body.session, merged_guests: [] }, merged: true, guests: [], skipped: [], conflicts: [], next }];
    }
    return [404, { code: "not_found", detail: "no such path" }];
  }

  const server = createServer(async (req, res) => {
    const chunks = await req.toArray();
    const body = chunks.length ? JSON.parse(Buffer.concat(chunks).toString()) : undefined;
    calls.push([req.url, body, req.headers]);
    const [status, answer] = await respond(req.url, body);
    const token = answer.token ?? answer.next?.token;
    if (body?.cookie && token) res.setHeader("Set-Cookie", `__Host-guest=${token}; Path=/; Secure`);
    res.writeHead(status, { "Content-Type": "application/json" }).end(JSON.stringify(answer));
  });
  const url = await listening(t, server);
  return { url, issue, sign, calls, bodiesOf: (path) => calls.filter(([asked]) => asked === path).map(([, body]) => body) };
}
