import { writeFileSync } from "node:fs";
import {
  Configuration,
  GuestsApi,
  ProblemFromJSON,
  ResponseError,
  VerifiersApi,
  type BadVerdict,
  type GoodVerdict,
} from "./client/index.js";

const configuration = new Configuration({
  basePath: process.env["GUESTS_URL"]!,
  apiKey: process.env["GUESTS_API_KEY"]!,
});
const guests = new GuestsApi(configuration);

const issued = await guests.issue({ issueRequest: { payload: { cart: [{ sku: "tea", qty: 2 }] } } });
const mergePatched = await guests.refreshPayload({
  refreshRequest: { token: issued.token, mergePatch: { currency: "EUR" } },
});
const jsonPatched = await guests.refreshPayload({
  refreshRequest: {
    token: mergePatched.token,
    jsonPatch: [
      { op: "test", path: "/cart/0/qty", value: 2 },
      { op: "replace", path: "/cart/0/qty", value: 3 },
    ],
  },
});
const good = (await guests.verify({ verifyRequest: { token: jsonPatched.token } })) as GoodVerdict;
const bad = (await guests.verify({ verifyRequest: { token: "not a token" } })) as BadVerdict;
const merged = await guests.merge({
  mergeRequest: {
    tokens: [jsonPatched.token, "not a token"],
    session: { cart: [{ sku: "tea", qty: 98 }, { sku: "mug", qty: 1 }], currency: "USD" },
    policy: {
      rules: {
        "/cart": { rule: "by_key", key: "sku", fields: { "/qty": { rule: "sum", ceiling: 99 } } },
        "/currency": "session",
      },
    },
  },
});
const refused = await guests.issue({ issueRequest: { claims: { exp: 1 } } }).then(
  () => Promise.reject(new Error("it was not refused")),
  async (error: unknown) => {
    if (!(error instanceof ResponseError)) throw error;
    return ProblemFromJSON(await error.response.json());
  },
);
const jwks = await new VerifiersApi(configuration).jwks();

writeFileSync(
  process.env["GUESTS_REPORT"]!,
  JSON.stringify({
    issued: { version: issued.version, expires_in: issued.expiresIn, payload: issued.payload },
    merge_patched: { version: mergePatched.version, payload: mergePatched.payload },
    json_patched: { version: jsonPatched.version, payload: jsonPatched.payload },
    good: { version: good.version, payload: good.payload, refresh_due: good.refreshDue },
    bad: bad.reason,
    merged: {
      payload: merged.payload,
      skipped: merged.skipped.map(({ index, reason }) => ({ index, reason })),
      conflicts: merged.conflicts.map(({ path, kept, rule }) => ({ path, kept, rule })),
      next_version: merged.next?.version,
    },
    problem: { status: refused.status, code: refused.code, paths: refused.errors?.map(({ path }) => path) },
    signing_key_is_published: jwks.keys.some(({ kid }) => kid === issued.keyId),
  }),
);
