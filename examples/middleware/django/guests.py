"""Guest sessions for Django: copy this file, name `guests.GuestSessions` in MIDDLEWARE. Needs `pyjwt[crypto]`, `httpx`.

Settings: GUEST_URL, GUEST_ISSUER, GUEST_COOKIE_NAME, GUEST_API_KEY (or None), GUEST_RENEW_AFTER (seconds).
`request.guest` is then the guest's claims or None; `save` writes the payload, `hand_over` merges it at login. Tokens
are checked here, offline, by the JWKS; the service is asked for a new guest, a renewal, a change and a hand-over only,
and about a token whose key is not known here yet.
"""

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

OUTAGE = (httpx.HTTPError, OSError, ValueError)  # no connection, no answer in time, an answer that is not JSON
REFRESH, ALGORITHMS = "/v1/refresh-payload", ["ES256", "RS256"]
NOT_CHECKED = {"verify_aud": False, "verify_iat": False}  # the service sees to `aud`; clocks differ
log = logging.getLogger(__name__)
HEADERS = {"Authorization": f"Bearer {settings.GUEST_API_KEY}"} if settings.GUEST_API_KEY else {}
HTTP = httpx.Client(base_url=settings.GUEST_URL, headers=HEADERS, timeout=3)
STATE = SimpleNamespace(keys={}, keys_end=0.0, quiet_until=0.0)


def is_page(request: HttpRequest) -> bool:
    """Whether a person opens a page: bots, prefetches and fetch() get no guest."""
    said = request.headers.get
    purpose = said("Sec-Purpose", said("Purpose", ""))
    navigation = (request.method, said("Sec-Fetch-Mode"), said("Sec-Fetch-Dest")) == ("GET", "navigate", "document")
    return navigation and "prefetch" not in purpose


def save(request: HttpRequest, payload: dict[str, Any]) -> None:
    """Replaces the guest's payload; makes a guest where there is none yet. Raises when nothing was saved."""
    if not request.guest:
        if request.guest_token:
            raise ConnectionError("this guest could not be read, and is not written over unread")
        if request.headers.get("Sec-Fetch-Site", "none") not in {"none", "same-origin"}:
            raise PermissionDenied("Another site's request comes without the guest's cookie.")
    _write(request, {"payload": payload})


def hand_over(request: HttpRequest, session: dict[str, Any], **options: Any) -> dict[str, Any]:
    """The merge's answer: store its `payload` as the user's session before you answer. Never stops a login."""
    answer = {"payload": session, "merged": False, "guests": [], "skipped": [], "conflicts": [], "next": None}
    token = request.guest_token
    try:
        if token:  # else leave the cookie alone: a login that comes from another site is without it
            body = {"tokens": [token], "session": session, "cookie": True, **options, "strict": False}
            answer = _call(request, "/v1/merge", body)
    except OUTAGE as error:
        log.warning("nothing was handed over, the next login will: %r", error)
    return answer


class GuestSessions:
    def __init__(self, get_response: Any) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        _follow_keys()
        pairs = (pair.strip().partition("=") for pair in request.headers.get("Cookie", "").split(";"))
        read = [(_read(value), value) for name, _, value in pairs if name == settings.GUEST_COOKIE_NAME]
        # Of several cookies the first good one counts, else the first that is not known to be bad.
        good, unsure = [one for one in read if one[0]], [one for one in read if one[0] == {}]
        claims, token = next(iter(good + unsure), (None, None))
        request.guest, request.guest_token, request.guest_cookies = claims or None, token, []
        try:
            if claims == {} and _may_ask():  # this sets no cookie: it could overtake that of a change
                _call(request, REFRESH, {"token": token})
            fresh = request.guest and request.guest["iat"] > time.time() - settings.GUEST_RENEW_AFTER
            if is_page(request) and not fresh and _may_ask():
                _write(request, {})
        except OUTAGE as error:
            log.warning("no guest sessions for now, cookies stay as they are: %r", error)
        response = self._get_response(request)
        for line in request.guest_cookies:
            response.cookies.load(line)
        return response


def _read(token: str) -> dict[str, Any] | None:
    """The claims of a good token, None for a bad one, {} where its key is not known here: the service must tell."""
    try:
        header = jwt.get_unverified_header(token)
        if header.get("kid") not in STATE.keys or time.monotonic() > STATE.keys_end:
            return {}
        claims = jwt.decode(token, STATE.keys[header["kid"]], ALGORITHMS, NOT_CHECKED, issuer=settings.GUEST_ISSUER)
        return claims if header.get("typ") == "guest+jwt" else None
    except (jwt.PyJWTError, ValueError, RecursionError):
        return None


def _may_ask() -> bool:
    """Whether to ask the service: one that was silent is asked by one request in 5 s, the others do not wait."""
    now, quiet_until = time.monotonic(), STATE.quiet_until
    if quiet_until and now >= quiet_until:
        STATE.quiet_until = now + 5
    return now >= quiet_until


def _write(request: HttpRequest, body: dict[str, Any]) -> None:
    """Signs the guest again; makes a new one where there is none, or where the service finds the token bad."""
    body = {**body, "cookie": True}
    if request.guest_token:
        _call(request, REFRESH, {"token": request.guest_token, **body})
    if not request.guest_token:
        _call(request, "/v1/issue", body)


def _call(request: HttpRequest, path: str, body: dict[str, Any]) -> Any:
    try:
        response = HTTP.post(path, json=body)
        answer = response.json()
    except OUTAGE:
        STATE.quiet_until = time.monotonic() + 5
        raise
    STATE.quiet_until = 0.0
    if answer.get("code") == "invalid_token":
        request.guest = request.guest_token = None
        return answer
    response.raise_for_status()
    request.guest_cookies = response.headers.get_list("Set-Cookie")
    token = (answer.get("next") or answer).get("token")
    if token:
        request.guest = jwt.decode(token, options={"verify_signature": False})  # the service's own word
        request.guest_token = token
    return answer


@functools.cache  # once in each process, after it was forked
def _follow_keys() -> None:
    threading.Thread(target=_fetch_keys, daemon=True).start()


def _fetch_keys() -> None:
    """Fetches the keys every 30 s, so that no request waits for them; the last ones are good for a day."""
    client = jwt.PyJWKClient(f"{settings.GUEST_URL}/.well-known/jwks.json", timeout=3)
    while True:
        try:
            keys = client.get_signing_keys(refresh=True)
            STATE.keys, STATE.keys_end = {key.key_id: key for key in keys}, time.monotonic() + 86_400
        except (jwt.PyJWTError, *OUTAGE) as error:
            log.warning("the keys stay as they are: %r", error)
        time.sleep(30)
