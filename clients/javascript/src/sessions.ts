import { Guest, type GuestSettings } from "./guest.js";
import type { RequestLike } from "./requests.js";
import { Service } from "./service.js";

export interface Settings {
  /** Where the guest-sessions service is; a path in front of `/v1` is kept. */
  url: string;
  /** The service's `GUEST_ISSUER`: the `iss` of its tokens, or the list of all that it accepts. */
  issuer: string | readonly string[];
  /** One of the service's `GUEST_API_KEYS`. */
  apiKey?: string | undefined;
  /**
   * The service's `GUEST_COOKIE_NAME`, or a list: the first is set, later ones are read where no earlier one holds a
   * good token. By default `__Host-guest`, and `guest` for an http issuer or with a domain.
   */
  cookieName?: string | readonly string[] | undefined;
  /** The service's `GUEST_COOKIE_DOMAIN`, for `forget`. */
  cookieDomain?: string | undefined;
  /** The service's `GUEST_COOKIE_PARTITIONED`: guests are welcome in frames of other sites, too. */
  partitioned?: boolean | undefined;
  /** Guests older than this are renewed when they open a page: by default a day, since Safari may forget in seven. */
  renewAfterS?: number | undefined;
  /** Takes what an operator should know; `console.warn` by default. */
  warn?: ((message: string) => void) | undefined;
}

/** The guests of one application, whose payload is of type P. Make one for the process: it follows the service's keys. */
export class GuestSessions<P extends object = Record<string, unknown>> {
  readonly #service: Service;
  readonly #settings: GuestSettings;

  constructor(settings: Settings) {
    const { url, issuer, apiKey = "", cookieName, cookieDomain: domain, renewAfterS = 86_400 } = settings;
    const { protocol, username, password } = new URL(url);
    if (!/^https?:$/.test(protocol) || username || password) {
      throw new TypeError("url must be http:// or https://, without a user or password");
    }
    const issuers = [issuer].flat().filter(Boolean);
    if (!issuers[0]) throw new TypeError("issuer must be the service's GUEST_ISSUER");
    if (!Number.isFinite(renewAfterS)) throw new TypeError("renewAfterS must be a number of seconds");
    const secure = !issuers[0].startsWith("http://");
    const names = [cookieName ?? (secure && !domain ? "__Host-guest" : "guest")].flat();
    this.#settings = { names, domain, secure, partitioned: settings.partitioned ?? false, renewAfterS };
    this.#service = new Service({
      url: url.replace(/\/+$/, ""),
      issuers,
      apiKey: apiKey.trim(),
      warn: settings.warn ?? ((message) => console.warn(message)),
    });
  }

  /** The guest of a request. Never fails: without the service, known guests stay known, and others are absent. */
  async open(request: RequestLike): Promise<Guest<P>> {
    return Guest.of<P>(request, { service: this.#service, settings: this.#settings });
  }

  /** Responds to a request with its guest, whose cookie is set by the response. */
  async handle(request: Request, respond: (guest: Guest<P>) => Response | Promise<Response>): Promise<Response> {
    const guest = await this.open(request);
    return guest.finish(await respond(guest));
  }
}
