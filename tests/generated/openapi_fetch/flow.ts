import { writeFileSync } from "node:fs";
import createClient from "openapi-fetch";
import type { components, paths } from "./schema.js";

const client = createClient<paths>({
  baseUrl: process.env["GUESTS_URL"]!,
  headers: { "X-API-Key": process.env["GUESTS_API_KEY"]! },
});

function present<T>(data: T | undefined, error: unknown): T {
  if (data === undefined) throw new Error(JSON.stringify(error));
  return data;
}

async function verify(token: string): Promise<components["schemas"]["Verdict"]> {
  const { data, error } = await client.POST("/v1/verify", { body: { token } });
  return present(data, error);
}

const issue = await client.POST("/v1/issue", { body: { payload: { cart: [{ sku: "tea", qty: 2 }] } } });
const issued = present(issue.data, issue.error);
const mergePatch = await client.POST("/v1/refresh-payload", {
  body: { token: issued.token, merge_patch: { currency: "EUR" } },
});
const mergePatched = present(mergePatch.data, mergePatch.error);
const jsonPatch = await client.POST("/v1/refresh-payload", {
  body: {
    token: mergePatched.token,
    json_patch: [
      { op: "test", path: "/cart/0/qty", value: 2 },
      { op: "replace", path: "/cart/0/qty", value: 3 },
    ],
  },
});
const jsonPatched = present(jsonPatch.data, jsonPatch.error);
const good = await verify(jsonPatched.token);
const bad = await verify("not a token");
if (!good.active || bad.active) throw new Error("verdicts");
const merge = await client.POST("/v1/merge", {
  body: {
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
const merged = present(merge.data, merge.error);
const refused = await client.POST("/v1/issue", { body: { claims: { exp: 1 } } });
if (refused.error === undefined) throw new Error("it was not refused");
const jwks = await client.GET("/.well-known/jwks.json");

writeFileSync(
  process.env["GUESTS_REPORT"]!,
  JSON.stringify({
    issued: { version: issued.version, expires_in: issued.expires_in, payload: issued.payload },
    merge_patched: { version: mergePatched.version, payload: mergePatched.payload },
    json_patched: { version: jsonPatched.version, payload: jsonPatched.payload },
    good: { version: good.version, payload: good.payload, refresh_due: good.refresh_due },
    bad: bad.reason,
    merged: {
      payload: merged.payload,
      skipped: merged.skipped.map(({ index, reason }) => ({ index, reason })),
      conflicts: merged.conflicts.map(({ path, kept, rule }) => ({ path, kept, rule })),
      next_version: merged.next?.version,
    },
    problem: {
      status: refused.error.status,
      code: refused.error.code,
      paths: refused.error.errors?.map(({ path }) => path),
    },
    signing_key_is_published: present(jwks.data, jwks.error).keys.some(({ kid }) => kid === issued.key_id),
  }),
);
