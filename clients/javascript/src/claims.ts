// The claims of a guest token, and which of several tokens counts: pure functions.

import { decodeJwt } from "jose";

/** The claims that every guest token has; the application's own ones stand beside them. */
export interface Claims {
  readonly iss: string;
  readonly sub: string;
  readonly iat: number;
  readonly orig_iat: number;
  readonly ver: number;
  readonly payload: object;
}

export interface GuestToken {
  readonly token: string;
  readonly claims: Claims;
}

export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

export function isGuestClaims(claims: unknown): claims is Claims {
  return (
    isObject(claims) &&
    [claims.iss, claims.sub].every((each) => typeof each === "string") &&
    [claims.iat, claims.orig_iat, claims.ver].every(Number.isInteger) &&
    isObject(claims.payload)
  );
}

/** The claims of a token that the service vouches for; null where it is no guest's. */
export function unverifiedClaims(token: string): Claims | null {
  try {
    const claims: unknown = decodeJwt(token);
    return isGuestClaims(claims) ? claims : null;
  } catch {
    return null;
  }
}

// A subject that the service derived from an `Idempotency-Key`: alone it stands for the lineage.
const DERIVED_SUBJECT = /^G-[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}$/i;

export function isSameGuest(one: Claims, other: Claims): boolean {
  return one.sub === other.sub && (one.orig_iat === other.orig_iat || DERIVED_SUBJECT.test(one.sub));
}

/** The first token's guest as it was last signed: its token with the highest `ver`, then the latest `iat`. */
export function newestOfFirstGuest(tokens: readonly [GuestToken, ...GuestToken[]]): GuestToken {
  const [first] = tokens;
  return tokens.reduce((newest, each) => {
    const { claims } = each;
    const isNewer = claims.ver - newest.claims.ver || claims.iat - newest.claims.iat;
    return isSameGuest(first.claims, claims) && isNewer > 0 ? each : newest;
  }, first);
}
