import { type GuestToken, isObject, newestOfFirstGuest, unverifiedClaims } from "./claims.js";
import { type CookieSettings, cookieValues, expiredCookies, privateCacheControl } from "./cookies.js";
import { GuestError } from "./errors.js";
import type { JsonPatchOperation, MergePatch } from "./json.js";
import { bearerToken, isCrossSite, isPageNavigation, type RequestLike } from "./requests.js";
import { type Answer, deadline, type Service } from "./service.js";

/** How a change meets a newer one of another tab that the service remembers. */
export interface ChangeOptions {
  /** The merge policy by which the two come together, or its name. */
  policy?: string | object | undefined;
  /** Refuse with `stale_token` rather than merge. */
  ifCurrent?: boolean | undefined;
}

/** How a guest is handed over; further members go to the service's `/v1/merge` as they are. */
export interface HandOverOptions {
  /** The merge policy, or its name; the service has a default. */
  policy?: string | object | undefined;
  /** The guest's `id` as it was when the login began: where the request has another guest now, nothing is merged. */
  expect?: string | null | undefined;
  /** Tokens of more guests, as of the device on which the login began. */
  tokens?: readonly (string | null)[] | undefined;
  /** Start a new guest for the visitor, which is the default; else the cookie is deleted. */
  renew?: boolean | undefined;
  /** Only say what a merge would do. */
  dryRun?: boolean | undefined;
  [option: string]: unknown;
}

export interface HandOver<Session> {
  /** The session to store, before you respond: merged, or as it was given. */
  payload: Session & { merged_guests?: [id: string, version: number][] };
  /** Whether any guest was merged. */
  merged: boolean;
  guests: { subject: string; version: number; weakened: boolean }[];
  skipped: { index: number; reason: string; subject?: string }[];
  conflicts: { path: string; session: unknown; guest: unknown; kept: string; rule: string; subject: string }[];
  /** Whether the request's guest was not the one in `expect`. */
  unexpectedGuest: boolean;
  /** Why the service did not merge; the guest is as it was, and the next login hands it over. */
  error: GuestError | null;
}

/** The headers of a response that has not begun. A Web `Headers` is one. */
export interface ResponseHeaders {
  get(name: string): string | null;
  set(name: string, value: string): void;
  append(name: string, value: string): void;
}

export interface GuestSettings extends CookieSettings {
  readonly renewAfterS: number;
}

const MAX_TOKENS = 32; // the service takes no more in one merge
const MAX_ASKED = 3; // about so many tokens the service is asked for one request

/**
 * The guest of one request, with a payload of type P; absent (`id` is null) where there is none.
 *
 * A new guest's payload is `{}`: whatever P says, each member may be missing.
 */
export class Guest<P extends object = Record<string, unknown>> {
  readonly #service: Service;
  readonly #settings: GuestSettings;
  readonly #crossSite: boolean;
  #current: GuestToken | null = null;
  /** Every token of the request that is good or could not be checked. */
  #tokens: string[] = [];
  /** A guest may be there that could not be read. */
  #unread = false;
  /** The token is given back in a header: a Bearer token came, or could have. */
  #bearer = false;
  #new = false;
  #deletions: string[] = [];
  #cookies: string[] = [];
  #handedBack: string | null = null;
  #responded = false;
  #lastChange: Promise<unknown> = Promise.resolve();

  private constructor(service: Service, settings: GuestSettings, request: RequestLike) {
    this.#service = service;
    this.#settings = settings;
    this.#crossSite = isCrossSite(request);
  }

  /** @internal */
  static async of<P extends object>(
    request: RequestLike,
    { service, settings }: { service: Service; settings: GuestSettings },
  ): Promise<Guest<P>> {
    const guest = new Guest<P>(service, settings, request);
    const isMoved = await guest.#find(request);
    if (isPageNavigation(request, { frames: settings.partitioned })) await guest.#welcome({ isMoved });
    return guest;
  }

  /** The guest's subject, `G-…`; null where there is no guest. */
  get id(): string | null {
    return this.#current?.claims.sub ?? null;
  }

  /** 1 for a new guest, one more with each change; null where there is no guest. */
  get version(): number | null {
    return this.#current?.claims.ver ?? null;
  }

  /** The guest's state; `{}` where there is no guest. To change it, call `patch`, `apply` or `replace`. */
  get payload(): Readonly<Partial<P>> {
    return (this.#current?.claims.payload ?? {}) as Partial<P>;
  }

  /** Whether the guest began with this request. */
  get isNew(): boolean {
    return this.#new;
  }

  /** The guest's own token, to be kept like a password: for the `tokens` of a login that ends elsewhere. */
  get token(): string | null {
    return this.#current?.token ?? null;
  }

  /** Whether a token came that cannot be verified while the service is unavailable: changes are refused. */
  get isUnread(): boolean {
    return this.#unread;
  }

  /** What a page may know of the guest, and `JSON.stringify` shows: everything but the token. */
  toJSON(): { id: string; version: number; payload: Partial<P>; isNew: boolean } | null {
    if (!this.#current) return null;
    const { sub, ver, payload } = this.#current.claims;
    return { id: sub, version: ver, payload: payload as Partial<P>, isNew: this.#new };
  }

  /** Changes members of the payload (RFC 7396), of a new guest where there is none. Throws GuestError. */
  async patch(patch: MergePatch<P>, options?: ChangeOptions): Promise<void> {
    await this.#change({ merge_patch: patch }, options);
  }

  /** Applies operations to the payload (RFC 6902), to `{}` where there is no guest. Throws GuestError. */
  async apply(patch: readonly JsonPatchOperation[], options?: ChangeOptions): Promise<void> {
    await this.#change({ json_patch: patch }, options);
  }

  /** Replaces the payload, or makes a guest with it where there is none. Throws GuestError. */
  async replace(payload: P, options?: ChangeOptions): Promise<void> {
    await this.#change({ payload }, options);
  }

  /**
   * Merges the guest into the session of a user who logs in, and starts a new guest for the visitor.
   *
   * Store the result's `payload` as the user's session before you respond; read, hand over and store in one
   * transaction. Never stops a login: where the service is unavailable or refuses, the session comes back as it was, and
   * the guest stays for the next login.
   */
  async handOver<Session extends object>(
    session: Session | null,
    { expect, tokens = [], dryRun, ...options }: HandOverOptions = {},
  ): Promise<HandOver<Session>> {
    return this.#inTurn(async () => {
      const unchanged: HandOver<Session> = {
        payload: session ?? ({} as Session),
        merged: false,
        guests: [],
        skipped: [],
        conflicts: [],
        unexpectedGuest: typeof expect === "string" && this.id !== null && this.id !== expect,
        error: null,
      };
      if (unchanged.unexpectedGuest) return unchanged;
      const own = typeof expect === "string" ? this.#tokensOf(expect) : this.#tokens;
      const given = [...new Set([...own.slice(0, 1), ...tokens, ...own])].filter((each) => each !== null);
      if (!given.length) return unchanged;
      // Without a token of its own the request may come from another site, which does not show the visitor's cookie.
      const isSeen = own.length > 0 && dryRun !== true;
      const body = {
        ...options,
        ...(dryRun === undefined ? {} : { dry_run: dryRun }),
        ...(isSeen ? { cookie: !this.#bearer } : { cookie: false, renew: false }),
        tokens: given.slice(0, MAX_TOKENS),
        session,
        strict: false,
      };
      try {
        if (this.#responded) throw responseStarted();
        const answer = await this.#service.ask("/v1/merge", body, { guestId: this.id });
        if (!isMerge(answer.body)) throw this.#service.unavailable("what it sent is no merge");
        const { next, ...merge } = answer.body;
        if (isSeen) {
          if (isObject(next)) this.#take({ body: next, cookies: answer.cookies }, { isNew: true });
          else this.#end(answer.cookies);
        }
        return { ...unchanged, ...merge };
      } catch (error) {
        this.#service.report(error, "a guest is not handed over");
        return { ...unchanged, error: error as GuestError };
      }
    });
  }

  /** Ends the guest at this browser, as at a log-out on a shared computer: deletes its cookie. Needs no service. */
  forget(): void {
    if (this.#responded) throw responseStarted();
    this.#end();
  }

  /** The response with the guest's cookie: itself where there is none to be set, else a copy. Call it once, at last. */
  finish(response: Response): Response {
    if (!this.#hasNews(response.status)) return response;
    const copy = new Response(response.body, response);
    this.writeTo(copy.headers, copy.status);
    return copy;
  }

  /**
   * Writes the guest's cookie to the headers of a response just before it begins, for frameworks that have neither a
   * Web `Response` nor an adapter here. A response that sets one is for no shared cache; a 5xx sets none, so that a
   * guest who was handed over to a session that could not be stored comes back with the next try.
   */
  writeTo(headers: ResponseHeaders, status: number): void {
    if (!this.#hasNews(status)) return;
    for (const line of [...this.#deletions, ...this.#cookies]) headers.append("Set-Cookie", line);
    if (this.#handedBack !== null) headers.set("X-Guest-Token", this.#handedBack);
    headers.set("Cache-Control", privateCacheControl(headers.get("Cache-Control")));
  }

  /** Whether there is something to write; nothing can be added afterwards. */
  #hasNews(status: number): boolean {
    this.#responded = true;
    return status < 500 && this.#deletions.length + this.#cookies.length + Number(this.#handedBack !== null) > 0;
  }

  /** Finds the guest in the cookies, name by name, or else in the Bearer token; returns whether it has to be moved. */
  async #find(request: RequestLike): Promise<boolean> {
    const header = request.headers.get("Cookie") ?? "";
    const cookies = this.#settings.names.map((name) => cookieValues(header, name));
    const bearer = bearerToken(request);
    this.#bearer = bearer !== null && cookies.every((values) => !values.length);
    const sources = bearer === null ? cookies : [...cookies, [bearer]];
    if (sources.some((values) => values.length)) await this.#service.follow();
    else void this.#service.follow();

    for (const [source, values] of sources.entries()) {
      const read = await Promise.all(values.map(async (token) => ({ token, claims: await this.#service.read(token) })));
      // Where none is known to be good, the service is asked about what cannot be checked here. It signs nothing for
      // that, since the cookie could overtake that of a change.
      const asked = read.some(({ claims }) => claims) ? [] : read.filter(({ claims }) => claims === undefined);
      for (const each of asked.slice(0, MAX_ASKED)) {
        each.claims = await this.#service.readThere(each.token);
        if (each.claims) break;
        this.#unread ||= each.claims === undefined;
      }
      const good = read.filter((each): each is GuestToken => Boolean(each.claims));
      if (isNotEmpty(good)) {
        this.#current = newestOfFirstGuest(good);
        this.#unread = false;
        this.#bearer = source === cookies.length;
      }
      if (this.#current || this.#unread) {
        this.#tokens = read.filter(({ claims }) => claims !== null).map(({ token }) => token);
        return source > 0 && this.#current !== null && !this.#bearer;
      }
    }
    return false;
  }

  /** On a page navigation: renews a guest that is due, and makes one where there is none. */
  async #welcome({ isMoved }: { isMoved: boolean }): Promise<void> {
    const freshFrom = Date.now() / 1_000 - this.#settings.renewAfterS;
    const isFresh = !isMoved && this.#current !== null && this.#current.claims.iat > freshFrom;
    if (isFresh || this.#unread) return;
    try {
      await this.#sign({}, { deadline: deadline() });
    } catch (error) {
      this.#service.report(error, this.#current ? "a guest is not renewed" : "a visitor gets no guest");
    }
  }

  #change(change: { payload: P } | { merge_patch: unknown } | { json_patch: unknown }, options: ChangeOptions = {}) {
    return this.#inTurn(async () => {
      if (this.#responded) throw responseStarted();
      if (!this.#current && (this.#unread || this.#crossSite)) {
        const message = "a guest may be there that could not be read, and is not written over unread";
        throw new GuestError("unreadable_guest", message);
      }
      const { ifCurrent, policy } = options;
      const how = {
        ...(policy === undefined ? {} : { policy }),
        ...(ifCurrent === undefined ? {} : { if_current: ifCurrent }),
      };
      await this.#sign(change, { how, deadline: deadline() });
    });
  }

  /** Signs the guest with a change or none; makes a new one where there is none, or the service finds the token bad. */
  async #sign(change: object, { how = {}, deadline }: { how?: object; deadline: AbortSignal }): Promise<void> {
    const cookie = !this.#bearer;
    if (this.#current) {
      const { token, claims } = this.#current;
      const options = { guestId: claims.sub, deadline };
      try {
        this.#take(await this.#service.ask("/v1/refresh-payload", { token, ...change, ...how, cookie }, options));
        return;
      } catch (error) {
        // It was revoked by time, say, which cannot be seen offline.
        if (!(error instanceof GuestError && error.code === "invalid_token")) throw error;
        this.#current = null;
        this.#tokens = [];
      }
    }
    if ("payload" in change || !Object.keys(change).length) {
      this.#take(await this.#service.ask("/v1/issue", { ...change, cookie }, { deadline }), { isNew: true });
      return;
    }
    const empty = this.#tokenIn(await this.#service.ask("/v1/issue", {}, { deadline }));
    const body = { token: empty.token, ...change, ...how, cookie };
    const options = { guestId: empty.claims.sub, deadline };
    this.#take(await this.#service.ask("/v1/refresh-payload", body, options), { isNew: true });
  }

  /** From now on the guest is as the service signed it, for the rest of the request and for the visitor. */
  #take(answer: Answer, { isNew = this.#new } = {}): void {
    const current = this.#tokenIn(answer);
    const { iss } = current.claims;
    if (!this.#service.accepts(iss)) {
      const issuer = JSON.stringify(iss);
      this.#service.warn(`the service issues tokens of ${issuer}, so that no visitor keeps a guest: pass issuer: ${issuer}`);
    }
    if (this.#bearer) {
      this.#handedBack = current.token;
    } else {
      this.#cookies = this.#own(answer.cookies);
      if (!this.#cookies.length) {
        const names = answer.cookies.map((line) => JSON.stringify(line.slice(0, line.indexOf("="))));
        const pass = names.length ? `: pass cookieName: ${names.join(" or ")}` : "";
        this.#service.warn(`the service sets another cookie than ${this.#settings.names[0]}${pass}`);
      }
    }
    this.#current = current;
    this.#tokens = [current.token];
    this.#unread = false;
    this.#new = isNew;
  }

  #end(deletions: readonly string[] = []): void {
    this.#current = null;
    this.#tokens = [];
    this.#unread = false;
    this.#new = false;
    this.#cookies = [];
    this.#handedBack = null;
    if (!this.#bearer) this.#deletions = onePerCookie([...expiredCookies(this.#settings), ...this.#own(deletions)]);
  }

  /** Those of the service's cookies that are the guest's: a balancer may have added others. */
  #own(lines: readonly string[]): string[] {
    return lines.filter((line) => this.#settings.names.includes(line.slice(0, line.indexOf("="))));
  }

  #tokenIn({ body: { token } }: Answer): GuestToken {
    const claims = typeof token === "string" ? unverifiedClaims(token) : null;
    if (!claims) throw this.#service.unavailable("what it sent is no guest token");
    return { token: token as string, claims };
  }

  /** The request's tokens of one guest. */
  #tokensOf(subject: string): string[] {
    return this.#tokens.filter((token) => unverifiedClaims(token)?.sub === subject);
  }

  /** One change after the other: each builds on the token that the one before got. */
  #inTurn<Result>(change: () => Promise<Result>): Promise<Result> {
    const result = this.#lastChange.then(change);
    this.#lastChange = result.catch(() => undefined);
    return result;
  }
}

/** The last line for each name and domain: together they say which cookie is meant. */
function onePerCookie(lines: readonly string[]): string[] {
  const cookie = (line: string) => `${/^[^=]*/.exec(line)}${/; *Domain=[^;]*/i.exec(line)?.[0].toLowerCase()}`;
  return [...new Map(lines.map((line) => [cookie(line), line])).values()];
}

function isMerge(body: Record<string, unknown>): body is Record<string, unknown> & Omit<HandOver<never>, "unexpectedGuest" | "error"> {
  return isObject(body.payload) && typeof body.merged === "boolean";
}

function isNotEmpty<Item>(list: Item[]): list is [Item, ...Item[]] {
  return list.length > 0;
}

function responseStarted(): GuestError {
  return new GuestError("response_started", "the response has begun, and its cookie would not reach the visitor");
}
