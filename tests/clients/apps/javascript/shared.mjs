// What the conformance applications have in common: settings, the account, and the routes, each of (guest, body).
import { GuestError } from "guest-sessions";

const { env } = process;
const list = (text) => text?.split(",").map((each) => each.trim());

export const port = Number(process.argv[2]);

export const settings = {
  url: env.GUEST_URL,
  issuer: list(env.GUEST_ISSUER),
  cookieName: list(env.GUEST_COOKIE_NAME),
  cookieDomain: env.GUEST_COOKIE_DOMAIN,
  apiKey: env.GUEST_API_KEY,
  renewAfterS: env.GUEST_RENEW_AFTER === undefined ? undefined : Number(env.GUEST_RENEW_AFTER),
};

let account = { name: "Ada", cart: [] };
let lastLogin = Promise.resolve();

/** One login after the other: reading the account, handing over and storing it is one critical section. */
function login(work) {
  const result = lastLogin.then(work);
  lastLogin = result.catch(() => undefined);
  return result;
}

const shown = (guest) => ({
  guest: guest.id && { id: guest.id, version: guest.version, payload: guest.payload, is_new: guest.isNew },
});

/** Each resolves to the JSON of the response; what it throws, `failure` takes. */
export const routes = {
  "GET /": shown,
  "GET /public": shown,
  "GET /no-store": shown,
  "POST /replace": async (guest, payload) => {
    await guest.replace(payload);
    return shown(guest);
  },
  "POST /patch": async (guest, patch) => {
    await guest.patch(patch);
    return shown(guest);
  },
  "POST /apply": async (guest, patch) => {
    await guest.apply(patch);
    return shown(guest);
  },
  "POST /twice": async (guest, patches) => {
    for (const patch of patches) await guest.patch(patch);
    return shown(guest);
  },
  "POST /change": async (guest, { method, change, options: { if_current: ifCurrent, policy } }) => {
    await guest[method](change, { ifCurrent, policy });
    return shown(guest);
  },
  "POST /login": (guest, options) =>
    login(async () => {
      const { payload, merged, guests, skipped, unexpectedGuest } = await guest.handOver(account, options);
      account = payload;
      return { session: payload, merged, guests, skipped, unexpected: unexpectedGuest };
    }),
  "POST /logout": (guest) => {
    guest.forget();
    return {};
  },
  "POST /fail": async (guest, payload) => {
    await guest.replace(payload);
    throw new Error("this route fails");
  },
  "POST /fail-login": (guest) =>
    login(async () => {
      await guest.handOver(account);
      throw new Error("the account could not be stored");
    }),
};

export const cacheControl = {
  "/public": "public, max-age=60, s-maxage=600",
  "/no-store": "no-store",
};

/** For `POST /late`, whose response has begun: the code of the error. */
export async function late(guest, payload) {
  try {
    await guest.replace(payload);
    return "";
  } catch (error) {
    return error.code;
  }
}

const STATUSES = { unavailable: 503, unreadable_guest: 503, stale_token: 409, patch_conflict: 409 };

/** The status and the JSON of a response to what a route threw. */
export function failure(error) {
  if (!(error instanceof GuestError)) return [500, { message: error.message }];
  const { code, message, facts } = error;
  return [STATUSES[code] ?? 422, { code, message, facts }];
}
