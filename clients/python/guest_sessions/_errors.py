from collections.abc import Mapping
from typing import Any


class GuestError(Exception):
    """Raised where a guest could not be changed; the guest is as it was.

    `code` is the service's (`token_too_large`, `stale_token`, `patch_conflict`, `invalid_patch`, …), or one of the
    client's own:

    - `unavailable`: the service could not be reached, did not respond in time, or failed;
    - `unreadable_guest`: the request may have a guest that could not be read, and is not written over unread;
    - `response_started`: the response has begun, so that its cookie can no longer reach the browser;
    - `invalid_payload`: the guest's payload does not fit the payload type of the application.

    `message` is for people; `facts` has the further members of the service's problem (RFC 9457), such as `bytes` and
    `limit` of `token_too_large`.
    """

    def __init__(self, code: str, message: str, facts: Mapping[str, Any] | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.facts: Mapping[str, Any] = facts or {}

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.code, self.message, self.facts)
