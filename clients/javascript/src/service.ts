// The guest-sessions service as a client sees it: its keys, which are followed, and its answers.

import { createLocalJWKSet, decodeProtectedHeader, errors, jwtVerify, type JSONWebKeySet } from "jose";
import { type Claims, isGuestClaims, isObject, unverifiedClaims } from "./claims.js";
import { GuestError } from "./errors.js";

const TIMEOUT_MS = 3_000;
const KEYS_EVERY_MS = 5_000;
const UNAVAILABLE_RETRY_MS = 1_000;
// A process that was frozen, as serverless ones are between requests, has older keys than this when it goes on.
const MAX_KEYS_AGE_MS = 60_000;
const PAUSE_MS = 1_000;
const MAX_ANSWER_BYTES = 4 * 2 ** 20; // a merge's answer holds the session and its conflicts

export interface ServiceSettings {
  readonly url: string;
  readonly issuers: readonly string[];
  readonly apiKey: string;
  readonly warn: (message: string) => void;
}

/** An answer of the service; `cookies` are its `Set-Cookie` lines. */
export interface Answer {
  readonly body: Record<string, unknown>;
  readonly cookies: readonly string[];
}

export interface AskOptions {
  /** The guest that the call is about, by which a balancer may route. */
  readonly guestId?: string | null;
  /** Ends several calls together; by default each has 3 s. */
  readonly deadline?: AbortSignal;
}

export const deadline = (): AbortSignal => AbortSignal.timeout(TIMEOUT_MS);

export class Service {
  readonly #settings: ServiceSettings;
  #keys = createLocalJWKSet({ keys: [] });
  #askedForKeysAt = -Infinity;
  #fetchedAt = -Infinity;
  #fetchingKeys: Promise<void> | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #available = true;

  constructor(settings: ServiceSettings) {
    this.#settings = settings;
  }

  /** Starts to follow the keys; waits for them only at first, and after a time in which nothing ran. */
  async follow(): Promise<void> {
    if (Date.now() - this.#askedForKeysAt < MAX_KEYS_AGE_MS) return;
    const fetched = this.#fetchKeys();
    if (this.#available) await fetched;
  }

  /** The claims of a token that was verified offline; null for a bad one; undefined where it cannot be checked here. */
  async read(token: string): Promise<Claims | null | undefined> {
    if (unverifiedType(token) !== "guest+jwt") return null;
    try {
      const issuer = [...this.#settings.issuers];
      const { payload } = await jwtVerify(token, this.#keys, { issuer, algorithms: ["ES256", "RS256"] });
      return isGuestClaims(payload) ? payload : null;
    } catch (error) {
      const isBad = error instanceof errors.JOSEError && !(error instanceof errors.JWKSNoMatchingKey);
      return isBad ? null : undefined; // this runtime may not know the key's algorithm: the service does
    }
  }

  /** The same of a token that cannot be checked here, from the service; undefined where that cannot be reached. */
  async readThere(token: string): Promise<Claims | null | undefined> {
    try {
      const { body } = await this.ask("/v1/verify", { token });
      if (body.active !== true) return body.active === false ? null : undefined;
      const claims = unverifiedClaims(token);
      return claims && this.accepts(claims.iss) ? claims : null;
    } catch (error) {
      this.report(error, "a guest could not be read");
      return undefined;
    }
  }

  /**
   * Posts to the service; at once raises `unavailable` while it is known to be so. Never asks twice: a change whose
   * answer was lost may have been made.
   */
  async ask(path: string, body: object, { guestId, deadline }: AskOptions = {}): Promise<Answer> {
    const content = JSON.stringify(body); // throws for a value that is not JSON, which is the application's fault and no outage
    if (!this.#available) throw new GuestError("unavailable", "guest-sessions is unavailable");
    const headers: Record<string, string> = { "Content-Type": "application/json" };
    if (this.#settings.apiKey) headers["X-API-Key"] = this.#settings.apiKey;
    if (guestId) headers["X-Guest-Id"] = guestId;
    return this.#fetch(path, { method: "POST", headers, body: content }, deadline);
  }

  /** Logs a failure that must not disturb the request. Anything but a GuestError is a bug, and is thrown. */
  report(error: unknown, consequence: string): void {
    if (!(error instanceof GuestError)) throw error;
    // That the service is unavailable was logged when it became so.
    if (error.code !== "unavailable") this.warn(`${consequence}: ${error.code}: ${error.message}`);
  }

  accepts(issuer: string): boolean {
    return this.#settings.issuers.includes(issuer);
  }

  warn(message: string): void {
    try {
      this.#settings.warn(`guest-sessions: ${message}`);
    } catch {
      // A log that fails must neither fail a request nor, beside the requests, end the process.
    }
  }

  /** The error for an answer that no guest-sessions gives, or for none at all. */
  unavailable(reason: string, cause?: unknown): GuestError {
    if (this.#available) {
      this.warn(`the service is unavailable, known guests stay as they are: ${reason}`);
      this.#available = false; // nobody else waits for it, until `#fetchKeys` reaches it: at once, then every second
      this.#fetchKeysIn(0);
    }
    return new GuestError("unavailable", `guest-sessions is unavailable: ${reason}`, {}, { cause });
  }

  async #fetch(path: string, init: RequestInit, signal: AbortSignal = deadline()): Promise<Answer> {
    let response: Response | undefined;
    let body: unknown;
    // A process that was frozen, as serverless ones are between requests, would send this over a connection that was closed
    // in the meantime. It sees that within a turn of the event loop; a first timer may be due before it.
    const isAfterAPause = Date.now() - this.#fetchedAt > PAUSE_MS;
    for (let turn = 0; isAfterAPause && turn < 2; turn += 1) await new Promise((resolve) => setTimeout(resolve));
    this.#fetchedAt = Date.now();
    try {
      // Next.js would cache; and a redirect would take the API key along. It is not "error", since Node before 24 forgets
      // the signal then as soon as it collects garbage (nodejs/undici#4627), and waits for a slow answer for ever.
      const options = { ...init, signal, cache: "no-store", redirect: "manual" } as const;
      response = await fetch(this.#settings.url + path, options);
      body = JSON.parse(await textOf(response));
    } catch (error) {
      const { name, message, cause } = error as Error;
      const reason = cause instanceof Error ? `${message}: ${cause.message}` : message;
      throw this.unavailable(response && !response.ok ? `status ${response.status}` : `${name}: ${reason}`, error);
    }
    if (isObject(body) && response.ok) return { body, cookies: response.headers.getSetCookie() };
    if (isObject(body) && response.status >= 400 && response.status < 500 && typeof body.code === "string") {
      const { type, title, status, detail, code, ...facts } = body;
      throw new GuestError(body.code, String(detail ?? title ?? code), facts);
    }
    throw this.unavailable(`status ${response.status}`);
  }

  /** Fetches the keys, once at a time, and again and again. The last ones count while the service is unavailable. */
  #fetchKeys(): Promise<void> {
    this.#fetchingKeys ??= this.#fetch("/.well-known/jwks.json", {})
      .then(({ body }) => {
        if (!isKeySet(body)) throw this.unavailable("the JWKS has no keys");
        this.#keys = createLocalJWKSet(body);
        this.#available = true;
      })
      .catch((error: unknown) => this.report(error, "the keys could not be fetched"))
      .finally(() => {
        this.#askedForKeysAt = Date.now();
        this.#fetchingKeys = undefined;
        this.#fetchKeysIn(this.#available ? KEYS_EVERY_MS : UNAVAILABLE_RETRY_MS);
      });
    return this.#fetchingKeys;
  }

  #fetchKeysIn(delayMs: number): void {
    clearTimeout(this.#timer);
    // Held weakly: of the instances that a development server makes, with each change of a file, all but the last end.
    const weak = new WeakRef(this);
    this.#timer = setTimeout(() => {
      const service = weak.deref();
      if (service) void service.#fetchKeys();
    }, delayMs);
    this.#timer.unref?.(); // keeps no process alive; other runtimes than Node have numbers here
  }
}

/** The text of a response, which is given up where it is longer than the service's are. */
async function textOf({ body }: Response): Promise<string> {
  const decoder = new TextDecoder();
  let [text, bytes] = ["", 0];
  for await (const chunk of body ?? []) {
    bytes += chunk.length;
    if (bytes > MAX_ANSWER_BYTES) throw new RangeError("the response is too long");
    text += decoder.decode(chunk, { stream: true });
  }
  return text + decoder.decode();
}

/** The `typ` of a token, so that an application's own Bearer tokens are not taken to the service. */
function unverifiedType(token: string): unknown {
  try {
    return decodeProtectedHeader(token).typ;
  } catch {
    return undefined;
  }
}

function isKeySet(body: Record<string, unknown>): body is Record<string, unknown> & JSONWebKeySet {
  const { keys } = body;
  return Array.isArray(keys) && keys.length > 0 && keys.every((key) => isObject(key) && typeof key.kid === "string");
}
