// The pure core: cookies, the choice of the token, navigations, caching.
import assert from "node:assert/strict";
import { test } from "node:test";
import { isGuestClaims, isSameGuest, newestOfFirstGuest } from "../dist/claims.js";
import { cookieValues, expiredCookies, privateCacheControl } from "../dist/cookies.js";
import { bearerToken, isCrossSite, isPageNavigation } from "../dist/requests.js";

const request = (headers, method = "GET") => ({ method, headers: { get: (name) => headers[name] ?? null } });

for (const [header, values] of [
  ["guest=a", ["a"]],
  ["theme=dark; guest=a;guest=b", ["a", "b"]],
  ["\t guest=a \t; other=b", ["a"]],
  ['guest="a"; guest="b', ["a", '"b']],
  ["guest=; guest; guest=\"\"", [""]],
  ["xguest=a; guestx=b; Guest=c; guest =d", []],
  ["guest=a=b", ["a=b"]],
  ["", []],
]) {
  test(`cookies of ${JSON.stringify(header)}`, () => assert.deepEqual(cookieValues(header, "guest"), values));
}

for (const space of ["\u00a0", "\u0085", "\u1680", "\u2000", "\u200a", "\u2028", "\u202f", "\u205f", "\u3000", "\ufeff", "\v", "\f"]) {
  test(`a cookie name after U+${space.charCodeAt(0).toString(16)} is another name`, () => {
    assert.deepEqual(cookieValues(`${space}__Host-guest=planted; __Host-guest=own`, "__Host-guest"), ["own"]);
    assert.deepEqual(cookieValues(` ${space}__Host-guest=planted`, "__Host-guest"), []);
  });
}

test("a long header of spaces is read in linear time", () => {
  const started = performance.now();
  cookieValues(`guest=${" ".repeat(500_000)}a; ${" ".repeat(500_000)}`, "guest");
  assert.ok(performance.now() - started < 5_000); // in quadratic time it takes minutes
});

const claims = (members) => ({ iss: "i", sub: "G-1", iat: 10, orig_iat: 1, ver: 1, payload: {}, ...members });
const token = (name, members) => ({ token: name, claims: claims(members) });

for (const [name, tokens] of [
  ["the highest version", [token("old"), token("right", { ver: 3, iat: 9 }), token("older", { ver: 2, iat: 99 })]],
  ["of one version the latest", [token("old"), token("right", { iat: 11 })]],
  ["the first of equal ones", [token("right"), token("same")]],
  ["the first guest's own", [token("right"), token("other", { sub: "G-2", ver: 9 }), token("later", { orig_iat: 2, ver: 9 })]],
]) {
  test(`of several tokens counts ${name}`, () => assert.equal(newestOfFirstGuest(tokens).token, "right"));
}

test("a subject made of an Idempotency-Key is a guest by itself", () => {
  const derived = "G-00000000-0000-8000-8000-000000000000";
  const random = "G-00000000-0000-4000-8000-000000000000";
  const [one, later] = [{ orig_iat: 1 }, { orig_iat: 2 }];
  assert.equal(isSameGuest(claims({ sub: derived, ...one }), claims({ sub: derived, ...later })), true);
  assert.equal(isSameGuest(claims({ sub: random, ...one }), claims({ sub: random, ...later })), false);
});

for (const members of [{ payload: [] }, { payload: null }, { ver: "1" }, { sub: undefined }, { iat: 1.5 }, { orig_iat: null }]) {
  test(`no guest's claims: ${JSON.stringify(members)}`, () => {
    assert.equal(isGuestClaims(claims({})), true);
    assert.equal(isGuestClaims(claims(members)), false);
  });
}

const page = { "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document" };
for (const [name, headers, method, expected] of [
  ["a page", page, "GET", true],
  ["a page through a service worker", { ...page, "Sec-Fetch-Dest": "empty" }, "GET", true],
  ["a page by HEAD", page, "HEAD", false],
  ["a form", page, "POST", false],
  ["a frame", { ...page, "Sec-Fetch-Dest": "iframe" }, "GET", false],
  ["a fetch", { "Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty" }, "GET", false],
  ["an image", { "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image" }, "GET", false],
  ["a prerender", { ...page, "Sec-Purpose": "prefetch;prerender" }, "GET", false],
  ["a prefetch", { ...page, Purpose: "Prefetch" }, "GET", false],
  ["a bot", {}, "GET", false],
]) {
  test(`${name} is ${expected ? "a" : "no"} page navigation`, () => {
    assert.equal(isPageNavigation(request(headers, method)), expected);
  });
}

test("a page in a frame counts where cookies are partitioned", () => {
  assert.equal(isPageNavigation(request({ ...page, "Sec-Fetch-Dest": "iframe" }), { frames: true }), true);
});

for (const [site, expected] of [["cross-site", true], ["same-site", false], ["same-origin", false], ["none", false]]) {
  test(`a ${site} request is ${expected ? "" : "not "}from another site`, () => {
    assert.equal(isCrossSite(request({ "Sec-Fetch-Site": site })), expected);
  });
}

for (const [header, expected] of [["Bearer abc", "abc"], ["bearer  abc ", "abc"], ["Basic abc", null], ["Bearer a b", null], ["Bearer ", null]]) {
  test(`the Bearer token of ${JSON.stringify(header)}`, () => {
    assert.equal(bearerToken(request({ Authorization: header })), expected);
  });
}

for (const [present, expected] of [
  [null, "private"],
  ["public, max-age=60, s-maxage=600", "private, max-age=60"],
  ["no-store", "private, no-store"],
  ["PUBLIC", "private"],
  ['private="Set-Cookie, X", no-cache="A, B", max-age=1', 'private, no-cache="A, B", max-age=1'],
  ["private", "private"],
]) {
  test(`the caching of ${present} with a guest's cookie`, () => assert.equal(privateCacheControl(present), expected));
}

const places = { names: ["__Host-guest", "guest"], domain: "shop.example", secure: true, partitioned: false };
test("every place of the guest's cookie is expired", () => {
  const line = "Max-Age=0; HttpOnly; Path=/; SameSite=Lax; Secure";
  assert.deepEqual(expiredCookies(places), [
    `__Host-guest=; ${line}`,
    `guest=; ${line}`,
    `guest=; ${line}; Domain=shop.example`,
  ]);
});

test("a plain cookie of an http issuer is expired without Secure", () => {
  const [line] = expiredCookies({ names: ["guest"], domain: undefined, secure: false, partitioned: false });
  assert.equal(line, "guest=; Max-Age=0; HttpOnly; Path=/; SameSite=Lax");
});

test("a partitioned cookie is expired in its partition", () => {
  const [line] = expiredCookies({ ...places, partitioned: true });
  assert.match(line, /SameSite=None; Secure; Partitioned$/);
});
