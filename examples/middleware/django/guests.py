"""Guest sessions for Django: copy this file, name `guests.GuestSessions` in MIDDLEWARE. Needs `pyjwt[crypto]`, `httpx`.

Settings: GUEST_URL, GUEST_ISSUER, GUEST_COOKIE_NAME, GUEST_API_KEY (or None), GUEST_RENEW_AFTER (seconds).
`request.guest` is then the guest's claims or None; `save` writes the payload, `hand_over` merges it at login. Tokens
are checked here, offline, by the JWKS; the service is asked for a new guest, a renewal, a change and a hand-over only,
and about a token whose key is not known here yet.
"""

import contextlib
import functools
import logging
import threading
import time
from types import SimpleNamespace
from typing import Any

import httpx
import jwt
from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse

# What a browser says when a person opens a page, and no prefetch: bots and fetch() get no guest either.
PAGE = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document", "Sec-Purpose": None, "Purpose": None}
NOT_CHECKED = {"verify_aud": False, "verify_iat": False}  # the service sees to `aud`; clocks differ
HTTP = httpx.Client(base_url=settings.GUEST_URL, headers={"X-API-Key": settings.GUEST_API_KEY or ""}, timeout=3)
SERVICE = SimpleNamespace(keys={}, away=False)
log = logging.getLogger(__name__)


def save(request: HttpRequest, payload: dict[str, Any]) -> None:
    """Replaces the guest's payload; makes a guest where there is none yet. Raises when nothing was saved."""
    if request.guest_token and not request.guest:
        raise ConnectionError("this guest could not be read, and is not written over unread")
    if not request.guest_token and request.headers.get("Sec-Fetch-Site", "none") not in {"none", "same-origin"}:
        raise PermissionDenied("Another site's request comes without the guest's cookie.")
    answer = _sign(request, {"payload": payload, "cookie": True})
    if "token" not in answer:
        raise ConnectionError(answer.get("detail", "guest-sessions is away"))


def hand_over(request: HttpRequest, session: dict[str, Any], **options: Any) -> dict[str, Any]:
    """The merge's answer: store its `payload` as the user's session before you answer. Never stops a login."""
    answer = {"payload": session, "merged": False, "guests": [], "skipped": [], "conflicts": [], "next": None}
    if request.guest_token:  # else leave the cookie alone: a login that comes from another site is without it
        body = {**options, "tokens": [request.guest_token], "session": session, "cookie": True, "strict": False}
        answer |= _ask(request, "/v1/merge", body)
    return answer


class GuestSessions:
    def __init__(self, get_response: Any) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        _start_following_keys()
        # Of several cookies the first good one counts, else the first that is not known to be bad.
        claims, token = min(_tokens(request), key=lambda each: not each[0], default=(None, None))
        request.guest, request.guest_token, request.guest_cookies = claims or None, token, []
        if claims == {} and not SERVICE.away:  # it is asked about, no more: a cookie could overtake that of a change
            _ask(request, "/v1/refresh-payload", {"token": token})
        fresh = request.guest and request.guest["iat"] > time.time() - settings.GUEST_RENEW_AFTER
        page = request.method == "GET" and all(request.headers.get(name) == value for name, value in PAGE.items())
        if page and not fresh and not SERVICE.away:
            _sign(request, {"cookie": True})
        response = self._get_response(request)
        for line in request.guest_cookies:
            response.cookies.load(line)
        return response


def _tokens(request: HttpRequest) -> Any:
    """The claims of each token that is not bad, {} where its key is not known here: then the service must tell."""
    for pair in request.headers.get("Cookie", "").split(";"):
        name, _, token = pair.strip().partition("=")
        with contextlib.suppress(jwt.PyJWTError, ValueError, RecursionError):  # a bad token is none
            header = jwt.get_unverified_header(token) if name == settings.GUEST_COOKIE_NAME else {}
            if header.get("typ") == "guest+jwt":
                key = SERVICE.keys.get(header.get("kid"))
                yield (jwt.decode(token, key, options=NOT_CHECKED, issuer=settings.GUEST_ISSUER) if key else {}), token


def _sign(request: HttpRequest, body: dict[str, Any]) -> dict[str, Any]:
    """Signs the guest again; makes a new one where there is none, or where the service finds the token bad."""
    if request.guest_token:
        answer = _ask(request, "/v1/refresh-payload", {**body, "token": request.guest_token})
    if not request.guest_token:
        answer = _ask(request, "/v1/issue", body)
    return answer


def _ask(request: Any, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """The service's answer, {} without one. Its word counts from then on: a token that it gives, or finds bad."""
    try:
        response = HTTP.request("POST" if body else "GET", path, json=body)
        answer = response.json()
        token = (answer.get("next") or answer).get("token")
    except (httpx.HTTPError, OSError, ValueError, AttributeError) as error:  # or what answers is something else
        log.warning("guest-sessions is away, cookies stay as they are: %r", error)
        SERVICE.away = True  # nobody else waits for it, until `_follow_keys` finds it there again
        return {}
    SERVICE.away = False
    ours = f"{settings.GUEST_COOKIE_NAME}="
    cookies = [line for line in response.headers.get_list("Set-Cookie") if line.startswith(ours)]
    if token or cookies or answer.get("code") == "invalid_token":
        request.guest = token and jwt.decode(token, options={"verify_signature": False})
        request.guest_token, request.guest_cookies = token, cookies
    elif not response.is_success:
        log.warning("guest-sessions refuses %s: %s", path, answer)
    return answer


@functools.cache  # once in each process, after it was forked
def _start_following_keys() -> None:
    threading.Thread(target=_follow_keys, daemon=True).start()


def _follow_keys() -> None:
    """Fetches the keys every 5 s, beside the requests; the last ones count while the service is away."""
    while True:
        jwks = _ask(None, "/.well-known/jwks.json")
        with contextlib.suppress(jwt.PyJWTError):
            SERVICE.keys = {key.key_id: key for key in jwt.PyJWKSet.from_dict(jwks)}
        time.sleep(5)
