"""Guest sessions for Django: copy this file, name `guests.GuestSessions` in MIDDLEWARE. Needs `pyjwt[crypto]`.

Settings: GUEST_URL, GUEST_ISSUER, GUEST_COOKIE_NAME, GUEST_API_KEY (or None), GUEST_RENEW_AFTER (seconds).
`request.guest` is then the guest's claims or None; `save` writes the payload, `hand_over` merges it at login. Tokens
are checked here, offline, by the JWKS; the service is asked for a new guest, a renewal, a change and a hand-over only.
"""

import json
import logging
import time
import urllib.error
import urllib.request
from typing import Any

import jwt
from django.conf import settings
from django.http import HttpRequest, HttpResponse

OUTAGE = (jwt.PyJWKClientConnectionError, OSError)
log = logging.getLogger(__name__)
KEYS = jwt.PyJWKClient(f"{settings.GUEST_URL}/.well-known/jwks.json", timeout=2)


def is_page(request: HttpRequest) -> bool:
    """Whether a person opens a page: bots, prefetches and fetch() get no guest."""
    said = request.headers.get
    purpose = said("Sec-Purpose", said("Purpose", ""))
    navigation = (request.method, said("Sec-Fetch-Mode"), said("Sec-Fetch-Dest")) == ("GET", "navigate", "document")
    return navigation and "prefetch" not in purpose


def save(request: HttpRequest, payload: dict[str, Any]) -> None:
    """Replaces the guest's payload; makes a guest where there is none yet."""
    _write(request, {"payload": payload})


def hand_over(request: HttpRequest, session: dict[str, Any], **options: Any) -> dict[str, Any]:
    """The merge's answer: store its `payload` as the user's session before you answer. Never stops a login."""
    try:
        return _call(request, "/v1/merge", {"tokens": [request.guest_token], "session": session, **options})
    except OUTAGE as error:
        log.warning("nothing was handed over, the next login will: %s", error)
        return {"payload": session, "merged": False, "guests": [], "skipped": [], "conflicts": []}


class GuestSessions:
    def __init__(self, get_response: Any) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        token = request.COOKIES.get(settings.GUEST_COOKIE_NAME)
        request.guest, request.guest_token, request.guest_cookie = None, token, None
        try:
            request.guest = guest = token and _verified(token)
            request.guest_token = guest and token
            if is_page(request) and (not guest or guest["iat"] < time.time() - settings.GUEST_RENEW_AFTER):
                _write(request, {})
        except OUTAGE as error:
            log.warning("no guest sessions for now, cookies stay as they are: %s", error)
        response = self._get_response(request)
        if request.guest_cookie:
            response.cookies.load(request.guest_cookie)
        return response


def _verified(token: str) -> dict[str, Any] | None:
    try:
        key = KEYS.get_signing_key_from_jwt(token)
        decoded = jwt.decode_complete(token, key, algorithms=["ES256", "RS256"], issuer=settings.GUEST_ISSUER)
    except jwt.PyJWKClientConnectionError:
        raise
    except jwt.PyJWTError:
        return None
    return decoded["payload"] if decoded["header"].get("typ") == "guest+jwt" else None


def _write(request: HttpRequest, body: dict[str, Any]) -> None:
    """Signs the guest again; makes a new one where there is none, or where the service has revoked it."""
    token = request.guest_token
    if not (token and _call(request, "/v1/refresh-payload", {"token": token, **body})):
        _call(request, "/v1/issue", body)


def _call(request: HttpRequest, path: str, body: dict[str, Any]) -> Any:
    headers = {"Content-Type": "application/json"}
    if settings.GUEST_API_KEY:
        headers["Authorization"] = f"Bearer {settings.GUEST_API_KEY}"
    call = urllib.request.Request(settings.GUEST_URL + path, json.dumps({**body, "cookie": True}).encode(), headers)
    try:
        with urllib.request.urlopen(call, timeout=3) as response:
            answer = json.load(response)
            request.guest_cookie = response.headers["Set-Cookie"]
    except urllib.error.HTTPError as error:
        if error.code == 422 and json.load(error)["code"] == "invalid_token":
            return None
        raise
    new = answer.get("next") if path == "/v1/merge" else answer
    if new:
        request.guest_token, request.guest = new["token"], _verified(new["token"])
    return answer
