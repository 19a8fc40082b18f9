/**
 * A change that was not made: the guest is as it was.
 *
 * `code` is the service's own (`token_too_large`, `stale_token`, `patch_conflict`, `invalid_request`, …) or one of
 * - `unavailable`: the service could not be reached in time;
 * - `unreadable_guest`: a guest may be there that could not be read, and is not written over unread;
 * - `response_started`: it is too late for a cookie.
 *
 * `facts` are the further members of the service's problem (RFC 9457): `bytes` and `limit`, `version`, `errors`, …
 */
export class GuestError extends Error {
  override readonly name = "GuestError";
  readonly code: string;
  readonly facts: Readonly<Record<string, unknown>>;

  constructor(code: string, message: string, facts: Record<string, unknown> = {}, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
    this.facts = facts;
  }
}
