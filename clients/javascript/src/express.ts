/** Guest sessions for Express 4 and 5, and whatever else takes `(req, res, next)` of `node:http`. */
import type { IncomingMessage, OutgoingHttpHeader, OutgoingHttpHeaders, ServerResponse } from "node:http";
import type { Guest, ResponseHeaders } from "./guest.js";
import { GuestSessions, type Settings } from "./sessions.js";

export { GuestError } from "./errors.js";
export type { ChangeOptions, Guest, HandOver, HandOverOptions } from "./guest.js";
export type { Settings } from "./sessions.js";

export type Middleware = (req: IncomingMessage, res: ServerResponse, next: (error?: unknown) => void) => void;

/** The middleware that gives each request its guest, `req.guest`, and sets its cookie as the response begins. */
export function guestSessions<P extends object = Record<string, unknown>>(settings: Settings): Middleware {
  const sessions = new GuestSessions<P>(settings);
  return (req, res, next) => {
    const headers = { get: (name: string) => text(req.headers[name.toLowerCase()]) };
    sessions.open({ method: req.method ?? "", headers }).then((guest) => {
      Object.assign(req, { guest });
      writeWhenItBegins(guest, res);
      next();
    }, next);
  };
}

type HeaderList = OutgoingHttpHeaders | OutgoingHttpHeader[];

function writeWhenItBegins(guest: Pick<Guest, "writeTo">, res: ServerResponse): void {
  const writeHead = res.writeHead as (status: number, reason?: string) => ServerResponse;
  res.writeHead = (status: number, ...rest: (string | HeaderList | undefined)[]) => {
    const reason = typeof rest[0] === "string" ? rest[0] : undefined;
    // Set beforehand, since those that `writeHead` is given would replace the guest's.
    setHeaders(res, rest.find((each) => typeof each === "object"));
    const headers: ResponseHeaders = {
      get: (name) => text(res.getHeader(name)),
      set: (name, value) => void res.setHeader(name, value),
      // `appendHeader` would put one visitor's cookie into a list that the application may use for all.
      append: (name, value) => void res.setHeader(name, [res.getHeader(name) ?? [], value].flat().map(String)),
    };
    guest.writeTo(headers, status);
    return reason === undefined ? writeHead.call(res, status) : writeHead.call(res, status, reason);
  };
}

/** Sets the headers that `writeHead` was given as it does itself: an object, or names and values in turn. */
function setHeaders(res: ServerResponse, headers: HeaderList = {}): void {
  if (!Array.isArray(headers)) {
    for (const [name, value] of Object.entries(headers)) res.setHeader(name, value as OutgoingHttpHeader);
    return;
  }
  const names = headers.filter((_, index) => index % 2 === 0).map(String);
  for (const name of names) res.removeHeader(name);
  for (const [index, name] of names.entries()) {
    const value = headers[2 * index + 1];
    res.appendHeader(name, Array.isArray(value) ? [...value] : String(value));
  }
}

function text(value: string | number | readonly string[] | undefined): string | null {
  return value === undefined ? null : typeof value === "object" ? value.join(", ") : String(value);
}
