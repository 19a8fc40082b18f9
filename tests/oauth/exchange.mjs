// A guest token exchanged by oauth4webapi, and verified by it (RFC 9068) and by jose; see test_token_exchange.py.

import { createRemoteJWKSet, decodeProtectedHeader, jwtVerify } from "jose";
import * as oauth from "oauth4webapi";

const { ISSUER, CLIENT_SECRET, GUEST_TOKEN } = process.env;
const issuer = new URL(ISSUER);
const options = { [oauth.allowInsecureRequests]: true };
const metadata = await oauth.processDiscoveryResponse(
  issuer,
  await oauth.discoveryRequest(issuer, { algorithm: "oauth2", ...options }),
);
const client = { client_id: "shop" };

async function exchange(subject_token, parameters, secret = CLIENT_SECRET) {
  const [grantType] = metadata.grant_types_supported;
  const form = { subject_token, subject_token_type: "urn:ietf:params:oauth:token-type:jwt", ...parameters };
  const authentication = oauth.ClientSecretBasic(secret);
  const response = await oauth.genericTokenEndpointRequest(metadata, client, authentication, grantType, form, options);
  return oauth.processGenericTokenEndpointResponse(metadata, client, response);
}

async function errorOf(...request) {
  try {
    await exchange(...request);
    return "none";
  } catch (error) {
    // At 401 oauth4webapi reads the challenge alone.
    return error instanceof oauth.WWWAuthenticateChallengeError ? (await error.response.json()).error : error.error;
  }
}

const response = await exchange(GUEST_TOKEN, { audience: "search", scope: "payload" });
const { access_token } = response;
const keys = createRemoteJWKSet(new URL(metadata.jwks_uri));
const { payload: claims } = await jwtVerify(access_token, keys, { issuer: ISSUER, audience: "search", typ: "at+jwt" });

const request = new Request("https://search.example/", { headers: { Authorization: `Bearer ${access_token}` } });
const checked = await oauth.validateJwtAccessToken(metadata, request, "search", options);
if (checked.jti !== claims.jti) throw new Error("oauth4webapi and jose read different tokens");

console.log(
  JSON.stringify({
    token_type: response.token_type,
    issued_token_type: response.issued_token_type,
    expires_in: response.expires_in,
    typ: decodeProtectedHeader(access_token).typ,
    subject: claims.sub,
    payload: claims.payload,
    errors: {
      "an access token for a guest token": await errorOf(access_token, { audience: "search" }),
      "no audience": await errorOf(GUEST_TOKEN, {}),
      "another scope": await errorOf(GUEST_TOKEN, { audience: "search", scope: "openid" }),
      "a wrong secret": await errorOf(GUEST_TOKEN, { audience: "search" }, "w".repeat(20)),
    },
  }),
);
