// What the headers of a request say: pure functions.

/** As much of a request as is looked at here. A Web `Request` is one. */
export interface RequestLike {
  readonly method: string;
  readonly headers: { get(name: string): string | null };
}

/**
 * Whether a person opens a page: no bot, no prefetch and no fetch, which would each get a guest in vain.
 *
 * A service worker that passes a navigation on makes `Sec-Fetch-Dest: empty` of it. In frames pages are opened only
 * where cookies are partitioned.
 */
export function isPageNavigation({ method, headers }: RequestLike, { frames = false } = {}): boolean {
  const destination = headers.get("Sec-Fetch-Dest") ?? "";
  return (
    method === "GET" &&
    headers.get("Sec-Fetch-Mode") === "navigate" &&
    (destination === "document" || destination === "empty" || (frames && destination === "iframe")) &&
    headers.get("Sec-Purpose") === null &&
    headers.get("Purpose")?.toLowerCase() !== "prefetch"
  );
}

/** Whether another site made the request: then a browser may hold back a `SameSite=Lax` cookie that it has. */
export function isCrossSite({ headers }: RequestLike): boolean {
  return headers.get("Sec-Fetch-Site") === "cross-site";
}

/** The Bearer token of the request (RFC 6750, section 2.1), or null. */
export function bearerToken({ headers }: RequestLike): string | null {
  return /^Bearer[ \t]+(\S+)[ \t]*$/i.exec(headers.get("Authorization") ?? "")?.[1] ?? null;
}
