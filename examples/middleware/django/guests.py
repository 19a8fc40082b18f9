"""Guest sessions for Django: copy this file, name `guests.GuestSessions` in MIDDLEWARE. Needs `pyjwt[crypto]`.

Settings: GUEST_URL, GUEST_ISSUER, GUEST_COOKIE_NAME, GUEST_API_KEY (or None), GUEST_RENEW_AFTER (seconds).
`request.guest` is then the guest's claims or None; `save` writes the payload, `hand_over` merges it at login. Tokens
are checked here, offline, by the JWKS; the service is asked for a new guest, a renewal, a change and a hand-over only.
"""

import json
import logging
import time
import urllib.request
from typing import Any

import jwt
from django.conf import settings
from django.http import HttpRequest, HttpResponse

KEYS = jwt.PyJWKClient(f"{settings.GUEST_URL}/.well-known/jwks.json", timeout=2)


def is_page(request: HttpRequest) -> bool:
    """Whether a person opens a page: bots, prefetches and fetch() get no guest."""
    said = request.headers.get
    purpose = said("Sec-Purpose", said("Purpose", ""))
    navigation = (request.method, said("Sec-Fetch-Mode"), said("Sec-Fetch-Dest")) == ("GET", "navigate", "document")
    return navigation and "prefetch" not in purpose


def save(request: HttpRequest, payload: dict[str, Any]) -> None:
    """Replaces the guest's payload; makes a guest where there is none yet."""
    token = request.guest and request.guest_token
    path, body = ("/v1/refresh-payload", {"token": token}) if token else ("/v1/issue", {})
    _call(request, path, {**body, "payload": payload})


def hand_over(request: HttpRequest, session: dict[str, Any], **options: Any) -> dict[str, Any]:
    """The merge's answer: store its `payload` as the user's session before you answer the login."""
    return _call(request, "/v1/merge", {"tokens": [request.guest_token], "session": session, **options})


class GuestSessions:
    def __init__(self, get_response: Any) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        token = request.COOKIES.get(settings.GUEST_COOKIE_NAME)
        request.guest, request.guest_token, request.guest_cookie = None, token, None
        try:
            request.guest = token and _verified(token)
            if is_page(request) and not request.guest:
                _call(request, "/v1/issue", {})
            elif is_page(request) and request.guest["iat"] < time.time() - settings.GUEST_RENEW_AFTER:
                _call(request, "/v1/refresh-payload", {"token": token})
        except (jwt.PyJWKClientConnectionError, OSError) as error:
            logging.getLogger(__name__).warning("no guest sessions for now: %s", error)  # the cookie stays as it is
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


def _call(request: HttpRequest, path: str, body: dict[str, Any]) -> dict[str, Any]:
    headers = {"Content-Type": "application/json"}
    if settings.GUEST_API_KEY:
        headers["Authorization"] = f"Bearer {settings.GUEST_API_KEY}"
    call = urllib.request.Request(settings.GUEST_URL + path, json.dumps({**body, "cookie": True}).encode(), headers)
    with urllib.request.urlopen(call, timeout=3) as response:
        answer = json.load(response)
        request.guest_cookie = response.headers["Set-Cookie"]
    new = answer.get("next") if path == "/v1/merge" else answer
    if new:
        request.guest_token, request.guest = new["token"], _verified(new["token"])
    return answer
